"""`raffinate compare`: from the words of the command to a grid, with progress, tables and pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from raffinate import show
from raffinate.compare import compare, grid_of
from raffinate.compare_pictures import write_pictures
from raffinate.compare_report import report
from raffinate.equip import asker_for
from raffinate.train_student import student_settings
from schemas.errors import InputError
from schemas.workspace import Workspace


def compare_students(  # noqa: PLR0913  as many as the command has
    workspace: Path | str,
    methods: Sequence[str],
    *,
    sets: str = "nested",
    teachers: Sequence[str] | None = None,
    seeds: Sequence[int] = range(5),
    students: Sequence[str] = ("tiny-seq2seq",),
    objectives: Sequence[str] = ("multitask",),
    settings: Mapping[str, Any] | None = None,
    elsewhere: Sequence[str] = (),
    jobs: int = 1,
    pictures: Path | None = None,
    recipe: Path | None = None,
) -> dict[str, Any]:
    """Compare methods by the students that they teach; what is already there is not trained again.

    Args:
        workspace: with questions and responses.
        methods: purifiers, `keep-all`, `fine-tuning`, `teacher:ID`, `teacher:*`.
        sets: `nested`, `all`, or sets like `a+b,a+b+c`.
        teachers: in the order that nested sets grow; all by id, by default.
        seeds: of training and choosing.
        students: what they start from.
        objectives: `multitask`, `rationale-then-answer`.
        settings: of `StudentSpec` and `Training`; of a purifier as ``METHOD.KEY``.
        elsewhere: further workspaces or Hub ids to judge on.
        jobs: cells trained at a time.
        pictures: folder for the pictures.
        recipe: names teachers and judges, for methods that ask them.

    Returns:
        What `raffinate.compare_report.report` says.

    Raises:
        RaffinateError: see `raffinate.compare.compare`.
    """
    opened = Workspace.open(workspace)
    own, shared = _sorted(settings or {})
    if not students or not objectives:
        raise InputError("nothing to compare: name at least one of --students and one --objective")
    specs = [student_settings({**shared, "model": model})[0] for model in dict.fromkeys(students)]
    trainings = [student_settings({**shared, "objective": o})[1] for o in dict.fromkeys(objectives)]
    grid = grid_of(opened, methods, sets, seeds, specs, trainings, teachers=teachers, settings=own)
    asker = asker_for([grid.purifier(m) for m in grid.purifiers], opened, recipe)
    with ComparisonProgress() as progress:
        found = report(compare(opened, grid, elsewhere=elsewhere, jobs=jobs, asker=asker, on_cell=progress))
    if pictures is not None:
        found["pictures"] = [str(file) for file in write_pictures(found, pictures)]
    return found


def _sorted(settings: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Settings of single methods (``METHOD.KEY``), and those of students and training."""
    own: dict[str, dict[str, Any]] = {}
    shared: dict[str, Any] = {}
    for key, value in settings.items():
        method, dot, name = key.partition(".")
        if dot:
            own.setdefault(method, {})[name] = value
        elif key in ("seed", "model", "objective"):
            raise InputError(f"--set {key}: a comparison has --seeds, --students and --objective for that")
        else:
            shared[key] = value
    return own, shared


class ComparisonProgress:
    """A bar of the cells with the time left; a line per cell where there is no terminal."""

    def __init__(self) -> None:
        columns = [TextColumn("students"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}")]
        self._bar = Progress(*columns, TimeElapsedColumn(), console=show.err, disable=not show.err.is_terminal)
        self._task = self._bar.add_task("students", total=None, facts="")
        self._told = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int, label: str, left: float | None) -> None:
        """Take what is under way, as `raffinate.compare.OnCell`."""
        eta = (
            "" if left is None else f", about {left / 60:,.0f} min left" if left > 90 else f", about {left:,.0f} s left"
        )
        self._bar.update(self._task, completed=done, total=total, facts=f"{label}{eta}")
        if not show.err.is_terminal and time.monotonic() - self._told > show.QUIET_SECONDS:
            self._told = time.monotonic()
            show.err.print(f"{done} of {total} students: {label}{eta}", markup=False)
