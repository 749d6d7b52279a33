"""Find credentials before they are published: known shapes, this machine's own keys, and detect-secrets.

Finding is in two steps, because texts are many and credentials few: DuckDB (RE2, gigabytes in seconds) picks the
cells that hold anything with the shape of a key, and only those are looked at closely. A credential is never repeated
in a finding: it has a mark, a hash of the text found, by which somebody who has looked at it may allow what is none.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from cards.publication import published_files
from cards.spec import mapping_of
from schemas.database import connect, quote
from schemas.secret_names import REFERENCE, SECRET_IN_QUERY, SECRET_KEYS, SECRET_MAPPINGS
from schemas.tables import TABLES, Table

if TYPE_CHECKING:
    import duckdb

    from schemas.workspace import Workspace

SHAPES = {
    "Hugging Face token": r"\bhf_[A-Za-z]{30,40}\b",
    "OpenAI or similar key": r"\bsk-(?:(?:proj|ant|or-v1|svcacct|admin|lf)-[A-Za-z0-9_-]{20,}|[A-Za-z0-9]{20,})",
    "Groq or xAI key": r"\b(?:gsk_|xai-)[A-Za-z0-9]{40,}",
    "GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60,})",
    "GitLab token": r"\bgl(?:pat|dt|ft|soat|rt|cbt|imt|ptt|agent|oas)-[A-Za-z0-9_-]{20,}",
    "AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "Google API key": r"\bAIza[0-9A-Za-z_-]{35}",
    "Azure storage key": r"\bAccountKey=[A-Za-z0-9+/=]{88}",
    "Slack token": r"\bxox[abprs]-[0-9A-Za-z-]{10,}",
    "Discord bot token": r"\b[MNO][A-Za-z0-9_-]{23,25}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,}",
    "Telegram bot token": r"\b\d{8,10}:[A-Za-z0-9_-]{35}",
    "Twilio key": r"\b(?:AC|SK)[0-9a-f]{32}\b",
    "Mailchimp key": r"\b[0-9a-f]{32}-us\d{1,2}\b",
    "Stripe or Square key": r"\b(?:[rs]k_live_[0-9A-Za-z]{24}|sq0(?:csp|atp|idp)-[A-Za-z0-9_-]{22,})",
    "JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "password in a URL": r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,64}:[^\s/:@$]{3,64}@[A-Za-z0-9]",
    "PyPI, npm or SendGrid token": r"\b(?:pypi-AgE[A-Za-z0-9_-]{50,}|npm_[A-Za-z0-9]{36}|SG\.[\w-]{16,}\.[\w-]{16,})",
}
_DECLARED = re.compile(r"(?im)^[\s-]*(?:\w*api_?key|\w*token|password|secret)\s*:\s*['\"]?([^\s'\"#]{8,})")
_OWN_KEYS = re.compile(r"(?i)(?:_|^)(?:api_?key|access_?key|key|token|secret|password|passwd|pat)$")
SHORTEST_OWN_KEY = 12
FEWEST_CHARACTERS = 5
"""Different ones in a key; ``xxxxxxxxxxxx`` is none."""
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

    Raises:
        InputError: the recipe, which names keys of this machine, cannot be read.
    """
    own = own_keys(workspace)
    found = {
        Secret(kind, where, mark): None
        for where, text in [*_suspicious_cells(workspace, own, every=bool(allowed)), *_files(workspace)]
        for kind, mark in secrets_in(text, own)
        if mark is None or mark not in allowed
    }
    for path in published_files(workspace.path):
        if path.endswith(".yaml"):
            text = (workspace.path / path).read_text(encoding="utf-8", errors="replace")
            declared = [*_DECLARED.findall(text), *(value for _, value in SECRET_IN_QUERY.findall(text))]
            if any(not value.startswith(("$", "null")) for value in declared):
                found[Secret("key written into a recipe", path)] = None
    return list(found)


