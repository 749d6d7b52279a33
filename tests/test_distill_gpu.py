"""Passes recorded as CUDA graphs: what is padded counts for nothing; and on a GPU, the same students as without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers_distill import toy_examples, toy_rows, toy_student

from distill import graphs
from distill import train as training_module
from distill.batches import as_tensors
from distill.graphs import Recorder, roomy
from distill.loss import nll_of, nll_of_pass, pass_arrays, row_nll
from distill.spec import Training
from distill.train import Trained, train

BOTH = pytest.mark.parametrize("model", ["tiny-seq2seq", "tiny-causal"])
LONG = {"max_steps": 30, "batch_size": 4, "select_by": "last", "learning_rate": 1e-3}


def has_gpu() -> bool:
    torch = pytest.importorskip("torch")
    return bool(torch.cuda.is_available())


needs_gpu = pytest.mark.skipif(not has_gpu(), reason="needs a CUDA GPU")


def test_sizes_are_rounded_up_by_a_quarter_at_most() -> None:
    sizes = range(1, 3000)
    rounded = [roomy(size) for size in sizes]
    assert [roomy(size) for size in (1, 7, 8, 9, 11, 17, 100, 257)] == [1, 7, 8, 10, 12, 20, 112, 320]
    assert all(size <= room <= 1.25 * size for size, room in zip(sizes, rounded, strict=True))
    assert len(set(rounded)) < 45


@BOTH
def test_padded_rows_and_places_count_for_nothing(model: str) -> None:
    import torch

    student = toy_student(model)
    rows = toy_rows(student, toy_examples(("ann", "bob")))
    part = np.arange(len(rows))[1:]
    found = []
    for larger in (False, True):
        student.model.zero_grad()
        if larger:
            arrays = pass_arrays(student, rows, part, lambda size: size + 5)
            nll = nll_of_pass(student, as_tensors(arrays, student.device))
            assert len(nll) == len(part) + 5 and not nll[len(part) :].any()
        else:
            nll = row_nll(student, rows, part)
        nll.sum().backward()  # type: ignore[no-untyped-call]
        gradients = [weight.grad.clone() for weight in student.trainable().values() if weight.grad is not None]
        found.append([nll[: len(part)].detach(), *gradients])
    for exact, padded in zip(*found, strict=True):
        torch.testing.assert_close(padded, exact, rtol=1e-4, atol=1e-5)


def trained(model: str, *, dropout: float = 0.0, **changes: Any) -> Trained:
    return train(toy_student(model, dropout=dropout), toy_examples(("ann", "bob")), Training(**{**LONG, **changes}))


def weights(student: Trained) -> np.ndarray[Any, Any]:
    flat = [w.detach().float().cpu().numpy().ravel() for w in student.student.trainable().values()]
    return np.concatenate(flat)


@needs_gpu
@BOTH
@pytest.mark.parametrize("tokens_per_pass", [16384, 64])
def test_recorded_passes_train_the_same_student(
    model: str, tokens_per_pass: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    real = nll_of_pass

    def counted(*arguments: Any) -> Any:
        calls.append(True)
        return real(*arguments)

    monkeypatch.setattr(training_module, "nll_of_pass", counted)
    launched = trained(model, cuda_graphs=False, bf16=False, tokens_per_pass=tokens_per_pass)
    anew = len(calls)
    recorded = trained(model, cuda_graphs=True, bf16=False, tokens_per_pass=tokens_per_pass)
    assert len(calls) - anew < anew / 3, "most passes were replayed"
    assert recorded.notes == launched.notes
    assert recorded.prediction_loss == pytest.approx(launched.prediction_loss, rel=1e-3)
    assert recorded.rationale_loss == pytest.approx(launched.rationale_loss, rel=1e-3)
    np.testing.assert_allclose(weights(recorded), weights(launched), atol=2e-3)


@needs_gpu
def test_recorded_dropout_is_drawn_anew_and_follows_the_seed() -> None:
    one, again, other = (trained("tiny-causal", dropout=0.3, seed=seed).prediction_loss for seed in (0, 0, 1))
    never = trained("tiny-causal", seed=0).prediction_loss
    assert one == pytest.approx(again, rel=1e-3)
    assert abs(one - never) > 1e-3 and abs(one - other) > 1e-3  # type: ignore[operator]


@needs_gpu
@BOTH
def test_the_likelihood_of_tensor_cores_is_that_of_float32(model: str) -> None:
    import torch

    student = trained(model).student
    rows, before = toy_rows(student, toy_examples()), torch.get_float32_matmul_precision()
    with torch.no_grad():
        plain = row_nll(student, rows, np.arange(len(rows))).cpu().numpy()
    np.testing.assert_allclose(nll_of(student, rows), plain, rtol=1e-2, atol=1e-3)
    assert torch.get_float32_matmul_precision() == before


class Tried(Recorder):
    """Records on a GPU, and tries to on a CPU."""

    def __init__(self, compute: Any, weights: int, device: Any, *, record: bool) -> None:
        super().__init__(compute, weights, device, record=record)
        self.records = record

    def _record(self, shape: Any, inputs: Any) -> None:
        if self._device.type == "cuda":
            super()._record(shape, inputs)
        else:
            self.give_up("a CPU has no graphs")


def test_a_model_that_cannot_be_recorded_is_trained_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = nll_of_pass

    def looks(student: Any, inputs: Any) -> Any:
        nll = real(student, inputs)
        assert float(nll.detach().sum()) > 0  # waits for the GPU
        return nll

    plain = trained("tiny-seq2seq", cuda_graphs=False)
    monkeypatch.setattr(training_module, "nll_of_pass", looks)
    monkeypatch.setattr(training_module, "Recorder", Tried)
    done = trained("tiny-seq2seq")
    assert any("were not recorded as CUDA graphs" in note for note in done.notes)
    np.testing.assert_allclose(weights(done), weights(plain), atol=2e-3)
    assert trained("tiny-seq2seq", dropout=0.2).steps == done.steps


def test_passes_that_wait_for_arithmetic_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []

    class Watched(Tried):
        def _record(self, shape: Any, inputs: Any) -> None:
            tried.append(shape)
            super()._record(shape, inputs)

    monkeypatch.setattr(training_module, "Recorder", Watched)
    monkeypatch.setattr(graphs, "WORTH", 0.0)
    assert trained("tiny-causal").steps == 30 and not tried
    monkeypatch.setattr(graphs, "WORTH", 1e9)
    assert trained("tiny-causal").steps == 30 and tried


def test_a_step_that_graphs_leave_no_memory_for_is_taken_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    real, calls = nll_of_pass, 0

    def short(student: Any, inputs: Any) -> Any:
        nonlocal calls
        calls += 1
        nll = real(student, inputs)
        if calls == 1:
            nll.sum().backward()  # in the middle of it
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return nll

    plain = trained("tiny-causal", bf16=False, cuda_graphs=False)
    monkeypatch.setattr(training_module, "nll_of_pass", short)
    monkeypatch.setattr(training_module, "Recorder", Tried)
    done = trained("tiny-causal", bf16=False)
    assert any("memory ran out" in note for note in done.notes)
    np.testing.assert_allclose(weights(done), weights(plain), atol=2e-3)
