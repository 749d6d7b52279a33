"""The ``raffinate`` command: a thin layer over the library, one function per command.

Results go to stdout (``--json`` for scripts), progress and remarks to stderr. A user's mistake is one sentence and exit
code 1; a wrong command line is 2; Ctrl-C is 130.
"""

from __future__ import annotations

import math
import os
import sys
from functools import partial
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import typer.core

from schemas.errors import InputError, Interrupted, RaffinateError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builders.build import BuildSummary, TeacherEstimate
    from purifiers.base import Purifier
    from schemas.workspace import Workspace


class _Stopped(RaffinateError):
    """Ctrl-C with a sentence of its own, past typer, which would make a bare exit code of it."""


class _Command(typer.core.TyperCommand):
    """A command that takes an option once, unless it may be repeated: the last one would win without a word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse an option with one value that is there twice."""
        given: list[Any] = self.make_parser(ctx).parse_args(args=list(args))[2]
        for option in given:
            single = option.param_type_name == "option" and not (option.multiple or option.is_flag)
            if single and given.count(option) > 1:
                ctx.fail(f"{option.opts[0]} is there {given.count(option)} times: it takes one value, give it once")
        return super().parse_args(ctx, args)

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Leave examples on one line: they are pasted."""
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(cleandoc(self.help or "").replace("\n\nExample:", "\n\n\b\nExample:"))

    def invoke(self, ctx: Any) -> Any:
        """Keep what an interruption says."""
        try:
            return super().invoke(ctx)
        except Interrupted as error:
            raise _Stopped(str(error)) from None


app = typer.Typer(
    name="raffinate",
    help="Many teacher LLMs in, one purified rationale per question out.",
    epilog="\b\nStart with  raffinate init my-dataset.yaml  and  raffinate run my-dataset.yaml",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the pretty help takes longer to load than everything else
    context_settings={"help_option_names": ["-h", "--help"]},
)
command = partial(app.command, cls=_Command)

RecipePath = Annotated[Path, typer.Argument(help="Recipe file, or a workspace that keeps one.", show_default=True)]
WorkspacePath = Annotated[Path, typer.Argument(help="Workspace folder.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
AllowSecret = Annotated[
    list[str] | None,
    typer.Option(metavar="MARK", help="Let pass what looks like a secret and is none; may be repeated."),
]
Judges = Annotated[
    list[str] | None,
    typer.Option("--judge", metavar="A,B", help="Judges or teachers of the recipe, to judge or merge."),
]
MaxCost = Annotated[float | None, typer.Option(min=0, help="Stop after this cost, in US dollars.")]
MaxRequests = Annotated[int | None, typer.Option(min=1, help="Stop after so many requests.")]
Judging = Annotated[
    Path | None,
    typer.Option("--recipe", help="Names the teachers and judges; the workspace's own by default."),
]
AsBatch = Annotated[bool, typer.Option("--batch", help="Through the servers' Batch API: cheaper, within a day.")]
OnlyEstimate = Annotated[
    bool, typer.Option("--estimate", help="Ask nobody: say what the methods would ask, and what it would cost.")
]
WithStudent = Annotated[
    str | None,
    typer.Option("--student", metavar="MODEL_OR_FOLDER", help="For a method that looks at one.", show_default=False),
]
MethodSettings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting; of one of several methods METHOD.KEY=VALUE."),
]
DEFAULT_RECIPE = Path("recipe.yaml")
JUDGED = ["best-teacher,majority,oracle"]
COMPARED = ["fine-tuning,teacher:*,keep-all,majority"]
TINY = ["tiny-seq2seq"]
MULTITASK = ["multitask"]
INTERRUPTED = 130


def main() -> None:
    """Run the command line; turns every user error into one sentence."""
    try:
        code = app(standalone_mode=False)
    except RaffinateError as error:
        _fail(str(error), INTERRUPTED if isinstance(error, _Stopped) else 1)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of a pipe left: not our error
        sys.exit(1)
    except Exception as error:
        # A wrong command line. typer carries a click of its own, or uses the installed one, by version.
        if not (hasattr(error, "show") and hasattr(error, "exit_code")):
            raise
        error.show()
        sys.exit(error.exit_code)
    if code == INTERRUPTED:  # typer itself returns it for Ctrl-C, a build for the one it caught
        _fail("interrupted: nothing that arrived is lost, run the same command again to go on", code)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(sentence: str, code: int) -> None:
    sys.stderr.write(f"error: {sentence}\n")
    sys.exit(code)


def _version(shown: bool) -> None:
    if shown:
        from raffinate import __version__

        typer.echo(f"raffinate {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@command()
def init(
    path: Annotated[Path, typer.Argument(help="Recipe file to write.")] = DEFAULT_RECIPE,
) -> None:
    """Write a commented recipe to start from.

    Example:  raffinate init my-dataset.yaml
    """
    from raffinate.starter import RECIPE

    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"a recipe is a file that ends in .yaml: write one with  raffinate init {path}.yaml")
    if path.exists():
        raise InputError(f"{path} exists: choose another name, or remove it first")
    try:
        path.write_text(RECIPE, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
    typer.echo(f"wrote {path}: edit it, then  raffinate check {path}  and  raffinate run {path}")


@command()
def check(recipe: RecipePath = DEFAULT_RECIPE, json: AsJson = False) -> None:
    """Validate a recipe, read its questions, and reach every endpoint; asks nothing and writes nothing.

    Example:  raffinate check recipe.yaml
    """
    from dataclasses import asdict

    from builders.endpoints import check_endpoints
    from builders.sources import question_notes
    from builders.teacher import teacher_notes
    from raffinate import show
    from raffinate.run import read_project, serving

    loaded, questions = read_project(recipe)
    with serving(loaded):
        reports = check_endpoints((*loaded.teachers, *loaded.judges))
    notes = [*(note.message for note in question_notes(questions)), *teacher_notes(loaded.teachers)]
    if json:
        found = {
            "questions": len(questions),
            "notes": notes,
            "endpoints": [asdict(r) for r in reports],
        }
        show.as_json(found)
    else:
        typer.echo(f"{recipe} is valid: {len(questions):,} questions, {len(loaded.teachers)} teachers")
        for remark in notes:
            show.note(remark)
        show.endpoints(reports)
    problems = [r.problem for r in reports if r.problem]
    if problems:
        raise InputError(problems[0] + (f" ({len(problems) - 1} more endpoints have problems)" if problems[1:] else ""))


@command()
def estimate(recipe: RecipePath = DEFAULT_RECIPE, batch: AsBatch = False, json: AsJson = False) -> None:
    """Say how many requests and tokens a build would take, and what they would cost, before asking anything.

    Once it is built, also those of the recipe's methods that ask teachers or judges.

    Example:  raffinate estimate recipe.yaml
    """
    from builders.build import estimate as count
    from builders.teacher import teacher_notes
    from raffinate import show
    from raffinate.run import estimate_methods, open_project

    project = open_project(recipe, create=True)
    cache = project.recipe.build.cache_in(project.base)
    build = count(project.workspace, project.teachers(batch=batch), project.prompt(), cache=cache)
    methods, later = estimate_methods(project, built=not any(e.requests for e in build))
    _show_estimates({show.BUILD: build, **methods}, json)
    for note in teacher_notes(project.recipe.teachers):
        show.note(note)
    if later:
        show.note(f"{', '.join(later)} will ask too: how much can be said once the build is done")


@command()
def run(recipe: RecipePath = DEFAULT_RECIPE, json: AsJson = False) -> None:
    """Run a whole recipe: build, purify, evaluate, describe. Run it again to go on where it stopped.

    Example:  raffinate run examples/quickstart/recipe.yaml
    """
    from raffinate import show
    from raffinate.progress import LiveProgress
    from raffinate.run import run as run_recipe

    with LiveProgress() as progress:
        report = run_recipe(recipe, progress, progress.step, progress.students, progress.fit)
    if json:
        show.as_json(show.report_dict(report))
    else:
        show.report(report)
    if report.stopped:
        raise RaffinateError(report.stopped)
    raise typer.Exit(report.build.exit_code)


@command()
def build(
    recipe: RecipePath = DEFAULT_RECIPE,
    route: Annotated[
        str | None, typer.Option(help="Ask only whom this fitted method picks, by the question.", show_default=False)
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Workspace that the method was fitted in.", show_default=False)
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Teachers to ask about each question, with --route.")] = 1,
    max_cost: MaxCost = None,
    max_requests: MaxRequests = None,
    batch: AsBatch = False,
    engine: Annotated[
        Literal["local", "ray"] | None,
        typer.Option(help="Ask from this process, or from a Ray cluster (RAY_ADDRESS).", show_default=False),
    ] = None,
    json: AsJson = False,
) -> None:
    """Ask every teacher every question that has no answer yet. Ctrl-C loses nothing; run it again to go on.

    Example:  raffinate build recipe.yaml --max-cost 20

    Example:  raffinate build new.yaml --route plackett-luce --from my-dataset

    Example:  raffinate build recipe.yaml --engine ray

    With --batch, Ctrl-C leaves the batches to the servers; the next build collects them, with or without --batch.
    """
    from raffinate import show
    from raffinate.progress import LiveProgress
    from raffinate.route import route_of
    from raffinate.run import build_project, open_project, question_warnings

    if (route is None) != (source is None):
        raise InputError("--route METHOD and --from WORKSPACE go together")
    project = open_project(recipe, create=True)
    ids = [t.id for t in project.recipe.teachers]
    choice = route_of(route, source, ids, top) if route is not None and source is not None else None
    for warning in question_warnings(project):
        show.note(warning)
    with LiveProgress() as progress:
        summary = build_project(
            project,
            progress,
            route=choice,
            max_cost_usd=max_cost,
            max_requests=max_requests,
            batch=batch,
            engine=engine,
        )
    _describe(project.workspace)
    _show_build(summary, json)


@command()
def status(recipe: RecipePath = DEFAULT_RECIPE, json: AsJson = False) -> None:
    """Say how far a build is, also while it runs: answers by status, failures by kind, batches under way, per teacher.

    Example:  raffinate status my-dataset
    """
    from builders.build import status as count
    from raffinate import show
    from raffinate.run import open_project

    project = open_project(recipe)
    found = count(
        project.workspace, project.recipe.teachers, project.prompt(), cache=project.recipe.build.cache_in(project.base)
    )
    if json:
        show.as_json([show.status_dict(t) for t in found])
    else:
        show.statuses(found)


@command()
def retry(
    recipe: RecipePath = DEFAULT_RECIPE,
    where: Annotated[
        str | None,
        typer.Option(help="SQL condition on `responses`; the failed rows by default.", show_default=False),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Ask these rows with another token limit.")] = None,
    json: AsJson = False,
) -> None:
    """Ask some rows again, and only those.

    Example:  raffinate retry my-dataset --where "finish_reason = 'length'" --max-tokens 2048
    """
    from builders.build import retry as ask_again
    from raffinate.progress import LiveProgress
    from raffinate.run import open_project

    project = open_project(recipe)
    with project.serving(), LiveProgress() as progress:
        summary = ask_again(
            project.workspace,
            project.recipe.teachers,
            project.prompt(),
            where=where,
            max_tokens=max_tokens,
            settings=project.recipe.build.settings(project.base),
            on_progress=progress,
        )
    _show_build(summary, json)


def _describe(workspace: Workspace) -> None:
    """Bring the card up to date: through it `datasets` finds what a command has just written."""
    from cards.card import write_card
    from raffinate import show

    try:
        write_card(workspace)
    except RaffinateError as error:
        show.note(f"the card was not brought up to date: {error}")


def _show_build(summary: BuildSummary, json: bool) -> None:
    from raffinate import show

    show.as_json(show.build_dict(summary)) if json else show.built(summary)
    raise typer.Exit(summary.exit_code)


@command("import")
def import_(
    workspace: WorkspacePath,
    hub: Annotated[
        str | None, typer.Argument(metavar="[USER/NAME]", help="A published dataset to go on from.", show_default=False)
    ] = None,
    responses: Annotated[
        str | None, typer.Option(help="Parquet, JSONL or CSV file of responses; a glob is fine.", show_default=False)
    ] = None,
    questions: Annotated[
        str | None, typer.Option(help="File of questions; the workspace's own by default.", show_default=False)
    ] = None,
    dataset: Annotated[list[str] | None, typer.Option(metavar="A,B", help="Take only these datasets.")] = None,
    teacher: Annotated[list[str] | None, typer.Option(metavar="A,B", help="Take only these teachers.")] = None,
    gold_shown: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="Teachers that had the gold answer in their prompt.")
    ] = None,
    split_by_hash: Annotated[
        str | None, typer.Option(metavar="TRAIN/VALIDATION/TEST", help="Split anew, by a hash of the id: 70/10/20.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    revision: Annotated[str | None, typer.Option(help="Of the published dataset.", show_default=False)] = None,
    tool: Annotated[
        str | None,
        typer.Option(
            help="Who wrote the responses: distilabel, curator, datadesigner, tinyllm, chat or openai-batch.",
            show_default=False,
        ),
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(help="Its column that names the question, with --tool.", show_default=False)
    ] = None,
    json: AsJson = False,
) -> None:
    """Bring in answers that were collected elsewhere, or a published dataset, without asking anybody.

    Responses need the columns question_id, teacher_id and rationale; more of them: docs/building.md. What the
    workspace has stays, but for answers of the same question, teacher and sample, which are replaced.

    Example:  raffinate import my-dataset --questions q.parquet --responses r.parquet --split-by-hash 70/0/30

    Example:  raffinate import my-dataset user/published-dataset
    """
    from builders.import_formats import Layout
    from builders.importer import Selection
    from raffinate import show
    from raffinate.bring import bring, bring_published

    if (hub is None) == (responses is None):
        raise InputError(
            f"say what to import into the workspace {workspace}:  --responses FILE, or the USER/NAME of a published "
            "dataset after the workspace"
        )
    if responses is None:
        report = bring_published(workspace, str(hub), revision)
        show.as_json(report.to_dict()) if json else show.brought(report)
        return

    if split_by_hash and questions is None:
        raise InputError("--split-by-hash splits the questions of a file: give --questions, or leave it out")
    selection = Selection(
        datasets=_listed(dataset) or None,
        teachers=_listed(teacher) or None,
        gold_shown=_listed(gold_shown),
        split_by_hash=_shares(split_by_hash),
        seed=seed,
        tool=tool,
        layout=Layout(id_column=id_column) if tool else None,
    )
    report = bring(workspace, questions, responses, selection)
    _describe(report.workspace)
    show.as_json(report.to_dict()) if json else show.brought(report)


def _shares(text: str | None) -> dict[str, float] | None:
    """``70/10/20`` as shares of train, validation and test."""
    if text is None:
        return None
    try:
        parts = [float(p) for p in text.split("/")]
    except ValueError:
        parts = []
    if len(parts) != 3 or not 0 < sum(parts) < math.inf or min(parts) < 0:
        raise InputError(f"--split-by-hash '{text}' is not three shares: write it like 70/10/20")
    return {name: part / sum(parts) for name, part in zip(("train", "validation", "test"), parts, strict=True)}


@command()
def methods(json: AsJson = False) -> None:
    """List the purification methods, what each looks at, and its settings.

    Example:  raffinate methods
    """
    from purifiers.registry import described
    from raffinate import show

    found, problems = described()
    for problem in problems:
        show.note(problem)
    show.as_json(found) if json else show.methods(found)


@command()
def purify(
    workspace: WorkspacePath,
    method: Annotated[
        list[str],
        typer.Option(metavar="A,B", help="Which methods, with commas between or repeated; see  raffinate methods."),
    ],
    setting: MethodSettings = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts of train, for out-of-fold choices.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the folds.")] = 0,
    student: WithStudent = None,
    judge: Judges = None,
    recipe: Judging = None,
    max_cost: MaxCost = None,
    max_requests: MaxRequests = None,
    estimate: OnlyEstimate = False,
    json: AsJson = False,
) -> None:
    """Choose one rationale per question by each method; write it to Parquet and DuckDB.

    Example:  raffinate purify my-dataset --method plackett-luce --set gamma=100

    Example:  raffinate purify my-dataset --method majority,consensus --set consensus.threshold=0.6

    Example:  raffinate purify my-dataset --method aggregate --judge gpt --estimate

    Example:  raffinate purify my-dataset --method aggregate --judge gpt --max-cost 5

    Example:  raffinate purify my-dataset --method comprehension --student google/flan-t5-base
    """
    from purifiers.run import publish_each
    from purifiers.run import purify as choose
    from raffinate import show
    from raffinate.equip import asker_for, equip, estimates_of, student_for
    from raffinate.progress import LiveProgress
    from schemas.corpus import Corpus
    from schemas.workspace import Workspace

    opened, found = Workspace.open(workspace), []
    chosen = _purifiers("--method", _listed(method), _settings(setting), _listed(judge))
    with LiveProgress() as progress:
        asker = asker_for(chosen, opened, recipe, progress, max_cost_usd=max_cost, max_requests=max_requests)
        learner = student_for(chosen, opened, student, seed=seed)
        ready = [equip(m, asker, student=learner, on_fit=progress.fit) for m in chosen]
        if estimate:
            corpus = Corpus.of(opened)
            return _show_estimates(estimates_of(ready, lambda m: choose(m, corpus, folds=folds, seed=seed)), json)
        try:
            for purifier, corpus, kept in publish_each(opened, ready, progress.step, folds=folds, seed=seed):
                found.append(show.purified_dict(opened, purifier, corpus, kept))
        finally:  # what an earlier method published stands, whatever becomes of a later one
            if found:
                _describe(opened)
    if json:
        return show.as_json(found)
    for each in found:
        show.purified(each)


@command()
def evaluate(
    workspace: WorkspacePath,
    methods: Annotated[
        list[str], typer.Option(metavar="A,B", help="Methods, with commas between or repeated.")
    ] = JUDGED,
    on: Annotated[str, typer.Option(help="Split to judge on: train, validation or test.")] = "test",
    teachers: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="Only these teachers.", show_default=False)
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Each method against each other, paired.")] = False,
    domains: Annotated[bool, typer.Option("--domains", help="Accuracy by domain.")] = False,
    curves: Annotated[
        bool, typer.Option("--curves", help="Accuracy by number of train questions and teachers.")
    ] = False,
    transfer: Annotated[bool, typer.Option("--transfer", help="Accuracy in each domain, fitted without it.")] = False,
    setting: MethodSettings = None,
    seed: Annotated[int, typer.Option(help="Of folds and bootstrap.")] = 0,
    student: WithStudent = None,
    judge: Judges = None,
    recipe: Judging = None,
    max_cost: MaxCost = None,
    max_requests: MaxRequests = None,
    estimate: OnlyEstimate = False,
    json: AsJson = False,
) -> None:
    """Measure against gold how well methods choose; what needs fitting is fitted on train.

    Example:  raffinate evaluate my-dataset --methods best-teacher,majority,consensus --compare --domains
    """
    from purifiers.evaluate import choose_on, judged_rows
    from purifiers.registry import names as known_methods
    from raffinate import show
    from raffinate.equip import asker_for, equip, estimates_of, student_for
    from raffinate.evaluation import Look, show_closer
    from raffinate.evaluation import evaluate as measure
    from raffinate.progress import LiveProgress
    from schemas.corpus import Corpus
    from schemas.workspace import Workspace

    if on not in ("train", "validation", "test"):
        raise InputError(f"--on '{on}' is no split{nearest(on, ('train', 'validation', 'test'))}")
    opened = Workspace.open(workspace)
    corpus = Corpus.of(opened, _listed(teachers) or None)
    names = _listed(methods)
    own = next((name for name in names if name in opened.methods() and name not in known_methods()), None)
    if own:
        raise InputError(
            f"{own} was purified by a method that this command does not know: offer it through the entry point "
            "raffinate.purifiers, or judge it in Python with  rf.evaluate"
        )
    chosen = _purifiers("--methods", names, _settings(setting), _listed(judge))
    look = Look(on, seed, compare=compare, domains=domains, curves=curves, transfer=transfer)
    with LiveProgress() as progress:
        asker = asker_for(chosen, opened, recipe, progress, max_cost_usd=max_cost, max_requests=max_requests)
        learner = student_for(chosen, opened, student, seed=seed)
        equipped = [equip(m, asker, student=learner, on_fit=progress.fit) for m in chosen]
        if estimate:
            rows = judged_rows(corpus, equipped, on)
            return _show_estimates(estimates_of(equipped, lambda m: choose_on(m, corpus, rows, on, seed)), json)
        found = measure(opened, corpus, equipped, look, progress.step)
    if json:
        return show.as_json(found)
    show.evaluations(found, on)
    show_closer(found)


@command()
def audit(
    workspace: WorkspacePath,
    method: Annotated[str, typer.Option(help="Which method; see  raffinate methods.")],
    setting: MethodSettings = None,
    meaning: Annotated[bool, typer.Option("--meaning", help="Also the spread of meanings (needs [routers]).")] = False,
    folds: Annotated[int, typer.Option(min=2, help="Parts of train, for out-of-fold choices.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the folds.")] = 0,
    judge: Judges = None,
    recipe: Judging = None,
    student: WithStudent = None,
    json: AsJson = False,
) -> None:
    """Look at what a method keeps: conflict before, collapse, contradiction, leakage, repeats, lengths.

    Example:  raffinate audit my-dataset --method consensus
    """
    from purifiers.audit import audit as look
    from purifiers.encoder import embed
    from purifiers.run import purify as choose
    from raffinate import show
    from raffinate.equip import asker_for, equip, student_for
    from raffinate.progress import LiveProgress
    from schemas.corpus import Corpus
    from schemas.workspace import Workspace

    opened = Workspace.open(workspace)
    (purifier,) = _purifiers("--method", [method], _settings(setting), _listed(judge))
    corpus = Corpus.of(opened)
    if not purifier.chooses:
        raise InputError(f"{method} keeps every rationale: there is no choice to audit")
    with LiveProgress() as progress, progress.step(f"auditing {method}"):
        asker = asker_for([purifier], opened, recipe, progress)
        learner = student_for([purifier], opened, student, seed=seed)
        ready = equip(purifier, asker, student=learner, on_fit=progress.fit)
        kept = choose(ready, corpus, folds=folds, seed=seed)[1]
        found = look(corpus, kept, method, frozenset(purifier.looks_at), embed if meaning else None).to_dict()
    show.as_json(found) if json else show.audited(found)


@command()
def distill(
    source: Annotated[
        str, typer.Argument(metavar="WORKSPACE", help="Workspace folder, or the USER/NAME of a dataset on the Hub.")
    ],
    method: Annotated[str, typer.Option(help="A purifier, keep-all, teacher:ID or fine-tuning.")],
    model: Annotated[
        str, typer.Option(help="tiny-seq2seq, tiny-causal, a Hugging Face id, or a folder.")
    ] = "tiny-seq2seq",
    objective: Annotated[str, typer.Option(help="multitask, rationale-then-answer or fine-tuning.")] = "multitask",
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting; see docs/distill.md.")
    ] = None,
    teachers: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="For keep-all, only these teachers.", show_default=False)
    ] = None,
    weight_by: Annotated[
        str | None, typer.Option(help="Weight a purifier's rationales: by agreement or teacher.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the student goes; inside the workspace by default.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and dropout.")] = 0,
    elsewhere: Annotated[
        list[str] | None, typer.Option("--eval", help="Another workspace or Hub id to judge on; may be repeated.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Train a student on what was published and judge it on test questions. Interrupted, the same command goes on.

    Example:  raffinate distill my-dataset --method majority --model google/flan-t5-base --set epochs=3

    Example:  raffinate distill my-dataset --method keep-all --objective rationale-then-answer --seed 1
    """
    from raffinate import show
    from raffinate.distilling import as_dict, shown, train_student

    own = {"model": model, "objective": objective, "seed": seed}
    given = _settings(setting)
    if twice := [key for key in own if key in given]:
        raise InputError(f"--set {twice[0]}: there is --{twice[0]} for that")
    settings = own | given
    wanted = _listed(teachers) or None
    done, folder = train_student(
        source, method, settings, out=out, elsewhere=elsewhere or (), teachers=wanted, weight_by=weight_by
    )
    show.as_json(as_dict(done, folder)) if json else shown(done, folder)


