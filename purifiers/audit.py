"""What a purifier did to a corpus: conflict before and after, whose rationales it kept, and what is wrong with them.

No gold is needed. Conflict among T teachers, on questions where two or more answers were read:

    entropy        of the answers, over log(number read): 0 = agreed, 1 = all differ (`purifiers.votes.conflict`)
    disagreement   share of pairs of teachers that answer differently
    fleiss_kappa   Fleiss (1971), agreement beyond chance: 1 = full, 0 = chance; each question has its own options, so
                   answers are compared as labels ("A"), where the answers are labels
    js_divergence  between two teachers' distributions of answers, in bits, averaged over pairs: how far they prefer
                   other labels altogether
    spread         1 - mean cosine between the vectors of two rationales of a question, if an encoder is given
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from purifiers.base import Purified, blocks
from purifiers.evaluate import share_entropy
from purifiers.support import support
from purifiers.votes import agreement, conflict
from schemas.corpus import UNREAD, Corpus

COLLAPSED = 0.9
"""A teacher with this share of the kept rationales is a collapse."""
SAYS_ANSWER = re.compile(
    r"\b(?:the|my|correct|final)\s+(?:correct\s+|final\s+)?(?:answer|option|choice)\s*(?:is|:)", re.I
)

PLAIN = re.compile(r"\W+")

Floats = npt.NDArray[np.float64]
Encode = Callable[[list[str]], npt.NDArray[np.float32]]
"""N texts to (N, D) unit vectors."""


@dataclass(frozen=True)
class Conflict:
    """Conflict among answers; see the module. None where nothing can be compared."""

    entropy: float | None
    disagreement: float | None
    fleiss_kappa: float | None
    js_divergence: float | None
    spread: float | None


@dataclass(frozen=True)
class Audit:
    """One method on one corpus; shares are in 0..1.

    Attributes:
        method: its name.
        signals: what it looked at.
        kept: questions kept.
        rejected: reason -> questions.
        conflict: among all teachers' answers.
        agreement: mean share of the read answers that equal the kept one (what conflict is left).
        share: teacher -> share of the kept rationales.
        entropy: of the shares, over log(number of teachers).
        collapsed: one teacher has `COLLAPSED` or more of the kept rationales.
        contradicting: share of kept rationales whose words support another option than their answer on every sign that
            tells the two apart.
        leaking: share of kept rationales that still state the answer ("the answer is"), beside their answer line.
        repeated: share of kept rationales that are word for word an earlier one.
        characters: median length of the kept rationales.
        characters_before: median length of all usable ones.
    """

    method: str
    signals: tuple[str, ...]
    kept: int
    rejected: dict[str, int]
    conflict: Conflict
    agreement: float | None
    share: dict[str, float]
    entropy: float
    collapsed: bool
    contradicting: float
    leaking: float
    repeated: float
    characters: float
    characters_before: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def audit(
    corpus: Corpus,
    kept: Purified,
    method: str,
    signals: frozenset[str] = frozenset(),
    encode: Encode | None = None,
) -> Audit:
    """Audit a choice.

    Args:
        corpus: the questions that were chosen for.
        kept: the choice; synthesised rationales count as kept, and are not read.
        method: its name.
        signals: what it looked at.
        encode: makes vectors of rationales, for the spread of their meanings.
    """
    rows = np.flatnonzero(kept.teacher >= 0)
    column = kept.teacher[rows]
    texts = corpus.rationale_texts(rows, column)
    everything = corpus.rationale_texts(*np.nonzero(corpus.usable))
    counts = np.bincount(column, minlength=len(corpus.teachers)) / max(len(rows), 1)
    chosen = corpus.take(rows)
    code = chosen.answer[np.arange(len(rows)), column]
    return Audit(
        method=method,
        signals=tuple(sorted(signals)),
        kept=len(rows) + len(kept.synthesised),
        rejected=_counted(kept),
        conflict=conflict_of(corpus, encode),
        agreement=_mean(agreement(chosen, code)),
        share=dict(zip(corpus.teachers, counts.tolist(), strict=True)),
        entropy=share_entropy(counts),
        collapsed=len(corpus.teachers) > 1 and bool(counts.max(initial=0) >= COLLAPSED),
        contradicting=float(np.mean(contradicts(chosen, code, texts))) if len(rows) else 0.0,
        leaking=float(np.mean([bool(SAYS_ANSWER.search(t)) for t in texts])) if texts else 0.0,
        repeated=1 - len({PLAIN.sub(" ", t.lower()).strip() for t in texts}) / len(texts) if texts else 0.0,
        characters=float(np.median([len(t) for t in texts])) if texts else 0.0,
        characters_before=float(np.median([len(t) for t in everything])) if everything else 0.0,
    )


def conflict_of(corpus: Corpus, encode: Encode | None = None) -> Conflict:
    """Conflict among the teachers' read answers and, with an encoder, among their rationales."""
    spread = None if encode is None else _mean(np.concatenate([spread_of(part, encode) for part in blocks(corpus)]))
    return Conflict(_mean(conflict(corpus)), _disagreement(corpus), fleiss_kappa(corpus), _js(corpus), spread)


