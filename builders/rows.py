"""From what the journal knows to rows of the table `responses`, one per planned request, failures included.

Answers are read anew each time the rows are made, so a better reader needs no request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa

from builders.batch_log import BatchLog, Submitted
from builders.follow_up import follow_up, reading
from builders.journal import FIND, Answered, Failed, Journal, Record
from builders.read_answer import grade
from builders.reply import Completion, read_completion
from schemas.tables import RESPONSES

if TYPE_CHECKING:
    from builders.engine import End
    from builders.requests import Plan, Request

NOT_ASKED = ("not_asked", "it was not asked yet: run the build again")
UNDER_WAY = ("under_way", "it is in a batch that the server has not answered yet: run the build again to collect it")
MESSAGES = 1000  # different ones that are counted: some servers put a number of their own into each
NOTHING = Completion(None, "", None, None, None, None, None, None)


@dataclass
class TeacherRows:
    """Rows of one teacher, by status.

    Attributes:
        errors: the failed ones by error class.
        messages: the failed ones by error message, the first `MESSAGES` different ones.
        unfinished: those that have a reply, but no answer to the question that follows it.
        batches: what the server's Batch API has under way, as far as `builders.build.status` was asked.
    """

    teacher_id: str
    statuses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    unfinished: int = 0
    batches: list[Submitted] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All rows."""
        return self.statuses.total()

    @property
    def settled(self) -> bool:
        """Whether nothing is left to ask."""
        return not self.statuses["failed"] and not self.unfinished

    def add(self, status: str, error_class: str | None, message: str | None = None) -> None:
        """Count a row."""
        self.statuses[status] += 1
        if error_class and status == "failed":
            self.errors[error_class] += 1
            if message and (message in self.messages or len(self.messages) < MESSAGES):
                self.messages[message] += 1
        elif error_class:
            self.unfinished += 1


class Rows:
    """The rows of one teacher; ``counts`` are those made so far."""

    def __init__(self, plan: Plan, journal: Journal, end: End | None = None) -> None:
        self._plan, self._journal, self._batches = plan, journal, BatchLog(journal)
        self._not_asked = (end.error_class, end.message) if end else NOT_ASKED
        self.counts = TeacherRows(plan.teacher.id)

    def batches(self) -> Iterator[tuple[str, pa.Table]]:
        """Yield ``(split, rows)`` in the order of the plan; memory holds one batch."""
        for split, requests in self._plan.batches():
            rows: list[dict[str, Any]] = []
            while part := list(islice(requests, FIND)):
                rows += self._rows(part)
            for row in rows:
                self.counts.add(row["status"], row["error_class"], row["error_message"])
            yield split, pa.Table.from_pylist(rows, schema=RESPONSES.arrow)

    def _rows(self, requests: list[Request]) -> Iterator[dict[str, Any]]:
        found = self._journal.find_all([request.hash for request in requests])
        for request in requests:
            record = found.get(request.hash)
            if request.wanted or isinstance(record, Answered):
                yield self._row(request, record)

    def _row(self, request: Request, record: Record | None) -> dict[str, Any]:
        body = record.reply if record else None
        completion = (read_completion(body) if body else None) or NOTHING
        row = self._asked(request) | self._said(completion, record)
        row |= self._read(request, completion, answered=isinstance(record, Answered))
        row |= self._outcome(request, record)
        if completion is NOTHING and body:
            row["raw_text"] = body.decode("utf-8", "replace")
        second = follow_up(self._plan, request, record) if row["answer_status"] == "unread" else None
        return row | self._second(second, row) if second else row

    def _asked(self, request: Request) -> dict[str, Any]:
        teacher = self._plan.teacher
        return {
            "question_id": request.question["question_id"],
            "teacher_id": teacher.id,
            "sample_idx": request.sample_idx,
            "gold_shown": self._plan.prompt.gold_shown,
            "prompt_id": self._plan.prompt.id,
            "request_hash": request.hash,
            "model": teacher.model,
            "model_revision": teacher.revision,
            "params": orjson.dumps(self._plan.sent_params(request), option=orjson.OPT_SORT_KEYS).decode(),
            "source": "build",
        }

    def _said(self, completion: Completion, record: Record | None) -> dict[str, Any]:
        price, paid_by = self._plan.teacher.price, paid_for(record, completion)
        batched = record is not None and record.batched
        return {
            "reasoning": completion.reasoning,
            "raw_text": completion.refusal if completion.content is None else completion.content,
            "finish_reason": completion.finish_reason,
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
            "mean_logprob": completion.mean_logprob,
            "cost_usd": price.cost(paid_by.prompt_tokens, paid_by.completion_tokens, batched=batched)
            if price
            else None,
        }

    def _read(self, request: Request, completion: Completion, *, answered: bool) -> dict[str, Any]:
        """Read and grade the answer. A refusal explains nothing; one that saw gold, or never came, has no grade."""
        question, gold = request.question, request.question["answer"]
        text = completion.text if answered and completion.status != "refused" else ""
        answer = reading(self._plan.teacher, question, text)
        graded = answered and gold is not None and not self._plan.prompt.gold_shown
        return {
            "rationale": answer.rationale or None,
            "rationale_chars": len(answer.rationale),
            "predicted_answer": answer.value,
            "answer_status": answer.status,
            "is_correct": grade(answer.value, gold, question["task"]) if graded else None,
        }

    def _outcome(self, request: Request, record: Record | None) -> dict[str, Any]:
        if isinstance(record, Answered):
            said: dict[str, Any] = {"status": record.status, "error_class": None, "error_message": None}
        elif isinstance(record, Failed):
            said = {"status": "failed", "error_class": record.error_class, "error_message": record.message}
        else:
            kind, message = UNDER_WAY if self._batches.under_way(request.hash) else self._not_asked
            return {"status": "failed", "error_class": kind, "error_message": message, "attempts": 0}
        return said | {"attempts": record.attempts, "latency_ms": record.latency_ms, "created_at": record.at_ms}

    def _second(self, request: Request, row: dict[str, Any]) -> dict[str, Any]:
        """What the second turn changes: the answer, and what both turns took together."""
        record = self._journal.find(request.hash)
        outcome = self._outcome(request, record)
        if record is None and not request.wanted:
            return {}
        changed = {name: outcome[name] for name in ("error_class", "error_message")}
        changed["attempts"] = row["attempts"] + outcome["attempts"]
        if not isinstance(record, Answered):
            return changed
        completion = read_completion(record.reply) or NOTHING
        said, read = self._said(completion, record), self._read(request, completion, answered=True)
        changed |= {name: read[name] for name in ("predicted_answer", "answer_status", "is_correct")}
        changed |= {name: _both(row[name], said[name]) for name in ("prompt_tokens", "completion_tokens", "cost_usd")}
        thoughts = [text for text in (row["reasoning"], said["reasoning"]) if text]
        return changed | {
            "follow_up": said["raw_text"],
            "reasoning": "\n\n".join(thoughts) or None,
            "latency_ms": row["latency_ms"] + outcome["latency_ms"],
            "created_at": outcome["created_at"],
        }


def paid_for(record: Record | None, completion: Completion) -> Record | Completion:
    """What has the tokens that were paid: the record, which counts all attempts, unless it is a failure of before."""
    silent = isinstance(record, Failed) and record.paid_nothing
    return completion if record is None or silent else record


def _both(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
