"""What purifiers that ask an LLM have in common: who is asked, what is shown, and that nobody's name shows.

Rationales are shown without their authors, in an order drawn by a hash of seed, question and teacher, identical ones
once. Names of teachers, headers and chat marks are taken out of the shown text (never out of what is published).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from builders.asker import Asker, Call, Said
from builders.template import Messages, Template, read_template
from purifiers.base import NO_RESPONSE, Purified, Purifier, Scores, Signal, choose
from purifiers.votes import noise
from schemas.corpus import UNREAD, Corpus
from schemas.errors import InputError

FOLDER = Path(__file__).parent / "prompts"
BLOCK = 4096
"""Questions whose calls are planned, sent and read at a time."""
QUESTION = ("question", "choices", "context", "task", "domain", "dataset")
"""What every template may use of a question."""

NAMELESS = "the author"
SHORTEST_NAME = 3
"""Shorter ids of teachers stay where they stand in a text: they are words like "a"."""
_HEADER = re.compile(
    r"\A(?:\s*(?:#{1,6}[^\n]*\n|\*\*[^*\n]{1,60}\*\*:?[ \t]*\n|<\|[^|>\n]{1,30}\|>"
    r"|(?:assistant|response|explanation|rationale|solution|answer)[ \t]*:[ \t]*))+",
    re.IGNORECASE,
)
_TAGS = re.compile(r"</?\s*explanation[^>\n]{0,40}>|<\|[^|>\n]{1,30}\|>", re.IGNORECASE)


@dataclass(frozen=True)
class Candidate:
    """A rationale as it is shown. Identical ones are one candidate with several ``columns``."""

    columns: tuple[int, ...]
    text: str
    answer: str | None

    def shown(self, task: str) -> dict[str, str | None]:
        """What a template sees of it."""
        return {"text": self.text, "answer": written(self.answer, task)}


def written(answer: str | None, task: str) -> str | None:
    """An answer as prompts write it: ``(B)`` for a choice."""
    return f"({answer})" if answer is not None and task == "choice" else answer


@dataclass(frozen=True)
class Asked:
    """One question with the rationales to show, in the order to show them in."""

    row: int
    question: dict[str, Any]
    candidates: tuple[Candidate, ...]
    gold: str | None

    @property
    def id(self) -> str:
        """The question's id."""
        return str(self.question["question_id"])

    @property
    def task(self) -> str:
        """The question's task."""
        return str(self.question["task"])


def best_of(scores: Scores, corpus: Corpus, seed: int, unheard: str, probabilities: Scores | None = None) -> Purified:
    """The best score of each question, equal ones by `noise`; where there is none, ``unheard`` says why."""
    kept = choose(scores, probabilities, ties=noise(corpus, seed))
    heard = np.asarray(corpus.usable.any(axis=1))
    rejected = {row: unheard if heard[row] else NO_RESPONSE for row in kept.rejected}
    return Purified(kept.teacher, kept.score, probabilities, rejected)


def asker_of(purifier: Purifier) -> Asker:
    """Who can be asked.

    Raises:
        InputError: nobody.
    """
    asker = purifier.equipment.asker
    if asker is None:
        raise InputError(
            f"{purifier.name} asks teachers or judges and none are at hand: use  raffinate purify  on a workspace that "
            "keeps a recipe, name one with --recipe, or hand an Asker to Purifier.equipped"
        )
    return asker


class AsksTeachers(Purifier):
    """A method that asks teachers or judges. Its prompt is a file that can be replaced."""

    signals = frozenset({Signal.QUESTION, Signal.RATIONALES, Signal.ANSWERS, Signal.LLM})
    variables: ClassVar[frozenset[str]] = frozenset()
    """What its template may use besides the question."""

    prompt: str = Field("", description="Jinja2 file of your own in place of the built-in prompt")
    max_tokens: int | None = Field(None, gt=0, description="longest reply; null = as the recipe says for who is asked")
    temperature: float | None = Field(None, ge=0, description="of those asked; null = as the recipe says")
    seed: int = Field(0, description="order in which rationales are shown; breaks ties")

    @property
    def asker(self) -> Asker:
        """Who can be asked.

        Raises:
            InputError: nobody.
        """
        return asker_of(self)

    def template(self) -> Template:
        """The prompt: the built-in one, or the user's own.

        Raises:
            InputError: there is no such file, or it is no valid template.
        """
        own = str(self.equipment.folder / Path(self.prompt).expanduser()) if self.prompt else self.name
        name, source = read_template(own, FOLDER, (self.name,))
        return Template(name, source, {*QUESTION, *self.variables})

    def render(self, template: Template, question: dict[str, Any], **values: Any) -> Messages:
        """The messages that ask about a question.

        Raises:
            InputError: the template fails on it.
        """
        given = {name: question[name] for name in QUESTION} | values
        try:
            return template.render(given)
        except Exception as error:  # a template can raise anything
            raise InputError(f"prompt '{template.name}', question '{question['question_id']}': {error}") from None

    def ask(self, calls: Sequence[Call], share: float) -> list[Said]:
        """See `Asker.ask`."""
        return self.asker.ask(calls, max_tokens=self.max_tokens, temperature=self.temperature, share=share)


