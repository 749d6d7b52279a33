"""The builder against the sandbox over HTTP: complete rows, nothing paid twice, faults, bad input, secrets."""

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections import Counter
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pyarrow as pa
import pytest
from aiohttp import web

from builders.ask import Settings
from builders.build import BuildSummary, build, estimate, retry, status
from builders.client import Answer, Failure, Reply, judge
from builders.endpoints import check_endpoints
from builders.flow import Breaker, Gate, Pacer, backoff_s
from builders.journal import Journal, own_file
from builders.prices import _listed, priced
from builders.progress import Snapshot
from builders.prompt import Prompt
from builders.reply import read_completion, split_reasoning
from builders.sandbox import Fault, SandboxServer, questions
from builders.teacher import Price, Teacher
from schemas.database import query
from schemas.errors import InputError, RaffinateError, WorkspaceError
from schemas.tables import QUESTIONS, RESPONSES
from schemas.workspace import Workspace

FREE = Prompt.load("free")
ROOT = Path(__file__).parent.parent


def make(path: Path, n: int = 25) -> Workspace:
    workspace = Workspace.create(path)
    with workspace.lock():
        workspace.write_questions(questions(n))
    return workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make(tmp_path / "ws")


def teachers(sandbox: SandboxServer, names: str = "ada bo cy dee", **fields: Any) -> list[Teacher]:
    return [Teacher(id=n, model=f"sandbox/{n}", base_url=sandbox.url, **fields) for n in names.split()]


def rows(workspace: Workspace, sql: str = "SELECT * FROM responses ORDER BY ALL") -> list[dict[str, Any]]:
    return query(workspace, sql).to_pylist()


def by_status(workspace: Workspace) -> dict[str, int]:
    return {r["status"]: r["n"] for r in rows(workspace, "SELECT status, count(*) AS n FROM responses GROUP BY ALL")}


def test_a_build_has_a_row_for_every_question_teacher_and_sample(workspace: Workspace) -> None:
    with SandboxServer() as sandbox:
        asked = teachers(sandbox, samples=2, params={"seed": 1, "temperature": 0.7})
        seen: list[Snapshot] = []
        summary = build(workspace, asked, FREE, on_progress=seen.append)
        assert sandbox.stats()["received"] == 200
    assert summary.exit_code == 0 and not summary.advice
    assert [(t.ok, t.total, t.in_flight) for t in seen[-1].teachers] == [(50, 50, 0)] * 4
    found = rows(workspace)
    assert len({(r["question_id"], r["teacher_id"], r["sample_idx"]) for r in found}) == len(found) == 200
    gold = {q["question_id"]: q["answer"] for q in workspace.read_questions().to_pylist()}
    for row in found:
        assert row["status"] == "ok" and row["answer_status"] == "read" and row["attempts"] == 1
        assert row["is_correct"] == (row["predicted_answer"] == gold[row["question_id"]])
        assert row["raw_text"].startswith(row["rationale"][:20]) and row["rationale_chars"] == len(row["rationale"])
        assert row["completion_tokens"] > 0 and row["cost_usd"] is None and row["source"] == "build"
        assert orjson.loads(row["params"]) == {"max_tokens": 2048, "seed": 1 + row["sample_idx"], "temperature": 0.7}


def test_the_same_build_again_asks_nothing_and_writes_the_same_bytes(workspace: Workspace) -> None:
    def files() -> dict[str, bytes]:
        return {str(f): f.read_bytes() for f in workspace.path.glob("responses/*/*.parquet")}

    with SandboxServer() as sandbox:
        build(workspace, teachers(sandbox), FREE)
        before = files()
        summary = build(workspace, teachers(sandbox), FREE)
        assert sandbox.stats()["received"] == 100
    assert files() == before and {f.split("/")[-2] for f in before} == {"ada", "bo", "cy", "dee"}
    assert [(t.cached, t.answered) for t in summary.run.teachers] == [(25, 0)] * 4


def test_rows_are_made_anew_only_when_they_would_differ(workspace: Workspace) -> None:
    def written() -> dict[str, int]:
        return {f.parent.name: f.stat().st_mtime_ns for f in workspace.path.glob("responses/*/train*.parquet")}

    with SandboxServer() as sandbox:
        asked = teachers(sandbox, "ada bo")
        build(workspace, asked, FREE)
        first = written()
        with workspace.lock():
            workspace.write_questions(questions(25))  # the same again
        assert build(workspace, asked, FREE).rows[0].statuses == {"ok": 25}
        assert written() == first
        dearer = asked[0].model_copy(update={"price": Price(prompt_per_million=1, completion_per_million=1)})
        build(workspace, [dearer, asked[1]], FREE)
        assert written()["ada"] > first["ada"] and written()["bo"] == first["bo"]
        assert rows(workspace, "SELECT DISTINCT teacher_id FROM responses WHERE cost_usd > 0") == [
            {"teacher_id": "ada"}
        ]
        next(workspace.responses_dir("bo").glob("*.parquet")).unlink()
        build(workspace, asked, FREE)
        assert by_status(workspace) == {"ok": 50} and sandbox.stats()["received"] == 50


def test_growing_asks_only_what_is_new(workspace: Workspace) -> None:
    with SandboxServer() as sandbox:
        build(workspace, teachers(sandbox, "ada bo"), FREE)
        with workspace.lock():
            workspace.write_questions(questions(30))
        build(workspace, teachers(sandbox, "ada bo"), FREE)
        assert sandbox.stats()["received"] == 60
        build(workspace, teachers(sandbox, "ada bo cy"), FREE)
        assert sandbox.stats()["received"] == 90
        build(workspace, teachers(sandbox, "bo"), FREE)
        assert sandbox.stats()["received"] == 90
    assert workspace.teachers() == ["ada", "bo", "cy"]  # a teacher that is no longer asked keeps its rows
    assert by_status(workspace) == {"ok": 90}


def test_an_imported_teacher_is_left_alone(workspace: Workspace) -> None:
    row = dict.fromkeys(RESPONSES.names) | {
        "question_id": workspace.read_questions()["question_id"][0].as_py(),
        "teacher_id": "old",
        "sample_idx": 0,
        "status": "ok",
        "rationale_chars": 0,
        "answer_status": "unread",
        "gold_shown": False,
        "source": "import",
    }
    with workspace.lock():
        workspace.write_responses("old", [("train", pa.Table.from_pylist([row], schema=RESPONSES.arrow))])
    with SandboxServer() as sandbox:
        build(workspace, teachers(sandbox, "ada"), FREE)
    assert rows(workspace, "SELECT * FROM responses WHERE teacher_id = 'old'") == [row]


def test_workspaces_can_share_a_cache(tmp_path: Path) -> None:
    shared = Settings(cache=tmp_path / "shared.sqlite")
    with SandboxServer() as sandbox:
        for name in ("one", "two"):
            build(make(tmp_path / name), teachers(sandbox, "ada"), FREE, shared)
        assert sandbox.stats()["received"] == 25
    assert by_status(Workspace(tmp_path / "two")) == {"ok": 25}


