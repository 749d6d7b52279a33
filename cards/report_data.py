"""The questions of a report, packed so that a browser opens 100,000 of them without a pause.

columns   ids, titles, answers, who was right, what each method kept: small, of every question listed; decoded on load
chunks    whole questions, rationales, scores: large; decoded when a question is opened

Each is JSON, deflated (the browser's ``DecompressionStream`` reads that) and written as base64, so nothing of it can
be taken for HTML. Where not all fits, questions on which the teachers differ go first, in an order fixed by a hash of
their ids; the page says what was left out.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import xxhash

from schemas.corpus import UNREAD, Bools, Corpus

if TYPE_CHECKING:
    import duckdb

Ints = npt.NDArray[np.int64]

MOST_LISTED = 200_000
"""Questions listed at most; a list of them is as tall as browsers allow."""
TITLE_CHARS = 12_000_000
"""Characters of all titles together, on which the search works."""
LONGEST = 20_000
"""Characters shown of one text."""
RAW_CHARS = 60_000_000
"""Characters of all texts together, before they are packed."""
PACKED_BYTES = 18_000_000
"""Size of all packed texts together."""
CHUNK_BYTES = 256_000
"""Texts in one chunk, unpacked: a few milliseconds to decode."""

NOTHING, SYNTHESISED, REJECTED = -3, -2, -1
"""In place of a teacher: the method has no row for the question, made the rationale of several, or abstained."""

KEPT = """
SELECT n.row, coalesce(list_position($teachers, p.teacher_id) - 1, $synthesised)::INTEGER AS teacher,
       coalesce((p.predicted_answer IS NOT DISTINCT FROM n.answer)::INTEGER, 0) AS is_right
FROM purified p JOIN numbered n USING (question_id) WHERE p.method = $method
"""
ABSTAINED = "SELECT n.row FROM rejected r JOIN numbered n USING (question_id) WHERE r.method = $method"

TITLES = """
SELECT left(trim(regexp_replace(left(q.question, $longest + 200), '\\s+', ' ', 'g')), $longest) AS title
FROM listed l JOIN questions q USING (question_id) ORDER BY l.place
"""

LENGTHS = """
SELECT n.row, sum(least(r.rationale_chars, $longest))::BIGINT AS chars
FROM responses r JOIN numbered n USING (question_id) GROUP BY n.row
"""

TEXTS = """
WITH said AS (
    SELECT c.place, list({
        'teacher': c.teacher, 'status': r.status,
        'text': left(coalesce(r.rationale, r.raw_text), $longest),
        'chars': length(coalesce(r.rationale, r.raw_text)),
        'error': left(r.error_message, 500)} ORDER BY c.teacher) AS responses
    FROM cells c JOIN responses r USING (question_id, teacher_id, sample_idx) GROUP BY c.place
), chose AS (
    SELECT w.place, list({
        'method': list_position($methods, p.method) - 1, 'answer': left(p.predicted_answer, 200),
        'score': p.score, 'agreement': p.agreement, 'conflict': p.conflict,
        'probabilities': p.probabilities,
        'parents': list_transform(p.parents, lambda x: x.teacher_id),
        'text': CASE WHEN p.rationale IS DISTINCT FROM r.rationale THEN left(p.rationale, $longest) END,
        'chars': length(p.rationale)}) AS purified
    FROM wanted w JOIN purified p ON p.question_id = w.question_id AND list_contains($methods, p.method)
    LEFT JOIN responses r
      ON r.question_id = p.question_id AND r.teacher_id = p.teacher_id AND r.sample_idx = p.parents[1].sample_idx
    GROUP BY w.place
), refused AS (
    SELECT w.place, list({'method': list_position($methods, j.method) - 1, 'reason': left(j.reason, 500)}) AS rejected
    FROM wanted w JOIN rejected j ON j.question_id = w.question_id AND list_contains($methods, j.method)
    GROUP BY w.place
)
SELECT w.place, left(q.question, $longest) AS question, left(q.context, $longest) AS context,
       list_transform(q.choices, lambda x: [left(x.label, 200), left(x.text, 2000)]) AS choices,
       s.responses, c.purified, j.rejected
