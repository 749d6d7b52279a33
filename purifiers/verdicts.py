"""Read what judges say: a score, a vote, a confidence. What cannot be read is None: masked, never guessed.

A verdict is the line that the prompt asks for, ``Score: 4``; words may follow the number, other numbers may not.
Without it a reply counts only if it is nothing but the verdict (``4``). Two verdicts that differ are none, and so is a
number out of range or of another scale (``11/5``, ``8/10``; ``0.9`` for a confidence in per cent).
"""

from __future__ import annotations

import re

_NUMBER = r"(?<![\w.,-])(-?\d+(?:\.\d+)?)(?![\w,]|\.\d)"
_SCALE = r"(?:\s*(?:/|out\s+of)\s*(\d+(?:\.\d+)?))?\s*(%?)"
_DECORATION = " \t\r\n*_\"'`$.,;:!()[]{}"


def score(text: str, low: float = 1, high: float = 5) -> float | None:
    """A score within ``low`` and ``high``; ``4/5`` is 4."""
    return _number(text, ("score", "rating"), low, high)


def confidence(text: str) -> float | None:
    """A confidence within 0 and 100; ``85%`` is 85."""
    value = _number(text, ("confidence",), 0, 100)
    return None if value is not None and 0 < value < 1 else value


def _number(text: str, cues: tuple[str, ...], low: float, high: float) -> float | None:
    cue = rf"\b(?:{'|'.join(cues)})\b[\s*_\"'`]*(?::|=|\bis\b)[\s*_\"'`(\[]*"
    said = re.findall(cue + r"([^\n]*)", text, re.IGNORECASE)
    rest = r"[^\d]*" if said else ""
    values = {_whole(line, rest, low, high) for line in said or [text]}
    return values.pop() if len(values) == 1 else None


def _whole(text: str, rest: str, low: float, high: float) -> float | None:
    """The number that the text consists of, its scale, its decoration and the ``rest`` (a pattern) aside."""
    match = re.fullmatch(_NUMBER + _SCALE + rest, text.strip(_DECORATION))
    if match is None or (match[2] is not None and float(match[2]) != high) or (match[3] and high != 100):
        return None
    value = float(match[1])
    return value if low <= value <= high else None


def vote(text: str) -> float | None:
    """1 for the first, 0 for the second, 0.5 for a draw."""
    said = re.findall(r"\bbetter\b[\s*_\"'`]*(?::|=|\bis\b)[\s*_\"'`(\[]*([^\n]*)", text, re.IGNORECASE)
    votes = {_VOTES.get(rest.strip(_DECORATION).lower()) for rest in said or [text]}
    return votes.pop() if len(votes) == 1 else None


_VOTES = {"first": 1.0, "the first": 1.0, "second": 0.0, "the second": 0.0}
_VOTES |= dict.fromkeys(("equal", "equally good", "both", "tie", "draw"), 0.5)
