"""How likely is each option of a question to be the right one by its looks, before any teacher is heard?

Who makes wrong options leaves traces: the right one is worded with more care, the others vary it and so share its
words, a right number lies amid those made up around it. Which traces a dataset has is learnt from the gold answers of
its train questions, with a conditional logit over all options of a question (`purifiers.conditional_logit`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from purifiers.conditional_logit import Candidates, fit
from purifiers.support import WORD

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LOOKS = ("words", "length", "longest", "commas", "rarest", "start", "full stop", "odd", "middle", "round")
RIDGE = 30.0
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def looks(texts: Sequence[str]) -> Floats:
    """(K, `LOOKS`) of the K options of a question.

    words, length   number of words, log number of characters
    longest         whether none has more characters
    commas          how many it has
    rarest          share of the other options that have the word that fewest of them have
    start           share of the options that begin with the same word
    full stop, odd  whether it ends with one, and the share of the options that do otherwise
    middle          how far its number is from the middle of theirs by rank, 0 = in the middle, 1/2 = outermost
    round           whether its number ends with 0 or 5

    The last two are 0 unless more than half of the options have a number; the first one in an option counts.
    """
    n = max(len(texts), 1)
    words = [WORD.findall(text.lower()) for text in texts]
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
        *_numeric(texts),
    ]
    return np.stack([np.asarray(column, np.float64) for column in columns], axis=1)


def _numeric(texts: Sequence[str]) -> Floats:
    """(2, K) `middle` and `round`."""
    found = [NUMBER.search(text.replace(",", "")) for text in texts]
    if 2 * sum(match is not None for match in found) <= len(texts):
        return np.zeros((2, len(texts)))
    value = np.array([float(match[0]) if match else np.nan for match in found])
    value = np.where(np.isnan(value), np.nanmedian(value), value)
    below, same = (value[:, None] > value).sum(axis=1), (value[:, None] == value).sum(axis=1)
    rank = (below + (same - 1) / 2) / max(len(texts) - 1, 1)
    return np.stack([np.abs(rank - 0.5), [match is not None and match[0][-1] in "05" for match in found]])


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
