"""Checks of texts for `cards.verify`: personal data, repetition, overlap, language.

personal data     DuckDB finds candidates by shape; `phonenumbers` and `python-stdnum` say which are real
near duplicates   MinHash over word 3-grams (`datasketch`), Jaccard similarity
overlap           shared word n-grams between train and test, as in the appendix of GPT-3 (arXiv 2005.14165)
language          `py3langid` on a sample
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from schemas.database import quote
from schemas.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    import duckdb
    import numpy.typing as npt

Found = tuple[str, Literal["error", "warning", "note"], str, list[str]]
"""Check, level, message, examples."""

CANDIDATES = {
    "e-mail address": r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}",
    "phone number": r"(?:\+\d{1,3}[ .-]?)(?:\(?\d{1,4}\)?[ .-]?){2,5}\d{2,4}|\(\d{3}\) ?\d{3}-\d{4}"
    r"|\b\d{3}-\d{3}-\d{4}\b|\b\d{3}\.\d{3}\.\d{4}\b",
    "bank account (IBAN)": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b",
    # not after a point: digits of a fraction pass the check digit once in ten
    "payment card": r"(?:^|[^\w.])(?:(?:[3-6]\d{3}|2[2-7]\d{2})[ -]?\d{4}[ -]?\d{4}[ -]?\d{4}"
    r"|3[47]\d{2}[ -]?\d{6}[ -]?\d{5})\b",
    "US social security number": r"\b\d{3}-\d{2}-\d{4}\b",
}
RESERVED = re.compile(r"@(?:[\w-]+\.)*(?:example\.(?:com|org|net)|example|test|invalid|localhost)$", re.I)
"""Domains that belong to nobody (RFC 2606)."""
PERSONAL = (
    ("questions", "question_id", ("question", "context", "choices"), ""),
    (
        "responses",
        "question_id || ', ' || teacher_id",
        ("rationale", "reasoning", "raw_text", "follow_up", "error_message"),
        "",
    ),
    ("purified", "question_id || ', ' || method", ("rationale",), "WHERE teacher_id IS NULL"),
    ("calls", "question_id || ', ' || method", ("reply", "error_message"), ""),
)
"""Table, key, columns and which rows personal data is looked for in; a purified row of a teacher is a response."""
LOOKED_AT = 20_000
"""Cells with candidates that are looked at closely per table."""

NGRAM = 13
SHORT_NGRAM = 8
"""Words in a row that two questions share: 13 as for GPT-3, 8 where a question is shorter, all where it has fewer."""
IN_A_ROW = f"{NGRAM} words in a row ({SHORT_NGRAM} in short ones, all in those of fewer)"
JACCARD = 0.8
HASHES = 128
MOST_COMPARED = 200_000
"""Questions that are compared for near duplicates; beyond it a sample by hash."""
SAMPLE = 2_000
"""Texts whose language is guessed."""
NO_LANGUAGE = "zxx"
"""What py3langid calls text without language, such as formulas."""
SAME_MEANING = 0.95


def personal_data(con: duckdb.DuckDBPyConnection) -> Iterator[Found]:
    """E-mail addresses, phone numbers, bank accounts, cards and social security numbers."""
    confirm = _confirmers()
    places: dict[str, list[str]] = {}
    shape = quote("|".join(f"(?:{candidate})" for candidate in CANDIDATES.values()))
    for table, key, columns, which in PERSONAL:
        cells = ", ".join(f"{name}::VARCHAR" for name in columns)
        sql = f"SELECT {key}, concat_ws(chr(10), {cells}) AS text FROM {table} {which}"
        found = con.execute(f"SELECT * FROM ({sql}) WHERE regexp_matches(text, {shape}) LIMIT {LOOKED_AT}").fetchall()
        for where, text in found:
            for kind, candidate in CANDIDATES.items():
                if any(confirm[kind](match) for match in re.findall(candidate, text)):
                    places.setdefault(kind, []).append(f"{table} {where}")
    for kind, where in sorted(places.items()):
        yield "personal-data", "warning", f"{len(where):,} texts hold what looks like a {kind}", where


def _confirmers() -> dict[str, Callable[[str], bool]]:
    """Kind -> whether a candidate is real."""
    import phonenumbers
    import stdnum.iban
    import stdnum.luhn
    import stdnum.us.ssn

    def phone(text: str) -> bool:
        return any(True for _ in phonenumbers.PhoneNumberMatcher(text, "US"))

    return {
        "e-mail address": lambda text: not RESERVED.search(text),
        "phone number": phone,
        "bank account (IBAN)": stdnum.iban.is_valid,
        "payment card": lambda text: stdnum.luhn.is_valid(re.sub(r"\D", "", text)),
        "US social security number": stdnum.us.ssn.is_valid,
    }


def near_duplicates(con: duckdb.DuckDBPyConnection) -> Iterator[Found]:
    """Questions that are the same, or nearly."""
    same = con.execute(REPEATED.format(normal=NORMAL.format("question"))).fetchall()
    if same:
        extra, across = (sum(n - 1 for *_, n, splits in same if splits >= least) for least in (1, 2))
        message = f"{extra:,} questions repeat another one" + (f", {across:,} of another split" if across else "")
        yield "near-duplicates", "warning", message, [named if splits > 1 else ids for ids, named, _, splits in same]
    near = _near(con)
    if near:
        message = f"{len(near):,} questions share at least {JACCARD:.0%} of their word 3-grams with an earlier one"
        yield "near-duplicates", "warning", message, near


_SYMBOLS = "+*/%^<=>×÷±≤≥≠−-"
_UNSPACED = "".join(f"\\p{{{{{s}}}}}" for s in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar"))
NORMAL = (
    "trim(regexp_replace(regexp_replace(regexp_replace(lower({}), '-(\\p{{L}})', ' \\1', 'g'), "
    f"'([{_UNSPACED}]|[{_SYMBOLS}]+)', ' \\1 ', 'g'), '[^\\p{{{{L}}}}\\p{{{{M}}}}\\p{{{{N}}}}{_SYMBOLS}]+', ' ', 'g'))"
)
"""Words in small letters with one space between. A sign of arithmetic is a word, as 12 + 5 is not 12 - 5 (a hyphen
before a letter is none), and so is each character of a script that does not part its words."""

REPEATED = """
SELECT string_agg(question_id, ' = ' ORDER BY question_id),
       string_agg(question_id || ' (' || split || ')', ' = ' ORDER BY question_id), count(*), count(DISTINCT split)
