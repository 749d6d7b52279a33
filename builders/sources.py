"""Questions from anywhere into the `questions` table: files, the Hugging Face Hub, presets, the sandbox.

`QuestionSource` is the `questions` section of a recipe. The rows that it names are made questions by
`builders.questions`, which says how choices, answers, tasks, ids and splits are understood.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from builders.files import FILE, ROW, find_files, read_file, read_files, require
from builders.presets import PRESETS, Preset
from builders.questions import Defaults, SplitRule, question_notes, to_questions, to_table
from schemas.errors import InputError, nearest
from schemas.tables import QUESTIONS, SPLITS

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

__all__ = ["QuestionSource", "SandboxQuestions", "load_questions", "question_notes"]

Split = Literal["train", "validation", "test"]


class SandboxQuestions(BaseModel):
    """Questions made by the sandbox: verifiable, any number of them, the same for the same seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int = Field(gt=0, description="How many questions.")
    seed: int = Field(0, description="Seed of the questions.")


class QuestionSource(BaseModel):
    """Where the questions come from: one of `path`, `hub`, `preset`, `sandbox`, or a preset with a local `path`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = Field(None, description="A Parquet, JSONL, JSON or CSV file, or a glob of such files.")
    hub: str | None = Field(None, description="A dataset id on the Hugging Face Hub, or a local dataset folder.")
    config: str | None = Field(None, description="The configuration (subset) of the Hub dataset.")
    revision: str | None = Field(None, description="The revision of the Hub dataset: a commit, tag or branch.")
    preset: str | None = Field(None, description="A question set known by name, with its Hub schema.")
    sandbox: SandboxQuestions | None = Field(None, description="Questions made by the sandbox.")

    columns: dict[str, str] = Field(
        default_factory=dict, description="Our field -> the source's column, where names differ."
    )
    task: Literal["choice", "number", "text"] | None = Field(
        None,
        description="Kind of the questions. Inferred if absent: `choice` where there are choices, else `number` if all "
        "gold answers are numbers, else `text`.",
    )
    dataset: str | None = Field(None, description="Name of the dataset; by default the preset's, Hub id's or file's.")
    domain: str | None = Field(None, description="Subject of all questions, where the source has no column for it.")
    split: Split | dict[str, Split] | None = Field(
        None, description="One split for all, or the source's split names -> ours (`{dev: validation}`)."
    )
    split_by_hash: dict[str, float] | None = Field(
        None,
        description="Shares of train, validation and test, summing to 1; a question's split is a hash of its id and "
        "`seed`. Wins over the source's own splits. A source without splits gets 0.7 / 0.1 / 0.2.",
    )
    seed: int = Field(0, description="Seed of the split by hash.")
    limit: int | None = Field(None, gt=0, description="At most so many questions of each split, the first ones.")

    @model_validator(mode="after")
    def _one_origin(self) -> QuestionSource:
        given = [k for k in ("path", "hub", "preset", "sandbox") if getattr(self, k) is not None]
        if len(given) != 1 and given != ["path", "preset"]:
            raise ValueError(f"give exactly one of path, hub, preset or sandbox, not {' and '.join(given) or 'none'}")
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(
                f"preset '{self.preset}' is not known{nearest(self.preset, PRESETS)}: {', '.join(PRESETS)}"
            )
        if self.columns and (self.preset or self.sandbox):
            raise ValueError("columns cannot be mapped for a preset or the sandbox: their columns are known")
        unknown = [k for k in self.columns if k not in QUESTIONS.names]
        if unknown:
            raise ValueError(f"columns has the unknown field '{unknown[0]}'{nearest(unknown[0], QUESTIONS.names)}")
        return self


def load_questions(source: QuestionSource, base_dir: Path) -> pa.Table:
    """Return the questions that ``source`` names, as a table of exactly ``QUESTIONS.arrow``.

    What is worth a remark, such as stems that repeat, is told by `question_notes`.

    Args:
        source: the `questions` section of a recipe.
        base_dir: the folder that relative paths start at, that of the recipe.

    Raises:
        InputError: a file, row or field is not what it must be; names it.
    """
    import polars as pl

    rows, name, shares = _rows(source, base_dir)
    defaults = Defaults(source.dataset or name, source.task, source.domain)
    frame = to_questions(rows, defaults, split_rule(source, shares))
    if source.limit:
        frame = frame.filter(pl.int_range(pl.len()).over("split") < source.limit)
    return to_table(frame, QUESTIONS.arrow)


def split_rule(source: QuestionSource, shares: Mapping[str, float] | None = None) -> SplitRule:
    """The source's rule of splits; ``shares`` are those of a set without usable splits."""
    shares = source.split_by_hash or (shares if source.split is None else None)
    names = source.split if isinstance(source.split, dict) else {}
    fixed = source.split if isinstance(source.split, str) else None
    return SplitRule(shares, fixed, names, source.seed)


