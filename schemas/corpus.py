"""The corpus: questions x teachers, aligned, as arrays. What every purifier sees.

Answers are compared as integer codes; texts stay where they are (a workspace's Parquet files, or memory) until a
purifier asks for some of them, so a million questions fit where their rationales would not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from schemas.errors import WorkspaceError
from schemas.tables import SPLITS

if TYPE_CHECKING:
    import pyarrow as pa

    from schemas.workspace import Workspace

Ints = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]
UNREAD = -1


class Texts(Protocol):
    """Where a corpus finds its texts."""

    def questions(self, ids: Sequence[str]) -> list[str]:
        """The questions as a student reads them: context, question and choices."""
        ...

    def choices(self, ids: Sequence[str]) -> list[dict[str, str]]:
        """The options of each question, label -> text; empty where a question has none."""
        ...

    def asked(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """The questions as rows of the table `questions`, without their gold answers."""
        ...

    def rationales(self, ids: Sequence[str], teachers: Sequence[str], samples: Sequence[int]) -> list[str]:
        """The rationale of each (question, teacher, sample); empty where there is none."""
        ...

    def grades(
        self, ids: Sequence[str], teachers: Sequence[str], samples: Sequence[int]
    ) -> list[tuple[float | None, float | None]]:
        """Share of right answers among the (question, teacher)'s samples, and the sample's mean log-probability."""
        ...


@dataclass(frozen=True)
class Corpus:
    """Q questions x T teachers. Rows are questions, columns teachers, in a fixed order; gaps are ordinary.

    Attributes:
        question_ids: the Q ids, as a pyarrow string array.
        teachers: the T teacher ids.
        split: (Q,) index into `schemas.tables.SPLITS`.
        domain: (Q,) domain names, as a pyarrow string array with nulls.
        usable: (Q, T) whether the teacher has a rationale that may be kept: status `ok`, and not empty.
        answer: (Q, T) code of the teacher's answer, an index into `vocabulary`; -1 where none was read.
        correct: (Q, T) 1 right, 0 wrong, -1 unknown: no gold, hidden gold, or gold shown to the teacher.
        gold: (Q,) code of the gold answer, -1 where there is none or it is hidden.
        sample: (Q, T) the sample that the teacher's one answer comes from.
        vocabulary: answer codes as text.
        texts: where questions and rationales are found.
    """

    question_ids: pa.StringArray
    teachers: tuple[str, ...]
    split: npt.NDArray[np.int8]
    domain: pa.StringArray
    usable: Bools
    answer: Ints
    correct: npt.NDArray[np.int8]
    gold: Ints
    sample: Ints
    vocabulary: pa.StringArray
    texts: Texts

    def __len__(self) -> int:
        return len(self.question_ids)

    @property
    def labelled(self) -> Bools:
        """(Q,) whether gold is known here."""
        return np.asarray(self.gold != UNREAD)

    @property
    def judgeable(self) -> Bools:
        """(Q,) whether some teacher's answer is known to be right or wrong."""
        return np.asarray((self.correct >= 0).any(axis=1))

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """The row numbers of a split."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def take(self, rows: npt.NDArray[np.int64]) -> Corpus:
        """The corpus of some rows, in the order given."""
        return replace(
            self,
            question_ids=self.question_ids.take(rows),
            split=self.split[rows],
            domain=self.domain.take(rows),
            usable=self.usable[rows],
            answer=self.answer[rows],
            correct=self.correct[rows],
            gold=self.gold[rows],
            sample=self.sample[rows],
        )

    def with_teachers(self, teachers: Sequence[str]) -> Corpus:
        """The corpus of these teachers, in this order; a teacher that it does not know has no usable response."""
        columns = np.array([self.teachers.index(t) if t in self.teachers else -1 for t in teachers])
        known = columns >= 0
        return replace(
            self,
            teachers=tuple(teachers),
            usable=self.usable[:, columns] & known,
            answer=np.where(known, self.answer[:, columns], UNREAD).astype(np.int32),
            correct=np.where(known, self.correct[:, columns], -1).astype(np.int8),
            sample=np.where(known, self.sample[:, columns], 0).astype(np.int32),
        )

    def hide_gold(self, rows: Bools | None = None) -> Corpus:
        """The same corpus with gold unknown on some rows (all, by default)."""
        hidden = np.ones(len(self), np.bool_) if rows is None else rows
        return replace(
            self,
            correct=np.where(hidden[:, None], np.int8(-1), self.correct),
            gold=np.where(hidden, UNREAD, self.gold).astype(np.int32),
        )

    def question_texts(self) -> list[str]:
        """The Q questions as a student reads them."""
        return self.texts.questions(self.question_ids.to_pylist())

    def choice_texts(self) -> list[dict[str, str]]:
        """The options of the Q questions, label -> text; empty where a question has none."""
        return self.texts.choices(self.question_ids.to_pylist())

    def asked(self) -> list[dict[str, Any]]:
        """The Q questions as rows of the table `questions`, without their gold answers."""
        return self.texts.asked(self.question_ids.to_pylist())

    def rationale_texts(self, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> list[str]:
        """The rationale at each ``(row, column)`` pair; empty where there is none."""
        return self.texts.rationales(
            self.question_ids.take(rows).to_pylist(),
            [self.teachers[c] for c in columns],
            self.sample[rows, columns].tolist(),
        )

    def grades(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(Q, T) share of a teacher's samples that are right, and (Q, T) mean log-probability of its answer (nats).

        NaN where there is none; the share also where right or wrong is unknown or hidden.
        """
        row, column = np.nonzero(self.correct >= 0)
        ids, teachers = self.question_ids.take(row).to_pylist(), [self.teachers[c] for c in column]
        found = self.texts.grades(ids, teachers, self.sample[row, column].tolist())
        share, logprob = np.full(self.correct.shape, np.nan), np.full(self.correct.shape, np.nan)
        if found:
            share[row, column], logprob[row, column] = np.array(found, np.float64).T
        return share, logprob

    @classmethod
    def of(cls, workspace: Workspace, teachers: Sequence[str] | None = None) -> Corpus:
        """Read the corpus of a workspace, questions in the order train, validation, test and as written.

        Raises:
            WorkspaceError: there are no questions or no responses yet.
        """
        from schemas.load_corpus import load_corpus

        corpus = load_corpus(workspace)
        unknown = sorted(set(teachers or ()) - set(corpus.teachers))
        if unknown:
            has = ", ".join(corpus.teachers)
            raise WorkspaceError(f"{workspace.path} has no responses of {', '.join(unknown)}; it has {has}")
        return corpus.with_teachers(teachers) if teachers else corpus
