"""`raffinate compare`: a grid of tiny students, kept cell by cell, refitted per teacher set, shown in every form."""

from __future__ import annotations

import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from helpers_cli import ROOT, Cli
from helpers_corpus import make_workspace

from distill.model import make_student
from distill.spec import StudentSpec, Training
from purifiers.base import Purifier, Scores, Signal
from raffinate import compare as grid_module
from raffinate.compare_cell import Cell, Work, choose, train_cell
from raffinate.compare_command import compare_students
from raffinate.compare_pictures import write_pictures
from raffinate.run import run
from schemas.corpus import UNREAD, Corpus
from schemas.database import query
from schemas.errors import InputError, RaffinateError
from schemas.workspace import Workspace

TINY = {"width": 16, "layers": 1, "heads": 2, "vocabulary": 400, "max_steps": 2, "select_by": "last", "max_target": 16}
METHODS = ("fine-tuning", "keep-all", "majority")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("compare") / "ws", 40, methods=False)


def small(workspace: Workspace, methods: tuple[str, ...] = METHODS, **changes: Any) -> dict[str, Any]:
    asked = {"seeds": range(2), "students": ("tiny-causal",), "settings": TINY} | changes
    return compare_students(workspace.path, methods, **asked)


@pytest.fixture(scope="module")
def found(workspace: Workspace) -> dict[str, Any]:
    return small(workspace)


def test_report_has_the_papers_table_the_curve_and_cmv(found: dict[str, Any]) -> None:
    (section,) = found["sections"]
    assert [(m["method"], len(m["teachers"])) for m in section["methods"]] == [
        ("fine-tuning", 0),
        ("teacher:alpha", 1),
        ("keep-all", 2),
        ("keep-all", 3),
        ("majority", 2),
        ("majority", 3),
    ]
    curve = section["curves"]["majority"]
    assert list(curve) == ["1", "2", "3"]
    assert curve["1"] == section["curves"]["keep-all"]["1"], "with one teacher there is nothing to choose"
    gaps = [curve[m]["mean"] - section["curves"]["keep-all"][m]["mean"] for m in ("2", "3")]
    assert section["cmv"]["majority"]["mean"] == pytest.approx(sum(gaps) / 2)
    last = section["methods"][-1]
    assert last["teacher_calls"] == 3 * 24
    assert last["against_keep_all"]["by_seed"]["n"] == 2


def test_keep_all_trains_on_every_rationale(found: dict[str, Any]) -> None:
    by_name = {(m["method"], len(m["teachers"])): m for m in found["sections"][0]["methods"]}
    one, three = by_name["majority", 3], by_name["keep-all", 3]
    assert three["rationales"] == 3 * one["rationales"] == 72
    assert three["rationale_tokens"] > 2.5 * one["rationale_tokens"]


def test_the_same_numbers_in_sql(workspace: Workspace, found: dict[str, Any]) -> None:
    (section,) = found["sections"]
    rows = query(workspace, "SELECT * FROM cmv WHERE method = 'majority' ORDER BY comparison").to_pylist()
    mine = next(r for r in rows if r["comparison"] == found["comparison"])
    assert (mine["points"], mine["seeds"], mine["objective"]) == (2, 2, "multitask")
    assert mine["cmv"] == pytest.approx(section["cmv"]["majority"]["mean"])
    accuracy = query(
        workspace,
        "SELECT avg(accuracy) AS a FROM students WHERE method = 'keep-all' AND len(teachers) = 3 AND comparison = '"
        + found["comparison"]
        + "'",
    ).to_pylist()[0]["a"]
    assert accuracy == pytest.approx(section["curves"]["keep-all"]["3"]["mean"])


