"""`similarity` and `classifier`: losses against numpy, and routing on questions whose right teacher is known."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from helpers_corpus import question_row, response_row, write_workspace  # noqa: E402

from purifiers.base import Purifier  # noqa: E402
from purifiers.classifier import Classifier, label_loss, targets  # noqa: E402
from purifiers.run import fit as fit_on_train  # noqa: E402
from purifiers.similarity import (  # noqa: E402
    Similarity,
    clusters_of,
    cosines,
    pairs,
    pick,
    question_loss,
    teacher_loss,
)
from purifiers.store import load, save  # noqa: E402
from purifiers.train_head import Training  # noqa: E402
from schemas.corpus import Corpus  # noqa: E402


def test_teacher_loss_of_three_teachers_by_hand():
    sims = torch.tensor([[0.9, 0.1, -0.4]])
    right, wrong = np.array([[True, False, False]]), np.array([[False, True, True]])
    by_hand = -np.log(np.exp(0.9) / (np.exp(0.9) + np.exp(0.1) + np.exp(-0.4)))
    assert teacher_loss(sims, right, wrong).item() == pytest.approx(by_hand, rel=1e-6)


def test_both_losses_agree_with_a_numpy_computation():
    rng = np.random.default_rng(3)
    h, k = rng.normal(size=(6, 5)), rng.normal(size=(4, 5))
    right = rng.random((6, 4)) < 0.4
    wrong = ~right & (rng.random((6, 4)) < 0.7)

    def cos(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    expected = 0.0
    for b in range(6):
        rivals = sum(np.exp(cos(h[b], k[j])) for j in range(4) if wrong[b, j])
        expected += sum(-np.log(np.exp(s := cos(h[b], k[i])) / (np.exp(s) + rivals)) for i in range(4) if right[b, i])
    ours = teacher_loss(cosines(torch.tensor(h), torch.tensor(k)), right, wrong)
    assert ours.item() == pytest.approx(expected / 6, rel=1e-9)

    anchor, friend, strangers = np.array([0, 2]), np.array([1, 3]), np.array([[4, 5], [0, 1]])
    terms = []
    for a, f, others in zip(anchor, friend, strangers, strict=True):
        near = np.exp(cos(h[a], h[f]))
        terms.append(-np.log(near / (near + sum(np.exp(cos(h[a], h[o])) for o in others))))
    assert question_loss(torch.tensor(h), anchor, friend, strangers).item() == pytest.approx(np.mean(terms), rel=1e-9)


def test_only_the_direction_of_a_teacher_counts():
    rng = np.random.default_rng(0)
    h, k = torch.tensor(rng.normal(size=(3, 4))), torch.tensor(rng.normal(size=(2, 4)))
    torch.testing.assert_close(cosines(h, k * torch.tensor([[7.0], [0.1]])), cosines(h, k))


@pytest.mark.parametrize("right", [[[True, True, True]], [[False, False, False]]])
def test_questions_that_all_or_none_got_right_teach_nothing(right: list[list[bool]]):
    sims = torch.randn(1, 3, requires_grad=True)
    mask = np.array(right)
    loss = teacher_loss(sims, mask, ~mask)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(sims.grad, torch.zeros(1, 3))


def test_pick_takes_at_most_so_many_and_does_not_favour_an_order():
    correct = np.tile(np.array([[1, 1, 1, 0, 0, -1]], np.int8), (3000, 1))
    right, wrong = pick(correct, 1, 5, np.random.default_rng(0))
    assert (right.sum(axis=1) == 1).all()
    np.testing.assert_allclose(right.mean(axis=0), [1 / 3, 1 / 3, 1 / 3, 0, 0, 0], atol=0.04)
    np.testing.assert_array_equal(wrong.sum(axis=0), [0, 0, 0, 3000, 3000, 0])


def test_a_question_is_never_its_own_friend():
    cluster = np.array([0, 0, 0, 1, 1, 2])
    anchor, friend, strangers = pairs(cluster, 2, np.random.default_rng(0))
    assert anchor.tolist() == [0, 1, 2, 3, 4]  # the last has no other of its cluster
    assert (anchor != friend).all()
    assert (cluster[anchor] == cluster[friend]).all()
    assert (cluster[strangers] != cluster[anchor][:, None]).all()


def test_clusters_find_what_lies_apart():
    vectors = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    found = clusters_of(vectors, 3, 0)
    assert len(set(found.tolist())) == 3
    assert all(len(set(found[i : i + 10].tolist())) == 1 for i in (0, 10, 20))


def test_label_schemes_by_hand():
    correct = np.array([[1, 1, 0], [0, 0, 0], [0, 1, -1]], np.int8)
    ranking = np.array([0.2, 0.8, 0.5])
    soft, weight = targets(correct, "soft", ranking)
    np.testing.assert_allclose(soft, [[0.5, 0.5, 0], [0, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(weight, [[1, 1, 1], [0, 0, 0], [1, 1, 0]])
    np.testing.assert_array_equal(targets(correct, "hard", ranking)[0], [[0, 1, 0], [0, 0, 0], [0, 1, 0]])
    multi, weight = targets(correct, "multi", ranking)
    np.testing.assert_array_equal(multi, [[1, 1, 0], [0, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(weight, [[1, 1, 1], [1, 1, 1], [1, 1, 0]])


def test_label_losses_by_hand():
    logits = torch.tensor([[1.0, 2.0, 0.0]])
    weight = torch.tensor([[1.0, 1.0, 0.0]])
    soft = label_loss(logits, torch.tensor([[0.5, 0.5, 0.0]]), weight, "soft")
    total = np.log(np.exp(1) + np.exp(2))  # the third teacher did not answer
    assert soft.item() == pytest.approx(total - 1.5, rel=1e-6)
    multi = label_loss(logits, torch.tensor([[1.0, 0.0, 0.0]]), weight, "multi")
    assert multi.item() == pytest.approx((np.log1p(np.exp(-1)) + np.log1p(np.exp(2))) / 2, rel=1e-6)


def vectors_of(texts: Sequence[str], *_: object) -> np.ndarray:
    """A stand-in for an encoder: questions on books near one axis, on cars near another."""
    rng = np.random.default_rng(0)
    axis = np.eye(6, dtype=np.float32)
    made = [axis[int("cars" in t)] + 0.2 * rng.normal(size=6).astype(np.float32) for t in texts]
    return np.stack([v / np.linalg.norm(v) for v in made]).astype(np.float32)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Alpha knows books, beta knows cars, gamma knows little."""
    monkeypatch.setattr("purifiers.similarity.embed", vectors_of)
    monkeypatch.setattr("purifiers.classifier.embed", vectors_of)
    monkeypatch.setattr("purifiers.fine_tune.embed", vectors_of)
    rng = random.Random(0)
    questions, answers = [], {t: [] for t in ("alpha", "beta", "gamma")}
    for i in range(160):
        cars = i % 2 == 1
        row = question_row(i, "train" if i < 120 else "test", rng)
        row["question"] = row["question"].replace("books", "cars" if cars else "books")
        questions.append(row)
        chance = {"alpha": 0.2 if cars else 0.9, "beta": 0.9 if cars else 0.2, "gamma": 0.3}
        for teacher, p in chance.items():
            answers[teacher].append(response_row(row, teacher, rng.random() < p))
    answers["alpha"] = answers["alpha"][:158]
    return Corpus.of(write_workspace(tmp_path / "ws", questions, answers))


