"""The figures of a report's overview, counted on the corpus and by SQL over the views.

interval     `schemas.intervals.wilson`
oracle       share of questions on which some teacher was right: no choice between the teachers can do better
conflict     entropy of the read answers / log(number of read answers), as in the table `purified`
calibration  ten bins of equal width; error = sum over bins of n/N |right share - mean probability| (Naeini et al. 2015)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cards.facts import Facts
from cards.report_data import REJECTED, Choice, differing
from schemas.corpus import UNREAD, Bools, Corpus
from schemas.intervals import wilson
from schemas.tables import SPLITS
from schemas.views import SPENT, same_answer

if TYPE_CHECKING:
    import duckdb

Row = dict[str, Any]
MOST_DOMAINS = 40

COSTS = f"""
SELECT teacher_id, {SPENT} AS cost_usd, {SPENT} / nullif(count(*) FILTER (is_correct), 0) AS per_right
FROM responses GROUP BY teacher_id ORDER BY teacher_id
"""

CALIBRATION = f"""
WITH cases AS (
    SELECT p.method, {same_answer("p.predicted_answer", "q.answer", "q.task")} AS is_right,
           list_filter(p.probabilities, lambda x: x.teacher_id = p.teacher_id)[1].probability AS probability
    FROM purified p JOIN questions q USING (question_id)
    WHERE p.probabilities IS NOT NULL AND q.answer IS NOT NULL AND q.split <> 'train'
)
SELECT method, least(floor(probability * 10), 9)::INTEGER AS bin, count(*) AS n, avg(probability) AS probability,
       avg(coalesce(is_right, false)::INTEGER) AS accuracy
FROM cases WHERE probability IS NOT NULL GROUP BY ALL ORDER BY method, bin
"""

LENGTHS = "SELECT teacher_id, avg(rationale_chars) FROM responses WHERE status = 'ok' GROUP BY teacher_id"


@dataclass(frozen=True)
class Share:
    """``right`` of ``n``, with its 95 % interval. All are shares in 0..1 but ``n``."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, right: int, n: int) -> Share | None:
        """None where there is nothing to count."""
        if n == 0:
            return None
        return cls(right / n, *wilson(right, n), n)


def overview(con: duckdb.DuckDBPyConnection, corpus: Corpus, facts: Facts, choices: list[Choice]) -> Row:
    """All that the overview shows, for the template."""
    return {
        "before": conflict_before(corpus),
        "judged": judged(corpus, choices),
        "matrix": matrix(corpus),
        "domains": by_domain(corpus),
        "methods": methods(corpus, facts, choices),
        "calibration": calibration(con),
        "costs": _rows(con, COSTS),
        "lengths": dict(con.sql(LENGTHS).fetchall()),
    }


def conflict_before(corpus: Corpus) -> Row:
    """How far the teachers contradict each other."""
    answered = (corpus.answer != UNREAD).any(axis=1)
    value = conflict(corpus)
    return {
        "answered": int(answered.sum()),
        "differing": int(differing(corpus).sum()),
        "mean": _mean(value),
        "labelled": int(corpus.labelled.sum()),
    }


def conflict(corpus: Corpus) -> npt.NDArray[np.float64]:
    """(Q,) see the module; NaN where fewer than two answers are read."""
    read = corpus.answer != UNREAD
    n = read.sum(axis=1)
    votes = np.zeros(corpus.answer.shape)
    for column in range(len(corpus.teachers)):
        votes += read[:, [column]] & (corpus.answer == corpus.answer[:, [column]])
    share = np.where(read, votes / np.maximum(n, 1)[:, None], 1.0)
    return np.where(n < 2, np.nan, -np.log(share).sum(axis=1) / np.maximum(n, 1) / np.log(np.maximum(n, 2)))


def judged(corpus: Corpus, choices: list[Choice]) -> Row | None:
    """Accuracy of methods, teachers and the oracle on the same labelled questions, the best first.

    They are of the test split, or of the first of validation and train that has any; None where nothing is labelled.
    What a method rejected, and what a teacher did not answer, is not right. Answers of a teacher that was shown gold
    do not count for it (no share where that leaves nothing known); a method may keep them, so the oracle may too.
    """
    known = corpus.judgeable
    split = next((s for s in reversed(SPLITS) if known[corpus.rows(s)].any()), None)
    if split is None:
        return None
    rows = corpus.rows(split)
    rows = rows[known[rows]]
    mine = corpus.take(rows)
    is_gold = mine.labelled[:, None] & (mine.answer == mine.gold[:, None])
    found = [_judged("oracle", "some teacher is right", (is_gold | (mine.correct == 1)).any(axis=1))]
    found += [_judged("method", choice.method, choice.right[rows]) for choice in choices]
    found += [_judged("teacher", name, *_of_teacher(mine, t)) for t, name in enumerate(mine.teachers)]
    return {"split": split, "n": len(rows), "rows": sorted(found, key=_best_first)}


