"""`consensus`, its conditional logit and its reading of rationales, on cases worked by hand."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers_corpus import make_workspace, question_row, response_row, write_workspace

from purifiers.base import Purifier
from purifiers.conditional_logit import Candidates, fit, loss, probabilities
from purifiers.consensus import Consensus, answers_given
from purifiers.forest import grow, predict
from purifiers.gate import Gate
from purifiers.options import LOOKS, learn, looks, out_of_fold, plausibility
from purifiers.run import fit as fit_on_train
from purifiers.run import purify, shown
from purifiers.store import load, save
from purifiers.support import SIGNS, false_equations, support
from purifiers.words import features, manner, own_support, read
from schemas.corpus import Corpus
from schemas.errors import WorkspaceError


def toy(features: list[list[float]], question: list[int], n: int) -> Candidates:
    return Candidates(np.array(features, float), np.array(question), np.ones((n, 1)))


def test_conditional_logit_probabilities_by_hand():
    # Question 0: e^1, e^2 against "none" e^0.5; question 1: one candidate e^-1 against e^0.5.
    candidates = toy([[1.0], [2.0], [-1.0]], [0, 0, 1], 2)
    chance, none = probabilities(np.array([1.0, 0.5]), candidates)
    total = np.exp(1) + np.exp(2) + np.exp(0.5)
    np.testing.assert_allclose(chance, [np.exp(1) / total, np.exp(2) / total, 1 / (1 + np.exp(1.5))])
    np.testing.assert_allclose(none, [np.exp(0.5) / total, 1 / (1 + np.exp(-1.5))])
    right = np.array([False, True, False])
    assert loss(np.array([1.0, 0.5]), candidates, right) == pytest.approx(-np.log(chance[1]) - np.log(none[1]))


def test_conditional_logit_finds_the_share_of_unsolvable_questions():
    # Featureless candidates: with 3 of 4 questions solved, P(right) = 3/4, so the outside weight is -log 3.
    candidates = toy([[0.0]] * 4, [0, 1, 2, 3], 4)
    weights = fit(candidates, np.array([True, True, True, False]), np.zeros(2), np.full(2, 1e-9))
    assert weights[1] == pytest.approx(-np.log(3), abs=1e-5)


def test_conditional_logit_minimum_has_zero_gradient():
    rng = np.random.default_rng(0)
    candidates = Candidates(rng.normal(size=(60, 3)), np.repeat(np.arange(20), 3), rng.normal(size=(20, 2)))
    right = np.zeros(60, bool)
    right[np.arange(15) * 3 + rng.integers(0, 3, 15)] = True
    prior, ridge = np.array([1.0, 0, 0, 0, 0]), np.full(5, 0.7)
    weights = fit(candidates, right, prior, ridge)

    def objective(w: np.ndarray) -> float:
        return loss(w, candidates, right) + 0.5 * float((ridge * (w - prior) ** 2).sum())

    slopes = [(objective(weights + e) - objective(weights - e)) / 2e-5 for e in np.eye(5) * 1e-5]
    np.testing.assert_allclose(slopes, 0, atol=1e-3)


def test_support_by_hand():
    options = {"A": "red apples", "B": "red pears", "C": "12 plums"}
    text = "First (A) seems right, but pears are cheaper. So it is red pears, as 3 * 4 = 12. Option (B)."
    a, b, c = support([text], options)[0]
    by_name = [dict(zip(SIGNS, row.tolist(), strict=True)) for row in (a, b, c)]
    # A: of "red" (shared by two options: 1/2) and "apples" (1) only "red" is there.
    assert by_name[0]["words"] == pytest.approx(0.5 / 1.5)
    assert by_name[1]["words"] == 1.0
    assert [s["label"] for s in by_name] == [0.5, 0.5, 0.0]
    assert by_name[0]["verbatim"] == 0.0
    end = text.index("red pears") + len("red pears")
    assert by_name[1]["verbatim"] == pytest.approx(end / len(text))
    assert [s["numbers"] for s in by_name] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("3 * 4 = 12", 0),
        ("3 * 4 = 13", 1),
        ("2 + 3 * 4 = 14 and 7 - 2 - 1 = 4", 0),
        ("10 / 3 = 3.33", 0),
        ("5 \\times 5 = 26", 1),
        ("1,000 + 500 = 1,500", 0),
        ("1 / 0 = 4", 0),
        ("x^2 + 3 = 7, f(2) * 3 = 9", 0),
        ("3 + 4 = 7x", 0),
        ("1 2 3 4 5 6 7 8 9 " * 2000, 0),
    ],
)
def test_false_equations(text: str, wrong: int):
    assert false_equations(text) == wrong


CHOICES = [{"label": "A", "text": "red apples"}, {"label": "B", "text": "pear"}]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus.of(make_workspace(tmp_path_factory.mktemp("consensus") / "ws", n=200, methods=False))


def test_it_beats_the_best_teacher_where_teachers_err_apart(corpus: Corpus):
    fitted, kept = purify(Consensus(text=False), corpus)
    test = corpus.rows("test")
    right = corpus.correct[test, kept.teacher[test]] == 1
    assert right.mean() >= (corpus.correct[test] == 1).mean(axis=0).max() - 0.05
    assert kept.probabilities is not None
    assert fitted.name == "consensus"


def test_each_answer_has_one_probability_and_they_sum_to_at_most_one(corpus: Corpus):
    fitted = fit_on_train(Consensus(), corpus)
    part = corpus.take(corpus.rows("test")).hide_gold()
    chance = fitted.purify(part).probabilities
    assert chance is not None
    question, code = answers_given(part)
    for q in range(len(part)):
        each = [chance[q][part.answer[q] == c] for c in code[question == q]]
        assert all(np.ptp(e) < 1e-6 for e in each)
        assert sum(e[0] for e in each) <= 1 + 1e-6


def test_gold_is_not_looked_at_when_choosing(corpus: Corpus):
    fitted = fit_on_train(Consensus(), corpus)
    np.testing.assert_array_equal(fitted.score(corpus), fitted.score(shown(corpus, fitted)))


def test_saved_and_loaded_it_gives_the_same(corpus: Corpus, tmp_path: Path):
    fitted = fit_on_train(Consensus(threshold=0.3), corpus)
    save(fitted, tmp_path)
    again = load(tmp_path)
    assert again.model_dump() == {"threshold": 0.3, "text": True, "trees": True}
    np.testing.assert_array_equal(again.purify(corpus).teacher, fitted.purify(corpus).teacher)
    np.testing.assert_array_equal(again.score(corpus), fitted.score(corpus))


@pytest.mark.parametrize("purifier", [Consensus(), Gate(first="consensus", otherwise="majority")])
def test_what_an_earlier_version_saved_is_told_in_one_sentence(corpus: Corpus, tmp_path: Path, purifier: Purifier):
    save(fit_on_train(purifier, corpus), tmp_path)
    file = tmp_path / "purifier.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps({**about, "state_version": about["state_version"] - 1}))
    with pytest.raises(WorkspaceError, match=f"saved by another version of {purifier.name}: run  raffinate purify"):
        load(tmp_path)


def test_with_a_forest_it_is_saved_and_keeps_its_promises(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("purifiers.consensus.FOREST_FROM", 10)
    fitted = fit_on_train(Consensus(), corpus)
    scores = fitted.score(corpus)
    assert not np.allclose(scores, fit_on_train(Consensus(trees=False), corpus).score(corpus), equal_nan=True)
    save(fitted, tmp_path)
    np.testing.assert_array_equal(load(tmp_path).score(corpus), scores)
    np.testing.assert_allclose(
        fitted.score(corpus.with_teachers(corpus.teachers[::-1]))[:, ::-1], scores, rtol=0, atol=1e-6
    )
    question, _ = answers_given(corpus)
    first = [np.flatnonzero(corpus.answer[q] == c)[0] for q, c in zip(*answers_given(corpus), strict=True)]
    assert np.bincount(question, scores[question, first]).max() <= 1 + 1e-6


def test_the_forest_is_scikit_learns():
    from sklearn.ensemble import ExtraTreesClassifier

    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    y = x[:, 0] + x[:, 1] ** 2 + 0.3 * rng.normal(size=300) > 0.5
    theirs = ExtraTreesClassifier(200, min_samples_leaf=5, max_features=0.4, random_state=0).fit(x.astype("f4"), y)
    np.testing.assert_allclose(predict(grow(x, y), x), theirs.predict_proba(x.astype("f4"))[:, 1], atol=1e-6)
    assert predict(grow(x, y | True), x).tolist() == [1.0] * 300


def test_block_by_block_it_chooses_the_same(corpus: Corpus, monkeypatch: pytest.MonkeyPatch):
    fitted = fit_on_train(Consensus(), corpus)
    whole = fitted.purify(corpus)
    monkeypatch.setattr("purifiers.base.BLOCK", 7)
    parts = fitted.purify(corpus)
    np.testing.assert_array_equal(parts.teacher, whole.teacher)
    np.testing.assert_allclose(fitted.score(corpus), whole.probabilities, atol=1e-6)


def test_what_words_say_by_hand(tmp_path: Path):
    (q,) = [question_row(0, "train", random.Random(3), choices=CHOICES, answer="A")]
    said = {
        "alpha": ("A", "It is red apples, (A)."),
        "beta": ("B", "Surely (A), wait: 1 + 1 = 3 here."),
        "gamma": ("A", ""),
    }
    rows = {t: [response_row(q, t, True, predicted_answer=a, rationale=text)] for t, (a, text) in said.items()}
    corpus = Corpus.of(write_workspace(tmp_path / "ws", [q], rows))
    readings, label = read(corpus), SIGNS.index("label")
    question, code = answers_given(corpus)
    voted = corpus.answer[question] == code[:, None]
    a, b = features(readings, question, voted)
    n = len(SIGNS)
    # alpha alone has words for A; all labels that are named are (A): beta, who says B, names it too.
    assert (a[label], a[n + label], a[2 * n + label]) == (1, 1, 1)
    assert (b[label], b[n + label], b[2 * n + label]) == (0, -1, 0)
    assert (a[3 * n], b[3 * n]) == (0, 1)  # a false equation
    assert not a[-2:].any() and not b[-2:].any()  # what an option looks like says nothing before it was learnt
    told = replace(readings, plausible=np.array([[0.2, 0.5]]))
    assert [row[-2:].tolist() for row in features(told, question, voted)] == [[0.2, pytest.approx(-0.3)], [0.5, 0]]
    support = own_support(readings)[0]
    assert support[0] > 0 > support[1] and support[2] == 0
    first = manner(readings, question, voted)[1]  # B is beta's alone: "wait", and three digits in 33 characters
    assert first[:3].tolist() == pytest.approx([np.log(34), 1, 3 / 33])


def by_look(question: str, texts: list[str]) -> dict[str, list[float]]:
    return dict(zip(LOOKS, looks(question, texts).T.tolist(), strict=True))


def test_looks_of_options_by_hand():
    seen = by_look("Is the cat big?", ["A red cat.", "a red, big dog", "No"])
    assert seen["words"] == [3, 4, 1]
    assert seen["length"] == pytest.approx(np.log([11, 15, 3]).tolist())
    assert seen["longest"] == [0, 1, 0] and seen["commas"] == [0, 1, 0]
    assert seen["rarest"] == [0, 0, 0] and by_look("", ["red cat", "cat red", "cat"])["rarest"] == [0.5, 0.5, 1]
    assert seen["start"] == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    assert seen["full stop"] == [1, 0, 0] and seen["odd"] == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    assert seen["asked"] == pytest.approx([1 / 3, 1 / 4, 0])
    assert not any(seen[name] != [0, 0, 0] for name in ("whole", "negative", "step", "middle", "round"))
    assert by_look("", [""])["words"] == [0] and looks("", []).shape == (0, len(LOOKS))


def test_looks_of_numbers_by_hand():
    seen = by_look("Of 1,200 N it loses 8 and 0.", ["9,600 N", "1,192 N", "-8.5 N", "150 N", "none"])
    assert seen["whole"] == [1, 1, 0, 1, 0] and seen["negative"] == [0, 0, 1, 0, 0]
    assert seen["step"] == [1, 1, 0, 1, 0]  # 1200 * 8, 1200 - 8, 1200 / 8
    # In order: -8.5, 150, 671 (the median, for "none"), 1192, 9600.
    assert seen["middle"] == [0.5, 0.25, 0.5, 0.25, 0] and seen["round"] == [1, 0, 1, 1, 0]
    huge = by_look("9" * 400 + " or 8", ["9" * 400, "1"])
    assert huge["middle"] == [0.5, 0.5] and huge["negative"] == [0, 0]


def longest_is_right(n: int, rng: random.Random) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Looks, options and gold of n questions whose right option is one word longer than the three others."""
    gold = np.array([rng.randrange(4) for _ in range(n)])
    seen = [looks("", ["many words here" if k == g else "two words" for k in range(4)]) for g in gold]
    return np.stack(seen), np.ones((n, 4), bool), gold


