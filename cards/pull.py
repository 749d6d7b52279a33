"""Make a workspace of a published dataset, so that somebody else adds a teacher or a purifier and publishes again.

What comes from the Hub is a stranger's: only files of the known layout are taken, their tables are checked, and the
recipe is kept for the record (``recipes/``) but never as this workspace's own, since a recipe says which server gets
which key.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from cards import hub
from cards.origins import NAME as ORIGINS
from cards.origins import Origin, add_origin
from cards.publication import PUBLISHED
from schemas.database import refresh
from schemas.errors import InputError, WorkspaceError
from schemas.parquet import read_schema
from schemas.tables import CALLS, PURIFIED, QUESTIONS, REJECTED, RESPONSES, STUDENTS, Table
from schemas.workspace import Workspace, told_disk_errors

if TYPE_CHECKING:
    import pyarrow as pa

TABLE_OF = {"questions": QUESTIONS, "responses": RESPONSES, "purified": PURIFIED, "rejected": REJECTED, "calls": CALLS}
TABLE_OF |= {"students": STUDENTS}
FOLDERS = (*TABLE_OF, "routers", "recipes", "prompts")


def pull(repo_id: str, folder: str | os.PathLike[str], *, revision: str | None = None) -> Workspace:
    """Download a published dataset into ``folder`` and open it as a workspace.

    Files come byte for byte as they were published; where they came from is added to ``origins.yaml``. Interrupted,
    the same call goes on.

    Args:
        repo_id: ``user/name`` on the Hub.
        folder: new or empty.
        revision: a tag, branch or commit; the newest by default.

    Raises:
        InputError: there is no such name, or what is there is no dataset of raffinate.
        WorkspaceError: the folder holds something already, or the dataset was made by a newer raffinate.
        hub.HubError: the Hub cannot be reached, or does not show the dataset to this user.
    """
    hub.check_repo_id(repo_id)
    workspace = Workspace.create(folder)
    if any(workspace.questions_dir.glob("*.parquet")):
        raise WorkspaceError(f"{workspace.path} holds questions already: choose a new folder to import into")
    remote = hub.remote_of(repo_id, revision)
    paths = sorted(path for path in remote.hashes if PUBLISHED.fullmatch(path))
    if remote.sha is None:
        raise hub.HubError(f"there is no dataset {repo_id} on the Hub, or you may not see it: check the name and token")
    if not any(path.startswith("questions/") for path in paths):
        raise InputError(f"{repo_id} is no dataset of raffinate: it has no questions/train-00000.parquet or the like")
    with told_disk_errors(workspace.path), workspace.lock():
        arrived = _download(workspace, repo_id, remote.sha, paths)
        for path in paths:
            _check(arrived, path, repo_id)
        _move_in(workspace, arrived, repo_id, remote.sha)
        hub.remember_head(workspace, repo_id, remote.sha)
        refresh(workspace)
    return workspace


def _download(workspace: Workspace, repo_id: str, sha: str, paths: list[str]) -> Path:
    """Fetch the files into a folder of their own; what is there from an interrupted call is not fetched again."""
    from huggingface_hub import snapshot_download

    arrived = workspace.private / "pulled" / sha
    with hub.told_hub_errors(repo_id, "importing"):
        snapshot_download(
            repo_id,
            repo_type="dataset",
            revision=sha,
            local_dir=arrived,
            allow_patterns=paths,
            library_name="raffinate",
        )
    return arrived


def _check(arrived: Path, path: str, repo_id: str) -> None:
    """Check one file: its columns, and that its rows are of the teacher or method that its folder says.

    Raises:
        InputError: they are not.
        WorkspaceError: a newer raffinate wrote it.
    """
    top, name = [*path.split("/"), ""][:2]
    if top not in TABLE_OF:
        return
    schema = read_schema(arrived / path)
    _check_columns(schema, TABLE_OF[top], f"{repo_id}: {path}")
    if top in ("responses", "purified", "rejected", "calls"):
        _check_owner(arrived / path, "teacher_id" if top == "responses" else "method", name, f"{repo_id}: {path}")


def _check_columns(schema: pa.Schema, table: Table, where: str) -> None:
    for field in table.arrow:
        index = schema.get_field_index(field.name)
        if index < 0:
            if field.nullable:
                continue  # written by an older raffinate
            raise InputError(f"{where} has no column '{field.name}': it is no {table.name} file of raffinate")
        if schema.field(index).type != field.type:
            has = schema.field(index).type
            raise InputError(f"{where}: column '{field.name}' is {has}, it must be {field.type}")


def _check_owner(file: Path, column: str, name: str, where: str) -> None:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    strange = [value for value in pc.unique(pq.read_table(file, columns=[column])[column]).to_pylist() if value != name]
    if strange:
        raise InputError(f"{where} holds rows whose {column} is not '{name}': the dataset is damaged or forged")


def _move_in(workspace: Workspace, arrived: Path, repo_id: str, sha: str) -> None:
    """Put the checked files in place, questions last: until then the folder counts as empty, and a pull goes on."""
    staged = Workspace(arrived)
    known = Origin(repo_id=repo_id, revision=sha, teachers=tuple(staged.teachers()), methods=tuple(staged.methods()))
    for name in (*FOLDERS[1:], "README.md", ORIGINS):
        if (arrived / name).exists():
            _replace(arrived / name, workspace.path / name)
    recipe = arrived / "recipe.yaml"
    kept = f"recipes/{repo_id.replace('/', '--')}-{sha[:8]}.yaml"
    if recipe.is_file():
        (workspace.path / "recipes").mkdir(exist_ok=True)
        _replace(recipe, workspace.path / kept)
        known = known.model_copy(update={"recipe": kept})
    elif (workspace.path / kept).is_file():
        known = known.model_copy(update={"recipe": kept})
    add_origin(workspace, known)
    _replace(arrived / "questions", workspace.questions_dir)
    shutil.rmtree(workspace.private / "pulled", ignore_errors=True)


def _replace(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)
