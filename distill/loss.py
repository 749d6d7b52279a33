"""The objective, as a sum over rows with coefficients that are known before the pass.

    L = L_PR + sum over rationale tasks j of lambda_j * L_j          (arXiv 2602.01064; TinyLLM, arXiv 2402.04616)

    token      L_j = sum_r w_r * nll_r / sum_r w_r * tokens_r        mean over the target tokens of the task in a step
    sequence   L_j = sum_r w_r * nll_r / sum_r w_r                   sum over tokens, mean over rows

``nll_r`` is the sum over a target's tokens. Written as ``sum_r c_r * nll_r``, a step may be cut into any passes, on any
number of devices, and its gradient stays that of the whole batch. (Averaging the means of passes, the usual gradient
accumulation, weights a token by how few others its pass happens to hold.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from distill.batches import Ints, Rows, as_tensors, padded, passes
from distill.memory import in_halves

if TYPE_CHECKING:
    from torch import Tensor

    from distill.model import StudentModel
    from distill.spec import Training

Floats = npt.NDArray[np.float64]
PLACES = ("at", "said", "row")
"""What `_places` finds of target tokens."""


def coefficients(rows: Rows, chosen: Ints, task_weight: Floats, normalise: str) -> tuple[Floats, Floats]:
    """Of the rows of a step: how much each one's nll counts in its task's mean, and in the whole loss.

    Args:
        rows: all rows.
        chosen: (S,) the rows of the step, on all devices.
        task_weight: (tasks,) lambda of each task, 1 for the answers.
        normalise: `token` or `sequence`.

    Returns:
        (S,) coefficients within the task, and (S,) the same times the task's weight.
    """
    task, weight = rows.task[chosen], rows.weight[chosen].astype(np.float64)
    size = weight * rows.target.lengths[chosen] if normalise == "token" else weight
    total = np.bincount(task, size, len(task_weight))
    within = np.divide(weight, total[task], out=np.zeros_like(weight), where=total[task] > 0)
    return within, within * task_weight[task]


def row_nll(student: StudentModel, rows: Rows, chosen: Ints) -> Tensor:
    """(B,) sum over each target's tokens of -log p(token | prompt, tokens before it), in nats; one forward pass."""
    import torch

    logits, said, row = (_seq2seq if student.is_seq2seq else _decoder)(student, rows, chosen)
    flat = torch.nn.functional.cross_entropy(logits.float(), said, reduction="none")
    return torch.zeros(len(chosen), device=flat.device, dtype=flat.dtype).index_add_(0, row, flat)


def _seq2seq(student: StudentModel, rows: Rows, chosen: Ints) -> tuple[Tensor, Tensor, Tensor]:
    """For all target tokens of an encoder-decoder, end to end: their logits, the tokens, and the row of each."""
    config, pad = student.model.config, student.encoder.tokenizer.pad_token_id
    source, target = padded(rows.source, chosen, pad), padded(rows.target, chosen, -100)
    start = np.full((len(chosen), 1), config.decoder_start_token_id)
    begun = np.where(target < 0, pad, target)[:, :-1]
    mask = np.arange(source.shape[1]) < rows.source.lengths[chosen][:, None]
    arrays = {
        "input_ids": source,
        "attention_mask": mask.astype(np.int64),
        "decoder_input_ids": np.concatenate([start, begun], axis=1),  # padded on the right: no token looks there
        **_places(target),
    }
    inputs = as_tensors(arrays, student.device)
    at, said, row = (inputs.pop(name) for name in PLACES)
    logits = student.model(**inputs, use_cache=False).logits
    return logits.flatten(0, 1)[at], said, row


def _decoder(student: StudentModel, rows: Rows, chosen: Ints) -> tuple[Tensor, Tensor, Tensor]:
    """The same of a decoder: prompt and target are one sequence, padded on the right, the target alone counts."""
    prompt, target = rows.source.lengths[chosen], rows.target.lengths[chosen]
    length = prompt + target
    place = np.arange(int(length.max()))
    ids = np.full((len(chosen), len(place)), student.encoder.tokenizer.pad_token_id, np.int64)
    both = [part for i in chosen for part in (rows.source[i], rows.target[i])]
    ids[place < length[:, None]] = np.concatenate(both)
    labels = np.where((place >= prompt[:, None]) & (place < length[:, None]), ids, -100)
    next_one = np.concatenate([labels[:, 1:], np.full((len(chosen), 1), -100)], axis=1)
    inputs = as_tensors({"input_ids": ids, **_places(next_one)}, student.device)
    at, said, row = (inputs.pop(name) for name in PLACES)
    return _logits(student, inputs["input_ids"], at), said, row


def _logits(student: StudentModel, ids: Tensor, at: Tensor) -> Tensor:
    """Logits at the wanted places, counted row by row; the head is computed there alone, where the model allows it."""
    if student.head is not None:
        hidden = student.body(input_ids=ids, use_cache=False).last_hidden_state
        found: Tensor = student.head(hidden.flatten(0, 1)[at])
        return found
    logits: Tensor = student.model(input_ids=ids, use_cache=False).logits
    return logits.flatten(0, 1)[at]


def _places(labels: Ints) -> dict[str, Ints]:
    """Where (B, L) labels are known, counted row by row; what they are, and whose. Found here: a GPU would wait."""
    row, column = np.nonzero(labels >= 0)
    return dict(zip(PLACES, (row * labels.shape[1] + column, labels[row, column], row), strict=True))


def task_weights(rows: Rows, training: Training, teachers: tuple[str, ...]) -> Floats:
    """(tasks,) the weight of each task: 1 for the answers, lambda (a teacher's own, if it has one) for the others."""
    weights = np.ones(int(rows.task.max(initial=0)) + 1)
    if training.objective == "multitask":
        weights[1:] = training.rationale_weight
        for number, teacher in enumerate(teachers[: len(weights) - 1]):
            weights[number + 1] = training.teacher_weights.get(teacher, training.rationale_weight)
    return weights


def nll_of(student: StudentModel, rows: Rows, *, most: int = 16384) -> Floats:
    """(R,) nll of every row, without gradients and in float32, in passes of at most ``most`` tokens."""
    import torch

    found = np.zeros(len(rows))

    def compute(part: Ints) -> None:
        found[part] = row_nll(student, rows, part).cpu().numpy()

    was_training = student.model.training
    student.model.eval()
    with torch.no_grad():
        for part in passes(rows, np.arange(len(rows)), most=most, overhead=most, joined=not student.is_seq2seq):
            in_halves(compute, part)
    student.model.train(was_training)
    return found
