"""A student for the methods that look at one: from the command, from a recipe, and what is told without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("transformers")

from helpers_cli import Cli
from helpers_corpus import make_workspace

from distill.protocol import student_for as made_by_distill
from distill.spec import StudentSpec
from purifiers.comprehension import Comprehension
from purifiers.equipment import Equipment
from purifiers.majority import Majority
from purifiers.run import publish
from purifiers.student_tasks import option_certainty, rationale_losses
from purifiers.teacher_selection import TeacherSelection
from raffinate.equip import equip, student_for
from raffinate.recipe import Recipe, keep_recipe, load_recipe
from schemas.errors import InputError
from schemas.workspace import Workspace

SMALL = {"model": "tiny-seq2seq", "width": 16, "heads": 2, "layers": 1, "vocabulary": 300}


def test_a_real_student_answers_what_purifiers_ask(tmp_path: Path):
    workspace = make_workspace(tmp_path / "ws", 10, methods=False)
    student = student_for([Comprehension()], workspace, SMALL)
    assert student is not None
    losses = rationale_losses(student, ["one question", "another"], ["because of this", "that"])
    assert losses.shape == (2,) and (losses > 0).all()
    chance = [option_certainty(student, ["predict: q"], [gold], [["12", "7"]])[0] for gold in ("12", "7")]
    assert sum(chance) == pytest.approx(1, abs=1e-4)
    fitted = TeacherSelection(rounds=1, epochs=1, alternate="batch")
    corpus = publish(workspace, Comprehension().equipped(Equipment(student=student)))[0]
    assert fitted.equipped(Equipment(student=student)).student is student
    assert np.isfinite(Comprehension().equipped(Equipment(student=student)).gains(corpus)).any()


def test_the_command_takes_a_model_or_a_folder(cli: Cli, tmp_path: Path):
    workspace = make_workspace(tmp_path / "ws", 10, methods=False)
    folder = tmp_path / "student"
    made_by_distill(StudentSpec(**SMALL), ["some words to begin with"] * 3).student.save(folder, "multitask")
    ran = cli("purify", workspace.path, "--method", "comprehension", "--student", folder, "--json")
    assert ran.code == 0 and ran.json[0]["kept"] == 10
    ran = cli("evaluate", workspace.path, "--methods", "utility,majority", "--student", folder, "--json")
    assert ran.code == 0 and [row["method"] for row in ran.json] == ["utility", "majority"]


def test_a_long_choice_tells_how_far_it_is(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workspace = make_workspace(tmp_path / "ws", 30, methods=False)
    monkeypatch.setenv("RAFFINATE_CACHE_DIR", str(tmp_path / "none yet"))
    monkeypatch.setattr("purifiers.encoder._encode", lambda texts, _: np.ones((len(texts), 4), np.float32) / 2)
    monkeypatch.setattr("raffinate.progress.QUIET_SECONDS", -1.0)  # where there is no terminal, a line now and then
    ran = cli("purify", workspace.path, "--method", "comprehension,plackett-luce", "--student", "tiny-causal",
              "--set", "comprehension.warm_up=1")  # fmt: skip
    assert ran.code == 0, ran.err
    told = [line for line in ran.err.splitlines() if line.startswith("at work: ")]
    warm, asked, read = (
        [line for line in told if what in line] for what in ("warming the student up", "asking", "embedding")
    )
    assert warm[0].startswith("at work: 18 of 18  fit 1 of 6  warming the student up, loss ")
    assert asked[0].startswith("at work: 0 of ") and asked[0].endswith("choice 2 of 6  asking the student")
    assert len({line.split("choice ")[1] for line in asked}) == 5, "train questions of each fold; test has no gold"
    assert read[0].endswith("fit 1 of 6  embedding texts") and read[-1].split()[2] == read[-1].split()[4]


def test_what_does_not_fit_is_told_in_one_sentence(cli: Cli, tmp_path: Path):
    path = make_workspace(tmp_path / "ws", 10, methods=False).path
    ran = cli("purify", path, "--method", "comprehension")
    assert ran.code == 1 and "comprehension needs a student: give one with  --student MODEL_OR_FOLDER" in ran.err
    ran = cli("purify", path, "--method", "majority", "--student", "tiny-seq2seq")
    assert ran.code == 1 and "majority looks at no student" in ran.err
    ran = cli("audit", path, "--method", "utility", "--student", tmp_path / "nowhere")
    assert ran.code == 1 and "nowhere" in ran.err and "Traceback" not in ran.err
    with pytest.raises(InputError, match=r"student: unknown key 'wide' .*width"):
        student_for([Comprehension()], Workspace.open(path), {"model": "tiny-seq2seq", "wide": 3})
    assert equip(Majority()) == Majority()


def recipe(**purify: object) -> dict[str, object]:
    return {
        "workspace": "ws",
        "questions": {"sandbox": {"n": 12}},
        "teachers": [{"id": "ada", "model": "sandbox/ada", "base_url": "http://127.0.0.1:9/v1"}],
        "purify": ["majority", purify],
    }


def test_a_recipe_names_the_student_beside_the_method(tmp_path: Path):
    section = Recipe(**recipe(method="utility", student=SMALL, budget=0.5)).purify[1]
    assert section.student == SMALL and section.settings == {"budget": 0.5}
    with pytest.raises(ValueError, match=r"'utility' needs a student: add  student: \.\.\."):
        Recipe(**recipe(method="utility"))
    with pytest.raises(ValueError, match="'consensus' looks at no student: leave it out"):
        Recipe(**recipe(method="consensus", student="tiny-seq2seq"))


@pytest.mark.parametrize("given", ["mine", {"model": "mine", "max_input": 64}])
def test_a_folder_is_still_found_from_the_copy_in_the_workspace(tmp_path: Path, given: object):
    (tmp_path / "mine").mkdir()
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe(method="utility", student=given)))
    workspace = make_workspace(tmp_path / "ws", 5, methods=False)
    keep_recipe(file, workspace)
    loaded, base = load_recipe(workspace.path)
    kept = loaded.purify[1].student
    assert (base / (kept if isinstance(kept, str) else kept["model"])).resolve() == tmp_path / "mine"
