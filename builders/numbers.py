r"""Exact numbers out of text: one canonical form, and the number that a phrase states.

The canonical form is described in `builders.read_answer`. LaTeX beyond fractions (``\sqrt{16}``, ``2^{10}``) is handed
to math-verify in a process of its own, started only then, which an expression that takes too long ends: its own time
limit rests on a signal that works on the main thread only, and stops no arithmetic on huge numbers.
"""

from __future__ import annotations

import atexit
import re
import subprocess
import sys
import threading
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

MAX_LENGTH = 200
MAX_EXPONENT = 300

_CURRENCY = r"(?:[$€£¥₹]|(?:USD|EUR|GBP|Rs\.?|US\$)\s*)?"
_UNIT = r"(?:\s*%|\s*(?:[a-zA-Z°µ²³$€£¥₹][a-zA-Z°µ²³.]*)(?:[\s/-][a-zA-Z²³]+)?(?:\^?[23])?)?"
_PLAIN = re.compile(
    rf"(?P<sign>[+-]?)\s*{_CURRENCY}\s*(?P<number>[+-]?(?:\d{{1,3}}(?:,\d{{3}})+|\d+)?(?:\.\d*)?)"
    rf"(?:\s*[x*×]\s*10\s*\^?\s*\(?(?P<power>[+-]?\d{{1,4}})\)?|[eE](?P<exponent>[+-]?\d{{1,4}}))?"
    rf"(?:\s*/\s*(?P<below>\d+(?:\.\d+)?))?{_UNIT}\.?"
)
_MIXED = re.compile(r"(?P<sign>-?)\s*(?P<whole>\d+)\s+(?P<above>\d+)\s*/\s*(?P<below>\d+)" + _UNIT + r"\.?")
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{\s*(-?[\d.,]+)\s*\}|(\d))\s*(?:\{\s*(-?[\d.,]+)\s*\}|(\d))")
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit|operatorname)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"\\[,!;: ]|\\q?quad\b|\\left\b|\\right\b|~|\{,\}(?=\d)")
_SUM = re.compile(r"[\d.,\s()+\-*/x×÷$]+")
_COMPUTES = re.compile(r"\\(?:sqrt|pi|log|ln)|\^")
_TIMES = re.compile(r"\\(?:times|cdot)\b")
_BRACED_POWER = re.compile(r"\^\s*\{\s*([+-]?\d+)\s*\}")
_DIGIT = re.compile(r"\d")
_WRAPPING = " \t\r\n*_`\"'"
_DASHES = str.maketrans({"−": "-", "–": "-", "‐": "-", "\u00a0": " ", "\u202f": " "})
_TOKEN = re.compile(
    r"(?:(?<![\w.)\]])[-−]\s?)?[$€£]?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d{1,3}(?![A-Za-z\d]))?(?:\s?/\s?\d+(?![\d.]))?"
)
_GROUPED = re.compile(r"(?<![\d.,/])[1-9]\d{0,2}(?: \d{3})+(?!\s?/|-|\d)")  # 3 400, not 3 100/200 or 12 200-kilobyte
_MINUS = re.compile(r"(?:^minus|\bnegative)\s+(?=[$€£]?\d)", re.IGNORECASE)
_SEVERAL = re.compile(
    r"\W*between\s|\W*(?:[a-z]\s*=\s*)?\W*\d[\d,.]*(?:\s+[a-z]+)?\s+(?:or|and|to)\s+(?:[a-z]\s*=\s*)?\W*\d"
    r"|\W*\d+\s?:\s?\d",
    re.IGNORECASE,
)
_LATEX = re.compile(
    r"(?:\\(?:[dt]?frac|sqrt|times|cdot|div)(?![A-Za-z])|[\d\s.,+\-*/(){}\[\]]|\^(?:\d|\{-?\d{1,3}\}))+"
)


def canonical_number(text: str) -> str | None:
    """Return the canonical text of the number that ``text`` states and nothing else, or None.

    A currency sign before it, a percent sign or a unit of up to two words after it are dropped.
    """
    if len(text) > MAX_LENGTH or not _DIGIT.search(text):
        return None
    value = _plain_value(_clean(text))
    if value is not None:
        return _canonical(value)
    return _latex_value(text) if "\\" in text or "^" in text else None


