"""Look at every teacher's endpoint before a build: is it there, does it take the key, does it serve the model?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from builders.client import address, bare, headers, redirected
from builders.teacher import Teacher

TIMEOUT_S = 10


@dataclass(frozen=True)
class EndpointReport:
    """What was found at one URL of one teacher.

    Attributes:
        reachable: something answered over HTTP.
        authorised: the key was taken; None where that is not known.
        serves_model: the model is in the server's list; None where it has no list.
        latency_ms: of the list's request (ms).
        problem: one sentence; None where all is well.
        note: what is odd and need not be wrong; None where nothing is.
    """

    teacher_id: str
    url: str
    reachable: bool
    authorised: bool | None = None
    serves_model: bool | None = None
    latency_ms: float | None = None
    problem: str | None = None
    note: str | None = None


def check_endpoints(teachers: Sequence[Teacher]) -> list[EndpointReport]:
    """Ask every URL of every teacher for its list of models, all at once; costs nothing."""

    async def check_all() -> list[EndpointReport]:
        return await asyncio.gather(*(_check(teacher, url) for teacher in teachers for url in teacher.base_url))

    return asyncio.run(check_all())


async def _check(teacher: Teacher, url: str) -> EndpointReport:
    import aiohttp

    where, query = address(url, "/models")
    url = bare(url)
    timeout, started = aiohttp.ClientTimeout(total=TIMEOUT_S), time.perf_counter()
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers(teacher)) as session,
            session.get(where, params=query, allow_redirects=False) as response,
        ):
            body, status, leads = await response.read(), response.status, redirected(response.headers)
    except (aiohttp.ClientError, OSError) as error:
        said = str(error) or f"no answer within {TIMEOUT_S} s"
        problem = f"teacher '{teacher.id}': {url} cannot be reached ({said}): start the server or correct base_url"
        return EndpointReport(teacher.id, url, reachable=False, problem=problem)
    latency = (time.perf_counter() - started) * 1000
    if status in (401, 403):
        key = teacher.key_name if teacher.api_key else "a request without api_key"
        problem = f"teacher '{teacher.id}': {url} refuses {key} (HTTP {status}): correct it"
        return EndpointReport(teacher.id, url, True, False, None, latency, problem)
    if 300 <= status < 400 or status >= 500:
        problem = f"teacher '{teacher.id}': {where} answers HTTP {status}: look at the server, or check again later"
        if status < 400:
            problem = (
                f"teacher '{teacher.id}': {url} sends requests elsewhere (HTTP {status} to {leads}): correct base_url"
            )
        return EndpointReport(teacher.id, url, True, None, None, latency, problem)
    served = _models(body) if status == 200 else None
    if served is None:  # not every server lists its models
        note = f"teacher '{teacher.id}': HTTP {status} and no list of models at {where}: does base_url end in /v1?"
        return EndpointReport(teacher.id, url, True, None, None, latency, note=note if status in (200, 404) else None)
    if teacher.model in served:
        return EndpointReport(teacher.id, url, True, True, True, latency)
    has = ", ".join(served[:8]) + (", ..." if len(served) > 8 else "")
    problem = f"teacher '{teacher.id}': {url} does not list model '{teacher.model}'; it lists {has or 'none'}"
    return EndpointReport(teacher.id, url, True, True, False, latency, problem)


def _models(body: bytes) -> list[str] | None:
    try:
        return [model["id"] for model in orjson.loads(body)["data"]]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
