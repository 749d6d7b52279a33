"""Simulated judges: what a teacher of the sandbox says when it is asked to merge, score, compare or debate.

The prompts of raffinate's own purifiers are recognised by their words; explanations stand in them between
``<explanation NAME>`` tags and end in ``Conclusion: X``. A judge works the question out for itself first, as fallibly
as when it is asked the question alone (the same draw), and then

merge     concludes in the answer with most votes, its own counting `OWN_VOTE` and each explanation's 1
score     4 or 5 for an explanation that concludes in its own answer, 1 to 3 for another, 3 for none
compare   the one that concludes in its own answer; else the first one with probability `FIRST`
debate    goes over to an answer that two others share with probability `SWAYED`; is sure to
          50 + 45 * Phi(-margin - noise / 2) per cent, noise standard normal: the surer, the more likely it is right

and, once in fifty times, says something from which nobody can read a verdict. It has no eye for style or for the steps
between: what such judges choose says how the methods work, and nothing about language models.
"""

from __future__ import annotations

import re
from collections import Counter
from statistics import NormalDist

from builders.sandbox.problem import Problem
from builders.sandbox.teachers import Attempt, Reply, Sample, SandboxTeacher, attempt, derivation_of, told, uniform

OWN_VOTE, FIRST, SWAYED, SPEECHLESS = 1.5, 0.6, 0.5, 0.02
EVASION = "I cannot say without knowing more about who will read this."

_EXPLANATION = re.compile(r"<explanation (\w+)>\n(.*?)\n</explanation \1>", re.DOTALL)
_CONCLUSION = re.compile(r"^Conclusion: (.*)\Z", re.MULTILINE)
_CUES = {
    "merge": "Merge the explanations into one",
    "score": 'one last line: "Score: N"',
    "compare": '"Better: first", "Better: second"',
    "debate": '"Confidence: N", where N',
}


def judgement(
    teacher: SandboxTeacher, problem: Problem | None, prompt: str, sample: Sample, world_seed: int
) -> Reply | None:
    """What the teacher says to a prompt that asks for a judgement; None if this one does not."""
    role = next((name for name, cue in _CUES.items() if cue in prompt), None)
    if role is None or problem is None:
        return None
    found = attempt(teacher, problem, sample, world_seed)
    explanations = _EXPLANATION.findall(prompt, prompt.rfind(problem.text))
    shown = {name: _concluded(problem, text) for name, text in explanations}
    key = f"{found.key}|{prompt}"  # judges draw anew for each prompt
    if uniform("speechless", key) < SPEECHLESS:
        return Reply(EVASION)
    return Reply(_ROLES[role](teacher, problem, found, shown, key))


def _concluded(problem: Problem, text: str) -> str | None:
    """The answer of an explanation, as the sandbox writes answers; None where it has none."""
    match = _CONCLUSION.search(text)
    said = match[1].strip().strip("().") if match else "none"
    by_label = {label: option for option, label in problem.labels.items()}
    return None if said == "none" else by_label.get(said, said)


Shown = dict[str, str | None]


def _merge(teacher: SandboxTeacher, problem: Problem, found: Attempt, shown: Shown, key: str) -> str:
    count = {found.derivation.answer: OWN_VOTE}
    for answer in filter(None, shown.values()):
        count[answer] = count.get(answer, 0) + 1
    most = max(count, key=lambda a: (count[a], uniform("merge", key + a)))
    answer = found.derivation.answer if problem.shown else most
    return told(teacher, problem, derivation_of(problem, answer))


def _score(teacher: SandboxTeacher, problem: Problem, found: Attempt, shown: Shown, key: str) -> str:
    (answer,) = shown.values()
    draw = uniform("score", key)
    number = 3 if answer is None else 4 + int(draw * 2) if answer == found.derivation.answer else 1 + int(draw * 3)
    return f"I find {problem.written(found.derivation.answer)}, and compared.\nScore: {number}"


def _compare(teacher: SandboxTeacher, problem: Problem, found: Attempt, shown: Shown, key: str) -> str:
    first, second = (answer == found.derivation.answer for answer in shown.values())
    better = "first" if first > second or (first == second and uniform("place", key) < FIRST) else "second"
    return f"I find {problem.written(found.derivation.answer)}.\nBetter: {better}"


def _debate(teacher: SandboxTeacher, problem: Problem, found: Attempt, shown: Shown, key: str) -> str:
    own = shown.get("yours") or found.derivation.answer
    others = Counter(answer for name, answer in shown.items() if name != "yours" and answer not in (None, own))
    rival, votes = max(others.items(), key=lambda o: (o[1], uniform("rival", f"{key}{o[0]}")), default=(own, 0))
    answer = rival if rival and votes >= 2 and uniform("swayed", key) < SWAYED else own
    noise = NormalDist().inv_cdf(uniform("sure", key))
    sure = 50 + 45 * NormalDist().cdf(-found.margin - noise / 2)
    return f"{told(teacher, problem, derivation_of(problem, answer))}\nConfidence: {sure:.0f}"


_ROLES = {"merge": _merge, "score": _score, "compare": _compare, "debate": _debate}
