"""The wire format: OpenAI's chat completions as the sandbox reads and writes them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel, Field

from builders.sandbox.teachers import Reply, uniform

# No model's tokenizer: words in pieces of up to six characters, and signs. The pieces join to the text.
_TOKEN = re.compile(r"\s*(?:\w{1,6}|[^\w\s])|\s+")
REFUSAL = "I'm sorry, but I can't help with that."
UNDECIDED = "There is something to be said for several views here, and I would rather not commit myself."


class Message(BaseModel):
    """One message of a chat; ``content`` is a text or a list of parts, as OpenAI defines them."""

    role: str
    content: str | list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        """The text of the message; parts that are no text are left out."""
        if isinstance(self.content, list):
            return "\n".join(str(part["text"]) for part in self.content if "text" in part)
        return self.content or ""


class StreamOptions(BaseModel):
    """What a streamed reply brings besides its tokens."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """The fields of a chat request that the sandbox heeds; it ignores all others."""

    model: str
    messages: list[Message] = Field(min_length=1)
    n: int | None = Field(default=None, ge=1, le=128)
    seed: int | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def prompt(self) -> str:
        """All messages as one text."""
        return "\n\n".join(message.text for message in self.messages)

    @property
    def goes_on(self) -> bool:
        """Whether an earlier reply is in the conversation."""
        return any(message.role == "assistant" for message in self.messages)


@dataclass(frozen=True)
class Choice:
    """One of the n replies, cut to the token limit."""

    content: list[str]
    """Tokens; they join to the text."""
    reasoning: list[str] | None
    mean_logprob: float
    finish_reason: str = "stop"
    refusal: str | None = None

    def message(self) -> dict[str, Any]:
        """The assistant message."""
        content = None if self.refusal else "".join(self.content)
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": self.refusal}
        if self.reasoning is not None:
            message["reasoning_content"] = "".join(self.reasoning)
        return message

    def logprobs(self, tokens: list[str], start: int = 0) -> dict[str, Any]:
        """Log-probabilities of ``tokens``, which stand at ``start`` of the reply.

        Each token's is the reply's mean times a jitter within 0.5 and 1.5. ``top_logprobs`` stays empty: the sandbox
        weighs no other tokens.
        """
        listed = []
        for i, token in enumerate(tokens, start):
            value = self.mean_logprob * (0.5 + uniform("token", f"{i}|{token}"))
            listed.append({"token": token, "logprob": value, "bytes": list(token.encode()), "top_logprobs": []})
        return {"content": listed, "refusal": None}

    @property
    def n_tokens(self) -> int:
        """Tokens of the reply, reasoning included."""
        return len(self.content) + len(self.reasoning or ())


def tokens(text: str) -> list[str]:
    """``text`` in approximate tokens."""
    return _TOKEN.findall(text)


def cut(reply: Reply, limit: int | None) -> Choice:
    """``reply`` in at most ``limit`` tokens, reasoning first, as a reasoning model spends them."""
    reasoning = tokens(reply.reasoning) if reply.reasoning is not None else None
    content = tokens(reply.content)
    spent = len(reasoning or ())
    if limit is None or spent + len(content) <= limit:
        return Choice(content, reasoning, reply.mean_logprob)
    return Choice(content[: max(0, limit - spent)], reasoning and reasoning[:limit], reply.mean_logprob, "length")


@dataclass(frozen=True)
class Completion:
    """All that a chat request is replied with."""

    request: ChatRequest
    id: str
    choices: list[Choice]
    prompt_tokens: int

    def body(self) -> bytes:
        """The reply in one piece."""
        listed = []
        for i, choice in enumerate(self.choices):
            item: dict[str, Any] = {"index": i, "message": choice.message(), "finish_reason": choice.finish_reason}
            item["logprobs"] = choice.logprobs(choice.content) if self.request.logprobs else None
            listed.append(item)
        return orjson.dumps({**self._head("chat.completion"), "choices": listed, "usage": self._usage()})

    def events(self) -> Iterator[bytes]:
        """The reply as server-sent events: one per token, the choices one after the other."""
        head = self._head("chat.completion.chunk")
        for i, choice in enumerate(self.choices):
            for event in _deltas(choice, logprobs=bool(self.request.logprobs)):
                yield _event({**head, "choices": [{"index": i, "finish_reason": None, **event}]})
        if self.request.stream_options and self.request.stream_options.include_usage:
            yield _event({**head, "choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": f"chatcmpl-{self.id}", "object": kind, "created": int(time.time()), "model": self.request.model}

    def _usage(self) -> dict[str, Any]:
        spent = sum(choice.n_tokens for choice in self.choices)
        thought = sum(len(choice.reasoning or ()) for choice in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": spent,
            "total_tokens": self.prompt_tokens + spent,
            "completion_tokens_details": {"reasoning_tokens": thought},
        }


def _deltas(choice: Choice, *, logprobs: bool) -> Iterator[dict[str, Any]]:
    yield {"delta": {"role": "assistant", "content": ""}}
    for token in choice.reasoning or ():
        yield {"delta": {"reasoning_content": token}}
    if choice.refusal:
        yield {"delta": {"refusal": choice.refusal}}
    for i, token in enumerate(choice.content):
        yield {"delta": {"content": token}, "logprobs": choice.logprobs([token], i) if logprobs else None}
    yield {"delta": {}, "finish_reason": choice.finish_reason}


def _event(payload: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def error(message: str, kind: str, code: str | None = None) -> bytes:
    """The body of an error, in OpenAI's shape."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})
