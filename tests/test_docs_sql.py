"""Every query of docs/sql.md runs on a real workspace and says what its heading promises."""

import random
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from helpers_asking import ScriptedAsker, asked_by, workspace_of
from helpers_cli import ROOT
from helpers_corpus import question_row, response_row, write_workspace

from purifiers.best_teacher import BestTeacher
from purifiers.keep_all import KeepAll
from purifiers.majority import Majority
from purifiers.pairwise import Pairwise
from purifiers.peer_review import PeerReview
from purifiers.run import publish
from schemas.database import query
from schemas.workspace import Workspace

TEXT = (ROOT / "docs" / "sql.md").read_text()
QUERIES = dict(re.findall(r"^## (.+?)\n.*?```sql\n(.+?)```", TEXT, flags=re.M | re.S))
TEACHERS = ("ada", "bo", "cy")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Forty questions that three teachers answer, with a failure, a cut and an unreadable answer; two methods."""
    rng = random.Random(3)
    questions = [question_row(i, ("train", "train", "test")[i % 3], rng) for i in range(40)]
    answers = {
        t: [response_row(q, t, rng.random() < (0.8, 0.6, 0.5)[n]) for q in questions] for n, t in enumerate(TEACHERS)
    }
    unread = {"predicted_answer": None, "answer_status": "unread"}
    failed = {
        "status": "failed",
        "rationale": None,
        "is_correct": None,
        "error_class": "timeout",
        "error_message": "late",
    }
    answers["ada"][0] |= {**failed, **unread, "rationale_chars": 0}
    answers["bo"][1] |= {**unread, "is_correct": False}
    answers["cy"][2] |= {"status": "truncated", "finish_reason": "length", "completion_tokens": 512}
    for t in TEACHERS:  # one that misleads everybody, one that nobody answers
        answers[t][3] = response_row(questions[3], t, right=False)
        answers[t][4] |= {**unread, "is_correct": False}
    made = write_workspace(tmp_path_factory.mktemp("sql") / "ws", questions, answers)
    publish(made, Majority())
    publish(made, BestTeacher())
    publish(made, asked_by(Pairwise(), ScriptedAsker(made, TEACHERS, lambda _: "Better: first")))
    return made


def ask(workspace: Workspace, heading: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = query(workspace, QUERIES[heading]).to_pylist()
    return found


@pytest.mark.parametrize("heading", list(QUERIES))
def test_every_query_runs_and_finds_something(workspace: Workspace, heading: str) -> None:
    found = ask(workspace, heading)
    assert found and all(any(v is not None for v in row.values()) for row in found)


def test_there_are_enough_of_them() -> None:
    assert len(QUERIES) >= 12 and TEXT.count("```sql") == len(QUERIES)


def everything(workspace: Workspace) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Questions by id, and responses by question and teacher."""
    questions = {q["question_id"]: q for q in workspace.read_questions().to_pylist()}
    cells: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in query(workspace, "FROM responses").to_pylist():
        cells[row["question_id"]][row["teacher_id"]] = row
    return questions, cells


def test_what_they_say_is_true(workspace: Workspace) -> None:
    """Four of the queries, counted again in Python."""
    questions, cells = everything(workspace)
    right = {q: [t for t, r in row.items() if r["is_correct"]] for q, row in cells.items()}
    only = ask(workspace, "Which questions did only one teacher get right?")
    assert {r["question_id"]: r["only_right"] for r in only} == {q: t[0] for q, t in right.items() if len(t) == 1}

    pairs: Counter[tuple[str, str]] = Counter()
    for row in cells.values():
        said = {t: r["predicted_answer"] for t, r in row.items() if r["predicted_answer"]}
        pairs.update((a, b) for a in said for b in said if a < b and said[a] != said[b])
    conflicts = ask(workspace, "How often do two teachers disagree, and who is right then?")
    assert {(r["teacher_a"], r["teacher_b"]): r["conflicts"] for r in conflicts} == pairs

    fooled = ask(workspace, "Where do all teachers agree and err?")
    expected = {
        q
        for q, row in cells.items()
        if len({r["predicted_answer"] for r in row.values()}) == 1
        and all(r["predicted_answer"] for r in row.values())
        and not right[q]
    }
    assert {r["question_id"] for r in fooled} == expected and "q00003" in expected and "q00004" not in expected

    kept = {(r["method"], r["question_id"]): r for r in query(workspace, "FROM purified").to_pylist()}
    differ = {
        q
        for q in questions
        if ("majority", q) in kept
        and ("best-teacher", q) in kept
        and kept["majority", q]["predicted_answer"] != kept["best-teacher", q]["predicted_answer"]
    }
    assert {r["question_id"] for r in ask(workspace, "Where do two methods keep different answers?")} == differ


