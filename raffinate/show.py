"""What the command prints: results on stdout, as tables for people and JSON for scripts, and remarks on stderr."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from builders.build import BuildSummary, TeacherEstimate
    from builders.endpoints import EndpointReport
    from builders.rows import TeacherRows
    from cards.push import PushPlan, PushReport
    from cards.verify import Finding
    from purifiers.base import Purified, Purifier
    from raffinate.bring import Brought
    from raffinate.run import RunReport
    from schemas.corpus import Corpus
    from schemas.workspace import Workspace

WIDE = 160
"""Columns where there is no terminal to fit: a table in a log is not folded."""
out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
err = Console(stderr=True, soft_wrap=True, highlight=False)
FOLDED = 24
"""Characters that a folded column keeps: less is not read easily."""
UNKNOWN = "unknown"


def as_json(value: Any) -> None:
    """Print a value as indented JSON."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS, default=_plain).decode()
    sys.stdout.write(text + "\n")


def _plain(value: Any) -> Any:
    """What JSON has no type for: settings as their fields, the rest as text."""
    return value.model_dump() if hasattr(value, "model_dump") else str(value)


def note(text: str) -> None:
    """Print a remark for people, apart from results."""
    err.print(f"note: {text}", markup=False)


def money(usd: float | None) -> str:
    """US dollars, or that they are unknown."""
    return UNKNOWN if usd is None else f"${usd:,.4f}" if usd < 1 else f"${usd:,.2f}"


def share(value: float | None) -> str:
    """A share as a percentage."""
    return "-" if value is None else f"{value:.1%}"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows: a table, or a line per value where words would be broken to fit the screen."""
    rows = list(rows)
    out.print(Text(title, style="bold"), soft_wrap=True)  # rich folds a title to the width of its table
    if fits(columns, [[_longest_word(v) for v in row] for row in (columns, *rows)]):
        out.print(grid(columns, rows))
    else:
        _lines(columns[1:], [(str(name), values) for name, *values in rows])


def grid(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Rows as a table, figures to the right; what comes from data is shown as it is, never as markup."""
    made = Table()
    for i, name in enumerate(columns):
        figures = i and not _are_texts([row[i] for row in rows])
        made.add_column(Text(name), justify="right" if figures else "left", overflow="fold", no_wrap=not i)
    for row in rows:
        made.add_row(*(Text(_cell(v)) for v in row))
    return made


def _are_texts(values: Sequence[object]) -> bool:
    """Whether most of a column begin with a letter; an unknown figure is none of them."""
    return 2 * sum(v != UNKNOWN and str(v)[:1].isalpha() for v in values if v is not None) > len(values)


def _cell(value: object) -> str:
    return "-" if value is None else str(value)


def _longest_word(value: object) -> str:
    return max(_cell(value).split(), key=cell_len, default="")


def _lines(columns: Sequence[str], rows: Iterable[tuple[str, Sequence[object]]]) -> None:
    """Rows with a heading each, and a line per value."""
    for heading, values in rows:
        out.print(Text(heading, style="bold"))
        for name, value in zip(columns, values, strict=True):
            said = _cell(value).replace("\n", "\n    ")
            out.print(Text(f"  {name}: {said}"), soft_wrap=True)


def fits(columns: Sequence[str], rows: Sequence[Sequence[object]], folded: int | None = None) -> bool:
    """Whether a table has room on the screen, its columns from the second folded to so many characters."""
    widths = [max(cell_len(str(v)) for v in column) for column in zip(columns, *rows, strict=True)]
    return sum(min(w, folded or w) if i else w for i, w in enumerate(widths)) + 3 * len(widths) < out.width


