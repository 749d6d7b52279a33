"""`comprehension` and `utility`: gains by hand, the answer taken out of the rationale, the budget, the reasons."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from helpers_corpus import question_row, response_row, write_workspace
from helpers_student import TableStudent

from cards.verify import verify
from purifiers.comprehension import KNOWS_IT, Comprehension
from purifiers.equipment import Equipment
from purifiers.gold_first import NOBODY_RIGHT
from purifiers.run import fit, publish, purify
from purifiers.store import load, save
from purifiers.student_tasks import answers_right, certainty, option_certainty, without_conclusion
from purifiers.utility import HARMS, Utility
from schemas.corpus import Corpus
from schemas.database import query
from schemas.errors import InputError
from schemas.workspace import Workspace


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Two and two are four. So the answer is (B).", "Two and two are four."),
        ("The correct option is B. Two and two are four. Hence 4.", "Two and two are"),
        ("We add 2 and 2.\nThat makes 4.\nThe final answer: 4", "We add 2 and 2."),
        ("We add 40 and 2.", "We add 40 and 2."),
        ("Therefore (B).", ""),
        ("", ""),
    ],
)
def test_the_sentences_that_hand_over_the_answer_go(text: str, left: str):
    found = without_conclusion(text, ("4", "(B)"))
    assert found.startswith(left) and "answer" not in found and "(B)" not in found and not found.endswith("4.")


def test_certainties_by_hand():
    student = TableStudent(lambda prompt, target: {"yes": 0.5, "no": 1.5, "maybe": 3.0}[target])
    np.testing.assert_allclose(certainty(student, ["q"], ["no"]), [np.exp(-1.5)], rtol=1e-6)
    options = [["yes", "no", "maybe"], []]
    whole = np.exp(-0.5) + np.exp(-1.5) + np.exp(-3)
    found = option_certainty(student, ["q", "q"], ["no", "no"], options)
    np.testing.assert_allclose(found, [np.exp(-1.5) / whole, np.exp(-1.5)], rtol=1e-6)
    assert answers_right(student, ["q"] * 3, ["no", "yes", "yes"], [*options, options[0]]).tolist() == [
        False,
        True,
        True,
    ]


GAIN = {"alpha": -1.0, "beta": 2.0, "gamma": 0.5}
"""How many nats a teacher's rationale takes off the loss of gold; alone it is 3."""


def loss(prompt: str, target: str) -> float:
    """Gold of question i is its first option for every third question, and says so by its number."""
    read = next((t for t in GAIN if f"\n{t} adds" in prompt), None)
    shift = 0.3 * (int(prompt.split("(case ")[1].split(")", maxsplit=1)[0]) % 7)
    return 3.0 + shift - (GAIN[read] * (1 - shift / 3) if read else 0.0)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """60 questions: beta is wrong on every fourth, all are wrong on the last train question, one is unlabelled."""
    rng = random.Random(0)
    questions = [question_row(i, "train" if i < 45 else "test", rng) for i in range(60)]
    answers = {t: [] for t in GAIN}
    for i, q in enumerate(questions):
        for t in GAIN:
            right = i != 44 and not (t == "beta" and i % 4 == 0)
            row = response_row(q, t, right)
            row["rationale"] = f"{t} adds up. The answer is ({row['predicted_answer']})."
            row["rationale_chars"] = len(row["rationale"])
            answers[t].append(row | ({"is_correct": None} if i == 3 else {}))
    questions[3]["answer"] = None
    return write_workspace(tmp_path / "ws", questions, answers)


def student() -> TableStudent:
    return TableStudent(loss)


def test_the_gain_is_the_difference_of_probabilities_of_right_teachers(workspace: Workspace):
    corpus = Corpus.of(workspace)
    fitted = fit(Comprehension().equipped(Equipment(student=student())), corpus)
    scores = fitted.score(corpus)
    row = corpus.question_ids.to_pylist().index("q00007")  # its shift is 0
    np.testing.assert_allclose(scores[row], np.exp([-4, -1, -2.5]) - np.exp(-3), rtol=1e-5)
    assert np.isnan(fitted.score(corpus)[corpus.question_ids.to_pylist().index("q00008"), 1]), "beta was wrong"


def test_the_best_right_rationale_is_kept_and_consensus_stands_in_without_gold(workspace: Workspace):
    publish(workspace, Comprehension().equipped(Equipment(student=student())))
    kept = {r["question_id"]: r for r in query(workspace, "FROM purified").to_pylist()}
    assert kept["q00007"]["teacher_id"] == "beta" and kept["q00008"]["teacher_id"] == "gamma"
    assert kept["q00003"]["score"] > 0.5 and "q00050" in kept, "a probability, by consensus"
    assert kept["q00007"]["signals_used"] == ["answers", "gold", "question", "rationales", "student"]
    rejected = query(workspace, "FROM rejected").to_pylist()
    assert [(r["question_id"], r["reason"]) for r in rejected] == [("q00044", NOBODY_RIGHT)]
    assert [f for f in verify(workspace) if f.check in ("keys", "values")] == []
    again = load(workspace.router_dir("comprehension"))
    with pytest.raises(InputError, match="comprehension needs a student"):
        again.score(Corpus.of(workspace))
    assert np.isfinite(again.equipped(Equipment(student=student())).score(Corpus.of(workspace))).any()


def test_what_the_student_said_is_not_asked_again(workspace: Workspace):
    one = student()
    purify(Utility(budget=0.5).equipped(Equipment(student=one)), Corpus.of(workspace))
    labelled = 44
    pairs = 3 * labelled - 3 - 11  # the last has no right teacher, beta is wrong on every fourth
    assert one.asked == 4 * (pairs + labelled - 1), "each right rationale once, and nothing, over four options"


