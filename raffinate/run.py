"""Drive a recipe from its questions to the card. Each step can be run again alone, and does only what is missing.

questions -> build (ask the teachers) -> purify, method by method -> evaluate -> card
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from builders.build import BuildSummary, build
from builders.examples import draw_examples, read_examples
from builders.progress import OnProgress
from builders.prompt import BUILT_IN, Prompt
from builders.question_parts import load_parts, write_parts
from builders.route import Route
from builders.sources import load_questions, question_notes
from builders.teacher import Batch, Teacher, teacher_notes
from purifiers.base import Signal
from purifiers.evaluate import Evaluation, evaluate
from purifiers.registry import method
from purifiers.run import Step, publish_each, purify
from raffinate.equip import asker_of, equip, estimates_of, student_for
from raffinate.recipe import NAME, MethodSection, Recipe, keep_recipe, load_recipe, recipe_file
from schemas.corpus import Corpus
from schemas.tables import FINE_TUNING, KEEP_ALL
from schemas.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

    from builders.asker import Asker
    from builders.build import TeacherEstimate
    from purifiers.base import Purifier
    from purifiers.equipment import OnFit
    from raffinate.compare import OnCell
    from schemas.errors import RaffinateError


@dataclass(frozen=True)
class Project:
    """A recipe, where it lies, and the workspace it works in."""

    recipe: Recipe
    source: Path
    base: Path
    workspace: Workspace

    @property
    def is_kept(self) -> bool:
        """Whether the recipe is the workspace's own copy; its questions are then the workspace's."""
        return self.source.resolve() == (self.workspace.path / NAME).resolve()

    def prompt(self) -> Prompt:
        """The prompt of the recipe, with its worked examples.

        Raises:
            InputError: no such prompt or file, or too few labelled train questions to draw examples from.
        """
        section, name = self.recipe.prompt, prompt_name(self.recipe, self.base)
        plain = Prompt.load(name)
        if not plain.few_shot:
            return plain
        if section.examples:
            return Prompt.load(name, examples=read_examples(self.base / section.examples), shots=section.shots)
        return Prompt.load(
            name, examples=draw_examples(self.workspace, section.shots, section.seed), shots=section.shots
        )

    def teachers(self, *, batch: bool = False) -> list[Teacher]:
        """The recipe's teachers; ``batch`` asks all who are behind a URL through its Batch API."""
        teachers = self.recipe.teachers
        return [t.model_copy(update={"batch": t.batch or Batch()}) if batch and t.base_url else t for t in teachers]

    def serving(self) -> AbstractContextManager[None]:
        """See `serving`."""
        return serving(self.recipe)


def prompt_name(recipe: Recipe, base: Path) -> str:
    """The name of a built-in prompt, or the path of the recipe's own."""
    name = recipe.prompt.name
    return name if name in BUILT_IN else str(base / Path(name).expanduser())


@contextmanager
def serving(recipe: Recipe) -> Iterator[None]:
    """Serve the recipe's sandbox meanwhile, if it has one.

    Raises:
        InputError: the port is taken.
    """
    if recipe.sandbox is None:
        yield
        return
    from builders.sandbox import SandboxServer

    with SandboxServer(**recipe.sandbox.model_dump()):
        yield


def open_project(path: str | os.PathLike[str], *, create: bool = False) -> Project:
    """Read a recipe (a file, or a workspace that keeps one) and open its workspace.

    Args:
        path: recipe file or workspace folder.
        create: make the workspace if it is not there, and write its questions and the copy of the recipe.

    Raises:
        InputError: the recipe or the questions are not what they must be.
        WorkspaceError: the workspace is missing, in use, or made by a newer raffinate.
    """
    recipe, base = load_recipe(path)
    source = recipe_file(path)
    folder = base / Path(recipe.workspace).expanduser()
    if not create:
        return Project(recipe, source, base, Workspace.open(folder))
    Prompt.load(prompt_name(recipe, base))  # a mistake there is told before anything is written
    parts = None if source.resolve() == (folder / NAME).resolve() else load_parts(recipe.questions, base)
    project = Project(recipe, source, base, Workspace.create(folder))
    if parts is not None:
        with project.workspace.lock():
            write_parts(project.workspace, parts, recipe.questions, base)
            keep_recipe(source, project.workspace)
    return project


