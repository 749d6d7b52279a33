"""vLLM's own Python API in place of a server: no HTTP and no port, for batch jobs on one machine.

The engine runs in a child process of the interpreter that has vLLM (`builders.vllm_worker`), which is asked in JSON
lines. A child, because vLLM pins its own torch, gives its GPUs back only when its process ends, and must be free to
die: it is started again like a server. Requests, hashes and rows are those of the server, and so is the journal.
"""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from builders.client import Answer, Failure
from builders.vllm_server import VllmServer
from builders.vllm_worker import NO_VLLM

if TYPE_CHECKING:
    from builders.teacher import Teacher, Vllm

LONGEST_LINE = 1 << 26
WORKER = Path(__file__).with_name("vllm_worker.py")


class VllmInside(VllmServer):
    """One engine of one teacher; a `builders.client.Transport`, too."""

    def __init__(self, teacher: Teacher, spec: Vllm, log: Path) -> None:
        super().__init__(teacher, spec, log)
        self.url = "vLLM"
        self._ready = False
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Answer | Failure]] = {}
        self._reading: asyncio.Task[None] | None = None

    @property
    def command(self) -> list[str]:
        """What is run."""
        return [self._spec.python, str(WORKER), "--model", self._teacher.model, *self._options]

    async def _run(self, log: BinaryIO, **pipes: Any) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        process = await super()._run(log, stdin=pipe, stdout=pipe, limit=LONGEST_LINE)
        self._ready = False
        self._reading = asyncio.create_task(self._read(process))
        return process

    async def _is_healthy(self) -> bool:
        return self._ready

    def _why_ended(self, code: int) -> str:
        if code == NO_VLLM:
            return f"{self._spec.python} has no vLLM: install raffinate[vllm] there, or name another under vllm.python"
        return super()._why_ended(code)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        """Hand replies to those who wait; when the process ends, so does their wait."""
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                said = orjson.loads(line)
                self._ready = self._ready or "ready" in said
                waiting = self._waiting.pop(said.get("id"), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(Answer(said["status"], {}, orjson.dumps(said["body"])))
        finally:
            if process is self._process:  # else another one runs already
                self.healthy.clear()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_result(Failure("connection", f"vLLM ended: see {self._log}"))
            self._waiting.clear()

    async def post(self, url: str, body: bytes) -> Answer | Failure:
        """Ask one request; the reply is what the server would have answered."""
        if not self.healthy.is_set():  # it has ended, though its pipe may still take what nobody will read
            return Failure("connection", f"vLLM has ended: see {self._log}")
        number = next(self._numbers)
        waiting: asyncio.Future[Answer | Failure] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        if not self._tell(b'{"id":%d,"body":%b}\n' % (number, body)):
            self._waiting.pop(number, None)
            return Failure("connection", f"vLLM has ended: see {self._log}")
        try:
            async with asyncio.timeout(self._teacher.timeout_s):
                return await waiting
        except TimeoutError:
            return Failure("timeout", f"no whole reply within {self._teacher.timeout_s:g} s")
        finally:
            if self._waiting.pop(number, None) is not None:
                self._tell(b'{"drop":%d}\n' % number)

    def _tell(self, line: bytes) -> bool:
        process = self._process
        if process is None or process.stdin is None or process.returncode is not None or process.stdin.is_closing():
            return False
        process.stdin.write(line)
        return True
