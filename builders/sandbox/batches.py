"""The sandbox's Batch API, as OpenAI defines it: files go up, a batch is made of one, two files come back.

    POST /v1/files   GET /v1/files  /v1/files/{id}  /v1/files/{id}/content   DELETE /v1/files/{id}
    POST /v1/batches   GET /v1/batches  /v1/batches/{id}   POST /v1/batches/{id}/cancel

All is kept in memory. A batch takes ``batch_s`` seconds; its lines are answered, and struck by faults, as any request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import BodyPartReader, web

from builders.sandbox import wire

ENDPOINT = "/v1/chat/completions"
MOST_LINES = 50_000

Answer = Callable[[bytes], Awaitable[tuple[int, bytes] | None]]
"""Answers the body of a request with a status and a body; None where the batch is closed before its turn."""


@dataclass
class File:
    """One file, with what OpenAI says about it."""

    id: str
    name: str
    purpose: str
    content: bytes
    created_at: int

    def json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created_at,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


@dataclass
class Job:
    """One batch."""

    id: str
    given: dict[str, Any]
    created_at: int
    status: str = "validating"
    counts: dict[str, int] = field(default_factory=lambda: {"total": 0, "completed": 0, "failed": 0})
    errors: list[dict[str, Any]] = field(default_factory=list)
    output: str | None = None
    error: str | None = None
    cancelled: bool = False

    def json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.given["endpoint"],
            "input_file_id": self.given["input_file_id"],
            "completion_window": self.given["completion_window"],
            "metadata": self.given.get("metadata"),
            "created_at": self.created_at,
            "status": self.status,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "output_file_id": self.output,
            "error_file_id": self.error,
            "request_counts": self.counts,
        }


class Batches:
    """Files and batches of one server."""

    def __init__(self, answer: Answer, seconds: float, most_lines: int = MOST_LINES) -> None:
        self._answer, self._seconds, self._most = answer, seconds, most_lines
        self.files: dict[str, File] = {}
        self.jobs: dict[str, Job] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    async def handle(self, request: web.BaseRequest) -> web.Response | None:
        """Answer one HTTP request; None if it is for none of these URLs."""
        kind, *rest = request.path.removeprefix("/v1/").split("/")
        tables: dict[str, dict[str, Any]] = {"files": self.files, "batches": self.jobs}
        objects = tables.get(kind, {})
        if kind in ("files", "batches") and not rest:
            if request.method == "GET":
                return _page(objects, request)
            return await (self._upload(request) if kind == "files" else self._create(request))
        if rest and rest[0] in objects:
            return self._one(request.method, objects[rest[0]], rest[1:])
        return _refusal(404, f"No such object: {rest[0]}") if kind in ("files", "batches") else None

    def _one(self, method: str, found: File | Job, rest: list[str]) -> web.Response | None:
        """Answer a request about one object."""
        match (method, found, rest):
            case ("GET", File(content=content), ["content"]):
                return web.Response(body=content, content_type="application/octet-stream")
            case ("DELETE", File(id=name), []):
                del self.files[name]
                return _json({"id": name, "object": "file", "deleted": True})
            case ("POST", Job(), ["cancel"]):
                found.cancelled = True
                found.status = "cancelling" if found.status in ("validating", "in_progress") else found.status
        return _json(found.json())

    async def _upload(self, request: web.BaseRequest) -> web.Response:
        fields: dict[str, bytes] = {}
        name = ""
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader) and part.name:
                content = bytearray()
                while block := await part.read_chunk(1 << 18):  # `read` takes no more than a megabyte
                    content += block
                fields[part.name] = bytes(content)
                name = part.filename or name
        if "file" not in fields:
            return _refusal(400, "'file' is a required property")
        return _json(self._keep(name, fields.get("purpose", b"").decode(), fields["file"]).json())

    def _keep(self, name: str, purpose: str, content: bytes) -> File:
        made = File(f"file-{len(self.files) + 1}", name, purpose, content, int(time.time()))
        self.files[made.id] = made
        return made

    async def _create(self, request: web.BaseRequest) -> web.Response:
        given = orjson.loads(await request.read())
        if given.get("input_file_id") not in self.files:
            return _refusal(400, f"No such File object: {given.get('input_file_id')}")
        if given.get("endpoint") != ENDPOINT:
            return _refusal(400, f"Invalid endpoint: {given.get('endpoint')}")
        job = Job(f"batch_{len(self.jobs) + 1}", given, int(time.time()))
        self.jobs[job.id] = job
        task = asyncio.get_running_loop().create_task(self._work(job))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return _json(job.json())

    async def _work(self, job: Job) -> None:
        lines = self.files[job.given["input_file_id"]].content.splitlines()
        requests, job.errors = checked(lines, self._most)
        if job.errors:
            job.status = "failed"
            return
        job.counts["total"], job.status = len(requests), "in_progress"
        output: list[bytes] = []  # comes back in another order, as no order is promised
        error: list[bytes] = []
        expired = False
        for name, body in requests:
            await asyncio.sleep(self._seconds / len(requests))
            answered = None if job.cancelled else await self._answer(body)
            expired = expired or (answered is None and not job.cancelled)
            line = _line(name, answered, "batch_cancelled" if job.cancelled else "batch_expired")
            good = answered is not None and answered[0] == 200
            (output if good else error).append(line)
            job.counts["completed" if good else "failed"] += 1
        job.output = self._keep("output.jsonl", "batch_output", b"\n".join(output[::-1]) + b"\n").id if output else None
        job.error = self._keep("errors.jsonl", "batch_output", b"\n".join(error) + b"\n").id if error else None
        job.status = "cancelled" if job.cancelled else "expired" if expired else "completed"


def checked(lines: list[bytes], most: int) -> tuple[list[tuple[str, bytes]], list[dict[str, Any]]]:
    """The requests of a file by ``custom_id``, or what is wrong with it."""
    requests: dict[str, bytes] = {}
    models: set[str] = set()
    problem = ("empty_file", "The input file has no lines.") if not lines else None
    if len(lines) > most:
        problem = ("too_many_lines", f"The input file has more than {most} lines.")
    for number, line in enumerate(lines if problem is None else [], 1):
        try:
            item = orjson.loads(line)
            name, body = item["custom_id"], item["body"]
            if (item["method"], item["url"]) != ("POST", ENDPOINT):
                problem = ("mismatched_url", "The URL of a line does not match the batch's endpoint.")
            models.add(body["model"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            problem, name, body = ("invalid_json_line", "This line is not parseable as valid JSON."), "", {}
        if name in requests:
            problem = ("duplicate_custom_id", f"The custom_id {name} is there twice.")
        if len(models) > 1:
            problem = ("mismatched_model", "All lines must name the same model.")
        if problem:
            return [], [{"code": problem[0], "message": problem[1], "line": number, "param": None}]
        requests[name] = orjson.dumps(body)
    if problem:
        return [], [{"code": problem[0], "message": problem[1], "line": None, "param": None}]
    return list(requests.items()), []


def _line(name: str, answered: tuple[int, bytes] | None, why_not: str) -> bytes:
    """One line of an output or error file; a reply that is no JSON breaks its line off."""
    head: dict[str, Any] = {"id": f"batch_req_{name}", "custom_id": name}
    if answered is None:
        said = {"code": why_not, "message": "This request could not be executed before the batch was closed."}
        return orjson.dumps({**head, "response": None, "error": said})
    status, body = answered
    try:
        response = {"status_code": status, "request_id": name, "body": orjson.loads(body)}
    except orjson.JSONDecodeError:
        return orjson.dumps(head)[:-1] + b',"response":{"status_code":200,"body":' + body
    return orjson.dumps({**head, "response": response, "error": None})


def _page(items: dict[str, Any], request: web.BaseRequest) -> web.Response:
    """A page of a list, newest first, from ``after`` on."""
    listed = [item.json() for item in reversed(items.values())]
    after, limit = request.query.get("after"), int(request.query.get("limit", 20))
    start = next((i + 1 for i, item in enumerate(listed) if item["id"] == after), 0)
    page = listed[start : start + limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
    return _json({"object": "list", "data": page, "has_more": start + limit < len(listed), **ends})


def _json(value: dict[str, Any]) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")


def _refusal(status: int, message: str) -> web.Response:
    body = wire.error(message, "invalid_request_error")
    return web.Response(status=status, body=body, content_type="application/json")
