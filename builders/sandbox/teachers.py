"""Simulated teachers: who is right about what, how they err, and how they write.

Whether a teacher is right about a question is a one-factor Gaussian model (Vasicek's, known from credit risk; a probit
model of item difficulty):

    right  <=>  sqrt(rho) * z_question + sqrt(1 - rho) * e <= Phi^-1(competence in the question's domain)
    e = sqrt(1 - s) * e_teacher,question + sqrt(s) * e_sample,     s = 0.4 * min(temperature, 1)

with all z and e standard normal, so that the share of right answers is the declared competence at any temperature,
while rho = 0.5 makes hard questions hard for everybody. The normals are hashes of (world seed, teacher, question text,
sample seed and index), so the same request to the same world has the same reply. A wrong teacher makes one of the
question's mistakes: with probability 1/2 the tempting one, the same for all teachers, else one of its own. A teacher
with a habit makes that share of its mistakes by it: one mistake per domain, drawn once, so that it errs predictably.
Teachers of one school have the same habits, as models that read the same web do.

The left side minus the right is the margin of error. Token log-probabilities carry it weakly: their mean is
-0.05 - 0.5 * Phi(0.5 * margin + noise), noise standard normal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Literal

import xxhash
from pydantic import BaseModel, ConfigDict, Field, field_validator

from builders.sandbox.problem import Derivation, Problem
from builders.sandbox.world import EVERY
from schemas.errors import nearest

_NORMAL = NormalDist()
_SHARED_DIFFICULTY = 0.5  # rho
_SAMPLE_SHARE = 0.4  # s at temperature 1
_TEMPTED = 0.5

Style = Literal["terse", "lines", "numbered", "chatty"]
UNKNOWN = "I do not know this question: it is not one that the sandbox can solve."


class SandboxTeacher(BaseModel):
    """One simulated teacher, asked for as model ``sandbox/<name>``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    default: float = Field(
        default=0.6, ge=0, le=1, description="share of right answers in domains not named in competence"
    )
    competence: Mapping[str, float] = Field(default_factory=dict, description="domain -> share of right answers, 0..1")
    style: Style = "lines"
    habit: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of its mistakes in a domain that are one and the same, its own there",
    )
    school: str | None = Field(default=None, description="teachers of one school have their habits in common")
    reasoning: bool = Field(default=False, description="thinks aloud in a channel of its own before it answers")
    seed: int = Field(default=0, description="two teachers alike in all but the seed err on different questions")

    @field_validator("competence")
    @classmethod
    def _known_domains(cls, competence: Mapping[str, float]) -> Mapping[str, float]:
        for domain, share in competence.items():
            if domain not in EVERY:
                raise ValueError(f"no domain '{domain}'{nearest(domain, EVERY)}: they are {', '.join(EVERY)}")
            if not 0 <= share <= 1:
                raise ValueError(f"the competence in {domain} must lie within 0 and 1, not {share}")
        return competence

    @property
    def model(self) -> str:
        """The model id that the server knows this teacher by."""
        return f"sandbox/{self.name}"


# Mean competence over the domains is .62 to .63 for each of the four, the best of the four per domain is .91.
TEACHERS = (
    SandboxTeacher(
        name="ada",
        competence={"arithmetic": 0.93, "percent": 0.9, "units": 0.8, "sets": 0.75, "clock": 0.5}
        | {"weekday": 0.4, "ordering": 0.45, "kinship": 0.4, "letters": 0.45},
        style="numbered",
    ),
    SandboxTeacher(
        name="bo",
        competence={"clock": 0.92, "weekday": 0.9, "units": 0.88, "arithmetic": 0.6, "percent": 0.5}
        | {"sets": 0.45, "ordering": 0.45, "kinship": 0.45, "letters": 0.45},
        style="terse",
    ),
    SandboxTeacher(
        name="cy",
        competence={"ordering": 0.93, "kinship": 0.92, "sets": 0.88, "letters": 0.55, "weekday": 0.55}
        | {"arithmetic": 0.5, "percent": 0.4, "units": 0.45, "clock": 0.4},
        style="chatty",
    ),
    SandboxTeacher(
        name="dee",
        competence={"letters": 0.95, "arithmetic": 0.65, "percent": 0.6, "units": 0.55, "clock": 0.6}
        | {"sets": 0.6, "weekday": 0.55, "ordering": 0.55, "kinship": 0.6},
        style="lines",
        reasoning=True,
    ),
)
"""The teachers that the sandbox ships: about equally good on the whole, each best at something else."""


@dataclass(frozen=True)
class Sample:
    """What may differ between two replies of a teacher to one question: the request's seed, the index within n."""

    temperature: float = 0.0
    seed: int = 0
    index: int = 0


@dataclass(frozen=True)
class Reply:
    """One reply, before the server cuts it at a token limit."""

    content: str
    reasoning: str | None = None
    mean_logprob: float = -0.3
    flaw: str | None = None
    """The mistake made; None where the reply is right, or leads to a gold answer that the prompt showed."""


