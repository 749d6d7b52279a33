"""``raffinate sql``: print or write the rows of one read-only query."""

from __future__ import annotations

import sys
from decimal import Decimal
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raffinate import show
from schemas.database import query, refresh
from schemas.errors import InputError, nearest
from schemas.views import DESCRIPTIONS

if TYPE_CHECKING:
    import pyarrow as pa

    from schemas.workspace import Workspace

FORMATS = ("table", "csv", "json", "parquet")


def answer(workspace: Workspace, sql: str, format: str | None, output: Path | None) -> None:
    """Run the query and write its rows; without a format as a table, or to a file as its ending says.

    Raises:
        InputError: the query cannot be run, the format is unknown, or the output cannot be written.
    """
    format = _format(format, output)
    rows = query(workspace, sql)
    if format == "table":
        show.records(rows.column_names, [list(r.values()) for r in rows.to_pylist()])
        return
    data = _encoded(rows, format)
    if output is None:
        rest = memoryview(data)
        while rest:  # unbuffered (PYTHONUNBUFFERED), one call may write a part
            rest = rest[sys.stdout.buffer.write(rest) :]
        return
    try:
        output.write_bytes(data)
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}") from None


def _format(format: str | None, output: Path | None) -> str:
    if format is not None and format not in FORMATS:
        raise InputError(f"--format '{format}' is unknown{nearest(format, FORMATS)}: {', '.join(FORMATS)}")
    if output is None:
        return format or "table"
    format = format or output.suffix.lower().removeprefix(".")
    if format not in FORMATS[1:]:
        raise InputError(f"-o {output}: a file is {', '.join(FORMATS[1:])}: end its name so, or say  --format csv")
    return format


def _encoded(rows: pa.Table, format: str) -> bytes:
    import pyarrow.parquet as pq

    if format == "json":
        import orjson

        return orjson.dumps(rows.to_pylist(), option=orjson.OPT_INDENT_2, default=_plain) + b"\n"
    if format == "parquet":
        buffer = BytesIO()
        pq.write_table(rows, buffer)
        return buffer.getvalue()
    return _csv(rows)


def _csv(rows: pa.Table) -> bytes:
    """Rows as CSV; lists and structs as JSON in their cell, null as an empty cell."""
    import csv

    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows.column_names)
    for batch in rows.to_batches(1000):
        writer.writerows([_cell(v) for v in row.values()] for row in batch.to_pylist())
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    import orjson

    if isinstance(value, list | dict):
        return orjson.dumps(value, default=_plain).decode()
    return str(value).lower() if isinstance(value, bool) else value


def _plain(value: Any) -> Any:
    """What JSON has no type for: exact numbers as numbers, the rest as text."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)


def list_views() -> None:
    """Print the views that can be asked."""
    show.table("Views", ("view", "rows"), [(name, about) for name, about in DESCRIPTIONS.items()])


def refresh_database(workspace: Workspace) -> None:
    """Bring ``raffinate.duckdb`` up to date."""
    with workspace.lock():
        refresh(workspace)
