"""Responses as other tools leave them, turned into the rows that `builders.importer` takes.

    distilabel    a dataset with generation(s) and model_name(s), as its pipelines push or save it
    curator       responses_*.jsonl of its cache: one request with its row and its response a line
    datadesigner  parquet-files/batch_*.parquet: a column per LLM column, its reasoning beside it
    tinyllm       datasets/<name>/llm/<split>_CoT_<batch>.json beside <name>_<split>.json, in the order of its rows
    chat          one conversation a line: messages, and the model that said the last one
    openai-batch  the output file of a batch: custom_id and response.body

A mapping is a function from one record to the responses it holds. The question's id is looked for in the columns that
the user gave the tool, as ``question_id`` or ``id``, or under the name given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from builders.files import FILE, ROW, find_files, read_file
from builders.reply import read_completion, split_reasoning
from schemas.errors import InputError

if TYPE_CHECKING:
    import polars as pl

Record = Mapping[str, Any]
Response = dict[str, Any]

PART_ROWS = 32_768
TINYLLM_BATCH = 500
_TINYLLM_FILE = re.compile(r"(train|valid|test)_CoT_(\d+)\.json")
_TINYLLM_SECOND = "llama rationale: "
_TEXTS = ("generation", "generations", "grouped_generation")
_MODELS = ("model_name", "model_names", "generation_model", "generation_models", "grouped_model_name")


@dataclass(frozen=True)
class Layout:
    """How foreign records are to be read.

    Attributes:
        id_column: the user's column that names the question; None looks for ``question_id``, then ``id``.
        text_columns: datadesigner: the columns that are answers, each a teacher; None takes those with a trace or
            reasoning beside them.
    """

    id_column: str | None = None
    text_columns: Collection[str] | None = None


def read_foreign(pattern: str | Path, base: Path, tool: str, layout: Layout | None = None) -> pl.DataFrame:
    """Read the files of another tool as response rows, which remember file and row.

    Raises:
        InputError: no such tool or file, a record that is not the tool's, or one that does not name its question.
    """
    import polars as pl

    if tool not in FORMATS:
        raise InputError(f"there is no import format '{tool}': there are {', '.join(FORMATS)}")
    frames: list[pl.DataFrame] = []
    rows = _responses(pattern, base, tool, layout or Layout())
    while part := list(islice(rows, PART_ROWS)):  # a row takes far more memory as an object than in a frame
        frames.append(pl.from_dicts(part, infer_schema_length=None))
    if not frames:
        raise InputError(f"{pattern} holds no response")
    return pl.concat(frames, how="diagonal_relaxed", rechunk=False)


def _responses(pattern: str | Path, base: Path, tool: str, layout: Layout) -> Iterator[Response]:
    for path in find_files(pattern, base):
        for number, record in _tinyllm_records(path) if tool == "tinyllm" else _records(path):
            try:
                found = FORMATS[tool](record, layout)
            except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
                raise InputError(f"{path}, row {number} is not what {tool} writes: {_said(error)}") from error
            yield from ({**response, FILE: str(path), ROW: number} for response in found)


def _said(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return str(error) if isinstance(error, ValueError) else "a field in it has another shape"


def _records(path: Path) -> Iterator[tuple[int, Record]]:
    """JSON lines are read one by one, because nested fields may change their shape between rows."""
    if path.suffix not in (".jsonl", ".ndjson"):
        for row in read_file(path).iter_rows(named=True):
            yield row[ROW], row
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    record = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise InputError(f"{path}, line {number} is not JSON: {error.msg}") from None
                yield number, record


def _question(row: Record, layout: Layout) -> str:
    for name in [layout.id_column] if layout.id_column else ["question_id", "id"]:
        if row.get(name) is not None:
            return str(row[name])
    wanted = layout.id_column or "question_id"
    raise ValueError(f"no column '{wanted}' names the question; the columns are {', '.join(row)}")


def _response(question: str, model: str, text: str | None, **more: Any) -> Response:
    """A response row; the teacher's id is the model's name without its organisation."""
    reasoning, said = split_reasoning(text or "")
    teacher = re.sub(r"[^A-Za-z0-9._-]+", "-", model.rpartition("/")[2]).strip("-.") or "unknown"
    row: Response = {
        "question_id": question,
        "teacher_id": teacher,
        "model": model,
        "rationale": said or None,
        "reasoning": reasoning,
        "prompt_tokens": None,
        "completion_tokens": None,
        "finish_reason": None,
        "cost_usd": None,
        "status": None,
        "error_class": None,
        "error_message": None,
    }
    return row | {name: value for name, value in more.items() if value is not None}


def _numbered(responses: list[Response]) -> list[Response]:
    """Number the samples of each teacher."""
    seen: dict[str, int] = {}
    for response in responses:
        response["sample_idx"] = seen.get(response["teacher_id"], 0)
        seen[response["teacher_id"]] = response["sample_idx"] + 1
    return responses


def _distilabel(row: Record, layout: Layout) -> list[Response]:
    texts, models = _first(row, _TEXTS), _first(row, _MODELS)
    texts = [texts] if isinstance(texts, str) else list(texts)
    models = [models] * len(texts) if isinstance(models, str) else list(models)
    meta = row.get("distilabel_metadata") or {}
    metas = meta if isinstance(meta, list) else [meta] * len(texts)
    question, found = _question(row, layout), []
    for text, model, about in zip(texts, models, metas, strict=True):
        counts = next((v for k, v in (about or {}).items() if k.startswith("statistics_") and v), None) or {}
        tokens = (counts.get("input_tokens"), counts.get("output_tokens"))
        found.append(_response(question, model, text, prompt_tokens=_one(tokens[0]), completion_tokens=_one(tokens[1])))
    return _numbered(found)


def _first(row: Record, names: Collection[str]) -> Any:
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise ValueError(f"none of the columns {', '.join(names)} is there")


def _one(count: Any) -> int | None:
    """Token counts are numbers, or lists with one number."""
    return (count[0] if count else None) if isinstance(count, list) else count


def _curator(line: Record, layout: Layout) -> list[Response]:
    request, usage = line["generic_request"], line.get("token_usage") or {}
    message, errors = line["response_message"], line.get("response_errors") or []
    failed = {"status": "failed", "error_class": "server", "error_message": "; ".join(errors) or "no response"}
    body = orjson.dumps(line.get("raw_response") or {})
    completion = read_completion(body)
    response = _response(
        _question(request["original_row"], layout),
        request["model"],
        message if isinstance(message, str) or message is None else orjson.dumps(message).decode(),
        reasoning=completion.reasoning if completion else None,
        prompt_tokens=usage.get("input", usage.get("prompt_tokens")),
        completion_tokens=usage.get("output", usage.get("completion_tokens")),
        finish_reason=line.get("finish_reason"),
        cost_usd=line.get("response_cost"),
        **(failed if message is None else {}),
    )
    return _numbered([response])


def _datadesigner(row: Record, layout: Layout) -> list[Response]:
    names = layout.text_columns or [n for n in row if f"{n}__trace" in row or f"{n}__reasoning_content" in row]
    if not names:
        raise ValueError("no column has a trace or reasoning beside it: name the columns that are answers")
    question = _question(row, layout)
    return _numbered(
        [_response(question, name, row[name], reasoning=row.get(f"{name}__reasoning_content")) for name in names]
    )


def _tinyllm_records(path: Path) -> Iterator[tuple[int, Record]]:
    """Pair each output with its question, which stands at the same place in the file of its split."""
    name = _TINYLLM_FILE.fullmatch(path.name)
    if name is None:
        raise InputError(f"{path} is no file of TinyLLM: it is called like train_CoT_0.json there")
    folder = path.parent.parent
    asked = list(_records_of_split(folder / f"{folder.name}_{name[1]}.json"))
    first = int(name[2]) * TINYLLM_BATCH
    for number, output in enumerate(orjson.loads(path.read_bytes()), 1):
        if first + number > len(asked):
            raise InputError(f"{path}, item {number} answers no question of {folder.name}_{name[1]}.json")
        yield number, {**asked[first + number - 1], "output": output}


def _records_of_split(path: Path) -> Iterator[Record]:
    if not path.is_file():
        raise InputError(f"{path} is not there: TinyLLM's outputs need the questions of their split beside them")
    yield from read_file(path).iter_rows(named=True)


def _tinyllm(row: Record, layout: Layout) -> list[Response]:
    """Two rationales in one text: FLAN-T5's, and Llama's after it; both had the gold answer in their prompt."""
    first, _, second = row["output"].partition(_TINYLLM_SECOND)
    texts = {"flan-t5": first.split("Q:")[0].split("Thus, the answer is")[0], "llama": second}
    question = _question(row, layout)
    return _numbered([_response(question, t, text.strip(), gold_shown=True) for t, text in texts.items()])


def _chat(line: Record, layout: Layout) -> list[Response]:
    said = [m for m in line["messages"] if m["role"] == "assistant"][-1]
    model = line.get("teacher_id") or line.get("teacher") or line.get("model")
    if model is None:
        raise ValueError("neither 'model' nor 'teacher' says who answered")
    thought = said.get("reasoning") or said.get("reasoning_content")
    return _numbered([_response(_question(line, layout), model, said["content"], reasoning=thought)])


def _openai_batch(line: Record, layout: Layout) -> list[Response]:
    reply, error = line.get("response") or {}, line.get("error")
    body = reply.get("body") or {}
    completion = read_completion(orjson.dumps(body))
    if completion is None:
        said = (error or body.get("error") or {}).get("message") or f"HTTP {reply.get('status_code')}"
        failed = {"status": "failed", "error_class": "server", "error_message": said}
        return _numbered([_response(line["custom_id"], body.get("model") or "unknown", None, **failed)])
    return _numbered(
        [
            _response(
                line["custom_id"],
                body["model"],
                completion.text,
                status=completion.status,
                reasoning=completion.reasoning,
                finish_reason=completion.finish_reason,
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
            )
        ]
    )


FORMATS: dict[str, Callable[[Record, Layout], list[Response]]] = {
    "distilabel": _distilabel,
    "curator": _curator,
    "datadesigner": _datadesigner,
    "tinyllm": _tinyllm,
    "chat": _chat,
    "openai-batch": _openai_batch,
}
