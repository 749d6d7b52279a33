"""Remembers what a teacher's rows were made from, so that rows that would come out the same are not made again.

A note per teacher, ``.raffinate/written/<teacher>.json``, holds a fingerprint of all that goes into the rows
(questions, prompt, teacher, token limits by retry, journal, and the code that reads replies, math-verify's version
included), the counts, and the files written.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import xxhash

from builders.rows import TeacherRows
from schemas.workspace import question_files

if TYPE_CHECKING:
    from builders.journal import Journal
    from builders.requests import Plan
    from schemas.workspace import Workspace

_CODE = (
    *("follow_up.py", "latex_worker.py", "numbers.py", "prompt.py", "read_answer.py", "reply.py"),
    *("requests.py", "rows.py", "structured.py", "template.py"),
)


class Written:
    """The notes of a workspace, as it is when this is made: make another after the questions or the journal change."""

    def __init__(self, workspace: Workspace, journal: Journal) -> None:
        self._workspace = workspace
        self._given = [_code(), str(workspace.path), _questions(workspace), str(journal.path), journal.state()]

    def find(self, plan: Plan) -> TeacherRows | None:
        """Counts of the rows on disk; None where they are not what the plan gives now."""
        try:
            note = orjson.loads(self._file(plan).read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return None
        if note["made_of"] != self._fingerprint(plan) or note["files"] != self._files(plan):
            return None
        statuses, errors, messages, unfinished = note["counts"]
        return TeacherRows(plan.teacher.id, Counter(statuses), Counter(errors), Counter(messages), unfinished)

    def keep(self, plan: Plan, rows: TeacherRows) -> None:
        """Remember the rows that were just written."""
        counts = [rows.statuses, rows.errors, rows.messages, rows.unfinished]
        note = {"made_of": self._fingerprint(plan), "files": self._files(plan), "counts": counts}
        file = self._file(plan)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(orjson.dumps(note))

    def _file(self, plan: Plan) -> Path:
        return self._workspace.private / "written" / f"{plan.teacher.id}.json"

    def _fingerprint(self, plan: Plan) -> str:
        prompt = plan.prompt
        made_of = [
            *self._given,
            plan.teacher.model_dump(mode="json"),
            [prompt.name, prompt.source, prompt.examples, prompt.shots],
            sorted(plan.overrides.items()),
            xxhash.xxh3_128_hexdigest(plan.marks) if plan.marks is not None else None,
        ]
        return xxhash.xxh3_128_hexdigest(orjson.dumps(made_of))

    def _files(self, plan: Plan) -> list[list[object]]:
        files = sorted(self._workspace.responses_dir(plan.teacher.id).glob("*.parquet"))
        return [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]


def _questions(workspace: Workspace) -> list[str]:
    """A hash of each file: a recipe writes its questions anew each time, mostly the same."""
    return [_hash(file) for file in question_files(workspace.questions_dir)]


@cache
def _code() -> list[str]:
    return [version("math-verify"), *(_hash(Path(__file__).parent / name) for name in _CODE)]


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return f"{file.name} {hashlib.file_digest(opened, xxhash.xxh3_128).hexdigest()}"
