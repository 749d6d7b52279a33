"""The engine of a build: pulls requests from the plans and asks every teacher at once, each at its own pace.

One `TeacherAsker` per teacher walks its own plan, so a slow or parked teacher holds nobody up, and memory holds what is
in flight, not the plan. A request waits for the breaker, the budget and the gate (`builders.flow`), is sent, and is
sent again by one policy; its outcome is committed to the journal before anything else happens, and then counts.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from builders.batch_log import BatchLog
from builders.client import RETRIED, STOPS_TEACHER, Client, Failure, Reply, bare, connections, transport
from builders.engine import INTERRUPTED, BaseEngine, End, on_interrupt
from builders.flow import LONGEST_REST_S, Breaker, Gate, Pacer, backoff_s, rest
from builders.journal import Answered, Failed, Journal, Record, now_ms
from builders.progress import OnProgress, TeacherProgress
from builders.requests import Request, Work
from builders.teacher import Teacher, Vllm
from builders.vllm_inside import VllmInside
from builders.vllm_server import Gpus, VllmServer, served
from schemas.errors import InputError, RaffinateError, TeacherError

if TYPE_CHECKING:
    import aiohttp

    from builders.batch import BatchAsker

ASK_ROWS = 128
"""Requests planned at a time: few, because planning holds up the answers that arrive."""

TICK_S = 0.2
REFUSED_S = 120.0
"""Being asked too often fails a row only where the server has refused everything for so long."""
SAME_REFUSALS = 50
"""A teacher is stopped whose first requests are all refused in the same words."""
GRACE_S = 5.0  # after Ctrl-C, how long replies in flight may still arrive
NEVER_ANSWERED_S = 5.0  # a server that has not answered once in this run is given up sooner

Pick = Callable[[Any, Request], Request | None]
"""Says whether a planned request of a plan (a `Work`) is to be sent, and as what; once it is answered, what comes next.

It is asked about a request more than once, so it must not count on being asked once.
"""


@dataclass(frozen=True)
class Settings:
    """How a run goes; the recipe has these keys under ``build``.

    Attributes:
        max_requests: most requests sent, repeats included.
        max_cost_usd: nothing more is sent once replies have cost so much; those in flight still arrive (US dollars).
            A reply whose tokens the server does not report counts as one that fills its token limit.
        max_failed_share: share of failed rows above which the run counts as failed (0..1).
        patience_s: how long a teacher that only fails is probed once the others are done (seconds).
        cache: journal file to share with other workspaces; see `builders.journal.cache_file`.
        engine: `local` asks from this process, `ray` from the machines of a Ray cluster; see `builders.ray_engine`.
        workers: how many processes ask, with Ray; by default one a machine, or as many vLLM as its GPUs hold.
    """

    max_requests: int | None = None
    max_cost_usd: float | None = None
    max_failed_share: float = 0.05
    patience_s: float = 30.0
    cache: str | os.PathLike[str] | None = None
    engine: Literal["local", "ray"] = "local"
    workers: int | None = None


def check_limit(settings: Settings, teachers: Sequence[Teacher]) -> None:
    """Refuse a limit of the cost where a price is unknown.

    Raises:
        InputError: names the teachers without a price.
    """
    unpriced = [teacher.id for teacher in teachers if teacher.price is None]
    if settings.max_cost_usd is not None and unpriced:
        raise InputError(f"the cost of {', '.join(unpriced)} is unknown, so no limit can be kept: give a price")


@dataclass(eq=False)
class Replica:
    """One replica of one teacher."""

    url: str
    gate: Gate
    breaker: Breaker


@dataclass(eq=False)
class _Sent:
    """What came of sending a request once."""

    outcome: Reply | Failure
    latency_ms: float


@dataclass
class Shared:
    """What the teachers of a run have in common."""

    journal: Journal
    settings: Settings
    pending: set[str] = field(default_factory=set)  # hashes of requests on their way
    gpus: Gpus = field(default_factory=Gpus)
    requests: int = 0
    cost_usd: float = 0.0
    guessed: int = 0  # replies whose tokens were not reported
    reserved_usd: float = 0.0  # what batches under way may still cost

    def claim(self, plan: Work, planned: Request, pick: Pick, progress: TeacherProgress) -> Request | None:
        """What is to be sent for a planned request, noted as ``pending`` until it is settled; None if it is known.

        What is on its way is left to whoever carries it, and counts as known.
        """
        if not planned.wanted:
            return None
        request = None if planned.hash in self.pending else pick(plan, planned)
        on_its_way = request is not None and request.hash in self.pending
        if request is None or request.turn > 1 or on_its_way:
            progress.cached += 1
        if request is None or on_its_way:
            return None
        self.pending.add(request.hash)
        return request

    def spent(self) -> End | None:
        """Why nothing more may be sent, if a limit is reached."""
        limits = self.settings
        if limits.max_requests is not None and self.requests >= limits.max_requests:
            reached = f"the run may send {limits.max_requests} requests"
        elif limits.max_cost_usd is not None and self.cost_usd + self.reserved_usd >= limits.max_cost_usd:
            reached = f"the run may cost {limits.max_cost_usd:g} US dollars"
            if self.guessed:
                without = "replies came without a count of their tokens and are taken to be as long as allowed"
                reached += f" ({self.guessed:,} {without})"
        else:
            return None
        return End("not_asked", f"{reached}, and more were needed: run it again with a higher limit")

    def charge(self, reply: bytes | None, cost_usd: float | None, most_usd: float | None) -> None:
        """Count a reply's cost against the limit; the most that it can be where its tokens were not reported."""
        if cost_usd is None and most_usd is not None and reply is not None:
            self.guessed += 1
            cost_usd = most_usd
        self.cost_usd += cost_usd or 0.0


