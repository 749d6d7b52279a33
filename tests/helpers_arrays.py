"""A corpus straight from arrays, where no file is needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from schemas.corpus import UNREAD, Corpus
from schemas.tables import SPLITS

NOTHING = "-"
"""No usable response; ``?`` is a rationale whose answer is unread."""


class TextsOf:
    """Question texts are the ids' own; a rationale names its question and teacher."""

    def __init__(self, texts: dict[str, str], shares: dict[tuple[str, str], float] | None = None) -> None:
        self.texts = texts
        self.shares = shares or {}

    def questions(self, ids: Sequence[str]) -> list[str]:
        return [self.texts[i] for i in ids]

    def choices(self, ids: Sequence[str]) -> list[dict[str, str]]:
        return [{} for _ in ids]

    def rationales(self, ids: Sequence[str], teachers: Sequence[str], samples: Sequence[int]) -> list[str]:
        return [f"{t} on {i}" for i, t in zip(ids, teachers, strict=True)]

    def grades(
        self, ids: Sequence[str], teachers: Sequence[str], samples: Sequence[int]
    ) -> list[tuple[float | None, float | None]]:
        return [(self.shares.get(pair), None) for pair in zip(ids, teachers, strict=True)]


def corpus_of(
    answers: Sequence[str],
    gold: str = "",
    split: str | Sequence[str] = "train",
    texts: Sequence[str] | None = None,
    teachers: Sequence[str] | None = None,
) -> Corpus:
    """One string per question, one character per teacher: the answer, ``?`` or ``-``. A ``?`` in gold is unlabelled."""
    ids = [f"q{i}" for i in range(len(answers))]
    vocabulary = sorted({c for row in [*answers, gold] for c in row} - {"?", NOTHING})
    code = {c: i for i, c in enumerate(vocabulary)} | {"?": UNREAD, NOTHING: UNREAD}
    grid = np.array([[code[c] for c in row] for row in answers], np.int32)
    usable = np.array([[c != NOTHING for c in row] for row in answers])
    golds = np.array([code[c] for c in (gold or "?" * len(answers))], np.int32)
    known = (golds != UNREAD)[:, None] & usable
    splits = [split] * len(answers) if isinstance(split, str) else split
    names = tuple(teachers or "abcdefgh"[: grid.shape[1]])
    right = grid == golds[:, None]
    shares = {(ids[q], names[t]): float(right[q, t]) for q, t in np.argwhere(known).tolist()}
    return Corpus(
        question_ids=pa.array(ids, pa.string()),
        teachers=names,
        split=np.array([SPLITS.index(s) for s in splits], np.int8),
        domain=pa.nulls(len(answers), pa.string()),
        usable=usable,
        answer=grid,
        correct=np.where(known, right, -1).astype(np.int8),
        gold=golds,
        sample=np.zeros(grid.shape, np.int32),
        vocabulary=pa.array(vocabulary, pa.string()),
        texts=TextsOf(dict(zip(ids, texts or [f"question {i}" for i in ids], strict=True)), shares),
    )