def test_equal_questions_are_asked_once(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "ws")
    once = questions(10).to_pylist()
    twice = [q | {"question_id": f"{q['question_id']}-{i}"} for i in range(2) for q in once]
    with workspace.lock():
        workspace.write_questions(pa.Table.from_pylist(twice, schema=QUESTIONS.arrow))
    with SandboxServer(latency_ms=20) as sandbox:
        build(workspace, teachers(sandbox, "ada"), FREE)
        assert sandbox.stats()["received"] == 10
    assert by_status(workspace) == {"ok": 20}


FAULTS = [
    Fault(kind="rate_limit", share=0.1, retry_after=0.05),
    Fault(kind="server_error", share=0.05),
    Fault(kind="malformed", share=0.05),
    Fault(kind="empty", share=0.05),
]


@pytest.mark.parametrize("transport", ["lean", "openai"])
def test_passing_faults_are_asked_again(workspace: Workspace, transport: str) -> None:
    with SandboxServer(faults=FAULTS) as sandbox:
        summary = build(workspace, teachers(sandbox, transport=transport), FREE)
        faults = sum((Counter(t["faults"]) for t in sandbox.stats()["teachers"].values()), Counter())
        assert sandbox.stats()["received"] == 100 + faults.total()
    assert by_status(workspace) == {"ok": 100} and summary.exit_code == 0
    assert {"rate_limit", "server_error", "malformed", "empty"} <= faults.keys()
    assert sum(r["attempts"] for r in rows(workspace)) == 100 + faults.total()


