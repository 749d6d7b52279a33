"""Look at a workspace before others do: is it sound, does it leak, does it repeat itself, is the test set clean?

Each check is a function from a workspace to findings. Checks of texts need the ``verify`` extra and are reported as not
made where it is missing. Toxicity is not looked at: no light, well-kept model for it is known to us.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from cards import texts
from cards.markdown import plain
from cards.recipe_copy import private_places
from cards.secrets import find_secrets
from schemas.database import connect
from schemas.parquet import read_schema
from schemas.tables import CALLS, PURIFIED, QUESTIONS, REJECTED, RESPONSES, SPLITS, STATUSES, TASKS, Table

if TYPE_CHECKING:
    import duckdb

    from schemas.workspace import Workspace

Level = Literal["error", "warning", "note"]
Encode = Callable[[list[str]], npt.NDArray[np.float32]]
"""Texts to unit vectors, for overlap that words do not show."""

EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        check: the check's name.
        level: ``error`` must not be published; ``warning`` should be looked at; ``note`` is for information.
        message: what, how often, and what to do.
        examples: where, a few.
    """

    check: str
    level: Level
    message: str
    examples: tuple[str, ...] = ()


def verify(
    workspace: Workspace,
    *,
    benchmarks: Sequence[Path] = (),
    encode: Encode | None = None,
    language: str | None = None,
    allow_secrets: Collection[str] = (),
) -> list[Finding]:
    """Run every check; errors first. No error means fit to publish.

    Args:
        workspace: must have questions.
        benchmarks: files with questions that must not be among ours: ``.txt`` (one a line), or ``.jsonl``, ``.json``,
            ``.csv``, ``.parquet`` with a column ``question``.
        encode: an encoder, for near-identical questions in other words; without it only words are compared.
        language: ISO 639-1 code that texts should be in; by default the one that most are in.
        allow_secrets: see `cards.push.push`.

    Raises:
        InputError: a benchmark file or the recipe cannot be read.
    """
    wrong = list(_schema(workspace))
    if wrong:  # what the other checks would ask of such files has no answer
        return wrong
    con = connect(workspace, memory="1GB")
    found = [
        *_keys(con),
        *_values(con),
        *_coverage(con),
        *_secrets(workspace, allow_secrets),
        *_private_places(workspace),
        *texts_checked(texts.personal_data, con),
        *texts_checked(texts.near_duplicates, con),
        *texts_checked(texts.languages, con, language),
        *_as_findings(texts.overlap_with_test(con)),
        *_as_findings(texts.overlap_with_benchmarks(con, benchmarks)),
        *(_as_findings(texts.same_meaning(con, encode)) if encode else ()),
    ]
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(found, key=lambda finding: order[finding.level])


def texts_checked(check: Callable[..., Iterator[texts.Found]], *arguments: object) -> Iterator[Finding]:
    """The findings of a check that needs the extra, or a note that it was not made."""
    try:
        yield from _as_findings(check(*arguments))
    except ImportError:
        name = check.__name__.replace("_", "-")
        yield Finding(name, "note", "not checked: run  pip install 'raffinate[verify]'")


def _as_findings(found: Iterator[texts.Found]) -> Iterator[Finding]:
    for check, level, message, examples in found:
        yield Finding(check, level, message, tuple(plain(e, 120) for e in examples[:EXAMPLES]))


def _schema(workspace: Workspace) -> Iterator[Finding]:
    """Columns and types of every file."""
    patterns = {"questions/*.parquet": QUESTIONS, "responses/*/*.parquet": RESPONSES}
    patterns |= {"purified/*/*.parquet": PURIFIED, "rejected/*/*.parquet": REJECTED, "calls/*/*.parquet": CALLS}
    for pattern, table in patterns.items():
        for file in sorted(workspace.path.glob(pattern)):
            name = file.relative_to(workspace.path).as_posix()
            problems = _column_problems(file, table)
            if problems:
                yield Finding("schema", "error", f"{name}: {'; '.join(problems)}: write it again with raffinate")
            if not name.rsplit("/", 1)[1].startswith(tuple(f"{split}-" for split in SPLITS)):
                yield Finding("schema", "error", f"{name} belongs to no split: name it train-00000.parquet or the like")


def _column_problems(file: Path, table: Table) -> list[str]:
    import pyarrow as pa

    try:
        schema = read_schema(file)
    except pa.ArrowInvalid:
        return ["no Parquet file"]
    problems = []
    for field in table.arrow:
        index = schema.get_field_index(field.name)
        if index < 0 and not field.nullable:
            problems.append(f"no column {field.name}")
        elif index >= 0 and schema.field(index).type != field.type:
            problems.append(f"column {field.name} is {schema.field(index).type}, not {field.type}")
    return problems


