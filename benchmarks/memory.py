"""Peak memory of `raffinate build` as questions grow: four teachers, the whole command, a lean server beside it.

    python -m benchmarks.memory [--questions 62500 250000 1000000] [--asked 0.05] [--teachers 4] [--json]
    python -m benchmarks.memory --reading jsonl     reading the questions alone, by  raffinate estimate ; or
                                                    csv, parquet, json, hub (a dataset folder), preset
    python -m benchmarks.memory --reading chat      raffinate import  of as many conversations

Per size: a Parquet file of questions (400 characters, four choices), a journal that holds all answers but the share
`--asked`, then ``raffinate build`` as a user runs it: read the questions, plan, ask what is missing, commit, write the
rows of every teacher, views, card; then the same again with nothing to ask. ``--asked 1`` asks everything. Memory is
that of the process, from /proc: `peak` is the kernel's high-water mark of all resident pages, `anonymous` (sampled)
leaves out pages of files, which the kernel takes back when it wants to.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import yaml

from benchmarks.lean_server import BODY
from builders.build import _plans
from builders.journal import Answered, Journal, own_file
from builders.prompt import Prompt
from raffinate.run import open_project
from schemas.workspace import Workspace

FORMATS = {"parquet": "parquet", "jsonl": "json", "csv": "csv", "json": "json, ARRAY true"}
"""As files are called, and as DuckDB calls them."""
READING = (*FORMATS, "hub", "preset", "chat")

CHOICES = "[{'label': 'A', 'text': 'north'}, {'label': 'B', 'text': 'east'}, {'label': 'C', 'text': 'south'}]"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--questions", type=int, nargs="+", default=[62_500, 250_000, 1_000_000])
    parser.add_argument("--teachers", type=int, default=4)
    parser.add_argument("--asked", type=float, default=0.05, help="share of the requests that the journal lacks")
    parser.add_argument("--reading", choices=READING, help="read what comes in this way, and ask nothing")
    parser.add_argument("--folder", help="where to work; needs about 7 kB a question")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    server = subprocess.Popen(
        [sys.executable, Path(__file__).parent / "lean_server.py", "--latency-ms", "20"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        url = server.stdout.readline().strip()
        for n in asked.questions:
            with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
                if asked.reading:
                    figures = read(Path(folder), url, n, asked.reading)
                else:
                    figures = measure(Path(folder), url, n, asked.teachers, asked.asked)
            print(json.dumps(figures) if asked.json else "  ".join(f"{k} {v}" for k, v in figures.items()), flush=True)
    finally:
        server.kill()


def measure(folder: Path, url: str, n: int, teachers: int, share: float) -> dict[str, float]:
    recipe = write_recipe(folder, url, n, teachers, "parquet")
    fill(recipe, share)
    first, again = (watched(["build", str(recipe)]) for _ in range(2))
    journal = own_file(Workspace.open(folder / "ws")).stat().st_size
    rows = sum(f.stat().st_size for f in (folder / "ws" / "responses").rglob("*.parquet"))
    return {
        "questions": n,
        "rows": n * teachers,
        **{f"build_{k}": v for k, v in first.items()},
        **{f"again_{k}": v for k, v in again.items()},
        "journal_bytes_per_row": round(journal / (n * teachers)),
        "parquet_bytes_per_row": round(rows / (n * teachers)),
    }


def read(folder: Path, url: str, n: int, form: str) -> dict[str, float]:
    """Peak memory of reading questions into a workspace, and of counting what one teacher would be asked.

    With ``chat`` of taking over an answer to each.
    """
    if form == "chat":
        file = write_questions(folder, n, "parquet")
        said = "[{role: 'user', content: question}, {role: 'assistant', content: question || ' The answer is (A).'}]"
        rows = f"SELECT question_id, 'm' AS model, {said} AS messages FROM '{file}'"
        duckdb.sql(f"COPY ({rows}) TO '{folder / 'chat.jsonl'}' (FORMAT json)")
        command = ["import", folder / "ws", "--questions", file, "--responses", folder / "chat.jsonl", "--tool", "chat"]
        return {"questions": n, **watched([*map(str, command)])}
    return {"questions": n, **watched(["estimate", str(write_recipe(folder, url, n, 1, form))])}


def write_recipe(folder: Path, url: str, n: int, teachers: int, form: str) -> Path:
    """A recipe beside its questions."""
    asked = [{"id": f"t{i}", "model": f"m{i}", "base_url": url} for i in range(teachers)]
    recipe = folder / "recipe.yaml"
    file = write_questions(folder, n, form)
    ways = {"hub": {"hub": file.parent.name}, "preset": {"preset": "gsm8k", "path": file.name}}
    questions = ways.get(form, {"path": file.name})
    recipe.write_text(yaml.safe_dump({"workspace": "ws", "questions": questions, "teachers": asked}))
    return recipe


def write_questions(folder: Path, n: int, form: str) -> Path:
    """A file of distinct questions of some 400 characters."""
    text = "repeat(md5(i::VARCHAR) || ' which way does the river run? ', 6) || i"
    choices = f"to_json({CHOICES})" if form == "csv" else CHOICES
    columns = f"'q' || i AS question_id, {text} AS question, {choices} AS choices, 'A' AS answer, 'train' AS split"
    if form == "preset":
        columns = f"{text} AS question, 'So it is. #### ' || i AS answer"
    end = form if form in FORMATS else "parquet"
    file = folder / ("data" if form == "hub" else "") / f"train.{end}"
    file.parent.mkdir(exist_ok=True)
    duckdb.sql(f"COPY (SELECT {columns} FROM range({n}) r(i)) TO '{file}' (FORMAT {FORMATS[end]})")
    return file


def fill(recipe: Path, share: float) -> None:
    """Put answers in the journal for all requests but a share, spread evenly."""
    project = open_project(recipe, create=True)
    every = round(1 / share)
    with Journal(own_file(project.workspace)) as journal:
        for plan in _plans(project.workspace, project.recipe.teachers, Prompt.load("free"), journal, None):
            hashes = (request.hash for _, batch in plan.batches() for request in batch)
            kept = (h for i, h in enumerate(hashes) if i % every)
            journal.keep_all(Answered(h, "ok", BODY, 1, 20.0, 100, 120, 0) for h in kept)


def watched(command: list[str]) -> dict[str, float]:
    """Run raffinate and watch its memory; what `datasets` keeps of a dataset is not kept."""
    command = [sys.executable, "-m", "raffinate", *command, "--json"]
    with tempfile.TemporaryDirectory() as cache:
        return _watched(command, os.environ | {"HF_DATASETS_CACHE": cache})


def _watched(command: list[str], env: dict[str, str]) -> dict[str, float]:
    started, anonymous, peak = time.perf_counter(), 0, 0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
    while process.poll() is None:
        memory = memory_of(process.pid)
        anonymous, peak = max(anonymous, memory.get("RssAnon", 0)), max(peak, memory.get("VmHWM", 0))
        time.sleep(0.1)
    summary = json.loads(process.stdout.read())
    assert process.returncode == 0, summary
    return {
        "peak_mb": round(peak / 1024),
        "anonymous_mb": round(anonymous / 1024),
        "seconds": round(time.perf_counter() - started, 1),
    }


def memory_of(pid: int) -> dict[str, int]:
    """Figures of /proc/PID/status (KiB); none once the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines) if "kB" in value}


if __name__ == "__main__":
    main()
