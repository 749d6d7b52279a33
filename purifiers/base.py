"""The contract of a purifier: many rationales per question in, one out, or none and the reason.

A purifier is a pydantic model: its fields are its settings (``--set k=v``), checked and described once. `fit` learns
from labelled train questions, `score` says how much it wants each teacher's rationale, `purify` chooses. Who may see
which gold answers is not its business: `purifiers.run` hands it a corpus with everything else hidden.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, PrivateAttr

from purifiers.equipment import Equipment, Student
from schemas.corpus import Corpus
from schemas.errors import InputError

Scores = npt.NDArray[np.float32]
"""(questions, teachers); NaN where the teacher has no usable response."""


class Signal(StrEnum):
    """What a purifier looks at when it chooses. The card repeats it."""

    QUESTION = "question"
    RATIONALES = "rationales"
    ANSWERS = "answers"
    GOLD = "gold"
    LOGPROBS = "logprobs"
    STUDENT = "student"
    LLM = "llm"


NO_RESPONSE = "no teacher has a usable response"
EQUAL = 1e-6
"""Scores this close are equal: what tells them apart may be rounding."""
BLOCK = 20_000
"""Questions scored at a time by a method that looks at texts."""


@dataclass(frozen=True)
class Synthesis:
    """A rationale made from several responses.

    Attributes:
        rationale: the text, without the final answer line.
        answer: the answer it concludes in; None if none could be read.
        teachers: columns of the responses it was made from.
        written_by: the teacher or judge that wrote it.
    """

    rationale: str
    answer: str | None
    teachers: tuple[int, ...]
    written_by: str | None = None


@dataclass(frozen=True)
class Purified:
    """What a purifier kept of each question.

    Attributes:
        teacher: (Q,) column of the chosen teacher; -1 where the question is rejected or its rationale synthesised.
        score: (Q,) float32 score of the chosen teacher, NaN where there is none.
        probabilities: (Q, T) probability given to each teacher, NaN where unusable; None if the method gives none.
        rejected: row -> reason.
        synthesised: row -> rationale.
        notes: row -> what is out of the ordinary about a rationale kept.
        every: (Q, T) all rationales kept, of a method that keeps several of a question and chooses none.
    """

    teacher: npt.NDArray[np.int64]
    score: npt.NDArray[np.float32]
    probabilities: Scores | None = None
    rejected: Mapping[int, str] = field(default_factory=dict)
    synthesised: Mapping[int, Synthesis] = field(default_factory=dict)
    notes: Mapping[int, str] = field(default_factory=dict)
    every: npt.NDArray[np.bool_] | None = None

    def picks(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(N,) row and (N,) column of each rationale kept, in row order; column -1 where it is synthesised."""
        if self.every is not None:
            row, column = np.nonzero(self.every)
            return row.astype(np.int64), column.astype(np.int64)
        kept = self.teacher >= 0
        kept[list(self.synthesised)] = True
        rows = np.flatnonzero(kept)
        return rows, self.teacher[rows]


