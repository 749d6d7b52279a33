"""`teacher-selection`: the policy's gradient against finite differences, and bandits whose best arm is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers_arrays import corpus_of
from helpers_student import CountingStudent, TableStudent

from purifiers.equipment import Equipment
from purifiers.policy import Policy, chances, draw, entropy_slope, scaled, slope
from purifiers.run import fit, purify
from purifiers.store import load, save
from purifiers.teacher_selection import TeacherSelection
from schemas.corpus import Corpus
from schemas.errors import InputError

KINDS = pytest.mark.parametrize("kind", ["bernoulli", "categorical"])


def log_chance(z: np.ndarray, action: np.ndarray, kind: str) -> float:
    p = 1 / (1 + np.exp(-z))
    if kind == "bernoulli":
        return float((action * np.log(p) + (1 - action) * np.log(1 - p)).sum())
    return float((action * (z - np.log(np.exp(z).sum()))).sum())


def entropy(z: np.ndarray, kind: str) -> float:
    p = 1 / (1 + np.exp(-z)) if kind == "bernoulli" else np.exp(z) / np.exp(z).sum()
    return float(-(p * np.log(p)).sum() - (((1 - p) * np.log(1 - p)).sum() if kind == "bernoulli" else 0))


@KINDS
def test_slopes_are_the_derivatives(kind: str):
    rng = np.random.default_rng(1)
    z, eye = rng.normal(size=4), 1e-6 * np.eye(4)
    action = np.array([1.0, 0, 0, 0]) if kind == "categorical" else np.array([1.0, 0, 1, 0])
    everyone = np.ones((1, 4), np.bool_)
    for ours, of in (
        (slope(z[None], everyone, action[None], kind), lambda v: log_chance(v, action, kind)),
        (entropy_slope(z[None], everyone, kind), lambda v: entropy(v, kind)),
    ):
        numeric = [(of(z + e) - of(z - e)) / 2e-6 for e in eye]
        np.testing.assert_allclose(ours[0], numeric, atol=1e-7)


def test_the_gradient_by_hand():
    """One question, two teachers: a_1 = 1 at z = 0 has slope 1 - 1/2, a_2 = 0 has slope 0 - 1/2; advantage 2."""
    policy = Policy(np.zeros((2, 3)), np.zeros(2), "bernoulli", entropy=0.0)
    states = np.array([[[1.0, 2.0, 0.0], [0.0, 1.0, 4.0]]])
    w, b = policy.gradient(states, np.ones((1, 2), np.bool_), np.array([[1.0, 0.0]]), np.array([2.0]))
    np.testing.assert_allclose(w, [[1, 2, 0], [0, -1, -4]])
    np.testing.assert_allclose(b, [1, -1])


@KINDS
def test_no_advantage_no_update(kind: str):
    rng = np.random.default_rng(0)
    policy = Policy(rng.normal(size=(3, 5)), rng.normal(size=3), kind, entropy=0.0)
    before = policy.weights.copy(), policy.bias.copy()
    states, open_ = rng.normal(size=(8, 3, 5)), rng.random((8, 3)) < 0.8
    open_[:, 0] = True
    action, _ = draw(policy.z(states), open_, kind, rng)
    policy.step(states, open_, action, scaled(np.zeros(8)))
    np.testing.assert_array_equal(policy.weights, before[0])
    np.testing.assert_array_equal(policy.bias, before[1])


@KINDS
def test_draws_follow_the_probabilities_and_never_take_who_is_absent(kind: str):
    z = np.tile([[0.5, -1.0, 2.0, 9.0]], (20_000, 1))
    open_ = np.tile([[True, True, True, False]], (20_000, 1))
    action, taken = draw(z, open_, kind, np.random.default_rng(0))
    p = chances(z[:1], open_[:1], kind)[0]
    assert p[3] == 0 and not action[:, 3].any()
    assert (action[np.arange(len(z)), taken] == 1).all()
    if kind == "categorical":
        assert (action.sum(axis=1) == 1).all()
        np.testing.assert_allclose(action.mean(axis=0), p, atol=0.01)
    else:
        nobody = np.prod(1 - p[:3])  # then the highest is taken after all
        np.testing.assert_allclose(action.mean(axis=0), p + nobody * np.array([0, 0, 1, 0]), atol=0.01)
        assert (taken[action[:, 2] == 1] == 2).all()


def test_advantages_keep_their_signs_and_are_cut():
    np.testing.assert_array_equal(scaled(np.zeros(4)), np.zeros(4))
    np.testing.assert_allclose(scaled(np.array([3.0, -3.0])), [1, -1])
    big = scaled(np.array([1000.0] + [-1.0] * 99))
    assert big[0] == 5 and (big[1:] < 0).all()


def vectors_of(texts: Sequence[str], *_: object) -> np.ndarray:
    """Questions on cars near one axis, others near another, a rationale at its teacher's axis."""
    rng = np.random.default_rng(0)
    axis = np.eye(6, dtype=np.float32)
    made = [axis["abc".index(t[0]) if " on q" in t else 3 + int("cars" in t)] for t in texts]
    return np.stack([v + 0.05 * rng.normal(size=6).astype(np.float32) for v in made])


