"""How often a student is right: by what it writes, and by which option it finds likeliest.

generation    the greedy text under the prediction prefix equals the gold option's text (the papers' measure) or the
              gold answer; of rationale-then-answer, what its last "The answer is ..." names
likelihood    of a choice question, the option whose text has the highest log-probability; of rationale-then-answer,
              the likeliest answer line after the rationale that it wrote itself

Texts are compared without case and repeated blanks, numbers by value. A text that names no answer is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from distill.batches import Ints, Texts, rows_of_pairs
from distill.data import Questions
from distill.encode import ANSWER_LINE
from distill.loss import nll_of
from distill.memory import in_halves
from distill.model import StudentModel
from distill.spec import Objective
from schemas.errors import InputError
from schemas.layout import PREDICT

Measure = Literal["generation", "likelihood"]

SPARE = 8
MOST = 32768
"""Tokens in a pass of writing, where memory does not say."""
HUGE = re.compile(r"e[+-]?\d[\d_]{3}", re.IGNORECASE)
LINE = re.compile(r"the answer is\s+(.+?)\s*$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Evaluated:
    """A student's answers to N questions.

    Attributes:
        dataset, split: of the questions.
        measure: `generation` or `likelihood`.
        question_id: the questions.
        right: (N,) whether the answer was right.
        said: what it wrote (its whole text), or the label it found likeliest.
    """

    dataset: str
    split: str
    measure: Measure
    question_id: list[str]
    right: npt.NDArray[np.bool_]
    said: list[str]

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.right.mean())

    @property
    def n(self) -> int:
        """How many questions."""
        return len(self.right)


def evaluate(  # noqa: PLR0913  the last by name only
    student: StudentModel,
    questions: Questions,
    objective: Objective,
    measure: Measure = "generation",
    *,
    new_tokens: int | None = None,
    written: Sequence[str] | None = None,
) -> Evaluated:
    """Ask a student every question and compare with gold.

    Args:
        student: a trained one.
        questions: labelled.
        objective: what it was trained for: decides how it is asked, and how its text is read.
        measure: see the head of this module.
        new_tokens: most tokens that it may write; by default ``max_target`` for a rationale and its answer, and for an
            answer alone `SPARE` more than the longest right one or option (at most ``max_target``).
        written: what the student wrote, where it has been asked already: a rationale is not written twice.

    Raises:
        InputError: likelihood is asked for and no question has options.
    """
    if measure == "likelihood":
        rows = [i for i, options in enumerate(questions.choices) if options]
        if not rows:
            raise InputError(f"likelihood compares the options of choice questions, and {questions.dataset} has none")
        questions = questions.take(rows)
        said = _likeliest(student, questions, objective, [written[i] for i in rows] if written else None)
        right = [label == gold for label, gold in zip(said, questions.gold, strict=True)]
    elif objective == "rationale-then-answer":
        said = write(student, questions.prompt, new_tokens or student.spec.max_target)
        right = [_concludes(text, *asked) for text, asked in zip(said, _asked(questions), strict=True)]
    else:
        said = write(student, [PREDICT + p for p in questions.prompt], new_tokens or _room(student, questions))
        right = [_names(text, *asked) for text, asked in zip(said, _asked(questions), strict=True)]
    return Evaluated(questions.dataset, questions.split, measure, questions.question_id, np.array(right, bool), said)


def _room(student: StudentModel, questions: Questions) -> int:
    """Tokens that any right answer fits into: what is longer is wrong however it ends."""
    possible = [*questions.targets, *(text for options in questions.choices for text in options.values())]
    longest = max(len(ids) for ids in student.encoder.targets(possible))
    return min(longest + SPARE, student.spec.max_target)


def write(student: StudentModel, prompts: Sequence[str], new_tokens: int) -> list[str]:
    """The greedy continuation of each prompt (prefix included), in as few passes as memory allows."""
    most = tokens_in_memory(student)
    texts = Texts.of(student.encoder.prompts(prompts))
    order = np.argsort(texts.lengths, kind="stable")[::-1]
    said = [""] * len(prompts)

    def compute(part: Ints) -> None:
        for i, text in zip(part, _write(student, texts, part, new_tokens), strict=True):
            said[i] = text

    while len(order):
        size = max(int(most // (texts.lengths[order[0]] + new_tokens)), 1)
        part, order = order[:size], order[size:]
        in_halves(compute, part)
    return said


def tokens_in_memory(student: StudentModel) -> int:
    """How many tokens a pass of writing may have, prompts included; one that is too large is halved.

    On a GPU each of them costs little beside the launches of a step, which all rows of a pass share. So there it is the
    tokens whose keys and values (float32, and as many heads as there are at most) fill half of the memory that is free.
    """
    import torch

    if student.device.type != "cuda":
        return MOST
    config = student.model.config.get_text_config(decoder=True)
    of_a_token = 2 * 4 * config.hidden_size * config.num_hidden_layers
    free, _ = torch.cuda.mem_get_info(student.device)
    return max(int(free // 2 // of_a_token), MOST)


def _write(student: StudentModel, texts: Texts, part: Ints, new_tokens: int) -> list[str]:
    """One pass: prompts are padded on the left for a decoder, on the right for an encoder."""
    import torch

    tokenizer, model = student.encoder.tokenizer, student.model
    lengths = texts.lengths[part]
    place = np.arange(int(lengths.max()))
    mask = place < lengths[:, None] if student.is_seq2seq else place >= (len(place) - lengths)[:, None]
    ids = np.full(mask.shape, tokenizer.pad_token_id, np.int64)
    ids[mask] = np.concatenate([texts[i] for i in part])
    config = copy(model.generation_config)  # the student's own, which is greedy
    config.max_new_tokens = new_tokens
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.autocast(student.device.type, torch.bfloat16, enabled=student.device.type == "cuda"):
        found = model.generate(
            input_ids=torch.from_numpy(ids).to(student.device),
            attention_mask=torch.from_numpy(mask.astype(np.int64)).to(student.device),
            generation_config=config,
        )
    model.train(was_training)
    new = found if student.is_seq2seq else found[:, len(place) :]
    return [student.encoder.text(row) for row in new.tolist()]


def _likeliest(
    student: StudentModel, questions: Questions, objective: Objective, written: Sequence[str] | None
) -> list[str]:
    """The label whose text, or answer line, is likeliest; the first of equals."""
    if objective == "rationale-then-answer":
        said = written or write(student, questions.prompt, student.spec.max_target)
        begun = [text[: m.start()].rstrip() if (m := _last_line(text)) else text for text in said]
        prompts = questions.prompt
        targets = [
            [(text + ANSWER_LINE + f"({label}).").lstrip("\n") for label in options]
            for text, options in zip(begun, questions.choices, strict=True)
        ]
    else:
        prompts = [PREDICT + p for p in questions.prompt]
        targets = [list(options.values()) for options in questions.choices]
    pairs = [(prompt, target) for prompt, texts in zip(prompts, targets, strict=True) for target in texts]
    rows = rows_of_pairs(student.encoder, [p for p, _ in pairs], [t for _, t in pairs])
    nll, found, at = nll_of(student, rows), [], 0
    for options in questions.choices:
        found.append(list(options)[int(nll[at : at + len(options)].argmin())])
        at += len(options)
    return found


def _last_line(text: str) -> re.Match[str] | None:
    return next(reversed(list(LINE.finditer(text))), None)


def _asked(questions: Questions) -> list[tuple[dict[str, str], str]]:
    return list(zip(questions.choices, questions.gold, strict=True))


def _concludes(text: str, options: dict[str, str], gold: str) -> bool:
    """Whether the last answer line of a text names gold: its label, or the words of the option."""
    found = _last_line(text)
    if found is None:
        return False
    said = found.group(1).removesuffix(".").strip()
    label = re.fullmatch(r"\(?(\w+)\)?(?:[.:)]?\s.*)?", said)
    if label and label.group(1) in options:
        return label.group(1) == gold
    return _names(said, options, gold)


def _names(said: str, options: dict[str, str], gold: str) -> bool:
    """Whether a text is the gold answer or option; what another option says word for word is that option."""
    others = [_plain(text) for label, text in options.items() if label != gold]
    right = options.get(gold, gold)
    return _plain(said) == _plain(right) or (_plain(said) not in others and _same_number(_plain(said), _plain(right)))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _same_number(said: str, gold: str) -> bool:
    """Whether two texts are the same number; ``$5`` is 5, and so is ``5%``, but the one is not the other."""
    value, units = _value(said), [set(text) & set("$%") for text in (said, gold)]
    return value is not None and value == _value(gold) and (units[0] == units[1] or not all(units))


def _value(text: str) -> Fraction | None:
    """The number that a text is; None if it is none."""
    if HUGE.search(text):  # writing it out takes seconds, or for ever
        return None
    try:
        return Fraction(text.replace(",", "").strip("$% "))
    except (ValueError, ZeroDivisionError):
        return None
