"""The recipe as others read it, and what in a dataset speaks of its author's machine: local paths, private hosts."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from cards.spec import mapping_of
from schemas.database import connect

if TYPE_CHECKING:
    from schemas.workspace import Workspace

NAME = "recipe.yaml"
_LOCAL_PATH = re.compile(r"(?:/[^/\s]+/|~/|\.\./|[A-Za-z]:[\\/])\S")
_PRIVATE_NAME = re.compile(r"[^.]+|.*\.(?:local|localdomain|lan|internal|intranet|corp|home|private)", re.I)

MODELS = """
SELECT 'responses.model', teacher_id, model FROM responses UNION SELECT 'calls.model', judge_id, model FROM calls
UNION SELECT 'students.base_model', run_id, base_model FROM students UNION
SELECT 'responses.source', teacher_id, source FROM responses ORDER BY ALL
"""


def public_recipe(workspace: Workspace) -> str | None:
    """The text of the recipe as it is published, without where files lay on this machine; None without a recipe.

    Raises:
        InputError: it is no YAML mapping.
    """
    file = workspace.path / NAME
    if not file.is_file():
        return None
    recipe = mapping_of(file)
    text = file.read_text(encoding="utf-8")
    changed = [_file_name(recipe.get("questions"), key) for key in ("path", "hub")]
    changed.append(isinstance(recipe.get("build"), dict) and recipe["build"].pop("cache", None) is not None)
    if not any(changed):
        return text
    head = "".join(f"{line}\n" for line in takewhile(lambda line: line.startswith("#"), text.splitlines()))
    return head + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)


def _file_name(section: Any, key: str) -> bool:
    """Leave the name alone of a path in a section; whether that changes it. A Hub id is no path."""
    path = section.get(key) if isinstance(section, dict) else None
    if not isinstance(path, str) or (key == "hub" and not _LOCAL_PATH.match(path)):
        return False
    section[key] = Path(path).name
    return bool(section[key] != path)


def private_places(workspace: Workspace) -> list[str]:
    """Where the published recipe or the tables name a local path or a private host: ``place: what``."""
    recipe = yaml.safe_load(public_recipe(workspace) or "{}")
    found = [f"{NAME}, {where}: {text}" for where, text in _strings(recipe) if _is_private(text)]
    rows = connect(workspace, memory="1GB").execute(MODELS).fetchall()
    return found + [f"{column} of {of}: {text}" for column, of, text in rows if text and _is_private(text)]


def _strings(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value, 1):
            yield from _strings(inner, f"{where}.{key}" if where else str(key))


def _is_private(text: str) -> bool:
    if re.match(r"https?://", text):
        return _is_private_host(urlsplit(text).hostname or "")
    return _LOCAL_PATH.match(text) is not None and "\n" not in text


def _is_private_host(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host not in ("", "localhost") and _PRIVATE_NAME.fullmatch(host) is not None
    return address.is_private and not address.is_loopback and not address.is_unspecified
