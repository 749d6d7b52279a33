"""Serving teachers ourselves: a real vLLM on the CPU with a tiny model, and a stand-in for what would take it long."""

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import vllm_env
import yaml
from pydantic import ValidationError

from builders import vllm_inside, vllm_server
from builders.ask import Settings
from builders.build import BuildSummary, build
from builders.endpoints import check_endpoints
from builders.journal import own_file
from builders.prompt import Prompt
from builders.requests import Plan
from builders.sandbox import questions
from builders.teacher import Teacher, Vllm
from builders.vllm_server import Gpus
from schemas.database import query
from schemas.workspace import Workspace

FREE = Prompt.load("free")


def make(path: Path, n: int) -> Workspace:
    workspace = Workspace.create(path)
    with workspace.lock():
        workspace.write_questions(questions(n))
    return workspace


def rows(workspace: Workspace, sql: str) -> list[dict[str, Any]]:
    return query(workspace, sql).to_pylist()


def log_of(workspace: Workspace, teacher: str) -> str:
    return (workspace.private / "logs" / f"vllm-{teacher}.log").read_text()


@pytest.fixture
def stand_in(tmp_path: Path) -> str:
    """An executable that takes vLLM's arguments and serves the sandbox."""
    return vllm_env.stand_in(tmp_path / "python")


def pids(workspace: Workspace, teacher: str) -> list[int]:
    return [int(line.split()[-1]) for line in log_of(workspace, teacher).splitlines() if line.startswith("start")]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_teacher_is_served_only_while_it_is_asked(tmp_path: Path, stand_in: str) -> None:
    workspace = make(tmp_path / "ws", 10)
    teacher = Teacher(id="ada", model="sandbox/ada", vllm=Vllm(python=stand_in, args=("--max-model-len", "99")))
    assert build(workspace, [teacher], FREE).exit_code == 0
    assert build(workspace, [teacher], FREE).exit_code == 0
    (pid,) = pids(workspace, "ada")  # the second build had nothing to ask, on whatever port
    assert not alive(pid)
    log = log_of(workspace, "ada")
    assert "'--model', 'sandbox/ada', '--host', '127.0.0.1'" in log and "'--max-model-len', '99'" in log


def test_teachers_that_share_gpus_are_served_one_after_another(tmp_path: Path, stand_in: str) -> None:
    workspace = make(tmp_path / "ws", 4)
    gpus = {"ada": (0, 1), "bo": (1,), "cy": (2,)}
    asked = [Teacher(id=n, model=f"sandbox/{n}", vllm=Vllm(python=stand_in, gpus=g)) for n, g in gpus.items()]
    assert build(workspace, asked, FREE).exit_code == 0
    assert "'--tensor-parallel-size', '2'" in log_of(workspace, "ada") and "gpus 0,1" in log_of(workspace, "ada")
    assert "tensor-parallel" not in log_of(workspace, "bo")
    free = Gpus()
    assert [free.take((0, 1)), free.take((1,)), free.take((2,)), free.take(None), free.take(())] == [1, 0, 1, 0, 1]
    free.give_back((0, 1))
    assert free.take((1,))


def test_a_server_tells_nobody_of_its_use_and_runs_no_code_of_a_model(tmp_path: Path) -> None:
    shows = tmp_path / "python"
    shows.write_text('#!/bin/sh\nenv | grep USAGE\necho "$@"\nexit 1\n')
    shows.chmod(0o755)
    workspace = make(tmp_path / "ws", 1)
    build(
        workspace, [Teacher(id="ada", model="sandbox/ada", vllm=Vllm(python=str(shows)))], FREE, Settings(patience_s=1)
    )
    log = log_of(workspace, "ada")
    assert "VLLM_NO_USAGE_STATS=1" in log and "--model sandbox/ada" in log and "trust-remote-code" not in log


