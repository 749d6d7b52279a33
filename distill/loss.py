"""The objective, as a sum over rows with coefficients that are known before the pass.

    L = L_PR + sum over rationale tasks j of lambda_j * L_j          (arXiv 2602.01064; TinyLLM, arXiv 2402.04616)

    token      L_j = sum_r w_r * nll_r / sum_r w_r * tokens_r        mean over the target tokens of the task in a step
    sequence   L_j = sum_r w_r * nll_r / sum_r w_r                   sum over tokens, mean over rows

``nll_r`` is the sum over a target's tokens. Written as ``sum_r c_r * nll_r``, a step may be cut into any passes, on any
number of devices, and its gradient stays that of the whole batch. (Averaging the means of passes, the usual gradient
accumulation, weights a token by how few others its pass happens to hold.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from distill.batches import Arrays, Floats, Ints, Room, Rows, as_tensors, exactly, filled, most_tokens, padded, passes
from distill.memory import in_halves

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distill.model import StudentModel
    from distill.spec import Training

NOTHING = -100
"""The token of a place that does not count."""
INPUTS = ("input_ids", "attention_mask", "decoder_input_ids")
PLACES = ("at", "said", "row")
"""Of target tokens: where their logits are, counted row by row, what they are, and in which row."""


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
    return nll_of_pass(student, as_tensors(pass_arrays(student, rows, chosen), student.device))


def pass_arrays(student: StudentModel, rows: Rows, chosen: Ints, room: Room = exactly) -> Arrays:
    """What one forward pass needs of B rows: token ids, and where the target tokens are that its logits are wanted of.

    Args:
        student: its tokens and kind.
        rows: all rows.
        chosen: (B,) the rows of the pass.
        room: a size made larger: of the batch, of each length, and of the wanted places. What is added counts for
            nothing: rows of padding, and places whose token is `NOTHING`.
    """
    pad = student.encoder.tokenizer.pad_token_id
    if student.is_seq2seq:
        arrays, labels = _seq2seq(rows, chosen, pad, student.model.config.decoder_start_token_id, room)
    else:
        arrays, labels = _decoder(rows, chosen, pad, room)
    row, column = np.nonzero(labels >= 0)  # found here: a GPU would wait
    places = {"at": row * labels.shape[1] + column, "said": labels[row, column], "row": row}
    size = room(len(row))
    return arrays | {name: filled(place, (size,), NOTHING if name == "said" else 0) for name, place in places.items()}


def _seq2seq(rows: Rows, chosen: Ints, pad: int, start: int, room: Room) -> tuple[Arrays, Ints]:
    """Of an encoder-decoder: both of its inputs, the mask of the one, and (B, L) what it is to say."""
    source, labels = padded(rows.source, chosen, pad, room), padded(rows.target, chosen, NOTHING, room)
    mask = filled(np.arange(source.shape[1]) < rows.source.lengths[chosen][:, None], source.shape, fill=False)
    mask[len(chosen) :, 0] = True  # attention to nothing at all is not a number
    begun = np.where(labels < 0, pad, labels)[:, :-1]
    arrays = {
        "input_ids": source,
        "attention_mask": mask.astype(np.int64),
        "decoder_input_ids": np.insert(begun, 0, start, axis=1),  # padded on the right: no token looks there
    }
    return arrays, labels


def _decoder(rows: Rows, chosen: Ints, pad: int, room: Room) -> tuple[Arrays, Ints]:
    """The same of a decoder: prompt and target are one sequence, padded on the right, the target alone counts."""
    prompt = rows.source.lengths[chosen]
    length = prompt + rows.target.lengths[chosen]
    place = np.arange(int(length.max()))
    ids = np.full((len(chosen), len(place)), pad, np.int64)
    both = [part for i in chosen for part in (rows.source[i], rows.target[i])]
    ids[place < length[:, None]] = np.concatenate(both)
    said = np.where((place >= prompt[:, None]) & (place < length[:, None]), ids, NOTHING)
    labels = np.insert(said[:, 1:], said.shape[1] - 1, NOTHING, axis=1)
    shape = room(len(chosen)), room(len(place))
    return {"input_ids": filled(ids, shape, pad)}, filled(labels, shape, NOTHING)


def nll_of_pass(student: StudentModel, inputs: dict[str, Tensor]) -> Tensor:
    """(B,) as `row_nll`, of what `pass_arrays` made; rows that were added have 0."""
    import torch

    at, said, row = (inputs[name] for name in PLACES)
    logits = _logits(student, {name: given for name, given in inputs.items() if name in INPUTS}, at)
    flat = torch.nn.functional.cross_entropy(logits.float(), said, reduction="none", ignore_index=NOTHING)
    return torch.zeros(len(inputs["input_ids"]), device=flat.device, dtype=flat.dtype).index_add_(0, row, flat)


def _logits(student: StudentModel, inputs: dict[str, Tensor], at: Tensor) -> Tensor:
    """Logits at the wanted places, counted row by row; the head is computed there alone, where the model allows it."""
    if student.head is not None:
        hidden = student.body(**inputs, use_cache=False).last_hidden_state
        found: Tensor = student.head(hidden.flatten(0, 1).index_select(0, at))
        return found
    logits: Tensor = student.model(**inputs, use_cache=False).logits
    return logits.flatten(0, 1).index_select(0, at)


def task_weights(rows: Rows, training: Training, teachers: tuple[str, ...]) -> Floats:
    """(tasks,) the weight of each task: 1 for the answers, lambda (a teacher's own, if it has one) for the others."""
    weights = np.ones(int(rows.task.max(initial=0)) + 1)
    if training.objective == "multitask":
        weights[1:] = training.rationale_weight
        for number, teacher in enumerate(teachers[: len(weights) - 1]):
            weights[number + 1] = training.teacher_weights.get(teacher, training.rationale_weight)
    return weights


def nll_of(student: StudentModel, rows: Rows, *, most: int | None = None) -> Floats:
    """(R,) nll of every row, without gradients and in float32 (see `tensor_cores`), in passes of ``most`` tokens.

    By default that is what `most_tokens` says.
    """
    import torch

    found, most = np.zeros(len(rows)), most_tokens(most, student.device, student.parameters)

    def compute(part: Ints) -> None:
        found[part] = row_nll(student, rows, part).cpu().numpy()

    was_training = student.model.training
    student.model.eval()
    with torch.no_grad(), tensor_cores(student.device):
        for part in passes(rows, np.arange(len(rows)), most=most, overhead=most, joined=not student.is_seq2seq):
            in_halves(compute, part)
    student.model.train(was_training)
    return found


@contextmanager
def tensor_cores(device: torch.device) -> Iterator[None]:
    """Multiply float32 matrices in TF32 on a GPU (ten binary digits of a factor, float32 sums), as it was before after.

    Plain float32 leaves a GPU's tensor cores idle, and takes several times as long.
    """
    import torch

    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
