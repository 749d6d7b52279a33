"""Does purification help a student? The paper's claim in a world that fits a laptop: ``make experiment``.

Four simulated teachers, each an expert in one of the sandbox's four families of substances and often wrong by habit in
the others, explain questions over HTTP; nested sets of one to four of them teach a student of a quarter million weights
from scratch. Worlds: every teacher has mistakes of its own (with gold on every train question, or on a quarter of
them), or all share theirs, as models that read the same web may, and are wrong more often; there, a student explains
and then answers. With pairs of substances it answers at once, and explains under another prefix. Width, rate and steps
were chosen on validation questions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from builders.ask import Settings
from builders.build import build
from builders.prompt import Prompt
from builders.sandbox import SandboxServer, SandboxTeacher, questions
from builders.sandbox.mixtures import FAMILIES, mixture
from builders.teacher import Teacher
from raffinate.compare_command import compare_students
from raffinate.compare_report import markdown, shown
from raffinate.progress import LiveProgress
from schemas.workspace import Workspace

NAMES = ("ada", "bo", "cy", "dee")
ALL = "+".join(NAMES)
FEWER = f"ada,ada+bo,{ALL}"
EXPERT, HABIT = 0.95, 1.0
"""Share of right answers in a teacher's own family; share of mistakes in another that are made by habit."""


@dataclass(frozen=True)
class World:
    """What the teachers know, and how much of it can be checked.

    Attributes:
        elsewhere: share of right answers in the three families that are not a teacher's own.
        school: teachers of one school make the same mistakes in a family; without it each has its own.
        labelled: share of the train questions whose gold is known.
        mixed: substances in a question, 3 or 2.
        sizes: train, validation and test questions.
    """

    elsewhere: float = 0.45
    school: str | None = None
    labelled: float = 1.0
    mixed: int = 3
    sizes: tuple[int, int, int] = (800, 150, 300)

    @property
    def domains(self) -> list[str]:
        """One per family."""
        return [mixture(family, self.mixed).name for family in FAMILIES]


WORLDS = {
    "own-mistakes": World(),
    "few-labels": World(labelled=0.25),
    "same-mistakes": World(0.3, "one"),
    "pairs": World(mixed=2, sizes=(200, 80, 160)),
}
READING = 8
"""Passes over train in which a student learns to read rationales before `comprehension` and `utility` ask it."""
STUDENT = {
    "width": 96,
    "heads": 12,
    "max_steps": 280,
    "batch_size": 32,
    "learning_rate": 6e-3,
    "warm_up": 0.2,
    "eval_every": 70,
    "max_input": 64,
    "max_target": 32,
}


@dataclass(frozen=True)
class Part:
    """Students that are compared with each other."""

    world: str
    methods: tuple[str, ...]
    sets: str = "nested"
    objective: str = "rationale-then-answer"
    settings: Mapping[str, float] = field(default_factory=dict)


GROWING = ("keep-all", "majority", "consensus", "gold-first")
PARTS = {
    "own-mistakes": Part("own-mistakes", ("fine-tuning", "teacher:*", *GROWING)),
    "same-mistakes": Part("same-mistakes", ("teacher:ada", *GROWING)),
    "routers": Part("own-mistakes", ("random", "plackett-luce", "similarity", "classifier"), ALL),
    "equal-tokens": Part("own-mistakes", ("keep-all",), ALL, settings={"batch_size": 8}),
    "few-labels": Part("few-labels", ("fine-tuning", "gold-first", "plackett-luce", "consensus"), ALL),
    "multitask": Part(
        "pairs",
        ("fine-tuning", "teacher:ada", *GROWING),
        FEWER,
        objective="multitask",
        settings={"max_steps": 400, "eval_every": 50},
    ),
    "students-in-the-loop": Part(
        "own-mistakes",
        ("keep-all", "gold-first", "teacher-selection", "comprehension", "utility"),
        ALL,
        settings={"comprehension.warm_up": READING, "utility.warm_up": READING},
    ),
}
APART = ("students-in-the-loop",)
"""Parts that are run where they are asked for: these methods train a student per fold before they choose."""
QUICK = Part("own-mistakes", ("fine-tuning", "teacher:ada", "keep-all", "majority", "gold-first"), FEWER)