def records(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Rows of a query: a table, or a line per value where that has no room; fractions to six digits."""
    rows = [[figure(v) if isinstance(v, float) else v for v in row] for row in rows]
    if not rows:
        out.print("no rows")
    elif fits(columns, rows, folded=FOLDED):
        out.print(grid(columns, rows))
    else:
        _lines(columns, [(f"row {i}", row) for i, row in enumerate(rows, 1)])


def figure(value: float) -> str:
    """A fraction for people, to six digits."""
    return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.1f}"


def built(summary: BuildSummary) -> None:
    """Who was asked, what came back, what it cost."""
    asked = {t.teacher_id: t for t in summary.run.teachers}
    kinds = ["ok", *(k for k in ("failed", "truncated", "refused") if any(t.statuses[k] for t in summary.rows))]
    rows = []
    for teacher in summary.rows:
        run = asked[teacher.teacher_id]
        tokens = f"{run.prompt_tokens:,} + {run.completion_tokens:,}"
        counts = [f"{teacher.statuses[k]:,}" for k in kinds]
        asked_now = f"{run.answered:,}" + (f" + {run.follow_ups:,} again" if run.follow_ups else "")
        rows.append((teacher.teacher_id, asked_now, f"{run.cached:,}", *counts, tokens, money(run.cost_usd)))
    names = ("teacher", "asked now", "known", *kinds, "tokens in + out", "cost")
    table(f"Who was asked, in {summary.run.seconds:.1f} s", names, rows)
    for sentence in summary.advice:
        note(sentence)


def conflicts(workspace: Workspace) -> None:
    """How often each pair of teachers disagrees, of the questions that both answered readably."""
    from schemas.database import query

    found = query(workspace, PAIRS).to_pylist()
    teachers = sorted({r["a"] for r in found} | {r["b"] for r in found})
    if not teachers:
        return
    rate = {(r["a"], r["b"]): r["disagree"] for r in found}
    rows = [(a, *("" if a == b else share(rate.get((min(a, b), max(a, b)))) for b in teachers)) for a in teachers]
    table("Where they disagree (share of questions that both answered)", ("", *teachers), rows)


PAIRS = """
WITH given AS (SELECT question_id, teacher_id FROM answers WHERE predicted_answer IS NOT NULL)
SELECT a.teacher_id AS a, b.teacher_id AS b, count(c.question_id) / count(*) AS disagree
FROM given a JOIN given b ON a.question_id = b.question_id AND a.teacher_id < b.teacher_id
LEFT JOIN conflicts c
ON (c.question_id, c.teacher_a, c.teacher_b) = (a.question_id, a.teacher_id, b.teacher_id) GROUP BY ALL
"""


def accuracies(workspace: Workspace) -> None:
    """Accuracy of each teacher by domain, on labelled questions."""
    from schemas.database import query

    found = query(workspace, BY_DOMAIN).to_pylist()
    domains = sorted({r["domain"] for r in found})
    value = {(r["teacher_id"], r["domain"]): r["accuracy"] for r in found}
    teachers = sorted({r["teacher_id"] for r in found})
    if found:
        rows = [(d, *(share(value.get((t, d))) for t in teachers)) for d in domains]
        table("Who is right where (accuracy by domain)", ("domain", *teachers), rows)


BY_DOMAIN = """
SELECT teacher_id, coalesce(domain, 'unknown') AS domain, avg(is_correct::INTEGER) AS accuracy
FROM answers JOIN questions USING (question_id) WHERE is_correct IS NOT NULL GROUP BY ALL
"""


def evaluations(found: Sequence[dict[str, Any]], on: str) -> None:
    """How each method chose against gold; see `purifiers.evaluate.Evaluation`."""
    rows = [
        (
            e["method"],
            share(e["accuracy"]),
            f"{e['low']:.1%} .. {e['high']:.1%}",
            f"{e['coverage']:.0%}",
            None if e["gap_closed"] is None else f"{e['gap_closed']:.2f}",
            e["calibration"] and f"{e['calibration']['ece']:.3f} ({e['calibration']['floor']:.3f})",
            top(e["share"]),
            f"{e['entropy']:.2f}",
            f"{e['fit_seconds']:.1f} + {e['choose_seconds']:.1f} s",
            _cost(e),
        )
        for e in found
    ]
    title = f"How each method chose on {on} ({found[0]['n']:,} questions; some teacher right: {found[0]['oracle']:.1%})"
    if fits(EVALUATED, rows):
        table(title, EVALUATED, rows)
        return
    for heading, names in ((title, RESULTS), ("How they came to it (more: --json)", MANNERS)):
        places = [EVALUATED.index(name) for name in names]
        table(heading, names, [[row[i] for i in places] for row in rows])


def _cost(e: dict[str, Any]) -> str | None:
    """Of a row: the responses it needs, and what the method asked for itself."""
    known = [e[key] for key in ("responses_usd", "cost_usd") if e[key] is not None]
    return money(sum(known)) if known else None


EVALUATED = (
    "method",
    "accuracy",
    "95 % interval",
    "kept",
    "gap closed",
    "ECE (noise)",
    "chosen most",
    "entropy",
    "fit + choose",
    "cost/row",
)
RESULTS = ("method", "accuracy", "95 % interval", "gap closed", "cost/row")
MANNERS = ("method", "kept", "ECE (noise)", "chosen most", "fit + choose")
"""The columns of `EVALUATED` in two tables, where the screen has no room for one."""


def top(shares: dict[str, float]) -> str:
    """The teacher chosen most, with its share; a dash where none was chosen."""
    teacher = max(shares, key=lambda t: shares[t])
    return f"{teacher} {shares[teacher]:.0%}" if shares[teacher] else "-"


def endpoints(reports: Sequence[EndpointReport]) -> None:
    """What was found at each URL."""
    rows = [
        (r.teacher_id, r.url, _found(r), "-" if r.latency_ms is None else f"{r.latency_ms:.0f} ms") for r in reports
    ]
    table("Endpoints", ("teacher", "url", "found", "latency"), rows)
    for remark in (r.note for r in reports if r.note):
        note(remark)


def _found(report: EndpointReport) -> str:
    """What was found, without the teacher and the URL that stand beside it."""
    if report.problem is None:
        return "ok" if report.serves_model else "no list of models"
    return report.problem.removeprefix(f"teacher '{report.teacher_id}': ").removeprefix(f"{report.url} ")


def estimates(found: Mapping[str, Sequence[TeacherEstimate]]) -> None:
    """What a build or a method would still ask, by its name; what is an upper bound is marked so."""
    for spent_on, each in found.items():
        rows = [
            (
                e.teacher_id,
                f"{e.rows:,}",
                f"{e.requests:,}",
                f"{e.follow_ups:,}",
                f"{e.prompt_tokens:,}",
                f"{'' if e.measured else MOST}{e.completion_tokens:,}",
                f"{'' if e.measured or e.cost_usd is None else MOST}{money(e.cost_usd)}",
            )
            for e in each
        ]
        names = ("teacher", "rows", "requests", "second turns", "prompt tokens", "completion tokens", "cost")
        who = "A build" if spent_on == BUILD else spent_on
        table(f"{who} would ask (tokens are approximate)", names, rows)
    if any(e.requests and not e.measured for each in found.values() for e in each):
        note(
            "≤ is at most: no reply was measured, so each is counted at max_tokens; for better figures ask a few with  "
            "raffinate build RECIPE --max-requests 50  and estimate again"
        )


MOST = "≤ "
BUILD = "build"
"""What is spent on teachers' responses, in the view `costs` and in estimates."""


def estimates_dict(found: Mapping[str, Sequence[TeacherEstimate]]) -> list[dict[str, Any]]:
    """The same for JSON."""
    return [{"spent_on": spent_on, **asdict(e)} for spent_on, each in found.items() for e in each]


def statuses(found: Sequence[TeacherRows]) -> None:
    """How far a corpus is."""
    kinds = ["ok", "failed", "truncated", "refused", "missing"]
    kinds += [kind for kind in ("under_way",) if any(t.statuses[kind] for t in found)]
    rows = [
        (
            t.teacher_id,
            *(f"{t.statuses[k]:,}" for k in kinds),
            ", ".join(f"{n} {e}" for e, n in t.errors.most_common()) or "-",
        )
        for t in found
    ]
    table("Corpus", ("teacher", *kinds, "failures"), rows)
    for each in found:
        if each.unfinished:
            note(f"{each.teacher_id}: {each.unfinished:,} replies without an answer are still to be asked for it")
        for batch in each.batches:
            name = batch.batch_id or "a batch that was being sent"
            note(f"{each.teacher_id}: {name}, {batch.requests:,} requests, is under way for {batch.age_s / 3600:.1f} h")


def status_dict(found: TeacherRows) -> dict[str, Any]:
    """How far one teacher's rows are, for JSON."""
    batches = [{"batch_id": b.batch_id, "requests": b.requests, "seconds": b.age_s} for b in found.batches]
    more = {"unfinished": found.unfinished, "batches": batches}
    return {"teacher_id": found.teacher_id, **found.statuses, "errors": dict(found.errors), **more}


def build_dict(summary: BuildSummary) -> dict[str, Any]:
    """A build for JSON."""
    asked = {t.teacher_id: t for t in summary.run.teachers}
    return {
        "seconds": summary.run.seconds,
        "failed_share": summary.failed_share,
        "advice": summary.advice,
        "teachers": [
            {
                "teacher_id": t.teacher_id,
                **{status: t.statuses[status] for status in ("ok", "failed", "truncated", "refused")},
                "errors": dict(t.errors),
                "unfinished": t.unfinished,
                "asked": asked[t.teacher_id].answered,
                "follow_ups": asked[t.teacher_id].follow_ups,
                "prompt_tokens": asked[t.teacher_id].prompt_tokens,
                "completion_tokens": asked[t.teacher_id].completion_tokens,
                "cost_usd": asked[t.teacher_id].cost_usd,
            }
            for t in summary.rows
        ],
    }


def report(found: RunReport) -> None:
    """A whole run: who was asked, where they disagree, how each method chose, where everything lies.

    Of one that ended at the build, who was asked.
    """
    from builders.questions import question_notes

    for remark in question_notes(found.workspace.question_parts(["dataset", "question", "answer"])):
        note(remark.message)
    built(found.build)
    if found.build.exit_code:
        return
    accuracies(found.workspace)
    conflicts(found.workspace)
    if found.evaluations:
        evaluations([e.to_dict() for e in found.evaluations], found.evaluated_on)
    if found.not_evaluated:
        note(f"not evaluated: {found.not_evaluated}")
    if found.students:
        from raffinate.compare_report import shown

        shown(found.students)
    places(found.workspace)


def report_dict(found: RunReport) -> dict[str, Any]:
    """A whole run for JSON."""
    return {
        "workspace": str(found.workspace.path),
        "build": build_dict(found.build),
        "evaluations": [e.to_dict() for e in found.evaluations],
        "methods": found.workspace.methods(),
        "students": found.students,
    }


def methods(found: Sequence[dict[str, Any]]) -> None:
    """The methods with their signals and settings."""
    for each in found:
        sees = f"sees {', '.join(each['signals']) or 'nothing'}" + (
            ", learns from gold on train" if each["learns"] else ""
        )
        out.print(f"[bold]{each['method']}[/bold]  {sees}" + ("" if each["publishable"] else ", for evaluation alone"))
        out.print(f"  {each['about']}", markup=False)
        for setting in each["settings"]:
            pair = shlex.quote(f"{setting['name']}={_as_set(setting['default'])}")
            out.print(f"  --set {pair}   {setting['about']}", markup=False, soft_wrap=True)


def _as_set(value: Any) -> str:
    """A value as ``--set`` reads it."""
    import yaml

    plain = orjson.loads(orjson.dumps(value, default=_plain))
    text: str = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=sys.maxsize)
    return text.removesuffix("...\n").strip() if plain != "" else ""