@pytest.mark.parametrize(
    ("kind", "error_class"),
    [
        ("rate_limit", "rate_limit"),
        ("server_error", "server"),
        ("malformed", "malformed"),
        ("empty", "empty"),
        ("hang", "timeout"),
    ],
)
def test_lasting_faults_are_rows_with_their_reason_and_are_asked_by_the_next_build(
    workspace: Workspace, kind: Any, error_class: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builders.ask.REFUSED_S", 0.0)
    question = workspace.read_questions()["question"][3].as_py()
    faults = [Fault(kind=kind, match="^.*" + question[:40].replace("(", r"\(").replace("?", r"\?"), retry_after=0)]
    with SandboxServer(faults=faults) as sandbox:
        asked = teachers(sandbox, "ada bo", max_attempts=2, timeout_s=1.5 if kind == "hang" else 30)
        summary = build(workspace, asked, FREE, Settings(max_failed_share=0.5))
    failed = rows(workspace, "SELECT * FROM responses WHERE status = 'failed'")
    assert len(failed) >= 2 and by_status(workspace)["ok"] == 50 - len(failed)
    assert summary.exit_code == 0 and f"{len(failed)} {error_class}" in summary.advice[0]
    for row in failed:
        assert (row["error_class"], row["attempts"]) == (error_class, 2)
        assert row["error_message"] and row["is_correct"] is None and row["rationale"] is None
        assert (row["raw_text"] is not None) == (kind in ("malformed", "empty"))
    with SandboxServer(port=int(sandbox.url.split(":")[2].split("/")[0])) as sandbox:
        assert build(workspace, asked, FREE).exit_code == 0
        assert sandbox.stats()["received"] == len(failed)
    assert by_status(workspace) == {"ok": 50}


def test_a_share_of_failures_above_the_threshold_fails_the_run(workspace: Workspace) -> None:
    with SandboxServer(faults=[Fault(kind="empty", share=0.5)]) as sandbox:
        summary = build(workspace, teachers(sandbox, "ada bo", max_attempts=1), FREE)
    assert summary.exit_code == 1 and summary.failed_share > 0.05
    assert "a new build asks them" in summary.advice[0]


def test_truncated_and_refused_are_settled(workspace: Workspace) -> None:
    faults = [Fault(kind="truncation", teacher="ada"), Fault(kind="refusal", teacher="bo")]
    with SandboxServer(faults=faults) as sandbox:
        asked = teachers(sandbox, "ada bo")
        summary = build(workspace, asked, FREE)
        build(workspace, asked, FREE)
        assert sandbox.stats()["received"] == 50
    assert by_status(workspace) == {"truncated": 25, "refused": 25}
    assert summary.exit_code == 0 and "token limit" in summary.advice[0]
    refused = rows(workspace, "SELECT * FROM responses WHERE status = 'refused'")
    assert all(r["rationale"] is None and r["answer_status"] == "unread" and r["error_class"] is None for r in refused)


def test_one_teacher_dying_midway_does_not_stop_the_others(workspace: Workspace) -> None:
    with SandboxServer(faults=[Fault(kind="death", teacher="bo", after=5)], latency_ms=5) as sandbox:
        asked = teachers(sandbox, max_concurrency=3)
        summary = build(workspace, asked, FREE, Settings(patience_s=0.5))
        found = {t.id: by for t, by in zip(asked, (r.statuses for r in summary.rows), strict=True)}
        assert sandbox.stats()["received"] < 200  # the dead are probed, not stormed
    assert found["ada"] == found["cy"] == found["dee"] == {"ok": 25}
    assert found["bo"]["ok"] == 5 and found["bo"].total() == 25
    assert summary.exit_code == 1 and "'bo' does not answer" in summary.advice[0]
    classes = {r["error_class"] for r in rows(workspace, "SELECT * FROM responses WHERE status = 'failed'")}
    assert classes <= {"parked", "connection"} and "parked" in classes


def test_a_parked_teacher_that_comes_back_is_asked_on(workspace: Workspace) -> None:
    with SandboxServer(faults=[Fault(kind="server_error", teacher="bo", after=5, first=14)]) as sandbox:
        summary = build(workspace, teachers(sandbox, "ada bo"), FREE)
    assert by_status(workspace) == {"ok": 50} and summary.exit_code == 0


def test_an_unreachable_endpoint_is_one_sentence_and_complete_rows(workspace: Workspace) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        asked = [Teacher(id="gone", model="m", base_url=url)]
        summary = build(workspace, asked, FREE, Settings(patience_s=0.2))
        report = check_endpoints(asked)[0]
    assert summary.exit_code == 1 and "'gone' does not answer" in summary.advice[0] and url in summary.advice[0]
    assert by_status(workspace) == {"failed": 25}
    assert not report.reachable and "cannot be reached" in (report.problem or "")


def test_a_wrong_key_stops_its_teacher_at_once(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRONG_KEY", "sk-wrong-key-123")
    monkeypatch.setenv("RIGHT_KEY", "sk-right-key-456")
    with SandboxServer(api_key="sk-right-key-456", latency_ms=5) as sandbox:
        good = teachers(sandbox, "ada", api_key="${RIGHT_KEY}")
        bad = teachers(sandbox, "bo", api_key="${WRONG_KEY}", max_concurrency=4)
        summary = build(workspace, good + bad, FREE)
        reports = check_endpoints(good + bad)
    told = summary.advice[0]
    assert summary.exit_code == 1 and "'bo'" in told and "WRONG_KEY" in told and "HTTP 401" in told
    assert summary.rows[0].statuses == {"ok": 25}
    assert summary.rows[1].statuses == {"failed": 25} and set(summary.rows[1].errors) == {"auth"}
    assert reports[0].authorised and reports[0].serves_model and reports[0].problem is None
    assert reports[1].authorised is False and "WRONG_KEY" in (reports[1].problem or "")


@pytest.mark.parametrize(
    ("status_code", "error", "said", "most"),
    [
        (402, {"message": "Insufficient Balance"}, "top up, and run it again", 4),
        (429, {"message": "You exceeded your quota", "code": "insufficient_quota"}, "top up, and run it again", 4),
        (400, {"message": "max_tokens is too large"}, "refused the first 50 requests alike", 60),
    ],
)
def test_a_teacher_that_refuses_everything_is_not_asked_everything(
    tmp_path: Path, status_code: int, error: dict[str, str], said: str, most: int
) -> None:
    came = 0

    async def refuse(request: web.Request) -> web.Response:
        nonlocal came
        came += 1
        return web.json_response({"error": error}, status=status_code)

    workspace = make(tmp_path / "ws", 200)
    with Stub(refuse) as url:
        summary = build(workspace, [Teacher(id="t", model="m", base_url=url, max_concurrency=4)], FREE)
    assert came <= most and summary.exit_code == 1 and by_status(workspace) == {"failed": 200}
    assert said in summary.advice[0] and error["message"] in summary.advice[0] and len(summary.advice) == 2


def test_the_most_frequent_reason_is_told(workspace: Workspace) -> None:
    async def some(request: web.Request) -> web.Response:
        if len(await request.read()) % 2:
            return web.json_response({"error": {"message": "no numbers, please"}}, status=400)
        return web.json_response({"choices": [{"message": {"content": "The answer is (A)."}, "finish_reason": "stop"}]})

    with Stub(some) as url:
        asked = [Teacher(id="t", model="m", base_url=url)]
        summary = build(workspace, asked, FREE)
    n = by_status(workspace)["failed"]
    assert summary.advice[1] == f"the most frequent reason, of {n} rows: HTTP 400: no numbers, please"


def test_an_unknown_model_stops_its_teacher_at_once(workspace: Workspace) -> None:
    with SandboxServer() as sandbox:
        asked = [*teachers(sandbox, "ada"), Teacher(id="x", model="sandbox/adda", base_url=sandbox.url)]
        summary = build(workspace, asked, FREE)
        report = check_endpoints(asked)[1]
    assert "'x'" in summary.advice[0] and "sandbox/adda" in summary.advice[0]
    assert [r.statuses["ok"] for r in summary.rows] == [25, 0]
    assert report.serves_model is False and "sandbox/ada," in (report.problem or "")


@pytest.mark.parametrize("way", ["lean", "openai", "batch"])
@pytest.mark.parametrize("header", ["Authorization", "api-key"])
def test_a_key_is_sent_to_no_other_host(workspace: Workspace, way: str, header: str) -> None:
    stolen: list[str] = []

    async def steal(request: web.Request) -> web.Response:
        stolen.append(str(request.headers))
        return web.json_response({"choices": [{"message": {"content": "The answer is (A)."}, "finish_reason": "stop"}]})

    with Stub(steal) as other:
        there = other.replace("127.0.0.1", "localhost") + "/chat/completions?session=1"

        async def elsewhere(request: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": there})

        with Stub(elsewhere) as url:
            given = {"batch": True} if way == "batch" else {"transport": way, "max_concurrency": 2}
            asked = [Teacher(id="t", model="m", base_url=url, api_key="sk-mine", api_key_header=header, **given)]
            summary = build(workspace, asked, FREE)
            report = check_endpoints(asked)[0]
    assert not stolen and summary.exit_code == 1 and by_status(workspace) == {"failed": 25}
    for told in (summary.advice[0], report.problem or ""):
        assert "HTTP 307 to http://localhost" in told and "correct base_url" in told and "session" not in told


def test_no_file_holds_a_secret(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when a server repeats the key in its messages and replies."""
    secret = "sk-this-must-not-be-seen"
    monkeypatch.setenv("SOME_KEY", secret)

    async def echo(request: web.Request) -> web.Response:
        key = request.headers["Authorization"]
        if len(await request.read()) % 2:
            return web.json_response({"error": {"message": f"bad {key}"}}, status=400)
        return web.json_response({"choices": [{"message": {"content": f"You said {key}"}, "finish_reason": "stop"}]})

    with Stub(echo) as url:
        asked = [Teacher(id=t, model="m", base_url=url, api_key="${SOME_KEY}", transport=t) for t in ("lean", "openai")]
        summary = build(workspace, asked, FREE)
    assert {"ok", "failed"} == set(by_status(workspace))
    assert secret not in str(summary) + str(rows(workspace)) + repr(asked)
    left = [f for f in workspace.path.rglob("*") if f.is_file()]
    assert len(left) > 8
    assert not [f for f in left if secret.encode() in f.read_bytes()]


@pytest.mark.parametrize("pause", ["3600", "inf"])
def test_a_server_that_asks_for_hours_is_left(workspace: Workspace, pause: str) -> None:
    async def busy(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "daily limit"}}, status=429, headers={"Retry-After": pause})

    with Stub(busy) as url, SandboxServer() as sandbox:
        asked = [Teacher(id="t", model="m", base_url=url), *teachers(sandbox, "ada")]
        summary = build(workspace, asked, FREE)
    assert summary.run.seconds < 20 and summary.exit_code == 1
    assert "asks to be left alone for" in summary.advice[0] and "daily limit" in summary.advice[0]
    assert summary.rows[0].statuses == {"failed": 25} and summary.rows[1].statuses == {"ok": 25}


@pytest.mark.parametrize("limit", [{"requests_per_minute": 0.1}, {}], ids=["a budget", "Retry-After"])
def test_an_interrupt_ends_every_wait(workspace: Workspace, limit: dict[str, Any]) -> None:
    seen: list[Snapshot] = []

    async def reply(request: web.Request) -> web.Response:
        if not limit:
            return web.Response(status=429, headers={"Retry-After": "500"})
        return web.json_response({"choices": [{"message": {"content": "The answer is (A)."}, "finish_reason": "stop"}]})

    def interrupt(now: Snapshot) -> None:
        if now.teachers[0].answered or now.teachers[0].parked:
            if not seen:
                os.kill(os.getpid(), signal.SIGINT)
            seen.append(now)

    with Stub(reply) as url:
        asked = Teacher(id="t", model="m", base_url=url, **limit)
        summary = build(workspace, [asked], FREE, on_progress=interrupt)
    assert summary.interrupted and summary.exit_code == 130 and summary.run.seconds < 5 + 20
    if not limit:
        assert "a pause of" in (seen[0].teachers[0].parked or "")


@pytest.mark.parametrize("refused", [3, 25], ids=["a few requests", "all requests"])
@pytest.mark.parametrize("transport", ["lean", "openai"])
def test_a_server_is_left_alone_for_as_long_as_it_asks(workspace: Workspace, transport: str, refused: int) -> None:
    came: dict[bytes, list[float]] = {}

    async def busy_at_first(request: web.Request) -> web.Response:
        body = await request.read()
        came.setdefault(body, []).append(time.monotonic())
        if len(came[body]) == 1 and len(came) <= refused:
            return web.Response(status=429, headers={"Retry-After": "0.6"})
        return web.json_response({"choices": [{"message": {"content": "The answer is (A)."}, "finish_reason": "stop"}]})

    with Stub(busy_at_first) as url:
        build(workspace, [Teacher(id="t", model="m", base_url=url, transport=transport)], FREE)
    assert by_status(workspace) == {"ok": 25}
    pauses = [times[1] - times[0] for times in came.values() if len(times) == 2]
    assert len(pauses) == refused and min(pauses) >= 0.6


def test_a_budget_per_minute_holds_for_what_a_server_sees(tmp_path: Path) -> None:
    came: list[float] = []

    async def reply(request: web.Request) -> web.Response:
        came.append(time.monotonic())
        usage = {"prompt_tokens": 50, "completion_tokens": 50}
        message = {"content": "The answer is (A)."}
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})

    budgets: list[dict[str, Any]] = [
        {"requests_per_minute": 1200},  # one each 50 ms
        {"tokens_per_minute": 120_000, "max_concurrency": 1},  # 100 tokens each 50 ms
    ]
    with Stub(reply) as url:
        for number, budget in enumerate(budgets):
            came.clear()
            build(make(tmp_path / str(number), 12), [Teacher(id="t", model="m", base_url=url, **budget)], FREE)
            assert len(came) == 12 and came[-1] - came[0] > 10 * 0.05


def test_unusable_replies_that_were_paid_are_counted(workspace: Workspace) -> None:
    seen: Counter[bytes] = Counter()

    async def empty_at_first(request: web.Request) -> web.Response:
        body = await request.read()
        seen[body] += 1
        said = "The answer is (A)." if seen[body] == 3 else ""
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        return web.json_response({"choices": [{"message": {"content": said}, "finish_reason": "stop"}], "usage": usage})

    price = Price(prompt_per_million=1e6, completion_per_million=1e6)
    with Stub(empty_at_first) as url:
        summary = build(workspace, [Teacher(id="t", model="m", base_url=url, price=price)], FREE)
    assert summary.run.cost_usd == 25 * 3 * 15
    found = rows(workspace, "SELECT DISTINCT cost_usd, completion_tokens, attempts FROM responses")
    assert found == [{"cost_usd": 45.0, "completion_tokens": 5, "attempts": 3}]


@pytest.mark.parametrize("batch", [False, True])
def test_what_failed_rows_cost_is_not_forgotten(workspace: Workspace, batch: bool) -> None:
    price = Price(prompt_per_million=1e6, completion_per_million=0)
    with SandboxServer(faults=[Fault(kind="empty", first=50)]) as sandbox:
        asked = teachers(sandbox, "ada", price=price, max_attempts=2, batch={} if batch else None)
        first = build(workspace, asked, FREE)
        cost = "SELECT sum(cost_usd) AS usd FROM responses"
        failed = rows(workspace, cost)[0]["usd"]
        assert by_status(workspace) == {"failed": 25} and failed > 0 and first.run.cost_usd == failed
        assert first.run.teachers[0].prompt_tokens == failed
        build(workspace, asked, FREE)
    assert by_status(workspace) == {"ok": 25}
    assert rows(workspace, cost)[0]["usd"] == failed * 1.5  # three requests in all


@pytest.mark.parametrize("batch", [False, True])
def test_a_limit_of_the_cost_holds_where_tokens_are_not_reported(
    workspace: Workspace, batch: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builders.sandbox.wire.Completion._usage", lambda _: None)
    dear = Price(prompt_per_million=0, completion_per_million=1e6)
    with SandboxServer() as sandbox:
        asked = teachers(
            sandbox, "ada", price=dear, max_concurrency=1, params={"max_tokens": 100}, batch={} if batch else None
        )
        summary = build(workspace, asked, FREE, Settings(max_cost_usd=450))
        assert sandbox.stats()["received"] == 5  # 100 dollars each at most
    assert summary.charged_usd == 500 and summary.run.cost_usd is None and summary.exit_code == 1
    assert "may cost 450 US dollars (5 replies came without a count of their tokens" in summary.advice[0]
    assert rows(workspace, "SELECT count(cost_usd) AS n FROM responses") == [{"n": 0}]


@pytest.mark.parametrize("way", ["json_schema", "structured_outputs"])
def test_answers_as_json_are_read(way: str, workspace: Workspace) -> None:
    gold = {q["question"]: q["answer"] for q in workspace.read_questions().to_pylist()}
    asked: list[dict[str, Any]] = []

    async def obedient(request: web.Request) -> web.Response:
        body = await request.json()
        asked.append(body)
        answer = next(a for q, a in gold.items() if q in body["messages"][-1]["content"])
        said = {"rationale": "First this.\nThen that.", "result": answer}
        message = {"content": orjson.dumps(said).decode()}
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})

    with Stub(obedient) as url:
        build(workspace, [Teacher(id="t", model="m", base_url=url, structured=way)], FREE)
    told = rows(workspace, "SELECT DISTINCT rationale, answer_status, is_correct FROM responses")
    assert told == [{"rationale": "First this.\nThen that.", "answer_status": "read", "is_correct": True}]
    schemas = [
        b["response_format"]["json_schema"]["schema"] if way == "json_schema" else b["structured_outputs"]["json"]
        for b in asked
    ]
    assert {tuple(s["properties"]) for s in schemas} == {("rationale", "result")}
    assert any(set(s["properties"]["result"].get("enum", "")) >= {"A", "B"} for s in schemas)


def test_prices_come_from_the_list_only_for_the_provider_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = types.ModuleType("genai_prices")

    def calc_price(usage: dict[str, int], model: str, *, provider_api_url: str) -> types.SimpleNamespace:
        if model != "gpt" or "api.openai.com" not in provider_api_url:
            raise LookupError(model)
        return types.SimpleNamespace(
            total_price=Decimal(usage.get("input_tokens", 0) + 4 * usage.get("output_tokens", 0))
        )

    vars(listed).update(Usage=dict, calc_price=calc_price)
    monkeypatch.setitem(sys.modules, "genai_prices", listed)
    _listed.cache_clear()
    openai = Teacher(id="t", model="gpt", base_url="https://api.openai.com/v1")
    assert priced(openai).price == Price(prompt_per_million=1e6, completion_per_million=4e6)
    own = Price(prompt_per_million=1, completion_per_million=1)
    assert priced(openai.model_copy(update={"price": own})).price == own
    assert priced(openai.model_copy(update={"model": "other"})).price is None
    assert priced(Teacher(id="t", model="gpt", base_url="http://127.0.0.1/v1")).price is None
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    _listed.cache_clear()
    assert priced(openai).price is None
    _listed.cache_clear()


class Stub:
    """A server of one handler for all of /v1, in a thread."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def __enter__(self) -> str:
        import threading

        ready = threading.Event()

        async def serve() -> None:
            app = web.Application()
            app.router.add_route("*", "/v1/{rest:.*}", self._handler)
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self._port = runner.addresses[0][1]
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            ready.set()
            await self._stop.wait()
            await runner.cleanup()

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()))
        self._thread.start()
        ready.wait()
        return f"http://127.0.0.1:{self._port}/v1"

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


def test_both_transports_give_the_same_rows(tmp_path: Path) -> None:
    volatile = ("latency_ms", "created_at")
    found = []
    for transport in ("lean", "openai"):
        workspace = make(tmp_path / transport)
        kinds = {"ada": "truncation", "bo": "refusal", "cy": "empty"}
        faults = [Fault(kind=kind, teacher=name, first=9) for name, kind in kinds.items()]
        with SandboxServer(faults=faults) as sandbox:
            asked = teachers(sandbox, transport=transport, max_attempts=1, max_concurrency=1, params={"logprobs": True})
            build(workspace, asked, FREE)
        found.append([{k: v for k, v in r.items() if k not in (*volatile, "request_hash")} for r in rows(workspace)])
    assert len(found[0]) == 100 and found[0] == found[1]
    assert any(r["mean_logprob"] for r in found[0]) and any(r["reasoning"] for r in found[0])


def test_replicas_share_the_load_and_one_may_be_dead(workspace: Workspace) -> None:
    with SandboxServer(latency_ms=20) as one, SandboxServer(latency_ms=20) as two, socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        urls = (one.url, two.url, f"http://127.0.0.1:{dead.getsockname()[1]}/v1")
        asked = Teacher(id="ada", model="sandbox/ada", base_url=urls, max_attempts=20)
        build(workspace, [asked], FREE)
        assert min(one.stats()["received"], two.stats()["received"]) >= 5
    assert by_status(workspace) == {"ok": 25}


def test_the_replica_with_the_fewest_in_flight_is_asked(workspace: Workspace) -> None:
    with SandboxServer(latency_ms=10) as quick, SandboxServer(latency_ms=1000) as slow:
        asked = Teacher(id="ada", model="sandbox/ada", base_url=(slow.url, quick.url), max_concurrency=3)
        build(workspace, [asked], FREE)
        assert slow.stats()["received"] <= 6 and quick.stats()["received"] >= 19


def test_teacher_forced_rows_are_marked_and_not_graded(workspace: Workspace) -> None:
    with SandboxServer() as sandbox:
        build(workspace, teachers(sandbox, "ada"), Prompt.load("teacher-forced"))
    assert all(r["gold_shown"] and r["is_correct"] is None for r in rows(workspace))


def test_a_prompt_that_cannot_ask_every_question_asks_none(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "ws")
    unlabelled = [q | {"answer": None} if i == 7 else q for i, q in enumerate(questions(10).to_pylist())]
    with workspace.lock():
        workspace.write_questions(pa.Table.from_pylist(unlabelled, schema=QUESTIONS.arrow))
    with SandboxServer() as sandbox:
        with pytest.raises(InputError, match=unlabelled[7]["question_id"]):
            build(workspace, teachers(sandbox, "ada"), Prompt.load("teacher-forced"))
        assert sandbox.stats()["received"] == 0
        build(workspace, teachers(sandbox, "ada"), FREE)
    assert sum(r["is_correct"] is None for r in rows(workspace)) == 1


def test_a_question_that_cannot_be_asked_costs_no_reply_in_flight(workspace: Workspace, tmp_path: Path) -> None:
    odd = [q | {"context": "odd" if i == 20 else None} for i, q in enumerate(questions(25).to_pylist())]
    with workspace.lock():
        workspace.write_questions(pa.Table.from_pylist(odd, schema=QUESTIONS.arrow))
    template = tmp_path / "own.jinja"
    template.write_text("{{ question }} {% if context %}{{ context.no.such }}{% endif %}")
    with SandboxServer(latency_ms=1500) as sandbox:
        with pytest.raises(InputError, match=f"prompt 'own', question '{odd[20]['question_id']}'"):
            build(workspace, teachers(sandbox, "ada bo"), Prompt.load(str(template)))
        received = sandbox.stats()["received"]
    with Journal(own_file(workspace)) as journal:
        assert journal.rows("SELECT count(*) FROM answers") == [(received,)]
    assert received >= 20


def test_retry_with_more_tokens_asks_the_cut_rows_and_later_builds_keep_it(workspace: Workspace) -> None:
    with SandboxServer() as sandbox:
        asked = teachers(sandbox, "ada bo", params={"max_tokens": 45})
        build(workspace, asked, FREE)
        cut = by_status(workspace)["truncated"]
        assert 0 < cut < 50
        retry(workspace, asked, FREE, where="finish_reason = 'length'", max_tokens=2048)
        assert sandbox.stats()["received"] == 50 + cut and by_status(workspace) == {"ok": 50}
        build(workspace, asked, FREE)
        assert sandbox.stats()["received"] == 50 + cut and by_status(workspace) == {"ok": 50}
        limits = rows(
            workspace, "SELECT params->>'max_tokens' AS n, count(*) AS c FROM responses GROUP BY ALL ORDER BY c"
        )
        assert {r["n"]: r["c"] for r in limits} == {"2048": cut, "45": 50 - cut}


def test_retry_asks_only_what_fits_and_keeps_the_old_answer_where_none_comes(workspace: Workspace) -> None:
    with SandboxServer() as sandbox:
        asked = teachers(sandbox, "ada bo")
        build(workspace, asked, FREE)
        retry(workspace, asked, FREE, where="teacher_id = 'bo' AND NOT is_correct")
        wrong = rows(workspace, "SELECT count(*) AS n FROM responses WHERE teacher_id = 'bo' AND NOT is_correct")
        assert sandbox.stats()["received"] == 50 + wrong[0]["n"]
        for where, said in [
            ("status = 'failed'", "nothing to ask again"),
            ("no_such = 1", "no_such"),
            ("1); DROP TABLE x; --", "SQL|SELECT"),
        ]:
            with pytest.raises(InputError, match=said):
                retry(workspace, asked, FREE, where=where)
        changed = [t.model_copy(update={"revision": "2"}) for t in asked]
        with pytest.raises(InputError, match="recipe has changed"):
            retry(workspace, changed, FREE, where="true")
    before = rows(workspace)
    with SandboxServer(faults=[Fault(kind="empty")], port=int(asked[0].endpoint.split(":")[2][:-3])):
        one = [t.model_copy(update={"max_attempts": 1}) for t in asked]
        retry(workspace, one, FREE, where="teacher_id = 'bo'")
    assert rows(workspace) == before


def test_estimate_and_status_count_what_is_missing(workspace: Workspace) -> None:
    price = {"prompt_per_million": 1.0, "completion_per_million": 10.0}
    with SandboxServer(faults=[Fault(kind="empty", teacher="bo", first=3)]) as sandbox:
        asked = [*teachers(sandbox, "ada", price=price), *teachers(sandbox, "bo", max_attempts=1)]
        before = estimate(workspace, asked, FREE)
        assert [e.requests for e in before] == [25, 25] and before[0].completion_tokens == 25 * 2048
        assert before[0].cost_usd == pytest.approx((before[0].prompt_tokens + 10 * 25 * 2048) / 1e6)
        assert before[1].cost_usd is None
        assert [r.statuses for r in status(workspace, asked, FREE)] == [{"missing": 25}] * 2
        summary = build(workspace, asked, FREE)
        assert [e.requests for e in estimate(workspace, asked, FREE)] == [0, 3]
        found = status(workspace, asked, FREE)
    assert [r.statuses for r in found] == [{"ok": 25}, {"ok": 22, "failed": 3}]
    assert found[1].errors == {"empty": 3}
    due = "sum(prompt_tokens + 10 * completion_tokens) / 1e6"
    spent = rows(workspace, f"SELECT sum(cost_usd) AS usd, {due} AS due FROM responses WHERE teacher_id = 'ada'")[0]
    assert spent["usd"] == pytest.approx(spent["due"])
    assert summary.run.teachers[0].cost_usd == pytest.approx(spent["due"])
    assert summary.run.teachers[1].cost_usd is None and summary.run.cost_usd is None


def test_limits_stop_cleanly_and_the_next_build_goes_on(workspace: Workspace) -> None:
    with SandboxServer() as sandbox:
        asked = teachers(sandbox, price={"prompt_per_million": 1.0, "completion_per_million": 1.0}, max_concurrency=2)
        summary = build(workspace, asked, FREE, Settings(max_requests=30))
        assert sandbox.stats()["received"] == 30
        assert summary.exit_code == 1 and "may send 30 requests" in summary.advice[0]
        assert by_status(workspace) == {"ok": 30, "failed": 70}
        assert {r["error_class"] for r in rows(workspace)} == {None, "not_asked"}
        cheap = build(workspace, asked, FREE, Settings(max_cost_usd=0.0005))
        assert 0.0005 <= (cheap.run.cost_usd or 0) < 0.0015
        assert build(workspace, asked, FREE).exit_code == 0
        assert sandbox.stats()["received"] == 100
        unpriced = [t.model_copy(update={"price": None}) for t in asked]
        with pytest.raises(InputError, match="give a price"):
            build(workspace, unpriced, FREE, Settings(max_cost_usd=1))
    assert by_status(workspace) == {"ok": 100}


def test_two_runs_on_one_workspace_are_told(workspace: Workspace) -> None:
    with SandboxServer() as sandbox, workspace.lock(), pytest.raises(WorkspaceError, match="another run"):
        build(Workspace(workspace.path), teachers(sandbox, "ada"), FREE)


def test_a_full_disk_is_one_sentence_and_the_next_build_goes_on(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builders import journal

    connect = journal.sqlite3.connect

    def tight(*given: Any, **named: Any) -> Any:
        db = connect(*given, **named)
        db.execute("PRAGMA max_page_count = 18")
        return db

    with SandboxServer(latency_ms=3) as sandbox:
        with monkeypatch.context() as patch:
            patch.setattr(journal.sqlite3, "connect", tight)
            with pytest.raises(WorkspaceError, match="disk is full"):
                build(workspace, teachers(sandbox, max_concurrency=2), FREE)
        kept = sum(r.statuses["ok"] for r in status(workspace, teachers(sandbox), FREE))
        assert 0 < kept < 100
        before = sandbox.stats()["received"]
        assert build(workspace, teachers(sandbox), FREE).exit_code == 0
        assert sandbox.stats()["received"] == before + 100 - kept
    assert by_status(workspace) == {"ok": 100}


def test_a_full_disk_under_the_rows_leaves_the_old_ones(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with SandboxServer() as sandbox:
        build(workspace, teachers(sandbox, "ada"), FREE)
        before = rows(workspace)
        with workspace.lock():
            workspace.write_questions(questions(30))
        with monkeypatch.context() as patch, pytest.raises(WorkspaceError, match="disk is full"):
            patch.setattr(pq.ParquetWriter, "write_table", full)
            build(workspace, teachers(sandbox, "ada"), FREE)
        assert rows(workspace) == before
        build(workspace, teachers(sandbox, "ada"), FREE)
        assert sandbox.stats()["received"] == 30
    assert by_status(workspace) == {"ok": 30}


CHILD = """
import sys
from builders.build import build
from builders.prompt import Prompt
from builders.teacher import Price, Teacher
from schemas.workspace import Workspace
folder, url, *names = sys.argv[1:]
teachers = [Teacher(id=n, model="sandbox/" + n, base_url=url) for n in names]
raise SystemExit(build(Workspace.open(folder), teachers, Prompt.load("free")).exit_code)
"""


def start(workspace: Workspace, sandbox: SandboxServer) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", CHILD, str(workspace.path), sandbox.url, "ada", "bo", "cy", "dee"]
    return subprocess.Popen(command, cwd=ROOT)


def wait_for(sandbox: SandboxServer, received: int, process: subprocess.Popen[bytes]) -> None:
    while sandbox.stats()["received"] < received and process.poll() is None:
        time.sleep(0.002)


def test_kill_9_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    workspace = make(tmp_path / "ws", 200)
    with SandboxServer(latency_ms=20) as sandbox:
        for target in (100, 350, 700):
            process = start(workspace, sandbox)
            wait_for(sandbox, target, process)
            process.kill()
            process.wait()
        time.sleep(0.2)  # what was on the wire reaches the server
        before = sandbox.stats()["received"]
        missing = sum(r.statuses["missing"] for r in status(workspace, teachers(sandbox), FREE))
        assert build(workspace, teachers(sandbox), FREE).exit_code == 0
        assert sandbox.stats()["received"] - before == missing < 600
        assert sandbox.stats()["received"] <= 800 + 3 * 256
    assert by_status(workspace) == {"ok": 800}


def test_an_interrupt_keeps_what_arrived_and_writes_rows(tmp_path: Path) -> None:
    workspace = make(tmp_path / "ws", 200)
    with SandboxServer(latency_ms=40) as sandbox:
        for signum, target in ((signal.SIGINT, 200), (signal.SIGTERM, 500)):
            process = start(workspace, sandbox)
            wait_for(sandbox, target, process)
            os.kill(process.pid, signum)
            assert process.wait() == 130
            received = sandbox.stats()["received"]
            assert by_status(workspace) == {"ok": received, "failed": 800 - received}
        assert build(workspace, teachers(sandbox), FREE).exit_code == 0
        assert sandbox.stats()["received"] == 800


def test_a_build_runs_inside_a_notebook(workspace: Workspace) -> None:
    async def cell() -> int:
        return build(workspace, teachers(sandbox, "ada"), FREE).exit_code

    with SandboxServer() as sandbox:
        assert asyncio.run(cell()) == 0


def test_an_interrupted_cell_of_a_notebook_keeps_what_arrived(workspace: Workspace) -> None:
    heard = threading.Event()

    def interrupt(now: Snapshot) -> None:
        if now.teachers[0].answered and not heard.is_set():
            heard.set()
            os.kill(os.getpid(), signal.SIGINT)

    async def cell() -> BuildSummary:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # as a notebook has it
        return build(workspace, [teacher], FREE, on_progress=interrupt)

    with SandboxServer(latency_ms=40) as sandbox:
        (teacher,) = teachers(sandbox, "ada", max_concurrency=1)
        summary = asyncio.run(cell())
        received = sandbox.stats()["received"]
    assert summary.exit_code == 130 and 0 < received < 25
    assert by_status(workspace) == {"ok": received, "failed": 25 - received}


# How replies are judged


def completion(message: dict[str, Any], finish: str | None = "stop", **more: Any) -> bytes:
    return orjson.dumps({"choices": [{"message": message, "finish_reason": finish}], **more})


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (completion({"content": "yes"}), "ok"),
        (completion({"content": "ye"}, "length"), "truncated"),
        (completion({"content": None}, "length"), "truncated"),
        (completion({"content": "no"}, "content_filter"), "refused"),
        (completion({"content": None, "refusal": "I will not"}), "refused"),
        (completion({"content": " \n"}), "empty"),
        (completion({"content": "<think>hm</think>"}), "empty"),
        (completion({"content": None, "reasoning_content": "hm"}), "empty"),
        (completion({"content": ["yes"]}), "malformed"),
        (completion({"content": [{"type": "thinking", "thinking": "hm"}]}), "empty"),
        (completion({"content": [{"type": "text", "text": "yes"}]}), "ok"),
        (completion({"content": "half a"}, "error"), "server"),
        (completion({"content": "half a"}, "abort"), "server"),
        (completion({"content": "yes"}, None), "ok"),
        (b'{"error": {"code": 429, "message": "busy"}}', "rate_limit"),
        (b'{"error": {"code": "502", "message": "gone"}}', "server"),
        (b'{"error": {"code": "invalid_prompt", "message": "no"}}', "malformed"),
        (b"\xef\xbb\xbf" + completion({"content": "yes"}), "ok"),
        (completion({"content": "yes"}, usage=[]), "ok"),
        (completion({"content": "yes"}).replace(b'"yes"', b'"yes", "score": NaN'), "ok"),
        (b"[" * 100_000, "malformed"),
        (completion({"content": "yes"}).decode().encode("utf-16"), "malformed"),
        (b'{"choices": []}', "malformed"),
        (b'{"choices": [{"message"', "malformed"),
        (b"<html>", "malformed"),
        (b"", "malformed"),
        (b"[]", "malformed"),
    ],
)
def test_bodies_are_judged(body: bytes, expected: str) -> None:
    judged = judge(Answer(200, {}, body))
    assert (judged.status if isinstance(judged, Reply) else judged.error_class) == expected


@pytest.mark.parametrize(
    ("reported", "read"),
    [(7, 7), (7.0, 7), (7.5, None), ("7", None), (True, None), (-1, None), (2**53, None), (2**63, None), (1e400, None)],
)
def test_odd_counts_of_tokens_are_unknown_and_cost_no_reply(reported: Any, read: int | None) -> None:
    body = json.dumps({"choices": [{"message": {"content": "yes"}}], "usage": {"prompt_tokens": reported}})
    judged = judge(Answer(201, {}, body.encode()))
    assert isinstance(judged, Reply) and judged.prompt_tokens == read


def test_half_a_surrogate_pair_costs_its_character_alone() -> None:
    found = read_completion(completion({"content": "a XX b"}).replace(b"XX", rb"\ud83d"))
    assert found is not None and found.text == "a \ufffd\ufffd\ufffd b"
    odd = read_completion(b'{"choices": [{"message": {"content": "a"}, "logprobs": {"content": [{"logprob": NaN}]}}]}')
    assert odd is not None and odd.text == "a" and odd.mean_logprob is None


@pytest.mark.parametrize(
    ("status_code", "expected"),
    [
        (400, "bad_request"),
        (422, "bad_request"),
        (401, "auth"),
        (402, "payment"),
        (403, "auth"),
        (404, "not_found"),
        (429, "rate_limit"),
        (500, "server"),
        (503, "server"),
    ],
)
def test_http_errors_are_judged(status_code: int, expected: str) -> None:
    judged = judge(Answer(status_code, {"Retry-After": "2.5"}, b'{"error": {"message": "too bad"}}'))
    assert isinstance(judged, Failure) and judged.error_class == expected and "too bad" in judged.message
    assert judged.overload == (status_code in (429, 503)) and judged.retry_after_s == 2.5


@pytest.mark.parametrize(
    ("message", "more", "expected"),
    [
        ({"content": "yes", "reasoning": "hm"}, {}, ("hm", None, None)),  # vLLM, OpenRouter, Ollama
        ({"content": "yes", "reasoning_content": "hm"}, {}, ("hm", None, None)),  # SGLang, llama.cpp, DeepSeek
        ({"content": "yes", "reasoning": "hm", "reasoning_content": "hm "}, {}, ("hm", None, None)),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "yes"},
                ]
            },
            {},
            ("hm", None, None),
        ),  # Mistral
        ({"content": "yes", "reasoning": None, "tool_calls": []}, {"usage": None}, (None, None, None)),
        ({"content": "yes"}, {"usage": {"prompt_tokens": 3, "completion_tokens": None}}, (None, 3, None)),
        ({"content": "yes"}, {"choices_logprobs": {"content": [{"logprob": -1}, {"logprob": -3}]}}, (None, None, -2)),
        ({"content": "yes"}, {"choices_logprobs": {"token_logprobs": [-1.0]}}, (None, None, None)),  # older servers
        ({"content": "yes"}, {"choices_logprobs": [-1.0]}, (None, None, None)),
        ({"content": "yes"}, {"choices_logprobs": {"content": [{"logprob": None}]}}, (None, None, None)),
    ],
)
def test_the_ways_of_several_servers_are_read(message: Any, more: Any, expected: tuple[Any, ...]) -> None:
    choice = {"message": message, "finish_reason": "stop", "logprobs": more.pop("choices_logprobs", None)}
    read = read_completion(orjson.dumps({"choices": [choice], **more}))
    assert read is not None and read.text == "yes" and read.status == "ok"
    assert (read.reasoning, read.prompt_tokens, read.mean_logprob) == expected


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "too long"}}', "too long"),  # OpenAI, llama.cpp
        (b'{"message": "too long", "object": "error"}', "too long"),  # vLLM
        (b'{"error": "too long", "error_type": "validation"}', "too long"),  # TGI, Ollama
        (b'{"detail": "too long"}', "too long"),  # FastAPI
        (b"too long", "too long"),
        (b"", "empty body"),
    ],
)
def test_error_bodies_of_several_servers_are_told(body: bytes, said: str) -> None:
    judged = judge(Answer(400, {}, body))
    assert isinstance(judged, Failure) and said in judged.message and judged.error_class == "bad_request"


