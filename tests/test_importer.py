"""Taking over answers that somebody else collected: what is mapped, what is reported, what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from builders.importer import ImportedCorpus, Selection, read_corpus
from schemas.errors import InputError
from schemas.tables import QUESTIONS, RESPONSES

QUESTION = {
    "dataset": "pets",
    "question_id": "1",
    "question": "What barks?",
    "choices": ["cat", "dog"],
    "answer": "B",
    "split": "test",
}
ANSWER = {"dataset": "pets", "question_id": "1", "teacher": "ann", "rationale": "Dogs do. The answer is (B).",
          "predicted_answer": "B", "is_correct": True}  # fmt: skip
QUESTIONS_ON_FILE = [QUESTION, {**QUESTION, "question_id": "2", "question": "What meows?", "answer": "A"}]

Import = Callable[..., ImportedCorpus]


@pytest.fixture
def import_rows(tmp_path: Path) -> Import:
    def run(responses: list[dict[str, Any]], questions: Any = QUESTIONS_ON_FILE, **selection: Any) -> ImportedCorpus:
        for name, rows in (("questions", questions), ("responses", responses)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_corpus(tmp_path / "questions.jsonl", tmp_path / "responses.jsonl", Selection(**selection))

    return run


def notes(corpus: ImportedCorpus) -> dict[str, int]:
    return {note.kind: note.count for note in corpus.notes}


def test_rows_become_our_tables(import_rows: Import) -> None:
    corpus = import_rows([ANSWER])
    assert corpus.questions is not None
    assert corpus.questions.schema.equals(QUESTIONS.arrow, check_metadata=True)
    assert corpus.responses.schema.equals(RESPONSES.arrow, check_metadata=True)
    row = corpus.responses.to_pylist()[0]
    expected = {
        "question_id": "1", "teacher_id": "ann", "sample_idx": 0, "status": "ok", "rationale": "Dogs do.",
        "raw_text": "Dogs do. The answer is (B).", "predicted_answer": "B", "answer_status": "read", "is_correct": True,
        "gold_shown": False, "source": "responses.jsonl", "cost_usd": None, "created_at": None,
    }  # fmt: skip
    assert row == {**row, **expected}


def test_our_own_tables_are_taken_as_they_are(import_rows: Import, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    first = import_rows([{**ANSWER, "source": "mine"}, {**ANSWER, "question_id": "2", "rationale": " "}])
    pq.write_table(first.questions, tmp_path / "q.parquet")
    pq.write_table(first.responses, tmp_path / "r.parquet")
    again = read_corpus(tmp_path / "q.parquet", tmp_path / "r.parquet")
    assert again.questions is not None and again.questions.equals(first.questions)
    assert again.responses.equals(first.responses)


def test_responses_are_added_to_the_questions_of_a_workspace(import_rows: Import, tmp_path: Path) -> None:
    known = import_rows([ANSWER], [*QUESTIONS_ON_FILE, {**QUESTION, "dataset": "zoo"}]).questions
    corpus = read_corpus(None, tmp_path / "responses.jsonl", known_questions=known)
    assert corpus.questions is None
    assert corpus.responses["question_id"].to_pylist() == ["pets/1"]


def test_ids_that_repeat_between_datasets_are_prefixed_in_both_tables(import_rows: Import) -> None:
    questions = [*QUESTIONS_ON_FILE, {**QUESTION, "dataset": "zoo", "answer": "A"}]
    rows = [{**ANSWER, "is_correct": None}, {**ANSWER, "dataset": "zoo", "is_correct": None}]
    corpus = import_rows(rows, questions)
    found = {row["question_id"]: row["is_correct"] for row in corpus.responses.to_pylist()}
    assert found == {"pets/1": True, "zoo/1": False}
    chosen = import_rows(rows, questions, datasets=["zoo"])
    assert chosen.questions is not None
    assert chosen.questions["question_id"].to_pylist() == chosen.responses["question_id"].to_pylist() == ["zoo/1"]


def test_columns_that_are_not_ours_do_no_harm(import_rows: Import) -> None:
    odd = dict.fromkeys(("_id", "_choices", "_gold", "_task", "_pair", "_i", "_row", "_file", "_number", "pos"), "x")
    with_odd = import_rows([ANSWER | odd], [question | odd for question in QUESTIONS_ON_FILE])
    plain = import_rows([ANSWER])
    assert with_odd.responses.equals(plain.responses)
    assert with_odd.questions is not None and with_odd.questions.equals(plain.questions)


def test_an_answer_of_another_dataset_is_not_taken_for_one_of_the_same_id(import_rows: Import) -> None:
    other = {**ANSWER, "dataset": "zoo"}
    with pytest.raises(InputError, match="question_id '1' of dataset 'zoo' is not among the questions"):
        import_rows([ANSWER, other])
    nameless = [{k: v for k, v in question.items() if k != "dataset"} for question in QUESTIONS_ON_FILE]
    assert import_rows([other], nameless).responses["question_id"].to_pylist() == ["1"]
    prefixed = {**other, "question_id": "zoo/1"}
    rows = import_rows([ANSWER, prefixed], [*QUESTIONS_ON_FILE, {**QUESTION, "dataset": "zoo"}]).responses
    assert rows["question_id"].to_pylist() == ["pets/1", "zoo/1"]


def test_a_dataset_without_a_name_is_called_like_its_first_file(import_rows: Import, tmp_path: Path) -> None:
    nameless = {k: v for k, v in QUESTION.items() if k != "dataset"}
    import_rows([{**ANSWER, "dataset": None}], [nameless])
    (tmp_path / "questions.jsonl").rename(tmp_path / "pets-1.jsonl")
    found = read_corpus(tmp_path / "pets-*.jsonl", tmp_path / "responses.jsonl").questions
    assert found is not None and found["dataset"].to_pylist() == ["pets-1"]


def test_white_space_around_ids_is_no_part_of_them(import_rows: Import) -> None:
    rows = import_rows([{**ANSWER, "question_id": " 1 ", "teacher": "ann "}]).responses
    assert (rows["question_id"].to_pylist(), rows["teacher_id"].to_pylist()) == (["1"], ["ann"])


def test_answers_follow_the_labels(import_rows: Import) -> None:
    choices = {"label": ["1", "2"], "text": ["cat", "dog"]}
    row = import_rows(
        [{**ANSWER, "predicted_answer": "2"}], [{**QUESTION, "choices": choices, "answer": "2"}]
    ).responses
    assert row["predicted_answer"].to_pylist() == ["B"]
    assert row["is_correct"].to_pylist() == [True]


@pytest.mark.parametrize(
    ("choices", "said", "label"),
    [
        (["cat", "dog"], "dog", "B"),
        (["cat", "dog"], "Dog", "B"),
        (["cat", "dog"], "(b)", "B"),
        (["cat", "dog"], "B.", "B"),
        (["cat", "dog"], 1, "B"),
        (["cat", "dog"], "1", None),
        (["cat", "dog"], 2, None),
        (["cat", "Cat"], "cat", None),
        (["1", "0"], 0, None),
        (["b", "dog"], "B", "B"),
        (["True", "False"], False, "B"),
        ({"label": ["1", "2"], "text": ["cat", "dog"]}, 2.0, "B"),
        (["cat", "dog"], "", None),
    ],
)
def test_an_answer_on_file_may_be_a_label_a_text_or_an_index(
    import_rows: Import, choices: Any, said: Any, label: str | None
) -> None:
    question = {**QUESTION, "choices": choices, "answer": None}
    rows = import_rows([{**ANSWER, "predicted_answer": said}], [question]).responses
    assert rows["predicted_answer"].to_pylist() == [label]


def test_a_blank_answer_on_file_is_none(import_rows: Import) -> None:
    corpus = import_rows([ANSWER, {**ANSWER, "question_id": "2", "predicted_answer": " ", "is_correct": None}])
    assert notes(corpus) == {"unread": 1}


def test_gaps_that_pandas_wrote_are_gaps(import_rows: Import, tmp_path: Path) -> None:
    gap = float("nan")
    asked = {"question_id": [1.0, 2.0], "question": ["1 + 1?", "?"], "answer": [2.0, gap], "split": ["train", "train"]}
    said = {"question_id": [1, 2], "teacher": "ann", "rationale": "So 2.", "is_correct": [1.0, gap], "seconds": gap,
            "prompt_tokens": [7.0, gap], "predicted_answer": [2.0, gap], "latency_ms": [gap, 0.5]}  # fmt: skip
    pl.DataFrame(asked).write_parquet(tmp_path / "q.parquet")
    pl.DataFrame(said).write_parquet(tmp_path / "r.parquet")
    corpus = read_corpus(tmp_path / "q.parquet", tmp_path / "r.parquet")
    assert corpus.questions is not None
    assert [corpus.questions[name].to_pylist() for name in ("answer", "task")] == [["2", None], ["number"] * 2]
    found = corpus.responses.select(["is_correct", "prompt_tokens", "latency_ms"]).to_pylist()
    assert [tuple(row.values()) for row in found] == [(True, 7, None), (None, None, 0.5)]


def test_answers_are_read_from_the_text_where_the_file_has_none(import_rows: Import) -> None:
    bare = {k: v for k, v in ANSWER.items() if k not in ("predicted_answer", "is_correct")}
    rows = import_rows([bare, {**bare, "teacher": "bob", "rationale": "Who knows?"}]).responses.to_pylist()
    assert [(r["answer_status"], r["predicted_answer"], r["is_correct"]) for r in rows] == [
        ("read", "B", True),
        ("unread", None, False),
    ]
    raw = {("raw_text" if k == "rationale" else k): v for k, v in bare.items()}
    assert import_rows([raw]).responses.to_pylist()[0] == rows[0]


def test_traps_are_reported_with_their_counts(import_rows: Import) -> None:
    ann = [ANSWER, {**ANSWER, "question_id": "2", "predicted_answer": None, "is_correct": False}]
    bob = [{**ANSWER, "teacher": "bob"}]
    cid = [{**ANSWER, "teacher": "cid", "question_id": q, "predicted_answer": None, "is_correct": None} for q in "12"]
    dan = [{**ANSWER, "teacher": "dan", "rationale": None}, {**ANSWER, "teacher": "dan", "question_id": "2"}]
    eve = [{**ANSWER, "teacher": "eve", "predicted_answer": "Z", "is_correct": True}]
    corpus = import_rows([*ann, *bob, *cid, *dan, *eve], [QUESTION, {**QUESTION, "question_id": "2", "answer": "A"}])
    assert notes(corpus) == {
        "repeated-stem": 1, "teacher-forced": 2, "empty": 1, "unread": 2, "no-choice": 1, "regraded": 2, "all-right": 1,
    }  # fmt: skip
    rows = {(r["teacher_id"], r["question_id"]): r for r in corpus.responses.to_pylist()}
    assert (rows["cid", "1"]["gold_shown"], rows["cid", "1"]["is_correct"]) == (True, None)
    assert rows["cid", "1"]["rationale"] == ANSWER["rationale"]
    assert (rows["dan", "1"]["status"], rows["dan", "1"]["error_class"]) == ("failed", "empty")
    assert rows["ann", "2"]["is_correct"] is False


def test_teachers_can_be_chosen_and_declared_to_have_seen_gold(import_rows: Import) -> None:
    rows = [ANSWER, {**ANSWER, "teacher": "bob"}]
    corpus = import_rows(rows, teachers=["bob"], gold_shown=["bob"])
    assert [(r["teacher_id"], r["gold_shown"], r["is_correct"]) for r in corpus.responses.to_pylist()] == [
        ("bob", True, None)
    ]


def test_a_split_by_hash_replaces_the_one_on_file(import_rows: Import) -> None:
    corpus = import_rows([ANSWER], split_by_hash={"train": 1.0})
    assert corpus.questions is not None
    assert set(corpus.questions["split"].to_pylist()) == {"train"}


@pytest.mark.parametrize(
    ("rows", "selection", "says"),
    [
        ([ANSWER, ANSWER], {}, "teacher 'ann' answers question '1' twice: {file}, row 1 and {file}, row 2"),
        ([ANSWER, {**ANSWER, "question_id": "9"}], {}, "{file}, row 2: question_id '9' of dataset 'pets' is not among"),
        ([ANSWER | {"_row": "x", "teacher": ""}], {}, "{file}, row 1: teacher_id is empty"),
        ([{**ANSWER, "teacher": ""}], {}, "{file}, row 1: teacher_id is empty"),
        (
            [{"question_id": "1", "teacher": "ann", "rational": "x"}],
            {},
            "no column 'rationale' (did you mean 'rational'?)",
        ),
        ([{**ANSWER, "status": "fine"}], {}, "row 1: status 'fine' is not one of"),
        ([ANSWER], {"teachers": ["anne"]}, "there is no teacher 'anne' (did you mean 'ann'?)"),
        ([ANSWER], {"datasets": ["pet"]}, "there is no dataset 'pet' (did you mean 'pets'?)"),
        ([ANSWER | {"rationale": ["a"]}], {}, "{file}, row 1: rationale must be a text, not a list"),
        ([ANSWER | {"params": {"seed": 1}}], {}, "{file}, row 1: params must be a text, not an object"),
        ([ANSWER | {"prompt_tokens": [1]}], {}, "{file}, row 1: prompt_tokens must be one value, not several"),
        ([ANSWER | {"latency_ms": "long"}], {}, "{file}, row 1: latency_ms 'long' is not a number"),
        ([ANSWER | {"sample_idx": 1.5}], {}, "{file}, row 1: sample_idx '1.5' is not a whole number"),
        ([ANSWER | {"sample_idx": "1.5"}], {}, "{file}, row 1: sample_idx '1.5' is not a whole number"),
        ([ANSWER | {"sample_idx": -1}], {}, "{file}, row 1: sample_idx -1 is negative: count from 0"),
        ([ANSWER | {"is_correct": 0.5}], {}, "{file}, row 1: is_correct '0.5' is not true or false"),
        ([ANSWER | {"is_correct": "maybe"}], {}, "{file}, row 1: is_correct 'maybe' is not true or false"),
        ([ANSWER | {"created_at": "today"}], {}, "row 1: created_at 'today' is not a time like 2026-01-31T12:00:00Z"),
    ],
)
def test_bad_responses_are_told_in_one_sentence(
    import_rows: Import, tmp_path: Path, rows: Any, selection: Any, says: str
) -> None:
    with pytest.raises(InputError) as caught:
        import_rows(rows, **selection)
    assert says.replace("{file}", str(tmp_path / "responses.jsonl")) in str(caught.value)


def test_responses_in_csv_have_their_types_read(import_rows: Import, tmp_path: Path) -> None:
    import_rows([ANSWER])
    (tmp_path / "r.csv").write_text(
        "question_id,teacher_id,rationale,is_correct,sample_idx,latency_ms,created_at,gold_shown\n"
        "1,ann,Dogs do.,True,0,3.5,2026-01-02T03:04:05Z,\n"
        "1,ann,Cats do.,false,1,,2026-01-02 05:04:05+02:00,1\n"
    )
    found = read_corpus(tmp_path / "questions.jsonl", tmp_path / "r.csv").responses.to_pylist()
    assert [row["latency_ms"] for row in found] == [3.5, None] and [row["gold_shown"] for row in found] == [False, True]
    assert [row["sample_idx"] for row in found] == [0, 1]
    assert {row["created_at"] for row in found} == {datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)}


@pytest.mark.data
def test_the_real_corpora_are_imported_whole() -> None:
    data = Path(os.environ.get("RAFFINATE_DATA", "../shared/data"))
    if not (data / "responses.parquet").exists():
        pytest.skip(f"real answers are absent: {data}")
    corpus = read_corpus(data / "questions.parquet", data / "responses.parquet")
    assert corpus.questions is not None
    assert (corpus.questions.num_rows, corpus.responses.num_rows) == (48_162, 78_799)
    counts = pl.DataFrame([(note.kind, note.count) for note in corpus.notes], orient="row", schema=["kind", "n"])
    total = dict(counts.group_by("kind").agg(pl.col("n").sum()).iter_rows())
    assert total["teacher-forced"] == 2 * (2577 + 5957 + 1000)
    assert (total["empty"], total["regraded"], total["repeated-stem"]) == (47, 2, 426)
    assert total["all-right"] == 1496 + 651
    rows = pl.DataFrame(corpus.responses).join(pl.DataFrame(corpus.questions), on="question_id")
    accuracy = dict(rows.filter(dataset="mmlu_pro").group_by("teacher_id").agg(pl.col("is_correct").mean()).iter_rows())
    assert accuracy["llama-3.1-70b-instruct"] == pytest.approx(0.642, abs=0.001)
