"""Questions of large files are read in parts: the same questions, and the same words for what is wrong."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from helpers_questions import save

from builders import question_parts
from builders.question_parts import load_parts, write_parts
from builders.sources import QuestionSource, load_questions
from schemas.errors import InputError
from schemas.workspace import Workspace


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(question_parts, "PART_ROWS", 10)
    monkeypatch.setattr(question_parts, "PART_BYTES", 500)


FORMATS = pytest.mark.parametrize("name", ["q.parquet", "q.jsonl", "q.json", "q.csv"])


def written(
    tmp_path: Path, path: str | None = "q.parquet", **source: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What is written in parts, and what the whole gives, in the order of the files."""
    asked = QuestionSource(path=None if "hub" in source else path, **source)
    workspace = Workspace.create(tmp_path / "ws")
    parts = load_parts(asked, tmp_path)
    assert not isinstance(parts, list)  # they are read as they are written
    with workspace.lock():
        write_parts(workspace, parts, asked, tmp_path)
    whole = load_questions(asked, tmp_path)
    order = {"train": 0, "validation": 1, "test": 2}
    return workspace.read_questions().to_pylist(), sorted(whole.to_pylist(), key=lambda q: order[q["split"]])


def mixed(n: int) -> pl.DataFrame:
    rows = [
        {"id": f"q{i}", "question": f"how many are {i}?", "answer": str(i), "choices": None}
        if i % 2
        else {"id": f"q{i}", "question": f"which is {i}?", "answer": "up", "choices": ["down", "up"]}
        for i in range(n)
    ]
    return pl.DataFrame(rows, schema_overrides={"choices": pl.List(pl.String)})


@FORMATS
def test_parts_give_the_questions_of_the_whole(tmp_path: Path, name: str) -> None:
    save(mixed(95), tmp_path / name)
    asked = QuestionSource(path=name, columns={"question_id": "id"})
    assert len(list(load_parts(asked, tmp_path))) >= 10
    for how in ({}, {"split_by_hash": {"train": 0.5, "test": 0.5}, "seed": 3}, {"split": "test", "dataset": "d"}):
        parts, whole = written(tmp_path, name, columns={"question_id": "id"}, **how)
        assert parts == whole and {q["task"] for q in parts} == {"number", "choice"}


@FORMATS
def test_ids_are_made_and_splits_are_taken_alike(tmp_path: Path, name: str) -> None:
    frame = mixed(40).drop("id").with_columns(split=pl.Series(["train", "dev"] * 20))
    save(frame, tmp_path / name)
    parts, whole = written(tmp_path, name, split={"dev": "validation", "train": "train"})
    assert parts == whole and parts[0]["question_id"].startswith("q")


@FORMATS
def test_where_parts_would_differ_the_whole_decides(tmp_path: Path, name: str) -> None:
    texts = mixed(40).with_columns(
        pl.when(pl.col("id") == "q39").then(pl.lit("many")).otherwise("answer").alias("answer")
    )
    save(texts, tmp_path / name)  # numbers in all parts but the last
    parts, whole = written(tmp_path, name, columns={"question_id": "id"})
    assert parts == whole and {q["task"] for q in parts} == {"text", "choice"}


@pytest.mark.parametrize("name", ["q.jsonl", "q.json"])
def test_the_types_of_json_are_those_of_the_whole(tmp_path: Path, name: str) -> None:
    rows: list[dict[str, Any]] = [
        {"question": f"which is {i}?", "choices": ["1", "up"], "answer": 1} for i in range(40)
    ]
    rows[30] |= {"answer": "up", "domain": "late", "context": 2.0}
    lines = [json.dumps(row) for row in rows]
    (tmp_path / name).write_text("\n".join(lines) if name == "q.jsonl" else f"[{','.join(lines)}]")
    parts, whole = written(tmp_path, name, split="train")
    assert parts == whole and [q["answer"] for q in parts[29:31]] == ["A", "B"]  # a text everywhere, and no index


@FORMATS
def test_a_limit_counts_over_all_parts(tmp_path: Path, name: str) -> None:
    save(mixed(60).with_columns(split=pl.Series(["train", "train", "test"] * 20)), tmp_path / name)
    parts, whole = written(tmp_path, name, columns={"question_id": "id"}, limit=13)
    assert parts == whole and Counter(q["split"] for q in parts) == {"train": 13, "test": 13}


