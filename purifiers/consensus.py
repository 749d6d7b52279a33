"""`consensus`: how likely is each answer to be right, given who gave it and what their rationales say?

Label-free when it chooses; on labelled train questions it learns

1. how far to trust each teacher in each domain: accuracy shrunk towards its overall accuracy, as if `SHRINK` more
   questions had been seen; its vote then counts  log(accuracy / (1 - accuracy)) + log(options - 1),  Dawid and
   Skene's (1979) log-odds with one error rate per teacher;
2. a conditional logit over the answers given, and "none of them" (`purifiers.conditional_logit`), which starts from
   that vote and is drawn to it by a ridge: with few train questions it is the weighted vote. What it adds: that
   teachers err together (one weight per teacher beside the vote's), how many agree, and what the words of the
   rationales say for and against each answer (`purifiers.support`). One ridge for the votes and one for the words, the
   pair with the best log-likelihood out of fold;
3. from `FOREST_FROM` train questions on, a forest on the same features (`purifiers.forest`), for what is not additive;
   the probability is the mean of the two.

The kept rationale is, among those of the most probable answer, the one whose words support it best.

Where we depart from Dawid-Skene: reliabilities are counted on gold, not found by EM over unlabelled votes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, PrivateAttr

from purifiers.base import NO_RESPONSE, Purified, Purifier, Scores, Signal, blocks, by_blocks, only_usable
from purifiers.best_teacher import accuracy
from purifiers.conditional_logit import Candidates, fit, loss, probabilities
from purifiers.forest import grow, predict
from purifiers.majority import NO_ANSWER
from purifiers.options import LOOKS, learn, out_of_fold, plausibility
from purifiers.run import fold_of
from purifiers.votes import noise
from purifiers.words import Readings, features, manner, own_support, read
from schemas.corpus import UNREAD, Corpus

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SHRINK = 20.0
RIDGES = tuple((votes, words) for votes in (1.0, 10.0, 100.0) for words in (10.0, 100.0, 1e3, 1e4) if words >= votes)
FOLDS = 5
FOREST_FROM = 1000
N_AGREEMENT, N_OUTSIDE = 4, 4


class Consensus(Purifier):
    """Calibrated probability of every answer, from agreement and text; abstains below a threshold."""

    name = "consensus"
    signals = frozenset({Signal.ANSWERS, Signal.QUESTION, Signal.RATIONALES})
    learns = True

    threshold: float = Field(
        default=0.0, ge=0, le=1, description="reject a question whose best answer is less probable"
    )
    text: bool = Field(
        default=True, description="look at the words of rationales and options; off: at the votes and domains alone"
    )

    trees: bool = Field(default=True, description="add a forest where there are train questions enough for one")

    _forest: Mapping[str, npt.NDArray[Any]] = PrivateAttr(default_factory=dict)
    _options: Floats = PrivateAttr(default_factory=lambda: np.zeros(len(LOOKS)))
    _weights: Floats = PrivateAttr(default_factory=lambda: np.zeros(0))
    _scale: Floats = PrivateAttr(default_factory=lambda: np.zeros((2, 0)))
    _accuracy: Floats = PrivateAttr(default_factory=lambda: np.zeros((1, 0)))
    _domains: tuple[str, ...] = PrivateAttr(())

    def fit(self, corpus: Corpus) -> Self:
        """Learn reliabilities, the looks of right options, the weights of the conditional logit, and the forest."""
        domains = tuple(sorted({d for d in corpus.domain.to_pylist() if d is not None}))
        copy = self.restore({}, corpus.teachers)
        copy._domains, copy._accuracy = domains, _reliability(corpus, domains)
        readings, fold = copy._read(corpus), fold_of(corpus, FOLDS, 0)
        if readings:
            options = readings.looks, readings.is_option, _right_options(corpus, readings.labels)
            copy._options = learn(*options)
            readings = replace(readings, plausible=out_of_fold(*options, fold))
        candidates, code = copy._candidates(corpus, readings)
        right = code == corpus.gold[candidates.question]
        if not right.any():  # the gold answers may be hidden although right and wrong is known
            right = _right(corpus, candidates.question, code)
        if self.trees and len(corpus) >= FOREST_FROM:
            copy._forest = grow(copy._seen_by_forest(corpus, candidates, code, readings), right)
        copy._scale = _scale(candidates.features, len(corpus.teachers))
        candidates = _scaled(candidates, copy._scale)
        copy._weights = _fit(candidates, right, fold, len(corpus.teachers))
        return copy

    @property
    def gives_chances(self) -> bool:
        """They are."""
        return True

    def score(self, corpus: Corpus) -> Scores:
        """Probability that the teacher's answer is right, in 0..1; NaN where unusable or unread."""
        return by_blocks(lambda part: self._probabilities(part, self._read(part)), corpus)

    def purify(self, corpus: Corpus) -> Purified:
        """Keep the best supporter of the most probable answer."""
        chance = np.zeros(corpus.usable.shape, np.float32)
        teacher = np.zeros(len(corpus), np.int64)
        start = 0
        for part in blocks(corpus):
            here, readings = slice(start, start := start + len(part)), self._read(part)
            chance[here] = self._probabilities(part, readings)
            teacher[here] = self._supporters(part, chance[here], readings)
        top = np.where(teacher < 0, np.nan, chance[np.arange(len(corpus)), teacher]).astype(np.float32)
        teacher[top < self.threshold] = -1
        return Purified(teacher, np.where(teacher < 0, np.nan, top).astype(np.float32), chance, self._why(corpus, top))

    def _why(self, corpus: Corpus, top: Scores) -> dict[int, str]:
        unsure = f"no answer has a probability of {self.threshold:g} or more"
        heard = np.asarray(corpus.usable.any(axis=1))
        reasons = {r: NO_ANSWER if heard[r] else NO_RESPONSE for r in np.flatnonzero(np.isnan(top)).tolist()}
        return reasons | dict.fromkeys(np.flatnonzero(top < self.threshold).tolist(), unsure)

    def _read(self, corpus: Corpus) -> Readings | None:
        if not self.text:
            return None
        readings = read(corpus)
        return replace(readings, plausible=plausibility(self._options, readings.looks, readings.is_option))

    def _supporters(self, corpus: Corpus, chance: Scores, readings: Readings | None) -> Ints:
        """(Q,) the teacher of the most probable answer whose rationale supports it best; -1 where none is read."""
        open_ = ~np.isnan(chance)
        top = np.where(open_, chance, -1).max(axis=1, keepdims=True)
        winners = open_ & (chance >= top - 1e-6)
        # Answers that are equally probable must not be mixed: noise picks one teacher, and with it one answer.
        tie = noise(corpus, 0)
        first = np.where(winners, tie, -1).argmax(axis=1)
        winners &= corpus.answer == corpus.answer[np.arange(len(corpus)), first][:, None]
        quality = self._reliability_of(corpus) + 1e-4 * tie
        if readings:
            quality = quality + own_support(readings)
        best: Ints = np.where(winners, quality, -np.inf).argmax(axis=1)
        return np.where(winners.any(axis=1), best, -1)

    def _probabilities(self, corpus: Corpus, readings: Readings | None) -> Scores:
        candidates, code = self._candidates(corpus, readings)
        scaled = _scaled(candidates, self._extended(self._scale, corpus, 1.0))
        chance, _ = probabilities(self._extended(self._weights[None], corpus)[0], scaled)
        if self._forest:
            other = predict(self._forest, self._seen_by_forest(corpus, candidates, code, readings))
            total = np.bincount(candidates.question, other, len(corpus))
            chance = (chance + other / np.maximum(total, 1)[candidates.question]) / 2
        grid = np.full(corpus.usable.shape, np.nan)
        row, column = np.nonzero(corpus.answer[candidates.question] == code[:, None])
        grid[candidates.question[row], column] = chance[row]
        return only_usable(grid, corpus)

    def _seen_by_forest(
        self, corpus: Corpus, candidates: Candidates, code: npt.NDArray[np.int32], readings: Readings | None
    ) -> Floats:
        """(N, ...) the features, with the votes and the reliabilities of the fitted teachers alone; domain; manner."""
        votes, rest = np.split(candidates.features, [len(corpus.teachers)], axis=1)
        known = [corpus.teachers.index(t) if t in corpus.teachers else -1 for t in self._teachers]
        mine = np.concatenate([votes, np.zeros((len(votes), 1))], axis=1)[:, known]
        domain = np.array(self._domain_rows(corpus), np.int64)
        share = self._accuracy[domain]
        odds = np.log(share / (1 - share))
        question = candidates.question
        columns = [mine, rest, votes.sum(axis=1, keepdims=True), candidates.outside[question], odds[question]]
        columns.append((domain[:, None] == np.arange(1, len(self._accuracy)))[question].astype(np.float64))
        if readings:
            columns.append(manner(readings, question, corpus.answer[question] == code[:, None]))
        return np.concatenate(columns, axis=1)

    def _extended(self, learned: Floats, corpus: Corpus, missing: float | None = None) -> Floats:
        """The learned columns for the teachers of this corpus; a new teacher gets the mean of the known ones."""
        n = len(self._teachers)
        votes, rest = learned[:, :n], learned[:, n:]
        new = votes.mean(axis=1) if missing is None else np.array([0.0, missing])
        columns = [votes[:, self._teachers.index(t)] if t in self._teachers else new for t in corpus.teachers]
        return np.concatenate([np.stack(columns, axis=1), rest], axis=1)

    def _reliability_of(self, corpus: Corpus) -> Floats:
        """(Q, T) shrunk accuracy of each teacher in the question's domain."""
        shares: Floats = self._extended(self._accuracy, corpus)[self._domain_rows(corpus)]
        return shares

    def _domain_rows(self, corpus: Corpus) -> list[int]:
        """(Q,) row of the question's domain in the reliabilities; 0, all domains, where it is new or unknown."""
        place = {domain: i + 1 for i, domain in enumerate(self._domains)}
        return [place.get(domain, 0) for domain in corpus.domain.to_pylist()]

    def _candidates(self, corpus: Corpus, readings: Readings | None) -> tuple[Candidates, npt.NDArray[np.int32]]:
        """The answers given, their features (votes, strength, agreement, text), and their codes."""
        question, code = answers_given(corpus)
        voted = corpus.answer[question] == code[:, None]
        options = [len(o) for o in corpus.choice_texts()]
        wrong_ways = np.log(np.maximum(np.array(options, np.float64) - 1, 1))
        share = self._reliability_of(corpus)
        strength = (voted * (np.log(share / (1 - share)) + wrong_ways[:, None])[question]).sum(axis=1)
        columns = [voted.astype(np.float64), strength[:, None], _agreement(question, voted, strength)]
        if readings:
            columns.append(features(readings, question, voted))
        return Candidates(np.concatenate(columns, axis=1), question, _outside(corpus, question, share)), code

    @property
    def state_version(self) -> int:
        """2: with the looks of options."""
        return 2

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Weights, scale of the features, looks of right options, reliabilities, domain names as bytes, forest."""
        names = "\n".join(self._domains).encode()
        return {
            "weights": self._weights,
            "scale": self._scale,
            "options": self._options,
            "accuracy": self._accuracy,
            "domains": np.frombuffer(names, np.uint8),
            **{f"forest.{name}": array for name, array in self._forest.items()},
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]], teachers: tuple[str, ...]) -> Self:
        """See `Purifier.restore`."""
        copy = super().restore(state, teachers)
        if state:
            copy._weights, copy._scale, copy._accuracy = state["weights"], state["scale"], state["accuracy"]
            copy._options = state["options"]
            copy._domains = tuple(bytes(state["domains"]).decode().split("\n")) if len(state["domains"]) else ()
            forest = {name.removeprefix("forest."): a for name, a in state.items() if name.startswith("forest.")}
            copy._forest = forest
        return copy


def _reliability(corpus: Corpus, domains: tuple[str, ...]) -> Floats:
    """(1 + domains, T) accuracy overall, then in each domain, shrunk (see the module)."""
    known, right = corpus.correct >= 0, corpus.correct == 1
    overall = (right.sum(axis=0) + SHRINK * accuracy(corpus).mean()) / (known.sum(axis=0) + SHRINK)
    names = np.array([d or "" for d in corpus.domain.to_pylist()])
    rows = [overall]
    for domain in domains:
        mine = names == domain
        rows.append((right[mine].sum(axis=0) + SHRINK * overall) / (known[mine].sum(axis=0) + SHRINK))
    shares: Floats = np.clip(np.stack(rows), 0.01, 0.99)
    return shares


def answers_given(corpus: Corpus) -> tuple[Ints, npt.NDArray[np.int32]]:
    """(N,) question and (N,) code of each distinct answer that has a usable rationale, questions in order."""
    answer = np.where(corpus.usable, corpus.answer, UNREAD)
    fresh = answer != UNREAD
    for later in range(1, answer.shape[1]):
        fresh[:, later] &= (answer[:, :later] != answer[:, later, None]).all(axis=1)
    question, teacher = np.nonzero(fresh)
    return question, answer[question, teacher]


def _right(corpus: Corpus, question: Ints, code: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    said = corpus.answer[question] == code[:, None]
    return np.asarray((said & (corpus.correct[question] == 1)).any(axis=1))


def _right_options(corpus: Corpus, labels: Sequence[Sequence[str]]) -> Ints:
    """(Q,) place of the right one among the labels of a question's options; -1 where it is not known, or not there."""
    solver = (corpus.correct == 1).argmax(axis=1)
    at = np.arange(len(corpus))
    solved = np.where(corpus.correct[at, solver] == 1, corpus.answer[at, solver], UNREAD)
    words = corpus.vocabulary.to_pylist()
    right = [words[c] if c != UNREAD else None for c in np.where(corpus.gold == UNREAD, solved, corpus.gold).tolist()]
    pairs = zip(labels, right, strict=True)
    return np.array([own.index(gold) if gold in own else -1 for own, gold in pairs], np.int64)


