"""The Batch API: the same rows and the same cache by another way; nothing is submitted or paid twice."""

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from helpers_cli import Cli
from test_builder import ROOT, by_status, make, rows

from builders import batch as batch_module
from builders.ask import Settings
from builders.batch_log import BatchLog, Submitted
from builders.batch_server import BatchServer, read_line
from builders.build import build, estimate, retry, status
from builders.client import Failure, Reply
from builders.journal import Answered, Journal, own_file
from builders.prompt import Prompt
from builders.requests import Plan
from builders.sandbox import Fault, SandboxServer
from builders.sandbox.batches import checked
from builders.teacher import Price, Teacher
from schemas.errors import RaffinateError
from schemas.workspace import Workspace

FREE = Prompt.load("free")
PRICE = Price(prompt_per_million=1, completion_per_million=2, batch_share=0.5)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make(tmp_path / "ws")


def teachers(sandbox: SandboxServer, names: str = "ada bo", **fields: Any) -> list[Teacher]:
    given = {"batch": True, "price": PRICE} | fields
    return [Teacher(id=n, model=f"sandbox/{n}", base_url=sandbox.url, **given) for n in names.split()]


def jobs(sandbox: SandboxServer) -> list[dict[str, Any]]:
    return [job.json() for job in sandbox._app.batches.jobs.values()]


def journal(workspace: Workspace) -> Journal:
    return Journal(own_file(workspace))


def test_rows_and_cache_are_those_of_the_online_way_at_half_the_price(tmp_path: Path) -> None:
    volatile = ("latency_ms", "created_at", "cost_usd", "error_message", "request_hash")
    found = []
    for batch in (True, False):
        workspace = make(tmp_path / str(batch), 12)
        kinds = {"ada": "truncation", "bo": "refusal", "cy": "empty"}
        faults = [Fault(kind=kind, teacher=name, first=9) for name, kind in kinds.items()]
        with SandboxServer(faults=faults) as sandbox:
            asked = teachers(sandbox, "ada bo cy dee", batch=batch, max_attempts=1, max_concurrency=1, samples=2)
            summary = build(workspace, asked, FREE, Settings(max_failed_share=0.5))
            other = teachers(sandbox, "ada bo dee", batch=not batch, samples=2)  # cy's empty replies are asked again
            assert sum(e.requests for e in estimate(workspace, other, FREE)) == 0
            assert sandbox.stats()["received"] == 96
        found.append({(r["teacher_id"], r["question_id"], r["sample_idx"]): r for r in rows(workspace)})
        paid = sum(r["cost_usd"] for r in found[-1].values())
        assert summary.run.cost_usd == pytest.approx(paid)
    assert len(found[0]) == 96
    for key, row in found[0].items():
        online = found[1][key]
        assert {k: row[k] for k in row if k not in volatile} == {k: online[k] for k in online if k not in volatile}
        assert row["cost_usd"] == pytest.approx(online["cost_usd"] / 2)


def test_files_keep_the_limits_and_one_model_each(workspace: Workspace) -> None:
    with SandboxServer() as sandbox:
        one = teachers(sandbox, batch={"max_requests": 10})
        build(workspace, one, FREE)
        assert Counter(job["request_counts"]["total"] for job in jobs(sandbox)) == {10: 4, 5: 2}
        small = teachers(sandbox, "cy", batch={"max_bytes": 4000})
        build(workspace, small, FREE)
        assert all(f.purpose != "batch" or len(f.content) <= 9000 for f in sandbox._app.batches.files.values())
        sizes = [len(f.content) for f in sandbox._app.batches.files.values() if b"sandbox/cy" in f.content[:2000]]
        assert len(sizes) > 3
    assert by_status(workspace) == {"ok": 75}
    assert not list((workspace.private / "batches").iterdir())


def test_a_file_of_several_megabytes_goes_up() -> None:
    import openai

    with SandboxServer() as sandbox, openai.OpenAI(base_url=sandbox.url, api_key="any") as client:
        assert client.files.create(file=("x.jsonl", bytes(3_000_000)), purpose="batch").bytes == 3_000_000


