"""`classifier`: which teacher to take, read off the question by a small network on an encoder's vector.

Knowledge purification's PLM classifier, arXiv 2602.01064: logits = two-layer perceptron of E(q), P = softmax(logits).
The paper does not say how labels are made from several right teachers; with c_i = 1 where teacher i is right,
``labels`` is

    soft    y_i = c_i / sum_j c_j,  loss -sum_i y_i log P_i         (questions that nobody got right teach nothing)
    hard    y = the right teacher with the best accuracy on train (of equal ones the first),  loss -log P_y
    multi   loss = mean_i binary cross-entropy(sigmoid(logit_i), c_i): P(teacher i is right), all low if none is

The paper fine-tunes mDeBERTa-v3-base: ``encoder=microsoft/mdeberta-v3-base, fine_tune=true`` (`purifiers.fine_tune`).
By default the encoder is a frozen all-MiniLM-L6-v2, which takes seconds and no GPU; the epoch is then chosen by the
loss on held-out train questions, not by their routed accuracy, which jumps by chance with a few hundred of them. The
hidden layer is a tanh.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from purifiers.base import Purified, Purifier, Scores, Signal, by_blocks, choose, softmax
from purifiers.best_teacher import accuracy
from purifiers.encoder import DEFAULT_ENCODER, embed
from purifiers.fine_tune import Encoder, FineTuning, Lesson, encoder_of, fine_tune, or_default
from purifiers.train_head import Arrays, Rows, Training, hold_out, train
from schemas.corpus import Corpus

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float32]
Labels = Literal["soft", "hard", "multi"]


class Classifier(Purifier):
    """Two-layer perceptron on question vectors; needs the question alone, so it can also route new ones."""

    name = "classifier"
    signals = frozenset({Signal.QUESTION})
    learns = True

    labels: Labels = Field("multi", description="how right and wrong answers become targets; see the module")
    hidden: int = Field(256, gt=0, description="width of the hidden layer")
    dropout: float = Field(0.3, ge=0, lt=1, description="share of hidden units left out in a training step")
    encoder: str = Field(DEFAULT_ENCODER, description="sentence-transformers id or folder; to fine-tune, any encoder's")
    training: Training = Field(Training(decay=0.1), description="settings of the training, with a frozen encoder")
    fine_tune: Annotated[FineTuning | None, BeforeValidator(or_default)] = Field(
        None, description="true or settings: train the encoder too; best on a GPU"
    )

    def fit(self, corpus: Corpus) -> Self:
        """Train the perceptron."""
        target, weight = targets(corpus.correct, self.labels, accuracy(corpus))
        rows = np.flatnonzero(weight.any(axis=1))
        part, y, w = (corpus.take(rows), target[rows], weight[rows]) if len(rows) else (corpus, target, weight)
        train_it = self._frozen if self.fine_tune is None else self._tuned
        return self.restore(train_it(part, y, w), corpus.teachers)

    def _frozen(self, corpus: Corpus, target: Floats, weight: Floats) -> Arrays:
        import torch

        x = torch.from_numpy(embed(corpus.question_texts(), self.encoder, self.equipment.on_fit))

        def loss(p: dict[str, Tensor], rows: Rows, training: bool) -> Tensor:
            return self._loss(p, x[rows], target[rows], weight[rows], training)

        start = self._start(x.shape[1], len(corpus.teachers), self.training.seed)
        return train(start, loss, hold_out(corpus, self.training.held_out, self.training.seed), self.training)

    def _tuned(self, corpus: Corpus, target: Floats, weight: Floats) -> Arrays:
        settings = self.fine_tune or FineTuning()
        encoder = Encoder.load(self.encoder, settings)

        def loss(p: dict[str, Tensor], h: Tensor, rows: Rows, training: bool) -> Tensor:
            return self._loss(p, h, target[rows], weight[rows], training)

        start = self._start(encoder.model.config.hidden_size, len(corpus.teachers), settings.seed)
        rows = hold_out(corpus, settings.held_out, settings.seed)
        lesson = Lesson(corpus.question_texts(), corpus.correct, loss, self._logits)
        head = fine_tune(encoder, start, lesson, rows, self.equipment.on_fit)
        return {**head, **encoder.state()}

    def _logits(self, p: dict[str, Tensor], h: Tensor, training: bool = False) -> Tensor:
        import torch

        hidden = torch.tanh(h @ p["inner"].T + p["inner_bias"])
        return torch.nn.functional.dropout(hidden, self.dropout, training) @ p["outer"].T + p["outer_bias"]

    def _loss(self, p: dict[str, Tensor], h: Tensor, target: Floats, weight: Floats, training: bool) -> Tensor:
        import torch

        y, w = (torch.from_numpy(a).to(h.device) for a in (target, weight))
        return label_loss(self._logits(p, h, training), y, w, self.labels)

    def _start(self, width: int, teachers: int, seed: int) -> Arrays:
        rng = np.random.default_rng(seed)
        return {
            "inner": rng.normal(0, width**-0.5, (self.hidden, width)).astype(np.float32),
            "inner_bias": np.zeros(self.hidden, np.float32),
            "outer": rng.normal(0, self.hidden**-0.5, (teachers, self.hidden)).astype(np.float32),
            "outer_bias": np.zeros(teachers, np.float32),
        }

    @property
    def gives_chances(self) -> bool:
        """With ``multi`` they are; a softmax tells who is likelier than whom."""
        return self.labels == "multi"

    def score(self, corpus: Corpus) -> Scores:
        """The logits; a teacher that was not there at the fit has none, and is not chosen."""
        encode = encoder_of(self.encoder, self.fine_tune, self._learned, self.equipment.on_fit)
        return by_blocks(lambda part: self._score(part, encode(part.question_texts())), corpus)

    def _score(self, corpus: Corpus, vectors: Floats) -> Scores:
        inner = np.tanh(vectors @ self.learned("inner").T + self.learned("inner_bias"))
        logits = inner @ self.learned("outer").T + self.learned("outer_bias")
        return self.among_teachers(logits, corpus)

    def purify(self, corpus: Corpus) -> Purified:
        """Keep the highest logit; give softmax shares, or with ``multi`` the probability that each is right."""
        scores = self.score(corpus)
        chance = 1 / (1 + np.exp(-scores)) if self.labels == "multi" else softmax(scores)
        return choose(scores, chance.astype(np.float32))


def targets(correct: npt.NDArray[np.int8], labels: Labels, ranking: npt.NDArray[np.float64]) -> tuple[Floats, Floats]:
    """(Q, T) targets and (Q, T) weights; a question whose weights are all 0 teaches nothing.

    Args:
        correct: (Q, T) 1 right, 0 wrong, -1 unknown.
        labels: see the module.
        ranking: (T,) breaks ties among right teachers for ``hard``.
    """
    right, known = (correct == 1).astype(np.float32), (correct >= 0).astype(np.float32)
    if labels == "multi":
        return right, known
    solved = right.any(axis=1, keepdims=True)
    if labels == "hard":
        first = np.where(right > 0, ranking, -1.0).argmax(axis=1)
        right = np.eye(correct.shape[1], dtype=np.float32)[first] * solved
    return right / np.maximum(right.sum(axis=1, keepdims=True), 1), known * solved


def label_loss(logits: Tensor, target: Tensor, weight: Tensor, labels: Labels) -> Tensor:
    """Mean over the questions of the loss in the module's table; teachers of weight 0 are left out of it."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

    if labels == "multi":
        each = binary_cross_entropy_with_logits(logits, target, weight, reduction="none")
        return (each.sum(dim=1) / weight.sum(dim=1).clamp(min=1)).mean()
    chance = log_softmax(logits.masked_fill(weight == 0, -torch.inf), dim=1)
    return -(target * chance.masked_fill(weight == 0, 0.0)).sum(dim=1).mean()