def most_usd(teacher: Teacher, request: Request, *, batched: bool = False) -> float | None:
    """The most that a reply to a request may cost: four bytes of it are a token (US dollars)."""
    price = teacher.price
    return price.cost(len(request.body) // 4, request.max_tokens, batched=batched) if price else None


class TeacherAsker:
    """Asks one teacher everything that `pick` lets through."""

    def __init__(
        self, plan: Work, pick: Pick, routes: Sequence[Replica], shared: Shared, pacer: Pacer | None = None
    ) -> None:
        self.plan, self.teacher = plan, plan.teacher  # of a teacher that we serve, the URL is known once it is up
        self.progress = TeacherProgress(plan.teacher.id, plan.rows)
        self.end: End | None = None
        self.error: InputError | None = None  # what makes the whole run fail
        self.through = self.waits_for_gpus = False
        self.tasks: set[asyncio.Task[None]] = set()
        self._pick, self._routes, self._shared = pick, routes, shared
        self._pacer = pacer or Pacer(self.teacher.requests_per_minute, self.teacher.tokens_per_minute, time.monotonic)
        self._ended, self._left = asyncio.Event(), asyncio.Event()
        self._room = asyncio.Semaphore(4 * self.teacher.max_concurrency)  # in flight, or pausing before a repeat
        self._draw = random.Random(self.teacher.id)
        self._server: VllmServer | None = None
        self._bad: Counter[str] | None = Counter()  # refused requests by the reason; None once one was answered
        self._refused_since: float | None = None  # since when it has said nothing but 429

    async def run(self, shared: aiohttp.TCPConnector) -> None:
        """Ask until the plan is through or the teacher is ended."""
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            try:
                await self._ask_missing(stack, group, shared)
            except InputError as error:
                self._fail(error)
            self.through = True

    async def _ask_missing(self, stack: AsyncExitStack, group: asyncio.TaskGroup, shared: aiohttp.TCPConnector) -> None:
        client: Client | None = None
        async for planned, request in self._missing():
            client = client or await self._open(stack, shared)
            await self._room.acquire()
            route = await self._admit()
            if route is None:
                self._shared.pending.discard(request.hash)
                break
            task = group.create_task(self._settle(client, planned, request, *route))
            self.tasks.add(task)
            task.add_done_callback(self._done)

    def _fail(self, error: InputError) -> None:
        """A question cannot be asked: the run will fail, and what is in flight may still arrive."""
        self.error = error
        self.stop(End("not_asked", str(error)))

    async def _open(self, stack: AsyncExitStack, shared: aiohttp.TCPConnector) -> Client:
        """Make ready to ask, once there is something to ask."""
        if self.teacher.vllm:
            await self._serve(stack, self.teacher.vllm)
        if isinstance(self._server, VllmInside):
            return Client(self.teacher, self._server)
        return Client(self.teacher, await stack.enter_async_context(transport(self.teacher, shared)))

    async def _serve(self, stack: AsyncExitStack, spec: Vllm) -> None:
        """Start the teacher's server when its GPUs are free; what prevents it ends the teacher."""
        log = self.plan.workspace.private / "logs" / f"vllm-{self.teacher.id}.log"
        self._server = (VllmInside if spec.in_process else VllmServer)(self.teacher, spec, log)
        self._routes = [Replica(self._server.url, Gate(self.teacher.max_concurrency, time.monotonic), _breaker())]
        self.teacher = self.teacher.model_copy(update={"base_url": (self._server.url,)})
        self.waits_for_gpus = True
        while self.end is None and not self._shared.gpus.take(spec.gpus):
            await rest(TICK_S, self._ended)
        self.waits_for_gpus = False
        if self.end is None:
            stack.callback(self._shared.gpus.give_back, spec.gpus)
            try:
                await stack.enter_async_context(served(self._server, lambda: self.end is None, self._lost))
            except TeacherError as error:
                self._lost(error)

    def _lost(self, error: TeacherError) -> None:
        self.stop(End("server", str(error)))

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self._room.release()

    async def _missing(self) -> AsyncIterator[tuple[Request, Request]]:
        """Yield what is planned and what is to be sent for it."""
        for _, requests in self.plan.batches(ASK_ROWS):
            for planned in requests:
                request = self._shared.claim(self.plan, planned, self._pick, self.progress)
                if request is not None and self.end is not None:
                    self._shared.pending.discard(request.hash)
                    return
                if request is not None:
                    yield planned, request
            await asyncio.sleep(0)

    async def _admit(self) -> tuple[Replica, int] | None:
        """Wait until a request may be sent; None if the teacher is ended first."""
        while self.end is None:
            reached = self._shared.spent()
            if reached:
                self.stop(reached)
                break
            if self._server is not None and not self._server.healthy.is_set():
                await rest(TICK_S, self._ended)
                continue
            probe = next((r for r in self._routes if r.breaker.parked and r.breaker.probe_in() == 0), None)
            if probe is not None:
                probe.breaker.probing()
            route = probe or self._least_busy()
            if route is None:
                await rest(min(r.breaker.probe_in() for r in self._routes), self._ended)
                continue
            if not route.gate.has_room and len(self._routes) > 1 and self.progress.in_flight:
                self._left.clear()  # whichever replica is first to have a place takes the request
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._left.wait(), TICK_S)
                continue
            await self._pacer.wait(self._ended)
            ticket = await route.gate.enter(self._ended)
            if self.end is None and not self._shared.spent() and (probe or not route.breaker.parked):
                self._shared.requests += 1
                return route, ticket
            route.gate.give_back()
        return None

    def _least_busy(self) -> Replica | None:
        awake = [r for r in self._routes if not r.breaker.parked]
        return min(awake, key=lambda r: (not r.gate.has_room, r.gate.in_flight), default=None)

    async def _settle(self, client: Client, planned: Request, request: Request, route: Replica, ticket: int) -> None:
        """Send a request until it is answered, fails for good or may be sent no more; journal what came of it.

        Then send what the answer calls for: the second turn, see `builders.follow_up`.
        """
        attempt, paid = 1, Paid()
        while True:
            sent = await self._send(client, request, route, ticket)
            paid = paid.and_for(sent.outcome)
            failure = sent.outcome if isinstance(sent.outcome, Failure) else None
            if failure is None or failure.error_class not in RETRIED:
                break
            if attempt >= self.teacher.max_attempts and not self._may_wait(failure):
                break
            await rest(backoff_s(attempt, failure.retry_after_s, self._draw), self._ended)
            again = await self._admit()
            if again is None:
                break
            attempt, (route, ticket) = attempt + 1, again
            self.progress.repeats += 1
        record = _record(request, sent, attempt, paid)
        self._shared.journal.keep(record)
        self._shared.pending.discard(request.hash)
        self.count(record, request)
        if self.teacher.follow_up and isinstance(record, Answered) and request.turn == 1:
            await self._go_on(client, planned)

    def _may_wait(self, failure: Failure) -> bool:
        """Whether a request that was sent often enough is sent again: a server that still answers will take it."""
        return failure.error_class == "rate_limit" and self._refused_for() < REFUSED_S

    def _refused_for(self) -> float:
        return 0.0 if self._refused_since is None else time.monotonic() - self._refused_since

    async def _go_on(self, client: Client, planned: Request) -> None:
        try:
            second = self._pick(self.plan, planned)
        except InputError as error:
            self._fail(error)
            return
        if second is None or second.hash in self._shared.pending:
            return
        self._shared.pending.add(second.hash)
        again = await self._admit()
        if again is None:
            self._shared.pending.discard(second.hash)
        else:
            await self._settle(client, planned, second, *again)

    async def _send(self, client: Client, request: Request, route: Replica, ticket: int) -> _Sent:
        started = time.perf_counter()
        self.progress.in_flight += 1
        outcome: Reply | Failure | None = None
        try:
            outcome = await client.ask(route.url, request.body)
        finally:
            self.progress.in_flight -= 1
            failure = outcome if isinstance(outcome, Failure) else None
            route.gate.leave(
                ticket,
                overload=failure is not None and failure.overload,
                retry_after_s=failure.retry_after_s if failure else None,
            )
            self._left.set()
        self._heed(outcome, request, route)
        return _Sent(outcome, (time.perf_counter() - started) * 1000)

    def _heed(self, outcome: Reply | Failure, request: Request, route: Replica) -> None:
        """Draw the consequences of an outcome for the teacher as a whole."""
        if isinstance(outcome, Failure) and outcome.error_class in ("connection", "server", "timeout"):
            route.breaker.failed(outcome.message)
            self.progress.parked = self.parked_because()
        else:
            route.breaker.succeeded()
            self.progress.parked = _resting(route.gate)
            self.progress.heard = True
        if isinstance(outcome, Failure) and outcome.error_class in STOPS_TEACHER:
            self.stop(End(outcome.error_class, advice(self.teacher, route.url, outcome)))
        if not isinstance(outcome, Failure):
            self._refused_since, self._bad = None, None
        elif outcome.error_class == "bad_request":
            self._heed_bad(outcome, route)
        elif outcome.error_class == "rate_limit":
            self._refused_since = self._refused_since or time.monotonic()
            self._heed_refusal(outcome, route)
        self._pacer.used((outcome.prompt_tokens or 0) + (outcome.completion_tokens or 0))
        self._shared.charge(outcome.body, self._cost(outcome), most_usd(self.teacher, request))

    def _heed_bad(self, failure: Failure, route: Replica) -> None:
        """End a teacher that has refused every request so far for the same reason."""
        if self._bad is not None:
            self._bad[failure.message] += 1
            if self._bad.total() == self._bad[failure.message] == SAME_REFUSALS:
                same = f"has refused the first {SAME_REFUSALS} requests alike ({failure.message}): correct the recipe"
                self.stop(End("bad_request", f"teacher '{self.teacher.id}': {bare(route.url)} {same}"))

    def _heed_refusal(self, failure: Failure, route: Replica) -> None:
        """End a teacher that asks for a longer rest than a run waits for, or has refused everything for so long."""
        says = None
        if (failure.retry_after_s or 0.0) > LONGEST_REST_S:
            says = f"asks to be left alone for {failure.retry_after_s:,.0f} s"
        elif self._refused_for() > LONGEST_REST_S:
            says = f"has refused everything for {self._refused_for():,.0f} s"
        if says:
            sentence = f"{bare(route.url)} {says} ({failure.message}): run it again later"
            self.stop(End("parked", f"teacher '{self.teacher.id}': {sentence}"))

    def _cost(self, reply: Reply | Failure | Record) -> float | None:
        price = self.teacher.price
        return price.cost(reply.prompt_tokens, reply.completion_tokens) if price else None

    def parked_because(self) -> str | None:
        """Why every replica is parked; None while one is not."""
        starting = self._server is not None and not self._server.healthy.is_set()
        if self._routes and not starting and all(r.breaker.parked for r in self._routes):
            return self._routes[0].breaker.reason
        return None

    def parked_for(self) -> float:
        """Seconds since every replica has been parked; 0 while one is not."""
        since = [r.breaker.parked_since for r in self._routes if r.breaker.parked_since is not None]
        return time.monotonic() - max(since) if len(since) == len(self._routes) else 0.0

    def give_up_after(self, patience_s: float) -> None:
        """End the teacher if it has been parked for longer, or never answered at all."""
        if self.parked_for() > (patience_s if self.progress.heard else min(patience_s, NEVER_ANSWERED_S)):
            said = self.parked_because()
            self.stop(End("parked", f"teacher '{self.teacher.id}' does not answer and was given up ({said})"))

    def stop(self, end: End) -> None:
        """Send nothing more to this teacher."""
        if self.end is None:
            self.end = end
            self._ended.set()

    def count(self, record: Record, request: Request) -> None:
        """Count an outcome that is on disk."""
        self.progress.count(record, self._cost(record), second=request.turn > 1)


