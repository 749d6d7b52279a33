"""``raffinate evaluate``: judge methods against gold, and look closer where that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from purifiers.base import Purifier
from purifiers.comparison import by_domain, paired, sizes_up_to, teacher_curve, train_curve, unseen_domains
from purifiers.evaluate import choose_on, is_right, judge, judged_rows
from purifiers.run import Step
from raffinate import show
from schemas.corpus import Corpus
from schemas.database import query
from schemas.workspace import Workspace

PRICES = """
SELECT teacher_id, avg(cost_usd) AS usd FROM responses WHERE status = 'ok'
GROUP BY teacher_id HAVING count(*) = count(cost_usd)
"""


@dataclass(frozen=True)
class Look:
    """Which split to judge on, and what to look at beside each method's figures."""

    on: str = "test"
    seed: int = 0
    compare: bool = False
    domains: bool = False
    curves: bool = False
    transfer: bool = False

    @property
    def anything(self) -> bool:
        """Whether more than the figures is asked for."""
        return self.compare or self.domains or self.curves or self.transfer


def evaluate(
    workspace: Workspace, corpus: Corpus, methods: Sequence[Purifier], look: Look, step: Step
) -> list[dict[str, Any]]:
    """One dict per method: its figures, and under ``against``, ``domains``, ``curves`` and ``transfer`` what was asked.

    Raises:
        InputError: the split has no labelled question with an answer, or what was asked cannot be had here.
    """
    on, seed = look.on, look.seed
    rows, prices = (
        judged_rows(corpus, methods, on),
        {r["teacher_id"]: r["usd"] for r in query(workspace, PRICES).to_pylist()},
    )
    choices = []
    for method in methods:
        with step(f"judging {method.name}") if look.anything or method.equipment.asker else nullcontext():
            choices.append(choose_on(method, corpus, rows, on, seed))
    found = [e.to_dict() for e in judge(corpus, rows, choices, prices=prices)]
    part = corpus.take(rows)
    right = [is_right(part, c.kept) for c in choices]
    for i, (method, figures) in enumerate(zip(methods, found, strict=True)):
        if look.compare:
            others = {m.name: paired(right[i], r, seed) for m, r in zip(methods, right, strict=True) if m is not method}
            figures["against"] = {n: {**asdict(d), "significant": d.significant} for n, d in others.items()}
        if look.domains:
            figures["domains"] = by_domain(part, choices[i].kept)
        if look.curves:
            with step(f"curves of {method.name}"):
                sizes = sizes_up_to(len(corpus.rows("train"))) if method.needs_fit else []
                figures["curves"] = {
                    "train": train_curve(corpus, method, sizes, on=on, seed=seed) if sizes else None,
                    "teachers": teacher_curve(corpus, method, on=on, seed=seed),
                }
        if look.transfer:
            with step(f"transfer of {method.name}"):
                figures["transfer"] = unseen_domains(corpus, method, on=on)
    return found


def show_closer(found: Sequence[dict[str, Any]]) -> None:
    """Print what was looked at beside the figures, a table each."""
    names = [e["method"] for e in found]
    if "against" in found[0] and len(found) > 1:
        rows = [(e["method"], *(_difference(e["against"].get(n)) for n in names)) for e in found]
        show.table(
            "Accuracy of the row less that of the column (95 % interval, paired; * leaves out 0)", ("", *names), rows
        )
    if "domains" in found[0]:
        first, bounds = found[0]["domains"], _bounds("best teacher there", names)
        rows = [
            (
                f"{domain} ({first[domain]['n']:,})",
                *(show.share(e["domains"][domain]["accuracy"]) for e in found),
                *(show.share(first[domain][key]) for key in bounds.values()),
            )
            for domain in first
        ]
        show.table("By domain", ("domain", *names, *bounds), rows)
    if "curves" in found[0]:
        _show_curves(found)
    if "transfer" in found[0]:
        domains = sorted({d for e in found for d in e["transfer"]})
        rows = [(d, *(show.share(e["transfer"].get(d)) for e in found)) for d in domains]
        show.table("In each domain, fitted without it", ("domain", *names), rows)


def _show_curves(found: Sequence[dict[str, Any]]) -> None:
    learners = [e for e in found if e["curves"]["train"]]
    if learners:
        sizes = list(learners[0]["curves"]["train"])
        rows = [(f"{n:,}", *(show.share(e["curves"]["train"][n]) for e in learners)) for n in sizes]
        show.table("By number of train questions", ("questions", *(e["method"] for e in learners)), rows)
    steps, names = found[0]["curves"]["teachers"], [e["method"] for e in found]
    bounds = _bounds("best single", names)
    rows = [
        (
            f"{n}: with {step['added']}",
            *(show.share(e["curves"]["teachers"][n]["accuracy"]) for e in found),
            *(show.share(step[key]) for key in bounds.values()),
        )
        for n, step in steps.items()
    ]
    show.table("By number of teachers, the best on train first", ("teachers", *names, *bounds), rows)


def _bounds(best: str, names: Sequence[str]) -> dict[str, str]:
    """The columns beside the methods, and where their figures are; the oracle is there once."""
    return {best: "best_single"} | ({} if "oracle" in names else {"oracle": "oracle"})


def _difference(d: dict[str, Any] | None) -> str:
    if d is None:
        return ""
    star = "*" if d["significant"] else ""
    return f"{d['difference']:+.1%}{star} ({d['low']:+.1%} .. {d['high']:+.1%})"