def test_shares_and_costs_add_up(workspace: Workspace) -> None:
    for row in ask(workspace, "What does a right answer cost?"):
        assert row["cost_usd"] == pytest.approx(0.004)
        assert row["cost_per_right_answer"] > 0.0001
    taken = ask(workspace, "Whom did each method take?")
    total: Counter[tuple[str, str]] = Counter()
    for row in taken:
        total[row["method"], row["split"]] += row["share"]
    assert len(total) == 6 and all(share == pytest.approx(1) for share in total.values())
    (paid,) = ask(workspace, "What does a purified row cost?")
    kept = query(workspace, "FROM purified WHERE method = 'pairwise'").num_rows
    assert (paid["method"], paid["requests"]) == ("pairwise", query(workspace, "FROM calls").num_rows)
    assert paid["cost_per_purified_row"] == pytest.approx(0.001 * paid["requests"] / kept)
    assert {r["first_wins"] for r in ask(workspace, "Does a judge prefer a place?")} == {1.0}
    cut = {r["teacher_id"]: r["truncated"] for r in ask(workspace, "How many answers were cut at the token limit?")}
    assert cut == {"ada": 0, "bo": 0, "cy": pytest.approx(1 / 40)}
    (failed,) = ask(workspace, "What failed, and why?")
    assert (failed["teacher_id"], failed["error_class"], failed["rows"]) == ("ada", "timeout", 1)
    assert ask(workspace, "Why was a question rejected?")[0]["reason"] == "no teacher's answer could be read"


def test_a_pair_that_answered_several_times_is_read_once_a_question(tmp_path: Path) -> None:
    q = question_row(0, "train", random.Random(0), answer="A")
    ada = [response_row(q, "ada", right=i > 0, sample_idx=i, rationale=f"sample {i}") for i in range(3)]
    workspace = write_workspace(tmp_path / "ws", [q], {"ada": ada, "bo": [response_row(q, "bo", right=False)]})
    publish(workspace, KeepAll())
    kept = ask(workspace, "Where did each kept rationale come from, and what did a right one cost?")
    assert [(r["teacher_id"], r["rationales"], r["rights"]) for r in kept] == [("ada", 1, 1), ("bo", 1, 0)]
    assert [r["cost_per_right_one"] for r in kept] == [pytest.approx(0.0001), None]
    (row,) = ask(workspace, "Read the disagreements of one pair")
    assert (row["answer_a"], row["answer_b"], row["rationale_a"]) == ("A", "B", "sample 1")


def test_what_a_judge_without_a_price_did_makes_the_cost_unknown(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path / "ws", ["AB", "BA"])
    asker = ScriptedAsker(workspace, ("alpha", "beta"), lambda call: "4")
    publish(workspace, asked_by(PeerReview(), asker))
    file = next(workspace.calls_dir("peer-review").glob("*.parquet"))
    calls = pq.read_table(file)
    costs = pc.if_else(pc.equal(calls["judge_id"], "beta"), None, calls["cost_usd"])
    pq.write_table(calls.set_column(calls.column_names.index("cost_usd"), "cost_usd", costs), file)
    (paid,) = ask(workspace, "What does a purified row cost?")
    assert paid["requests"] > 0 and (paid["cost_usd"], paid["cost_per_purified_row"]) == (None, None)