FROM wanted w JOIN questions q USING (question_id) LEFT JOIN said s USING (place) LEFT JOIN chose c USING (place)
LEFT JOIN refused j USING (place) ORDER BY w.place
"""


@dataclass(frozen=True)
class Choice:
    """What one method kept: (Q,) teacher by number or a code above, and (Q,) whether the answer is gold."""

    method: str
    teacher: npt.NDArray[np.int32]
    right: Bools


@dataclass(frozen=True)
class Packed:
    """The explorer's data as base64, and how many questions are in it."""

    columns: str
    chunks: list[str]
    listed: int
    with_texts: int


def number_questions(con: duckdb.DuckDBPyConnection, corpus: Corpus) -> None:
    """Register ``numbered``: every question's row in the corpus, split and gold answer."""
    rows = np.arange(len(corpus), dtype=np.int32)
    gold = corpus.vocabulary.take(pa.array(corpus.gold, mask=corpus.gold == UNREAD))
    table = {"question_id": corpus.question_ids, "row": rows, "split": corpus.split, "answer": gold}
    con.register("numbered", pa.table(table))


def choices_of(con: duckdb.DuckDBPyConnection, corpus: Corpus, methods: list[str]) -> list[Choice]:
    """What each method kept; needs `number_questions`."""
    found = []
    for method in methods:
        teacher = np.full(len(corpus), NOTHING, np.int32)
        right = np.zeros(len(corpus), np.bool_)
        named = {"method": method}
        abstained = con.sql(ABSTAINED, params=named).to_arrow_table()
        teacher[abstained["row"].to_numpy()] = REJECTED
        values = {"teachers": list(corpus.teachers), "synthesised": SYNTHESISED}
        kept = con.sql(KEPT, params={**named, **values}).to_arrow_table()
        teacher[kept["row"].to_numpy()] = kept["teacher"].to_numpy()
        right[kept["row"].to_numpy()] = kept["is_right"].to_numpy() == 1
        found.append(Choice(method, teacher, right & corpus.labelled))
    return found


def differing(corpus: Corpus) -> Bools:
    """(Q,) whether two teachers' read answers differ."""
    read = corpus.answer != UNREAD
    highest = np.where(read, corpus.answer, -1).max(axis=1)
    lowest = np.where(read, corpus.answer, np.iinfo(np.int32).max).min(axis=1)
    return np.asarray(read.any(axis=1) & (highest != lowest))


def pack(con: duckdb.DuckDBPyConnection, corpus: Corpus, choices: list[Choice]) -> Packed:
    """Pack the questions of the corpus; needs `number_questions`."""
    order = _by_interest(corpus)
    listed = np.sort(order[:MOST_LISTED])  # as in the workspace
    chunks, where = _pack_texts(con, corpus, [c.method for c in choices], order[:MOST_LISTED])
    columns = _columns(con, corpus.take(listed), choices, listed)
    columns["place"] = where[listed].tolist()
    return Packed(_packed(columns), chunks, len(listed), int((where[listed, 0] >= 0).sum()))


def _by_interest(corpus: Corpus) -> Ints:
    """Row numbers: where teachers differ, then where any answered, then the rest; each in the order of a hash."""
    noise = np.array([xxhash.xxh3_64_intdigest(i.encode()) for i in corpus.question_ids.to_pylist()], np.uint64)
    rank = np.where(differing(corpus), 0, np.where(corpus.usable.any(axis=1), 1, 2))
    return np.lexsort((noise, rank))


def _columns(con: duckdb.DuckDBPyConnection, part: Corpus, choices: list[Choice], rows: Ints) -> dict[str, Any]:
    """What is known of every question listed, column by column."""
    domains = part.domain.dictionary_encode()
    used, codes = np.unique(np.concatenate([part.answer.ravel(), part.gold]), return_inverse=True)
    codes = codes - (used[0] == UNREAD)  # UNREAD stays -1
    answers, gold = codes[: part.answer.size].reshape(part.answer.shape), codes[part.answer.size :]
    vocabulary = part.vocabulary.take(pa.array(used[used != UNREAD]))
    return {
        "ids": part.question_ids.to_pylist(),
        "titles": _titles(con, part),
        "split": _letters(part.split),
        "domains": domains.dictionary.to_pylist(),
        "domain": domains.indices.fill_null(-1).to_pylist(),
        "vocabulary": [word[:200] for word in vocabulary.to_pylist()],
        "gold": gold.tolist(),
        "answers": [column.tolist() for column in answers.T],
        "states": [_letters(column) for column in _states(part).T],
        "kept": [c.teacher[rows].tolist() for c in choices],
        "right": [_letters(c.right[rows].astype(np.int8)) for c in choices],
    }