def test_what_right_options_look_like_is_learnt_from_gold():
    seen, is_option, gold = longest_is_right(40, random.Random(0))
    known = np.where(np.arange(40) < 30, gold, -1)
    found = plausibility(learn(seen, is_option, known), seen, is_option)
    assert (found.argmax(axis=1) == gold).all()
    np.testing.assert_allclose(np.exp(found).mean(axis=1), 1)  # probabilities over that of a guess, 1/4
    is_option[0, 3] = False
    assert plausibility(np.zeros(len(LOOKS)), seen, is_option).tolist() == np.zeros((40, 4)).tolist()
    assert not learn(seen, is_option, np.full(40, -1)).any()


def test_out_of_fold_a_question_teaches_nothing_about_itself():
    seen, is_option, gold = longest_is_right(40, random.Random(0))
    fold = np.repeat([0, 1], 20)
    flipped = np.where(fold == 0, (gold + 1) % 4, gold)
    before, after = (out_of_fold(seen, is_option, g, fold) for g in (gold, flipped))
    np.testing.assert_array_equal(before[fold == 0], after[fold == 0])
    assert not np.allclose(before[fold == 1], after[fold == 1])


def test_where_teachers_split_it_takes_the_option_that_looks_right(tmp_path: Path):
    rng = random.Random(4)
    questions, answers = [], {"alpha": [], "beta": []}
    for i in range(120):
        q = question_row(i, "train" if i < 100 else "test", rng)
        for c in q["choices"]:
            c["text"] = "a long and careful one" if c["label"] == q["answer"] else "short one"
        questions.append(q)
        right = rng.random() < 0.5  # one of the two, never both
        answers["alpha"].append(response_row(q, "alpha", right, rationale="So it is."))
        answers["beta"].append(response_row(q, "beta", not right, rationale="So it is."))
    corpus = Corpus.of(write_workspace(tmp_path / "ws", questions, answers))
    test = corpus.rows("test")
    for hidden in (False, True):  # who was right is known in either case, the right option itself may not be
        given = replace(corpus, gold=np.full_like(corpus.gold, -1)) if hidden else corpus
        kept = fit_on_train(Consensus(), given).purify(corpus.take(test).hide_gold())
        assert (corpus.correct[test, kept.teacher] == 1).mean() > 0.9
    kept = fit_on_train(Consensus(text=False), corpus).purify(corpus.take(test).hide_gold())
    assert (corpus.correct[test, kept.teacher] == 1).mean() < 0.8


