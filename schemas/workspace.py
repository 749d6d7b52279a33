"""A workspace: the folder a run works in, laid out as the dataset repository it will be published as.

README.md                                    dataset card
recipe.yaml                                  what made it, secrets left out
questions/{train,validation,test}-*.parquet
responses/<teacher_id>/{split}-*.parquet     every answer of every teacher
purified/<method>/{split}-*.parquet          one row per question, abstentions in rejected/<method>/
calls/<method>/{split}-*.parquet             what a method asked teachers or judges
routers/<method>/                            fitted purifier
students/<run_id>.parquet                    one trained student's evaluations
raffinate.duckdb                             the tables and views, for SQL
.raffinate/                                  journal, locks, logs: not published
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import InputError, RaffinateError, WorkspaceError
from schemas.parquet import by_split, finish_swaps, read_schema, swapped_folder, write_splits
from schemas.tables import CALLS, QUESTIONS, RESPONSES, SCHEMA_VERSION, SPLITS, Table

PART_ROWS = 65_536

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it can name a folder on any system and a Hub config.

    Raises:
        InputError: it has other characters than letters, digits, ``. _ -``, or starts with one of the last three.
    """
    if not NAME.fullmatch(name) or ".." in name:
        raise InputError(
            f"{what} '{name}' cannot name a folder: use letters, digits, '.', '_' and '-', a letter or digit first"
        )
    return name