def test_what_prevents_a_server_is_one_sentence_and_the_others_go_on(tmp_path: Path, stand_in: str) -> None:
    workspace = make(tmp_path / "ws", 3)
    vllms = {
        "ada": Vllm(python=stand_in, args=("--broken",)),
        "bo": Vllm(python=str(tmp_path / "none")),
        "cy": Vllm(python=stand_in),
    }
    asked = [Teacher(id=name, model=f"sandbox/{name}", vllm=spec) for name, spec in vllms.items()]
    summary = build(workspace, asked, FREE, Settings(patience_s=1))
    assert summary.exit_code == 1 and summary.rows[2].statuses == {"ok": 3}
    assert [dict(t.errors) for t in summary.rows[:2]] == [{"server": 3}] * 2
    told = " ".join(summary.advice)
    assert f"vLLM ended with code 1 before it was ready: see {workspace.private}/logs/vllm-ada.log" in told
    assert f"{tmp_path}/none cannot be run (No such file or directory)" in told


INSIDE = """#!{python}
import json, os, sys, time
print("start", time.time(), "pid", os.getpid(), file=sys.stderr, flush=True)
if "--none" in sys.argv:
    sys.exit(3)
print(json.dumps({{"ready": True}}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if "drop" in asked or "--deaf" in sys.argv:
        print(line, file=sys.stderr, flush=True)
        continue
    time.sleep(0.02)
    message = {{"role": "assistant", "content": "The answer is (A)."}}
    body = {{"choices": [{{"message": message, "finish_reason": "stop"}}]}}
    print(json.dumps({{"id": asked["id"], "status": 200, "body": body}}), flush=True)
    if "--frail" in sys.argv:
        sys.exit(1)
"""


@pytest.fixture
def inside(tmp_path: Path) -> str:
    """An executable that speaks as `builders.vllm_worker` does."""
    file = tmp_path / "inside"
    file.write_text(INSIDE.format(python=sys.executable))
    file.chmod(file.stat().st_mode | stat.S_IEXEC)
    return str(file)


def kept(workspace: Workspace) -> int:
    """Answers in the journal, also while a build fills it."""
    try:
        with sqlite3.connect(f"file:{own_file(workspace)}?mode=ro", uri=True) as journal:
            return int(journal.execute("SELECT count(*) FROM answers").fetchone()[0])
    except sqlite3.OperationalError:  # there is none yet
        return 0


def asked_while_signalled(workspace: Workspace, spec: Vllm, number: int) -> BuildSummary:
    """A build whose vLLM is sent a signal after its first answer, and is then started once more."""
    teacher = Teacher(id="ada", model="sandbox/ada", max_concurrency=4, vllm=spec)

    def send() -> None:
        while not kept(workspace):
            time.sleep(0.02)
        os.kill(pids(workspace, "ada")[0], number)

    sender = threading.Thread(target=send)
    sender.start()
    summary = build(workspace, [teacher], FREE)
    sender.join()
    assert len(pids(workspace, "ada")) == 2 and not any(map(alive, pids(workspace, "ada")))
    return summary


@pytest.mark.parametrize("in_process", [False, True])
def test_vllm_that_dies_is_started_again_and_no_row_is_lost(
    tmp_path: Path, stand_in: str, inside: str, in_process: bool
) -> None:
    workspace = make(tmp_path / "ws", 60)
    spec = Vllm(python=inside if in_process else stand_in, in_process=in_process, args=("--latency", "200"))
    summary = asked_while_signalled(workspace, spec, signal.SIGKILL)
    assert summary.exit_code == 0 and summary.rows[0].statuses == {"ok": 60}


def test_vllm_that_hangs_is_killed_and_started_again(
    tmp_path: Path, stand_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_server, "LOOK_S", 0.2)
    monkeypatch.setattr(vllm_server, "HANG_S", 1.0)
    workspace = make(tmp_path / "ws", 60)
    spec = Vllm(python=stand_in, args=("--latency", "200"))
    summary = asked_while_signalled(workspace, spec, signal.SIGSTOP)
    assert summary.exit_code == 0 and summary.rows[0].statuses == {"ok": 60}
    assert "no longer answers /health" in log_of(workspace, "ada")


