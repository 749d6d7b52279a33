"""What the rationales of a question say, in words, for and against each of the answers given to it.

`purifiers.support` looks at one rationale and one option; here every usable rationale is read once, and what was found
is gathered per answer (`features`) and per supporter of an answer (`own_support`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from purifiers.options import LOOKS, looks
from purifiers.support import SIGNS, false_equations, support
from schemas.corpus import UNREAD, Corpus

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

N_WORDS = 3 * len(SIGNS) + 3
MISTAKES = 2
"""False equations of a rationale that count, at most."""
DOUBT = re.compile(
    r"\b(?:however|none of|closest|approximately|assum\w*|guess|likely|probably|wait|mistake|error"
    r"|not (?:listed|provided|given|match))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Readings:
    """The rationales of Q questions, read.

    Attributes:
        signs: (Q, T, K, `SIGNS`) of each rationale for each option, 0 beyond a question's own options.
        labels: Q tuples, of the labels of a question's options; where it has no choices, these are the answers given.
        is_option: (Q, K) which options a question has.
        mistakes: (Q, T) false equations.
        there: (Q, T) whether there is a rationale.
        place: (Q, T) the option that the teacher's answer is; -1 where it is none, or unread.
        manner: (Q, T, 3) log length, words of doubt, share of digits.
        looks: (Q, K, `LOOKS`) of the option itself.
        plausible: (Q, K) what `purifiers.options` makes of its looks; 0 until it is asked.
    """

    signs: npt.NDArray[np.float32]
    labels: tuple[tuple[str, ...], ...]
    is_option: npt.NDArray[np.bool_]
    mistakes: npt.NDArray[np.float32]
    there: npt.NDArray[np.bool_]
    place: Ints
    manner: npt.NDArray[np.float32]
    looks: npt.NDArray[np.float32]
    plausible: Floats


def read(corpus: Corpus) -> Readings:
    """Read the rationales of all questions; the options are the choices, or the answers given where there are none."""
    texts, words = _rationales(corpus), corpus.vocabulary.to_pylist()
    answers = [
        [words[c] for c in row if c != UNREAD] for row in np.where(corpus.usable, corpus.answer, UNREAD).tolist()
    ]
    rows = corpus.asked()
    choices = [{option["label"]: option["text"] for option in row["choices"]} for row in rows]
    options = [c or {a: a for a in given} for c, given in zip(choices, answers, strict=True)]
    asked = [" ".join(filter(None, (row["context"], row["question"]))) for row in rows]
    wide = max((len(o) for o in options), default=0) or 1
    shape = corpus.usable.shape
    signs = np.zeros((*shape, wide, len(SIGNS)), np.float32)
    seen = np.zeros((len(corpus), wide, len(LOOKS)), np.float32)
    mistakes, manner = np.zeros(shape, np.float32), np.zeros((*shape, 3), np.float32)
    place = np.full(shape, -1, np.int64)
    for q, own in enumerate(options):
        seen[q, : len(own)] = looks(asked[q], list(own.values()))
        if own and answers[q]:
            signs[q, :, : len(own)] = support(texts[q], own)
            mistakes[q] = [min(false_equations(t), MISTAKES) for t in texts[q]]
            manner[q] = [_manner(t) for t in texts[q]]
            number = {label: k for k, label in enumerate(own)}
            place[q] = [-1 if c == UNREAD else number.get(words[c], -1) for c in corpus.answer[q].tolist()]
    there = np.array([[bool(t) for t in row] for row in texts], np.bool_).reshape(shape)
    is_option = np.less(np.arange(wide), np.array([len(o) for o in options], np.int64)[:, None])
    return Readings(
        signs,
        tuple(map(tuple, options)),
        is_option,
        mistakes,
        there,
        np.where(corpus.usable, place, -1),
        manner,
        seen,
        np.zeros((len(corpus), wide)),
    )


def features(readings: Readings, question: Ints, voted: npt.NDArray[np.bool_]) -> Floats:
    """(N, `N_WORDS`) of N answers: what is said for and against each.

    Per sign of `purifiers.support`: the supporters' mean, its lead over their best rival option, and the mean of those
    who answered otherwise, or unreadably. Then the supporters' false equations, how plausible the answer looks as an
    option, and that less the most plausible option's.

    Args:
        readings: of Q questions.
        question: (N,) row of each answer's question.
        voted: (N, T) whose answer it is.
    """
    place = np.asarray(np.where(voted, readings.place[question], -1).max(axis=1, initial=-1))
    known = np.asarray(place >= 0)
    k, at = np.maximum(place, 0), np.arange(len(question))
    signs, there = readings.signs[question], readings.there[question]
    own = np.take_along_axis(signs, k[:, None, None, None], axis=2)[:, :, 0]
    rivals: Floats = np.where(readings.is_option[question][:, None, :, None], signs, 0)
    rivals[at, :, k] = 0  # signs are never below 0: a rival that is not there counts as one without support
    lead = own - rivals.max(axis=2)
    mistakes, plausible = readings.mistakes[question], readings.plausible[question, k]
    pros, cons = voted & there, ~voted & there
    looks_best = readings.plausible.max(axis=1, where=readings.is_option, initial=-np.inf)[question]
    columns = [_mean(own, pros), _mean(lead, pros), _mean(own, cons), _mean(mistakes[:, :, None], pros)]
    columns += [plausible[:, None], (plausible - looks_best)[:, None]]
    return np.where(known[:, None], np.concatenate(columns, axis=1), 0.0).astype(np.float64)


def manner(readings: Readings, question: Ints, voted: npt.NDArray[np.bool_]) -> Floats:
    """(N, 6) how the supporters of each answer put it: the mean of `Readings.manner`, and that less all teachers'."""
    everyone = readings.manner[question]
    own = _mean(everyone, voted)
    return np.concatenate([own, own - everyone.mean(axis=1)], axis=1).astype(np.float64)


def own_support(readings: Readings) -> Floats:
    """(Q, T) support of each teacher's rationale for its own answer: mean of signs and leads, less false equations."""
    k = np.maximum(readings.place, 0)
    signs = np.take_along_axis(readings.signs, k[:, :, None, None], axis=2)[:, :, 0]
    rivals = readings.signs.copy()
    np.put_along_axis(rivals, k[:, :, None, None], 0, axis=2)
    found: Floats = (2 * signs - rivals.max(axis=2)).mean(axis=2) - readings.mistakes
    return np.where(readings.place < 0, 0.0, found)


def _mean(values: npt.NDArray[np.float32], of: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """(N, S) mean of (N, T, S) over some teachers; 0 where there are none."""
    total = (values * of[:, :, None]).sum(axis=1)
    mean: npt.NDArray[np.float32] = total / np.maximum(of.sum(axis=1), 1)[:, None]
    return mean


def _manner(text: str) -> tuple[float, float, float]:
    return float(np.log1p(len(text))), len(DOUBT.findall(text)), sum(map(text.count, "0123456789")) / max(len(text), 1)


def _rationales(corpus: Corpus) -> list[list[str]]:
    """Q lists of T rationales, empty where there is none."""
    row, column = np.nonzero(np.ones_like(corpus.usable))
    flat = corpus.rationale_texts(row, column)
    width = len(corpus.teachers)
    return [flat[i : i + width] for i in range(0, len(flat), width)]
