"""``python -m builders.sandbox``: serve the sandbox, or write questions for it to a Parquet file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from builders.sandbox.faults import Fault
from builders.sandbox.server import SandboxConfig
from builders.sandbox.serving import first_problem, load_list, serve
from builders.sandbox.teachers import TEACHERS, SandboxTeacher
from builders.sandbox.world import write_questions
from schemas.errors import InputError, RaffinateError


def main(argv: list[str] | None = None) -> int:
    """Run the command; a user's mistake is one line on stderr and exit code 1."""
    try:
        return run(**vars(_parser().parse_args(argv)))
    except RaffinateError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def run(
    *,
    faults: str | Path | None = None,
    teachers: str | Path | None = None,
    questions: int | None = None,
    out: str | Path = "questions.parquet",
    seed: int = 0,
    **options: Any,
) -> int:
    """Serve until stopped, or write ``questions`` questions to ``out``; return the exit code.

    Args:
        faults: YAML file with a list of faults.
        teachers: YAML file with a list of teachers.
        questions: how many questions to write, instead of serving.
        out: where to write them.
        seed: of the world, or of the questions.
        options: other fields of `SandboxConfig`.

    Raises:
        InputError: a file or an option is not what it must be, or the port is taken.
    """
    if questions is not None:
        write_questions(out, questions, seed)
        return 0
    try:
        config = SandboxConfig(
            teachers=load_list(teachers, SandboxTeacher) if teachers else TEACHERS,
            faults=load_list(faults, Fault) if faults else (),
            seed=seed,
            **options,
        )
    except ValidationError as error:
        raise InputError(first_problem(error)) from error
    return serve(config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m builders.sandbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="0 for any free port")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world, or of the questions")
    parser.add_argument("--teachers", metavar="FILE.yaml", help="a list of teachers, in place of the four shipped")
    parser.add_argument("--faults", metavar="FILE.yaml", help="a list of faults")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="mean time that a reply is held back")
    parser.add_argument("--batch-s", type=float, default=0.0, help="time that a batch takes, in seconds")
    parser.add_argument("--api-key", help="require this key")
    parser.add_argument("--questions", type=int, metavar="N", help="write N questions and exit")
    parser.add_argument("--out", default="questions.parquet", metavar="FILE.parquet", help="where to write them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
