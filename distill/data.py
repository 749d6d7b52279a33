"""What a student is trained and judged on, read from what was published: a workspace folder or a Hub id.

What the answer of a training question is: gold, where it is known, as in the paper; where it is not, the answer that
the purified row concludes in (of several teachers, the one most of them give). A question with neither trains nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.errors import InputError, nearest
from schemas.layout import answer_texts
from schemas.render import completions, prompts
from schemas.tables import FINE_TUNING, KEEP_ALL, ONE_TEACHER

if TYPE_CHECKING:
    from distill.source import Published

WEIGHTS = {"agreement": "agreement_weight", "teacher": "teacher_importance"}
"""What rationales can be weighted by: the column of `purified` that has it."""


@dataclass(frozen=True)
class Examples:
    """What a student learns from, as columns: a row per question and rationale, questions in order.

    Attributes:
        method: what the rationales are: a purifier's name, `keep-all`, `teacher:ID` or `fine-tuning`.
        question_id: rows of one question stand together.
        prompt: the question as a student reads it, without a prefix.
        answer: target of the prediction, the same in all rows of a question.
        rationale: target of the explanation; None where the question has none.
        completion: rationale and answer line, the target of rationale-then-answer; the answer it concludes in is the
            rationale's own. Without a rationale it is the answer line alone.
        teacher: number of the rationale's own prefix (`schemas.layout.explain_prefix`); None for the one of all.
        weight: weight of the rationale among those of its prefix; 0 leaves it out.
        teachers: ids, by their number; empty where all rationales share one prefix.
    """

    method: str
    question_id: list[str]
    prompt: list[str]
    answer: list[str]
    rationale: list[str | None]
    completion: list[str]
    teacher: list[int | None]
    weight: npt.NDArray[np.float32]
    teachers: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.question_id)

    @property
    def questions(self) -> int:
        """How many questions there are."""
        return len(dict.fromkeys(self.question_id))

    @property
    def rationales(self) -> int:
        """How many rationales there are."""
        return sum(r is not None for r in self.rationale)

    def take(self, rows: Sequence[int]) -> Examples:
        """The examples of some rows, in the order given."""
        columns = ("question_id", "prompt", "answer", "rationale", "completion", "teacher")
        picked: dict[str, Any] = {name: [getattr(self, name)[r] for r in rows] for name in columns}
        return replace(self, **picked, weight=self.weight[list(rows)])

    def weighted(self, weights: npt.NDArray[np.float32]) -> Examples:
        """The same with these weights of the rationales, one per row.

        Raises:
            InputError: they are not as many as the rows, or one is negative or no number.
        """
        if weights.shape != (len(self),) or not (np.isfinite(weights) & (weights >= 0)).all():
            raise InputError(f"weights: {len(self)} numbers of 0 or more are needed, one per row")
        return replace(self, weight=weights.astype(np.float32))

    def texts(self) -> list[str]:
        """All distinct texts, in order: what a tiny student's tokenizer is trained on."""
        columns = (self.prompt, self.answer, self.completion)
        return list(dict.fromkeys(text for column in columns for text in column))


@dataclass(frozen=True)
class Questions:
    """Labelled questions to judge a student on, as columns.

    Attributes:
        dataset: where they come from, for the record.
        split: which part of it.
        question_id: their ids.
        prompt: the question as a student reads it, without a prefix.
        task: `choice`, `number` or `text`.
        choices: option label -> text; empty for other tasks.
        gold: the right answer: a label or a canonical answer.
        domain: subject, None where unknown.
    """

    dataset: str
    split: str
    question_id: list[str]
    prompt: list[str]
    task: list[str]
    choices: list[dict[str, str]]
    gold: list[str]
    domain: list[str | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.question_id)

    def take(self, rows: Sequence[int]) -> Questions:
        """The questions of some rows, in the order given."""
        columns = ("question_id", "prompt", "task", "choices", "gold", "domain")
        picked: dict[str, Any] = {name: [getattr(self, name)[r] for r in rows] for name in columns}
        return replace(self, **picked)

    @property
    def targets(self) -> list[str]:
        """What a student that predicts is to say: the gold option's text, or the gold answer itself."""
        return [options[gold] if options else gold for options, gold in zip(self.choices, self.gold, strict=True)]

    def first(self, n: int, seed: int = 0) -> Questions:
        """At most ``n`` of them, picked by the seed, in their order."""
        if len(self) <= n:
            return self
        return self.take(np.sort(np.random.default_rng(seed).permutation(len(self))[:n]).tolist())


def read_questions(published: Published, split: str) -> Questions:
    """The labelled questions of a split.

    Raises:
        InputError: there is no such split, or no question of it has a gold answer.
    """
    table = published.questions(split)
    labelled = table.filter(table["answer"].is_valid())
    if not len(labelled):
        raise InputError(f"no {split} question of {published.name} has a gold answer: a student cannot be judged on it")
    datasets = labelled["dataset"].unique().to_pylist()
    return Questions(
        dataset=datasets[0] if len(datasets) == 1 else published.name,
        split=split,
        question_id=labelled["question_id"].to_pylist(),
        prompt=prompts(labelled).to_pylist(),
        task=labelled["task"].to_pylist(),
        choices=[{c["label"]: c["text"] for c in options} for options in labelled["choices"].to_pylist()],
        gold=labelled["answer"].to_pylist(),
        domain=labelled["domain"].to_pylist(),
    )


def read_validation(published: Published) -> Questions | None:
    """The labelled validation questions; None where there are none."""
    try:
        return read_questions(published, "validation")
    except InputError:
        return None