def purified_dict(workspace: Workspace, purifier: Purifier, corpus: Corpus, kept: Purified) -> dict[str, Any]:
    """What a method kept, for JSON."""
    reasons = Counter(kept.rejected.values())
    columns = kept.picks()[1]
    chosen = Counter(corpus.teachers[c] for c in columns[columns >= 0].tolist())
    return {
        "method": purifier.name,
        "kept": len(columns),
        "rejected": len(kept.rejected),
        "reasons": dict(reasons.most_common()),
        "chosen": dict(chosen.most_common()),
        "synthesised": len(kept.synthesised),
        "notes": dict(Counter(note.split(":")[0] for note in kept.notes.values()).most_common()),
        "asked": _asked(workspace, purifier.name),
        "folder": str(workspace.purified_dir(purifier.name)),
    }


def _asked(workspace: Workspace, method: str) -> list[dict[str, Any]]:
    """Whom a method asked, what of it could be read, and what it cost; teachers among them are marked."""
    from schemas.database import query, quote

    sql = f"{ASKED} WHERE method = {quote(method)} GROUP BY judge_id ORDER BY judge_id"
    found: list[dict[str, Any]] = query(workspace, sql).to_pylist()
    return found


ASKED = """
SELECT judge_id AS judge, count(*) AS requests, count(*) FILTER (status = 'failed') AS failed,
       count(*) FILTER (verdict IS NULL) AS unread, round(sum(cost_usd), 9) AS cost_usd,
       judge_id IN (SELECT teacher_id FROM responses) AS is_teacher
FROM calls
"""


