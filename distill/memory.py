"""When memory runs out, on a GPU or a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.batches import Ints


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, MemoryError) or (isinstance(error, Exception) and should_reduce_batch_size(error))


def in_halves(compute: Callable[[Ints], None], part: Ints) -> None:
    """Compute a pass without gradients, or its halves, and theirs, where memory does not hold the whole."""
    try:
        compute(part)
    except Exception as error:
        if len(part) < 2 or not ran_out(error):
            raise
    else:
        return
    for half in (part[: len(part) // 2], part[len(part) // 2 :]):  # out of the handler, which holds on to the tensors
        in_halves(compute, half)
