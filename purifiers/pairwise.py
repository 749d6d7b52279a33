"""`pairwise`: judges say which of two rationales is better; Bradley-Terry turns the votes into scores.

MemReranker (arXiv 2605.06132) labels candidates so; its mapping from votes to labels was not found, ours is the maximum
likelihood of Bradley and Terry (1952) with a ridge, per question:

    P(i beats j) = 1 / (1 + exp(xi_j - xi_i)),   xi = argmax sum_ij wins_ij log P(i beats j) - ridge/2 sum_i xi_i**2

Every pair is shown in both orders, because judges prefer a place; a draw is half a win for each, as in RouteLLM (arXiv
2406.18665). The judges are the teachers unless others are named; nobody votes on a rationale of its own or a copy of
it, so with teachers alone there must be three. n teachers cost n (n-1) (n-2) requests per question.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np
from pydantic import Field

from builders.asker import Call
from purifiers.asking import Asked, Judged, best_of, blocks, written
from purifiers.base import Purified, Scores, softmax
from purifiers.plackett_luce import fit_pairs
from purifiers.verdicts import vote
from schemas.corpus import Corpus

NO_VOTE = "no vote between its rationales could be read"


class Pairwise(Judged):
    """The teachers vote between each two rationales of others, in both orders; Bradley-Terry ranks them."""

    name = "pairwise"

    ridge: float = Field(0.1, gt=0, description="draws the scores of a question together: few votes say little")

    def score(self, corpus: Corpus) -> Scores:
        """xi, in nats; 0 for a lone rationale, NaN for one on which no vote could be read."""
        judges, n = self.judges_of(corpus, 2), len(corpus.teachers)
        found = np.full(corpus.usable.shape, np.nan, np.float32)
        for block, share in blocks(corpus, self.seed):
            wins = np.zeros((len(block), n, n))
            asked = list(self._asked(block, judges, corpus))
            for (i, first, second, _), said in zip(asked, self.ask([call for *_, call in asked], share), strict=True):
                value = vote(said.text) if said.text is not None else None
                if value is not None:
                    said.verdict = {1.0: "first", 0.0: "second"}.get(value, "equal")
                    wins[i, first, second] += value
                    wins[i, second, first] += 1 - value
            xi = fit_pairs(wins, self.ridge)
            for i, q in enumerate(block):
                for candidate in q.candidates:
                    c = candidate.columns[0]
                    if len(q.candidates) == 1 or wins[i, c].sum() + wins[i, :, c].sum() > 0:
                        found[q.row, list(candidate.columns)] = xi[i, c]
        return found

    def purify(self, corpus: Corpus) -> Purified:
        """Keep the highest score; give the softmax, the chance to win against the others."""
        scores = self.score(corpus)
        return best_of(scores, corpus, self.seed, NO_VOTE, softmax(scores))

    def _asked(self, block: list[Asked], judges: list[str], corpus: Corpus) -> Iterator[tuple[int, int, int, Call]]:
        """Number of the question in the block, columns of the two, and the call."""
        template = self.template()
        for i, q in enumerate(block):
            gold = q.gold if self.gold else None
            for first, second in permutations(q.candidates, 2):
                pair, authors = [first, second], {*first.columns, *second.columns}
                messages = self.render(
                    template, q.question, rationales=[c.shown(q.task) for c in pair], gold=written(gold, q.task)
                )
                about = tuple(corpus.teachers[c.columns[0]] for c in pair)
                for judge in judges:
                    if judge not in {corpus.teachers[c] for c in authors}:
                        call = Call(judge, q.id, "compare", messages, about, gold_shown=gold is not None)
                        yield i, first.columns[0], second.columns[0], call
