"""Questions of large Parquet files, part by part, so that memory does not grow with their number.

A part is made questions by itself. That gives the questions of the whole where the parts agree on what only the whole
can know: the task of open questions per dataset, whether there are ids and splits, and that no id comes twice. Whether
they did is known at the end; where not, the whole is read at once, which also finds the words for what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from builders.files import FILE, ROW, find_files
from builders.questions import ORIGINAL_ID, Defaults, to_questions, to_table
from builders.sources import QuestionSource, load_questions, renamed, split_rule
from schemas.tables import QUESTIONS, check_version

if TYPE_CHECKING:
    import polars as pl

    from schemas.workspace import Workspace

PART_ROWS = 32_768


class _NotInParts(Exception):
    """The parts do not agree: the whole must be read at once."""


def load_parts(source: QuestionSource, base_dir: Path) -> Iterable[pa.Table]:
    """The questions that ``source`` names, for `write_parts`: read now, or as they are written where they are many.

    Raises:
        InputError: as `load_questions`; for many questions it is raised as they are written.
    """
    files = _large(source, base_dir)
    return _parts(source, files) if files else [load_questions(source, base_dir)]


def write_parts(workspace: Workspace, parts: Iterable[pa.Table], source: QuestionSource, base_dir: Path) -> None:
    """Replace a workspace's questions. Needs the lock.

    Raises:
        InputError: see `load_parts`.
    """
    try:
        workspace.write_questions(parts)
    except _NotInParts:
        workspace.write_questions(load_questions(source, base_dir))


def _large(source: QuestionSource, base_dir: Path) -> list[Path]:
    """The files, if they are Parquet of one schema and too many rows for one part."""
    if source.path is None or source.preset is not None or source.limit is not None:
        return []
    files = find_files(source.path, base_dir)
    if any(file.suffix.lower() != ".parquet" for file in files):
        return []
    try:
        heads = [pq.read_metadata(file) for file in files]
    except (pa.ArrowInvalid, OSError):
        return []
    alike = all(head.schema.to_arrow_schema().equals(heads[0].schema.to_arrow_schema()) for head in heads)
    return files if alike and sum(head.num_rows for head in heads) > PART_ROWS else []


def _parts(source: QuestionSource, files: list[Path]) -> Iterator[pa.Table]:
    rule, defaults = split_rule(source), Defaults(source.dataset or files[0].stem, source.task, source.domain)
    agreement = _Agreement()
    for rows in _frames(files):
        named = renamed(rows, source.columns)
        questions = to_questions(named, defaults, rule)
        agreement.add(named, questions)
        yield to_table(questions, QUESTIONS.arrow)
    agreement.check()


def _frames(files: list[Path]) -> Iterator[pl.DataFrame]:
    import polars as pl

    for file in files:
        check_version(pq.read_schema(file), str(file))
        done = 0
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(PART_ROWS):
                frame = pl.DataFrame(pl.from_arrow(batch)).with_row_index(ROW, offset=done + 1)
                done += frame.height
                yield frame.with_columns(pl.lit(str(file)).alias(FILE), pl.col(ROW).cast(pl.UInt32))


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
