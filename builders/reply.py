"""What a chat completion's body says, whichever server wrote it.

Reasoning models put their thinking in ``reasoning``, in ``reasoning_content``, in parts of the content that say so, or
in its ``<think>`` tags; it is kept apart from the answer in each case.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import orjson

MOST_TOKENS = 2**53  # above it a float is no longer every whole number


@dataclass(frozen=True, slots=True)
class Completion:
    """The first choice of a completion.

    Attributes:
        content: the content as it came.
        text: the content without its ``<think>`` part, stripped.
        reasoning: the model's own channel; None where it has none.
        mean_logprob: mean log-probability of the content's tokens (nats).
    """

    content: str | None
    text: str
    reasoning: str | None
    refusal: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    mean_logprob: float | None

    @property
    def status(self) -> str | None:
        """``refused``, ``truncated``, ``ok``, or None where there is no text to use."""
        if self.broke_off:
            return None
        if self.refusal or self.finish_reason == "content_filter":
            return "refused"
        if self.finish_reason == "length":
            return "truncated"
        return "ok" if self.text else None

    @property
    def broke_off(self) -> bool:
        """Whether the server says that it could not finish (OpenRouter's ``error``, vLLM's ``abort``)."""
        return self.finish_reason in ("error", "abort")


def read_completion(body: bytes) -> Completion | None:
    """Read the body of a chat completion; None if it is not one."""
    try:
        parsed = parsed_json(body)
        choice, usage = parsed["choices"][0], parsed.get("usage")
        return _completion(choice, choice["message"], usage if isinstance(usage, dict) else {})
    except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError):
        return None


def parsed_json(body: bytes) -> Any:
    """Parse JSON, also with a byte order mark, NaN or half a surrogate pair in it: the reply around them was paid.

    Raises:
        ValueError, RecursionError: it is no JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        text = json.dumps(json.loads(body.decode("utf-8-sig")), ensure_ascii=False)
        return json.loads(text.encode("utf-8", "surrogatepass").decode("utf-8", "replace"))


def _completion(choice: dict[str, Any], message: dict[str, Any], usage: dict[str, Any]) -> Completion:
    content, in_parts = _content(message.get("content"))
    thought, text = split_reasoning(content) if content else (None, "")
    channels = [_text(message.get("reasoning")), _text(message.get("reasoning_content")), in_parts, thought]
    kept = dict.fromkeys(c.strip() for c in channels if c) if any(channels) else {}  # some servers send one twice
    return Completion(
        content,
        text,
        "\n\n".join(filter(None, kept)) or None,
        _text(message.get("refusal")),
        _text(choice.get("finish_reason")),
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        _mean_logprob(choice.get("logprobs")),
    )


def _content(content: object) -> tuple[str | None, str | None]:
    """The content, and the thinking that stands in parts of it, as Mistral sends it."""
    if not isinstance(content, list):
        return _text(content), None
    said = "".join(part["text"] for part in content if part["type"] == "text")
    thoughts = [part["thinking"] for part in content if part["type"] == "thinking"]
    flat = [t if isinstance(t, str) else "".join(inner["text"] for inner in t) for t in thoughts]
    return said, "\n\n".join(flat) or None


def split_reasoning(content: str) -> tuple[str | None, str]:
    """Split ``<think>`` thinking from the text after it.

    The opening tag may be missing (chat templates put it in the prompt), and so may the closing one (cut short: then
    all of it is thinking).
    """
    if "think>" not in content:
        return None, content.strip()
    thought, closed, text = content.rpartition("</think>")
    if closed:
        return thought.replace("<think>", "", 1).strip() or None, text.strip()
    if text.lstrip().startswith("<think>"):
        return text.replace("<think>", "", 1).strip() or None, ""
    return None, text.strip()


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"a text was expected, not {value!r}")


def _count(value: object) -> int | None:
    """A number of tokens; None for what can be none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MOST_TOKENS:
        return None
    return int(value) if value == int(value) else None


def _mean_logprob(logprobs: object) -> float | None:
    """The mean where there is one: a reply is not lost over numbers that a server writes in another way."""
    try:
        tokens = logprobs["content"] if logprobs else []  # type: ignore[index]
        mean = sum(t["logprob"] for t in tokens) / len(tokens) if tokens else math.nan
        return mean if math.isfinite(mean) else None
    except (KeyError, TypeError, OverflowError):
        return None
