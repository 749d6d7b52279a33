"""How a question becomes the two training tasks of a student: predict the answer, explain it.

The layout of distilling step-by-step (arXiv 2305.02301) and TinyLLM (arXiv 2402.04616): the same question under two
prefixes. The target of a prediction is the text of the chosen option, not its label; at test only `PREDICT` is used.
"""

from __future__ import annotations

import pyarrow as pa

PREDICT = "predict: "
EXPLAIN = "explain: "


def explain_prefix(number: int | None = None) -> str:
    """The prefix of the rationale task: of the one rationale, or of teacher ``number`` (0, 1, ...) of several.

    TinyLLM gives every teacher a prefix of its own; which words it has does not matter, only that they differ.
    """
    return EXPLAIN if number is None else f"explain {number + 1}: "


def answer_texts(questions: pa.Table, answers: pa.Array) -> list[str | None]:
    """What a student is to say for each answer: the option's text for a choice, the answer itself otherwise.

    Args:
        questions: a table with the columns ``task`` and ``choices``, one row per answer.
        answers: labels or canonical answers; null stays None, as does a label that is no option's.
    """
    tasks, choices = questions["task"].to_pylist(), questions["choices"].to_pylist()
    return [
        next((c["text"] for c in options if c["label"] == answer), None) if task == "choice" else answer
        for task, options, answer in zip(tasks, choices, answers.to_pylist(), strict=True)
    ]
