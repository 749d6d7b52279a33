"""Purifiers on real teachers' answers: five splits of the questions, gold of the test part unused.

    python -m benchmarks.purifiers [--sets four,six,commonsense_qa,svamp] [--methods majority,consensus]
        [--seeds 5] [--random] [--train 200] [--data $RAFFINATE_DATA]

Splits are by a hash of the question, or drawn at random (`--random`). `knn` takes the teacher that was right most often
on the 150 nearest train questions. 70 % of the questions are train, 30 % test; a row is the mean over the splits, and
the standard deviation of the accuracy. "gap" = (accuracy - best single) / (oracle - best single), best single = best
on train; "ece" = expected calibration error of the kept answers' probabilities, where these are the chance to be right,
and in brackets what true probabilities would show on as many questions; "worse" counts the splits where the method is
significantly below the best single teacher (paired bootstrap, 95 %).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from builders.importer import Selection, read_corpus
from purifiers.base import Purifier, Scores, Signal
from purifiers.best_teacher import BestTeacher
from purifiers.comparison import paired
from purifiers.encoder import embed
from purifiers.evaluate import calibration_of, choices_on, is_right, labelled_rows
from purifiers.registry import method
from schemas.corpus import Corpus
from schemas.database import refresh
from schemas.tables import SPLITS
from schemas.workspace import Workspace

EQUAL = ("llama-3.1-8b-instruct", "mixtral-8x7b-instruct", "phi-3-mini-4k-instruct", "mathstral-7b")
SETS = {
    "four": ("mmlu_pro", EQUAL),
    "six": ("mmlu_pro", (*EQUAL, "llama-3.1-70b-instruct", "qwen1.5-72b-chat")),
    "commonsense_qa": ("commonsense_qa", ("palm-540b", "llama3-chatqa-1.5-8b")),
    "svamp": ("svamp", ("palm-540b", "llama3-chatqa-1.5-8b", "flan-t5-large-mentor", "t5-large-mentor")),
}
METHODS = (
    "random",
    "best-teacher",
    "majority",
    "plackett-luce",
    "similarity",
    "classifier",
    "knn",
    "consensus",
    "oracle",
)
NEAREST = 150


@dataclass(frozen=True)
class Split:
    accuracy: float
    gap: float
    coverage: float
    ece: float
    floor: float
    seconds: float
    worse: bool


def load(name: str, data: Path, folder: Path) -> Corpus:
    corpus = Corpus.of(workspace_of(name, data, folder / name), SETS[name][1])
    everyone = (corpus.correct >= 0).sum(axis=1) >= 2  # svamp: 300 questions have one teacher's answer alone
    return corpus.take(np.flatnonzero(everyone))


def workspace_of(
    name: str, data: Path, folder: Path, shares: dict[str, float] | None = None, most: int | None = None
) -> Workspace:
    """A set as a workspace: by default the questions on file as they are split; or split anew, and ``most`` of them."""
    dataset, teachers = SETS[name]
    taken = Selection(datasets=[dataset], teachers=teachers, split_by_hash=shares)
    found = read_corpus(data / "questions.parquet", data / "responses.parquet", taken)
    answered = pc.is_in(found.questions["question_id"], pc.unique(found.responses["question_id"]))
    questions = found.questions.filter(answered)
    if most is not None:
        questions = questions.take(pa.array(np.sort(np.random.default_rng(0).permutation(len(questions))[:most])))
    split_of = dict(zip(questions["question_id"].to_pylist(), questions["split"].to_pylist(), strict=True))
    workspace = Workspace.create(folder)
    with workspace.lock():
        workspace.write_questions(questions)
        for teacher in teachers:
            rows = found.responses.filter(pc.equal(found.responses["teacher_id"], teacher))
            splits = pa.array([split_of.get(i) for i in rows["question_id"].to_pylist()], pa.string())
            parts = [(s, rows.filter(pc.equal(splits, s))) for s in SPLITS]
            workspace.write_responses(teacher, [(s, part) for s, part in parts if len(part)])
        refresh(workspace)
    return workspace


class Nearest(Purifier):
    """The teacher that was right most often on the nearest train questions: what a router has to beat."""

    name = "knn"
    signals = frozenset({Signal.QUESTION})
    learns = True

    def fit(self, corpus: Corpus) -> Self:
        vectors = embed(corpus.question_texts())
        return self.restore({"vectors": vectors, "right": corpus.correct == 1}, corpus.teachers)

    def score(self, corpus: Corpus) -> Scores:
        cosine = embed(corpus.question_texts()) @ self.learned("vectors").T
        near = np.argpartition(-cosine, min(NEAREST, cosine.shape[1]) - 1, axis=1)[:, :NEAREST]
        return self.among_teachers(self.learned("right")[near].mean(axis=1), corpus)


def split(corpus: Corpus, seed: int, train: int | None, *, by_hash: bool = True) -> Corpus:
    if by_hash:
        test = np.array([xxhash.xxh3_64_intdigest(i.encode(), seed) % 10 >= 7 for i in corpus.question_ids.to_pylist()])
    else:
        test = np.random.default_rng(seed).permutation(len(corpus)) >= 0.7 * len(corpus)
    rows = np.flatnonzero(~test)
    if train is not None:
        rows = np.random.default_rng(seed).permutation(rows)[:train]
    kept = np.sort(np.concatenate([rows, np.flatnonzero(test)]))
    codes = np.where(test, SPLITS.index("test"), SPLITS.index("train")).astype(np.int8)
    return replace(corpus, split=codes).take(kept)


def judge(corpus: Corpus, purifier: Purifier) -> Split:
    rows = labelled_rows(corpus, "test")
    part = corpus.take(rows)
    best = is_right(part, choices_on(BestTeacher(), corpus, rows, "test", 0))
    started = time.perf_counter()
    kept = choices_on(purifier, corpus, rows, "test", 0)
    seconds = time.perf_counter() - started
    right = is_right(part, kept)
    oracle = ((part.correct == 1) & part.usable).any(axis=1).mean()
    sure = calibration_of(part, kept) if purifier.gives_chances else None
    return Split(
        accuracy=float(right.mean()),
        gap=float((right.mean() - best.mean()) / (oracle - best.mean())),
        coverage=float((kept.teacher >= 0).mean()),
        ece=sure.ece if sure else np.nan,
        floor=sure.floor if sure else np.nan,
        seconds=seconds,
        worse=paired(right, best).high < 0,
    )


def options(about: str | None) -> argparse.ArgumentParser:
    """Those that every benchmark on these sets has."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--random", action="store_true", help="draw the splits at random")
    parser.add_argument("--train", type=int, default=None, help="use so many train questions only")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RAFFINATE_DATA", "../shared/data")))
    return parser


