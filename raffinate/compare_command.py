"""`raffinate compare`: from the words of the command to a grid, its report and its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill import several
from raffinate.compare import Grid, OnCell, compare, teacher_sets
from raffinate.compare_pictures import write_pictures
from raffinate.compare_report import report
from raffinate.distilling import student_settings
from raffinate.equip import asker_for
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
    on_cell: OnCell | None = None,
    train: bool = True,
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
        on_cell: called before and after every cell.
        train: False shows what is there.

    Returns:
        What `raffinate.compare_report.report` says.

    Raises:
        RaffinateError: see `raffinate.compare.compare`.
    """
    if several.world() > 1:
        raise InputError(
            "a comparison trains a student per process: start it without torchrun or accelerate, with --jobs"
        )
    opened = Workspace.open(workspace)
    own, shared = _sorted(settings or {})
    if not students or not objectives:
        raise InputError("nothing to compare: name at least one of --students and one --objective")
    specs = [student_settings({**shared, "model": model})[0] for model in dict.fromkeys(students)]
    trainings = [student_settings({**shared, "objective": o})[1] for o in dict.fromkeys(objectives)]
    order = tuple(teachers or opened.teachers())
    grid = Grid(
        tuple(dict.fromkeys(methods)),
        order,
        teacher_sets(sets, order),
        tuple(seeds),
        tuple(specs),
        tuple(trainings),
        own,
    )
    asker = asker_for([grid.purifier(m) for m in grid.purifiers], opened, recipe)
    found = report(compare(opened, grid, elsewhere=elsewhere, jobs=jobs, asker=asker, on_cell=on_cell, train=train))
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
