"""The objective against an independent computation, and that how a step is cut into passes changes nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers_distill import texts, toy_examples, toy_rows, toy_student

from distill.batches import Order, Rows, passes
from distill.data import Examples
from distill.loss import coefficients, nll_of, row_nll, task_weights
from distill.model import StudentModel
from distill.spec import Training
from schemas.layout import PREDICT, explain_prefix

BOTH = pytest.mark.parametrize("model", ["tiny-seq2seq", "tiny-causal"])


def nll_by_hand(student: StudentModel, prompt: list[int], target: list[int]) -> float:
    """Sum of -log p over a target's tokens: one row, no padding, log-softmax in plain Python."""
    import torch

    pad = student.encoder.tokenizer.pad_token_id
    with torch.no_grad():
        if student.is_seq2seq:
            inputs: dict[str, Any] = {"input_ids": torch.tensor([prompt])}
            inputs["decoder_input_ids"] = torch.tensor([[pad, *target[:-1]]])
            logits = student.model(**inputs).logits[0].double().numpy()
        else:
            logits = student.model(input_ids=torch.tensor([prompt + target])).logits[0].double().numpy()
            logits = logits[len(prompt) - 1 : -1]
    total = 0.0
    for row, token in zip(logits.tolist(), target, strict=True):
        top = max(row)
        total -= row[token] - top - math.log(sum(math.exp(x - top) for x in row))
    return total


def loss_by_hand(student: StudentModel, examples: Examples, training: Training) -> float:
    """L_PR + sum of lambda_j * L_j, from the texts and the formulas."""
    predicted = dict(zip(examples.question_id, zip(examples.prompt, examples.answer, strict=True), strict=True))
    tasks: dict[str, list[tuple[str, str, float]]] = {"answer": [(PREDICT + p, a, 1.0) for p, a in predicted.values()]}
    for prompt, rationale, teacher, weight in zip(
        examples.prompt, examples.rationale, examples.teacher, examples.weight.tolist(), strict=True
    ):
        assert rationale is not None
        name = "one" if teacher is None else examples.teachers[teacher]
        tasks.setdefault(name, []).append((explain_prefix(teacher) + prompt, rationale, weight))
    total = 0.0
    for name, pairs in tasks.items():
        prompts, targets = (student.encoder.prompts([p for p, _, _ in pairs]),
                            student.encoder.targets([t for _, t, _ in pairs]))  # fmt: skip
        weights = [w for _, _, w in pairs]
        nll = [nll_by_hand(student, p, t) for p, t in zip(prompts, targets, strict=True)]
        top = sum(w * x for w, x in zip(weights, nll, strict=True))
        lengths = [len(t) if training.normalise == "token" else 1 for t in targets]
        mean = top / sum(w * n for w, n in zip(weights, lengths, strict=True))
        weight = training.teacher_weights.get(name, training.rationale_weight)
        total += mean if name == "answer" else weight * mean
    return total


def loss_of(student: StudentModel, rows: Rows, training: Training, teachers: tuple[str, ...], most: int) -> float:
    """The same by the code under test, in passes of at most ``most`` tokens; gradients are added to the weights."""
    import torch

    everything, total = np.arange(len(rows)), 0.0
    _, whole = coefficients(rows, everything, task_weights(rows, training, teachers), training.normalise)
    for part in passes(rows, everything, most=most, overhead=10**9, joined=not student.is_seq2seq):
        loss = (row_nll(student, rows, part) * torch.tensor(whole[part], dtype=torch.float32)).sum()
        loss.backward()
        total += float(loss.detach())
    return total


@BOTH
@pytest.mark.parametrize("normalise", ["token", "sequence"])
@pytest.mark.parametrize("teachers", [(), ("ann", "bob")])
def test_loss_is_the_formula(model: str, normalise: str, teachers: tuple[str, ...]) -> None:
    student = toy_student(model)
    own = {"bob": 0.25} if teachers else {}
    training = Training(rationale_weight=2.0, normalise=normalise, teacher_weights=own)
    examples = toy_examples(teachers)
    examples = examples.weighted(np.linspace(0.5, 2, len(examples), dtype=np.float32))
    wanted = loss_by_hand(student, examples, training)
    assert loss_of(student, toy_rows(student, examples), training, teachers, 10**6) == pytest.approx(wanted, rel=1e-5)