def test_retry_after_is_read_in_each_form() -> None:
    from datetime import UTC, datetime, timedelta
    from email.utils import format_datetime

    def asks(headers: dict[str, str]) -> float | None:
        judged = judge(Answer(429, headers, b""))
        assert isinstance(judged, Failure)
        return judged.retry_after_s

    assert asks({"retry-after-ms": "1500", "Retry-After": "2"}) == 1.5
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 55 < (asks({"Retry-After": later}) or 0) <= 60
    assert asks({"Retry-After": "soon"}) is None and asks({}) is None and asks({"Retry-After": "nan"}) is None


@pytest.mark.parametrize("transport", ["lean", "openai"])
def test_a_key_and_a_version_go_where_azure_wants_them(
    workspace: Workspace, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_KEY", "azure-secret-1")
    seen = set()

    async def deployment(request: web.Request) -> web.Response:
        seen.add((request.headers.get("api-key"), request.query_string, "Bearer azure" in str(request.headers)))
        return web.json_response({"choices": [{"message": {"content": "The answer is (A)."}, "finish_reason": "stop"}]})

    with Stub(deployment) as url:
        asked = Teacher(
            id="t",
            model="gpt",
            base_url=f"{url}/?api-version=2024-10-21",
            api_key="${AZURE_KEY}",
            api_key_header="api-key",
            transport=transport,
        )
        build(workspace, [asked], FREE)
    assert by_status(workspace) == {"ok": 25}
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        there = f"http://127.0.0.1:{gone.getsockname()[1]}/v1"
        away = asked.model_copy(update={"id": "u", "revision": "2", "base_url": (f"{there}?api-version=2024-10-21",)})
        summary = build(workspace, [away], FREE, Settings(patience_s=0.2))
    assert there in summary.advice[0] and "2024-10-21" not in summary.advice[0]
    assert {(key, query) for key, query, _ in seen} == {("azure-secret-1", "api-version=2024-10-21")}


def test_teachers_behind_one_url_share_its_places(workspace: Workspace) -> None:
    busy = most = 0

    async def slow(request: web.Request) -> web.Response:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0.02)
        busy -= 1
        return web.json_response({"choices": [{"message": {"content": "The answer is (A)."}, "finish_reason": "stop"}]})

    with Stub(slow) as url:
        build(workspace, [Teacher(id=n, model=n, base_url=url, max_concurrency=5) for n in ("a", "b", "c")], FREE)
    assert most == 5 and by_status(workspace) == {"ok": 75}


