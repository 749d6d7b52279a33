"""`similarity`: teachers and questions in one space; route to the teacher closest to the question (RouterDC).

Chen et al., RouterDC, arXiv 2409.19886; knowledge purification's similarity router, arXiv 2602.01064. With h the vector
of a question, k_i a learned vector per teacher, s_i = cos(h, k_i) / temperature, and h+ / h- questions of the same and
of other clusters:

    L_teachers  = sum_{i right}  -log( e^s_i / (e^s_i + sum_{j wrong} e^s_j) )
    L_questions = -log( e^cos(h,h+) / (e^cos(h,h+) + sum_{h-} e^cos(h,h-)) )
    L           = L_teachers + cluster_weight * L_questions,    P(i | q) = softmax(s)_i

RouterDC fine-tunes mDeBERTa-v3-base: ``encoder=microsoft/mdeberta-v3-base, fine_tune=true`` (`purifiers.fine_tune`),
with h its first token. By default the encoder is frozen and h = W E(q) with a learned square W that starts as the
identity (seconds instead of hours without a GPU).

Where we depart: the outcomes are 0 or 1, so the positives are the
right teachers and the negatives the wrong ones, at most ``positives`` and ``negatives`` of them, drawn anew each step.
Clusters come from k-means on 50 principal components, not on t-SNE. Of the published code we do not repeat that x+
may be x itself, that questions with too few negatives shift the batch, and that the epoch is chosen on training data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from purifiers.base import Purified, Purifier, Scores, Signal, by_blocks, choose, softmax
from purifiers.encoder import DEFAULT_ENCODER, Vectors, embed, unit
from purifiers.fine_tune import Encoder, FineTuning, Lesson, encoder_of, fine_tune, or_default
from purifiers.train_head import Arrays, Rows, Training, hold_out, train
from schemas.corpus import Corpus

if TYPE_CHECKING:
    from torch import Tensor

    from purifiers.fine_tune import HeadLoss

COMPONENTS = 50
START_SPREAD = 0.78


class Similarity(Purifier):
    """RouterDC, teachers and questions in one space; needs the question alone, so it can also route new questions."""

    name = "similarity"
    signals = frozenset({Signal.QUESTION})
    learns = True

    temperature: float = Field(1.0, gt=0, description="divides the cosines to the teachers")
    positives: int = Field(3, gt=0, description="right teachers used per question and step, at most")
    negatives: int = Field(3, gt=0, description="wrong teachers used per question and step, at most")
    clusters: int = Field(8, gt=0, description="clusters of questions; 1 turns the question loss off")
    strangers: int = Field(3, gt=0, description="questions of other clusters per question")
    cluster_weight: float = Field(1.0, ge=0, description="weight of the question loss")
    encoder: str = Field(DEFAULT_ENCODER, description="sentence-transformers id or folder; to fine-tune, any encoder's")
    training: Training = Field(Training(), description="settings of the training, with a frozen encoder")
    fine_tune: Annotated[FineTuning | None, BeforeValidator(or_default)] = Field(
        None, description="true or settings: train the encoder too; best on a GPU"
    )

    def fit(self, corpus: Corpus) -> Self:
        """Learn W and the teachers' vectors on the questions that tell teachers apart."""
        tells = (corpus.correct == 1).any(axis=1) & (corpus.correct == 0).any(axis=1)
        part = corpus.take(np.flatnonzero(tells)) if tells.any() else corpus
        return self.restore(self._frozen(part) if self.fine_tune is None else self._tuned(part), corpus.teachers)

    def _frozen(self, corpus: Corpus) -> Arrays:
        import torch

        vectors = embed(corpus.question_texts(), self.encoder, self.equipment.on_fit)
        seed, x = self.training.seed, torch.from_numpy(vectors)
        rng = np.random.default_rng(seed)
        start = {
            "adapter": np.eye(x.shape[1], dtype=np.float32),
            "teachers": _start(rng, len(corpus.teachers), x.shape[1]),
        }
        of = self._loss(corpus, clusters_of(vectors, self.clusters, seed), rng)

        def loss(p: dict[str, Tensor], rows: Rows, training: bool) -> Tensor:
            return of(p, x[rows] @ p["adapter"].T, rows, training)

        return train(start, loss, hold_out(corpus, self.training.held_out, seed), self.training)

    def _tuned(self, corpus: Corpus) -> Arrays:
        settings, texts = self.fine_tune or FineTuning(), corpus.question_texts()
        encoder, rng = Encoder.load(self.encoder, settings), np.random.default_rng(settings.seed)
        vectors = encoder.vectors(texts, self.equipment.on_fit)
        start = {"teachers": _start(rng, len(corpus.teachers), vectors.shape[1])}
        loss = self._loss(corpus, clusters_of(vectors, self.clusters, settings.seed), rng)
        rows = hold_out(corpus, settings.held_out, settings.seed)
        lesson = Lesson(texts, corpus.correct, loss, lambda p, h: cosines(h, p["teachers"]))
        head = fine_tune(encoder, start, lesson, rows, self.equipment.on_fit)
        return {**head, **encoder.state()}

    def _loss(self, corpus: Corpus, cluster: npt.NDArray[np.int64], rng: np.random.Generator) -> HeadLoss:
        def loss(p: dict[str, Tensor], h: Tensor, rows: Rows, training: bool) -> Tensor:
            draw = rng if training else np.random.default_rng(0)
            right, wrong = pick(corpus.correct[rows], self.positives, self.negatives, draw)
            total = teacher_loss(cosines(h, p["teachers"]) / self.temperature, right, wrong)
            if training and self.cluster_weight and self.clusters > 1:
                total = total + self.cluster_weight * question_loss(h, *pairs(cluster[rows], self.strangers, draw))
            return total

        return loss

    def score(self, corpus: Corpus) -> Scores:
        """Cosine over temperature; a teacher that was not there at the fit has none, and is not chosen."""
        encode = encoder_of(self.encoder, self.fine_tune, self._learned, self.equipment.on_fit)
        return by_blocks(lambda part: self._score(part, encode(part.question_texts())), corpus)

    def _score(self, corpus: Corpus, vectors: Vectors) -> Scores:
        h = vectors @ self.learned("adapter").T if self.fine_tune is None else vectors
        cosine = unit(h) @ unit(self.learned("teachers")).T / self.temperature
        return self.among_teachers(cosine, corpus)

    def purify(self, corpus: Corpus) -> Purified:
        """Keep the closest teacher; give the softmax over the teachers that answered."""
        scores = self.score(corpus)
        return choose(scores, softmax(scores))


