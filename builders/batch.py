"""Asks one teacher through its server's Batch API: the same requests, the same journal, another way there.

In rounds. A round walks the plan, writes what is neither answered nor under way into files, makes a batch of each, and
waits for all of them, those of earlier runs included; what failed, and the second turns of what came, make up the next
round. What is under way is in the journal (`builders.batch_log`), so a run that ends, in whichever way, leaves its
batches to the server and the next run collects them.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import orjson

from builders.ask import ASK_ROWS, Pick, Shared, advice
from builders.batch_log import BatchLog, Submitted
from builders.batch_server import ENDED, ENDPOINT, BatchServer, Refused, read_line
from builders.client import RETRIED, STOPS_TEACHER, Failure, Reply, bare
from builders.engine import End
from builders.flow import backoff_s, rest
from builders.journal import Answered, Failed, Record, now_ms
from builders.progress import TeacherProgress
from builders.teacher import Batch
from schemas.errors import InputError, WorkspaceError

if TYPE_CHECKING:
    import aiohttp
    from openai.types import Batch as Found

    from builders.requests import Request, Work

Result = TypeVar("Result")
COMMIT = 200
"""Lines of a finished batch that are committed at once."""
FIRST_LOOK_S, LONGEST_PAUSE_S = 0.2, 60.0
FULL_PAUSE_S = 60.0  # before a batch is sent again that was more than the account may have queued
PATIENCE = 0.1
"""How long a server may fail, as a share of the time that a batch has taken: a day's work outlasts an hour offline."""


