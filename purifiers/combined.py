"""What purifiers made of other purifiers share.

The inner ones are named in the settings, and are fitted, saved and equipped with the outer one.

An inner method is written as in a recipe: its name, or a mapping of ``method`` and its settings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy.typing as npt
from pydantic import PrivateAttr, ValidationError, model_validator

from purifiers.base import Purifier, Signal
from purifiers.equipment import Equipment
from schemas.corpus import Corpus
from schemas.errors import InputError, nearest

Inner = str | dict[str, Any]


def made(name: Inner) -> Purifier:
    """The unfitted purifier that a setting names.

    Raises:
        InputError: there is no such method, or it has no such setting.
    """
    from purifiers.registry import method  # it lists this module's classes

    settings = {"method": name} if isinstance(name, str) else dict(name)
    cls = method(str(settings.pop("method", "")))
    try:
        return cls(**settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            key, known = str(first["loc"][0]), list(cls.model_fields)
            has = ", ".join(known) or "none"
            raise InputError(f"{cls.name} has no setting '{key}'{nearest(key, known)}; it has {has}") from None
        raise InputError(f"{cls.name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


class Combined(Purifier, ABC):
    """A purifier of others; `inner` names them."""

    learns = True

    _parts: dict[str, Purifier] = PrivateAttr(default_factory=dict)

    @abstractmethod
    def inner(self) -> dict[str, Inner]:
        """The inner methods by the names of their settings."""

    @model_validator(mode="after")
    def _made(self) -> Self:
        try:
            self._parts = {key: made(name) for key, name in self.inner().items()}
        except InputError as error:
            raise ValueError(str(error)) from None
        for part in self._parts.values():
            if not part.publishable or not part.chooses:
                raise ValueError(f"{part.name} cannot be combined: it makes no choice that can be published")
        return self

    @property
    def looks_at(self) -> frozenset[Signal]:
        """The signals of the inner ones too."""
        return self.signals.union(*(part.looks_at for part in self._parts.values()))

    @property
    def needs_fit(self) -> bool:
        """Whether an inner one learns."""
        return any(part.needs_fit for part in self._parts.values())

    @property
    def gives_chances(self) -> bool:
        """Whether all inner ones do."""
        return all(part.gives_chances for part in self._parts.values())

    def _with(self, parts: dict[str, Purifier]) -> Self:
        copy = self.model_copy()
        copy._parts = parts
        return copy

    def equipped(self, equipment: Equipment) -> Self:
        """The inner ones are handed the same."""
        parts = {key: part.equipped(equipment) for key, part in self._parts.items()}
        return super().equipped(equipment)._with(parts)

    def fit(self, corpus: Corpus) -> Self:
        """Fit the inner ones."""
        parts = {key: part.fit(corpus) if part.needs_fit else part for key, part in self._parts.items()}
        copy = self._with(parts)
        copy._teachers = corpus.teachers
        return copy

    @property
    def state_version(self) -> int:
        """The sum of theirs, which grows with any of them."""
        return sum(part.state_version for part in self._parts.values())

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What the inner ones learned."""
        return {f"{key}.{name}": array for key, part in self._parts.items() for name, array in part.state().items()}

    def restore(self, state: Mapping[str, npt.NDArray[Any]], teachers: tuple[str, ...]) -> Self:
        """See `Purifier.restore`."""
        parts = {
            key: part.restore(
                {n.removeprefix(f"{key}."): a for n, a in state.items() if n.startswith(f"{key}.")}, teachers
            )
            for key, part in self._parts.items()
        }
        copy = self._with(parts)
        copy._teachers = teachers
        return copy