@pytest.fixture(autouse=True)
def _vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purifiers.teacher_selection.embed", vectors_of)


def cars_and_books(n: int = 120) -> Corpus:
    """Every teacher is right on every question, so that the indicator tells nothing."""
    texts = [f"question {i} on {'cars' if i % 2 else 'books'}" for i in range(n)]
    split = ["train" if i < n * 2 // 3 else "test" for i in range(n)]
    return corpus_of(["AAA"] * n, "A" * n, split, texts)


def bandit(losses: dict[str, float], own: bool = False) -> TableStudent:
    """Loss by the teacher whose rationale is the target; with ``own``, b's are hard on cars and easy elsewhere."""

    def loss(prompt: str, target: str) -> float:
        if not prompt.startswith("explain: "):
            return 1.0
        swap = own and "cars" in prompt
        return losses[{"a": "b", "b": "a"}.get(target[0], target[0]) if swap else target[0]]

    return TableStudent(loss)


LOSSES = {"a": 2.0, "b": 1.0, "c": 2.5}


@KINDS
@pytest.mark.parametrize("alternate", ["epoch", "batch"])
def test_it_converges_to_the_teacher_with_the_lower_loss(kind: str, alternate: str):
    rounds = 40 if alternate == "batch" else 1
    method = TeacherSelection(policy=kind, alternate=alternate, rounds=rounds, epochs=40, batch=16, rate=0.02)
    fitted = fit(method.equipped(Equipment(student=bandit(LOSSES))), cars_and_books())
    test = cars_and_books().hide_gold()
    kept = fitted.purify(test)
    assert (kept.teacher == 1).all()
    assert kept.probabilities is not None
    assert (kept.probabilities[:, 1] > 0.7).mean() > 0.9


def test_it_learns_which_teacher_teaches_which_questions():
    method = TeacherSelection(rounds=1, epochs=60, batch=16, rate=0.02)
    fitted = fit(method.equipped(Equipment(student=bandit(LOSSES, own=True))), cars_and_books())
    test = cars_and_books()
    wanted = ["ab".index("a" if "cars" in text else "b") for text in test.question_texts()]
    assert (fitted.purify(test.hide_gold()).teacher == wanted).mean() > 0.95


def test_without_a_baseline_every_action_is_suppressed_and_with_one_it_is_not():
    """The raw reward is negative whatever is chosen, so each selection is made less likely, the best teacher's too."""
    chance = {}
    for baseline in ("none", "teachers"):
        settings = {"rounds": 1, "epochs": 40, "batch": 16, "rate": 0.02, "entropy": 0.0}
        method = TeacherSelection(policy="bernoulli", baseline=baseline, **settings)
        fitted = fit(method.equipped(Equipment(student=bandit({"a": 2.0, "b": 1.9, "c": 2.1}))), cars_and_books())
        chance[baseline] = fitted.purify(cars_and_books()).probabilities.mean(axis=0)
    assert (chance["none"] < 0.3).all()
    assert chance["teachers"][1] > 0.6 > chance["teachers"][2]


@pytest.mark.parametrize(("alternate", "passes"), [("epoch", 1 + 2 * 3 - 1), ("batch", 1 + 2 * 3)])
def test_a_fit_says_how_far_it_is(alternate: str, passes: int):
    told: list[tuple[int, int, str]] = []
    method = TeacherSelection(rounds=3, alternate=alternate, batch=16, epochs=1)
    equipment = Equipment(student=bandit(LOSSES), on_fit=lambda *now: told.append(now))
    corpus = cars_and_books()
    purify(method.equipped(equipment), corpus, folds=2)
    for n, fold in enumerate(("fit 1 of 3", "fit 2 of 3", "fit 3 of 3")):
        mine = [(done, total) for done, total, facts in told if facts.startswith(fold)]
        assert mine == sorted(mine) and mine[-1][0] == mine[-1][1] and len(mine) > 5
        assert n or mine[-1] == (passes * 80, passes * 80)
    assert {facts.split("  ")[1].split(",")[0] for *_, facts in told} == {
        "teaching the student", "losses of the rationales",
    }  # fmt: skip


def test_a_moving_average_finds_the_best_teacher_too():
    method = TeacherSelection(baseline="ema", rounds=1, epochs=60, batch=16, rate=0.02)
    fitted = fit(method.equipped(Equipment(student=bandit(LOSSES))), cars_and_books())
    assert (fitted.purify(cars_and_books().hide_gold()).teacher == 1).mean() > 0.9


def test_the_student_is_taught_both_tasks_of_train_questions_alone():
    student = bandit(LOSSES)
    method = TeacherSelection(rounds=2, warm_up=1, epochs=5, rationale_weight=0.5)
    fit(method.equipped(Equipment(student=student)), cars_and_books(30))
    assert len(student.taught) == 2 * 2 * 20, "a warm-up pass and one pass between the two rounds, two tasks each"
    predicted = [(p, t, w) for p, t, w in student.taught if p.startswith("predict: ")]
    assert {t for _, t, _ in predicted} == {"A"} and {w for _, _, w in predicted} == {1.0}
    assert {w for p, _, w in student.taught if p.startswith("explain: ")} == {0.5}
    numbers = {int(p.split("question ")[1].split()[0]) for p, _, _ in student.taught}
    assert numbers == set(range(20))


def test_alternating_follows_a_student_that_learns():
    """What it was taught becomes easier for the student, so that the choice settles instead of wandering."""
    method = TeacherSelection(alternate="batch", rounds=20, batch=8, rate=0.05, entropy=0.0)
    fitted = fit(method.equipped(Equipment(student=CountingStudent())), cars_and_books(60))
    kept = fitted.purify(cars_and_books(60).hide_gold())
    assert np.bincount(kept.teacher, minlength=3).max() > 30


def test_a_wrong_teachers_rationale_is_not_in_its_state_and_odds_stand_in_where_gold_is_hidden():
    corpus = corpus_of(["AAB", "ABB", "BB-"] * 8, "AAB" * 8)
    fitted = fit(TeacherSelection(rounds=1, epochs=2).equipped(Equipment(student=bandit(LOSSES))), corpus)
    states = fitted._states(corpus)
    assert (states[0, 2, 6:] == 0).all() and states[0, 0, 6:].any(), "c was wrong on the first question"
    hidden = fitted._states(corpus.hide_gold())
    odds = fitted._consensus.score(corpus.hide_gold())
    whole = vectors_of(["a on q0", "b on q0", "c on q0"], "")
    np.testing.assert_allclose(hidden[0, :, 6:], whole * odds[0][:, None], atol=0.3)
    assert 0 < odds[0, 2] < odds[0, 0] < 1
    assert np.isnan(fitted.score(corpus)[2]).tolist() == [False, False, True], "c has no answer there"


def test_it_is_saved_and_needs_no_student_afterwards(tmp_path: Path):
    corpus = cars_and_books(30)
    fitted, kept = purify(TeacherSelection(rounds=1, epochs=3).equipped(Equipment(student=bandit(LOSSES))), corpus)
    assert (kept.teacher >= 0).all()
    save(fitted, tmp_path)
    assert '"student": "table"' in (tmp_path / "purifier.json").read_text()
    np.testing.assert_array_equal(load(tmp_path).score(corpus), fitted.score(corpus))


def test_without_a_student_one_sentence_names_the_option():
    with pytest.raises(InputError, match=r"teacher-selection needs a student: .*--student MODEL_OR_FOLDER"):
        fit(TeacherSelection(), cars_and_books(30))
