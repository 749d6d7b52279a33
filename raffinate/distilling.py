"""Train one student for the command line: settings, folders, the row in the workspace, and what is shown of it."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import orjson
from pydantic import ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from distill import checkpoint, several
from distill.data import Questions, read_questions
from distill.model import check_folder
from distill.one import Distilled, distil
from distill.source import Published
from distill.spec import StudentSpec, Training
from distill.students import write_students
from distill.train import Told
from raffinate import show
from raffinate.progress import QUIET_SECONDS
from raffinate.recipe import told
from schemas.database import refresh
from schemas.errors import InputError, nearest
from schemas.workspace import Workspace

S = TypeVar("S", StudentSpec, Training)


def student_settings(settings: Mapping[str, Any]) -> tuple[StudentSpec, Training]:
    """Sort ``--set`` into what a student is and how it is trained.

    Raises:
        InputError: a key is unknown, or a value is not what it must be.
    """
    parts: dict[type[StudentSpec] | type[Training], dict[str, Any]] = {StudentSpec: {}, Training: {}}
    for key, value in settings.items():
        owner = next((cls for cls in parts if key in cls.model_fields), None)
        if owner is None:
            known = sorted([*StudentSpec.model_fields, *Training.model_fields])
            raise InputError(f"--set {key}: no such setting{nearest(key, known)}: there is {', '.join(known)}")
        parts[owner][key] = value
    return _checked(StudentSpec, parts[StudentSpec]), _checked(Training, parts[Training])


def _checked(cls: type[S], values: dict[str, Any]) -> S:
    try:
        return cls(**values)
    except ValidationError as error:
        raise InputError(f"--set {told(error, cls)}") from None


@several.first_speaks()
def train_student(  # noqa: PLR0913  as many as the command has
    source: str, method: str, settings: Mapping[str, Any], *, out: Path | None, elsewhere: Sequence[str],
    teachers: Sequence[str] | None, weight_by: str | None = None,
) -> tuple[Distilled, Path]:  # fmt: skip
    """Train, judge, save and record one student; return it and the folder it is in.

    Args:
        source: workspace folder or Hub id.
        method: what it is trained on.
        settings: of `StudentSpec` and `Training`.
        out: where the student goes; ``.raffinate/students/`` of the workspace by default, to be said for a Hub id.
        elsewhere: further workspaces or Hub ids whose test questions it is judged on.
        teachers: for keep-all, only these.
        weight_by: see `distill.data.read_examples`.

    Raises:
        RaffinateError: one sentence; see `distill.one.distil`.
    """
    if several.left_alone():
        show.note(
            "accelerate launch --cpu starts one process alone: for several on a CPU, say --multi_gpu in place of "
            "--cpu, or take torchrun"
        )
    spec, training = student_settings(settings)
    published = Published.open(source)
    workspace = Workspace.open(source) if Path(source).expanduser().is_dir() else None
    name = _folder_name(method if weight_by is None else f"{method}-by-{weight_by}", spec, training, teachers)
    folder = out or (workspace.private / "students" / name if workspace else None)
    if folder is None:
        raise InputError(f"{source} is on the Hub: say where the student goes, with --out FOLDER")
    check_folder(spec, folder)
    tests = test_sets(published, elsewhere)
    with TrainingProgress() as progress:
        done = distil(
            published,
            method,
            spec,
            training,
            teachers=teachers,
            weight_by=weight_by,
            tests=tests,
            folder=folder,
            on_progress=progress,
        )
    if several.rank() > 0:  # the first speaks and writes
        sys.exit(0)
    done.trained.student.save(folder, training.objective)
    checkpoint.remove(folder)
    if workspace is not None:
        with workspace.lock():
            write_students(workspace, done.rows)
            refresh(workspace)
    return done, folder


def _folder_name(method: str, spec: StudentSpec, training: Training, teachers: Sequence[str] | None) -> str:
    """The same for the same training, so that an interrupted one is found again."""
    digest = hashlib.sha256(orjson.dumps([spec.identity(), training.identity(), list(teachers or ())]))
    return f"{method.replace(':', '-')}-{digest.hexdigest()[:8]}"


def test_sets(published: Published, elsewhere: Sequence[str]) -> list[Questions]:
    """The dataset's own test questions and those of others, under names that differ."""
    found = [read_questions(published, "test")]
    for source in elsewhere:
        other = Published.open(source)
        questions = read_questions(other, "test")
        if any(q.dataset == questions.dataset for q in found):
            questions = replace(questions, dataset=f"{questions.dataset} ({other.name})")
        found.append(questions)
    return found


class TrainingProgress:
    """A bar of the steps; a line now and then where there is no terminal."""

    def __init__(self) -> None:
        columns = [TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}")]
        silent = several.rank() > 0 or not show.err.is_terminal
        self._bar = Progress(*columns, TimeRemainingColumn(), console=show.err, disable=silent)
        self._task = self._bar.add_task("training", total=None, facts="")
        self._told = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, now: Told) -> None:
        """Take a step's facts, as `distill.train.OnProgress`."""
        facts = f"loss {now.loss:.3f}  {now.tokens_per_second:,.0f} tokens/s"
        if now.validation is not None:
            facts += (
                f"  validation {now.validation:.1%}" if now.validation >= 0 else f"  validation {now.validation:.3f}"
            )
        self._bar.update(self._task, completed=now.step, total=now.steps, facts=facts)
        if not show.err.is_terminal and time.monotonic() - self._told > QUIET_SECONDS:
            self._told = time.monotonic()
            show.err.print(f"step {now.step:,} of {now.steps:,}  {facts}", markup=False)


def as_dict(done: Distilled, folder: Path) -> dict[str, Any]:
    """For ``--json``."""
    trained = done.trained
    return {
        "folder": str(folder),
        "parameters": trained.student.parameters,
        "steps": trained.steps,
        "kept_step": trained.kept_step,
        "validation": trained.validation,
        "history": trained.history,
        "notes": trained.notes,
        "students": done.rows.to_pylist(),
    }


def shown(done: Distilled, folder: Path) -> None:
    """Print how a student was trained and how well it answers."""
    trained = done.trained
    for remark in trained.notes:
        show.note(remark)
    rows = [
        (
            row["eval_dataset"],
            row["eval_split"],
            f"{row['n']:,}",
            f"{row['accuracy']:.1%}",
            "" if row["option_accuracy"] is None else f"{row['option_accuracy']:.1%}",
        )
        for row in done.rows.to_pylist()
    ]
    first = done.rows.to_pylist()[0]
    losses = ", ".join(
        f"{name} {value:.3f}"
        for name, value in (("answers", trained.prediction_loss), ("rationales", trained.rationale_loss))
        if value is not None
    )
    show.table(
        f"{first['base_model']} on {first['method']} ({first['objective']}, {trained.student.parameters:,} weights, "
        f"{trained.steps:,} steps in {trained.seconds:,.1f} s, {trained.tokens_per_second:,.0f} tokens/s; "
        f"training loss: {losses})",
        ("judged on", "split", "questions", "right", "likeliest option right"),
        rows,
    )
    show.out.print(f"student: {folder}", markup=False, soft_wrap=True)
