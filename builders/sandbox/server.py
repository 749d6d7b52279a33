"""The sandbox's HTTP interface: OpenAI-compatible, stateless but for its counters and batches.

    POST /v1/chat/completions    n, seed, temperature, max_tokens, logprobs, stream
    GET  /v1/models  /health  /stats
    and the Batch API, see `builders.sandbox.batches`

A reply depends on the world's seed and the request alone. The counters serve the faults and ``/stats``.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NoReturn, Self

import orjson
import xxhash
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from builders.sandbox import wire
from builders.sandbox.batches import Batches
from builders.sandbox.faults import Fault, FaultPlan
from builders.sandbox.judges import judgement
from builders.sandbox.problem import Problem
from builders.sandbox.teachers import TEACHERS, Sample, SandboxTeacher, reply, uniform
from builders.sandbox.world import read
from schemas.errors import nearest

_JSON = "application/json"


class SandboxConfig(BaseModel):
    """All that a sandbox server is started with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    teachers: tuple[SandboxTeacher, ...] = Field(default=TEACHERS, min_length=1)
    faults: tuple[Fault, ...] = ()
    seed: int = Field(default=0, description="seed of the world: who errs where, which attempts faults strike")
    host: str = Field(
        default="127.0.0.1", description="address to listen on; the default is not reachable from outside"
    )
    port: int = Field(default=0, ge=0, le=65535, description="0 for any free port")
    latency_ms: float = Field(
        default=0.0, ge=0, description="mean time that a reply is held back; varies by half, by request"
    )
    batch_s: float = Field(default=0.0, ge=0, description="time that a batch takes, in seconds")
    api_key: str | None = Field(default=None, description="if given, requests without this key get a 401")

    @field_validator("teachers")
    @classmethod
    def _distinct(cls, teachers: tuple[SandboxTeacher, ...]) -> tuple[SandboxTeacher, ...]:
        twice = [name for name, count in Counter(t.name for t in teachers).items() if count > 1]
        if twice:
            raise ValueError(f"two teachers are named '{twice[0]}'")
        return teachers

    @model_validator(mode="after")
    def _faults_strike_someone(self) -> Self:
        known = {name for teacher in self.teachers for name in (teacher.name, teacher.model)}
        for fault in self.faults:
            if fault.teacher is not None and fault.teacher not in known:
                raise ValueError(f"a fault names the unknown teacher '{fault.teacher}'{nearest(fault.teacher, known)}")
        return self


@dataclass
class TeacherStats:
    """What happened to the requests for one teacher."""

    received: int = 0
    completed: int = 0
    """Replied to without a fault."""
    faults: Counter[str] = field(default_factory=Counter)


@dataclass
class Stats:
    """Counters since the start. Bodies are told apart by a hash of their bytes."""

    teachers: dict[str, TeacherStats]
    attempts: Counter[int] = field(default_factory=Counter)
    """Body -> how often it came."""
    answered: set[int] = field(default_factory=set)
    duplicates: int = 0
    """Requests whose body had been replied to without a fault before: what a resumed run should not pay for twice."""

    def report(self) -> dict[str, Any]:
        """The content of ``/stats``."""
        return {
            "received": sum(t.received for t in self.teachers.values()),
            "completed": sum(t.completed for t in self.teachers.values()),
            "distinct": len(self.attempts),
            "duplicates": self.duplicates,
            "teachers": {
                name: {"received": t.received, "completed": t.completed, "faults": dict(t.faults)}
                for name, t in self.teachers.items()
            },
        }


@lru_cache(maxsize=4096)
def _read(prompt: str) -> tuple[Problem | None, int]:
    """The question in a prompt and the prompt's length in tokens; kept, as every teacher is asked the same."""
    return read(prompt), len(wire.tokens(prompt))


