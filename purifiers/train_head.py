"""Train a small head on frozen vectors: shuffled mini-batches, AdamW, early stopping on held-out train questions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from purifiers.run import fold_of
from schemas.corpus import Corpus

if TYPE_CHECKING:
    from torch import Tensor

Arrays = dict[str, npt.NDArray[np.float32]]
Rows = npt.NDArray[np.int64]
Loss = Callable[["dict[str, Tensor]", Rows, bool], "Tensor"]
"""Loss of some rows under these parameters; the flag says whether it is a training step (dropout, random pairs)."""


class Training(BaseModel):
    """Settings of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=60, gt=0, description="passes over the train questions at most")
    patience: int = Field(default=8, gt=0, description="passes without a lower held-out loss before it stops")
    batch: int = Field(default=64, gt=0, description="questions per step")
    rate: float = Field(default=1e-3, gt=0, description="learning rate of AdamW")
    decay: float = Field(default=0.01, ge=0, description="weight decay of AdamW")
    held_out: int = Field(default=6, gt=1, description="one in this many train questions is held out to stop on")
    seed: int = Field(default=0, description="of the start, the order and the hold-out")


def hold_out(corpus: Corpus, one_in: int, seed: int) -> tuple[Rows, Rows]:
    """Rows to learn from and rows to stop on; by a hash of the question, so that it does not hang on the order."""
    fold = fold_of(corpus, one_in, seed + 1)
    inside, outside = np.flatnonzero(fold != 0), np.flatnonzero(fold == 0)
    return (inside, outside) if len(inside) and len(outside) else (np.arange(len(corpus)), np.arange(len(corpus)))


def train(start: Arrays, loss: Loss, rows: tuple[Rows, Rows], training: Training) -> Arrays:
    """The parameters with the lowest held-out loss.

    Args:
        start: parameters to start from.
        loss: mean loss of some rows.
        rows: to learn from, and to stop on.
        training: settings.
    """
    import torch

    inside, outside = rows
    order = np.random.default_rng(training.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        parameters = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
        optimiser = torch.optim.AdamW(parameters.values(), lr=training.rate, weight_decay=training.decay)
        best, least, waited = dict(start), np.inf, 0
        for _ in range(training.epochs):
            for part in batches(order.permutation(inside), training.batch):
                optimiser.zero_grad()
                loss(parameters, part, True).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            with torch.no_grad():
                now = float(loss(parameters, outside, False))
            waited = 0 if now < least else waited + 1
            if now < least:
                best, least = {name: p.detach().numpy().copy() for name, p in parameters.items()}, now
            if waited >= training.patience:
                break
    return best


def batches(rows: Rows, size: int) -> list[Rows]:
    """The rows in parts of ``size``."""
    return [rows[i : i + size] for i in range(0, len(rows), size)]
