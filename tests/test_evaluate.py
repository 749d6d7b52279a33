"""How well a method chooses: figures worked by hand, intervals, what goes to JSON, and real teachers."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers_arrays import corpus_of
from helpers_cli import ROOT, Cli
from helpers_corpus import make_workspace
from scipy import stats

from purifiers.base import Purified, Purifier, Scores, Signal, Synthesis
from purifiers.best_teacher import BestTeacher
from purifiers.comparison import teacher_curve, train_curve, unseen_domains
from purifiers.evaluate import Evaluation, evaluate, is_right
from purifiers.gold_first import GoldFirst
from purifiers.majority import Majority
from purifiers.oracle import Oracle
from purifiers.random_teacher import RandomTeacher
from schemas.corpus import Corpus
from schemas.errors import InputError
from schemas.intervals import wilson

DATA = Path(os.environ.get("RAFFINATE_DATA", ROOT / ".." / "shared" / "data"))
KEYS = {"method", "accuracy", "low", "high", "coverage", "oracle", "regret", "gap_closed", "n", "share", "entropy"}
KEYS |= {"fit_seconds", "choose_seconds", "responses_usd", "cost_usd", "calibration"}


class First(Purifier):
    """Always the first teacher, where it answered."""

    name = "first"
    signals = frozenset[Signal]()

    def score(self, corpus: Corpus) -> Scores:
        scores = np.full(corpus.usable.shape, np.nan, np.float32)
        scores[corpus.usable[:, 0], 0] = 1
        return scores


def one(corpus: Corpus, method: Purifier, on: str = "test") -> Evaluation:
    (found,) = evaluate(corpus, [method], on=on)
    return found


# On train b is best (4 of 5). On test: a 3 of 6, b 3 of 6, c 2 of 6; somebody is right in 5 of 6.
TRAIN = ["ABB", "AAB", "BAB", "BAA", "BAB"]
TEST = ["ABB", "ABA", "AAB", "BAC", "-AA", "BBB"]
WORKED = corpus_of(TRAIN + TEST + ["AB-", "AB-"], "A" * 11 + "A?", ["train"] * 5 + ["test"] * 6 + ["validation"] * 2)


def test_figures_by_hand() -> None:
    first = one(WORKED, First())
    assert first.n == 6
    assert first.accuracy == pytest.approx(3 / 6)
    assert first.coverage == pytest.approx(5 / 6)
    assert first.oracle == pytest.approx(5 / 6)
    assert first.regret == pytest.approx(2 / 6)
    assert first.gap_closed == pytest.approx((3 / 6 - 3 / 6) / (5 / 6 - 3 / 6))  # b, best on train, has 3 of 6 here
    assert first.share == {"a": 1.0, "b": 0.0, "c": 0.0} and first.entropy == 0.0


def test_best_teacher_is_the_zero_and_oracle_the_one_of_the_gap() -> None:
    best, oracle = evaluate(WORKED, [BestTeacher(), Oracle()], on="test")
    assert best.share == {"a": 0.0, "b": 1.0, "c": 0.0} and best.gap_closed == pytest.approx(0)
    assert oracle.accuracy == oracle.oracle == pytest.approx(5 / 6)
    assert oracle.gap_closed == pytest.approx(1) and oracle.regret == 0


def test_best_single_is_who_solves_most_questions_and_not_who_is_right_on_the_few_it_answers() -> None:
    # On train b is right on its one question, a on 4 of 5; on test a solves 3 of 4, b 1, somebody 4.
    corpus = corpus_of(["A-", "A-", "A-", "AA", "B-", "A-", "A-", "A-", "BA"], "A" * 9, ["train"] * 5 + ["test"] * 4)
    assert one(corpus, Majority()).gap_closed == pytest.approx((one(corpus, Majority()).accuracy - 3 / 4) / (1 - 3 / 4))
    curve = teacher_curve(corpus, Majority())
    assert [curve[n]["added"] for n in (1, 2)] == ["a", "b"] and curve[2]["best_single"] == 3 / 4


def test_shares_and_entropy_by_hand() -> None:
    # read answers: BB wins, AA, AA, all differ, AA, all agree
    found = one(corpus_of(["ABB", "BAA", "ABB", "BAA"], "AAAA", "test"), Majority())
    assert found.share["a"] == 0 and found.share["b"] + found.share["c"] == pytest.approx(1)
    p = np.array([v for v in found.share.values() if v])
    assert found.entropy == pytest.approx(float(-(p * np.log(p)).sum() / np.log(3)))
    assert found.accuracy == pytest.approx(0.5) and found.coverage == 1


@pytest.mark.parametrize("on", ["train", "test"])
def test_a_domain_is_judged_by_what_others_taught(on: str) -> None:
    # a is right on every stone and no other question, b on the rest: who learnt from the rest takes b for stones.
    corpus = corpus_of((["AB"] * 20 + ["BA"] * 20) * 2, "A" * 80, ["train"] * 40 + ["test"] * 40)
    corpus = replace(corpus, domain=pa.array((["stones"] * 20 + ["stars"] * 20) * 2))
    assert unseen_domains(corpus, BestTeacher(), on=on) == {"stars": 0.0, "stones": 0.0}


def test_a_curve_over_train_questions_does_not_judge_them() -> None:
    assert train_curve(WORKED, BestTeacher(), [5]) == {5: 3 / 6}
    with pytest.raises(InputError, match="judges other ones"):
        train_curve(WORKED, BestTeacher(), [5], on="train")


def test_labelled_questions_alone_count() -> None:
    validation = one(WORKED, First(), "validation")
    assert validation.n == 1 and validation.accuracy == 1.0


def test_on_train_a_learner_is_judged_out_of_fold() -> None:
    # Each teacher is right on half of the questions; without its own row the other one always leads.
    corpus = corpus_of(["AB", "BA"] * 20, "A" * 40)
    assert one(corpus, BestTeacher(), "train").accuracy < 0.75
    assert one(corpus, GoldFirst(), "train").accuracy == 1.0  # it declares GOLD, and train gold may be used


def test_gold_of_the_judged_split_does_not_choose() -> None:
    found = one(WORKED, GoldFirst())
    assert found.accuracy == pytest.approx(4 / 6)  # votes: wrong in the first (BB) and the last, where all err


def test_a_synthesised_answer_is_compared_with_gold() -> None:
    part = corpus_of(["AB", "AB", "AB"], "AB?", "test")
    none = np.full(3, -1, np.int64)
    made = {0: Synthesis("x", "A", (0, 1)), 1: Synthesis("x", "A", (0, 1)), 2: Synthesis("x", "A", (0, 1))}
    assert is_right(part, Purified(none, np.zeros(3, np.float32), synthesised=made)).tolist() == [True, False, False]


def test_without_train_there_is_no_gap_but_an_accuracy() -> None:
    found = one(corpus_of(["AB", "BA"], "AA", "test"), Oracle())
    assert found.gap_closed is None and found.accuracy == 1.0


@pytest.mark.parametrize("on", ["train", "validation", "test"])
def test_every_split_can_be_judged(on: str) -> None:
    for found in evaluate(WORKED, [RandomTeacher(), BestTeacher(), Majority(), GoldFirst(), Oracle()], on=on):
        assert 0 <= found.low <= found.accuracy <= found.high <= 1
        assert found.accuracy <= found.oracle + 1e-12 and found.regret == pytest.approx(found.oracle - found.accuracy)
        assert sum(found.share.values()) == pytest.approx(1) and found.accuracy <= found.coverage


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (10, 10), (29, 30), (100, 400)])
def test_the_interval_is_wilsons(right: int, n: int) -> None:
    expected = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_holds_the_truth_where_nearly_all_are_right() -> None:
    rng = np.random.default_rng(0)
    intervals = [wilson(int(rng.binomial(100, 0.99)), 100) for _ in range(500)]
    assert np.mean([low <= 0.99 <= high for low, high in intervals]) > 0.9  # resampling questions: 0.6


def test_a_split_without_gold_is_told() -> None:
    with pytest.raises(InputError, match=r"the split 'test' has no labelled question .* \(questions are in: train\)"):
        evaluate(corpus_of(["AB"], "A"), [Majority()])
    with pytest.raises(InputError, match="no labelled question"):
        evaluate(corpus_of(["AB"], "?", "test"), [Majority()])


def test_json_has_what_was_promised(cli: Cli, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", n=40, methods=False)
    ran = cli("evaluate", workspace.path, "--methods", "random,majority,oracle", "--on", "validation", "--json")
    assert ran.code == 0 and not ran.err
    assert [row["method"] for row in ran.json] == ["random", "majority", "oracle"]
    for row in ran.json:
        assert set(row) == KEYS and row["n"] == 8
        assert set(row["share"]) == {"alpha", "beta", "gamma"}
    fewer = cli("evaluate", workspace.path, "--teachers", "beta,alpha", "--methods", "majority", "--json").json
    assert set(fewer[0]["share"]) == {"alpha", "beta"}
    seeded = ("--methods", "random,majority", "--set", "random.seed=5", "--json")
    assert (
        cli("evaluate", workspace.path, *seeded).json[0]["share"]
        != cli("evaluate", workspace.path, *seeded[:2], "--json").json[0]["share"]
    )


def test_a_closer_look(cli: Cli, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", n=80, methods=False)
    asked = ("evaluate", workspace.path, "--methods", "best-teacher,majority", "--compare", "--domains", "--curves")
    best, majority = cli(*asked, "--transfer", "--json").json
    gap = majority["accuracy"] - best["accuracy"]
    assert majority["against"]["best-teacher"]["difference"] == pytest.approx(gap)
    assert best["against"]["majority"]["difference"] == pytest.approx(-gap)
    n = sum(d["n"] * d["accuracy"] for d in best["domains"].values()) / best["n"]
    assert n == pytest.approx(best["accuracy"])
    train = best["curves"]["train"]
    assert list(train) and train[max(train, key=int)] == pytest.approx(best["accuracy"])
    assert majority["curves"]["train"] is None  # it learns nothing
    assert majority["curves"]["teachers"]["3"]["accuracy"] == pytest.approx(majority["accuracy"])
    assert set(best["transfer"]) == {"arithmetic", "shelves"}
    # A response costs 0.0001 dollars: the best teacher's alone, or those of all three.
    assert best["responses_usd"] == pytest.approx(0.0001)
    assert majority["responses_usd"] == pytest.approx(0.0003 / majority["coverage"])
    shown = cli(*asked, "--transfer").out
    for title in ("paired", "By domain", "By number of train questions", "By number of teachers", "fitted without it"):
        assert title in shown


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real answers at {DATA}")
def test_real_teachers_reproduce_known_figures(cli: Cli, tmp_path: Path) -> None:
    """Four models of one size on MMLU-Pro, split 70/30: best single .450, majority .523, over several splits."""
    teachers = ("llama-3.1-8b-instruct", "mixtral-8x7b-instruct", "phi-3-mini-4k-instruct", "mathstral-7b")
    found: dict[str, list[float]] = {}
    for seed in range(3):
        path = tmp_path / str(seed)
        files = ("--questions", DATA / "questions.parquet", "--responses", DATA / "responses.parquet")
        chosen: list[Any] = [x for t in teachers for x in ("--teacher", t)]
        split = ("--split-by-hash", "70/0/30", "--dataset", "mmlu_pro", "--seed", seed, "--json")
        imported = cli("import", path, *files, *chosen, *split)
        assert imported.code == 0, imported.err
        ran = cli("evaluate", path, "--methods", "best-teacher,majority,oracle", "--on", "test", "--json")
        assert ran.code == 0, ran.err
        for row in ran.json:
            found.setdefault(row["method"], []).append(row["accuracy"])
            assert row["n"] > 800
    means = {method: float(np.mean(values)) for method, values in found.items()}
    assert means == pytest.approx({"best-teacher": 0.450, "majority": 0.523, "oracle": 0.695}, abs=0.015)
