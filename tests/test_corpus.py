"""The corpus: gaps, unread answers, hidden gold, and taking rows and teachers."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_corpus import make_workspace, question_row, response_row, write_workspace

from schemas.corpus import UNREAD, Corpus
from schemas.errors import WorkspaceError
from schemas.render import prompts
from schemas.workspace import Workspace


def question(i: int, split: str, **changes: Any) -> dict[str, Any]:
    return question_row(i, split, random.Random(i), **changes)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Four questions in file order test, train, train, validation; every way in which a cell can be incomplete."""
    q = [
        question(0, "test", answer="A"),
        question(1, "train", answer="B"),
        question(2, "train", answer=None, domain=None),
        question(3, "validation", answer="C", context="A passage."),
    ]
    nothing = {"predicted_answer": None, "answer_status": "unread"}
    ada = [
        response_row(q[0], "ada", True),
        response_row(q[1], "ada", False),
        response_row(q[2], "ada", True, predicted_answer="D"),
        response_row(q[3], "ada", True, gold_shown=True, is_correct=None),
    ]
    bo = [
        response_row(q[0], "bo", True, status="failed", rationale=None, is_correct=None, **nothing),
        response_row(q[1], "bo", True, is_correct=False, **nothing),
        # q2: never asked
        response_row(q[3], "bo", True, status="truncated"),
    ]
    cy = [response_row(q[0], "cy", True, rationale="")]
    return Corpus.of(write_workspace(tmp_path_factory.mktemp("corpus") / "ws", q, {"ada": ada, "bo": bo, "cy": cy}))


def test_rows_and_columns_are_in_a_fixed_order(corpus: Corpus) -> None:
    assert corpus.question_ids.to_pylist() == ["q00001", "q00002", "q00003", "q00000"]
    assert corpus.teachers == ("ada", "bo", "cy")
    assert corpus.split.tolist() == [0, 0, 1, 2]
    assert corpus.rows("train").tolist() == [0, 1] and corpus.rows("test").tolist() == [3]
    assert corpus.domain.to_pylist() == ["shelves", None, "shelves", "arithmetic"]


def test_gaps_unread_and_empty_cells(corpus: Corpus) -> None:
    text = corpus.vocabulary.to_pylist()
    answers = [[None if code == UNREAD else text[code] for code in row] for row in corpus.answer]
    assert answers == [["C", None, None], ["D", None, None], ["C", "C", None], ["A", None, "A"]]
    assert corpus.usable.tolist() == [
        [True, True, False],  # an unread answer has a rationale all the same
        [True, False, False],  # never asked
        [True, False, False],  # truncated
        [True, False, False],  # failed; and an empty rationale
    ]
    assert corpus.correct.tolist() == [[0, 0, -1], [-1, -1, -1], [-1, 1, -1], [1, -1, 1]]
    assert [None if g == UNREAD else text[g] for g in corpus.gold] == ["B", None, "C", "A"]
    assert corpus.labelled.tolist() == [True, False, True, True]


def test_hidden_gold_leaves_no_trace(corpus: Corpus) -> None:
    hidden = corpus.hide_gold()
    assert (hidden.gold == UNREAD).all() and (hidden.correct == -1).all() and not hidden.labelled.any()
    assert np.array_equal(hidden.answer, corpus.answer) and np.array_equal(hidden.usable, corpus.usable)
    some = corpus.hide_gold(np.array([False, False, False, True]))
    assert some.labelled.tolist() == [True, False, True, False]
    assert some.correct.tolist() == [*corpus.correct.tolist()[:3], [-1, -1, -1]]
    assert corpus.labelled.sum() == 3  # the original stays


def test_take_keeps_the_order_asked_for(corpus: Corpus) -> None:
    part = corpus.take(np.array([3, 0]))
    assert part.question_ids.to_pylist() == ["q00000", "q00001"]
    assert part.correct.tolist() == [[1, -1, 1], [0, 0, -1]] and part.split.tolist() == [2, 0]
    assert len(corpus.take(np.array([], np.int64))) == 0


