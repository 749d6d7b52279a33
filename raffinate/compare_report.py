"""What a comparison shows, as numbers: the paper's table, curves over teacher sets, CMV, costs, tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from distill.statistics import Cell, accuracies, by_seed, curves, paired
from raffinate.compare import Results
from schemas.seeds import Estimate, cmv, estimate
from schemas.tables import FINE_TUNING, KEEP_ALL, ONE_TEACHER


@dataclass(frozen=True)
class Line:
    """One method with one teacher set, over its seeds."""

    method: str
    teachers: tuple[str, ...]
    cells: list[dict[str, Any]]
    judged: dict[str, list[Cell]]

    def mean(self, key: str) -> float | None:
        """Mean of a figure over the seeds; None where it is unknown."""
        known = [c[key] if key in c else c["students"][0][key] for c in self.cells]
        known = [k for k in known if k is not None]
        return float(np.mean(known)) if known else None


def report(results: Results) -> dict[str, Any]:
    """Everything, for ``--json``: a section per student and objective."""
    groups = _grouped(results.cells)
    return {
        "comparison": results.comparison,
        "cells": len(results.cells),
        "planned": len(results.grid.cells),
        "failed": results.failed,
        "seeds": list(results.grid.seeds),
        "teachers": list(results.grid.teachers),
        "nested": all(set(a) < set(b) for a, b in pairwise(results.grid.sets)),
        "interval": "95 %: t over seeds; bootstrap over questions (low, high)",
        "sections": [_section(results, model, objective, cells) for (model, objective), cells in groups],
    }


def _grouped(cells: Sequence[dict[str, Any]]) -> list[tuple[tuple[str, str], list[dict[str, Any]]]]:
    def key(cell: dict[str, Any]) -> tuple[str, str]:
        row = cell["students"][0]
        return row["base_model"], row["objective"]

    return [(k, list(v)) for k, v in groupby(sorted(cells, key=key), key)]


def _section(results: Results, model: str, objective: str, cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    lines = _lines(cells)
    datasets = list(cells[0]["right"])
    own = datasets[0]
    judged = [c for line in lines for c in line.judged[own]]
    curve = curves(judged, results.grid.sets)
    base = curve.get(KEEP_ALL)
    return {
        "base_model": model,
        "objective": objective,
        "parameters": cells[0]["parameters"],
        "steps": cells[0]["steps"],
        "dataset": own,
        "elsewhere": datasets[1:],
        "n": len(cells[0]["right"][own]),
        "seeds": [min(len(line.cells) for line in lines), max(len(line.cells) for line in lines)],
        "methods": [_told(line, lines, own, datasets) for line in lines],
        "curves": {
            method: {str(m): estimate(by_seed(there)).to_dict() for m, there in points.items()}
            for method, points in curve.items()
        },
        "cmv": {
            method: found.to_dict()
            for method, points in curve.items()
            if base and method != KEEP_ALL and (found := cmv(accuracies(points), accuracies(base)))
        },
    }


def _lines(cells: Sequence[dict[str, Any]]) -> list[Line]:
    """The cells by method and teachers: fine-tuning, single teachers, keep-all, then purifiers as they were named."""
    found: dict[tuple[str, tuple[str, ...]], list[dict[str, Any]]] = {}
    for cell in cells:
        found.setdefault((cell["cell"]["method"], tuple(cell["cell"]["teachers"])), []).append(cell)

    def place(key: tuple[str, tuple[str, ...]]) -> int:
        method = key[0]
        return (method != FINE_TUNING) + (not method.startswith(ONE_TEACHER) and method != FINE_TUNING) * (
            1 + (method != KEEP_ALL)
        )

    return [_line(*key, found[key]) for key in sorted(found, key=place)]


def _line(method: str, teachers: tuple[str, ...], cells: list[dict[str, Any]]) -> Line:
    judged: dict[str, list[Cell]] = {}
    for cell in cells:
        for dataset, text in cell["right"].items():
            right = np.frombuffer(text.encode(), np.uint8) == ord("1")
            judged.setdefault(dataset, []).append(Cell(method, teachers, cell["cell"]["training"]["seed"], right))
    return Line(method, teachers, cells, judged)


def _told(line: Line, lines: Sequence[Line], own: str, datasets: Sequence[str]) -> dict[str, Any]:
    keep_all = next((o for o in lines if o.method == KEEP_ALL and o.teachers == line.teachers), None)
    tuned = next((o for o in lines if o.method == FINE_TUNING), None)
    return {
        "method": line.method,
        "teachers": list(line.teachers),
        "accuracy": {d: _accuracy(line, d).to_dict() for d in datasets},
        "against_keep_all": _against(line, keep_all, own),
        "against_fine_tuning": _against(line, tuned, own),
        "kept_right": line.mean("kept_right"),
        "rejected": line.mean("rejected"),
        "teacher_calls": line.mean("calls"),
        "rationales": line.mean("rationales"),
        "rationale_tokens": line.mean("rationale_tokens"),
        "choose_seconds": line.mean("choose_seconds"),
        "train_seconds": line.mean("seconds"),
        "device": line.cells[0]["students"][0]["device"],
    }


def _accuracy(line: Line, dataset: str) -> Estimate:
    return estimate([cell.accuracy for cell in line.judged[dataset]])


def _against(line: Line, other: Line | None, dataset: str) -> dict[str, Any] | None:
    if other is None or other is line:
        return None
    found = paired(line.judged[dataset], other.judged[dataset])
    return None if found is None else found.to_dict()


def shown(found: dict[str, Any]) -> None:
    """Print the tables."""
    from raffinate import show

    for section in found["sections"]:
        _table(section)
        _curve_table(section)
    if found.get("pictures") == []:
        show.note("no picture: a curve needs a method that chooses, and teacher sets of two sizes or more")
    for label, why in found["failed"].items():
        show.note(f"not trained: {label}: {why}")


def _table(section: dict[str, Any]) -> None:
    from raffinate import show

    most = max(len(m["teachers"]) for m in section["methods"])
    rows = []
    for m in section["methods"]:
        if len(m["teachers"]) not in (0, 1, most):
            continue
        rows.append(
            (
                m["method"],
                len(m["teachers"]) or None,
                *(interval(m["accuracy"][d]) for d in (section["dataset"], *section["elsewhere"])),
                difference(m["against_keep_all"]),
                difference(m["against_fine_tuning"]),
                show.share(m["kept_right"]),
                f"{m['teacher_calls']:,.0f}",
                "-" if not m["rationale_tokens"] else f"{m['rationale_tokens']:,.0f}",
                f"{m['train_seconds']:,.1f}",
            )
        )
    names = ("method", "teachers", section["dataset"], *section["elsewhere"], "- keep-all", "- fine-tuning")
    names += ("right kept", "teacher calls", "rationale tokens", "train s")
    show.table(
        f"{section['base_model']}, {section['objective']}: {section['parameters']:,} weights, {section['steps']:,} "
        f"steps, {section['n']:,} test questions, {_seeds(section)}; accuracy in %, differences in points; * = 95 % "
        "interval over seeds and over questions both leave out 0",
        names,
        rows,
    )


def _seeds(section: dict[str, Any]) -> str:
    least, most = section["seeds"]
    if least < most:
        return f"{least} to {most} seeds"
    return "1 seed" if most == 1 else f"{most} seeds"


def _curve_table(section: dict[str, Any]) -> None:
    from raffinate import show

    if not section["curves"]:
        return
    sizes = sorted({int(m) for points in section["curves"].values() for m in points})
    rows = [
        (method, *(interval(points.get(str(m))) for m in sizes), interval(section["cmv"].get(method), signed=True))
        for method, points in section["curves"].items()
    ]
    show.table(
        f"{section['base_model']}, {section['objective']}: accuracy in % by number of teachers, and CMV in points",
        ("method", *(f"{m} teacher{'s' * (m > 1)}" for m in sizes), "CMV"),
        rows,
    )


def interval(found: dict[str, Any] | None, *, signed: bool = False) -> str:
    """A mean with half its interval, in percent or signed points."""
    if found is None:
        return "-"
    half = "" if found["low"] is None else f" ± {100 * (found['high'] - found['mean']):.1f}"
    return f"{100 * found['mean']:{'+' if signed else ''}.1f}{half}"


def difference(found: dict[str, Any] | None) -> str:
    """A paired difference in points, starred where seeds and questions agree that it is none of chance."""
    if found is None:
        return "-"
    seeds = found["by_seed"]
    sure = seeds["low"] is not None and (seeds["low"] > 0 or seeds["high"] < 0)
    sure = sure and (found["low"] > 0 or found["high"] < 0)
    return interval(seeds, signed=True) + (" *" if sure else "")


def markdown(found: dict[str, Any]) -> str:
    """The tables for a page of documentation."""
    parts = []
    for s in found["sections"]:
        sizes = sorted({int(m) for points in s["curves"].values() for m in points})
        parts.append(f"**{s['base_model']}, {s['objective']}**\n")
        parts.append(
            "| method | teachers | right kept | accuracy | - keep-all | - fine-tuning | rationale tokens | s |"
        )
        parts.append("|---|---:|---:|---:|---:|---:|---:|---:|")
        most = max(len(m["teachers"]) for m in s["methods"])
        for m in s["methods"]:
            if len(m["teachers"]) in (0, 1, most):
                kept = "" if m["kept_right"] is None else f"{m['kept_right']:.3f}"
                cells = [m["method"], str(len(m["teachers"]) or ""), kept, interval(m["accuracy"][s["dataset"]])]
                cells += [difference(m["against_keep_all"]), difference(m["against_fine_tuning"])]
                cells += [f"{m['rationale_tokens'] or 0:,.0f}", f"{m['train_seconds']:.1f}"]
                parts.append(f"| {' | '.join(cells)} |")
        if sizes:
            parts.append(f"\n| accuracy by teachers | {' | '.join(map(str, sizes))} | CMV |")
            parts.append(f"|---|{'---:|' * (len(sizes) + 1)}")
            for method, points in s["curves"].items():
                row = [interval(points.get(str(m))) for m in sizes]
                row.append(interval(s["cmv"].get(method), signed=True))
                parts.append(f"| {method} | {' | '.join(row)} |")
        parts.append("")
    return "\n".join(parts)
