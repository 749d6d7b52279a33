"""How far the words of a rationale support each possible answer. Lexical, so that it needs no model.

Per rationale and option, each in 0..1:

    words    share of the option's words among the rationale's last `TAIL_WORDS`; a word that n options share counts 1/n
    label    share of the option labels named in the text, "(B)", that are this one
    verbatim where the option's text last stands in the rationale, 0 = not at all, 1 = at its end
    numbers  share of the option's numbers (an option with one or two) among the rationale's last `TAIL_NUMBERS`

and per rationale the number of false equations, such as "3 * 4 = 13": a calculation shows its own mistakes.
The options are the question's choices; where it has none, the answers that the teachers gave.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SIGNS = ("words", "label", "verbatim", "numbers")
TAIL_WORDS, TAIL_NUMBERS = 60, 8
TAIL_CHARACTERS = 1000
"""Where the last words are looked for."""

WORD = re.compile(r"[^\W_]+(?:[.'/-][^\W_]+)*")
LABEL = re.compile(r"\(([A-Z])\)|\b([A-Z])[.)](?=\s|$)")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
OPERAND = r"\$?\d{1,12}(?:\.\d{1,9})?"
OPERATOR = r" ?(?:[-+*/×÷]|\\times|\\cdot|\\div) ?"
EQUATION = re.compile(
    rf"(?<![\w.^*/+(=-])(?<![*/+=-] )({OPERAND}(?:{OPERATOR}{OPERAND}){{1,4}}) ?= ?(-?{OPERAND})"
    r"(?![\w.,%^*/(]|[-+]\d| ?[-+*/×÷^\\])"
)
OPERATORS = {"\\times": "*", "\\cdot": "*", "×": "*", "\\div": "/", "÷": "/"}

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Rationale:
    """What is looked up in a rationale, taken out of its text once."""

    text: str
    tail: frozenset[str]
    labels: Counter[str]
    numbers: tuple[float, ...]

    @classmethod
    def of(cls, text: str) -> Rationale:
        """Take a text apart."""
        flat = _flat(text)
        return cls(
            flat,
            frozenset(WORD.findall(flat[-TAIL_CHARACTERS:])[-TAIL_WORDS:]),
            Counter(a or b for a, b in LABEL.findall(text)),
            tuple(_numbers(text)[-TAIL_NUMBERS:]),
        )


def support(rationales: Sequence[str], options: dict[str, str]) -> Floats:
    """(R, K, `SIGNS`) of R rationales of a question for its K options (label -> text)."""
    read = [Rationale.of(text) for text in rationales]
    words = [set(WORD.findall(_flat(text))) for text in options.values()]
    shared = Counter(word for option in words for word in option)
    signs = np.zeros((len(read), len(options), len(SIGNS)), np.float32)
    for k, (label, text) in enumerate(options.items()):
        weight = {word: 1 / shared[word] for word in words[k]}
        flat, numbers = _flat(text).strip(), _numbers(text)
        for r, rationale in enumerate(read):
            signs[r, k] = _signs(rationale, label, weight, flat, numbers if len(numbers) <= 2 else [])
    return signs


def _signs(
    rationale: Rationale, label: str, weight: dict[str, float], flat: str, numbers: list[float]
) -> tuple[float, float, float, float]:
    named = sum(rationale.labels.values())
    said = sum(w for word, w in weight.items() if word in rationale.tail)
    last = rationale.text.rfind(flat) if flat else -1
    near = sum(any(abs(x - y) <= 0.005 * abs(y) + 1e-9 for x in rationale.numbers) for y in numbers)
    return (
        said / sum(weight.values()) if weight else 0.0,
        rationale.labels[label] / named if named else 0.0,
        0.0 if last < 0 else (last + len(flat)) / len(rationale.text),
        near / len(numbers) if numbers else 0.0,
    )


def false_equations(text: str) -> int:
    """Equations between plain numbers whose sides differ by over 2 % (rounding is no mistake).

    Only those that stand alone are read: what follows "=", "^" or a bracket may be part of something longer.
    """
    if "=" not in text:
        return 0
    wrong = 0
    for left, right in EQUATION.findall(text.replace(",", "") if re.search(r"\d,\d{3}\b", text) else text):
        value, said = _value(left), float(right.replace("$", ""))
        wrong += value is not None and abs(value - said) > 0.02 * abs(said) + 0.005
    return wrong


def _value(expression: str) -> float | None:
    """The value of numbers joined by + - * /, products first; None if something is divided by zero."""
    for sign, plain in OPERATORS.items():
        expression = expression.replace(sign, plain)
    tokens = re.findall(r"\d+(?:\.\d+)?|[-+*/]", expression)
    terms = [float(tokens[0])]
    for operator, number in zip(tokens[1::2], map(float, tokens[2::2]), strict=True):
        if operator in "+-":
            terms.append(number if operator == "+" else -number)
        elif operator == "*":
            terms[-1] *= number
        elif number == 0:
            return None
        else:
            terms[-1] /= number
    return sum(terms)


def _flat(text: str) -> str:
    return " ".join(text.lower().split())


def _numbers(text: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(text.replace(",", ""))]