def table(args: argparse.Namespace, methods: Sequence[tuple[str, Callable[[Corpus], Purifier]]]) -> None:
    """Print a row per set and method; a method is made for each split."""
    print("| set | method | accuracy | sd | gap | coverage | ece | s | worse |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    with TemporaryDirectory() as folder:
        for name in args.sets.split(","):
            corpus = load(name, args.data, Path(folder))
            for label, made in methods:
                parts = (split(corpus, seed, args.train, by_hash=not args.random) for seed in range(args.seeds))
                print(row(name, label, [judge(part, made(part)) for part in parts]), flush=True)


def plain(which: str) -> Callable[[Corpus], Purifier]:
    return lambda _: Nearest() if which == "knn" else method(which)()


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--methods", default=",".join(METHODS))
    args = parser.parse_args()
    table(args, [(which, plain(which)) for which in args.methods.split(",")])


def row(name: str, which: str, found: list[Split]) -> str:
    def mean(field: str) -> float:
        return float(np.mean([getattr(s, field) for s in found]))

    spread = float(np.std([s.accuracy for s in found]))
    ece = "" if np.isnan(mean("ece")) else f"{mean('ece'):.3f} ({mean('floor'):.3f})"
    return (
        f"| {name} | {which} | {mean('accuracy'):.3f} | {spread:.3f} | {mean('gap'):.2f} "
        f"| {mean('coverage'):.3f} | {ece} | {mean('seconds'):.1f} | {sum(s.worse for s in found)} of {len(found)} |"
    )


if __name__ == "__main__":
    main()