def test_vllm_that_keeps_dying_is_given_up_and_the_others_go_on(tmp_path: Path, inside: str) -> None:
    workspace = make(tmp_path / "ws", 6)
    frail = Vllm(python=inside, in_process=True, gpus=(), args=("--frail",), restarts=1)
    sound = Vllm(python=inside, in_process=True, gpus=())
    asked = [Teacher(id=n, model=n, max_concurrency=1, vllm=v) for n, v in (("frail", frail), ("sound", sound))]
    summary = build(workspace, asked, FREE)
    assert len(pids(workspace, "frail")) == 2
    assert summary.exit_code == 1 and summary.rows[1].statuses == {"ok": 6}
    assert summary.rows[0].statuses["failed"] >= 4 and summary.rows[0].total == 6
    assert f"teacher 'frail': vLLM died 2 times: see {workspace.private}/logs/vllm-frail.log" in summary.advice


def test_what_prevents_vllm_in_process_is_one_sentence(tmp_path: Path, inside: str) -> None:
    workspace = make(tmp_path / "ws", 2)
    none = Teacher(id="none", model="m", vllm=Vllm(python=inside, in_process=True, gpus=(), args=("--none",)))
    deaf = Vllm(python=inside, in_process=True, gpus=(), args=("--deaf",))
    late = Teacher(id="late", model="n", vllm=deaf, timeout_s=0.5, max_attempts=3)
    summary = build(workspace, [none, late], FREE)
    assert f"{inside} has no vLLM: install raffinate[vllm] there" in " ".join(summary.advice)
    assert [dict(t.errors) for t in summary.rows] == [{"server": 2}, {"timeout": 2}]
    assert '"drop"' in log_of(workspace, "late")  # it need not go on with what nobody waits for


def test_the_server_is_no_part_of_a_requests_identity(tmp_path: Path) -> None:
    workspace = make(tmp_path / "ws", 1)

    def identity(**fields: Any) -> str:
        plan = Plan(workspace, Teacher(id="t", model="m", **fields), FREE)
        return next(r.hash for _, batch in plan.batches() for r in batch)

    assert identity(vllm={}) == identity(vllm={"in_process": True})
    assert identity(vllm={"port": 1}) == identity(vllm={"args": ["--swap-space", "1"]})
    assert identity(vllm={}) != identity(base_url="http://localhost/v1")
    assert identity(vllm={}) != identity(vllm={}, revision="2")
    for fields in ({}, {"vllm": {}, "base_url": "http://localhost/v1"}):
        with pytest.raises(ValidationError, match="give either base_url"):
            Teacher(id="t", model="m", **fields)


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Vllm:
    """A vLLM that can be started, skipped only where it cannot be installed."""
    try:
        python = vllm_env.environment()
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"vLLM cannot be installed here: {error}")
    return Vllm(python=str(python), gpus=(), args=vllm_env.ARGS, env=vllm_env.ENV, start_timeout_s=600)


