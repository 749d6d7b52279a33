"""Calibration, curves, transfer, paired differences, and the audit: figures worked by hand."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from helpers_arrays import corpus_of
from helpers_corpus import make_workspace, question_row, response_row, write_workspace

from purifiers.audit import audit, conflict_of, contradicts, fleiss_kappa, js_divergence, spread_of
from purifiers.base import Purified
from purifiers.best_teacher import BestTeacher
from purifiers.calibration import calibration
from purifiers.comparison import by_domain, paired, sizes_up_to, teacher_curve, train_curve, unseen_domains
from purifiers.consensus import Consensus
from purifiers.evaluate import calibration_of
from purifiers.run import fit
from schemas.corpus import Corpus
from schemas.errors import InputError


def kept_of(teacher: list[int], **more: object) -> Purified:
    chosen = np.array(teacher)
    return Purified(chosen, np.where(chosen < 0, np.nan, 1).astype(np.float32), **more)  # type: ignore[arg-type]


def test_calibration_by_hand() -> None:
    found = calibration(np.array([0.1, 0.15, 0.9, 1.0]), np.array([False, True, True, True]))
    # Bin 0.1-0.2: mean 0.125, half right; bin 0.9-1: mean 0.95, all right.
    assert found.bins == ((pytest.approx(0.125), 0.5, 2), (pytest.approx(0.95), 1.0, 2))
    assert found.ece == pytest.approx(0.5 * 0.375 + 0.5 * 0.05)
    assert found.brier == pytest.approx((0.01 + 0.85**2 + 0.01 + 0) / 4)
    # Mean square error, less was * (1 - was) / (n - 1) = 0.25 in the first bin: noise explains all of it.
    assert found.rms == pytest.approx(max(0, 0.5 * (0.375**2 - 0.25) + 0.5 * 0.05**2) ** 0.5)


def test_true_probabilities_show_the_noise_floor_and_false_ones_more() -> None:
    rng = np.random.default_rng(1)
    chance = rng.random(1000)
    runs = [calibration(chance, rng.random(1000) < chance) for _ in range(40)]
    assert np.mean([r.ece for r in runs]) == pytest.approx(runs[0].floor, abs=0.003)
    assert np.mean([r.rms for r in runs]) < 0.02
    off = calibration(chance, rng.random(1000) < np.clip(chance - 0.1, 0, 1))
    assert off.ece > 2 * off.floor and off.rms == pytest.approx(0.1, abs=0.02)


def test_calibration_is_of_the_kept_teachers_and_of_methods_with_probabilities() -> None:
    corpus = corpus_of(["AB", "AB", "AB"], "AAA", "test")
    chance = np.array([[0.9, 0.3], [0.2, 0.6], [0.5, 0.5]], np.float32)
    found = calibration_of(corpus, kept_of([0, 1, -1], probabilities=chance))
    assert found is not None
    assert found.brier == pytest.approx((0.01 + 0.36) / 2)
    assert calibration_of(corpus, kept_of([0, 1, 0])) is None


def test_paired_difference() -> None:
    right, other = np.array([True] * 60 + [False] * 40), np.array([True] * 40 + [False] * 60)
    found = paired(right, other)
    assert found.difference == pytest.approx(0.2)
    assert 0.1 < found.low < 0.2 < found.high < 0.3
    assert found.significant
    assert not paired(right, right).significant
    assert paired(other, right).high < 0


def test_by_domain(tmp_path: Path) -> None:
    corpus = Corpus.of(make_workspace(tmp_path / "ws", n=40, methods=False))
    found = by_domain(corpus, kept_of([0] * 40))
    assert list(found) == ["arithmetic", "shelves"]
    assert sum(d["n"] for d in found.values()) == 40
    mine = np.array(corpus.domain.to_pylist()) == "shelves"
    assert found["shelves"]["accuracy"] == pytest.approx((corpus.correct[mine, 0] == 1).mean())
    assert found["shelves"]["oracle"] == pytest.approx((corpus.correct[mine] == 1).any(axis=1).mean())


def test_curve_ends_at_the_whole_train_split_and_uses_no_more(tmp_path: Path) -> None:
    corpus = Corpus.of(make_workspace(tmp_path / "ws", n=60, methods=False))
    train, test = corpus.rows("train"), corpus.rows("test")
    found = train_curve(corpus, BestTeacher(), [1, len(train)])
    chosen = fit(BestTeacher(), corpus).purify(corpus.take(test).hide_gold()).teacher
    assert found[len(train)] == pytest.approx((corpus.correct[test, chosen] == 1).mean())
    with pytest.raises(InputError, match=f"there are {len(train)}"):
        train_curve(corpus, BestTeacher(), [len(train) + 1])


def test_transfer_fits_without_the_domain(tmp_path: Path) -> None:
    """Alpha is right on arithmetic alone, beta on shelves alone: who learns elsewhere takes the wrong one."""
    rng = random.Random(0)
    questions = [question_row(i, "train" if i < 40 else "test", rng) for i in range(60)]
    answers = {
        "alpha": [response_row(q, "alpha", q["domain"] == "arithmetic") for q in questions],
        "beta": [response_row(q, "beta", q["domain"] == "shelves") for q in questions],
    }
    corpus = Corpus.of(write_workspace(tmp_path / "ws", questions, answers))
    assert unseen_domains(corpus, BestTeacher()) == {"arithmetic": 0.0, "shelves": 0.0}
    with pytest.raises(InputError, match="two or more domains"):
        unseen_domains(corpus_of(["AB"], "A", "test"), BestTeacher())


def test_fleiss_kappa_by_hand() -> None:
    # Counts (3, 0), (1, 2), (0, 3): observed (1 + 1/3 + 1) / 3, expected (4/9)**2 + (5/9)**2.
    observed, expected = 7 / 9, 41 / 81
    assert fleiss_kappa(corpus_of(["AAA", "ABB", "BBB"])) == pytest.approx((observed - expected) / (1 - expected))
    assert fleiss_kappa(corpus_of(["AA", "AA"])) is None
    assert fleiss_kappa(corpus_of(["A?", "??"])) is None


def test_conflict_by_hand() -> None:
    found = conflict_of(corpus_of(["AB", "AA", "A?"]))
    assert found.entropy == pytest.approx(0.5)
    assert found.disagreement == pytest.approx(0.5)
    # First teacher: A A A; second: B A. JS of (1, 0) and (1/2, 1/2).
    assert found.js_divergence == pytest.approx((np.log2(4 / 3) + 0.5 * np.log2(2 / 3) + 0.5 * np.log2(2)) / 2)
    nothing = conflict_of(corpus_of(["??", "--"]))
    assert (nothing.entropy, nothing.disagreement, nothing.fleiss_kappa, nothing.js_divergence) == (None,) * 4


def test_spread_by_hand() -> None:
    def direction(texts: list[str]) -> np.ndarray:  # teacher b says another thing than a and c, but on q1
        return np.array([(0, 1) if t == "b on q0" else (1, 0) for t in texts], np.float32)

    # Of the three pairs on q0 one has cosine 1, two have 0.
    corpus = corpus_of(["ABC", "AA-", "A--"])
    np.testing.assert_allclose(spread_of(corpus, direction), [2 / 3, 0, np.nan])
    assert conflict_of(corpus, direction).spread == pytest.approx(1 / 3)
    assert conflict_of(corpus).spread is None


def test_js_divergence_bounds() -> None:
    assert js_divergence(np.array([1.0, 0]), np.array([0, 1.0])) == pytest.approx(1)
    assert js_divergence(np.array([0.3, 0.7]), np.array([0.3, 0.7])) == pytest.approx(0)


def test_audit_of_a_choice(tmp_path: Path) -> None:
    rng = random.Random(0)
    questions = [question_row(i, "test", rng) for i in range(4)]
    text = {q["question_id"]: {c["label"]: c["text"] for c in q["choices"]} for q in questions}

    def says(q: dict[str, object], option: str) -> str:
        return f"Both shelves together hold {text[q['question_id']][option]} books, so the answer is ({option})."

    alpha = [response_row(q, "alpha", True) for q in questions]
    alpha[0] = response_row(questions[0], "alpha", True, rationale=says(questions[0], questions[0]["answer"]))
    other = next(label for label in "ABCD" if label != questions[1]["answer"])
    alpha[1] = response_row(questions[1], "alpha", True, rationale=says(questions[1], other))
    beta = [response_row(q, "beta", False) for q in questions]
    corpus = Corpus.of(write_workspace(tmp_path / "ws", questions, {"alpha": alpha, "beta": beta}))
    found = audit(corpus, kept_of([0, 0, 0, -1], rejected={3: "unsure"}), "mine", frozenset({"answers"}))
    assert (found.kept, found.rejected, found.share) == (3, {"unsure": 1}, {"alpha": 1.0, "beta": 0.0})
    assert found.collapsed and found.entropy == 0
    assert found.contradicting == pytest.approx(1 / 3)
    assert found.leaking == pytest.approx(2 / 3)
    assert found.repeated == 0
    assert found.agreement == pytest.approx(0.5)
    assert found.conflict.disagreement == 1
    code = corpus.answer[:, 0]
    assert contradicts(corpus, code, corpus.rationale_texts(np.arange(4), np.zeros(4, np.int64)))[:2] == [False, True]
    assert {"method", "share", "conflict"} <= found.to_dict().keys()


def test_audit_of_an_empty_choice() -> None:
    found = audit(corpus_of(["--", "AB"]), kept_of([-1, -1], rejected={0: "no", 1: "no"}), "none")
    assert (found.kept, found.rejected, found.collapsed, found.agreement) == (0, {"no": 2}, False, None)


def test_rationales_that_repeat_are_counted(tmp_path: Path) -> None:
    rng = random.Random(0)
    questions = [question_row(i, "test", rng) for i in range(3)]
    texts = ("Add both, and it is 7.", "add both -- and it is 7", "Add both, and it is 8.")
    rows = [response_row(q, "alpha", True, rationale=t) for q, t in zip(questions, texts, strict=True)]
    corpus = Corpus.of(write_workspace(tmp_path / "ws", questions, {"alpha": rows}))
    assert audit(corpus, kept_of([0, 0, 0]), "mine").repeated == pytest.approx(1 / 3)


def test_curve_over_teachers_by_hand() -> None:
    # On train b is right always, c in half, a never; on test b in one of two, c in the other.
    corpus = corpus_of(["BAA", "BAB", "BAB", "BBA"], "AAAA", ["train", "train", "test", "test"])
    curve = teacher_curve(corpus, BestTeacher())
    assert [step["added"] for step in curve.values()] == ["b", "c", "a"]
    assert [step["accuracy"] for step in curve.values()] == [0.5, 0.5, 0.5]
    assert [step["oracle"] for step in curve.values()] == [0.5, 1.0, 1.0]
    assert sizes_up_to(700) == [100, 200, 500, 700]


def test_consensus_probabilities_are_calibrated_on_a_large_simple_corpus(tmp_path: Path) -> None:
    corpus = Corpus.of(make_workspace(tmp_path / "ws", n=1500, methods=False))
    test = corpus.take(corpus.rows("test"))
    kept = fit(Consensus(text=False, trees=False), corpus).purify(test.hide_gold())
    found = calibration_of(test, kept)
    assert found is not None
    assert found.ece < 0.1
