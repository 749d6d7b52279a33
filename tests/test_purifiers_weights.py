"""Weights of purified rows by hand, in the table, and files from before there were any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from helpers_arrays import corpus_of
from helpers_corpus import make_workspace

from cards.verify import verify
from purifiers.weights import agreement_weight, teacher_importance
from schemas.corpus import UNREAD, Corpus
from schemas.database import query, refresh


def test_agreement_weights_by_hand():
    corpus = corpus_of(["AAA", "ABB", "AB?", "A--", "?AB", "AAB"])
    column = np.array([0, 0, 0, 0, 0, -1])
    code = np.array([0, 0, 0, 0, UNREAD, 0], np.int32)
    weights = agreement_weight(corpus, column, code)
    # all agree; none of two; the only other differs; nobody else is read; unread; synthesised: one of three differs
    np.testing.assert_allclose(weights, [1, 1 / 5, 1 / 5, np.nan, np.nan, 1 / (1 + 4 / 3)], rtol=1e-6)


def test_importance_by_hand_from_train_alone():
    corpus = corpus_of(["AB"] * 3 + ["AA"] + ["BA"] * 40, "A" * 44, ["train"] * 4 + ["test"] * 40)
    mean = 5 / 8  # a is right 4 times of 4, b once
    a, b = (4 + 20 * mean) / 24, (1 + 20 * mean) / 24
    np.testing.assert_allclose(teacher_importance(corpus), [1, b / a], rtol=1e-6)
    assert np.isnan(teacher_importance(corpus.hide_gold())).all()
    assert np.isnan(teacher_importance(corpus_of(["BB"], "A"))).all(), "nobody was right"


def test_they_are_published_and_the_best_teacher_weighs_1(tmp_path: Path):
    workspace = make_workspace(tmp_path / "ws", 30)
    rows = query(workspace, "FROM purified").to_pylist()
    corpus = Corpus.of(workspace)
    importance = dict(zip(corpus.teachers, teacher_importance(corpus).tolist(), strict=True))
    assert importance["alpha"] == 1 > importance["gamma"]
    for row in rows:
        assert row["teacher_importance"] == importance[row["teacher_id"]]
        others = 3 * row["agreement"] - 1  # of the two others, who agree
        assert abs(row["agreement_weight"] - 1 / (1 + 4 * (2 - others) / 2)) < 1e-6


def test_files_without_them_are_still_read_and_found_whole(tmp_path: Path):
    workspace = make_workspace(tmp_path / "ws", 10)
    for file in workspace.purified_dir("majority").glob("*.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.drop_columns(["agreement_weight", "teacher_importance"]), file)
    with workspace.lock():
        refresh(workspace)
    found = query(workspace, "SELECT count(*) AS n, count(agreement_weight) AS w, count(agreement) AS a FROM purified")
    assert found.to_pylist() == [{"n": 10, "w": 0, "a": 10}]
    assert [f for f in verify(workspace) if f.check in ("schema", "keys", "values")] == []
