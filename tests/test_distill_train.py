"""A student learns what it is shown, is read right, goes on where it stopped, and says so when it cannot."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_distill import toy_examples, toy_questions, toy_student

from distill import checkpoint, loss
from distill import evaluate as judge
from distill import train as training_module
from distill.evaluate import evaluate
from distill.model import StudentModel, load_student, make_student
from distill.one import judge as judged
from distill.spec import StudentSpec, Training
from distill.train import Told, train
from schemas.errors import InputError, RaffinateError, WorkspaceError

BOTH = pytest.mark.parametrize("model", ["tiny-seq2seq", "tiny-causal"])
SHORT = Training(max_steps=6, batch_size=2, select_by="last", learning_rate=1e-2)


def weights(student: StudentModel) -> dict[str, Any]:
    return {name: w.detach().clone() for name, w in student.trainable().items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(bool((a[name] == b[name]).all()) for name in a)


@BOTH
@pytest.mark.parametrize("objective", ["multitask", "rationale-then-answer"])
def test_student_learns_a_few_examples_by_heart(model: str, objective: Any, tmp_path: Path) -> None:
    student, questions = toy_student(model), toy_questions()
    assert evaluate(student, questions, objective).accuracy < 1
    training = Training(objective=objective, max_steps=80, batch_size=4, learning_rate=1e-2)
    done = train(student, toy_examples(), training, validation=questions)
    found = evaluate(student, questions, objective)
    assert (found.accuracy, found.n, done.validation) == (1.0, 4, 1.0)
    assert evaluate(student, questions, objective, "likelihood").accuracy == 1.0
    assert done.rationale_loss is not None and done.rationale_loss < 2
    assert (done.prediction_loss is None) == (objective == "rationale-then-answer")
    student.save(tmp_path, objective)
    assert not list(tmp_path.glob("*.bin"))
    again, kept = load_student(tmp_path)
    assert kept == objective
    assert evaluate(again, questions, kept).said == found.said  # type: ignore[arg-type]


@BOTH
def test_same_seed_same_student(model: str) -> None:
    made = [train(toy_student(model, dropout=0.1), toy_examples(), SHORT).student for _ in range(2)]
    assert same(weights(made[0]), weights(made[1]))
    other = train(toy_student(model, dropout=0.1), toy_examples(), SHORT.model_copy(update={"seed": 1})).student
    assert not same(weights(made[0]), weights(other))


@BOTH
def test_in_bfloat16_it_computes_about_the_same_and_keeps_its_weights(model: str) -> None:
    plain, rough = (
        train(toy_student(model), toy_examples(), SHORT.model_copy(update={"bf16": bf16})) for bf16 in (False, True)
    )
    assert plain.prediction_loss is not None and rough.prediction_loss is not None
    assert plain.prediction_loss != rough.prediction_loss == pytest.approx(plain.prediction_loss, rel=0.05)
    assert {str(w.dtype) for w in weights(rough.student).values()} == {"torch.float32"}


@BOTH
def test_interrupted_by_ctrl_c_it_goes_on_to_the_same_weights(model: str, tmp_path: Path) -> None:
    settings = Training(max_steps=8, batch_size=2, eval_every=3, learning_rate=1e-2)
    validation = toy_questions()
    whole = train(toy_student(model, dropout=0.1), toy_examples(), settings, validation=validation)

    def interrupt(now: Told) -> None:
        if now.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(toy_student(model, dropout=0.1), toy_examples(), settings, validation=validation, folder=tmp_path,
              on_progress=interrupt)  # fmt: skip
    seen: list[int] = []
    resumed = train(toy_student(model, 7, dropout=0.1), toy_examples(), settings, validation=validation,
                    folder=tmp_path, on_progress=lambda now: seen.append(now.step))  # fmt: skip
    assert seen == [5, 6, 7, 8]
    assert same(weights(whole.student), weights(resumed.student))
    assert (whole.history, whole.tokens, whole.kept_step) == (resumed.history, resumed.tokens, resumed.kept_step)
    assert whole.prediction_loss == resumed.prediction_loss


def test_killed_it_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    settings = SHORT.model_copy(update={"checkpoint_every": 2})
    whole = train(toy_student("tiny-causal"), toy_examples(), settings)

    def die(now: Told) -> None:
        if now.step == 5:
            raise OSError("power cut")

    with pytest.raises(OSError, match="power cut"):
        train(toy_student("tiny-causal"), toy_examples(), settings, folder=tmp_path, on_progress=die)
    seen: list[int] = []
    resumed = train(toy_student("tiny-causal"), toy_examples(), settings, folder=tmp_path,
                    on_progress=lambda now: seen.append(now.step))  # fmt: skip
    assert seen == [5, 6]
    assert same(weights(whole.student), weights(resumed.student))


def test_a_checkpoint_of_another_training_is_not_resumed(tmp_path: Path) -> None:
    train(toy_student("tiny-causal"), toy_examples(), SHORT, folder=tmp_path)
    other = SHORT.model_copy(update={"learning_rate": 1e-3})
    with pytest.raises(WorkspaceError, match="of another training: choose another folder"):
        train(toy_student("tiny-causal"), toy_examples(), other, folder=tmp_path)
    (tmp_path / checkpoint.NAME).write_bytes(b"half a file")
    with pytest.raises(WorkspaceError, match="is damaged: remove it"):
        train(toy_student("tiny-causal"), toy_examples(), SHORT, folder=tmp_path)


@pytest.mark.parametrize(("last", "at"), [(0.5, 1), (0.75, 3)])
def test_best_weights_on_validation_are_kept_and_patience_ends_it(
    monkeypatch: pytest.MonkeyPatch, last: float, at: int
) -> None:
    marks = iter([0.25, 0.75, 0.5, last])  # of equals, the later
    kept: list[dict[str, Any]] = []

    def marked(student: StudentModel, questions: Any, objective: Any, new_tokens: Any) -> Any:
        kept.append(weights(student))
        right = np.arange(4) < 4 * next(marks)
        return judge.Evaluated("toy", "validation", "generation", questions.question_id, right, [""] * 4)

    monkeypatch.setattr(training_module, "evaluate", marked)
    settings = Training(max_steps=20, batch_size=2, eval_every=2, patience=2, learning_rate=1e-2)
    done = train(toy_student("tiny-causal"), toy_examples(), settings, validation=toy_questions())
    assert (done.steps, done.kept_step, done.validation) == (8, 2 * (at + 1), 0.75)
    assert same(weights(done.student), kept[at])
    assert not same(weights(done.student), kept[2])


def test_selection_by_loss(tmp_path: Path) -> None:
    settings = Training(max_steps=4, batch_size=4, eval_every=2, select_by="loss")
    done = train(toy_student("tiny-seq2seq"), toy_examples(), settings, validation=toy_questions())
    assert done.validation is not None and done.validation < 0
    assert [row["step"] for row in done.history] == [2, 4]


@pytest.mark.parametrize("rate", [1e3, 1e30])
def test_a_diverging_loss_stops_and_is_told(rate: float) -> None:
    settings = Training(max_steps=60, batch_size=4, learning_rate=rate, warm_up=0, select_by="last")
    with pytest.raises(RaffinateError, match="the loss diverged at step .*set a lower learning_rate") as error:
        train(toy_student("tiny-causal"), toy_examples(), settings)
    assert rate < 1e9 or "(nan nats, " in str(error.value), "what is no number is not told as the number before"


def short_of_memory(monkeypatch: pytest.MonkeyPatch, rows: int, after: int = 0) -> list[int]:
    """Memory that holds so many rows in a pass; returns those of the passes that are computed."""
    import torch

    real, held = training_module.nll_of_pass, list[int]()

    def small(student: Any, inputs: Any) -> Any:
        if len(inputs["input_ids"]) > rows and len(held) >= after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        held.append(len(inputs["input_ids"]))
        return real(student, inputs)

    monkeypatch.setattr(training_module, "nll_of_pass", small)
    return held


def test_passes_that_memory_does_not_hold_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(toy_student("tiny-causal"), toy_examples(), SHORT)
    held = short_of_memory(monkeypatch, 2)
    done = train(toy_student("tiny-causal"), toy_examples(), SHORT)
    assert max(held) == 2, "not one row at a time, where two fit"
    for name, weight in whole.student.trainable().items():
        np.testing.assert_allclose(weight.detach(), done.student.trainable()[name].detach(), atol=1e-4)
    assert any("memory did not hold its passes, which were cut to" in note for note in done.notes)
    assert not any("memory" in note for note in whole.notes)


def test_out_of_memory_for_a_single_row_keeps_a_checkpoint_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as little:
        short_of_memory(little, 0, after=3)
        with pytest.raises(RaffinateError, match=r"out of memory, however small.*max_input.*step 3 is kept in"):
            train(toy_student("tiny-causal"), toy_examples(), SHORT, folder=tmp_path)
    seen: list[int] = []
    train(toy_student("tiny-causal"), toy_examples(), SHORT, folder=tmp_path,
          on_progress=lambda now: seen.append(now.step))  # fmt: skip
    assert seen == [4, 5, 6]


NO_MEMORY = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    MemoryError(),
]


@pytest.mark.parametrize("error", NO_MEMORY)
def test_answers_that_do_not_fit_are_computed_fewer_at_a_time(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    student, questions = toy_student("tiny-causal"), toy_questions()
    whole = judged(student, questions, "multitask")
    write, nll, most = judge._write, loss.row_nll, [1]

    def short(real: Any, rows: int) -> Any:
        def computed(*arguments: Any) -> Any:
            if len(arguments[rows]) > most[0]:
                raise error
            return real(*arguments)

        return computed

    monkeypatch.setattr(judge, "_write", short(write, 2))
    monkeypatch.setattr(loss, "row_nll", short(nll, 2))
    halved = judged(student, questions, "multitask")
    assert whole.likeliest is not None and halved.likeliest is not None
    assert (whole.written.said, whole.likeliest.said) == (halved.written.said, halved.likeliest.said)
    most[0] = 0
    with pytest.raises(RaffinateError, match="out of memory for a single question of toy: set a smaller max_input"):
        judged(student, questions, "multitask")


def test_out_of_memory_while_validating_keeps_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: Any) -> Any:
        raise NO_MEMORY[0]

    monkeypatch.setattr(judge, "_write", short)
    settings = Training(max_steps=4, batch_size=2, eval_every=2)
    with pytest.raises(RaffinateError, match=r"out of memory, .*; step 2 is kept in"):
        train(toy_student("tiny-causal"), toy_examples(), settings, validation=toy_questions(), folder=tmp_path)


def test_nothing_to_learn_is_told() -> None:
    examples = toy_examples()
    bare = replace(examples, rationale=[None] * len(examples))
    with pytest.raises(InputError, match="there is no rationale, so rationale-then-answer has nothing to learn"):
        train(toy_student("tiny-causal"), bare, Training(objective="rationale-then-answer"))


def test_a_question_that_teaches_nothing_is_told() -> None:
    examples = toy_examples()
    bare = replace(examples, rationale=[None, *examples.rationale[1:]])
    said = "1 questions have no rationale: rationale-then-answer learns nothing of them"
    for objective, told in (("rationale-then-answer", True), ("multitask", False)):
        done = train(toy_student("tiny-causal"), bare, SHORT.model_copy(update={"objective": objective}))
        assert (said in done.notes) == told


@BOTH
@pytest.mark.parametrize("lora_rank", [None, 2])
def test_it_writes_greedily_whatever_its_model_would(model: str, lora_rank: int | None, tmp_path: Path) -> None:
    student = toy_student(model)
    train(student, toy_examples(), Training(max_steps=25, batch_size=4, select_by="last", learning_rate=1e-2))
    student.save(tmp_path, "multitask")
    file = tmp_path / "generation_config.json"
    own = {"no_repeat_ngram_size": 1, "min_length": 30, "num_beams": 3, "suppress_tokens": [5, 6, 7, 8, 9]}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    again = make_student(StudentSpec(model=str(tmp_path), lora_rank=lora_rank))  # adapters change nothing at first
    prompts = ["predict: " + p for p in toy_questions().prompt]
    assert judge.write(again, prompts, 12) == judge.write(student, prompts, 12)


def test_a_folder_that_is_used_again_holds_the_last_student(tmp_path: Path) -> None:
    base = toy_student("tiny-causal")
    base.save(tmp_path / "base", "multitask")
    adapted = make_student(StudentSpec(model=str(tmp_path / "base"), lora_rank=2))
    other = train(toy_student("tiny-causal", 3), toy_examples(), SHORT).student
    weighed = [evaluate(s, toy_questions(), "multitask", "likelihood") for s in (adapted, other)]
    for student, found in zip((adapted, other, adapted), (*weighed, weighed[0]), strict=True):
        student.save(tmp_path / "out", "multitask")
        again, _ = load_student(tmp_path / "out")
        assert again.spec.lora_rank == student.spec.lora_rank
        assert evaluate(again, toy_questions(), "multitask", "likelihood").said == found.said
        assert (tmp_path / "out" / "model.safetensors").exists() != bool(student.spec.lora_rank)
        assert (tmp_path / "out" / "adapter_config.json").exists() == bool(student.spec.lora_rank)
    with pytest.raises(InputError, match="base holds the model that the adapters are on: save the student in another"):
        adapted.save(tmp_path / "base", "multitask")
    load_student(tmp_path / "base")


def test_adapters_alone_are_trained_and_saved(tmp_path: Path) -> None:
    base = toy_student("tiny-causal")
    base.save(tmp_path / "base", "multitask")
    spec = StudentSpec(model=str(tmp_path / "base"), lora_rank=2)
    student = make_student(spec)
    before = {n: p.detach().clone() for n, p in student.model.named_parameters() if not p.requires_grad}
    assert 0 < sum(w.numel() for w in student.trainable().values()) < base.parameters / 4
    train(student, toy_examples(), SHORT)
    assert all(bool((p == before[n]).all()) for n, p in student.model.named_parameters() if n in before)
    student.save(tmp_path / "adapted", "multitask")
    assert not (tmp_path / "adapted" / "model.safetensors").exists()
    again, _ = load_student(tmp_path / "adapted")
    said = [evaluate(s, toy_questions(), "multitask", "likelihood").said for s in (student, again)]
    assert said[0] == said[1]
    assert same(weights(student), {n: p for n, p in again.model.named_parameters() if n in weights(student)})


@pytest.mark.parametrize(
    ("task", "text", "gold", "right"),
    [
        ("choice", "so.\nThe answer is (B).", "B", True),
        ("choice", "The answer is (A).\nNo.\nThe answer is (B).", "B", True),
        ("choice", "The answer is (B) honey.", "B", True),
        ("choice", "The answer is honey.", "B", True),
        ("choice", "The answer is (A).", "B", False),
        ("choice", "It is B", "B", False),
        ("number", "Add.\nThe answer is 1,234.50.", "1234.5", True),
        ("number", "The answer is 2/6.", "1/3", True),
        ("number", "The answer is 12.", "1", False),
        ("text", "The answer is The  North Sea.", "the north sea", True),
        ("text", "", "the north sea", False),
        ("number", "The answer is $5.", "5", True),
        ("number", "The answer is $5.", "5%", False),
        ("number", "The answer is 1e99999999.", "1", False),
    ],
)
def test_reading_of_a_rationale_then_answer(
    monkeypatch: pytest.MonkeyPatch, task: str, text: str, gold: str, right: bool
) -> None:
    questions = toy_questions().take([1])
    options = questions.choices[0] if task == "choice" else {}
    asked = replace(questions, task=[task], choices=[options], gold=[gold])
    monkeypatch.setattr(judge, "write", lambda *_: [text])
    student: Any = toy_student("tiny-causal")
    assert evaluate(student, asked, "rationale-then-answer").right.tolist() == [right]


def test_prediction_is_compared_with_the_options_text(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def write(student: Any, prompts: list[str], new_tokens: int) -> list[str]:
        asked.extend(prompts)
        return ["A  Cloud", "B", "fire", "leaves"]

    monkeypatch.setattr(judge, "write", write)
    found = evaluate(toy_student("tiny-causal"), toy_questions(), "multitask")
    assert found.right.tolist() == [True, False, True, False]
    assert all(prompt.startswith("predict: ") for prompt in asked)


def test_another_options_words_are_not_gold_whatever_number_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = replace(toy_questions().take([0] * 4), choices=[{"A": "1", "B": "0,1", "C": "$5", "D": "5%"}] * 4,
                    gold=["A", "A", "A", "D"])  # fmt: skip
    monkeypatch.setattr(judge, "write", lambda *_: ["0,1", "1.0", "1", "$5"])
    assert evaluate(toy_student("tiny-causal"), asked, "multitask").right.tolist() == [False, True, True, False]


def test_a_long_gold_answer_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms: list[int] = []
    monkeypatch.setattr(judge, "write", lambda _, prompts, room: rooms.append(room) or [""] * len(prompts))
    for gold in ("ab " * 60, "ab " * 600):
        asked = replace(toy_questions(), task=["text"] * 4, choices=[{}] * 4, gold=[gold] * 4)
        evaluate(toy_student("tiny-causal"), asked, "multitask")
    assert rooms[0] > 100
    assert rooms[1] == toy_student("tiny-causal").spec.max_target


@BOTH
def test_writing_in_a_batch_is_writing_alone(model: str) -> None:
    student = toy_student(model)
    train(student, toy_examples(), Training(max_steps=25, batch_size=4, select_by="last", learning_rate=1e-2))
    prompts = ["predict: " + p for p in toy_questions().prompt]
    together = judge.write(student, prompts, 12)
    assert together == [judge.write(student, [p], 12)[0] for p in prompts]
    assert len(set(together)) > 1


def test_likelihood_needs_options() -> None:
    questions = toy_questions()
    numbers = replace(questions, task=["number"] * 4, choices=[{}] * 4, gold=["1"] * 4)
    with pytest.raises(InputError, match="likelihood compares the options of choice questions, and toy has none"):
        evaluate(toy_student("tiny-causal"), numbers, "multitask", "likelihood")
