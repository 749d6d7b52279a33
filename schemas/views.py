"""The SQL views that users can rely on, as text. `schemas.database` creates them over a workspace's Parquet files.

Each view is listed with one sentence in `VIEWS`, which ``raffinate sql --views`` and ``docs/sql.md`` show.
"""

from __future__ import annotations

_PLAIN = r"""nullif(trim(regexp_replace(regexp_replace(
    ' ' || lower({0}) || ' ', '[^\p{{L}}\p{{N}}]+', ' ', 'g'), ' (?:(?:a|an|the) )+', ' ', 'g')), '')"""


def answer_key(answer: str, task: str) -> str:
    """SQL for what two answers of a question share if they are the same answer.

    Labels and canonical numbers are equal as they stand. Texts are compared as `builders.read_answer.same_answer` does,
    without case, articles and punctuation; but one that holds a digit, whose punctuation may be a sign or a decimal
    point, loses its case alone.
    """
    whole = f"lower(trim({answer}))"
    text = f"CASE WHEN regexp_matches({answer}, '\\d') THEN {whole} ELSE coalesce({_PLAIN.format(answer)}, {whole}) END"
    return f"CASE WHEN {task} = 'text' THEN {text} ELSE {answer} END"


def same_answer(one: str, other: str, task: str) -> str:
    """SQL for whether two answers of a question are the same; null where one is."""
    return f"({answer_key(one, task)}) = ({answer_key(other, task)})"


SPENT = "CASE WHEN count(*) FILTER (cost_usd IS NULL AND status <> 'failed') = 0 THEN sum(cost_usd) END"
"""SQL for the cost of rows together: unknown where that of a reply is. What never replied has none."""

# A teacher's one answer to a question. With several samples it is the one that most samples reached
# (self-consistency), ties to the earlier sample; unread answers cast no vote.
ANSWERS_OF_ONE_SAMPLE = """
SELECT question_id, teacher_id, sample_idx, 1::BIGINT AS samples, status, answer_status, predicted_answer,
       is_correct, gold_shown, rationale_chars
FROM responses
"""

ANSWERS_OF_MANY_SAMPLES = f"""
WITH keyed AS (
    SELECT r.*, {answer_key("r.predicted_answer", "q.task")} AS said
    FROM responses r LEFT JOIN questions q USING (question_id)
), votes AS (
    SELECT question_id, teacher_id, said, count(*) AS votes
    FROM keyed WHERE status = 'ok' AND said IS NOT NULL GROUP BY ALL
)
SELECT r.question_id, r.teacher_id, r.sample_idx,
       count(*) OVER (PARTITION BY r.question_id, r.teacher_id) AS samples,
       r.status, r.answer_status, r.predicted_answer, r.is_correct, r.gold_shown, r.rationale_chars
FROM keyed r LEFT JOIN votes v USING (question_id, teacher_id, said)
QUALIFY row_number() OVER (
    PARTITION BY r.question_id, r.teacher_id
    ORDER BY r.status = 'ok' DESC, coalesce(v.votes, 0) DESC, r.sample_idx
) = 1
"""

VIEWS: dict[str, tuple[str, str]] = {
    "conflicts": (
        "one row per question and pair of teachers whose read answers differ: who disagrees with whom, where",
        f"""
SELECT a.question_id, a.teacher_id AS teacher_a, b.teacher_id AS teacher_b,
       a.predicted_answer AS answer_a, b.predicted_answer AS answer_b,
       a.is_correct AS a_is_correct, b.is_correct AS b_is_correct
FROM answers a JOIN answers b ON a.question_id = b.question_id AND a.teacher_id < b.teacher_id
LEFT JOIN questions q ON q.question_id = a.question_id
WHERE NOT {same_answer("a.predicted_answer", "b.predicted_answer", "q.task")}
""",
    ),
    "teachers": (
        "one row per teacher: responses by status, accuracy on labelled questions, tokens, cost",
        f"""
SELECT teacher_id, any_value(model) AS model, count(*) AS responses,
       count(*) FILTER (status = 'ok') AS ok, count(*) FILTER (status = 'failed') AS failed,
       count(*) FILTER (status = 'truncated') AS truncated, count(*) FILTER (status = 'refused') AS refused,
       1 - count(*) FILTER (status = 'ok') / count(*) AS failure_rate,
       count(*) FILTER (answer_status = 'read') / count(*) AS read_rate,
       avg(is_correct::INTEGER) AS accuracy,
       sum(prompt_tokens)::BIGINT AS prompt_tokens, sum(completion_tokens)::BIGINT AS completion_tokens,
       avg(latency_ms) AS mean_latency_ms, {SPENT} AS cost_usd
FROM responses GROUP BY teacher_id
""",
    ),
    "costs": (
        "one row per teacher, split and what it was asked for (`build`, or the purifier that asked): requests, tokens, "
        "cost, cost per right answer; null where the cost of a reply is unknown",
        f"""
WITH paid AS (
    SELECT 'build' AS spent_on, teacher_id, question_id, status, attempts, prompt_tokens, completion_tokens,
           cost_usd, is_correct FROM responses
    UNION ALL
    SELECT method, judge_id, question_id, status, attempts, prompt_tokens, completion_tokens, cost_usd, NULL FROM calls
)
SELECT p.spent_on, p.teacher_id, q.split, count(*) AS responses, sum(p.attempts)::BIGINT AS requests,
       sum(p.prompt_tokens)::BIGINT AS prompt_tokens, sum(p.completion_tokens)::BIGINT AS completion_tokens,
       {SPENT} AS cost_usd,
       {SPENT} / nullif(count(*) FILTER (p.is_correct), 0) AS cost_usd_per_right_answer
FROM paid p JOIN questions q USING (question_id) GROUP BY ALL
""",
    ),
    "cmv": (
        "conflict mitigation value per method, settings, student and objective: mean over m = 2..N teachers of its "
        "test accuracy minus keep-all's with the same teachers and seed (arXiv 2602.01064 names it; the exact form is "
        "our reading)",
        """
WITH gaps AS (
    SELECT f.method, f.settings, f.base_model, f.objective, f.comparison, f.eval_dataset, len(f.teachers) AS m,
           avg(f.accuracy - k.accuracy) AS gap, count(DISTINCT f.seed) AS seeds
    FROM students f JOIN students k USING (base_model, teachers, seed, eval_dataset, eval_split)
    WHERE k.method = 'keep-all' AND f.method <> 'keep-all' AND eval_split = 'test' AND len(f.teachers) >= 2
          AND k.objective IS NOT DISTINCT FROM f.objective AND k.comparison IS NOT DISTINCT FROM f.comparison
    GROUP BY ALL
)
SELECT method, settings, base_model, objective, comparison, eval_dataset, count(*) AS points, min(seeds) AS seeds,
       avg(gap) AS cmv
FROM gaps GROUP BY ALL
""",
    ),
}

DESCRIPTIONS: dict[str, str] = {
    "questions": "one row per question",
    "responses": "one row per question, teacher and sample: every answer, failures included",
    "answers": "one row per question and teacher: its one answer (with several samples, the one most samples reached)",
    "purified": "one row per question and method: the rationale kept, its source and reason (keep-all: all of them)",
    "rejected": "one row per question and method that abstained, with the reason",
    "calls": "one row per request that a purifier made: whom it asked what for, what was read, what it cost",
    "students": "one row per trained student and evaluation",
    **{name: doc for name, (doc, _) in VIEWS.items()},
}
