"""Ray Data's HTTP processor and ``--engine ray`` on the same requests and the same faults, against the sandbox.

    python -m benchmarks.ray_http [--questions 500]

Each case is one run on a local Ray: what came of the rows, how many requests the server saw, how long it took.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import orjson

from builders.ask import Settings
from builders.build import build
from builders.prompt import Prompt
from builders.requests import Plan
from builders.sandbox import Fault, SandboxServer, questions
from builders.teacher import Teacher
from schemas.workspace import Workspace

CASES: dict[str, dict[str, Any]] = {
    "no faults, replies after 100 ms": {"latency_ms": 100},
    "10 % 429 with Retry-After 1": {"faults": [Fault(kind="rate_limit", share=0.1)]},
    "10 % 500": {"faults": [Fault(kind="server_error", share=0.1)]},
    "1 % malformed bodies": {"faults": [Fault(kind="malformed", share=0.01)]},
    "the server refuses the key": {"api_key": "k"},
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--questions", type=int, default=500)
    n = parser.parse_args().questions
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False
    print("| case | way | rows with a reply | other | requests | seconds |\n|---|---|---:|---|---:|---:|")
    for case, config in CASES.items():
        for way, ask in (("ray.data.llm", by_processor), ("--engine ray", by_engine)):
            with tempfile.TemporaryDirectory() as folder, SandboxServer(**config) as server:
                workspace = Workspace.create(Path(folder) / "ws")
                with workspace.lock():
                    workspace.write_questions(questions(n))
                started = time.perf_counter()
                ok, other = ask(workspace, Teacher(id="ada", model="sandbox/ada", base_url=server.url))
                seconds = time.perf_counter() - started
                seen = sum(t["received"] for t in server.stats()["teachers"].values())
            print(f"| {case} | {way} | {ok} | {other or ''} | {seen} | {seconds:.1f} |", flush=True)
    ray.shutdown()


def by_processor(workspace: Workspace, teacher: Teacher) -> tuple[int, str]:
    """Ray's own way, with retries on and as many actors as our engine has workers."""
    import ray
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    config = HttpRequestProcessorConfig(
        url=f"{teacher.base_url[0]}/chat/completions", max_retries=5, concurrency=2, batch_size=64
    )
    process = build_processor(
        config,
        preprocess=lambda row: {"payload": orjson.loads(row["body"])},
        postprocess=lambda row: {"reply": orjson.dumps(row["http_response"])},
    )
    bodies = [{"body": r.body} for _, batch in Plan(workspace, teacher, Prompt.load("free")).batches() for r in batch]
    try:
        replies = [orjson.loads(row["reply"]) for row in process(ray.data.from_items(bodies)).take_all()]
    except Exception as error:  # whatever ends the job is the result
        cause = str(error).strip().splitlines()[-1][:90] or type(error).__name__
        return 0, f"the job failed: {cause}"
    kinds = Counter("reply" if "choices" in reply else "an error's body, taken for a reply" for reply in replies)
    ok = kinds.pop("reply", 0)
    return ok, ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def by_engine(workspace: Workspace, teacher: Teacher) -> tuple[int, str]:
    summary = build(workspace, [teacher], Prompt.load("free"), Settings(engine="ray", workers=2))
    statuses, errors = summary.rows[0].statuses, summary.rows[0].errors
    return statuses["ok"], ", ".join(f"{count} failed: {kind}" for kind, count in errors.items())


if __name__ == "__main__":
    main()
