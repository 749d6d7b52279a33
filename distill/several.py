"""Several processes, one per GPU, as ``accelerate launch`` or ``torchrun`` starts them; alone, all of it is nothing.

Every process sees every step, computes its share of the rows, and gradients are added up once per step. As the loss is
a sum whose coefficients are known before (`distill.loss`), the result is that of one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from distill.batches import Ints

if TYPE_CHECKING:
    from torch import Tensor


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this one."""
    return int(os.environ.get("RANK", "0")) if world() > 1 else 0


def share(rows: Ints) -> Ints:
    """The rows that this process computes."""
    return rows[rank() :: world()]


def agreed(value: float) -> float:
    """The first process's value, everywhere: what they decide by must not differ in a last digit."""
    if world() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    shared = [value]
    broadcast_object_list(shared)
    return shared[0]


def summed(weights: Iterable[Tensor], losses: Tensor) -> Tensor:
    """Add up the gradients of all processes, in place, and their losses."""
    if world() == 1:
        return losses
    import torch
    from accelerate import PartialState
    from torch import distributed

    PartialState()  # starts the process group that fits the device, once
    present = list(weights)
    flat = torch.cat(
        [*(torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in present), losses]
    )
    distributed.all_reduce(flat)
    at = 0
    for w in present:
        w.grad = flat[at : at + w.numel()].view_as(w).clone()
        at += w.numel()
    return flat[at:]