def read_examples(
    published: Published,
    method: str,
    teachers: Sequence[str] | None = None,
    split: str = "train",
    weight_by: str | None = None,
) -> Examples:
    """The training rows of a method; every question of the split with an answer is in, with or without a rationale.

    Args:
        published: the dataset.
        method: a purifier whose choice was published; `teacher:ID` (distilling step-by-step from one teacher);
            `keep-all` (TinyLLM: every teacher's rationale under a prefix of its own); or `fine-tuning` (no rationale).
        teachers: for `keep-all` alone, only these, in this order; all by default.
        split: which questions.
        weight_by: for a purifier's choice, one of `WEIGHTS`: weight each rationale instead of counting all alike; one
            whose weight is unknown counts 1.

    Raises:
        InputError: there is no such method, teacher, split or weight, teachers are named for another method than
            keep-all, or there is nothing to train on.
    """
    questions = published.questions(split)
    asked = _teachers(published, method, teachers)
    if method == FINE_TUNING:
        found: list[dict[str, Any]] = []
    elif asked:
        found = published.rationales(asked)
    else:
        found = published.purified(method)
    if weight_by is not None:
        _weigh(found, weight_by, method, purified=method != FINE_TUNING and not asked)
    name = method if weight_by is None else f"{method}, weighted by {weight_by}"
    examples = examples_of(name, questions, found, asked if method == KEEP_ALL else ())
    if not len(examples) or (method != FINE_TUNING and not examples.rationales):
        missing = "gold answer" if method == FINE_TUNING else "rationale"
        raise InputError(f"{method}: no {split} question of {published.name} has a {missing}, so nothing can be learnt")
    return examples


def _weigh(found: Sequence[dict[str, Any]], by: str, method: str, *, purified: bool) -> None:
    """Give each row the weight that its purifier stored."""
    if by not in WEIGHTS:
        raise InputError(f"rationales cannot be weighted by '{by}'{nearest(by, WEIGHTS)}: by {', '.join(WEIGHTS)}")
    if not purified or all(row[WEIGHTS[by]] is None for row in found):
        raise InputError(
            f"the rationales of {method} have no weight by {by}: train on a method purified by this version"
        )
    for row in found:
        row["weight"] = row[WEIGHTS[by]]


def _teachers(published: Published, method: str, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The teachers whose own rationales are asked for; empty for a purifier or fine-tuning."""
    if wanted and method != KEEP_ALL:
        raise InputError(
            f"--teachers is for keep-all, and {method} is not: for students of other methods by teachers, run  "
            "raffinate compare --teacher-sets"
        )
    if method == FINE_TUNING:
        return ()
    if method != KEEP_ALL and not method.startswith(ONE_TEACHER):
        known = published.methods()
        if method not in known:
            others = list(dict.fromkeys([*known, KEEP_ALL, FINE_TUNING, "teacher:ID"]))
            raise InputError(
                f"{published.name} has nothing purified by '{method}'{nearest(method, others)}: "
                f"there is {', '.join(others)}"
            )
        return ()
    known = published.teachers()
    asked = tuple(wanted or known) if method == KEEP_ALL else (method.removeprefix(ONE_TEACHER),)
    for teacher in asked:
        if teacher not in known:
            raise InputError(
                f"{published.name} has no responses of teacher '{teacher}'{nearest(teacher, known)}: "
                f"there is {', '.join(known) or 'none'}"
            )
    return asked


def examples_of(
    method: str, questions: pa.Table, found: Sequence[dict[str, Any]], numbered: tuple[str, ...]
) -> Examples:
    """Put rationales to their questions.

    Args:
        method: what they are.
        questions: rows of the table `questions`; those without an answer of any kind are left out.
        found: the rationales: question_id, teacher_id, rationale, the answer that it concludes in, and its weight if
            it is not 1.
        numbered: teachers whose rationales have a prefix each, in this order; none where all share one.
    """
    ids = questions["question_id"].to_pylist()
    at = {question_id: i for i, question_id in enumerate(ids)}
    of: dict[int, list[dict[str, Any]]] = {}
    for row in found:
        if row["question_id"] in at and row["rationale"]:
            of.setdefault(at[row["question_id"]], []).append(row)
    number = {teacher: n for n, teacher in enumerate(numbered)}
    answer, rationale, concluded, teacher, where, weight = [], [], [], [], [], []
    for i, gold in enumerate(questions["answer"].to_pylist()):
        mine = sorted(of.get(i, []), key=lambda row: number.get(row["teacher_id"], 0))
        target = gold if gold is not None else _most(row["answer"] for row in mine)
        if target is None:
            continue
        for row in mine or [{"rationale": None, "answer": target, "teacher_id": None}]:
            where.append(i)
            answer.append(target)
            rationale.append(row["rationale"])
            concluded.append(row["answer"])
            teacher.append(number.get(row["teacher_id"]))
            weight.append(1.0 if row.get("weight") is None else row["weight"])
    part = questions.take(pa.array(where, pa.int64()))
    said = completions(
        pa.array([r or "" for r in rationale], pa.string()), pa.array(concluded, pa.string()), part["task"]
    )
    texts = answer_texts(part, pa.array(answer, pa.string()))
    rows = Examples(
        method=method,
        question_id=part["question_id"].to_pylist(),
        prompt=prompts(part).to_pylist() if where else [],
        answer=[text or "" for text in texts],
        rationale=rationale,
        completion=[text.lstrip("\n") for text in said.to_pylist()],
        teacher=teacher,
        weight=np.array(weight, np.float32),
        teachers=numbered,
    )
    return rows.take([i for i, text in enumerate(texts) if text])


def _most(answers: Any) -> str | None:
    counted = Counter(a for a in answers if a is not None)
    return counted.most_common(1)[0][0] if counted else None
