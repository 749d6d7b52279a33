"""Files of questions in each format."""

import json
from pathlib import Path

import polars as pl


def save(frame: pl.DataFrame, file: Path) -> None:
    """Write rows in the format of the file's ending."""
    if file.suffix == ".csv":
        frame.with_columns(choices=pl.Series(map(_as_json, frame["choices"].to_list()), dtype=pl.String)).write_csv(
            file
        )
    elif file.suffix == ".jsonl":
        frame.write_ndjson(file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(frame.to_dicts(), indent=1))
    else:
        frame.write_parquet(file)


def _as_json(choices: object) -> str | None:
    return None if choices is None else json.dumps(choices)
