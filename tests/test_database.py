"""SQL: the views against cases worked by hand, the DuckDB file, and the locked-down connection."""

import datetime as dt
import random
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_corpus import make_workspace, question_row, response_row, write_workspace

from builders.read_answer import grade, same_answer
from purifiers.majority import Majority
from purifiers.run import publish
from schemas.database import query, refresh, table_name
from schemas.errors import InputError, WorkspaceError
from schemas.tables import STUDENTS, TABLES
from schemas.views import DESCRIPTIONS, answer_key
from schemas.workspace import Workspace

WHEN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def rows(workspace: Workspace, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = query(workspace, sql).to_pylist()
    return found


def question(i: int, answer: str | None = "A", split: str = "train") -> dict[str, Any]:
    return question_row(i, split, random.Random(i), answer=answer)


def said(question: dict[str, Any], teacher: str, answer: str | None, **changes: Any) -> dict[str, Any]:
    """A response with this answer; None is unread."""
    gold = question["answer"]
    row = response_row(question, teacher, right=True, predicted_answer=answer)
    row["answer_status"] = "unread" if answer is None else "read"
    row["is_correct"] = None if gold is None else answer == gold
    return {**row, **changes}


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Thirty questions, three teachers, `majority` published."""
    return make_workspace(tmp_path_factory.mktemp("ready") / "ws")


# -- the views, by hand


def test_the_answer_of_several_samples_is_the_one_most_reached(tmp_path: Path) -> None:
    q = [question(i) for i in range(5)]
    samples = {
        0: ["A", "B", "B"],  # B by votes, its first sample
        1: ["C", "A", None],  # a tie: the earlier sample
        2: [None, None, "D"],  # unread casts no vote
        3: [None, None, None],
    }
    ada = [said(q[i], "ada", a, sample_idx=s) for i, answers in samples.items() for s, a in enumerate(answers)]
    # a failed sample is no answer, though it comes first; a truncated one casts no vote
    ada += [
        said(q[4], "ada", None, sample_idx=0, status="failed", rationale=None, is_correct=None),
        said(q[4], "ada", "A", sample_idx=1, status="truncated"),
        said(q[4], "ada", "A", sample_idx=2, status="truncated"),
        said(q[4], "ada", "B", sample_idx=3),
    ]
    workspace = write_workspace(tmp_path / "ws", q, {"ada": ada})
    found = rows(workspace, "SELECT * FROM answers ORDER BY question_id")
    assert [(r["predicted_answer"], r["sample_idx"], r["samples"]) for r in found] == [
        ("B", 1, 3),
        ("C", 0, 3),
        ("D", 2, 3),
        (None, 0, 3),
        ("B", 3, 4),
    ]
    assert [r["is_correct"] for r in found] == [False, False, False, False, False]


def test_conflicts_are_pairs_of_read_answers_that_differ(tmp_path: Path) -> None:
    q = [question(0), question(1), question(2, answer=None)]
    answers = {"ada": ["A", "B", "C"], "bo": ["A", "A", "D"], "cy": ["B", None, "D"]}
    workspace = write_workspace(
        tmp_path / "ws", q, {t: [said(x, t, a) for x, a in zip(q, given, strict=True)] for t, given in answers.items()}
    )
    found = rows(workspace, "SELECT * FROM conflicts ORDER BY ALL")
    assert [tuple(r.values()) for r in found] == [
        ("q00000", "ada", "cy", "A", "B", True, False),
        ("q00000", "bo", "cy", "A", "B", True, False),
        ("q00001", "ada", "bo", "B", "A", False, True),
        ("q00002", "ada", "bo", "C", "D", None, None),
        ("q00002", "ada", "cy", "C", "D", None, None),
    ]


def test_texts_are_compared_as_they_are_graded(tmp_path: Path) -> None:
    q = {**question(0, "paris"), "task": "text", "choices": []}
    said_by = {"ada": ["Rome", "Paris", "the Paris"], "bo": ["paris.", "paris.", None], "cy": ["Rome", None, None]}
    given = {
        t: [
            said(q, t, a, sample_idx=i, is_correct=a is not None and grade(a, "paris", "text")) for i, a in enumerate(x)
        ]
        for t, x in said_by.items()
    }
    workspace = write_workspace(tmp_path / "ws", [q], given)
    found = rows(workspace, "SELECT teacher_id, predicted_answer FROM answers ORDER BY ALL")
    assert [tuple(r.values()) for r in found] == [("ada", "Paris"), ("bo", "paris."), ("cy", "Rome")]
    found = rows(workspace, "SELECT teacher_a, teacher_b FROM conflicts ORDER BY ALL")
    assert [tuple(r.values()) for r in found] == [("ada", "cy"), ("bo", "cy")]


WORDS = ["Paris", "the Paris", " PARIS!", "a", "A the", "the the cat", "cat", "-3", "3", "1.5", "15", "C++", "c", "…"]
WORDS += ["New York", "new-york", "ÉCOLE", "école", "東京", "東京。", "a 3", "3.", " "]


def test_sql_finds_texts_equal_only_where_grading_does() -> None:
    sql = f"SELECT {answer_key('a', 'task')} FROM (SELECT unnest($1) AS a, 'text' AS task)"
    keys = [key for (key,) in duckdb.execute(sql, [WORDS]).fetchall()]
    for a, x in zip(WORDS, keys, strict=True):
        for b, y in zip(WORDS, keys, strict=True):
            if same_answer(a, b, "text") != (x == y):
                digits = any(c.isdigit() for c in a + b)
                assert digits and x != y, (
                    f"{a!r} and {b!r}: only texts with digits may be told apart that grading does not"
                )


def test_teachers_are_counted_and_averaged(tmp_path: Path) -> None:
    q = [question(i) for i in range(4)] + [question(4, answer=None)]
    nothing = {"rationale": None, "is_correct": None, "prompt_tokens": None, "completion_tokens": None}
    ada = [
        said(q[0], "ada", "A", latency_ms=10.0, cost_usd=0.5),
        said(q[1], "ada", "B", latency_ms=20.0, cost_usd=0.25),
        said(q[2], "ada", None, status="truncated", latency_ms=30.0, cost_usd=0.25),
        said(q[3], "ada", None, status="failed", latency_ms=None, cost_usd=None, **nothing),
        said(q[4], "ada", "C", status="refused", latency_ms=40.0, cost_usd=0.0),
    ]
    workspace = write_workspace(tmp_path / "ws", q, {"ada": ada})
    (row,) = rows(workspace, "SELECT * FROM teachers")
    assert row == {
        "teacher_id": "ada",
        "model": "example/ada",
        "responses": 5,
        "ok": 2,
        "failed": 1,
        "truncated": 1,
        "refused": 1,
        "failure_rate": pytest.approx(0.6),
        "read_rate": pytest.approx(0.6),
        "accuracy": pytest.approx(1 / 3),  # right, wrong, unread; the unlabelled and the failed do not count
        "prompt_tokens": 160,
        "completion_tokens": 80,
        "mean_latency_ms": 25.0,
        "cost_usd": 1.0,
    }


def test_costs_are_by_split_and_unknown_stays_unknown(tmp_path: Path) -> None:
    q = [question(0), question(1), question(2, split="test"), question(3, split="test")]
    ada = [said(x, "ada", a, cost_usd=0.3, attempts=2) for x, a in zip(q, "AABB", strict=True)]
    bo = [said(x, "bo", "A", cost_usd=None) for x in q]
    workspace = write_workspace(tmp_path / "ws", q, {"ada": ada, "bo": bo})
    found = rows(workspace, "SELECT * FROM costs ORDER BY teacher_id, split")
    assert [tuple(r.values()) for r in found] == [
        ("build", "ada", "test", 2, 4, 80, 40, 0.6, None),  # no right answer: no cost per right one
        ("build", "ada", "train", 2, 4, 80, 40, 0.6, 0.3),
        ("build", "bo", "test", 2, 2, 80, 40, None, None),
        ("build", "bo", "train", 2, 2, 80, 40, None, None),
    ]


def test_a_sum_of_costs_is_unknown_where_the_cost_of_a_reply_is(tmp_path: Path) -> None:
    """Rows of two sources, say: what is known of one is not what both cost."""
    q = [question(i) for i in range(3)]
    ada = [said(x, "ada", "A", cost_usd=cost) for x, cost in zip(q, (0.3, None, 0.3), strict=True)]
    bo = [said(x, "bo", "A", cost_usd=0.3) for x in q[:2]] + [said(q[2], "bo", None, status="failed", cost_usd=None)]
    workspace = write_workspace(tmp_path / "ws", q, {"ada": ada, "bo": bo})
    for view in ("teachers", "costs"):
        found = rows(workspace, f"SELECT teacher_id, cost_usd FROM {view} ORDER BY teacher_id")
        assert [tuple(r.values()) for r in found] == [("ada", None), ("bo", 0.6)]


def test_cmv_is_the_mean_gain_over_keep_all(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", n=5, methods=False)
    accuracy = {  # (method, teachers): accuracies by seed
        ("keep-all", 1): [0.40],
        ("keep-all", 2): [0.50, 0.52],  # majority has no second seed: not counted
        ("keep-all", 3): [0.45],
        ("majority", 1): [0.90],  # one teacher has no conflict: not counted
        ("majority", 2): [0.55],
        ("majority", 3): [0.60],
    }
    made = [
        {
            **dict.fromkeys(STUDENTS.names),
            **{"run_id": f"{method}-{m}-{seed}", "method": method, "teachers": list("abc")[:m], "seed": seed},
            **{"base_model": "tiny", "eval_dataset": "sums", "eval_split": "test", "accuracy": value, "n": 10},
            **{"seconds": 1.0, "device": "cpu", "created_at": WHEN},
        }
        for (method, m), values in accuracy.items()
        for seed, value in enumerate(values)
    ]
    (workspace.path / "students").mkdir()
    pq.write_table(pa.Table.from_pylist(made, STUDENTS.arrow), workspace.path / "students" / "a.parquet")
    found = rows(workspace, "SELECT * FROM cmv")
    assert [(r["method"], r["base_model"], r["points"]) for r in found] == [("majority", "tiny", 2)]
    assert found[0]["cmv"] == pytest.approx(((0.55 - 0.50) + (0.60 - 0.45)) / 2)


def test_every_view_is_there_from_the_start(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "ws")
    for name in DESCRIPTIONS:
        assert rows(workspace, f"SELECT * FROM {name}") == []
    for table in TABLES.values():
        assert query(workspace, f"FROM {table.name}").column_names == table.names


# -- the file


def shown(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(path), read_only=True) as con:
        return [tuple(r.values()) for r in con.sql(sql).to_arrow_table().to_pylist()]


def rounded(found: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """A sum of floats depends on its order, in the last digits."""
    return [tuple(round(v, 9) if isinstance(v, float) else v for v in row) for row in found]


def test_plain_duckdb_shows_the_same(ready: Workspace) -> None:
    for name in DESCRIPTIONS:
        ours = [tuple(r.values()) for r in rows(ready, f"SELECT * FROM {name} ORDER BY ALL")]
        theirs = shown(ready.database, f"SELECT * FROM {name} ORDER BY ALL")
        assert rounded(theirs) == rounded(ours), name
    table = shown(ready.database, "SELECT * FROM purified_majority ORDER BY question_id")
    assert len(table) == 30 and table == shown(ready.database, "SELECT * FROM purified ORDER BY question_id")


def test_a_moved_workspace_is_put_right_by_refresh(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "here", n=10)
    shutil.move(workspace.path, tmp_path / "there")
    moved = Workspace.open(tmp_path / "there")
    assert len(rows(moved, "FROM purified")) == 10  # ours looks at where it is
    with pytest.raises(duckdb.IOException):
        shown(moved.database, "SELECT * FROM questions")
    with moved.lock():
        refresh(moved)
    assert len(shown(moved.database, "SELECT * FROM questions")) == 10
    assert len(shown(moved.database, "SELECT * FROM purified_majority")) == 10


@pytest.mark.parametrize("name", ["it's here", "a [v2] b", "50% *off*"])
def test_any_folder_name_will_do(tmp_path: Path, name: str) -> None:
    workspace = make_workspace(tmp_path / name / "ws", n=5)
    assert len(rows(workspace, "FROM purified")) == 5
    assert len(shown(workspace.database, "FROM responses")) == 15
    publish(workspace, Majority())


def test_a_method_published_anew_replaces_its_table(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", n=5)
    publish(workspace, Majority(seed=7))
    prints = shown(workspace.database, "SELECT DISTINCT purifier_fingerprint FROM purified_majority")
    assert prints == shown(workspace.database, "SELECT DISTINCT purifier_fingerprint FROM purified")


def test_a_method_that_keeps_nothing_any_more_has_an_empty_table(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", n=5)
    questions = workspace.read_questions().to_pylist()
    with workspace.lock():
        for teacher in workspace.teachers():
            unread = [said(q, teacher, None) for q in questions if q["split"] == "train"]
            workspace.write_responses(teacher, [("train", pa.Table.from_pylist(unread, TABLES["responses"].arrow))])
    publish(workspace, Majority())
    assert shown(workspace.database, "FROM purified_majority") == [] == rows(workspace, "FROM purified")
    assert len(rows(workspace, "FROM rejected")) == 5


def test_a_removed_method_loses_its_table_and_the_users_own_stay(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", n=5)
    with duckdb.connect(str(workspace.database)) as con:
        con.execute("CREATE TABLE purified_by_hand AS SELECT * FROM purified_majority")
        con.execute("CREATE TABLE mine AS SELECT 1 AS x")
    shutil.rmtree(workspace.purified_dir("majority"))
    with workspace.lock():
        refresh(workspace)
    tables = {name for (name,) in shown(workspace.database, "SELECT table_name FROM duckdb_tables()")}
    assert tables == {"purified_by_hand", "mine"}


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", n=5)
    workspace.database.write_bytes(b"not a database at all " * 1000)
    with pytest.raises(WorkspaceError, match=r"raffinate\.duckdb .*remove it"), workspace.lock():
        refresh(workspace)


def test_table_names_need_no_quotes() -> None:
    assert table_name("plackett-luce") == "purified_plackett_luce"
    assert table_name("v1.2_x") == "purified_v1_2_x"


# -- the locked connection


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{out}'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_text('{ws}/recipe.yaml')",
        "SELECT * FROM read_text('{ws}/questions/../recipe.yaml')",
        "SELECT * FROM read_blob('{ws}/.raffinate/*')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_parquet('https://example.com/x.parquet')",
        "ATTACH '{out}' AS other",
        "SET memory_limit = '1GB'",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "PRAGMA threads = 1",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CREATE TABLE t AS SELECT 1",
        "CREATE OR REPLACE VIEW questions AS SELECT 1",
        "DROP VIEW questions",
        "INSERT INTO questions SELECT * FROM questions",
        "DELETE FROM questions",
        "CALL pragma_version()",
        "EXPORT DATABASE '{out}'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{out}'",
        "SELECT 1; SELECT 2",
        "SELECT 1; COPY (SELECT 1) TO '{out}'",
        "",
        "-- nothing",
        "SELEC 1",
        "SELECT nothing FROM questions",
        "SELECT * FROM secret_of_ours",
    ],
)
def test_only_one_reading_statement_over_the_views_runs(ready: Workspace, tmp_path: Path, sql: str) -> None:
    secret_of_ours = pa.table({"x": [1]})  # a Python variable must not be a table
    out = tmp_path / "out"
    with pytest.raises(InputError) as refused:
        query(ready, sql.format(out=out, ws=ready.path))
    assert not out.exists() and len(secret_of_ours) == 1 and str(refused.value)


@pytest.mark.parametrize(
    "sql",
    ["SELECT 1 AS x", "FROM teachers", "DESCRIBE responses", "SUMMARIZE questions", "WITH t AS (SELECT 1) FROM t;"],
)
def test_reading_statements_run(ready: Workspace, sql: str) -> None:
    assert query(ready, sql).num_rows > 0
