"""Importing a published dataset, adding to it, and publishing again; and what a hostile dataset may not do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from helpers_corpus import make_workspace, response_row
from hub_stub import Fault, Hub, running_hub, sign_in

from cards.card import write_card
from cards.hub import HubError
from cards.origins import origins_of
from cards.pull import pull
from cards.push import PushReport, push
from purifiers.majority import Majority
from purifiers.run import publish
from schemas.corpus import Corpus
from schemas.database import query
from schemas.errors import InputError, WorkspaceError
from schemas.tables import RESPONSES
from schemas.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a published dataset."""
    from cards.publication import published_files

    workspace = make_workspace(tmp_path_factory.mktemp("made") / "sums", n=10, teachers=("alpha", "beta"))
    write_card(workspace)
    return {path: (workspace.path / path).read_bytes() for path in published_files(workspace.path)}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def test_pulled_dataset_is_a_workspace_with_the_same_bytes(
    published: dict[str, bytes], hub: Hub, tmp_path: Path
) -> None:
    published = {**published, "prompts/mine.jinja": b"Think first. {{ question }}"}
    repo = hub.add("bob/sums", published)
    workspace = pull("bob/sums", tmp_path / "mine")
    for path, content in published.items():
        if path != "recipe.yaml":
            assert (workspace.path / path).read_bytes() == content
    (origin,) = origins_of(workspace)
    assert (origin.repo_id, origin.revision, origin.teachers) == ("bob/sums", repo.head.sha, ("alpha", "beta"))
    assert query(workspace, "SELECT count(*) AS n FROM purified")["n"].to_pylist() == [10]
    assert Corpus.of(workspace).teachers == ("alpha", "beta")


def test_a_strangers_recipe_is_kept_but_never_as_ones_own(
    published: dict[str, bytes], hub: Hub, tmp_path: Path
) -> None:
    hub.add("bob/sums", published)
    workspace = pull("bob/sums", tmp_path / "mine")
    assert not (workspace.path / "recipe.yaml").exists()
    (kept,) = workspace.path.glob("recipes/bob--sums-*.yaml")
    assert kept.read_bytes() == published["recipe.yaml"]


def test_second_person_adds_a_teacher_and_publishes_with_both_provenances(
    published: dict[str, bytes], hub: Hub, tmp_path: Path
) -> None:
    repo = hub.add("bob/sums", published)
    workspace = pull("bob/sums", tmp_path / "mine")
    add_teacher(workspace, "gamma")
    own = {"teachers": [{"id": "gamma", "model": "example/gamma", "licence": "cc-by-4.0"}]}
    (workspace.path / "recipe.yaml").write_text(yaml.safe_dump(own))
    publish(workspace, Majority())
    report = push(workspace, "alice/more-sums")
    assert isinstance(report, PushReport)
    assert report.checked["responses/train"] == 18
    card = hub.repos["alice/more-sums"].head.files["README.md"].decode()
    assert f"bob/sums at revision `{repo.head.sha}`" in card
    rows = {line.split("|")[1].strip(): line for line in card.splitlines() if line.startswith("| `")}
    assert "apache-2.0" in card.split("| `alpha` | `example/alpha` |")[1].split("\n")[0]
    assert "cc-by-4.0" in card.split("| `gamma` | `example/gamma` |")[1].split("\n")[0]
    assert "`gamma`" in rows
    third = pull("alice/more-sums", tmp_path / "third")
    assert [origin.repo_id for origin in origins_of(third)] == ["bob/sums", "alice/more-sums"]
    assert len(list(third.path.glob("recipes/*.yaml"))) == 2


def add_teacher(workspace: Workspace, teacher: str) -> None:
    import pyarrow as pa

    questions = workspace.read_questions().to_pylist()
    with workspace.lock():
        workspace.write_responses(
            teacher,
            (
                (q["split"], pa.Table.from_pylist([response_row(q, teacher, True)], RESPONSES.arrow))
                for q in sorted(questions, key=lambda q: str(q["split"]))
            ),
        )


def test_what_was_pulled_may_be_pushed_back_until_somebody_changes_it(
    published: dict[str, bytes], hub: Hub, tmp_path: Path
) -> None:
    repo = hub.add("alice/sums", published)
    workspace = pull("alice/sums", tmp_path / "mine")
    add_teacher(workspace, "gamma")
    push(workspace, "alice/sums", private=False, yes=False, exclude_teachers=["gamma"], check=False)
    repo.commit({**repo.head.files, "README.md": b"---\n{}\n---\nedited on the Hub\n"}, "edit")
    with pytest.raises(InputError, match="has not seen"):
        push(workspace, "alice/sums", private=False, exclude_teachers=["gamma"])


