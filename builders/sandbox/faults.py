"""Faults on command: rules that say which requests go wrong, and how."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from builders.sandbox.teachers import SandboxTeacher, uniform

Kind = Literal[
    "rate_limit", "server_error", "hang", "truncation", "malformed", "empty", "refusal", "unread", "expiry", "death"
]


class Fault(BaseModel):
    """One rule. It looks at the requests of ``teacher`` whose prompt ``match`` finds, and counts them.

    Of those it leaves the first ``after`` alone, considers the next ``first`` (all, if not given), and strikes a
    ``share`` of them, drawn anew for each attempt. The third request alone: ``after=2, first=1``.

    Kinds: ``rate_limit`` (429 with Retry-After), ``server_error`` (500), ``hang`` (the reply comes ``seconds`` late),
    ``truncation`` (half of the reply, finish_reason ``length``), ``malformed`` (a body that is no JSON), ``empty``
    (no content), ``refusal``, ``unread`` (a reply that commits itself to no answer, until it is asked again in the
    same conversation), ``expiry`` (a batch is closed before it gets to this request) and ``death``: the connection is
    closed and stays so, for one model if ``teacher`` is given, else for the whole server.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    teacher: str | None = Field(
        default=None, description="name or model id of the teacher it strikes; all if not given"
    )
    match: str | None = Field(default=None, description="regular expression to be found in the prompt")
    share: float = Field(default=1.0, ge=0, le=1, description="probability that a request that it looks at is struck")
    after: int = Field(default=0, ge=0, description="requests that it looks at and leaves alone first")
    first: int | None = Field(
        default=None, ge=1, description="requests that it considers after those; all if not given"
    )
    retry_after: float = Field(default=1.0, ge=0, description="the Retry-After header of rate_limit, in seconds")
    seconds: float = Field(default=60.0, ge=0, description="how late the reply of hang comes, in seconds")

    @field_validator("match")
    @classmethod
    def _compiles(cls, match: str | None) -> str | None:
        try:
            re.compile(match or "")
        except re.error as error:
            raise ValueError(f"'{match}' is no regular expression: {error}") from error
        return match

    def concerns(self, teacher: SandboxTeacher, prompt: str) -> bool:
        """Whether the rule looks at this request at all."""
        named = self.teacher is None or self.teacher in (teacher.name, teacher.model)
        return named and (self.match is None or re.search(self.match, prompt) is not None)


@dataclass
class FaultPlan:
    """The rules in force and how many requests each has looked at."""

    rules: Sequence[Fault]
    seed: int = 0
    looked_at: Counter[int] = field(default_factory=Counter)
    dead: set[str] = field(default_factory=set)
    """Models whose teacher died."""

    def strike(self, teacher: SandboxTeacher, prompt: str, attempt: str) -> Fault | None:
        """The first rule that strikes this attempt, or None.

        ``attempt`` names the request and how often it came before: the draw depends on it and not on the order in
        which concurrent requests arrive. Every rule counts the request, also if an earlier one struck.
        """
        struck = None
        for i, rule in enumerate(self.rules):
            if not rule.concerns(teacher, prompt):
                continue
            place = self.looked_at[i] - rule.after
            self.looked_at[i] += 1
            in_range = place >= 0 and (rule.first is None or place < rule.first)
            if struck is None and in_range and uniform(f"fault {i}", f"{self.seed}|{attempt}") < rule.share:
                struck = rule
        return struck
