"""``raffinate build --route METHOD --from WS``: a router fitted in one workspace decides whom to ask in another.

Only a method that looks at nothing but the question can do this. It saves (n-1)/n of the cost with n teachers (arXiv
2602.01064 uses its routers so out of domain); what is saved is paid for in answers that nobody has to compare.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from builders.route import Route
from purifiers.base import Purifier, Signal
from purifiers.store import load
from schemas.corpus import UNREAD, Corpus
from schemas.errors import InputError
from schemas.render import prompts
from schemas.tables import QUESTIONS
from schemas.workspace import Workspace


def route_of(method: str, source: str | os.PathLike[str], teachers: Sequence[str], top: int = 1) -> Route:
    """The route that a fitted purifier takes: for each question the ``top`` teachers that it scores highest.

    Args:
        method: a method that was purified in ``source``.
        source: workspace that keeps the fitted purifier.
        teachers: the teachers that can be asked; the others that the purifier knows are left out.
        top: how many teachers to ask about each question.

    Raises:
        InputError: the method looks at more than the question, or knows none of the teachers.
        WorkspaceError: ``source`` has no such fitted purifier.
    """
    router = load(Workspace.open(source).router_dir(method))
    if not router.signals <= {Signal.QUESTION}:
        raise InputError(
            f"{method} looks at {', '.join(sorted(router.signals))}, which nobody has before asking: "
            "route by plackett-luce, similarity, classifier or best-teacher"
        )
    known = tuple(t for t in teachers if t in router.fitted_teachers)
    if not known:
        has = ", ".join(router.fitted_teachers)
        raise InputError(f"the router {method} of {source} knows {has}, and none of the recipe's teachers")

    def route(questions: Sequence[Any]) -> list[Collection[str]]:
        ranked = np.argsort(-_scores(router, questions, known), axis=1, kind="stable")[:, :top]
        return [{known[column] for column in row} for row in ranked]

    return route


def _scores(router: Purifier, questions: Sequence[Any], teachers: tuple[str, ...]) -> Any:
    shape = (len(questions), len(teachers))
    table = pa.Table.from_pylist(list(questions), schema=QUESTIONS.arrow)
    unknown = np.full(shape, UNREAD, np.int32)
    corpus = Corpus(
        question_ids=table["question_id"].combine_chunks(),
        teachers=teachers,
        split=np.zeros(len(table), np.int8),
        domain=table["domain"].combine_chunks(),
        usable=np.ones(shape, np.bool_),
        answer=unknown,
        correct=unknown.astype(np.int8),
        gold=unknown[:, 0],
        sample=np.zeros(shape, np.int32),
        vocabulary=pa.array([], pa.string()),
        texts=_Unanswered(table),
    )
    return router.score(corpus)


@dataclass(frozen=True)
class _Unanswered:
    """Texts of questions that nobody has answered yet."""

    table: pa.Table

    def questions(self, ids: Sequence[str]) -> list[str]:
        """See `schemas.corpus.Texts`; all questions are asked for at once, in order."""
        texts: list[str] = prompts(self.table).to_pylist()
        return texts

    def choices(self, ids: Sequence[str]) -> list[dict[str, str]]:
        """See `schemas.corpus.Texts`."""
        return [{c["label"]: c["text"] for c in choices} for choices in self.table["choices"].to_pylist()]

    def asked(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """See `schemas.corpus.Texts`."""
        rows: list[dict[str, Any]] = self.table.drop_columns(["answer"]).to_pylist()
        return rows

    def rationales(self, ids: Sequence[str], teachers: Sequence[str], samples: Sequence[int]) -> list[str]:
        """See `schemas.corpus.Texts`: there are none."""
        return [""] * len(ids)

    def grades(
        self, ids: Sequence[str], teachers: Sequence[str], samples: Sequence[int]
    ) -> list[tuple[float | None, float | None]]:
        """See `schemas.corpus.Texts`: there are none."""
        return [(None, None)] * len(ids)
