"""A checkpoint of a training: weights, optimiser and counters at the end of a step, as safetensors.

``checkpoint.safetensors`` is replaced by a rename, so that there is always a whole one. Randomness is not in it: the
order of questions and dropout follow from the seed and the number of the step.
"""

from __future__ import annotations

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
        rationale_tokens: those of rows whose target is a rationale.
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
    rationale_tokens: int = 0
    first: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class State:
    """What a training changes: ``weights`` by name, and the AdamW over them; the tensors are the live ones."""

    weights: dict[str, Tensor]
    optimiser: Any

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name, as it is kept."""
        found = {f"weight/{name}": w.detach() for name, w in self.weights.items()}
        for name, weight in self.weights.items():
            for key, value in self.optimiser.state.get(weight, {}).items():
                found[f"{key}/{name}"] = value
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put everything back."""
        import torch

        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(tensors[f"weight/{name}"])
                keys = [k for k in ("step", "exp_avg", "exp_avg_sq") if f"{k}/{name}" in tensors]
                self.optimiser.state[weight] = {k: tensors[f"{k}/{name}"].to(weight.device) for k in keys}


def write(folder: Path, identity: str, at: Progressed, state: State, best: dict[str, Tensor]) -> None:
    """Replace the checkpoint of a folder.

    Args:
        folder: where.
        identity: what is trained on what; a checkpoint of another identity is not resumed.
        at: counters.
        state: weights and optimiser.
        best: the weights of the best validation, by name; empty if there was none.

    Raises:
        WorkspaceError: the disk is full, or may not be written.
    """
    from safetensors.torch import save_file

    tensors = state.tensors() | {f"best/{name}": w for name, w in best.items()}
    note = {"identity": identity, "at": orjson.dumps(asdict(at)).decode()}
    with told_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f"{NAME}.new"
        save_file({name: t.contiguous() for name, t in tensors.items()}, fresh, metadata=note)
        fresh.replace(folder / NAME)


def read(folder: Path, identity: str, state: State) -> tuple[Progressed, dict[str, Tensor]] | None:
    """Put weights and optimiser back; return counters and best weights, None if there is no checkpoint.

    Raises:
        WorkspaceError: the folder's checkpoint is of another training, or damaged.
    """
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
    state.restore(tensors)
    at = Progressed(**orjson.loads(note["at"]))
    at.losses = [_floats(pair) for pair in at.losses]
    at.best = float("-inf") if at.best is None else at.best
    return at, {key.removeprefix("best/"): t for key, t in tensors.items() if key.startswith("best/")}


def remove(folder: Path) -> None:
    """Remove the checkpoint of a training that has ended and whose student is saved."""
    (folder / NAME).unlink(missing_ok=True)


def _floats(pair: Any) -> tuple[float, float]:
    """JSON has no NaN: it comes back as null."""
    a, b = (float("nan") if x is None else float(x) for x in pair)
    return a, b