class Purifier(BaseModel, ABC):
    """One method. Subclasses set ``name`` and ``signals``, add settings as fields, and give `score`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    signals: ClassVar[frozenset[Signal]]
    learns: ClassVar[bool] = False
    """Whether `fit` learns from gold, so that a train question's own choice must be made out of fold."""
    publishable: ClassVar[bool] = True
    """False for what serves evaluation alone, such as the oracle."""
    chooses: ClassVar[bool] = True
    """False for `keep-all`, whose choice cannot be judged because it makes none."""

    _teachers: tuple[str, ...] = PrivateAttr(())
    """The teachers that `fit` saw, in its order; what was learned is theirs."""
    _learned: Mapping[str, npt.NDArray[Any]] = PrivateAttr(default_factory=dict)
    """What `fit` learned, by name."""
    _equipment: Equipment = PrivateAttr(default_factory=Equipment)

    @property
    def equipment(self) -> Equipment:
        """What it was handed."""
        return self._equipment

    @property
    def looks_at(self) -> frozenset[Signal]:
        """The signals of this purifier with its settings; ``signals`` are those of the default ones."""
        return self.signals

    @property
    def needs_fit(self) -> bool:
        """Whether this purifier with its settings learns; ``learns`` says it of the default ones."""
        return self.learns

    def equipped(self, equipment: Equipment) -> Self:
        """A copy that may use a student, or ask teachers; what it has learned stays."""
        copy = self.model_copy()
        copy._equipment = equipment
        return copy

    @property
    def gives_chances(self) -> bool:
        """Whether the probability that it gives a teacher is the chance that this teacher's answer is right."""
        return False

    @property
    def student(self) -> Student:
        """The student it was handed.

        Raises:
            InputError: it was handed none.
        """
        if self._equipment.student is None:
            raise InputError(
                f"{self.name} needs a student: give one with  --student MODEL_OR_FOLDER, "
                "or  student: ...  beside the method in the recipe"
            )
        return self._equipment.student

    @property
    def fitted_teachers(self) -> tuple[str, ...]:
        """The teachers that `fit` saw; empty before it."""
        return self._teachers

    def learned(self, name: str) -> npt.NDArray[Any]:
        """What `fit` learned under this name.

        Raises:
            InputError: the purifier is not fitted.
        """
        if name not in self._learned:
            raise InputError(f"{self.name} is not fitted: fit it on train questions, or load a fitted one")
        return self._learned[name]

    def among_teachers(self, scores: npt.NDArray[Any], corpus: Corpus) -> Scores:
        """(Q, T) scores of the corpus's teachers from (Q, fitted) scores of those that `fit` saw, in its order.

        A teacher that was not there at the fit has none (NaN), as has one without a usable response.
        """
        order = [self._teachers.index(t) if t in self._teachers else -1 for t in corpus.teachers]
        known = np.concatenate([scores, np.full((len(scores), 1), np.nan)], axis=1)
        return only_usable(known[:, order], corpus)

    def fit(self, corpus: Corpus) -> Self:
        """Learn from labelled train questions; return a fitted copy, this one stays as it is."""
        return self

    @abstractmethod
    def score(self, corpus: Corpus) -> Scores:
        """Score every teacher's response; higher is better, NaN where there is no usable response."""

    def purify(self, corpus: Corpus) -> Purified:
        """Keep the teacher with the highest score; reject the question where there is none."""
        return choose(self.score(corpus))

    @property
    def state_version(self) -> int:
        """Grows when what `state` holds or means changes, so that what an earlier version saved is not misread."""
        return 1

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What `fit` learned, as arrays; empty for a method that does not learn."""
        return dict(self._learned)

    def restore(self, state: Mapping[str, npt.NDArray[Any]], teachers: tuple[str, ...]) -> Self:
        """A copy that has learned ``state`` about these teachers."""
        copy = self.model_copy()
        copy._teachers, copy._learned = teachers, dict(state)
        return copy


def choose(
    scores: Scores,
    probabilities: Scores | None = None,
    *,
    ties: npt.NDArray[np.floating] | None = None,
    why_none: str = NO_RESPONSE,
) -> Purified:
    """Argmax per question; a question whose scores are all NaN is rejected with ``why_none``.

    Among scores within `EQUAL` of the highest, the highest of ``ties`` is kept: `purifiers.votes.noise`, for a method
    that must not favour teacher order. Without it equal scores go to the earlier teacher.
    """
    rows, empty = np.arange(len(scores)), np.isnan(scores).all(axis=1)
    open_ = np.where(np.isnan(scores), -np.inf, scores)
    best = open_.argmax(axis=1)
    if ties is not None:
        best = np.where(open_ >= open_[rows, best, None] - EQUAL, ties, -np.inf).argmax(axis=1)
    return Purified(
        teacher=np.where(empty, -1, best).astype(np.int64),
        score=np.where(empty, np.nan, scores[rows, best]).astype(np.float32),
        probabilities=probabilities,
        rejected=dict.fromkeys(np.flatnonzero(empty).tolist(), why_none),
    )


def blocks(corpus: Corpus) -> Iterator[Corpus]:
    """The corpus, `BLOCK` questions at a time."""
    for start in range(0, len(corpus), BLOCK):
        yield corpus.take(np.arange(start, min(start + BLOCK, len(corpus))))


def by_blocks(score: Callable[[Corpus], Scores], corpus: Corpus) -> Scores:
    """Score block by block: memory for texts and vectors depends on the block, not on the corpus."""
    parts = [score(part) for part in blocks(corpus)]
    return np.concatenate(parts) if parts else np.zeros(corpus.usable.shape, np.float32)


def overrule(
    kept: Purified,
    rows: npt.NDArray[np.int64],
    scores: Scores,
    ties: npt.NDArray[np.floating],
    why_none: Mapping[int, str],
) -> Purified:
    """The choice with some rows chosen anew.

    Args:
        kept: the choice.
        rows: (R,) the rows to choose anew.
        scores: (R, T) their scores; a row without any is rejected.
        ties: (R, T) see `choose`.
        why_none: row -> the reason of its rejection; `NO_RESPONSE` where there is none.
    """
    anew = choose(scores, ties=ties)
    teacher, score = kept.teacher.copy(), kept.score.copy()
    teacher[rows], score[rows] = anew.teacher, anew.score
    mine = set(rows.tolist())
    rejected = {row: why for row, why in kept.rejected.items() if row not in mine}
    rejected |= {int(rows[i]): why_none.get(int(rows[i]), NO_RESPONSE) for i in anew.rejected}
    return replace(kept, teacher=teacher, score=score, rejected=dict(sorted(rejected.items())))


def only_usable(scores: npt.NDArray[Any], corpus: Corpus) -> Scores:
    """The scores as float32, NaN where the teacher has no usable response."""
    return np.where(corpus.usable, scores, np.nan).astype(np.float32)


def softmax(scores: Scores) -> Scores:
    """Row-wise softmax over the teachers that have a score; NaN stays NaN, an empty row is all NaN."""
    top = np.nanmax(np.where(np.isnan(scores), -np.inf, scores), axis=1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0.0))
    shares: Scores = (weights / np.nansum(weights, axis=1, keepdims=True).clip(1e-30)).astype(np.float32)
    return shares
