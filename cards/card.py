"""The dataset card: YAML that the Hub and `datasets` read, and prose generated from the data.

`README.md` is made anew each time from `dataset_card.md.jinja`; the author's blocks, and metadata keys that raffinate
does not make, are carried over. Same data, same recipe: same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cards import markdown
from cards.facts import Facts, best_method, facts_of, splits_of
from cards.origins import origins_of
from cards.recipe_copy import public_recipe
from cards.spec import CardSpec, TeacherTerms, spec_of, terms_of
from schemas.errors import InputError, WorkspaceError
from schemas.tables import TABLES
from schemas.workspace import told_disk_errors

if TYPE_CHECKING:
    import jinja2

    from schemas.workspace import Workspace

NAME = "README.md"
TEMPLATE = Path(__file__).with_name("dataset_card.md.jinja")
TAGS = ("knowledge-distillation", "knowledge-purification", "rationales", "raffinate")
SIZES = (
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"), (10**9, "100M<n<1B"),
)  # fmt: skip
PLACED = ("about", "limits", "notes")
"""The author's blocks that the template has a place for; others go to the end."""
MULTIPLE_CHOICE = {"choice": "multiple-choice"}


def write_card(workspace: Workspace, spec: CardSpec | None = None) -> Path:
    """Write ``README.md`` of a workspace and return its path.

    Args:
        workspace: must have questions.
        spec: what only the author knows; by default the ``card`` section of ``recipe.yaml``.

    Raises:
        InputError: the recipe or the existing card cannot be read, or names a method that is not there.
        WorkspaceError: there are no questions, or the folder cannot be written.
    """
    spec = spec or spec_of(workspace)
    path = workspace.path / NAME
    old, body = _existing(path)
    configs = configs_of(workspace)
    if not any(c["config_name"] == "questions" for c in configs):
        raise WorkspaceError(
            f"{workspace.path} has no questions yet: run  raffinate build  or  raffinate import  first"
        )
    facts = facts_of(workspace, spec.default_method)
    _mark_default(configs, facts, spec)
    metadata = {"pretty_name": markdown.plain(workspace.path.name), **_metadata(old, spec, facts, configs)}
    context = _context(workspace, facts, spec, markdown.own_blocks(body, str(path)))
    text = _with_metadata(metadata, _template().render({**context, "metadata": metadata}))
    with told_disk_errors(workspace.path):
        _replace(path, text)
    return path


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(".README.md.new")
    fresh.write_text(text, encoding="utf-8", newline="\n")
    fresh.replace(path)


def _existing(path: Path) -> tuple[dict[str, Any], str]:
    """Metadata and body of the card that is there."""
    from huggingface_hub import DatasetCard

    if not path.is_file():
        return {}, ""
    try:
        text = path.read_text(encoding="utf-8")
        if not text.lstrip().startswith("---"):
            return {}, text
        card = DatasetCard(text, ignore_metadata_errors=True)
    except Exception as error:  # the YAML library raises many kinds
        raise InputError(f"{path}: its metadata cannot be read ({markdown.plain(error)}): mend or remove it") from None
    return card.data.to_dict(), card.text  # type: ignore[no-untyped-call]


def configs_of(workspace: Workspace) -> list[dict[str, Any]]:
    """One config per table that has files, and ``purified-<method>`` per method."""
    folders = {"questions": "questions", "responses": "responses/*", "rejected": "rejected/*", "calls": "calls/*"}
    folders |= {f"purified-{method}": f"purified/{method}" for method in workspace.methods()}
    configs = []
    for name, folder in folders.items():
        splits = splits_of([file.name for file in workspace.path.glob(f"{folder}/*.parquet")])
        files = [{"split": split, "path": f"{folder}/{split}-*.parquet"} for split in splits]
        if files:
            configs.append({"config_name": name, "data_files": files})
    return configs


def _mark_default(configs: list[dict[str, Any]], facts: Facts, spec: CardSpec) -> None:
    """What loads when no config is named: the purified rows of the method that serves best, else all responses."""
    by_name = {config["config_name"]: config for config in configs}
    wanted = f"purified-{spec.default_method}" if spec.default_method else f"purified-{best_method(facts.methods)}"
    if spec.default_method and wanted not in by_name:
        known = ", ".join(row["method"] for row in facts.methods) or "none yet"
        raise InputError(f"card: default_method '{spec.default_method}' has no purified rows; there are: {known}")
    for name in (wanted, "responses", "questions"):
        if name in by_name:
            by_name[name]["default"] = True
            return


