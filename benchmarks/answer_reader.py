"""Score the answer reader on real teachers' texts: share read, agreement with the answers on file, speed.

    python benchmarks/answer_reader.py [--data ../shared/data] [--json reader.json] [--show 5]

The answers on file were read by the authors of each corpus, often from more than the text that is left (one that cut
the closing "So the answer is (b)" still has its label); so the agreement counts only rows that both sides read.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import polars as pl

from builders.read_answer import read_answer, same_answer

COLUMNS = ("dataset", "teacher", "n", "theirs", "ours", "both", "agreement", "per_second")


def score(rows: list[dict[str, Any]], show: int) -> dict[str, Any]:
    """Read the rows of one dataset and teacher, and compare with the answers on file."""
    tasks = ["choice" if row["choices"] else "number" for row in rows]
    start = time.process_time()
    answers = [read_answer(row["rationale"] or "", task, row["choices"]) for row, task in zip(rows, tasks, strict=True)]
    seconds = time.process_time() - start
    both = agree = 0
    for row, task, answer in zip(rows, tasks, answers, strict=True):
        theirs, ours = row["predicted_answer"], answer.value
        if theirs is None or ours is None:
            continue
        both += 1
        agree += same_answer(ours, theirs, task)
        if show and not same_answer(ours, theirs, task):
            show -= 1
            print(f"  {row['question_id']}: on file {theirs}, read {ours} of ...{(row['rationale'] or '')[-200:]!r}")
    return {
        "n": len(rows),
        "theirs": sum(row["predicted_answer"] is not None for row in rows) / len(rows),
        "ours": sum(a.value is not None for a in answers) / len(rows),
        "both": both,
        "agreement": agree / both if both else None,
        "per_second": round(len(rows) / seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RAFFINATE_DATA", "../shared/data")))
    parser.add_argument("--datasets", default="mmlu_pro,svamp,commonsense_qa,strategyqa,med_qa,medmc_qa,gsm8k")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--show", type=int, default=0, help="disagreements to print of each dataset and teacher")
    args = parser.parse_args()
    questions = pl.read_parquet(args.data / "questions.parquet").select("dataset", "question_id", "choices")
    responses = pl.read_parquet(args.data / "responses.parquet").filter(
        pl.col("dataset").is_in(args.datasets.split(",")), pl.col("teacher") != "human"
    )
    joined = responses.join(questions, on=["dataset", "question_id"])
    table = []
    print(f"{'dataset':15} {'teacher':26} {'n':>6} {'theirs':>7} {'ours':>7} {'both':>6} {'agree':>7} {'texts/s':>8}")
    for (dataset, teacher), group in joined.sort("dataset", "teacher").group_by(
        "dataset", "teacher", maintain_order=True
    ):
        row = {"dataset": dataset, "teacher": teacher, **score(group.to_dicts(), args.show)}
        table.append(row)
        agreement = "-" if row["agreement"] is None else f"{row['agreement']:.4f}"
        print(
            f"{row['dataset']:15} {row['teacher']:26} {row['n']:6} {row['theirs']:7.3f} {row['ours']:7.3f} "
            f"{row['both']:6} {agreement:>7} {row['per_second']:8}"
        )
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
