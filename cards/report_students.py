"""The students of a report: accuracy by the number of teachers that a method had, and CMV, over seeds.

estimate   mean over seeds and its 95 % interval by Student's t; no interval of one seed
curve      accuracy by number m of teachers; where every set of teachers begins with the same one, m = 1 is the student
           of that teacher alone, for every method
CMV        mean over m = 2..N of accuracy minus keep-all's with the same teachers and seed (arXiv 2602.01064)

The figures that `raffinate compare` shows, from the table ``students`` alone: a dataset pulled from the Hub has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor, sqrt
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from schemas.tables import KEEP_ALL

if TYPE_CHECKING:
    import duckdb

Row = dict[str, Any]
MOST_GROUPS = 24
MOST_PANELS = 24
FINE_TUNING, ONE_TEACHER = "fine-tuning", "teacher:"
WIDTH, HEIGHT = 150.0, 100.0
"""Of a panel's plot, in its own units."""

STUDENTS = """
SELECT base_model, objective, eval_dataset, eval_split, comparison, method, teachers, seed,
       avg(accuracy) AS accuracy, max(n) AS n
FROM students GROUP BY ALL ORDER BY ALL
"""
TOGETHER = ("base_model", "objective", "eval_dataset", "eval_split", "comparison")
"""What students that are shown in one table have in common."""

T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""The 97.5 % quantile of Student's t with 1, 2, ... degrees of freedom."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; ``low`` and ``high`` are its 95 % interval, or the mean itself where there is one seed."""

    value: float
    low: float
    high: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Of a value per seed."""
        mean, n = fmean(values), len(values)
        half = t95(n - 1) * stdev(values) / sqrt(n) if n > 1 else 0.0
        return cls(mean, mean - half, mean + half, n)


def t95(freedom: int) -> float:
    """The 97.5 % quantile of Student's t; above ten degrees of freedom by its expansion, to three digits."""
    return T95[freedom - 1] if freedom <= len(T95) else 1.96 + 2.372 / freedom + 2.823 / freedom**2


def students(con: duckdb.DuckDBPyConnection) -> list[Row]:
    """For the template: a table, and panels where there is a curve, of all students that can be compared."""
    rows = con.sql(STUDENTS).to_arrow_table().to_pylist()
    groups = [list(found) for _, found in groupby(rows, lambda row: [row[name] for name in TOGETHER])]
    return [_group(group) for group in groups]


def _group(rows: list[Row]) -> Row:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    cmv = {method: _cmv(rows, method) for method in methods} if rows[0]["eval_split"] == "test" else {}
    table = [{"method": m, "sizes": _by_size(rows, m), "cmv": cmv.get(m)} for m in sorted(methods, key=_place)]
    gains = [row["cmv"] for row in table if row["cmv"]]
    return {
        **{name: rows[0][name] for name in TOGETHER},
        "n": max(row["n"] for row in rows),
        "seeds": len({row["seed"] for row in rows}),
        "sizes": sorted({size for row in table for size in row["sizes"]}),
        "table": table,
        "scale": (min([0.0, *(g.low for g in gains)]), max([0.0, *(g.high for g in gains)])) if gains else None,
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
    return {size: Estimate.of([fmean(v) for v in seeds.values()]) for size, seeds in sorted(found.items())}


def _cmv(rows: Sequence[Row], method: str) -> Estimate | None:
    """Over the seeds that have every number of teachers that keep-all has; None if there is none, or for keep-all."""
    base = {(tuple(r["teachers"]), r["seed"]): r["accuracy"] for r in rows if r["method"] == KEEP_ALL}
    sizes = {len(teachers) for teachers, _ in base if len(teachers) > 1}
    gaps: dict[int, dict[int, list[float]]] = {}
    for row in rows:
        key = tuple(row["teachers"]), row["seed"]
        if row["method"] == method != KEEP_ALL and key in base and len(key[0]) > 1:
            gaps.setdefault(row["seed"], {}).setdefault(len(key[0]), []).append(row["accuracy"] - base[key])
    per_seed = [fmean(map(fmean, of.values())) for of in gaps.values() if of.keys() == sizes]
    return Estimate.of(per_seed) if per_seed else None


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
        return "M" + "L".join(f"{x(size)} {y(e.value)}" for size, e in sorted(curve.items()))

    cmv = {row["method"]: row["cmv"] for row in table}
    return {
        "sizes": [(x(size), size) for size in sizes],
        "ticks": [(y(i * step), i * step) for i in range(round(low / step), round(high / step) + 1)],
        "tuned": y(tuned.value) if tuned else None,
        "keep_all": path(curves[KEEP_ALL]) if KEEP_ALL in curves else None,
        "panels": [
            {
                "method": method,
                "cmv": cmv[method],
                "path": path(curve),
                "points": [{"x": x(s), "y": y(e.value), "low": y(e.low), "high": y(e.high)} for s, e in curve.items()],
            }
            for method, curve in curves.items()
        ],
    }


def _scale(estimates: Sequence[Estimate]) -> tuple[float, float, float]:
    """From, to and step of an axis of shares: round values around all means, and intervals that do not dwarf them."""
    means = [e.value for e in estimates]
    spread = max(max(means) - min(means), 0.02)
    low = max(min(means) - spread, min(e.low for e in estimates), 0.0)
    high = min(max(means) + spread, max(e.high for e in estimates), 1.0)
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5) if (high - low) / s <= 4 or s == 0.5)
    down, up = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return down * step, max(up, down + 1) * step, step
