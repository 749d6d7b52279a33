"""Apply a purifier to a corpus with the leakage rules kept, and publish the result in a workspace.

fit        sees labelled train questions only
train      each train question is judged by a purifier that was fitted without its fold
the rest   is judged by a purifier fitted on all train questions
gold       is hidden when choosing, except on train questions for a method that declares the signal GOLD

A question is its id: a copy of it under another id may be in another fold, or in another split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from purifiers.base import Purified, Purifier, Signal
from schemas.corpus import Corpus
from schemas.database import refresh
from schemas.errors import InputError, Interrupted
from schemas.parquet import swapped_folder
from schemas.tables import CALLS, SPLITS
from schemas.workspace import told_disk_errors

if TYPE_CHECKING:
    from purifiers.equipment import OnFit
    from schemas.workspace import Workspace

FOLDS = 5
Step = Callable[[str], AbstractContextManager[object]]
"""Called with the name of a step; the step runs inside what it returns."""


def purify(purifier: Purifier, corpus: Corpus, *, folds: int = FOLDS, seed: int = 0) -> tuple[Purifier, Purified]:
    """Choose for every question of the corpus; return the purifier fitted on all train questions, and the choice.

    Args:
        purifier: an unfitted method.
        corpus: all questions; gold may be known on any of them.
        folds: how many parts the train questions are cut into for out-of-fold choices.
        seed: of the cut.

    Raises:
        InputError: the method learns from gold and no train question tells of any, or those that do are in one fold.
    """
    asker, train = purifier.equipment.asker, corpus.rows("train")
    others = np.flatnonzero(~np.isin(np.arange(len(corpus)), train))
    if not purifier.needs_fit:
        return purifier, purifier.purify(shown(corpus, purifier))
    fold = fold_of(corpus.take(train), folds, seed)
    if len(set(fold[corpus.judgeable[train]].tolist())) == 1:
        raise InputError(
            f"{purifier.name} judges a train question by what it learned from other folds, and all labelled ones are "
            f"in one of the {folds} folds: label more, or cut them otherwise (--seed)"
        )
    judged_apart = [train[fold == k] for k in range(folds) if (fold == k).any()]
    on_fit = purifier.equipment.on_fit
    fitted = fit(_telling(purifier, f"fit 1 of {1 + len(judged_apart)}", on_fit), corpus)
    parts = [(others, fitted)] if len(others) else []
    for k, judged in enumerate(judged_apart, start=2):
        one = _telling(purifier, f"fit {k} of {1 + len(judged_apart)}", on_fit)
        parts.append((judged, fit(one, corpus.take(np.setdiff1d(train, judged)))))
    seen, kept, start = shown(corpus, purifier), [], 0
    for k, (rows, judge) in enumerate(parts, start=1):
        end = start + len(rows)
        one = _telling(judge, f"choice {k} of {len(parts)}", on_fit)
        with asker.part(start / len(corpus), end / len(corpus)) if asker else nullcontext():
            kept.append((rows, one.purify(seen.take(rows))))
        start = end
    return fitted, merge(len(corpus), kept)


def _telling(purifier: Purifier, which: str, on_fit: OnFit) -> Purifier:
    """The purifier, which says of its fit or choice which of several it is."""

    def told(done: int, total: int, facts: str) -> None:
        on_fit(done, total, f"{which}  {facts}")

    return purifier.equipped(replace(purifier.equipment, on_fit=told))


def fit(purifier: Purifier, corpus: Corpus) -> Purifier:
    """Fit on the labelled train questions of the corpus.

    Raises:
        InputError: there is none.
        Interrupted: Ctrl-C.
    """
    train = corpus.rows("train")
    told = train[corpus.judgeable[train]]
    if not len(told):
        raise InputError(_why_nothing_to_learn(purifier.name, corpus.take(train)))
    try:
        return purifier.fit(corpus.take(told))
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted while {purifier.name} was fitted: a fit starts again from its beginning; what other methods "
            "have published, and every reply that arrived, is kept"
        ) from None


def _why_nothing_to_learn(method: str, train: Corpus) -> str:
    if train.labelled.any():
        return (
            f"{method} learns from answers to labelled train questions and none can be judged: each failed, or was "
            "given with gold shown; ask without it, or use a method that needs no gold, such as majority"
        )
    return (
        f"{method} learns from labelled train questions and there are none: label some, or split the questions "
        "(split_by_hash in the recipe), or use a method that needs no gold, such as majority"
    )


def fold_of(corpus: Corpus, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """(Q,) fold of each question, by a hash of its id: it stays when questions are added."""
    return np.array(
        [xxhash.xxh3_64_intdigest(i.encode(), seed) % folds for i in corpus.question_ids.to_pylist()], np.int64
    )


def shown(corpus: Corpus, purifier: Purifier) -> Corpus:
    """The corpus as the purifier may see it when it chooses: gold hidden, but for the leakage rules above."""
    if not purifier.publishable:
        return corpus
    if Signal.GOLD not in purifier.looks_at:
        return corpus.hide_gold()
    hidden = np.ones(len(corpus), np.bool_)
    hidden[corpus.rows("train")] = False
    return corpus.hide_gold(hidden)


def merge(n: int, parts: list[tuple[npt.NDArray[np.int64], Purified]]) -> Purified:
    """Put choices made on parts of the questions back into one, by row number."""
    width = next((p.probabilities.shape[1] for _, p in parts if p.probabilities is not None), None)
    probabilities = None if width is None else np.full((n, width), np.nan, np.float32)
    teacher, score = np.full(n, -1, np.int64), np.full(n, np.nan, np.float32)
    for rows, part in parts:
        teacher[rows], score[rows] = part.teacher, part.score
        if probabilities is not None and part.probabilities is not None:
            probabilities[rows] = part.probabilities
    every = None
    if any(part.every is not None for _, part in parts):
        every = np.zeros((n, next(p.every.shape[1] for _, p in parts if p.every is not None)), np.bool_)
        for rows, part in parts:
            every[rows] = part.every
    return Purified(
        teacher,
        score,
        probabilities,
        every=every,
        rejected={int(rows[r]): why for rows, part in parts for r, why in part.rejected.items()},
        synthesised={int(rows[r]): made for rows, part in parts for r, made in part.synthesised.items()},
        notes={int(rows[r]): note for rows, part in parts for r, note in part.notes.items()},
    )


def publish(workspace: Workspace, purifier: Purifier, *, folds: int = FOLDS, seed: int = 0) -> tuple[Corpus, Purified]:
    """Purify a workspace's questions into ``purified/``, ``rejected/``, ``calls/``, ``routers/`` and the DuckDB file.

    Raises:
        InputError: the method serves evaluation alone, or cannot be fitted here.
        WorkspaceError: the workspace is held by another run, has no responses, or the disk is full.
    """
    ((_, corpus, kept),) = publish_each(workspace, [purifier], folds=folds, seed=seed)
    return corpus, kept


def publish_each(
    workspace: Workspace,
    purifiers: Sequence[Purifier],
    step: Step = lambda _: nullcontext(),
    *,
    folds: int = FOLDS,
    seed: int = 0,
) -> Iterator[tuple[Purifier, Corpus, Purified]]:
    """`publish` by several methods, one after the other, with the responses read once and one lock for all.

    Args:
        workspace: what to purify.
        purifiers: each is published, then yielded with the corpus and what it kept.
        step: told what is under way.
        folds: see `purify`.
        seed: likewise.

    Raises:
        InputError: as `publish`, and what earlier methods published stands; or one serves evaluation alone, and
            nothing is done.
        WorkspaceError: as `publish`.
    """
    for purifier in purifiers:
        if not purifier.publishable:
            raise InputError(
                f"{purifier.name} looks at the gold answers of test questions: it is for  raffinate evaluate  alone"
            )
    with workspace.lock():
        corpus = Corpus.of(workspace)
        for purifier in purifiers:
            with step(f"purifying by {purifier.name}"):
                kept = _publish(workspace, corpus, purifier, folds, seed)
            yield purifier, corpus, kept


def _publish(workspace: Workspace, corpus: Corpus, purifier: Purifier, folds: int, seed: int) -> Purified:
    from purifiers.store import save
    from purifiers.write import write_purified

    asker = purifier.equipment.asker
    if asker:
        asker.ledger(purifier.name)  # what a choice that was not published asked is none of ours
    fitted, kept = purify(purifier, corpus, folds=folds, seed=seed)
    calls = asker.ledger(purifier.name) if asker else CALLS.arrow.empty_table()
    seen = fingerprint(fitted, corpus, folds, seed, calls)
    router = workspace.router_dir(purifier.name)
    with told_disk_errors(workspace.path), swapped_folder(router, workspace.aside) as fresh:
        save(fitted, fresh)
        write_purified(workspace, corpus, purifier, kept, seen)
        workspace.write_calls(purifier.name, _with_split(calls, corpus))
    refresh(workspace)
    return kept


def _with_split(calls: pa.Table, corpus: Corpus) -> pa.Table:
    """The calls with the split of their question."""
    place = pc.index_in(calls["question_id"], corpus.question_ids).to_numpy()
    return calls.append_column("split", pa.array(SPLITS).take(pa.array(corpus.split[place])))


def fingerprint(fitted: Purifier, corpus: Corpus, folds: int, seed: int, calls: pa.Table) -> str:
    """16 hex digits that change with the method, its settings, what it learned, and the answers and gold it saw.

    Of a rationale, they change with whether it is usable and not with its text. Of what the method asked, they change
    with the requests, and with which of them were answered.
    """
    digest = hashlib.sha256(orjson.dumps([fitted.name, fitted.model_dump(mode="json"), corpus.teachers, folds, seed]))
    seen = corpus.hide_gold(corpus.split != SPLITS.index("train")) if fitted.needs_fit else shown(corpus, fitted)
    said = np.zeros(len(corpus.vocabulary) + 1, np.bool_)  # gold is in the vocabulary, too: number what was answered
    said[corpus.answer] = True  # UNREAD is the last
    answer = np.cumsum(said, dtype=np.int32)[corpus.answer]
    for array in [*fitted.state().values(), answer, corpus.usable, seen.correct, corpus.sample, corpus.split]:
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(orjson.dumps(corpus.vocabulary.filter(said[:-1]).to_pylist()))
    if Signal.STUDENT in fitted.looks_at:
        digest.update(fitted.student.name.encode())
    for buffer in corpus.question_ids.buffers():
        digest.update(buffer or b"")
    for name in ("request_hash", "status"):
        digest.update(orjson.dumps(calls[name].to_pylist()))
    return digest.hexdigest()[:16]