class Pupil(TableStudent):
    """The more it was taught, the surer a rationale makes it; it keeps its copies in ``made``."""

    def __init__(self, made: list[Pupil]) -> None:
        super().__init__(lambda prompt, _: 3.0 - ("adds" in prompt) * len(self.taught) / 100)
        self.made = made

    def fresh(self, seed: int) -> Pupil:
        self.made.append(Pupil(self.made))
        return self.made[-1]


@pytest.mark.parametrize("method", [Comprehension(warm_up=2), Utility(warm_up=2)], ids=["comprehension", "utility"])
def test_a_student_is_warmed_up_apart_for_each_fold_on_its_train_questions(
    workspace: Workspace, tmp_path: Path, method: Comprehension
):
    corpus, one = Corpus.of(workspace), Pupil([])
    fitted, kept = purify(method.model_copy(update={"options": False}).equipped(Equipment(student=one)), corpus)
    assert not one.taught and len(one.made) == 6, "the one that it was handed stays as it is"
    assert len(one.made[0].taught) == 2 * 2 * 43, "two passes, alone and with a rationale, where a teacher was right"
    prompts = [prompt for prompt, *_ in one.made[0].taught]
    assert sum("adds up." in p for p in prompts) == len(prompts) / 2 and not any("The answer is" in p for p in prompts)
    train, texts = corpus.rows("train"), corpus.question_texts()
    for row in train[corpus.labelled[train] & (kept.teacher[train] >= 0)]:
        (judge,) = [p for p in one.made[1:] if not any(texts[row] in prompt for prompt, *_ in p.taught)]
        assert kept.score[row] == pytest.approx(np.exp(len(judge.taught) / 100 - 3) - np.exp(-3), rel=1e-5)

    save(fitted, tmp_path / "saved")
    with pytest.raises(InputError, match=f"{method.name} warmed a student up when it was fitted, which is not saved"):
        load(tmp_path / "saved").equipped(Equipment(student=one)).score(corpus)


def test_where_wrong_leaves_out_what_the_student_knows(workspace: Workspace):
    def knows(prompt: str, target: str) -> float:
        """It knows the gold of even cases, which is the sum of both numbers, and nothing else."""
        words = prompt.split("?", maxsplit=1)[0].split()
        a, b = (int(w) for w in words if w.isdigit())
        case = int(prompt.split("(case ")[1].split(")", maxsplit=1)[0])
        return 0.1 if (target == str(a + b)) == (case % 2 == 0) else 4.0

    method = Comprehension(where_wrong=True).equipped(Equipment(student=TableStudent(knows)))
    corpus = Corpus.of(workspace)
    kept = purify(method, corpus)[1]
    ids = corpus.question_ids.to_pylist()
    known = {ids[row] for row, why in kept.rejected.items() if why == KNOWS_IT}
    assert known == {f"q{i:05d}" for i in range(0, 44, 2)}


def test_a_budget_explains_where_it_helps_most_and_nothing_that_harms(workspace: Workspace):
    corpus = Corpus.of(workspace)
    gains = fit(Utility().equipped(Equipment(student=student())), corpus).score(corpus)
    kept = purify(Utility(budget=0.4, options=False).equipped(Equipment(student=student())), corpus)[1]
    train = corpus.rows("train")
    train = train[corpus.labelled[train] & (corpus.correct[train] == 1).any(axis=1)]
    explained = train[kept.teacher[train] >= 0]
    assert 0.3 <= len(explained) / len(train) <= 0.5
    score = fit(Comprehension().equipped(Equipment(student=student())), corpus).score(corpus)
    best = np.nanmax(score[train], axis=1)
    assert best[np.isin(train, explained)].min() >= np.quantile(best, 0.5)
    assert {why for row, why in kept.rejected.items() if row in train} == {
        "outside the budget: its utility is not among the highest 0.4"
    }
    assert gains.shape == corpus.usable.shape

    harm = TableStudent(lambda prompt, target: 3.0 + ("\n" in prompt.split("?")[1].split("(D)")[1]))
    harmful = purify(Utility(options=False).equipped(Equipment(student=harm)), corpus)[1]
    assert {harmful.rejected[row] for row in train.tolist()} == {HARMS}


def test_what_is_nothing_but_the_answer_is_kept_only_where_nobody_says_more_and_then_by_chance(tmp_path: Path):
    """Beta alone says something, which lowers the student's probability of gold; it is right on every second one."""
    rng = random.Random(0)
    questions = [question_row(i, "train", rng) for i in range(60)]
    answers = {
        t: [response_row(q, t, t != "beta" or i % 2 == 0, rationale=said) for i, q in enumerate(questions)]
        for t, said in (("alpha", "The answer is it."), ("beta", "beta adds up."), ("gamma", "So the answer is it."))
    }
    corpus = Corpus.of(write_workspace(tmp_path / "ws", questions, answers))
    one = Equipment(student=TableStudent(lambda prompt, _: 3.0 + ("beta adds" in prompt)))
    teachers = ("gamma", "beta", "alpha")
    kept = purify(Comprehension().equipped(one), corpus)[1].teacher
    assert set(kept[::2].tolist()) == {1} and 7 < (kept[1::2] == 0).sum() < 23 and not (kept[1::2] == 1).any()
    turned = purify(Comprehension().equipped(one), corpus.with_teachers(teachers))[1].teacher
    assert [teachers[t] for t in turned] == [corpus.teachers[t] for t in kept]
    left_out = purify(Utility(options=False).equipped(one), corpus)[1].rejected
    assert left_out == dict.fromkeys(range(0, 60, 2), HARMS)
