"""What other tools leave on disk, in their own formats, becomes a corpus."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from builders import import_formats
from builders.import_formats import FORMATS, Layout
from builders.importer import Selection, read_corpus
from schemas.errors import InputError

CHOICES = ["cat", "dog"]
QUESTIONS = [
    {"question_id": i, "question": q, "choices": CHOICES, "answer": a, "dataset": "pets", "split": "train"}
    for i, q, a in (("q1", "What barks?", "dog"), ("q2", "What meows?", "cat"))
]


def lines(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def bring(tmp_path: Path, tool: str, responses: Path | str, **layout: Any) -> list[dict[str, Any]]:
    questions = lines(tmp_path / "questions.jsonl", QUESTIONS)
    corpus = read_corpus(questions, responses, Selection(tool=tool, layout=Layout(**layout)))
    return sorted(corpus.responses.to_pylist(), key=lambda r: (r["question_id"], r["teacher_id"], r["sample_idx"]))


def short(rows: list[dict[str, Any]], *fields: str) -> list[tuple[Any, ...]]:
    return [tuple(row[f] for f in ("question_id", "teacher_id", *fields)) for row in rows]


def test_distilabel_one_model_a_row(tmp_path: Path) -> None:
    stats = {"statistics_text_generation_0": {"input_tokens": 12, "output_tokens": 34}}
    meta = {"raw_input_text_generation_0": [{"role": "user", "content": "?"}], "raw_output_text_generation_0": "!"}
    row = {"id": "q1", "instruction": "What barks?", "generation": "Dogs do.\nThe answer is (B).",
           "distilabel_metadata": meta | stats, "model_name": "meta-llama/Llama-3.1-8B"}  # fmt: skip
    file = tmp_path / "train-00000-of-00001.parquet"
    pl.from_dicts([row]).write_parquet(file)
    found = bring(tmp_path, "distilabel", file)
    fields = ("model", "rationale", "predicted_answer", "is_correct", "prompt_tokens", "completion_tokens")
    expected = ("meta-llama/Llama-3.1-8B", "Dogs do.", "B", True, 12, 34)
    assert short(found, *fields) == [("q1", "Llama-3.1-8B", *expected)]


def test_distilabel_grouped_models_and_samples(tmp_path: Path) -> None:
    grouped = {"id": "q1", "generations": ["So (B).", "The answer is (A)."], "model_names": ["a", "b"]}
    sampled = {"id": "q2", "generations": ["The answer is (A).", "The answer is (B)."], "model_names": ["a", "a"]}
    found = bring(tmp_path, "distilabel", lines(tmp_path / "d.jsonl", [grouped, sampled]))
    assert short(found, "sample_idx") == [("q1", "a", 0), ("q1", "b", 0), ("q2", "a", 0), ("q2", "a", 1)]


def curator_line(question: str, message: str | None, **more: Any) -> dict[str, Any]:
    request = {"model": "gpt-4o-mini", "messages": [], "response_format": None,
               "original_row": {"id": question, "question": "?"}, "original_row_idx": 0}  # fmt: skip
    at = "2026-01-01T00:00:00"
    return {"response_message": message, "response_errors": None, "raw_response": None, "generic_request": request,
            "created_at": at, "finished_at": at, **more}  # fmt: skip


def test_curator(tmp_path: Path) -> None:
    raw = {"choices": [{"message": {"content": "x", "reasoning_content": "Hm."}, "finish_reason": "stop"}]}
    usage = {"input": 5, "output": 7, "total": 12}
    told = {"token_usage": usage, "response_cost": 0.25, "finish_reason": "stop", "raw_response": raw}
    good = curator_line("q1", "Dogs. The answer is (B).", **told)
    bad = curator_line("q2", None, response_errors=["rate limited"])
    found = bring(tmp_path, "curator", lines(tmp_path / "responses_0.jsonl", [good, bad]))
    fields = ("status", "predicted_answer", "reasoning", "completion_tokens", "cost_usd", "error_message")
    assert short(found, *fields) == [
        ("q1", "gpt-4o-mini", "ok", "B", "Hm.", 7, 0.25, None),
        ("q2", "gpt-4o-mini", "failed", None, None, None, None, "rate limited"),
    ]


def test_datadesigner(tmp_path: Path) -> None:
    trace = [{"role": "assistant", "content": "The answer is (A)."}]
    texts = {"big": "The answer is (B).", "big__reasoning_content": "Hm.", "small": "The answer is (A)."}
    rows = [{"id": "q1", "topic": "pets", **texts, "small__trace": trace}]
    folder = tmp_path / "parquet-files"
    folder.mkdir()
    pl.from_dicts(rows).write_parquet(folder / "batch_00000.parquet")
    found = bring(tmp_path, "datadesigner", str(folder / "batch_*.parquet"))
    expected = [("q1", "big", "B", "Hm."), ("q1", "small", "A", None)]
    assert short(found, "predicted_answer", "reasoning") == expected
    named = bring(tmp_path, "datadesigner", str(folder / "batch_*.parquet"), text_columns=["small"])
    assert short(named) == [("q1", "small")]


def test_tinyllm(tmp_path: Path) -> None:
    folder = tmp_path / "datasets" / "pets"
    lines(folder / "pets_train.json", [{"id": q["question_id"], "question": q["question"]} for q in QUESTIONS])
    outputs = [
        "Dogs bark. Thus, the answer is (b) dog.\n\nQ: next one\nllama rationale: A dog says woof.",
        "Cats do. Thus, the answer is (a) cat.",
    ]
    file = folder / "llm" / "train_CoT_0.json"
    file.parent.mkdir()
    file.write_text(json.dumps(outputs))
    found = bring(tmp_path, "tinyllm", file)
    assert short(found, "rationale", "gold_shown", "status") == [
        ("q1", "flan-t5", "Dogs bark.", True, "ok"),
        ("q1", "llama", "A dog says woof.", True, "ok"),
        ("q2", "flan-t5", "Cats do.", True, "ok"),
        ("q2", "llama", None, True, "failed"),
    ]


def test_chat_and_batch_output(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "<think>Hm.</think>The answer is (B)."}
    chat = {"question_id": "q1", "model": "org/m", "messages": [{"role": "user", "content": "?"}, answer]}
    found = bring(tmp_path, "chat", lines(tmp_path / "chat.jsonl", [chat]))
    assert short(found, "predicted_answer", "reasoning") == [("q1", "m", "B", "Hm.")]
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    body = {"model": "m", "choices": [{"message": {"content": "(B) it"}, "finish_reason": "length"}], "usage": usage}
    batch = [
        {"id": "batch_req_1", "custom_id": "q1", "response": {"status_code": 200, "body": body}, "error": None},
        {"id": "batch_req_2", "custom_id": "q2", "response": None, "error": {"code": "expired", "message": "too late"}},
    ]
    found = bring(tmp_path, "openai-batch", lines(tmp_path / "batch_output.jsonl", batch))
    assert short(found, "status", "completion_tokens", "error_message") == [
        ("q1", "m", "truncated", 4, None),
        ("q2", "unknown", "failed", None, "too late"),
    ]


@pytest.mark.parametrize("tool", FORMATS)
def test_a_file_of_another_kind_is_one_sentence(tool: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"is not what {tool} writes|is no file of TinyLLM"):
        bring(tmp_path, tool, lines(tmp_path / "other.jsonl", [{"id": "q1", "text": "hello"}]))


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"row 1 is not what chat writes: it has no 'messages'$"):
        bring(tmp_path, "chat", lines(tmp_path / "other.jsonl", [{"id": "q1", "text": "hello"}]))


def test_parts_of_a_large_file_are_one_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [{"id": q, "generation": "(B)", "model_name": m} for m in "abcde" for q in ("q1", "q2")]
    records[7]["distilabel_metadata"] = {"statistics_x": {"input_tokens": 1, "output_tokens": 2}}  # null until then
    whole = bring(tmp_path, "distilabel", lines(tmp_path / "d.jsonl", records))
    monkeypatch.setattr(import_formats, "PART_ROWS", 3)
    assert bring(tmp_path, "distilabel", tmp_path / "d.jsonl") == whole and len(whole) == 10
    assert sorted(row["prompt_tokens"] for row in whole if row["prompt_tokens"]) == [1]


def test_what_does_not_name_its_question_is_refused(tmp_path: Path) -> None:
    file = lines(tmp_path / "d.jsonl", [{"instruction": "What barks?", "generation": "Dogs.", "model_name": "m"}])
    with pytest.raises(
        InputError, match="no column 'question_id' names the question; the columns are instruction, gen"
    ):
        bring(tmp_path, "distilabel", file)
    with pytest.raises(InputError, match="there is no import format 'excel': there are distilabel"):
        bring(tmp_path, "excel", file)
