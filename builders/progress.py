"""How far a run is: plain numbers for whoever draws them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from builders.journal import Failed, Record


@dataclass
class TeacherProgress:
    """Counts of one teacher in one run. A reply is counted once it is on disk.

    Attributes:
        total: rows that the teacher will have: questions x samples.
        cached: rows that needed no request, because their answer was in the journal.
        repeats: requests that were sent again after a failure.
        cost_usd: cost of this run's replies so far, those of no use included; None once one of them has an unknown
            cost (US dollars).
        parked: why the teacher is left alone at the moment; None while it is asked.
        heard: the server has answered in this run, if only to refuse.
        follow_ups: replies to second turns, beside those that settle a row.
        under_way: what the server's batches are at; None where there are none.
    """

    teacher_id: str
    total: int
    cached: int = 0
    ok: int = 0
    truncated: int = 0
    refused: int = 0
    failed: int = 0
    repeats: int = 0
    in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0
    parked: str | None = None
    heard: bool = False
    follow_ups: int = 0
    under_way: str | None = None
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def answered(self) -> int:
        """Replies of this run."""
        return self.ok + self.truncated + self.refused

    @property
    def done(self) -> int:
        """Rows that are settled, for better or worse."""
        return self.cached + self.answered + self.failed

    def count(self, record: Record, cost_usd: float | None, *, second: bool, again: bool = False) -> None:
        """Count what came of a request, and what it cost: one reply of unknown cost makes the sum unknown.

        Args:
            record: of a failure nothing was paid unless it says so.
            cost_usd: of its tokens.
            second: it was a second turn.
            again: it failed and will be sent again.
        """
        if isinstance(record, Failed):
            if again:
                self.repeats += 1
            else:
                self.failed += not second
                self.failures[record.error_class] += 1
            cost_usd = 0.0 if record.paid_nothing else cost_usd
        else:
            kind = "follow_ups" if second else record.status
            setattr(self, kind, getattr(self, kind) + 1)
        self.prompt_tokens += record.prompt_tokens or 0
        self.completion_tokens += record.completion_tokens or 0
        self.cost_usd = None if cost_usd is None or self.cost_usd is None else self.cost_usd + cost_usd

    def after(self, earlier: TeacherProgress | None) -> TeacherProgress:
        """The counts with those of an earlier run; how things stand at the moment is as now."""
        if earlier is None:
            return self
        sums = {name: getattr(earlier, name) + getattr(self, name) for name in SUMMED}
        costs = (earlier.cost_usd, self.cost_usd)
        cost = None if None in costs else sum(c for c in costs if c is not None)
        return replace(self, **sums, cost_usd=cost)

    def copy(self) -> TeacherProgress:
        """The counts as they are now."""
        return replace(self, failures=self.failures.copy())


SUMMED = (
    *("total", "cached", "ok", "truncated", "refused", "failed", "repeats"),
    *("prompt_tokens", "completion_tokens", "follow_ups", "failures"),
)


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment; rates are means since its start (per second)."""

    seconds: float
    teachers: list[TeacherProgress]

    @property
    def requests_per_second(self) -> float:
        """Replies and final failures per second."""
        return sum(t.answered + t.failed for t in self.teachers) / max(self.seconds, 1e-9)

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens per second."""
        return sum(t.completion_tokens for t in self.teachers) / max(self.seconds, 1e-9)

    @property
    def cost_usd(self) -> float | None:
        """Cost of the run's replies; None if one is unknown (US dollars)."""
        costs = [t.cost_usd for t in self.teachers]
        return None if None in costs else sum(c for c in costs if c is not None)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the slowest teacher that is not parked is through at its mean rate; None before any reply."""
        left = [
            (t.total - t.done) * self.seconds / (t.answered + t.failed)
            for t in self.teachers
            if t.answered + t.failed and t.parked is None
        ]
        return max(left, default=None)


OnProgress = Callable[[Snapshot], None]
