"""Write what a purifier kept: ``purified/<method>/`` and ``rejected/<method>/``.

The choice was made on narrow columns. Here one scan of the responses fetches the one chosen rationale of each question
into a file per shard, in whatever order they lie; each shard is then put in question order, rendered into training text
and written, several at a time. Memory depends on the size of a shard, not of the corpus.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from purifiers.base import Purified, Purifier
from purifiers.votes import agreement, conflict
from purifiers.weights import agreement_weight, teacher_importance
from schemas.corpus import UNREAD, Corpus
from schemas.database import connect
from schemas.errors import WorkspaceError
from schemas.parquet import split_file, swapped_folder, write_splits, writer
from schemas.render import completions, joinable, messages, prompts
from schemas.tables import PURIFIED, QUESTIONS, REJECTED, SPLITS
from schemas.workspace import question_files, told_disk_errors

if TYPE_CHECKING:
    from schemas.workspace import Workspace

SHARD = 100_000
"""Questions per output file; fewer for a method that keeps several rationales of each."""
GROUP = 10_000
"""Questions rendered, and written as one row group, at a time."""
WRITERS = 2
"""Shards written at a time: encoding is what takes longest, and Arrow does it outside the interpreter's lock."""

Rows = npt.NDArray[np.int64]

FETCH = """
SELECT c.pick, coalesce(c.text, r.rationale) AS rationale
FROM chosen c LEFT JOIN responses r USING (question_id, teacher_id, sample_idx)
"""


def write_purified(workspace: Workspace, corpus: Corpus, purifier: Purifier, kept: Purified, fingerprint: str) -> None:
    """Replace what ``purifier`` published in the workspace. Needs the lock; call `schemas.database.refresh` after.

    The corpus must hold all questions of the workspace, in their order.

    Raises:
        WorkspaceError: the disk is full, or two responses have the same key.
    """
    rows = _Rows(corpus, purifier, kept, fingerprint, teacher_importance(corpus))
    with told_disk_errors(workspace.path), ExitStack() as stack:
        purified = stack.enter_context(swapped_folder(workspace.purified_dir(purifier.name), workspace.aside))
        rejected = stack.enter_context(swapped_folder(workspace.rejected_dir(purifier.name), workspace.aside))
        scratch = Path(stack.enter_context(TemporaryDirectory(dir=workspace.private)))
        write_splits(rejected, REJECTED, rows.rejected())
        shards = _shards(workspace, kept, scratch)
        _fetch_rationales(workspace, _chosen(corpus, kept), shards)
        _write_shards(purified, workspace, shards, rows)


@dataclass(frozen=True)
class _Shard:
    """One output file: where its questions ``start``, the ``rows`` and ``columns`` kept, and where rationales wait.

    ``first`` numbers the first of its picks among all of `Purified.picks`.
    """

    split: str
    number: int
    start: int
    size: int
    first: int
    rows: Rows
    columns: Rows
    rationales: Path


