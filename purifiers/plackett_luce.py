"""`plackett-luce`: rank the teachers anew for each question, from the train questions that resemble it.

Knowledge purification's ranking router (arXiv 2602.01064), after RouteLLM's similarity-weighted ranking
(arXiv 2406.18665, section 4.1). With E the encoder and q' the train questions,

    weight(q, q') = gamma ** (1 + cos(E(q), E(q')))
    P(teacher i | q) = exp(xi_i) / sum_j exp(xi_j),    xi(q) = weighted maximum likelihood on the train outcomes

``likelihood`` says how outcomes become comparisons:

    pairs    each right teacher beats each wrong one (rank breaking): -log sigmoid(xi_i - xi_j)
    winners  the right ones beat all as a set: -log( sum_{i right} e^xi_i / sum_i e^xi_i )
    ranking  the full Plackett-Luce likelihood of a ranking, stage by stage: whoever stands at a place was chosen among
             all that stand there or below, -log( e^xi_(k) / sum_{l >= k} e^xi_(l) ). The ranking is by the share of a
             teacher's samples that are right; with one sample each, right before wrong. Among equals that are right,
             by the mean log-probability of the answer, where all of them have one. Who is still equal shares a place
             (Breslow's approximation), and the last place is no stage: nobody stands below.

Where we depart: outcomes are right or wrong answers, not battles judged by people; the likelihood has a ridge (a
teacher that never loses would go to infinity) and xi sums to zero; weights are scaled to sum to 1, so the ridge means
the same for any gamma and number of questions.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from purifiers.base import Purified, Purifier, Scores, Signal, by_blocks, choose, softmax
from purifiers.encoder import DEFAULT_ENCODER, embed, unit
from purifiers.votes import noise
from schemas.corpus import Corpus

Floats = npt.NDArray[np.float64]

STEPS = 30
NEAR = 0.05
"""Nats from which on a step counts as one near the minimum."""
BLOCK = 2048
"""Questions fitted at a time."""
CELLS = 4_000_000
"""Questions x stages x teachers in memory at a time."""


class PlackettLuce(Purifier):
    """Per-question weighted Plackett-Luce fit; needs the question alone, so it can also route new questions."""

    name = "plackett-luce"
    signals = frozenset({Signal.QUESTION})
    learns = True

    gamma: float = Field(1000.0, gt=0, description="weight of similar questions; 1 = one ranking for all; RouteLLM: 10")
    likelihood: Literal["pairs", "winners", "ranking"] = Field(
        "pairs",
        description="'pairs': each right teacher beats each wrong one; 'winners': the right ones beat all as a set; "
        "'ranking': places by the share of samples that are right, then by log-probability",
    )
    neighbours: int | None = Field(None, gt=0, description="use only the k most similar train questions")
    centred: bool = Field(False, description="subtract the mean train vector from all vectors before the cosine")
    ridge: float = Field(1e-3, gt=0, description="weight of sum(xi**2)/2 beside the mean log-likelihood")
    encoder: str = Field(DEFAULT_ENCODER, description="sentence-transformers id or folder")

    def fit(self, corpus: Corpus) -> Self:
        """Remember the train questions that tell teachers apart: some right, some wrong."""
        if self.likelihood == "ranking":
            outcomes = places(*corpus.grades())
            tells = outcomes.max(axis=1, initial=0) > 0
        else:
            outcomes = corpus.correct
            tells = (outcomes == 1).any(axis=1) & (outcomes == 0).any(axis=1)
        rows = np.flatnonzero(tells)
        vectors = embed(corpus.take(rows).question_texts(), self.encoder, self.equipment.on_fit)
        return self.restore({"vectors": vectors, "outcomes": outcomes[rows]}, corpus.teachers)

    def score(self, corpus: Corpus) -> Scores:
        """xi, in nats: the difference of two scores is the log-odds that one teacher beats the other."""
        return by_blocks(lambda part: self.among_teachers(self.rank(part.question_texts()), part), corpus)

    def purify(self, corpus: Corpus) -> Purified:
        """Keep the highest score, of equal ones by `noise`; give the softmax over the teachers that answered."""
        scores = self.score(corpus)
        return choose(scores, softmax(scores), ties=noise(corpus, 0))

    def rank(self, questions: list[str]) -> Floats:
        """(Q, T) xi of every fitted teacher for each question text."""
        vectors = embed(questions, self.encoder, self.equipment.on_fit)
        blocks = [self._rank_block(vectors[i : i + BLOCK]) for i in range(0, len(vectors), BLOCK)]
        return np.concatenate(blocks) if blocks else np.zeros((0, len(self._teachers)))

    def _rank_block(self, vectors: npt.NDArray[np.float32]) -> Floats:
        if not len(self.learned("vectors")):  # no train question tells the teachers apart
            return np.zeros((len(vectors), len(self._teachers)))
        weights = similarity_weights(
            vectors, self.learned("vectors"), self.gamma, self.neighbours, centred=self.centred
        )
        if self.likelihood == "ranking":
            return fit_ranking(*stage_weights(weights, self.learned("outcomes")), self.ridge)
        patterns, which = np.unique(self.learned("outcomes"), axis=0, return_inverse=True)
        totals = np.stack([weights[:, which == p].sum(axis=1) for p in range(len(patterns))], axis=1)
        if self.likelihood == "pairs":
            return fit_pairs(np.einsum("qp,pij->qij", totals, beats(patterns)), self.ridge)
        return fit_winners(totals, patterns, self.ridge)


def similarity_weights(
    queries: npt.NDArray[np.float32],
    train: npt.NDArray[np.float32],
    gamma: float,
    neighbours: int | None = None,
    *,
    centred: bool = False,
) -> Floats:
    """(Q, N) gamma ** (1 + cosine), scaled to sum to 1 per query; 0 beyond the ``neighbours`` nearest if given."""
    if centred:
        mean = train.mean(axis=0)
        queries, train = unit(queries - mean), unit(train - mean)
    cosine = queries.astype(np.float64) @ train.T.astype(np.float64)  # in float32 the threads would tell
    if neighbours is not None and neighbours < len(train):
        least = np.partition(cosine, -neighbours, axis=1)[:, -neighbours, None]
        cosine = np.where(cosine < least, -np.inf, cosine)
    log_weight = np.log(gamma) * (1 + np.where(np.isneginf(cosine), 0.0, cosine))
    weight = np.where(np.isneginf(cosine), 0.0, np.exp(log_weight - log_weight.max(axis=1, keepdims=True)))
    shares: Floats = weight / weight.sum(axis=1, keepdims=True)
    return shares


def beats(outcomes: npt.NDArray[np.int8]) -> Floats:
    """(P, T, T) 1 where teacher i is right and teacher j wrong, the pairs of rank breaking."""
    pairs: Floats = ((outcomes[:, :, None] == 1) & (outcomes[:, None, :] == 0)).astype(np.float64)
    return pairs


def fit_pairs(wins: Floats, ridge: float) -> Floats:
    """Bradley-Terry by Newton steps, for many questions at once.

    Minimises  -sum_ij wins_ij log sigmoid(xi_i - xi_j) + ridge/2 sum_i xi_i**2.

    Args:
        wins: (Q, T, T) weight with which i beat j.
        ridge: above 0, which makes the minimum unique; it also centres xi, since the likelihood only sees differences.

    Returns:
        (Q, T) xi.
    """
    xi = np.zeros(wins.shape[:2])
    played = wins + wins.transpose(0, 2, 1)
    diagonal = np.arange(wins.shape[1])
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(xi[:, None, :] - xi[:, :, None]))  # (Q, T, T): i beats j
        gradient = (played * chance - wins).sum(axis=2) + ridge * xi
        spread = played * chance * (1 - chance)
        curved = -spread
        curved[:, diagonal, diagonal] += spread.sum(axis=2)
        step = _newton(curved, gradient, ridge)
        xi -= step
        if np.abs(step).max(initial=0) < 1e-8:
            break
    return xi


def fit_winners(totals: Floats, outcomes: npt.NDArray[np.int8], ridge: float) -> Floats:
    """Plackett-Luce with a set of winners per question, for many questions at once.

    Minimises  -sum_p totals_p log( sum_{i right in p} e^xi_i / sum_{i present in p} e^xi_i ) + ridge/2 sum_i xi_i**2
    by EM: which of the right teachers won is the hidden variable; each round is one Newton step. Near a minimum, where
    EM is slow, the step is Newton's on the function itself. It is not convex: the minimum is the one that equal scores
    lead to; where few questions count there may be a lower one.

    Args:
        totals: (Q, P) weight of each outcome pattern.
        outcomes: (P, T) 1 right, 0 wrong, -1 absent; each pattern has a right one.
        ridge: above 0.

    Returns:
        (Q, T) xi.
    """
    right, present = outcomes == 1, outcomes >= 0
    xi = np.zeros((len(totals), outcomes.shape[1]))
    for _ in range(4 * STEPS):
        winner, share = _shares(xi, right), _shares(xi, present)  # (Q, P, T)
        gradient = np.einsum("qp,qpt->qt", totals, share - winner) + ridge * xi
        spread = _spread(totals, share)
        step = _newton(spread, gradient, ridge)
        near = np.flatnonzero(np.abs(step).max(axis=1) < NEAR)
        exact = spread[near] - _spread(totals[near], winner[near])
        convex = np.linalg.eigvalsh(exact)[:, 0] > -ridge / 2
        step[near[convex]] = _newton(exact[convex], gradient[near[convex]], ridge)
        xi -= step
        if np.abs(step).max(initial=0) < 1e-8:
            break
    return xi


def places(share: Floats, logprob: Floats) -> npt.NDArray[np.int8]:
    """(Q, T) place of each teacher in its question's ranking, 0 first, equals alike; -1 where its share is unknown."""
    here = ~np.isnan(share)
    right = here & (share > 0)
    told = (np.isfinite(logprob) | ~right).all(axis=1, keepdims=True)
    below = (logprob[:, None, :] < logprob[:, :, None]) & right[:, None, :]
    value = np.where(here, share, -np.inf) + np.where(right & told, 1e-6 * below.sum(axis=2), 0.0)
    fresh = here.copy()
    for later in range(1, share.shape[1]):
        fresh[:, later] &= (value[:, :later] != value[:, later, None]).all(axis=1)
    above = (value[:, None, :] > value[:, :, None]) & fresh[:, None, :]
    return np.where(here, above.sum(axis=2), -1).astype(np.int8)


