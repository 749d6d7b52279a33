"""A server's Batch API through the openai package: upload, create, look, download; and what a downloaded line says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

import orjson

from builders.client import Answer, Failure, Reply, bare, judge, openai_client, told, without
from builders.reply import parsed_json
from schemas.errors import TeacherError

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch

    from builders.teacher import Teacher

ENDPOINT: Final = "/v1/chat/completions"
OUR_NAME = "raffinate"
"""Key of a batch's metadata that holds our own name for it."""
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
SEARCHED = 1000
"""Batches of the server that are looked through for one of ours, newest first."""
_KINDS = {"batch_expired": "expired", "batch_cancelled": "cancelled"}


class Refused(TeacherError):
    """The server did not do what it was asked.

    Attributes:
        failure: its error class, message and Retry-After.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class BatchServer:
    """One teacher's server. Every call raises `Refused` where it fails."""

    def __init__(self, teacher: Teacher, client: AsyncOpenAI) -> None:
        self._teacher, self._client = teacher, client

    @classmethod
    @asynccontextmanager
    async def opened(cls, teacher: Teacher) -> AsyncIterator[BatchServer]:
        """Connect to the teacher's first URL."""
        async with openai_client(teacher, teacher.base_url[0]) as client:
            yield cls(teacher, client)

    async def upload(self, file: Path) -> str:
        """Upload the requests of a batch; return the file's id."""
        with file.open("rb") as opened, _refusing(self._teacher):
            return (await self._client.files.create(file=(file.name, opened), purpose="batch")).id

    async def create(self, name: str, file_id: str, window: str) -> str:
        """Start a batch; return its id."""
        with _refusing(self._teacher):
            made = await self._client.batches.create(
                input_file_id=file_id,
                endpoint=ENDPOINT,
                completion_window=window,  # type: ignore[arg-type]  # other servers have other windows
                metadata={OUR_NAME: name},
            )
        return made.id

    async def find(self, name: str) -> str | None:
        """The id of a batch by our own name for it; None where the server does not list it."""
        seen = 0
        with _refusing(self._teacher):
            async for batch in self._client.batches.list(limit=100):
                if (batch.metadata or {}).get(OUR_NAME) == name:
                    return batch.id
                seen += 1
                if seen >= SEARCHED:
                    break
        return None

    async def look(self, batch_id: str) -> Batch:
        """How far a batch is."""
        with _refusing(self._teacher):
            return await self._client.batches.retrieve(batch_id)

    async def lines(self, file_id: str) -> AsyncIterator[bytes]:
        """The lines of a file, as they arrive. (The package's own lines end at U+2028, too, which JSON may hold.)"""
        rest = b""
        with _refusing(self._teacher):
            async with self._client.files.with_streaming_response.content(file_id) as response:
                async for block in response.iter_bytes():
                    *whole, rest = (rest + block).split(b"\n")
                    for line in whole:
                        yield line
        if rest:
            yield rest


class _refusing:
    """Turns what the package raises into `Refused`, judged as any reply to a request."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import openai

        if isinstance(error, openai.APIStatusError):
            body = without(self._teacher, error.response.content if error.response.is_closed else b"")
            judged = judge(Answer(error.status_code, error.response.headers, body))
            raise Refused(judged if isinstance(judged, Failure) else Failure("malformed", str(error))) from None
        if isinstance(error, openai.APITimeoutError):
            raise Refused(Failure("timeout", f"no whole reply within {self._teacher.timeout_s:g} s")) from None
        if isinstance(error, openai.APIConnectionError) or _of_httpx(error):
            cause = error.__cause__ or error if error else ConnectionError()
            message = f"{bare(self._teacher.base_url[0])}: {told(cause)}"
            raise Refused(Failure("connection", message)) from None
        if isinstance(error, openai.OpenAIError):  # a reply that is no JSON, say
            raise Refused(Failure("malformed", told(error))) from None


def _of_httpx(error: BaseException | None) -> bool:
    """Whether an error is of the library below the package, which passes it on when a download breaks off."""
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2")


@dataclass(frozen=True)
class Line:
    """What became of one request of a batch."""

    request_hash: str
    outcome: Reply | Failure


def read_line(line: bytes, teacher: Teacher) -> Line | None:
    """Read a line of an output or error file; None where it does not say whose it is."""
    try:
        item = parsed_json(without(teacher, line))
        name, response, error = item["custom_id"], item.get("response"), item.get("error")
        if response:
            body = response.get("body")
            text = body.encode() if isinstance(body, str) else orjson.dumps(body)
            return Line(name, judge(Answer(int(response["status_code"]), {}, text)))
        kind = _KINDS.get(str((error or {}).get("code")), "server")
        return Line(name, Failure(kind, str((error or {}).get("message") or "neither a response nor an error came")))
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