FAULTS = [
    Fault(kind="rate_limit", share=0.1),
    Fault(kind="server_error", share=0.05),
    Fault(kind="malformed", share=0.1),
    Fault(kind="empty", share=0.05),
    Fault(kind="expiry", share=0.05),
]


def test_only_failures_are_submitted_again(workspace: Workspace) -> None:
    with SandboxServer(faults=FAULTS) as sandbox:
        summary = build(workspace, teachers(sandbox, "ada bo cy dee"), FREE)
        faults = sum((Counter(t["faults"]) for t in sandbox.stats()["teachers"].values()), Counter())
        assert sandbox.stats()["received"] == 100 + faults.total()
        assert faults.keys() == {f.kind for f in FAULTS}
        assert {"expired", "completed"} == {job["status"] for job in jobs(sandbox)}
    assert by_status(workspace) == {"ok": 100} and summary.exit_code == 0
    assert sum(r["attempts"] for r in rows(workspace)) == 100 + faults.total()
    assert sum(t.repeats for t in summary.run.teachers) == faults.total()


def test_lasting_failures_are_rows_with_their_reason(workspace: Workspace) -> None:
    with SandboxServer(
        faults=[Fault(kind="expiry", teacher="ada"), Fault(kind="server_error", teacher="bo")]
    ) as sandbox:
        summary = build(workspace, teachers(sandbox, max_attempts=2), FREE)
        assert sandbox.stats()["received"] == 100 and len(jobs(sandbox)) == 4
    told = rows(workspace, "SELECT DISTINCT teacher_id, error_class, attempts FROM responses ORDER BY ALL")
    assert told == [
        {"teacher_id": "ada", "error_class": "expired", "attempts": 2},
        {"teacher_id": "bo", "error_class": "server", "attempts": 2},
    ]
    assert summary.exit_code == 1 and summary.rows[0].errors == {"expired": 25}


def test_a_cancelled_batch_keeps_what_it_answered(workspace: Workspace) -> None:
    with SandboxServer(batch_s=4) as sandbox:

        def cancel(_: object) -> None:
            for job in sandbox._app.batches.jobs.values():
                job.cancelled = job.cancelled or job.counts["completed"] > 5

        summary = build(workspace, teachers(sandbox, "ada"), FREE, on_progress=cancel)
        kept = summary.rows[0].statuses["ok"]
        assert 5 < kept < 25 and summary.rows[0].errors == {"cancelled": 25 - kept}
        sandbox._app.batches._seconds = 0
        assert build(workspace, teachers(sandbox, "ada"), FREE).exit_code == 0
        assert sandbox.stats()["received"] == 25
    assert by_status(workspace) == {"ok": 25}


def test_a_batch_that_fails_validation_says_why(workspace: Workspace) -> None:
    with SandboxServer() as sandbox:
        sandbox._app.batches._most = 10
        summary = build(workspace, teachers(sandbox, "ada"), FREE)
        assert sandbox.stats()["received"] == 0
    assert by_status(workspace) == {"failed": 25} and summary.exit_code == 1
    said = rows(workspace, "SELECT DISTINCT error_class AS c, error_message AS m FROM responses")
    assert said[0]["c"] == "bad_request" and "more than 10 lines" in said[0]["m"]


