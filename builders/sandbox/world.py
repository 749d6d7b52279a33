"""The sandbox's world: questions without end, exact gold, and reading a question back out of any prompt.

Why not the library reasoning-gym: it gives a question and its gold answer, but not the steps between them, and what
it asks cannot be solved again from the text alone. A simulated teacher needs both: steps to write a rationale (and to
go wrong in), and the question's text as the only thing that reaches the server. Here the server keeps no state: it
reads the question out of the prompt, whatever the template round it, and solves it.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from builders.sandbox.mixtures import FAMILIES, QUALITIES, mixture
from builders.sandbox.numbers import ARITHMETIC, CLOCK, PERCENT, SETS, UNITS
from builders.sandbox.problem import Domain, Problem
from builders.sandbox.relations import KINSHIP, LETTERS, ORDERING, WEEKDAY
from schemas.errors import InputError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

DOMAINS = {d.name: d for d in (ARITHMETIC, PERCENT, UNITS, CLOCK, SETS, WEEKDAY, ORDERING, KINSHIP, LETTERS)}
MIXTURES = {d.name: d for family in FAMILIES for d in (mixture(family, 3), mixture(family, 2))}
"""Domains that are asked only where they are named: see `builders.sandbox.mixtures`."""
EVERY = ChainMap(DOMAINS, MIXTURES)

_MIN_MISTAKES = 2
"""A question is kept only if this many flaws end in a wrong answer, so that teachers can differ in their errors."""
_MAX_TRIES = 1000
"""So many tries in a row without a new question mean that the domain has hardly one left."""

# "(A) text", "A. text" and "A) text", on lines of their own or in a row
_OPTION = re.compile(r"(?<!\w)\(?([A-Z])[.)]\s+(\w+)")
_SHOWN = re.compile(
    r"\b(?i:correct|right|gold) (?i:answer)(?: is|:)[\s*]*"
    r"(?:\(?(?P<label>[A-Z])\b|(?P<number>-?\d+)\b|(?P<text>\w+)(?=\s*(?:[.\n]|$)))"
)
_SPELT = re.compile(
    rf"[a-z]{{2,3}}|{'|'.join(QUALITIES)}"
)  # what letters and mixtures can end in; "the correct answer is correct" shows none


def read(prompt: str) -> Problem | None:
    """Read the last sandbox question in a prompt, with its options and the gold answer if the prompt tells it.

    What stands before the question (instructions, solved examples) is ignored. None if no question is found.
    """
    found = [(match, domain) for domain in EVERY.values() if (match := domain.parse(prompt))]
    if not found:
        return None
    match, domain = max(found, key=lambda pair: pair[0].start())
    after = prompt[match.end() :]
    labels = _options(after) if domain.options else {}
    return Problem(domain, match.group(), match.groups(), labels, _shown(after, domain.task, labels))


def _options(after: str) -> dict[str, str]:
    """Option text -> label. Labels must run A, B, C, ...: whatever breaks the row is not an option any more."""
    labels: dict[str, str] = {}
    for label, text in _OPTION.findall(after):
        if label != chr(ord("A") + len(labels)):
            break
        labels[text] = label
    return labels


def _shown(after: str, task: str, labels: dict[str, str]) -> str | None:
    """The gold answer that the prompt shows, as an option's text or the answer itself; None if it shows none."""
    match = _SHOWN.search(after)
    if not match:
        return None
    text = match["text"] or ""
    if task == "choice":
        by_label = {label: option for option, label in labels.items()}
        return by_label.get(match["label"]) or (text if text in labels else None)
    return match["number"] if task == "number" else text if _SPELT.fullmatch(text) else None


def questions(
    n: int,
    seed: int = 0,
    domains: Sequence[str] | None = None,
    splits: tuple[float, float, float] = (0.7, 0.1, 0.2),
) -> pa.Table:
    """Make ``n`` different questions with gold, as a table with the columns of `schemas.tables.QUESTIONS`.

    The same arguments give the same table, and a larger ``n`` only appends to it. ``splits`` are the shares of
    train, validation and test; each question draws its split by itself.

    Raises:
        InputError: an unknown domain, shares that do not sum to 1, or more questions than the domains have.
    """
    import pyarrow as pa

    from schemas.tables import QUESTIONS

    chosen = [_domain(name) for name in domains] if domains is not None else list(DOMAINS.values())
    if not chosen or n < 0:
        raise InputError(f"sandbox questions need n >= 0 and at least one domain, not n = {n} and domains = {domains}")
    if abs(sum(splits) - 1) > 1e-6 or min(splits) < 0:
        raise InputError(f"splits are the shares of train, validation and test and must sum to 1, not {splits}")
    stream = _stream(Random(f"sandbox-{seed}"), chosen, splits)
    rows = [{"question_id": f"sandbox-{i:06}", "dataset": "sandbox", **next(stream)} for i in range(n)]
    return pa.Table.from_pylist(rows, schema=QUESTIONS.arrow)


def write_questions(path: str | Path, n: int, seed: int = 0) -> None:
    """Write `questions` to a Parquet file.

    Raises:
        InputError: as `questions`, or the file cannot be written.
    """
    import pyarrow.parquet as pq

    table = questions(n, seed)
    try:
        pq.write_table(table, path)
    except OSError as error:
        raise InputError(f"cannot write the questions to {path}: {error}") from error


def _domain(name: str) -> Domain:
    if name not in EVERY:
        raise InputError(f"the sandbox has no domain '{name}'{nearest(name, EVERY)}: it has {', '.join(EVERY)}")
    return EVERY[name]


def _stream(rng: Random, domains: list[Domain], splits: tuple[float, float, float]) -> Iterator[dict[str, Any]]:
    """Rows without id, one after the other, none twice; every domain is as likely as any other."""
    seen: set[str] = set()
    while True:
        problem = _draw_problem(rng, rng.choice(domains), seen)
        seen.add(problem.text)
        yield _row(rng, problem, splits)


def _draw_problem(rng: Random, domain: Domain, seen: set[str]) -> Problem:
    """A question not in ``seen`` that allows for different mistakes."""
    for _ in range(_MAX_TRIES):
        text = domain.generate(rng)
        problem = read(text)
        if text not in seen and problem is not None and len(problem.mistakes) >= _MIN_MISTAKES:
            return problem
    raise InputError(
        f"the sandbox found no new question of domain '{domain.name}' after {len(seen)} questions: "
        "ask for fewer or add domains"
    )


def _row(rng: Random, problem: Problem, splits: tuple[float, float, float]) -> dict[str, Any]:
    options = _draw_options(rng, problem)
    draw = rng.random()
    gold = problem.truth.answer
    return {
        "split": "train" if draw < splits[0] else "validation" if draw < splits[0] + splits[1] else "test",
        "task": problem.domain.task,
        "question": problem.text,
        "choices": [{"label": label, "text": text} for label, text in zip("ABCD", options, strict=False)],
        "context": None,
        "answer": "ABCD"[options.index(gold)] if options else gold,
        "domain": problem.domain.name,
    }


def _draw_options(rng: Random, problem: Problem) -> list[str]:
    """Four options in random order: the answer, what the flaws lead to, and others to fill up."""
    if problem.domain.options is None:
        return []
    options = list(dict.fromkeys([problem.truth.answer, *(d.answer for d in problem.mistakes.values())]))
    others = [text for text in problem.domain.options(problem.facts) if text not in options]
    options += rng.sample(others, max(0, 4 - len(options)))
    rng.shuffle(options)
    return options
