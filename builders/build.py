"""Build a corpus: ask every teacher every question, keep every answer, and write the rows.

A build asks what has no answer yet: questions that are new, requests that changed, and those that failed. Answers
that came (``ok``, ``truncated``, ``refused``) are never asked again, except by `retry`. The rows of each teacher asked
are then written anew from the journal, unless they would come out the same; folders of other teachers (imported, or no
longer in the recipe) are left alone.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builders.ask import Engine, Pick, Settings, check_limit
from builders.batch_log import BatchLog
from builders.engine import End
from builders.follow_up import due, follow_up, missing_turn
from builders.journal import Answered, Journal, cache_file, now_ms, own_file
from builders.prices import priced
from builders.progress import OnProgress, Snapshot
from builders.requests import Plan, Request
from builders.route import Route, routed
from builders.rows import NOT_ASKED, UNDER_WAY, Rows, TeacherRows
from builders.teacher import Teacher, check_teachers
from builders.written import Written
from schemas.errors import InputError

if TYPE_CHECKING:
    from builders.prompt import Prompt
    from builders.ray_engine import RayEngine
    from schemas.workspace import Workspace


@dataclass(frozen=True)
class BuildSummary:
    """What a run did, and what the workspace holds after it.

    Attributes:
        run: counts of this run: requests, tokens, cost.
        rows: rows of each teacher asked.
        ends: the teachers that were not asked everything, and why.
        interrupted: Ctrl-C or SIGTERM ended the run.
        max_failed_share: share of failed rows above which the run counts as failed.
        charged_usd: what counted against the limit of the cost: replies of unknown cost at the most that they can be.
    """

    run: Snapshot
    rows: list[TeacherRows]
    ends: dict[str, End]
    interrupted: bool
    max_failed_share: float
    charged_usd: float

    @property
    def failed_share(self) -> float:
        """Share of rows without an answer (0..1)."""
        total = sum(t.total for t in self.rows)
        return sum(t.statuses["failed"] for t in self.rows) / total if total else 0.0

    @property
    def exit_code(self) -> int:
        """130 after an interrupt, 1 if a teacher was ended early or too many rows failed, else 0."""
        if self.interrupted:
            return 130
        return int(bool(self.ends) or self.failed_share > self.max_failed_share)

    @property
    def advice(self) -> list[str]:
        """One sentence per thing that the user should know or do."""
        told = list(dict.fromkeys(end.message for end in self.ends.values()))
        errors = sum((t.errors for t in self.rows), Counter[str]())
        under_way = errors.pop(UNDER_WAY[0], 0)
        if under_way:
            told.append(f"{under_way} rows are in batches under way: a new build looks for them")
        failed = errors.total()
        if failed:
            kinds = ", ".join(f"{n} {kind}" for kind, n in errors.most_common())
            share = failed / sum(t.total for t in self.rows)
            told.append(f"{failed} rows ({share:.1%}) have no answer ({kinds}): a new build asks them")
        told += self._most_frequent(told)
        unfinished = sum(t.unfinished for t in self.rows)
        if unfinished:
            told.append(f"{unfinished} replies without an answer could not be asked for it: a new build asks them")
        truncated = sum(t.statuses["truncated"] for t in self.rows)
        if truncated:
            told.append(
                f"{truncated} answers were cut at the token limit: ask them again with  raffinate retry --where "
                "\"finish_reason = 'length'\" --max-tokens N"
            )
        return told

    def _most_frequent(self, told: list[str]) -> list[str]:
        """The most frequent message of failed rows, unless it has been told."""
        messages = sum((t.messages for t in self.rows), Counter[str]())
        for message in (NOT_ASKED[1], UNDER_WAY[1], *(end.message for end in self.ends.values())):
            messages.pop(message, None)
        for message, n in messages.most_common(1):
            if not any(message in sentence for sentence in told):
                return [f"the most frequent reason, of {n} rows: {message}"]
        return []


def build(  # noqa: PLR0913  the last by name only
    workspace: Workspace,
    teachers: Sequence[Teacher],
    prompt: Prompt,
    settings: Settings | None = None,
    on_progress: OnProgress | None = None,
    *,
    route: Route | None = None,
) -> BuildSummary:
    """Ask what has no answer yet, and write the rows of every teacher given.

    Args:
        workspace: holds the questions; its lock is taken.
        teachers: whom to ask.
        prompt: how to ask.
        settings: where to stop by itself, which cache to use, ...
        on_progress: called a few times a second.
        route: chooses whom to ask each question; None asks everybody. See `builders.route`.

    Raises:
        InputError: a teacher, the prompt or the router does not fit the questions, or a cost limit cannot be kept.
        WorkspaceError: the workspace is in use, has no questions, or its disk is full.
    """
    settings = settings or Settings()
    with _opened(workspace, teachers, prompt, settings.cache, route) as (plans, journal, _):

        def pick(plan: Plan, request: Request) -> Request | None:
            return due(plan, request, journal)

        written = Written(workspace, journal)
        done = {plan.teacher.id for plan in plans if _done(plan, journal, written)}
        engine = _ask(plans, journal, pick, settings, on_progress, done)
        return _write(workspace, plans, journal, engine, settings)


def _done(plan: Plan, journal: Journal, written: Written) -> bool:
    """Whether nothing is left to ask or collect, going by the counts of rows that are up to date."""
    rows = written.find(plan)
    return rows is not None and rows.settled and not BatchLog(journal).open(plan.teacher.endpoint, plan.teacher.model)


def retry(  # noqa: PLR0913  the last five by name only
    workspace: Workspace,
    teachers: Sequence[Teacher],
    prompt: Prompt,
    *,
    where: str | None = None,
    max_tokens: int | None = None,
    settings: Settings | None = None,
    on_progress: OnProgress | None = None,
    route: Route | None = None,
) -> BuildSummary:
    """Ask some rows again, and only those.

    A new answer replaces the old one; where none comes, the old one stays. With ``max_tokens`` the request changes, and
    later builds keep the change for these rows, until the recipe asks them in another way.

    Args:
        where: SQL condition on ``responses``; by default ``status = 'failed'``, with ``max_tokens`` the truncated rows.
        max_tokens: new token limit of these rows.
        workspace, teachers, prompt, settings, on_progress, route: as for `build`.

    Raises:
        InputError: the condition is no SQL, or no row of these teachers fits it.
    """
    where = where or ("status = 'truncated'" if max_tokens else "status = 'failed'")
    settings = settings or Settings()
    with _opened(workspace, teachers, prompt, settings.cache, route) as (plans, journal, own):
        again = _Again(journal, _matching(workspace, teachers, where), max_tokens)
        engine = _ask(plans, journal, again.pick, settings, on_progress)
        if not again.found and not engine.ends():
            raise InputError("rows fit, but the recipe has changed since they were asked: run  raffinate build  first")
        own.override(again.stand())
        overrides = own.overrides()
        for plan in plans:
            plan.overrides = overrides
        return _write(workspace, plans, journal, engine, settings)


class _Again:
    """Picks the requests that a retry names, with their new token limit, until each has a new answer."""

    def __init__(self, journal: Journal, wanted: set[str], max_tokens: int | None) -> None:
        self._journal, self._wanted, self._max_tokens = journal, wanted, max_tokens
        self._since = now_ms()
        self._changed: dict[str, str] = {}
        self.found = False

    def pick(self, plan: Plan, planned: Request) -> Request | None:
        if planned.hash not in self._wanted:
            return None
        self.found, request = True, planned
        if self._max_tokens is not None and self._max_tokens != planned.max_tokens:
            request = plan.with_max_tokens(planned, self._max_tokens)
            self._changed[request.base] = request.hash
        record = self._journal.find(request.hash)
        old = request is planned and record is not None and record.at_ms < self._since
        if old or not isinstance(record, Answered):
            return request
        return missing_turn(plan, request, record, self._journal)

    def stand(self) -> Iterator[tuple[str, int]]:
        """Yield the new token limit of each request that was answered with it."""
        for base, changed in self._changed.items():
            if self._max_tokens is not None and self._journal.settled(changed):
                yield base, self._max_tokens


def _matching(workspace: Workspace, teachers: Sequence[Teacher], where: str) -> set[str]:
    from schemas.database import query, quote

    names = ", ".join(quote(t.id) for t in teachers)
    asked = f"request_hash IS NOT NULL AND teacher_id IN ({names})"
    rows = query(workspace, f"SELECT request_hash FROM responses WHERE {asked} AND (\n{where}\n)")
    if not rows.num_rows:
        raise InputError(f"no response of these teachers fits  {where}  in {workspace.path}: nothing to ask again")
    return set(rows["request_hash"].to_pylist())


@contextmanager
def _opened(
    workspace: Workspace,
    teachers: Sequence[Teacher],
    prompt: Prompt,
    cache: str | os.PathLike[str] | None,
    route: Route | None,
) -> Iterator[tuple[list[Plan], Journal, Journal]]:
    """As `_reading`, with the lock."""
    with workspace.lock(), _seldom_collecting(), _reading(workspace, teachers, prompt, cache, route) as found:
        yield found


@contextmanager
def _reading(
    workspace: Workspace,
    teachers: Sequence[Teacher],
    prompt: Prompt,
    cache: str | os.PathLike[str] | None,
    route: Route | None,
) -> Iterator[tuple[list[Plan], Journal, Journal]]:
    """Plan, and open the cache and the workspace's own journal, also beside a run that is writing them."""
    check_teachers(tuple(teachers))
    check_prompt(workspace, prompt)
    with ExitStack() as stack:
        own = stack.enter_context(Journal(own_file(workspace)))
        shared = cache_file(workspace, cache)
        journal = own if shared == own.path else stack.enter_context(Journal(shared))
        yield _plans(workspace, teachers, prompt, own, route), journal, own