def stage_weights(weights: Floats, ranking: npt.NDArray[np.int8]) -> tuple[Floats, Floats, Floats]:
    """The distinct stages of N rankings and the weight that each has for each of Q questions.

    Args:
        weights: (Q, N) weight of each ranking.
        ranking: (N, T) places as `places` gives them.

    Returns:
        (Q, S) weights, (S, T) 1 for who won the stage, (S, T) 1 for who stood in it.
    """
    last = ranking.max(axis=1, initial=-1)
    question, place = np.nonzero(np.arange(ranking.shape[1]) < last[:, None])
    won = ranking[question] == place[:, None]
    stood = ranking[question] >= place[:, None]
    stages, which = np.unique(np.concatenate([won, stood], axis=1), axis=0, return_inverse=True)
    totals = np.stack([weights[:, question[which == s]].sum(axis=1) for s in range(len(stages))], axis=1)
    width = ranking.shape[1]
    return totals, stages[:, :width].astype(np.float64), stages[:, width:].astype(np.float64)


def fit_ranking(totals: Floats, won: Floats, stood: Floats, ridge: float) -> Floats:
    """Plackett-Luce of whole rankings by Newton steps, for many questions at once; the function is convex.

    Minimises  -sum_s totals_s sum_{i won s} log( e^xi_i / sum_{j stood in s} e^xi_j ) + ridge/2 sum_i xi_i**2.

    Args:
        totals: (Q, S) weight of each stage.
        won: (S, T) see `stage_weights`.
        stood: (S, T) likewise.
        ridge: above 0.

    Returns:
        (Q, T) xi.
    """
    block = max(1, CELLS // max(won.size, 1))
    if len(totals) > block:
        parts = [fit_ranking(totals[i : i + block], won, stood, ridge) for i in range(0, len(totals), block)]
        return np.concatenate(parts)
    xi = np.zeros((len(totals), won.shape[1]))
    heavy, gained = totals * won.sum(axis=1), totals @ won
    for _ in range(2 * STEPS):
        share = _shares(xi, stood > 0)
        gradient = np.einsum("qs,qst->qt", heavy, share) - gained + ridge * xi
        step = _newton(_spread(heavy, share), gradient, ridge)
        xi -= step
        if np.abs(step).max(initial=0) < 1e-8:
            break
    return xi


def _shares(xi: Floats, members: npt.NDArray[np.bool_]) -> Floats:
    """(Q, P, T) softmax of xi over the members of each pattern."""
    weight = np.exp(xi - xi.max(axis=1, keepdims=True))[:, None, :] * members
    shares: Floats = weight / weight.sum(axis=2, keepdims=True)
    return shares


def _spread(totals: Floats, share: Floats) -> Floats:
    """(Q, T, T) the second derivative by xi of  sum_p totals_p log sum_{i in p} e^xi_i,  given the (Q, P, T) shares."""
    found: Floats = -np.einsum("qp,qpi,qpj->qij", totals, share, share)
    diagonal = np.arange(share.shape[2])
    found[:, diagonal, diagonal] += np.einsum("qp,qpt->qt", totals, share)
    return found


def _newton(spread: Floats, gradient: Floats, ridge: float) -> Floats:
    """(Q, T) what to take off xi: a Newton step, the ridge counted in, of 2 at most."""
    curved = spread + ridge * np.eye(gradient.shape[1])
    return np.clip(np.linalg.solve(curved, gradient[..., None])[..., 0], -2, 2)
