"""Publishing: a real client, a Hub on loopback, and every way it can be cut short."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from helpers_asking import ScriptedAsker, asked_by, workspace_of
from helpers_corpus import make_workspace, question_row, response_row, write_recipe, write_workspace
from hub_stub import Fault, Hub, running_hub, sign_in

from cards.hub import HubError
from cards.publication import WHY_DROPPED
from cards.push import PushPlan, PushReport, push
from purifiers.aggregate import Aggregate
from purifiers.majority import Majority
from purifiers.run import publish
from schemas.database import query
from schemas.errors import InputError
from schemas.workspace import Workspace

# huggingface_hub uploads with an argument that newer HTTP clients call outdated
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("made") / "sums", n=15).path


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(made, tmp_path / "sums")
    return Workspace.open(tmp_path / "sums")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def planned(workspace: Workspace, **options: object) -> PushPlan:
    plan = push(workspace, "alice/sums", dry_run=True, **options)  # type: ignore[arg-type]
    assert isinstance(plan, PushPlan)
    return plan


def pushed(workspace: Workspace, repo_id: str = "alice/sums", **options: object) -> PushReport:
    report = push(workspace, repo_id, **options)  # type: ignore[arg-type]
    assert isinstance(report, PushReport)
    return report


def test_published_dataset_is_private_tagged_and_loads_back_equal(workspace: Workspace, hub: Hub) -> None:
    report = pushed(workspace)
    repo = hub.repos["alice/sums"]
    assert repo.private
    assert repo.tags == {"v1": repo.head.sha} == {report.tag: report.commit}
    assert report.checked == {
        **{f"questions/{split}": n for split, n in (("train", 9), ("validation", 3), ("test", 3))},
        **{f"responses/{split}": n for split, n in (("train", 27), ("validation", 9), ("test", 9))},
        **{f"purified-majority/{split}": n for split, n in (("train", 9), ("validation", 3), ("test", 3))},
    }
    assert not [path for path in repo.head.files if path.startswith(".raffinate") or path.endswith(".duckdb")]


def test_dry_run_lists_files_sizes_and_metadata_and_changes_nothing(workspace: Workspace, hub: Hub) -> None:
    before = {p: p.read_bytes() for p in workspace.path.rglob("*") if p.is_file()}
    plan = planned(workspace)
    assert not hub.repos
    assert {p: p.read_bytes() for p in workspace.path.rglob("*") if p.is_file() and p.name != "lock"} == {
        p: b for p, b in before.items() if p.name != "lock"
    }
    sizes = {f.path: f.size for f in plan.files}
    assert sizes["questions/train-00000.parquet"] == (workspace.questions_dir / "train-00000.parquet").stat().st_size
    assert {f.change for f in plan.files} == {"added"}
    assert plan.metadata["size_categories"] == (None, ["n<1K"])


def test_pushing_again_changes_nothing_and_keeps_the_tag(workspace: Workspace, hub: Hub) -> None:
    first = pushed(workspace)
    again = pushed(workspace, check=False)
    assert (again.commit, again.tag) == (first.commit, "v1")
    assert not again.plan.is_change


def test_a_change_is_one_commit_with_the_next_tag_and_deletes_what_is_gone(workspace: Workspace, hub: Hub) -> None:
    pushed(workspace, check=False)
    shutil.rmtree(workspace.responses_dir("gamma"))
    publish(workspace, Majority())
    commits = len(hub.repos["alice/sums"].commits)
    report = pushed(workspace)
    repo = hub.repos["alice/sums"]
    assert len(repo.commits) == commits + 1
    assert report.tag == "v2"
    assert not [path for path in repo.head.files if path.startswith("responses/gamma")]
    assert {f.path for f in report.plan.files if f.change == "deleted"} == {
        f"responses/gamma/{split}-00000.parquet" for split in ("train", "validation", "test")
    }


def test_excluded_teacher_leaves_no_response_and_no_rationale(workspace: Workspace, hub: Hub) -> None:
    kept = query(workspace, "SELECT count(*) AS n FROM purified WHERE teacher_id <> 'alpha'")["n"][0].as_py()
    report = pushed(workspace, exclude_teachers=["alpha"])
    head = hub.repos["alice/sums"].head.files
    assert not [path for path in head if path.startswith("responses/alpha")]
    assert report.plan.dropped == {"majority": 15 - kept}
    assert report.plan.dropped["majority"] > 0
    published = unpack(head, workspace.path.parent / "published")
    left = query(published, "SELECT DISTINCT teacher_id FROM purified")["teacher_id"].to_pylist()
    assert "alpha" not in left
    reasons = query(published, "SELECT reason, count(*) AS n FROM rejected GROUP BY reason").to_pylist()
    assert reasons == [{"reason": WHY_DROPPED, "n": 15 - kept}]
    assert b"example/alpha" not in head["README.md"].split(b"## The recipe")[0]
    assert query(workspace, "SELECT count(*) AS n FROM purified")["n"].to_pylist() == [15]  # the workspace itself stays


def test_rationale_made_from_an_excluded_teacher_is_dropped_too(workspace: Workspace, hub: Hub) -> None:
    file = workspace.purified_dir("majority") / "test-00000.parquet"
    rows = pq.read_table(file).to_pylist()
    parents = [{"teacher_id": "beta", "sample_idx": 0}, {"teacher_id": "alpha", "sample_idx": 0}]
    for row in rows:
        row.update(teacher_id=None, parents=parents)
    schema = pq.read_schema(file)
    pq.write_table(type(pq.read_table(file)).from_pylist(rows, schema), file)
    pushed(workspace, exclude_teachers=["alpha"], check=False)
    assert "purified/majority/test-00000.parquet" not in hub.repos["alice/sums"].head.files


def test_calls_that_showed_an_excluded_teacher_are_left_out(tmp_path: Path, hub: Hub) -> None:
    """A merged rationale is the reply of a call: where it is not published, the reply is not either."""
    workspace = workspace_of(tmp_path / "ws", ["ABB", "-BB"], split="train", gold="BB")
    asker = ScriptedAsker(workspace, ["beta"], lambda _: "Both shelves are counted.\nThe answer is (B).")
    publish(workspace, asked_by(Aggregate(judge="beta"), asker))
    pushed(workspace, "alice/merged", exclude_teachers=["alpha"], yes=True)
    published = unpack(hub.repos["alice/merged"].head.files, tmp_path / "published")
    assert query(published, "SELECT question_id, about FROM calls").to_pylist() == [
        {"question_id": "q00001", "about": ["beta", "gamma"]}
    ]
    assert query(published, "SELECT question_id FROM purified")["question_id"].to_pylist() == ["q00001"]


def unpack(files: dict[str, bytes], folder: Path) -> Workspace:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return Workspace.open(folder)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"exclude_teachers": ["alhpa"]}, r"no teacher 'alhpa' \(did you mean 'alpha'\?\)"),
        ({"methods": ["majorty"]}, r"no method 'majorty' \(did you mean 'majority'\?\)"),
        ({"exclude_teachers": ["alpha", "beta", "gamma"]}, "every teacher"),
    ],
)
def test_wrong_names_are_told(workspace: Workspace, hub: Hub, options: dict[str, list[str]], told: str) -> None:
    with pytest.raises(InputError, match=told):
        push(workspace, "alice/sums", **options)  # type: ignore[arg-type]
    assert not hub.repos


@pytest.mark.parametrize("name", ["sums", "../etc", "alice/sums/more", "alice/--x", "alice/a b"])
def test_impossible_repository_names_are_told(workspace: Workspace, name: str) -> None:
    with pytest.raises(InputError, match="no dataset name on the Hub"):
        push(workspace, name)


def test_unlicensed_teacher_needs_yes(workspace: Workspace, hub: Hub) -> None:
    write_recipe(workspace, ["alpha", "beta"], "mit")
    assert "outputs of gamma" in planned(workspace).refusals[0]
    with pytest.raises(InputError, match="licence of the outputs of gamma is not declared"):
        push(workspace, "alice/sums")
    assert not hub.repos
    assert not planned(workspace, exclude_teachers=["gamma"]).refusals
    assert pushed(workspace, yes=True, check=False).commit


def test_a_judge_that_wrote_is_treated_as_a_teacher(tmp_path: Path, hub: Hub) -> None:
    """What a judge wrote is published, so its licence counts too; it can be left out with all it wrote and said."""
    workspace = workspace_of(tmp_path / "ws", ["ABB", "BBB", "B--"], split="train", gold="BBB")
    asker = ScriptedAsker(workspace, ["judge"], lambda _: "Both shelves are counted.\nThe answer is (B).")
    publish(workspace, asked_by(Aggregate(judge="judge"), asker))
    write_recipe(workspace, ["alpha", "beta", "gamma"], "mit")
    with pytest.raises(InputError, match="licence of the outputs of judge is not declared"):
        push(workspace, "alice/merged")
    assert not hub.repos
    report = pushed(workspace, "alice/merged", exclude_teachers=["judge"])
    assert report.plan.dropped == {"aggregate": 2}
    published = unpack(hub.repos["alice/merged"].head.files, tmp_path / "published")
    assert query(published, "SELECT teacher_id, written_by FROM purified").to_pylist() == [
        {"teacher_id": "alpha", "written_by": None}
    ]
    assert query(published, "SELECT count(*) AS n FROM calls")["n"].to_pylist() == [0]
    card = {"teachers": {"judge": {"licence": "apache-2.0"}}}
    write_recipe(workspace, ["alpha", "beta", "gamma"], "mit", card)
    assert not planned(workspace).refusals


SECRETS = {
    "hugging face": "hf_" + "abcdefGHIJ" * 3 + "abcd",
    "openai": "sk-" + "proj-" + "A1b2C3d4" * 5,
    "github": "ghp_" + "a1B2" * 9,
    "aws": "AKIA" + "ABCDEFGH12345678",
    "url": "https://bob:" + "hunter22@example.org/x",
    "key": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
def test_secret_in_a_rationale_is_refused_even_with_yes_and_not_repeated(tmp_path: Path, hub: Hub, secret: str) -> None:
    import random

    question = question_row(0, "train", random.Random(0))
    answer = response_row(question, "alpha", True, rationale=f"First I call it with {secret} and then I add.")
    workspace = write_workspace(tmp_path / "leaky", [question], {"alpha": [answer]})
    with pytest.raises(
        InputError, match=r"responses.rationale of q00000, alpha, 0 holds what looks like a secret"
    ) as e:
        push(workspace, "alice/leaky", yes=True)
    assert secret not in str(e.value)
    assert not hub.repos


def test_a_secret_that_was_looked_at_can_be_allowed_and_no_other(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import random
    import re

    question = question_row(0, "train", random.Random(0))
    example, real = "postgres://user:" + "password@host", "postgres://root:" + "hunter22@db.example.org"
    told = f"Connect to {example}, that is, {example}."
    workspace = write_workspace(
        tmp_path / "w", [question], {"alpha": [response_row(question, "alpha", True, rationale=told)]}
    )
    mark = re.findall(r"--allow-secret (\w+)", planned(workspace, yes=True).refusals[0])[0]
    assert planned(workspace, yes=True, allow_secrets=[mark]).refusals == []
    assert planned(workspace, yes=True, allow_secrets=["0" * 12]).refusals != []
    both = response_row(question, "alpha", True, rationale=f"{told} Not to {real}.")
    workspace = write_workspace(tmp_path / "v", [question], {"alpha": [both]})
    refused = planned(workspace, yes=True, allow_secrets=[mark]).refusals
    assert refused and mark not in str(refused) and "hunter22" not in str(refused)
    monkeypatch.setenv("SOME_API_KEY", example)  # what is this machine's own is never let through
    assert "remove it" in planned(workspace, yes=True, allow_secrets=[mark]).refusals[0]
    assert "$SOME_API_KEY" in str(planned(workspace, yes=True, allow_secrets=[mark]).refusals)


def test_key_of_this_machine_and_key_in_the_recipe_are_refused(
    workspace: Workspace, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = workspace.path / "recipe.yaml"
    clean = recipe.read_text()
    recipe.write_text(clean + "api_key: nothing-special-but-mine\n")
    assert "recipe.yaml" in planned(workspace, yes=True).refusals[0]
    recipe.write_text(clean + "api_key: ${MY_API_KEY}\n")
    assert planned(workspace).refusals == []
    monkeypatch.setenv("MY_API_KEY", "correct horse battery")
    recipe.write_text(clean + "note: correct horse battery\n")
    assert "value of $MY_API_KEY" in " ".join(planned(workspace).refusals)


def test_published_recipe_says_nothing_of_where_files_lay(workspace: Workspace, hub: Hub) -> None:
    file = workspace.path / "recipe.yaml"
    recipe = yaml.safe_load(file.read_text())
    recipe["questions"] = {"path": "../../secret-home/alice/q.jsonl", "limit": 5}
    recipe["build"] = {"cache": "../../secret-home/alice/journal.sqlite", "patience_s": 3}
    recipe["teachers"][0] |= {"model": "/scratch/alice/models/llm", "base_url": ["http://gpu-box:8000/v1"]}
    file.write_text("# Mine.\n" + yaml.safe_dump(recipe))
    before = file.read_bytes()
    plan = pushed(workspace, check=False).plan
    head = hub.repos["alice/sums"].head.files
    published = head["recipe.yaml"].decode()
    assert published.startswith("# Mine.\n")
    assert yaml.safe_load(published)["questions"] == {"path": "q.jsonl", "limit": 5}
    assert yaml.safe_load(published)["build"] == {"patience_s": 3}
    assert b"secret-home" not in head["recipe.yaml"] + head["README.md"]
    assert file.read_bytes() == before
    assert plan.private_places == [
        "recipe.yaml, teachers.1.base_url.1: http://gpu-box:8000/v1",
        "recipe.yaml, teachers.1.model: /scratch/alice/models/llm",
    ]


def test_dataset_of_somebody_else_is_not_overwritten_unasked(workspace: Workspace, hub: Hub) -> None:
    theirs = {"README.md": b"---\nlicense: mit\n---\nours\n", "data.csv": b"a,b\n"}
    hub.add("alice/sums", theirs)
    with pytest.raises(InputError, match="has not seen"):
        push(workspace, "alice/sums", private=False)
    assert hub.repos["alice/sums"].head.files["README.md"] == theirs["README.md"]
    plan = planned(workspace, private=False)
    assert plan.metadata["license"] == ("mit", None)
    pushed(workspace, private=False, yes=True, check=False)
    assert hub.repos["alice/sums"].head.files["data.csv"] == b"a,b\n"


def test_public_repository_is_not_taken_for_a_private_one(workspace: Workspace, hub: Hub) -> None:
    pushed(workspace, private=False, check=False)
    assert not hub.repos["alice/sums"].private
    with pytest.raises(InputError, match="is public"):
        push(workspace, "alice/sums")


def test_no_rights_and_no_login_are_told(workspace: Workspace, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    sign_in("bob", monkeypatch)
    with pytest.raises(HubError, match="no right"):
        push(workspace, "alice/sums")
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    with pytest.raises(HubError, match=r"hf auth login|no right"):
        push(workspace, "alice/sums")


def test_damage_on_the_way_is_noticed(workspace: Workspace, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub answers with one row changed under the same commit: rows and hashes are compared, not believed."""
    report = pushed(workspace, check=False)
    files = hub.repos["alice/sums"].head.files
    other = make_workspace(workspace.path.parent / "other", n=15, seed=1)
    path = "responses/alpha/train-00000.parquet"
    files[path] = (other.path / path).read_bytes()
    from cards.load_back import load_back

    with pytest.raises(HubError, match="responses/train comes back different"):
        load_back(workspace, "alice/sums", report.commit)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import random

    question = question_row(0, "train", random.Random(0))
    answer = response_row(question, "alpha", True)
    workspace = write_workspace(tmp_path_factory.mktemp("tiny") / "tiny", [question], {"alpha": [answer]})
    write_recipe(workspace, ["alpha"], "mit")
    publish(workspace, Majority())
    return workspace.path


