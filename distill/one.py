"""One student from a published dataset: read, make, train, judge. The command and the comparison call this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from distill.data import Examples, Questions, read_examples, read_questions, read_validation
from distill.evaluate import evaluate
from distill.memory import ran_out
from distill.model import StudentModel, make_student
from distill.source import Published
from distill.spec import Objective, StudentSpec, Training
from distill.students import Judged, student_rows
from distill.train import OnProgress, Trained, train
from schemas.errors import InputError, RaffinateError, nearest
from schemas.tables import FINE_TUNING, KEEP_ALL, ONE_TEACHER


@dataclass(frozen=True)
class Distilled:
    """A trained student, its answers, and its rows of the ``students`` table."""

    trained: Trained
    judged: list[Judged]
    rows: pa.Table


def distil(  # noqa: PLR0913  what a caller may give, most of it optional
    published: Published,
    method: str,
    spec: StudentSpec = StudentSpec(),  # noqa: B008  frozen
    training: Training = Training(),  # noqa: B008  frozen
    *,
    teachers: Sequence[str] | None = None,
    weight_by: str | None = None,
    tests: Sequence[Questions] | None = None,
    folder: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Distilled:
    """Train one student on what was published and judge it once, with the weights that validation chose.

    Args:
        published: the dataset.
        method: a purifier, `keep-all`, `teacher:ID` or `fine-tuning`; see `read_examples`.
        spec: what the student starts from.
        training: how it is trained.
        teachers: for `keep-all` alone, only these.
        weight_by: see `read_examples`.
        tests: what it is judged on; the dataset's own test split by default.
        folder: where checkpoints go and an interrupted training goes on from.
        on_progress: called after every step.

    Raises:
        RaffinateError: see `read_examples`, `make_student` and `train`.
    """
    examples = read_examples(published, method, teachers, weight_by=weight_by)
    check_teacher_weights(training, examples.teachers)
    judged_on = [read_questions(published, "test")] if tests is None else list(tests)
    student = make_student(spec, examples.texts(), training.seed)
    validation = read_validation(published)
    trained = train(student, examples, training, validation=validation, folder=folder, on_progress=on_progress)
    judged = [judge(student, questions, training.objective) for questions in judged_on]
    had = teachers_of(published, examples)
    return Distilled(trained, judged, student_rows(trained, training, examples.method, had, judged))


def check_teacher_weights(training: Training, teachers: Sequence[str]) -> None:
    """Refuse weights of teachers that have no task of their own; ``teachers`` are keep-all's, none for other methods.

    Raises:
        InputError: a weight would count for nothing.
    """
    for teacher in training.teacher_weights:
        if teacher not in teachers:
            there = ", ".join(teachers) or "none here, for they are of keep-all alone"
            raise InputError(
                f"teacher_weights: no task of teacher '{teacher}'{nearest(teacher, teachers)}: there is {there}"
            )


def judge(student: StudentModel, questions: Questions, objective: Objective) -> Judged:
    """What a student writes, and which options it finds likeliest where there are options.

    Raises:
        RaffinateError: memory does not hold the answer to a single question.
    """
    has_options = any(questions.choices)
    try:
        written = evaluate(student, questions, objective)
        if not has_options:
            return Judged(written, None)
        return Judged(written, evaluate(student, questions, objective, "likelihood", written=written.said))
    except Exception as error:
        if not ran_out(error):
            raise
    raise RaffinateError(
        f"out of memory for a single question of {questions.dataset}: set a smaller max_input or max_target, or take a "
        "smaller model"
    )


def teachers_of(published: Published, examples: Examples) -> list[str]:
    """The teachers whose responses a method had at hand."""
    if examples.method == FINE_TUNING:
        return []
    if examples.method == KEEP_ALL:
        return list(examples.teachers)
    if examples.method.startswith(ONE_TEACHER):
        return [examples.method.removeprefix(ONE_TEACHER)]
    return published.teachers()
