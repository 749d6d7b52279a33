"""`keep-all`: every usable rationale is published, and everything downstream copes with several rows per question."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import load_dataset
from helpers_cli import Cli
from helpers_corpus import make_workspace, question_row, response_row, write_recipe, write_workspace

from cards.card import write_card
from cards.publication import choose, stage
from cards.report import render
from cards.verify import verify
from purifiers.keep_all import KeepAll
from purifiers.majority import Majority
from purifiers.run import publish
from schemas.database import query
from schemas.workspace import Workspace

TEACHERS = ("alpha", "beta", "gamma")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """30 questions; the first has an answer of alpha alone, the second has none that is usable."""
    import random

    rng = random.Random(0)
    questions = [question_row(i, ("train", "validation", "test")[i % 3], rng) for i in range(30)]
    answers = {t: [response_row(q, t, rng.random() < 0.6) for q in questions] for t in TEACHERS}
    for t in TEACHERS:
        answers[t][1] |= {"status": "failed", "rationale": None, "rationale_chars": 0, "predicted_answer": None}
        answers[t][1] |= {"answer_status": "unread", "is_correct": None}
    del answers["beta"][0], answers["gamma"][0]
    made = write_workspace(tmp_path / "ws", questions, answers)
    write_recipe(made, TEACHERS, "apache-2.0")
    publish(made, Majority())
    publish(made, KeepAll())
    return made


def rows_of(workspace: Workspace, sql: str) -> list[tuple]:
    return [tuple(row.values()) for row in query(workspace, sql).to_pylist()]


def test_the_rows_are_the_usable_responses_with_their_own_answers(workspace: Workspace):
    sql = """SELECT question_id, teacher_id, rationale, predicted_answer FROM {} ORDER BY ALL"""
    usable = rows_of(workspace, sql.format("responses WHERE status = 'ok'"))
    assert len(usable) == 1 + 28 * 3
    assert rows_of(workspace, sql.format("purified WHERE method = 'keep-all'")) == usable
    assert rows_of(workspace, "SELECT question_id FROM rejected WHERE method = 'keep-all'") == [("q00001",)]
    one = rows_of(workspace, "SELECT DISTINCT question_id, prompt FROM purified WHERE method = 'keep-all'")
    assert len(one) == 29, "the prompt of a question is the same in all its rows"


def test_datasets_loads_it_in_the_order_of_questions_and_teachers(workspace: Workspace, tmp_path: Path):
    write_card(workspace)
    rows = load_dataset(str(workspace.path), "purified-keep-all", split="train", cache_dir=str(tmp_path / "hf"))
    keys = list(zip(rows["question_id"], rows["teacher_id"], strict=True))
    assert keys == sorted(keys) and len(set(keys)) == len(keys) == 1 + 9 * 3
    assert all(c.startswith(r) for c, r in zip(rows["completion"], rows["rationale"], strict=True))


def test_small_shards_hold_the_same_rows(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    sql = "SELECT * FROM purified WHERE method = 'keep-all' ORDER BY question_id, teacher_id"
    before = query(workspace, sql)
    monkeypatch.setattr("purifiers.write.SHARD", 9)
    publish(workspace, KeepAll())
    assert len(list(workspace.purified_dir("keep-all").glob("train-*.parquet"))) == 4
    assert query(workspace, sql).equals(before)


def test_card_report_and_checks_cope(workspace: Workspace):
    text = write_card(workspace).read_text()
    assert "`keep-all` purifies nothing" in text and 'load_dataset(DATASET, "purified-majority", split=' in text
    assert "purified-majority\n  data_files:" in text
    default = text.split("default: true")[0].rsplit("config_name:", 1)[1]
    assert default.startswith(" purified-majority"), "keep-all has more right rows and is still not the default"
    assert "keep-all" not in render(workspace)
    assert [f for f in verify(workspace) if f.check in ("keys", "values", "schema")] == []
    twice = query(workspace, "SELECT count(*) AS n FROM purified WHERE method = 'majority'").to_pylist()[0]["n"]
    assert twice == 29


def test_a_left_out_teacher_costs_its_rows_and_no_question_that_others_answered(workspace: Workspace, tmp_path: Path):
    staged, dropped = stage(workspace, tmp_path / "out", choose(workspace, ["keep-all"], ["alpha"]))
    assert dropped == {"keep-all": 29}
    assert rows_of(staged, "SELECT count(*), count(DISTINCT question_id) FROM purified") == [(56, 28)]
    assert sorted(rows_of(staged, "SELECT question_id FROM rejected")) == [("q00000",), ("q00001",)]


def test_evaluate_and_audit_say_that_there_is_no_choice(cli: Cli, tmp_path: Path):
    path = make_workspace(tmp_path / "ws", 12).path
    for args in (("evaluate", path, "--methods", "keep-all"), ("audit", path, "--method", "keep-all")):
        ran = cli(*args)
        assert ran.code == 1 and "keep-all keeps every rationale" in ran.err
    ran = cli("purify", path, "--method", "keep-all", "--json")
    assert ran.code == 0 and ran.json[0]["kept"] == 36 and ran.json[0]["chosen"] == dict.fromkeys(TEACHERS, 12)
