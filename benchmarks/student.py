"""Methods that look at a student, the likelihoods of plackett-luce, and combined methods, on the sets of `purifiers`.

python -m benchmarks.student --sets svamp --seeds 1      teacher-selection taught a tiny student; minutes on one core
python -m benchmarks.student --sets four --seeds 3 --only likelihoods,combined

The columns are those of `benchmarks.purifiers`. A student's gain cannot be seen in the accuracy of a choice: what a
student learns from it is measured by training one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.purifiers import options, table
from purifiers.base import Purifier, Signal
from purifiers.equipment import Equipment
from purifiers.registry import method
from schemas.corpus import Corpus

GROUPS = {
    "likelihoods": [("plackett-luce", {"likelihood": which}) for which in ("pairs", "winners", "ranking")],
    "combined": [
        ("consensus", {}),
        ("gate", {"otherwise": "plackett-luce"}),
        ("filtered", {"chooser": "consensus"}),
    ],
    "fine-tuning": [
        (name, settings)
        for name in ("classifier", "similarity")
        for settings in ({}, {"fine_tune": {"pooling": "mean", "epochs": 3}})
    ],
    "student": [
        ("best-teacher", {}),
        ("teacher-selection", {}),
        ("teacher-selection", {"policy": "bernoulli"}),
        ("teacher-selection", {"policy": "bernoulli", "baseline": "none"}),
    ],
}


def equipped(purifier: Purifier, corpus: Corpus, model: str) -> Purifier:
    if Signal.STUDENT not in purifier.looks_at:
        return purifier
    from distill.protocol import student_for
    from distill.spec import StudentSpec

    spec = StudentSpec(model=model, max_target=128)
    texts = [*corpus.question_texts(), *corpus.rationale_texts(*np.nonzero(corpus.usable))]
    return purifier.equipped(Equipment(student=student_for(spec, texts if spec.is_tiny else ())))


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--only", default=",".join(GROUPS), help="groups: " + ", ".join(GROUPS))
    parser.add_argument("--student", default="tiny-seq2seq", help="model id or folder")
    args = parser.parse_args()

    def made(which: str, settings: dict[str, Any]) -> tuple[str, Callable[[Corpus], Purifier]]:
        told = ", ".join(f"{key}={value}" for key, value in settings.items())
        return f"{which} {told}".strip(), lambda corpus: equipped(method(which)(**settings), corpus, args.student)

    table(args, [made(*pair) for group in args.only.split(",") for pair in GROUPS[group]])


if __name__ == "__main__":
    main()