def read_project(path: str | os.PathLike[str]) -> tuple[Recipe, pa.Table]:
    """Read a recipe and its questions, those of the workspace if it is the workspace's own copy; write nothing.

    Raises:
        InputError: the recipe or the questions are not what they must be.
        WorkspaceError: the workspace has no questions, or cannot be made.
    """
    recipe, base = load_recipe(path)
    Prompt.load(prompt_name(recipe, base))
    project = Project(recipe, recipe_file(path), base, Workspace(base / Path(recipe.workspace).expanduser()))
    if project.is_kept:
        return recipe, project.workspace.read_questions()
    project.workspace.check_place()
    return recipe, load_questions(recipe.questions, base)


def question_warnings(project: Project) -> list[str]:
    """What is odd, but not wrong, about the questions and the teachers."""
    parts = project.workspace.question_parts(["dataset", "question", "answer"])
    return [*(note.message for note in question_notes(parts)), *teacher_notes(project.recipe.teachers)]


def build_project(  # noqa: PLR0913  all but the first two by name only
    project: Project,
    on_progress: OnProgress | None = None,
    *,
    route: Route | None = None,
    max_cost_usd: float | None = None,
    max_requests: int | None = None,
    batch: bool = False,
    engine: Literal["local", "ray"] | None = None,
) -> BuildSummary:
    """Ask the recipe's teachers what has no answer yet; see `builders.build.build`.

    Args:
        project: recipe and workspace.
        on_progress: see `builders.build.build`.
        route: who is asked what; everybody everything by default.
        max_cost_usd: in place of the recipe's, which None leaves (US dollars).
        max_requests, engine: likewise.
        batch: see `Project.teachers`.
    """
    settings = project.recipe.build.settings(project.base)
    settings = replace(
        settings,
        max_cost_usd=settings.max_cost_usd if max_cost_usd is None else max_cost_usd,
        max_requests=settings.max_requests if max_requests is None else max_requests,
        engine=engine or settings.engine,
    )
    with project.serving():
        teachers = project.teachers(batch=batch)
        return build(project.workspace, teachers, project.prompt(), settings, on_progress=on_progress, route=route)


@dataclass(frozen=True)
class RunReport:
    """What a run did: the build, and how each method chose (empty where gold is unknown)."""

    workspace: Workspace
    build: BuildSummary
    evaluations: list[Evaluation]
    evaluated_on: str
    card: Path | None
    not_evaluated: RaffinateError | None = None
    students: dict[str, Any] | None = None

    @property
    def stopped(self) -> str | None:
        """Why the run ended at the build; None where it went on, or was interrupted."""
        build = self.build
        if build.exit_code != 1:
            return None
        why = "not every teacher could be asked everything"
        if build.failed_share > build.max_failed_share:
            limit = f"build.max_failed_share is {build.max_failed_share:.1%}"
            why = f"{build.failed_share:.1%} of the rows have no answer ({limit})"
        return f"the run stopped here: {why}; nothing was purified: correct what the notes say, and run it again"


def run(
    path: str | os.PathLike[str],
    on_progress: OnProgress | None = None,
    step: Step = lambda _: nullcontext(),
    on_cell: OnCell | None = None,
    on_fit: OnFit | None = None,
) -> RunReport:
    """Run a whole recipe.

    An interrupted build, or one with too many failures, ends the run there: what has arrived is kept.

    Raises:
        RaffinateError: see `open_project`, `builders.build.build` and `purifiers.run.publish`.
    """
    from cards.card import write_card

    with step("reading questions"):
        project = open_project(path, create=True)
    on = project.recipe.evaluate_on
    summary = build_project(project, on_progress)
    if summary.exit_code:
        return RunReport(project.workspace, summary, [], on, None)
    methods = _methods(project, summary, on_progress, on_fit)
    published = list(publish_each(project.workspace, methods, step))
    corpus = published[0][1] if published else None
    with step("evaluating"):
        evaluations, why_not = _evaluate(project, corpus, methods)
    students = _students(project, step, on_cell)
    with step("writing the card"):
        card = write_card(project.workspace, project.recipe.card)
    return RunReport(project.workspace, summary, evaluations, on, card, why_not, students)


