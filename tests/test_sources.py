"""Questions from files, the Hub and presets; and one clear sentence for each kind of bad input."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from helpers_questions import save
from pydantic import ValidationError

from builders.presets import PRESETS
from builders.questions import hash_split
from builders.sources import QuestionSource, load_questions, question_notes
from schemas.errors import InputError
from schemas.tables import QUESTIONS

ENDS = ("parquet", "json", "jsonl", "csv")
GOOD = {"question_id": "q1", "question": "What barks?", "choices": ["cat", "dog"], "answer": "B", "split": "train"}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def load(folder: Path, rows: list[dict[str, Any]], **source: Any) -> list[dict[str, Any]]:
    write_lines(folder / "q.jsonl", rows)
    return load_questions(QuestionSource(path="q.jsonl", **source), folder).to_pylist()


def complaint(folder: Path, rows: list[dict[str, Any]], **source: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, rows, **source)
    return str(caught.value)


def test_all_formats_give_the_same_table(tmp_path: Path) -> None:
    rows = [GOOD, {**GOOD, "question_id": "q2", "question": "What meows?", "answer": "A", "split": "test"}]
    for end in ENDS:
        save(pl.DataFrame(rows), tmp_path / f"q.{end}")
    tables = [load_questions(QuestionSource(path=f"q.{end}"), tmp_path) for end in ENDS]
    assert all(table.equals(tables[0]) for table in tables)
    assert tables[0].schema.equals(QUESTIONS.arrow, check_metadata=True)
    first = tables[0].to_pylist()[0]
    assert first["choices"] == [{"label": "A", "text": "cat"}, {"label": "B", "text": "dog"}]
    assert (first["task"], first["answer"], first["dataset"], first["domain"]) == ("choice", "B", "q", None)


CHOICES_AS_OBJECTS = [{"A": "cat", "B": "dog"}, {"A": "owl", "C": "wolf", "D": "fox"}]


@pytest.mark.parametrize("end", ENDS)
def test_choices_may_be_an_object_in_every_format(tmp_path: Path, end: str) -> None:
    rows = [{**GOOD, "question_id": f"q{i}", "choices": c, "answer": "A"} for i, c in enumerate(CHOICES_AS_OBJECTS)]
    save(pl.DataFrame(rows), tmp_path / f"q.{end}")
    found = load_questions(QuestionSource(path=f"q.{end}"), tmp_path)["choices"].to_pylist()
    assert [{c["label"]: c["text"] for c in choices} for choices in found] == CHOICES_AS_OBJECTS


def test_a_glob_reads_all_files(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [GOOD])
    write_lines(tmp_path / "b.jsonl", [{**GOOD, "question_id": "q2"}])
    assert load_questions(QuestionSource(path="*.jsonl"), tmp_path)["question_id"].to_pylist() == ["q1", "q2"]


def test_columns_are_mapped(tmp_path: Path) -> None:
    rows = [{"id": 7, "prompt": "2 + 2?", "gold": "4.0", "topic": "sums", "split": "dev"}]
    columns = {"question_id": "id", "question": "prompt", "answer": "gold", "domain": "topic"}
    question = load(tmp_path, rows, columns=columns, split={"dev": "validation"}, dataset="sums")[0]
    expected = {"question_id": "7", "question": "2 + 2?", "answer": "4", "domain": "sums", "split": "validation"}
    assert question == {**question, **expected, "task": "number", "choices": [], "dataset": "sums"}


@pytest.mark.parametrize(
    ("choices", "answer", "label"),
    [
        (["cat", "dog"], "dog", "B"),
        (["cat", "dog"], 1, "B"),
        ({"label": ["1", "2"], "text": ["cat", "dog"]}, "2", "B"),
        ([{"label": "a", "text": "cat"}, {"label": "b", "text": "dog"}], "b", "B"),
        ([{"label": "C", "text": "cat"}, {"label": "D", "text": "dog"}], "D", "D"),
        ([{"label": "one", "text": "cat"}, {"label": "two", "text": "dog"}], "two", "B"),
        ({"c": "cat", "d": "dog"}, "d", "D"),
        ({"1": 7, "2": "dog"}, "dog", "B"),
    ],
)
def test_gold_follows_its_option(tmp_path: Path, choices: Any, answer: Any, label: str) -> None:
    question = load(tmp_path, [{**GOOD, "choices": choices, "answer": answer}])[0]
    assert question["answer"] == label
    assert {"label": label, "text": "dog"} in question["choices"]


@pytest.mark.parametrize(
    ("answers", "task"), [(["1", "2.50"], "number"), (["1", "two"], "text"), ([None, None], "text")]
)
def test_the_task_is_inferred(tmp_path: Path, answers: list[Any], task: str) -> None:
    rows = [{"question_id": str(i), "question": "Why?", "answer": a} for i, a in enumerate(answers)]
    assert {q["task"] for q in load(tmp_path, rows)} == {task}


def test_a_split_by_hash_is_stable_and_keeps_its_shares(tmp_path: Path) -> None:
    shares = {"train": 0.7, "validation": 0.1, "test": 0.2}
    ids = [f"q{i}" for i in range(5000)]
    splits = hash_split(ids, shares)
    assert hash_split(ids[:10], shares) == splits[:10]
    assert hash_split(ids, shares, seed=1) != splits
    assert {s: round(splits.count(s) / 5000, 1) for s in shares} == shares
    rows = [{**GOOD, "question_id": i} for i in ids[:50]]
    assert [q["split"] for q in load(tmp_path, rows, split_by_hash=shares)] == splits[:50]


def test_a_limit_counts_each_split(tmp_path: Path) -> None:
    rows = [{**GOOD, "question_id": f"{s}{i}", "split": s} for i in range(3) for s in ("train", "test")]
    assert [q["question_id"] for q in load(tmp_path, rows, limit=1)] == ["train0", "test0"]


def test_ids_are_made_where_there_are_none_and_prefixed_where_they_repeat(tmp_path: Path) -> None:
    bare = {k: v for k, v in GOOD.items() if k != "question_id"}
    made = load(tmp_path, [bare, {**bare, "question": "What else barks?"}])
    assert len({q["question_id"] for q in made}) == 2
    two = load(tmp_path, [{**GOOD, "dataset": "x"}, {**GOOD, "dataset": "y"}])
    assert [q["question_id"] for q in two] == ["x/q1", "y/q1"]


def test_repeated_stems_are_a_note(tmp_path: Path) -> None:
    write_lines(tmp_path / "q.jsonl", [GOOD, {**GOOD, "question_id": "q2", "choices": ["owl", "wolf"]}])
    notes = question_notes(load_questions(QuestionSource(path="q.jsonl"), tmp_path))
    assert [(note.kind, note.count) for note in notes] == [("repeated-stem", 1)]


@pytest.mark.parametrize(
    ("rows", "source", "says"),
    [
        ([{"qestion": "Why?"}], {}, "no column 'question' (did you mean 'qestion'?)"),
        ([GOOD], {"columns": {"domain": "anser"}}, "no column 'anser' (mapped to domain) (did you mean 'answer'?)"),
        ([GOOD, {**GOOD, "question": "?"}], {}, "question_id 'q1' appears twice: {file}, row 1 and {file}, row 2"),
        ([GOOD, {**GOOD, "question_id": "q2", "question": " "}], {}, "{file}, row 2: the question is empty"),
        ([{**GOOD, "answer": "C"}], {}, "{file}, row 1: the answer 'C' is none of the choices"),
        ([{**GOOD, "split": "dev"}], {}, "{file}, row 1: split 'dev' is not known"),
        (
            [{**GOOD, "choices": [{"label": "A", "text": "x"}, {"label": "a", "text": "y"}]}],
            {},
            "label 'A' of choices is used twice",
        ),
        ([{**GOOD, "choices": ["cat", ""]}], {}, "row 1: option 1 (from 0) of choices is empty"),
        ([{**GOOD, "choices": [], "answer": "four"}], {"task": "number"}, "row 1: the answer 'four' is not a number"),
        ([{**GOOD, "choices": []}], {"task": "choice"}, "row 1: task is choice but choices is empty"),
        ([{**GOOD, "task": "chioce"}], {}, "task 'chioce' is not known"),
        ([GOOD], {"split_by_hash": {"train": 0.5}}, "sum to 1"),
        ([{**GOOD, "question": ["why?"]}], {}, "{file}, row 1: question must be a text, not a list"),
        (
            [{**GOOD, "context": None}, {**GOOD, "context": {"a": 1}}],
            {},
            "{file}, row 2: context must be a text, not an",
        ),
        (
            [{**GOOD, "choices": [["cat"], ["dog"]]}],
            {},
            "{file}, row 1: the text of an option of choices must be a text",
        ),
        (
            [{**GOOD, "choices": [{"label": ["A"], "text": "cat"}]}],
            {},
            "row 1: the label of an option of choices must be",
        ),
        (
            [{**GOOD, "choices": {"label": "A", "text": "cat"}}],
            {},
            "{file}, row 1: label and text of choices must be lists",
        ),
        (
            [{**GOOD, "choices": '[["cat"], "dog"]'}],
            {},
            "{file}, row 1: the text of an option of choices must be a text",
        ),
        ([{**GOOD, "choices": '["cat", null]'}], {}, "{file}, row 1: option 1 (from 0) of choices is empty"),
    ],
)
def test_a_bad_question_is_told_in_one_sentence(tmp_path: Path, rows: Any, source: Any, says: str) -> None:
    message = complaint(tmp_path, rows, **source)
    assert says.replace("{file}", str(tmp_path / "q.jsonl")) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("q.jsonl", b"", "q.jsonl is empty"),
        ("q.jsonl", b"\n\n", "q.jsonl is empty"),
        ("q.csv", b"question,answer\n", "q.csv is empty"),
        ("q.jsonl", b'{"question": "a"}\n{"question": \n', "q.jsonl, line 2 is not JSON"),
        ("q.jsonl", b'{"question": "a"}\n\n[1]\n', "q.jsonl, line 3 is not a JSON object"),
        ("q.jsonl", b'{"question": "a"}\n{"question": "caf\xe9"}\n', "q.jsonl, line 2: byte 0xe9 is not UTF-8"),
        ("q.csv", b"question\ncaf\xe9\n", "q.csv, line 2: byte 0xe9 is not UTF-8"),
        ("q.parquet", b"not parquet", "q.parquet is not a readable Parquet file"),
        ("q.txt", b"hello", "q.txt has an ending that is not known"),
    ],
)
def test_a_bad_file_is_told_in_one_sentence(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        load_questions(QuestionSource(path=name), tmp_path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file matches"):
        load_questions(QuestionSource(path="absent-*.parquet"), tmp_path)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"path": "a", "hub": "b"},
        {"preset": "gsm8"},
        {"path": "a", "colums": {}},
        {"path": "a", "columns": {"qid": "id"}},
    ],
)
def test_a_bad_section_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        QuestionSource(**keys)


LABELS = {"label": ["A", "B"], "text": ["a stone", "a river"]}
HUB_ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "openbookqa": (
        {"id": "7-1", "question_stem": "What flows", "choices": LABELS, "answerKey": "B"},
        {"question_id": "7-1", "question": "What flows", "answer": "B"},
    ),
    "arc_easy": (
        {"id": "X_1", "question": "What flows?", "choices": {**LABELS, "label": ["1", "2"]}, "answerKey": "2"},
        {"question_id": "X_1", "answer": "B"},
    ),
    "arc_challenge": (
        {"id": "X_2", "question": "What flows?", "choices": LABELS, "answerKey": "A"},
        {"question_id": "X_2", "answer": "A"},
    ),
    "riddlesense": (
        {"answerKey": "B", "question": "I have a bed but never sleep.", "choices": LABELS},
        {"question_id": "train-0", "answer": "B"},
    ),
    "pubmedqa": (
        {"pubid": 11, "question": "Does tea help?", "context": {"contexts": ["One.", "Two."], "labels": []},
         "long_answer": "It may.", "final_decision": "maybe"},
        {"question_id": "11", "context": "One.\nTwo.", "answer": "C"},
    ),
    "bioasq": (
        {"questions": "Is tea a plant?", "context": "Tea grows.", "answer": "yes"},
        {"question": "Is tea a plant?", "context": "Tea grows.", "answer": "A"},
    ),
    "piqa": (
        {"goal": "Dry a cup", "sol1": "Use a towel.", "sol2": "Use a lake.", "label": 1},
        {"question": "Dry a cup", "answer": "B"},
    ),
    "commonsense_qa": (
        {"id": "c1", "question": "What flows?", "question_concept": "flow", "choices": LABELS, "answerKey": "B"},
        {"question_id": "c1", "domain": "flow", "answer": "B"},
    ),
    "gsm8k": (
        {"question": "Ten hundreds and five?", "answer": "10*100 = <<10*100=1000>>1000\n#### 1,005"},
        {"question_id": "train-0", "task": "number", "answer": "1005"},
    ),
    "strategyqa": (
        {"qid": "s1", "term": "tea", "description": "a drink", "question": "Is tea a stone?", "answer": False},
        {"question_id": "s1", "answer": "B", "choices": [{"label": "A", "text": "yes"}, {"label": "B", "text": "no"}]},
    ),
    "svamp": (
        {"ID": "chal-1", "Body": "Ann has 3 cups. ", "Question": "How many are 2 sets?", "Equation": "( 3.0 * 2.0 )",
         "Answer": "6.0", "Type": "Multiplication", "question_concat": "unused"},
        {"question": "Ann has 3 cups. How many are 2 sets?", "answer": "6", "domain": "Multiplication"},
    ),
    "mmlu_pro": (
        {"question_id": 70, "question": "What flows?", "options": ["a stone", "a river", "a hill"], "answer": "B",
         "answer_index": 1, "cot_content": "", "category": "physics", "src": "made"},
        {"question_id": "70", "domain": "physics", "answer": "B"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_reads_the_schema_of_the_hub(tmp_path: Path, name: str) -> None:
    row, expected = HUB_ROWS[name]
    pl.DataFrame([row]).write_parquet(tmp_path / "train-00000-of-00001.parquet")
    table = load_questions(QuestionSource(preset=name, path="*.parquet"), tmp_path)
    question = table.to_pylist()[0]
    assert question == {**question, **expected, "dataset": name}
    assert table.schema.equals(QUESTIONS.arrow)


def test_a_preset_takes_its_splits_from_the_hub_or_by_hash(tmp_path: Path) -> None:
    row = HUB_ROWS["piqa"][0]
    for name in ("train", "validation", "test"):
        pl.DataFrame([{**row, "label": -1 if name == "test" else 0}]).write_parquet(tmp_path / f"{name}.parquet")
    questions = load_questions(QuestionSource(preset="piqa", path="*.parquet"), tmp_path).to_pylist()
    assert {q["split"]: q["answer"] for q in questions} == {"train": "A", "validation": "A", "test": None}
    rows = [{**HUB_ROWS["mmlu_pro"][0], "question_id": i} for i in range(60)]
    pl.DataFrame(rows).write_parquet(tmp_path / "pro-test.parquet")
    split = load_questions(QuestionSource(preset="mmlu_pro", path="pro-test.parquet"), tmp_path)["split"].to_pylist()
    assert set(split) == {"train", "validation", "test"}


def test_a_preset_names_the_field_that_a_file_lacks(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [{"goal": "Dry a cup", "sol1": "x", "solution2": "y", "label": 0}])
    with pytest.raises(
        InputError, match=r"row 1: preset 'piqa' expects the schema of ybisk/piqa: field 'sol2' is missing"
    ):
        load_questions(QuestionSource(preset="piqa", path="train.jsonl"), tmp_path)


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    row, _ = HUB_ROWS["arc_easy"]
    pl.DataFrame([row]).write_parquet(folder / "train-0.parquet")
    pl.DataFrame([{**row, "id": "X_9"}]).write_parquet(folder / "test-0.parquet")
    return tmp_path


def test_a_hub_dataset_is_read_through_datasets(hub_folder: Path) -> None:
    source = QuestionSource(hub="data", columns={"question_id": "id", "answer": "answerKey"})
    preset = QuestionSource(preset="arc_easy", path="data")
    for questions in (load_questions(s, hub_folder).to_pylist() for s in (source, preset)):
        assert {q["split"]: (q["question_id"], q["answer"]) for q in questions} == {
            "train": ("X_1", "B"),
            "test": ("X_9", "B"),
        }


def test_sandbox_questions_come_from_the_sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = types.ModuleType("builders.sandbox")
    made.questions = lambda n, seed, domains: [  # type: ignore[attr-defined]
        {"question_id": f"s{seed}-{i}", "question": "1 + 1?", "answer": "2"} for i in range(n)
    ]
    monkeypatch.setitem(sys.modules, "builders.sandbox", made)
    questions = load_questions(QuestionSource(sandbox={"n": 3, "seed": 5}), tmp_path).to_pylist()
    assert [q["question_id"] for q in questions] == ["s5-0", "s5-1", "s5-2"]
