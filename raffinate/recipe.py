"""The recipe: one YAML file that says where questions come from, whom to ask, how, and what to make of the answers.

Secrets are written ``${NAME}`` and come from the environment; the copy kept in the workspace has the reference, never
the value. A mistake is one sentence with the key's path and, for an unknown key, the nearest known one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from itertools import chain, count
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from builders.ask import Settings
from builders.prompt import BUILT_IN
from builders.sandbox.faults import Fault
from builders.sources import QuestionSource
from builders.teacher import Teacher, check_teachers
from cards.spec import CardSpec
from purifiers.base import Purifier, Signal
from purifiers.equipment import BEST
from purifiers.registry import method
from schemas.errors import InputError, nearest
from schemas.read_yaml import read_yaml
from schemas.secret_names import REFERENCE, SECRET_KEYS, SECRET_MAPPINGS
from schemas.workspace import Workspace, told_disk_errors

NAME = "recipe.yaml"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PromptSection(_Section):
    """How teachers are asked."""

    name: str = Field(default="free", description="`free`, `teacher-forced`, `few-shot`, or the path of a Jinja2 file")
    examples: str | None = Field(default=None, description="JSONL file of worked examples; drawn from train if absent")
    shots: int = Field(default=3, gt=0, description="worked examples per question, for a few-shot prompt")
    seed: int = Field(default=0, description="seed of the drawn examples")


class BuildSection(_Section):
    """Where a build stops by itself."""

    max_requests: int | None = Field(default=None, gt=0, description="most requests sent, repeats included")
    max_cost_usd: float | None = Field(
        default=None, gt=0, description="nothing more is sent after this cost (US dollars)"
    )
    max_failed_share: float = Field(
        default=Settings.max_failed_share, ge=0, le=1, description="share of failed rows that fails the run"
    )
    patience_s: float = Field(
        default=Settings.patience_s, ge=0, description="how long a teacher that only fails is tried again (seconds)"
    )
    cache: str | None = Field(default=None, description="journal file to share with other workspaces")
    engine: Literal["local", "ray"] = Field(
        default="local", description="`ray` asks from the machines of a Ray cluster; see docs/scale.md"
    )
    workers: int | None = Field(
        default=None,
        gt=0,
        description="processes that ask, with Ray; by default one a machine, and as many vLLM as its GPUs hold",
    )

    def settings(self, base: Path) -> Settings:
        """As the builder takes them; ``base`` is the recipe's folder."""
        return Settings(**self.model_dump() | {"cache": self.cache_in(base)})

    def cache_in(self, base: Path) -> Path | None:
        """The journal to share, seen from the recipe's folder."""
        return base / Path(self.cache).expanduser() if self.cache else None


class MethodSection(_Section):
    """One purifier with its settings: a name, or a mapping with ``method``, its ``student`` and the settings."""

    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    student: str | dict[str, Any] | None = Field(
        default=None, description="for a method that looks at one: a model id, a folder, or settings of a student"
    )

    def purifier(self) -> Purifier:
        """The unfitted purifier.

        Raises:
            InputError: no such method, or a setting that it does not have or that does not fit.
        """
        return make_purifier(self.method, self.settings)


def _method(value: Any) -> Any:
    if isinstance(value, str):
        return {"method": value}
    if isinstance(value, dict) and "settings" not in value:
        own = {k: value[k] for k in ("method", "student") if k in value}
        return {**own, "settings": {k: v for k, v in value.items() if k not in own}}
    return value


class SandboxSection(_Section):
    """Simulated teachers, served on this machine while the recipe runs."""

    port: int = Field(
        default=18765, gt=0, le=65535, description="part of the teachers' base_url, so it must stay the same"
    )
    seed: int = Field(default=0, description="seed of the world")
    latency_ms: float = Field(default=0.0, ge=0, description="mean time a reply is held back (ms)")
    batch_s: float = Field(default=0.0, ge=0, description="time that a batch takes (s)")
    faults: tuple[Fault, ...] = Field(default=(), description="what goes wrong; see docs/sandbox.md")


class DistillSection(_Section):
    """Students that the methods are compared by, as `raffinate compare` does."""

    methods: tuple[str, ...] = Field(
        default=(),
        description="purifiers, keep-all, fine-tuning, teacher:ID; those of `purify` and the first two if none",
    )
    teacher_sets: str = Field(default="all", description="`all`, `nested` (1, 2, ... teachers), or sets: a+b,a+b+c")
    seeds: int = Field(default=3, gt=0, description="how many")
    students: tuple[str, ...] = Field(
        default=("tiny-seq2seq",), min_length=1, description="tiny-seq2seq, tiny-causal, Hugging Face ids, folders"
    )
    objectives: tuple[str, ...] = Field(
        default=("multitask",), min_length=1, description="multitask, rationale-then-answer"
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="of students and training; see docs/distill.md")
    jobs: int = Field(default=1, gt=0, description="students trained at a time, on one core each if several")


