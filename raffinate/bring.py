"""``raffinate import``: answers that were collected elsewhere become a workspace, or join one."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from builders.importer import Selection, read_corpus
from schemas.database import refresh
from schemas.errors import InputError
from schemas.parquet import completed
from schemas.tables import QUESTIONS, RESPONSES, SPLITS
from schemas.workspace import Workspace, check_name, question_files

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Brought:
    """What an import wrote: how many questions the workspace has now, responses by teacher, and remarks about them.

    ``replaced`` and ``kept`` count, of teachers that had responses there, those that gave way and those that stayed.
    """

    workspace: Workspace
    questions: int
    responses: dict[str, int]
    notes: list[str]
    replaced: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "workspace": str(self.workspace.path),
            "questions": self.questions,
            "responses": self.responses,
            "replaced": self.replaced,
            "kept": self.kept,
            "notes": self.notes,
        }


def bring(
    path: str | os.PathLike[str], questions: str | None, responses: str, selection: Selection | None = None
) -> Brought:
    """Import responses, and the questions if given, into a workspace; it is made if it is not there.

    Questions that the workspace has stay as they are, with the ids they have there; new ones are added. A response
    replaces the one that the workspace has of the same question, teacher and sample; all others stay.

    Raises:
        InputError: a file is not what it must be, or a question is not the one that has its id in the workspace.
        WorkspaceError: the folder cannot be used, or another run holds it.
    """
    if questions is None and not Path(path).exists():
        raise InputError(f"there is no workspace {path} yet: name its questions too, with  --questions FILE")
    known = Workspace.open(path).read_questions() if questions is None else None
    corpus = read_corpus(questions, responses, selection, known)
    for teacher in corpus.teachers:
        check_name(teacher, "teacher id")
    workspace = Workspace.create(path)
    found = Brought(workspace, 0, {}, [n.message for n in corpus.notes])
    with workspace.lock():
        table, ids = _with_new(workspace, corpus.questions) if known is None else (known, None)
        if corpus.questions is not None:
            workspace.write_questions(table)
        for teacher in corpus.teachers:
            _write_teacher(found, teacher, _renamed(corpus.responses_of(teacher), ids), table)
        refresh(workspace)
    return replace(found, questions=len(table))


def bring_published(path: str | os.PathLike[str], repo_id: str, revision: str | None = None) -> Brought:
    """Make a workspace of a published dataset; see `cards.pull.pull`.

    Raises:
        InputError: no such repository or revision, or it is no dataset of raffinate.
        WorkspaceError: the folder is neither new nor empty.
    """
    from cards.pull import pull
    from schemas.database import query

    workspace = pull(repo_id, path, revision=revision)
    counts = query(workspace, "SELECT teacher_id, count(*) AS n FROM responses GROUP BY ALL ORDER BY ALL").to_pylist()
    [questions] = query(workspace, "SELECT count(*) AS n FROM questions").to_pylist()
    return Brought(workspace, questions["n"], {row["teacher_id"]: row["n"] for row in counts}, [])


def _with_new(workspace: Workspace, new: pa.Table) -> tuple[pa.Table, _Ids | None]:
    """The questions of the workspace and the new ones, and the ids of all new ones there, if it has questions."""
    if not any(workspace.questions_dir.glob("*.parquet")):
        return new, None
    old = workspace.read_questions()
    ids = _Ids(new["question_id"].combine_chunks(), _ids_there(new, old))
    new = _renamed(new, ids)
    place = pc.index_in(new["question_id"], old["question_id"].combine_chunks())
    _refuse_changes(workspace, new.filter(pc.is_valid(place)), old.take(place.drop_null()))
    return pa.concat_tables([old, new.filter(pc.is_null(place))]).cast(QUESTIONS.arrow), ids


class _Ids(NamedTuple):
    """Ids of questions in an import, and in the workspace."""

    here: pa.Array
    there: pa.Array


def _ids_there(new: pa.Table, old: pa.Table) -> pa.Array:
    """The ids of new questions in the workspace: ``id`` in one file may be ``dataset/id`` beside other datasets."""
    import polars as pl

    key = ["dataset", "question_id"]
    here = pl.DataFrame(new.select(key))
    there = pl.DataFrame(old.select(key)).with_columns(pl.col("question_id").alias("there"))
    name, prefix = pl.col("question_id"), pl.concat_str("dataset", pl.lit("/"))
    other = pl.when(name.str.starts_with(prefix)).then(name.str.strip_prefix(prefix)).otherwise(prefix + name)
    same, renamed = (
        frame.join(there, on=key, how="left", maintain_order="left")["there"]
        for frame in (here, here.with_columns(other.alias("question_id")))
    )
    return same.fill_null(renamed).fill_null(here["question_id"]).to_arrow().cast(pa.string())


def _renamed(rows: pa.Table, ids: _Ids | None) -> pa.Table:
    if ids is None:
        return rows
    there = ids.there.take(pc.index_in(rows["question_id"], ids.here).combine_chunks())
    return rows.set_column(rows.schema.get_field_index("question_id"), rows.schema.field("question_id"), there)


def _refuse_changes(workspace: Workspace, new: pa.Table, old: pa.Table) -> None:
    """Refuse a question that differs from its twin of the same id: old answers would be graded by another question."""
    import polars as pl

    for name in ("question", "context", "choices", "task", "answer"):
        here, there = (pl.DataFrame(table.select([name]))[name] for table in (new, old))
        is_changed = here.ne_missing(there)
        if is_changed.any():
            which = new["question_id"][is_changed.arg_max()]
            hint = "rename the ids" if name == "question" else "leave --questions out to go by the question there"
            raise InputError(
                f"question '{which}' has another {name} in {workspace.path}: import into a new workspace, or {hint}"
            )


def _write_teacher(found: Brought, teacher: str, rows: pa.Table, questions: pa.Table) -> None:
    """Write one teacher's rows beside those that are there of other questions and samples, and count them."""
    workspace, old = found.workspace, _responses_there(found.workspace, teacher)
    found.responses[teacher] = len(rows)
    if len(old):
        kept = _without(old, rows)
        found.kept[teacher], found.replaced[teacher] = len(kept), len(old) - len(kept)
        found.notes.append(
            f"{teacher} had {len(old)} responses there: replaced {len(old) - len(kept)}, kept {len(kept)}"
        )
        rows = pa.concat_tables([kept, rows.append_column("split", pa.nulls(len(rows), pa.string()))])
    workspace.write_responses(teacher, _by_split(rows, questions))