def test_a_full_queue_at_the_server_is_waited_for(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "FULL_PAUSE_S", 0.05)
    refused = iter([True, False])

    def full(lines: list[bytes], most: int) -> Any:
        if next(refused, False):
            return [], [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached", "line": None}]
        return checked(lines, most)

    monkeypatch.setattr("builders.sandbox.batches.checked", full)
    with SandboxServer() as sandbox:
        assert build(workspace, teachers(sandbox, "ada"), FREE).exit_code == 0
        assert [job["status"] for job in jobs(sandbox)] == ["failed", "completed"]
    assert by_status(workspace) == {"ok": 25}


def test_second_turns_make_up_the_next_batch(workspace: Workspace) -> None:
    with SandboxServer(faults=[Fault(kind="unread", teacher="ada")]) as sandbox:
        build(workspace, teachers(sandbox, "ada", follow_up=True), FREE)
        turns = rows(workspace, "SELECT count(follow_up) AS n FROM responses")[0]["n"]
        assert turns > 15 and [job["request_counts"]["total"] for job in jobs(sandbox)] == [25, turns]


def test_limits_hold_back_what_might_break_them(workspace: Workspace) -> None:
    with SandboxServer() as sandbox:
        asked = teachers(sandbox, "ada")
        summary = build(workspace, asked, FREE, Settings(max_requests=7))
        assert sandbox.stats()["received"] == 7 and "may send 7 requests" in summary.advice[0]
        spent = summary.run.cost_usd or 0
        summary = build(workspace, asked, FREE, Settings(max_cost_usd=spent))
        assert 0 < (summary.run.cost_usd or 0) < 1.5 * spent and summary.exit_code == 1
        assert build(workspace, asked, FREE).exit_code == 0
        assert sandbox.stats()["received"] == 25
    assert by_status(workspace) == {"ok": 25}


def test_retry_asks_in_a_batch_and_replaces(workspace: Workspace) -> None:
    with SandboxServer() as sandbox:
        asked = teachers(sandbox, "ada", params={"max_tokens": 40})
        build(workspace, asked, FREE)
        cut = by_status(workspace)["truncated"]
        retry(workspace, asked, FREE, max_tokens=2048)
        assert by_status(workspace) == {"ok": 25} and sandbox.stats()["received"] == 25 + cut
        retry(workspace, asked, FREE, where="NOT is_correct")
        wrong = rows(workspace, "SELECT count(*) AS n FROM responses WHERE NOT is_correct")[0]["n"]
        assert [job["request_counts"]["total"] for job in jobs(sandbox)] == [25, cut, wrong]


# A run that ends while batches are under way


CHILD = """
import os, signal, sys
from test_batch import FREE, Teacher, Workspace, build
from builders.batch_server import BatchServer
from builders.journal import Journal
where, url, folder = sys.argv[1:]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def after(method):
    async def wrapped(self, *given):
        await method(self, *given)
        die()
    return wrapped

if where == "before upload":
    BatchServer.upload = die
elif where in ("upload", "create"):
    setattr(BatchServer, where, after(getattr(BatchServer, where)))
elif where == "looking":
    BatchServer.look = die
elif where == "downloading":
    keep_all, calls = Journal.keep_all, iter(range(9))
    import builders.batch
    builders.batch.COMMIT = 5
    Journal.keep_all = lambda self, records: (keep_all(self, records), next(calls) == 2 and die())
teachers = [Teacher(id=n, model="sandbox/" + n, base_url=url, batch=True) for n in ("ada", "bo")]
raise SystemExit(build(Workspace.open(folder), teachers, FREE).exit_code)
"""


def start(where: str, workspace: Workspace, sandbox: SandboxServer) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", CHILD, where, sandbox.url, str(workspace.path)]
    return subprocess.Popen(command, env={"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"})


@pytest.mark.parametrize("where", ["before upload", "upload", "create", "looking", "downloading"])
def test_kill_9_at_each_step_submits_nothing_twice(workspace: Workspace, where: str) -> None:
    with SandboxServer() as sandbox:
        assert start(where, workspace, sandbox).wait() == -signal.SIGKILL
        left = jobs(sandbox)
        assert len(left) == {"before upload": 0, "upload": 0}.get(where, len(left)) and len(left) <= 2
        kept = sum(r.statuses["ok"] for r in status(workspace, teachers(sandbox), FREE))
        assert 0 < kept < 50 if where == "downloading" else kept == 0
        assert build(workspace, teachers(sandbox), FREE).exit_code == 0
        assert sandbox.stats()["received"] == 50 and len(jobs(sandbox)) == 2
    assert by_status(workspace) == {"ok": 50}
    with journal(workspace) as opened:
        assert not opened.rows("SELECT * FROM batch_requests") and not BatchLog(opened).open(sandbox.url, "sandbox/ada")


def test_an_interrupt_leaves_batches_to_the_server_and_any_next_build_collects_them(workspace: Workspace) -> None:
    with SandboxServer(batch_s=4) as sandbox:
        process = start("nowhere", workspace, sandbox)
        while len(jobs(sandbox)) < 2:
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        asked = teachers(sandbox)
        found = status(workspace, asked, FREE)
        assert [(f.statuses, f.batches[0].batch_id[:6], f.batches[0].requests) for f in found] == [  # type: ignore[index]
            ({"under_way": 25}, "batch_", 25)
        ] * 2
        told = rows(workspace, "SELECT DISTINCT error_class FROM responses")
        assert told == [{"error_class": "under_way"}]
        online = [t.model_copy(update={"batch": None}) for t in asked]
        summary = build(workspace, online, FREE)
        assert summary.exit_code == 0 and sandbox.stats()["received"] == 50
    assert by_status(workspace) == {"ok": 50} and summary.run.teachers[0].ok == 25


def test_a_batch_that_the_server_does_not_know_is_asked_again_by_the_next_build_only(workspace: Workspace) -> None:
    with SandboxServer() as sandbox:
        asked = teachers(sandbox, "ada")
        hashes = [r.hash for _, batch in Plan(workspace, asked[0], FREE).batches() for r in batch]
        with journal(workspace) as opened:
            log = BatchLog(opened)
            log.plan(Submitted("x", sandbox.url, "sandbox/ada", 25, 1, None), hashes)
            log.submitted("x", "batch_of_another_account")
        summary = build(workspace, asked, FREE)
        assert sandbox.stats()["received"] == 0 and summary.exit_code == 1
        assert "does not know batch batch_of_another_account of 25 requests" in summary.advice[0]
        assert "go on at the server" not in summary.advice[0]
        assert build(workspace, asked, FREE).exit_code == 0
        assert sandbox.stats()["received"] == 25
        with journal(workspace) as opened:
            assert opened.rows("SELECT ended FROM batches ORDER BY at_ms")[0] == ("unknown to the server",)


def test_a_download_that_breaks_off_is_begun_anew(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from aiohttp import web

    from builders.sandbox.batches import Batches

    one = Batches._one
    seen = Counter[str]()

    def breaking(self: Batches, method: str, found: Any, rest: list[str]) -> Any:
        if rest == ["content"]:
            seen[found.id] += 1
            if seen[found.id] == 1:
                cut = found.content[: len(found.content) // 2]
                return web.Response(body=cut, headers={"Content-Length": str(len(found.content))})
        return one(self, method, found, rest)

    monkeypatch.setattr(Batches, "_one", breaking)
    with SandboxServer() as sandbox:
        assert build(workspace, teachers(sandbox, "ada", timeout_s=3), FREE).exit_code == 0
        assert sandbox.stats()["received"] == 25 and max(seen.values()) == 2
    assert by_status(workspace) == {"ok": 25}


@pytest.mark.parametrize("fault", ["url", "key"])
def test_a_server_without_a_batch_api_or_key_is_one_sentence(workspace: Workspace, fault: str) -> None:
    with SandboxServer(api_key="sk-right" if fault == "key" else None) as sandbox:
        url = sandbox.url if fault == "key" else sandbox.url.replace("/v1", "/v2")
        asked = [Teacher(id="t", model="sandbox/ada", base_url=url, batch=True)]
        summary = build(workspace, asked, FREE)
    said = "has no Batch API" if fault == "url" else "refuses a request without api_key"
    assert summary.exit_code == 1 and said in summary.advice[0] and "'t'" in summary.advice[0]
    assert by_status(workspace) == {"failed": 25}


def test_a_lost_reply_to_create_does_not_submit_twice(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from builders.batch_server import Refused

    create, lost = BatchServer.create, iter([True])

    async def losing(self: BatchServer, *given: str) -> str:
        made = await create(self, *given)
        if next(lost, False):
            raise Refused(Failure("timeout", "no whole reply"))
        return made

    monkeypatch.setattr(BatchServer, "create", losing)
    with SandboxServer() as sandbox:
        assert build(workspace, teachers(sandbox, "ada"), FREE).exit_code == 0
        assert len(jobs(sandbox)) == 1


def test_lines_are_read_whatever_stands_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "sk-very-secret")
    teacher = Teacher(id="t", model="m", base_url="http://one/v1", api_key="${A_KEY}")

    def read(**item: Any) -> Any:
        return read_line(orjson.dumps(item), teacher)

    said = {"choices": [{"message": {"content": "sk-very-secret\u2028 yes"}, "finish_reason": "stop"}]}
    whole = read(custom_id="a", response={"status_code": 200, "body": said})
    assert whole.outcome.status == "ok" and b"sk-very" not in whole.outcome.body
    text = read(custom_id="a", response={"status_code": 200, "body": orjson.dumps(said).decode()})
    assert text == whole
    half = orjson.dumps({"custom_id": "a", "response": {"status_code": 200, "body": said}}).replace(b"yes", rb"\ud83d")
    odd = read_line(half, teacher)
    assert odd is not None and isinstance(odd.outcome, Reply)
    for status_code, kind in ((429, "rate_limit"), (400, "bad_request"), (500, "server")):
        error = {"status_code": status_code, "body": {"error": {"message": "too bad"}}}
        found = read(custom_id="a", response=error).outcome
        assert (found.error_class, "too bad" in found.message) == (kind, True)
    assert read(custom_id="a", error={"code": "batch_expired", "message": "late"}).outcome.error_class == "expired"
    assert read(custom_id="a", response=None, error=None).outcome.error_class == "server"
    for line in (b"", b"{", b"[]", b'{"response": {}}', b"null"):
        assert read_line(line, teacher) is None


def test_a_journal_of_before_is_brought_up_to_date(tmp_path: Path) -> None:
    import sqlite3

    from builders import journal as module

    path = tmp_path / "j.sqlite"
    with sqlite3.connect(path) as db:
        db.executescript(module._TABLES)
        db.execute("INSERT INTO answers VALUES ('a', 'ok', x'7b7d', 1, 1.5, 10, 20, 5)")
        db.execute("PRAGMA user_version = 1")
    db.close()
    with Journal(path) as opened:
        assert opened.find("a") == Answered("a", "ok", b"{}", 1, 1.5, 10, 20, 5, batched=False)
        assert BatchLog(opened).open("e", "m") == []


def test_a_served_teacher_has_no_batch_api() -> None:
    with pytest.raises((RaffinateError, ValueError), match="no Batch API"):
        Teacher.model_validate({"id": "t", "model": "m", "vllm": {}, "batch": True})


def test_from_the_command_line(tmp_path: Path, cli: Cli) -> None:
    recipe_file = tmp_path / "r.yaml"
    with SandboxServer(batch_s=8) as sandbox:
        recipe = {
            "workspace": "ws",
            "questions": {"sandbox": {"n": 10}},
            "teachers": [{"id": "ada", "model": "sandbox/ada", "base_url": sandbox.url}],
        }
        recipe_file.write_text(yaml.safe_dump(recipe))
        command = [sys.executable, "-m", "raffinate", "build", "r.yaml", "--batch", "--json"]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while not jobs(sandbox):
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 130 and "1 batches go on at the server" in out + err
        assert "10 rows are in batches under way: a new build looks for them" in out and "asks them" not in out
        found = cli("status", recipe_file, "--json").json[0]
        assert found["under_way"] == 10 and found["batches"][0]["requests"] == 10
        assert found["batches"][0]["batch_id"] == "batch_1"
        sandbox._app.batches._seconds = 0
        done = cli("build", recipe_file, "--batch", "--json")
        assert done.code == 0 and done.json["teachers"][0]["ok"] == 10
        assert sandbox.stats()["received"] == 10 and len(jobs(sandbox)) == 1