def reply(teacher: SandboxTeacher, problem: Problem | None, sample: Sample, world_seed: int = 0) -> Reply:
    """What ``teacher`` says to a prompt in which ``problem`` was read."""
    if problem is None:
        return Reply(UNKNOWN)
    found = attempt(teacher, problem, sample, world_seed)
    logprob = -0.05 - 0.5 * _NORMAL.cdf(0.5 * found.margin + _normal("confidence", found.key))
    thought = f"Let me think. {' '.join(found.derivation.steps)} That should be it." if teacher.reasoning else None
    return Reply(told(teacher, problem, found.derivation), thought, logprob, found.flaw)


@dataclass(frozen=True)
class Attempt:
    """What a teacher finds when it works a question out: ``margin`` is positive where it is wrong."""

    derivation: Derivation
    margin: float
    flaw: str | None
    key: str
    """What further draws about this teacher facing this question hang on."""


def attempt(teacher: SandboxTeacher, problem: Problem, sample: Sample, world_seed: int) -> Attempt:
    """Work a question out; towards the gold answer where the prompt shows it."""
    keys = _Keys.of(teacher, problem, sample, world_seed)
    margin = _margin(teacher.competence.get(problem.domain.name, teacher.default), sample.temperature, keys)
    flaw = _flaw(teacher, problem, keys) if margin > 0 and problem.shown is None else None
    derivation = (
        derivation_of(problem, problem.shown) if problem.shown else problem.mistakes[flaw] if flaw else problem.truth
    )
    return Attempt(derivation, margin, flaw, keys.sample)


def told(teacher: SandboxTeacher, problem: Problem, derivation: Derivation) -> str:
    """A derivation in the teacher's style, with its answer line."""
    return f"{_STYLES[teacher.style](derivation.steps)}\nThe answer is {problem.written(derivation.answer)}."


@dataclass(frozen=True)
class _Keys:
    """What the random draws hang on: the question alone, a teacher facing it, and one sample of that teacher."""

    question: str
    teacher: str
    sample: str

    @classmethod
    def of(cls, teacher: SandboxTeacher, problem: Problem, sample: Sample, world_seed: int) -> _Keys:
        question = f"{world_seed}|{problem.text}"
        own = f"{teacher.name}|{teacher.seed}|{question}"
        return cls(question, own, f"{own}|{sample.seed}|{sample.index}" if sample.temperature > 0 else own)


def _margin(competence: float, temperature: float, keys: _Keys) -> float:
    """By how much difficulty exceeds competence, in standard deviations: positive where the teacher is wrong."""
    own = _normal("own", keys.teacher)
    if temperature > 0:
        share = _SAMPLE_SHARE * min(temperature, 1)
        own = sqrt(1 - share) * own + sqrt(share) * _normal("sample", keys.sample)
    difficulty = sqrt(_SHARED_DIFFICULTY) * _normal("difficulty", keys.question) + sqrt(1 - _SHARED_DIFFICULTY) * own
    # inv_cdf is undefined at 0 and 1: ten standard deviations are never or always
    return difficulty - (_NORMAL.inv_cdf(competence) if 0 < competence < 1 else 20 * competence - 10)


def _flaw(teacher: SandboxTeacher, problem: Problem, keys: _Keys) -> str | None:
    """The mistake a wrong teacher makes; None if the question has none, as one changed by hand may."""
    flaws = list(problem.mistakes)
    if not flaws:
        return None
    if uniform("habitual", keys.sample) < teacher.habit:
        whose = teacher.school or f"{teacher.name}|{teacher.seed}"
        own = uniform("habit", f"{whose}|{problem.domain.name}")
        return flaws[int(own * len(flaws))]
    tempted = uniform("tempted", keys.sample) < _TEMPTED
    draw = uniform("flaw", keys.question if tempted else keys.sample)
    return flaws[int(draw * len(flaws))]


def derivation_of(problem: Problem, answer: str) -> Derivation:
    """A derivation that ends in this answer, by a mistake if only a mistake leads there."""
    for derivation in (problem.truth, *problem.mistakes.values()):
        if derivation.answer == answer:
            return derivation
    return Derivation((*problem.truth.steps, f"But the answer is given as {answer}."), answer)


def uniform(purpose: str, key: str) -> float:
    """A number strictly between 0 and 1 that depends on nothing but its arguments."""
    digest = xxhash.xxh3_64_intdigest(f"{purpose}|{key}".encode())
    return ((digest >> 12) + 0.5) / 2**52  # 52 bits, so that neither end is reached by rounding


def _normal(purpose: str, key: str) -> float:
    return _NORMAL.inv_cdf(uniform(purpose, key))


def _numbered(steps: tuple[str, ...]) -> str:
    return "\n".join(f"Step {i}: {step}" for i, step in enumerate(steps, 1))


def _chatty(steps: tuple[str, ...]) -> str:
    first, *rest = steps
    told = " ".join(f"{'Next' if i % 2 else 'Then'}: {step}" for i, step in enumerate(rest))
    return f"Sure, let us work this out together. First, what we know: {first} {told} And that settles it."


_STYLES = {
    "terse": lambda steps: " ".join(steps[1:]),
    "lines": "\n".join,
    "numbered": _numbered,
    "chatty": _chatty,
}