def purified(found: dict[str, Any]) -> None:
    """What a method kept, from whom, and why not the rest."""
    made = found["synthesised"]
    rows = [(teacher, f"{n:,}", share(n / max(found["kept"], 1))) for teacher, n in found["chosen"].items()]
    table(
        f"{found['method']} kept {found['kept']:,} rationales, rejected {found['rejected']:,}",
        ("from", "rationales", "share"),
        rows + ([("written anew", f"{made:,}", share(made / max(found["kept"], 1)))] if made else []),
    )
    if found["asked"]:
        asked = [(a["judge"], a["requests"], a["failed"], a["unread"], money(a["cost_usd"])) for a in found["asked"]]
        table("What it asked", ("judge", "requests", "failed", "unread", "cost"), asked)
    for reason, n in found["notes"].items():
        note(f"{n:,} kept: {reason}")
    for reason, n in found["reasons"].items():
        note(f"{n:,} rejected: {reason}")
    out.print(f"in {found['folder']}", markup=False)


def brought(found: Brought) -> None:
    """What an import brought in, and what to know about it."""
    table(
        f"Imported {found.questions:,} questions",
        ("teacher", "responses"),
        [(t, f"{n:,}") for t, n in found.responses.items()],
    )
    for remark in found.notes:
        note(remark)
    places(found.workspace)


