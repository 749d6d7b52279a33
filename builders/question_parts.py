"""Questions of large files and of the Hub, part by part, so that memory does not grow with their number.

A part is made questions by itself. That gives the questions of the whole where the parts agree on what only the whole
can know: the task of open questions per dataset, whether there are ids and splits, and that no id comes twice. Whether
they did is known at the end; where not, the whole is read at once, which also finds the words for what is wrong. The
types of the columns are those of the whole from the start: JSON is looked through for them first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from builders.files import FILE, ROW
from builders.questions import ORIGINAL_ID, to_questions, to_table
from builders.sources import (
    QuestionSource,
    defaults,
    first_of_split,
    load_questions,
    local_files,
    made_questions,
    preset_parts,
    renamed,
    row_parts,
    split_of,
    split_rule,
)
from schemas.tables import QUESTIONS, check_version

if TYPE_CHECKING:
    import polars as pl

    from schemas.workspace import Workspace

PART_ROWS = 32_768
PART_BYTES = 1 << 23


class _NotInParts(Exception):
    """The parts do not agree: the whole must be read at once."""


def load_parts(source: QuestionSource, base_dir: Path) -> Iterable[pa.Table]:
    """The questions that ``source`` names, for `write_parts`: read now, or as they are written where they are many.

    Raises:
        InputError: as `load_questions`; for many questions it is raised as they are written.
    """
    import polars as pl

    if files := _large(local_files(source, base_dir)):
        return _parts(source, base_dir, _of_files(source, files))
    if source.hub is None and source.preset is None:
        return [load_questions(source, base_dir)]
    rows, first = row_parts(source, base_dir, PART_ROWS), list[pl.DataFrame]()
    for part in rows:
        first.append(part)
        if sum(map(len, first)) > PART_ROWS:
            return _parts(source, base_dir, chain(first, rows))
    return [to_table(made_questions(source, base_dir, first), QUESTIONS.arrow)]


def write_parts(workspace: Workspace, parts: Iterable[pa.Table], source: QuestionSource, base_dir: Path) -> None:
    """Replace a workspace's questions. Needs the lock.

    Raises:
        InputError: see `load_parts`.
    """
    try:
        workspace.write_questions(parts)
    except _NotInParts:
        workspace.write_questions(load_questions(source, base_dir))


def _large(files: Sequence[Path]) -> dict[Path, pl.DataFrame]:
    """The files, each with no row of its columns, if they can be read in parts and are too large for one."""
    import polars as pl

    if any(file.suffix.lower() not in _FORMATS for file in files):
        return {}
    try:
        if sum(map(_size, files)) <= 1:
            return {}
        heads = {file: _FORMATS[file.suffix.lower()].head(file) for file in files}
        pl.concat(heads.values(), how="diagonal_relaxed")
    except (pa.ArrowInvalid, pl.exceptions.PolarsError, OSError, _NotInParts):
        return {}
    return heads


def _size(file: Path) -> float:
    """How many parts it makes."""
    if file.suffix.lower() == ".parquet":
        return float(pq.read_metadata(file).num_rows) / PART_ROWS
    return file.stat().st_size / PART_BYTES


def _of_files(source: QuestionSource, files: Mapping[Path, pl.DataFrame]) -> Iterator[pl.DataFrame]:
    if source.preset is None:
        return (renamed(rows, source.columns) for rows in _frames(files))
    return preset_parts(source, ((split_of(f), rows) for f, head in files.items() for rows in _frames({f: head})))


def _parts(source: QuestionSource, base_dir: Path, rows: Iterable[pl.DataFrame]) -> Iterator[pa.Table]:
    rule, missing = split_rule(source), defaults(source, base_dir)
    agreement, before = _Agreement(), Counter[str]()
    for part in rows:
        questions = to_questions(part, missing, rule)
        agreement.add(part, questions)
        yield to_table(first_of_split(questions, source.limit, before), QUESTIONS.arrow)
    agreement.check()


def _frames(files: Mapping[Path, pl.DataFrame]) -> Iterator[pl.DataFrame]:
    import polars as pl

    columns = pl.concat(files.values(), how="diagonal_relaxed")
    for file, head in files.items():
        done = 0
        try:
            for rows in _FORMATS[file.suffix.lower()].parts(file, head):
                frame = pl.concat([columns, rows], how="diagonal_relaxed").with_row_index(ROW, offset=done + 1)
                done += frame.height
                yield frame.with_columns(pl.lit(str(file)).alias(FILE), pl.col(ROW).cast(pl.UInt32))
        except pl.exceptions.PolarsError:
            raise _NotInParts from None
        if not done:
            raise _NotInParts


class _Format(NamedTuple):
    """``head`` gives no row of all columns of a file, ``parts`` all rows of a file with that head."""

    head: Callable[[Path], pl.DataFrame]
    parts: Callable[[Path, pl.DataFrame], Iterator[pl.DataFrame]]


def _parquet_head(file: Path) -> pl.DataFrame:
    import polars as pl

    check_version(pq.read_schema(file), str(file))
    return pl.DataFrame(pq.read_schema(file).empty_table())


def _parquet_parts(file: Path, _: pl.DataFrame) -> Iterator[pl.DataFrame]:
    import polars as pl

    with pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(PART_ROWS):
            yield pl.DataFrame(pl.from_arrow(batch))


def _json_lines_head(file: Path) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame(schema=pl.scan_ndjson(file, infer_schema_length=None).collect_schema())


def _json_lines_parts(file: Path, head: pl.DataFrame) -> Iterator[pl.DataFrame]:
    import polars as pl

    with file.open("rb") as opened:
        while block := opened.read(PART_BYTES) + opened.readline():
            frame = pl.read_ndjson(block, schema=head.schema)
            if frame.height != len(block.splitlines()):  # blank lines: rows would not be lines
                raise _NotInParts
            yield frame


def _json_head(file: Path) -> pl.DataFrame:
    import polars as pl

    if not _is_array(file):
        return _json_lines_head(file)
    heads = (pl.read_ndjson(block, infer_schema_length=None).clear() for block, _ in _json_blocks(file))
    return pl.concat(heads, how="diagonal_relaxed")


def _json_parts(file: Path, head: pl.DataFrame) -> Iterator[pl.DataFrame]:
    import polars as pl

    if not _is_array(file):
        yield from _json_lines_parts(file, head)
        return
    for block, rows in _json_blocks(file):
        frame = pl.read_ndjson(block, schema=head.schema)
        if frame.height != rows:
            raise _NotInParts
        yield frame


def _is_array(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _json_blocks(file: Path) -> Iterator[tuple[bytes, int]]:
    """Yield the items of a JSON array, one a line, with their number."""
    import duckdb

    items = "SELECT json(json) FROM read_json_objects(?, format = 'array', maximum_object_size = 67108864)"
    try:
        with duckdb.connect(config={"threads": 1, "memory_limit": "256MB"}) as con:
            for batch in con.sql(items, params=[str(file)]).to_arrow_reader(PART_ROWS):
                yield "\n".join(batch[0].to_pylist()).encode(), batch.num_rows
    except duckdb.Error:
        raise _NotInParts from None


def _csv_head(file: Path) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame(schema=pl.scan_csv(file, infer_schema=False).collect_schema())


def _csv_parts(file: Path, _: pl.DataFrame) -> Iterator[pl.DataFrame]:
    import polars as pl

    yield from pl.scan_csv(file, infer_schema=False).collect_batches(chunk_size=PART_ROWS)


_FORMATS = {
    ".parquet": _Format(_parquet_head, _parquet_parts),
    ".jsonl": _Format(_json_lines_head, _json_lines_parts),
    ".ndjson": _Format(_json_lines_head, _json_lines_parts),
    ".json": _Format(_json_head, _json_parts),
    ".csv": _Format(_csv_head, _csv_parts),
}


class _Agreement:
    """What the parts said that only the whole can know. Keeps eight bytes a question."""

    def __init__(self) -> None:
        self._tasks: dict[str, set[str]] = {}
        self._given: set[tuple[bool, bool]] = set()
        self._ids: list[pl.Series] = []

    def add(self, rows: pl.DataFrame, questions: pl.DataFrame) -> None:
        import polars as pl

        self._given.add((_has(rows, "question_id"), _has(rows, "split")))
        if not (questions["question_id"] == questions[ORIGINAL_ID]).all():
            raise _NotInParts
        open_ended = questions.filter(pl.col("task") != "choice").select("dataset", "task").unique()
        for dataset, task in open_ended.iter_rows():
            self._tasks.setdefault(dataset, set()).add(task)
        self._ids.append(questions["question_id"].hash())

    def check(self) -> None:
        import polars as pl

        ids = pl.concat(self._ids)
        if len(self._given) > 1 or any(len(tasks) > 1 for tasks in self._tasks.values()) or ids.n_unique() < ids.len():
            raise _NotInParts


def _has(rows: pl.DataFrame, column: str) -> bool:
    return column in rows.columns and rows[column].null_count() < rows.height
