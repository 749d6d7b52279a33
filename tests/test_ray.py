"""Building on a Ray cluster: a local Ray, with the sandbox as the server. Rows must be those of the default engine."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import vllm_env
import yaml

from builders.ask import Settings
from builders.build import build, retry
from builders.prompt import Prompt
from builders.sandbox import Fault, SandboxServer, questions
from builders.teacher import Batch, Teacher, Vllm
from schemas.database import query
from schemas.errors import InputError, MissingExtraError
from schemas.workspace import Workspace

pytestmark = pytest.mark.timeout(600)
FREE = Prompt.load("free")
ON_RAY = Settings(engine="ray", workers=2, patience_s=1)
NAMES = ("ada", "bo")
TRIES = 4
ROWS = (
    "SELECT question_id, teacher_id, sample_idx, status, CASE WHEN status <> 'failed' THEN raw_text END AS raw_text, "
    "predicted_answer, is_correct, request_hash, params, finish_reason, prompt_tokens, completion_tokens, error_class, "
    "attempts FROM responses ORDER BY ALL"
)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """One Ray for all tests of the module: a build joins a Ray that its process has already."""
    ray = pytest.importorskip("ray")
    quiet = {"include_dashboard": False, "log_to_driver": False, "object_store_memory": 128 << 20}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    for _ in range(TRIES):  # a busy machine may not start it within the 30 s that Ray allows
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # of the processes of a start that failed
            with suppress(Exception):
                ray.init(num_cpus=2, **quiet)
                break
            ray.shutdown()
            gc.collect()
    assert ray.is_initialized(), "Ray could not be started"
    yield ray
    ray.shutdown()


def make(path: Path, n: int) -> Workspace:
    workspace = Workspace.create(path)
    with workspace.lock():
        workspace.write_questions(questions(n))
    return workspace


def rows(workspace: Workspace, sql: str = ROWS) -> list[dict[str, Any]]:
    return query(workspace, sql).to_pylist()


def teachers(server: SandboxServer, **fields: Any) -> list[Teacher]:
    return [Teacher(id=n, model=f"sandbox/{n}", base_url=server.url, **fields) for n in NAMES]


def received(server: SandboxServer) -> int:
    return sum(t["received"] for t in server.stats()["teachers"].values())


def processes(mark: bytes, where: str) -> list[int]:
    """Processes of which /proc says so."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / where).read_bytes() and b"zombie" not in (folder / "status").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_the_rows_are_those_of_the_default_engine_faults_included(ray: Any, tmp_path: Path) -> None:
    faults = [
        Fault(kind="rate_limit", share=0.1, retry_after=0.1),
        Fault(kind="server_error", share=0.05),
        Fault(kind="malformed", share=0.05),
        Fault(kind="truncation", share=0.05),
        Fault(kind="unread", share=0.2),
        Fault(kind="empty", match="sister|brother"),
    ]
    here, there = make(tmp_path / "here", 150), make(tmp_path / "there", 150)
    how: dict[str, Any] = {
        "samples": 2,
        "params": {"seed": 1, "temperature": 1.0},
        "max_attempts": 3,
        "follow_up": True,
    }
    with SandboxServer(faults=faults) as server:
        local, port = build(here, teachers(server, **how), FREE), int(server.url.split(":")[2].split("/")[0])
    with SandboxServer(faults=faults, port=port) as server:  # a fresh count of attempts, which draw the faults
        asked = teachers(server, **how)
        on_ray = build(there, asked, FREE, ON_RAY)
        assert rows(there) == rows(here) and len(rows(here)) == 600
        assert [(t.statuses, t.errors) for t in on_ray.rows] == [(t.statuses, t.errors) for t in local.rows]
        assert on_ray.run.teachers[0].follow_ups == local.run.teachers[0].follow_ups > 0
        assert local.rows[0].statuses["truncated"] > 0 and on_ray.run.teachers[0].repeats > 0
        cut = len(rows(there, "SELECT 1 FROM responses WHERE status = 'truncated'"))
        again = retry(there, asked, FREE, max_tokens=999, settings=ON_RAY)
        assert sum(t.answered + t.failed for t in again.run.teachers) == cut
        before = received(server)
        build(there, asked, FREE, Settings(engine="ray", max_requests=7))  # those that failed, and no more than allowed
        assert received(server) - before <= 7


