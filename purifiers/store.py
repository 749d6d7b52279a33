"""Save a fitted purifier as JSON and safetensors (never pickle), and load it elsewhere."""

from __future__ import annotations

from pathlib import Path

import orjson

from purifiers.base import Purifier, Signal
from purifiers.registry import method
from schemas.errors import WorkspaceError

SETTINGS, STATE = "purifier.json", "state.safetensors"


def save(purifier: Purifier, folder: Path) -> None:
    """Write name, settings and teachers to ``purifier.json``, learned arrays to ``state.safetensors``."""
    from safetensors.numpy import save as to_bytes

    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "method": purifier.name,
        "state_version": purifier.state_version,
        "settings": purifier.model_dump(mode="json"),
        "teachers": purifier.fitted_teachers,
    }
    if Signal.STUDENT in purifier.looks_at:
        about["student"] = purifier.student.name
    (folder / SETTINGS).write_bytes(orjson.dumps(about, option=orjson.OPT_INDENT_2))
    (folder / STATE).write_bytes(to_bytes(purifier.state()))


def load(folder: Path) -> Purifier:
    """Rebuild a saved purifier.

    Raises:
        WorkspaceError: the folder holds none, its method is not installed, or another version of it saved this.
    """
    from safetensors.numpy import load_file

    if not (folder / SETTINGS).is_file():
        raise WorkspaceError(f"{folder} holds no fitted purifier: run  raffinate purify  first")
    about = orjson.loads((folder / SETTINGS).read_bytes())
    purifier = method(about["method"])(**about["settings"])
    if about.get("state_version", 1) != purifier.state_version:
        raise WorkspaceError(f"{folder} was saved by another version of {purifier.name}: run  raffinate purify  again")
    return purifier.restore(load_file(folder / STATE), tuple(about["teachers"]))
