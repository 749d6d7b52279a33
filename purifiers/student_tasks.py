"""What purifiers ask a student about a corpus: the loss of a rationale, and how sure it is of gold.

The prompts are those of `schemas.layout`; a rationale that a student is to read before it answers follows the question.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from purifiers.audit import SAYS_ANSWER
from purifiers.equipment import Losses, OnFit, Student, untold
from schemas.corpus import UNREAD, Corpus
from schemas.layout import EXPLAIN, PREDICT

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

BLOCK = 256
"""Pairs handed to a student at a time, for those that keep everything in memory."""
ASKING = "asking the student"
SURE = 0.5
"""Certainty of gold from which a student that has no options to choose from counts as right."""
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def golds(corpus: Corpus) -> list[str | None]:
    """What a student is to answer to each question: the option's text, or the answer itself; None without gold."""
    words, found = corpus.vocabulary.to_pylist(), []
    for options, code in zip(corpus.choice_texts(), corpus.gold.tolist(), strict=True):
        answer = None if code == UNREAD else words[code]
        found.append(options.get(answer) if options and answer is not None else answer)
    return found


def reading(question: str, rationale: str) -> str:
    """The prompt of the prediction after a rationale was read; without one, the usual prompt."""
    return f"{PREDICT}{question}\n{rationale}" if rationale else f"{PREDICT}{question}"


def names_of_gold(corpus: Corpus) -> list[tuple[str, ...]]:
    """How a rationale names the gold answer: the option's text and "(B)", or the answer itself; empty without gold."""
    words = corpus.vocabulary.to_pylist()
    found: list[tuple[str, ...]] = []
    for text, code in zip(golds(corpus), corpus.gold.tolist(), strict=True):
        label = "" if code == UNREAD else words[code]
        found.append(() if text is None else (text,) if text == label else (text, f"({label})"))
    return found


def without_conclusion(rationale: str, names: Sequence[str]) -> str:
    """The rationale without the sentences that hand over the answer.

    Out go, wherever they stand, sentences of the kind "the answer is ...", and at the end those that name the answer.
    What is left may still make it plain; it no longer says it.

    Args:
        rationale: the text.
        names: how the answer may be named; see `names_of_gold`.
    """
    kept = [s for s in SENTENCE.split(rationale.strip()) if s and not SAYS_ANSWER.search(s)]
    named = re.compile("|".join(rf"(?<!\w){re.escape(name.strip())}(?!\w)" for name in names) or r"(?!)", re.I)
    while kept and named.search(kept[-1]):
        kept.pop()
    return " ".join(kept)


def rationale_losses(student: Student, questions: Sequence[str], rationales: Sequence[str]) -> Floats:
    """(N,) mean nats per token of each rationale as the target of its question's explanation task."""
    prompts = [f"{EXPLAIN}{q}" for q in questions]
    return _in_blocks(student.loss, prompts, rationales)


def certainty(student: Student, prompts: Sequence[str], golds: Sequence[str], on_fit: OnFit = untold) -> Floats:
    """(N,) geometric mean of the probabilities of gold's tokens, in 0..1: exp(-loss)."""
    return np.asarray(np.exp(-_in_blocks(student.loss, prompts, golds, on_fit)))


def option_certainty(
    student: Student,
    prompts: Sequence[str],
    golds: Sequence[str],
    options: Sequence[Sequence[str]],
    on_fit: OnFit = untold,
) -> Floats:
    """(N,) probability of gold among the options' texts, in 0..1; where there are no options, as `certainty`.

    P(gold) = exp(log p(gold)) / sum over options of exp(log p(option)), whole texts.
    """
    return _certainties(student, prompts, golds, options, on_fit)[0]


def answers_right(
    student: Student,
    prompts: Sequence[str],
    golds: Sequence[str],
    options: Sequence[Sequence[str]],
    on_fit: OnFit = untold,
) -> npt.NDArray[np.bool_]:
    """(N,) whether gold is the option most probable to the student; without options, whether it is `SURE` of gold."""
    return _certainties(student, prompts, golds, options, on_fit)[1]


def _certainties(
    student: Student,
    prompts: Sequence[str],
    golds: Sequence[str],
    options: Sequence[Sequence[str]],
    on_fit: OnFit,
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """(N,) probability of gold among two or more options, and (N,) whether it is highest; else `certainty`, `SURE`."""
    chance, is_top = np.full(len(prompts), np.nan), np.zeros(len(prompts), np.bool_)
    pairs = [(i, text) for i, texts in enumerate(options) if len(texts) > 1 for text in texts]
    logs = _in_blocks(student.logprob, [prompts[i] for i, _ in pairs], [text for _, text in pairs], on_fit)
    start = 0
    for i, texts in enumerate(options):
        if len(texts) > 1:
            mine = logs[start : start + len(texts)]
            start += len(texts)
            weight = np.exp(mine - mine.max())
            gold = np.array([text == golds[i] for text in texts])
            chance[i] = weight[gold].sum() / weight.sum()
            is_top[i] = bool(gold[mine.argmax()])
    open_ = np.flatnonzero(np.isnan(chance))
    rest = open_.tolist()
    chance[open_] = certainty(student, [prompts[i] for i in rest], [golds[i] for i in rest], on_fit)
    is_top[open_] = chance[open_] >= SURE
    return chance, is_top


def _in_blocks(
    ask: Callable[[Sequence[str], Sequence[str]], Losses],
    prompts: Sequence[str],
    targets: Sequence[str],
    on_fit: OnFit = untold,
) -> Floats:
    parts = []
    for i in range(0, len(prompts), BLOCK):
        on_fit(i, len(prompts), ASKING)
        parts.append(ask(prompts[i : i + BLOCK], targets[i : i + BLOCK]))
        on_fit(i + len(parts[-1]), len(prompts), ASKING)
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)
