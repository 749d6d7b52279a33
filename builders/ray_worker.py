"""What runs on each machine of a Ray cluster: asks blocks of requests by the engine's own policy, returns records.

A worker keeps what must outlive a block: connections, gates, breakers and pacers, and the vLLM that it serves. It
writes nothing; the driver (`builders.ray_engine`) commits what it returns to the journal. Keys are read from this
machine's own environment, because what is sent over Ray may end up on its disks and dashboards.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from builders.ask import TICK_S, Replica, Settings, Shared, TeacherAsker
from builders.client import connections
from builders.engine import End
from builders.flow import Breaker, Gate, Pacer
from builders.journal import Record
from builders.requests import Request
from builders.teacher import Teacher, Vllm
from builders.vllm_server import VllmServer, served
from schemas.errors import RaffinateError, TeacherError

if TYPE_CHECKING:
    import aiohttp

    from builders.journal import Journal
    from builders.requests import Plan

Packed = tuple[str, bytes]
"""A request on its way to a worker: its hash and its body."""


@dataclass(frozen=True)
class Done:
    """What came of a block; a request without a record was not sent.

    Attributes:
        requests: how many were sent, repeats included.
        end: why the teacher is to be asked no more, if it is.
    """

    records: list[Record]
    requests: int = 0
    end: End | None = None


@dataclass
class _Block:
    """Requests as the engine's asker wants its plan."""

    teacher: Teacher
    wires: Sequence[Packed]

    @property
    def rows(self) -> int:
        return len(self.wires)

    def batches(self, _: int) -> Iterator[tuple[str, Iterator[Request]]]:
        yield "", (Request({}, 0, body, name, name, 0) for name, body in self.wires)


@dataclass
class _Kept:
    """In place of a journal."""

    records: list[Record] = field(default_factory=list)

    def keep(self, record: Record) -> None:
        self.records.append(record)


@dataclass
class _Line:
    """What a worker keeps of a teacher between blocks."""

    teacher: Teacher
    routes: list[Replica]
    pacer: Pacer
    patience_s: float
    askers: list[TeacherAsker] = field(default_factory=list)
    heard: bool = False


