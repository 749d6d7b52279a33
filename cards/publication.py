"""Which files of a workspace are published, and a snapshot of them with some methods or teachers left out.

Not published: ``.raffinate/`` (journal, logs) and ``raffinate.duckdb`` (its views hold this machine's paths; a pull
makes it anew).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cards.recipe_copy import NAME as RECIPE
from cards.recipe_copy import public_recipe
from schemas.database import query
from schemas.errors import InputError, nearest
from schemas.parquet import completed, write_splits
from schemas.tables import CALLS, KEEP_ALL, PURIFIED, REJECTED, SPLITS, Table
from schemas.workspace import Workspace, question_files

_NAME = r"(?!\.)(?!.*\.\.)[A-Za-z0-9._-]{1,96}"
_PART = r"(?:train|validation|test)-\d{5}\.parquet"
PUBLISHED = re.compile(
    rf"README\.md|recipe\.yaml|origins\.yaml|recipes/{_NAME}\.yaml|prompts/{_NAME}|questions/{_PART}|students/{_NAME}\.parquet"
    rf"|(?:responses|purified|rejected|calls)/{_NAME}/{_PART}|routers/{_NAME}/(?:purifier\.json|state\.safetensors)"
)
OF_METHOD = ("purified", "rejected", "routers", "calls")
WHY_DROPPED = "its rationale came from a teacher that is left out of this publication"


@dataclass(frozen=True)
class Choice:
    """What is published: these methods, without these teachers."""

    methods: frozenset[str]
    excluded: frozenset[str]


def published_files(root: Path) -> list[str]:
    """The files below ``root`` that are published, as paths relative to it, sorted."""
    paths = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return sorted(path for path in paths if PUBLISHED.fullmatch(path))


def choose(workspace: Workspace, methods: Collection[str] | None, excluded: Collection[str]) -> Choice:
    """Check the names.

    Raises:
        InputError: a method, teacher or judge is not in the workspace, or no teacher would be left.
    """
    _check_known("method", methods or (), workspace.methods(), workspace)
    _check_known("teacher", excluded, [*workspace.teachers(), *_judges(workspace)] if excluded else [], workspace)
    if excluded and set(excluded) >= set(workspace.teachers()):
        raise InputError(f"every teacher of {workspace.path} is excluded: nothing would be left to publish")
    return Choice(frozenset(workspace.methods() if methods is None else methods), frozenset(excluded))


def _judges(workspace: Workspace) -> list[str]:
    """Who was asked by purifiers and is no teacher."""
    asked = "SELECT DISTINCT judge_id FROM calls WHERE judge_id NOT IN (SELECT teacher_id FROM responses) ORDER BY ALL"
    names: list[str] = query(workspace, asked)["judge_id"].to_pylist()
    return names


def _check_known(what: str, asked: Collection[str], known: list[str], workspace: Workspace) -> None:
    for name in asked:
        if name not in known:
            has = ", ".join(known) or "none"
            raise InputError(f"{workspace.path} has no {what} '{name}'{nearest(name, known)}; it has {has}")


def stage(workspace: Workspace, folder: Path, choice: Choice) -> tuple[Workspace, dict[str, int]]:
    """Lay out in ``folder`` what will be published; return it as a workspace, and rows dropped per method.

    Files that stay as they are become hard links, so that the snapshot costs nothing and outlives a later run.
    A purified row that any excluded teacher's response went into, or that it wrote, is dropped and listed under
    ``rejected``; what it was asked by purifiers is left out, and so is what others were asked about its responses.

    The recipe is laid out as others may read it.

    Raises:
        InputError: the recipe is no YAML mapping.
        WorkspaceError: another run holds the workspace.
    """
    dropped: dict[str, int] = {}
    folder.mkdir(parents=True, exist_ok=True)
    with workspace.lock():
        for path in published_files(workspace.path):
            top, name = [*path.split("/"), ""][:2]
            if top == "responses" and name in choice.excluded:
                continue
            if top in OF_METHOD and name not in choice.methods:
                continue
            if top in ("purified", "rejected", "calls") and choice.excluded:
                continue
            if path == RECIPE:
                (folder / path).write_text(public_recipe(workspace) or "", encoding="utf-8", newline="\n")
            else:
                _link(workspace.path / path, folder / path)
        if choice.excluded:
            for method in sorted(choice.methods):
                dropped[method] = _rewrite(workspace, Workspace(folder), method, choice.excluded)
    return Workspace(folder), dropped


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # a disk without hard links
        shutil.copyfile(source, target)


def _rewrite(workspace: Workspace, staged: Workspace, method: str, excluded: frozenset[str]) -> int:
    """Write the method's rows that no excluded teacher went into; questions left without one become ``rejected``."""
    dropped: list[tuple[str, pa.Table]] = []
    still_there: list[pa.ChunkedArray] = []
    names = pa.array(sorted(excluded))

    def kept() -> Iterator[tuple[str, pa.Table]]:
        for split, rows in _batches(workspace.purified_dir(method), PURIFIED):
            touched = _touched(rows, excluded)
            if pc.any(touched).as_py():
                dropped.append((split, _rejections(rows.filter(touched))))
            left = rows.filter(pc.invert(touched))
            if left.num_rows:
                if method == KEEP_ALL:
                    still_there.append(left["question_id"])
                yield split, left

    write_splits(staged.purified_dir(method), PURIFIED, kept())
    count: int = sum(rows.num_rows for _, rows in dropped)
    if method == KEEP_ALL:
        dropped = _of_lost_questions(dropped, still_there)
    asked = _batches(workspace.calls_dir(method), CALLS)
    if workspace.calls_dir(method).is_dir():
        others = ((split, rows.filter(pc.invert(_heard(rows, names)))) for split, rows in asked)
        write_splits(staged.calls_dir(method), CALLS, ((split, rows) for split, rows in others if rows.num_rows))
    before = list(_batches(workspace.rejected_dir(method), REJECTED))
    write_splits(staged.rejected_dir(method), REJECTED, [*before, *dropped])
    return count


