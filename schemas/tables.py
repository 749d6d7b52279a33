"""The tables: every field once, with its Arrow type, a sentence, a unit and what null means.

Arrow schemas, the DuckDB types, the card's field table and ``docs/tables.md`` all come from here. A file that
raffinate writes carries ``raffinate.schema_version`` in its metadata; see `check_version`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from schemas.errors import WorkspaceError

SCHEMA_VERSION = 1
VERSION_KEY = b"raffinate.schema_version"

SPLITS = ("train", "validation", "test")
TASKS = ("choice", "number", "text")
STATUSES = ("ok", "failed", "truncated", "refused")
KEEP_ALL = "keep-all"
"""The method that purifies nothing: its rows are all usable rationales, several to a question."""
FINE_TUNING = "fine-tuning"
"""What a student is trained on that sees answers alone."""
ONE_TEACHER = "teacher:"
"""What a student is trained on that sees one teacher's rationales: this, and the teacher's id."""

CHOICES = pa.list_(pa.struct([("label", pa.string()), ("text", pa.string())]))
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
TIME = pa.timestamp("ms", tz="UTC")


@dataclass(frozen=True)
class Field:
    """One column. ``null`` says what a null means; an empty ``null`` means the column has none."""

    name: str
    type: pa.DataType
    doc: str
    null: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Table:
    """A named list of fields, and the fields that identify a row."""

    name: str
    doc: str
    key: tuple[str, ...]
    fields: tuple[Field, ...]

    @property
    def arrow(self) -> pa.Schema:
        """The Arrow schema, with the schema version in its metadata."""
        columns = [pa.field(f.name, f.type, nullable=bool(f.null)) for f in self.fields]
        return pa.schema(columns, metadata={VERSION_KEY: str(SCHEMA_VERSION)})

    @property
    def names(self) -> list[str]:
        """The column names, in order."""
        return [f.name for f in self.fields]

    def markdown(self) -> str:
        """The fields as a Markdown table, for the card and the docs."""
        rows = ["| field | type | what it is | null means |", "|---|---|---|---|"]
        for f in self.fields:
            unit = f" ({f.unit})" if f.unit else ""
            rows.append(f"| `{f.name}` | `{f.type}` | {f.doc}{unit} | {f.null or 'never null'} |")
        return "\n".join(rows)


_s, _f, _i, _b = pa.string(), pa.float64(), pa.int64(), pa.bool_()

QUESTIONS = Table(
    "questions",
    "One row per question.",
    ("question_id",),
    (
        Field("question_id", _s, "identifies the question in the whole workspace"),
        Field("dataset", _s, "the source the question comes from"),
        Field("split", _s, "`train`, `validation` or `test`"),
        Field("task", _s, "`choice` (a label among choices), `number` or `text`"),
        Field("question", _s, "the question as the teachers read it"),
        Field("choices", CHOICES, "the options of a `choice` question in order; empty for other tasks"),
        Field("context", _s, "a passage the question is about", null="no passage"),
        Field("answer", _s, "gold: a label for `choice`, canonical number text for `number`", null="unlabelled"),
        Field("domain", _s, "subject, used to break accuracy down", null="unknown"),
    ),
)

RESPONSES = Table(
    "responses",
    "One row per question, teacher and sample: every answer of every teacher, failures included.",
    ("question_id", "teacher_id", "sample_idx"),
    (
        Field("question_id", _s, "the question asked"),
        Field("teacher_id", _s, "the teacher asked, as named in the recipe"),
        Field("sample_idx", pa.int32(), "0 for the first answer of this teacher to this question, 1 for the next, ..."),
        Field("status", _s, "`ok`, `failed` (no answer came), `truncated` (cut at the token limit) or `refused`"),
        Field("rationale", _s, "the explanation without the final answer line", null="none was given"),
        Field("rationale_chars", pa.int32(), "length of the rationale; 0 where there is none", unit="characters"),
        Field("reasoning", _s, "a reasoning model's own channel, kept apart from its answer", null="no such channel"),
        Field("raw_text", _s, "the reply as it came", null="no reply, or unknown to the source of an import"),
        Field(
            "follow_up",
            _s,
            "the reply to a second turn that asked for the answer alone, as it came; the answer is read from it",
            null="none was asked for, or none came",
        ),
        Field("predicted_answer", _s, "the teacher's own answer in canonical form", null="unread: none could be read"),
        Field("answer_status", _s, "`read` or `unread`: an unreadable answer is kept apart from a wrong one"),
        Field(
            "is_correct",
            _b,
            "whether the answer is gold; an unread answer to a labelled question is false",
            null="unknown: no gold, no reply, or the gold answer was in the prompt",
        ),
        Field("gold_shown", _b, "the gold answer was in the prompt, so the answer says nothing about the teacher"),
        Field("prompt_id", _s, "prompt name and hash of its template", null="imported, prompt unknown"),
        Field("request_hash", _s, "hash of all that reached the wire; the key of the cache", null="imported"),
        Field("model", _s, "model name the server was asked for", null="unknown"),
        Field("model_revision", _s, "revision of the model as declared in the recipe", null="not declared"),
        Field("params", _s, "sampling parameters as JSON", null="unknown"),
        Field("finish_reason", _s, "as the server gave it: `stop`, `length`, ...", null="no reply, or not given"),
        Field("prompt_tokens", _i, "tokens of the prompt, of both turns if there are two", "not reported", "tokens"),
        Field(
            "completion_tokens",
            _i,
            "tokens of the reply, reasoning included, of both turns if there are two",
            null="not reported",
            unit="tokens",
        ),
        Field("mean_logprob", _f, "mean log-probability of the reply's tokens", null="not reported", unit="nats"),
        Field("latency_ms", _f, "from sending the request to its last byte", null="unknown", unit="ms"),
        Field(
            "cost_usd",
            _f,
            "cost by the prices of the recipe, replies of no use and earlier failed runs included",
            null="unknown: never a guess",
            unit="US dollars",
        ),
        Field("attempts", pa.int32(), "how often the request was sent in the run that settled it", null="imported"),
        Field(
            "error_class",
            _s,
            "kind of failure: `timeout`, `rate_limit`, `server`, `malformed`, ...; where the status is `ok`, of the "
            "second turn",
            null="no error",
        ),
        Field("error_message", _s, "what the server or the client said", null="no error"),
        Field("source", _s, "where the row is from: `build`, or the file or repository of an import"),
        Field("created_at", TIME, "when the reply arrived", null="imported, time unknown"),
    ),
)

PURIFIED = Table(
    "purified",
    "One row per question that a method kept: one rationale, where it came from and why. `keep-all`, which purifies "
    "nothing, has one row per question and teacher.",
    ("question_id", "method"),
    (
        Field("question_id", _s, "the question"),
        Field("method", _s, "the purifier that chose"),
        Field("prompt", _s, "training input: the question with its context and choices, and a line break"),
        Field("completion", _s, "training target: the rationale, then the answer line"),
        Field("messages", MESSAGES, "`prompt` and `completion` as a chat of a user and an assistant"),
        Field("rationale", _s, "the one rationale kept"),
        Field("predicted_answer", _s, "the answer that the rationale concludes in", null="unread"),
        Field("teacher_id", _s, "the teacher whose rationale it is", null="synthesised: `written_by` wrote it"),
        Field("written_by", _s, "the teacher or judge that wrote a synthesised rationale", null="it is a response"),
        Field(
            "parents",
            pa.list_(pa.struct([("teacher_id", _s), ("sample_idx", pa.int32())])),
            "the responses the rationale was made from; with `question_id` they are keys of `responses`",
        ),
        Field(
            "score", pa.float32(), "the method's score of the chosen teacher; its meaning is the method's", null="none"
        ),
        Field(
            "probabilities",
            # a list, not a map: `datasets` has no map type; in SQL  map_from_entries(probabilities)['teacher']
            pa.list_(pa.struct([("teacher_id", _s), ("probability", pa.float32())])),
            "probability that the method gave each teacher with a usable response",
            null="the method gives none",
        ),
        Field("signals_used", pa.list_(_s), "what the method looked at: `question`, `answers`, `gold`, ..."),
        Field("agreement", pa.float32(), "share of the read answers that equal the chosen one", null="no answer read"),
        Field(
            "conflict",
            pa.float32(),
            "entropy of the teachers' read answers divided by its maximum, log(number of read answers): "
            "0 = all agree, 1 = all differ",
            null="fewer than two answers read",
        ),
        Field(
            "agreement_weight",
            pa.float32(),
            "weight of the row in training by agreement: 1 / (1 + 4 * share of the other teachers' read answers that "
            "differ from the kept one); 1 = all agree, 0.2 = none does",
            null="no answer read, or no other teacher's",
            unit="0..1",
        ),
        Field(
            "teacher_importance",
            pa.float32(),
            "weight of the row in training by its teacher: the teacher's accuracy on train questions, shrunk towards "
            "the teachers' mean, over the best teacher's; the mean of the parents where it is synthesised",
            null="no train question says who was right",
            unit="0..1",
        ),
        Field(
            "note",
            _s,
            "what is out of the ordinary: a merged rationale not taken, gold shown, ...",
            null="nothing",
        ),
        Field(
            "purifier_fingerprint",
            _s,
            "hash of the method, its settings, its fitted state and the answers it saw; not of the rationales' texts",
        ),
    ),
)

REJECTED = Table(
    "rejected",
    "One row per question that a method did not keep, with the reason.",
    ("question_id", "method"),
    (
        Field("question_id", _s, "the question"),
        Field("method", _s, "the purifier that abstained"),
        Field("reason", _s, "why nothing was kept"),
        Field("purifier_fingerprint", _s, "as in `purified`"),
    ),
)

CALLS = Table(
    "calls",
    "One row per request that a purifier made: who was asked what for, what was read from the reply, what it cost. "
    "Identical requests are sent, paid and listed once.",
    ("method", "call_idx"),
    (
        Field("method", _s, "the purifier that asked"),
        Field("call_idx", _i, "number of the call within the method, from 0, in the order they were planned"),
        Field("question_id", _s, "the question it is about"),
        Field("judge_id", _s, "the teacher or judge asked, as named in the recipe"),
        Field("purpose", _s, "what for: `aggregate`, `score`, `compare`, `debate 1`, `rationalise`, ..."),
        Field("about", pa.list_(_s), "the teachers whose rationales were shown, in that order, without names"),
        Field("gold_shown", _b, "the gold answer was in the prompt"),
        Field("status", _s, "as in `responses`"),
        Field("reply", _s, "the reply without its thinking", null="no reply"),
        Field(
            "verdict", _s, "what was read from it: an answer, a score, a vote, a confidence", null="unread: not used"
        ),
        Field("request_hash", _s, "hash of all that reached the wire; the key of the cache"),
        Field("model", _s, "model name the server was asked for"),
        Field("params", _s, "sampling parameters as JSON"),
        Field("prompt_tokens", _i, "tokens of the prompt", null="not reported", unit="tokens"),
        Field("completion_tokens", _i, "tokens of the reply, reasoning included", null="not reported", unit="tokens"),
        Field("latency_ms", _f, "from sending the request to its last byte", null="no request was sent", unit="ms"),
        Field("cost_usd", _f, "cost by the prices of the recipe", null="unknown: never a guess", unit="US dollars"),
        Field("attempts", pa.int32(), "how often the request was sent in the run that settled it"),
        Field("error_class", _s, "kind of failure, as in `responses`", null="no error"),
        Field("error_message", _s, "what the server or the client said", null="no error"),
        Field("created_at", TIME, "when the reply arrived", null="no request was sent"),
    ),
)

STUDENTS = Table(
    "students",
    "One row per trained student and evaluation.",
    ("run_id", "eval_dataset", "eval_split"),
    (
        Field("run_id", _s, "identifies the trained student"),
        Field("method", _s, "what it was trained on: a purifier, `keep-all`, `fine-tuning`, ..."),
        Field(
            "settings",
            _s,
            "settings of the purifier in a comparison, as JSON",
            null="the purifier's own, no purifier, or trained by itself",
        ),
        Field("teachers", pa.list_(_s), "the teachers whose responses were available"),
        Field("seed", _i, "random seed of the training"),
        Field("base_model", _s, "model the student started from; of one in a folder with a hash of its files"),
        Field(
            "objective",
            _s,
            "what it was trained for: `multitask`, `rationale-then-answer` or `fine-tuning`",
            null="not trained by raffinate",
        ),
        Field(
            "comparison",
            _s,
            "shared by students that differ in method, its settings, teachers, seed, base model and objective alone",
            null="trained by itself",
        ),
        Field("eval_dataset", _s, "dataset it was evaluated on"),
        Field("eval_split", _s, "split it was evaluated on"),
        Field("accuracy", _f, "share of right answers in what it writes", unit="0..1"),
        Field(
            "option_accuracy",
            _f,
            "share of choice questions whose likeliest option is right",
            null="not measured, or no choice questions",
            unit="0..1",
        ),
        Field("n", _i, "questions evaluated"),
        Field("prediction_loss", _f, "final training loss of the answers", null="not trained on answers", unit="nats"),
        Field("rationale_loss", _f, "final training loss of the rationales", null="no rationales", unit="nats"),
        Field(
            "rationale_tokens",
            _i,
            "tokens trained on for the sake of rationales, their prompts included",
            null="not counted",
            unit="tokens",
        ),
        Field("seconds", _f, "training time", unit="s"),
        Field("tokens_per_second", _f, "training throughput", null="not measured", unit="tokens/s"),
        Field("device", _s, "what it was trained on"),
        Field("created_at", TIME, "when the evaluation ended"),
    ),
)

TABLES: Mapping[str, Table] = {t.name: t for t in (QUESTIONS, RESPONSES, PURIFIED, REJECTED, CALLS, STUDENTS)}


def check_version(schema: pa.Schema, where: str) -> None:
    """Refuse a file written by a newer raffinate.

    A file without a version is taken as foreign and is checked by its columns instead.

    Raises:
        WorkspaceError: the file's schema version is above ours.
    """
    found = (schema.metadata or {}).get(VERSION_KEY)
    if found is not None and int(found) > SCHEMA_VERSION:
        raise WorkspaceError(
            f"{where} has schema version {int(found)}, this raffinate reads up to {SCHEMA_VERSION}: "
            "upgrade with  pip install -U raffinate"
        )