def _of_teacher(corpus: Corpus, t: int) -> tuple[Bools, int]:
    """(Q,) where the teacher is right, and out of how many: all questions but those whose answer it was shown."""
    correct = corpus.correct[:, t]
    shown = (correct < 0) & (corpus.answer[:, t] != UNREAD) & corpus.labelled
    return correct == 1, int((~shown).sum()) if (correct >= 0).any() else 0


def _best_first(row: Row) -> float:
    return -row["share"].value if row["share"] else 1.0


def _judged(kind: str, name: str, right: Bools, n: int | None = None) -> Row:
    return {"kind": kind, "name": name, "share": Share.of(int(right.sum()), len(right) if n is None else n)}


def matrix(corpus: Corpus) -> list[list[Row | None]]:
    """Teachers x teachers: of the questions both answered, how many answers differ; where they do, how often the
    teacher of the row is right."""
    read = corpus.answer != UNREAD
    return [
        [None if a == b else _pair(corpus, read, a, b) for b in range(len(corpus.teachers))]
        for a in range(len(corpus.teachers))
    ]


def _pair(corpus: Corpus, read: Bools, a: int, b: int) -> Row:
    both = read[:, a] & read[:, b]
    differ = both & (corpus.answer[:, a] != corpus.answer[:, b])
    known = differ & (corpus.correct[:, a] >= 0) & (corpus.correct[:, b] >= 0)
    return {
        "differ": Share.of(int(differ.sum()), int(both.sum())),
        "right": Share.of(int((corpus.correct[known, a] == 1).sum()), int(known.sum())),
    }


def by_domain(corpus: Corpus) -> list[Row]:
    """Accuracy of each teacher in each domain, the largest domains first; the last row is all questions."""
    known = corpus.judgeable
    domains = corpus.domain.dictionary_encode()
    code = domains.indices.fill_null(-1).to_numpy()
    names, counts = np.unique(code[known], return_counts=True)
    largest = names[np.argsort(-counts, kind="stable")][:MOST_DOMAINS]
    named = [(c, domains.dictionary[int(c)].as_py() if c >= 0 else None) for c in largest]
    rows = [_domain(corpus, known & (code == c), name) for c, name in named]
    total = [_domain(corpus, known, None, total=True)] if known.any() else []
    return (rows if len(names) > 1 else []) + total


def _domain(corpus: Corpus, mine: Bools, name: str | None, *, total: bool = False) -> Row:
    correct = corpus.correct[mine]
    shares = [Share.of(int((column == 1).sum()), int((column >= 0).sum())) for column in correct.T]
    best = max((s.value for s in shares if s), default=None)
    return {
        "name": name,
        "total": total,
        "n": len(correct),
        "shares": shares,
        "best": best,
        "oracle": Share.of(int((correct == 1).any(axis=1).sum()), len(correct)),
    }


def methods(corpus: Corpus, facts: Facts, choices: list[Choice]) -> list[Row]:
    """What each method kept and why: the counts of `facts` with shares by teacher and the conflict it met."""
    shares = {(row["method"], row["teacher_id"]): row for row in facts.shares}
    value = conflict(corpus)
    by_name = {choice.method: choice for choice in choices}
    found = []
    for row in facts.methods:
        rejected = by_name[row["method"]].teacher == REJECTED
        reasons = [r for r in facts.rejections if r["method"] == row["method"]]
        found.append(
            {
                **row,
                "rejected": int(rejected.sum()),
                "reasons": reasons,
                "conflict_rejected": _mean(value[rejected]),
                "teachers": [shares.get((row["method"], teacher)) for teacher in corpus.teachers],
            }
        )
    return found


def calibration(con: duckdb.DuckDBPyConnection) -> list[Row]:
    """For each method with probabilities: ten bins of the kept teacher's probability, outside train, and the error."""
    found: dict[str, list[Row]] = {}
    for row in _rows(con, CALIBRATION):
        found.setdefault(row["method"], []).append(row)
    return [{"method": method, "bins": bins, **_calibration_error(bins)} for method, bins in found.items()]


def _calibration_error(bins: list[Row]) -> Row:
    n = sum(row["n"] for row in bins)
    return {"n": n, "error": sum(row["n"] / n * abs(row["accuracy"] - row["probability"]) for row in bins)}


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _rows(con: duckdb.DuckDBPyConnection, sql: str) -> list[Row]:
    found: list[Row] = con.sql(sql).to_arrow_table().to_pylist()
    return found