def _of_lost_questions(
    dropped: list[tuple[str, pa.Table]], still_there: list[pa.ChunkedArray]
) -> list[tuple[str, pa.Table]]:
    """One rejection for each question of which no row is left."""
    left = pa.chunked_array([chunk for column in still_there for chunk in column.chunks], pa.string())
    found = []
    for split in SPLITS:
        mine = [rows.filter(pc.invert(pc.is_in(rows["question_id"], left))) for s, rows in dropped if s == split]
        if mine:
            rows = pa.concat_tables(mine)
            found.append((split, rows.group_by(rows.column_names, use_threads=False).aggregate([])))
    return found


def _batches(folder: Path, table: Table) -> Iterator[tuple[str, pa.Table]]:
    for file in question_files(folder):
        for batch in pq.ParquetFile(file).iter_batches():
            yield file.name.split("-")[0], completed(pa.Table.from_batches([batch]), table)


def _touched(rows: pa.Table, excluded: frozenset[str]) -> pa.Array:
    """Which rows have an excluded teacher as their teacher, among their parents, or as their author."""
    names = pa.array(sorted(excluded))
    parents = rows["parents"].combine_chunks()
    by_parent = _lists(parents, parents.flatten().field("teacher_id"), names)
    named = [pc.is_in(rows[column].combine_chunks(), names) for column in ("teacher_id", "written_by")]
    return pc.or_(pc.or_(*named), by_parent)


def _heard(rows: pa.Table, names: pa.Array) -> pa.Array:
    """Which calls asked one of these, or showed a rationale of theirs, so that the reply may repeat it."""
    about = rows["about"].combine_chunks()
    return pc.or_(pc.is_in(rows["judge_id"].combine_chunks(), names), _lists(about, about.flatten(), names))


def _lists(column: pa.ListArray, elements: pa.Array, names: pa.Array) -> pa.Array:
    """Which lists of a column hold one of the names; ``elements`` are the names in its lists, one after the other."""
    indices = pc.list_parent_indices(column).filter(pc.is_in(elements, names))
    return pc.is_in(pa.array(range(len(column)), pa.int64()), indices.cast(pa.int64()))


def _rejections(rows: pa.Table) -> pa.Table:
    reason = pa.repeat(pa.scalar(WHY_DROPPED), len(rows))
    return rows.select(["question_id", "method", "purifier_fingerprint"]).append_column("reason", reason)
