"""Plackett-Luce on whole rankings: places by hand, the optimum against an independent one, samples from a workspace."""

from __future__ import annotations

import random
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from helpers_corpus import question_row, response_row, write_workspace
from scipy.optimize import minimize

from purifiers.plackett_luce import PlackettLuce, fit_pairs, fit_ranking, places, stage_weights
from purifiers.run import fit
from schemas.corpus import Corpus

NAN = np.nan


def test_places_by_hand():
    share = np.array([[1.0, 0.5, 0.5, 0.0], [1, 1, 0, 0], [1, 1, 1, 0], [NAN, 1, NAN, 0], [NAN] * 4])
    logprob = np.array(
        [[NAN] * 4, [-0.2, -0.1, -0.3, -0.9], [-0.1, NAN, -0.3, -0.2], [-0.1, -0.1, -0.1, -0.1], [NAN] * 4]
    )
    np.testing.assert_array_equal(
        places(share, logprob),
        [[0, 1, 1, 2], [1, 0, 2, 2], [0, 0, 0, 1], [-1, 0, -1, 1], [-1] * 4],  # wrong ones stay equal; one gap, no use
    )


def test_equal_log_probabilities_share_a_place():
    np.testing.assert_array_equal(
        places(np.array([[1.0, 1, 1, 0]] * 2), np.array([[-0.5, -0.5, -1, NAN], [-1, -0.5, -1, NAN]])),
        [[0, 0, 1, 2], [1, 0, 1, 2]],
    )


def loss(xi: np.ndarray, weights: np.ndarray, rankings: list[tuple[int, ...]], ridge: float) -> float:
    """Straight from the formula: -sum_k log( e^xi_(k) / sum_{l >= k} e^xi_(l) )."""
    total = ridge / 2 * (xi**2).sum()
    for w, order in zip(weights, rankings, strict=True):
        for k in range(len(order)):
            total -= w * (xi[order[k]] - np.log(np.exp(xi[list(order[k:])]).sum()))
    return float(total)


def test_the_fit_is_the_optimum_that_scipy_finds():
    rng = np.random.default_rng(0)
    rankings = [tuple(rng.permutation(4)[: rng.integers(2, 5)].tolist()) for _ in range(40)]  # some teachers absent
    place = np.full((40, 4), -1, np.int8)
    for row, order in enumerate(rankings):
        place[row, list(order)] = np.arange(len(order))
    weights = rng.dirichlet(np.ones(40), size=3)
    ours = fit_ranking(*stage_weights(weights, place), 1e-2)
    for q in range(3):
        best = minimize(loss, np.zeros(4), (weights[q], rankings, 1e-2), tol=1e-12)
        np.testing.assert_allclose(ours[q], best.x, atol=1e-4)
    np.testing.assert_allclose(ours.sum(axis=1), 0, atol=1e-8)


def test_two_teachers_are_bradley_and_terry():
    place = np.array([[0, 1], [0, 1], [1, 0]], np.int8)
    weights = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    wins = np.zeros((2, 2, 2))
    wins[:, 0, 1], wins[:, 1, 0] = weights[:, :2].sum(axis=1), weights[:, 2]
    ours = fit_ranking(*stage_weights(weights, place), 1e-3)
    np.testing.assert_allclose(ours, fit_pairs(wins, 1e-3), atol=1e-6)


def test_equals_share_a_place_as_breslow_has_it():
    """Two right ones above one wrong one: each won against all three, -log(e^x/(2 e^x + e^y)) twice."""
    ours = fit_ranking(*stage_weights(np.ones((1, 1)), np.array([[0, 0, 1]], np.int8)), 0.1)[0]

    def by_hand(v: np.ndarray) -> float:
        x, y = v
        return float(-2 * (x - np.log(2 * np.exp(x) + np.exp(y))) + 0.05 * (2 * x**2 + y**2))

    np.testing.assert_allclose(ours, minimize(by_hand, [0, 0], tol=1e-12).x[[0, 0, 1]], atol=1e-4)


def test_true_strengths_are_found_again():
    """Every order as often as Plackett-Luce says: the fit gives the strengths back, but for the ridge."""
    true = np.log([4.0, 2.0, 1.0])
    orders = list(permutations(range(3)))
    chance = np.array([np.exp(-loss(true, np.ones(1), [order], 0.0)) for order in orders])
    assert chance.sum() == pytest.approx(1)
    place = np.array([np.argsort(order) for order in orders], np.int8)
    ours = fit_ranking(*stage_weights(chance[None], place), 1e-6)[0]
    np.testing.assert_allclose(ours, true - true.mean(), atol=1e-4)


def test_large_inputs_are_fitted_in_blocks(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    place = np.argsort(rng.random((20, 3)), axis=1).astype(np.int8)
    weights = rng.dirichlet(np.ones(20), size=7)
    whole = fit_ranking(*stage_weights(weights, place), 1e-3)
    monkeypatch.setattr("purifiers.plackett_luce.CELLS", 1)
    np.testing.assert_allclose(fit_ranking(*stage_weights(weights, place), 1e-3), whole, atol=1e-9)


def test_the_share_of_right_samples_ranks_teachers_that_one_answer_cannot_tell_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Alpha is right three times of three, beta twice: by the vote both are right on every question."""
    monkeypatch.setattr(
        "purifiers.plackett_luce.embed", lambda texts, *_: np.ones((len(texts), 2), np.float32) / 2**0.5
    )
    rng = random.Random(0)
    questions = [question_row(i, "train" if i < 20 else "test", rng) for i in range(24)]
    answers = {
        t: [response_row(q, t, s < right, sample_idx=s) for q in questions for s in range(3)]
        for t, right in (("alpha", 3), ("beta", 2), ("gamma", 0))
    }
    corpus = Corpus.of(write_workspace(tmp_path / "ws", questions, answers))
    share, logprob = corpus.grades()
    np.testing.assert_allclose(share, np.tile([1, 2 / 3, 0], (24, 1)))
    assert np.isnan(logprob).all()
    assert np.isnan(corpus.hide_gold().grades()[0]).all(), "what rests on gold is hidden with it"
    alpha, beta, gamma = fit(PlackettLuce(likelihood="ranking"), corpus).score(corpus)[20]
    assert alpha > beta > gamma
    alpha, beta, _ = fit(PlackettLuce(likelihood="pairs"), corpus).score(corpus)[20]
    assert alpha == pytest.approx(beta)