def audited(found: dict[str, Any]) -> None:
    """An audit, a line per figure; figures of a group are indented."""
    for name, value in found.items():
        if isinstance(value, dict) and value:
            out.print(f"{name}:", markup=False)
            for key, part in value.items():
                out.print(f"    {key}: {_figure(part)}", markup=False)
        else:
            out.print(f"{name}: {_figure(value)}", markup=False)


def _figure(value: Any) -> str:
    if isinstance(value, set | frozenset | list | tuple | dict):
        return ", ".join(sorted(map(str, value))) or "none"
    return f"{value:.3f}" if isinstance(value, float) else UNKNOWN if value is None else str(value)


def findings(found: Sequence[Finding]) -> None:
    """What a check found, worst first."""
    order = {"error": 0, "warning": 1, "note": 2}
    for each in sorted(found, key=lambda f: order[f.level]):
        out.print(f"{each.level}: {each.check}: {each.message}", markup=False)
        for example in each.examples:
            out.print(f"    {example}", markup=False)
    if not found:
        out.print("nothing found")


def pushed(done: PushPlan | PushReport) -> None:
    """What a push did, or would do."""
    from cards.push import PushReport

    plan = done.plan if isinstance(done, PushReport) else done
    table(f"{plan.repo_id}", ("file", "bytes", "change"), [(f.path, f"{f.size:,}", f.change) for f in plan.files])
    for key, (before, after) in plan.metadata.items():
        note(f"card metadata '{key}': {before} -> {after}")
    for method, rows in plan.dropped.items():
        note(f"{rows:,} rows of {method} are left out: an excluded teacher's response went into them")
    for place in plan.private_places:
        note(f"this names a path or a host of yours: {place}")
    for reason in plan.refusals:
        note(f"a push would be refused: {reason}")
    if isinstance(done, PushReport):
        out.print(f"published at {done.url} as {done.tag} (commit {done.commit})", markup=False)
        out.print(f"loaded back and equal: {', '.join(done.checked) or 'not checked'}", markup=False)


def places(workspace: Workspace) -> None:
    """Where everything lies and what can be done with it."""
    where = str(workspace.path)
    path = shlex.quote(where)
    out.print(Text.assemble(("\nWhere everything lies", "bold"), f"  {where}"), soft_wrap=True)
    for name, about in PLACES.items():
        if (workspace.path / name).exists():
            out.print(f"  {name:17} {about}")
    out.print("\n[bold]Next[/bold]")
    steps = [f"raffinate report {path}", f'raffinate sql {path} "SELECT * FROM conflicts LIMIT 5"']
    if workspace.methods():
        code = f"import datasets; print(datasets.load_dataset({where!r}))"
        steps.append(f"python -c {shlex.quote(code)}" if '"' in code else f'python -c "{code}"')
    else:
        steps += [
            f"raffinate evaluate {path} --methods best-teacher,majority,oracle",
            f"raffinate purify {path} --method majority",
        ]
    for step in steps:
        out.print(f"  {step}", soft_wrap=True, markup=False)


PLACES = {
    "questions": "Parquet, by split",
    "responses": "Parquet, by teacher: every answer, failures included",
    "purified": "Parquet, by method: the rationale kept of each question",
    "rejected": "Parquet, by method: the other questions, with the reason",
    "raffinate.duckdb": "the same as tables and views, for SQL",
    "README.md": "the dataset card",
    "recipe.yaml": "what made it, secrets left out",
}