class Worker:
    """An asynchronous Ray actor: many blocks are under way in it at once.

    Args:
        teachers: as `packed` has them; each is asked by one of ``workers`` workers, which share its limits evenly.
        version: raffinate's version on the driver.
    """

    def __init__(self, teachers: Sequence[dict[str, Any]], workers: int, patience_s: float, version: str) -> None:
        self._problem: str | None = None
        if (here := metadata.version("raffinate")) != version:
            self._problem = f"raffinate is {here} on {socket.gethostname()} and {version} on the driver: install one"
        self._packed = {given["id"]: given for given in teachers}
        self._workers, self._patience_s = workers, patience_s
        self._lines: dict[str, _Line] = {}
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._connector: aiohttp.TCPConnector | None = None
        self._ticker: asyncio.Task[None] | None = None

    async def ask(self, teacher_id: str, wires: Sequence[Packed], allowance: int | None) -> Done:
        """Ask a block of requests, with at most ``allowance`` sendings."""
        try:
            line = await self._line(teacher_id)
        except RaffinateError as error:
            return Done([], 0, End("server", str(error)))
        kept = _Kept()
        shared = Shared(cast("Journal", kept), Settings(max_requests=allowance))
        plan = cast("Plan", _Block(line.teacher, wires))
        asker = TeacherAsker(plan, lambda _, r: r, line.routes, shared, line.pacer)
        line.askers.append(asker)
        asker.progress.heard = line.heard
        try:
            await asker.run(cast("aiohttp.TCPConnector", self._connector))
        finally:
            line.askers.remove(asker)
            line.heard = line.heard or asker.progress.heard
        out_of_budget = asker.end is not None and asker.end.error_class == "not_asked"
        return Done(kept.records, shared.requests, None if out_of_budget else asker.end)

    async def stop(self) -> None:
        """Send nothing more; what is under way may still arrive."""
        for line in self._lines.values():
            for asker in line.askers:
                asker.stop(End("not_asked", "the run was interrupted"))

    async def close(self) -> None:
        """Stop what this worker serves."""
        await self._stack.aclose()

    async def _line(self, teacher_id: str) -> _Line:
        async with self._opening:
            if self._problem:
                raise TeacherError(self._problem)
            if self._connector is None:
                self._connector = connections()
                self._stack.push_async_callback(self._connector.close)
                self._ticker = asyncio.create_task(self._tick())
            if teacher_id not in self._lines:
                self._lines[teacher_id] = await self._open(unpacked(self._packed[teacher_id], self._workers))
            return self._lines[teacher_id]

    async def _open(self, teacher: Teacher) -> _Line:
        patience_s = self._patience_s
        if teacher.vllm is not None:
            patience_s = max(patience_s, teacher.vllm.start_timeout_s)  # it may be starting again
            teacher = await self._serve(teacher, teacher.vllm)
        gates = [Gate(teacher.max_concurrency, time.monotonic) for _ in teacher.base_url]
        routes = [Replica(url, g, Breaker(time.monotonic)) for url, g in zip(teacher.base_url, gates, strict=True)]
        pacer = Pacer(teacher.requests_per_minute, teacher.tokens_per_minute, time.monotonic)
        return _Line(teacher, routes, pacer, patience_s)

    async def _serve(self, teacher: Teacher, spec: Vllm) -> Teacher:
        """Start this worker's own vLLM, on the GPUs that Ray gave it."""
        log = Path(tempfile.gettempdir()) / "raffinate" / f"vllm-{teacher.id}.log"
        server = VllmServer(teacher, spec, log)

        def lost(error: TeacherError) -> None:
            self._problem = f"{error} on {socket.gethostname()}"

        await self._stack.enter_async_context(served(server, lambda: True, lost))
        return teacher.model_copy(update={"base_url": (server.url,), "vllm": None})

    async def _tick(self) -> None:
        """Give up a teacher that only fails once this worker has nothing else to do, as a run on one machine does."""
        while True:
            await asyncio.sleep(TICK_S)
            busy = [line for line in self._lines.values() if line.askers]
            parked = [line for line in busy if line.askers[0].parked_because() is not None]
            for line in parked if len(parked) == len(busy) else ():
                for asker in line.askers:
                    asker.give_up_after(line.patience_s)


def packed(teacher: Teacher) -> dict[str, Any]:
    """A teacher without its key, to be sent to workers."""
    return teacher.model_dump(mode="json")


def unpacked(given: dict[str, Any], workers: int) -> Teacher:
    """The teacher on a worker, with the key of this machine's environment and its share of the limits.

    Raises:
        InputError: the variable of its key is not set on this machine.
    """
    key = given["api_key_env"]
    teacher = Teacher.model_validate(given | ({"api_key": f"${{{key}}}"} if key else {}))
    # the driver has the questions, so it finds out which second turns are due
    share: dict[str, Any] = {"max_concurrency": max(1, teacher.max_concurrency // workers), "follow_up": False}
    for limit in ("requests_per_minute", "tokens_per_minute"):
        most = getattr(teacher, limit)
        share[limit] = most / workers if most else None
    if teacher.vllm is not None:
        return teacher.model_copy(update={"vllm": _on_ray(teacher.vllm), "follow_up": False})
    return teacher.model_copy(update=share)


def _on_ray(spec: Vllm) -> Vllm:
    """Leave the choice of GPUs to Ray, which has already made it; how many there are still splits the model."""
    if not spec.gpus:
        return spec
    split = ("--tensor-parallel-size", str(len(spec.gpus))) if len(spec.gpus) > 1 else ()
    return spec.model_copy(update={"gpus": None, "args": (*split, *spec.args)})


def gpus_of(spec: Vllm) -> int:
    """How many GPUs one engine takes."""
    return 1 if spec.gpus is None else len(spec.gpus)
