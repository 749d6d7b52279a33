"""Building with a router: who is not chosen is not asked, and has no row; every purifier copes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from xxhash import xxh64_intdigest

from builders.asker import Asker
from builders.build import build, estimate, retry, status
from builders.prompt import Prompt, Question
from builders.route import Route
from builders.sandbox import SandboxServer, questions
from builders.teacher import Teacher
from purifiers.equipment import Equipment
from purifiers.majority import Majority
from purifiers.plackett_luce import PlackettLuce
from purifiers.registry import METHODS, method
from purifiers.run import publish
from schemas.corpus import Corpus
from schemas.database import query
from schemas.errors import InputError
from schemas.render import prompts
from schemas.tables import QUESTIONS
from schemas.workspace import Workspace

FREE = Prompt.load("free")
NAMES = ("ada", "bo", "cy")


def make(path: Path, n: int, seed: int = 0) -> Workspace:
    workspace = Workspace.create(path)
    with workspace.lock():
        workspace.write_questions(questions(n, seed))
    return workspace


def teachers(sandbox: SandboxServer, samples: int = 1) -> list[Teacher]:
    return [Teacher(id=n, model=f"sandbox/{n}", base_url=sandbox.url, samples=samples) for n in NAMES]


def by_last_digit(batch: Sequence[Question]) -> list[set[str]]:
    """Even questions to ada, every tenth to nobody, the others to bo and cy."""
    last = [int(q["question_id"][-1]) for q in batch]
    return [set() if n == 9 else {"ada"} if n % 2 == 0 else {"bo", "cy"} for n in last]


def counts(workspace: Workspace) -> dict[str, int]:
    found = query(workspace, "SELECT teacher_id AS t, count(*) AS n FROM responses GROUP BY t").to_pylist()
    return {row["t"]: row["n"] for row in found}


def test_only_the_chosen_are_asked_and_have_rows(tmp_path: Path) -> None:
    workspace = make(tmp_path / "ws", 40)
    wanted = {"ada": 20, "bo": 16, "cy": 16}
    with SandboxServer() as sandbox:
        asked = teachers(sandbox)
        told = {e.teacher_id: e.requests for e in estimate(workspace, asked, FREE, route=by_last_digit)}
        assert told == wanted
        summary = build(workspace, asked, FREE, route=by_last_digit)
        assert sandbox.stats()["received"] == 52
        assert {r.teacher_id: r.total for r in summary.rows} == counts(workspace) == wanted
        assert [(t.total, t.done) for t in summary.run.teachers] == [(n, n) for n in wanted.values()]
        assert {r.teacher_id: r.total for r in status(workspace, asked, FREE, route=by_last_digit)} == wanted
        retry(workspace, asked, FREE, where="teacher_id = 'bo'", route=by_last_digit)
        assert counts(workspace) == wanted
        build(workspace, asked, FREE)
        assert counts(workspace) == {"ada": 40, "bo": 40, "cy": 40}


def test_an_answer_that_is_there_keeps_its_row(tmp_path: Path) -> None:
    workspace = make(tmp_path / "ws", 20)
    with SandboxServer() as sandbox:
        build(workspace, teachers(sandbox), FREE)
        build(workspace, teachers(sandbox), FREE, route=by_last_digit)
        assert sandbox.stats()["received"] == 60
    assert counts(workspace) == {"ada": 20, "bo": 20, "cy": 20}


def test_a_router_that_chooses_a_stranger_is_refused(tmp_path: Path) -> None:
    workspace = make(tmp_path / "ws", 4)
    with SandboxServer() as sandbox:
        with pytest.raises(InputError, match=r"chose teacher 'zoe', whom nobody asks here: there are ada, bo, cy"):
            build(workspace, teachers(sandbox), FREE, route=lambda batch: [{"zoe"} for _ in batch])
        with pytest.raises(InputError, match=r"chose for 1 of \d questions"):
            build(workspace, teachers(sandbox), FREE, route=lambda batch: [{"ada"}])
        assert sandbox.stats()["received"] == 0


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One teacher asked each question, and some questions without any."""
    workspace = make(tmp_path_factory.mktemp("routed") / "ws", 60)

    def one(batch: Sequence[Question]) -> list[set[str]]:
        return [
            {NAMES[n % 3]} if n % 10 else set() for n in (xxh64_intdigest(q["question_id"].encode()) for q in batch)
        ]

    with SandboxServer() as sandbox:
        build(workspace, teachers(sandbox), FREE, route=one)
    return workspace


NEEDS_A_STUDENT = {"comprehension", "gate", "teacher-selection", "utility"}
SHORT = {"training": {"epochs": 1}}
SETTINGS: dict[str, dict[str, object]] = {"aggregate": {"judge": "ada"}, "classifier": SHORT, "similarity": SHORT}


@pytest.mark.usefixtures("stub_encoder")
@pytest.mark.parametrize("name", sorted(METHODS.keys() - NEEDS_A_STUDENT - {"oracle"}))
def test_every_purifier_copes_with_one_teacher_a_question(routed: Workspace, name: str) -> None:
    answered = {row["question_id"]: row["teacher_id"] for row in query(routed, "FROM responses").to_pylist()}
    settings = SETTINGS.get(name, {})
    with SandboxServer() as sandbox:
        asker = Asker(routed, teachers(sandbox))
        publish(routed, method(name)(**settings).equipped(Equipment(asker=asker)))
    kept = query(routed, f"SELECT question_id, teacher_id FROM purified WHERE method = '{name}'").to_pylist()
    rejected = query(routed, f"SELECT question_id FROM rejected WHERE method = '{name}'").to_pylist()
    assert {row["question_id"] for row in kept + rejected} == set(routed.read_questions()["question_id"].to_pylist())
    assert kept and all(answered[row["question_id"]] == row["teacher_id"] for row in kept)


def best_of(fitted: PlackettLuce, k: int) -> Route:
    def route(batch: Sequence[Question]) -> list[set[str]]:
        texts = prompts(pa.Table.from_pylist([dict(q) for q in batch], schema=QUESTIONS.arrow)).to_pylist()
        ranked = np.argsort(-fitted.rank(texts), axis=1)[:, :k]
        return [{fitted._teachers[i] for i in row} for row in ranked]

    return route


def test_a_router_fitted_elsewhere_drives_a_build_that_is_then_purified(tmp_path: Path) -> None:
    elsewhere, here = make(tmp_path / "elsewhere", 60), make(tmp_path / "here", 30, seed=7)
    with SandboxServer() as sandbox:
        build(elsewhere, teachers(sandbox), FREE)
        fitted = PlackettLuce().fit(Corpus.of(elsewhere))
        before = sandbox.stats()["received"]
        build(here, teachers(sandbox), FREE, route=best_of(fitted, 1))
        assert sandbox.stats()["received"] - before == 30  # one teacher each: two thirds of the cost is saved
        assert sum(counts(here).values()) == 30
        publish(here, Majority())
        assert query(here, "SELECT count(*) AS n FROM purified").to_pylist() == [{"n": 30}]
        build(here, teachers(sandbox), FREE, route=best_of(fitted, 2))
        assert sandbox.stats()["received"] - before == 60