@command()
def compare(
    workspace: WorkspacePath,
    methods: Annotated[
        list[str], typer.Option(metavar="A,B", help="Purifiers, keep-all, fine-tuning, teacher:ID; teacher:* is each.")
    ] = COMPARED,
    teacher_sets: Annotated[
        str, typer.Option(metavar="SETS", help="nested (1, 2, ... teachers), all, or sets like a+b,a+b+c.")
    ] = "nested",
    teachers: Annotated[
        list[str] | None,
        typer.Option(metavar="A,B", help="These teachers, in the order that sets grow.", show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many: 0, 1, ...")] = 5,
    students: Annotated[
        list[str], typer.Option(metavar="A,B", help="tiny-seq2seq, tiny-causal, Hugging Face ids, folders.")
    ] = TINY,
    objective: Annotated[
        list[str], typer.Option(metavar="A,B", help="multitask, rationale-then-answer or both.")
    ] = MULTITASK,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Of students and training; METHOD.KEY=VALUE of a method."),
    ] = None,
    elsewhere: Annotated[
        list[str] | None, typer.Option("--eval", help="Another workspace or Hub id to judge on; may be repeated.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Students trained at a time, on one core each if several.")] = 1,
    pictures: Annotated[Path | None, typer.Option(help="Folder for the pictures (SVG).", show_default=False)] = None,
    only_show: Annotated[bool, typer.Option("--show", help="Train nothing: show what is there so far.")] = False,
    recipe: Judging = None,
    json: AsJson = False,
) -> None:
    """Train students on what methods keep, by number of teachers and seed, and compare them.

    Every cell of the grid is kept as it ends: interrupted, or asked with more methods, the command goes on.

    Example:  raffinate compare my-dataset --methods fine-tuning,teacher:*,keep-all,majority --seeds 5 --jobs 2

    Example:  raffinate compare my-dataset --students google/flan-t5-small --set epochs=3 --eval other-dataset
    """
    from raffinate import show
    from raffinate.compare_command import compare_students
    from raffinate.compare_report import shown
    from raffinate.progress import LiveProgress

    with LiveProgress() as progress:
        found = compare_students(
            workspace,
            _listed(methods),
            sets=teacher_sets,
            teachers=_listed(teachers) or None,
            seeds=range(seeds),
            students=_listed(students),
            objectives=_listed(objective),
            settings=_settings(setting),
            elsewhere=elsewhere or (),
            jobs=jobs,
            pictures=pictures,
            recipe=recipe,
            on_cell=progress.students,
            train=not only_show,
        )
    show.as_json(found) if json else shown(found)
    raise typer.Exit(int(bool(found["failed"])))


def _show_estimates(found: Mapping[str, Sequence[TeacherEstimate]], json: bool) -> None:
    from raffinate import show

    show.as_json(show.estimates_dict(found)) if json else show.estimates(found)


def _listed(given: list[str] | None) -> list[str]:
    """The names in ``a,b`` and in what an option was repeated with, each once."""
    parts = (part.strip() for text in given or () for part in text.split(","))
    return list(dict.fromkeys(part for part in parts if part))


def _settings(pairs: list[str] | None) -> dict[str, Any]:
    """``KEY=VALUE`` pairs, values read as YAML, so that 3 is a number and null is none."""
    import yaml

    found: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"--set '{pair}' is not KEY=VALUE")
        if key in found:
            raise InputError(f"--set {key} is there twice: it takes one value, give it once")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--set '{pair}': the value is no valid YAML") from None
    return found