def test_order_of_teachers_does_not_matter(corpus: Corpus):
    fitted = fit_on_train(Consensus(), corpus)
    turned = corpus.with_teachers(corpus.teachers[::-1])
    np.testing.assert_allclose(fitted.score(turned)[:, ::-1], fitted.score(corpus), atol=1e-6)


def test_a_teacher_added_later_and_one_that_is_gone(corpus: Corpus):
    fitted = fit_on_train(Consensus(), corpus.with_teachers(["alpha", "beta"]))
    scores = fitted.score(corpus)
    assert np.isfinite(scores[corpus.usable]).all()
    alone = fitted.score(corpus.with_teachers(["gamma"]))
    assert np.isfinite(alone[corpus.usable[:, 2]]).all()


def test_threshold_rejects_and_says_why(corpus: Corpus):
    fitted = fit_on_train(Consensus(threshold=1.0), corpus)
    kept = fitted.purify(corpus)
    assert set(kept.rejected.values()) == {"no answer has a probability of 1 or more"}
    assert (kept.teacher[list(kept.rejected)] == -1).all()


def test_missing_and_unread_responses(tmp_path: Path):
    rng = random.Random(1)
    questions = [question_row(i, "train" if i < 40 else "test", rng) for i in range(44)]
    alpha = [response_row(q, "alpha", i % 3 > 0) for i, q in enumerate(questions[:43])]
    beta = [response_row(q, "beta", i % 4 > 0) for i, q in enumerate(questions[:41])]
    alpha[41] |= {"predicted_answer": None, "answer_status": "unread", "is_correct": False}
    alpha[42] |= {"rationale": None, "rationale_chars": 0, "status": "failed"}
    corpus = Corpus.of(write_workspace(tmp_path / "ws", questions, {"alpha": alpha, "beta": beta}))
    kept = fit_on_train(Consensus(), corpus).purify(corpus.hide_gold())
    assert kept.teacher[40] in (0, 1)
    assert kept.rejected == {
        41: "no teacher's answer could be read",
        42: "no teacher has a usable response",
        43: "no teacher has a usable response",
    }


