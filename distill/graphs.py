"""Passes of a training, recorded as CUDA graphs: a student of a few hundred million weights waits for its launches.

Its forward and backward pass are thousands of small operations, which a processor takes far longer to launch than a GPU
to compute (docs/findings.md). A pass of a shape that was met before is recorded while its launches are made, once, and
from then on its arrays are copied in and everything is launched at a stroke. So that shapes come again, their sizes are
rounded up; what is added counts for nothing. Large models and passes, which wait for arithmetic, are left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill.batches import WORTH, Arrays, Room, as_tensors, exactly
from distill.memory import ran_out

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Compute = Callable[[dict[str, "Tensor"]], None]
Shape = tuple[tuple[int, ...], ...]

MOST = 96
"""Shapes that are recorded; further ones are launched anew each time."""


def roomy(size: int) -> int:
    """A size rounded up to three binary digits (.., 10, 12, 14, 16, 20, 24, ..): a tenth more on average."""
    step = 1 << max((size - 1).bit_length() - 3, 0)
    return -(-size // step) * step


@dataclass(frozen=True)
class _Recorded:
    """A graph, and the tensors that it reads."""

    graph: Any
    inputs: dict[str, Tensor]


class Recorder:
    """Computes passes, each in the quickest way that its device and model allow.

    Args:
        compute: a pass; what it leaves behind, it adds to tensors that stay where they are (gradients, sums).
        weights: how many the student has.
        device: what it is computed on.
        record: whether graphs may be recorded. Not on a CPU, which has none.

    Attributes:
        given_up: why nothing is recorded any more: a model that looks at its own values, or no memory.
    """

    def __init__(self, compute: Compute, weights: int, device: torch.device, *, record: bool) -> None:
        import torch

        self._compute, self._weights, self._device = compute, weights, device
        self.records = record and device.type == "cuda"
        self.given_up: str | None = None
        self._met: set[Shape] = set()
        self._recorded: dict[Shape, _Recorded] = {}
        self._pool: Any = torch.cuda.graph_pool_handle() if self.records else None

    def run(self, make: Callable[[Room], Arrays], tokens: int) -> None:
        """Compute a pass.

        Args:
            make: its arrays, with room as it is told.
            tokens: how many it has.
        """
        if not self.records or self._weights * tokens > WORTH:
            self._compute(as_tensors(make(exactly), self._device))
            return
        inputs = as_tensors(make(roomy), self._device)
        shape = tuple(tensor.shape for tensor in inputs.values())
        if shape in self._met and shape not in self._recorded and len(self._recorded) < MOST:
            self._record(shape, inputs)
        self._met.add(shape)
        if recorded := self._recorded.get(shape):
            for name, tensor in inputs.items():
                recorded.inputs[name].copy_(tensor)
            recorded.graph.replay()
        else:
            self._compute(inputs)

    def _record(self, shape: Shape, inputs: dict[str, Tensor]) -> None:
        """Record a pass without computing it; graphs share their memory, since one runs at a time."""
        import torch

        graph, dropout = torch.cuda.CUDAGraph(), torch.cuda.default_generators[self._device.index]
        before = dropout.clone_state()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                self._compute(inputs)
        except Exception as error:  # whatever it was, it can be launched instead
            dropout.graphsafe_set_state(before)  # that of a recording which broke off draws nothing any more
            self.give_up("memory ran out" if ran_out(error) else " ".join(str(error).split())[:200])
        else:
            self._recorded[shape] = _Recorded(graph, inputs)

    def give_up(self, reason: str) -> None:
        """Forget what is recorded, and record no more."""
        import torch

        self.records, self.given_up = False, reason
        self._recorded.clear()
        torch.cuda.empty_cache()
