"""The plan of a build: every (question, teacher, sample) as one request, made lazily, with the hash that names it.

A request's hash covers all that reaches the wire: endpoint, model, revision, messages, parameters, and the sample
index. It is the key of the cache: equal hashes are asked once, whoever asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import orjson
import pyarrow.parquet as pq
import xxhash

from builders.structured import answer_form
from schemas.errors import WorkspaceError
from schemas.tables import QUESTIONS
from schemas.workspace import question_files

if TYPE_CHECKING:
    from builders.prompt import Prompt, Question
    from builders.teacher import Teacher
    from schemas.workspace import Workspace

BATCH_ROWS = 16_384
_HASH_VERSION = 1


@dataclass(frozen=True, slots=True)
class Request:
    """One question to one teacher, as bytes ready to send.

    Attributes:
        base: hash of the request as the recipe has it; differs from ``hash`` where a retry changed its token limit.
        wanted: a router did not leave this teacher out.
        turn: 2 for the question that follows a reply without an answer; see `builders.follow_up`.
    """

    question: Question
    sample_idx: int
    body: bytes
    hash: str
    base: str
    max_tokens: int
    wanted: bool = True
    turn: int = 1


class Work(Protocol):
    """What the engine walks: all requests to one teacher, in batches under a name of their own."""

    @property
    def workspace(self) -> Workspace:
        """Where logs go."""
        ...

    @property
    def teacher(self) -> Teacher:
        """Whom to ask."""
        ...

    @property
    def rows(self) -> int:
        """How many requests there are."""
        ...

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[tuple[str, Iterator[Request]]]:
        """Yield the requests, a few at a time; they are made as they are taken."""
        ...


class Wire:
    """How a request to one teacher looks on the wire, and the hash that names it."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self._params = wire_params(teacher)
        self._identity = orjson.dumps([_HASH_VERSION, teacher.endpoint, teacher.revision])

    def sampling(self, sample: int, max_tokens: int) -> dict[str, Any]:
        """The sampling parameters, as sent."""
        params = self._params | {self.teacher.max_tokens_field: max_tokens}
        if self.teacher.params.seed is not None:
            params["seed"] = self.teacher.params.seed + sample
        return params

    def request(self, asked: Mapping[str, Any], sample: int, max_tokens: int) -> tuple[bytes, str]:
        """Body and hash of a request that asks ``asked`` (messages, and what else the question brings)."""
        content = {"model": self.teacher.model, **asked} | self.sampling(sample, max_tokens)
        body = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
        # the sample index stands before the body, which cannot be confused with it: the identity is a closed JSON list
        return body, xxhash.xxh3_128_hexdigest(b"%b%d\n%b" % (self._identity, sample, body))


class Plan:
    """All requests to one teacher. Iterating reads the questions batch by batch; nothing is kept.

    Args:
        workspace: where the questions are.
        teacher: whom to ask.
        prompt: how to ask.
        overrides: token limits that a retry put in the recipe's place, by base hash; see `builders.journal`.
        marks: one byte per question, 1 where the teacher is to be asked; None = everywhere; see `builders.route`.
    """

    def __init__(
        self,
        workspace: Workspace,
        teacher: Teacher,
        prompt: Prompt,
        overrides: Mapping[str, int] | None = None,
        marks: bytes | None = None,
    ) -> None:
        self.workspace, self.teacher, self.prompt = workspace, teacher, prompt
        self.overrides, self.marks = overrides or {}, marks
        self._wire = Wire(teacher)

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[tuple[str, Iterator[Request]]]:
        """Yield ``(split, requests)`` in the order train, validation, test and as the questions were written.

        The requests of a batch are made one by one, as they are taken.
        """
        step, done = max(1, rows // self.teacher.samples), 0
        for file in self._files():
            with pq.ParquetFile(file) as parquet:
                for batch in parquet.iter_batches(BATCH_ROWS, columns=QUESTIONS.names):
                    for start in range(0, batch.num_rows, step):
                        questions = batch.slice(start, step).to_pylist()
                        end = done + len(questions)
                        marks = self.marks[done:end] if self.marks is not None else bytes([1]) * len(questions)
                        done = end
                        yield questions[0]["split"], self._requests(questions, marks)

    def _requests(self, questions: list[Question], marks: bytes) -> Iterator[Request]:
        for question, wanted in zip(questions, marks, strict=True):
            yield from self.requests(question, wanted=bool(wanted))

    @property
    def rows(self) -> int:
        """How many requests are to be answered."""
        if self.marks is not None:
            return self.teacher.samples * sum(self.marks)
        rows: int = sum(pq.read_metadata(f).num_rows for f in self._files())
        return self.teacher.samples * rows

    def _files(self) -> list[Path]:
        files = question_files(self.workspace.questions_dir)
        if not files:
            raise WorkspaceError(f"{self.workspace.path} has no questions yet: give it some before asking teachers")
        return files

    def requests(self, question: Question, *, wanted: bool = True) -> Iterator[Request]:
        """Yield the requests for one question, one per sample."""
        asked = self._asked(question)
        for sample in range(self.teacher.samples):
            limit = self.teacher.params.max_tokens
            body, base = self._wire.request(asked, sample, limit)
            stands = base
            if base in self.overrides:
                limit = self.overrides[base]
                body, stands = self._wire.request(asked, sample, limit)
            yield Request(question, sample, body, stands, base, limit, wanted)

    def with_max_tokens(self, request: Request, max_tokens: int) -> Request:
        """The same request with another token limit."""
        body, changed = self._wire.request(self._asked(request.question), request.sample_idx, max_tokens)
        return Request(request.question, request.sample_idx, body, changed, request.base, max_tokens)

    def second_turn(self, request: Request, said: str) -> Request:
        """The request that goes on from a reply, and asks for the answer alone; held to no JSON."""
        question, sample = request.question, request.sample_idx
        turns = [
            *self.prompt.messages(question),
            {"role": "assistant", "content": said},
            {"role": "user", "content": self.prompt.follow_up(question)},
        ]
        body, name = self._wire.request({"messages": turns}, sample, request.max_tokens)
        return Request(question, sample, body, name, name, request.max_tokens, request.wanted, turn=2)

    def sent_params(self, request: Request) -> dict[str, Any]:
        """The sampling parameters of a request, as sent."""
        return self._wire.sampling(request.sample_idx, request.max_tokens)

    def _asked(self, question: Question) -> dict[str, Any]:
        """What the question itself puts on the wire."""
        form = answer_form(question, self.teacher.structured) if self.teacher.structured else {}
        return {"messages": self.prompt.messages(question)} | form


def wire_params(teacher: Teacher) -> dict[str, Any]:
    """The parameters that are the same for every request to a teacher, under the names the server knows."""
    given = teacher.params.model_dump(exclude_none=True, exclude={"extra_body", "max_tokens", "seed"})
    return given | teacher.params.extra_body
