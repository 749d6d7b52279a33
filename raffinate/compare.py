"""Train methods x teacher sets x seeds x students on one workspace, and keep every cell of the grid as it comes.

choose   each method chooses among each teacher set as `purifiers.run.purify` does: it is refitted on the responses of
         those teachers alone, a train question is judged out of fold, and gold is hidden as it is for publishing
train    a student per cell on the train questions, judged once on the test questions; several cells at a time

Nothing of this touches ``purified/``. A cell is a file in ``.raffinate/compare/``, named by a hash of all that its
result depends on: the questions and responses, method, teachers, seed, student, training and test sets. A comparison
that was stopped, or is asked with more methods or seeds, trains what is not there. Seeds come in the outer loop, so
that what is there after an interruption are whole comparisons.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa
import xxhash

from distill.model import check_student
from distill.one import check_teacher_weights
from distill.spec import StudentSpec, Training
from distill.students import write_students
from purifiers.base import Purifier, Signal
from raffinate.compare_cell import Cell, Found, Work, choose, train_cell
from raffinate.recipe import make_purifier
from schemas.corpus import Corpus
from schemas.database import refresh
from schemas.errors import InputError, RaffinateError, nearest
from schemas.tables import FINE_TUNING, KEEP_ALL, ONE_TEACHER, STUDENTS
from schemas.workspace import Workspace, told_disk_errors

if TYPE_CHECKING:
    from builders.asker import Asker
    from purifiers.equipment import OnFit

EVERY_TEACHER = f"{ONE_TEACHER}*"
"""Among the methods: each teacher by itself."""

OnCell = Callable[[int, int, str, float | None], None]
"""Called with cells done, cells in all, what is under way, and the seconds left (None: unknown)."""


@dataclass(frozen=True)
class Grid:
    """What is compared.

    Attributes:
        methods: purifiers, `keep-all`, `fine-tuning`, `teacher:ID`; `teacher:*` is every teacher.
        teachers: in the order that the nested sets grow.
        sets: teacher sets that methods choose among; a set of one is that teacher, whatever the method.
        seeds: of training (weights, order) and of choosing.
        students: what students start from.
        trainings: one per objective; their seeds are not used.
        settings: of purifiers, by method.
    """

    methods: tuple[str, ...]
    teachers: tuple[str, ...]
    sets: tuple[tuple[str, ...], ...]
    seeds: tuple[int, ...]
    students: tuple[StudentSpec, ...]
    trainings: tuple[Training, ...]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def cells(self) -> list[Cell]:
        """All cells, seeds in the outer loop."""
        return [
            Cell(method, dict(self.settings.get(method, {})), teachers, spec, replaced(training, seed))
            for seed in self.seeds
            for spec in self.students
            for training in self.trainings
            for method, teachers in self._trained()
        ]

    def _trained(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Method and teacher set of every student that a seed asks for, none twice."""
        singles = [s[0] for s in self.sets if len(s) == 1]
        if EVERY_TEACHER in self.methods:
            singles += self.teachers
        named = [m for m in self.methods if m.startswith(ONE_TEACHER) and m != EVERY_TEACHER]
        singles += [m.removeprefix(ONE_TEACHER) for m in named]
        if FINE_TUNING in self.methods:
            yield FINE_TUNING, ()
        for teacher in dict.fromkeys(singles):
            yield f"{ONE_TEACHER}{teacher}", (teacher,)
        for method in self.methods:
            if method != FINE_TUNING and not method.startswith(ONE_TEACHER):
                yield from ((method, teachers) for teachers in self.sets if len(teachers) > 1)

    @property
    def purifiers(self) -> list[str]:
        """The methods that choose."""
        return [m for m in self.methods if m not in (FINE_TUNING, KEEP_ALL) and not m.startswith(ONE_TEACHER)]

    def purifier(self, method: str, seed: int = 0) -> Purifier:
        """The method, with its settings and, where it draws and was not told how, the seed."""
        settings = dict(self.settings.get(method, {}))
        made = make_purifier(method, settings)
        return make_purifier(method, {**settings, "seed": seed}) if _draws(made) and "seed" not in settings else made


def _draws(purifier: Purifier) -> bool:
    return "seed" in type(purifier).model_fields


