"""Find credentials before they are published: known shapes, this machine's own keys, and detect-secrets.

Finding is in two steps, because texts are many and credentials few: DuckDB (RE2, gigabytes in seconds) picks the
cells that hold anything with the shape of a key, and only those are looked at closely. A credential is never repeated
in a finding: it has a mark, a hash of the text found, by which somebody who has looked at it may allow what is none.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator
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
    """Where a credential was found, and of which kind; ``mark`` allows it, None where nothing may."""

    kind: str
    where: str
    mark: str | None = None


def find_secrets(workspace: Workspace, allowed: Collection[str] = ()) -> list[Secret]:
    """Look through every text that `cards.push` would publish.

    Args:
        workspace: what would be published.
        allowed: marks of texts that were looked at and are none; keys of this machine cannot be allowed.
    """
    found = {
        Secret(kind, where, mark): None
        for where, text in [*_suspicious_cells(workspace, every=bool(allowed)), *_files(workspace)]
        for kind, mark in secrets_in(text)
        if mark is None or mark not in allowed
    }
    for path in published_files(workspace.path):
        if path.endswith(".yaml"):
            text = (workspace.path / path).read_text(encoding="utf-8", errors="replace")
            values = [value for value in _DECLARED.findall(text) if not value.startswith(("${", "$", "null"))]
            if values:
                found[Secret("key written into a recipe", path)] = None
    return list(found)


def secrets_in(text: str) -> list[tuple[str, str | None]]:
    """The kind and the mark of each credential that a text holds."""
    found = {(kind, mark_of(m[0])): None for kind, shape in _COMPILED.items() for m in shape.finditer(text)}
    mine = [(f"value of ${name}", None) for name, value in own_keys().items() if value in text]
    return [*mine, *found] or _by_detect_secrets(text)


def mark_of(secret: str) -> str:
    """A name for a credential that does not give it away."""
    return hashlib.sha256(secret.encode()).hexdigest()[:12]


def own_keys() -> dict[str, str]:
    """Keys in this process's environment: their values must be in no text."""
    return {
        name: value for name, value in os.environ.items() if _OWN_KEYS.search(name) and len(value) >= SHORTEST_OWN_KEY
    }


def _by_detect_secrets(text: str) -> list[tuple[str, str | None]]:
    """What detect-secrets' own detectors of known key formats say; nothing where it is not installed."""
    try:
        from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
        from detect_secrets.plugins.base import RegexBasedDetector
    except ImportError:
        return []
    found: dict[tuple[str, str | None], None] = {}
    detectors: dict[str, type] = get_mapping_from_secret_type_to_class()
    for kind, detector in detectors.items():
        if issubclass(detector, RegexBasedDetector) and kind not in _NOISY:
            patterns = cast("Iterable[re.Pattern[str]]", vars(detector)["denylist"])
            found |= {(kind, mark_of(m[0])): None for pattern in patterns for m in pattern.finditer(text)}
    return list(found)


_NOISY = {"Public IP (ipv4)", "Secret Keyword", "Basic Auth Credentials"}


def _suspicious_cells(workspace: Workspace, *, every: bool) -> Iterator[tuple[str, str]]:
    """Where and what: cells of the tables' text columns that may hold a credential; the first, or ``every`` one."""
    con = connect(workspace, memory="1GB")
    own = [re.escape(value) for value in own_keys().values()]
    shape = "|".join(f"(?:{s})" for s in [*SHAPES.values(), *own])
    for table in (QUESTIONS, RESPONSES, PURIFIED, CALLS):
        texts = text_columns(table)
        cells = ", ".join(f'"{name}"::VARCHAR' for name in texts)
        keys = ", ".join(f'"{key}"' for key in table.key)
        row = f"concat_ws(chr(10), {cells})"
        sql = f"SELECT [{cells}], {keys} FROM {table.name} WHERE regexp_matches({row}, {quote(shape)})" + (
            "" if every else f" LIMIT {PER_TABLE}"
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
