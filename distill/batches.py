"""Token ids as flat columns, and the order in which a training goes through them.

An optimiser step takes ``batch_size`` questions with all their tasks. Questions of like length meet in a step, and the
rows of a step are computed in one pass, or in several where that is cheaper than the padding it saves (or memory does
not allow more): the gradient is the same either way, see `distill.loss`. The order follows from seed and epoch alone,
so a training can go on from any step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from distill.data import Examples
from distill.encode import Encoder, Ids
from distill.spec import Training
from schemas.layout import PREDICT, explain_prefix
from schemas.tables import FINE_TUNING

if TYPE_CHECKING:
    import torch

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Arrays = dict[str, npt.NDArray[Any]]
Room = Callable[[int], int]

WINDOW = 8
"""Batches among which questions are sorted by length: more saves padding, fewer mixes better."""


@dataclass(frozen=True)
class Texts:
    """N token sequences, end to end: the i-th is ``ids[start[i]:start[i + 1]]``."""

    ids: npt.NDArray[np.int32]
    start: Ints

    @classmethod
    def of(cls, sequences: list[Ids]) -> Texts:
        """Of lists of ids."""
        lengths = np.fromiter((len(s) for s in sequences), np.int64, len(sequences))
        flat = np.fromiter((i for s in sequences for i in s), np.int32, int(lengths.sum()))
        return cls(flat, np.concatenate([[0], np.cumsum(lengths)]))

    @property
    def lengths(self) -> Ints:
        """(N,) tokens of each."""
        return np.diff(self.start)

    def __getitem__(self, i: int) -> npt.NDArray[np.int32]:
        return self.ids[self.start[i] : self.start[i + 1]]


@dataclass(frozen=True)
class Rows:
    """Pairs of prompt and target, R of them.

    Attributes:
        source: the prompts.
        target: what is to be said.
        task: (R,) 0 for the answer, 1 for the rationale, 1 + number of the teacher where each has a task.
        weight: (R,) weight among the rows of the same task.
        question: (R,) number of the question it belongs to, rising.
    """

    source: Texts
    target: Texts
    task: Ints
    weight: npt.NDArray[np.float32]
    question: Ints

    def __len__(self) -> int:
        return len(self.task)

    @property
    def lengths(self) -> Ints:
        """(R,) tokens of prompt and target together."""
        return self.source.lengths + self.target.lengths


def rows_of(encoder: Encoder, examples: Examples, objective: str) -> Rows:
    """Tokenize the tasks that an objective makes of examples.

    `multitask` has two or more rows per question, one under each prefix; `fine-tuning` one; `rationale-then-answer`
    one per rationale, without a prefix (and none for a question without a rationale, unless there are none at all).
    """
    prompt, target, task, weight, question = [], [], [], [], []
    number: dict[str, int] = {}
    whole = objective == "rationale-then-answer"
    alone = examples.method == FINE_TUNING
    for i, question_id in enumerate(examples.question_id):
        is_new = question_id not in number
        mine = number.setdefault(question_id, len(number))
        rationale, teacher = examples.rationale[i], examples.teacher[i]
        made: list[tuple[str, str, int, float]] = []
        if whole and (rationale is not None or alone):
            made = [("", examples.completion[i], 1, float(examples.weight[i]))]
        elif not whole:
            made = [(PREDICT, examples.answer[i], 0, 1.0)] if is_new else []
            if rationale is not None and objective == "multitask":
                made.append((explain_prefix(teacher), rationale, 1 + (teacher or 0), float(examples.weight[i])))
        for prefix, text, kind, w in made:
            prompt.append(prefix + examples.prompt[i])
            target.append(text)
            task.append(kind)
            weight.append(w)
            question.append(mine)
    _, distinct = np.unique(np.array(question, np.int64), return_inverse=True)
    return Rows(
        Texts.of(encoder.prompts(prompt)),
        Texts.of(encoder.targets(target)),
        np.array(task, np.int64),
        np.array(weight, np.float32),
        distinct.astype(np.int64),
    )


def rows_of_pairs(
    encoder: Encoder, prompts: Sequence[str], targets: Sequence[str], weights: Sequence[float] | None = None
) -> Rows:
    """Tokenize pairs of a complete prompt and its target; all are one task."""
    n = len(prompts)
    weight = np.ones(n, np.float32) if weights is None else np.array(weights, np.float32)
    texts = Texts.of(encoder.prompts(prompts)), Texts.of(encoder.targets(targets))
    return Rows(*texts, np.zeros(n, np.int64), weight, np.arange(n))


class Order:
    """Which questions each optimiser step takes: ``steps_per_epoch`` steps, then a new order."""

    def __init__(self, rows: Rows, training: Training) -> None:
        self.rows, self.batch_size, self.seed = rows, training.batch_size, training.seed
        self.first = np.searchsorted(rows.question, np.arange(rows.question[-1] + 2))  # rows of q: first[q]:first[q+1]
        self.questions = len(self.first) - 1
        self.steps_per_epoch = -(-self.questions // self.batch_size)
        self.length = np.add.reduceat(rows.lengths, self.first[:-1])
        self._epoch, self._batches = -1, np.zeros((0,), np.int64)

    def step(self, number: int) -> Ints:
        """The rows of optimiser step ``number`` (0, 1, ...)."""
        epoch, place = divmod(number, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._of_epoch(epoch)
        return np.concatenate([np.arange(self.first[q], self.first[q + 1]) for q in self._order[place]])

    def _of_epoch(self, epoch: int) -> list[Ints]:
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(self.questions)
        width = WINDOW * self.batch_size
        windows = [order[i : i + width] for i in range(0, len(order), width)]
        sorted_ = np.concatenate([w[np.argsort(self.length[w], kind="stable")] for w in windows])
        batches = [sorted_[i : i + self.batch_size] for i in range(0, len(sorted_), self.batch_size)]
        return [batches[i] for i in random.permutation(len(batches))]


WORTH = 5e12
"""Weights times tokens of a pass beyond which computing it takes as long as launching it did (measured on an H200)."""
USUAL, LARGE = 16384, 65536


def most_tokens(asked: int | None, device: torch.device, weights: int) -> int:
    """Tokens in a pass at most: as asked, or `USUAL`, and more for a small model on a GPU, up to `LARGE`.

    There a pass of fewer than ``WORTH / weights`` tokens waits for its launches, so that larger ones are all gain
    (docs/findings.md).
    """
    if asked is not None:
        return asked
    return USUAL if device.type != "cuda" else min(max(int(WORTH / weights), USUAL), LARGE)


def overhead(device: torch.device) -> int:
    """What another pass costs, as so many tokens: launching it against computing them (docs/findings.md)."""
    return {"cpu": 256, "cuda": 8192}.get(device.type, 1024)


def passes(rows: Rows, chosen: Ints, *, most: int, overhead: int, joined: bool) -> list[Ints]:
    """Cut the rows of a step into passes so that padding plus ``overhead`` tokens per pass is least.

    Args:
        rows: all rows.
        chosen: the rows of the step.
        most: tokens in a pass, padding included; a single longer row still is one.
        overhead: what another pass costs, as so many tokens.
        joined: whether prompt and target are one sequence (a decoder), or padded apart.
    """
    a, b = rows.source.lengths[chosen], rows.target.lengths[chosen]
    if joined:
        a, b = a + b, np.zeros_like(b)
    return [chosen[part] for part in _cut(np.arange(len(chosen)), a, b, (most, overhead))]


def _cut(part: Ints, a: Ints, b: Ints, limits: tuple[int, int]) -> Iterator[Ints]:
    """Cut some rows in two, by prompt or target length, where it pays or must be, and the halves in turn."""
    most, overhead = limits
    whole = len(part) * int(a[part].max(initial=0) + b[part].max(initial=0))
    if not len(part):
        return
    if len(part) < 2 or whole <= min(most, overhead):
        yield part[np.lexsort((a[part], b[part]))]
        return
    found = [_best_cut(part[np.argsort(by[part], kind="stable")], a, b) for by in (a, b)]
    cost, middle, order = min(found, key=lambda f: f[0])
    pays = whole - cost > overhead
    if not pays and whole <= most:
        yield order
        return
    middle = middle if pays else len(part) // 2
    yield from _cut(order[:middle], a, b, limits)
    yield from _cut(order[middle:], a, b, limits)


def _best_cut(order: Ints, a: Ints, b: Ints) -> tuple[int, int, Ints]:
    """The tokens of two passes, padding included, if rows in this order are cut at the best place, and the place."""
    up = np.maximum.accumulate(a[order]) + np.maximum.accumulate(b[order])
    down = (np.maximum.accumulate(a[order][::-1]) + np.maximum.accumulate(b[order][::-1]))[::-1]
    count = np.arange(1, len(order))
    cost = count * up[:-1] + count[::-1] * down[1:]
    best = int(cost.argmin())
    return int(cost[best]), best + 1, order


def exactly(size: int) -> int:
    """No room beyond what is needed."""
    return size


def padded(texts: Texts, chosen: Ints, fill: int, room: Room = exactly) -> Ints:
    """(B, L) the chosen sequences, ``fill`` after their end; both sizes as ``room`` makes them."""
    lengths = texts.lengths[chosen]
    out = np.full((len(chosen), int(lengths.max(initial=0))), fill, np.int64)
    out[np.arange(out.shape[1]) < lengths[:, None]] = np.concatenate([texts[i] for i in chosen])
    return filled(out, (room(out.shape[0]), room(out.shape[1])), fill)


def filled(array: npt.NDArray[Any], shape: tuple[int, ...], fill: float) -> npt.NDArray[Any]:
    """The array in the corner of a larger one."""
    out = np.full(shape, fill, array.dtype)
    out[tuple(slice(size) for size in array.shape)] = array
    return out


def as_tensors(arrays: Arrays, device: torch.device) -> dict[str, torch.Tensor]:
    """The arrays as tensors on a device; a GPU's copies do not wait for what it is at."""
    import torch

    tensors = {name: torch.from_numpy(a) for name, a in arrays.items()}
    if device.type == "cuda":
        tensors = {name: t.pin_memory() for name, t in tensors.items()}
    return {name: t.to(device, non_blocking=True) for name, t in tensors.items()}
