"""Take over a corpus of answers that somebody else collected, so that it can be purified without asking anybody.

Two files (Parquet, JSONL, JSON or CSV; globs too): the questions, understood as by `builders.questions`, and the
responses, one row per question, teacher and sample. A response needs ``question_id``, ``teacher_id`` (or ``teacher``)
and ``rationale`` (or ``raw_text``); it may have ``dataset``, ``predicted_answer``, ``is_correct``, ``source`` and any
other field of `RESPONSES`, so a file that raffinate wrote is taken as it is. Responses that other tools left are
understood, too; see `builders.import_formats`.

- A response belongs to the question of the same ``dataset`` and id; where it or the questions name no dataset, of the
  same id. Where the ids of the questions repeat between datasets, the ids of both tables become ``dataset/id``.
- ``predicted_answer`` is made canonical: of a choice it may be a label (``B``, ``(B)``), an option's text, or the index
  from 0 of an option without label. Where the file has no such column, the answer is read from the text. What is no
  answer to its question (a label that is no choice) counts as unread.
- ``is_correct`` is computed anew from the gold answer, and differences from the file's own are reported.
- ``rationale`` loses its final answer line where the line says the ``predicted_answer``; ``raw_text`` keeps all.
- A blank rationale makes the row ``failed`` with ``error_class`` "empty"; its answer, where the file has one, is kept.
- A teacher of a dataset that has neither answers nor ``is_correct`` in a file with both columns was probably shown the
  gold answer; so was a teacher named in ``gold_shown``: such rows get ``gold_shown`` and no ``is_correct``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builders.files import FILE, ROW, as_text, find_files, read_files, refuse_first, require, where
from builders.import_formats import Layout, read_foreign
from builders.numbers import canonical_number
from builders.questions import (
    ORIGINAL_ID,
    ORIGINAL_LABELS,
    Defaults,
    Note,
    SplitRule,
    question_notes,
    to_questions,
    to_table,
)
from builders.read_answer import grade, read_answer, same_answer
from schemas.errors import InputError, nearest
from schemas.tables import QUESTIONS, RESPONSES, STATUSES

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

_TRUTHS = {"true": True, "false": False, "1": True, "0": False}
_AROUND_LABEL = "()[]{}.:*_`\"' "
_KEY = ("question_id", "teacher_id", "sample_idx")


@dataclass(frozen=True)
class ImportedCorpus:
    """What an import found. ``questions`` is None where none were given; all tables have our exact schemas."""

    questions: pa.Table | None
    rows: pl.DataFrame
    """The responses as a frame: a table of all would take the same memory again."""
    notes: list[Note]

    @property
    def responses(self) -> pa.Table:
        """All responses."""
        return to_table(self.rows, RESPONSES.arrow)

    @property
    def teachers(self) -> list[str]:
        """Who has responses, sorted by id."""
        return list(self.rows["teacher_id"].unique().sort())

    def responses_of(self, teacher: str) -> pa.Table:
        """The responses of one teacher."""
        return to_table(self.rows.filter(teacher_id=teacher), RESPONSES.arrow)


@dataclass(frozen=True)
class Selection:
    """What of a corpus to take, and what is known about it.

    Attributes:
        datasets: only these; None = all.
        teachers: only these; None = all.
        gold_shown: teachers that had the gold answer in their prompt.
        split_by_hash: shares of a new split; None = the split on file.
        seed: of the split by hash.
        tool: which other tool wrote the responses; None for our own layout. See `builders.import_formats`.
        layout: how to read that tool's records.
    """

    datasets: Collection[str] | None = None
    teachers: Collection[str] | None = None
    gold_shown: Collection[str] = ()
    split_by_hash: Mapping[str, float] | None = None
    seed: int = 0
    tool: str | None = None
    layout: Layout | None = None


def read_corpus(
    questions_path: str | Path | None,
    responses_path: str | Path,
    selection: Selection | None = None,
    known_questions: pa.Table | None = None,
) -> ImportedCorpus:
    """Read questions and responses of a collected corpus into our tables; see the head of this module.

    Args:
        questions_path: file or glob; None takes ``known_questions``.
        responses_path: file or glob.
        selection: what to take; None = everything.
        known_questions: the questions of a workspace that the responses are added to.

    Raises:
        InputError: a row is no question or no response, is there twice, or answers no known question.
    """
    import polars as pl

    take = selection or Selection()
    if questions_path is None and known_questions is None:
        raise InputError("an import needs questions: give a file of questions, or a workspace that has some")
    base = Path.cwd()
    if questions_path is not None:
        rule = SplitRule(by_hash=take.split_by_hash, seed=take.seed)
        rows = read_files(questions_path, base)
        questions = to_questions(rows, Defaults(find_files(questions_path, base)[0].stem), rule)
        is_named = "dataset" in rows.columns and rows["dataset"].null_count() < rows.height
    else:
        questions, is_named = _as_known(known_questions), True
    foreign = read_foreign(responses_path, base, take.tool, take.layout) if take.tool else None
    rows = _responses(read_files(responses_path, base) if foreign is None else foreign)
    on_file = frozenset(rows.columns)
    frame = _fill(_select(_joined(rows, questions, is_named), questions, take))
    frame, notes = _judge(frame, on_file, take)
    _refuse_duplicates(frame)
    length = pl.col("rationale").str.len_chars().fill_null(0).cast(pl.Int32)
    responses = frame.with_columns(length.alias("rationale_chars")).select(RESPONSES.names)
    if questions_path is None:
        return ImportedCorpus(None, responses, notes)
    table = to_table(_of_datasets(questions, "dataset", take), QUESTIONS.arrow)
    return ImportedCorpus(table, responses, [*question_notes(table), *notes])


def _as_known(table: pa.Table | None) -> pl.DataFrame:
    """Questions of a workspace, with the ids that their source may have had."""
    import polars as pl

    original = pl.col("question_id").str.strip_prefix(pl.concat_str("dataset", pl.lit("/")))
    labels = pl.col("choices").list.eval(pl.element().struct.field("label"))
    return pl.DataFrame(table).with_columns(original.alias(ORIGINAL_ID), labels.alias(ORIGINAL_LABELS))


def _responses(rows: pl.DataFrame) -> pl.DataFrame:
    """Check the columns, name them as ours, and leave out those that are not."""
    import polars as pl

    if "teacher_id" not in rows.columns and "teacher" in rows.columns:
        rows = rows.rename({"teacher": "teacher_id"})
    if "rationale" not in rows.columns and "raw_text" in rows.columns:
        rows = rows.rename({"raw_text": "rationale"})
    require(rows, {name: name for name in ("question_id", "teacher_id", "rationale")})
    rows = rows.select(name for name in rows.columns if name in (*RESPONSES.names, "dataset", FILE, ROW))
    names = ("question_id", "teacher_id", "rationale", "predicted_answer", "dataset", "source", "status")
    is_index = rows.schema.get("predicted_answer", pl.String()).is_integer()
    rows = as_text(rows, [n for n in names if n in rows.columns]).with_columns(pl.lit(is_index).alias("_is_index"))
    rows = rows.with_columns(pl.col("question_id", "teacher_id").str.strip_chars())
    for name in ("question_id", "teacher_id"):
        refuse_first(rows, pl.col(name).fill_null("") == "", f"{name} is empty")
    if "status" in rows.columns:
        refuse_first(
            rows,
            ~pl.col("status").is_in(STATUSES).fill_null(value=True),
            "status '{status}' is not one of " + ", ".join(STATUSES),
        )
    return rows


def _joined(rows: pl.DataFrame, questions: pl.DataFrame, is_named: bool) -> pl.DataFrame:
    """Give each response its question: by dataset and id as the source had it, else by the id in the workspace.

    Args:
        rows: the responses.
        questions: all questions there are.
        is_named: whether the questions say their dataset; else an id that fits is enough, whatever the response says.
    """
    import polars as pl

    wanted = {"_id": "question_id", "_dataset": "dataset", "_task": "task", "_gold": "answer", "_choices": "choices"}
    ours = questions.select(
        *(pl.col(old).alias(new) for new, old in wanted.items()), pl.col(ORIGINAL_LABELS).alias("_labels")
    )
    if "dataset" in rows.columns:
        original = questions.select(
            "dataset", pl.col(ORIGINAL_ID).alias("question_id"), pl.col("question_id").alias("_pair")
        )
        rows = rows.join(original, on=["dataset", "question_id"], how="left", maintain_order="left")
        rows = rows.with_columns(pl.coalesce("_pair", "question_id").alias("question_id"))
    found = rows.join(ours, left_on="question_id", right_on="_id", how="left", coalesce=False, maintain_order="left")
    if "dataset" in rows.columns and is_named:
        is_other = (pl.col("dataset") != pl.col("_dataset")).fill_null(value=False)
        found = found.with_columns(pl.when(~is_other).then(pl.col("_id")).alias("_id"))
    unknown = found.filter(pl.col("_id").is_null())
    if unknown.height:
        row = unknown.to_dicts()[0]
        of = f" of dataset '{row['dataset']}'" if row.get("dataset") else ""
        raise InputError(
            f"{where(row)}: question_id '{row['question_id']}'{of} is not among the questions "
            f"({unknown.height} such rows): import the questions it answers too, or leave these rows out"
        )
    return found


def _select(frame: pl.DataFrame, questions: pl.DataFrame, take: Selection) -> pl.DataFrame:
    import polars as pl

    _known(take.datasets, questions["dataset"], "dataset")
    _known(take.teachers, frame["teacher_id"], "teacher")
    _known(take.gold_shown, frame["teacher_id"], "teacher")
    frame = _of_datasets(frame, "_dataset", take)
    if take.teachers is not None:
        frame = frame.filter(pl.col("teacher_id").is_in(list(take.teachers)))
    if not frame.height:
        raise InputError("no response is left: no selected teacher answered a question of the selected datasets")
    return frame


def _of_datasets(frame: pl.DataFrame, column: str, take: Selection) -> pl.DataFrame:
    import polars as pl

    return frame if take.datasets is None else frame.filter(pl.col(column).is_in(list(take.datasets)))


def _known(names: Collection[str] | None, column: pl.Series, what: str) -> None:
    known = column.unique().sort().to_list()
    for name in names or ():
        if name not in known:
            raise InputError(f"there is no {what} '{name}'{nearest(name, known)}: there are {', '.join(known)}")


def _fill(frame: pl.DataFrame) -> pl.DataFrame:
    """Add the columns of `RESPONSES` that the file lacks."""
    import polars as pl

    types = pl.DataFrame(RESPONSES.arrow.empty_table()).schema
    missing = [name for name in types if name not in frame.columns]
    frame = frame.with_columns(pl.lit(None, dtype=types[name]).alias(name) for name in missing)
    frame = as_text(frame, [name for name, kind in types.items() if kind == pl.String])
    for name, kind in types.items():
        frame = _typed(frame, name, kind)
    file_name = pl.col(FILE).str.split("/").list.last()
    blank = pl.col("rationale").fill_null("").str.strip_chars() == ""
    said = pl.col("predicted_answer").str.strip_chars()
    refuse_first(frame, pl.col("sample_idx") < 0, "sample_idx {sample_idx} is negative: count from 0")
    return frame.with_columns(
        pl.col("sample_idx").fill_null(0),
        pl.col("gold_shown").fill_null(value=False),
        pl.col("source").fill_null(file_name),
        pl.when(blank).then(None).otherwise(pl.col("rationale")).alias("rationale"),
        pl.col("is_correct").alias("_is_correct"),
        pl.when(said != "").then(said).alias("_said"),
        (pl.col("status").is_null() & blank).alias("_empty"),
    )


def _typed(frame: pl.DataFrame, name: str, kind: pl.DataType) -> pl.DataFrame:
    """Give a column its type; texts, as CSV has them, are read, and empty ones are null."""
    import polars as pl

    given, value = frame.schema[name], pl.col(name)
    if given.is_float():  # as pandas writes gaps
        frame = frame.with_columns(value.fill_nan(None))
    if given == kind or kind.is_nested():
        return frame
    if given.is_nested():
        refuse_first(frame, value.is_not_null(), f"{name} must be one value, not several")
        value = pl.lit(None)
    elif given == pl.String:
        text = value.str.strip_chars().str.to_lowercase()
        frame = frame.with_columns(pl.when(text != "").then(value).alias(name))
        if kind == pl.Boolean:
            value = text.replace_strict(_TRUTHS, default=None, return_dtype=pl.Boolean)
        else:
            value = _time(value) if kind == pl.Datetime else text.cast(pl.Float64, strict=False)
    ours = value.cast(kind, strict=False)
    is_bad = pl.col(name).is_not_null() & ours.is_null()
    if kind.is_integer() or (kind == pl.Boolean and given.is_numeric()):
        is_bad |= ours.cast(pl.Float64) != value.cast(pl.Float64)
    refuse_first(frame, is_bad, f"{name} '{{{name}}}' is not {_what(kind)}")
    return frame.with_columns(value.cast(kind, strict=False).alias(name))


def _what(kind: pl.DataType) -> str:
    import polars as pl

    if kind == pl.Boolean:
        return "true or false"
    if kind == pl.Datetime:
        return "a time like 2026-01-31T12:00:00Z"
    return "a whole number" if kind.is_integer() else "a number"


def _time(text: pl.Expr) -> pl.Expr:
    """Read times with a zone; a blank may stand for the T."""
    joined = text.str.strip_chars().str.replace(r"^(\d{4}-\d\d-\d\d) ", "${1}T")
    return joined.str.to_datetime("%+", time_unit="ms", time_zone="UTC", strict=False)


def _judge(frame: pl.DataFrame, on_file: frozenset[str], take: Selection) -> tuple[pl.DataFrame, list[Note]]:
    """Settle status, answers, rationales and correctness; return what there is to report."""
    import polars as pl

    forced = _forced(frame, on_file)
    frame = frame.with_columns(
        pl.coalesce("status", pl.when(pl.col("_empty")).then(pl.lit("failed")).otherwise(pl.lit("ok"))).alias("status"),
        pl.when(pl.col("_empty")).then(pl.lit("empty")).otherwise(pl.col("error_class")).alias("error_class"),
        (pl.col("gold_shown") | forced | pl.col("teacher_id").is_in(list(take.gold_shown))).alias("gold_shown"),
    )
    frame = _with_answers(frame, on_file) if "predicted_answer" in on_file else _with_read_answers(frame, on_file)
    answered = pl.col("predicted_answer").is_not_null()
    status = pl.when(answered).then(pl.lit("read")).otherwise(pl.lit("unread")).alias("answer_status")
    frame = _graded(frame.with_columns(status))
    return frame, _notes(frame)


def _forced(frame: pl.DataFrame, on_file: frozenset[str]) -> pl.Expr:
    """Whether the row's teacher has neither answers nor verdicts in the row's dataset, though the file has both."""
    import polars as pl

    if not {"predicted_answer", "is_correct"} <= on_file:
        return pl.lit(value=False)
    return (pl.col("_said").is_null() & pl.col("_is_correct").is_null()).all().over("_dataset", "teacher_id")


def _with_answers(frame: pl.DataFrame, on_file: frozenset[str]) -> pl.DataFrame:
    """Set ``predicted_answer`` of the file in canonical form, and cut the answer line that says it."""
    import polars as pl

    frame = frame.with_columns(
        pl.when(pl.col("_task") == "choice").then(_as_label(frame))
        .when(pl.col("_task") == "number").then(_as_number(frame["_said"]))
        .otherwise(pl.col("_said")).alias("predicted_answer")
    )  # fmt: skip
    if "raw_text" in on_file:
        return frame
    rationales: list[str | None] = []
    columns = ("rationale", "_task", "_choices", "predicted_answer", "gold_shown")
    for text, task, choices, predicted, shown in frame.select(columns).iter_rows():
        answer = None if text is None or predicted is None or shown else read_answer(text, task, choices)
        says_it = answer is not None and answer.value is not None and same_answer(answer.value, predicted, task)
        rationales.append((answer.rationale or None) if answer is not None and says_it else text)
    return _with_rationales(frame, rationales)


def _with_read_answers(frame: pl.DataFrame, on_file: frozenset[str]) -> pl.DataFrame:
    """Read ``predicted_answer`` from the text, and cut the answer line."""
    import polars as pl

    predicted: list[str | None] = []
    rationales: list[str | None] = []
    for text, task, choices, shown in frame.select("rationale", "_task", "_choices", "gold_shown").iter_rows():
        answer = None if text is None or shown else read_answer(text, task, choices)
        predicted.append(answer.value if answer else None)
        rationales.append((answer.rationale or None) if answer and answer.status == "read" else text)
    frame = frame.with_columns(pl.Series("predicted_answer", predicted, dtype=pl.String))
    return frame if "raw_text" in on_file else _with_rationales(frame, rationales)


def _with_rationales(frame: pl.DataFrame, rationales: list[str | None]) -> pl.DataFrame:
    """Set the rationales without their answer line; ``raw_text`` keeps all. A file with both has done so itself."""
    import polars as pl

    return frame.with_columns(
        pl.col("rationale").alias("raw_text"), pl.Series("rationale", rationales, dtype=pl.String)
    )


def _as_label(frame: pl.DataFrame) -> pl.Series:
    """Translate the answers on file to our labels: from a label, also in brackets, else an option's text or index.

    An index is an integer beside options without labels, and counts from 0. What fits no option, or two, becomes null.
    """
    import polars as pl

    said = frame.with_row_index("_i").filter(pl.col("_task") == "choice", pl.col("_said").is_not_null())
    options = said.select("_i", "_said", "_is_index", "_labels", "_choices").explode("_labels", "_choices")
    label, text = (pl.col("_choices").struct.field(name) for name in ("label", "text"))
    upper, place = pl.col("_said").str.to_uppercase(), pl.int_range(pl.len()).over("_i").cast(pl.String)
    theirs = pl.coalesce("_labels", label).str.to_uppercase()
    is_index = pl.col("_is_index") & pl.col("_labels").is_null() & (place == upper)
    fit = (
        pl.when(theirs == upper).then(0)
        .when(theirs == upper.str.strip_suffix(".0").str.strip_chars(_AROUND_LABEL)).then(1)
        .when(is_index | (text.str.to_uppercase() == upper)).then(2)
    )  # fmt: skip
    fits = options.select("_i", fit.alias("fit"), label.alias("_label")).drop_nulls("fit")
    fits = fits.filter(pl.col("fit") == pl.col("fit").min().over("_i")).filter(pl.len().over("_i") == 1)
    return frame.with_row_index("_i").join(fits, on="_i", how="left", maintain_order="left")["_label"]


def _as_number(said: pl.Series) -> pl.Expr:
    import polars as pl

    texts = said.drop_nulls().unique().to_list()
    canonical = [canonical_number(text) for text in texts]
    return pl.col("_said").replace_strict(texts, canonical, default=None, return_dtype=pl.String)


def _graded(frame: pl.DataFrame) -> pl.DataFrame:
    """Set ``is_correct`` anew where gold is known; null where it says nothing: no gold, gold shown, no reply."""
    import polars as pl

    texts = frame.filter(pl.col("_task") == "text").select("predicted_answer", "_gold").drop_nulls().unique()
    pairs = texts.with_columns(
        pl.Series("_same", [grade(said, gold, "text") for said, gold in texts.iter_rows()], dtype=pl.Boolean)
    )
    frame = frame.join(pairs, on=["predicted_answer", "_gold"], how="left", maintain_order="left")
    equal = pl.coalesce("_same", pl.col("predicted_answer") == pl.col("_gold"))
    silent = pl.col("predicted_answer").is_null() & (pl.col("status") == "failed")
    verdict = (
        pl.when(pl.col("gold_shown") | silent).then(None)
        .when(pl.col("_gold").is_null()).then(pl.col("_is_correct"))
        .otherwise(equal.fill_null(value=False))
    )  # fmt: skip
    return frame.with_columns(verdict.alias("is_correct"))


def _refuse_duplicates(frame: pl.DataFrame) -> None:
    import polars as pl

    twice = frame.filter(pl.struct(_KEY).is_duplicated())
    if twice.height:
        first = twice.to_dicts()[0]
        same = pl.all_horizontal(pl.col(k) == first[k] for k in _KEY)
        second = twice.filter(same).to_dicts()[1]
        raise InputError(
            f"teacher '{first['teacher_id']}' answers question '{first['question_id']}' twice: {where(first)} and "
            f"{where(second)}: number several answers with the column sample_idx"
        )


def _notes(frame: pl.DataFrame) -> list[Note]:
    """Return what a user should know before purifying the responses."""
    import polars as pl

    asked = (pl.col("status") == "ok") & ~pl.col("gold_shown")
    counts = {
        "empty": (pl.col("_empty"), "responses have no text: they are marked failed"),
        "unread": (asked & pl.col("predicted_answer").is_null(), "responses have no readable answer"),
        "no-choice": (
            pl.col("_said").is_not_null() & pl.col("predicted_answer").is_null(),
            "predicted answers are no answer to their question (no choice, or no number): they count as unread",
        ),
        "regraded": (
            pl.col("_is_correct").is_not_null() & (pl.col("_is_correct") != pl.col("is_correct")),
            "responses have another is_correct than the file says, by their predicted answer and the gold answer",
        ),
        "no-rationale": (
            pl.col("rationale").is_null() & (pl.col("status") == "ok"),
            "responses are an answer without an explanation",
        ),
    }
    notes = _teacher_forced(frame)
    for kind, (is_one, message) in counts.items():
        count = frame.filter(is_one.fill_null(value=False)).height
        if count:
            notes.append(Note(kind, f"{count} {message}", count))
    return notes + _right_by_construction(frame)


def _teacher_forced(frame: pl.DataFrame) -> list[Note]:
    shown = frame.filter("gold_shown").group_by("_dataset", "teacher_id").len().sort("_dataset", "teacher_id")
    return [
        Note(
            "teacher-forced",
            f"{n} responses of {teacher} to {dataset} were probably teacher-forced (the gold answer in the prompt): "
            "they are marked gold_shown and not graded",
            n,
        )
        for dataset, teacher, n in shown.iter_rows()
    ]


def _right_by_construction(frame: pl.DataFrame) -> list[Note]:
    """Find teachers of a dataset that are right on all they answer, but leave out questions that others answer."""
    import polars as pl

    answered = frame.group_by("_dataset").agg(pl.col("question_id").n_unique().alias("all"))
    each = frame.filter(~pl.col("gold_shown")).group_by("_dataset", "teacher_id")
    perfect = each.agg(pl.col("question_id").n_unique().alias("n"), pl.col("is_correct").mean().alias("accuracy"))
    found = perfect.join(answered, on="_dataset").filter(pl.col("accuracy") == 1, pl.col("n") < pl.col("all"))
    return [
        Note(
            "all-right",
            f"{teacher} is right on all {n} questions of {dataset} that it answers, and absent from {total - n} "
            "others: wrong answers were probably left out, so its accuracy means nothing",
            n,
        )
        for dataset, teacher, n, _, total in found.sort("_dataset", "teacher_id").iter_rows()
    ]
