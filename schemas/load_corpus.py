"""Read a `Corpus` from a workspace: narrow columns into arrays, texts left in the files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.corpus import UNREAD, Corpus
from schemas.database import connect
from schemas.errors import WorkspaceError
from schemas.render import prompts
from schemas.tables import QUESTIONS, SPLITS
from schemas.views import answer_key
from schemas.workspace import question_files

if TYPE_CHECKING:
    import duckdb

    from schemas.workspace import Workspace

NARROW = ["question_id", "split", "domain", "task", "answer"]

# Equal texts of a question get one code: that of the spelling that most teachers gave, whatever gold's is.
KEYED = f"""
SELECT q.row, q.task, (list_position($teachers, a.teacher_id) - 1)::INTEGER AS teacher, a.sample_idx,
       a.predicted_answer, {answer_key("a.predicted_answer", "q.task")} AS said,
       a.is_correct::TINYINT AS correct, a.status = 'ok' AND a.rationale_chars > 0 AS usable
FROM answers a JOIN numbered q USING (question_id)
"""
SPELLINGS = """
SELECT row, said, first(predicted_answer ORDER BY n DESC, predicted_answer) AS spelling
FROM (SELECT row, said, predicted_answer, count(*) AS n FROM keyed WHERE task = 'text' GROUP BY ALL) GROUP BY ALL
"""
COLUMNS = "row, teacher, sample_idx, predicted_answer, correct, usable"
CELLS = f"""
SELECT {COLUMNS.replace("predicted_answer", "coalesce(spelling, predicted_answer) AS predicted_answer")}
FROM keyed LEFT JOIN spellings USING (row, said)
"""
GOLD = f"""
SELECT coalesce(spelling, answer) AS answer
FROM (SELECT *, {answer_key("answer", "task")} AS said FROM numbered) LEFT JOIN spellings USING (row, said) ORDER BY row
"""


def load_corpus(workspace: Workspace) -> Corpus:
    """Read every question and the one answer of each teacher to it; see `Corpus.of`."""
    teachers = tuple(workspace.teachers())
    files = question_files(workspace.questions_dir)
    if not files or not teachers:
        raise WorkspaceError(
            f"{workspace.path} has no responses yet: run  raffinate build  or  raffinate import  first"
        )
    questions = pa.concat_tables(pq.read_table(f, columns=NARROW) for f in files).combine_chunks()
    con = connect(workspace)
    cells, gold = _cells(con, questions, teachers)
    known = pa.chunked_array([*cells["predicted_answer"].chunks, *gold.chunks])
    vocabulary = pc.unique(known).drop_null().sort()  # sorted: codes do not depend on join order
    at = _Scatter((len(questions), len(teachers)), cells)
    return Corpus(
        question_ids=_single(questions["question_id"]),
        teachers=teachers,
        split=pc.index_in(questions["split"], pa.array(SPLITS)).to_numpy().astype(np.int8),
        domain=_single(questions["domain"]),
        usable=at(cells["usable"], False, np.bool_),
        answer=at(pc.index_in(cells["predicted_answer"], vocabulary), UNREAD, np.int32),
        correct=at(cells["correct"], -1, np.int8),
        gold=pc.fill_null(pc.index_in(gold, vocabulary), UNREAD).to_numpy(),
        sample=at(cells["sample_idx"], 0, np.int32),
        vocabulary=vocabulary,
        texts=WorkspaceTexts(con),
    )


def _cells(
    con: duckdb.DuckDBPyConnection, questions: pa.Table, teachers: tuple[str, ...]
) -> tuple[pa.Table, pa.ChunkedArray]:
    """The one answer of each teacher to each question, and gold, equal texts spelled alike."""
    con.register("numbered", questions.append_column("row", pa.array(np.arange(len(questions), dtype=np.int32))))
    asked = {"teachers": list(teachers)}
    if not pc.any(pc.equal(questions["task"], "text")).as_py():
        cells, gold = con.sql(f"SELECT {COLUMNS} FROM ({KEYED})", params=asked).to_arrow_table(), questions["answer"]
    else:
        con.execute(f"CREATE TEMP TABLE keyed AS {KEYED}", asked)
        con.execute(f"CREATE TEMP TABLE spellings AS {SPELLINGS}")
        cells, gold = con.sql(CELLS).to_arrow_table(), con.sql(GOLD).to_arrow_table()["answer"]
        con.execute("DROP TABLE keyed")
        con.execute("DROP TABLE spellings")
    con.unregister("numbered")
    return cells, gold


class _Scatter:
    """Puts a column of cells into a (questions, teachers) array; gaps and nulls become ``missing``."""

    def __init__(self, shape: tuple[int, int], cells: pa.Table) -> None:
        self.shape = shape
        self.where = (cells["row"].to_numpy(), cells["teacher"].to_numpy())

    def __call__(self, column: Any, missing: int | bool, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        grid = np.full(self.shape, missing, dtype)
        grid[self.where] = pc.fill_null(column, missing).to_numpy(zero_copy_only=False)
        return grid


def _numbered(ids: pa.ChunkedArray) -> pa.Table:
    return pa.table({"question_id": ids, "row": pa.array(np.arange(len(ids), dtype=np.int32))})


def _single(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


class WorkspaceTexts:
    """Texts of a workspace, fetched by key from its Parquet files."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self.con = con

    def questions(self, ids: Sequence[str]) -> list[str]:
        """See `schemas.corpus.Texts`."""
        sql = (
            "SELECT q.question, q.choices, q.context FROM wanted w JOIN questions q USING (question_id) ORDER BY w.row"
        )
        texts: list[str] = prompts(self._fetch(sql, _numbered(pa.array(ids, pa.string())))).to_pylist()
        return texts

    def choices(self, ids: Sequence[str]) -> list[dict[str, str]]:
        """See `schemas.corpus.Texts`."""
        sql = "SELECT q.choices FROM wanted w JOIN questions q USING (question_id) ORDER BY w.row"
        found = self._fetch(sql, _numbered(pa.array(ids, pa.string())))["choices"].to_pylist()
        return [{option["label"]: option["text"] for option in options or ()} for options in found]

    def asked(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """See `schemas.corpus.Texts`."""
        columns = ", ".join(f"q.{name}" for name in QUESTIONS.names if name != "answer")
        sql = f"SELECT {columns} FROM wanted w JOIN questions q USING (question_id) ORDER BY w.row"
        rows: list[dict[str, Any]] = self._fetch(sql, _numbered(pa.array(ids, pa.string()))).to_pylist()
        return [{**row, "choices": row["choices"] or []} for row in rows]

    def rationales(self, ids: Sequence[str], teachers: Sequence[str], samples: Sequence[int]) -> list[str]:
        """See `schemas.corpus.Texts`."""
        wanted = _numbered(pa.array(ids, pa.string()))
        wanted = wanted.append_column("teacher_id", pa.array(teachers, pa.string()))
        wanted = wanted.append_column("sample_idx", pa.array(samples, pa.int32()))
        sql = (
            "SELECT coalesce(r.rationale, '') AS text FROM wanted w LEFT JOIN responses r "
            "USING (question_id, teacher_id, sample_idx) ORDER BY w.row"
        )
        texts: list[str] = self._fetch(sql, wanted)["text"].to_pylist()
        return texts

    def grades(
        self, ids: Sequence[str], teachers: Sequence[str], samples: Sequence[int]
    ) -> list[tuple[float | None, float | None]]:
        """See `schemas.corpus.Texts`."""
        wanted = _numbered(pa.array(ids, pa.string()))
        wanted = wanted.append_column("teacher_id", pa.array(teachers, pa.string()))
        wanted = wanted.append_column("sample", pa.array(samples, pa.int32()))
        sql = (
            "SELECT avg(r.is_correct::INTEGER) AS share, "
            "any_value(r.mean_logprob) FILTER (r.sample_idx = w.sample) AS logprob "
            "FROM wanted w LEFT JOIN responses r USING (question_id, teacher_id) GROUP BY w.row ORDER BY w.row"
        )
        found = self._fetch(sql, wanted)
        return list(zip(found["share"].to_pylist(), found["logprob"].to_pylist(), strict=True))

    def _fetch(self, sql: str, wanted: pa.Table) -> pa.Table:
        self.con.register("wanted", wanted)
        try:
            return self.con.sql(sql).to_arrow_table()
        finally:
            self.con.unregister("wanted")