class App:
    """Handles the requests; knows nothing of sockets and threads."""

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self.teachers = {teacher.model: teacher for teacher in config.teachers}
        self.plan = FaultPlan(config.faults, config.seed)
        self.stats = Stats({teacher.name: TeacherStats() for teacher in config.teachers})
        self.died = asyncio.Event()
        """Set by a fault that kills the whole server."""
        self.batches = Batches(self._line, config.batch_s)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request."""
        if self.died.is_set():  # it reached us before the sockets were closed
            _hang_up(request)
        route = (request.method, request.path)
        if route == ("GET", "/health"):
            return _json(b'{"status":"ok"}')
        if route == ("GET", "/stats"):
            return _json(orjson.dumps(self.stats.report()))
        if self.config.api_key and request.headers.get("Authorization") != f"Bearer {self.config.api_key}":
            return _error(401, "Incorrect API key provided.", "invalid_request_error", "invalid_api_key")
        if route == ("GET", "/v1/models"):
            return _json(orjson.dumps({"object": "list", "data": [_model(name) for name in self.teachers]}))
        if route == ("POST", "/v1/chat/completions"):
            return await self._chat(await request.read(), request)
        return await self.batches.handle(request) or _error(
            404, f"Unknown request URL: {request.method} {request.path}", "invalid_request_error", "unknown_url"
        )

    async def _line(self, body: bytes) -> tuple[int, bytes] | None:
        """Answer a line of a batch; None where a fault closes the batch before."""
        try:
            response = await self._chat(body)
        except _ExpiredError:
            return None
        assert isinstance(response, web.Response) and isinstance(response.body, bytes)
        return response.status, response.body

    async def _chat(self, body: bytes, request: web.BaseRequest | None = None) -> web.StreamResponse:
        try:
            chat = wire.ChatRequest.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "body"
            return _error(400, f"{where}: {first['msg']}", "invalid_request_error")
        teacher = self.teachers.get(chat.model)
        if teacher is None:
            known = ", ".join(self.teachers)
            message = f"The model '{chat.model}' does not exist; this sandbox has {known}."
            return _error(404, message, "invalid_request_error", "model_not_found")
        return await self._attempt(request, chat, teacher, xxhash.xxh3_64_intdigest(body))

    async def _attempt(
        self, request: web.BaseRequest | None, chat: wire.ChatRequest, teacher: SandboxTeacher, body: int
    ) -> web.StreamResponse:
        """Count the request, let the faults strike, reply; without ``request``, to a line of a batch."""
        stats = self.stats.teachers[teacher.name]
        stats.received += 1
        self.stats.duplicates += body in self.stats.answered
        self.stats.attempts[body] += 1
        prompt = chat.prompt
        fault = self._fault(teacher, prompt, f"{body}|{self.stats.attempts[body]}")
        if fault:
            stats.faults[fault.kind] += 1
            await self._suffer(fault, teacher, request)
        if self.config.latency_ms and request is not None:
            await asyncio.sleep(self.config.latency_ms / 1000 * (0.5 + uniform("latency", str(body))))
        if fault and (failure := _failure(fault)):
            return failure
        kind = fault.kind if fault else None
        problem, prompt_tokens = _read(prompt)
        spoilt_by = None if kind == "unread" and chat.goes_on else kind
        choices = [_spoilt(choice, spoilt_by) for choice in self._choices(chat, teacher, problem, prompt)]
        completion = wire.Completion(chat, f"{body:016x}", choices, prompt_tokens)
        response = await _send(request, completion, malformed=kind == "malformed")
        reached = request is None or (request.transport is not None and not request.transport.is_closing())
        if reached and kind in (
            None,
            "hang",
            "expiry",
        ):  # late is a reply, if anyone still waits
            stats.completed += 1
            self.stats.answered.add(body)
        return response

    def _fault(self, teacher: SandboxTeacher, prompt: str, attempt: str) -> Fault | None:
        """The fault of this attempt; the dead stay dead."""
        if teacher.model in self.plan.dead:
            return Fault(kind="death", teacher=teacher.name)
        return self.plan.strike(teacher, prompt, attempt) if self.plan.rules else None

    async def _suffer(self, fault: Fault, teacher: SandboxTeacher, request: web.BaseRequest | None) -> None:
        """What a fault does before any reply: time passes, or the connection or the batch ends."""
        if fault.kind == "expiry" and request is None:
            raise _ExpiredError
        if fault.kind == "hang":
            await asyncio.sleep(fault.seconds)
        if fault.kind != "death":
            return
        if fault.teacher is None:
            self.died.set()
        else:
            self.plan.dead.add(teacher.model)
        _hang_up(request)

    def _choices(
        self, chat: wire.ChatRequest, teacher: SandboxTeacher, problem: Problem | None, prompt: str
    ) -> list[wire.Choice]:
        temperature = 1.0 if chat.temperature is None else chat.temperature  # OpenAI's default
        limit = chat.max_completion_tokens or chat.max_tokens
        samples = [Sample(temperature, chat.seed or 0, i) for i in range(chat.n or 1)]
        seed = self.config.seed
        judged = [judgement(teacher, problem, prompt, sample, seed) for sample in samples]
        return [wire.cut(j or reply(teacher, problem, s, seed), limit) for j, s in zip(judged, samples, strict=True)]


def _failure(fault: Fault) -> web.Response | None:
    """The error that a fault replies with; None if it replies with content."""
    if fault.kind == "rate_limit":
        headers = {"Retry-After": f"{fault.retry_after:g}"}
        return _error(429, "Rate limit reached.", "rate_limit_error", "rate_limit_exceeded", headers)
    if fault.kind == "server_error":
        return _error(500, "The server had an error while processing your request.", "server_error")
    return None


def _spoilt(choice: wire.Choice, kind: str | None) -> wire.Choice:
    """The reply as a fault of its content leaves it."""
    if kind == "truncation":
        return replace(choice, content=choice.content[: len(choice.content) // 2], finish_reason="length")
    if kind == "empty":
        return replace(choice, content=[])
    if kind == "refusal":
        return replace(choice, content=[], reasoning=None, refusal=wire.REFUSAL)
    if kind == "unread":
        return replace(choice, content=wire.tokens(wire.UNDECIDED))
    return choice


def _hang_up(request: web.BaseRequest | None) -> NoReturn:
    """End the connection; nothing is written to it any more."""
    if request and request.transport:
        request.transport.abort()
    raise asyncio.CancelledError


class _ExpiredError(Exception):
    """The batch was closed before this line's turn."""


async def _send(request: web.BaseRequest | None, reply: wire.Completion, *, malformed: bool) -> web.StreamResponse:
    """Send the reply; a malformed one breaks off within its JSON."""
    if request is None or not reply.request.stream:
        body = reply.body()
        return _json(body[: len(body) // 2] if malformed else body)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    for event in reply.events():
        await response.write(event[: len(event) // 2] + b"\n\n" if malformed else event)
    await response.write_eof()
    return response


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type=_JSON)


def _error(
    status: int, message: str, kind: str, code: str | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    return web.Response(status=status, body=wire.error(message, kind, code), content_type=_JSON, headers=headers)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "sandbox"}