def test_a_limit_ends_a_teacher_only_where_more_was_to_be_asked(ray: Any, tmp_path: Path) -> None:
    workspace = make(tmp_path / "ws", 20)
    with SandboxServer() as server:
        for most, code in ((15, 1), (5, 0)):
            limits = Settings(engine="ray", workers=1, max_requests=most)
            summary = build(workspace, teachers(server)[:1], FREE, limits)
            assert summary.exit_code == code, summary.advice
        assert "may send 15 requests" not in " ".join(summary.advice) and received(server) == 20


def test_second_turns_are_asked_in_the_same_build_and_batches_are_refused(ray: Any, tmp_path: Path) -> None:
    here, there = make(tmp_path / "here", 30), make(tmp_path / "there", 30)
    with SandboxServer(faults=[Fault(kind="unread", teacher="ada")]) as server:
        asked = teachers(server, follow_up=True)
        build(here, asked, FREE)
        before = received(server)
        summary = build(there, asked, FREE, ON_RAY)
        columns = "question_id, teacher_id, raw_text, follow_up, predicted_answer, attempts, completion_tokens"
        both = f"SELECT {columns} FROM responses ORDER BY ALL"
        assert rows(there, both) == rows(here, both) and len(rows(there, both)) == 60
        assert summary.run.teachers[0].follow_ups > 20 and received(server) == 2 * before
        build(there, asked, FREE, ON_RAY)
        assert received(server) == 2 * before
        with pytest.raises(InputError, match="'ada' is asked in batches"):
            build(make(tmp_path / "batches", 1), teachers(server, batch=Batch()), FREE, ON_RAY)


def test_a_worker_that_dies_costs_nothing_but_requests_asked_again(ray: Any, tmp_path: Path) -> None:
    workspace = make(tmp_path / "ws", 600)

    def kill() -> None:
        while received(server) < 200:
            time.sleep(0.02)
        os.kill(processes(b"ray::Worker", "cmdline")[0], signal.SIGKILL)

    with SandboxServer(latency_ms=100) as server:
        killer = threading.Thread(target=kill)
        killer.start()
        summary = build(workspace, teachers(server, max_concurrency=64), FREE, ON_RAY)
        killer.join()
        assert summary.exit_code == 0 and [dict(t.statuses) for t in summary.rows] == [{"ok": 600}] * 2
        assert received(server) >= 1200 and len(rows(workspace)) == 1200


