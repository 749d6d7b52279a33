"""The policy of `teacher-selection` and its gradient (REINFORCE), in numpy.

    z_i = w_i . s_i + b_i       s_i the state of teacher i; w_i and b_i are the teacher's own

    bernoulli     P(a_i = 1) = sigmoid(z_i) each by itself;   d log pi / d z_i = a_i - sigmoid(z_i)
    categorical   P(i) = softmax(z)_i, one teacher is drawn;  d log pi / d z_i = 1[i drawn] - P(i)

A step moves w and b along  advantage * d log pi + entropy weight * d H,  averaged over the batch, by Adam (Kingma and
Ba, arXiv 1412.6980) with the gradient's norm cut at 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Kind = Literal["bernoulli", "categorical"]

CLIP_NORM = 1.0
CLIP_ADVANTAGE = 5.0
FIRST, SECOND, TINY = 0.9, 0.999, 1e-8
"""Adam's decay rates and its guard against division by zero."""


def sigmoid(z: Floats) -> Floats:
    """1 / (1 + exp(-z)), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * z)))


def chances(z: Floats, open_: Bools, kind: Kind) -> Floats:
    """(B, T) probability of each teacher; 0 where it is not ``open_`` (has no usable response)."""
    if kind == "bernoulli":
        return np.where(open_, sigmoid(z), 0.0)
    top = np.where(open_, z, -np.inf).max(axis=1, keepdims=True)
    weight = np.where(open_, np.exp(np.minimum(z - np.where(np.isfinite(top), top, 0.0), 0.0)), 0.0)
    shares: Floats = weight / weight.sum(axis=1, keepdims=True).clip(1e-30)
    return shares


def draw(z: Floats, open_: Bools, kind: Kind, rng: np.random.Generator) -> tuple[Floats, npt.NDArray[np.int64]]:
    """(B, T) actions 0 or 1, and (B,) the one teacher whose rationale is taken: the selected one with the highest z.

    Where no teacher is selected, the one with the highest z is. Each row has an open teacher.
    """
    p = chances(z, open_, kind)
    row = np.arange(len(z))
    if kind == "categorical":
        taken = (p.cumsum(axis=1) < rng.random(len(z))[:, None]).sum(axis=1)
        taken = np.where(open_[row, np.minimum(taken, z.shape[1] - 1)], np.minimum(taken, z.shape[1] - 1), p.argmax(1))
        action = np.zeros_like(z)
    else:
        action = (rng.random(z.shape) < p).astype(np.float64)
        best = np.where(open_, z, -np.inf).argmax(axis=1)
        nobody = np.flatnonzero(action.sum(axis=1) == 0)
        action[nobody, best[nobody]] = 1
        taken = np.where(action > 0, z, -np.inf).argmax(axis=1)
    action[row, taken] = 1
    return action, taken


def slope(z: Floats, open_: Bools, action: Floats, kind: Kind) -> Floats:
    """(B, T) d log pi(action) / d z; 0 where a teacher is not open."""
    return np.where(open_, action - chances(z, open_, kind), 0.0)


def entropy_slope(z: Floats, open_: Bools, kind: Kind) -> Floats:
    """(B, T) d H / d z of the policy's entropy: -z p (1 - p) each, or -P (log P + H)."""
    p = chances(z, open_, kind)
    if kind == "bernoulli":
        return np.where(open_, -z * p * (1 - p), 0.0)
    log = np.log(np.where(p > 0, p, 1.0))
    total = -(p * log).sum(axis=1, keepdims=True)
    return np.asarray(-p * (log + total))


def scaled(advantage: Floats) -> Floats:
    """Divided by its root mean square, then cut to +-`CLIP_ADVANTAGE`; its sign and its zeros stay."""
    size = float(np.sqrt((advantage**2).mean())) if len(advantage) else 0.0
    return np.clip(advantage / size if size > 1e-12 else 0.0 * advantage, -CLIP_ADVANTAGE, CLIP_ADVANTAGE)


@dataclass
class Policy:
    """The weights, changed in place by `step`.

    Attributes:
        weights: (T, D) w.
        bias: (T,) b.
        kind: see the module.
        rate: of Adam.
        entropy: weight of the entropy.
    """

    weights: Floats
    bias: Floats
    kind: Kind = "categorical"
    rate: float = 1e-3
    entropy: float = 0.01

    def __post_init__(self) -> None:
        self._mean, self._square = np.zeros(self._flat_size), np.zeros(self._flat_size)
        self._steps = 0

    @property
    def _flat_size(self) -> int:
        return self.weights.size + self.bias.size

    def z(self, states: npt.NDArray[np.floating]) -> Floats:
        """(B, T) scores of (B, T, D) states."""
        scores: Floats = np.einsum("btd,td->bt", states, self.weights) + self.bias
        return scores

    def gradient(
        self, states: npt.NDArray[np.floating], open_: Bools, action: Floats, advantage: Floats
    ) -> tuple[Floats, Floats]:
        """Of what is maximised, by the weights and by the bias; ``advantage`` is (B,)."""
        z = self.z(states)
        by_z = advantage[:, None] * slope(z, open_, action, self.kind)
        by_z = (by_z + self.entropy * entropy_slope(z, open_, self.kind)) / max(len(z), 1)
        return np.einsum("bt,btd->td", by_z, states), by_z.sum(axis=0)

    def step(self, states: npt.NDArray[np.floating], open_: Bools, action: Floats, advantage: Floats) -> None:
        """One step of Adam uphill."""
        flat = np.concatenate([g.ravel() for g in self.gradient(states, open_, action, advantage)])
        flat *= min(1.0, CLIP_NORM / max(float(np.linalg.norm(flat)), 1e-12))
        self._steps += 1
        self._mean = FIRST * self._mean + (1 - FIRST) * flat
        self._square = SECOND * self._square + (1 - SECOND) * flat**2
        mean, square = self._mean / (1 - FIRST**self._steps), self._square / (1 - SECOND**self._steps)
        move = self.rate * mean / (np.sqrt(square) + TINY)
        self.weights += move[: self.weights.size].reshape(self.weights.shape)
        self.bias += move[self.weights.size :]