def spread_of(corpus: Corpus, encode: Encode) -> Floats:
    """(Q,) 1 - mean cosine between two usable rationales of the question; NaN where there are fewer than two.

    With n unit vectors and their sum s, the cosines of the pairs add up to (|s|^2 - n) / 2.
    """
    row, column = np.nonzero(corpus.usable)
    n = corpus.usable.sum(axis=1)
    vectors = encode(corpus.rationale_texts(row, column))
    total = np.zeros((len(corpus), vectors.shape[1]))
    np.add.at(total, row, vectors)
    pairs = n * (n - 1)
    cosine = ((total**2).sum(axis=1) - n) / np.maximum(pairs, 1)
    return np.where(pairs > 0, 1 - cosine, np.nan)


def _disagreement(corpus: Corpus) -> float | None:
    read = corpus.answer != UNREAD
    differ = both = 0
    for i in range(len(corpus.teachers)):
        for j in range(i):
            pair = read[:, i] & read[:, j]
            both += int(pair.sum())
            differ += int((pair & (corpus.answer[:, i] != corpus.answer[:, j])).sum())
    return differ / both if both else None


def fleiss_kappa(corpus: Corpus) -> float | None:
    """Kappa over the questions with two or more read answers, which may differ in number; None if chance is certain."""
    counts = _label_counts(corpus)
    n = counts.sum(axis=1)
    counts, n = counts[n >= 2], n[n >= 2]
    if not len(n):
        return None
    observed = float((((counts**2).sum(axis=1) - n) / (n * (n - 1))).mean())
    expected = float(((counts.sum(axis=0) / counts.sum()) ** 2).sum())
    return None if expected >= 1 - 1e-12 else (observed - expected) / (1 - expected)


def _label_counts(corpus: Corpus) -> Floats:
    """(Q, labels) how many teachers gave each answer; answers that no question shares still count as one label each."""
    labels, code = np.unique(corpus.answer[corpus.answer != UNREAD], return_inverse=True)
    counts = np.zeros((len(corpus), len(labels)))
    row = np.nonzero(corpus.answer != UNREAD)[0]
    np.add.at(counts, (row, code), 1)
    return counts


def _js(corpus: Corpus) -> float | None:
    labels = np.unique(corpus.answer[corpus.answer != UNREAD])
    columns = [corpus.answer[:, t][corpus.answer[:, t] != UNREAD] for t in range(len(corpus.teachers))]
    shares = [np.searchsorted(labels, c) for c in columns if len(c)]
    spread = [np.bincount(s, minlength=len(labels)) / len(s) for s in shares]
    pairs = [js_divergence(p, q) for i, p in enumerate(spread) for q in spread[:i]]
    return float(np.mean(pairs)) if pairs else None


def js_divergence(p: Floats, q: Floats) -> float:
    """Jensen-Shannon divergence of two distributions, in bits: 0 = the same, 1 = nothing in common."""
    middle = (p + q) / 2

    def kl(a: Floats) -> float:
        some = a > 0
        return float((a[some] * np.log2(a[some] / middle[some])).sum())

    return (kl(p) + kl(q)) / 2


def contradicts(corpus: Corpus, code: npt.NDArray[np.int32], texts: list[str]) -> list[bool]:
    """Whether each question's rationale supports another choice than its answer.

    That is so where some other choice is supported at least as much on every sign of `purifiers.support`, and more on
    two or more of them. A heuristic: a rationale that refutes the other choices by name at its end is caught too.
    """
    words, found = corpus.vocabulary.to_pylist(), []
    for options, answer, text in zip(corpus.choice_texts(), code.tolist(), texts, strict=True):
        if answer == UNREAD or words[answer] not in options:
            found.append(False)
            continue
        signs = support([text], options)[0]
        own = signs[list(options).index(words[answer])]
        found.append(bool(((signs >= own).all(axis=1) & ((signs > own).sum(axis=1) >= 2)).any()))
    return found


def _counted(kept: Purified) -> dict[str, int]:
    reasons, counts = np.unique(list(kept.rejected.values()), return_counts=True)
    return dict(zip(reasons.tolist(), counts.tolist(), strict=True))


def _mean(values: npt.NDArray[np.floating]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
