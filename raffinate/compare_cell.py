"""One cell of a comparison: what a method chose among some teachers, and the student trained on it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from distill.data import Questions, examples_of, read_examples, read_validation
from distill.model import make_student
from distill.one import judge
from distill.protocol import BatchStudent
from distill.source import Published
from distill.spec import StudentSpec, Training
from distill.students import student_rows
from distill.train import train
from purifiers.base import Purifier, Signal
from purifiers.equipment import OnFit, untold
from purifiers.run import purify
from raffinate.distilling import test_sets
from raffinate.equip import equip
from schemas.corpus import UNREAD, Corpus
from schemas.errors import InputError
from schemas.tables import KEEP_ALL

if TYPE_CHECKING:
    from builders.asker import Asker


@dataclass(frozen=True)
class Cell:
    """A student to train: ``teachers`` are those whose responses the method had; ``training`` has the seed."""

    method: str
    settings: dict[str, Any]
    teachers: tuple[str, ...]
    student: StudentSpec
    training: Training

    @property
    def label(self) -> str:
        """For people."""
        among = f" of {len(self.teachers)} teachers" if len(self.teachers) > 1 else ""
        return f"{self.method}{among}, {self.training.objective}, seed {self.training.seed}"

    def identity(self) -> dict[str, Any]:
        """All that its result depends on, beside the data."""
        return {
            "method": self.method,
            "settings": self.settings,
            "teachers": list(self.teachers),
            "student": self.student.identity(),
            "training": self.training.identity(),
        }


@dataclass(frozen=True)
class Work:
    """Where the data is; each process opens it once."""

    workspace: str
    elsewhere: tuple[str, ...]
    teachers: tuple[str, ...]

    @property
    def tests(self) -> list[Questions]:
        """The sets that students are judged on."""
        return _opened(self).tests


class _Open:
    """The data of a comparison, read once per process."""

    def __init__(self, work: Work) -> None:
        self.published = Published.open(work.workspace)
        self.work = work
        self.tests = test_sets(self.published, work.elsewhere)
        self.questions = self.published.questions("train")
        self.validation = read_validation(self.published)

    @cached_property
    def texts(self) -> list[str]:
        """What a tiny student's tokenizer is trained on: the same in every cell, so that seeds are comparable."""
        return read_examples(self.published, KEEP_ALL, self.work.teachers).texts()


@lru_cache(maxsize=2)
def _opened(work: Work) -> _Open:
    return _Open(work)


@dataclass(frozen=True)
class Found:
    """The train rationales that a method kept.

    Attributes:
        rows: question_id, teacher_id (None: synthesised), rationale, answer.
        rejected: train questions of which it kept none.
        right: share of the rows whose answer is gold, where gold is known; for the record, no method sees it.
        seconds: time to fit and choose.
    """

    rows: list[dict[str, Any]]
    rejected: int
    right: float | None
    seconds: float

    def write(self, file: Path) -> None:
        """Keep it, all or nothing."""
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(".new")
        fresh.write_bytes(orjson.dumps(asdict(self)))
        fresh.replace(file)

    @classmethod
    def read(cls, file: Path) -> Found:
        """As it was written."""
        return cls(**orjson.loads(file.read_bytes()))


def choose(  # noqa: PLR0913  the last by name only
    work: Work, purifier: Purifier, cell: Cell, corpus: Corpus, asker: Asker | None, *, on_fit: OnFit = untold
) -> Found:
    """Let a method choose among the cell's teachers, refitted on their responses alone; keep the train questions.

    Args:
        work: where the data is.
        purifier: unfitted.
        cell: its student is handed to a method that needs one.
        corpus: of the cell's teachers.
        asker: for a method that asks teachers or judges.
        on_fit: told how far fitting and choosing are.
    """
    ready = equip(purifier, asker, Path(work.workspace), on_fit=on_fit)
    if Signal.STUDENT in purifier.looks_at:
        ready = ready.equipped(replace(ready.equipment, student=_student(work, cell)))
    started = time.perf_counter()
    kept = purify(ready, corpus, seed=cell.training.seed)[1]
    seconds = time.perf_counter() - started
    train_rows = corpus.rows("train")
    row, column = kept.picks()
    mine = np.isin(row, train_rows)
    row, column = row[mine], column[mine]
    chosen = column >= 0
    texts = dict(zip(row[chosen].tolist(), corpus.rationale_texts(row[chosen], column[chosen]), strict=True))
    words, ids = corpus.vocabulary.to_pylist(), corpus.question_ids.to_pylist()
    rows, right = [], []
    for r, c in zip(row.tolist(), column.tolist(), strict=True):
        made = kept.synthesised.get(r)
        code = UNREAD if c < 0 else int(corpus.answer[r, c])
        answer = made.answer if made else words[code] if code != UNREAD else None
        rationale = made.rationale if made else texts[r]
        teacher = None if made else corpus.teachers[c]
        rows.append({"question_id": ids[r], "teacher_id": teacher, "rationale": rationale, "answer": answer})
        if corpus.gold[r] != UNREAD:
            right.append(answer == words[corpus.gold[r]])
    return Found(rows, len(train_rows) - len(set(row.tolist())), float(np.mean(right)) if right else None, seconds)


def _student(work: Work, cell: Cell) -> BatchStudent:
    texts = _opened(work).texts
    return BatchStudent(lambda seed: make_student(cell.student, texts, seed), cell.training.seed, cell.training)


def train_cell(work: Work, cell: Cell, found: Found | None) -> dict[str, Any]:
    """Train and judge the student of a cell; what comes back is what its file holds.

    Args:
        work: where the data is.
        cell: which student.
        found: what the method chose; None for fine-tuning, a single teacher and keep-all.

    Raises:
        RaffinateError: nothing to learn from, a diverging loss, no memory.
    """
    data = _opened(work)
    if found is None:
        method = cell.method
        examples = read_examples(data.published, method, cell.teachers if method == KEEP_ALL else None)
    else:
        examples = examples_of(cell.method, data.questions, found.rows, ())
        if not examples.rationales:
            raise InputError(f"{cell.method} kept no rationale of a train question, so no student is trained on it")
    student = make_student(cell.student, data.texts, cell.training.seed)
    validation = None if cell.training.select_by == "last" else data.validation
    trained = train(student, examples, cell.training, validation=validation)
    judged = [judge(student, questions, cell.training.objective) for questions in data.tests]
    rows = student_rows(trained, cell.training, cell.method, cell.teachers, judged).to_pylist()
    return {
        "cell": cell.identity(),
        "students": [row | {"created_at": row["created_at"].isoformat()} for row in rows],
        "right": {j.written.dataset: "".join("1" if r else "0" for r in j.written.right) for j in judged},
        "parameters": student.parameters,
        "steps": trained.steps,
        "validation": trained.validation,
        "tokens": trained.tokens,
        "questions": examples.questions,
        "rationales": examples.rationales,
        "calls": _calls(data, cell.teachers),
        "kept_right": None if found is None else found.right,
        "rejected": 0 if found is None else found.rejected,
        "choose_seconds": 0.0 if found is None else found.seconds,
        "notes": trained.notes,
    }


def _calls(data: _Open, teachers: Sequence[str]) -> int:
    """Requests to teachers that the training data took: every teacher of the set, every train question."""
    return len(teachers) * len(data.questions)
