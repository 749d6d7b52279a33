"""Train a student: one loop, one forward pass for both prefixes, the best weights on validation kept.

The same seed, data and machine give the same student. A training that is interrupted goes on from its checkpoint and
ends in the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import hashlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from distill import checkpoint, several
from distill.batches import (
    Arrays,
    Floats,
    Ints,
    Order,
    Room,
    filled,
    most_tokens,
    overhead,
    passes,
    rows_of,
    rows_of_pairs,
)
from distill.checkpoint import Progressed
from distill.data import Examples, Questions
from distill.evaluate import SPARE, evaluate
from distill.graphs import Recorder
from distill.loss import coefficients, nll_of, nll_of_pass, pass_arrays, task_weights
from distill.memory import ran_out
from distill.model import StudentModel
from distill.spec import Training
from schemas.errors import InputError, RaffinateError
from schemas.layout import PREDICT

if TYPE_CHECKING:
    import torch

REMEMBERED = 100
"""Steps that the final training losses are the mean of."""
LOOK_EVERY = 10
"""Steps between looks at the loss: a look waits for the GPU."""


@dataclass(frozen=True)
class Told:
    """What a progress bar may show."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    validation: float | None


OnProgress = Callable[[Told], None]


@dataclass(frozen=True)
class Trained:
    """A trained student and how it went.

    Attributes:
        run_id: changes with the data, the student and every setting that the weights depend on.
        student: with the kept weights.
        steps: optimiser steps taken.
        kept_step: the step whose weights were kept.
        validation: their accuracy on validation (or minus their loss); None where there was none.
        prediction_loss: mean training loss of the answers over the last steps, in nats (per token, by the default
            normalisation); None if there were no answers.
        rationale_loss: the same of the rationales, mean over the tasks.
        seconds: training time without validations.
        tokens: prompt and target tokens trained on, padding not counted.
        rationale_tokens: those of the rows that a rationale is the target of.
        device: what it ran on.
        history: every validation.
        notes: what a user should know: what was cut, what was not selected, which questions taught nothing.
    """

    run_id: str
    student: StudentModel
    steps: int
    kept_step: int
    validation: float | None
    prediction_loss: float | None
    rationale_loss: float | None
    seconds: float
    tokens: int
    rationale_tokens: int
    device: str
    history: list[dict[str, float]]
    notes: list[str]

    @property
    def tokens_per_second(self) -> float:
        """Training throughput, validations left out."""
        return self.tokens / max(self.seconds, 1e-9)


