"""What a purifier may be handed besides the corpus: a student, and teachers that it may ask.

A purifier that needs one of them declares the signal (`Signal.STUDENT`, `Signal.LLM`), and whoever runs it gives it
`Purifier.equipped`. The student is a protocol, so that no purifier depends on how students are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from builders.asker import Asker

BEST = "best"
"""In place of a judge's id: the teacher that was right most often on train."""

Losses = npt.NDArray[np.float32]


class Student(Protocol):
    """A language model that is being trained, as far as purifiers look at it. N pairs of prompt and target at a time.

    Prompts are complete, prefix included (`schemas.layout`); the loss counts the tokens of the target alone, its end
    mark included.
    """

    @property
    def name(self) -> str:
        """What it is, for the record: a model id and how far it is trained."""
        ...

    def loss(self, prompts: Sequence[str], targets: Sequence[str]) -> Losses:
        """(N,) mean over a target's tokens of -log p(token | prompt, tokens before it), in nats per token."""
        ...

    def logprob(self, prompts: Sequence[str], targets: Sequence[str]) -> Losses:
        """(N,) sum over a target's tokens of log p(token | prompt, tokens before it), in nats."""
        ...

    def learn(self, prompts: Sequence[str], targets: Sequence[str], weights: Sequence[float] | None = None) -> float:
        """Take one optimiser step on these pairs, weighted; return the loss before it (nats per token)."""
        ...

    def fresh(self, seed: int) -> Student:
        """An independent copy as it was before any `learn`, with its own optimiser."""
        ...


OnFit = Callable[[int, int, str], None]
"""Called as a long fit or choice goes on: how much is done, of how much at most, and a few words on how it goes."""


def untold(done: int, total: int, facts: str) -> None:
    """An `OnFit` for who does not want to know."""


@dataclass(frozen=True)
class Equipment:
    """What is at hand while a purifier runs; None where nobody gave it."""

    student: Student | None = None
    asker: Asker | None = None
    on_fit: OnFit = untold
    folder: Path = Path()
    """Where relative paths in a purifier's settings start."""
