"""Write a table's Parquet files so that a reader sees the old ones or the new ones, never half of them.

Files of one folder are written aside and the folder is swapped in by renames; `finish_swaps` puts right what a crash
between two renames left behind.
"""

from __future__ import annotations

import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.errors import WorkspaceError
from schemas.tables import SPLITS, Table, check_version

ROWS_PER_FILE = 1_000_000
COMPRESSION = "snappy"  # zstd takes twice as long to write for files a third smaller


def write_splits(folder: Path, table: Table, batches: Iterable[tuple[str, pa.Table]]) -> dict[str, int]:
    """Write ``(split, rows)`` batches as ``{split}-00000.parquet``, ... in ``folder``; return rows per split.

    Batches of one split are written in the order given; memory holds one batch. Columns are cast to ``table.arrow``.
    A file is full with `ROWS_PER_FILE` rows, and the batch that fills it may go beyond.

    Raises:
        pyarrow.ArrowInvalid: a column is missing or cannot be cast (a bug of the caller, not of a user).
    """
    rows, open_files = Counter[str](), dict[Path, pq.ParquetWriter]()
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for split, batch in batches:
            file = split_file(folder, split, rows[split] // ROWS_PER_FILE)
            if file not in open_files:
                open_files[file] = stack.enter_context(writer(file, table))
            open_files[file].write_table(batch.select(table.names).cast(table.arrow))
            rows[split] += batch.num_rows
    return dict(rows)


def split_file(folder: Path, split: str, number: int) -> Path:
    """The path of a split's file in a folder."""
    return folder / f"{split}-{number:05d}.parquet"


def writer(path: Path, table: Table) -> pq.ParquetWriter:
    """A writer of one file of a table."""
    return pq.ParquetWriter(path, table.arrow, compression=COMPRESSION)


def by_split(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yield ``(split, its rows)`` of a table that has a ``split`` column, in the order train, validation, test."""
    for split in SPLITS:
        part = table.filter(pc.equal(table["split"], split))
        if part.num_rows:
            yield split, part


def completed(rows: pa.Table, table: Table) -> pa.Table:
    """The columns of ``table``; one that an older file lacks is null throughout, if the table allows null."""
    for field in table.arrow:
        if field.nullable and field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
    return rows.select(table.names)


@contextmanager
def swapped_folder(target: Path, aside: Path) -> Iterator[Path]:
    """Yield an empty folder to write into; on success it replaces ``target``, on an error it is removed.

    Args:
        target: the folder to replace (or create).
        aside: a folder on the same disk for work in progress; see `finish_swaps`.
    """
    token = uuid.uuid4().hex
    fresh, old = aside / f"{token}.new", aside / f"{token}.old"
    fresh.mkdir(parents=True)
    try:
        yield fresh
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        (aside / f"{token}.target").write_text(str(target.relative_to(aside.parent.parent)))
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    (aside / f"{token}.target").unlink(missing_ok=True)


def finish_swaps(root: Path, aside: Path) -> None:
    """Undo swaps that a crash cut short: a folder moved away comes back if nothing took its place."""
    for note in aside.glob("*.target"):
        target, old = root / note.read_text(), note.with_suffix(".old")
        if old.exists() and not target.exists():
            old.rename(target)
        note.unlink()
    for leftover in [*aside.glob("*.new"), *aside.glob("*.old")]:
        shutil.rmtree(leftover, ignore_errors=True)


def read_schema(path: Path) -> pa.Schema:
    """Read the Arrow schema of a Parquet file, refusing one of a newer schema version.

    Raises:
        WorkspaceError: the file was written by a newer raffinate, or is damaged.
    """
    try:
        schema = pq.read_schema(path)
    except pa.ArrowInvalid as error:
        raise WorkspaceError(f"{path} is damaged or no Parquet file: restore or remove it ({error})") from None
    check_version(schema, str(path))
    return schema
