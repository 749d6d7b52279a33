"""Hand a purifier what it needs beside the corpus, going by its signals: teachers and judges to ask, and a student."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from builders.asker import Asker
from purifiers.base import Signal
from purifiers.combined import Combined
from purifiers.registry import method
from raffinate.recipe import NAME, Recipe, load_recipe, told
from schemas.corpus import Corpus
from schemas.errors import InputError

if TYPE_CHECKING:
    from builders.build import TeacherEstimate
    from builders.progress import OnProgress
    from purifiers.base import Purifier
    from purifiers.equipment import OnFit, Student
    from schemas.workspace import Workspace


def equip(
    purifier: Purifier,
    asker: Asker | None = None,
    folder: Path | None = None,
    student: Student | None = None,
    on_fit: OnFit | None = None,
) -> Purifier:
    """A copy of the purifier that may use these, as far as its signals say that it does.

    Args:
        purifier: any method; one that needs nothing stays as it is.
        asker: who can be asked, for a method that looks at `Signal.LLM`.
        folder: where relative paths in its settings start; the working directory by default.
        student: for a method that looks at `Signal.STUDENT`.
        on_fit: told how far a long fit is.
    """
    equipment = replace(purifier.equipment, on_fit=on_fit) if on_fit else purifier.equipment
    if Signal.STUDENT in purifier.looks_at:
        equipment = replace(equipment, student=student)
    if Signal.LLM in purifier.looks_at:
        equipment = replace(equipment, asker=asker, folder=folder or Path())
    return purifier.equipped(equipment)


def student_for(
    purifiers: Sequence[Purifier],
    workspace: Workspace,
    wanted: str | Mapping[str, Any] | None,
    folder: Path | None = None,
    seed: int = 0,
) -> Student | None:
    """The student of methods that look at one; None if none does, or none is wanted (they say so themselves).

    Args:
        purifiers: who will look at it.
        workspace: on whose texts the tokenizer of a tiny student is trained.
        wanted: a model id, a folder or `tiny-...`; or settings of `distill.spec.StudentSpec`.
        folder: where a relative folder starts; the working directory by default.
        seed: of weights that are made.

    Raises:
        InputError: a student is given to methods that need none, or it cannot be one.
        MissingExtraError: transformers is not installed.
    """
    if wanted is None:
        return None
    if not any(Signal.STUDENT in p.looks_at for p in purifiers):
        names = ", ".join(p.name for p in purifiers)
        raise InputError(f"{names} looks at no student: leave out the student that is given")
    from distill.protocol import student_for as make
    from distill.spec import StudentSpec

    settings = {"model": wanted} if isinstance(wanted, str) else dict(wanted)
    here = (folder or Path()) / Path(str(settings.get("model", ""))).expanduser()
    if settings.get("model") and here.is_dir():
        settings["model"] = str(here.resolve())
    try:
        spec = StudentSpec(**settings)
    except ValidationError as error:
        raise InputError(f"student: {told(error, StudentSpec)}") from None
    student: Student = make(spec, _texts(workspace) if spec.is_tiny else (), seed)
    return student


def _texts(workspace: Workspace) -> list[str]:
    """What is asked and said in a workspace."""
    corpus = Corpus.of(workspace)
    options = [text for choices in corpus.choice_texts() for text in choices.values()]
    return [*corpus.question_texts(), *options, *corpus.rationale_texts(*np.nonzero(corpus.usable))]


def asker_for(  # noqa: PLR0913  the last by name only
    purifiers: Sequence[Purifier],
    workspace: Workspace,
    recipe: Path | None = None,
    on_progress: OnProgress | None = None,
    *,
    max_cost_usd: float | None = None,
    max_requests: int | None = None,
) -> Asker | None:
    """Who can be asked in a workspace; None if none of the purifiers asks anybody.

    Args:
        purifiers: who will ask.
        workspace: whose journal is used, and whose recipe unless another is named.
        recipe: names teachers and judges.
        on_progress: see `builders.asker.Asker`.
        max_cost_usd: in place of the recipe's ``build.max_cost_usd``, which None leaves (US dollars).
        max_requests: likewise.

    Raises:
        InputError: there is no recipe, or it is not what it must be.
    """
    asking = [p.name for p in purifiers if Signal.LLM in p.looks_at]
    if not asking:
        return None
    if recipe is None and not (workspace.path / NAME).is_file():
        raise InputError(
            f"{asking[0]} asks teachers or judges and {workspace.path} keeps no recipe that names them: "
            "name one with --recipe FILE"
        )
    loaded, base = load_recipe(recipe or workspace.path)
    return asker_of(loaded, workspace, base, on_progress, max_cost_usd=max_cost_usd, max_requests=max_requests)


def asker_of(  # noqa: PLR0913  the last by name only
    recipe: Recipe,
    workspace: Workspace,
    base: Path,
    on_progress: OnProgress | None = None,
    *,
    max_cost_usd: float | None = None,
    max_requests: int | None = None,
) -> Asker:
    """The recipe's teachers and judges, asked with the limits of its ``build`` section where no other is given."""
    from raffinate.run import serving

    settings = recipe.build.settings(base)
    settings = replace(
        settings,
        max_cost_usd=settings.max_cost_usd if max_cost_usd is None else max_cost_usd,
        max_requests=settings.max_requests if max_requests is None else max_requests,
    )
    return Asker(workspace, (*recipe.teachers, *recipe.judges), settings, on_progress, lambda: serving(recipe))


def who_judges(names: Sequence[str]) -> Sequence[str]:
    """Of several methods, those that ``--judge`` is for: who asks one judge, else who asks some, else all."""
    fields = {name: method(name).model_fields for name in names}
    kinds = ([name for name in names if key in fields[name]] for key in ("judge", "judges"))
    return next((found for found in kinds if found), names)


def with_judges(name: str, settings: dict[str, Any], judges: Sequence[str]) -> dict[str, Any]:
    """The settings of a method, with those who are to judge under the name it has for them.

    Raises:
        InputError: the method asks nobody, or only one and several are given.
    """
    fields = method(name).model_fields
    if "judges" in fields:
        return {**settings, "judges": tuple(judges)}
    if issubclass(method(name), Combined):
        raise InputError(
            f"{name} asks through the methods in it: leave --judge out, and name the judge there, "
            f"like {{method: aggregate, judge: {judges[0]}}}"
        )
    if "judge" not in fields:
        raise InputError(f"{name} asks nobody: leave --judge out")
    if len(judges) > 1:
        raise InputError(f"{name} asks one judge: give --judge once")
    return {**settings, "judge": judges[0]}


def estimates_of(
    purifiers: Sequence[Purifier], choose: Callable[[Purifier], object]
) -> dict[str, list[TeacherEstimate]]:
    """What each method that asks would ask, per teacher or judge; nobody is asked.

    Args:
        purifiers: equipped; those that ask nobody are left out.
        choose: lets a method choose, as it is meant to.

    Raises:
        InputError: all of them ask nobody.
    """
    from builders.estimator import Estimator

    found = {}
    for purifier in purifiers:
        if purifier.equipment.asker is not None:
            estimator = Estimator(purifier.equipment.asker)
            choose(purifier.equipped(replace(purifier.equipment, asker=estimator)))
            found[purifier.name] = estimator.estimates()
    if not found:
        raise InputError(f"{', '.join(p.name for p in purifiers)}: nobody is asked, so there is nothing to estimate")
    return found