class Recipe(_Section):
    """A whole run. Paths are relative to the recipe's folder."""

    workspace: str = Field(description="folder that the run works in, and that is published")
    questions: QuestionSource
    teachers: tuple[Teacher, ...] = Field(min_length=1)
    judges: tuple[Teacher, ...] = Field(
        default=(), description="like teachers, but asked no questions: methods ask them to merge or judge rationales"
    )
    prompt: Annotated[PromptSection, BeforeValidator(lambda v: {"name": v} if isinstance(v, str) else v)] = (
        PromptSection()
    )
    build: BuildSection = BuildSection()
    purify: tuple[Annotated[MethodSection, BeforeValidator(_method)], ...] = (MethodSection(method="majority"),)
    evaluate_on: Literal["train", "validation", "test"] = Field(
        default="test", description="split the methods are judged on"
    )
    card: CardSpec = CardSpec()
    distill: DistillSection | None = Field(default=None, description="compare the methods by students; none by default")
    sandbox: SandboxSection | None = None

    @model_validator(mode="after")
    def _teachers_differ(self) -> Self:
        check_teachers((*self.teachers, *self.judges))
        return self

    @model_validator(mode="after")
    def _judges_are_known(self) -> Self:
        known = [t.id for t in (*self.teachers, *self.judges)]
        for section in self.purify:
            purifier = section.purifier()
            one = getattr(purifier, "judge", None)
            if one is None and "judge" in type(purifier).model_fields and Signal.LLM in purifier.looks_at:
                raise ValueError(f"method '{section.method}' asks an LLM: name it, like  judge: {known[-1]}")
            for name in (*getattr(purifier, "judges", ()), *((one,) if one and one != BEST else ())):
                if name not in known:
                    raise ValueError(
                        f"method '{section.method}' asks '{name}'{nearest(name, known)}, who is neither under teachers "
                        f"nor under judges: they are {', '.join(known)}"
                    )
        return self

    @field_validator("purify")
    @classmethod
    def _methods_are_known(cls, sections: tuple[MethodSection, ...]) -> tuple[MethodSection, ...]:
        for section in sections:
            if not section.purifier().publishable:
                raise ValueError(f"method '{section.method}' serves evaluation alone; a run judges by it anyway")
            if (Signal.STUDENT in section.purifier().looks_at) != (section.student is not None):
                need = "looks at no student: leave it out" if section.student else "needs a student: add  student: ..."
                raise ValueError(f"method '{section.method}' {need}")
        names = [s.method for s in sections]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice:
            raise ValueError(f"method '{twice}' is listed twice; its results would overwrite each other")
        return sections


def make_purifier(name: str, settings: Mapping[str, Any]) -> Purifier:
    """An unfitted purifier from its name and settings.

    Raises:
        InputError: see `MethodSection.purifier`.
    """
    cls = method(name)
    try:
        return cls(**settings)
    except ValidationError as error:
        raise InputError(f"method {name}: {told(error, cls)}") from None


def load_recipe(path: str | os.PathLike[str]) -> tuple[Recipe, Path]:
    """Read a recipe file, or the recipe that a workspace keeps; return it and the folder its paths are relative to.

    Raises:
        InputError: not readable, not YAML, a wrong key or value, or an environment variable that is not set.
    """
    file = recipe_file(path)
    raw = _read(file)
    try:
        return Recipe.model_validate(_resolved(raw, str(file))), file.resolve().parent
    except ValidationError as error:
        raise InputError(f"{file}: {told(error, Recipe)}") from None


def recipe_file(path: str | os.PathLike[str]) -> Path:
    """The recipe meant by a path: the file itself, or the one that a workspace folder keeps."""
    file = Path(path).expanduser()
    return file / NAME if file.is_dir() else file


def _read(file: Path) -> dict[str, Any]:
    if not file.exists():
        if file.name == NAME and any((file.parent / "questions").glob("*.parquet")):
            raise InputError(
                f"{file.parent} has no recipe, its answers were imported: go on with  raffinate purify {file.parent}, "
                "or write a recipe to ask more teachers"
            )
        raise InputError(f"{file} is not there: write one with  raffinate init")
    raw = read_yaml(file)
    if not isinstance(raw, dict):
        raise InputError(f"{file} is no recipe: it must be a mapping with questions, teachers, ...")
    return raw


