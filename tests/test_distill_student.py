"""The student that purifiers are handed, other people's models, and the command."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers_cli import Cli
from helpers_corpus import make_workspace, question_row, response_row, write_workspace
from helpers_distill import toy_examples, toy_questions, toy_student
from test_distill_loss import nll_by_hand

from distill.checkpoint import NAME
from distill.evaluate import evaluate
from distill.model import load_student, make_student
from distill.one import distil, judge
from distill.protocol import BatchStudent, student_for
from distill.source import Published
from distill.spec import StudentSpec, Training
from purifiers.equipment import Student
from schemas.database import query
from schemas.errors import InputError, MissingExtraError
from schemas.workspace import Workspace

BOTH = pytest.mark.parametrize("model", ["tiny-seq2seq", "tiny-causal"])
PROMPTS = ["predict: What do bees make?", "explain 2: Which is warm?\n(A) ice", "no prefix at all"]
TARGETS = ["honey", "Three are frozen, one burns.", "a"]


def handed(model: str) -> BatchStudent:
    spec = StudentSpec(model=model, width=32, layers=1, vocabulary=400)
    return student_for(spec, toy_examples().texts(), seed=0, training=Training(learning_rate=1e-2))


@BOTH
def test_losses_are_those_of_single_pairs(model: str) -> None:
    student: Student = handed(model)
    inner = student.student  # type: ignore[attr-defined]
    encoder = inner.encoder
    prompts, targets = encoder.prompts(PROMPTS), encoder.targets(TARGETS)
    nll = np.array([nll_by_hand(inner, p, t) for p, t in zip(prompts, targets, strict=True)])
    np.testing.assert_allclose(student.logprob(PROMPTS, TARGETS), -nll, rtol=1e-5)
    np.testing.assert_allclose(student.loss(PROMPTS, TARGETS), nll / [len(t) for t in targets], rtol=1e-5)
    assert student.loss([], []).shape == (0,)
    assert all(p.grad is None for p in inner.model.parameters())


@BOTH
def test_it_learns_what_has_weight_and_a_fresh_one_has_not(model: str) -> None:
    student = handed(model)
    start = student.loss(PROMPTS, TARGETS)
    first = student.learn(PROMPTS, TARGETS, [1.0, 0.0, 0.0])
    assert first == pytest.approx(float(start[0]), rel=1e-4)  # the loss before the step, of what has weight
    for _ in range(15):
        student.learn(PROMPTS, TARGETS, [1.0, 0.0, 0.0])
    end = student.loss(PROMPTS, TARGETS)
    assert end[0] < 0.5 * start[0]
    assert student.name == f"{model}, 16 steps"
    again, other = student.fresh(0), student.fresh(1)
    np.testing.assert_array_equal(again.loss(PROMPTS, TARGETS), start)
    assert not np.array_equal(other.loss(PROMPTS, TARGETS), start)
    again.learn(PROMPTS, TARGETS)
    np.testing.assert_array_equal(student.loss(PROMPTS, TARGETS), end)


def test_dropout_of_a_step_does_not_depend_on_what_was_drawn_before() -> None:
    import torch

    spec = StudentSpec(model="tiny-seq2seq", width=32, layers=1, vocabulary=400, dropout=0.3)
    found = []
    for drawn in (1, 2):
        torch.manual_seed(drawn)
        student = student_for(spec, toy_examples().texts(), seed=0, training=Training(learning_rate=1e-2))
        found.append([student.learn(PROMPTS, TARGETS) for _ in range(3)])
        after = torch.rand(1)
        torch.manual_seed(drawn)
        assert torch.rand(1) == after, "and others do not depend on it"
    assert found[0] == found[1]
    assert student.fresh(1).learn(PROMPTS, TARGETS) != found[0][0]


def test_without_weights_every_token_counts_alike() -> None:
    student = handed("tiny-causal")
    tokens = np.array([len(t) for t in student.student.encoder.targets(TARGETS)])
    wanted = float((student.loss(PROMPTS, TARGETS) * tokens).sum() / tokens.sum())
    assert student.learn(PROMPTS, TARGETS) == pytest.approx(wanted, rel=1e-4)


def test_a_model_that_cannot_be_a_student_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot load a language model from '.*nothing'"):
        make_student(StudentSpec(model=str(tmp_path / "nothing")))
    with pytest.raises(InputError, match="holds no student: train one with  raffinate distill"):
        load_student(tmp_path)
    folder = tmp_path / "endless"
    toy_student("tiny-causal").save(folder, "multitask")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for key in ("eos_token", "pad_token"):
        settings.pop(key)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="has no end token, so a student would not know where to stop"):
        make_student(StudentSpec(model=str(folder)))


def test_a_tokenizer_without_a_pad_token_serves(tmp_path: Path) -> None:
    toy_student("tiny-causal").save(tmp_path, "multitask")
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    padless = make_student(StudentSpec(model=str(tmp_path)))
    usual = BatchStudent(lambda _: toy_student("tiny-causal")).loss(PROMPTS, TARGETS)
    np.testing.assert_allclose(BatchStudent(lambda _: padless).loss(PROMPTS, TARGETS), usual, rtol=1e-6)


def test_options_are_weighed_after_the_rationale_that_was_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    student, asked = toy_student("tiny-causal"), toy_questions()
    apart = evaluate(student, asked, "rationale-then-answer", "likelihood")
    written: list[int] = []
    monkeypatch.setattr(student.model, "generate", _counting(student.model.generate, written))
    judged = judge(student, asked, "rationale-then-answer")
    assert sum(written) == len(asked.question_id)  # writing a rationale is what takes long: once is enough
    assert judged.likeliest is not None
    assert judged.likeliest.said == apart.said


def _counting(generate: Callable[..., Any], counts: list[int]) -> Callable[..., Any]:
    def counted(**inputs: Any) -> Any:
        counts.append(len(inputs["input_ids"]))
        return generate(**inputs)

    return counted


def test_without_the_extra_it_says_which(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "accelerate" else found(name))
    for make in (lambda: make_student(StudentSpec()), lambda: load_student(tmp_path)):
        with pytest.raises(MissingExtraError, match=r"training a student needs .* pip install 'raffinate\[distill\]'"):
            make()


def test_a_model_in_a_folder_is_another_when_its_files_are(tmp_path: Path) -> None:
    spec = StudentSpec(model=str(tmp_path))
    toy_student("tiny-causal").save(tmp_path, "multitask")
    first, label = spec.identity(), spec.label
    assert label.startswith(f"{tmp_path}@")
    (tmp_path / NAME).write_text("a training under way")
    toy_student("tiny-causal").save(tmp_path, "multitask")
    assert (spec.identity(), spec.label) == (first, label)
    toy_student("tiny-causal", 1).save(tmp_path, "multitask")
    assert spec.identity() != first
    assert spec.label != label
    named = StudentSpec(model="google/flan-t5-small")
    assert (named.identity(), named.label) == (named.model_dump(), "google/flan-t5-small")


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of twice the heads"):
        StudentSpec(width=40, heads=8)
    with pytest.raises(ValueError, match="select_by=loss is the loss of predicted answers"):
        Training(select_by="loss", objective="rationale-then-answer")
    with pytest.raises(ValueError, match="select_by=last makes none"):
        Training(select_by="last", patience=2)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("made") / "sums", n=20)


TINY = ["--set", "width=16", "--set", "layers=1", "--set", "heads=2", "--set", "max_steps=4"]


def test_a_dataset_on_the_hub_needs_a_folder_for_its_student(cli: Cli) -> None:
    told = cli("distill", "bob/sums", "--method", "majority")
    assert (told.code, told.err) == (
        1,
        "error: bob/sums is on the Hub: say where the student goes, with --out FOLDER\n",
    )


def test_command(workspace: Workspace, tmp_path: Path, cli: Cli) -> None:
    other = make_workspace(tmp_path / "others", n=10, seed=3)
    command = ["distill", workspace.path, "--method", "majority", *TINY, "--eval", other.path]
    told = cli(*command)
    assert told.code == 0, told.err
    assert "majority (multitask" in told.out
    assert "sums (others)" in told.out
    cli(*command)  # the same student: its rows are replaced, not doubled
    cli("distill", workspace.path, "--method", "keep-all", "--teachers", "beta,alpha", *TINY, "--seed", "3", "--out",
        tmp_path / "student", "--model", "tiny-causal", "--objective", "rationale-then-answer")  # fmt: skip
    rows = query(workspace, "SELECT * FROM students ORDER BY method, eval_dataset").to_pylist()
    assert [(r["method"], r["eval_dataset"], r["eval_split"], r["n"]) for r in rows] == [
        ("keep-all", "sums", "test", 4), ("majority", "sums", "test", 4), ("majority", "sums (others)", "test", 2),
    ]  # fmt: skip
    assert rows[0]["teachers"] == ["beta", "alpha"]
    assert (rows[0]["seed"], rows[0]["base_model"], rows[0]["objective"]) == (
        3, "tiny-causal-1x16", "rationale-then-answer",
    )  # fmt: skip
    assert rows[1]["option_accuracy"] is not None
    assert rows[1]["rationale_tokens"] > 0
    student, objective = load_student(tmp_path / "student")
    assert (student.spec.width, objective) == (16, "rationale-then-answer")
    assert not list(tmp_path.rglob("checkpoint*"))
    cli("distill", workspace.path, "--method", "fine-tuning", *TINY, "--objective", "rationale-then-answer")
    sql = "SELECT prediction_loss, rationale_loss, rationale_tokens FROM students WHERE method = 'fine-tuning'"
    (tuned,) = query(workspace, sql).to_pylist()
    assert tuned["prediction_loss"] > 0
    assert (tuned["rationale_loss"], tuned["rationale_tokens"]) == (None, 0), "it has read no rationale"


def test_test_questions_judge_and_nothing_else(tmp_path: Path) -> None:
    """With another gold on all test questions the same student is trained and kept, and is right where it was not."""
    spec = StudentSpec(model="tiny-causal", width=16, layers=1, heads=2, vocabulary=400)
    training = Training(max_steps=6, batch_size=4, eval_every=2, select_by="loss")
    done = []
    for name in ("sums", "turned"):
        workspace = make_workspace(tmp_path / name, n=20)
        if name == "turned":
            (file,) = (workspace.path / "questions").glob("test*.parquet")
            rows = pq.read_table(file)
            turned = [{"A": "B", "B": "C", "C": "D", "D": "A"}[label] for label in rows["answer"].to_pylist()]
            pq.write_table(rows.set_column(rows.column_names.index("answer"), "answer", [turned]), file)
        done.append(distil(Published.open(workspace.path), "majority", spec, training))
    one, other = done
    ours, theirs = (found.trained.student.trainable() for found in done)
    assert all(bool((ours[name] == theirs[name]).all()) for name in ours)
    assert (one.trained.history, one.trained.kept_step) == (other.trained.history, other.trained.kept_step)
    right, turned_right = (found.judged[0].likeliest for found in done)
    assert right is not None and turned_right is not None and right.said == turned_right.said
    assert not (right.right & turned_right.right).any()


def test_a_dataset_without_test_or_validation_questions(workspace: Workspace, tmp_path: Path, cli: Cli) -> None:
    rng = random.Random(0)
    questions = [question_row(i, "train", rng) for i in range(4)]
    bare = write_workspace(tmp_path / "bare", questions, {"ann": [response_row(q, "ann", True) for q in questions]})
    told = cli("distill", bare.path, "--method", "keep-all", *TINY)
    assert (told.code, told.err.count("\n")) == (1, 1)
    assert "bare has no test questions (its splits: train)" in told.err
    questions.append(question_row(4, "test", rng))
    some = write_workspace(tmp_path / "some", questions, {"ann": [response_row(q, "ann", True) for q in questions]})
    told = cli("distill", some.path, "--method", "keep-all", *TINY)
    assert told.code == 0, told.err
    assert "no labelled validation questions: the last weights were kept, not the best" in " ".join(told.err.split())


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--set", "epocs=3"], "--set epocs: no such setting (did you mean 'epochs'?)"),
        (["--set", "epochs=0"], "--set epochs: Input should be greater than 0"),
        (["--objective", "guess"], "objective: Input should be 'multitask', 'rationale-then-answer' or 'fine-tuning'"),
        (["--method", "teacher:alfa"], "no responses of teacher 'alfa' (did you mean 'alpha'?)"),
        (["--eval", "nowhere"], "there is no folder nowhere"),
        (["--teachers", "alpha"], "--teachers is for keep-all, and majority is not"),
        (["--seed", "1", "--set", "seed=5"], "--set seed: there is --seed for that"),
        (["--set", "epochs=.inf"], "--set epochs: Input should be a finite number"),
        (["--set", "teacher_weights={alpha: 2}"], "no task of teacher 'alpha': there is none here"),
        (["--method", "keep-all", "--set", "teacher_weights={alfa: 2}"], "(did you mean 'alpha'?): there is alpha, b"),
        (["--method", "majorty"], "nothing purified by 'majorty' (did you mean 'majority'?)"),
        (["--set", "learning_rate=1e30", "--set", "warm_up=0", "--set", "max_steps=60"], "the loss diverged at step"),
    ],
)
def test_command_tells_mistakes_in_one_sentence(workspace: Workspace, cli: Cli, extra: list[str], says: str) -> None:
    given = [] if "--method" in extra else ["--method", "majority"]
    shape = TINY[:-2] if "max_steps=60" in extra else TINY
    told = cli("distill", workspace.path, *given, *shape, *extra)
    assert told.code == 1
    assert says in told.err
    assert told.err.count("\n") == 1