def _purifiers(option: str, names: list[str], settings: dict[str, Any], judges: list[str]) -> list[Purifier]:
    """The unfitted methods that ``option`` names, with the settings and judges meant for each."""
    from raffinate.equip import who_judges, with_judges
    from raffinate.recipe import make_purifier

    if not names:
        raise InputError(f"{option} names none: see  raffinate methods")
    own: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in settings.items():
        name, _, field = key.partition(".")
        if name not in own:
            name, field = names[0], key
            if len(names) > 1:
                raise InputError(f"--set {key}: say which method it is for, like {name}.{key}=...")
        own[name][field] = value
    if judges:
        own |= {name: with_judges(name, own[name], judges) for name in who_judges(names)}
    return [make_purifier(name, own[name]) for name in names]


@command()
def sql(
    workspace: WorkspacePath,
    query: Annotated[str | None, typer.Argument(help="One SELECT; without it, the views are listed.")] = None,
    format: Annotated[
        str | None,
        typer.Option(help="table, csv, json or parquet; a table, or as FILE ends, by default.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="File to write; stdout by default.")
    ] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Bring raffinate.duckdb up to date.")] = False,
) -> None:
    """Ask the workspace in SQL, read-only. More queries: docs/sql.md.

    Example:  raffinate sql my-dataset "SELECT teacher_id, accuracy FROM teachers ORDER BY accuracy DESC"
    """
    from raffinate.answer_sql import answer, list_views, refresh_database
    from schemas.workspace import Workspace

    opened = Workspace.open(workspace)
    if refresh:
        refresh_database(opened)
    if query is not None:
        answer(opened, query, format, output)
    elif not refresh:
        list_views()


@command()
def sandbox(
    port: Annotated[int, typer.Option(help="0 for any free port.")] = 8765,
    seed: Annotated[int, typer.Option(help="Of the world: who errs where.")] = 0,
    faults: Annotated[Path | None, typer.Option(help="YAML list of faults.", show_default=False)] = None,
    teachers: Annotated[Path | None, typer.Option(help="YAML list of teachers.", show_default=False)] = None,
    latency_ms: Annotated[float, typer.Option(min=0, help="Mean time a reply is held back.")] = 0.0,
    batch_s: Annotated[float, typer.Option(min=0, help="Time that a batch takes, in seconds.")] = 0.0,
    api_key: Annotated[str | None, typer.Option(help="Require this key.", show_default=False)] = None,
    questions: Annotated[int | None, typer.Option(min=1, help="Write N questions for it and exit.")] = None,
    out: Annotated[Path, typer.Option(help="Where to write them.")] = Path("questions.parquet"),
) -> None:
    """Serve simulated teachers behind an OpenAI-compatible API on this machine, to try pipelines without spending.

    Example:  raffinate sandbox --port 8765    then    base_url: http://127.0.0.1:8765/v1

    Example:  raffinate sandbox --questions 1000 --out questions.parquet
    """
    from builders.sandbox.__main__ import run as run_sandbox

    options: dict[str, Any] = {"port": port, "latency_ms": latency_ms, "batch_s": batch_s, "api_key": api_key}
    code = run_sandbox(faults=faults, teachers=teachers, questions=questions, out=out, seed=seed, **options)
    raise typer.Exit(code)


@command()
def card(workspace: WorkspacePath) -> None:
    """Write the dataset card (README.md) from what the workspace holds; your own marked blocks in it survive.

    Example:  raffinate card my-dataset
    """
    from cards.card import write_card
    from schemas.workspace import Workspace

    typer.echo(str(write_card(Workspace.open(workspace))))


@command()
def report(
    workspace: WorkspacePath,
    out: Annotated[Path | None, typer.Option(help="File to write; WORKSPACE/report.html by default.")] = None,
) -> None:
    """Write one HTML page, offline, to look at a workspace: figures, and every question with all its rationales.

    Example:  raffinate report my-dataset
    """
    from cards.report import write_report
    from schemas.workspace import Workspace

    typer.echo(str(write_report(Workspace.open(workspace), out)))


@command()
def verify(
    workspace: WorkspacePath,
    benchmark: Annotated[
        list[Path] | None, typer.Option(help="File of questions that must not be among ours; may be repeated.")
    ] = None,
    meaning: Annotated[bool, typer.Option("--meaning", help="Also look for equal meaning (needs [routers]).")] = False,
    language: Annotated[str | None, typer.Option(help="ISO code texts should be in.", show_default=False)] = None,
    allow_secret: AllowSecret = None,
    json: AsJson = False,
) -> None:
    """Look at a workspace before others do: schema, orphans, secrets, personal data, duplicates, train-test overlap.

    Example:  raffinate verify my-dataset --benchmark gsm8k-test.jsonl
    """
    from dataclasses import asdict

    from cards.verify import verify as look
    from raffinate import show
    from schemas.workspace import Workspace

    encode = None
    if meaning:
        from purifiers.encoder import embed

        encode = embed
    found = look(
        Workspace.open(workspace),
        benchmarks=benchmark or (),
        encode=encode,
        language=language,
        allow_secrets=allow_secret or (),
    )
    show.as_json([asdict(f) for f in found]) if json else show.findings(found)
    raise typer.Exit(int(any(f.level == "error" for f in found)))


@command()
def push(
    workspace: WorkspacePath,
    repo: Annotated[str, typer.Argument(metavar="USER/NAME", help="Dataset repository on the Hub.")],
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public; private by default.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List every file and change, send nothing.")] = False,
    method: Annotated[list[str] | None, typer.Option(metavar="A,B", help="Publish only these methods.")] = None,
    exclude_teacher: Annotated[
        list[str] | None, typer.Option(metavar="A,B", help="Leave out teachers or judges, and what they went into.")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Of this version; the next v1, v2, ... by default.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Publish an unlicensed teacher, or over foreign content.")] = False,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Load it back and compare.")] = True,
    allow_secret: AllowSecret = None,
    json: AsJson = False,
) -> None:
    """Publish a workspace as a Hugging Face dataset; the token comes from HF_TOKEN or  hf auth login.

    Example:  raffinate push my-dataset user/name --dry-run
    """
    from dataclasses import asdict

    from cards.push import push as publish
    from raffinate import show
    from schemas.workspace import Workspace

    done = publish(
        Workspace.open(workspace),
        repo,
        private=not public,
        dry_run=dry_run,
        methods=_listed(method) or None,
        exclude_teachers=_listed(exclude_teacher),
        yes=yes,
        tag=tag,
        check=check,
        allow_secrets=allow_secret or (),
    )
    show.as_json(asdict(done)) if json else show.pushed(done)