class Paid(NamedTuple):
    """Tokens of a request's replies in this run, those of no use among them; None as long as none reported any."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def and_for(self, said: Reply | Failure) -> Paid:
        """With the tokens of one more reply."""
        return Paid(
            _plus(self.prompt_tokens, said.prompt_tokens), _plus(self.completion_tokens, said.completion_tokens)
        )

    def kept_with(self, reply: Reply) -> Paid:
        """As they are kept with a reply that can be used: unknown where it reports none itself."""
        return Paid(
            None if reply.prompt_tokens is None else self.prompt_tokens,
            None if reply.completion_tokens is None else self.completion_tokens,
        )


def _plus(one: int | None, other: int | None) -> int | None:
    return other if one is None else one + (other or 0)


def _record(request: Request, sent: _Sent, attempts: int, paid: Paid) -> Record:
    """What the journal keeps; the tokens are those of all attempts, where the server counts them."""
    outcome, latency = sent.outcome, round(sent.latency_ms, 3)
    if isinstance(outcome, Reply):
        tokens = paid.kept_with(outcome)
        return Answered(request.hash, outcome.status, outcome.body, attempts, latency, *tokens, now_ms())
    why = outcome.error_class, outcome.message, outcome.body
    return Failed(request.hash, *why, attempts, latency, now_ms(), False, *paid)


def _resting(gate: Gate) -> str | None:
    """What the display says where a server asks for a pause of a second or more."""
    return f"it asks for a pause of {gate.pause_s:,.0f} s" if gate.pause_s >= 1 else None


def advice(teacher: Teacher, url: str, failure: Failure) -> str:
    """What a user should know of a failure that ends a teacher."""
    url = bare(url)
    if failure.error_class == "auth":
        key = teacher.key_name if teacher.api_key else "a request without api_key"
        return f"teacher '{teacher.id}': {url} refuses {key} ({failure.message})"
    if failure.error_class == "payment":
        return f"teacher '{teacher.id}': {url} wants to be paid ({failure.message}): top up, and run it again"
    if failure.error_class == "redirect":
        return f"teacher '{teacher.id}': {url} sends requests elsewhere ({failure.message}): correct base_url"
    return f"teacher '{teacher.id}': {url} does not serve model '{teacher.model}' ({failure.message})"


class Engine(BaseEngine):
    """One run over some plans, from this process.

    Args:
        plans: one per teacher.
        journal: the cache.
        pick: which planned requests are sent.
        settings: where the run stops by itself.
        on_progress: called about five times a second, and once at the end.
        done: teachers of whom nothing is to be asked; their plans are not walked.
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
        self._askers: list[TeacherAsker | BatchAsker] = []
        self._winding_up = False
        self._loop: asyncio.AbstractEventLoop | None = None  # while it may be interrupted

    def run(self) -> None:
        """Ask everything; returns when every teacher is through or ended.

        Raises:
            RaffinateError: the journal cannot be written, or a question cannot be asked.
        """
        if not self._asked:
            self._report()
        elif _in_a_loop():  # a notebook: its loop is busy with the cell that called us
            with on_interrupt(self._interrupt), ThreadPoolExecutor(1) as thread:
                thread.submit(self._run_loop).result()
        else:
            self._run_loop()

    def _run_loop(self) -> None:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        from builders.batch import BatchAsker

        gates = _gates([plan.teacher for plan in self._asked])
        for plan in self._asked:
            if plan.teacher.batch or BatchLog(self._shared.journal).open(plan.teacher.endpoint, plan.teacher.model):
                self._askers.append(BatchAsker(plan, self._pick, self._shared))
                continue
            routes = [Replica(url, gates[url], _breaker()) for url in plan.teacher.base_url]
            self._askers.append(TeacherAsker(plan, self._pick, routes, self._shared))
        self._loop = asyncio.get_running_loop()
        try:
            with on_interrupt(self._interrupt):
                await self._ask_all()
        except BaseExceptionGroup as group:
            ours = group.subgroup(RaffinateError)
            if ours is None:
                raise
            raise _first(ours) from None
        finally:
            self._loop = None
        for asker in self._askers:
            if asker.error is not None:
                raise asker.error

    async def _ask_all(self) -> None:
        async with asyncio.TaskGroup() as outer:
            ticker = outer.create_task(self._tick())
            shared = connections()
            async with shared, asyncio.TaskGroup() as teachers:
                for asker in self._askers:
                    teachers.create_task(asker.run(shared))
            ticker.cancel()
        self._finished = time.monotonic()
        self._report()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self.interrupted or any(asker.error for asker in self._askers):
                self._wind_up()
            self._give_up()
            self._report()

    def _give_up(self) -> None:
        """End parked teachers once nobody else has anything left to do."""
        waiting = [a for a in self._askers if a.parked_because() is not None]
        idle = [a for a in self._askers if a.waits_for_gpus or (a.through and not a.tasks)]
        if len({*waiting, *idle}) < len(self._askers):
            return
        for asker in waiting:
            if isinstance(asker, TeacherAsker):  # batches have a day
                asker.give_up_after(self._shared.settings.patience_s)

    @property
    def requests(self) -> int:
        """Requests sent, repeats included."""
        return self._shared.requests

    @property
    def cost_usd(self) -> float:
        """What counts against the limit: all replies with a known price, failed attempts included (US dollars)."""
        return self._shared.cost_usd

    def _interrupt(self) -> None:
        """Heed a Ctrl-C at once, in whichever thread; before the loop runs, its first tick does."""
        self.interrupted = True
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._wind_up)

    def _wind_up(self) -> None:
        """Send nothing more; what is in flight may still arrive for a while."""
        if self._winding_up:
            return
        self._winding_up = True
        for asker in self._askers:
            asker.stop(INTERRUPTED)
        asyncio.get_running_loop().call_later(GRACE_S, self._drop)

    def _drop(self) -> None:
        for asker in self._askers:
            for task in asker.tasks:
                task.cancel()


def _gates(teachers: Sequence[Teacher]) -> dict[str, Gate]:
    """One gate per URL, as wide as the widest teacher behind it."""
    most: dict[str, int] = {}
    for teacher in teachers:
        for url in teacher.base_url:
            most[url] = max(most.get(url, 0), teacher.max_concurrency)
    return {url: Gate(width, time.monotonic) for url, width in most.items()}


def _breaker() -> Breaker:
    return Breaker(time.monotonic)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loop, which takes less CPU time per request; where it does not exist (Windows), asyncio's own."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _first(group: BaseExceptionGroup[RaffinateError]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