def _shards(workspace: Workspace, kept: Purified, scratch: Path) -> list[_Shard]:
    """The shards in order: the k-th of a file of questions has what is kept of its k-th ``size`` questions."""
    row, column = kept.picks()
    size = SHARD if kept.every is None else max(1, SHARD // kept.every.shape[1])
    found, first, numbers = [], 0, Counter[str]()
    for file in question_files(workspace.questions_dir):
        split, end = file.name.split("-")[0], first + pq.read_metadata(file).num_rows
        for start in range(first, end, size):
            low, high = np.searchsorted(row, [start, min(start + size, end)]).tolist()
            path = scratch / f"{split}-{numbers[split]}.arrow"
            found.append(_Shard(split, numbers[split], start, size, low, row[low:high], column[low:high], path))
            numbers[split] += 1
        first = end
    return found


def _questions(workspace: Workspace, size: int) -> Iterator[pa.Table]:
    """The questions of each shard of ``size``, in the same order; memory holds one shard."""
    for file in question_files(workspace.questions_dir):
        held = QUESTIONS.arrow.empty_table()
        for batch in pq.ParquetFile(file).iter_batches(GROUP, columns=QUESTIONS.names):
            held = pa.concat_tables([held, pa.Table.from_batches([batch]).cast(held.schema)])
            while len(held) >= size:
                yield held.slice(0, size)
                held = held.slice(size)
        if len(held):
            yield held


def _fetch_rationales(workspace: Workspace, chosen: pa.Table, shards: list[_Shard]) -> None:
    """Write each chosen rationale, with the number of its pick, to the file of its shard."""
    edges = np.array([s.first for s in shards[1:]], np.int64)
    with connect(workspace) as con, ExitStack() as stack:
        con.execute("SET preserve_insertion_order = false")  # sorted later: DuckDB need not hold rows back
        con.register("chosen", chosen)
        reader = con.sql(FETCH).to_arrow_reader(GROUP)
        files = [stack.enter_context(pa.ipc.new_stream(s.rationales, reader.schema)) for s in shards]
        for batch in reader:
            shard = np.searchsorted(edges, batch["pick"].to_numpy(), side="right")
            grouped = batch.take(pa.array(np.argsort(shard, kind="stable")))
            starts = np.concatenate([[0], np.cumsum(np.bincount(shard, minlength=len(files)))])
            for i in np.unique(shard):
                files[i].write_batch(grouped.slice(starts[i], starts[i + 1] - starts[i]))


def _write_shards(folder: Path, workspace: Workspace, shards: list[_Shard], rows: _Rows) -> None:
    with ThreadPoolExecutor(WRITERS) as pool:
        pending: deque[Future[None]] = deque()
        size = shards[0].size if shards else SHARD
        for shard, questions in zip(shards, _questions(workspace, size), strict=True):
            if len(shard.rows):
                kept = questions.take(pa.array(shard.rows - shard.start))
                pending.append(pool.submit(_write_shard, folder, shard, kept, rows))
            while len(pending) > WRITERS:
                pending.popleft().result()
        for last in pending:
            last.result()


def _write_shard(folder: Path, shard: _Shard, questions: pa.Table, rows: _Rows) -> None:
    with pa.ipc.open_stream(shard.rationales) as stream:
        fetched = stream.read_all().sort_by("pick")
    if not np.array_equal(fetched["pick"].to_numpy(), shard.first + np.arange(len(shard.rows))):
        raise WorkspaceError("two responses have the same question_id, teacher_id and sample_idx: import them again")
    with writer(split_file(folder, shard.split, shard.number), PURIFIED) as out:
        for start in range(0, len(shard.rows), GROUP):
            rationale = fetched["rationale"].slice(start, GROUP).combine_chunks()
            part = slice(start, start + GROUP)
            made = rows.purified(questions.slice(start, GROUP), rationale, shard.rows[part], shard.columns[part])
            out.write_table(made.cast(PURIFIED.arrow))


@dataclass(frozen=True)
class _Rows:
    """The rows of the two tables, made from a choice."""

    corpus: Corpus
    purifier: Purifier
    kept: Purified
    fingerprint: str
    importance: npt.NDArray[np.float32]

    def rejected(self) -> Iterator[tuple[str, pa.Table]]:
        """Rejected questions with their reasons, by split."""
        rows = np.array(sorted(self.kept.rejected), np.int64)
        for code, split in enumerate(SPLITS):
            mine = rows[self.corpus.split[rows] == code]
            if len(mine):
                ids, reasons = self.corpus.question_ids.take(pa.array(mine)), [self.kept.rejected[r] for r in mine]
                columns = [ids, self.purifier.name, pa.array(reasons), self.fingerprint]
                yield split, _table(columns, REJECTED.names, len(mine))

    def purified(self, questions: pa.Table, rationale: pa.Array, rows: Rows, column: Rows) -> pa.Table:
        """The purified rows of some picks, given their questions and rationales."""
        part = self.corpus.take(rows)
        answer, code = self._answers(part, column, rows)
        prompt = prompts(questions)
        completion = completions(rationale, answer, questions["task"].combine_chunks())
        columns = [
            questions["question_id"],
            self.purifier.name,
            joinable(prompt),
            completion,
            messages(prompt, completion),
            rationale,
            answer,
            self._teachers(column),
            _texts({r: made.written_by for r, made in self.kept.synthesised.items()}, rows),
            self._parents(part, column, rows),
            _floats(self.kept.score[rows]),
            self._probabilities(rows),
            pa.array([sorted(self.purifier.looks_at)] * len(rows), pa.list_(pa.string())),
            _floats(agreement(part, code)),
            _floats(conflict(part)),
            _floats(agreement_weight(part, column, code)),
            _floats(self._importance(column, rows)),
            _texts(self.kept.notes, rows),
            self.fingerprint,
        ]
        return _table(columns, PURIFIED.names, len(rows))

    def _answers(self, part: Corpus, column: Rows, rows: Rows) -> tuple[pa.Array, npt.NDArray[np.int32]]:
        """The chosen answers as text and as codes; a synthesised answer that no teacher gave has no code."""
        code = np.where(column < 0, UNREAD, part.answer[np.arange(len(part)), column]).astype(np.int32)
        text = part.vocabulary.take(pa.array(code, mask=code == UNREAD))
        made = {i: self.kept.synthesised[r].answer for i, r in enumerate(rows.tolist()) if r in self.kept.synthesised}
        if made:
            words = text.to_pylist()
            for i, answer in made.items():
                words[i] = answer
                code[i] = UNREAD if answer is None else part.vocabulary.index(answer).as_py()  # -1 if nobody gave it
            text = pa.array(words, pa.string())
        return text, code

    def _teachers(self, column: Rows) -> pa.Array:
        return pa.array(self.corpus.teachers).take(pa.array(column, mask=column < 0))

    def _parents(self, part: Corpus, column: Rows, rows: Rows) -> pa.Array:
        """The responses behind each rationale: one for a chosen teacher, several for a synthesised one."""
        made = self.kept.synthesised
        sources = [made[r].teachers if r in made else (int(c),) for r, c in zip(rows.tolist(), column, strict=True)]
        counts = np.array([len(s) for s in sources])
        flat = np.array([t for s in sources for t in s], np.int64)
        sample = part.sample[np.repeat(np.arange(len(rows)), counts), flat]
        pairs = [self._teachers(flat), pa.array(sample, pa.int32())]
        return _lists(counts, pa.StructArray.from_arrays(pairs, ["teacher_id", "sample_idx"]))

    def _importance(self, column: Rows, rows: Rows) -> npt.NDArray[np.float32]:
        """The importance of each pick's teacher; of a synthesised rationale its parents' mean, else its author's."""
        found = self.importance[column]
        teachers = self.corpus.teachers
        for i in np.flatnonzero(column < 0):
            made = self.kept.synthesised[int(rows[i])]
            whose = list(made.teachers) or [teachers.index(t) for t in (made.written_by,) if t in teachers]
            found[i] = self.importance[whose].mean() if whose else np.nan
        return found

    def _probabilities(self, rows: Rows) -> pa.Array:
        if self.kept.probabilities is None:
            return pa.nulls(len(rows), PURIFIED.arrow.field("probabilities").type)
        grid = self.kept.probabilities[rows]
        known = ~np.isnan(grid)
        pairs = [self._teachers(np.nonzero(known)[1]), pa.array(grid[known])]
        return _lists(known.sum(axis=1), pa.StructArray.from_arrays(pairs, ["teacher_id", "probability"]))


def _chosen(corpus: Corpus, kept: Purified) -> pa.Table:
    """One row per pick: the key of the response to fetch, or the text itself if it was synthesised."""
    row, column = kept.picks()
    pick = np.argsort(column < 0, kind="stable")  # those to fetch, then the synthesised ones
    fetched, made = pick[: (column >= 0).sum()], row[pick[(column >= 0).sum() :]]
    picked, column = row[fetched], column[fetched]
    blank = pa.nulls(len(made), pa.string())
    table = pa.table(
        {
            "pick": pick,
            "question_id": corpus.question_ids.take(pa.array(np.concatenate([picked, made]))),
            "teacher_id": pa.concat_arrays([pa.array(corpus.teachers).take(pa.array(column)), blank]),
            "sample_idx": pa.array(np.concatenate([corpus.sample[picked, column], np.zeros(len(made), np.int32)])),
            "text": pa.concat_arrays(
                [
                    pa.nulls(len(picked), pa.string()),
                    pa.array([kept.synthesised[r].rationale for r in made], pa.string()),
                ]
            ),
        }
    )
    return table.sort_by("pick") if len(made) else table


def _lists(counts: npt.NDArray[Any], values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)), values)


def _texts(by_row: Mapping[int, str | None], rows: Rows) -> pa.Array:
    """The text of each row, null where it has none."""
    if not by_row:
        return pa.nulls(len(rows), pa.string())
    return pa.array([by_row.get(row) for row in rows.tolist()], pa.string())


def _floats(values: npt.NDArray[Any]) -> pa.Array:
    return pa.array(values.astype(np.float32), mask=np.isnan(values))


def _table(columns: list[Any], names: list[str], rows: int) -> pa.Table:
    """A table of columns; a plain string stands for a column of that string."""
    filled = [pa.repeat(pa.scalar(c), rows) if isinstance(c, str) else c for c in columns]
    return pa.table(dict(zip(names, filled, strict=True)))