def test_held_by_its_ridge_it_is_the_weighted_vote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("purifiers.consensus.RIDGES", ((1e12, 1e12),))
    monkeypatch.setattr("purifiers.consensus._ridges", lambda pair, votes, d, m: np.full(d + m, pair[0]))
    corpus = Corpus.of(make_workspace(tmp_path / "ws", n=60, methods=False))
    chance = fit_on_train(Consensus(text=False), corpus).score(corpus)
    train = corpus.take(corpus.rows("train"))
    right, n = (train.correct == 1).sum(axis=0), len(train)
    overall = (right + 20 * right.mean() / n) / (n + 20)
    for domain in ("arithmetic", "shelves"):
        mine = np.array(train.domain.to_pylist()) == domain
        share = ((train.correct[mine] == 1).sum(axis=0) + 20 * overall) / (mine.sum() + 20)
        vote = np.log(share / (1 - share)) + np.log(3)  # four options
        q = next(
            q
            for q in np.flatnonzero(np.array(corpus.domain.to_pylist()) == domain)
            if corpus.answer[q, 0] == corpus.answer[q, 2] != corpus.answer[q, 1]
        )
        odds = np.exp(vote[0] + vote[2] - vote[1])
        assert chance[q, 0] / chance[q, 1] == pytest.approx(odds, rel=1e-4)
        assert chance[q, 1] == pytest.approx(
            np.exp(vote[1]) / (1 + np.exp(vote[1]) + np.exp(vote[0] + vote[2])), rel=1e-4
        )


def test_among_supporters_the_rationale_that_argues_for_the_answer(tmp_path: Path):
    rng = random.Random(2)
    questions = [question_row(i, "train" if i < 30 else "test", rng) for i in range(31)]
    answers = {t: [response_row(q, t, i % 3 > 0) for i, q in enumerate(questions)] for t in ("alpha", "beta")}
    gold = next(c["text"] for c in questions[30]["choices"] if c["label"] == questions[30]["answer"])
    for t, text in (("alpha", "No idea."), ("beta", f"Adding both shelves gives {gold}.")):
        answers[t][30] = response_row(questions[30], t, True, rationale=text)
    corpus = Corpus.of(write_workspace(tmp_path / "ws", questions, answers))
    kept = fit_on_train(Consensus(), corpus).purify(corpus.hide_gold())
    assert corpus.teachers[kept.teacher[30]] == "beta"