def _agreement(question: Ints, voted: npt.NDArray[np.bool_], strength: Floats) -> Floats:
    """(N, `N_AGREEMENT`) two or more, three or more, all supporters; and the lead in strength over the best rival."""
    n = voted.sum(axis=1)
    rows = int(question.max(initial=-1)) + 1
    everyone = np.bincount(question, n, rows)
    order = np.lexsort((-strength, question))
    q, s = question[order], strength[order]
    first = np.ones(len(q), np.bool_)
    first[1:] = q[1:] != q[:-1]
    place = np.arange(len(q)) - np.maximum.accumulate(np.where(first, np.arange(len(q)), 0))
    best, second = np.zeros(rows), np.zeros(rows)
    best[q[place == 0]], second[q[place == 1]] = s[place == 0], s[place == 1]
    lead = np.empty(len(q))
    lead[order] = s - np.where(first, second[q], best[q])
    return np.stack([n >= 2, n >= 3, n == everyone[question], lead], axis=1).astype(np.float64)


def _outside(corpus: Corpus, question: Ints, share: Floats) -> Floats:
    """(Q, `N_OUTSIDE`) a constant, the log numbers of distinct answers and of readers, the teachers' mean log-odds."""
    distinct = np.bincount(question, minlength=len(corpus))
    read = (corpus.answer != UNREAD).sum(axis=1)
    odds = np.log(share / (1 - share)).mean(axis=1)
    return np.stack([np.ones(len(corpus)), np.log1p(distinct), np.log1p(read), odds], axis=1)


