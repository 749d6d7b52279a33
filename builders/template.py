"""Sandboxed Jinja2 templates that make chat messages: a block ``user`` and, if it likes, a block ``system``.

A file without blocks is the user's message as a whole.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import xxhash
from jinja2 import StrictUndefined, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from schemas.errors import InputError, nearest

Messages = list[dict[str, str]]


class Template:
    """One template.

    Attributes:
        name: the file's name without its ending.
        source: the template's text.
        uses: the variables it uses.

    Raises:
        InputError: it is no valid template, or uses a variable that it may not.
    """

    def __init__(self, name: str, source: str, variables: Collection[str]) -> None:
        self.name, self.source = name, source
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
        try:
            self.uses = meta.find_undeclared_variables(environment.parse(source))
            self._template = environment.from_string(source)
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            where = f"prompt '{name}', line {line}" if line else f"prompt '{name}'"
            raise InputError(f"{where}: {error}") from None
        for unknown in sorted(self.uses - set(variables)):
            known = ", ".join(sorted(variables))
            raise InputError(f"prompt '{name}' uses '{unknown}'{nearest(unknown, variables)}; it may use {known}")

    @property
    def id(self) -> str:
        """Name and hash of the template: changes whenever its text does."""
        return f"{self.name}-{xxhash.xxh3_64_hexdigest(self.source.encode())[:8]}"

    @property
    def blocks(self) -> frozenset[str]:
        """The names of its blocks."""
        return frozenset(self._template.blocks)

    def render(self, values: dict[str, Any]) -> Messages:
        """The chat messages; a template can raise anything."""
        if not self.blocks:
            return [{"role": "user", "content": self._template.render(values).strip()}]
        return [
            {"role": role, "content": self.block(role, values)} for role in ("system", "user") if role in self.blocks
        ]

    def block(self, name: str, values: dict[str, Any]) -> str:
        """One block's text; a template can raise anything."""
        return "".join(self._template.blocks[name](self._template.new_context(values))).strip()


def read_template(name: str, folder: Path, built_in: Collection[str]) -> tuple[str, str]:
    """Name and text of a built-in template of ``folder``, or of a user's own file by its path.

    Raises:
        InputError: there is no such template or file.
    """
    path = folder / f"{name}.jinja" if name in built_in else Path(name).expanduser()
    try:
        return path.stem, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"prompt '{name}'{nearest(name, built_in)}: no such prompt and no readable UTF-8 file; built in are "
            f"{', '.join(built_in)}"
        ) from None