def test_nothing_is_trained_twice(workspace: Workspace, found: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []

    def counted(work: Work, cell: Cell, chosen: Any) -> dict[str, Any]:
        trained.append(cell.label)
        return train_cell(work, cell, chosen)

    monkeypatch.setattr(grid_module, "train_cell", counted)
    assert small(workspace) == found
    assert trained == []
    cut = small(workspace, settings={**TINY, "tokens_per_pass": 256, "checkpoint_every": 1})
    assert (cut["comparison"], trained) == (found["comparison"], []), "changes no weight, so it is the same comparison"
    small(workspace, (*METHODS, "random"), sets="all")
    assert trained == [f"random of 3 teachers, multitask, seed {s}" for s in (0, 1)], "only what is new"


def test_interrupted_between_cells_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make_workspace(tmp_path / "ws", 30, methods=False)
    trained: list[str] = []

    def interrupted(work: Work, cell: Cell, chosen: Any) -> dict[str, Any]:
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(cell.label)
        return train_cell(work, cell, chosen)

    monkeypatch.setattr(grid_module, "train_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small(workspace, sets="all")
    assert len(query(workspace, "SELECT DISTINCT run_id FROM students")) == 3, "what had ended is in the table"
    shown = small(workspace, sets="all", train=False)
    assert (shown["cells"], shown["planned"]) == (3, 6)
    before = list(trained)
    (tmp_path / "ws/.raffinate/compare/0000000000000000.json").write_text('{"cut')  # a file nobody asks for
    monkeypatch.setattr(grid_module, "train_cell", lambda *a: trained.append(a[1].label) or train_cell(*a))
    done = small(workspace, sets="all")
    assert done["cells"] == 6
    assert len(trained) == len(set(trained)) == 6, "no cell twice"
    assert trained[:3] == before


def test_settings_of_a_method_are_a_student_of_their_own_in_sql(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws", 30, methods=False)
    asked: dict[str, Any] = {"sets": "alpha+beta,alpha+beta+gamma", "seeds": range(1)}
    plain = small(workspace, ("keep-all", "random"), **asked)
    (older,) = [f for f in workspace.students_dir.glob("*") if f.name == min(p.name for p in f.parent.glob("*"))]
    pq.write_table(pq.read_table(older).drop_columns(["settings"]), older)  # as before there were settings
    given = small(workspace, ("keep-all", "random"), settings=TINY | {"random.seed": 7}, **asked)
    assert plain["comparison"] == given["comparison"], "students of keep-all are trained once, and compared with both"
    rows = query(workspace, "SELECT method, settings, points, seeds FROM cmv ORDER BY settings NULLS FIRST").to_pylist()
    assert [(r["method"], r["settings"], r["points"]) for r in rows] == [
        ("random", None, 2),
        ("random", '{"seed":7}', 2),
    ]


def test_sets_that_begin_with_two_teachers_have_a_curve_and_cmv(workspace: Workspace, tmp_path: Path) -> None:
    found = small(workspace, sets="alpha+beta,alpha+gamma,alpha+beta+gamma", pictures=tmp_path)
    (section,) = found["sections"]
    assert not found["nested"]
    assert list(section["curves"]["majority"]) == ["2", "3"]
    assert [section["curves"]["majority"][m]["n"] for m in ("2", "3")] == [2, 2], "seeds, however many sets of two"
    of_two = [
        m["accuracy"]["sums"]["mean"]
        for m in section["methods"]
        if (m["method"], len(m["teachers"])) == ("majority", 2)
    ]
    assert section["curves"]["majority"]["2"]["mean"] == pytest.approx(sum(of_two) / 2)
    assert section["cmv"]["majority"]["n"] == 2
    assert [Path(p).name[:4] for p in found["pictures"]] == ["curv", "cmv-"]
    assert "nested" not in Path(found["pictures"][0]).read_text()


def test_a_student_folder_that_changed_is_trained_again(workspace: Workspace, tmp_path: Path) -> None:
    student = make_student(StudentSpec(model="tiny-causal", width=16, layers=1, heads=2, vocabulary=400), ["a b"], 0)
    student.save(tmp_path, "multitask")
    settings = {"max_steps": 1, "select_by": "last", "max_target": 16}
    asked: dict[str, Any] = {"students": (str(tmp_path),), "seeds": (0,), "sets": "all", "settings": settings}
    first = small(workspace, ("fine-tuning",), **asked)
    shown = small(workspace, ("fine-tuning",), **asked, train=False)
    assert shown == first
    make_student(student.spec, ["a b"], 1).save(tmp_path, "multitask")
    with pytest.raises(InputError, match="no student of this comparison yet"):
        small(workspace, ("fine-tuning",), **asked, train=False)


def test_two_at_a_time_gives_the_same(workspace: Workspace, found: dict[str, Any], tmp_path: Path) -> None:
    other = make_workspace(tmp_path / "ws", 40, methods=False)
    both = small(other, ("fine-tuning", "keep-all"), jobs=2, sets="all")
    ours, theirs = (
        {(m["method"], len(m["teachers"])): m["rationale_tokens"] for m in f["sections"][0]["methods"]}
        for f in (found, both)
    )
    assert {key: ours[key] for key in theirs} == theirs
    assert both["cells"] == 4


def test_killed_it_leaves_no_process_behind(tmp_path: Path) -> None:
    made = make_workspace(tmp_path / "ws", 40, methods=False)
    settings = [f"--set={k}={v}" for k, v in (TINY | {"max_steps": 10**6}).items()]
    command = [sys.executable, "-m", "raffinate", "compare", made.path, "--methods", "fine-tuning,keep-all", *settings]
    killed = subprocess.Popen([*command, "--jobs", "2"], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        _until(lambda: len(_children(killed.pid)) >= 2)  # and multiprocessing's own
        children = _children(killed.pid)
    finally:
        killed.kill()
        killed.wait()
    _until(lambda: not any(_alive(child) for child in children))


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_cmv_of_known_answers_in_report_and_sql(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    right = {("majority", 2): 6, ("majority", 3): 7, ("keep-all", 2): 5, ("keep-all", 3): 2, ("teacher:alpha", 1): 4}

    def graded(work: Work, cell: Cell, chosen: Any) -> dict[str, Any]:
        done, n = train_cell(work, cell, chosen), right.get((cell.method, len(cell.teachers)), 3) + cell.training.seed
        row = done["students"][0] | {"accuracy": n / 8}
        return done | {"students": [row], "right": {"sums": "1" * n + "0" * (8 - n)}}

    monkeypatch.setattr(grid_module, "train_cell", graded)
    found = small(workspace, settings=TINY | {"max_steps": 1})
    value = found["sections"][0]["cmv"]["majority"]
    assert value["mean"] == pytest.approx((1 + 5) / 2 / 8), "mean over 2 and 3 teachers of 6-5 and 7-2 of 8 questions"
    assert (value["low"], value["high"]) == pytest.approx((3 / 8, 3 / 8)), "both seeds say the same"
    rows = query(workspace, f"SELECT cmv, points FROM cmv WHERE comparison = '{found['comparison']}'").to_pylist()
    assert rows == [{"cmv": pytest.approx(3 / 8), "points": 2}]
    keep_all = found["sections"][0]["curves"]["keep-all"]
    assert [keep_all[m]["mean"] for m in ("1", "2", "3")] == pytest.approx([4.5 / 8, 5.5 / 8, 2.5 / 8])


class Spy(Purifier):
    """Records what it was shown."""

    name = "spy"
    signals = frozenset({Signal.ANSWERS})
    learns = True

    def fit(self, corpus: Corpus) -> Spy:
        FITTED.append((corpus.teachers, set(corpus.split.tolist()), frozenset(corpus.question_ids.to_pylist())))
        return self.restore({"seen": np.zeros(1)}, corpus.teachers)

    def score(self, corpus: Corpus) -> Scores:
        assert (corpus.gold == UNREAD).all(), "gold is hidden when choosing"
        assert (corpus.correct == -1).all()
        JUDGED.append((frozenset(corpus.question_ids.to_pylist()), FITTED[-1]))
        return np.where(corpus.usable, np.float32(1), np.float32(np.nan))


FITTED: list[Any] = []
JUDGED: list[Any] = []


def test_a_subset_is_refitted_without_its_other_teachers_and_out_of_fold(workspace: Workspace) -> None:
    subset = ("alpha", "gamma")
    corpus = Corpus.of(workspace)
    cell = Cell("spy", {}, subset, StudentSpec(), Training())
    kept = choose(Work(str(workspace.path), (), corpus.teachers), Spy(), cell, corpus.with_teachers(subset), None)
    assert {teachers for teachers, _, _ in FITTED} == {subset}
    assert all(splits == {0} for _, splits, _ in FITTED), "fitted on train alone"
    train = set(corpus.question_ids.take(corpus.rows("train")).to_pylist())
    assert {row["question_id"] for row in kept.rows} == train, "students learn from train alone"
    assert {row["teacher_id"] for row in kept.rows} <= set(subset)
    # all is fitted first, the folds are judged by purifiers that had not seen them
    whole = FITTED[0][2]
    assert whole == train
    assert len(FITTED) == 1 + sum(bool(seen & train) for seen, _ in JUDGED)
    for judged in (seen for seen, _ in JUDGED if seen & train):
        assert any(fitted == train - judged for _, _, fitted in FITTED), "out of fold"


def test_methods_that_look_at_a_student_are_handed_the_one_they_teach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAFFINATE_CACHE_DIR", str(tmp_path / "vectors"))
    monkeypatch.setattr("purifiers.encoder._encode", lambda texts, _: np.ones((len(texts), 4), np.float32) / 2)
    workspace = make_workspace(tmp_path / "ws", 30, methods=False)
    told: list[str] = []
    settings = TINY | {"comprehension.warm_up": 1, "teacher-selection.rounds": 1}
    asked = small(workspace, ("comprehension", "teacher-selection"), sets="all", seeds=[0], settings=settings,
                  on_cell=lambda *now: told.append(now[2]))  # fmt: skip
    assert (asked["cells"], asked["failed"]) == (2, {})
    rights = {m["method"]: m["kept_right"] for m in asked["sections"][0]["methods"]}
    assert rights["comprehension"] == 1.0, "it saw gold of train"
    whose = "of 3 teachers, multitask, seed 0: "
    assert any(t.startswith(f"comprehension {whose}18 of 18  fit 1 of 6  warming the student up, loss") for t in told)
    assert any(t.startswith(f"teacher-selection {whose}") and "teaching the student, loss" in t for t in told)


def test_questions_from_elsewhere_have_a_column_of_their_own(cli: Cli, workspace: Workspace, tmp_path: Path) -> None:
    other = make_workspace(tmp_path / "others", 20, seed=5, methods=False)
    given = [f"--set={key}={value}" for key, value in TINY.items()]
    command = ("compare", workspace.path, "--methods", "fine-tuning,majority", "--teacher-sets", "all", "--seeds", "1",
               "--students", "tiny-causal", *given, "--eval", other.path)  # fmt: skip
    ran = cli(*command, "--json")
    assert ran.code == 0, ran.err
    (section,) = ran.json["sections"]
    assert (section["dataset"], section["elsewhere"]) == ("sums", ["sums (others)"])
    tested = query(workspace, "SELECT eval_dataset, n, accuracy FROM students WHERE eval_dataset LIKE '%others%'")
    assert {(row["eval_dataset"], row["n"]) for row in tested.to_pylist()} == {("sums (others)", 4)}
    means = {m["accuracy"]["sums (others)"]["mean"] for m in section["methods"]}
    assert means == {row["accuracy"] for row in tested.to_pylist()}
    assert "sums (others)" in cli(*command, "--show").out


def test_pictures(found: dict[str, Any], tmp_path: Path) -> None:
    files = write_pictures(found, tmp_path)
    assert [f.name.split("-")[0] for f in files] == ["curve", "cmv"]
    for file in files:
        words = [e.text for e in ET.fromstring(file.read_text()).iter() if e.tag.endswith("text")]
        assert "majority" in words
        assert "keep-all" in words
        assert file.stat().st_size < 20_000


def test_pictures_of_many_methods_hold_all_names_and_mark_what_goes_beyond(
    found: dict[str, Any], tmp_path: Path
) -> None:
    def bar(mean: float, half: float) -> dict[str, float]:
        return {"mean": mean, "low": mean - half, "high": mean + half}

    names = ["keep-all", *(f"a-method-with-a-name-{i}" for i in range(11))]
    wide = {name: bar(0.3, 2.0 if i == 3 else 0.01) for i, name in enumerate(names)}
    section = found["sections"][0] | {"curves": {n: {"1": b, "2": b} for n, b in wide.items()}, "cmv": wide}
    for file in write_pictures(found | {"sections": [section]}, tmp_path):
        picture = ET.fromstring(file.read_text())
        assert sum(e.get("class") == "beyond" for e in picture.iter()) >= 2
        words = [(float(e.get("x", 0)), float(e.get("y", 0)), e.text or "") for e in picture.iter() if e.text in names]
        assert {text for _, _, text in words} == set(names)
        assert all(y < float(picture.get("height", 0)) for _, y, _ in words)
        assert not any(
            abs(y - other_y) < 12 and abs(x - other_x) < 6 * len(text)
            for x, y, text in words
            for other_x, other_y, other in words
            if other != text
        )


def test_where_there_is_no_curve_the_command_says_why_nothing_is_drawn(
    cli: Cli, workspace: Workspace, found: dict[str, Any], tmp_path: Path
) -> None:
    settings = [part for k, v in TINY.items() for part in ("--set", f"{k}={v}")]
    ran = cli("compare", workspace.path, "--methods", ",".join(METHODS), "--seeds", 1, "--students", "tiny-causal",
              "--teacher-sets", "all", "--pictures", tmp_path, *settings)  # fmt: skip
    assert ran.code == 0, ran.err
    assert "no picture: a curve needs a method that chooses, and teacher sets of two sizes" in " ".join(ran.err.split())


def test_the_command(cli: Cli, workspace: Workspace, found: dict[str, Any]) -> None:
    settings = [part for k, v in TINY.items() for part in ("--set", f"{k}={v}")]
    asked = ["compare", workspace.path, "--methods", ",".join(METHODS), "--seeds", 2, "--students", "tiny-causal"]
    ran = cli(*asked, *settings, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["sections"] == found["sections"]
    shown = cli(*asked, *settings, "--show")
    assert "accuracy in % by number of teachers, and CMV in points" in shown.out
    assert "fine-tuning" in shown.out


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"methods": ("majorty",)}, "did you mean 'majority'"),
        ({"methods": ("oracle",)}, "gold answers of test questions"),
        ({"methods": ("teacher:delta",)}, "there is alpha, beta, gamma"),
        ({"methods": ()}, "name methods"),
        ({"methods": ("majority",), "sets": "alpha+delta"}, "no teacher 'delta'"),
        ({"methods": ("majority",), "sets": "alpha+alpha"}, "twice"),
        ({"methods": ("majority",), "settings": {"random.seed": 1}}, "not compared"),
        ({"methods": ("majority", "keep-all"), "settings": {"keep-all.x": 1}}, "not compared, or it has no settings"),
        ({"methods": ("majority",), "settings": {"teacher_weights": {"alpha": 2}}}, "no task of teacher 'alpha'"),
        ({"methods": ("keep-all",), "settings": {"teacher_weights": {"alfa": 2}}}, "did you mean 'alpha'"),
        ({"methods": ("majority",), "settings": {"seed": 1}}, "--seeds"),
        ({"methods": ("majority",), "settings": {"stpes": 1}}, "no such setting"),
        ({"methods": ("majority",), "train": False, "seeds": (77,)}, "no student of this comparison yet"),
    ],
)
def test_bad_input_is_one_sentence(workspace: Workspace, asked: dict[str, Any], says: str) -> None:
    methods = asked.pop("methods")
    with pytest.raises(InputError, match=says) as error:
        compare_students(workspace.path, methods, **asked)
    assert "\n" not in str(error.value)


def test_a_cell_that_fails_does_not_stop_the_others(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(work: Work, cell: Cell, chosen: Any) -> dict[str, Any]:
        if cell.method == "keep-all":
            raise RaffinateError("the loss diverged")
        return train_cell(work, cell, chosen)

    monkeypatch.setattr(grid_module, "train_cell", failing)
    found = small(workspace, seeds=(5,), sets="all")
    assert found["failed"] == {"keep-all of 3 teachers, multitask, seed 5": "the loss diverged"}
    assert found["cells"] == 2


def test_a_student_that_is_not_there_is_told_before_any_is_trained(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid_module, "train_cell", lambda *_: pytest.fail("a cell was begun"))
    with pytest.raises(InputError, match="no student 'no/where': give tiny-seq2seq"):
        small(workspace, seeds=(6,), students=("tiny-causal", "no/where"))


def test_a_recipe_trains_students(tmp_path: Path) -> None:
    recipe = {
        "workspace": "ws",
        "questions": {"sandbox": {"n": 40, "domains": ["herbs"]}},
        "sandbox": {"port": 18781},
        "teachers": [
            {"id": t, "model": f"sandbox/{t}", "base_url": "http://127.0.0.1:18781/v1"} for t in ("ada", "bo")
        ],
        "purify": ["majority"],
        "distill": {"seeds": 1, "students": ["tiny-causal"], "settings": TINY},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = run(tmp_path / "recipe.yaml")
    assert done.students is not None
    assert [m["method"] for m in done.students["sections"][0]["methods"]] == ["fine-tuning", "keep-all", "majority"]
    assert "fine-tuning" in (tmp_path / "ws" / "README.md").read_text(), "the card tells of the students"
