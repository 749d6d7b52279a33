"""How well a method chooses, against gold: accuracy of the kept answer, and how much of the possible gain it took.

oracle      share of questions where some teacher with a usable rationale was right
best single accuracy on these questions of the teacher that solved most train questions; what it did not answer usably
            is not right, on train and here
regret      oracle - accuracy
gap closed  (accuracy - best single) / (oracle - best single): 0 = as good as the best teacher, 1 = the oracle
interval    `schemas.intervals.wilson`
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from builders.read_answer import grade
from purifiers.base import Purified, Purifier, Signal
from purifiers.calibration import Calibration, calibration
from purifiers.run import fit, purify, shown
from schemas.corpus import UNREAD, Corpus
from schemas.errors import InputError
from schemas.intervals import wilson
from schemas.tables import SPLITS


@dataclass(frozen=True)
class Evaluation:
    """One method on one split; shares and accuracies are in 0..1.

    Attributes:
        method: its name.
        accuracy: right answers kept / questions; a rejected question is not right.
        low: lower end of the 95 % interval of the accuracy, see the module.
        high: upper end.
        coverage: questions kept / questions.
        oracle: see the module.
        regret: see the module.
        gap_closed: see the module; None where no teacher leaves a gap, or there is no train split to name the best.
        n: labelled questions.
        share: teacher -> share of the kept rationales that are its own.
        entropy: of the shares, over log(number of teachers): 0 = one teacher always, 1 = all equally often.
        fit_seconds: to learn from the train questions; on train, where choices are made out of fold, 0.
        choose_seconds: to choose; on train with the fits.
        responses_usd: of the responses that one kept rationale needs, see `cost_per_row`; None where unknown.
        cost_usd: of its requests, per question kept; None where it asks nobody or a price is unknown (US dollars).
        calibration: of the kept answers' probabilities; None where these are not chances to be right.
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
    fit_seconds: float
    choose_seconds: float
    responses_usd: float | None
    cost_usd: float | None
    calibration: Calibration | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Choice:
    """What one method kept of the rows that it was judged on, the seconds that took, and what its requests cost."""

    method: Purifier
    kept: Purified
    fit_seconds: float
    choose_seconds: float
    cost_usd: float | None


def evaluate(corpus: Corpus, methods: Sequence[Purifier], *, on: str = "test", seed: int = 0) -> list[Evaluation]:
    """Evaluate methods on the labelled questions of a split; what learns is fitted on train (out of fold if on train).

    Args:
        corpus: all questions.
        methods: unfitted purifiers.
        on: ``train``, ``validation`` or ``test``.
        seed: of the folds.

    Raises:
        InputError: the split has no labelled question with an answer, or a method makes no choice.
    """
    rows = judged_rows(corpus, methods, on)
    return judge(corpus, rows, [choose_on(m, corpus, rows, on, seed) for m in methods])


def judge(
    corpus: Corpus,
    rows: npt.NDArray[np.int64],
    choices: Sequence[Choice],
    *,
    prices: Mapping[str, float] | None = None,
) -> list[Evaluation]:
    """Evaluate choices that were made for some rows.

    Args:
        corpus: all questions; its train split names the best single teacher.
        rows: the rows.
        choices: of these rows.
        prices: teacher -> mean US dollars of a response, where they are known.
    """
    part = corpus.take(rows)
    best = _best_single(corpus, part)
    return [_score(c, part, best, prices or {}) for c in choices]


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
    rows = rows[corpus.judgeable[rows]]
    if not len(rows):
        has = ", ".join(s for s in SPLITS if len(corpus.rows(s)))
        raise InputError(f"the split '{on}' has no labelled question that a teacher answered (questions are in: {has})")
    return rows


def judged_rows(corpus: Corpus, methods: Sequence[Purifier], on: str) -> npt.NDArray[np.int64]:
    """`labelled_rows`, after a look at the methods: each must make a choice.

    Raises:
        InputError: there are none, or a method makes no choice.
    """
    for m in methods:
        if not m.chooses:
            raise InputError(f"{m.name} keeps every rationale: there is no choice to judge, leave it out")
    return labelled_rows(corpus, on)


