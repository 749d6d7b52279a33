"""The report: one HTML file to look at a workspace, that needs no network, no server and no other file.

Figures are HTML tables with bars and shades, calibration and students small SVGs, all made here by the template: they
are there without JavaScript, are read by screen readers, print, and follow light and dark. A chart library (Vega-Lite)
would add 0.8 MB to each file, needs ``eval`` or an interpreter for it, and draws on a canvas that no keyboard enters.
JavaScript serves the list of questions alone (`report.js`).

What text can do: nothing. The template escapes, the data is base64 (`cards.report_data`), the script makes text nodes
only, and the page's own policy lets no other script, style, image or connection in.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from dataclasses import replace
from math import floor, isnan, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import orjson

from cards.card import number, percent
from cards.facts import best_method, facts_of
from cards.markdown import plain
from cards.report_data import MOST_LISTED, Packed, choices_of, number_questions, pack
from cards.report_stats import overview
from cards.report_students import MOST_GROUPS, MOST_PANELS, students
from schemas.corpus import Corpus
from schemas.database import connect
from schemas.tables import KEEP_ALL, SPLITS
from schemas.workspace import told_disk_errors

if TYPE_CHECKING:
    import jinja2

    from cards.facts import Facts
    from schemas.workspace import Workspace

NAME = "report.html"
HERE = Path(__file__).parent
MEMORY = "1GB"


def write_report(workspace: Workspace, out: Path | None = None) -> Path:
    """Write the report of a workspace and return its path.

    The same data gives the same bytes.

    Args:
        workspace: must have questions and responses.
        out: the file to write; by default ``report.html`` in the workspace; it is not part of what is published.

    Raises:
        WorkspaceError: there are no responses yet, or the file cannot be written.
    """
    path = out or workspace.path / NAME
    text = render(workspace)
    with told_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_text(text, encoding="utf-8", newline="\n")
        fresh.replace(path)
    return path


def render(workspace: Workspace) -> str:
    """The page."""
    facts = _of_choices(facts_of(workspace))
    corpus = Corpus.of(workspace)
    con = connect(workspace, memory=MEMORY)
    number_questions(con, corpus)
    choices = choices_of(con, corpus, [row["method"] for row in facts.methods])
    packed = pack(con, corpus, choices)
    style, script = ((HERE / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return _template().render(
        name=plain(workspace.path.name),
        facts=facts,
        teachers=corpus.teachers,
        splits=[split for split in SPLITS if facts.of_split(split)],
        packed=packed,
        most_listed=MOST_LISTED,
        head=as_json(_head(workspace, corpus, facts, packed)),
        style=style,
        script=script,
        policy=_policy(style, script),
        students=students(con),
        most_groups=MOST_GROUPS,
        most_panels=MOST_PANELS,
        keep_all=KEEP_ALL,
        **overview(con, corpus, facts, choices),
    )


def _of_choices(facts: Facts) -> Facts:
    """Without `keep-all`: the page shows the one rationale that a method kept of a question."""
    methods, rejections, shares = (
        [row for row in rows if row["method"] != KEEP_ALL] for rows in (facts.methods, facts.rejections, facts.shares)
    )
    return replace(facts, methods=methods, rejections=rejections, shares=shares)


def _head(workspace: Workspace, corpus: Corpus, facts: Facts, packed: Packed) -> dict[str, Any]:
    """What the script needs to know before it decodes the columns."""
    return {
        "teachers": corpus.teachers,
        "methods": [row["method"] for row in facts.methods],
        "method": best_method(facts.methods),
        "splits": SPLITS,
        "chunks": len(packed.chunks),
        "workspace": shlex.quote(workspace.path.name),
    }


def as_json(value: Any) -> str:
    """JSON that can stand in a script element: it cannot end it, open a comment, or break a line where JSON may not."""
    text = orjson.dumps(value).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _policy(style: str, script: str) -> str:
    """Content Security Policy: this style and this script, by their hashes, and nothing else from anywhere."""
    allowed = {"script-src": _source(script), "style-src": _source(style), "img-src": "data:"}
    closed = {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'"}
    return "; ".join(f"{key} {value}" for key, value in {**closed, **allowed}.items())


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "number": number, "usd": usd, "plain": plain, "shade": shade}
    environment.globals |= {"where": where}
    return environment.from_string((HERE / "report.html.jinja").read_text(encoding="utf-8"))


def where(**filters: str) -> str:
    """A link to the questions that pass these filters; the names are those of `report.js`."""
    return "#" + urlencode({"view": "questions", **filters})


def shade(share: Any, low: float = 0.0, high: float = 1.0) -> str:
    """The class of a cell's background: ``s0`` (none) at ``low`` or below, ``s10`` (strong) at ``high`` or above."""
    value = share.value if hasattr(share, "value") else share
    if value is None or isnan(value) or high <= low:
        return "s0"
    return f"s{round(10 * min(1.0, max(0.0, (value - low) / (high - low))))}"


def usd(value: float | None) -> str:
    """``$1,234.50``, or ``$0.0731`` with three significant digits below a dollar; an em dash where it is unknown."""
    if value is None:
        return "—"
    digits = 2 if value >= 1 or value == 0 else 2 - floor(log10(value))
    return f"${value:,.{digits}f}"