def _students(project: Project, step: Step, on_cell: OnCell | None) -> dict[str, Any] | None:
    """Compare the recipe's methods by students, if it asks for that."""
    section = project.recipe.distill
    if section is None:
        return None
    from raffinate.compare_command import compare_students

    own = {f"{m.method}.{key}": value for m in project.recipe.purify for key, value in m.settings.items()}
    methods = section.methods or (FINE_TUNING, KEEP_ALL, *(m.method for m in project.recipe.purify))
    settings = {k: v for k, v in own.items() if k.partition(".")[0] in methods} | section.settings
    with step("training students"):
        return compare_students(
            project.workspace.path,
            methods,
            sets=section.teacher_sets,
            teachers=[t.id for t in project.recipe.teachers],
            seeds=range(section.seeds),
            students=section.students,
            objectives=section.objectives,
            settings=settings,
            jobs=section.jobs,
            recipe=project.source,
            on_cell=on_cell,
        )


def estimate_methods(project: Project, *, built: bool) -> tuple[dict[str, list[TeacherEstimate]], list[str]]:
    """What the recipe's methods that ask would ask; or, before the build is done, their names."""
    asking = [m for m in project.recipe.purify if Signal.LLM in m.purifier().looks_at]
    if not asking or not built or not project.workspace.teachers():
        return {}, [m.method for m in asking]
    corpus = Corpus.of(project.workspace)
    methods = _equipped(project, asker_of(project.recipe, project.workspace, project.base), asking)
    return estimates_of(methods, lambda method: purify(method, corpus)), []


def _methods(
    project: Project, built: BuildSummary, on_progress: OnProgress | None, on_fit: OnFit | None
) -> list[Purifier]:
    """The recipe's methods; what they ask counts, with what the build asked, against its limits."""
    limits = project.recipe.build
    sent = sum(t.answered + t.follow_ups + t.failed + t.repeats for t in built.run.teachers)
    asker = asker_of(
        project.recipe,
        project.workspace,
        project.base,
        on_progress,
        max_cost_usd=None if limits.max_cost_usd is None else max(0.0, limits.max_cost_usd - built.charged_usd),
        max_requests=None if limits.max_requests is None else max(0, limits.max_requests - sent),
    )
    return _equipped(project, asker, project.recipe.purify, on_fit)


def _equipped(
    project: Project, asker: Asker, sections: Iterable[MethodSection], on_fit: OnFit | None = None
) -> list[Purifier]:
    """These of the recipe's methods, ready to choose."""
    found = []
    for section in sections:
        purifier = section.purifier()
        student = student_for([purifier], project.workspace, section.student, project.base)
        found.append(equip(purifier, asker, project.base, student, on_fit))
    return found


def _evaluate(
    project: Project, corpus: Corpus | None, methods: list[Purifier]
) -> tuple[list[Evaluation], RaffinateError | None]:
    """Judge the recipe's methods, with the best teacher and the oracle as bounds, where there is gold."""
    from schemas.errors import InputError

    methods = [m for m in methods if m.chooses]
    bounds = [name for name in ("best-teacher", "oracle") if name not in {m.name for m in methods}]
    try:
        corpus = corpus or Corpus.of(project.workspace)
        return evaluate(corpus, [*methods, *(method(n)() for n in bounds)], on=project.recipe.evaluate_on), None
    except InputError as error:
        return [], error
