"""What is read of a published dataset, from a folder and from the Hub, and how its texts become token ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers_corpus import make_workspace, question_row, response_row, write_workspace
from helpers_distill import toy_examples, toy_student
from hub_stub import running_hub

from cards.card import write_card
from cards.publication import published_files
from distill.batches import rows_of
from distill.data import read_examples, read_questions
from distill.source import Published
from schemas.errors import InputError, WorkspaceError
from schemas.layout import PREDICT
from schemas.workspace import Workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("made") / "sums", n=20)


@pytest.fixture(scope="module")
def published(workspace: Workspace) -> Published:
    return Published.open(workspace)


def test_purified(published: Published, workspace: Workspace) -> None:
    examples = read_examples(published, "majority")
    assert len(examples) == examples.questions == examples.rationales == 12
    purified = {row["question_id"]: row for row in published.purified("majority")}
    questions = {q["question_id"]: q for q in workspace.read_questions().to_pylist()}
    for question_id, answer, rationale in zip(
        examples.question_id, examples.answer, examples.rationale, strict=True
    ):  # fmt: skip
        gold = questions[question_id]["answer"]
        assert answer == next(c["text"] for c in questions[question_id]["choices"] if c["label"] == gold)
        assert rationale == purified[question_id]["rationale"]
    assert examples.completion[0].startswith(examples.rationale[0] or "-")
    assert set(examples.teacher) == {None}


def test_rationales_weigh_what_their_purifier_stored(published: Published) -> None:
    examples = read_examples(published, "majority", weight_by="agreement")
    stored = {r["question_id"]: r["agreement_weight"] for r in published.purified("majority")}
    assert len(set(stored.values())) > 1
    assert examples.weight.tolist() == [stored[i] for i in examples.question_id]
    assert examples.method == "majority, weighted by agreement"
    with pytest.raises(InputError, match="'agreements' \\(did you mean 'agreement'\\?\\)"):
        read_examples(published, "majority", weight_by="agreements")
    with pytest.raises(InputError, match="teacher:beta have no weight by teacher"):
        read_examples(published, "teacher:beta", weight_by="teacher")


def test_keep_all_has_a_row_and_a_prefix_per_teacher(published: Published) -> None:
    examples = read_examples(published, "keep-all")
    assert (examples.questions, len(examples), examples.teachers) == (12, 36, ("alpha", "beta", "gamma"))
    assert examples.teacher[:3] == [0, 1, 2]
    assert [r.split()[0] for r in examples.rationale[:3] if r] == ["alpha", "beta", "gamma"]
    some = read_examples(published, "keep-all", ["gamma", "alpha"])
    assert some.teachers == ("gamma", "alpha")
    assert [r.split()[0] for r in some.rationale[:2] if r] == ["gamma", "alpha"]


def test_one_teacher_and_fine_tuning(published: Published) -> None:
    one = read_examples(published, "teacher:beta")
    assert len(one) == 12
    assert all(r is not None and r.startswith("beta") for r in one.rationale)
    none = read_examples(published, "fine-tuning")
    assert (len(none), none.rationales) == (12, 0)
    assert none.completion[0].startswith("The answer is (")


def test_teachers_are_for_keep_all(published: Published) -> None:
    for method in ("majority", "fine-tuning", "teacher:beta"):
        with pytest.raises(InputError, match=f"--teachers is for keep-all, and {method} is not: .* --teacher-sets"):
            read_examples(published, method, ["alpha"])


def test_tasks_of_the_objectives(published: Published) -> None:
    encoder = toy_student("tiny-causal").encoder
    keep_all, tuned = read_examples(published, "keep-all"), read_examples(published, "fine-tuning")
    assert [rows_of(encoder, keep_all, o).task.tolist()[:5] for o in ("multitask", "fine-tuning")] == [
        [0, 1, 2, 3, 0], [0, 0, 0, 0, 0],
    ]  # fmt: skip
    assert len(rows_of(encoder, keep_all, "rationale-then-answer")) == 36
    assert len(rows_of(encoder, tuned, "rationale-then-answer")) == 12


def test_answers_of_unlabelled_questions_and_rows_without_a_rationale(tmp_path: Path) -> None:
    import random

    rng = random.Random(0)
    questions = [question_row(i, "train", rng) for i in range(4)]
    answers = {t: [response_row(q, t, True) for q in questions] for t in ("ann", "bob", "cat")}
    questions[1]["answer"] = None  # as if nobody had labelled it: ann alone says D, the others A
    for teacher, said in (("ann", "D"), ("bob", "A"), ("cat", "A")):
        answers[teacher][1].update(predicted_answer=said, is_correct=None)
    for teacher in ("ann", "bob", "cat"):  # nobody explains the third
        answers[teacher][2].update(status="failed", rationale=None, rationale_chars=0, predicted_answer=None)
    answers["cat"][3].update(status="truncated")
    published = Published.open(write_workspace(tmp_path / "w", questions, answers))
    text = {label["label"]: label["text"] for label in questions[1]["choices"]}
    keep_all = read_examples(published, "keep-all")
    rows = list(zip(keep_all.question_id, keep_all.answer, keep_all.rationale, strict=True))
    assert [answer for question_id, answer, _ in rows if question_id == "q00001"] == [text["A"]] * 3
    assert read_examples(published, "teacher:ann").answer[1] == text["D"]
    assert [q for q, _, rationale in rows if rationale is None] == ["q00002"]  # there for its answer alone
    assert len(keep_all) == 3 + 3 + 1 + 2
    assert read_examples(published, "fine-tuning").questions == 3


def test_folder_and_hub_give_the_same(
    workspace: Workspace, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_card(workspace)
    with running_hub(monkeypatch, tmp_path / "cache") as hub:
        files = {path: (workspace.path / path).read_bytes() for path in published_files(workspace.path)}
        hub.add("bob/sums", files)
        remote = Published.open("bob/sums")
        assert remote.methods() == ["majority"]
        assert remote.teachers() == ["alpha", "beta", "gamma"]
        for method in ("majority", "keep-all", "fine-tuning"):
            here, there = read_examples(published, method), read_examples(remote, method)
            assert here.question_id == there.question_id
            assert here.rationale == there.rationale
            assert here.completion == there.completion
        assert read_questions(remote, "test").gold == read_questions(published, "test").gold
        with pytest.raises(InputError, match="bob/sums has nothing purified by 'majorty' .did you mean 'majority'"):
            read_examples(remote, "majorty")


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("majorty", "nothing purified by 'majorty' .did you mean 'majority'.*: there is majority, keep-all"),
        ("teacher:alfa", "no responses of teacher 'alfa' .did you mean 'alpha'"),
        ("teacher:", "no responses of teacher ''"),
    ],
)
def test_unknown_method(published: Published, method: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_examples(published, method)


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    import random

    rng = random.Random(0)
    questions = [question_row(i, "train", rng, answer=None) for i in range(3)]
    published = Published.open(write_workspace(tmp_path / "w", questions, {}))
    with pytest.raises(InputError, match=r"w has no test questions \(its splits: train\)"):
        read_questions(published, "test")
    with pytest.raises(InputError, match="no train question of w has a gold answer"):
        read_questions(published, "train")
    with pytest.raises(InputError, match="fine-tuning: no train question of w has a gold answer"):
        read_examples(published, "fine-tuning")
    with pytest.raises(InputError, match="keep-all: no train question of w has a rationale"):
        read_examples(published, "keep-all")
    with pytest.raises(WorkspaceError, match="there is no folder"):
        Published.open(tmp_path / "nowhere" / "at" / "all")


@pytest.mark.parametrize("model", ["tiny-seq2seq", "tiny-causal"])
def test_a_long_question_loses_its_beginning_alone(model: str) -> None:
    encoder = toy_student(model, max_input=24).encoder
    options = "\n(A) a cloud\n(B) honey"
    (ids,) = encoder.prompts([PREDICT + "What does rain fall from? " * 20 + options])
    text = encoder.text(ids)
    assert len(ids) == 24
    assert text.startswith("predict: ")
    assert text.endswith(options.strip())
    assert encoder.cut_prompts == 1


def test_a_long_target_keeps_its_answer_line() -> None:
    encoder = toy_student("tiny-causal", max_target=16).encoder
    long = "Water gathers in clouds and falls. " * 10
    whole, plain = encoder.targets([f"{long}\nThe answer is (B).", long])
    assert len(whole) == len(plain) == 16
    assert encoder.text(whole).endswith("\nThe answer is (B).")
    assert whole[-1] == encoder.end
    assert plain[-1] != encoder.end  # it did not end here
    assert encoder.cut_targets == 2


def test_tiny_tokenizer_writes_texts_back_and_reads_digits_one_by_one() -> None:
    encoder = toy_student("tiny-seq2seq").encoder
    text = "Bees make 1234.5 kg:\n  (A) é 漢 🏳️ of it!"
    (ids,) = encoder.targets([text])
    assert encoder.text(ids) == text
    assert len(encoder.targets(["1234"])[0]) == 5
    again = toy_student("tiny-seq2seq").encoder
    assert json.loads(again.tokenizer.backend_tokenizer.to_str()) == json.loads(
        encoder.tokenizer.backend_tokenizer.to_str()
    )
    assert toy_examples().texts()[0] in {encoder.text(i) for i in encoder.prompts(toy_examples().prompt)}


def test_chat_template_surrounds_the_prompt() -> None:
    encoder = toy_student("tiny-causal").encoder
    turns = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    encoder.tokenizer.chat_template = turns + "{% if add_generation_prompt %} [reply] {% endif %}"
    encoder.before, encoder.after = encoder._around(False, True)
    (ids,) = encoder.prompts([PREDICT + "Which is warm?"])
    assert encoder.text(ids) == "[user] predict: Which is warm? [reply]"