class BatchAsker:
    """Asks one teacher everything that `pick` lets through; has the face of `builders.ask.TeacherAsker`.

    A teacher that is no longer asked in batches is, as long as it has some under way.
    """

    waits_for_gpus = False

    def __init__(self, plan: Work, pick: Pick, shared: Shared) -> None:
        self.plan, self.teacher, self._batch = plan, plan.teacher, plan.teacher.batch or Batch()
        self.progress = TeacherProgress(plan.teacher.id, plan.rows)
        self.end: End | None = None
        self.error: InputError | None = None
        self.through = False
        self.tasks: set[asyncio.Task[None]] = set()
        self._pick, self._shared, self._log = pick, shared, BatchLog(shared.journal)
        self._mean = shared.journal.mean_completion_tokens()
        self._ended = asyncio.Event()
        self._draw = random.Random(plan.teacher.id)
        self._tried: dict[str, int] = {}  # attempts in this run, where they failed
        self._given_up: set[str] = set()
        self._turns: set[str] = set()  # second turns among what this run sent
        self._reserved: dict[str, float] = {}
        self._held: End | None = None
        self._limited = False

    def parked_because(self) -> str | None:
        """Nothing: a batch is waited for as long as it takes."""
        return None

    def give_up_after(self, patience_s: float) -> None:
        """Never, as it is never parked."""

    def stop(self, end: End) -> None:
        """Send nothing more, and wait no longer; what is under way goes on at the server."""
        if self.end is not None:
            return
        left = sum(batch.batch_id is not None and not batch.missed for batch in self._open())
        if left:
            goes_on = f"{left} batches go on at the server, the next build collects them"
            end = End(end.error_class, f"{end.message} ({goes_on})")
        self.end = end
        self._ended.set()

    def _open(self) -> list[Submitted]:
        return self._log.open(self.teacher.endpoint, self.teacher.model)

    async def run(self, _: aiohttp.TCPConnector) -> None:
        """Ask and collect, round by round."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self._run()
        except InputError as error:  # a question cannot be asked: the run will fail, once the others' replies are in
            self.error = error
            self.stop(End("not_asked", str(error)))
        finally:
            self.through = True
            self.tasks.discard(task)

    async def _run(self) -> None:
        async with BatchServer.opened(self.teacher) as server:
            first = True
            while not self._ended.is_set():
                await self._recover(server)
                sent = await self._send_missing(server, first=first)
                waiting = self._open()
                if not self._ended.is_set() and not waiting and not sent:
                    if self._held:
                        self.stop(self._held)
                    break
                await self._wait_for(server, waiting)
                if self._limited:
                    await rest(FULL_PAUSE_S, self._ended)
                first = self._limited = False

    # Sending

    async def _recover(self, server: BatchServer) -> None:
        """Find out what became of batches whose sending a run did not live to note down."""
        for batch in self._open():
            if batch.batch_id is None and not self._ended.is_set():
                found = await self._call(partial(server.find, batch.name))
                if found is not None:
                    self._log.submitted(batch.name, found)
                elif not self._ended.is_set():
                    self._log.end(batch.name, "never sent")

    async def _send_missing(self, server: BatchServer, *, first: bool) -> bool:
        """Walk the plan; send what is to be asked in files that keep the limits. True if something was sent."""
        folder = self.plan.workspace.private / "batches"
        folder.mkdir(exist_ok=True)
        sent, self._held = False, None
        chunk = _Chunk(folder)
        try:
            for _, requests in self.plan.batches(ASK_ROWS):
                for planned in requests:
                    request = self._wanted(planned, chunk, first=first)
                    if request is None:
                        continue
                    line = _line(request)
                    if chunk.is_full(self._batch.max_requests, self._batch.max_bytes, len(line)):
                        sent = await self._submit(server, chunk) or sent
                        chunk = _Chunk(folder)
                    self._held = self._shared.spent()
                    if self._held:
                        break
                    self._take(chunk, request, line)
                await asyncio.sleep(0)
                if self._held or self._ended.is_set():
                    break
            return (await self._submit(server, chunk) if not self._ended.is_set() else False) or sent
        finally:
            chunk.discard()

    def _wanted(self, planned: Request, chunk: _Chunk, *, first: bool) -> Request | None:
        """What is to be sent for a planned request in this round."""
        request = self._pick(self.plan, planned) if planned.wanted else None
        if request is None or request.turn > 1 or request.hash in chunk.hashes:
            self.progress.cached += first and planned.wanted
        if request is None or request.hash in chunk.hashes or request.hash in self._given_up:
            return None
        return None if self._log.under_way(request.hash) else request

    def _take(self, chunk: _Chunk, request: Request, line: bytes) -> None:
        """Put a request into the batch that is being made, and hold back what it may cost."""
        chunk.add(request.hash, line)
        self._shared.requests += 1
        if request.turn > 1:
            self._turns.add(request.hash)
        if self.teacher.price:
            tokens = round(self._mean) if self._mean else request.max_tokens
            chunk.usd += self.teacher.price.cost(len(request.body) // 4, tokens, batched=True) or 0.0
        self._shared.reserved_usd += chunk.usd - self._reserved.get(chunk.name, 0.0)
        self._reserved[chunk.name] = chunk.usd

    async def _submit(self, server: BatchServer, chunk: _Chunk) -> bool:
        """Send a file and start its batch. It is noted first, so that a run that ends in between finds it again."""
        if not chunk.hashes:
            return False
        chunk.close()
        noted = Submitted(
            chunk.name, self.teacher.endpoint, self.teacher.model, len(chunk.hashes), at_ms=now_ms(), batch_id=None
        )
        self._log.plan(noted, list(chunk.hashes))
        try:
            file_id = await self._call(partial(server.upload, chunk.path))
        finally:
            chunk.discard()
        if file_id is None:
            self._strike_off(noted, "never sent")
            return False
        batch_id = await self._call(partial(self._create, server, noted.name, file_id))
        if batch_id is not None:
            self._log.submitted(noted.name, batch_id)
            self._tell()
        return batch_id is not None

    async def _create(self, server: BatchServer, name: str, file_id: str) -> str:
        """Start a batch, unless an earlier try did and its reply was lost."""
        try:
            return await server.create(name, file_id, self._batch.window)
        except Refused as error:
            if error.failure.error_class in ("connection", "timeout", "server", "malformed"):
                with suppress(Refused):
                    found = await server.find(name)
                    if found is not None:
                        return found
            raise

    # Waiting and collecting

    async def _wait_for(self, server: BatchServer, batches: list[Submitted]) -> None:
        """Look after batches, ever more seldom, until each has ended and is collected."""
        left = {batch.batch_id: batch for batch in batches if batch.batch_id is not None}
        counts: dict[str, tuple[int, int]] = {}
        while left and not self._ended.is_set():
            for batch_id, batch in list(left.items()):
                found = await self._call(partial(server.look, batch_id), batch)
                if self._ended.is_set():
                    return
                if found is None:
                    self._miss(left.pop(batch_id))
                    continue
                counts[batch_id] = _counts(found)
                self._tell(counts)
                if found.status in ENDED and await self._collect(server, batch, found):
                    self._strike_off(left.pop(batch_id), found.status)
                    counts.pop(batch_id)
                    self._tell(counts)
            if left:
                youngest = min(batch.age_s for batch in left.values())
                await rest(min(LONGEST_PAUSE_S, max(FIRST_LOOK_S, PATIENCE * youngest)), self._ended)

    def _miss(self, batch: Submitted) -> None:
        """The server does not know a batch. Its requests may have been paid, so only the next run sends them again.

        Until then it may turn out that the key was that of another account.
        """
        if batch.missed:
            self._strike_off(batch, "unknown to the server")
            return
        self._log.missed(batch.name)
        key = self.teacher.key_name if self.teacher.api_key else "a request without api_key"
        sentence = (
            f"teacher '{self.teacher.id}': {bare(self.teacher.base_url[0])} does not know batch {batch.batch_id} of "
            f"{batch.requests} requests by {key}: give the key that it was sent with; a build that does not find it "
            "either takes it for lost and sends its requests again"
        )
        self.stop(End("not_found", sentence))

    def _strike_off(self, batch: Submitted, how: str) -> None:
        self._log.end(batch.name, how)
        self._shared.reserved_usd -= self._reserved.pop(batch.name, 0.0)

    async def _collect(self, server: BatchServer, batch: Submitted, found: Found) -> bool:
        """Journal what came of every request of a batch; False where the teacher was ended before."""
        left, fault = self._log.requests(batch.name), _fault(found)
        self._limited = self._limited or (found.status == "failed" and fault.error_class == "rate_limit")
        for file_id in (found.output_file_id, found.error_file_id):
            if file_id is not None:
                await self._call(partial(self._read_file, server, batch, file_id, left), batch)
        if not self._ended.is_set():
            self._keep([self._record(batch, name, fault) for name in left])
        return not self._ended.is_set()

    async def _read_file(self, server: BatchServer, batch: Submitted, file_id: str, left: set[str]) -> bool:
        """Journal the lines of a file whose requests are in ``left``, and take those out."""
        records: list[Record] = []
        try:
            async for line in server.lines(file_id):
                said = read_line(line, self.teacher)
                if said is None or said.request_hash not in left:
                    continue
                left.discard(said.request_hash)
                records.append(self._record(batch, said.request_hash, said.outcome))
                if len(records) >= COMMIT:
                    self._keep(records)
                    records = []
                    await asyncio.sleep(0)
                    if self._ended.is_set():
                        break
        finally:
            self._keep(records)  # a download that breaks off is begun anew, without them
        return True

    def _record(self, batch: Submitted, request_hash: str, outcome: Reply | Failure) -> Record:
        attempts = self._tried.pop(request_hash, 0) + 1
        tokens = outcome.prompt_tokens, outcome.completion_tokens  # the journal adds them to those of earlier attempts
        if price := self.teacher.price:
            most = self._reserved.get(batch.name, 0.0) / batch.requests  # of a batch of an earlier run: not known
            most = most or price.cost(0, self.teacher.params.max_tokens, batched=True) or 0.0
            self._shared.charge(outcome.body, price.cost(*tokens, batched=True), most)
        latency = now_ms() - batch.at_ms
        if isinstance(outcome, Reply):
            return Answered(request_hash, outcome.status, outcome.body, attempts, latency, *tokens, now_ms(), True)
        if outcome.error_class in STOPS_TEACHER:
            self.stop(End(outcome.error_class, advice(self.teacher, self.teacher.base_url[0], outcome)))
        if outcome.error_class in RETRIED and attempts < self.teacher.max_attempts:
            self._tried[request_hash] = attempts
        else:
            self._given_up.add(request_hash)
        why = outcome.error_class, outcome.message, outcome.body
        return Failed(request_hash, *why, attempts, latency, now_ms(), True, *tokens)

    def _keep(self, records: list[Record]) -> None:
        """Commit records, then count them."""
        self._shared.journal.keep_all(records)
        for record in records:
            name, tokens = record.request_hash, (record.prompt_tokens, record.completion_tokens)
            cost = self.teacher.price.cost(*tokens, batched=True) if self.teacher.price else None
            self.progress.count(record, cost, second=name in self._turns, again=name not in self._given_up)

    # What both need

    async def _call(self, make: Callable[[], Awaitable[Result]], batch: Submitted | None = None) -> Result | None:
        """Call the server until it does what it is asked; None where it will not, which ends the teacher.

        With ``batch`` a server that fails is given more time, the longer the batch has been under way; None is then
        also the answer of a server that does not know the batch.
        """
        attempt, failing_since = 1, now_ms()
        while not self._ended.is_set():
            try:
                return await make()
            except Refused as error:
                failure = error.failure
            failing_s = (now_ms() - failing_since) / 1000
            if batch is not None and failure.error_class == "not_found":
                return None
            patient = batch is not None and failing_s < PATIENCE * batch.age_s
            if failure.error_class not in RETRIED or (attempt >= self.teacher.max_attempts and not patient):
                self.stop(self._why(failure))
                return None
            await rest(backoff_s(attempt, failure.retry_after_s, self._draw), self._ended)
            attempt += 1
        return None

    def _why(self, failure: Failure) -> End:
        url = bare(self.teacher.base_url[0])
        if failure.error_class in STOPS_TEACHER - {"not_found"}:
            return End(failure.error_class, advice(self.teacher, url, failure))
        if failure.error_class == "not_found":
            return End("not_found", f"teacher '{self.teacher.id}': {url} has no Batch API ({failure.message})")
        kind = "parked" if failure.error_class in RETRIED else failure.error_class
        help_ = ": lower batch.max_bytes" if failure.message.startswith("HTTP 413") else ""
        return End(
            kind, f"teacher '{self.teacher.id}': the Batch API of {url} does not work ({failure.message}){help_}"
        )

    def _tell(self, counts: dict[str, tuple[int, int]] | None = None) -> None:
        """Say for the display how far the batches are."""
        batches = self._open()
        self.progress.in_flight = sum(batch.requests for batch in batches)
        answered = sum(done for done, _ in (counts or {}).values())
        self.progress.under_way = (
            f"{len(batches)} batches under way, {answered:,} of {self.progress.in_flight:,} requests answered"
            if batches
            else None
        )


class _Chunk:
    """A file of requests that is being filled."""

    def __init__(self, folder: Path) -> None:
        self.name = uuid.uuid4().hex
        self.path = folder / f"raffinate-{self.name}.jsonl"
        self.hashes: dict[str, None] = {}
        self.usd = 0.0
        self._size = 0
        self._file: BinaryIO | None = None

    def is_full(self, lines: int, size: int, more: int) -> bool:
        """Whether another line of ``more`` bytes would break a limit."""
        return bool(self.hashes) and (len(self.hashes) >= lines or self._size + more > size)

    def add(self, request_hash: str, line: bytes) -> None:
        """Write a line."""
        try:
            self._file = self._file or self.path.open("wb")
            self._file.write(line)
        except OSError as error:
            raise WorkspaceError(f"cannot write {self.path}: {error.strerror}: nothing that arrived is lost") from error
        self.hashes[request_hash] = None
        self._size += len(line)

    def close(self) -> None:
        """Have everything on disk."""
        if self._file:
            self._file.close()

    def discard(self) -> None:
        """Remove the file: what it holds can be made again."""
        self.close()
        self.path.unlink(missing_ok=True)


def _line(request: Request) -> bytes:
    head = orjson.dumps({"custom_id": request.hash, "method": "POST", "url": ENDPOINT})
    return b'%b,"body":%b}\n' % (head[:-1], request.body)


def _counts(found: Found) -> tuple[int, int]:
    counts = found.request_counts
    return (counts.completed + counts.failed, counts.total) if counts else (0, 0)


def _fault(found: Found) -> Failure:
    """What a request has met that no line of its batch's files speaks of."""
    said = [error.message or error.code or "" for error in (found.errors.data if found.errors else None) or []]
    if found.status == "failed":
        codes = {error.code for error in (found.errors.data if found.errors else None) or []}
        kind = "rate_limit" if codes & {"token_limit_exceeded", "request_limit_exceeded"} else "bad_request"
        return Failure(kind, f"batch {found.id} failed: {'; '.join(said)[:400] or 'the server does not say why'}")
    if found.status in ("expired", "cancelled"):
        return Failure(found.status, f"batch {found.id} {'was ' * (found.status == 'cancelled')}{found.status}")
    return Failure("malformed", f"batch {found.id} has no readable line for this request")
