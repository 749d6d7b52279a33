"""Texts into token ids: a prompt that is too long loses the beginning of its question, never its prefix or options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from schemas.layout import EXPLAIN, PREDICT

PREFIX = re.compile(rf"{PREDICT}|{EXPLAIN}|explain \d+: ")
ANSWER_LINE = "\nThe answer is "

Ids = list[int]


class Encoder:
    """Tokenizes prompts and targets for one student, and counts what it had to cut.

    A seq2seq prompt is ``prefix question </s>``; a decoder's is ``<s> prefix question \\n``, or the same inside its
    chat template. A target ends in the end token, unless it was cut.
    """

    def __init__(self, tokenizer: Any, *, is_seq2seq: bool, max_input: int, max_target: int, chat: bool) -> None:
        self.tokenizer = tokenizer
        self.max_input, self.max_target = max_input, max_target
        self.cut_prompts = self.cut_targets = 0
        self.end: int = tokenizer.eos_token_id
        self.before, self.after = self._around(is_seq2seq, chat)

    def _around(self, is_seq2seq: bool, chat: bool) -> tuple[Ids, Ids]:
        """The ids before and after the prompt's own."""
        if not is_seq2seq and chat and getattr(self.tokenizer, "chat_template", None):
            turn = [{"role": "user", "content": "QUESTION"}]
            text = self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
            before, _, after = text.partition("QUESTION")
            head, tail = self._ids([before, after])
            return head, tail
        bare = self._ids(["a"])[0]
        whole = list(self.tokenizer("a").input_ids)
        start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        return whole[:start], whole[start + len(bare) :] if is_seq2seq else self._ids(["\n"])[0]

    def _ids(self, texts: Sequence[str]) -> list[Ids]:
        if not texts:
            return []
        found: list[Ids] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids
        return found

    def prompts(self, texts: Sequence[str]) -> list[Ids]:
        """One list of ids per prompt (prefix included), at most ``max_input`` long."""
        split = [_split(text) for text in texts]
        prefixes = self._distinct(p for p, _ in split)
        bodies = self._distinct(b for _, b in split)
        return [self._prompt(prefixes[p], bodies[b]) for p, b in split]

    def _prompt(self, prefix: Ids, body: Ids) -> Ids:
        room = max(self.max_input - len(self.before) - len(prefix) - len(self.after), 1)
        self.cut_prompts += len(body) > room
        return [*self.before, *prefix, *body[-room:], *self.after]

    def targets(self, texts: Sequence[str]) -> list[Ids]:
        """One list of ids per target, at most ``max_target`` long; of a cut one, a last answer line is kept."""
        ids = self._distinct(texts)
        return [self._target(ids[text], text) for text in texts]

    def _target(self, ids: Ids, text: str) -> Ids:
        if len(ids) < self.max_target:
            return [*ids, self.end]
        self.cut_targets += 1
        at = text.rfind(ANSWER_LINE)
        if at <= 0:
            return ids[: self.max_target]
        line = [*self._ids([text[at:]])[0], self.end][-self.max_target :]
        return [*ids[: self.max_target - len(line)], *line]

    def _distinct(self, texts: Any) -> dict[str, Ids]:
        """The ids of each text, tokenized once however often it occurs."""
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, self._ids(distinct), strict=True))

    def text(self, ids: Sequence[int]) -> str:
        """What ids say, special tokens left out."""
        said: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return said.strip()


def _split(prompt: str) -> tuple[str, str]:
    found = PREFIX.match(prompt)
    return (found.group(), prompt[found.end() :]) if found else ("", prompt)