def teachers(world: World | None) -> list[SandboxTeacher]:
    """The four of a world; without one, the teacher that is always right, to tune with."""
    if world is None:
        return [SandboxTeacher(name="tutor", default=1.0)]
    return [
        SandboxTeacher(
            name=name, default=world.elsewhere, competence={domain: EXPERT}, habit=HABIT, school=world.school
        )
        for name, domain in zip(NAMES, world.domains, strict=True)
    ]


def make(folder: Path, world: World | None) -> Workspace:
    """Make a workspace, or open it: questions, with gold on a share of the train questions, and every answer."""
    workspace = Workspace.create(folder)
    like = world or World()
    n = sum(like.sizes)
    answers = sum(pq.read_metadata(file).num_rows for file in folder.glob("responses/*/*.parquet"))
    if answers == n * len(teachers(world)):
        return workspace  # asked anew, at another port, they would be new answers, and all students trained again
    train, validation, test = like.sizes
    table = questions(n, 0, like.domains, (train / n, validation / n, test / n))
    with workspace.lock():
        workspace.write_questions(_unlabelled(table, 1 - like.labelled))
    with SandboxServer(teachers=teachers(world)) as server:
        asked = [Teacher(id=t.name, model=t.model, base_url=server.url) for t in teachers(world)]
        summary = build(workspace, asked, Prompt.load("free"), Settings())
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
    default = [name for name in PARTS if name not in APART]
    parser.add_argument("--parts", default=",".join(default), help=f"of {', '.join(PARTS)}; default: all but the last")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one seed, few methods and sets: minutes")
    parser.add_argument("--tune", action="store_true", help="accuracy on validation by steps, with right rationales")
    asked = parser.parse_args(arguments)
    if asked.tune:
        _tune(asked.folder)
    elif asked.quick:
        run("quick", QUICK, asked.folder, seeds=1, jobs=asked.jobs)
    else:
        for name in asked.parts.split(","):
            run(name, PARTS[name], asked.folder, seeds=asked.seeds, jobs=asked.jobs)


def run(name: str, part: Part, folder: Path, *, seeds: int, jobs: int) -> None:
    """Train the students of a part, print what came out, and leave it in the folder."""
    started = time.perf_counter()
    workspace = make(folder / part.world, WORLDS[part.world])
    with LiveProgress() as progress:
        found = compare_students(
            workspace.path,
            part.methods,
            sets=part.sets,
            teachers=NAMES,
            seeds=range(seeds),
            students=("tiny-causal",),
            objectives=(part.objective,),
            settings={**STUDENT, **part.settings},
            jobs=jobs,
            pictures=folder / "pictures" / name,
            on_cell=progress.students,
        )
    (folder / f"{name}.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    (folder / f"{name}.md").write_text(markdown(found), encoding="utf-8")
    shown(found)
    print(f"{name}: {time.perf_counter() - started:,.0f} s; in {folder}: {name}.json, {name}.md, pictures/{name}")


def _tune(folder: Path) -> None:
    from distill.data import read_examples, read_questions
    from distill.model import make_student
    from distill.source import Published
    from distill.train import train
    from raffinate.distilling import student_settings

    published = Published.open(make(folder / "tutor", None))
    examples, validation = read_examples(published, "teacher:tutor"), read_questions(published, "validation")
    for rate in (4e-3, 6e-3, 8e-3):
        settings = STUDENT | {"learning_rate": rate, "objective": "rationale-then-answer"}
        spec, training = student_settings({**settings, "model": "tiny-causal"})
        student = make_student(spec, examples.texts(), 0)
        done = train(student, examples, training, validation=validation)
        print(f"rate {rate}: {done.history}", flush=True)


if __name__ == "__main__":
    main()
