"""A teacher: which model, where it is served, how it is asked, and what it costs.

The fields are the recipe's ``teachers`` entries. Everything that reaches the wire, and only that, is part of a
request's identity (see `builders.requests`); the key is held apart and is never serialised.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from schemas.errors import InputError
from schemas.secret_names import REFERENCE, SECRET_PARAMETER
from schemas.workspace import check_name

OURS = frozenset({"model", "messages", "n", "stream", "max_tokens", "max_completion_tokens", "seed"})
"""Body keys that the builder sets itself; `Params.extra_body` may not carry them."""


class _Spec(BaseModel):
    # pydantic would repeat the input, which may hold a key, in its messages
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class Params(_Spec):
    """Sampling parameters, sent as they are; those left out are the server's own defaults."""

    max_tokens: int = Field(default=2048, gt=0, description="longest reply, reasoning included (tokens)")
    temperature: float | None = Field(default=None, ge=0, description="0 is greedy")
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, description="seed of sample 0; sample i is asked with seed + i")
    stop: str | list[str] | None = None
    logprobs: bool | None = Field(default=None, description="ask for log-probabilities; their mean is stored")
    extra_body: dict[str, Any] = Field(default_factory=dict, description="anything else the server understands")

    @model_validator(mode="after")
    def _extra_is_extra(self) -> Self:
        clash = sorted(self.extra_body.keys() & (OURS | Params.model_fields.keys()))
        if clash:
            raise ValueError(f"extra_body may not set {', '.join(clash)}: the builder sets it")
        return self


class Price(_Spec):
    """US dollars per million tokens."""

    prompt_per_million: float = Field(ge=0)
    completion_per_million: float = Field(ge=0)
    batch_share: float = Field(
        default=1.0, ge=0, description="part of the price that is charged through the Batch API: 0.5 at OpenAI"
    )

    def cost(self, prompt_tokens: int | None, completion_tokens: int | None, *, batched: bool = False) -> float | None:
        """US dollars of one reply; None where the server did not report its tokens."""
        if prompt_tokens is None or completion_tokens is None:
            return None
        online = (prompt_tokens * self.prompt_per_million + completion_tokens * self.completion_per_million) / 1e6
        return online * self.batch_share if batched else online


class Batch(_Spec):
    """Ask through the server's Batch API (``/files`` and ``/batches``, as OpenAI defines them); not part of identity.

    The answers come within a day, mostly at half the price. Batches go on at the server when a run ends.
    """

    max_requests: int = Field(default=50_000, ge=1, description="most requests in one batch")
    max_bytes: int = Field(default=190_000_000, ge=1, description="largest file of a batch (bytes); OpenAI's is 200 MB")
    window: str = Field(default="24h", description="time the server is given for a batch")


class Vllm(_Spec):
    """A vLLM that raffinate starts for the teacher, and stops when it has asked it everything.

    Nothing of this is part of a request's identity: name another ``revision`` when you change how the model is served
    in a way that changes its answers (a quantisation, say).
    """

    python: str = Field(default=sys.executable, description="interpreter of the environment that vLLM is installed in")
    gpus: tuple[int, ...] | None = Field(
        default=None,
        description="GPUs to use, over which the model is split; null is all of them, [] is none. Teachers that share "
        "a GPU are served one after another",
    )
    in_process: bool = Field(
        default=False,
        description="use vLLM's Python API in a process of its own, without a server between: for batch jobs on one "
        "machine; raise max_concurrency with it",
    )
    port: int | None = Field(default=None, gt=0, le=65535, description="of the server; null takes a free one")
    args: tuple[str, ...] = Field(default=(), description="more arguments of vLLM, such as --max-model-len 4096")
    env: dict[str, str] = Field(default_factory=dict, exclude=True, repr=False, description="environment variables")
    start_timeout_s: float = Field(default=1800, gt=0, description="until it is healthy, downloads included (seconds)")
    restarts: int = Field(default=2, ge=0, description="how often it is started again when it dies in a run")


def _url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"'{url}' is no URL: write it like http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise ValueError(f"the URL of {parts.hostname} holds a password: put it in api_key, as ${{NAME_OF_A_VARIABLE}}")
    base, mark, query = url.partition("?")
    if parts.path.rstrip("/").endswith("/chat/completions"):
        raise ValueError(f"'{url}' goes too far: leave out /chat/completions, base_url mostly ends in /v1")
    for name, _ in parse_qsl(query, keep_blank_values=True):
        if SECRET_PARAMETER.fullmatch(name):
            raise ValueError(
                f"the URL of {parts.hostname} holds '{name}', which would be kept with the data: put it in api_key, as "
                "${NAME_OF_A_VARIABLE}, and the header that carries it in api_key_header"
            )
    return base.rstrip("/") + mark + query


def _listed(urls: object) -> object:
    return [urls] if isinstance(urls, str) else urls


