"""The engine of a build on a Ray cluster: the driver plans and commits, workers ask.

The driver walks the plans, hands small blocks of missing requests to the workers (`builders.ray_worker`), and commits
what comes back to the journal, which lies on its own disk as ever. So rows, hashes, cache and resuming are those of
`builders.ask`; what a worker or the driver loses by dying are the blocks that were under way.

Ray actors, not Ray Data: its HTTP processor cannot keep what a run promises (figures in docs/findings.md), and a
dataset wants all its input when it starts, while a plan is made as it is asked.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from builders.ask import GRACE_S, TICK_S, Pick, Settings, Shared, most_usd
from builders.engine import INTERRUPTED, BaseEngine, End, on_interrupt
from builders.journal import Answered, Failed, Journal, Record, now_ms
from builders.progress import OnProgress, TeacherProgress
from builders.ray_worker import Done, Worker, gpus_of, packed
from builders.requests import Request, Work
from builders.teacher import Teacher
from schemas.errors import InputError, MissingExtraError, TeacherError

BLOCK_ROWS = 64
LOOK_ROWS = 2048  # planned at a time before replies are looked at again
TRIES = 3  # how often a worker may die, and a block with it
CLOSE_S = 30

_RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a worker without GPUs keeps its environment
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",  # its agents end so soon after a driver that was killed
}


Pair = tuple[Request, Request]
"""A planned request, and what is sent for it: itself, changed by a retry, or its second turn."""


@dataclass(eq=False)
class _Block:
    asker: _Teacher
    worker: _Seat
    pairs: list[Pair]
    allowance: int | None


@dataclass(eq=False)
class _Seat:
    """A worker and how much it has to do."""

    actor: Any
    blocks: Counter[str] = field(default_factory=Counter)


class _Teacher:
    """One teacher of a run: its plan, as blocks, and how far it is."""

    def __init__(self, plan: Work, seats: Sequence[_Seat]) -> None:
        self.plan, self.teacher, self.seats = plan, plan.teacher, seats
        self.progress = TeacherProgress(plan.teacher.id, plan.rows)
        self.end: End | None = None
        self.through = False
        self.second_turns: list[Pair] = []
        self.held: list[Pair] = []  # a block that waits until the limits are known to allow it
        share = max(1, plan.teacher.max_concurrency // len(seats))
        self.most_blocks = 2 * -(-share * max(1, len(plan.teacher.base_url)) // BLOCK_ROWS)  # per worker

    @property
    def finished(self) -> bool:
        """Whether nothing is left to send."""
        return self.end is not None or (self.through and not self.second_turns and not self.held)

    def due(self) -> list[Pair]:
        """A block of second turns, as far as replies have called for them."""
        block, self.second_turns = self.second_turns[:BLOCK_ROWS], self.second_turns[BLOCK_ROWS:]
        return block

    def free(self) -> _Seat | None:
        """The worker with the fewest blocks of this teacher, if it may have one more."""
        seat = min(self.seats, key=lambda s: s.blocks[self.teacher.id])
        return seat if seat.blocks[self.teacher.id] < self.most_blocks else None


class RayEngine(BaseEngine):
    """One run over some plans, from the machines of a cluster.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: a teacher's key is not given as an environment variable.
    """

    def __init__(  # noqa: PLR0913, PLR0917  what a run is made of
        self,
        plans: Sequence[Work],
        journal: Journal,
        pick: Pick,
        settings: Settings,
        on_progress: OnProgress | None,
        done: Collection[str] = (),
    ) -> None:
        super().__init__(plans, on_progress, done)
        self._pick, self._shared = pick, Shared(journal, settings)
        self._askers: list[_Teacher] = []
        self._under_way: dict[Any, _Block] = {}
        self._error: InputError | None = None
        self._reserved = 0  # requests that blocks under way may still send
        self._reported = 0.0

    @property
    def cost_usd(self) -> float:
        """What counts against the limit; see `builders.ask.Engine`."""
        return self._shared.cost_usd

    def run(self) -> None:
        """Ask everything; returns when every teacher is through or ended."""
        for plan in self._asked:
            _check_teacher(plan.teacher)
        if self._asked:
            self._ask_groups()
        self._finished = time.monotonic()
        self._report()

    def _ask_groups(self) -> None:
        try:
            with _ray(self._interrupt) as ray, on_interrupt(self._interrupt):
                for group in _groups(self._asked):
                    if not self.interrupted:
                        self._ask_group(ray, group)
        except TeacherError:
            if not self.interrupted:  # else nobody wants to know why Ray did not start
                raise

    def _ask_group(self, ray: Any, plans: Sequence[Work]) -> None:
        seats = _seats(ray, [plan.teacher for plan in plans], self._shared.settings)
        teachers = [_Teacher(plan, seats[plan.teacher.id]) for plan in plans]
        self._askers += teachers
        try:
            self._ask_all(ray, teachers)
            if self._error:
                raise self._error
        finally:
            _close(ray, {id(s): s for each in seats.values() for s in each}.values())

    def _ask_all(self, ray: Any, teachers: Sequence[_Teacher]) -> None:
        feeds = {each: self._blocks(each) for each in teachers}
        stopped_at: float | None = None
        while True:
            if (self.interrupted or self._error) and stopped_at is None:
                stopped_at = time.monotonic()
                self._stop(teachers)
            if stopped_at is not None and (time.monotonic() - stopped_at > GRACE_S or not self._under_way):
                return
            fed = stopped_at is None and [self._feed(each, feed) for each, feed in feeds.items()]
            if not self._under_way:
                if all(each.finished for each in teachers):
                    return
                continue
            # where a plan is still being looked through, only look whether something has come
            wait_s = 0.0 if fed and any(fed) else TICK_S
            ready, _ = ray.wait(list(self._under_way), num_returns=1, timeout=wait_s)
            if ready:
                ready, _ = ray.wait(list(self._under_way), num_returns=len(self._under_way), timeout=0)
            for ref in ready:
                self._take(ray, ref)
            if time.monotonic() - self._reported > TICK_S:
                self._reported = time.monotonic()
                self._report()

    def _blocks(self, asker: _Teacher) -> Iterator[list[Pair]]:
        """Yield blocks of what is to be asked; an empty one after each `LOOK_ROWS` that needed nothing."""
        plan, looked = asker.plan, 0
        block: list[Pair] = []
        for _, requests in plan.batches():
            for planned in requests:
                looked += 1
                request = self._shared.claim(plan, planned, self._pick, asker.progress)
                if request is not None:
                    block.append((planned, request))
                if len(block) == BLOCK_ROWS or looked >= LOOK_ROWS:
                    yield block
                    block, looked = [], 0
        if block:
            yield block

    def _feed(self, asker: _Teacher, feed: Iterator[list[Pair]]) -> bool:
        """Hand one more block to a worker; whether there may be more to hand out at once."""
        if asker.finished:
            return False
        seat = asker.free()
        if seat is None:
            return False
        try:
            block: list[Pair] | None = asker.held or asker.due() or next(feed, None)
        except InputError as error:  # a question cannot be asked: the run will fail, once what is under way is in
            self._error, block = error, None
        if block is None:
            asker.through = True
            return False
        asker.held = block
        if block and not self._may_go_on(asker):
            return False
        asker.held = []
        if block:
            self._hand(_Block(asker, seat, block, self._allowance(asker, len(block))))
        return True

    def _may_go_on(self, asker: _Teacher) -> bool:
        asker.end = self._shared.spent()
        most = self._shared.settings.max_requests
        # what is under way may need less than it was allowed
        return asker.end is None and (most is None or self._shared.requests + self._reserved < most)

    def _allowance(self, asker: _Teacher, rows: int) -> int | None:
        most = self._shared.settings.max_requests
        if most is None:
            return None
        return min(most - self._shared.requests - self._reserved, rows * asker.teacher.max_attempts)

    def _hand(self, block: _Block) -> None:
        block.worker.blocks[block.asker.teacher.id] += 1
        block.asker.progress.in_flight += len(block.pairs)
        self._reserved += block.allowance or 0
        wires = [(request.hash, request.body) for _, request in block.pairs]
        ref = block.worker.actor.ask.remote(block.asker.teacher.id, wires, block.allowance)
        self._under_way[ref] = block

    def _take(self, ray: Any, ref: Any) -> None:
        """Commit what came of a block, then count it."""
        block = self._under_way.pop(ref)
        asker = block.asker
        block.worker.blocks[asker.teacher.id] -= 1
        asker.progress.in_flight -= len(block.pairs)
        self._reserved -= block.allowance or 0
        try:
            done: Done = ray.get(ref)
        except ray.exceptions.RayError as error:
            done = Done([_lost(request, error) for _, request in block.pairs])
        self._shared.journal.keep_all(done.records)
        self._shared.requests += done.requests
        pairs = {request.hash: (planned, request) for planned, request in block.pairs}
        for record in done.records:
            self._count(asker, record, *pairs[record.request_hash])
        if done.end is not None and asker.end is None:
            asker.end = done.end
        # what a limit left unsent may be planned no more, and is asked by the next build
        self._shared.pending.difference_update(pairs)

    def _count(self, asker: _Teacher, record: Record, planned: Request, request: Request) -> None:
        progress, price = asker.progress, asker.teacher.price
        progress.repeats += record.attempts - 1
        cost = price.cost(record.prompt_tokens, record.completion_tokens) if price else None
        progress.count(record, cost, second=request.turn > 1)
        self._shared.charge(record.reply, cost, most_usd(asker.teacher, request))
        if asker.teacher.follow_up and request.turn == 1 and isinstance(record, Answered):
            try:
                second = self._pick(asker.plan, planned)
            except InputError as error:
                self._error = error
                return
            if second is not None and second.hash not in self._shared.pending:
                self._shared.pending.add(second.hash)
                asker.second_turns.append((planned, second))

    def _stop(self, teachers: Sequence[_Teacher]) -> None:
        for each in teachers:
            each.end = each.end or INTERRUPTED
        for seat in {id(s): s for each in teachers for s in each.seats}.values():
            seat.actor.stop.remote()

    def _interrupt(self) -> None:
        self.interrupted = True


def _lost(request: Request, error: Exception) -> Failed:
    said = f"the worker that asked it died, {TRIES} times over ({type(error).__name__})"
    return Failed(request.hash, "connection", said, None, TRIES, 0.0, now_ms())


def _check_teacher(teacher: Teacher) -> None:
    if teacher.batch is not None:
        raise InputError(f"teacher '{teacher.id}' is asked in batches, which one machine sends: leave --engine ray out")
    if teacher.api_key is not None and teacher.api_key_env is None:
        raise InputError(
            f"teacher '{teacher.id}': with Ray, write api_key as ${{NAME}} and set NAME on every machine: keys are "
            "not sent over the cluster"
        )


@contextmanager
def _ray(interrupt: Callable[[], None]) -> Iterator[Any]:
    """Join the cluster that RAY_ADDRESS names, or start Ray on this machine meanwhile.

    Ctrl-C as it starts is only noted, by ``interrupt``: an exception would be lost where Ray forks its processes.
    """
    for name, value in _RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingExtraError("building with Ray", "ray") from None
    if ray.is_initialized():
        yield ray
        return
    local = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False, "object_store_memory": 128 << 20}
    try:
        with on_interrupt(interrupt):
            ray.init(log_to_driver=False, logging_level="error", configure_logging=False, **local)
    except Exception as error:  # Ray has no class of its own for it
        ray.shutdown()
        raise TeacherError(f"Ray cannot be reached or started: {str(error).splitlines()[0]}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _seats(ray: Any, teachers: Sequence[Teacher], settings: Settings) -> dict[str, list[_Seat]]:
    """Workers per teacher: those with a URL share one set, each vLLM has its own, on its own GPUs."""
    from importlib.metadata import version

    def start(asked: Sequence[Teacher], n: int, gpus: float) -> list[_Seat]:
        actor = ray.remote(Worker).options(
            num_cpus=0,
            num_gpus=gpus,
            max_restarts=TRIES,
            max_task_retries=TRIES,  # Ray starts a dead worker again and hands it its blocks once more
            max_concurrency=10_000,
            scheduling_strategy="SPREAD",
        )
        given = [packed(teacher) for teacher in asked]
        return [_Seat(actor.remote(given, n, settings.patience_s, version("raffinate"))) for _ in range(n)]

    remote = [teacher for teacher in teachers if teacher.vllm is None]
    nodes = sum(node["Alive"] for node in ray.nodes())
    seats = dict.fromkeys((t.id for t in remote), start(remote, settings.workers or nodes, 0)) if remote else {}
    for teacher in teachers:
        if teacher.vllm is not None:
            gpus, has = gpus_of(teacher.vllm), int(ray.cluster_resources().get("GPU", 0))
            if gpus > has:
                raise InputError(f"teacher '{teacher.id}' takes {gpus} GPUs and the cluster has {has}: add machines")
            seats[teacher.id] = start([teacher], settings.workers or (has // gpus if gpus else 1), gpus)
    return seats


def _groups(plans: Sequence[Work]) -> list[list[Work]]:
    """Who is asked at once: all teachers with a URL and one vLLM; further ones want its GPUs, and come after it."""
    served = [plan for plan in plans if plan.teacher.vllm is not None]
    first = [plan for plan in plans if plan.teacher.vllm is None] + served[:1]
    return [first, *([plan] for plan in served[1:])]


def _close(ray: Any, seats: Collection[_Seat]) -> None:
    with suppress(ray.exceptions.RayError):
        ray.wait([seat.actor.close.remote() for seat in seats], num_returns=len(seats), timeout=CLOSE_S)
    for seat in seats:
        ray.kill(seat.actor)
