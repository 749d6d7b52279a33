"""Asks one request once, and says what came of it: a reply, or one kind of failure.

Failures are data. Their classes, and what is done about each:

    rate_limit   429                                  sent again after Retry-After, or a growing pause; the teacher is
                                                      stopped where that takes more than 10 minutes
    server       5xx                                  sent again
    connection   refused, reset, no such host         sent again
    timeout      no whole reply within timeout_s      sent again
    malformed    not the JSON of a chat completion    sent again
    empty        a completion without content         sent again
    expired      its batch was closed before its turn sent again
    cancelled    somebody cancelled its batch         the row fails, the next build asks
    bad_request  400 and other 4xx                    the row fails
    auth         401, 403                             the teacher is stopped
    not_found    404                                  the teacher is stopped
    payment      402, or an error insufficient_quota  the teacher is stopped
    redirect     3xx: the key goes to no other host   the teacher is stopped
    parked       the teacher was given up             the row fails
    not_asked    the run ended before                 the row fails, the next build asks
    under_way    its batch goes on at the server      the row fails, the next build collects
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from math import isnan
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl

import orjson

from builders.reply import read_completion

if TYPE_CHECKING:
    import aiohttp
    from openai import AsyncOpenAI

    from builders.teacher import Teacher

RETRIED = frozenset({"rate_limit", "server", "connection", "timeout", "malformed", "empty", "expired"})
STOPS_TEACHER = frozenset({"auth", "not_found", "payment", "redirect"})
LONGEST_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion that came whole; ``status`` is ``ok``, ``truncated`` or ``refused``."""

    body: bytes
    status: str
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True, slots=True)
class Failure:
    """No usable completion.

    Attributes:
        overload: the server said that it has too much to do (429, 503).
        retry_after_s: how long it asks to be left alone (seconds).
        body: a completion that came and cannot be used, such as an empty one.
        prompt_tokens, completion_tokens: what such a completion cost all the same.
    """

    error_class: str
    message: str
    overload: bool = False
    retry_after_s: float | None = None
    body: bytes | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(Protocol):
    """One way to send a request. Every exception of its library becomes a `Failure`."""

    async def post(self, url: str, body: bytes) -> Answer | Failure:
        """Send a chat completion to the replica at ``url``."""
        ...


def connections() -> aiohttp.TCPConnector:
    """The connections of a run: teachers behind one URL share them."""
    import aiohttp

    return aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)


@asynccontextmanager
async def transport(teacher: Teacher, shared: aiohttp.TCPConnector) -> AsyncIterator[Transport]:
    """Open the transport that the teacher asks for, over the connections of the run where it can."""
    async with _lean(teacher, shared) if teacher.transport == "lean" else _openai(teacher) as opened:
        yield opened


