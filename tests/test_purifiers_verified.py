"""`verified`: right rationales only, the most typical first."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from helpers_cli import Cli
from helpers_corpus import make_workspace, question_row, response_row, write_workspace
from helpers_encoder import hashed
from helpers_student import TableStudent

from purifiers.equipment import Equipment
from purifiers.run import purify
from purifiers.store import load, save
from purifiers.verified import Verified, typicality
from schemas.corpus import Corpus


def test_typicality_by_hand():
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    # Question 0: mean direction (2, 1)/sqrt 5, cosines 2/sqrt 5, 2/sqrt 5, 1/sqrt 5; question 1 has one rationale.
    near, far = (1 + 2 / np.sqrt(5)) / 2, (1 + 1 / np.sqrt(5)) / 2
    np.testing.assert_allclose(typicality(vectors, np.array([0, 0, 0, 1])), [near, near, far, 1], rtol=1e-6)


def test_on_train_it_keeps_right_rationales_and_rejects_what_nobody_got_right(tmp_path: Path):
    corpus = Corpus.of(make_workspace(tmp_path / "ws", n=80, methods=False))
    fitted, kept = purify(Verified(encoder=None), corpus)
    for row in corpus.rows("train"):
        right = corpus.correct[row] == 1
        if right.any():
            assert right[kept.teacher[row]]
        else:
            assert kept.rejected[row] == "no teacher was right"
    assert (kept.teacher[corpus.rows("test")] >= 0).all()
    save(fitted, tmp_path / "saved")
    np.testing.assert_array_equal(load(tmp_path / "saved").score(corpus), fitted.score(corpus))


@pytest.mark.parametrize("encoder", [None, "stub"])
def test_among_right_rationales_the_odd_one_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str | None
):
    rng = random.Random(0)
    questions = [question_row(i, "train", rng) for i in range(30)]
    answers = {t: [response_row(q, t, True) for q in questions] for t in ("alpha", "beta", "gamma")}
    gold = {q["question_id"]: next(c["text"] for c in q["choices"] if c["label"] == q["answer"]) for q in questions}
    for i, q in enumerate(questions):
        answers["alpha"][i] = response_row(q, "alpha", True, rationale="A guess.")
        for t in ("beta", "gamma"):
            answers[t][i] = response_row(q, t, True, rationale=f"The two shelves add up to {gold[q['question_id']]}.")
    corpus = Corpus.of(write_workspace(tmp_path / "ws", questions, answers))
    seen = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    monkeypatch.setattr("purifiers.verified.embed", lambda texts, *_: seen[[int("guess" in t) for t in texts]])
    _, kept = purify(Verified(encoder=encoder), corpus)
    assert (kept.teacher != corpus.teachers.index("alpha")).all()


def test_of_two_right_ones_the_words_decide_else_chance_and_never_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Two vectors are equally close to their mean, but for rounding."""
    rng = random.Random(0)
    questions = [question_row(i, "train", rng) for i in range(60)]
    answers = {
        t: [response_row(q, t, t != "gamma", rationale="A guess.") for q in questions] for t in ("a", "b", "gamma")
    }
    for i, q in enumerate(questions[:30]):
        gold = next(c["text"] for c in q["choices"] if c["label"] == q["answer"])
        answers["b"][i] = response_row(q, "b", True, rationale=f"The two shelves add up to {gold}.")
    corpus = Corpus.of(write_workspace(tmp_path / "ws", questions, answers))
    monkeypatch.setattr("purifiers.verified.embed", lambda texts, *_: hashed(texts, ""))

    def kept(teachers: tuple[str, ...]) -> list[str]:
        return [teachers[t] for t in purify(Verified(), corpus.with_teachers(teachers))[1].teacher]

    found = kept(("a", "b", "gamma"))
    assert set(found[:30]) == {"b"} and 7 < found[30:].count("a") < 23
    assert kept(("b", "gamma", "a")) == found


def test_with_a_student_the_right_rationale_that_helps_it_most_is_kept(cli: Cli, tmp_path: Path):
    workspace = make_workspace(tmp_path / "ws", n=60, methods=False)
    corpus = Corpus.of(workspace)
    names, row = corpus.rationale_texts(*np.nonzero(corpus.usable)), np.nonzero(corpus.usable)[1]
    assert all(name.startswith(corpus.teachers[t]) for name, t in zip(names, row.tolist(), strict=True))
    helps = {"alpha": 0.1, "beta": 0.5, "gamma": 1.0}
    reader = TableStudent(lambda prompt, _: 2.0 - sum(gain for t, gain in helps.items() if f"\n{t}" in prompt))
    method = Verified(encoder=None, by_gain=True)
    fitted, kept = purify(method.equipped(Equipment(student=reader)), corpus)
    for r in corpus.rows("train"):
        right = np.flatnonzero(corpus.correct[r] == 1)
        assert kept.teacher[r] == (right.max() if len(right) else -1), "gamma helps most, then beta"
    assert "student" in {signal.value for signal in fitted.looks_at}
    ran = cli("purify", workspace.path, "--method", "verified", "--set", "verified.by_gain=true")
    assert ran.code == 1 and "verified needs a student: give one with  --student" in ran.err
