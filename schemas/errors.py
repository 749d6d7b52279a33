"""What can go wrong, as a user sees it.

    RaffinateError          one clear sentence; the command prints it and exits 1, without a traceback
    ├── InputError          a file, row, field or recipe key is not what it must be
    ├── WorkspaceError      the workspace is locked, missing, damaged or made by a newer version
    ├── TeacherError        an endpoint cannot be reached, refuses the key, or does not know the model
    └── MissingExtraError   an optional package is needed: says which extra brings it

    KeyboardInterrupt       Ctrl-C
    └── Interrupted         where more can be said than that the same command goes on

Every message says what is wrong, where, and what to do. Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RaffinateError(Exception):
    """A mistake or an outage that the user can act on, told in one sentence."""


class InputError(RaffinateError):
    """The input is not what it must be; names the file, row and field."""


class WorkspaceError(RaffinateError):
    """The workspace cannot be used as asked; names the folder and the way out."""


class TeacherError(RaffinateError):
    """A teacher's endpoint cannot be used; names the teacher and the URL."""


class MissingExtraError(RaffinateError):
    """An optional package is not installed; names the extra that brings it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs packages that are not installed: run  pip install 'raffinate[{extra}]'")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a sentence on what is kept and what starts again."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the known word closest to ``word``, or ``""`` if none is close."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{match[0]}'?)" if match else ""