@pytest.mark.parametrize("after_work", [False, True], ids=["request lost", "answer lost"])
def test_push_cut_at_any_request_and_run_again_is_one_consistent_dataset(
    tiny: Path, tmp_path: Path, hub: Hub, after_work: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cards.push.find_secrets", lambda *_: [])  # not the subject here, and half of the time
    workspace = Workspace.open(shutil.copytree(tiny, tmp_path / "tiny"))
    pushed(workspace, "alice/whole", check=False)
    wanted, total = hub.repos["alice/whole"].head.files, len(hub.requests)
    assert total > 10
    for k in range(total):
        hub.objects.clear()
        hub.begin(Fault(k, lasting=True, after_work=after_work))
        with pytest.raises(HubError, match="run the same command again"):
            push(workspace, f"alice/cut{k}", check=False)
        cut = hub.repos.get(f"alice/cut{k}")
        assert cut is None or cut.head.files.keys() == {".gitattributes"} or cut.head.files == wanted
        hub.begin()
        report = pushed(workspace, f"alice/cut{k}", check=False)
        repo = hub.repos[f"alice/cut{k}"]
        assert repo.head.files == wanted
        assert repo.tags == {"v1": repo.head.sha} == {"v1": report.commit}
        assert len(repo.commits) == 2  # the initial one and ours, never ours twice


def test_one_lost_request_is_tried_again_or_told(tiny: Path, tmp_path: Path, hub: Hub) -> None:
    workspace = Workspace.open(shutil.copytree(tiny, tmp_path / "tiny"))
    pushed(workspace, "alice/whole", check=False)
    uploads = [k for k, request in enumerate(hub.requests) if request.startswith("PUT /lfs/")]
    hub.objects.clear()
    hub.begin(Fault(uploads[0]))
    assert pushed(workspace, "alice/again", check=False).tag == "v1"