def test_teachers_can_be_left_out_reordered_and_unknown(corpus: Corpus) -> None:
    part = corpus.with_teachers(["zed", "bo", "ada"])
    assert part.teachers == ("zed", "bo", "ada")
    assert not part.usable[:, 0].any() and (part.answer[:, 0] == UNREAD).all() and (part.correct[:, 0] == -1).all()
    for new, old in ((1, 1), (2, 0)):
        assert np.array_equal(part.usable[:, new], corpus.usable[:, old])
        assert np.array_equal(part.answer[:, new], corpus.answer[:, old])
        assert np.array_equal(part.correct[:, new], corpus.correct[:, old])


def test_texts_are_fetched_by_key(corpus: Corpus) -> None:
    first, *_, last = corpus.question_texts()
    assert first.startswith("A shelf holds") and "\n(A) " in first and "\n(D) " in first and "case 1" in first
    assert "case 0" in last and corpus.question_texts()[2].startswith("A passage.\n\nA shelf")
    cells = corpus.rationale_texts(np.array([3, 0, 1, 3]), np.array([0, 1, 1, 2]))
    assert cells[0].startswith("ada adds the numbers of q00000") and cells[1].startswith("bo adds")
    assert cells[2:] == ["", ""]  # never asked; empty
    assert (
        corpus.take(np.array([3])).with_teachers(["bo", "ada"]).rationale_texts(np.array([0]), np.array([1]))
        == cells[:1]
    )


def test_several_samples_keep_the_chosen_ones_text(tmp_path: Path) -> None:
    q = question(0, "train", answer="B")
    texts = ["first", "second", "third"]
    given = [
        response_row(q, "ada", True, sample_idx=i, predicted_answer=a, rationale=t)
        for i, (a, t) in enumerate(zip("ABB", texts, strict=True))
    ]
    corpus = Corpus.of(write_workspace(tmp_path / "ws", [q], {"ada": given}))
    assert corpus.sample.tolist() == [[1]]
    assert corpus.rationale_texts(np.array([0]), np.array([0])) == ["second"]


@pytest.mark.parametrize("gold", ["the Paris!", "London"])
def test_texts_that_grading_calls_equal_are_one_answer(tmp_path: Path, gold: str) -> None:
    q = question(0, "train", task="text", choices=[], question="Which city?", answer=gold)
    spelled = {
        "ada": "Paris",
        "bo": "The Paris.",
        "cy": "paris",
        "dee": "Paris",
        "eve": "Rome",
        "fay": "-3",
        "gus": "3",
    }
    given = {t: [response_row(q, t, True, predicted_answer=a)] for t, a in spelled.items()}
    corpus = Corpus.of(write_workspace(tmp_path / "ws", [q], given))
    ada, bo, cy, dee, *others = corpus.answer[0].tolist()
    assert ada == bo == cy == dee
    assert len({ada, *others}) == 4, "what grading tells apart stays apart"
    assert corpus.vocabulary[ada].as_py() == "Paris", "the spelling of most teachers, whatever gold's is"
    assert (corpus.gold[0] == ada) == (gold != "London")


def test_questions_are_rendered_without_choices_and_context() -> None:
    import pyarrow as pa

    from schemas.tables import QUESTIONS

    rows = [question(0, "train", task="number", choices=[], question="2 + 2?"), question(1, "train", context="P.")]
    plain, full = prompts(pa.Table.from_pylist(rows, QUESTIONS.arrow)).to_pylist()
    assert plain == "2 + 2?"
    assert full.split("\n")[:2] == ["P.", ""] and full.count("\n(") == 4


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="has no responses yet: run  raffinate build"):
        Corpus.of(Workspace.create(tmp_path / "empty"))
    workspace = make_workspace(tmp_path / "ws", n=5)
    with pytest.raises(WorkspaceError, match="has no responses of delta, zed; it has alpha, beta, gamma"):
        Corpus.of(workspace, ["zed", "alpha", "delta"])
    assert Corpus.of(workspace, ["gamma", "alpha"]).teachers == ("gamma", "alpha")