@BOTH
@pytest.mark.parametrize("normalise", ["token", "sequence"])
@pytest.mark.parametrize("objective", ["rationale-then-answer", "fine-tuning"])
def test_loss_of_one_task_is_its_weighted_mean(model: str, normalise: str, objective: str) -> None:
    student, encoder, weights = toy_student(model), toy_student(model).encoder, [0.5, 1.0, 1.5, 2.0]
    examples = toy_examples().weighted(np.array(weights, np.float32))
    targets = examples.completion
    prompts = examples.prompt
    if objective == "fine-tuning":
        prompts, targets, weights = [PREDICT + p for p in prompts], examples.answer, [1.0] * 4
    pairs = list(zip(encoder.prompts(prompts), encoder.targets(targets), strict=True))
    nll = [nll_by_hand(student, prompt, target) for prompt, target in pairs]
    lengths = [len(target) if normalise == "token" else 1 for _, target in pairs]
    wanted = np.dot(weights, nll) / np.dot(weights, lengths)
    training = Training(objective=objective, normalise=normalise)
    rows = toy_rows(student, examples, objective)
    assert loss_of(student, rows, training, (), 10**6) == pytest.approx(wanted, rel=1e-5)


@BOTH
@pytest.mark.parametrize("normalise", ["token", "sequence"])
def test_gradient_does_not_depend_on_the_passes(model: str, normalise: str) -> None:
    import torch

    student, examples = toy_student(model), toy_examples(("ann", "bob"))
    rows, training = toy_rows(student, examples), Training(normalise=normalise)
    gradients = []
    for most in (10**6, 120):
        student.model.zero_grad()
        loss_of(student, rows, training, examples.teachers, most)
        gradients.append([p.grad.clone() for p in student.trainable().values()])
    assert len(list(passes(rows, np.arange(len(rows)), most=120, overhead=10**9, joined=True))) > 3
    for whole, accumulated in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, accumulated, rtol=1e-4, atol=1e-6)
    assert max(float(g.abs().max()) for g in gradients[0]) > 1e-3


@BOTH
def test_padding_does_not_reach_a_row(model: str) -> None:
    student = toy_student(model)
    rows = toy_rows(student, toy_examples())
    apart = [nll_by_hand(student, p, t) for p, t in zip(texts(rows.source), texts(rows.target), strict=True)]
    np.testing.assert_allclose(nll_of(student, rows), apart, rtol=1e-5)


def test_a_weight_of_nought_leaves_a_rationale_out() -> None:
    student, examples = toy_student("tiny-causal"), toy_examples()
    rows = toy_rows(student, examples.weighted(np.array([1, 0, 1, 0], np.float32)))
    without = toy_rows(student, examples.take([0, 2]))
    training = Training(objective="multitask")
    kept = coefficients(rows, np.arange(len(rows)), task_weights(rows, training, ()), "token")[1]
    assert (kept == 0).sum() == 2
    explains = kept[rows.task == 1]
    alone = coefficients(without, np.arange(len(without)), task_weights(without, training, ()), "token")[1]
    assert explains[explains > 0] == pytest.approx(alone[without.task == 1])


def test_passes_hold_every_row_once_and_keep_to_memory() -> None:
    random = np.random.default_rng(0)
    rows = random_rows(random, 200)
    everything = np.arange(len(rows))
    cut = passes(rows, everything, most=2000, overhead=100, joined=False)
    assert sorted(np.concatenate(cut)) == list(everything)
    sizes = [len(c) * (rows.source.lengths[c].max() + rows.target.lengths[c].max()) for c in cut]
    assert max(sizes) <= 2000
    real = int(rows.lengths.sum())
    assert sum(sizes) < 1.25 * real
    (one,) = passes(rows, everything, most=10**9, overhead=10**9, joined=False)
    assert len(one) * (rows.source.lengths.max() + rows.target.lengths.max()) > 1.5 * real


def test_every_epoch_holds_every_question_once_in_an_order_of_its_own() -> None:
    rows = random_rows(np.random.default_rng(1), 100)
    order = Order(rows, Training(batch_size=8, seed=3))
    assert order.steps_per_epoch == 13
    first, second = ([order.step(e * 13 + i) for i in range(13)] for e in (0, 1))
    assert sorted(np.concatenate(first)) == sorted(np.concatenate(second)) == list(range(100))
    assert [s.tolist() for s in first] != [s.tolist() for s in second]
    again = Order(rows, Training(batch_size=8, seed=3))
    assert again.step(20).tolist() == order.step(20).tolist()  # without having gone through the steps before


def random_rows(random: np.random.Generator, n: int) -> Rows:
    from distill.batches import Texts

    source, target = ([[1] * int(k) for k in random.integers(low, high, n)] for low, high in ((20, 120), (2, 60)))
    one = np.ones(n, np.float32)
    return Rows(Texts.of(source), Texts.of(target), np.zeros(n, np.int64), one, np.arange(n))