def train(  # noqa: PLR0913  what a caller may give, most of it optional
    student: StudentModel,
    examples: Examples,
    training: Training = Training(),  # noqa: B008  frozen
    *,
    validation: Questions | None = None,
    folder: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Trained:
    """Train a student on examples; its weights are changed in place.

    Args:
        student: fresh from `make_student`.
        examples: from `read_examples`.
        training: objective, duration, selection.
        validation: labelled questions that the kept weights are selected on; without them the last ones are kept.
        folder: where checkpoints go, and an interrupted training is resumed from; none are written without it.
        on_progress: called after every step.

    Raises:
        InputError: nothing can be learnt from the examples under this objective.
        RaffinateError: the loss diverged, or memory ran out; says what to do.
        WorkspaceError: the folder holds another training's checkpoint, or cannot be written.
        KeyboardInterrupt: after Ctrl-C, of all processes after the same step, with a checkpoint written.
    """
    run = _Run(student, examples, training, validation=validation, folder=folder)
    run.on_progress = on_progress
    return run.go()


class _Run:
    """One training under way."""

    def __init__(
        self,
        student: StudentModel,
        examples: Examples,
        training: Training,
        *,
        validation: Questions | None,
        folder: Path | None,
    ) -> None:
        import torch

        self.student, self.training, self.folder = student, training, folder
        self.on_progress: OnProgress | None = None
        self.rows = rows_of(student.encoder, examples, training.objective)
        self.cut = (student.encoder.cut_prompts, student.encoder.cut_targets)
        if not len(self.rows):
            raise InputError(f"{examples.method}: there is no rationale, so {training.objective} has nothing to learn")
        self.lengths, self.longest = self.rows.lengths, int(self.rows.target.lengths.max())
        self.task_weight = task_weights(self.rows, training, examples.teachers)
        self.order = Order(self.rows, training)
        self.untaught = examples.questions - self.order.questions
        self.steps = training.max_steps or max(math.ceil(training.epochs * self.order.steps_per_epoch), 1)
        self.validation = validation.first(training.eval_questions, training.seed) if validation else None
        self.eval_every = training.eval_every or max(self.steps // 10, 1)
        self.weights = student.trainable()
        self.device = student.device
        self.most, self.halved = most_tokens(training.tokens_per_pass, self.device, student.parameters), False
        self.optimiser: Any = torch.optim.AdamW(
            self.weights.values(), lr=0.0, weight_decay=training.weight_decay, fused=True
        )
        supported = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        self.bf16 = supported if training.bf16 is None else training.bf16
        self.at, self.best = Progressed(), dict[str, Any]()
        self.sums = torch.zeros(2, device=self.device)  # of a step: the losses of answers and of rationales
        self.unseen: list[torch.Tensor] = []  # losses of steps that nobody has looked at yet
        self.had: list[tuple[bool, bool]] = []  # and whether they had answers, and rationales
        self.validated: float | None = None
        self.identity = self._identity(examples)
        if folder is not None and (found := checkpoint.read(folder, self.identity, self._state())):
            self.at, self.best = found
        if several.most(self.at.step) != -several.most(-self.at.step):
            raise InputError(f"not all processes find the checkpoint in {folder}: choose one that all of them share")

    def _identity(self, examples: Examples) -> str:
        """Changes with what is trained, on what, and how; not with how often a checkpoint is written."""
        settings = self.training.identity()
        digest = hashlib.sha256(orjson.dumps([self.student.spec.identity(), settings, examples.method, self.steps]))
        rows = self.rows
        for array in (rows.source.ids, rows.target.ids, rows.task, rows.weight, rows.question):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def _state(self) -> checkpoint.State:
        return checkpoint.State(self.weights, self.optimiser)

    def go(self) -> Trained:
        """Train to the end, or to the first Ctrl-C."""
        import torch

        devices = [self.device] if self.device.type == "cuda" else []
        recorder = Recorder(self._pass, self.student.parameters, self.device, record=self.training.cuda_graphs)
        with torch.random.fork_rng(devices), _asked_to_stop() as asked:
            self.student.model.train()
            while self.at.step < self.steps and not self._had_enough():
                self._step(recorder)
                if self.at.step % self.eval_every == 0 or self.at.step == self.steps:
                    self._validate()
                stops = several.most(asked.is_set()) > 0
                if stops or self.at.step % self.training.checkpoint_every == 0:
                    self._checkpoint()
                if stops:
                    raise KeyboardInterrupt
            self._look()
            self._checkpoint()
        return self._done(recorder.given_up)

    def _had_enough(self) -> bool:
        return self.training.patience is not None and self.at.waited >= self.training.patience

    @contextmanager
    def _in_memory(self) -> Iterator[None]:
        """Keep a checkpoint and say what to do where memory runs out, in this process or another."""
        lacks = False
        try:
            yield
        except Exception as error:
            if not ran_out(error):
                raise
            lacks = True
        if several.most(lacks) == 0:
            return
        self.optimiser.zero_grad(set_to_none=True)
        self._checkpoint()
        kept = f"; step {self.at.step} is kept in {self.folder}" if self.folder else ""
        raise RaffinateError(
            f"out of memory, however small its passes: set lora_rank, a smaller max_input or max_target, or take a "
            f"smaller model{kept}"
        )

    def _step(self, recorder: Recorder) -> None:
        """One optimiser step: passes, clipping, AdamW."""
        import torch

        started = time.perf_counter()
        number = self.at.step
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(number)
        chosen = self.order.step(number)
        within, whole = coefficients(self.rows, chosen, self.task_weight, self.training.normalise)
        used = whole > 0
        with self._in_memory():
            losses = self._losses(recorder, chosen[used], np.stack([within[used], whole[used]]))
        several.add_up(self.weights.values(), losses)
        with self._in_memory():
            torch.nn.utils.clip_grad_norm_(self.weights.values(), self.training.clip)
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=not recorder.records)  # a graph adds to the gradients that it knows
        self.at.step += 1
        length, explains = self.lengths[chosen[used]], self.rows.task[chosen[used]] > 0
        self.at.tokens += int(length.sum())
        self.at.rationale_tokens += int(length[explains].sum())
        self.unseen.append(losses)
        self.had.append((bool((~explains).any()), bool(explains.any())))
        if self.at.step % LOOK_EVERY == 0 or self.device.type == "cpu":
            self._look()
        self.at.seconds += time.perf_counter() - started
        self._tell()

    def _losses(self, recorder: Recorder, chosen: Ints, share: Floats) -> torch.Tensor:
        """Add the gradients of a step's rows on this device; return (loss of answers, of rationales).

        Args:
            recorder: computes a pass at a time.
            chosen: (S,) rows.
            share: (2, S) how much each counts within its task, and in the whole loss.
        """
        while not self._held(recorder, chosen, share):
            self.optimiser.zero_grad(set_to_none=True)
            if recorder.records:  # what was recorded may be what fills it
                recorder.give_up("memory ran out")
            else:
                self._halve(chosen)
        losses, tasks = self.sums.clone(), np.unique(self.rows.task[chosen])
        losses[1] /= max(int((tasks > 0).sum()), 1)
        return losses

    def _held(self, recorder: Recorder, chosen: Ints, share: Floats) -> bool:
        """Whether memory held the passes of a step; raises where nothing can be made smaller."""
        try:
            self._passes(recorder, chosen, share)
        except Exception as error:
            if not ran_out(error) or not (recorder.records or self.most > self.lengths[chosen].max()):
                raise
            return False  # and leave the handler, which holds on to the tensors
        return True

    def _halve(self, chosen: Ints) -> None:
        """Make passes half as large as the largest of this step, at most."""
        import torch

        self.most = min(self.most, len(chosen) * int(self.lengths[chosen].max())) // 2
        self.halved = True
        torch.cuda.empty_cache()

    def _passes(self, recorder: Recorder, chosen: Ints, share: Floats) -> None:
        import torch

        torch.manual_seed((self.training.seed * 1_000_003 + self.at.step) * several.world() + several.rank())  # dropout
        self.sums.zero_()
        mine = several.share(chosen)
        place = {int(row): i for i, row in enumerate(chosen)}
        cost, joined = overhead(self.device), not self.student.is_seq2seq
        for part in passes(self.rows, mine, most=self.most, overhead=cost, joined=joined):
            mine_share = share[:, [place[int(row)] for row in part]]
            recorder.run(partial(self._arrays, part, mine_share), int(self.lengths[part].sum()))

    def _arrays(self, part: Ints, share: Floats, room: Room) -> Arrays:
        """What a pass needs: its tokens, and how much each row counts and for which loss."""
        arrays = pass_arrays(self.student, self.rows, part, room)
        within, whole = share.astype(np.float32)
        of_rows = {"within": within, "whole": whole, "kind": (self.rows.task[part] > 0).astype(np.int64)}
        size = arrays["input_ids"].shape[:1]
        return arrays | {name: filled(array, size, 0) for name, array in of_rows.items()}

    def _pass(self, inputs: dict[str, torch.Tensor]) -> None:
        """Forward and backward: what may be recorded."""
        import torch

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            nll = nll_of_pass(self.student, inputs)
        (nll * inputs["whole"]).sum().backward()  # type: ignore[no-untyped-call]
        self.sums.index_add_(0, inputs["kind"], nll.detach() * inputs["within"])

    def rate(self, step: int) -> float:
        """Rises over the warm-up, then falls to nothing in a straight line."""
        top, warm = self.training.rate_for(self.student.spec), self.training.warm_up * self.steps
        return top * min((step + 1) / max(warm, 1), (self.steps - step) / max(self.steps - warm, 1), 1.0)

    def _look(self) -> None:
        """Read the losses of the last steps; stop a training that has diverged."""
        import torch

        if not self.unseen:
            return
        read = torch.stack(self.unseen).tolist()
        for (a, b), (answers, rationales) in zip(read, self.had, strict=True):
            self.at.losses.append((a if answers else math.nan, b if rationales else math.nan))
        self.unseen.clear()
        self.had.clear()
        whole = np.sum(read, axis=1)
        is_finite = np.isfinite(whole)
        recent = np.nansum(self.at.losses[-LOOK_EVERY:], axis=1).mean() if is_finite.all() else whole[~is_finite][0]
        if self.at.step <= LOOK_EVERY and is_finite.all():
            self.at.first = float(np.nansum(self.at.losses, axis=1).mean())
        if not is_finite.all() or recent > 3 * self.at.first + 3:
            rate, first = self.training.rate_for(self.student.spec), self.at.first or whole[0]
            raise RaffinateError(
                f"the loss diverged at step {self.at.step} ({recent:.3g} nats, {first:.3g} at the start): "
                f"set a lower learning_rate (it was {rate:g}) or a longer warm_up"
            )
        del self.at.losses[:-REMEMBERED]

    def _tell(self) -> None:
        if self.on_progress and several.rank() == 0:
            loss = float(np.nansum(self.at.losses[-1])) if self.at.losses else math.nan
            speed = self.at.tokens / max(self.at.seconds, 1e-9)
            self.on_progress(Told(self.at.step, self.steps, loss, speed, self.validated))

    def _validate(self) -> None:
        """Measure on validation, and keep the weights if none were better; of equals the later, which learnt longer."""
        self._look()
        if self.validation is None or self.training.select_by == "last":
            return
        with self._in_memory():
            now = self._measured(self.validation)
        self.validated = now = several.most(now)  # a last digit may differ
        self.at.history.append({"step": self.at.step, self.training.select_by: abs(now)})
        self.at.waited = 0 if now > self.at.best else self.at.waited + 1
        if now >= self.at.best:
            self.at.best, self.at.best_step = now, self.at.step
            self.best = {name: w.detach().to("cpu", copy=True) for name, w in self.weights.items()}

    def _measured(self, questions: Questions) -> float:
        """Accuracy, or minus the loss per token of the right answers: what weights are selected by."""
        if self.training.select_by == "accuracy":
            objective = self.training.objective
            room = self.longest + SPARE if objective == "rationale-then-answer" else None
            return evaluate(self.student, questions, objective, new_tokens=room).accuracy
        rows = rows_of_pairs(self.student.encoder, [PREDICT + p for p in questions.prompt], questions.targets)
        return -float(nll_of(self.student, rows).sum() / rows.target.lengths.sum())

    def _checkpoint(self) -> None:
        if self.folder is not None and several.rank() == 0:
            self._look()
            checkpoint.write(self.folder, self.identity, self.at, self._state(), self.best)

    def _done(self, not_recorded: str | None) -> Trained:
        import torch

        if self.best:
            with torch.no_grad():
                for name, weight in self.weights.items():
                    weight.copy_(self.best[name])
        means = [
            float(np.nanmean(column)) if np.isfinite(column).any() else None
            for column in np.array(self.at.losses, np.float64).reshape(-1, 2).T
        ]
        self.student.model.eval()
        return Trained(
            run_id=self.identity,
            student=self.student,
            steps=self.at.step,
            kept_step=self.at.best_step or self.at.step,
            validation=self.at.best if self.best else None,
            prediction_loss=means[0],
            rationale_loss=means[1],
            seconds=self.at.seconds,
            tokens=self.at.tokens,
            rationale_tokens=self.at.rationale_tokens,
            device=device_name(self.device),
            history=self.at.history,
            notes=self._notes(not_recorded),
        )

    def _notes(self, not_recorded: str | None) -> list[str]:
        (prompts, targets), found = self.cut, []
        if self.validation is None:
            found.append("no labelled validation questions: the last weights were kept, not the best")
        if prompts:
            found.append(f"{prompts} prompts were longer than max_input and lost their beginning")
        if targets:
            found.append(f"{targets} targets were cut at max_target")
        if self.untaught:
            found.append(
                f"{self.untaught} questions have no rationale: {self.training.objective} learns nothing of them"
            )
        if self.halved:
            found.append(f"memory did not hold its passes, which were cut to {self.most:,} tokens")
        if not_recorded:
            found.append(f"its passes were not recorded as CUDA graphs, so it may have trained slower: {not_recorded}")
        return found


def device_name(device: torch.device) -> str:
    """What a reader of the results should know of it."""
    import torch

    many = f" x{several.world()}" if several.world() > 1 else ""
    return f"{torch.cuda.get_device_name(device)}{many}" if device.type == "cuda" else f"cpu{many}"


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Set at the first Ctrl-C, so that the step under way ends; a second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