def _start(rng: np.random.Generator, teachers: int, width: int) -> npt.NDArray[np.float32]:
    return rng.normal(0, START_SPREAD, (teachers, width)).astype(np.float32)


def cosines(h: Tensor, k: Tensor) -> Tensor:
    """(B, T) cosine of each question with each teacher."""
    from torch.nn.functional import normalize

    return normalize(h, dim=1) @ normalize(k, dim=1).T


def teacher_loss(sims: Tensor, right: npt.NDArray[np.bool_], wrong: npt.NDArray[np.bool_]) -> Tensor:
    """`L_teachers`, averaged over the batch and summed over the right teachers.

    Args:
        sims: (B, T) similarities.
        right: (B, T) the positives; a question without any adds 0 and still counts in the average.
        wrong: (B, T) the negatives; without any the loss is 0.
    """
    import torch

    positives, negatives = (torch.from_numpy(mask).to(sims.device) for mask in (right, wrong))
    against = torch.logsumexp(sims.masked_fill(~negatives, -torch.inf), dim=1, keepdim=True)
    each = torch.logaddexp(sims, against) - sims
    return each.masked_fill(~positives, 0.0).sum() / len(sims)


def question_loss(h: Tensor, anchor: Rows, friend: Rows, strangers: Rows) -> Tensor:
    """`L_questions`, averaged over the anchors; 0 where there are none.

    Args:
        h: (B, D) vectors of the batch.
        anchor: (A,) rows that have a friend and enough strangers.
        friend: (A,) another row of the same cluster.
        strangers: (A, H) rows of other clusters.
    """
    import torch
    from torch.nn.functional import normalize

    if not len(anchor):
        return h.sum() * 0
    u = normalize(h, dim=1)
    near = (u[anchor] * u[friend]).sum(dim=1)
    far = (u[anchor][:, None] * u[strangers]).sum(dim=2)
    return (torch.logsumexp(torch.cat([near[:, None], far], dim=1), dim=1) - near).mean()


def pick(
    correct: npt.NDArray[np.int8], positives: int, negatives: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(B, T) masks of at most so many right and wrong teachers per question, drawn at random."""
    lot = rng.random(correct.shape)

    def some(of: npt.NDArray[np.bool_], most: int) -> npt.NDArray[np.bool_]:
        rank = np.argsort(np.argsort(np.where(of, lot, 2.0), axis=1), axis=1)
        return np.asarray(of & (rank < most))

    return some(correct == 1, positives), some(correct == 0, negatives)


def pairs(cluster: npt.NDArray[np.int64], strangers: int, rng: np.random.Generator) -> tuple[Rows, Rows, Rows]:
    """Rows of a batch with a friend each (never the row itself) and strangers, for `question_loss`."""
    anchors, friends, others = [], [], []
    for row, mine in enumerate(cluster):
        same = np.flatnonzero(cluster == mine)
        same = same[same != row]
        other = np.flatnonzero(cluster != mine)
        if len(same) and len(other) >= strangers:
            anchors.append(row)
            friends.append(rng.choice(same))
            others.append(rng.choice(other, strangers, replace=False))
    return np.array(anchors, np.int64), np.array(friends, np.int64), np.array(others, np.int64).reshape(-1, strangers)


def clusters_of(vectors: npt.NDArray[np.float32], n: int, seed: int) -> npt.NDArray[np.int64]:
    """(N,) cluster of each vector, at most ``n``: k-means on the first `COMPONENTS` principal components."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    n = min(n, len(np.unique(vectors, axis=0)))  # equal questions make no clusters of their own
    if n < 2:
        return np.zeros(len(vectors), np.int64)
    reduced = PCA(min(COMPONENTS, *vectors.shape), random_state=seed).fit_transform(vectors)
    return np.asarray(KMeans(n, n_init=4, random_state=seed).fit_predict(reduced), np.int64)
