"""Questions from anywhere into the `questions` table: files, the Hugging Face Hub, presets, the sandbox.

`QuestionSource` is the `questions` section of a recipe. The rows that it names are made questions by
`builders.questions`, which says how choices, answers, tasks, ids and splits are understood.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
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
    domains: tuple[str, ...] | None = Field(None, description="Only these kinds of questions; see docs/sandbox.md.")


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
    return to_table(made_questions(source, base_dir, row_parts(source, base_dir)), QUESTIONS.arrow)


def made_questions(source: QuestionSource, base_dir: Path, rows: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """The questions of all rows, which come in parts."""
    import polars as pl

    whole = pl.concat(rows, how="diagonal_relaxed")
    return first_of_split(to_questions(whole, defaults(source, base_dir), split_rule(source)), source.limit, Counter())


def defaults(source: QuestionSource, base_dir: Path) -> Defaults:
    """What a row says where it has no such column."""
    if source.hub is not None:
        name = source.hub.rstrip("/").rsplit("/", 1)[-1]
    else:
        name = source.preset or ("sandbox" if source.path is None else find_files(source.path, base_dir)[0].stem)
    return Defaults(source.dataset or name, source.task, source.domain)


def first_of_split(questions: pl.DataFrame, limit: int | None, before: Counter[str]) -> pl.DataFrame:
    """The first ``limit`` questions of each split, after those that came ``before``, which are counted on."""
    import polars as pl

    if limit is None:
        return questions
    already = pl.col("split").replace_strict({split: before[split] for split in SPLITS}, return_dtype=pl.Int64)
    kept = questions.filter(already + pl.int_range(pl.len()).over("split") < limit)
    before.update(kept["split"].to_list())
    return kept


def split_rule(source: QuestionSource) -> SplitRule:
    """The source's rule of splits; that of a preset whose set has no usable ones, where it has none."""
    preset = PRESETS[source.preset].shares if source.preset and source.split is None else None
    names = source.split if isinstance(source.split, dict) else {}
    fixed = source.split if isinstance(source.split, str) else None
    return SplitRule(source.split_by_hash or preset, fixed, names, source.seed)


def row_parts(source: QuestionSource, base_dir: Path, rows: int | None = None) -> Iterator[pl.DataFrame]:
    """Yield the rows with our field names, and `FILE` and `ROW`.

    Args:
        source: where they come from.
        base_dir: the folder that relative paths start at.
        rows: most in a part of a dataset of the Hub; None = a split is a part. Files and the sandbox come whole.
    """
    if source.preset is not None:
        yield from preset_parts(source, _preset_frames(source, PRESETS[source.preset], base_dir, rows))
    elif source.hub is not None:
        for split, frame in _hub_frames(source.hub, source.config, source.revision, base_dir, rows):
            yield renamed(_with_split(frame, split), source.columns)
    elif source.sandbox is not None:
        yield _sandbox_rows(source.sandbox)
    else:
        yield renamed(read_files(str(source.path), base_dir), source.columns)


def renamed(rows: pl.DataFrame, columns: Mapping[str, str]) -> pl.DataFrame:
    """Name the columns as our fields; a column of the source that is mapped elsewhere gives up our name."""
    import polars as pl

    require(rows, {"question": columns.get("question", "question"), **columns})
    fields = {name: columns.get(name, name) for name in QUESTIONS.names}
    taken = set(columns.values())
    kept = {f: c for f, c in fields.items() if c in rows.columns and (f in columns or c not in taken)}
    return rows.select([pl.col(column).alias(name) for name, column in kept.items()] + [FILE, ROW])


def _with_split(frame: pl.DataFrame, split: str) -> pl.DataFrame:
    """A folder of one kind of file is one split called "train" to `datasets`; its own column knows better."""
    import polars as pl

    return frame if "split" in frame.columns else frame.with_columns(pl.lit(split).alias("split"))


def _hub_frames(
    hub: str, config: str | None, revision: str | None, base_dir: Path, rows: int | None
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield each split of a dataset of the Hub, or of a local folder, with its name, in parts of so many rows."""
    import datasets
    import polars as pl

    local = base_dir / Path(hub).expanduser()
    origin = str(local) if local.is_dir() else hub
    try:
        found = datasets.load_dataset(origin, config, revision=None if local.is_dir() else revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"the dataset '{hub}' cannot be loaded (config {config}, revision {revision}): {reason}"
        ) from error
    if not sum(found.num_rows.values()):
        raise InputError(f"{hub} is empty: it must hold at least one row")
    for split, part in found.items():
        done = 0
        for frame in part.to_polars(batch_size=rows or max(1, len(part)), batched=True):
            place = pl.lit(f"{hub} ({split})").alias(FILE)
            yield str(split), frame.with_columns(place).with_row_index(ROW, offset=done + 1)
            done += frame.height


def preset_parts(source: QuestionSource, frames: Iterable[tuple[str, pl.DataFrame]]) -> Iterator[pl.DataFrame]:
    """Turn the rows of a preset, in the Hub's schema and with the split they are from, into questions part by part."""
    import polars as pl

    counts = Counter[str]()
    found = False
    for split, frame in frames:
        questions: list[dict[str, Any]] = []
        for row in frame.iter_rows(named=True):
            origin = row.pop("split", None) or split
            if question := _one(source, row, origin, counts[origin]):
                questions.append(question)
            counts[origin] += 1
        if questions:
            found = True
            yield pl.from_dicts(questions, infer_schema_length=None, strict=False)
    if not found:
        raise InputError(f"the preset '{source.preset}' found no question of its kind: is it the right file?")


def _one(source: QuestionSource, row: dict[str, Any], split: str, index: int) -> dict[str, Any] | None:
    place, preset = f"{row[FILE]}, row {row[ROW]}", PRESETS[str(source.preset)]
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


def local_files(source: QuestionSource, base_dir: Path) -> list[Path]:
    """The files that the source names; none where it names a dataset of the Hub, or a folder that is like one."""
    if source.path is None or (source.preset and (base_dir / source.path).is_dir()):
        return []
    return find_files(source.path, base_dir)


def _preset_frames(
    source: QuestionSource, preset: Preset, base_dir: Path, rows: int | None
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the rows of a preset split by split, in the Hub's schema, from local files or the Hub."""
    if files := local_files(source, base_dir):
        yield from ((split_of(path), read_file(path)) for path in files)
        return
    origin = preset.hub if source.path is None else source.path
    config = (source.config or preset.config) if source.path is None else source.config
    yield from _hub_frames(origin, config, source.revision or preset.revision, base_dir, rows)


def split_of(path: Path) -> str:
    """Guess a file's split by its name (``test-00000-of-00001.parquet``); ``train`` if it names none."""
    words = {"dev": "validation", "val": "validation", **{s: s for s in SPLITS}}
    stem = path.stem.lower()
    return next((split for word, split in words.items() if word in stem), "train")


def _sandbox_rows(sandbox: SandboxQuestions) -> pl.DataFrame:
    import polars as pl

    made = importlib.import_module("builders.sandbox").questions(sandbox.n, sandbox.seed, sandbox.domains)
    frame = pl.from_dicts(made, infer_schema_length=None) if isinstance(made, list) else pl.DataFrame(made)
    return frame.with_columns(pl.lit("sandbox").alias(FILE)).with_row_index(ROW, offset=1)
