"""Toy examples and students: a few short questions, models of some ten thousand weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from distill.batches import Rows, Texts, rows_of
from distill.data import Examples, Questions
from distill.model import StudentModel, make_student
from distill.spec import StudentSpec

ASKED = [
    ("What does rain fall from?", ["a cloud", "a stone", "a lamp"], "A", "Water gathers in clouds and falls."),
    ("What do bees make?", ["iron", "honey"], "B", "Bees carry nectar home and thicken it."),
    ("Which is warm?", ["ice", "snow", "fire", "frost"], "C", "Three are frozen, one burns."),
    ("What do fish breathe with?", ["gills", "leaves"], "A", "They live in water."),
]
LABELS = "ABCD"


def toy_questions() -> Questions:
    choices = [dict(zip(LABELS, options, strict=False)) for _, options, _, _ in ASKED]
    return Questions(
        dataset="toy",
        split="train",
        question_id=[f"q{i}" for i in range(len(ASKED))],
        prompt=[_prompt(question, options) for question, options, _, _ in ASKED],
        task=["choice"] * len(ASKED),
        choices=choices,
        gold=[gold for _, _, gold, _ in ASKED],
        domain=[None] * len(ASKED),
    )


def toy_examples(teachers: tuple[str, ...] = ()) -> Examples:
    """One rationale per question, or one per teacher and question, under a prefix of its own."""
    questions, rows = toy_questions(), [(i, t) for i in range(len(ASKED)) for t in range(max(len(teachers), 1))]
    texts = [ASKED[i][3] + " So it is." * t for i, t in rows]
    return Examples(
        method="keep-all" if teachers else "majority",
        question_id=[questions.question_id[i] for i, _ in rows],
        prompt=[questions.prompt[i] for i, _ in rows],
        answer=[questions.targets[i] for i, _ in rows],
        rationale=list(texts),
        completion=[f"{text}\nThe answer is ({questions.gold[i]})." for (i, _), text in zip(rows, texts, strict=True)],
        teacher=[t if teachers else None for _, t in rows],
        weight=np.ones(len(rows), np.float32),
        teachers=teachers,
    )


def toy_student(model: str, seed: int = 0, **changes: Any) -> StudentModel:
    spec = StudentSpec(model=model, **{"width": 32, "layers": 1, "vocabulary": 400, **changes})
    return make_student(spec, toy_examples().texts(), seed)


def toy_rows(student: StudentModel, examples: Examples, objective: str = "multitask") -> Rows:
    return rows_of(student.encoder, examples, objective)


def texts(rows: Texts) -> list[list[int]]:
    return [rows[i].tolist() for i in range(len(rows.start) - 1)]


def _prompt(question: str, options: list[str]) -> str:
    return "\n".join([question, *(f"({label}) {text}" for label, text in zip(LABELS, options, strict=False))])
