"""What only the author knows: title, licence, sources, citation. The recipe's ``card`` section.

Nothing here has a default that claims something: what is not given is not in the card.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cards.markdown import plain
from cards.origins import origins_of
from schemas.errors import InputError
from schemas.read_yaml import read_yaml
from schemas.workspace import Workspace

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def _one_line(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("must be one line of plain text, without line breaks or control characters")
    return text.strip()


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Line = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_one_line)]
Lines = Annotated[tuple[Line, ...], BeforeValidator(_listed)]
LanguageCode = Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$|^(code|multilingual)$")]


class TeacherTerms(BaseModel):
    """What is known about a teacher beside its responses."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    licence: Line | None = Field(default=None, description="licence of the model's outputs")
    terms: Line | None = Field(default=None, description="URL or name of the terms its outputs stand under")
    model: Line | None = Field(default=None, description="Hub id or name of the model")
    revision: Line | None = Field(default=None, description="revision of the weights")


class CardSpec(BaseModel):
    """The ``card`` section of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: Line | None = Field(default=None, description="name of the dataset as people read it")
    description: str | None = Field(default=None, max_length=20_000, description="Markdown put under the title")
    language: Annotated[tuple[LanguageCode, ...], BeforeValidator(_listed)] = Field(
        default=(), description="ISO 639 codes of the text, such as `en`"
    )
    license: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")] | None = Field(
        default=None,
        description="the Hub's identifier of the licence, such as `cc-by-4.0`; `other` needs the two below",
    )
    license_name: Line | None = None
    license_link: Line | None = None
    tags: Lines = ()
    source_datasets: Lines = Field(default=(), description="Hub ids of the datasets the questions come from")
    citation: str | None = Field(default=None, max_length=20_000, description="BibTeX")
    teachers: dict[str, TeacherTerms] = Field(default_factory=dict, description="by teacher id")
    default_method: Line | None = Field(default=None, description="method that loads when no config is named")

    @model_validator(mode="after")
    def _other_is_named(self) -> CardSpec:
        if self.license == "other" and not self.license_name:
            raise ValueError("license `other` needs license_name (and license_link)")
        return self


def spec_of(workspace: Workspace) -> CardSpec:
    """The ``card`` section of the workspace's recipe, else of the dataset last pulled into it; empty without any.

    Raises:
        InputError: the section holds something that it may not.
    """
    pulled = [origin.recipe for origin in reversed(origins_of(workspace)) if origin.recipe]
    for name in ["recipe.yaml", *pulled]:
        section = mapping_of(workspace.path / name).get("card")
        if section:
            return _spec(section, workspace.path / name)
    return CardSpec()


def _spec(section: object, file: Path) -> CardSpec:
    try:
        return CardSpec.model_validate(section)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("card", *first["loc"]))
        raise InputError(f"{file}: {where}: {first['msg']}") from None


def terms_of(workspace: Workspace, spec: CardSpec) -> dict[str, TeacherTerms]:
    """What is known about each teacher; the spec wins over the recipe, the recipe over those of pulled datasets.

    Raises:
        InputError: a recipe has something else where its teachers, judges or card should be.
    """
    terms: dict[str, dict[str, Any]] = {}
    for file in [*sorted(workspace.path.glob("recipes/*.yaml")), workspace.path / "recipe.yaml"]:
        recipe = mapping_of(file)
        for key in ("teachers", "judges"):
            for entry in _checked(recipe.get(key) or [], list, f"{file}: {key}"):
                if isinstance(entry, dict) and "id" in entry:
                    _add(terms, str(entry["id"]), entry)
        card = _checked(recipe.get("card") or {}, dict, f"{file}: card")
        for name, entry in _checked(card.get("teachers") or {}, dict, f"{file}: card.teachers").items():
            _add(terms, str(name), entry)
    for name, given in spec.teachers.items():
        _add(terms, name, given.model_dump())
    return {name: TeacherTerms.model_construct(**known) for name, known in terms.items()}


def _checked(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind):
        lines = "- id: ...  lines, one a teacher" if kind is list else "key: value  lines"
        raise InputError(f"{where} is {plain(value, 40)}: write it as  {lines}")
    return value


def _add(terms: dict[str, dict[str, Any]], name: str, entry: object) -> None:
    if isinstance(entry, dict):
        known = {key: str(entry[key]) for key in TeacherTerms.model_fields if entry.get(key) is not None}
        terms[name] = {**terms.get(name, {}), **known}


def mapping_of(file: Path) -> dict[str, Any]:
    """A YAML mapping; empty where there is no file.

    Raises:
        InputError: the file is no YAML mapping, or has a key twice.
    """
    if not file.is_file():
        return {}
    found = read_yaml(file)
    if not isinstance(found, dict):
        raise InputError(f"{file} is no YAML mapping: write it as  key: value  lines")
    return found