class Workspace:
    """One workspace folder. Reading needs no lock; writing happens inside ``with workspace.lock():``."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().resolve()

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Workspace:
        """Make the folder a workspace, or open it if it is one.

        Raises:
            WorkspaceError: the path is a file, cannot be written, or holds other files and no workspace.
        """
        ws = cls(path)
        ws.check_place()
        if not ws._looks_like_one():
            try:
                with told_disk_errors(ws.path):
                    ws.private.mkdir(parents=True, exist_ok=True)
                    ws._marker.write_bytes(orjson.dumps({"schema_version": SCHEMA_VERSION}))
            except FileNotFoundError:  # as /proc says it
                raise WorkspaceError(f"cannot write to {ws.path}: no folder can be made there") from None
        return cls.open(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Workspace:
        """Open an existing workspace, or the folder of a published one.

        Raises:
            WorkspaceError: no such folder, no workspace, or made by a newer raffinate.
        """
        ws = cls(path)
        if not ws._looks_like_one():
            raise WorkspaceError(
                f"{ws.path} is no raffinate workspace: run  raffinate build  or  raffinate import  first"
            )
        ws._check_version()
        return ws

    def check_place(self) -> None:
        """Say what keeps the folder from being made a workspace, where it is none yet; writes nothing.

        Raises:
            WorkspaceError: see `create`.
        """
        with told_disk_errors(self.path):
            if self._looks_like_one():
                return
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise WorkspaceError(f"{self.path} exists and is no workspace: choose a new or an empty folder")
            place = next(p for p in (self.path, *self.path.parents) if p.exists())
            if not place.is_dir():
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if not os.access(place, os.W_OK | os.X_OK):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    def _looks_like_one(self) -> bool:
        return self._marker.is_file() or any(self.questions_dir.glob("*.parquet"))

    def _check_version(self) -> None:
        if self._marker.is_file() and (found := self._marked_version()) > SCHEMA_VERSION:
            raise WorkspaceError(
                f"{self.path} was made by a newer raffinate (schema version {found}, this one reads up to "
                f"{SCHEMA_VERSION}): upgrade with  pip install -U raffinate"
            )
        for pattern in (
            "questions/*.parquet",
            *(f"{t}/*/*.parquet" for t in ("responses", "purified", "rejected", "calls")),
        ):
            for file in self.path.glob(pattern):
                read_schema(file)

    def _marked_version(self) -> int:
        try:
            return int(orjson.loads(self._marker.read_bytes())["schema_version"])
        except (ValueError, TypeError, KeyError):
            raise WorkspaceError(
                f'{self._marker} is damaged: write  {{"schema_version": {SCHEMA_VERSION}}}  into it'
            ) from None

    @property
    def private(self) -> Path:
        """What is not published: journal, locks, logs."""
        return self.path / ".raffinate"

    @property
    def _marker(self) -> Path:
        return self.private / "workspace.json"

    @property
    def aside(self) -> Path:
        """Where folders are written before they are swapped in."""
        return self.private / "aside"

    @property
    def questions_dir(self) -> Path:
        """Parquet files of the questions, by split."""
        return self.path / "questions"

    @property
    def database(self) -> Path:
        """The DuckDB file with the tables and views."""
        return self.path / "raffinate.duckdb"

    def responses_dir(self, teacher_id: str) -> Path:
        """Parquet files of one teacher's responses, by split."""
        return self.path / "responses" / check_name(teacher_id, "teacher id")

    def purified_dir(self, method: str) -> Path:
        """Parquet files of what one method kept, by split."""
        return self.path / "purified" / check_name(method, "method")

    def rejected_dir(self, method: str) -> Path:
        """Parquet files of what one method abstained from, by split."""
        return self.path / "rejected" / check_name(method, "method")

    def calls_dir(self, method: str) -> Path:
        """Parquet files of what one method asked teachers or judges, by split."""
        return self.path / "calls" / check_name(method, "method")

    def router_dir(self, method: str) -> Path:
        """A fitted purifier: safetensors and JSON."""
        return self.path / "routers" / check_name(method, "method")

    @property
    def students_dir(self) -> Path:
        """Parquet files of the students' evaluations, one per trained student."""
        return self.path / "students"

    def teachers(self) -> list[str]:
        """The teachers that have responses, sorted by id."""
        return sorted(p.parent.name for p in self.path.glob("responses/*/") for p in [*p.glob("*.parquet")][:1])

    def methods(self) -> list[str]:
        """The methods that have been purified, sorted by name."""
        return sorted(p.name for p in self.path.glob("purified/*") if p.is_dir())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the workspace for writing; the operating system frees it if the process dies.

        Raises:
            WorkspaceError: another run holds it (its process id is named), or the folder cannot be written.
        """
        with told_disk_errors(self.path):
            self.private.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.private / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(handle, 32, 0).decode().strip() or "unknown"
                raise WorkspaceError(
                    f"another run works on {self.path} (process {owner}): wait for it to end, or stop it"
                ) from None
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
            finish_swaps(self.path, self.aside)
            yield
        finally:
            os.close(handle)

    def write_questions(self, questions: pa.Table | Iterable[pa.Table]) -> dict[str, int]:
        """Replace the questions by a table, or by its parts; return rows per split. Needs the lock."""
        parts = [questions] if isinstance(questions, pa.Table) else questions
        return self._replace(self.questions_dir, QUESTIONS, (pair for part in parts for pair in by_split(part)))

    def write_responses(self, teacher_id: str, batches: Iterable[tuple[str, pa.Table]]) -> dict[str, int]:
        """Replace one teacher's responses by ``(split, rows)`` batches; return rows per split. Needs the lock."""
        return self._replace(self.responses_dir(teacher_id), RESPONSES, batches)

    def write_calls(self, method: str, calls: pa.Table) -> dict[str, int]:
        """Replace what one method asked (columns of `CALLS` and ``split``); return rows per split. Needs the lock."""
        if not calls.num_rows:
            shutil.rmtree(self.calls_dir(method), ignore_errors=True)
            return {}
        return self._replace(self.calls_dir(method), CALLS, by_split(calls))

    def _replace(self, folder: Path, table: Table, batches: Iterable[tuple[str, pa.Table]]) -> dict[str, int]:
        with told_disk_errors(self.path), swapped_folder(folder, self.aside) as fresh:
            return write_splits(fresh, table, batches)

    def read_questions(self) -> pa.Table:
        """All questions, in the order train, validation, test and as written."""
        files = question_files(self.questions_dir)
        if not files:
            raise WorkspaceError(f"{self.path} has no questions yet: run  raffinate build  or  raffinate import  first")
        return pa.concat_tables(pq.read_table(f, columns=QUESTIONS.names) for f in files)

    def question_parts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of the questions, in the order of `read_questions`; memory holds one part."""
        for file in question_files(self.questions_dir):
            with pq.ParquetFile(file) as parquet:
                for batch in parquet.iter_batches(PART_ROWS, columns=columns):
                    yield pa.Table.from_batches([batch])


def question_files(folder: Path) -> list[Path]:
    """The split files of a folder in the order train, validation, test."""
    return [f for split in SPLITS for f in sorted(folder.glob(f"{split}-*.parquet"))]


@contextmanager
def told_disk_errors(where: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission or a read-only disk into one sentence.

    Raises:
        WorkspaceError: in place of the OSError.
    """
    try:
        yield
    except RaffinateError:
        raise
    except Exception as error:
        reason = DISK_REASONS.get(_errno(error))
        if reason is None:
            raise
        raise WorkspaceError(f"cannot write to {where}: {reason}") from error


DISK_REASONS = {
    errno.ENOSPC: "the disk is full: free some space and run the same command again, nothing is lost",
    errno.EDQUOT: "your disk quota is used up: free some space and run the same command again",
    errno.EFBIG: "a file would be larger than the system allows (ulimit -f): raise the limit",
    errno.EACCES: "you may not write there: change its permissions or choose another folder",
    errno.EPERM: "you may not write there: change its permissions or choose another folder",
    errno.EROFS: "the disk is read-only: choose another folder",
    errno.ENOTDIR: "a part of its path is a file: choose another folder",
    errno.ENAMETOOLONG: "a part of its path is too long: choose a shorter name",
    errno.ELOOP: "links in its path lead back to themselves: choose another folder",
}


def _errno(error: Exception) -> int:
    """The error number; DuckDB gives it in words only. 0 if there is none."""
    if isinstance(error, OSError):
        return error.errno or 0
    return next((number for number in DISK_REASONS if str(error).endswith(os.strerror(number))), 0)
