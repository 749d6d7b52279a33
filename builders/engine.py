"""What the engines of a build (`builders.ask`, `builders.ray_engine`) have in common: how far it is, and Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from builders.progress import OnProgress, Snapshot, TeacherProgress
from builders.requests import Work

if TYPE_CHECKING:
    from builders.teacher import Teacher


@dataclass(frozen=True)
class End:
    """Why a teacher is asked no more before its plan is through: an error class and a sentence."""

    error_class: str
    message: str


INTERRUPTED = End("not_asked", "the run was interrupted: run it again to go on")


class Asked(Protocol):
    """One teacher of a run, as far as every engine knows it; ``end`` is None while it may be asked more."""

    @property
    def teacher(self) -> Teacher:
        """Whom."""

    @property
    def progress(self) -> TeacherProgress:
        """How far it is."""

    @property
    def end(self) -> End | None:
        """Why it is asked no more."""


class BaseEngine:
    """One run over some plans; of the teachers in ``done`` nothing is to be asked. See `builders.ask.Engine`."""

    def __init__(self, plans: Sequence[Work], on_progress: OnProgress | None, done: Collection[str]) -> None:
        self._on_progress = on_progress
        self._asked = [plan for plan in plans if plan.teacher.id not in done]
        self._askers: Sequence[Asked] = []  # one per teacher, once it is asked
        self._at_first = [TeacherProgress(p.teacher.id, p.rows, p.rows * (p.teacher.id in done)) for p in plans]
        self._started, self._finished = time.monotonic(), 0.0
        self.interrupted = False

    def _report(self) -> None:
        if self._on_progress:
            self._on_progress(self.snapshot())

    def snapshot(self) -> Snapshot:
        """How far the run is."""
        counts = {p.teacher_id: p.copy() for p in (*self._at_first, *(a.progress for a in self._askers))}
        return Snapshot((self._finished or time.monotonic()) - self._started, list(counts.values()))

    def ends(self) -> dict[str, End]:
        """The teachers that were ended before their plan was through, and why."""
        return {a.teacher.id: a.end for a in self._askers if a.end is not None}


@contextmanager
def on_interrupt(act: Callable[[], object]) -> Iterator[None]:
    """Call ``act`` at the first Ctrl-C or SIGTERM; a second does what it always did. Only the main thread hears any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def interrupt(_: int, __: object) -> None:
        restore()
        act()

    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        restore()
