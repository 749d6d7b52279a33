"""How purifiers that ask fare against votes, with the sandbox's teachers as judges, and what a purified row costs.

    python -m benchmarks.judging                     three worlds of 1,500 questions, judged on their test part

The judges are simulated (`builders/sandbox/judges.py`): the figures say whether the methods do what they should with
fallible judges, and nothing about language models.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from builders.asker import Asker
from builders.build import build
from builders.prompt import Prompt
from builders.sandbox import TEACHERS, SandboxServer, SandboxTeacher, questions
from builders.teacher import Price, Teacher
from purifiers.aggregate import Aggregate
from purifiers.base import Purifier
from purifiers.best_teacher import BestTeacher
from purifiers.consensus import Consensus
from purifiers.debate import Debate
from purifiers.equipment import Equipment
from purifiers.evaluate import Evaluation, evaluate
from purifiers.majority import Majority
from purifiers.oracle import Oracle
from purifiers.pairwise import Pairwise
from purifiers.peer_review import PeerReview
from schemas.corpus import Corpus
from schemas.workspace import Workspace

JUDGE = SandboxTeacher(name="wise", default=0.8)
PRICE = Price(prompt_per_million=1, completion_per_million=2)

METHODS: dict[str, Purifier] = {
    "best-teacher": BestTeacher(),
    "majority": Majority(),
    "consensus": Consensus(),
    "aggregate, judge dee": Aggregate(judge="dee"),
    "aggregate, judge wise": Aggregate(judge="wise"),
    "aggregate, judge dee, majority stated": Aggregate(judge="dee", majority=True),
    "peer-review": PeerReview(),
    "peer-review, centred": PeerReview(centred=True),
    "peer-review, judge wise": PeerReview(judges=("wise",)),
    "pairwise": Pairwise(),
    "pairwise, judge wise": Pairwise(judges=("wise",)),
    "debate, 1 round": Debate(rounds=1),
    "debate, 2 rounds": Debate(),
    "oracle": Oracle(),
}


def world(folder: Path, n: int, seed: int) -> list[Evaluation]:
    """Every method on the test part of one world."""
    workspace = Workspace.create(folder)
    with workspace.lock():
        workspace.write_questions(questions(n, seed))
    with SandboxServer(teachers=(*TEACHERS, JUDGE), seed=seed) as sandbox:
        asked = [Teacher(id=t.name, model=t.model, base_url=sandbox.url, price=PRICE) for t in (*TEACHERS, JUDGE)]
        build(workspace, asked[:-1], Prompt.load("free"))
        equipment = Equipment(asker=Asker(workspace, asked))
        return evaluate(Corpus.of(workspace), [m.equipped(equipment) for m in METHODS.values()], on="test", seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=1500)
    options = parser.parse_args()
    found: dict[str, list[Evaluation]] = defaultdict(list)
    for seed in range(options.worlds):
        with TemporaryDirectory() as folder:
            for name, row in zip(METHODS, world(Path(folder) / "ws", options.questions, seed), strict=True):
                found[name].append(row)
    lines = ["| method | accuracy | sd | gap | kept | cost per 1,000 rows |", "|---|---:|---:|---:|---:|---:|"]
    for name, rows in found.items():
        accuracy = np.array([r.accuracy for r in rows])
        gap = np.mean([r.gap_closed or 0.0 for r in rows])
        costs = [r.cost_usd for r in rows if r.cost_usd is not None]
        cost = f"${1000 * np.mean(costs):.2f}" if costs else ""
        kept = np.mean([r.coverage for r in rows])
        lines.append(
            f"| {name} | {accuracy.mean():.3f} | {accuracy.std(ddof=1):.3f} | {gap:.2f} | {kept:.3f} | {cost} |"
        )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
