"""Ask teachers and judges whatever a purifier has to ask, through the builder's own engine.

The journal is the cache here as well: a request that was answered once is never paid again, Ctrl-C loses nothing that
arrived, and the same flow control, retries and limits hold. A request without an answer is a `Said` with the reason;
too many of them, a limit that is reached, or a key that is refused end the run with one sentence. Every request is
kept for the table `calls`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa

from builders.ask import Engine, Settings, check_limit
from builders.engine import End
from builders.journal import FIND, Answered, Failed, Journal, Record, cache_file
from builders.prices import priced
from builders.progress import Snapshot, TeacherProgress
from builders.reply import read_completion
from builders.requests import BATCH_ROWS, Request, Wire
from builders.rows import NOTHING, paid_for
from builders.teacher import Teacher, check_teachers
from schemas.errors import InputError, TeacherError, nearest
from schemas.tables import CALLS

if TYPE_CHECKING:
    from builders.progress import OnProgress
    from builders.template import Messages
    from schemas.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Call:
    """One thing to ask. See the table `calls` for what the fields say.

    Attributes:
        to: id of the teacher or judge.
        about: the teachers whose rationales the prompt shows, in its order.
    """

    to: str
    question_id: str
    purpose: str
    messages: Messages
    about: tuple[str, ...] = ()
    gold_shown: bool = False


@dataclass(slots=True)
class Said:
    """What came of a call.

    Attributes:
        text: the reply without its thinking; None where there is none to use.
        status: as in the table `responses`.
        why_not: why there is no text; empty where there is.
        verdict: what was read from it, for the table `calls`; whoever reads it fills it in.
    """

    text: str | None
    status: str
    why_not: str
    verdict: str | None = None
    row: dict[str, Any] | None = None


class Asker:
    """Teachers and judges that can be asked, within limits that hold for all its calls together.

    Args:
        workspace: whose journal is the cache, unless ``settings`` name another.
        teachers: who can be asked; judges are teachers that are asked no questions of their own.
        settings: limits, cache, and the share of failures above which nothing is made of the replies.
        on_progress: called a few times a second while something is asked.
        serving: called around each round of asking; serves the endpoints meanwhile, if they are ours.

    Raises:
        InputError: two have the same id.
    """

    def __init__(
        self,
        workspace: Workspace,
        teachers: Sequence[Teacher],
        settings: Settings | None = None,
        on_progress: OnProgress | None = None,
        serving: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        check_teachers(tuple(teachers))
        self.workspace, self.settings = workspace, settings or Settings()
        self.teachers = {teacher.id: priced(teacher) for teacher in teachers}
        self._on_progress, self._serving, self._part = on_progress, serving, (0.0, 1.0)
        self._requests, self._cost_usd = 0, 0.0
        self._kept, self._whole = _Ledger(), _Whole()

    def check(self, name: str) -> str:
        """Return the id if it can be asked.

        Raises:
            InputError: there is no such teacher or judge.
        """
        if name not in self.teachers:
            raise InputError(
                f"there is no teacher or judge '{name}'{nearest(name, self.teachers)}: the recipe has "
                f"{', '.join(self.teachers)}; add it under judges there"
            )
        return name

    def ask(
        self,
        calls: Sequence[Call],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        share: float = 1.0,
    ) -> list[Said]:
        """Ask, and wait for all replies; they come in the order of the calls.

        Args:
            calls: what to ask; equal requests are sent once.
            max_tokens: longest reply (tokens); each teacher's own by default.
            temperature: likewise.
            share: how much of all that will be asked is asked after these, 0..1: progress is told of the whole.

        Raises:
            InputError: a name or, with a cost limit, a price is unknown; or a limit was reached before all was asked.
            TeacherError: an endpoint refuses the key or the model, or too many calls have no answer.
            KeyboardInterrupt: Ctrl-C; what arrived is kept.
        """
        plans = self._plans(calls, max_tokens, temperature)
        with Journal(cache_file(self.workspace, self.settings.cache)) as journal:
            missing = [p for p in plans.values() if p.missing(journal)]
            self._whole.share = self._part[0] + share * (self._part[1] - self._part[0])
            self._whole.add(TeacherProgress(p.teacher.id, p.rows, p.rows) for p in plans.values() if p not in missing)
            ends = self._run(missing, journal)
            theirs = {name: plan.said(journal, ends.get(name)) for name, plan in plans.items()}
            said = [next(theirs[call.to]) for call in calls]
        if self._whole.seconds:  # where nothing had to be asked, nothing is told
            self._told(Snapshot(0.0, []))
        self._check_failures(said)
        self._kept.add(said)
        return said

    def _plans(self, calls: Sequence[Call], max_tokens: int | None, temperature: float | None) -> dict[str, Calls]:
        """One plan per teacher or judge asked."""
        mine: dict[str, list[Call]] = {}
        for call in calls:
            mine.setdefault(self.check(call.to), []).append(call)
        update = {} if temperature is None else {"temperature": temperature}
        plans = {}
        for name, theirs in mine.items():
            teacher = self.teachers[name]
            teacher = teacher.model_copy(update={"params": teacher.params.model_copy(update=update)})
            plans[name] = Calls(self.workspace, teacher, theirs, max_tokens or teacher.params.max_tokens)
        return plans

    def _run(self, plans: list[Calls], journal: Journal) -> dict[str, End]:
        if not plans:
            return {}
        check_limit(self.settings, [plan.teacher for plan in plans])
        with self._serving():
            engine = Engine(plans, journal, _lacks(journal), self._left(), self._told)
            engine.run()
        self._whole.add(engine.snapshot().teachers, engine.snapshot().seconds)
        self._requests += engine.requests
        self._cost_usd += engine.cost_usd
        if engine.interrupted:
            raise KeyboardInterrupt
        for end in engine.ends().values():
            if end.error_class == "not_asked":
                raise InputError(
                    f"a limit was reached ({self._limits()}) and more had to be asked: nothing was written, every "
                    "reply is kept; run the same command again with a higher limit"
                )
            if end.error_class != "parked":
                raise TeacherError(end.message)
        return engine.ends()

    def _left(self) -> Settings:
        most, cost = self.settings.max_requests, self.settings.max_cost_usd
        return replace(
            self.settings,
            max_requests=None if most is None else max(0, most - self._requests),
            max_cost_usd=None if cost is None else max(0.0, cost - self._cost_usd),
        )

    def _limits(self) -> str:
        most, cost = self.settings.max_requests, self.settings.max_cost_usd
        told = [f"{most} requests"] if most is not None else []
        return ", ".join(told + ([f"{cost:g} US dollars"] if cost is not None else []))

    def _check_failures(self, said: list[Said]) -> None:
        failed = Counter(s.why_not.split(":")[0] for s in said if s.status == "failed")
        if said and failed.total() / len(said) > self.settings.max_failed_share:
            kinds = ", ".join(f"{n} {kind}" for kind, n in failed.most_common())
            raise TeacherError(
                f"{failed.total()} of {len(said)} requests have no answer ({kinds}): nothing was written; run the "
                "same command again to ask them, or raise build.max_failed_share in the recipe"
            )

    @contextmanager
    def part(self, start: float, end: float) -> Iterator[None]:
        """What is asked meanwhile is the part from ``start`` to ``end`` (0..1) of all that a method will ask."""
        self._part = (start, end)
        try:
            yield
        finally:
            self._part = (0.0, 1.0)

    def _told(self, now: Snapshot) -> None:
        if self._on_progress:
            self._on_progress(self._whole.with_(now))

    def ledger(self, method: str) -> pa.Table:
        """The calls since the last ledger was taken, as rows of `CALLS`; progress starts anew with the next call."""
        self._whole = _Whole()
        return self._kept.take(method)


def _lacks(journal: Journal) -> Callable[[object, Request], Request | None]:
    """Picks the requests that have no answer yet."""
    return lambda _, request: None if journal.settled(request.hash) else request


class Calls:
    """All calls to one teacher or judge, as the engine walks them (`builders.requests.Work`)."""

    def __init__(self, workspace: Workspace, teacher: Teacher, calls: Sequence[Call], max_tokens: int) -> None:
        self.workspace, self.teacher = workspace, teacher
        self._calls, self._max_tokens, self._wire = calls, max_tokens, Wire(teacher)
        self.hashes: list[str] = [self._request(call).hash for call in calls]
        self.params = orjson.dumps(self._wire.sampling(0, max_tokens), option=orjson.OPT_SORT_KEYS).decode()

    @property
    def rows(self) -> int:
        """How many calls there are."""
        return len(self._calls)

    def missing(self, journal: Journal) -> bool:
        """Whether one has no answer yet."""
        return not all(journal.settled(h) for h in self.hashes)

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[tuple[str, Iterator[Request]]]:
        """Yield the requests, made as they are taken."""
        for start in range(0, len(self._calls), rows):
            yield "", map(self._request, self._calls[start : start + rows])

    def said(self, journal: Journal, end: End | None) -> Iterator[Said]:
        """What came of each call, in order."""
        for start in range(0, len(self._calls), FIND):
            part = slice(start, start + FIND)
            found = journal.find_all(self.hashes[part])
            for call, name in zip(self._calls[part], self.hashes[part], strict=True):
                yield _said(self, call, name, found.get(name), end)

    def _request(self, call: Call) -> Request:
        body, name = self._wire.request({"messages": call.messages}, 0, self._max_tokens)
        return Request({"question_id": call.question_id}, 0, body, name, name, self._max_tokens)


def _said(plan: Calls, call: Call, request_hash: str, record: Record | None, end: End | None) -> Said:
    """What the journal knows of a call, and its row in the ledger."""
    completion = read_completion(record.reply) if record and record.reply else None
    answered = isinstance(record, Answered)
    price = plan.teacher.price
    row: dict[str, Any] = {
        "question_id": call.question_id,
        "judge_id": call.to,
        "purpose": call.purpose,
        "about": list(call.about),
        "gold_shown": call.gold_shown,
        "request_hash": request_hash,
        "model": plan.teacher.model,
        "params": plan.params,
        "attempts": record.attempts if record else 0,
        "latency_ms": record.latency_ms if record else None,
        "created_at": record.at_ms if record else None,
    }
    paid = paid_for(record, completion or NOTHING)
    row |= {"prompt_tokens": paid.prompt_tokens, "completion_tokens": paid.completion_tokens}
    batched = record is not None and record.batched
    row["cost_usd"] = price.cost(paid.prompt_tokens, paid.completion_tokens, batched=batched) if price else None
    status, error, message = _outcome(record, end)
    text = completion.text if completion and answered and status != "refused" else None
    row |= {"status": status, "reply": text, "error_class": error, "error_message": message}
    why = f"{error}: {message}" if error else "refused to answer" if status == "refused" else ""
    return Said(text or None, status, why or ("" if text else "an empty reply"), row=row)


def _outcome(record: Record | None, end: End | None) -> tuple[str, str | None, str | None]:
    if isinstance(record, Answered):
        return record.status, None, None
    if isinstance(record, Failed):
        return "failed", record.error_class, record.message
    return "failed", end.error_class if end else "not_asked", end.message if end else "it was not asked"


@dataclass
class _Whole:
    """How far a method is that asks in several rounds, as if they were one.

    Attributes:
        asked: counts of the rounds that are over.
        seconds: they took.
        share: of all rounds, how much is over with the one under way (0..1).
    """

    asked: dict[str, TeacherProgress] = field(default_factory=dict)
    seconds: float = 0.0
    share: float = 1.0

    def add(self, teachers: Iterable[TeacherProgress], seconds: float = 0.0) -> None:
        """A round is over."""
        self.asked, self.seconds = self._sum(teachers), self.seconds + seconds

    def with_(self, now: Snapshot) -> Snapshot:
        """All rounds with the one under way; totals are what they come to if the rest is like that."""
        counts = self._sum(now.teachers).values()
        expected = [replace(c, total=max(c.total, round(c.total / max(self.share, 1e-9)))) for c in counts]
        return Snapshot(self.seconds + now.seconds, expected)

    def _sum(self, teachers: Iterable[TeacherProgress]) -> dict[str, TeacherProgress]:
        return self.asked | {t.teacher_id: t.after(self.asked.get(t.teacher_id)) for t in teachers}


@dataclass
class _Ledger:
    """Calls on their way to the table `calls`: the latest as they are, still to be read, earlier ones as Arrow."""

    tables: list[pa.Table] = field(default_factory=list)
    latest: list[Said] = field(default_factory=list)
    hashes: set[str] = field(default_factory=set)

    def add(self, said: list[Said]) -> None:
        self._settle()
        self.latest = said

    def _settle(self) -> None:
        rows = []
        for said in self.latest:
            if said.row is not None and said.row["request_hash"] not in self.hashes:
                self.hashes.add(said.row["request_hash"])
                rows.append({**said.row, "verdict": said.verdict})
            said.row = None
        if rows:
            self.tables.append(pa.Table.from_pylist(rows, schema=_ROWS))
        self.latest = []

    def take(self, method: str) -> pa.Table:
        self._settle()
        rows = pa.concat_tables(self.tables) if self.tables else _ROWS.empty_table()
        self.tables, self.hashes = [], set()
        rows = rows.append_column("method", pa.repeat(pa.scalar(method), len(rows)))
        rows = rows.append_column("call_idx", pa.array(range(len(rows)), pa.int64()))
        return rows.select(CALLS.names).cast(CALLS.arrow)


_ROWS = pa.schema([f for f in CALLS.arrow if f.name not in ("method", "call_idx")])
