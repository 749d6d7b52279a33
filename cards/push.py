"""Publish a workspace as a dataset repository: one commit, so that readers see the old dataset or the new one.

Interrupted anywhere, the same command goes on: files that arrived are not sent again, a commit that arrived is
recognised by its content, and the tag is set if it is missing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cards import hub
from cards.card import judges_of, write_card
from cards.facts import facts_of
from cards.load_back import load_back
from cards.publication import Choice, choose, published_files, stage
from cards.recipe_copy import private_places
from cards.secrets import Secret, find_secrets
from cards.spec import CardSpec, spec_of, terms_of
from schemas.errors import InputError
from schemas.workspace import told_disk_errors

if TYPE_CHECKING:
    from schemas.workspace import Workspace

MANAGED = ("questions/", "responses/", "purified/", "rejected/", "calls/", "routers/", "students/", "recipes/")
"""Folders whose files are deleted from the repository when the workspace has them no more."""


@dataclass(frozen=True)
class PlannedFile:
    """A file of the publication, or one to delete. ``change`` is ``added``, ``changed``, ``same`` or ``deleted``."""

    path: str
    size: int
    change: str


@dataclass(frozen=True)
class PushPlan:
    """What a push would do.

    Attributes:
        repo_id: where to.
        private: whether a new repository is made private.
        exists: whether the repository is there already.
        files: every file, with its size in bytes and what happens to it.
        metadata: key of the card's YAML -> (before, after), where they differ.
        dropped: method -> purified rows dropped, because an excluded teacher's response went into them.
        refusals: why the push would be refused; `push` raises them unless it is a dry run.
        private_places: where it names a local path or a private host; see `cards.recipe_copy`.
    """

    repo_id: str
    private: bool
    exists: bool
    files: list[PlannedFile]
    metadata: dict[str, tuple[Any, Any]]
    dropped: dict[str, int] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    private_places: list[str] = field(default_factory=list)

    @property
    def upload_bytes(self) -> int:
        """Bytes of the files that are new or changed."""
        return sum(f.size for f in self.files if f.change in ("added", "changed"))

    @property
    def is_change(self) -> bool:
        """Whether anything differs from what is published."""
        return any(f.change != "same" for f in self.files)


@dataclass(frozen=True)
class PushReport:
    """What a push did.

    Attributes:
        plan: what was planned.
        commit: the commit that holds the publication.
        tag: its tag.
        url: its page.
        checked: ``config/split`` -> rows, loaded back from the Hub and found equal; empty if not checked.
    """

    plan: PushPlan
    commit: str
    tag: str
    url: str
    checked: dict[str, int]


def push(  # noqa: PLR0913 - each is an option of the command
    workspace: Workspace,
    repo_id: str,
    *,
    private: bool = True,
    dry_run: bool = False,
    methods: Collection[str] | None = None,
    exclude_teachers: Collection[str] = (),
    yes: bool = False,
    tag: str | None = None,
    spec: CardSpec | None = None,
    check: bool = True,
    allow_secrets: Collection[str] = (),
) -> PushPlan | PushReport:
    """Publish a workspace; a dry run gives the plan and changes nothing.

    Args:
        workspace: what to publish; its own files stay as they are.
        repo_id: ``user/name`` on the Hub.
        private: who sees a new repository. An existing one keeps its visibility.
        dry_run: only plan.
        methods: which purified methods to publish; all by default.
        exclude_teachers: leave out their responses, and every purified row that one of these went into.
        yes: publish although a teacher has no declared licence, the repository was not made from this workspace, or
            it is public. Secrets are refused in any case, but for ``allow_secrets``.
        tag: name of this version; ``v1``, ``v2``, ... by default.
        spec: the card's; from the recipe by default.
        check: load every config back with `datasets` and compare rows and hashes.
        allow_secrets: marks of texts that look like a secret and, somebody having looked, are none.

    Raises:
        InputError: it is refused (every reason is told), or a name is wrong.
        hub.HubError: the Hub cannot be reached or refuses; run the same again to go on.
        WorkspaceError: another run holds the workspace, or there is nothing to publish.
    """
    hub.check_repo_id(repo_id)
    choice = choose(workspace, methods, exclude_teachers)
    with told_disk_errors(workspace.path):
        workspace.private.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="push-", dir=workspace.private) as temporary:
            staged, dropped = stage(workspace, Path(temporary) / workspace.path.name, choice)
            spec = _fitting(spec or spec_of(workspace), choice)
            write_card(staged, spec)
            remote = hub.remote_of(repo_id)
            request = _Request(workspace, staged, repo_id, private, yes, tag, spec, allow_secrets)
            plan = _plan(request, remote, dropped)
            if dry_run:
                return plan
            if plan.refusals:
                raise InputError(f"not pushed to {repo_id}: " + "; ".join(plan.refusals))
            return _carry_out(request, remote, plan, check)


@dataclass(frozen=True)
class _Request:
    """What was asked for, and the snapshot to publish."""

    workspace: Workspace
    staged: Workspace
    repo_id: str
    private: bool
    yes: bool
    tag: str | None
    spec: CardSpec
    allow_secrets: Collection[str] = ()


def _fitting(spec: CardSpec, choice: Choice) -> CardSpec:
    """The spec without a default method that is not published."""
    left_out = spec.default_method is not None and spec.default_method not in choice.methods
    return spec.model_copy(update={"default_method": None}) if left_out else spec


def _plan(request: _Request, remote: hub.Remote, dropped: dict[str, int]) -> PushPlan:
    root = request.staged.path
    files = []
    for path in published_files(root):
        here = root / path
        if path not in remote.hashes:
            change = "added"
        else:
            change = "same" if hub.same_content(here, remote.hashes[path]) else "changed"
        files.append(PlannedFile(path, here.stat().st_size, change))
    mine = {file.path for file in files}
    gone = [p for p in sorted(remote.hashes.keys() - mine) if p.startswith(MANAGED)]
    files += [PlannedFile(path, remote.sizes[path], "deleted") for path in gone]
    plan = PushPlan(
        repo_id=request.repo_id,
        private=request.private,
        exists=remote.sha is not None,
        files=files,
        metadata=_metadata_changes(request, remote),
        dropped=dropped,
        private_places=private_places(request.staged),
    )
    plan.refusals.extend(_refusals(request, remote, plan))
    return plan


def _refusals(request: _Request, remote: hub.Remote, plan: PushPlan) -> list[str]:
    """Every reason not to push, each with the way out."""
    secrets = find_secrets(request.staged, request.allow_secrets)
    reasons = [f"{s.where} holds what looks like a secret ({s.kind}): {_way_out(s)}" for s in secrets[:5]]
    if len(secrets) > 5:
        reasons.append(f"and {len(secrets) - 5} more places hold secrets")
    if request.tag in remote.tags and (plan.is_change or remote.tags[request.tag] != remote.sha):
        reasons.append(f"the tag {request.tag} is taken: choose another")
    if request.yes:
        return reasons
    terms = terms_of(request.staged, request.spec)
    authors = [*request.staged.teachers(), *judges_of(facts_of(request.staged))]
    unlicensed = [t for t in authors if t not in terms or not terms[t].licence]
    if unlicensed:
        reasons.append(
            f"the licence of the outputs of {', '.join(unlicensed)} is not declared: declare it in the recipe, leave "
            "the teacher out (--exclude-teacher), or pass --yes"
        )
    if plan.is_change and not remote.is_empty and hub.known_heads(request.workspace).get(plan.repo_id) != remote.sha:
        reasons.append(
            f"{plan.repo_id} holds a dataset that this workspace has not seen, and it would be overwritten: choose "
            "another name, import it first, or pass --yes"
        )
    if request.private and remote.private is False:
        reasons.append(f"{plan.repo_id} is public: pass --public if it may be read by all, or --yes")
    return reasons


def _way_out(secret: Secret) -> str:
    return (
        f"remove it, or look at it and pass --allow-secret {secret.mark} if it is none" if secret.mark else "remove it"
    )


def _metadata_changes(request: _Request, remote: hub.Remote) -> dict[str, tuple[Any, Any]]:

    after = _front_matter((request.staged.path / "README.md").read_text(encoding="utf-8"))
    before: dict[str, Any] = {}
    if "README.md" in remote.hashes:
        with hub.told_hub_errors(request.repo_id, "reading the card of"), tempfile.TemporaryDirectory() as cache:
            file = hub.api().hf_hub_download(
                request.repo_id, "README.md", repo_type="dataset", revision=remote.sha, cache_dir=cache
            )
            before = _front_matter(Path(file).read_text(encoding="utf-8", errors="replace"))
    keys = [*after, *(key for key in before if key not in after)]
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _front_matter(text: str) -> dict[str, Any]:
    """The YAML of a card; empty where somebody else's cannot be read."""
    import yaml

    parts = text.split("\n---", 1)
    if not text.startswith("---") or len(parts) < 2:
        return {}
    try:
        found = yaml.safe_load(parts[0].removeprefix("---"))
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _carry_out(request: _Request, remote: hub.Remote, plan: PushPlan, check: bool) -> PushReport:
    client = hub.api()
    with hub.told_hub_errors(request.repo_id, "pushing to"):
        if remote.sha is None:
            client.create_repo(request.repo_id, repo_type="dataset", private=request.private, exist_ok=True)
            remote = hub.remote_of(request.repo_id)
        commit = _commit(request, remote, plan)
        hub.remember_head(request.workspace, request.repo_id, commit)
        tag = _tag(request, remote, commit)
    checked = load_back(request.staged, request.repo_id, commit) if check else {}
    return PushReport(plan, commit, tag, f"{client.endpoint}/datasets/{request.repo_id}", checked)


