"""How well a method chooses, against gold: accuracy of the kept answer, and how much of the possible gain it took.

oracle      share of questions where some teacher with a usable rationale was right
best single accuracy on these questions of the teacher that was best on train
regret      oracle - accuracy
gap closed  (accuracy - best single) / (oracle - best single): 0 = as good as the best teacher, 1 = the oracle
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from builders.read_answer import grade
from purifiers.base import Purified, Purifier
from purifiers.best_teacher import accuracy
from purifiers.run import fit, purify, shown
from schemas.corpus import UNREAD, Corpus
from schemas.errors import InputError
from schemas.tables import SPLITS

RESAMPLES = 2000


@dataclass(frozen=True)
class Evaluation:
    """One method on one split; shares and accuracies are in 0..1.

    Attributes:
        method: its name.
        accuracy: right answers kept / questions; a rejected question is not right.
        low: lower end of the 95 % bootstrap interval of the accuracy, questions resampled.
        high: upper end.
        coverage: questions kept / questions.
        oracle: see the module.
        regret: see the module.
        gap_closed: see the module; None where no teacher leaves a gap, or there is no train split to name the best.
        n: labelled questions.
        share: teacher -> share of the kept rationales that are its own.
        entropy: of the shares, over log(number of teachers): 0 = one teacher always, 1 = all equally often.
        cost_usd: of its requests, per question kept; None where it asks nobody or a price is unknown (US dollars).
    """

    method: str
    accuracy: float
    low: float
    high: float
    coverage: float
    oracle: float
    regret: float
    gap_closed: float | None
    n: int
    share: dict[str, float]
    entropy: float
    cost_usd: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def evaluate(corpus: Corpus, methods: Sequence[Purifier], *, on: str = "test", seed: int = 0) -> list[Evaluation]:
    """Evaluate methods on the labelled questions of a split; what learns is fitted on train (out of fold if on train).

    Args:
        corpus: all questions.
        methods: unfitted purifiers.
        on: ``train``, ``validation`` or ``test``.
        seed: of folds and bootstrap.

    Raises:
        InputError: the split has no labelled question with an answer, or a method makes no choice.
    """
    for m in methods:
        if not m.chooses:
            raise InputError(f"{m.name} keeps every rationale: there is no choice to judge, leave it out")
    rows = labelled_rows(corpus, on)
    part = corpus.take(rows)
    best = _best_single(corpus, part)
    return [_score(m, part, choices_on(m, corpus, rows, on, seed), best, seed, _cost(m)) for m in methods]


def _cost(method: Purifier) -> float | None:
    """What the requests of the method's latest choice cost, those found in the journal included (US dollars)."""
    asker = method.equipment.asker
    calls = asker.ledger(method.name) if asker else None
    if calls is None:
        return None
    answered = calls.filter(pc.not_equal(calls["status"], "failed"))
    if not answered.num_rows or answered["cost_usd"].null_count:
        return None
    return float(pc.sum(calls["cost_usd"]).as_py())


def labelled_rows(corpus: Corpus, on: str) -> npt.NDArray[np.int64]:
    """The rows of a split where some teacher's answer is known to be right or wrong.

    Raises:
        InputError: there are none.
    """
    rows = corpus.rows(on)
    rows = rows[(corpus.correct[rows] >= 0).any(axis=1)]
    if not len(rows):
        has = ", ".join(s for s in SPLITS if len(corpus.rows(s)))
        raise InputError(f"the split '{on}' has no labelled question that a teacher answered (questions are in: {has})")
    return rows


def choices_on(method: Purifier, corpus: Corpus, rows: npt.NDArray[np.int64], on: str, seed: int) -> Purified:
    """What a method keeps of some rows of the split ``on``, fitted on train, gold hidden (out of fold on train)."""
    if on == "train":
        return purify(method, corpus.take(rows), seed=seed)[1]
    fitted = fit(method, corpus) if method.learns else method
    return fitted.purify(shown(corpus, method).take(rows))


def _best_single(corpus: Corpus, part: Corpus) -> float | None:
    """Accuracy on ``part`` of the teacher that was best on train."""
    train = corpus.take(corpus.rows("train"))
    if not (train.correct >= 0).any():
        return None
    best = int(accuracy(train).argmax())
    return float(((part.correct[:, best] == 1) & part.usable[:, best]).mean())


def _score(  # noqa: PLR0913, PLR0917
    method: Purifier, part: Corpus, kept: Purified, best: float | None, seed: int, cost_usd: float | None
) -> Evaluation:
    right = is_right(part, kept)
    low, high = bootstrap(right, seed)
    oracle = float(((part.correct == 1) & part.usable).any(axis=1).mean())
    gap = None if best is None or oracle <= best else (float(right.mean()) - best) / (oracle - best)
    chosen = kept.teacher[kept.teacher >= 0]
    shares = np.bincount(chosen, minlength=len(part.teachers)) / max(len(chosen), 1)
    return Evaluation(
        method=method.name,
        accuracy=float(right.mean()),
        low=low,
        high=high,
        coverage=1 - len(kept.rejected) / len(part),
        oracle=oracle,
        regret=oracle - float(right.mean()),
        gap_closed=gap,
        n=len(part),
        share=dict(zip(part.teachers, shares.tolist(), strict=True)),
        entropy=share_entropy(shares),
        cost_usd=None if cost_usd is None else cost_usd / max(len(part) - len(kept.rejected), 1),
    )


def is_right(part: Corpus, kept: Purified) -> npt.NDArray[np.bool_]:
    """(Q,) whether the kept answer is gold; False where the question was rejected."""
    right = np.where(kept.teacher < 0, False, part.correct[np.arange(len(part)), kept.teacher] == 1)
    for row, made in kept.synthesised.items():
        gold = part.vocabulary[int(part.gold[row])].as_py() if part.gold[row] != UNREAD else None
        right[row] = gold is not None and grade(made.answer, gold, "text")  # equal labels and numbers are equal texts
    return np.asarray(right, np.bool_)


def bootstrap(right: npt.NDArray[np.bool_], seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean, questions resampled `RESAMPLES` times.

    Resampling n questions with replacement draws the number of right ones from Binomial(n, mean).
    """
    means = np.random.default_rng(seed).binomial(len(right), right.mean(), RESAMPLES) / len(right)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def share_entropy(shares: npt.NDArray[np.float64]) -> float:
    """Entropy over its maximum, log(number of shares): 0 = one has all (or there is one), 1 = all equal."""
    if len(shares) < 2:
        return 0.0
    positive = shares[shares > 0]
    return float((positive * -np.log(positive)).sum() / np.log(len(shares)))