def _rows(source: QuestionSource, base_dir: Path) -> tuple[pl.DataFrame, str, Mapping[str, float] | None]:
    """Return the rows with our field names, the dataset's name, and the shares of a set without usable splits."""
    if source.preset is not None:
        preset = PRESETS[source.preset]
        return _preset_rows(source, preset, base_dir), source.preset, preset.shares
    if source.hub is not None:
        rows = _stacked(_hub_frames(source.hub, source.config, source.revision, base_dir), source.hub)
        return renamed(rows, source.columns), source.hub.rstrip("/").rsplit("/", 1)[-1], None
    if source.sandbox is not None:
        return _sandbox_rows(source.sandbox), "sandbox", None
    path = str(source.path)
    return renamed(read_files(path, base_dir), source.columns), find_files(path, base_dir)[0].stem, None


def renamed(rows: pl.DataFrame, columns: Mapping[str, str]) -> pl.DataFrame:
    """Name the columns as our fields; a column of the source that is mapped elsewhere gives up our name."""
    import polars as pl

    require(rows, {"question": columns.get("question", "question"), **columns})
    fields = {name: columns.get(name, name) for name in QUESTIONS.names}
    taken = set(columns.values())
    kept = {f: c for f, c in fields.items() if c in rows.columns and (f in columns or c not in taken)}
    return rows.select([pl.col(column).alias(name) for name, column in kept.items()] + [FILE, ROW])


def _stacked(frames: Iterator[tuple[str, pl.DataFrame]], origin: str) -> pl.DataFrame:
    """Put the splits of a Hub dataset into one frame that remembers split and row."""
    import polars as pl

    parts = []
    for split, frame in frames:
        named = frame.with_columns(pl.lit(f"{origin} ({split})").alias(FILE)).with_row_index(ROW, offset=1)
        # A folder of one kind of file is one split called "train" to `datasets`; its own column knows better.
        parts.append(named if "split" in named.columns else named.with_columns(pl.lit(split).alias("split")))
    if not sum(part.height for part in parts):
        raise InputError(f"{origin} is empty: it must hold at least one row")
    return pl.concat(parts, how="diagonal_relaxed")


def _hub_frames(
    hub: str, config: str | None, revision: str | None, base_dir: Path
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield each split of a dataset of the Hub, or of a local folder, with its name."""
    import datasets

    local = base_dir / Path(hub).expanduser()
    origin = str(local) if local.is_dir() else hub
    try:
        found = datasets.load_dataset(origin, config, revision=None if local.is_dir() else revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"the dataset '{hub}' cannot be loaded (config {config}, revision {revision}): {reason}"
        ) from error
    for split, part in found.items():
        yield str(split), part.to_polars()


def _preset_rows(source: QuestionSource, preset: Preset, base_dir: Path) -> pl.DataFrame:
    import polars as pl

    questions: list[dict[str, Any]] = []
    for split, frame in _preset_frames(source, preset, base_dir):
        counts: dict[str, int] = {}
        for row in frame.iter_rows(named=True):
            origin = row.pop("split", None) or split
            index = counts.setdefault(origin, 0)
            counts[origin] += 1
            if question := _one(source, preset, row, origin, index):
                questions.append(question)
    if not questions:
        raise InputError(f"the preset '{source.preset}' found no question of its kind: is it the right file?")
    return pl.from_dicts(questions, infer_schema_length=None, strict=False)


def _one(source: QuestionSource, preset: Preset, row: dict[str, Any], split: str, index: int) -> dict[str, Any] | None:
    place = f"{row[FILE]}, row {row[ROW]}"
    try:
        question = preset.to_question(row, split, index)
    except KeyError as error:
        known = [c for c in row if c not in (FILE, ROW)]
        raise InputError(
            f"{place}: preset '{source.preset}' expects the schema of {preset.hub}: field '{error.args[0]}' is "
            f"missing{nearest(str(error.args[0]), known)}; it has {', '.join(known)}"
        ) from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"{place}: preset '{source.preset}' expects the schema of {preset.hub}: a field has another shape ({error})"
        ) from error
    return question and {"split": split, **question, FILE: row[FILE], ROW: row[ROW]}


def _preset_frames(source: QuestionSource, preset: Preset, base_dir: Path) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the rows of a preset split by split, in the Hub's schema, from local files or the Hub."""
    import polars as pl

    if source.path is not None and not (base_dir / source.path).is_dir():
        for path in find_files(source.path, base_dir):
            yield _split_of(path), read_file(path)
        return
    origin = preset.hub if source.path is None else source.path
    config = (source.config or preset.config) if source.path is None else source.config
    for split, frame in _hub_frames(origin, config, source.revision or preset.revision, base_dir):
        yield split, frame.with_columns(pl.lit(f"{origin} ({split})").alias(FILE)).with_row_index(ROW, offset=1)


def _split_of(path: Path) -> str:
    """Guess a file's split by its name (``test-00000-of-00001.parquet``); ``train`` if it names none."""
    words = {"dev": "validation", "val": "validation", **{s: s for s in SPLITS}}
    stem = path.stem.lower()
    return next((split for word, split in words.items() if word in stem), "train")


def _sandbox_rows(sandbox: SandboxQuestions) -> pl.DataFrame:
    import polars as pl

    made = importlib.import_module("builders.sandbox").questions(sandbox.n, sandbox.seed)
    frame = pl.from_dicts(made, infer_schema_length=None) if isinstance(made, list) else pl.DataFrame(made)
    return frame.with_columns(pl.lit("sandbox").alias(FILE)).with_row_index(ROW, offset=1)