@pytest.mark.parametrize("origin", [{"path": "*.jsonl"}, {"path": "*.parquet"}, {"path": "."}, {"hub": "."}], ids=str)
def test_presets_and_datasets_of_the_hub_give_the_questions_of_the_whole(
    tmp_path: Path, origin: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = pl.DataFrame(
        [{"goal": f"Dry cup {i}", "sol1": "Use a towel.", "sol2": f"Use lake {i}.", "label": i % 2} for i in range(95)]
    )
    end = "jsonl" if "jsonl" in str(origin) else "parquet"
    data = tmp_path / "data"
    data.mkdir()
    save(rows.head(50), data / f"train.{end}")
    save(rows.tail(45), data / f"test.{end}")
    given = {"path" if "path" in origin else "hub": f"data/{next(iter(origin.values()))}"}
    kind = {"columns": {"question": "goal", "answer": "label"}} if "hub" in origin else {"preset": "piqa"}
    parts, whole = written(tmp_path, **given, **kind)
    assert parts == whole and Counter(q["split"] for q in parts) == {"train": 50, "test": 45}
    assert [q["answer"] for q in parts[:2]] == (["0", "1"] if "hub" in origin else ["A", "B"])


def test_a_preset_that_does_not_fit_far_down_is_told(tmp_path: Path) -> None:
    rows = [{"question": f"how many are {i}?", "answer": f"So\n#### {i}"} for i in range(40)]
    rows[33]["answer"] = None
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = QuestionSource(preset="gsm8k", path="train.jsonl")
    with pytest.raises(InputError, match=r"train.jsonl, row 34: preset 'gsm8k' expects the schema of openai/gsm8k"):
        list(load_parts(asked, tmp_path))


def test_files_that_lack_columns_and_lines_that_are_blank(tmp_path: Path) -> None:
    save(mixed(40), tmp_path / "a.jsonl")
    save(mixed(80).tail(40).drop("choices").filter(pl.col("answer") != "up"), tmp_path / "b.jsonl")
    parts, whole = written(tmp_path, "*.jsonl", columns={"question_id": "id"})
    assert parts == whole and len(parts) == 60
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    lines[30] = lines[30].replace("which is 30?", "")
    (tmp_path / "q.jsonl").write_text("\n\n".join(lines))
    with pytest.raises(InputError, match=r"q.jsonl, row 61: the question is empty"):
        written(tmp_path, "q.jsonl", columns={"question_id": "id"})


@FORMATS
def test_what_is_wrong_is_said_in_the_same_words(tmp_path: Path, name: str) -> None:
    for bad in (
        mixed(40).with_columns(id=pl.lit("q1")),
        pl.concat([mixed(30), mixed(30)]),  # the same ids again, in other parts
        mixed(40).with_columns(question=pl.when(pl.col("id") == "q33").then(None).otherwise("question")),
    ):
        save(bad, tmp_path / name)
        same_words(tmp_path, name)


@pytest.mark.parametrize(
    ("name", "line", "says"),
    [
        ("q.jsonl", b'{"id": "q40", "question": ', "q.jsonl, line 41 is not JSON"),
        ("q.jsonl", b"[1]", "q.jsonl, line 41 is not a JSON object"),
        ("q.jsonl", b'{"id": "caf\xe9"}', "q.jsonl, line 41: byte 0xe9 is not UTF-8"),
        ("q.jsonl", b'{"id": "q40", "question": "why?", "choices": {"a": 1}}', "a field changes its shape"),
        ("q.csv", b"caf\xe9,why?,1,", "q.csv, line 42: byte 0xe9 is not UTF-8"),
        ("q.csv", b"q40,why?,1,,,,", "q.csv is not readable as CSV"),
    ],
)
def test_a_bad_line_far_down_is_said_in_the_same_words(tmp_path: Path, name: str, line: bytes, says: str) -> None:
    save(mixed(40), tmp_path / name)
    with (tmp_path / name).open("ab") as file:
        file.write(line + b"\n")
    assert says in same_words(tmp_path, name)


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ("[1]]", "q.json, item 41 is not a JSON object"),
        ('{"id": "q40", "question": ]', "q.json, line 1 is not JSON"),
        ('{"id": "q40", "question": "why?", "choices": {"a": 1}}]', "a field changes its shape"),
        ('{"id": "q40", "question": " "}]', "q.json, row 41: the question is empty"),
    ],
)
def test_a_bad_item_far_down_an_array_is_said_in_the_same_words(tmp_path: Path, end: str, says: str) -> None:
    (tmp_path / "q.json").write_text(f"{json.dumps(mixed(40).to_dicts())[:-1]}, {end}")
    assert says in same_words(tmp_path, "q.json")


def test_json_lines_may_be_called_json(tmp_path: Path) -> None:
    mixed(40).write_ndjson(tmp_path / "q.json")
    parts, whole = written(tmp_path, "q.json", columns={"question_id": "id"})
    assert parts == whole


def same_words(tmp_path: Path, name: str) -> str:
    asked = QuestionSource(path=name, columns={"question_id": "id"})
    with pytest.raises(InputError) as whole:
        load_questions(asked, tmp_path)
    workspace = Workspace.create(tmp_path / "ws")
    with pytest.raises(InputError) as parts, workspace.lock():
        write_parts(workspace, load_parts(asked, tmp_path), asked, tmp_path)
    assert str(parts.value) == str(whole.value)
    return str(whole.value)