def _commit(request: _Request, remote: hub.Remote, plan: PushPlan) -> str:
    """Send every change as one commit on top of the one that was looked at; return the commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[CommitOperationAdd | CommitOperationDelete] = []
    for file in plan.files:
        if file.change == "deleted":
            operations.append(CommitOperationDelete(path_in_repo=file.path))
        elif file.change != "same":
            operations.append(CommitOperationAdd(file.path, request.staged.path / file.path))
    if not operations:
        return str(remote.sha)
    rows = f"{len(request.staged.teachers())} teachers, {len(request.staged.methods())} methods"
    done = hub.api().create_commit(
        request.repo_id,
        operations,
        commit_message=f"Publish with raffinate: {rows}",
        repo_type="dataset",
        parent_commit=remote.sha,
    )
    return str(done.oid)


def _tag(request: _Request, remote: hub.Remote, commit: str) -> str:
    """The tag of the commit; made where it has none (or not the one asked for)."""
    has = [name for name, target in remote.tags.items() if target == commit]
    if request.tag in has or (request.tag is None and has):
        return request.tag or has[-1]
    used = [int(t[1:]) for t in remote.tags if t[:1] == "v" and t[1:].isdigit()]
    name = request.tag or f"v{max(used, default=0) + 1}"
    hub.api().create_tag(request.repo_id, tag=name, revision=commit, repo_type="dataset")
    return name
