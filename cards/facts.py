"""What a card says about a workspace, counted by SQL over its views: no text column is read but one example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemas.database import connect
from schemas.tables import KEEP_ALL, SPLITS
from schemas.views import SPENT, same_answer

if TYPE_CHECKING:
    import duckdb

    from schemas.workspace import Workspace

Row = dict[str, Any]
MEMORY = "1GB"

QUESTIONS = """
SELECT dataset, split, count(*) AS questions, count(answer) AS labelled, count(DISTINCT domain) AS domains
FROM questions GROUP BY dataset, split ORDER BY dataset, list_position(['train', 'validation', 'test'], split)
"""

TEACHERS = """
SELECT t.*, m.revisions, m.params, m.prompts, m.models, m.shown, m.samples
FROM teachers t JOIN (
    SELECT teacher_id, list_sort(list(DISTINCT model) FILTER (model IS NOT NULL)) AS models,
           list_sort(list(DISTINCT model_revision) FILTER (model_revision IS NOT NULL)) AS revisions,
           list_sort(list(DISTINCT params) FILTER (params IS NOT NULL)) AS params,
           list_sort(list(DISTINCT prompt_id) FILTER (prompt_id IS NOT NULL)) AS prompts,
           count(*) FILTER (gold_shown) AS shown, max(sample_idx) + 1 AS samples
    FROM responses GROUP BY teacher_id
) m USING (teacher_id) ORDER BY teacher_id
"""

# of read answers, as the report has it; the share is one of answers, not a mean over questions
BEFORE = """
SELECT count(*) FILTER (question_id IN (SELECT question_id FROM conflicts)) / count(*) AS conflicting,
       sum(rights) / nullif(sum(known), 0) AS right_share, count(*) AS questions
FROM (
    SELECT question_id, count(*) FILTER (is_correct) AS rights, count(is_correct) AS known
    FROM answers WHERE predicted_answer IS NOT NULL GROUP BY question_id
)
"""

RIGHT = f"coalesce({same_answer('p.predicted_answer', 'q.answer', 'q.task')}, false)"

METHODS = f"""
SELECT p.method, count(*) AS kept, any_value(p.purifier_fingerprint) AS fingerprint, min(p.signals_used) AS signals,
       avg(p.agreement) AS agreement, avg(p.conflict) AS conflict,
       count(*) FILTER (p.teacher_id IS NULL) AS synthesised,
       avg(({RIGHT})::INTEGER) FILTER (q.answer IS NOT NULL) AS right_share,
       count(*) FILTER (q.answer IS NOT NULL AND q.split <> 'train' AND {RIGHT}) AS right_unseen
FROM purified p JOIN questions q USING (question_id) GROUP BY p.method ORDER BY p.method
"""

SHARES = """
SELECT method, teacher_id, count(*) AS kept, count(*) / sum(count(*)) OVER (PARTITION BY method) AS share
FROM purified GROUP BY method, teacher_id QUALIFY teacher_id IS NOT NULL ORDER BY method, teacher_id
"""

REJECTIONS = """
SELECT method, reason, count(*) AS questions FROM rejected GROUP BY ALL ORDER BY method, questions DESC, reason
"""

ASKED = f"""
SELECT c.method, c.judge_id, count(*) AS requests, count(*) FILTER (c.verdict IS NULL) AS unread,
       count(*) FILTER (c.gold_shown) AS shown, {SPENT} AS cost_usd,
       (SELECT count(*) FROM purified p WHERE p.method = c.method AND p.written_by = c.judge_id) AS wrote,
       c.judge_id IN (SELECT teacher_id FROM responses) AS is_teacher
FROM calls c GROUP BY c.method, c.judge_id ORDER BY c.method, c.judge_id
"""

STUDENTS = """
SELECT concat_ws(' ', method, settings) AS method, len(teachers) AS teachers, base_model, objective, eval_dataset,
       eval_split, count(*) AS students, avg(accuracy) AS accuracy
FROM students GROUP BY ALL ORDER BY ALL
"""

EXAMPLE = """
SELECT left(prompt, 1500) AS prompt, left(completion, 1500) AS completion, teacher_id FROM purified
WHERE method = $method AND length(prompt) < 100000 ORDER BY question_id LIMIT 1
"""


@dataclass(frozen=True)
class Facts:
    """The rows of each query, and one example of the default method (None where nothing is purified)."""

    questions: list[Row]
    tasks: list[str]
    teachers: list[Row]
    before: Row
    methods: list[Row]
    shares: list[Row]
    rejections: list[Row]
    asked: list[Row]
    students: list[Row]
    example: Row | None

    @property
    def count(self) -> int:
        """Questions in all."""
        return sum(row["questions"] for row in self.questions)

    def of_split(self, split: str) -> int:
        """Questions of a split."""
        return sum(row["questions"] for row in self.questions if row["split"] == split)


def facts_of(workspace: Workspace, default_method: str | None = None) -> Facts:
    """Count everything; the example is of ``default_method``, or of the one `best_method` names."""
    con = connect(workspace, memory=MEMORY)
    methods = _rows(con, METHODS)
    chosen = default_method or best_method(methods)
    example = _rows(con, EXAMPLE, {"method": chosen}) if chosen else []
    return Facts(
        questions=_rows(con, QUESTIONS),
        tasks=[row["task"] for row in _rows(con, "SELECT DISTINCT task FROM questions ORDER BY task")],
        teachers=_rows(con, TEACHERS),
        before=_rows(con, BEFORE)[0],
        methods=methods,
        shares=_rows(con, SHARES),
        rejections=_rows(con, REJECTIONS),
        asked=_rows(con, ASKED),
        students=_rows(con, STUDENTS),
        example=example[0] if example else None,
    )


def best_method(methods: list[Row]) -> str | None:
    """The method with most right answers outside train, then most rows, then the first by name; `keep-all` last."""
    ranked = sorted(
        methods, key=lambda row: (row["method"] == KEEP_ALL, -row["right_unseen"], -row["kept"], row["method"])
    )
    return str(ranked[0]["method"]) if ranked else None


def _rows(con: duckdb.DuckDBPyConnection, sql: str, params: Row | None = None) -> list[Row]:
    found: list[Row] = con.sql(sql, params=params or {}).to_arrow_table().to_pylist()
    return found


def splits_of(files: list[str]) -> list[str]:
    """The splits that ``{split}-*.parquet`` file names speak of, in the usual order."""
    return [split for split in SPLITS if any(name.startswith(f"{split}-") for name in files)]