def test_a_teacher_that_refuses_or_is_gone_ends_alone(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make(tmp_path / "ws", 30)
    monkeypatch.setenv("RIGHT_KEY", "right-key")
    with SandboxServer(api_key="right-key") as server:
        ada = Teacher(id="ada", model="sandbox/ada", base_url=server.url, api_key="${RIGHT_KEY}")
        bo = Teacher(id="bo", model="sandbox/bo", base_url=server.url)
        gone = Teacher(id="gone", model="m", base_url="http://127.0.0.1:9/v1", max_attempts=2)
        with pytest.raises(InputError, match="write api_key as"):
            build(workspace, [Teacher(id="x", model="m", base_url=server.url, api_key="literal")], FREE, ON_RAY)
        # Ray's workers have the environment of the Ray that was started before this variable was set
        summary = build(workspace, [ada, bo, gone], FREE, ON_RAY)
    assert dict(summary.rows[1].errors) == {"auth": 30} and set(summary.rows[2].errors) <= {"connection", "parked"}
    assert summary.exit_code == 1 and "refuses" in " ".join(summary.advice)
    assert "RIGHT_KEY is not set" in " ".join(summary.advice)


def test_a_worker_serves_vllm_and_stops_it(ray: Any, tmp_path: Path) -> None:
    workspace = make(tmp_path / "ws", 20)
    spec = Vllm(python=vllm_env.stand_in(tmp_path / "python"), gpus=())
    served = [Teacher(id=name, model=f"sandbox/{name}", vllm=spec) for name in NAMES]
    summary = build(workspace, served, FREE, ON_RAY)
    assert summary.exit_code == 0 and [dict(t.statuses) for t in summary.rows] == [{"ok": 20}] * 2
    assert not processes(str(tmp_path / "python").encode(), "cmdline")
    many = Teacher(id="many", model="m", vllm=Vllm(gpus=(0, 1)))
    with pytest.raises(InputError, match="takes 2 GPUs and the cluster has 0"):
        build(workspace, [many], FREE, ON_RAY)


class Driver:
    """`raffinate build --engine ray` as a user starts it, with a Ray of its own; ``mark`` tells all its processes."""

    def __init__(self, folder: Path, server: SandboxServer) -> None:
        self.server, self.mark = server, f"RAFFINATE_TEST={folder}"
        self.asked = [{"id": n, "model": f"sandbox/{n}", "base_url": server.url, "max_concurrency": 64} for n in NAMES]
        given = {"workspace": ".", "questions": {"sandbox": {"n": 500}}, "teachers": self.asked}
        make(folder / "ws", 500)
        recipe = folder / "ws" / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(given | {"build": {"workers": 1}}))
        self._command = [sys.executable, "-m", "raffinate", "build", str(recipe), "--engine", "ray", "--json"]

    def start(self, ready: Callable[[], bool]) -> subprocess.Popen[str]:
        """Start it, and wait until it is so far; again where a busy machine does not start Ray in its 30 s."""
        env, pipe = os.environ | dict([self.mark.split("=", 1)]), subprocess.PIPE
        for _ in range(TRIES):
            process = subprocess.Popen(
                self._command, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True
            )
            while process.poll() is None and not ready():
                time.sleep(0.02)
            if process.poll() in (None, 0):
                return process
            said = process.communicate()[1]
        pytest.fail(f"Ray could not be started: {said}")

    def asks(self, n: int) -> bool:
        return received(self.server) >= n

    def left(self) -> list[int]:
        """Its processes, once those that were to end have had the time to."""
        deadline = time.monotonic() + 150  # Ray looks whether its driver lives now and then
        while processes(self.mark.encode(), "environ") and time.monotonic() < deadline:
            time.sleep(0.2)
        return processes(self.mark.encode(), "environ")


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    pytest.importorskip("ray")
    with SandboxServer(latency_ms=100) as server:
        yield Driver(tmp_path, server)


def test_a_killed_driver_leaves_nothing_behind_and_the_next_build_goes_on(driver: Driver, tmp_path: Path) -> None:
    killed = driver.start(lambda: driver.asks(400))
    killed.kill()
    killed.communicate()
    assert not driver.left()
    before = received(driver.server)
    workspace = Workspace.open(tmp_path / "ws")
    there = [Teacher(**each) for each in driver.asked]
    assert build(workspace, there, FREE).exit_code == 0  # the default engine goes on where Ray was
    after = received(driver.server)
    assert 0 < after - before < 1000 and after <= 1000 + 2 * 4 * 64
    out, err = driver.start(lambda: False).communicate()
    assert '"ok": 500' in out and received(driver.server) == after, err
    assert not driver.left()


@pytest.mark.parametrize("moment", ["starting", "asking"])
def test_ctrl_c_loses_nothing_and_the_next_build_asks_the_rest(driver: Driver, tmp_path: Path, moment: str) -> None:
    moments: dict[str, Callable[[], bool]] = {
        "starting": lambda: len(processes(driver.mark.encode(), "environ")) > 1,
        "asking": lambda: driver.asks(300),
    }
    process = driver.start(moments[moment])
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: everybody in the foreground hears it
    out, err = process.communicate()
    assert process.returncode == 130 and "Traceback" not in err, err
    assert err.splitlines()[-1].startswith("error: interrupted: nothing that arrived is lost") and out.startswith("{")
    assert not driver.left()
    before, workspace = received(driver.server), Workspace.open(tmp_path / "ws")
    found = {
        row["status"]: row["n"] for row in rows(workspace, "SELECT status, count(*) AS n FROM responses GROUP BY ALL")
    }
    kept = found.get("ok", 0)
    assert sum(found.values()) == 1000 and kept == before == 0 if moment == "starting" else 300 <= kept <= before
    there = [Teacher(**each) for each in driver.asked]
    assert build(workspace, there, FREE).exit_code == 0
    assert received(driver.server) - before == 1000 - kept


def test_without_ray_one_sentence_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    workspace = make(tmp_path / "ws", 1)
    with pytest.raises(MissingExtraError, match=r"raffinate\[ray\]"):
        build(workspace, [Teacher(id="x", model="m", base_url="http://127.0.0.1:9/v1")], FREE, ON_RAY)
