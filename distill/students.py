"""Rows of the ``students`` table: one per trained student and evaluation, a file per student in the workspace."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from distill.evaluate import Evaluated
from distill.spec import Training
from distill.train import Trained
from schemas.parquet import COMPRESSION
from schemas.tables import FINE_TUNING, STUDENTS
from schemas.workspace import Workspace, check_name, told_disk_errors


@dataclass(frozen=True)
class Judged:
    """Answers to one set of questions: as the student writes them, and by likelihood (None: there are no options)."""

    written: Evaluated
    likeliest: Evaluated | None = None


def student_rows(  # noqa: PLR0913  the last for a comparison alone
    trained: Trained,
    training: Training,
    method: str,
    teachers: Sequence[str],
    judged: Sequence[Judged],
    *,
    comparison: str | None = None,
) -> pa.Table:
    """The rows of one student, a row per set of questions.

    Args:
        trained: how its training went.
        training: its settings.
        method: what it was trained on.
        teachers: whose responses were available to the method; none for fine-tuning.
        judged: how well it answers.
        comparison: the comparison that it belongs to.
    """
    prediction, rationale = trained.prediction_loss, trained.rationale_loss
    explained = method != FINE_TUNING
    if not explained:  # under rationale-then-answer its answers stand where rationales would
        prediction, rationale = rationale if prediction is None else prediction, None
    about = {
        "run_id": trained.run_id,
        "method": method,
        "teachers": list(teachers),
        "seed": training.seed,
        "base_model": trained.student.spec.label,
        "objective": training.objective,
        "comparison": comparison,
        "prediction_loss": prediction,
        "rationale_loss": rationale,
        "rationale_tokens": trained.rationale_tokens if explained else 0,
        "seconds": trained.seconds,
        "tokens_per_second": trained.tokens_per_second,
        "device": trained.device,
        "created_at": dt.datetime.now(dt.UTC),
    }
    rows = [
        about
        | {
            "eval_dataset": j.written.dataset,
            "eval_split": j.written.split,
            "accuracy": j.written.accuracy,
            "option_accuracy": None if j.likeliest is None else j.likeliest.accuracy,
            "n": j.written.n,
        }
        for j in judged
    ]
    return pa.Table.from_pylist(rows, STUDENTS.arrow)


def write_students(workspace: Workspace, rows: pa.Table) -> Path:
    """Write the rows of one student, in place of earlier ones of the run. Needs the lock; refresh the database after.

    Raises:
        WorkspaceError: the disk is full, or may not be written.
    """
    file = workspace.students_dir / f"{check_name(rows['run_id'][0].as_py(), 'run id')}.parquet"
    with told_disk_errors(workspace.path):
        file.parent.mkdir(exist_ok=True)
        workspace.aside.mkdir(parents=True, exist_ok=True)
        fresh = workspace.aside / f"{file.name}.new"
        pq.write_table(rows.select(STUDENTS.names).cast(STUDENTS.arrow), fresh, compression=COMPRESSION)
        fresh.replace(file)
    return file
