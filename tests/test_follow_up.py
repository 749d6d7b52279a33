"""The second turn: where no answer can be read, it is asked for alone; both replies are kept, and nothing twice."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from test_builder import ROOT, Stub, rows

from builders.ask import Settings
from builders.build import build, estimate, retry, status
from builders.prompt import Prompt
from builders.requests import Plan
from builders.sandbox import Fault, SandboxServer, questions
from builders.teacher import Price, Teacher
from schemas.database import query
from schemas.errors import InputError
from schemas.workspace import Workspace

FREE = Prompt.load("free")
UNREAD = Fault(kind="unread", teacher="ada")
PRICE = Price(prompt_per_million=1e6, completion_per_million=1e6)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make(tmp_path / "ws")


def make(path: Path, n: int = 20) -> Workspace:
    """A workspace of choices and numbers: any text answers a question that asks for one."""
    workspace = Workspace.create(path)
    table = pa.Table.from_pylist([q for q in questions(2 * n).to_pylist() if q["task"] != "text"][:n])
    with workspace.lock():
        workspace.write_questions(table.cast(questions(1).schema))
    return workspace


def ada(url: str, **fields: Any) -> Teacher:
    return Teacher(id="ada", model="sandbox/ada", base_url=url, follow_up=True, price=PRICE, **fields)


def test_an_unread_reply_is_asked_for_its_answer_and_both_replies_are_kept(workspace: Workspace) -> None:
    with SandboxServer(faults=[UNREAD]) as sandbox:
        plain = build(workspace, [ada(sandbox.url).model_copy(update={"follow_up": False})], FREE)
        before = rows(workspace, "SELECT * FROM responses ORDER BY question_id")
        assert {(r["status"], r["answer_status"], r["follow_up"]) for r in before} == {("ok", "unread", None)}
        summary = build(workspace, [ada(sandbox.url)], FREE)
        assert sandbox.stats()["received"] == 40
        assert build(workspace, [ada(sandbox.url)], FREE).run.teachers[0].follow_ups == 0
        assert sandbox.stats()["received"] == 40
    after = rows(workspace, "SELECT * FROM responses ORDER BY question_id")
    for old, new in zip(before, after, strict=True):
        assert (new["raw_text"], new["rationale"], new["request_hash"], new["finish_reason"]) == (
            old["raw_text"],
            old["rationale"],
            old["request_hash"],
            "stop",
        )
        assert "The answer is" in new["follow_up"] and new["answer_status"] == "read" and new["attempts"] == 2
        assert new["prompt_tokens"] > 2 * old["prompt_tokens"] and new["completion_tokens"] > old["completion_tokens"]
        assert new["cost_usd"] == new["prompt_tokens"] + new["completion_tokens"]
        assert new["latency_ms"] > old["latency_ms"] and new["is_correct"] is not None and new["error_class"] is None
    asked = summary.run.teachers[0]
    assert (asked.cached, asked.answered, asked.follow_ups, asked.done) == (20, 0, 20, 20)
    assert asked.cost_usd == sum(r["cost_usd"] for r in after) - plain.run.cost_usd


def test_the_reply_stands_in_the_conversation_without_its_thoughts(workspace: Workspace) -> None:
    asked: list[dict[str, Any]] = []

    async def wavering(request: Any) -> Any:
        from aiohttp import web

        body = await request.json()
        asked.append(body)
        said = "I cannot say." if len(body["messages"]) == 1 else "The answer is (A)."
        message = {"content": f"<think>Hm, {len(body['messages'])}.</think>\n{said}"}
        return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})

    prompt = Prompt(
        "own", "{% block user %}{{ question }}{% endblock %}{% block follow_up %}So, {{ task }}?{% endblock %}"
    )
    with Stub(wavering) as url:
        build(workspace, [ada(url, max_concurrency=1, structured="json_schema")], prompt)
    second = [body for body in asked if len(body["messages"]) > 1]
    first = {body["messages"][0]["content"] for body in asked if len(body["messages"]) == 1}
    assert len(second) == 20 and {body["messages"][0]["content"] for body in second} == first
    assert {body["messages"][1]["content"] for body in second} == {"I cannot say."}
    assert {body["messages"][2]["content"] for body in second} <= {"So, choice?", "So, number?"}
    assert not any("response_format" in body for body in second)
    found = rows(workspace, "SELECT DISTINCT reasoning, follow_up FROM responses")
    assert found == [{"reasoning": "Hm, 1.\n\nHm, 3.", "follow_up": "<think>Hm, 3.</think>\nThe answer is (A)."}]


def test_the_option_leaves_the_first_request_as_it_was_and_the_second_has_its_own_name() -> None:
    question = questions(1).to_pylist()[0]
    plans = [Plan(Workspace("/nowhere"), t, FREE) for t in (ada("http://one/v1"), ada("http://one/v1", samples=2))]
    plain = Plan(Workspace("/nowhere"), ada("http://one/v1").model_copy(update={"follow_up": False}), FREE)
    first = next(plans[0].requests(question))
    assert first.hash == next(plain.requests(question)).hash
    seconds = [plans[1].second_turn(r, said) for r in plans[1].requests(question) for said in ("One.", "Two.")]
    assert len({first.hash, *(r.hash for r in seconds)}) == 5
    assert [r.turn for r in seconds] == [2] * 4
    roles = [m["role"] for m in orjson.loads(seconds[0].body)["messages"]]
    assert roles == ["user", "assistant", "user"]


def test_a_second_turn_that_fails_is_told_on_its_row_and_asked_by_the_next_build(workspace: Workspace) -> None:
    ends = Fault(kind="server_error", teacher="ada", match="So what is the answer")
    with SandboxServer(faults=[ends, UNREAD]) as sandbox:
        teacher = ada(sandbox.url, max_attempts=1, max_concurrency=8)
        summary = build(workspace, [teacher], FREE)
        assert summary.rows[0].statuses == {"ok": 20} and summary.rows[0].unfinished == 20
        assert "20 replies without an answer" in summary.advice[0] and summary.exit_code == 0
        told = rows(workspace, "SELECT DISTINCT status, error_class, follow_up, attempts FROM responses")
        assert told == [{"status": "ok", "error_class": "server", "follow_up": None, "attempts": 2}]
        assert status(workspace, [teacher], FREE)[0].unfinished == 20
        assert estimate(workspace, [teacher], FREE)[0].follow_ups == 20
        port = int(sandbox.url.split(":")[2].split("/")[0])
    with SandboxServer(faults=[UNREAD], port=port) as sandbox:
        assert build(workspace, [teacher], FREE).rows[0].unfinished == 0
        assert sandbox.stats()["received"] == 20
    assert status(workspace, [teacher], FREE)[0].unfinished == 0
    assert rows(workspace, "SELECT DISTINCT answer_status, error_class FROM responses") == [
        {"answer_status": "read", "error_class": None}
    ]


def test_limits_and_estimates_count_second_turns(workspace: Workspace) -> None:
    with SandboxServer(faults=[Fault(kind="unread", teacher="ada", first=12)]) as sandbox:
        teacher = ada(sandbox.url, max_concurrency=1)
        assert estimate(workspace, [teacher], FREE)[0].follow_ups == 0  # nothing is known of this teacher yet
        summary = build(workspace, [teacher], FREE, Settings(max_requests=15))
        assert sandbox.stats()["received"] == 15 and summary.exit_code == 1
        first = rows(workspace, "SELECT count(*) AS n FROM responses WHERE status = 'failed'")[0]["n"]
        left = estimate(workspace, [teacher], FREE)[0]
        assert left.requests == first + left.follow_ups and left.follow_ups > 0 and left.cost_usd is not None
        assert build(workspace, [teacher], FREE).exit_code == 0
        sums = "count(follow_up) AS turns, sum(cost_usd) AS usd, sum(prompt_tokens + completion_tokens)::INT AS tokens"
        found = rows(workspace, f"SELECT {sums} FROM responses")[0]
        assert found["turns"] > 0 and sandbox.stats()["received"] == 20 + found["turns"]
    assert found["usd"] == found["tokens"]


def test_a_retry_follows_its_new_reply_up(workspace: Workspace) -> None:
    with SandboxServer(faults=[Fault(kind="unread", teacher="ada", after=20)]) as sandbox:
        teacher = ada(sandbox.url, params={"max_tokens": 20})
        build(workspace, [teacher], FREE)
        cut = rows(workspace, "SELECT count(*) AS n FROM responses WHERE status = 'truncated'")[0]["n"]
        assert cut > 5
        retry(workspace, [teacher], FREE, max_tokens=500)
        assert sandbox.stats()["received"] == 20 + 2 * cut
        build(workspace, [teacher], FREE)
        assert sandbox.stats()["received"] == 20 + 2 * cut
    found = rows(workspace, "SELECT count(follow_up) AS n, min(answer_status) AS s FROM responses WHERE status = 'ok'")
    assert found == [{"n": cut, "s": "read"}]


CHILD = """
import sys
from test_follow_up import FREE, ada, build
from schemas.workspace import Workspace
raise SystemExit(build(Workspace.open(sys.argv[1]), [ada(sys.argv[2])], FREE).exit_code)
"""


def test_kill_9_between_the_turns_pays_nothing_twice(tmp_path: Path) -> None:
    workspace = make(tmp_path / "ws", 100)
    path = f"{ROOT}:{Path(__file__).parent}"
    with SandboxServer(faults=[UNREAD], latency_ms=20) as sandbox:
        for target in (60, 150):
            command = [sys.executable, "-c", CHILD, str(workspace.path), sandbox.url]
            process = subprocess.Popen(command, env={"PYTHONPATH": path})
            while sandbox.stats()["received"] < target and process.poll() is None:
                time.sleep(0.002)
            process.kill()
            process.wait()
        time.sleep(0.2)
        before, known = sandbox.stats()["received"], status(workspace, [ada(sandbox.url)], FREE)[0]
        assert known.statuses["missing"] + known.unfinished > 0
        assert build(workspace, [ada(sandbox.url)], FREE).exit_code == 0
        # each missing row is asked twice, each reply without its second turn once
        assert sandbox.stats()["received"] - before == 2 * known.statuses["missing"] + known.unfinished
    assert rows(workspace, "SELECT count(*) AS n, count(follow_up) AS f FROM responses") == [{"n": 100, "f": 100}]


def test_a_prompt_with_a_follow_up_and_no_question_is_told() -> None:
    with pytest.raises(InputError, match="no block user"):
        Prompt("own", "{% block follow_up %}So?{% endblock %}")


def test_files_of_before_the_column_are_read(workspace: Workspace) -> None:
    import pyarrow.parquet as pq

    with SandboxServer() as sandbox:
        build(workspace, [ada(sandbox.url)], FREE)
    for file in workspace.responses_dir("ada").glob("*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["follow_up"]), file)
    assert query(workspace, "SELECT count(*) AS n, count(follow_up) AS f FROM responses").to_pylist() == [
        {"n": 20, "f": 0}
    ]
