"""How much a purified row may count in training, for trainers that weigh rows where a purifier would drop them.

    agreement   w = 1 / (1 + GAMMA * D), D = share of the other teachers' read answers that differ from the kept one
    importance  accuracy of the row's teacher on train, shrunk as if `SHRINK` more questions had been seen at the
                teachers' mean accuracy, divided by the best teacher's

The first is UniSD's weight (arXiv 2605.06597), whose D is the variance of several teachers' log-probabilities of the
same text. Where we depart: nobody has those here, since a teacher's log-probability is of its own reply; D is read off
the answers, which every teacher has, is in 0..1 as it is, and needs no scaling by a quantile.

Gold of train questions alone is used, as a purifier's `fit` may.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schemas.corpus import UNREAD, Corpus

Floats = npt.NDArray[np.float32]

GAMMA = 4.0
SHRINK = 20.0


def agreement_weight(corpus: Corpus, column: npt.NDArray[np.int64], code: npt.NDArray[np.int32]) -> Floats:
    """(Q,) weight in 0..1 of keeping an answer; NaN where it is unread, or no other teacher's is read.

    Args:
        corpus: the answers.
        column: (Q,) teacher of the kept rationale, who is no judge of it; -1 where it is synthesised.
        code: (Q,) code of the kept answer.
    """
    read = corpus.answer != UNREAD
    read[np.arange(len(corpus)), column] &= column < 0
    differ = (read & (corpus.answer != code[:, None])).sum(axis=1)
    n = read.sum(axis=1)
    weight = 1 / (1 + GAMMA * differ / np.maximum(n, 1))
    return np.where((code == UNREAD) | (n == 0), np.nan, weight).astype(np.float32)


def teacher_importance(corpus: Corpus) -> Floats:
    """(T,) importance in 0..1, the best teacher 1; NaN where no train question says who was right, or nobody was."""
    correct = corpus.correct[corpus.rows("train")]
    known, right = (correct >= 0).sum(axis=0), (correct == 1).sum(axis=0)
    if not right.any():
        return np.full(len(corpus.teachers), np.nan, np.float32)
    shrunk = (right + SHRINK * right.sum() / known.sum()) / (known + SHRINK)
    importance: Floats = (shrunk / shrunk.max()).astype(np.float32)
    return importance
