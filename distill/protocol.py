"""A student as a purifier is handed it: losses and log-probabilities of any pairs, and a step of learning.

`BatchStudent` has the shape of `purifiers.equipment.Student`; neither knows the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.batches import Rows, most_tokens, overhead, passes, rows_of_pairs
from distill.loss import coefficients, nll_of, row_nll
from distill.model import StudentModel, make_student
from distill.spec import StudentSpec, Training

Losses = npt.NDArray[np.float32]


class BatchStudent:
    """A `StudentModel` behind the four methods that purifiers know.

    Args:
        make: a student before any training, by seed.
        seed: of this one.
        training: learning rate, clipping and memory of `learn`; one rate throughout.
    """

    def __init__(self, make: Callable[[int], StudentModel], seed: int = 0, training: Training | None = None) -> None:
        self._make, self._seed, self._training = make, seed, training or Training()
        self.student = make(seed)
        self.steps = 0
        self._optimiser: Any = None

    @property
    def name(self) -> str:
        """The model and how many steps it has learnt."""
        return f"{self.student.spec.model}, {self.steps} steps"

    def logprob(self, prompts: Sequence[str], targets: Sequence[str]) -> Losses:
        """(N,) sum over a target's tokens (end token included) of log p(token | prompt, tokens before it), in nats."""
        nll, _ = self._nll(prompts, targets)
        return -nll

    def loss(self, prompts: Sequence[str], targets: Sequence[str]) -> Losses:
        """(N,) mean over a target's tokens of -log p(token | prompt, tokens before it), in nats per token."""
        nll, tokens = self._nll(prompts, targets)
        mean: Losses = (nll / tokens.clip(1)).astype(np.float32)
        return mean

    def _nll(self, prompts: Sequence[str], targets: Sequence[str]) -> tuple[Losses, npt.NDArray[np.int64]]:
        rows = rows_of_pairs(self.student.encoder, prompts, targets)
        nll = nll_of(self.student, rows, most=self._training.tokens_per_pass)
        return nll.astype(np.float32), rows.target.lengths

    def learn(self, prompts: Sequence[str], targets: Sequence[str], weights: Sequence[float] | None = None) -> float:
        """Take one AdamW step on the weighted mean over target tokens; return it as it was before (nats per token).

        Dropout follows from the seed and the number of the step, whatever else the process has drawn.
        """
        import torch

        if self._optimiser is None:
            rate = self._training.rate_for(self.student.spec)
            decay = self._training.weight_decay
            self._optimiser = torch.optim.AdamW(
                self.student.trainable().values(), lr=rate, weight_decay=decay, fused=True
            )
        rows = rows_of_pairs(self.student.encoder, prompts, targets, weights)
        device = self.student.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self._seed * 1_000_003 + self.steps)
            total = self._add_gradients(rows)
        torch.nn.utils.clip_grad_norm_(self.student.trainable().values(), self._training.clip)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.steps += 1
        return total

    def _add_gradients(self, rows: Rows) -> float:
        """Of the weighted mean over target tokens, which is returned."""
        import torch

        everything = np.arange(len(rows))
        _, part_of = coefficients(rows, everything, np.ones(1), "token")
        used = everything[part_of > 0]
        self.student.model.train()
        total = 0.0
        cost, joined = overhead(self.student.device), not self.student.is_seq2seq
        most = most_tokens(self._training.tokens_per_pass, self.student.device, self.student.parameters)
        for part in passes(rows, used, most=most, overhead=cost, joined=joined):
            nll = row_nll(self.student, rows, part)
            loss = (nll * torch.tensor(part_of[part], dtype=nll.dtype, device=nll.device)).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def fresh(self, seed: int) -> BatchStudent:
        """A student as this one was before it learnt anything; weights that are made at random come from the seed."""
        return BatchStudent(self._make, seed, self._training)


def student_for(
    spec: StudentSpec, texts: Sequence[str] = (), seed: int = 0, training: Training | None = None
) -> BatchStudent:
    """A student for a purifier.

    Args:
        spec: which model.
        texts: what a tiny student's tokenizer is trained on.
        seed: of weights that are made.
        training: learning rate, clipping and memory of `learn`.

    Raises:
        InputError: there is no such model, or it cannot be a student.
        MissingExtraError: transformers (or peft) is not installed.
    """
    kept = list(dict.fromkeys(texts))
    return BatchStudent(lambda s: make_student(spec, kept, s), seed, training)
