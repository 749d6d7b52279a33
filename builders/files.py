"""Read rows from Parquet, JSONL, JSON and CSV files into one frame that remembers where each row came from.

Every fault is one sentence that names the file and the row: a file that is missing, empty, not UTF-8 or not what
its ending says, a line that is no JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import InputError, nearest

if TYPE_CHECKING:
    import polars as pl

FILE, ROW = "_file", "_row"
"""Columns added to what is read: the file's path, and the row in it from 1 (in JSONL the line)."""

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv")


def find_files(pattern: str | Path, base_dir: Path) -> list[Path]:
    """Return the files that a path or glob names, relative paths being taken from ``base_dir``.

    Raises:
        InputError: there is none.
    """
    full = (base_dir / Path(pattern).expanduser()).absolute()
    if full.is_file():
        return [full]
    if full.is_dir():
        raise InputError(f"{full} is a folder: name the files in it, as in '{full}/*.parquet'")
    found = sorted(p for p in Path(full.anchor).glob(str(full.relative_to(full.anchor))) if p.is_file())
    if not found:
        raise InputError(f"no file matches {full}: check the path (relative paths start at {base_dir})")
    return found


def read_files(pattern: str | Path, base_dir: Path) -> pl.DataFrame:
    """Read all files that ``pattern`` names into one frame, with the columns `FILE` and `ROW`.

    Raises:
        InputError: a file cannot be read; the sentence names it, and the row where there is one.
    """
    import polars as pl

    frames = [read_file(path) for path in find_files(pattern, base_dir)]
    if len(frames) == 1:
        return frames[0]
    try:
        return pl.concat(frames, how="diagonal_relaxed", rechunk=False)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"the files of {pattern} differ in the types of their columns: {_one_line(error)}") from error


def read_file(path: Path) -> pl.DataFrame:
    """Read one file by its ending; see `read_files`. Its own columns `FILE` and `ROW`, if any, give way to ours."""
    import polars as pl

    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path} has an ending that is not known: use one of {', '.join(SUFFIXES)}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty: it must hold at least one row")
    frame, lines = (_read_parquet(path), None) if suffix == ".parquet" else _read_text(path, suffix)
    if frame.height == 0:
        raise InputError(f"{path} is empty: it has columns but no row")
    numbers = pl.int_range(1, frame.height + 1, dtype=pl.UInt32) if lines is None else pl.lit(lines)
    return frame.with_columns(pl.lit(str(path)).alias(FILE), numbers.alias(ROW))


def require(frame: pl.DataFrame, columns: dict[str, str]) -> None:
    """Check that the columns we need are there.

    Args:
        frame: rows with the column `FILE`.
        columns: our field -> the column it is read from.

    Raises:
        InputError: one is missing; names the nearest.
    """
    known = [c for c in frame.columns if c not in (FILE, ROW)]
    for field, column in columns.items():
        if column not in known:
            mapped = "" if field == column else f" (mapped to {field})"
            raise InputError(
                f"{frame[FILE][0]} has no column '{column}'{mapped}{nearest(column, known)}: it has {', '.join(known)}"
            )


def refuse_first(frame: pl.DataFrame, is_bad: pl.Expr, message: str) -> None:
    """Raise on the first row for which ``is_bad`` holds.

    Args:
        frame: rows with `FILE` and `ROW`.
        is_bad: a Boolean expression; null counts as false.
        message: what is wrong, with ``{column}`` for the values of the row.

    Raises:
        InputError: ``FILE, row N: message``.
    """
    bad = frame.filter(is_bad.fill_null(value=False)).head(1)
    if bad.height:
        row = bad.to_dicts()[0]
        raise InputError(f"{where(row)}: {message.format(**row)}")


def as_text(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Make columns text, numbers included; NaN is null, and an id that is a whole number has no point.

    Raises:
        InputError: one holds a list or an object; names the first such row.
    """
    import polars as pl

    for name in columns:
        if frame.schema[name].is_nested():
            kind = "an object" if frame.schema[name] == pl.Struct else "a list"
            refuse_first(frame, pl.col(name).is_not_null(), f"{name} must be a text, not {kind}")
            frame = frame.with_columns(pl.lit(None, dtype=pl.String).alias(name))
    floats = [name for name in columns if frame.schema[name].is_float()]
    frame = frame.with_columns(pl.col(floats).fill_nan(None))
    frame = frame.with_columns(pl.col(columns).cast(pl.String, strict=False))
    ids = [name for name in floats if name == "question_id"]  # 1.0: pandas makes floats of numbers with gaps
    return frame.with_columns(pl.col(ids).str.strip_suffix(".0"))


def where(row: dict[str, Any]) -> str:
    """``FILE, row N`` of a row with `FILE` and `ROW`."""
    return f"{row[FILE]}, row {row[ROW]}"


def _read_parquet(path: Path) -> pl.DataFrame:
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    from schemas.tables import check_version

    try:
        check_version(pq.read_schema(path), str(path))
        return pl.read_parquet(path, hive_partitioning=False)
    except (pa.ArrowInvalid, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path} is not a readable Parquet file: {_one_line(error)}") from error


def _read_text(path: Path, suffix: str) -> tuple[pl.DataFrame, pl.Series | None]:
    """The rows, and the line of each where rows are not lines."""
    import polars as pl

    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8"
        ) from error
    if not text.strip():
        raise InputError(f"{path} is empty: it must hold at least one row")
    if suffix == ".csv":
        try:
            return pl.read_csv(text.encode(), infer_schema=False), None
        except pl.exceptions.PolarsError as error:
            raise InputError(f"{path} is not readable as CSV: {_one_line(error)}") from error
    if suffix == ".json" and text.lstrip().startswith("["):
        return _from_records(path, _json_array(path, data)), None
    return _read_json_lines(path, data)


def _read_json_lines(path: Path, data: bytes) -> tuple[pl.DataFrame, pl.Series | None]:
    import polars as pl

    lines = data.removeprefix(b"\xef\xbb\xbf").splitlines()
    try:  # the fast way, which does not say what is wrong or where; it is kept if each line became a row
        frame = pl.read_ndjson(data, infer_schema_length=None)
        if frame.height == len(lines):
            return frame, None
    except pl.exceptions.PolarsError:
        pass
    import orjson

    rows, numbers = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InputError(f"{path}, line {number} is not JSON ({error.msg}): one object a line is needed") from error
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number} is not a JSON object: one object a line is needed")
        rows.append(row)
        numbers.append(number)
    return _from_records(path, rows), pl.Series(numbers, dtype=pl.UInt32)


def _json_array(path: Path, data: bytes) -> list[dict[str, Any]]:
    import orjson

    try:
        rows = orjson.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno} is not JSON ({error.msg})") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InputError(f"{path}, item {number} is not a JSON object")
    if not rows:
        raise InputError(f"{path} is empty: it must hold at least one row")
    return list(rows)


def _from_records(path: Path, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Make a frame of records; a field with values of several types becomes text."""
    import polars as pl

    try:
        return pl.from_dicts(rows, infer_schema_length=None, strict=False)
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise InputError(f"{path}: a field changes its shape between rows: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