def replaced(training: Training, seed: int) -> Training:
    """The same training with another seed."""
    return training.model_copy(update={"seed": seed})


def teacher_sets(names: str, teachers: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The sets that ``nested``, ``all`` or ``a+b,a+b+c`` mean.

    Raises:
        InputError: a set names a teacher that is not there, or twice.
    """
    if names == "nested":
        return tuple(tuple(teachers[:m]) for m in range(1, len(teachers) + 1))
    if names == "all":
        return (tuple(teachers),)
    found = [tuple(t.strip() for t in part.split("+")) for part in names.split(",") if part.strip()]
    for teacher in [t for s in found for t in s]:
        if teacher not in teachers:
            raise InputError(
                f"--teacher-sets: no teacher '{teacher}'{nearest(teacher, teachers)}: write nested, all, or sets of "
                f"{', '.join(teachers)} like {'+'.join(teachers[:2])}"
            )
    if any(len(set(s)) < len(s) for s in found):
        raise InputError(f"--teacher-sets {names}: a set names a teacher twice")
    return tuple(dict.fromkeys(found))


def check_grid(grid: Grid, teachers: Sequence[str]) -> None:
    """Refuse what cannot be compared, before anything is trained.

    Raises:
        InputError: an unknown method or teacher, a method that may not see what it looks at, or nothing to do.
    """
    if not grid.methods or not grid.seeds:
        raise InputError("nothing to compare: name methods and at least one seed")
    for method in grid.methods:
        if method in (FINE_TUNING, KEEP_ALL, EVERY_TEACHER):
            continue
        if method.startswith(ONE_TEACHER):
            teacher = method.removeprefix(ONE_TEACHER)
            if teacher not in teachers:
                raise InputError(f"no teacher '{teacher}'{nearest(teacher, teachers)}: there is {', '.join(teachers)}")
        elif not grid.purifier(method).publishable:
            raise InputError(f"{method} looks at the gold answers of test questions, so no student is trained on it")
    unused = [m for m in grid.settings if m not in grid.purifiers]
    if unused:
        near = nearest(unused[0], grid.purifiers)
        raise InputError(f"--set {unused[0]}....: that method is not compared, or it has no settings{near}")
    for training in grid.trainings:
        check_teacher_weights(training, grid.teachers if KEEP_ALL in grid.methods else ())
    if not grid.cells:
        raise InputError("no method is left to train: a teacher set of one is that teacher, whatever the method")


@dataclass(frozen=True)
class Results:
    """Cells of a grid that are there, in its order, and what went wrong with others."""

    grid: Grid
    cells: list[dict[str, Any]]
    failed: dict[str, str]
    comparison: str


def compare(  # noqa: PLR0913  the last by name only
    workspace: Workspace,
    grid: Grid,
    *,
    elsewhere: Sequence[str] = (),
    jobs: int = 1,
    asker: Asker | None = None,
    on_cell: OnCell | None = None,
    train: bool = True,
) -> Results:
    """Train the cells of a grid that are not there yet, and return all.

    Args:
        workspace: with questions and responses; it is held meanwhile.
        grid: what is compared.
        elsewhere: further workspaces or Hub ids whose test questions students are judged on.
        jobs: cells trained at a time, each in a process of its own; with more than one, on one core each.
        asker: for methods that ask teachers or judges.
        on_cell: called before and after every cell.
        train: False returns what is there and trains nothing; it may be asked while another process trains.

    Raises:
        InputError: see `check_grid`; a dataset without test questions; a student that is nowhere to be had.
        RaffinateError: every cell failed; the first reason is told.
        KeyboardInterrupt: cells that had ended are kept.
    """
    corpus = Corpus.of(workspace, grid.teachers)
    check_grid(grid, grid.teachers)
    work = Work(str(workspace.path), tuple(elsewhere), grid.teachers)
    data = fingerprint(workspace, grid.teachers, work)
    store = _Store(workspace, data, grid)
    failed: dict[str, str] = {}
    if train:
        with workspace.lock():
            failed = _fill(_Choices(work, store, corpus, asker), jobs, on_cell)
    there = [found for cell in grid.cells if (found := store.read(cell)) is not None]
    if not there and not failed:
        raise InputError(f"{workspace.path} has no student of this comparison yet: run it without --show")
    if not there:
        raise RaffinateError(f"no student could be trained; the first reason: {next(iter(failed.values()))}")
    return Results(grid, there, failed, store.comparison)


def _fill(choices: _Choices, jobs: int, on_cell: OnCell | None) -> dict[str, str]:
    """Train what is missing; return what failed, and why."""
    store, failed = choices.store, dict[str, str]()
    cells = store.grid.cells
    missing = [c for c in cells if store.read(c) is None]
    for student in dict.fromkeys(cell.student for cell in missing):
        check_student(student)
    try:
        for cell, outcome, left in _train(choices, missing, jobs, on_cell):
            if isinstance(outcome, RaffinateError):
                failed[cell.label] = str(outcome)
            else:
                store.write(cell, outcome)
            if on_cell:
                on_cell(len(cells) - left, len(cells), cell.label, None)
    finally:
        store.tell(cells)
        refresh(store.workspace)
    return failed


Outcome = dict[str, Any] | RaffinateError


def _train(
    choices: _Choices, missing: list[Cell], jobs: int, on_cell: OnCell | None
) -> Iterator[tuple[Cell, Outcome, int]]:
    """Yield each missing cell with its outcome and how many are left."""
    left, total = len(missing), len(choices.store.grid.cells)
    with _pool(jobs) as submit:
        running: dict[Future[dict[str, Any]], Cell] = {}
        waiting = iter(missing)
        while True:
            while len(running) < jobs and (cell := next(waiting, None)) is not None:
                tell = _telling(on_cell, total, left, cell, choices.seconds_left(left))
                tell(0, 0, "")
                try:
                    running[submit(train_cell, choices.work, cell, choices.of(cell, tell))] = cell
                except RaffinateError as error:
                    left -= 1
                    yield cell, error, left
            if not running:
                return
            try:
                done = wait(running, return_when=FIRST_COMPLETED).done
                for future in done:
                    cell = running.pop(future)
                    left -= 1
                    yield cell, _outcome(future), left
            except BrokenProcessPool:
                raise RaffinateError(
                    "a training process died, most likely for want of memory: use fewer --jobs, or a smaller student; "
                    "finished cells are kept"
                ) from None


def _telling(on_cell: OnCell | None, total: int, left: int, cell: Cell, seconds: float | None) -> OnFit:
    """Tells that a cell is under way, and how far its method is with fitting and choosing, where that is known."""

    def told(done: int, of: int, facts: str) -> None:
        if on_cell:
            on_cell(total - left, total, f"{cell.label}: {done:,} of {of:,}  {facts}" if of else cell.label, seconds)

    return told


def _outcome(future: Future[dict[str, Any]]) -> Outcome:
    try:
        return future.result()
    except RaffinateError as error:
        return error


@contextmanager
def _pool(jobs: int) -> Iterator[Callable[..., Future[dict[str, Any]]]]:
    """Give a way to start work: in this process for one job, else in processes of one thread each."""
    if jobs == 1:
        yield _here
        return
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # inherited: two threads per process collapse on a busy machine
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_end_with_parent)
    try:
        yield pool.submit
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _end_with_parent() -> None:
    """Let this process end when the one that started it is killed and cannot say so (on Linux).

    A thread that waits for it would do so anywhere, but keeps objects alive at the end, of which DuckDB complains.
    """
    from builders.vllm_server import signal_when_parent_ends

    signal_when_parent_ends(signal.SIGKILL)
    parent = parent_process()
    if parent is not None and os.getppid() != parent.pid:  # it was killed before
        os._exit(1)


def _here(function: Callable[..., dict[str, Any]], *arguments: Any) -> Future[dict[str, Any]]:
    """Run it now, with the face of a future."""
    future: Future[dict[str, Any]] = Future()
    try:
        future.set_result(function(*arguments))
    except RaffinateError as error:
        future.set_exception(error)
    return future


class _Choices:
    """What methods chose, made when first asked for and kept beside the cells."""

    def __init__(self, work: Work, store: _Store, corpus: Corpus, asker: Asker | None) -> None:
        self.work, self.store, self.corpus, self.asker = work, store, corpus, asker
        self.started = time.monotonic()
        self.asked = 0

    def seconds_left(self, left: int) -> float | None:
        """By the pace so far; None before the first few cells."""
        done = self.asked - 1
        return None if done < 3 else (time.monotonic() - self.started) / done * left

    def of(self, cell: Cell, on_fit: OnFit) -> Found | None:
        """The rationales of a cell; None where the student itself reads them: fine-tuning, teachers, keep-all."""
        self.asked += 1
        if cell.method in (FINE_TUNING, KEEP_ALL) or cell.method.startswith(ONE_TEACHER):
            return None
        purifier = self.store.grid.purifier(cell.method, cell.training.seed)
        file = self.store.choice_file(purifier, cell)
        if file.is_file():
            return Found.read(file)
        corpus = self.corpus.with_teachers(cell.teachers)
        found = choose(self.work, purifier, cell, corpus, self.asker, on_fit=on_fit)
        with told_disk_errors(file.parent):
            found.write(file)
        return found


class _Store:
    """The files of a comparison's cells."""

    def __init__(self, workspace: Workspace, data: str, grid: Grid) -> None:
        self.workspace, self.data, self.grid = workspace, data, grid
        self.folder = workspace.private / "compare"
        shared = [s.model_dump(exclude={"model"}) for s in grid.students[:1]]
        shared += [{**replaced(t, 0).identity(), "objective": None} for t in grid.trainings[:1]]
        self.comparison = _digest([data, [], shared])[:8]

    def path(self, cell: Cell) -> Path:
        """Where a cell is or will be."""
        return self.folder / f"{_digest([self.data, cell.identity()])[:16]}.json"

    def choice_file(self, purifier: Purifier, cell: Cell) -> Path:
        """Where a method's choice is kept; one that looks at a student depends on that, too."""
        student = [cell.student.identity(), cell.training.identity()] if Signal.STUDENT in purifier.looks_at else []
        seed = cell.training.seed if purifier.needs_fit or _draws(purifier) else 0
        key = [self.data, purifier.name, purifier.model_dump(mode="json"), cell.teachers, seed, student]
        return self.folder / "choices" / f"{_digest(key)[:16]}.json"

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """A finished cell; None if it is not there, or was cut short."""
        try:
            found: dict[str, Any] = orjson.loads(self.path(cell).read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return None
        return found

    def write(self, cell: Cell, outcome: dict[str, Any]) -> None:
        """Keep a finished cell: all of it or nothing."""
        with told_disk_errors(self.folder):
            write_whole(self.path(cell), outcome)

    def tell(self, cells: Sequence[Cell]) -> None:
        """Put what is there into the table ``students``."""
        for cell in cells:
            found = self.read(cell)
            run_id = self.path(cell).stem
            if found and not (self.workspace.students_dir / f"{run_id}.parquet").is_file():
                about = {"run_id": run_id, "comparison": self.comparison, "settings": _told(cell.settings)}
                write_students(self.workspace, _as_students([row | about for row in found["students"]]))


def _told(settings: Mapping[str, Any]) -> str | None:
    """A method's settings for the table ``students``."""
    return orjson.dumps(settings, option=orjson.OPT_SORT_KEYS).decode() if settings else None


def _as_students(rows: Sequence[dict[str, Any]]) -> pa.Table:
    import datetime as dt

    timed = [{**r, "created_at": dt.datetime.fromisoformat(r["created_at"])} for r in rows]
    return pa.Table.from_pylist(timed, STUDENTS.arrow)


def write_whole(file: Path, value: Any) -> None:
    """Write JSON in one move."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_bytes(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))
    fresh.replace(file)


def _digest(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


def fingerprint(workspace: Workspace, teachers: Sequence[str], work: Work) -> str:
    """Changes with the questions, these teachers' responses and the test sets."""
    digest = xxhash.xxh3_128()
    folders = [workspace.questions_dir, *(workspace.responses_dir(t) for t in teachers)]
    for file in [f for folder in folders for f in sorted(folder.glob("*.parquet"))]:
        digest.update(str(file.relative_to(workspace.path)).encode())
        with file.open("rb") as opened:
            hashlib.file_digest(opened, lambda: digest)
    for questions in work.tests:
        digest.update(orjson.dumps([questions.dataset, questions.question_id, questions.prompt, questions.gold]))
    return digest.hexdigest()