def _metadata(old: Mapping[str, Any], spec: CardSpec, facts: Facts, configs: list[dict[str, Any]]) -> dict[str, Any]:
    """The card's YAML: what the author gives now, else what the card had; the rest from the data.

    The licence is the author's word alone. Keys that are not ours stay as they were.
    """
    given = {
        "pretty_name": spec.title,
        "language": list(spec.language),
        "license": spec.license,
        "license_name": spec.license_name,
        "license_link": spec.license_link,
        "source_datasets": list(spec.source_datasets),
    }
    tags = old.get("tags")
    kept_tags = [tag for tag in (tags if isinstance(tags, list) else [tags]) if isinstance(tag, str)]
    made = {
        "task_categories": _task_categories(facts),
        "size_categories": [size_category(facts.count)],
        "tags": list(dict.fromkeys([*TAGS, *spec.tags, *kept_tags])),
        "configs": configs,
    }
    known = {key: value for key, value in given.items() if value}
    if "license" in known:
        old = {key: value for key, value in old.items() if key not in ("license_name", "license_link")}
    return {**old, **known, **made}


def _task_categories(facts: Facts) -> list[str]:
    of_tasks = {MULTIPLE_CHOICE.get(task, "question-answering") for task in facts.tasks}
    return sorted({*of_tasks, "question-answering", "text-generation"})


def size_category(rows: int) -> str:
    """The Hub's word for a number of rows."""
    return next((word for limit, word in SIZES if rows < limit), "1B<n<10B")


def _context(workspace: Workspace, facts: Facts, spec: CardSpec, blocks: dict[str, str]) -> dict[str, Any]:
    """What the template speaks of, beside the metadata."""
    terms = terms_of(workspace, spec)
    return {
        "facts": facts,
        "teachers": [_teacher(row, terms.get(row["teacher_id"], TeacherTerms())) for row in facts.teachers],
        "judges": {name: terms.get(name, TeacherTerms()).licence for name in judges_of(facts)},
        "spec": spec,
        "tables": TABLES,
        "recipe": public_recipe(workspace),
        "origins": origins_of(workspace),
        "generated": markdown.GENERATED,
        "yours": lambda name, hint: markdown.yours(name, blocks, hint),
        "other_blocks": [name for name in blocks if name not in PLACED],
    }


@cache
def _template() -> jinja2.Template:
    """The template. `markdown.inline` escapes Markdown and HTML both, so Jinja's own escaping is off."""
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "md": markdown.inline,
        "code": markdown.code,
        "fenced": markdown.fenced,
        "percent": percent,
        "number": number,
    }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _with_metadata(metadata: dict[str, Any], body: str) -> str:
    """Metadata and body as one text, checked by reading it as the Hub's client does.

    Raises:
        InputError: the metadata does not survive the trip through YAML.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    data = DatasetCardData(**metadata)
    text = f"---\n{data.to_yaml()}\n---\n\n{body.strip()}\n"
    if DatasetCard(text).data.to_dict() != data.to_dict():  # type: ignore[no-untyped-call]
        raise InputError("the card's metadata holds something that YAML cannot carry: use plain one-line values")
    return text


def judges_of(facts: Facts) -> list[str]:
    """Who was asked by purifiers and is no teacher, sorted."""
    return sorted({row["judge_id"] for row in facts.asked if not row["is_teacher"]})


def _teacher(row: Mapping[str, Any], terms: TeacherTerms) -> dict[str, Any]:
    """A teacher's counts, with what the recipe declares about it."""
    return {
        **row,
        "model": ", ".join(row["models"] or []) or terms.model,
        "revision": ", ".join(row["revisions"] or []) or terms.revision,
        "licence": terms.licence,
        "terms": terms.terms,
    }


def percent(share: float | None) -> str:
    """``83.1%``; an em dash where it is unknown."""
    return "—" if share is None or isnan(share) else f"{100 * share:.1f}%"


def number(value: float | None, digits: int = 0) -> str:
    """``12,345``; an em dash where it is unknown."""
    return "—" if value is None or isnan(value) else f"{value:,.{digits}f}"