FROM questions GROUP BY {normal}, choices, context HAVING count(*) > 1 ORDER BY 4 DESC, 1
"""


def _near(con: duckdb.DuckDBPyConnection) -> list[str]:
    """``id ~ earlier id`` of near duplicates that are no exact ones."""
    from datasketch import MinHash, MinHashLSH

    rows = con.execute(
        f"SELECT question_id, {NORMAL.format('question')} || "
        "array_to_string([' ' || c.text for c in choices], '') "
        f"FROM questions ORDER BY hash(question_id) LIMIT {MOST_COMPARED}"
    ).fetchall()
    # misses weigh more than false candidates, which the exact similarity below throws out again
    index, pairs = MinHashLSH(threshold=JACCARD, num_perm=HASHES, weights=(0.1, 0.9)), []
    seen: dict[str, set[bytes]] = {}
    for name, text in rows:
        words = text.split()
        shingles = {" ".join(words[i : i + 3]).encode() for i in range(max(1, len(words) - 2))}
        mine = MinHash(num_perm=HASHES)
        mine.update_batch(sorted(shingles))
        similar = [other for other in index.query(mine) if _jaccard(shingles, seen[other]) >= JACCARD]
        if similar and all(seen[other] != shingles for other in similar):
            pairs.append(f"{name} ~ {similar[0]}")
        if not similar:
            index.insert(name, mine)
            seen[name] = shingles
    return pairs


def _jaccard(a: set[bytes], b: set[bytes]) -> float:
    return len(a & b) / len(a | b)


# a text has grams of one length alone, so one that is shorter than that is found where it is the whole text
GRAMS = f"""
WITH words AS (
    SELECT id, string_split(text, ' ') AS w FROM (SELECT id, {{normal}} AS text FROM {{source}}) WHERE text <> ''
), sized AS (
    SELECT id, w, CASE WHEN len(w) >= {NGRAM} THEN {NGRAM} ELSE least(len(w), {SHORT_NGRAM}) END AS n FROM words
)
SELECT DISTINCT id, hash(list_slice(w, i, i + n - 1)) AS gram
FROM (SELECT id, w, n, unnest(range(1, len(w) - n + 2)) AS i FROM sized)
"""


def _grams(source: str) -> str:
    return GRAMS.format(normal=NORMAL.format("text"), source=f"({source})")


def _ours(where: str = "true") -> str:
    # numbers of a template, such as "case 12", stay: two questions that differ in them are two questions
    return f"SELECT question_id AS id, concat_ws(' ', context, question) AS text FROM questions WHERE {where}"


def overlap_with_test(con: duckdb.DuckDBPyConnection) -> Iterator[Found]:
    """Test questions that share words in a row with train or validation questions."""
    shared = _shared(con, _ours("split = 'test'"), _ours("split <> 'test'"))
    if shared:
        message = (
            f"{len(shared):,} test questions share {IN_A_ROW} with a train or validation question: results on them "
            "may flatter (templates and shared passages show up here too)"
        )
        yield "train-test-overlap", "warning", message, shared


def overlap_with_benchmarks(con: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> Iterator[Found]:
    """Our questions that share words in a row with the questions of a benchmark."""
    for file in files:
        con.execute(f"CREATE OR REPLACE TEMP TABLE benchmark AS {_benchmark(con, Path(file))}")
        shared = _shared(con, _ours(), "SELECT id, text FROM benchmark")
        if shared:
            message = f"{len(shared):,} questions share {IN_A_ROW} with {file}"
            yield "benchmark-overlap", "warning", message, shared


def _shared(con: duckdb.DuckDBPyConnection, ours: str, theirs: str) -> list[str]:
    """``our id ~ their id`` of texts with an n-gram in common, one of theirs for each of ours."""
    first = f"SELECT gram, min(id) AS id FROM ({_grams(theirs)}) GROUP BY gram"  # else a preamble pairs all with all
    sql = (
        f"SELECT a.id || ' ~ ' || min(b.id) FROM ({_grams(ours)}) a JOIN ({first}) b USING (gram) "
        "GROUP BY a.id ORDER BY a.id"
    )
    return [row[0] for row in con.execute(sql).fetchall()]


def _benchmark(con: duckdb.DuckDBPyConnection, file: Path) -> str:
    """SQL for ``id, text`` of a file's questions.

    Raises:
        InputError: it is not there, of another kind, or has no column ``question``.
    """
    import duckdb

    readers = {".parquet": "read_parquet", ".csv": "read_csv", ".json": "read_json_auto", ".jsonl": "read_json_auto"}
    if not file.is_file():
        raise InputError(f"there is no benchmark file {file}")
    name = quote(str(file))
    if file.suffix == ".txt":
        lines = f"SELECT unnest(string_split(content, chr(10))) AS text FROM read_text({name})"
        return f"SELECT 'line ' || row_number() OVER () AS id, text FROM ({lines})"
    if file.suffix not in readers:
        raise InputError(f"{file} is no benchmark file: use .txt, .jsonl, .json, .csv or .parquet")
    sql = f"SELECT 'row ' || row_number() OVER () AS id, question::VARCHAR AS text FROM {readers[file.suffix]}({name})"
    try:
        con.execute(f"SELECT * FROM ({sql}) LIMIT 1")
    except duckdb.Error as error:
        raise InputError(f"{file} cannot be read as questions (a column 'question'): {str(error)[:200]}") from None
    return sql


def same_meaning(
    con: duckdb.DuckDBPyConnection, encode: Callable[[list[str]], npt.NDArray[np.float32]], block: int = 1024
) -> Iterator[Found]:
    """Test questions whose embedding nearly equals one of a train question (cosine)."""
    test, train = (con.execute(_ours(f"split = '{split}'")).fetchall() for split in ("test", "train"))
    if not test or not train:
        return
    vectors = encode([text for _, text in train])  # (train, dim), unit length
    pairs = []
    for start in range(0, len(test), block):
        part = test[start : start + block]
        similarity = encode([text for _, text in part]) @ vectors.T  # (block, train)
        best = similarity.argmax(axis=1)
        hits = np.flatnonzero(similarity[np.arange(len(part)), best] >= SAME_MEANING)
        pairs += [f"{part[i][0]} ~ {train[best[i]][0]}" for i in hits]
    if pairs:
        message = f"{len(pairs):,} test questions mean nearly the same as a train question (cosine >= {SAME_MEANING})"
        yield "train-test-overlap", "warning", message, pairs


def languages(con: duckdb.DuckDBPyConnection, expected: str | None = None) -> Iterator[Found]:
    """Which languages rationales are in, and how many are not in the expected one."""
    identifier = _language_identifier()
    rows = con.execute(
        "SELECT question_id || ', ' || teacher_id, rationale FROM responses "
        "WHERE status = 'ok' AND rationale_chars >= 60 "
        f"ORDER BY hash(question_id, teacher_id) LIMIT {SAMPLE}"
    ).fetchall()
    if not rows:
        return
    guesses = [(where, *identifier.classify(text[:1000])) for where, text in rows]
    sure = [(where, code) for where, code, probability in guesses if probability >= 0.9 and code != NO_LANGUAGE]
    counts = Counter(code for _, code in sure)
    if not counts:
        return
    wanted = expected or counts.most_common(1)[0][0]
    shares = ", ".join(f"{code} {count / len(sure):.1%}" for code, count in counts.most_common(5))
    yield "language", "note", f"languages of {len(sure):,} rationales: {shares}", []
    strange = [f"{where} ({code})" for where, code in sure if code != wanted]
    if strange:
        yield "language", "warning", f"{len(strange):,} of {len(sure):,} rationales are not in '{wanted}'", strange


@cache
def _language_identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
