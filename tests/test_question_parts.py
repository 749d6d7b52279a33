"""Questions of large Parquet files are read in parts: the same questions, and the same words for what is wrong."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from builders import question_parts
from builders.question_parts import load_parts, write_parts
from builders.sources import QuestionSource, load_questions
from schemas.errors import InputError
from schemas.workspace import Workspace


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(question_parts, "PART_ROWS", 10)


def written(tmp_path: Path, **source: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What is written in parts, and what the whole gives, in the order of the files."""
    asked = QuestionSource(path="q.parquet", **source)
    workspace = Workspace.create(tmp_path / "ws")
    with workspace.lock():
        write_parts(workspace, load_parts(asked, tmp_path), asked, tmp_path)
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


def test_parts_give_the_questions_of_the_whole(tmp_path: Path) -> None:
    mixed(95).write_parquet(tmp_path / "q.parquet")
    asked = QuestionSource(path="q.parquet", columns={"question_id": "id"})
    assert len(list(load_parts(asked, tmp_path))) == 10
    for how in ({}, {"split_by_hash": {"train": 0.5, "test": 0.5}, "seed": 3}, {"split": "test", "dataset": "d"}):
        parts, whole = written(tmp_path, columns={"question_id": "id"}, **how)
        assert parts == whole and {q["task"] for q in parts} == {"number", "choice"}


def test_ids_are_made_and_splits_are_taken_alike(tmp_path: Path) -> None:
    frame = mixed(40).drop("id").with_columns(split=pl.Series(["train", "dev"] * 20))
    frame.write_parquet(tmp_path / "q.parquet")
    parts, whole = written(tmp_path, split={"dev": "validation", "train": "train"})
    assert parts == whole and parts[0]["question_id"].startswith("q")


def test_where_parts_would_differ_the_whole_decides(tmp_path: Path) -> None:
    texts = mixed(40).with_columns(
        pl.when(pl.col("id") == "q39").then(pl.lit("many")).otherwise("answer").alias("answer")
    )
    texts.write_parquet(tmp_path / "q.parquet")  # numbers in all parts but the last
    parts, whole = written(tmp_path, columns={"question_id": "id"})
    assert parts == whole and {q["task"] for q in parts} == {"text", "choice"}


def test_what_is_wrong_is_said_in_the_same_words(tmp_path: Path) -> None:
    for bad in (
        mixed(40).with_columns(id=pl.lit("q1")),
        pl.concat([mixed(30), mixed(30)]),  # the same ids again, in other parts
        mixed(40).with_columns(question=pl.when(pl.col("id") == "q33").then(None).otherwise("question")),
    ):
        bad.write_parquet(tmp_path / "q.parquet")
        asked = QuestionSource(path="q.parquet", columns={"question_id": "id"})
        with pytest.raises(InputError) as whole:
            load_questions(asked, tmp_path)
        with pytest.raises(InputError) as parts:
            written(tmp_path, columns={"question_id": "id"})
        assert str(parts.value) == str(whole.value) and "row" in str(whole.value)