@asynccontextmanager
async def _lean(teacher: Teacher, shared: aiohttp.TCPConnector) -> AsyncIterator[Transport]:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=teacher.timeout_s)
    async with aiohttp.ClientSession(
        connector=shared,
        connector_owner=False,
        timeout=timeout,
        headers=headers(teacher),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield _Lean(teacher, session)


def headers(teacher: Teacher) -> dict[str, str]:
    """The headers of a request to the teacher, the key among them."""
    return {"Content-Type": "application/json", **key_header(teacher)}


def key_header(teacher: Teacher) -> dict[str, str]:
    """The header that carries the teacher's key, if it has one."""
    if teacher.api_key is None:
        return {}
    key, name = teacher.api_key.get_secret_value(), teacher.api_key_header
    return {name: f"Bearer {key}" if name == "Authorization" else key}


def address(url: str, path: str = "") -> tuple[str, dict[str, str]]:
    """A base URL with a path behind it, and its query apart: Azure puts the version of its API there."""
    base, _, query = url.partition("?")
    return base + path, dict(parse_qsl(query))


def bare(url: str) -> str:
    """A URL as messages show it, without its query."""
    return url.partition("?")[0]


class _Lean:
    """aiohttp and nothing else: an eighth of the openai package's CPU time per request."""

    def __init__(self, teacher: Teacher, session: Any) -> None:
        from yarl import URL

        self._timeout_s, self._session = teacher.timeout_s, session
        self._urls = {}
        for url in teacher.base_url:
            where, query = address(url, "/chat/completions")
            self._urls[url] = URL(where).with_query(query)

    async def post(self, url: str, body: bytes) -> Answer | Failure:
        import aiohttp

        try:
            async with self._session.post(self._urls[url], data=body, allow_redirects=False) as response:
                return Answer(response.status, response.headers, await response.read())
        except TimeoutError:
            return Failure("timeout", f"no whole reply within {self._timeout_s:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Failure("connection", f"{bare(url)}: {told(error)}")


@asynccontextmanager
async def _openai(teacher: Teacher) -> AsyncIterator[Transport]:
    clients = {url: openai_client(teacher, url) for url in teacher.base_url}
    try:
        yield _OpenAI(teacher, clients)
    finally:
        await asyncio.gather(*(client.close() for client in clients.values()))


def openai_client(teacher: Teacher, url: str) -> AsyncOpenAI:
    """The openai package's client for one of a teacher's URLs: sends everything once, and follows no redirect."""
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    where, query = address(url)
    return AsyncOpenAI(
        base_url=where,
        default_query=query,
        api_key=teacher.api_key.get_secret_value() if teacher.api_key else "none",
        default_headers=key_header(teacher),
        max_retries=0,
        timeout=teacher.timeout_s,
        http_client=DefaultAsyncHttpxClient(follow_redirects=False),
    )


class _OpenAI:
    """The openai package, for servers that need its ways; the reply is taken raw, so rows are the same."""

    def __init__(self, teacher: Teacher, clients: Mapping[str, Any]) -> None:
        self._timeout_s, self._clients = teacher.timeout_s, clients

    async def post(self, url: str, body: bytes) -> Answer | Failure:
        import openai

        sent = orjson.loads(body)
        named = {key: sent.pop(key) for key in ("model", "messages")}
        completions = self._clients[url].chat.completions.with_raw_response
        try:
            async with asyncio.timeout(self._timeout_s):  # the package's own is per read, not for the whole
                raw = await completions.create(**named, extra_body=sent)
            return Answer(raw.status_code, raw.headers, raw.content)
        except openai.APIStatusError as error:
            return Answer(error.status_code, error.response.headers, error.response.content)
        except (TimeoutError, openai.APITimeoutError):
            return Failure("timeout", f"no whole reply within {self._timeout_s:g} s")
        except openai.APIConnectionError as error:
            return Failure("connection", f"{bare(url)}: {told(error.__cause__ or error)}")


def told(error: BaseException) -> str:
    """What an exception says, in one short line."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")[:LONGEST_MESSAGE]


class Client:
    """Asks one teacher. Its key is cut out of whatever a server sends back."""

    def __init__(self, teacher: Teacher, opened: Transport) -> None:
        self._transport = opened
        self._teacher = teacher

    async def ask(self, url: str, body: bytes) -> Reply | Failure:
        """Send one request once."""
        answer = await self._transport.post(url, body)
        if isinstance(answer, Failure):
            return answer
        return judge(Answer(answer.status, answer.headers, without(self._teacher, answer.body)))


def without(teacher: Teacher, text: bytes) -> bytes:
    """What a server said, with the teacher's key cut out."""
    key = teacher.api_key.get_secret_value().encode() if teacher.api_key else b""
    return text.replace(key, b"***") if key and key in text else text


def judge(answer: Answer) -> Reply | Failure:
    """Say what an HTTP answer is: a reply, or which kind of failure."""
    if not 200 <= answer.status < 300:
        return _refusal(answer)
    completion = read_completion(answer.body)
    if completion is None:
        code = _hidden_error(answer.body)
        if code is not None:
            return _refusal(Answer(code, answer.headers, answer.body))
        return Failure("malformed", f"not a chat completion: {_start(answer.body)}", body=answer.body)
    if completion.status is None:
        broke_off = f"the server broke the reply off (finish_reason '{completion.finish_reason}')"
        return Failure(
            "server" if completion.broke_off else "empty",
            broke_off if completion.broke_off else "the reply has no content",
            body=answer.body,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
        )
    return Reply(answer.body, completion.status, completion.prompt_tokens, completion.completion_tokens)


def _refusal(answer: Answer) -> Failure:
    kinds = {401: "auth", 402: "payment", 403: "auth", 404: "not_found", 408: "timeout", 429: "rate_limit"}
    if 300 <= answer.status < 400:
        return Failure("redirect", f"HTTP {answer.status} to {redirected(answer.headers)}")
    kind = kinds.get(answer.status, "server" if answer.status >= 500 else "bad_request")
    if "insufficient_quota" in _error_codes(answer.body):  # OpenAI says so with a 429
        return Failure("payment", f"HTTP {answer.status}: {_error_text(answer.body)}")
    message = f"HTTP {answer.status}: {_error_text(answer.body)}"
    return Failure(kind, message, answer.status in (429, 503), _retry_after(answer.headers))


def redirected(headers: Mapping[str, str]) -> str:
    """Where a redirect leads, without its query."""
    return bare(headers.get("Location", "nowhere"))[:LONGEST_MESSAGE]


def _hidden_error(body: bytes) -> int | None:
    """The HTTP status of an error that came with status 200, as OpenRouter sends those of the providers behind it."""
    try:
        code = int(orjson.loads(body)["error"]["code"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None
    return code if 400 <= code <= 599 else None


def _error_codes(body: bytes) -> tuple[object, ...]:
    try:
        error = orjson.loads(body)["error"]
        return error.get("code"), error.get("type")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return ()


def _error_text(body: bytes) -> str:
    """Find the server's own sentence: OpenAI's ``error.message``, vLLM's ``message``, or the body's start."""
    try:
        parsed = orjson.loads(body)
        error = parsed.get("error", parsed)
        text = error.get("message") if isinstance(error, dict) else error
    except (orjson.JSONDecodeError, AttributeError):
        text = None
    return str(text)[:LONGEST_MESSAGE] if text else _start(body)


def _start(body: bytes) -> str:
    return body[:200].decode("utf-8", "replace").strip() or "(empty body)"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that ``Retry-After`` asks for, given as a number or as a date; or ``retry-after-ms``, as Azure has it."""
    given, in_ms = headers.get("Retry-After"), headers.get("retry-after-ms")
    if given is None and in_ms is None:
        return None
    try:
        asked = float(given) if in_ms is None else float(in_ms) / 1000  # type: ignore[arg-type]
        return None if isnan(asked) else max(0.0, asked)
    except ValueError:
        pass
    try:
        from datetime import UTC, datetime

        return max(0.0, (parsedate_to_datetime(given or "") - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