def _scale(features: Floats, votes: int) -> Floats:
    """(2, D) mean and spread of the features; votes and their strength stay as they are, for the prior's sake.

    So do all where no answer was read.
    """
    mean, spread = np.zeros(features.shape[1]), np.ones(features.shape[1])
    if len(features):
        rest = features[:, votes + 1 :]
        mean[votes + 1 :], spread[votes + 1 :] = rest.mean(axis=0), rest.std(axis=0)
    return np.stack([mean, np.where(spread > 1e-9, spread, 1.0)])


def _scaled(candidates: Candidates, scale: Floats) -> Candidates:
    return Candidates((candidates.features - scale[0]) / scale[1], candidates.question, candidates.outside)


def _fit(candidates: Candidates, right: npt.NDArray[np.bool_], fold: Ints, votes: int) -> Floats:
    """Weights with the ridge that predicts best out of fold."""
    d, m = candidates.features.shape[1], candidates.outside.shape[1]
    prior = np.zeros(d + m)
    prior[votes] = 1.0  # the strength of the vote
    best, least = RIDGES[-1], np.inf
    for pair in RIDGES:
        total = 0.0
        for k in range(FOLDS):
            inside, outside = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
            if len(inside) and len(outside):
                seen = np.isin(candidates.question, inside)
                weights = fit(candidates.take(inside), right[seen], prior, _ridges(pair, votes, d, m))
                total += loss(weights, candidates.take(outside), right[~seen])
        if total < least:
            best, least = pair, total
    return fit(candidates, right, prior, _ridges(best, votes, d, m))


def _ridges(pair: tuple[float, float], votes: int, d: int, m: int) -> Floats:
    """(D + M,) the votes' ridge, the words' ridge; how often nobody is right is learned first of all."""
    n = votes + 1 + N_AGREEMENT
    return np.concatenate([np.full(n, pair[0]), np.full(d - n, pair[1]), np.full(m, min(pair[0], 1.0))])