def _switch(value: object) -> object:
    """True and false for the settings as they come and none."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class Teacher(_Spec):
    """One teacher of a build.

    Raises:
        InputError: the id cannot name a folder, or ``api_key`` names an environment variable that is not set, or names
            one otherwise than as ``${NAME}``.
    """

    id: str = Field(description="names the teacher in every table and its folder")
    model: str = Field(min_length=1, description="model name the server is asked for")
    base_url: Annotated[tuple[Annotated[str, AfterValidator(_url)], ...], BeforeValidator(_listed)] = Field(
        default=(),
        description="OpenAI-compatible URL, up to and with /v1; several are replicas of one server, the first of "
        "which names the endpoint: adding replicas behind it keeps the cache. A query (`?api-version=...`) is kept",
    )
    vllm: Vllm | None = Field(default=None, description="in place of base_url: raffinate serves the model itself")
    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False, description="write ${NAME_OF_A_VARIABLE}")
    api_key_header: str = Field(
        default="Authorization",
        pattern=r"^[A-Za-z0-9-]+$",
        description="header that carries the key; where it is another, such as Azure's `api-key`, without `Bearer`",
    )
    api_key_env: str | None = Field(default=None, description="the variable that the key came from, for messages")
    revision: str | None = Field(default=None, description="revision of the weights, as you know it")
    licence: str | None = Field(default=None, description="licence of the model's outputs; never guessed")
    params: Params = Params()
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        default="max_tokens", description="what the server calls the token limit"
    )
    samples: int = Field(default=1, ge=1, description="answers per question")
    structured: Literal["json_schema", "structured_outputs"] | None = Field(
        default=None,
        description="make it answer in JSON, as {rationale, result}: `json_schema` is OpenAI's response_format, "
        "`structured_outputs` is vLLM's own field",
    )
    follow_up: bool = Field(
        default=False,
        description="where no answer can be read from a reply, ask for it alone in the same conversation, once; a "
        "prompt's block `follow_up` has other words for it",
    )
    batch: Annotated[Batch | None, BeforeValidator(_switch)] = Field(
        default=None, description="true, or its settings: ask through the server's Batch API"
    )
    timeout_s: float = Field(default=600, gt=0, description="from sending a request to its last byte (seconds)")
    max_attempts: int = Field(
        default=6,
        ge=1,
        description="how often one request is sent in one run; more often where the server asks for less speed (429)",
    )
    max_concurrency: int = Field(default=256, ge=1, description="most requests in flight at one URL")
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    price: Price | None = Field(
        default=None,
        description="null: as listed by genai-prices, if that is installed and knows it; else costs stay null",
    )
    transport: Literal["lean", "openai"] = Field(
        default="lean", description="`openai` asks through the openai package: slower, for unusual servers"
    )

    @model_validator(mode="before")
    @classmethod
    def _resolve_key(cls, data: Any) -> Any:
        key = data.get("api_key") if isinstance(data, dict) else None
        reference = REFERENCE.fullmatch(key) if isinstance(key, str) else None
        if reference is None:
            if isinstance(key, str) and "$" in key:
                raise InputError(f"teacher '{data.get('id')}': write api_key as ${{NAME}} and nothing else")
            return data
        name = reference[1]
        if not os.environ.get(name):
            raise InputError(f"teacher '{data.get('id')}': the environment variable {name} is not set: export it")
        return {**data, "api_key": os.environ[name], "api_key_env": name}

    @model_validator(mode="after")
    def _named(self) -> Self:
        check_name(self.id, "teacher id")
        if bool(self.base_url) == (self.vllm is not None):
            raise ValueError("give either base_url, where the model is served, or vllm, to have it served")
        if self.vllm and self.batch:
            raise ValueError("a vllm of ours has no Batch API: leave out batch")
        return self

    @property
    def endpoint(self) -> str:
        """What identifies the server in a request's hash: the first URL; every vLLM of ours is the same."""
        return "vllm" if self.vllm else self.base_url[0]

    @property
    def key_name(self) -> str:
        """How messages call the key, without showing it."""
        return f"the key in {self.api_key_env}" if self.api_key_env else "its api_key"


def teacher_notes(teachers: Sequence[Teacher]) -> list[str]:
    """What is odd, but not wrong, about teachers."""
    return [
        f"teacher '{t.id}' is asked {t.samples} times at temperature 0: mostly that is the same text, paid {t.samples} "
        "times; set params.temperature, or samples to 1"
        for t in teachers
        if t.samples > 1 and t.params.temperature == 0
    ]


def check_teachers(teachers: tuple[Teacher, ...]) -> None:
    """Refuse teachers that share an id.

    Raises:
        InputError: two teachers have the same id, or ids that differ in case only (one folder on some systems).
    """
    seen: set[str] = set()
    for teacher in teachers:
        if teacher.id.lower() in seen:
            raise InputError(f"two teachers are called '{teacher.id}': give each its own id")
        seen.add(teacher.id.lower())
    if not teachers:
        raise InputError("there is no teacher to ask: name at least one under teachers")
