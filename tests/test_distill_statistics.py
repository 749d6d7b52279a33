"""Intervals, paired tests, curves and CMV, against hand-worked numbers and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from distill.statistics import Cell, accuracies, curves, paired
from schemas.seeds import cmv, estimate, t95, t_within

AB, ABC = ("a", "b"), ("a", "b", "c")


def cell(method: str, teachers: tuple[str, ...], seed: int, right: int, n: int = 10) -> Cell:
    return Cell(method, teachers, seed, np.arange(n) < right)


def test_interval_is_students_t():
    # mean 4, sd 2, n 4: half = 3.18245 * 2 / 2
    found = estimate([2.0, 4.0, 4.0, 6.0])
    half = 3.182446 * np.std([2, 4, 4, 6], ddof=1) / 2
    assert found.mean == 4.0
    assert found.low == pytest.approx(4 - half, abs=1e-5)
    assert found.high == pytest.approx(4 + half, abs=1e-5)
    low, high = stats.t.interval(0.95, 3, loc=4.0, scale=stats.sem([2, 4, 4, 6]))
    assert (found.low, found.high) == pytest.approx((low, high))


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 10, 30, 200])
def test_students_t_is_scipys(freedom: int):
    assert t95(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)
    for t in (0.0, 0.3, 2.5, 20.0):
        assert t_within(t, freedom) == pytest.approx(1 - 2 * stats.t.sf(t, freedom), abs=1e-12)


def test_one_seed_has_no_interval():
    found = estimate([0.5])
    assert (found.mean, found.low, found.high, found.n) == (0.5, None, None, 1)


def test_cmv_is_the_mean_gap_to_keep_all_seed_by_seed():
    cells = [cell("teacher:a", ("a",), s, 5) for s in (0, 1)]
    #            m = 2          m = 3
    gaps = {0: ((6, 5), (8, 4)), 1: ((7, 5), (7, 7))}  # (method, keep-all) right of 10
    for seed, ((f2, k2), (f3, k3)) in gaps.items():
        cells += [cell("vote", AB, seed, f2), cell("vote", ABC, seed, f3)]
        cells += [cell("keep-all", AB, seed, k2), cell("keep-all", ABC, seed, k3)]
    found = curves(cells, (("a",), AB, ABC))
    value = cmv(accuracies(found["vote"]), accuracies(found["keep-all"]))
    assert value is not None
    # seed 0: (.1 + .4) / 2 = .25; seed 1: (.2 + 0) / 2 = .1; mean .175, sd .10607, half 12.7062 * .10607 / sqrt 2
    assert value.mean == pytest.approx(0.175)
    assert value.high - value.mean == pytest.approx(12.7062 * 0.106066 / np.sqrt(2), rel=1e-4)
    assert [c.accuracy for c in found["vote"][1]] == [0.5, 0.5], "with one teacher every method is that teacher"


def test_cmv_leaves_out_a_seed_that_lacks_a_teacher_set():
    cells = [cell("vote", AB, 0, 6), cell("vote", ABC, 0, 6), cell("vote", AB, 1, 9)]
    cells += [cell("keep-all", t, s, 5) for t in (AB, ABC) for s in (0, 1)]
    found = curves(cells, (("a",), AB, ABC))
    value = cmv(accuracies(found["vote"]), accuracies(found["keep-all"]))
    assert value is not None
    assert (value.mean, value.n) == (pytest.approx(0.1), 1)


def test_paired_by_seed_is_scipys_t_test():
    mine = [cell("vote", AB, s, r) for s, r in enumerate((7, 8, 9, 7))]
    others = [cell("keep-all", AB, s, r) for s, r in enumerate((6, 6, 8, 7))]
    found = paired(mine, others)
    assert found is not None
    expected = stats.ttest_rel([0.7, 0.8, 0.9, 0.7], [0.6, 0.6, 0.8, 0.7])
    assert found.p_seed == pytest.approx(expected.pvalue)
    assert found.by_seed.mean == pytest.approx(0.1)


def test_paired_by_question_agrees_with_scipys_resampling():
    random = np.random.default_rng(3)
    mine = [Cell("vote", AB, s, random.random(200) < 0.6) for s in range(3)]
    others = [Cell("keep-all", AB, s, random.random(200) < 0.5) for s in range(3)]
    found = paired(mine, others)
    assert found is not None
    per_question = np.mean([a.right * 1.0 - b.right for a, b in zip(mine, others, strict=True)], axis=0)
    flips = stats.permutation_test(
        (per_question,), np.mean, permutation_type="samples", n_resamples=5000, rng=np.random.default_rng(0)
    )
    boot = stats.bootstrap((per_question,), np.mean, method="percentile", rng=np.random.default_rng(0))
    assert found.p_question == pytest.approx(flips.pvalue, abs=0.02)
    assert found.low == pytest.approx(boot.confidence_interval.low, abs=0.012)
    assert found.high == pytest.approx(boot.confidence_interval.high, abs=0.012)


def test_equal_students_differ_by_nothing():
    same = [cell("vote", AB, s, 5) for s in (0, 1, 2)]
    found = paired(same, same)
    assert found is not None
    assert (found.by_seed.mean, found.p_seed, found.low, found.high, found.p_question) == (0.0, 1.0, 0.0, 0.0, 1.0)
    assert paired(same, [cell("keep-all", AB, 7, 5)]) is None, "no seed in common"
