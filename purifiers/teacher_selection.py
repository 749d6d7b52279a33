"""`teacher-selection`: a policy over teachers, rewarded by how well a student learns from the one it selects.

Knowledge purification's RL method (arXiv 2602.01064), after Reinforced multi-teacher selection (arXiv 2012.06048).

    state     s_i = [E(q); E(r_i) * 1(teacher i's own answer is gold)],  standardised on train
    policy    a_i ~ Bernoulli(sigmoid(w_i . s_i + b_i)); the selected teacher with the highest score is distilled
    reward    -L_PR - weight * L_DL of the student, token means; minus a baseline (`purifiers.policy`)

The paper's variant is ``policy=bernoulli, baseline=none, alternate=batch``; what we do by default, and why:

- ``categorical``: one teacher is drawn from softmax(scores), so that the reward belongs to the action;
- a raw reward is always negative and drifts as the student learns, which suppresses every action: the baseline is the
  mean reward of the same question over its teachers (``teachers``), or a moving average (``ema``);
- ``alternate=epoch``: per round the loss of every (question, teacher) is computed once, the policy is trained on these
  numbers, and the student on one pass of its choices: minutes per dataset instead of a student step per policy step.
  The student stands still within a round, so L_PR is the same for all teachers of a question and leaves the advantage.

-L_DL prefers rationales that the student finds easy, short and formulaic ones too: read its audit.

The indicator needs gold, which is unknown where gold is hidden or missing. There it is replaced by its expectation, the
probability by `consensus` on votes that teacher i's answer is right: s_i = [E(q); E(r_i) * P(right)]. The paper says
nothing of such questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, PrivateAttr

from purifiers.base import Purified, Purifier, Scores, Signal, choose
from purifiers.consensus import Consensus
from purifiers.encoder import DEFAULT_ENCODER, embed
from purifiers.equipment import OnFit, Student
from purifiers.policy import Kind, Policy, chances, draw, scaled
from purifiers.student_tasks import Floats, Rows, golds, rationale_losses
from schemas.corpus import Corpus
from schemas.layout import EXPLAIN, PREDICT

States = npt.NDArray[np.float32]

BLOCK = 4096
"""Questions whose states are held at a time when choosing."""
LOSSES = 256
"""Questions whose losses are computed at a time, with all their rationales."""
EMA = 0.9


class TeacherSelection(Purifier):
    """Policy over [question; rationale if right], rewarded by a student's losses; needs a student."""

    name = "teacher-selection"
    signals = frozenset({Signal.QUESTION, Signal.RATIONALES, Signal.ANSWERS, Signal.GOLD, Signal.STUDENT})
    learns = True

    policy: Kind = Field("categorical", description="'categorical': draw one teacher; 'bernoulli': the paper's")
    alternate: Literal["epoch", "batch"] = Field(
        "epoch", description="'epoch': losses once per round; 'batch': a student step before each policy step"
    )
    baseline: Literal["teachers", "ema", "none"] = Field(
        "teachers", description="what is taken off the reward: its mean over the question's teachers, a moving average"
    )
    rationale_weight: float = Field(1.0, ge=0, description="weight of the rationale's loss in the reward")
    warm_up: int = Field(1, ge=0, description="passes of the student over train with teachers drawn at random")
    rounds: int = Field(2, gt=0, description="times that policy and student alternate; passes over train with 'batch'")
    epochs: int = Field(20, gt=0, description="passes of the policy per round, with 'epoch'")
    batch: int = Field(32, gt=0, description="questions per step of the policy and of the student")
    rate: float = Field(1e-3, gt=0, description="learning rate of the policy (Adam)")
    entropy: float = Field(0.01, ge=0, description="weight of the policy's entropy")
    encoder: str = Field(DEFAULT_ENCODER, description="encoder of questions and rationales")
    seed: int = Field(0, description="of the draws, the order and the student")

    _consensus: Consensus = PrivateAttr(default_factory=lambda: _votes())  # noqa: PLW0108

    def fit(self, corpus: Corpus) -> Self:
        """Train policy and student in turn; see the module."""
        student = self.student.fresh(self.seed)
        copy = self.restore({}, corpus.teachers)
        copy._consensus = _votes().fit(corpus)
        rows = np.flatnonzero(corpus.labelled & corpus.usable.any(axis=1))
        lessons = _Lessons.of(corpus.take(rows), student, self, self.equipment.on_fit)
        states, scale = standardised(copy._states(lessons.corpus), lessons.open)
        width = states.shape[2]
        policy = Policy(
            np.zeros((len(corpus.teachers), width)),
            np.zeros(len(corpus.teachers)),
            self.policy,
            self.rate,
            self.entropy,
        )
        rng = np.random.default_rng(self.seed)
        for _ in range(self.warm_up):
            for part in _batches(rng, len(lessons), self.batch):
                lessons.teach(part, draw(0 * policy.z(states[part]), lessons.open[part], "categorical", rng)[1])
        run = self._by_epoch if self.alternate == "epoch" else self._by_batch
        run(policy, states, lessons, rng)
        copy._learned = {"weights": policy.weights, "bias": policy.bias, "scale": scale}
        return copy

    def _by_epoch(self, policy: Policy, states: States, lessons: _Lessons, rng: np.random.Generator) -> None:
        for i in range(self.rounds):
            parts = np.array_split(np.arange(len(lessons)), -(-len(lessons) // LOSSES))
            rewards = np.concatenate([lessons.rewards(part) for part in parts])
            mean = _Average()
            for _ in range(self.epochs):
                for part in _batches(rng, len(lessons), self.batch):
                    action, taken = draw(policy.z(states[part]), lessons.open[part], self.policy, rng)
                    advantage = self._advantage(rewards[part], taken, mean)
                    policy.step(states[part], lessons.open[part], action, advantage)
            if i < self.rounds - 1:
                best = np.where(lessons.open, policy.z(states), -np.inf).argmax(axis=1)
                for part in _batches(rng, len(lessons), self.batch):
                    lessons.teach(part, best[part])

    def _by_batch(self, policy: Policy, states: States, lessons: _Lessons, rng: np.random.Generator) -> None:
        mean = _Average()
        for _ in range(self.rounds):
            for part in _batches(rng, len(lessons), self.batch):
                action, taken = draw(policy.z(states[part]), lessons.open[part], self.policy, rng)
                lessons.teach(part, taken)
                only = None if self.baseline == "teachers" else taken
                advantage = self._advantage(lessons.rewards(part, only), taken, mean)
                policy.step(states[part], lessons.open[part], action, advantage)

    def _advantage(self, rewards: Floats, taken: Rows, mean: _Average) -> Floats:
        """(B,) reward of the teacher taken minus the baseline, scaled."""
        got = rewards[np.arange(len(taken)), taken]
        if self.baseline == "teachers":
            return scaled(got - np.nanmean(rewards, axis=1))
        return scaled(got - mean(float(got.mean())) if self.baseline == "ema" else got)

    def _states(self, corpus: Corpus) -> States:
        """(Q, T, 2 D) raw states; see the module."""
        question = embed(corpus.question_texts(), self.encoder, self.equipment.on_fit)
        row, column = np.nonzero(corpus.usable)
        right = self._right(corpus)[row, column]
        width = question.shape[1]
        states = np.zeros((*corpus.usable.shape, 2 * width), np.float32)
        states[:, :, :width] = question[:, None]
        if len(row):
            vectors = embed(corpus.rationale_texts(row, column), self.encoder, self.equipment.on_fit)
            states[row, column, width:] = vectors * right[:, None]
        return states

    def _right(self, corpus: Corpus) -> States:
        """(Q, T) 1 or 0 where gold is known, the probability by the votes where it is not."""
        right: States = (corpus.correct == 1).astype(np.float32)
        unknown = np.flatnonzero(~corpus.labelled)
        if len(unknown):
            right[unknown] = np.nan_to_num(self._consensus.score(corpus.take(unknown).hide_gold()))
        return right

    def score(self, corpus: Corpus) -> Scores:
        """z of each teacher; one that was not there at the fit has none, and is not chosen."""
        weights, bias, scale = self.learned("weights"), self.learned("bias"), self.learned("scale")
        known = corpus.with_teachers(self._teachers)
        found = np.zeros((len(corpus), len(self._teachers)))
        for start in range(0, len(corpus), BLOCK):
            part = slice(start, min(start + BLOCK, len(corpus)))
            states = (self._states(known.take(np.arange(part.start, part.stop))) - scale[0]) / scale[1]
            found[part] = np.einsum("btd,td->bt", states, weights) + bias
        return self.among_teachers(found, corpus)

    def purify(self, corpus: Corpus) -> Purified:
        """Keep the highest score; give the policy's probabilities."""
        scores = self.score(corpus)
        chance = chances(np.nan_to_num(scores.astype(np.float64)), ~np.isnan(scores), self.policy)
        return choose(scores, np.where(np.isnan(scores), np.nan, chance).astype(np.float32))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """The policy, the scale of its states, and the votes' reliabilities."""
        return {**self._learned, **{f"votes.{name}": array for name, array in self._consensus.state().items()}}

    def restore(self, state: Mapping[str, npt.NDArray[Any]], teachers: tuple[str, ...]) -> Self:
        """See `Purifier.restore`."""
        votes = {name.removeprefix("votes."): array for name, array in state.items() if name.startswith("votes.")}
        copy = super().restore({n: a for n, a in state.items() if not n.startswith("votes.")}, teachers)
        copy._consensus = _votes().restore(votes, teachers)
        return copy


@dataclass
class _Lessons:
    """The train questions as a student is taught them.

    Attributes:
        corpus: Q labelled questions, each with a usable response.
        questions: (Q,) texts.
        gold: (Q,) what it is to answer.
        rationale: the text of each usable (row, column).
        student: changed by `teach`.
        weight: of the rationale's loss.
        passes: over all questions that the student will make, to be taught or for its losses.
        on_fit: told how far these are.
        done: questions of them that are over.
    """

    corpus: Corpus
    questions: list[str]
    gold: list[str]
    rationale: dict[tuple[int, int], str]
    student: Student
    weight: float
    passes: int
    on_fit: OnFit
    done: int = 0

    @classmethod
    def of(cls, corpus: Corpus, student: Student, settings: TeacherSelection, on_fit: OnFit) -> _Lessons:
        row, column = np.nonzero(corpus.usable)
        pairs = zip(row.tolist(), column.tolist(), strict=True)
        texts = dict(zip(pairs, corpus.rationale_texts(row, column), strict=True))
        gold = [text or "" for text in golds(corpus)]
        passes = settings.warm_up + 2 * settings.rounds
        if settings.alternate == "epoch":
            passes -= 1  # the last round's choice is not taught
        return cls(corpus, corpus.question_texts(), gold, texts, student, settings.rationale_weight, passes, on_fit)

    def _told(self, rows: Rows, facts: str) -> None:
        self.done += len(rows)
        self.on_fit(self.done, self.passes * len(self), facts)

    def __len__(self) -> int:
        return len(self.corpus)

    @property
    def open(self) -> npt.NDArray[np.bool_]:
        """(Q, T) whose rationales can be taken."""
        return self.corpus.usable

    def teach(self, rows: Rows, taken: Rows) -> None:
        """One step on predicting gold and on explaining as the teacher taken does."""
        asked = [self.questions[r] for r in rows]
        prompts = [f"{PREDICT}{q}" for q in asked] + [f"{EXPLAIN}{q}" for q in asked]
        targets = [self.gold[r] for r in rows]
        targets += [self.rationale[pair] for pair in zip(rows.tolist(), taken.tolist(), strict=True)]
        loss = self.student.learn(prompts, targets, [1.0] * len(rows) + [self.weight] * len(rows))
        self._told(rows, f"teaching the student, loss {loss:.3f}")

    def rewards(self, rows: Rows, taken: Rows | None = None) -> Floats:
        """(B, T) -L_PR - weight * L_DL of each teacher, or of the one taken; NaN for the others."""
        asked = [self.questions[r] for r in rows]
        answer = self.student.loss([f"{PREDICT}{q}" for q in asked], [self.gold[r] for r in rows])
        wanted = self.open[rows].copy()
        if taken is not None:
            wanted[:] = False
            wanted[np.arange(len(rows)), taken] = True
        at, column = np.nonzero(wanted)
        texts = [self.rationale[pair] for pair in zip(rows[at].tolist(), column.tolist(), strict=True)]
        found = np.full(wanted.shape, np.nan)
        found[at, column] = -self.weight * rationale_losses(self.student, [asked[i] for i in at], texts)
        self._told(rows, "losses of the rationales")
        return found - answer.astype(np.float64)[:, None]


class _Average:
    """A moving average that answers what it was before it took in the new value; at first, the value itself."""

    def __init__(self) -> None:
        self.value: float | None = None

    def __call__(self, new: float) -> float:
        before = new if self.value is None else self.value
        self.value = EMA * before + (1 - EMA) * new
        return before


def standardised(states: States, open_: npt.NDArray[np.bool_]) -> tuple[States, States]:
    """The states, and the (2, D) mean and spread over the usable responses that they were standardised with."""
    seen = states[open_]
    spread = seen.std(axis=0)
    scale = np.stack([seen.mean(axis=0), np.where(spread < 1e-8, 1.0, spread)])
    return (states - scale[0]) / scale[1], scale


def _votes() -> Consensus:
    return Consensus(text=False, trees=False)


def _batches(rng: np.random.Generator, n: int, size: int) -> list[Rows]:
    order = rng.permutation(n)
    return [order[i : i + size] for i in range(0, n, size)]
