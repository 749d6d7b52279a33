"""The methods by name: ours, and what installed packages offer through the entry point ``raffinate.purifiers``."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from purifiers.base import Purifier
from schemas.errors import InputError, nearest

METHODS = {
    "keep-all": "purifiers.keep_all:KeepAll",
    "random": "purifiers.random_teacher:RandomTeacher",
    "best-teacher": "purifiers.best_teacher:BestTeacher",
    "majority": "purifiers.majority:Majority",
    "gold-first": "purifiers.gold_first:GoldFirst",
    "oracle": "purifiers.oracle:Oracle",
    "consensus": "purifiers.consensus:Consensus",
    "classifier": "purifiers.classifier:Classifier",
    "similarity": "purifiers.similarity:Similarity",
    "verified": "purifiers.verified:Verified",
    "plackett-luce": "purifiers.plackett_luce:PlackettLuce",
    "teacher-selection": "purifiers.teacher_selection:TeacherSelection",
    "comprehension": "purifiers.comprehension:Comprehension",
    "utility": "purifiers.utility:Utility",
    "gate": "purifiers.gate:Gate",
    "filtered": "purifiers.filtered:Filtered",
    "aggregate": "purifiers.aggregate:Aggregate",
    "peer-review": "purifiers.peer_review:PeerReview",
    "pairwise": "purifiers.pairwise:Pairwise",
    "debate": "purifiers.debate:Debate",
}


def names() -> list[str]:
    """All methods that can be asked for, ours first."""
    return [*METHODS, *sorted(e.name for e in entry_points(group="raffinate.purifiers") if e.name not in METHODS)]


def method(name: str) -> type[Purifier]:
    """The class of a method.

    Raises:
        InputError: no such method (names the closest one), or an installed one that is broken.
    """
    if name in METHODS:
        module, cls = METHODS[name].split(":")
        found = getattr(import_module(module), cls)
    else:
        offered = {e.name: e for e in entry_points(group="raffinate.purifiers")}
        if name not in offered:
            raise InputError(f"there is no method '{name}'{nearest(name, names())}; there are {', '.join(names())}")
        try:
            found = offered[name].load()
        except Exception as error:  # the code of others can raise anything
            raise InputError(f"the installed method '{name}' cannot be loaded: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Purifier)):
        raise InputError(f"the installed method '{name}' is no purifiers.base.Purifier: ask its author")
    return found


def described() -> tuple[list[dict[str, Any]], list[str]]:
    """Every method with what it looks at and its settings, for people who choose one; and what is wrong with others."""
    found, problems = [], []
    for name in names():
        try:
            found.append(_described(name, method(name)))
        except InputError as error:
            problems.append(str(error))
    return found, problems


def _described(name: str, cls: type[Purifier]) -> dict[str, Any]:
    settings = [
        {"name": key, "default": field.default, "about": field.description or ""}
        for key, field in cls.model_fields.items()
    ]
    about = (cls.__doc__ or "").strip().split("\n")[0]
    facts = {"signals": sorted(cls.signals), "learns": cls.learns, "publishable": cls.publishable}
    return {"method": name, **facts, "about": about, "settings": settings}