@contextmanager
def _seldom_collecting() -> Iterator[None]:
    """Look for cycles more seldom: replies and rows come by the thousand and hold none (5 % of the CPU time)."""
    before = gc.get_threshold()
    gc.set_threshold(10_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _plans(
    workspace: Workspace, teachers: Sequence[Teacher], prompt: Prompt, own: Journal, route: Route | None
) -> list[Plan]:
    overrides, marks = own.overrides(), routed(workspace, teachers, route) if route else {}
    return [Plan(workspace, priced(teacher), prompt, overrides, marks.get(teacher.id)) for teacher in teachers]


def check_prompt(workspace: Workspace, prompt: Prompt) -> None:
    """Refuse a prompt that shows gold where a question has none, before anybody is asked.

    Raises:
        InputError: names the first such question, or says that a few-shot prompt has no examples.
    """
    if not prompt.gold_shown and not prompt.few_shot:
        return
    from schemas.database import connect

    with connect(workspace) as con:
        condition = "answer IS NULL" if prompt.gold_shown else "true"
        columns = "question_id, question, choices, context, task, domain, dataset, answer"
        found = con.sql(f"SELECT {columns} FROM questions WHERE {condition} LIMIT 1").to_arrow_table().to_pylist()
    for question in found:
        prompt.messages(question)


def _ask(  # noqa: PLR0913, PLR0917  what the engine takes
    plans: list[Plan],
    journal: Journal,
    pick: Pick,
    settings: Settings,
    on_progress: OnProgress | None,
    done: Collection[str] = (),
) -> Engine | RayEngine:
    check_limit(settings, [plan.teacher for plan in plans])
    engine = _engine(settings)(plans, journal, pick, settings, on_progress, done)
    engine.run()
    return engine


def _engine(settings: Settings) -> type[Engine | RayEngine]:
    if settings.engine == "local":
        return Engine
    from builders.ray_engine import RayEngine

    return RayEngine


def _write(
    workspace: Workspace, plans: list[Plan], journal: Journal, engine: Engine | RayEngine, settings: Settings
) -> BuildSummary:
    from schemas.database import refresh

    ends, found = engine.ends(), []
    fresh: list[tuple[Plan, TeacherRows]] = []
    written = Written(workspace, journal)
    for plan in plans:
        counts = written.find(plan)
        if counts is None:
            rows = Rows(plan, journal, ends.get(plan.teacher.id))
            workspace.write_responses(plan.teacher.id, rows.batches())
            counts = rows.counts
            fresh.append((plan, counts))
        found.append(counts)
    if fresh or not workspace.database.exists():
        refresh(workspace)
    for of_plan in fresh:
        written.keep(*of_plan)
    share = settings.max_failed_share
    return BuildSummary(engine.snapshot(), found, ends, engine.interrupted, share, engine.cost_usd)


@dataclass(frozen=True)
class TeacherEstimate:
    """What a build would still ask of one teacher; tokens are approximate.

    Attributes:
        requests: requests without an answer in the journal, second turns included.
        follow_ups: second turns among them: those due, and of replies yet to come the share that needed one so far.
        prompt_tokens: a quarter of their bytes.
        completion_tokens: at the mean of the journal's latest replies, else at the token limit.
        measured: whether that mean was known.
        cost_usd: None where the recipe has no price (US dollars).
    """

    teacher_id: str
    rows: int
    requests: int
    follow_ups: int
    prompt_tokens: int
    completion_tokens: int
    measured: bool
    cost_usd: float | None

    @classmethod
    def of(  # noqa: PLR0913  what is counted, by name
        cls,
        teacher: Teacher,
        *,
        rows: int,
        requests: int,
        size: int,
        limit: int,
        mean: float | None,
        follow_ups: int = 0,
    ) -> TeacherEstimate:
        """The estimate for requests that were counted.

        Args:
            teacher, rows, requests, follow_ups: as above.
            size: of all requests (bytes).
            limit: their token limits, summed.
            mean: completion tokens of a reply, where that is known.
        """
        prompt, completion = size // 4, limit if mean is None else round(requests * mean)
        cost = teacher.price.cost(prompt, completion, batched=teacher.batch is not None) if teacher.price else None
        return cls(teacher.id, rows, requests, follow_ups, prompt, completion, mean is not None, cost)


def estimate(
    workspace: Workspace,
    teachers: Sequence[Teacher],
    prompt: Prompt,
    *,
    cache: str | os.PathLike[str] | None = None,
    route: Route | None = None,
) -> list[TeacherEstimate]:
    """Count what a build would ask, without asking; nothing is written but an empty journal.

    Raises:
        InputError: as `build`.
        WorkspaceError: the workspace has no questions.
    """
    with _reading(workspace, teachers, prompt, cache, route) as (plans, journal, _):
        mean = journal.mean_completion_tokens()
        return [_estimate(plan, journal, mean) for plan in plans]


def _estimate(plan: Plan, journal: Journal, mean: float | None) -> TeacherEstimate:
    rows = requests = size = limit = answered = unread = turns = 0
    for _, batch in plan.batches():
        for request in batch:
            if not request.wanted:
                continue
            rows += 1
            missing = due(plan, request, journal)
            answered += missing is None or missing.turn > 1
            if plan.teacher.follow_up and (missing is None or missing.turn > 1):
                unread += follow_up(plan, request, journal.find(request.hash)) is not None
            if missing is not None:
                requests, size, turns = requests + 1, size + len(missing.body), turns + (missing.turn > 1)
                limit += missing.max_tokens
    expected = round((requests - turns) * unread / answered) if answered else 0
    grown = 1 + expected / max(requests, 1)
    return TeacherEstimate.of(
        plan.teacher,
        rows=rows,
        requests=requests + expected,
        follow_ups=turns + expected,
        size=round(size * grown),
        limit=round(limit * grown),
        mean=mean,
    )


def status(
    workspace: Workspace,
    teachers: Sequence[Teacher],
    prompt: Prompt,
    *,
    cache: str | os.PathLike[str] | None = None,
    route: Route | None = None,
) -> list[TeacherRows]:
    """How far a corpus is, from the journal, also while a build is running.

    Returns:
        Per teacher: rows by status, with ``missing`` for those never asked, and failures by error class.
    """
    with _reading(workspace, teachers, prompt, cache, route) as (plans, journal, _):
        return [_status(plan, journal) for plan in plans]


def _status(plan: Plan, journal: Journal) -> TeacherRows:
    log = BatchLog(journal)
    found = TeacherRows(plan.teacher.id, batches=log.open(plan.teacher.endpoint, plan.teacher.model))
    for _, batch in plan.batches():
        for request in batch:
            known = journal.outcome(request.hash)
            if not request.wanted and (known is None or known.startswith("failed:")):
                continue
            outcome, _, error = (known or "missing").partition(":")
            if known is None and found.batches and log.under_way(request.hash):
                outcome = "under_way"
            elif outcome == "ok" and plan.teacher.follow_up and due(plan, request, journal) is not None:
                error = "follow_up"
            found.add(outcome, error)
    return found
