"""Imports one after another: what a workspace has stays, what comes again is replaced, what contradicts is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raffinate.bring import Brought, bring
from schemas.database import query
from schemas.errors import InputError
from schemas.workspace import Workspace

QUESTION = {"dataset": "pets", "question_id": "1", "question": "What barks?", "choices": ["cat", "dog"], "answer": "B",
            "split": "train"}  # fmt: skip
SECOND = {**QUESTION, "question_id": "2", "question": "What meows?", "answer": "A", "split": "test"}
ANSWER = {"question_id": "1", "teacher_id": "ann", "rationale": "Dogs do. The answer is (B)."}

Rows = list[dict[str, Any]]
Import = Callable[..., Brought]


@pytest.fixture
def import_rows(tmp_path: Path) -> Import:
    def run(responses: Rows, questions: Rows | None = None) -> Brought:
        for name, rows in (("questions", questions), ("responses", responses)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows or ()))
        asked = None if questions is None else str(tmp_path / "questions.jsonl")
        return bring(tmp_path / "ws", asked, str(tmp_path / "responses.jsonl"))

    return run


def responses(workspace: Workspace, fields: str = "question_id, rationale") -> list[tuple[Any, ...]]:
    found = query(workspace, f"SELECT {fields} FROM responses ORDER BY question_id, teacher_id, sample_idx")
    return [tuple(row.values()) for row in found.to_pylist()]


def test_a_second_part_of_a_teacher_replaces_what_comes_again_and_keeps_the_rest(import_rows: Import) -> None:
    sample = {**ANSWER, "sample_idx": 1, "rationale": "Woof."}
    first = import_rows([ANSWER, sample, {**ANSWER, "teacher_id": "bob"}], [QUESTION])
    assert first.responses == {"ann": 2, "bob": 1} and not first.kept
    again = [{**sample, "rationale": "Cats do not."}, {**ANSWER, "question_id": "2", "rationale": "Miaow."}]
    found = import_rows(again, [QUESTION, SECOND])
    assert (found.responses, found.replaced, found.kept, found.questions) == ({"ann": 2}, {"ann": 1}, {"ann": 1}, 2)
    assert "ann had 2 responses there: replaced 1, kept 1" in found.notes
    assert found.to_dict()["kept"] == {"ann": 1}
    assert responses(found.workspace, "question_id, teacher_id, rationale") == [
        ("1", "ann", "Dogs do."),
        ("1", "ann", "Cats do not."),
        ("1", "bob", "Dogs do."),
        ("2", "ann", "Miaow."),
    ]
    assert {p.name[:5] for p in found.workspace.responses_dir("ann").iterdir()} == {"train", "test-"}


def test_answers_to_questions_that_are_gone_are_not_lost(import_rows: Import) -> None:
    workspace = import_rows([ANSWER, {**ANSWER, "question_id": "2"}], [QUESTION, SECOND]).workspace
    with workspace.lock():
        workspace.write_questions(workspace.read_questions().slice(0, 1))
    found = import_rows([{**ANSWER, "rationale": "Woof."}])
    assert responses(found.workspace) == [("1", "Woof."), ("2", "Dogs do.")]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"question": "What purrs?"}, "has another question in .*, or rename the ids"),
        ({"choices": ["dog", "cat"], "answer": "A"}, "has another choices in .*, or leave --questions out"),
        ({"answer": "A"}, "has another answer in .*: import into a new workspace"),
        ({"answer": None}, "has another answer"),
        ({"context": "At home."}, "has another context"),
    ],
)
def test_a_question_that_changed_is_refused(import_rows: Import, change: dict[str, Any], says: str) -> None:
    import_rows([ANSWER], [QUESTION])
    with pytest.raises(InputError, match=f"question '1' {says}"):
        import_rows([{**ANSWER, "teacher_id": "bob"}], [SECOND, QUESTION | change])
    assert import_rows([{**ANSWER, "teacher_id": "bob"}], [SECOND, QUESTION]).questions == 2


def test_a_question_keeps_its_id_whatever_else_its_file_holds(import_rows: Import) -> None:
    zoo = {**QUESTION, "dataset": "zoo", "question": "What roars?", "choices": ["lion", "dog"], "answer": "A"}
    said = {**ANSWER, "dataset": "pets"}
    import_rows([said], [QUESTION])
    both = import_rows([{**said, "teacher_id": "bob"}, {**said, "dataset": "zoo"}], [QUESTION, zoo])
    assert both.workspace.read_questions()["question_id"].to_pylist() == ["1", "zoo/1"]
    alone = import_rows([{**said, "dataset": "zoo", "teacher_id": "cid"}], [zoo])
    assert alone.questions == 2
    assert responses(alone.workspace, "question_id, teacher_id") == [
        ("1", "ann"), ("1", "bob"), ("zoo/1", "ann"), ("zoo/1", "cid"),
    ]  # fmt: skip