class ShowsGold(AsksTeachers):
    """A method that may show gold to those it asks, which then is one of its signals."""

    gold: bool = Field(False, description="show gold to those asked, on train questions")

    @property
    def looks_at(self) -> frozenset[Signal]:
        """Gold, too, where it is shown."""
        return self.signals | {Signal.GOLD} if self.gold else self.signals


class Judged(ShowsGold):
    """A method whose judges each judge the rationales of others."""

    variables: ClassVar[frozenset[str]] = frozenset({"rationales", "gold"})

    judges: tuple[str, ...] = Field((), description="who judges; none = the teachers, each the others' rationales")

    def judges_of(self, corpus: Corpus, at_a_time: int) -> list[str]:
        """Those named, else the corpus's teachers that can be asked.

        Args:
            corpus: whose rationales are judged.
            at_a_time: rationales shown at a time; a teacher among their authors is not asked.

        Raises:
            InputError: a name is unknown, or nobody is left to judge some rationales.
        """
        asker = self.asker
        found = [asker.check(name) for name in self.judges] or [t for t in corpus.teachers if t in asker.teachers]
        if set(found) <= set(corpus.teachers) and len(found) <= at_a_time:
            raise InputError(
                f"{self.name} lets nobody judge a rationale of its own, and with {', '.join(found) or 'no teacher'} "
                f"asked nobody is left: it takes {at_a_time + 1} teachers of the recipe, or a judge that is no teacher"
            )
        return found


def blocks(corpus: Corpus, seed: int) -> Iterator[tuple[list[Asked], float]]:
    """The questions with their rationales, `BLOCK` at a time, and which share of all they are the end of (0..1)."""
    for start in range(0, len(corpus), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(corpus)))
        yield _block(corpus.take(rows), rows, seed), (start + len(rows)) / len(corpus)


def _block(part: Corpus, rows: npt.NDArray[np.int64], seed: int) -> list[Asked]:
    questions, order = part.asked(), np.argsort(noise(part, seed), axis=1)
    row, place = np.nonzero(np.take_along_axis(part.usable, order, axis=1))
    column = order[row, place]
    texts = part.rationale_texts(row, column)
    shown: list[dict[str, Candidate]] = [{} for _ in questions]
    for i, c, text in zip(row.tolist(), column.tolist(), texts, strict=True):
        clean = nameless(text, part.teachers, questions[i])
        if not clean:
            continue
        same = " ".join(text.lower().split())
        before = shown[i].get(same)
        code = int(part.answer[i, c])
        answer = None if code == UNREAD else part.vocabulary[code].as_py()
        if before is None:
            shown[i][same] = Candidate((c,), clean, answer)
        else:
            shown[i][same] = Candidate((*before.columns, c), clean, before.answer or answer)
    golds = [None if g == UNREAD else part.vocabulary[g].as_py() for g in part.gold.tolist()]
    return [Asked(int(r), q, tuple(s.values()), g) for r, q, s, g in zip(rows, questions, shown, golds, strict=True)]


def nameless(text: str, teachers: Sequence[str], question: dict[str, Any]) -> str:
    """A rationale without what gives its author away: headers, chat marks, and the teachers' names.

    A name that the question itself speaks of stays: there it is a word like any other.
    """
    clean = _HEADER.sub("", _TAGS.sub("", text)).strip()
    asked = " ".join([question["question"], question["context"] or "", *(c["text"] for c in question["choices"])])
    for name in teachers:
        whole = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])", re.IGNORECASE)
        if len(name) >= SHORTEST_NAME and not whole.search(asked):
            clean = whole.sub(NAMELESS, clean)
    return clean
