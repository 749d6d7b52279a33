"""Compare what the teachers say with what was kept, with Polars. Lazy: only the columns in use are read.

python examples/consumers/with_polars.py FOLDER
"""

from __future__ import annotations

import sys

import polars as pl


def kept_of(folder: str) -> pl.DataFrame:
    """Share of right answers among all responses and among the rationales that each method kept."""
    questions = pl.scan_parquet(f"{folder}/questions/*.parquet").select("question_id", "answer")
    responses = pl.scan_parquet(f"{folder}/responses/*/*.parquet").select(
        pl.lit("all responses").alias("method"), "question_id", "predicted_answer"
    )
    purified = pl.scan_parquet(f"{folder}/purified/*/*.parquet").select("method", "question_id", "predicted_answer")
    right = (pl.col("predicted_answer") == pl.col("answer")).fill_null(False)
    return (
        pl.concat([responses, purified])
        .join(questions.filter(pl.col("answer").is_not_null()), on="question_id")
        .group_by("method")
        .agg(pl.len().alias("rows"), right.mean().alias("right"))
        .sort("method")
        .collect()
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/consumers/with_polars.py FOLDER")
    print(kept_of(sys.argv[1]))