@pytest.fixture(scope="session")
def model(real: Vllm, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(vllm_env.tiny_model(Path(real.python), tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def running(real: Vllm, model: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a vLLM that somebody else started."""
    with (tmp_path / "log").open("wb") as log:
        port = vllm_env.free_port()
        command = [real.python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--port", str(port)]
        served = [*command, "--host", "127.0.0.1", "--served-model-name", "tiny", *vllm_env.ARGS]
        env = os.environ | vllm_env.ENV
        process = subprocess.Popen(served, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        vllm_env.wait_until_healthy(url, process, 120)
        yield f"{url}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


TOLD = (
    "question_id, sample_idx, request_hash, status, finish_reason, prompt_tokens, completion_tokens, raw_text, "
    "rationale, predicted_answer, params"
)


@pytest.mark.timeout(1200)
def test_a_real_vllm_is_started_asked_and_stopped(real: Vllm, model: str, tmp_path: Path) -> None:
    workspace = make(tmp_path / "ws", 8)
    params = {"max_tokens": 16, "temperature": 0.8, "seed": 1, "logprobs": True}
    teacher = Teacher(id="tiny", model=model, vllm=real, samples=2, params=params)
    summary = build(workspace, [teacher], FREE)
    found = rows(workspace, "SELECT * FROM responses")
    assert len(found) == 16 and summary.exit_code == 0, log_of(workspace, "tiny")[-2000:]
    for row in found:
        assert row["status"] in ("ok", "truncated") and row["raw_text"] and row["completion_tokens"] > 0
        assert row["prompt_tokens"] > 0 and row["mean_logprob"] < 0 and row["latency_ms"] > 0
    assert len({r["raw_text"] for r in found}) > 1  # samples differ by their seeds
    assert "/health" in log_of(workspace, "tiny")
    assert build(workspace, [teacher], FREE).run.teachers[0].cached == 16
    assert log_of(workspace, "tiny").count("Started server process") == 1

    inside = make(tmp_path / "inside", 8)
    same = teacher.model_copy(update={"vllm": real.model_copy(update={"in_process": True})})
    assert build(inside, [same], FREE).exit_code == 0, log_of(inside, "tiny")[-2000:]
    told = f"SELECT {TOLD} FROM responses ORDER BY question_id, sample_idx"
    assert rows(inside, told) == rows(workspace, told)  # the same engine without HTTP: same rows, same cache
    means = "SELECT mean_logprob AS m FROM responses ORDER BY question_id, sample_idx"
    assert [r["m"] for r in rows(inside, means)] == pytest.approx([r["m"] for r in rows(workspace, means)], abs=1e-4)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("engine", ["stand-in", "real"])
def test_ctrl_c_loses_nothing_of_vllm_in_process(tmp_path: Path, request: pytest.FixtureRequest, engine: str) -> None:
    if engine == "real":
        spec, named = request.getfixturevalue("real"), request.getfixturevalue("model")
    else:
        spec, named = Vllm(python=request.getfixturevalue("inside")), "m"
    workspace, recipe = Workspace(tmp_path / "ws"), tmp_path / "recipe.yaml"
    teacher = {"id": "tiny", "model": named, "max_concurrency": 4, "params": {"max_tokens": 48}}
    served = spec.model_copy(update={"in_process": True}).model_dump(exclude_defaults=True) | {"env": spec.env}
    given = {"workspace": "ws", "questions": {"sandbox": {"n": 100}}, "teachers": [teacher | {"vllm": served}]}
    recipe.write_text(yaml.safe_dump(given))
    command, pipe = [sys.executable, "-m", "raffinate", "build", str(recipe), "--json"], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        while process.poll() is None and kept(workspace) < 5:
            time.sleep(0.02)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate()
    assert process.returncode == 130 and "Traceback" not in err, err + log_of(workspace, "tiny")[-2000:]
    assert err.splitlines()[-1].startswith("error: interrupted: nothing that arrived is lost") and out.startswith("{")
    assert not any(str(tmp_path).encode() in line for line in command_lines())
    before = kept(workspace)
    found = rows(workspace, "SELECT count(*) FILTER (status <> 'failed') AS kept, count(*) AS n FROM responses")
    assert found == [{"kept": before, "n": 100}] and 5 <= before < 100
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    (again,) = json.loads(ran.stdout)["teachers"]
    assert ran.returncode == 0 and kept(workspace) == 100, ran.stderr
    assert again["asked"] == 100 - before, again


def command_lines() -> list[bytes]:
    """Of every process that runs."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(file.read_bytes())
    return found


@pytest.mark.timeout(1200)
def test_the_worker_answers_like_the_server(real: Vllm, model: str, tmp_path: Path) -> None:
    def body(**fields: Any) -> dict[str, Any]:
        return {"model": model, "messages": [{"role": "user", "content": "Which bird?"}], "max_tokens": 24} | fields

    schema = {"type": "object", "properties": {"result": {"enum": ["A", "B"]}}, "required": ["result"]}
    bodies = {
        1: body(temperature=0, structured_outputs={"json": schema}),
        2: body(max_tokens=100_000),
        3: body(messages=[{"role": "user", "content": "word " * 2000}]),
        4: body(temperature="hot"),
        5: body(ignore_eos=True, max_tokens=400),
        6: body(temperature=0, logprobs=True, stop=["a"], chat_template_kwargs={"x": 1}),
    }
    lines = [json.dumps({"id": number, "body": asked}) for number, asked in bodies.items()]
    lines.append(json.dumps({"drop": 5}))
    worker = [real.python, vllm_inside.WORKER, "--model", model, *vllm_env.ARGS, "--reasoning-parser", "deepseek_r1"]
    worker += ["--structured-outputs-config.enable_in_reasoning", "true"]
    pipe, log, env = subprocess.PIPE, (tmp_path / "log").open("wb"), os.environ | vllm_env.ENV
    with log, subprocess.Popen(worker, stdin=pipe, stdout=pipe, stderr=log, env=env, text=True) as process:
        assert json.loads(process.stdout.readline()) == {"ready": True}, (tmp_path / "log").read_text()[-2000:]
        process.stdin.write("\n".join(lines) + "\n")
        process.stdin.flush()
        said = {each["id"]: each for each in (json.loads(process.stdout.readline()) for _ in range(5))}
        process.stdin.close()
        assert process.wait(60) == 0
        assert process.stdout.read() == ""  # what was dropped is never answered
    assert {number: each["status"] for number, each in said.items()} == {1: 200, 2: 400, 3: 400, 4: 400, 6: 200}
    assert "max_tokens" in said[2]["body"]["error"]["message"]
    (held,), (free,) = said[1]["body"]["choices"], said[6]["body"]["choices"]
    assert held["message"]["reasoning"].startswith("{") and not held["message"]["content"]  # it never stopped thinking
    assert free["logprobs"]["content"][0]["logprob"] < 0 and "a" not in free["message"]["reasoning"]


@pytest.mark.timeout(1200)
def test_a_real_vllm_that_runs_already(running: str, tmp_path: Path) -> None:
    workspace = make(tmp_path / "ws", 8)
    tiny = Teacher(id="tiny", model="tiny", base_url=running, params={"max_tokens": 8})
    other = Teacher(id="other", model="other", base_url=running)
    long = Teacher(id="long", model="tiny", base_url=running, params={"max_tokens": 100_000})
    assert [(r.reachable, r.serves_model) for r in check_endpoints([tiny, other])] == [(True, True), (True, False)]
    forms = [
        Teacher(id=way, model="tiny", base_url=running, structured=way, params={"max_tokens": 40})
        for way in ("json_schema", "structured_outputs")
    ]
    summary = build(workspace, [tiny, other, long, *forms], FREE)
    assert summary.rows[0].statuses["failed"] == 0 and summary.rows[0].total == 8
    assert dict(summary.rows[1].errors) == {"not_found": 8} and "does not serve model 'other'" in summary.advice[0]
    assert dict(summary.rows[2].errors) == {"bad_request": 8}
    held = rows(workspace, "SELECT raw_text FROM responses WHERE teacher_id IN ('json_schema', 'structured_outputs')")
    assert len(held) == 16 and all(row["raw_text"].lstrip().startswith("{") for row in held)
    over_length = rows(workspace, "SELECT error_message FROM responses WHERE teacher_id = 'long'")[0]
    assert "HTTP 400" in over_length["error_message"] and "max_tokens" in over_length["error_message"]
