"""Prompts are files: templates (`builders.template`) that turn a question into chat messages.

A block ``follow_up`` replaces our words for what a teacher with ``follow_up`` is asked when no answer can be
read from its reply. A template may use ``question``, ``choices`` (with ``.label`` and ``.text``), ``context``,
``task``, ``domain`` and ``dataset``; ``gold``, which makes it a teacher-forced prompt; and ``examples``, which makes
it a few-shot one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import orjson

from builders.template import Messages, Template, read_template
from schemas.errors import InputError

BUILT_IN = ("free", "teacher-forced", "few-shot")
FOLDER = Path(__file__).parent / "prompts"
_SHOWN = ("question", "choices", "context", "task", "domain", "dataset", "answer")
VARIABLES = frozenset({*_SHOWN[:-1], "gold", "examples"})
RENDERED = 4096
"""Questions whose messages are kept for the next teacher: as far as one teacher may be ahead of another."""

Question = Mapping[str, Any]
"""A row of the table `questions`."""


class Prompt:
    """One template, with the examples it shows.

    Attributes:
        name: ``free``, ... or the file's name without its ending.
        source: the template's text.
        examples: worked examples, rows with question, task, choices, context, rationale and answer.
    """

    def __init__(self, name: str, source: str, examples: Sequence[Question] = (), shots: int | None = None) -> None:
        self.name, self.source = name, source
        self.examples, self.shots = list(examples), len(examples) if shots is None else shots
        self._template = Template(name, source, VARIABLES)
        if {"follow_up"} == self._template.blocks - {"system"}:
            raise InputError(f"prompt '{name}' has a block follow_up and no block user: put the question into one")
        self._rendered = lru_cache(RENDERED)(self._render_json)  # several teachers are asked the same

    @classmethod
    def load(cls, name: str, *, examples: Sequence[Question] = (), shots: int | None = None) -> Prompt:
        """Load a built-in prompt by its name, or a user's own by its path.

        Args:
            name: one of `BUILT_IN`, or a path to a file.
            examples: worked examples of a few-shot prompt; see `builders.examples`.
            shots: how many of them each question is shown (all, by default).

        Raises:
            InputError: there is no such prompt or file, or it is no valid template.
        """
        return cls(*read_template(name, FOLDER, BUILT_IN), examples, shots)

    @property
    def gold_shown(self) -> bool:
        """Whether the gold answer of the question asked is in the prompt."""
        return "gold" in self._template.uses

    @property
    def few_shot(self) -> bool:
        """Whether the prompt shows worked examples."""
        return "examples" in self._template.uses

    @property
    def id(self) -> str:
        """Name and hash of the template: changes whenever its text does."""
        return self._template.id

    def messages(self, question: Question) -> Messages:
        """Render the chat messages that ask ``question``.

        Raises:
            InputError: the prompt shows gold and the question has none, or the template uses a missing field.
        """
        if self.gold_shown and question["answer"] is None:
            raise InputError(
                f"prompt '{self.name}' shows the gold answer and question '{question['question_id']}' has none: "
                "leave unlabelled questions out, or use the prompt 'free'"
            )
        if self.few_shot and not self.examples:
            raise InputError(f"prompt '{self.name}' shows worked examples and none were given")
        try:
            return self._rendered(orjson.dumps({name: question[name] for name in _SHOWN}))
        except Exception as error:  # a template can raise anything
            raise InputError(f"prompt '{self.name}', question '{question['question_id']}': {error}") from None

    def follow_up(self, question: Question) -> str:
        """Render the short question for the answer alone.

        Raises:
            InputError: the template uses a missing field.
        """
        if "follow_up" not in self._template.blocks:
            return _default_follow_up().messages(question)[0]["content"]
        try:
            return self._template.block("follow_up", self._values(question))
        except Exception as error:  # a template can raise anything
            raise InputError(f"prompt '{self.name}', question '{question['question_id']}': {error}") from None

    def _render_json(self, question: bytes) -> Messages:
        return self._template.render(self._values(orjson.loads(question)))

    def _values(self, question: Question) -> dict[str, Any]:
        """What a template may use."""
        values = {name: question[name] for name in _SHOWN}
        return values | {"gold": values.pop("answer"), "examples": self._shown(values) if self.few_shot else ()}

    def _shown(self, question: Question) -> list[Question]:
        """Return the examples for a question: never the question itself, nor another with the same text."""
        others = [e for e in self.examples if e["question"].strip() != question["question"].strip()]
        return others[: self.shots]


@cache
def _default_follow_up() -> Prompt:
    return Prompt("follow-up", (FOLDER / "follow-up.jinja").read_text(encoding="utf-8"))
