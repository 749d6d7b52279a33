"""Several processes, one per GPU, as ``torchrun`` or ``accelerate launch`` starts them; alone, all of it is nothing.

Every process sees every step, computes its share of the rows, and gradients are added up once per step. As the loss is
a sum whose coefficients are known before (`distill.loss`), the result is that of one process. Whatever a training
decides by is agreed upon first (`most`): one process that went on alone would wait for the others for ever.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from schemas.errors import RaffinateError

if TYPE_CHECKING:
    from torch import Tensor

    from distill.batches import Ints


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this one."""
    return int(os.environ.get("RANK", "0")) if world() > 1 else 0


def left_alone() -> bool:
    """Whether ``accelerate launch --cpu --num_processes N`` started this process alone: the others it leaves to MPI."""
    return world() == 1 and "MASTER_PORT" in os.environ and os.environ.get("ACCELERATE_USE_CPU") == "True"


def share(rows: Ints) -> Ints:
    """The rows that this process computes."""
    return rows[rank() :: world()]


def most(value: float) -> float:
    """The largest of all processes' values, in all of them; everyone waits for the last one to name its own."""
    if world() == 1:
        return value
    import torch

    shared = torch.tensor([value], dtype=torch.float64)
    _reduce([shared], largest=True)
    return float(shared[0])


def add_up(weights: Iterable[Tensor], losses: Tensor) -> None:
    """Add up the gradients of all processes and their losses, in place."""
    if world() == 1:
        return
    import torch

    gradients = []
    for weight in weights:
        if weight.grad is None:  # no row of the step fell to this process
            weight.grad = torch.zeros_like(weight)
        gradients.append(weight.grad)
    _reduce([*gradients, losses])


def _reduce(tensors: list[Tensor], *, largest: bool = False) -> None:
    from torch import distributed

    _start()
    how = distributed.ReduceOp.MAX if largest else distributed.ReduceOp.SUM
    try:
        for work in [distributed.all_reduce(tensor, how, async_op=True) for tensor in tensors]:
            work.wait()
    except RuntimeError as error:
        raise RaffinateError(
            f"another of the {world()} processes that train together has ended: run the same command again to go on "
            f"from the last checkpoint  ({' '.join(str(error).split())[:160]})"
        ) from None


def _start() -> None:
    """Start the process group, once: gloo for what is decided, and for gradients what fits the device."""
    import torch
    from torch import distributed

    if distributed.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    atexit.register(distributed.destroy_process_group)


@contextmanager
def first_speaks() -> Iterator[None]:
    """What ends one process ends all, so the first alone says it; the others leave in silence."""
    try:
        yield
    except (RaffinateError, KeyboardInterrupt):
        if rank() > 0:
            sys.exit(1)
        raise