KEYS = {
    "duplicate question ids": "SELECT question_id FROM questions GROUP BY ALL HAVING count(*) > 1",
    "duplicate responses (same question, teacher and sample)": """
        SELECT question_id || ', ' || teacher_id FROM responses
        GROUP BY question_id, teacher_id, sample_idx HAVING count(*) > 1""",
    "duplicate purified rows (same question and method)": """
        SELECT question_id || ', ' || method FROM purified
        GROUP BY question_id, method, CASE method WHEN 'keep-all' THEN teacher_id END HAVING count(*) > 1""",
    "responses to questions that are not there": """
        SELECT question_id || ', ' || teacher_id FROM responses ANTI JOIN questions USING (question_id)""",
    "purified rows of questions that are not there": """
        SELECT question_id || ', ' || method FROM purified ANTI JOIN questions USING (question_id)""",
    "rejected rows of questions that are not there": """
        SELECT question_id || ', ' || method FROM rejected ANTI JOIN questions USING (question_id)""",
    "calls about questions that are not there": """
        SELECT question_id || ', ' || method FROM calls ANTI JOIN questions USING (question_id)""",
    "pairs of a question and a method that both purified and rejected it": """
        SELECT question_id || ', ' || method FROM purified SEMI JOIN rejected USING (question_id, method)""",
    "purified rows whose parent response is not there": """
        WITH parents AS (SELECT question_id, method, unnest(parents) AS parent FROM purified)
        SELECT p.question_id || ', ' || p.method FROM parents p ANTI JOIN responses r
        ON p.question_id = r.question_id AND p.parent.teacher_id = r.teacher_id
        AND p.parent.sample_idx = r.sample_idx""",
}


def _keys(con: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    """Keys are unique, and rows point at rows that are there."""
    for what, sql in KEYS.items():
        yield from _counted(con, "keys", "error", what, sql)


VALUES = {
    "rows without a value that is never null": " UNION ALL ".join(
        f"SELECT '{table.name}.{field.name} of ' || coalesce(question_id, 'null') FROM {table.name} "
        f'WHERE "{field.name}" IS NULL'
        for table in (QUESTIONS, RESPONSES, PURIFIED, REJECTED, CALLS)
        for field in table.fields
        if not field.null
    ),
    "questions of an unknown task or split": f"SELECT question_id FROM questions WHERE task NOT IN {TASKS} "
    f"OR split NOT IN {SPLITS}",
    "responses of an unknown status": f"SELECT question_id FROM responses WHERE status NOT IN {STATUSES}",
    "questions whose answer is no label of their choices": """
        SELECT question_id FROM questions WHERE task = 'choice' AND answer IS NOT NULL
        AND NOT list_contains([c.label for c in choices], answer)""",
    "purified rows with an empty rationale": """
        SELECT question_id || ', ' || method FROM purified WHERE trim(rationale) = ''""",
    "purified rows whose completion does not hold their rationale": """
        SELECT question_id || ', ' || method FROM purified WHERE NOT contains(completion, rationale)""",
}


def _values(con: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    """Cells hold what the table says."""
    for what, sql in VALUES.items():
        yield from _counted(con, "values", "error", what, sql)
    nul = "SELECT question_id || ', ' || teacher_id FROM responses WHERE contains(rationale, chr(0))"
    yield from _counted(con, "values", "warning", "rationales with a null byte (some tools stop reading there)", nul)


COVERAGE = {
    "pairs of a question and a teacher without a response": """
        SELECT q.question_id || ', ' || t.teacher_id
        FROM questions q CROSS JOIN (SELECT DISTINCT teacher_id FROM responses) t
        ANTI JOIN responses r ON q.question_id = r.question_id AND t.teacher_id = r.teacher_id""",
    "pairs of a question and a method that neither purified nor rejected it (purify again)": """
        SELECT q.question_id || ', ' || m.method
        FROM questions q CROSS JOIN (SELECT method FROM purified UNION SELECT method FROM rejected) m
        ANTI JOIN (SELECT question_id, method FROM purified UNION ALL SELECT question_id, method FROM rejected) p
        ON q.question_id = p.question_id AND m.method = p.method""",
}


def _coverage(con: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    """Every teacher and every method speaks to every question."""
    for what, sql in COVERAGE.items():
        yield from _counted(con, "coverage", "warning", what, sql)


def _counted(con: duckdb.DuckDBPyConnection, check: str, level: Level, what: str, sql: str) -> Iterator[Finding]:
    """A finding with the number of rows of a one-column query, and some of them."""
    rows = con.execute(f"SELECT w, count(*) OVER () FROM ({sql}) AS found(w) ORDER BY w LIMIT {EXAMPLES}").fetchall()
    if rows:
        yield Finding(check, level, f"{rows[0][1]:,} {what}", tuple(plain(where, 120) for where, _ in rows))


def _secrets(workspace: Workspace, allowed: Collection[str]) -> Iterator[Finding]:
    by_kind: dict[str, list[str]] = {}
    for secret in find_secrets(workspace, allowed):
        mark = f" (mark {secret.mark})" if secret.mark else ""
        by_kind.setdefault(secret.kind, []).append(secret.where + mark)
    for kind, places in by_kind.items():
        message = (
            f"{len(places):,} places look like they hold a secret ({kind}): remove it, and revoke it if it is real"
        )
        yield Finding("secrets", "error", message, tuple(plain(place, 120) for place in places[:EXAMPLES]))


def _private_places(workspace: Workspace) -> Iterator[Finding]:
    places = private_places(workspace)
    if places:
        message = f"{len(places):,} places name a path or a host of yours: rename what should not be read by others"
        yield Finding("private-places", "warning", message, tuple(plain(place, 120) for place in places[:EXAMPLES]))
