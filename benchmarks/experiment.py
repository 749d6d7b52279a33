"""Does purification help a student? The paper's claim in a world that fits a laptop: ``make experiment``.

Four simulated teachers, each an expert in one of the sandbox's four families of substances and wrong by habit about
half the time in the others, explain questions over HTTP; nested sets of one to four of them teach a student of 137,000
weights from scratch. Two workspaces with the same answers: gold known on every train question, and on a quarter of
them. Steps and rate were chosen on validation, with the rationales of a teacher that is always right (``--tune``).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from builders.ask import Settings
from builders.build import build
from builders.prompt import Prompt
from builders.sandbox import SandboxServer, SandboxTeacher, questions
from builders.sandbox.mixtures import FAMILIES
from builders.teacher import Teacher
from raffinate import show
from raffinate.compare_command import compare_students
from raffinate.compare_report import markdown, shown
from schemas.workspace import Workspace

EXPERT, ELSEWHERE, HABIT = 0.95, 0.45, 1.0
"""Share of right answers in a teacher's own family, and in the three others; share of mistakes made by habit."""
TRAIN, VALIDATION, TEST = 800, 150, 300
FEW = 0.25
NAMES = ("ada", "bo", "cy", "dee")
METHODS = ("fine-tuning", "teacher:*", "keep-all", "random", "majority", "gold-first", "plackett-luce", "consensus")
SOME = ("fine-tuning", "teacher:ada", "keep-all", "majority", "gold-first")
PARTS = {
    "all-labels": (1.0, "rationale-then-answer", METHODS),
    "few-labels": (FEW, "rationale-then-answer", ("fine-tuning", "keep-all", "gold-first", "consensus")),
    "multitask": (1.0, "multitask", SOME),
}
"""Part -> share of train questions with gold, objective, methods."""
STUDENT = {
    "max_steps": 320,
    "batch_size": 32,
    "learning_rate": 8e-3,
    "select_by": "last",
    "max_input": 64,
    "max_target": 32,
}


def teachers(tutor: bool) -> list[SandboxTeacher]:
    """The four, and the one that is always right to tune with."""
    four = [
        SandboxTeacher(name=name, default=ELSEWHERE, competence={family: EXPERT}, habit=HABIT)
        for name, family in zip(NAMES, FAMILIES, strict=True)
    ]
    return [SandboxTeacher(name="tutor", default=1.0)] if tutor else four


def world(folder: Path, labelled: float = 1.0, *, tutor: bool = False, cache: Path | None = None) -> Workspace:
    """Make a workspace, or open it: questions, with gold on a share of the train questions, and every answer."""
    workspace = Workspace.create(folder)
    n = TRAIN + VALIDATION + TEST
    table = questions(n, 0, list(FAMILIES), (TRAIN / n, VALIDATION / n, TEST / n))
    with workspace.lock():
        workspace.write_questions(_unlabelled(table, 1 - labelled))
    with SandboxServer(teachers=teachers(tutor)) as server:
        asked = [Teacher(id=t.name, model=t.model, base_url=server.url) for t in teachers(tutor)]
        summary = build(workspace, asked, Prompt.load("free"), Settings(cache=cache))
    if summary.exit_code:
        raise SystemExit(f"the teachers could not all be asked: see  raffinate status {folder}")
    return workspace


def _unlabelled(table: pa.Table, share: float) -> pa.Table:
    """Gold taken from a share of the train questions, by a hash of their ids."""
    drawn = [xxhash.xxh3_64_intdigest(f"gold|{i}".encode()) / 2**64 < share for i in table["question_id"].to_pylist()]
    gone = pc.and_(pa.array(drawn), pc.equal(table["split"], "train"))
    at = table.schema.get_field_index("answer")
    return table.set_column(at, table.schema.field(at), pc.if_else(gone, None, table["answer"]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("experiment"))
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="the first part with one seed and fewer methods and sets")
    parser.add_argument("--tune", action="store_true", help="accuracy on validation by steps, with right rationales")
    asked = parser.parse_args(arguments)
    if asked.tune:
        _tune(asked.folder)
        return
    for name in ["all-labels"] if asked.quick else asked.parts.split(","):
        started = time.perf_counter()
        labelled, objective, methods = PARTS[name]
        workspace = world(asked.folder / ("few" if labelled < 1 else "all"), labelled)
        with show.BuildProgress() as progress:
            found = compare_students(
                workspace.path,
                SOME if asked.quick else methods,
                sets="ada,ada+bo,ada+bo+cy+dee" if asked.quick else "nested",
                teachers=NAMES,
                seeds=range(1 if asked.quick else asked.seeds),
                students=("tiny-causal",),
                objectives=(objective,),
                settings=STUDENT,
                jobs=asked.jobs,
                pictures=asked.folder / "pictures" / name,
                on_cell=progress.students,
            )
        (asked.folder / f"{name}.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
        (asked.folder / f"{name}.md").write_text(markdown(found), encoding="utf-8")
        shown(found)
        print(f"{name}: {time.perf_counter() - started:,.0f} s; in {asked.folder}: {name}.json, {name}.md, pictures/")


def _tune(folder: Path) -> None:
    from distill.data import read_examples, read_questions
    from distill.model import make_student
    from distill.source import Published
    from distill.train import train
    from raffinate.distilling import student_settings

    published = Published.open(world(folder / "tutor", tutor=True))
    examples, validation = read_examples(published, "teacher:tutor"), read_questions(published, "validation")
    for rate in (4e-3, 8e-3, 2e-3):
        settings = STUDENT | {
            "learning_rate": rate,
            "eval_every": 80,
            "select_by": "accuracy",
            "objective": "rationale-then-answer",
        }
        spec, training = student_settings({**settings, "model": "tiny-causal"})
        student = make_student(spec, examples.texts(), 0)
        done = train(student, examples, training, validation=validation)
        print(f"rate {rate}: {done.history}", flush=True)


if __name__ == "__main__":
    main()