@pytest.mark.parametrize(
    ("content", "reasoning", "text"),
    [
        ("plain", None, "plain"),
        ("<think>a\nb</think>\nc", "a\nb", "c"),
        ("a</think>c", "a", "c"),
        ("<think>cut short", "cut short", ""),
        ("I think <think> is a tag", None, "I think <think> is a tag"),
    ],
)
def test_thinking_is_kept_apart(content: str, reasoning: str | None, text: str) -> None:
    assert split_reasoning(content) == (reasoning, text)


# Flow control, on a clock of its own


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def simulate(gate: Gate, clock: Clock, capacity: int, refuse: float = 0.0, hard: int | None = None) -> int:
    """Run a server of fixed capacity for a while; return the limit that the gate settles at."""
    import random

    draw = random.Random(0)

    async def main() -> None:
        for _ in range(400):
            tickets = []
            while gate.in_flight < int(gate.limit):
                tickets.append(await gate.enter(asyncio.Event()))
            clock.now += max(1.0, len(tickets) / capacity) * 0.1
            for i, ticket in enumerate(tickets):
                refused = draw.random() < refuse or (hard is not None and i >= hard)
                gate.leave(ticket, overload=refused)

    asyncio.run(main())
    return int(gate.limit)


def test_concurrency_grows_to_what_the_server_can_do_and_no_further() -> None:
    clock = Clock()
    assert simulate(Gate(1000, clock), clock, capacity=300) in range(250, 700)
    clock = Clock()
    assert simulate(Gate(256, clock), clock, capacity=10_000) == 256
    clock = Clock()
    assert simulate(Gate(1000, clock), clock, capacity=20) <= 100


