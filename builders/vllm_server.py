"""Starts vLLM for a teacher, waits until it is healthy, starts it again when it dies or hangs, and stops it.

The server is a process of its own, from an environment of its own (vLLM pins its own torch), bound to this machine.
What it prints goes to ``.raffinate/logs/vllm-<teacher>.log``.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from schemas.errors import TeacherError

if TYPE_CHECKING:
    from builders.teacher import Teacher, Vllm

POLL_S = 0.2
STOP_S = 20  # between asking it to stop and killing it
LOOK_S = 5  # between looks at a running server's health
HANG_S = 120  # without a sign of health: a server that is merely busy answers sooner
_PR_SET_PDEATHSIG = 1


class Gpus:
    """Which GPUs the servers of a run hold."""

    def __init__(self) -> None:
        self._held: list[tuple[int, ...] | None] = []

    def take(self, gpus: tuple[int, ...] | None) -> bool:
        """Hold some GPUs (None: all), if nobody else holds one of them."""
        if any(_clash(gpus, held) for held in self._held):
            return False
        self._held.append(gpus)
        return True

    def give_back(self, gpus: tuple[int, ...] | None) -> None:
        """Let others have them."""
        self._held.remove(gpus)


def _clash(one: tuple[int, ...] | None, other: tuple[int, ...] | None) -> bool:
    if one is None or other is None:
        return one != () and other != ()
    return not set(one).isdisjoint(other)


class VllmServer:
    """One server of one teacher. `builders.vllm_inside` is the same without HTTP.

    Args:
        teacher: has a ``vllm`` section.
        log: file that its output is appended to.

    Attributes:
        url: the base URL it serves.
        healthy: set while it can be asked.
    """

    def __init__(self, teacher: Teacher, spec: Vllm, log: Path) -> None:
        self._teacher, self._spec, self._log = teacher, spec, log
        self._port = spec.port or _free_port()
        self._process: asyncio.subprocess.Process | None = None
        self.url = f"http://127.0.0.1:{self._port}/v1"
        self.healthy = asyncio.Event()

    @property
    def command(self) -> list[str]:
        """What is run."""
        module = [self._spec.python, "-m", "vllm.entrypoints.openai.api_server"]
        where = ["--model", self._teacher.model, "--host", "127.0.0.1", "--port", str(self._port)]
        return [*module, *where, *self._options]

    @property
    def _options(self) -> list[str]:
        revision = ["--revision", self._teacher.revision] if self._teacher.revision else []
        gpus = len(self._spec.gpus or ())
        split = ["--tensor-parallel-size", str(gpus)] if gpus > 1 else []
        return [*revision, *split, *self._spec.args]

    def _environment(self) -> dict[str, str]:
        env = os.environ | {"VLLM_NO_USAGE_STATS": "1", "PYTHONUNBUFFERED": "1"} | self._spec.env
        if self._spec.gpus is not None:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self._spec.gpus))
        if self._teacher.api_key:
            env["VLLM_API_KEY"] = self._teacher.api_key.get_secret_value()
        return env

    async def start(self, going: Callable[[], bool]) -> None:
        """Start it and wait until it is healthy, or until ``going`` says that nobody wants it any more.

        Raises:
            TeacherError: it cannot be run, ends, or is not healthy in time; the message names the log.
        """
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            try:
                self._process = await self._run(log)
            except OSError as error:
                raise self._failed(f"{self._spec.python} cannot be run ({error.strerror})") from None
        deadline = asyncio.get_running_loop().time() + self._spec.start_timeout_s
        while going() and not await self._is_healthy():
            if self._process.returncode is not None:
                raise self._failed(self._why_ended(self._process.returncode))
            if asyncio.get_running_loop().time() > deadline:
                raise self._failed(f"vLLM was not ready within {self._spec.start_timeout_s:g} s")
            await asyncio.sleep(POLL_S)
        self.healthy.set()

    async def _run(self, log: BinaryIO, **pipes: Any) -> asyncio.subprocess.Process:
        given: dict[str, Any] = {"stdin": asyncio.subprocess.DEVNULL, "stdout": log, "stderr": log} | pipes
        return await asyncio.create_subprocess_exec(
            *self.command,
            **given,
            env=self._environment(),
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )

    def _why_ended(self, code: int) -> str:
        return f"vLLM ended with code {code} before it was ready"

    async def _is_healthy(self) -> bool:
        import aiohttp

        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
                session.get(f"{self.url.removesuffix('/v1')}/health") as response,
            ):
                return response.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    def _failed(self, what: str) -> TeacherError:
        return TeacherError(f"teacher '{self._teacher.id}': {what}: see {self._log}")

    async def watch(self, going: Callable[[], bool]) -> None:
        """Start it again whenever it dies or hangs.

        Raises:
            TeacherError: it did so once more than it may, or does not come up again.
        """
        for left in range(self._spec.restarts, -1, -1):
            if self._process is not None:
                await self._lost(self._process)
                self._signal(signal.SIGKILL)  # what it started may outlive it, and hold the GPUs
                await self._process.wait()
            self.healthy.clear()
            if not left:
                raise self._failed(f"vLLM died {self._spec.restarts + 1} times")
            if going():
                await self.start(going)

    async def _lost(self, process: asyncio.subprocess.Process) -> None:
        """Return once it has ended, or has shown no sign of health for `HANG_S`."""
        now = asyncio.get_running_loop().time
        seen, ending = now(), asyncio.create_task(process.wait())
        try:
            while not (await asyncio.wait([ending], timeout=LOOK_S))[0]:
                if await self._is_healthy():
                    seen = now()
                elif now() - seen > HANG_S:
                    with self._log.open("ab") as log:
                        log.write(b"raffinate: it no longer answers /health, and is killed\n")
                    return
        finally:
            ending.cancel()

    async def stop(self) -> None:
        """End it and all that it started."""
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._signal(number)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), STOP_S)

    def _signal(self, number: int) -> None:
        """Tell it and all that it started."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


@asynccontextmanager
async def served(
    server: VllmServer, going: Callable[[], bool], lost: Callable[[TeacherError], None]
) -> AsyncIterator[None]:
    """Keep a server up meanwhile; ``lost`` is called once if it cannot be.

    Raises:
        TeacherError: it does not come up the first time.
    """

    async def watch() -> None:
        try:
            await server.watch(going)
        except TeacherError as error:
            lost(error)

    watching = None
    try:
        await server.start(going)
        watching = asyncio.create_task(watch())
        yield
    finally:
        if watching is not None:
            watching.cancel()
        await server.stop()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def signal_when_parent_ends(number: int) -> None:
    """Let this process be sent a signal when its parent is gone, however that ended (on Linux; nothing elsewhere)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def _die_with_parent() -> None:
    """In the child: be told to stop when our own process is killed, so that no server keeps its GPUs."""
    signal_when_parent_ends(signal.SIGTERM)