def _resolved(value: Any, where: str, key: str = "") -> Any:
    """Put environment variables in place of ``${NAME}``; secrets are left to the teacher to resolve."""
    if isinstance(value, dict):
        return {k: _resolved(v, where, str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolved(v, where, key) for v in value]
    if not isinstance(value, str) or key in SECRET_KEYS:
        return value

    def variable(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise InputError(f"{where}: {key} names the environment variable {match[1]}, which is not set: export it")
        return os.environ[match[1]]

    return REFERENCE.sub(variable, value)


def keep_recipe(source: str | os.PathLike[str], workspace: Workspace) -> None:
    """Copy a recipe and its prompt into the workspace: literal secrets left out, other paths relative to it."""
    file = recipe_file(source)
    target = workspace.path / NAME
    if file.resolve() == target.resolve():
        return
    kept = _without_secrets(_read(file)) | {"workspace": "."}
    head = "# What made this dataset. Secrets are left out: ${NAME} stands for an environment variable.\n"
    with told_disk_errors(workspace.path):
        _keep_prompt(kept, file.resolve().parent, workspace.path)
        _move_paths(kept, file.resolve().parent, workspace.path)
        fresh = target.with_name(".recipe.new")
        fresh.write_text(head + yaml.safe_dump(kept, sort_keys=False, allow_unicode=True), encoding="utf-8")
        fresh.replace(target)


def _keep_prompt(raw: dict[str, Any], old: Path, new: Path) -> None:
    """Copy a prompt and examples of the user's own to ``prompts/``: they are part of what made the dataset."""
    if isinstance(raw.get("prompt"), str):
        raw["prompt"] = {"name": raw["prompt"]}
    sections = [raw.get("prompt"), *(raw.get("purify") or ())]
    sections += [s.get("settings") for s in sections if isinstance(s, dict)]
    source_of: dict[str, Path] = {}
    for section in sections:
        for key in ("name", "prompt", "examples"):
            path = section.get(key) if isinstance(section, dict) else None
            if isinstance(path, str) and path and path not in BUILT_IN and not path.startswith("${"):
                source = old / Path(path).expanduser()
                name = _free_name(source, source_of)
                section[key] = f"prompts/{name}"
                (new / "prompts").mkdir(exist_ok=True)
                shutil.copyfile(source, new / section[key])


def _free_name(source: Path, source_of: dict[str, Path]) -> str:
    """The name that a file is copied under: its own, or with a number where another one has that."""
    numbered = (f"{source.stem}-{n}{source.suffix}" for n in count(2))
    return next(name for name in chain([source.name], numbered) if source_of.setdefault(name, source) == source)


def _move_paths(raw: dict[str, Any], old: Path, new: Path) -> None:
    """Let the paths of a recipe that moves from folder ``old`` to ``new`` name the same files."""
    for section, key in (("questions", "path"), ("build", "cache")):
        part = raw.get(section)
        if not isinstance(part, dict):
            continue
        path = part.get(key)
        if isinstance(path, str) and not path.startswith(("~", "${")):
            part[key] = os.path.relpath(old / path, new)
    for part in raw.get("purify") or ():
        student = part.get("student") if isinstance(part, dict) else None
        holder, key = (student, "model") if isinstance(student, dict) else (part, "student")
        path = holder.get(key) if student else None
        if isinstance(path, str) and (old / path).is_dir():
            holder[key] = os.path.relpath(old / path, new)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_secrets(v) for v in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, inner in value.items():
        secret = key in SECRET_KEYS and not _is_reference(inner)
        kept[key] = None if secret else _without_secrets(inner)
        if key in SECRET_MAPPINGS and isinstance(inner, dict):
            kept[key] = {name: text if _is_reference(text) else None for name, text in inner.items()}
    return kept


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and REFERENCE.fullmatch(value) is not None


def told(error: ValidationError, model: type[BaseModel]) -> str:
    """One complaint of pydantic in one sentence: where, what, and the nearest known key for an unknown one.

    An unknown key comes before a missing one: mostly it is the missing one, written otherwise.
    """
    errors = error.errors(include_url=False)
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    parts = [p for p in first["loc"] if not (isinstance(p, str) and "[" in p)]  # drop pydantic's own markers
    where = ".".join(str(p + 1) if isinstance(p, int) else str(p) for p in parts)
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] == "extra_forbidden":
        known = known_keys(model, parts[:-1])
        word = str(parts[-1])
        return f"unknown key '{where}'{nearest(word, known)}; known here: {', '.join(known)}{more}"
    if first["type"] == "missing":
        return f"'{where}' is missing{more}"
    said = _shape(first["type"], known_keys(model, parts)) or first["msg"].removeprefix("Value error, ")
    return f"{where}: {said}{more}" if where else said


def _shape(kind: str, known: list[str]) -> str | None:
    """What a value must look like in YAML, where pydantic would speak of Python's types."""
    if kind in ("list_type", "tuple_type"):
        return "must be a list: one  - ...  a line, or  [a, b]"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return f"must be a mapping, like  {known[0] if known else 'key'}: ..."
    return None


def known_keys(model: type[BaseModel], path: list[Any]) -> list[str]:
    """The keys allowed at a place in a model."""
    here: type[BaseModel] | None = model
    for part in path:
        if isinstance(part, int) or here is None:
            continue
        field = here.model_fields.get(str(part))
        here = _model_in(field.annotation) if field else None
    return list(here.model_fields) if here else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, tuple, list, Annotated):
        return next((m for a in get_args(annotation) if (m := _model_in(a))), None)
    return None