def test_refusals_that_do_not_depend_on_load_do_not_collapse_concurrency() -> None:
    clock = Clock()
    assert simulate(Gate(256, clock), clock, capacity=10_000, refuse=0.1) == 256


def test_refusals_beyond_a_hard_limit_cut_concurrency() -> None:
    clock = Clock()
    assert simulate(Gate(1000, clock), clock, capacity=10_000, hard=20) in range(8, 60)


def test_one_burst_of_refusals_is_one_cut() -> None:
    async def main() -> float:
        gate = Gate(96, Clock())
        tickets = [await gate.enter(asyncio.Event()) for _ in range(64)]
        for ticket in tickets:
            gate.leave(ticket, overload=True)
        return gate.limit

    assert asyncio.run(main()) == pytest.approx(64 * 2 / 3)


def test_pauses_grow_while_nothing_but_refusals_come_and_shrink_with_answers() -> None:
    async def main() -> list[float]:
        clock, ended, pauses = Clock(), asyncio.Event(), list[float]()
        gate = Gate(64, clock)
        for overload in (*[True] * 15, *[False] * 3, True):
            gate.leave(await gate.enter(ended), overload=overload)
            pauses.append(gate.pause_s)
            clock.now += gate.pause_s
        return pauses

    first = [0.0] * 9  # too few to tell from chance, then a cut
    assert asyncio.run(main()) == [*first, 1, 2, 4, 8, 16, 32, 0, 0, 0, 8]


