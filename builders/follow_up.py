"""The second turn: where no answer can be read from a reply that came whole, the answer is asked for alone.

It is a request of its own, with the reply as the assistant's turn in its messages, so its hash, its place in the
journal and its repeats are as any other's. It is due only as long as the reader finds nothing in the first reply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builders.journal import Answered, Journal, Record
from builders.read_answer import Answer, read_answer
from builders.reply import read_completion
from builders.structured import as_text

if TYPE_CHECKING:
    from builders.prompt import Question
    from builders.requests import Plan, Request
    from builders.teacher import Teacher


def reading(teacher: Teacher, question: Question, text: str) -> Answer:
    """What a teacher's text says: its answer and rationale."""
    if teacher.structured:
        text = as_text(text, question["task"])
    return read_answer(text, question["task"], question["choices"])


def follow_up(plan: Plan, request: Request, record: Record | None) -> Request | None:
    """The second turn of a request; None where the teacher has none, or its reply leaves nothing to ask."""
    if not plan.teacher.follow_up or not isinstance(record, Answered) or record.status != "ok":
        return None
    completion = read_completion(record.reply)
    if completion is None or reading(plan.teacher, request.question, completion.text).status == "read":
        return None
    return plan.second_turn(request, completion.text)


def due(plan: Plan, request: Request, journal: Journal) -> Request | None:
    """What a build has to send for a planned request: itself, its second turn, or nothing."""
    if not plan.teacher.follow_up:
        return None if journal.settled(request.hash) else request
    record = journal.find(request.hash)
    return missing_turn(plan, request, record, journal) if isinstance(record, Answered) else request


def missing_turn(plan: Plan, request: Request, record: Record, journal: Journal) -> Request | None:
    """The second turn of a request that was answered, if it is due and has no answer yet."""
    second = follow_up(plan, request, record)
    return None if second is None or journal.settled(second.hash) else second
