"""Purifiers that ask, in tests: an asker whose replies are scripted, and a small corpus to ask about."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from helpers_corpus import question_row, response_row, write_workspace

from builders.asker import Asker, Call, Said
from builders.teacher import Teacher
from purifiers.base import Purifier
from purifiers.equipment import Equipment
from schemas.tables import CALLS
from schemas.workspace import Workspace

Reply = Callable[[Call], str | Said]


class ScriptedAsker(Asker):
    """Answers by a function in place of the network; ``calls`` are all calls made."""

    def __init__(self, workspace: Workspace, names: Sequence[str], reply: Reply) -> None:
        teachers = [Teacher(id=n, model=f"example/{n}", base_url="http://127.0.0.1:9/v1") for n in names]
        super().__init__(workspace, teachers)
        self.reply, self.calls = reply, list[Call]()

    def ask(self, calls: Sequence[Call], **_: Any) -> list[Said]:
        self.calls += calls
        found = [self.reply(call) for call in calls]
        said = [s if isinstance(s, Said) else Said(s or None, "ok", "" if s else "an empty reply") for s in found]
        for number, (call, s) in enumerate(zip(calls, said, strict=True), start=len(self.calls)):
            s.row = {
                **dict.fromkeys(CALLS.names),
                **{"question_id": call.question_id, "judge_id": call.to, "purpose": call.purpose, "params": "{}"},
                **{"about": list(call.about), "gold_shown": call.gold_shown, "status": s.status, "reply": s.text},
                **{"request_hash": f"{number}", "model": f"example/{call.to}", "attempts": 1, "cost_usd": 0.001},
            }
        self._kept.add(said)
        return said

    def prompts(self) -> list[str]:
        return ["\n".join(m["content"] for m in call.messages) for call in self.calls]


def failed(why: str = "timeout: no whole reply within 600 s") -> Said:
    return Said(None, "failed", why)


def asked_by(purifier: Purifier, asker: Asker) -> Purifier:
    return purifier.equipped(Equipment(asker=asker))


def workspace_of(path: Path, answers: Sequence[str], split: str = "test", gold: str = "", **texts: str) -> Workspace:
    """One string per question, one character per teacher a, b, c, ... (named alpha, beta, ...): its answer.

    ``-`` is a failed response, ``?`` one whose answer is unread. The rationale of a teacher can be given by its name.
    """
    rng = random.Random(0)
    names = ("alpha", "beta", "gamma", "delta")[: len(answers[0])]
    questions = [question_row(i, split, rng) for i in range(len(answers))]
    for q, g in zip(questions, gold, strict=False):
        q["answer"] = None if g == "?" else g
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for q, given in zip(questions, answers, strict=True):
        for name, answer in zip(names, given, strict=True):
            rationale = texts.get(name, f"This is how {name} counts the books of {q['question_id']}.")
            row = response_row(q, name, True, rationale=rationale)
            row |= {"predicted_answer": None if answer in "-?" else answer, "answer_status": "read"}
            row["is_correct"] = None if q["answer"] is None else answer == q["answer"]
            if answer == "?":
                row["answer_status"] = "unread"
            if answer == "-":
                row |= {"status": "failed", "rationale": None, "rationale_chars": 0, "error_class": "timeout"}
            rows[name].append(row)
    return write_workspace(path, questions, rows)