def choices_on(method: Purifier, corpus: Corpus, rows: npt.NDArray[np.int64], on: str, seed: int) -> Purified:
    """What a method keeps of some rows of the split ``on``, fitted on train, gold hidden (out of fold on train)."""
    return choose_on(method, corpus, rows, on, seed).kept


def choose_on(method: Purifier, corpus: Corpus, rows: npt.NDArray[np.int64], on: str, seed: int) -> Choice:
    """`choices_on`, timed."""
    start = time.perf_counter()
    if on == "train":
        kept = purify(method, corpus.take(rows), seed=seed)[1]
        return Choice(method, kept, 0.0, time.perf_counter() - start, _cost(method))
    fitted = fit(method, corpus) if method.needs_fit else method
    middle = time.perf_counter()
    kept = fitted.purify(shown(corpus, method).take(rows))
    return Choice(method, kept, middle - start, time.perf_counter() - middle, _cost(method))


def _best_single(corpus: Corpus, part: Corpus) -> float | None:
    """Accuracy on ``part`` of the teacher that solved most train questions."""
    train = corpus.take(corpus.rows("train"))
    if not train.judgeable.any():
        return None
    best = int(solved(train).sum(axis=0).argmax())
    return float(solved(part)[:, best].mean())


def solved(corpus: Corpus) -> npt.NDArray[np.bool_]:
    """(Q, T) whether the teacher has a usable rationale and was right."""
    return np.asarray((corpus.correct == 1) & corpus.usable)


def _score(choice: Choice, part: Corpus, best: float | None, prices: Mapping[str, float]) -> Evaluation:
    method, kept = choice.method, choice.kept
    right = is_right(part, kept)
    low, high = wilson(int(right.sum()), len(right))
    oracle = float(solved(part).any(axis=1).mean())
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
        fit_seconds=choice.fit_seconds,
        choose_seconds=choice.choose_seconds,
        responses_usd=cost_per_row(method, part, kept, prices),
        cost_usd=None if choice.cost_usd is None else choice.cost_usd / max(len(part) - len(kept.rejected), 1),
        calibration=calibration_of(part, kept) if method.gives_chances else None,
    )


def calibration_of(part: Corpus, kept: Purified) -> Calibration | None:
    """Calibration of the kept answers; None if the method gives no probability."""
    rows = np.flatnonzero(kept.teacher >= 0)
    if kept.probabilities is None or not len(rows):
        return None
    return calibration(kept.probabilities[rows, kept.teacher[rows]].astype(np.float64), is_right(part, kept)[rows])


def cost_per_row(method: Purifier, part: Corpus, kept: Purified, prices: Mapping[str, float]) -> float | None:
    """US dollars of responses per kept rationale, at each teacher's mean price; None where a price is unknown.

    A method that looks at the question alone needs only the response of the teacher that it chose; any other one those
    of all teachers. What a method itself asks LLMs for is ``Evaluation.cost_usd``.
    """
    chosen = kept.teacher[kept.teacher >= 0]
    n = len(chosen) + len(kept.synthesised)
    if not n or any(t not in prices for t in part.teachers):
        return None
    each = np.array([prices[t] for t in part.teachers])
    if method.looks_at <= {Signal.QUESTION}:
        return float(each[chosen].sum() / n)
    return float(each.sum() * len(part) / n)


def is_right(part: Corpus, kept: Purified) -> npt.NDArray[np.bool_]:
    """(Q,) whether the kept answer is gold; False where the question was rejected."""
    right = np.where(kept.teacher < 0, False, part.correct[np.arange(len(part)), kept.teacher] == 1)
    for row, made in kept.synthesised.items():
        gold = part.vocabulary[int(part.gold[row])].as_py() if part.gold[row] != UNREAD else None
        right[row] = gold is not None and grade(made.answer, gold, "text")  # equal labels and numbers are equal texts
    return np.asarray(right, np.bool_)


def share_entropy(shares: npt.NDArray[np.float64]) -> float:
    """Entropy over its maximum, log(number of shares): 0 = one has all (or there is one), 1 = all equal."""
    if len(shares) < 2:
        return 0.0
    positive = shares[shares > 0]
    return float((positive * -np.log(positive)).sum() / np.log(len(shares)))
