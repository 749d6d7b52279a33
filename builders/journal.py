"""The journal: every reply and every failure, on disk before it counts. It is the cache, too.

One SQLite file in WAL mode. Each reply is committed by itself the moment it is there (25 microseconds), so a killed
process loses none; an answer is found again by its request's hash, in this workspace or in any other that shares the
file. (With ``synchronous = NORMAL`` a power cut may undo the last commits; the file stays sound.)

    answers    hash -> the reply as it came; settled, never asked again by a build
    failures   hash -> why no answer came; asked again by the next build
    overrides  hash by the recipe -> token limit that a retry gave the request (in the workspace's own file)
    batches, batch_requests    what a server's Batch API has under way; see `builders.batch_log`
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from schemas.errors import WorkspaceError

if TYPE_CHECKING:
    from schemas.workspace import Workspace

FIND = 500  # SQLite takes so many values in one statement, and some more
BUSY_S = 60  # how long to wait for another run that shares the file
VERSION = 3
CACHE_VARIABLE = "RAFFINATE_CACHE"

_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    request_hash TEXT PRIMARY KEY, status TEXT NOT NULL, reply BLOB NOT NULL, attempts INTEGER NOT NULL,
    latency_ms REAL NOT NULL, prompt_tokens INTEGER, completion_tokens INTEGER, at_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS failures (
    request_hash TEXT PRIMARY KEY, error_class TEXT NOT NULL, message TEXT NOT NULL, reply BLOB,
    attempts INTEGER NOT NULL, latency_ms REAL NOT NULL, at_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS overrides (base_hash TEXT PRIMARY KEY, max_tokens INTEGER NOT NULL);
"""
_BATCHES = """
ALTER TABLE answers ADD COLUMN batched INTEGER NOT NULL DEFAULT 0;
ALTER TABLE failures ADD COLUMN batched INTEGER NOT NULL DEFAULT 0;
CREATE TABLE batches (
    name TEXT PRIMARY KEY, endpoint TEXT NOT NULL, model TEXT NOT NULL, requests INTEGER NOT NULL,
    at_ms INTEGER NOT NULL, batch_id TEXT, ended TEXT);
CREATE TABLE batch_requests (
    request_hash TEXT NOT NULL, batch TEXT NOT NULL, PRIMARY KEY (request_hash, batch)) WITHOUT ROWID;
"""
_LATER = """
ALTER TABLE failures ADD COLUMN prompt_tokens INTEGER;
ALTER TABLE failures ADD COLUMN completion_tokens INTEGER;
ALTER TABLE batches ADD COLUMN missed INTEGER NOT NULL DEFAULT 0;
"""
_STEPS = (_TABLES, _BATCHES, _LATER)
"""What brings a file from each version to the next."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A reply that settles its request: ``ok``, ``truncated`` or ``refused``.

    Attributes:
        prompt_tokens, completion_tokens: of all attempts, unusable replies included, and once it is kept those of
            earlier runs; None where the server is silent.
        batched: it came through the server's Batch API, which may cost less.
    """

    request_hash: str
    status: str
    reply: bytes
    attempts: int
    latency_ms: float
    prompt_tokens: int | None
    completion_tokens: int | None
    at_ms: int
    batched: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that got no answer, and why; ``reply`` is what came instead, if anything did.

    Attributes:
        prompt_tokens, completion_tokens: of replies that could not be used; None where none reported any.
    """

    request_hash: str
    error_class: str
    message: str
    reply: bytes | None
    attempts: int
    latency_ms: float
    at_ms: int
    batched: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @property
    def paid_nothing(self) -> bool:
        """Whether no reply came that reported its tokens."""
        return self.prompt_tokens is None and self.completion_tokens is None


Record = Answered | Failed

_LOST = "(SELECT {} FROM failures WHERE request_hash = ?1)"  # what earlier runs paid for replies of no use
_LOST_PROMPT, _LOST_COMPLETION = _LOST.format("prompt_tokens"), _LOST.format("completion_tokens")
_ANSWER = f"""INSERT OR REPLACE INTO answers
VALUES (?1, ?2, ?3, ?4, ?5, ?6 + coalesce({_LOST_PROMPT}, 0), ?7 + coalesce({_LOST_COMPLETION}, 0), ?8, ?9)"""
_FAILURE = f"""INSERT OR REPLACE INTO failures VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8,
coalesce(?9 + {_LOST_PROMPT}, ?9, {_LOST_PROMPT}), coalesce(?10 + {_LOST_COMPLETION}, ?10, {_LOST_COMPLETION}))"""
_OF_ANSWER, _OF_FAILURE = attrgetter(*Answered.__slots__), attrgetter(*Failed.__slots__)


def cache_file(workspace: Workspace, cache: str | os.PathLike[str] | None = None) -> Path:
    """Where replies are kept: ``cache``, else the file that RAFFINATE_CACHE names, else the workspace's own journal."""
    chosen = cache or os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser().resolve() if chosen else own_file(workspace)


def own_file(workspace: Workspace) -> Path:
    """The journal inside the workspace."""
    return workspace.private / "journal.sqlite"