def secrets_in(text: str, own: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """The kind and the mark of each credential that a text holds; ``own`` are this machine's keys by name.

    Where two shapes meet in one place, the first one names it.
    """
    found: dict[tuple[str, str | None], None] = {(f"value of ${n}", None): None for n, v in own.items() if v in text}
    spans: list[tuple[int, int]] = []
    for kind, pattern in _patterns():
        for m in pattern.finditer(text):
            if all(m.end() <= start or end <= m.start() for start, end in spans):
                spans.append(m.span())
                found[kind, mark_of(m[0])] = None
    return list(found)


def mark_of(secret: str) -> str:
    """A name for a credential that does not give it away."""
    return hashlib.sha256(secret.encode()).hexdigest()[:12]


def own_keys(workspace: Workspace) -> dict[str, str]:
    """Keys in this process's environment, by their names or because the recipe names them: to be in no text."""
    named = set(_references(mapping_of(workspace.path / "recipe.yaml")))
    return {
        name: value
        for name, value in os.environ.items()
        if (name in named or _OWN_KEYS.search(name)) and not _is_trivial(value)
    }


def _is_trivial(value: str) -> bool:
    """Whether a value would be found in texts that do not leak it; the path of a key is no key."""
    return len(value) < SHORTEST_OWN_KEY or len(set(value)) < FEWEST_CHARACTERS or _is_file(value)


def _is_file(value: str) -> bool:
    return os.path.exists(value)  # noqa: PTH110 - Path.exists raises where a value is too long for a name


def _references(value: Any, secret: bool = False) -> Iterator[str]:
    """The environment variables that a recipe takes secrets from."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _references(inner, secret or key in SECRET_KEYS | SECRET_MAPPINGS)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner, secret)
    elif isinstance(value, str):
        for text in [value] if secret else [in_query for _, in_query in SECRET_IN_QUERY.findall(value)]:
            yield from REFERENCE.findall(text)


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Kind and pattern: ours, then those of detect-secrets' detectors of known formats, where it is installed."""
    ours = [(kind, re.compile(shape)) for kind, shape in SHAPES.items()]
    try:
        from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
        from detect_secrets.plugins.base import RegexBasedDetector
    except ImportError:
        return tuple(ours)
    detectors: dict[str, type] = get_mapping_from_secret_type_to_class()
    theirs = [
        (kind, pattern)
        for kind, detector in sorted(detectors.items())
        if issubclass(detector, RegexBasedDetector) and kind not in _NOISY
        for pattern in cast("Iterable[re.Pattern[str]]", vars(detector)["denylist"])
    ]
    return (*ours, *theirs)


_NOISY = {"Public IP (ipv4)", "Secret Keyword", "Basic Auth Credentials", "Artifactory Credentials"}
"""Also found in ordinary text; Artifactory's is any long word such as APERIODICITY."""


def _searched(con: duckdb.DuckDBPyConnection) -> str:
    """The patterns as one for RE2, without the few that need to look around, which RE2 cannot."""
    import duckdb

    shapes = []
    for _, pattern in _patterns():
        shape = f"(?i:{pattern.pattern})" if pattern.flags & re.IGNORECASE else f"(?:{pattern.pattern})"
        try:
            con.execute("SELECT regexp_matches('', $1)", [shape])
        except duckdb.Error:
            continue
        shapes.append(shape)
    return "|".join(shapes)


def _suspicious_cells(workspace: Workspace, own: Mapping[str, str], *, every: bool) -> Iterator[tuple[str, str]]:
    """Where and what: cells of the tables' text columns that may hold a credential; the first, or ``every`` one."""
    con = connect(workspace, memory="1GB")
    shape = "|".join([_searched(con), *(re.escape(value) for value in own.values())])
    for table in TABLES.values():
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
        if Path(path).suffix not in (".parquet", ".safetensors"):
            yield path, (workspace.path / path).read_text(encoding="utf-8", errors="replace")
