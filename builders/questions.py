"""Turn rows of any origin into the `questions` table, and refuse what cannot be one.

Rows come as a frame with our field names (those that the source has), and `FILE` and `ROW` for the messages. What
happens to them:

- **choices** may be a list of ``{label, text}``, a list of texts, an object of two lists (``label`` and ``text``), an
  object of labels and texts (``{"A": "cat", "B": "dog"}``), or JSON of these (CSV). Labels that are single letters are
  kept, in upper case; others (``1``..``4``, or none) become A, B, C, ...
- **answer** of a choice question is matched with the labels as they came, then with the option texts; an integer
  beside unlabelled options counts from 0. Of a number question it becomes canonical (`builders.read_answer`).
- **task**, where none is given: `choice` where there are choices; else `number` if all answers of the dataset are
  numbers, else `text`.
- **question_id**: made from a hash of dataset, question and choices where the source has none. Ids that repeat
  between datasets, though not within one, all become ``dataset/id``.
- **split**: see `SplitRule`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from builders.files import FILE, ROW, as_text, refuse_first, require, where
from builders.numbers import canonical_number
from schemas.errors import InputError, nearest
from schemas.tables import QUESTIONS, SPLITS, TASKS

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

ORIGINAL_ID, ORIGINAL_LABELS = "_original_id", "_original_labels"
"""Columns beside those of `QUESTIONS`: the id, and the labels of the options (null: none), as the source had them."""
DEFAULT_SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}

_TEXTS = ("question_id", "dataset", "split", "task", "question", "context", "answer", "domain")
_CANONICAL = r"^(?:0|-?[1-9]\d*|-?(?:0|[1-9]\d*)\.\d*[1-9])$"
_INT_ANSWER = "_int_answer"


@dataclass(frozen=True)
class Note:
    """Something the user should know about the input, which is no error."""

    kind: str
    message: str
    count: int


@dataclass(frozen=True)
class SplitRule:
    """How a question gets its split.

    ``by_hash`` (shares of train, validation and test) wins over the source's own column; ``fixed`` puts all in one;
    else the source's split is translated by ``names``. A source that has no split at all gets `DEFAULT_SHARES`.

    The hash is xxh64 of the question id with ``seed``, read as a fraction of 2**64, against the running sum of the
    shares: a question keeps its split whatever else is in the file.
    """

    by_hash: Mapping[str, float] | None = None
    fixed: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class Defaults:
    """What a row says where its source has no such column."""

    dataset: str
    task: str | None = None
    domain: str | None = None


def to_questions(rows: pl.DataFrame, defaults: Defaults, split: SplitRule) -> pl.DataFrame:
    """Return the rows as questions, with all columns of `QUESTIONS`, plus `FILE`, `ROW` and the two ``ORIGINAL_*``.

    Raises:
        InputError: a row is no question; names the file, the row and the field.
    """
    import polars as pl

    require(rows, {"question": "question"})
    known = rows.select(name for name in rows.columns if name in (*QUESTIONS.names, FILE, ROW))
    frame = _text_columns(known, defaults).with_row_index("_i")
    refuse_first(frame, pl.col("question").fill_null("").str.strip_chars() == "", "the question is empty")
    refuse_first(frame, ~pl.col("task").is_in(TASKS), "task '{task}' is not known: use one of " + ", ".join(TASKS))
    options = _labelled(frame, _long_choices(frame))
    frame = _with_task(frame, options)
    frame = _with_gold(frame, options)
    frame = _with_ids(frame.join(_nested(options), on="_i", how="left", maintain_order="left"))
    frame = frame.with_columns(pl.col("choices").fill_null([]))
    return _with_split(frame, split).select(*QUESTIONS.names, FILE, ROW, ORIGINAL_ID, ORIGINAL_LABELS)


def to_table(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    """Return the columns of ``frame`` that ``schema`` names as an Arrow table of exactly that schema."""
    table: pa.Table = frame.select(schema.names).to_arrow()
    return table.cast(schema)


def question_notes(questions: pa.Table | Iterable[pa.Table]) -> list[Note]:
    """Return what is worth knowing about questions: stems that repeat, questions without gold.

    Args:
        questions: a table, or its parts; of each part no more than a hash per question is kept.
    """
    import polars as pl

    stems, unlabelled = [], 0
    parts: Iterable[Any] = [questions] if hasattr(questions, "schema") else questions
    for part in parts:
        frame = pl.DataFrame(part.select(["dataset", "question", "answer"]))
        stems.append(frame.select(pl.struct("dataset", "question").hash()).to_series())
        unlabelled += frame["answer"].null_count()
    hashes = pl.concat(stems)
    repeated = hashes.len() - hashes.n_unique()
    notes = []
    if repeated:
        message = (
            "questions repeat the stem of another one of their dataset: match on stem and choices, never on the stem"
        )
        notes.append(Note("repeated-stem", f"{repeated} {message}", repeated))
    if unlabelled:
        notes.append(Note("unlabelled", f"{unlabelled} questions have no gold answer", unlabelled))
    return notes


def hash_split(question_ids: list[str], shares: Mapping[str, float], seed: int = 0) -> list[str]:
    """Return the split of each question id; see `SplitRule`.

    Raises:
        InputError: the shares name another split, are negative, or do not sum to 1.
    """
    import xxhash

    unknown = [name for name in shares if name not in SPLITS]
    if unknown or min(shares.values(), default=0) < 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise InputError(f"split_by_hash must give shares of {', '.join(SPLITS)} that sum to 1, not {dict(shares)}")
    names = [name for name in SPLITS if shares.get(name)]
    sums = [total * 2**64 for total in accumulate(shares[name] for name in names)][:-1]
    digest = xxhash.xxh64_intdigest
    return [names[bisect_right(sums, digest(i.encode(), seed))] for i in question_ids]


def _text_columns(rows: pl.DataFrame, defaults: Defaults) -> pl.DataFrame:
    """Add the columns that are missing and make all but the choices text."""
    import polars as pl

    missing = {name: pl.lit(None, dtype=pl.String) for name in (*_TEXTS, "choices") if name not in rows.columns}
    whole = rows.schema.get("answer", pl.String()).is_integer()
    frame = as_text(rows.with_columns(**missing), _TEXTS)
    answer = pl.col("answer").str.strip_chars()
    return frame.with_columns(
        pl.lit(whole).alias(_INT_ANSWER),
        pl.when(answer == "").then(None).otherwise(answer).alias("answer"),
        pl.col("dataset").fill_null(defaults.dataset),
        pl.col("task").fill_null(pl.lit(defaults.task, dtype=pl.String)),
        pl.col("domain").fill_null(pl.lit(defaults.domain, dtype=pl.String)),
    )


def _long_choices(frame: pl.DataFrame) -> pl.DataFrame:
    """Return one row per option: ``_i``, ``pos`` from 0, ``label`` (null: none) and ``text``."""
    import polars as pl

    column = pl.col("choices")
    kind = frame.schema["choices"]
    chosen = frame.select("_i", FILE, ROW, "choices")
    if kind == pl.String:
        chosen, kind = _from_json(chosen), pl.List(pl.Struct({"label": pl.String, "text": pl.String}))
    if isinstance(kind, pl.Struct):
        chosen = _of_lists(chosen, kind) if _holds_lists(kind) else _of_labels(chosen, kind)
    elif isinstance(kind, pl.List):
        chosen = chosen.filter(column.list.len() > 0).explode("choices")
        inner = kind.inner
        if isinstance(inner, pl.Struct):
            _need_label_and_text(chosen, [f.name for f in inner.fields])
            chosen = chosen.unnest("choices")
        else:
            chosen = chosen.with_columns(pl.lit(None, dtype=pl.String).alias("label"), column.alias("text"))
    elif kind != pl.Null:
        raise InputError(f"{frame[FILE][0]}: choices must be a list, not {kind}")
    else:
        chosen = chosen.clear().with_columns(label=pl.lit(None, dtype=pl.String), text=pl.lit(None, dtype=pl.String))
    for name in ("label", "text"):
        if chosen.schema[name].is_nested():
            refuse_first(chosen, pl.col(name).is_not_null(), f"the {name} of an option of choices must be a text")
    label = pl.col("label").cast(pl.String).str.strip_chars()
    return chosen.select(
        "_i", FILE, ROW, pl.int_range(pl.len()).over("_i").alias("pos"),
        pl.when(label == "").then(None).otherwise(label).alias("label"),
        pl.col("text").cast(pl.String).str.strip_chars(),
    )  # fmt: skip


def _holds_lists(kind: Any) -> bool:
    return {f.name for f in kind.fields} == {"label", "text"} or any(f.dtype.is_nested() for f in kind.fields)


def _of_labels(chosen: pl.DataFrame, kind: Any) -> pl.DataFrame:
    """Explode ``{A: ..., B: ...}``; a label that a row lacks is null in its frame."""
    import polars as pl

    def option(label: str) -> pl.Expr:
        text = pl.col("choices").struct.field(label).cast(pl.String)
        return pl.struct(pl.lit(label).alias("label"), text.alias("text"))

    options = chosen.with_columns(pl.concat_list([option(f.name) for f in kind.fields]).alias("choices"))
    return options.explode("choices").unnest("choices").filter(pl.col("text").is_not_null())


def _of_lists(chosen: pl.DataFrame, kind: Any) -> pl.DataFrame:
    """Explode ``{label: [...], text: [...]}``, the shape of the AI2 datasets."""
    import polars as pl

    _need_label_and_text(chosen, [f.name for f in kind.fields])
    if any(field.name in ("label", "text") and not isinstance(field.dtype, pl.List) for field in kind.fields):
        refuse_first(chosen, pl.col("choices").is_not_null(), "label and text of choices must be lists")
    parts = chosen.unnest("choices")
    refuse_first(
        parts,
        pl.col("label").list.len() != pl.col("text").list.len(),
        "choices have not as many labels as texts",
    )
    return parts.filter(pl.col("text").list.len() > 0).explode("label", "text")


def _need_label_and_text(chosen: pl.DataFrame, names: list[str]) -> None:
    for need in ("label", "text"):
        if need not in names:
            raise InputError(f"{chosen[FILE][0]}: choices have no field '{need}': they have {', '.join(names)}")


def _from_json(chosen: pl.DataFrame) -> pl.DataFrame:
    """Parse choices that are JSON texts, as in CSV."""
    import polars as pl

    lists = [_options(row) if (row["choices"] or "").strip() else [] for row in chosen.iter_rows(named=True)]
    dtype = pl.List(pl.Struct({"label": pl.String, "text": pl.String}))
    return chosen.with_columns(pl.Series("choices", lists, dtype=dtype))


def _options(row: dict[str, Any]) -> list[dict[str, Any]]:
    import orjson

    try:
        value = orjson.loads(row["choices"])
    except orjson.JSONDecodeError as error:
        raise InputError(f'{where(row)}: choices are not JSON: write them as ["first", "second"]') from error
    if isinstance(value, dict) and set(value) == {"label", "text"} and all(isinstance(v, list) for v in value.values()):
        value = [{"label": label, "text": text} for label, text in zip(value["label"], value["text"], strict=False)]
    elif isinstance(value, dict):
        value = [{"label": label, "text": text} for label, text in value.items() if text is not None]
    if not isinstance(value, list):
        raise InputError(f"{where(row)}: choices must be a list, not {value!r}")
    options = [o if isinstance(o, dict) else {"text": o} for o in value]
    for option in options:
        for name in ("label", "text"):
            if isinstance(option.get(name), dict | list):
                raise InputError(f"{where(row)}: the {name} of an option of choices must be a text")
    return [{name: None if o.get(name) is None else str(o[name]) for name in ("label", "text")} for o in options]


def _labelled(frame: pl.DataFrame, options: pl.DataFrame) -> pl.DataFrame:
    """Check the options, and add ``new``: the label kept if all of the row are single letters, else by position."""
    import polars as pl

    refuse_first(options, pl.col("text").fill_null("") == "", "option {pos} (from 0) of choices is empty")
    refuse_first(options, pl.col("pos") >= 26, "choices has more than 26 options")
    upper = pl.col("label").str.to_uppercase()
    clash = options.filter(pl.col("label").is_not_null() & pl.struct("_i", upper).is_duplicated()).head(1)
    refuse_first(clash, pl.lit(value=True), "label '{label}' of choices is used twice")
    letters = pl.col("label").str.contains(r"^[A-Za-z]$").fill_null(value=False).all().over("_i")
    by_position = pl.col("pos").replace_strict(list(range(26)), [chr(65 + p) for p in range(26)], default="")
    return options.with_columns(pl.when(letters).then(upper).otherwise(by_position).alias("new"))


def _with_task(frame: pl.DataFrame, options: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    frame = frame.with_columns(pl.col("_i").is_in(options["_i"].unique().implode()).alias("_has_choices"))
    refuse_first(frame, (pl.col("task") == "choice") & ~pl.col("_has_choices"), "task is choice but choices is empty")
    open_ended = frame.filter(~pl.col("_has_choices"))["answer"]
    canonical = _canonical(open_ended)
    frame = frame.with_columns(
        pl.when(pl.col("_has_choices")).then(None).otherwise(_replaced("answer", canonical)).alias("_number")
    )
    is_number = pl.col("_number").is_not_null() | pl.col("answer").is_null() | pl.col("_has_choices")
    some = (pl.col("_number").is_not_null()).any().over("dataset")
    inferred = (
        pl.when(pl.col("_has_choices")).then(pl.lit("choice"))
        .when(is_number.all().over("dataset") & some).then(pl.lit("number"))
        .otherwise(pl.lit("text"))
    )  # fmt: skip
    return frame.with_columns(pl.coalesce("task", inferred).alias("task"))


def _canonical(answers: pl.Series) -> dict[str, str | None]:
    """Return the canonical form of each answer that is not in it already."""
    rest = answers.drop_nulls().unique()
    return {text: canonical_number(text) for text in rest.filter(~rest.str.contains(_CANONICAL)).to_list()}


def _replaced(column: str, new: dict[str, str | None]) -> pl.Expr:
    import polars as pl

    if not new:
        return pl.col(column)
    return pl.col(column).replace_strict(list(new), list(new.values()), default=pl.col(column), return_dtype=pl.String)


def _with_gold(frame: pl.DataFrame, options: pl.DataFrame) -> pl.DataFrame:
    """Translate the gold answers: to the new label of a choice, to the canonical text of a number."""
    import polars as pl

    refuse_first(
        frame,
        (pl.col("task") == "number") & pl.col("answer").is_not_null() & pl.col("_number").is_null(),
        "the answer '{answer}' is not a number",
    )
    asked = frame.filter((pl.col("task") == "choice") & pl.col("answer").is_not_null())
    pairs = options.join(asked.select("_i", "answer", _INT_ANSWER), on="_i")
    label, answer = pl.coalesce("label", "new"), pl.col("answer")
    fit = (
        pl.when(pl.col(_INT_ANSWER) & pl.col("label").is_null()).then(
            pl.when(pl.col("pos").cast(pl.String) == answer).then(0)
        )
        .when(label == answer).then(1)
        .when(label.str.to_uppercase() == answer.str.to_uppercase()).then(2)
        .when(pl.col("text").str.to_lowercase() == answer.str.to_lowercase()).then(3)
    )  # fmt: skip
    fits = pairs.with_columns(fit.alias("fit")).filter(pl.col("fit").is_not_null())
    fits = fits.filter(pl.col("fit") == pl.col("fit").min().over("_i"))
    gold = fits.filter(pl.len().over("_i") == 1).select("_i", pl.col("new").alias("_gold"))
    frame = frame.join(gold, on="_i", how="left", maintain_order="left")
    refuse_first(
        frame,
        (pl.col("task") == "choice") & pl.col("answer").is_not_null() & pl.col("_gold").is_null(),
        "the answer '{answer}' is none of the choices",
    )
    gold_of = {"choice": pl.col("_gold"), "number": pl.col("_number"), "text": pl.col("answer")}
    chosen = pl.coalesce(*(pl.when(pl.col("task") == task).then(value) for task, value in gold_of.items()))
    return frame.with_columns(chosen.alias("answer")).drop("choices")


def _nested(options: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    pair = pl.struct(pl.col("new").alias("label"), "text")
    return options.group_by("_i", maintain_order=True).agg(
        pair.alias("choices"), pl.col("label").alias(ORIGINAL_LABELS)
    )


def _with_ids(frame: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    frame = frame.with_columns(pl.col("question_id").str.strip_chars().alias("question_id"))
    if frame["question_id"].null_count() == frame.height:
        frame = frame.with_columns(pl.Series("question_id", _made_ids(frame), dtype=pl.String))
    refuse_first(frame, pl.col("question_id").fill_null("") == "", "question_id is empty")
    key = pl.struct("dataset", "question_id")
    repeated = frame.filter(key.is_duplicated()).head(1)
    if repeated.height:
        first = repeated.to_dicts()[0]
        same = (pl.col("question_id") == first["question_id"]) & (pl.col("dataset") == first["dataset"])
        second = frame.filter(same).to_dicts()[1]
        raise InputError(
            f"question_id '{first['question_id']}' appears twice: {where(first)} and {where(second)}: "
            "ids must be unique"
        )
    frame = frame.with_columns(pl.col("question_id").alias(ORIGINAL_ID))
    if frame["question_id"].is_duplicated().any():
        frame = frame.with_columns(pl.concat_str("dataset", pl.lit("/"), "question_id").alias("question_id"))
    return frame


def _made_ids(frame: pl.DataFrame) -> list[str]:
    import xxhash

    texts = frame.select("dataset", "question", "choices").iter_rows()
    return [f"q{xxhash.xxh64_hexdigest(repr(row).encode())}" for row in texts]


def _with_split(frame: pl.DataFrame, rule: SplitRule) -> pl.DataFrame:
    import polars as pl

    shares = rule.by_hash
    if shares is None and rule.fixed is None and frame["split"].null_count() == frame.height:
        shares = DEFAULT_SHARES
    if shares is not None:
        return frame.with_columns(pl.Series("split", hash_split(frame["question_id"].to_list(), shares, rule.seed)))
    if rule.fixed is not None:
        return frame.with_columns(pl.lit(rule.fixed).alias("split"))
    found = frame["split"].unique().to_list()
    named = {name: rule.names.get(name, name) for name in found if name is not None}
    for name, ours in named.items():
        if ours not in SPLITS:
            row = frame.filter(pl.col("split") == name).to_dicts()[0]
            raise InputError(
                f"{where(row)}: split '{name}' is not known{nearest(name, SPLITS)}: map it, as in "
                f"`split: {{{name}: validation}}`, to one of {', '.join(SPLITS)}"
            )
    refuse_first(frame, pl.col("split").is_null(), "split is empty")
    return frame.with_columns(pl.col("split").replace(named))