class Journal:
    """One journal file, open for reading and writing.

    Raises:
        WorkspaceError: the file is no journal, is damaged, was made by a newer raffinate, or its disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._told = path, _Told(path)
        with self._told:
            path.parent.mkdir(parents=True, exist_ok=True)
            # opened here and used elsewhere, one after the other: a build in a notebook runs in a thread of its own
            self._db = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False, isolation_level=None)
            self._prepare()

    def _prepare(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise WorkspaceError(f"{self.path} was made by a newer raffinate: upgrade with  pip install -U raffinate")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        if version < VERSION:
            self._migrate()

    def _migrate(self) -> None:
        """Bring the file up to date, in one transaction: two runs may open a shared one at once."""
        self._db.execute("BEGIN IMMEDIATE")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        for step in _STEPS[version:]:
            for statement in step.split(";"):
                self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version = {VERSION}")
        self._db.execute("COMMIT")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was committed stays."""
        self._db.close()

    def settled(self, request_hash: str) -> bool:
        """Whether the request has an answer."""
        return self._one("SELECT 1 FROM answers WHERE request_hash = ?", request_hash) is not None

    def find(self, request_hash: str) -> Record | None:
        """What is known of a request: its answer, else its failure, else None."""
        return self.find_all([request_hash]).get(request_hash)

    def find_all(self, hashes: Sequence[str]) -> dict[str, Record]:
        """What is known of some requests, at most `FIND` of them: quicker than one by one."""
        missing = hashes
        found: dict[str, Record] = {}
        for table, make in (("answers", Answered), ("failures", Failed)):
            sql = f"SELECT * FROM {table} WHERE request_hash IN ({', '.join('?' * len(missing))})"
            found |= {row[0]: make(*row) for row in self.rows(sql, *missing)}
            missing = [h for h in hashes if h not in found]
        return found

    def outcome(self, request_hash: str) -> str | None:
        """The status of a request, or the error class of its failure after ``failed:``; None if it was never asked."""
        row = self._one("SELECT status FROM answers WHERE request_hash = ?", request_hash)
        if row is None:
            row = self._one("SELECT 'failed:' || error_class FROM failures WHERE request_hash = ?", request_hash)
        return None if row is None else str(row[0])

    def state(self) -> list[object]:
        """Changes with every record kept: a new or replaced row is the last of its table."""
        last = "SELECT rowid, request_hash, at_ms FROM {} ORDER BY rowid DESC LIMIT 1"
        return [self._one(last.format(table)) for table in ("answers", "failures")]

    def mean_completion_tokens(self, sample: int = 10_000) -> float | None:
        """Mean completion tokens of the latest replies (tokens); None if there are none that report them."""
        latest = f"SELECT completion_tokens AS n FROM answers ORDER BY rowid DESC LIMIT {sample}"
        row = self._one(f"SELECT avg(n) FROM ({latest})")
        return None if row is None else row[0]

    def _one(self, sql: str, *values: str) -> tuple[Any, ...] | None:
        with self._told:
            found: tuple[Any, ...] | None = self._db.execute(sql, values).fetchone()
        return found

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement, and return its rows."""
        with self._told:
            return self._db.execute(sql, values).fetchall()

    def keep(self, record: Record) -> None:
        """Commit a record. An answer is replaced by a later answer only, never by a failure.

        The tokens of earlier failures of the request are added to the record's.
        """
        with self._told:
            self._db.execute(*_insert(record))

    def keep_all(self, records: Iterable[Record]) -> None:
        """Commit records that came together, all or none of them."""
        self.write(map(_insert, records))

    def write(self, statements: Iterable[tuple[str, Sequence[object]]]) -> None:
        """Run statements that belong together, all or none of them."""
        with self._told, self._db as db:
            db.execute("BEGIN IMMEDIATE")
            for sql, values in statements:
                db.execute(sql, values)

    def overrides(self) -> dict[str, int]:
        """Token limits that a retry put in the recipe's place, by the hash of the recipe's own request."""
        with self._told:
            return dict(self._db.execute("SELECT base_hash, max_tokens FROM overrides"))

    def override(self, limits: Iterable[tuple[str, int]]) -> None:
        """Keep token limits that a retry put in the recipe's place."""
        self.write(("INSERT OR REPLACE INTO overrides VALUES (?, ?)", limit) for limit in limits)


class _Told:
    """Says in one sentence what is wrong with the file or its disk. (A class: a generator is three times slower.)"""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise WorkspaceError(f"cannot write {self._path}: {error.strerror}") from error
        if isinstance(error, sqlite3.OperationalError):
            if "full" in str(error) or "disk I/O" in str(error):
                raise WorkspaceError(
                    f"cannot write {self._path}: the disk is full or failing ({error}); free some space and run the "
                    "same command again, no answer that was kept is lost"
                ) from error
            raise WorkspaceError(f"cannot use {self._path}: {error}") from error
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.ProgrammingError):
            raise WorkspaceError(
                f"{self._path} is damaged or no journal ({error}): restore it, or rescue its answers with  sqlite3 "
                f"{self._path.name} .recover ; without it they are asked again"
            ) from error


def _insert(record: Record) -> tuple[str, tuple[object, ...]]:
    return (_ANSWER, _OF_ANSWER(record)) if isinstance(record, Answered) else (_FAILURE, _OF_FAILURE(record))


def now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