def _states(part: Corpus) -> npt.NDArray[np.int8]:
    """(Q, T) 0 wrong, 1 right, 2 answered but gold unknown, 3 no answer read."""
    unread = part.answer == UNREAD
    return np.where(unread, 3, np.where(part.correct < 0, 2, part.correct)).astype(np.int8)


def _titles(con: duckdb.DuckDBPyConnection, part: Corpus) -> list[str]:
    longest = max(100, min(2000, TITLE_CHARS // max(len(part), 1)))
    place = np.arange(len(part), dtype=np.int32)
    con.register("listed", pa.table({"question_id": part.question_ids, "place": place}))
    titles: list[str] = con.sql(TITLES, params={"longest": longest}).to_arrow_table()["title"].to_pylist()
    return titles


def _letters(digits: npt.NDArray[np.int8]) -> str:
    """One digit per question as a string: the smallest JSON, and quick to read."""
    return (digits + ord("0")).astype(np.uint8).tobytes().decode("ascii")


def _pack_texts(
    con: duckdb.DuckDBPyConnection, corpus: Corpus, methods: list[str], order: Ints
) -> tuple[list[str], npt.NDArray[np.int32]]:
    """Chunks of texts, and (Q, 2) the chunk and the place in it of each question; -1 where its texts are left out."""
    rows = _affordable(con, corpus, order)
    where = np.full((len(corpus), 2), -1, np.int32)
    chunks: list[str] = []
    size = at = 0
    for batch in _batches(_texts(con, corpus, methods, rows)):
        packed = _deflated(b"[" + b",".join(batch) + b"]")
        size += len(packed)
        if size > PACKED_BYTES:
            break
        mine = rows[at : at + len(batch)]
        where[mine] = np.column_stack([np.full(len(mine), len(chunks)), np.arange(len(mine))])
        chunks.append(packed)
        at += len(batch)
    return chunks, where


def _affordable(con: duckdb.DuckDBPyConnection, corpus: Corpus, order: Ints) -> Ints:
    """The first questions of ``order`` whose texts stay within `RAW_CHARS`; if that is all, as in the workspace."""
    found = con.sql(LENGTHS, params={"longest": LONGEST}).to_arrow_table()
    chars = np.zeros(len(corpus), np.int64)
    chars[found["row"].to_numpy()] = found["chars"].to_numpy()
    fit = int(np.searchsorted(np.cumsum(chars[order]), RAW_CHARS, side="right"))
    whole = chars.sum() * 0.5 < PACKED_BYTES and fit == len(order)  # text packs to less than half its size
    return np.sort(order) if whole else order[:fit]


def _texts(con: duckdb.DuckDBPyConnection, corpus: Corpus, methods: list[str], rows: Ints) -> Iterator[bytes]:
    """The JSON of each question of ``rows``, in their order."""
    ids = corpus.question_ids.take(pa.array(rows))
    place = np.arange(len(rows), dtype=np.int32)
    con.register("wanted", pa.table({"question_id": ids, "place": place}))
    con.register("cells", _cells(corpus, ids, rows))
    values = {"longest": LONGEST, "methods": methods}
    for batch in con.sql(TEXTS, params=values).to_arrow_reader(1000):
        for row in batch.to_pylist():
            yield orjson.dumps(_without_nulls(row))


def _cells(corpus: Corpus, ids: pa.StringArray, rows: Ints) -> pa.Table:
    """The response that is each teacher's answer to each question of ``rows``."""
    n, t = len(rows), len(corpus.teachers)
    teacher = np.tile(np.arange(t, dtype=np.int32), n)
    place = np.repeat(np.arange(n, dtype=np.int32), t)
    columns = {
        "place": place,
        "teacher": teacher,
        "question_id": ids.take(pa.array(place)),
        "teacher_id": pa.array(corpus.teachers).take(pa.array(teacher)),
        "sample_idx": corpus.sample[rows].ravel(),
    }
    return pa.table(columns)


def _without_nulls(value: Any) -> Any:
    """The value without the keys of structs that are null."""
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None and k != "place"}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value


def _batches(items: Iterator[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item)
        if size >= CHUNK_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _packed(value: Any) -> str:
    return _deflated(orjson.dumps(value))


def _deflated(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode("ascii")