def number_in(said: str, last: bool = False) -> str | None:
    """Return the canonical number that a phrase comes to, or None.

    The whole phrase if it is a number; else what follows its last ``=``; else its first number, or its last one with
    ``last``. Two numbers side by side (``5 or 6``, ``2 hours and 30 minutes``, ``3:4``) are no answer.
    """
    said = _MINUS.sub("-", said.strip(_WRAPPING))
    whole = canonical_number(said.strip("$()[]")) if len(said) <= MAX_LENGTH else None
    if whole is not None:
        return whole
    if not last and _SEVERAL.match(said):
        return None
    _, equals, right = said.rpartition("=")
    if equals and (value := canonical_number(right.strip(_WRAPPING + "$()[]\\")) or _token(right, last=False)):
        return value
    unsettled = _COMPUTES.search(said) or _SUM.fullmatch(said.rstrip("."))  # "136 - 27" does not say what it comes to
    return None if unsettled else _token(said, last)


def _token(said: str, last: bool) -> str | None:
    tokens = _TOKEN.findall(_clean(said))
    return canonical_number(tokens[-1 if last else 0].rstrip(",")) if tokens else None


def _clean(text: str) -> str:
    """Turn the LaTeX that only decorates a number into plain text."""
    text = text.translate(_DASHES).strip(_WRAPPING)
    text = _GROUPED.sub(lambda m: m[0].replace(" ", ""), text)
    if "\\" in text or "{" in text:
        text = _TEXT_COMMAND.sub(r" \1", text)
        text = _FRACTION.sub(lambda m: f" {m[1] or m[2]}/{m[3] or m[4]}", text)
        text = _SPACING.sub("", text).replace("\\$", "$").replace("\\%", "%")
        text = _BRACED_POWER.sub(r"^\1", _TIMES.sub("×", text))
    return text.strip().strip("$").strip()


def _plain_value(text: str) -> Fraction | None:
    text = re.sub(r"^-\s+(?=\d)", "-", text)
    if mixed := _MIXED.fullmatch(text):
        return _mixed_value(mixed)
    match = _PLAIN.fullmatch(text)
    if match is None or not _DIGIT.search(match["number"]):
        return None
    if match["sign"] and match["number"][0] in "+-":
        return None
    power = int(match["power"] or match["exponent"] or 0)
    if abs(power) > MAX_EXPONENT:
        return None
    value = Fraction(Decimal(match["number"].replace(",", ""))) * Fraction(10) ** power
    if match["below"] is not None:
        divisor = Fraction(match["below"])
        if not divisor:
            return None
        value /= divisor
    return -value if match["sign"] == "-" else value


def _mixed_value(mixed: re.Match[str]) -> Fraction | None:
    """Return the value of ``3 1/2``."""
    below = int(mixed["below"])
    if below == 0:
        return None
    value = int(mixed["whole"]) + Fraction(int(mixed["above"]), below)
    return -value if mixed["sign"] else value


def _canonical(value: Fraction) -> str:
    """Write ``value`` as a finite decimal if it has one, else as a fraction in lowest terms."""
    below, twos, fives = value.denominator, 0, 0
    while below % 2 == 0:
        below, twos = below // 2, twos + 1
    while below % 5 == 0:
        below, fives = below // 5, fives + 1
    if below != 1:
        return f"{value.numerator}/{value.denominator}"
    places = max(twos, fives)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    whole = digits if not places else f"{digits[:-places]}.{digits[-places:]}"
    return f"-{whole}" if value < 0 else whole


@lru_cache(maxsize=4096)
def _latex_value(text: str) -> str | None:
    """Return the rational value of a LaTeX expression by math-verify, or None: irrational, unknown or too large."""
    text = text.translate(_DASHES).strip(_WRAPPING + "$")
    text = _SPACING.sub("", _TEXT_COMMAND.sub("", text)).strip()
    if len(text) > MAX_LENGTH or text.count("^") > 3 or not _LATEX.fullmatch(text):
        return None
    value = _LATEX_WORKER.value(" ".join(text.split()))
    return None if value is None else _canonical(Fraction(value))


class _LatexWorker:
    """A process that computes what LaTeX comes to (`builders.latex_worker`), started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def value(self, line: str) -> str | None:
        """What it says; None where the expression has no rational value, or ends it."""
        with self._lock:
            process = self._process = self._process or self._start()
            assert process.stdin and process.stdout
            said = ""
            with suppress(OSError):  # somebody killed it
                process.stdin.write(line + "\n")
                process.stdin.flush()
                said = process.stdout.readline()
            if not said:
                self._end()
            return said.strip() or None

    def _start(self) -> subprocess.Popen[str]:
        atexit.register(self._end)
        command = [sys.executable, "-P", str(Path(__file__).with_name("latex_worker.py"))]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)

    def _end(self) -> None:
        atexit.unregister(self._end)
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with suppress(OSError):
                process.communicate()


_LATEX_WORKER = _LatexWorker()
