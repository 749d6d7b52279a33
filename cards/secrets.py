"""Find credentials before they are published: known shapes, this machine's own keys, and detect-secrets.

Finding is in two steps, because texts are many and credentials few: DuckDB (RE2, gigabytes in seconds) picks the
cells that hold anything with the shape of a key, and only those are looked at closely. A credential is never repeated
in a finding.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from cards.publication import published_files
from schemas.database import connect, quote
from schemas.tables import CALLS, PURIFIED, QUESTIONS, RESPONSES, Table

if TYPE_CHECKING:
    from schemas.workspace import Workspace

SHAPES = {
    "Hugging Face token": r"\bhf_[A-Za-z]{30,40}\b",
    "OpenAI or similar key": r"\bsk-(?:proj-|ant-|or-v1-|svcacct-)?[A-Za-z0-9_-]{20,}",
    "GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})",
    "GitLab token": r"\bglpat-[A-Za-z0-9_-]{20}",
    "AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "Google API key": r"\bAIza[0-9A-Za-z_-]{35}",
    "Slack token": r"\bxox[abprs]-[0-9A-Za-z-]{10,}",
    "JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "password in a URL": r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,64}:[^\s/:@$]{3,64}@[A-Za-z0-9]",
    "PyPI, npm or SendGrid token": r"\b(?:pypi-AgE[A-Za-z0-9_-]{50,}|npm_[A-Za-z0-9]{36}|SG\.[\w-]{16,}\.[\w-]{16,})",
}
_COMPILED = {kind: re.compile(shape) for kind, shape in SHAPES.items()}
_DECLARED = re.compile(r"(?im)^[\s-]*(?:\w*api_?key|\w*token|password|secret)\s*:\s*['\"]?([^\s'\"#]{8,})")
_OWN_KEYS = re.compile(r"(?i)(?:_|^)(?:api_?key|token|secret|password)$")
SHORTEST_OWN_KEY = 12
PER_TABLE = 1000
"""Cells of one table that are looked at closely; one is enough to refuse."""


@dataclass(frozen=True)
class Secret:
    """Where a credential was found, and of which kind."""

    kind: str
    where: str


def find_secrets(workspace: Workspace) -> list[Secret]:
    """Look through every text that `cards.push` would publish."""
    found = {
        Secret(kind, where): None
        for where, text in [*_suspicious_cells(workspace), *_files(workspace)]
        for kind in kinds_in(text)
    }
    for path in published_files(workspace.path):
        if path.endswith(".yaml"):
            text = (workspace.path / path).read_text(encoding="utf-8", errors="replace")
            values = [value for value in _DECLARED.findall(text) if not value.startswith(("${", "$", "null"))]
            if values:
                found[Secret("key written into a recipe", path)] = None
    return list(found)


def kinds_in(text: str) -> list[str]:
    """The kinds of credential that a text holds."""
    kinds = [kind for kind, shape in _COMPILED.items() if shape.search(text)]
    kinds += [f"value of ${name}" for name, value in own_keys().items() if value in text]
    return kinds or _by_detect_secrets(text)


def own_keys() -> dict[str, str]:
    """Keys in this process's environment: their values must be in no text."""
    return {
        name: value for name, value in os.environ.items() if _OWN_KEYS.search(name) and len(value) >= SHORTEST_OWN_KEY
    }


def _by_detect_secrets(text: str) -> list[str]:
    """What detect-secrets' own detectors of known key formats say; nothing where it is not installed."""
    try:
        from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
        from detect_secrets.plugins.base import RegexBasedDetector
    except ImportError:
        return []
    kinds: list[str] = []
    detectors: dict[str, type] = get_mapping_from_secret_type_to_class()
    for kind, detector in detectors.items():
        if issubclass(detector, RegexBasedDetector) and kind not in _NOISY:
            patterns = cast("Iterable[re.Pattern[str]]", vars(detector)["denylist"])
            kinds += [kind] if any(pattern.search(text) for pattern in patterns) else []
    return kinds


_NOISY = {"Public IP (ipv4)", "Secret Keyword", "Basic Auth Credentials"}


def _suspicious_cells(workspace: Workspace) -> Iterator[tuple[str, str]]:
    """Where and what: cells of the tables' text columns that may hold a credential."""
    con = connect(workspace, memory="1GB")
    own = [re.escape(value) for value in own_keys().values()]
    shape = "|".join(f"(?:{s})" for s in [*SHAPES.values(), *own])
    for table in (QUESTIONS, RESPONSES, PURIFIED, CALLS):
        texts = text_columns(table)
        cells = ", ".join(f'"{name}"::VARCHAR' for name in texts)
        keys = ", ".join(f'"{key}"' for key in table.key)
        row = f"concat_ws(chr(10), {cells})"
        sql = (
            f"SELECT [{cells}], {keys} FROM {table.name} WHERE regexp_matches({row}, {quote(shape)}) LIMIT {PER_TABLE}"
        )
        for found, *key in con.execute(sql).fetchall():
            for name, text in zip(texts, found, strict=True):
                yield f"{table.name}.{name} of {', '.join(map(str, key))}", text or ""


def text_columns(table: Table) -> list[str]:
    """The columns that hold text which a person or a model wrote, the choices of a question among them."""
    return [f.name for f in table.fields if f.type == pa.string() or f.name == "choices"]


def _files(workspace: Workspace) -> Iterator[tuple[str, str]]:
    for path in published_files(workspace.path):
        if Path(path).suffix in (".md", ".yaml", ".json"):
            yield path, (workspace.path / path).read_text(encoding="utf-8", errors="replace")