METHODS = [
    Similarity(training=Training(batch=16)),
    Classifier(labels="soft"),
    Classifier(labels="hard"),
    Classifier(labels="multi"),
]


@pytest.mark.parametrize("purifier", METHODS, ids=["similarity", "soft", "hard", "multi"])
def test_a_router_sends_each_question_to_its_specialist(corpus: Corpus, purifier: Purifier, tmp_path: Path):
    fitted = fit_on_train(purifier, corpus)
    test = corpus.take(corpus.rows("test")).hide_gold()
    kept = fitted.purify(test)
    wanted = [corpus.teachers.index("beta" if "cars" in t else "alpha") for t in test.question_texts()]
    assert (kept.teacher == wanted)[:38].mean() > 0.9
    assert kept.teacher[38] != corpus.teachers.index("alpha")  # it did not answer this one
    save(fitted, tmp_path / "router")
    np.testing.assert_array_equal(load(tmp_path / "router").score(test), fitted.score(test))


@pytest.mark.parametrize("purifier", [Similarity(), Classifier()], ids=["similarity", "classifier"])
def test_a_teacher_added_later_is_not_chosen(corpus: Corpus, purifier: Purifier):
    fitted = fit_on_train(purifier, corpus.with_teachers(["alpha", "beta"]))
    scores = fitted.score(corpus)
    assert np.isnan(scores[:, 2]).all()
    assert np.isfinite(scores[:, 1]).all()


def test_the_seed_decides(corpus: Corpus):
    first, again = (fit_on_train(Similarity(), corpus).state() for _ in range(2))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
