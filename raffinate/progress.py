"""How far a command is, on stderr: live bars, or a line now and then where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from raffinate.show import err, money

if TYPE_CHECKING:
    from rich.progress import TaskID

    from builders.progress import Snapshot, TeacherProgress

QUIET_SECONDS = 10.0
"""How often progress is a line where there is no terminal."""


class LiveProgress:
    """A bar per teacher, and one per step, fit or comparison that is under way."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            console=err,
            disable=not err.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._told = time.monotonic()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show a step beside the bars, and how long it took; bars that came up meanwhile go with it."""
        started, before = time.perf_counter(), set(self._tasks)
        task = self._bars.add_task(name, total=None, facts="")
        yield
        self._bars.remove_task(task)
        for of_step in set(self._tasks) - before:
            self._bars.remove_task(self._tasks.pop(of_step))
        err.print(f"{name}: {time.perf_counter() - started:.1f} s", markup=False)

    def __call__(self, snapshot: Snapshot) -> None:
        """Take a snapshot, as `builders.progress.OnProgress`."""
        for teacher in snapshot.teachers:
            self._bar(teacher.teacher_id, teacher.done, teacher.total, _facts(teacher, snapshot))
        self._tell(_line(snapshot))

    def students(self, done: int, total: int, label: str, left: float | None) -> None:
        """Take a cell of a comparison, as `raffinate.compare.OnCell`."""
        eta = (
            "" if left is None else f", about {left / 60:,.0f} min left" if left > 90 else f", about {left:,.0f} s left"
        )
        self._bar("students", done, total, f"{label}{eta}")
        self._tell(f"{done:,} of {total:,} students: {label}{eta}")

    def fit(self, done: int, total: int, facts: str) -> None:
        """Take how far a fit or a choice is, as `purifiers.equipment.OnFit`."""
        self._bar("at work", done, total, facts)
        self._tell(f"at work: {done:,} of {total:,}  {facts}")

    def _bar(self, name: str, done: int, total: int, facts: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, facts="")
        self._bars.update(self._tasks[name], completed=done, total=total, facts=facts)

    def _tell(self, line: str) -> None:
        """Print a line, unless there are bars, or one was printed a moment ago."""
        if not err.is_terminal and time.monotonic() - self._told > QUIET_SECONDS:
            self._told = time.monotonic()
            err.print(line, markup=False)


def _facts(teacher: TeacherProgress, snapshot: Snapshot) -> str:
    facts = [f"{teacher.completion_tokens / max(snapshot.seconds, 1e-9):,.0f} tokens/s", money(teacher.cost_usd)]
    facts += [
        f"{count} {name}" for name, count in (("failed", teacher.failed), ("truncated", teacher.truncated)) if count
    ]
    if teacher.parked:
        facts.append(f"waiting: {teacher.parked}")
    if teacher.under_way:
        facts.append(teacher.under_way)
    return "  ".join(facts)


def _line(snapshot: Snapshot) -> str:
    done, total = sum(t.done for t in snapshot.teachers), sum(t.total for t in snapshot.teachers)
    left = snapshot.seconds_left
    eta = "" if left is None else f", about {left:,.0f} s left"
    batches = "".join(f", {t.teacher_id}: {t.under_way}" for t in snapshot.teachers if t.under_way)
    return (
        f"{done:,} of {total:,} rows, {snapshot.requests_per_second:,.0f} requests/s, "
        f"{snapshot.tokens_per_second:,.0f} tokens/s, cost {money(snapshot.cost_usd)}{eta}{batches}"
    )