def test_revision_is_pulled_as_asked(published: dict[str, bytes], hub: Hub, tmp_path: Path) -> None:
    repo = hub.add("bob/sums", published)
    repo.tags["v1"] = repo.head.sha
    repo.commit({p: b for p, b in published.items() if "beta" not in p}, "without beta")
    assert pull("bob/sums", tmp_path / "now").teachers() == ["alpha"]
    assert pull("bob/sums", tmp_path / "then", revision="v1").teachers() == ["alpha", "beta"]
    with pytest.raises(HubError, match="no such dataset or revision"):
        pull("bob/sums", tmp_path / "never", revision="v9")


def test_pull_cut_at_any_request_goes_on(published: dict[str, bytes], hub: Hub, tmp_path: Path) -> None:
    few = {p: b for p, b in published.items() if "train" in p or not p.endswith(".parquet")}
    hub.add("bob/sums", few)
    hub.begin()
    pull("bob/sums", tmp_path / "whole")
    for k in range(len(hub.requests)):
        hub.begin(Fault(k, lasting=True))
        with pytest.raises(HubError):
            pull("bob/sums", tmp_path / f"cut{k}")
        hub.begin()
        workspace = pull("bob/sums", tmp_path / f"cut{k}")
        assert query(workspace, "SELECT count(*) AS n FROM responses")["n"].to_pylist() == [12]
        assert len(origins_of(workspace)) == 1


def test_what_cannot_be_pulled_is_told(
    published: dict[str, bytes], hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("bob/csv", {"data.csv": b"a,b\n"})
    hub.add("bob/secret", published, private=True)
    with pytest.raises(InputError, match="no dataset of raffinate"):
        pull("bob/csv", tmp_path / "a")
    with pytest.raises(HubError, match="no dataset bob/secret on the Hub, or you may not see it"):
        pull("bob/secret", tmp_path / "b")
    sign_in("bob", monkeypatch)
    assert pull("bob/secret", tmp_path / "c").teachers() == ["alpha", "beta"]
    with pytest.raises(WorkspaceError, match="holds questions already"):
        pull("bob/secret", tmp_path / "c")


def test_files_outside_the_layout_are_not_taken(published: dict[str, bytes], hub: Hub, tmp_path: Path) -> None:
    evil = {
        "responses/../../escaped/train-00000.parquet": published["responses/alpha/train-00000.parquet"],
        "responses/..%2f/train-00000.parquet": b"x",
        "../outside.parquet": b"x",
        "routers/majority/state.pkl": b"x",
        ".raffinate/remotes.json": b"{}",
        "raffinate.duckdb": b"x",
        "setup.py": b"raise SystemExit",
    }
    hub.add("bob/evil", {**published, **evil})
    workspace = pull("bob/evil", tmp_path / "inside" / "mine")
    assert workspace.teachers() == ["alpha", "beta"]
    assert not [p for p in tmp_path.rglob("*") if p.name in ("state.pkl", "setup.py", "outside.parquet", "escaped")]
    assert (workspace.path / "raffinate.duckdb").read_bytes() != b"x"


def test_rows_that_belong_to_another_teacher_are_refused(published: dict[str, bytes], hub: Hub, tmp_path: Path) -> None:
    forged = {**published, "responses/alpha/train-00000.parquet": published["responses/beta/train-00000.parquet"]}
    hub.add("bob/forged", forged)
    with pytest.raises(InputError, match="rows whose teacher_id is not 'alpha'"):
        pull("bob/forged", tmp_path / "mine")
    assert not (tmp_path / "mine" / "questions").exists()


def test_files_that_are_no_tables_of_ours_are_refused(published: dict[str, bytes], hub: Hub, tmp_path: Path) -> None:
    path = "responses/alpha/train-00000.parquet"
    hub.add("bob/broken", {**published, path: b"not parquet"})
    with pytest.raises(WorkspaceError, match="no Parquet file"):
        pull("bob/broken", tmp_path / "a")
    hub.add("bob/other", {**published, path: published["questions/train-00000.parquet"]})
    with pytest.raises(InputError, match="has no column 'teacher_id'"):
        pull("bob/other", tmp_path / "b")
    (tmp_path / "new.parquet").write_bytes(published[path])
    table = pq.read_table(tmp_path / "new.parquet")
    pq.write_table(table.replace_schema_metadata({b"raffinate.schema_version": b"99"}), tmp_path / "new.parquet")
    hub.add("bob/newer", {**published, path: (tmp_path / "new.parquet").read_bytes()})
    with pytest.raises(WorkspaceError, match="upgrade"):
        pull("bob/newer", tmp_path / "c")


def test_pulled_folder_can_be_moved(published: dict[str, bytes], hub: Hub, tmp_path: Path) -> None:
    hub.add("bob/sums", published)
    moved = shutil.move(pull("bob/sums", tmp_path / "mine").path, tmp_path / "elsewhere")
    publish(Workspace.open(moved), Majority())
    assert query(Workspace.open(moved), "SELECT count(*) AS n FROM purified")["n"].to_pylist() == [10]