def _responses_there(workspace: Workspace, teacher: str) -> pa.Table:
    """One teacher's rows with the ``split`` that they are filed under."""
    parts = [RESPONSES.arrow.empty_table().append_column("split", pa.array([], pa.string()))]
    for file in question_files(workspace.responses_dir(teacher)):
        rows = completed(pq.ParquetFile(file).read(), RESPONSES).cast(RESPONSES.arrow)
        parts.append(rows.append_column("split", pa.repeat(file.name.split("-")[0], len(rows))))
    return pa.concat_tables(parts)


def _without(old: pa.Table, new: pa.Table) -> pa.Table:
    """The old rows of which there is no new one."""
    import polars as pl

    key = ["question_id", "sample_idx"]
    theirs, ours = (pl.DataFrame(table.select(key)) for table in (old, new))
    is_new = theirs.join(ours.with_columns(new=True), on=key, how="left", maintain_order="left")["new"]
    return old.filter(is_new.is_null().to_arrow())


def _by_split(rows: pa.Table, questions: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """One teacher's rows by the split of their question, in the order of the questions.

    Rows whose question is gone from the workspace come last, and stay in their own ``split``.
    """
    place = pc.index_in(rows["question_id"], questions["question_id"].combine_chunks())
    order = pc.sort_indices(
        pa.table({"place": place, "sample": rows["sample_idx"]}), [("place", "ascending"), ("sample", "ascending")]
    )
    rows, split = rows.take(order), questions["split"].take(place.take(order))
    if "split" in rows.column_names:
        split = pc.coalesce(split, rows["split"])
    if split.null_count:
        raise ValueError(f"{split.null_count} responses without a question")
    for name in SPLITS:
        part = rows.filter(pc.equal(split, name))
        if len(part):
            yield name, part
