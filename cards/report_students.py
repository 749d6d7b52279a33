"""The students of a report: accuracy by the number of teachers that a method had, and CMV, over seeds.

Where every set of teachers begins with the same one, a curve's m = 1 is the student of that teacher alone, for every
method.

The figures that `raffinate compare` shows, from the table ``students`` alone: a dataset pulled from the Hub has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import ceil, floor
from statistics import fmean
from typing import TYPE_CHECKING, Any

from schemas.seeds import Estimate, cmv, estimate
from schemas.tables import FINE_TUNING, KEEP_ALL, ONE_TEACHER

if TYPE_CHECKING:
    import duckdb

Row = dict[str, Any]
MOST_GROUPS = 24
MOST_PANELS = 24
WIDTH, HEIGHT = 150.0, 100.0
"""Of a panel's plot, in its own units."""

STUDENTS = """
SELECT base_model, objective, eval_dataset, eval_split, comparison, concat_ws(' ', method, settings) AS method,
       teachers, seed, avg(accuracy) AS accuracy, max(n) AS n
FROM students GROUP BY ALL ORDER BY ALL
"""
TOGETHER = ("base_model", "objective", "eval_dataset", "eval_split", "comparison")
"""What students that are shown in one table have in common."""


def students(con: duckdb.DuckDBPyConnection) -> list[Row]:
    """For the template: a table, and panels where there is a curve, of all students that can be compared."""
    rows = con.sql(STUDENTS).to_arrow_table().to_pylist()
    groups = [list(found) for _, found in groupby(rows, lambda row: [row[name] for name in TOGETHER])]
    return [_group(group) for group in groups]


def _group(rows: list[Row]) -> Row:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    base = _accuracies(rows, KEEP_ALL) if rows[0]["eval_split"] == "test" else {}
    table = [
        {
            "method": m,
            "sizes": _by_size(rows, m),
            "cmv": cmv(_accuracies(rows, m), base) if m != KEEP_ALL else None,
        }
        for m in sorted(methods, key=_place)
    ]
    gains = [row["cmv"] for row in table if row["cmv"]]
    return {
        **{name: rows[0][name] for name in TOGETHER},
        "n": max(row["n"] for row in rows),
        "seeds": len({row["seed"] for row in rows}),
        "sizes": sorted({size for row in table for size in row["sizes"]}),
        "table": table,
        "scale": (min([0.0, *(g.bounds[0] for g in gains)]), max([0.0, *(g.bounds[1] for g in gains)]))
        if gains
        else None,
        "plot": _plot(rows, table),
    }


def _place(method: str) -> tuple[int, str]:
    """Fine-tuning, single teachers, keep-all, then what purifies."""
    kind = 0 if method == FINE_TUNING else 1 if method.startswith(ONE_TEACHER) else 2 if method == KEEP_ALL else 3
    return kind, method


def _by_size(rows: Sequence[Row], method: str) -> dict[int, Estimate]:
    """Number of teachers -> accuracy; of several sets of as many teachers, the mean."""
    found: dict[int, dict[int, list[float]]] = {}
    for row in rows:
        if row["method"] == method:
            found.setdefault(len(row["teachers"]), {}).setdefault(row["seed"], []).append(row["accuracy"])
    return {size: estimate([fmean(v) for v in seeds.values()]) for size, seeds in sorted(found.items())}


def _accuracies(rows: Sequence[Row], method: str) -> dict[tuple[tuple[str, ...], int], float]:
    return {(tuple(row["teachers"]), row["seed"]): row["accuracy"] for row in rows if row["method"] == method}


def _plot(rows: Sequence[Row], table: list[Row]) -> Row | None:
    """A panel per method with a curve, on one scale; None where no method has two numbers of teachers."""
    sets = {tuple(row["teachers"]) for row in rows if len(row["teachers"]) > 1}
    first = {teachers[0] for teachers in sets}
    alone = _by_size(rows, ONE_TEACHER + next(iter(first))) if len(first) == 1 else {}
    curves = {
        row["method"]: {**alone, **{size: e for size, e in row["sizes"].items() if size > 1}}
        for row in table
        if max(row["sizes"]) > 1
    }
    sizes = sorted({size for curve in curves.values() for size in curve})
    if len(sizes) < 2:
        return None
    tuned = next((row["sizes"].get(0) for row in table if row["method"] == FINE_TUNING), None)
    low, high, step = _scale([*(e for curve in curves.values() for e in curve.values()), *([tuned] if tuned else [])])

    def x(size: int) -> float:
        return round((sizes.index(size) + 0.5) * WIDTH / len(sizes), 1)

    def y(value: float) -> float:
        return round(HEIGHT * (high - min(max(value, low), high)) / (high - low), 1)

    def path(curve: dict[int, Estimate]) -> str:
        return "M" + "L".join(f"{x(size)} {y(e.mean)}" for size, e in sorted(curve.items()))

    gains = {row["method"]: row["cmv"] for row in table}
    return {
        "sizes": [(x(size), size) for size in sizes],
        "ticks": [(y(i * step), i * step) for i in range(round(low / step), round(high / step) + 1)],
        "tuned": y(tuned.mean) if tuned else None,
        "keep_all": path(curves[KEEP_ALL]) if KEEP_ALL in curves else None,
        "panels": [
            {
                "method": method,
                "cmv": gains[method],
                "path": path(curve),
                "points": [
                    {"x": x(s), "y": y(e.mean), "low": y(e.bounds[0]), "high": y(e.bounds[1])} for s, e in curve.items()
                ],
            }
            for method, curve in curves.items()
        ],
    }


def _scale(estimates: Sequence[Estimate]) -> tuple[float, float, float]:
    """From, to and step of an axis of shares: round values around all means, and intervals that do not dwarf them."""
    means = [e.mean for e in estimates]
    spread = max(max(means) - min(means), 0.02)
    low = max(min(means) - spread, min(e.bounds[0] for e in estimates), 0.0)
    high = min(max(means) + spread, max(e.bounds[1] for e in estimates), 1.0)
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5) if (high - low) / s <= 4 or s == 0.5)
    down, up = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return down * step, max(up, down + 1) * step, step
