"""A checkpoint of a training: weights, optimiser and counters at the end of a step, as safetensors.

``checkpoint.safetensors`` is replaced by a rename, so that there is always a whole one. Randomness is not in it: the
order of questions and dropout follow from the seed and the number of the step.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from schemas.errors import WorkspaceError
from schemas.workspace import told_disk_errors

if TYPE_CHECKING:
    from torch import Tensor

NAME = "checkpoint.safetensors"


@dataclass
class Progressed:
    """Where a training stands after ``step`` steps.

    Attributes:
        step: optimiser steps done.
        losses: of the last steps, (answers, rationales), NaN where a step had none.
        best_step: the step of the best validation so far, 0 if there was none.
        best: its accuracy, or minus its loss.
        waited: validations since.
        seconds: time spent training, without validations.
        tokens: target and prompt tokens trained on.
        first: loss of the first steps, in nats: what a diverging one is told by.
        history: every validation: step, accuracy or loss.
    """

    step: int = 0
    losses: list[tuple[float, float]] = field(default_factory=list)
    best_step: int = 0
    best: float = float("-inf")
    waited: int = 0
    seconds: float = 0.0
    tokens: int = 0
    first: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def write(folder: Path, identity: str, at: Progressed, weights: dict[str, Tensor], best: dict[str, Tensor] | None,
          optimiser: Any) -> None:  # fmt: skip
    """Replace the checkpoint of a folder.

    Args:
        folder: where.
        identity: what is trained on what; a checkpoint of another identity is not resumed.
        at: counters.
        weights: by name.
        best: the weights of the best validation.
        optimiser: AdamW over the weights in their order.

    Raises:
        WorkspaceError: the disk is full, or may not be written.
    """
    from safetensors.torch import save_file

    tensors = {f"weight/{name}": w.detach().contiguous() for name, w in weights.items()}
    tensors |= {f"best/{name}": w.contiguous() for name, w in (best or {}).items()}
    for name, parameter in weights.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"optimiser/{key}/{name}"] = value.contiguous()
    note = {"identity": identity, "at": orjson.dumps(asdict(at), option=orjson.OPT_SERIALIZE_NUMPY).decode()}
    with told_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f"{NAME}.new"
        save_file(tensors, fresh, metadata=note)
        os.replace(fresh, folder / NAME)


def read(
    folder: Path, identity: str, weights: dict[str, Tensor], optimiser: Any
) -> tuple[Progressed, dict[str, Tensor]] | None:
    """Put weights and optimiser back to the checkpoint; return its counters and best weights, None if there is none.

    Raises:
        WorkspaceError: the folder's checkpoint is of another training, or damaged.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    file = folder / NAME
    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as opened:
            note = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  no mapping
    except (SafetensorError, OSError) as error:
        raise WorkspaceError(f"{file} is damaged: remove it and the training starts anew ({error})") from None
    if note.get("identity") != identity:
        raise WorkspaceError(f"{file} is of another training: choose another folder, or remove it to start anew")
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(tensors[f"weight/{name}"])
            state = {
                k.split("/")[1]: v
                for k, v in tensors.items()
                if k.startswith("optimiser/") and k.split("/", 2)[2] == name
            }
            optimiser.state[parameter] = {k: v.to(parameter.device) for k, v in state.items()}
    best = {key.removeprefix("best/"): t for key, t in tensors.items() if key.startswith("best/")}
    at = Progressed(**{**orjson.loads(note["at"])})
    at.losses = [_floats(pair) for pair in at.losses]
    at.best = float("-inf") if at.best is None else at.best
    return at, best


def _floats(pair: Any) -> tuple[float, float]:
    """JSON has no NaN: it comes back as null."""
    a, b = (float("nan") if x is None else float(x) for x in pair)
    return a, b
