"""Look closer at methods on labelled questions: domains, curves, transfer, one against another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from purifiers.base import Purified, Purifier
from purifiers.evaluate import choices_on, is_right, labelled_rows, solved
from purifiers.run import fit, shown
from schemas.corpus import Corpus
from schemas.errors import InputError

Rows = npt.NDArray[np.int64]

RESAMPLES = 2000


def by_domain(part: Corpus, kept: Purified) -> dict[str, dict[str, float]]:
    """Domain -> accuracy, the best single teacher's accuracy there (chosen there, in hindsight), oracle, and n."""
    right, names = is_right(part, kept), np.array([d or "" for d in part.domain.to_pylist()])
    solved_by = solved(part)
    return {
        domain or "(none)": {
            "accuracy": float(right[mine].mean()),
            "best_single": float(solved_by[mine].mean(axis=0).max()),
            "oracle": float(solved_by[mine].any(axis=1).mean()),
            "n": int(mine.sum()),
        }
        for domain in sorted(set(names.tolist()))
        for mine in [names == domain]
    }


@dataclass(frozen=True)
class Difference:
    """Accuracy of one method minus another's on the same questions, with the 95 % paired bootstrap interval."""

    difference: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def paired(right: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_], seed: int = 0) -> Difference:
    """Resample the questions `RESAMPLES` times, both methods on the same ones.

    A question adds +1, 0 or -1 to the difference, so that a resample is a multinomial draw of these three. Of equal
    methods on 20 or more questions about 5 % are called different; on fewer more are (three questions can be enough).
    """
    n = len(right)
    gain, loss = float((right & ~other).mean()), float((~right & other).mean())
    drawn = np.random.default_rng(seed).multinomial(n, [gain, loss, max(0.0, 1 - gain - loss)], RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [0.025, 0.975])
    return Difference(gain - loss, float(low), float(high))


def train_curve(
    corpus: Corpus, method: Purifier, sizes: Sequence[int], *, on: str = "test", seed: int = 0
) -> dict[int, float]:
    """Accuracy on a split by number of train questions; each smaller set is part of the larger ones.

    Raises:
        InputError: a size is larger than the train split, or that is the one to be judged.
    """
    if on == "train":
        raise InputError("a curve over train questions judges other ones: take validation or test (--on)")
    rows = labelled_rows(corpus, on)
    train = np.random.default_rng(seed).permutation(corpus.rows("train"))
    if max(sizes) > len(train):
        raise InputError(f"a curve up to {max(sizes)} train questions needs as many: there are {len(train)}")
    return {size: _learned_on(method, corpus, np.sort(train[:size]), rows) for size in sizes}


def _learned_on(method: Purifier, corpus: Corpus, learnt: Rows, judged: Rows) -> float:
    """Accuracy on the rows ``judged`` of a method that was fitted on the rows ``learnt``."""
    fitted, part = fit(method, corpus.take(learnt)) if method.needs_fit else method, corpus.take(judged)
    return float(is_right(part, fitted.purify(shown(part, method))).mean())


def teacher_curve(
    corpus: Corpus, method: Purifier, *, on: str = "test", seed: int = 0
) -> dict[int, dict[str, float | str]]:
    """Number of teachers -> the one added, and what the method, the best single one and the oracle reach with them.

    Teachers are added from the one that solved most train questions, with a usable rationale, to the one that solved
    fewest. All are judged on the questions that some teacher of the whole corpus answered, so that the figures can be
    compared.

    Raises:
        InputError: there is no labelled train question to order the teachers by.
    """
    rows, train = labelled_rows(corpus, on), corpus.take(corpus.rows("train"))
    if not train.judgeable.any():
        raise InputError("a curve over teachers orders them by accuracy on train, which has no labelled question")
    order = np.argsort(-solved(train).sum(axis=0), kind="stable")
    curve: dict[int, dict[str, float | str]] = {}
    for n in range(1, len(order) + 1):
        some = corpus.with_teachers([corpus.teachers[t] for t in order[:n]])
        part = some.take(rows)
        solved_by = solved(part)
        curve[n] = {
            "added": some.teachers[-1],
            "accuracy": float(is_right(part, choices_on(method, some, rows, on, seed)).mean()),
            "best_single": float(solved_by[:, 0].mean()),
            "oracle": float(solved_by.any(axis=1).mean()),
        }
    return curve


def sizes_up_to(n: int) -> list[int]:
    """100, 200, 500, 1000, ... below n, and n."""
    steps = [k * 10**e for e in range(2, 8) for k in (1, 2, 5)]
    return [s for s in steps if s < n] + [n]


def unseen_domains(corpus: Corpus, method: Purifier, *, on: str = "test") -> dict[str, float]:
    """Domain -> accuracy on its questions of a split, fitted on train questions of all other domains.

    Raises:
        InputError: the questions have fewer than two domains.
    """
    names = np.array([d or "" for d in corpus.domain.to_pylist()])
    known = sorted(set(names.tolist()) - {""})
    if len(known) < 2:
        raise InputError("transfer to an unseen domain needs questions of two or more domains: fill the field 'domain'")
    rows, train = labelled_rows(corpus, on), corpus.rows("train")
    apart = {domain: (train[names[train] != domain], rows[names[rows] == domain]) for domain in known}
    return {domain: _learned_on(method, corpus, *parts) for domain, parts in apart.items() if len(parts[1])}