def test_whoever_is_wrong_about_when_to_come_again_is_given_more_time() -> None:
    assert backoff_s(6, 0.0, Random(0)) == 0.0 and backoff_s(7, 0.0, Random(0)) >= 8
    assert backoff_s(5000, None, Random(0)) <= 30 and backoff_s(1, math.inf, Random(0)) <= 660


def test_a_budget_of_the_server_s_own_fails_no_row(workspace: Workspace) -> None:
    """Five a second, the others refused without a word of when to come again."""
    came: Counter[int] = Counter()

    async def at_most(request: web.Request) -> web.Response:
        came[int(time.monotonic())] += 1
        if came[int(time.monotonic())] > 5:
            return web.json_response({"error": {"message": "too many"}}, status=429)
        return web.json_response({"choices": [{"message": {"content": "The answer is (A)."}, "finish_reason": "stop"}]})

    with Stub(at_most) as url:
        build(workspace, [Teacher(id="t", model="m", base_url=url, max_attempts=2)], FREE)
    assert by_status(workspace) == {"ok": 25} and came.total() < 150


def test_a_server_that_only_refuses_is_given_up(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builders.ask.LONGEST_REST_S", 0.5)

    async def never(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "too many"}}, status=429)

    with Stub(never) as url:
        summary = build(workspace, [Teacher(id="t", model="m", base_url=url)], FREE)
    assert "has refused everything for" in summary.advice[0] and "HTTP 429: too many" in summary.advice[0]
    assert by_status(workspace) == {"failed": 25} and summary.exit_code == 1


def test_a_breaker_parks_probes_and_forgives() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(Breaker.TRIP - 1):
        breaker.failed("down")
    assert not breaker.parked
    breaker.failed("down")
    assert breaker.parked and breaker.probe_in() == 1.0
    clock.now = 1.0
    assert breaker.probe_in() == 0
    breaker.probing()
    assert breaker.probe_in() == 2.0
    breaker.succeeded()
    assert not breaker.parked and breaker.probe_in() == 0


def test_a_budget_per_minute_spreads_requests_and_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    slept: list[float] = []

    async def rest(seconds: float, _: asyncio.Event) -> None:
        slept.append(seconds)
        clock.now += seconds

    monkeypatch.setattr("builders.flow.rest", rest)

    async def main() -> None:
        pacer = Pacer(120, 6000, clock)
        for _ in range(3):
            await pacer.wait(asyncio.Event())
        pacer.used(1000)
        await pacer.wait(asyncio.Event())

    asyncio.run(main())
    assert slept == pytest.approx([0.5, 0.5, 10.0])


def test_every_mistake_of_a_user_is_ours_to_tell(workspace: Workspace) -> None:
    with pytest.raises(RaffinateError, match="no teacher"):
        build(workspace, [], FREE)
