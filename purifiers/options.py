"""How likely is each option of a question to be the right one by its looks, before any teacher is heard?

Who makes wrong options leaves traces: the right one is worded with more care, the others vary it and so share its
words, a right number lies amid those made up around it, and often follows from the question's numbers in one step.
Which traces a dataset has is learnt from the gold answers of its train questions, with a conditional logit over all
options of a question (`purifiers.conditional_logit`). The options are those that `purifiers.words` reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import numpy.typing as npt

from purifiers.conditional_logit import Candidates, fit
from purifiers.support import NUMBER, WORD

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LOOKS = (
    *("words", "length", "longest", "commas", "rarest", "start", "full stop", "odd", "asked"),
    *("whole", "negative", "step", "middle", "round"),
)
RIDGE = 30.0
OPERANDS = 8
"""Numbers of a question that are computed with, at most."""


def looks(question: str, texts: Sequence[str]) -> Floats:
    """(K, `LOOKS`) of the K options of a question; where it has no choices, of the answers given to it.

    words, length   number of words, log number of characters
    longest         whether none has more characters
    commas          how many it has
    rarest          share of the other options that have the word that fewest of them have
    start           share of the options that begin with the same word
    full stop, odd  whether it ends with one, and the share of the options that do otherwise
    asked           share of its words that the question has
    whole, negative whether its number is
    step            whether its number is the sum, difference, product or quotient of two numbers of the question
    middle          how far its number is from the middle of theirs by rank, 0 = in the middle, 1/2 = outermost
    round           whether its number ends with 0 or 5

    An option's number is the first one in it. What is said of numbers is 0 unless more than half of the options have
    one.
    """
    n = max(len(texts), 1)
    words, asked = [WORD.findall(text.lower()) for text in texts], set(WORD.findall(question.lower()))
    having = Counter(word for own in words for word in set(own))
    first = Counter(own[0] if own else "" for own in words)
    lengths = np.array([len(text) for text in texts])
    stop = np.array([text.rstrip().endswith(".") for text in texts])
    columns = [
        [len(own) for own in words],
        np.log1p(lengths),
        lengths == lengths.max(initial=0),
        [text.count(",") for text in texts],
        [min((having[word] - 1 for word in own), default=0) / max(n - 1, 1) for own in words],
        [first[own[0] if own else ""] / n for own in words],
        stop,
        np.where(stop, 1 - stop.sum() / n, stop.sum() / n),
        [sum(word in asked for word in own) / max(len(own), 1) for own in words],
        *_numeric(question, texts),
    ]
    return np.stack([np.asarray(column, np.float64) for column in columns], axis=1)


def _numeric(question: str, texts: Sequence[str]) -> Floats:
    """(5, K) what is said of numbers."""
    found = [NUMBER.search(text.replace(",", "")) for text in texts]
    there = np.array([match is not None for match in found], np.bool_)
    if 2 * there.sum() <= len(texts):
        return np.zeros((5, len(texts)))
    value = np.array([float(match[0]) if match else np.nan for match in found])
    steps = _steps([abs(float(number)) for number in NUMBER.findall(question.replace(",", ""))[:OPERANDS]])
    reached = (np.abs(value[:, None] - steps) <= 1e-3 * np.abs(steps)).any(axis=1)
    with np.errstate(invalid="ignore"):  # a number of 309 digits is infinite
        whole = value % 1 == 0
    filled = np.where(there, value, np.nanmedian(value))
    below, same = (filled[:, None] > filled).sum(axis=1), (filled[:, None] == filled).sum(axis=1)
    rank = (below + (same - 1) / 2) / max(len(texts) - 1, 1)
    ends = np.array([match is not None and match[0][-1] in "05" for match in found])
    return np.stack([whole, value < 0, reached, np.abs(rank - 0.5), ends]).astype(np.float64)


def _steps(numbers: list[float]) -> Floats:
    """What two of the numbers make."""
    one, other = np.array(list(permutations(numbers, 2))).reshape(-1, 2).T
    with np.errstate(all="ignore"):
        made = np.concatenate([one + other, one - other, one * other, one / other])
    finite: Floats = made[np.isfinite(made)]
    return finite


def learn(seen: npt.NDArray[np.floating], is_option: npt.NDArray[np.bool_], gold: Ints) -> Floats:
    """(`LOOKS`,) weights of what right options look like.

    Args:
        seen: (Q, K, `LOOKS`), see `looks`.
        is_option: (Q, K) which options a question has.
        gold: (Q,) the right one; -1 where it is not known.
    """
    rows = np.flatnonzero(gold >= 0)
    question, option = np.nonzero(is_option[rows])
    features = seen[rows][question, option].astype(np.float64)
    spread = features.std(axis=0) if len(features) else np.zeros(len(LOOKS))
    spread = np.where(spread > 1e-9, spread, np.inf)
    n = len(LOOKS)
    never = np.full((len(rows), 1), -30.0)  # that none of the options is right
    candidates = Candidates(features / spread, question, never)
    prior, ridge = np.append(np.zeros(n), 1.0), np.append(np.full(n, RIDGE), 1e9)
    return fit(candidates, option == gold[rows][question], prior, ridge)[:n] / spread


def plausibility(weights: Floats, seen: npt.NDArray[np.floating], is_option: npt.NDArray[np.bool_]) -> Floats:
    """(Q, K) log of each option's probability over that of a guess; 0 where there is no option."""
    score = np.where(is_option, seen @ weights, -np.inf)
    top = score.max(axis=1, initial=-1e300, keepdims=True)
    total = np.exp(score - top).sum(axis=1, keepdims=True)
    n = np.maximum(is_option.sum(axis=1, keepdims=True), 1)
    return np.where(is_option, score - top - np.log(np.maximum(total, 1e-300)) + np.log(n), 0.0)


def out_of_fold(seen: npt.NDArray[np.floating], is_option: npt.NDArray[np.bool_], gold: Ints, fold: Ints) -> Floats:
    """(Q, K) `plausibility` by what the questions of the other folds taught."""
    found = np.zeros(is_option.shape)
    for k in np.unique(fold):
        mine, others = fold == k, fold != k
        weights = learn(seen[others], is_option[others], gold[others])
        found[mine] = plausibility(weights, seen[mine], is_option[mine])
    return found
