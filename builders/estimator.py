"""Say what a purifier would ask, without asking: the same calls, counted in place of sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builders.asker import Asker, Call, Calls, Said
from builders.build import TeacherEstimate
from builders.journal import Journal, cache_file


@dataclass
class _Count:
    """Of one teacher or judge: calls, those without an answer, their bytes and token limits, tokens of known replies.

    ``replies`` and ``tokens`` are of the answered calls that report their tokens.
    """

    calls: int = 0
    requests: int = 0
    size: int = 0
    limit: int = 0
    replies: int = 0
    tokens: int = 0


class Estimator(Asker):
    """An asker that gives the replies that are known, and counts the others as `builders.build.estimate` does.

    What is asked in view of replies that are not known yet is counted as if they were other than what was shown before.

    Args:
        asker: whose calls would be sent.
    """

    def __init__(self, asker: Asker) -> None:
        super().__init__(asker.workspace, [*asker.teachers.values()], asker.settings)
        self._counts: dict[str, _Count] = {}
        self._seen: set[str] = set()

    def ask(
        self,
        calls: Sequence[Call],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        share: float = 1.0,
    ) -> list[Said]:
        """What is known; a call that has no answer yet has failed."""
        plans = self._plans(calls, max_tokens, temperature)
        with Journal(cache_file(self.workspace, self.settings.cache)) as journal:
            found = {name: list(plan.said(journal, None)) for name, plan in plans.items()}
        for name, plan in plans.items():
            self._add(self._counts.setdefault(name, _Count()), plan, found[name])
        theirs = {name: iter(said) for name, said in found.items()}
        return [next(theirs[call.to]) for call in calls]

    def _add(self, count: _Count, plan: Calls, found: list[Said]) -> None:
        requests = (request for _, batch in plan.batches() for request in batch)
        for request, said in zip(requests, found, strict=True):
            row = said.row or {}
            asked = said.status != "failed"
            # what a second round shows is not known yet: it is another request, though it looks like that of the first
            name = request.hash if asked else f"{row['purpose']} {request.hash}"
            if name in self._seen:
                continue
            self._seen.add(name)
            count.calls += 1
            if not asked:
                count.requests, count.size = count.requests + 1, count.size + len(request.body)
                count.limit += request.max_tokens
            elif row["completion_tokens"] is not None:
                count.replies, count.tokens = count.replies + 1, count.tokens + row["completion_tokens"]

    def estimates(self) -> list[TeacherEstimate]:
        """What was counted, per teacher or judge.

        The completion tokens go by the replies to such calls that are known, else by all in the journal, else by the
        token limit.
        """
        replies = sum(count.replies for count in self._counts.values())
        tokens = sum(count.tokens for count in self._counts.values())
        with Journal(cache_file(self.workspace, self.settings.cache)) as journal:
            mean = tokens / replies if replies else journal.mean_completion_tokens()
        return [
            TeacherEstimate.of(
                self.teachers[name],
                rows=count.calls,
                requests=count.requests,
                size=count.size,
                limit=count.limit,
                mean=count.tokens / count.replies if count.replies else mean,
            )
            for name, count in self._counts.items()
        ]
