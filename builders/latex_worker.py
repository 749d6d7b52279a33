"""Reads LaTeX expressions, one a line, and writes the rational value of each by math-verify, or nothing.

Run as a process of its own by `builders.numbers`: sympy may compute for ever, in code that no exception reaches, so an
expression that takes too long ends this process.
"""

from __future__ import annotations

import logging
import signal
import sys
from fractions import Fraction

LIMIT_S = 2.0  # CPU time of one expression: a busy machine reads the same


def main() -> None:
    """Serve until the pipe is closed."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns about the time limit we replace
    value("1")  # its parser makes its tables at first use
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
        print(value(line.strip()) or "", flush=True)
        signal.setitimer(signal.ITIMER_PROF, 0)


def value(text: str) -> str | None:
    """The value as ``n`` or ``n/d``; None if it is irrational, unknown or too large."""
    from math_verify import LatexExtractionConfig, parse

    try:
        parsed = parse(f"${text}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=None)
        found = parsed[0] if parsed and not isinstance(parsed[0], str) else None
        if found is None or found.is_rational is not True:
            return None
        return str(Fraction(str(found.doit().simplify())))
    except (ValueError, TypeError, ArithmeticError, AttributeError, RecursionError):
        return None


if __name__ == "__main__":
    main()
