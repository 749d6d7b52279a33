"""The command line: help, formats, exit codes, what is exported, and a core that needs no torch."""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
import pytest
import typer
from helpers_asking import workspace_of
from helpers_cli import ROOT, Cli, in_process
from helpers_corpus import make_workspace

import raffinate
from builders.endpoints import EndpointReport
from purifiers.base import Purifier, Scores, Signal
from purifiers.registry import METHODS
from raffinate import show
from raffinate.cli import app
from schemas.corpus import Corpus
from schemas.views import DESCRIPTIONS
from schemas.workspace import Workspace

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("cli") / "ws")


# -- help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_that_names_it(cli: Cli, command: str) -> None:
    ran = cli(command, "--help")
    assert ran.code == 0
    examples = re.findall(r"Example:\s+(raffinate .+)", ran.out)
    assert examples and all(e.startswith(f"raffinate {command}") for e in examples)
    page = (ROOT / "docs" / "cli.md").read_text().splitlines()
    assert all(e in page for e in examples)  # none is wrapped, so each can be pasted


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    pages = [p.read_text() for p in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")) if p.is_file()]
    assert any(f"raffinate {command}" in page for page in pages)


def test_every_option_says_what_it_is() -> None:
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        for param in command.params:
            assert param.name == "help" or param.help, f"{name}: {param.name}"


def test_help_names_every_command_and_the_version_is_shown(cli: Cli) -> None:
    ran = cli("--help")
    assert ran.code == 0 and all(re.search(rf"^\s+{c}\s", ran.out, re.M) for c in COMMANDS)
    assert "raffinate init my-dataset.yaml" in ran.out and "raffinate run my-dataset.yaml" in ran.out
    assert cli("--version").out == f"raffinate {raffinate.__version__}\n"


# -- exit codes


@pytest.mark.parametrize(
    "args",
    [
        ["nonsense"],
        ["purify"],
        ["purify", "ws"],
        ["evaluate", "ws", "--nonsense"],
        ["purify", "ws", "--method", "x", "--folds", "1"],
    ],
)
def test_a_wrong_command_line_is_2(cli: Cli, args: list[str]) -> None:
    ran = cli(*args)
    assert ran.code == 2 and not ran.out and "Traceback" not in ran.err


def test_no_command_shows_the_help(cli: Cli) -> None:
    ran = cli()
    assert "Usage" in ran.out + ran.err and "evaluate" in ran.out + ran.err


def test_ctrl_c_is_130(cli: Cli, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("purifiers.run.purify", interrupted)
    ran = cli("purify", workspace.path, "--method", "majority")
    assert ran.code == 130 and ran.err.startswith("error: interrupted")


# -- sql


QUERY = "SELECT teacher_id, count(*) AS n, avg(is_correct::INTEGER) AS accuracy FROM responses GROUP BY 1 ORDER BY 1"


def test_the_formats_carry_the_same_rows(cli: Cli, workspace: Workspace, tmp_path: Path) -> None:
    expected = cli("sql", workspace.path, QUERY, "--format", "json").json
    assert [r["teacher_id"] for r in expected] == ["alpha", "beta", "gamma"] and expected[0]["n"] == 30
    shown = cli("sql", workspace.path, QUERY, "--format", "csv").out
    rows = list(csv.DictReader(io.StringIO(shown)))
    assert [(r["teacher_id"], int(r["n"])) for r in rows] == [(r["teacher_id"], r["n"]) for r in expected]
    out = tmp_path / "x.parquet"
    assert cli("sql", workspace.path, QUERY, "--format", "parquet", "-o", out).code == 0
    assert pl.read_parquet(out).to_dicts() == expected
    table = cli("sql", workspace.path, QUERY).out
    assert all(name in table for name in ("alpha", "beta", "gamma", "accuracy", "30"))


@pytest.mark.parametrize(
    ("name", "read"), [("x.parquet", pl.read_parquet), ("x.csv", pl.read_csv), ("x.JSON", pl.read_json)]
)
def test_a_file_is_written_as_it_ends(
    cli: Cli, workspace: Workspace, tmp_path: Path, name: str, read: Callable[[Path], pl.DataFrame]
) -> None:
    ran = cli("sql", workspace.path, QUERY, "-o", tmp_path / name)
    assert ran.code == 0 and read(tmp_path / name)["teacher_id"].to_list() == ["alpha", "beta", "gamma"], ran.err
    assert cli("sql", workspace.path, QUERY, "-o", tmp_path / "x.txt", "--format", "csv").code == 0
    assert pl.read_csv(tmp_path / "x.txt").height == 3


def test_what_has_no_room_as_a_table_is_a_line_per_value(
    cli: Cli, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raffinate.show.out.width", 80)
    wide = cli("sql", workspace.path, "SELECT *, 'two' || chr(10) || 'lines' AS more FROM responses LIMIT 2").out
    assert "row 1\n  question_id: q0" in wide and "\n  reasoning: -\n" in wide and "row 2\n" in wide
    assert "\n  more: two\n    lines\n" in wide and "┃" not in wide
    narrow = cli(
        "sql",
        workspace.path,
        "SELECT 0.020828399999997::DOUBLE AS usd, 12345678.9::DOUBLE AS big, repeat('word ', 99) AS said",
    ).out
    assert "│ 0.0208284 │ 12345678.9 │ " in narrow
    assert "0.020828399999997" in cli("sql", workspace.path, "SELECT 0.020828399999997::DOUBLE", "--format", "csv").out


def test_a_query_without_rows_says_so(cli: Cli, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raffinate.show.out.width", 60)
    assert cli("sql", workspace.path, "SELECT * FROM responses WHERE false").out == "no rows\n"


def test_texts_stand_at_the_left_and_figures_at_the_right(cli: Cli, workspace: Workspace) -> None:
    views = cli("sql", workspace.path).out
    assert "│ questions │ one row per question  " in views
    figures = cli("sql", workspace.path, "SELECT 'a' AS name, n, 'of ' || n AS said FROM (VALUES (7), (1000)) t(n)").out
    assert "│ a    │    7 │ of 7    │" in figures


def test_a_narrow_screen_breaks_no_word_of_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    columns, rows = ("teacher", "second turns", "completion tokens", "cost"), [("ada", "1", None, "unknown")]
    for width, broken in ((60, False), (30, True)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("raffinate.show.out.width", width)
            show.table("A build would ask", columns, rows)
        printed = capsys.readouterr().out
        assert all(word in printed for word in ("second", "completion", "unknown"))
        assert ("\nada\n  second turns: 1\n  completion tokens: -\n" in printed) == broken


def test_values_of_every_type_are_printed(cli: Cli, workspace: Workspace) -> None:
    sql = (
        "SELECT 'a' AS s, 1 AS i, 1.5 AS d, sum(1) AS huge, 1.25::DECIMAL(9,2) AS exact, NULL AS nothing, true AS b, "
        "TIMESTAMPTZ '2026-01-02 03:04:05+00' AS t, DATE '2026-01-02' AS day, [1, 2] AS l, {'x': 'é'} AS st, "
        "map(['k'], [2]) AS m, 'x'::BLOB AS bytes, 'nan'::DOUBLE AS nan, INTERVAL 1 DAY AS days"
    )
    row = cli("sql", workspace.path, sql, "--format", "json").json[0]
    assert (row["s"], row["i"], row["d"], row["huge"], row["nothing"], row["b"]) == ("a", 1, 1.5, 1, None, True)
    assert row["exact"] == 1.25 and row["l"] == [1, 2] and row["st"] == {"x": "é"} and row["nan"] is None
    assert row["t"].startswith("2026-01-02T03:04:05") and row["day"] == "2026-01-02"
    for format in ("csv", "table"):
        ran = cli("sql", workspace.path, sql, "--format", format)
        assert ran.code == 0, ran.err


def test_nested_columns_are_json_in_csv(cli: Cli, workspace: Workspace) -> None:
    ran = cli("sql", workspace.path, "SELECT question_id, choices FROM questions ORDER BY 1 LIMIT 1", "--format", "csv")
    assert ran.code == 0, ran.err
    (row,) = csv.DictReader(io.StringIO(ran.out))
    assert row["choices"].startswith('[{"label":"A","text":"')


@pytest.mark.parametrize("name", list(DESCRIPTIONS))
def test_every_view_prints_in_every_format(cli: Cli, workspace: Workspace, name: str) -> None:
    for format in ("table", "csv", "json"):
        ran = cli("sql", workspace.path, f"SELECT * FROM {name} LIMIT 3", "--format", format)
        assert ran.code == 0 and not ran.err, ran.err


def test_markup_in_the_data_is_shown_as_it_is(cli: Cli, workspace: Workspace) -> None:
    assert "[bold]x[/nothing]" in cli("sql", workspace.path, "SELECT '[bold]x[/nothing]' AS \"[red]c\"").out


def test_sql_alone_lists_the_views_and_refresh_mends_a_moved_workspace(cli: Cli, tmp_path: Path) -> None:
    made = make_workspace(tmp_path / "a", n=5)
    listed = cli("sql", made.path).out
    assert all(name in listed for name in DESCRIPTIONS)
    made.database.unlink()
    assert cli("sql", made.path, "--refresh").code == 0 and made.database.is_file()


# -- purify, methods, card, import


def test_purify_says_what_it_kept_and_from_whom(cli: Cli, tmp_path: Path) -> None:
    made = make_workspace(tmp_path / "ws", n=10, methods=False)
    ran = cli("purify", made.path, "--method", "random", "--set", "seed=4")
    assert ran.code == 0 and "random kept 10 rationales, rejected 0" in ran.out and "alpha" in ran.out
    (found,) = cli("purify", made.path, "--method", "majority", "--json").json
    assert (found["kept"], found["rejected"], sum(found["chosen"].values())) == (10, 0, 10)
    assert Path(found["folder"]).is_dir() and made.methods() == ["majority", "random"]


def test_purify_by_several_methods(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, read = make_workspace(tmp_path / "ws", n=10, methods=False), []
    load = Corpus.of
    monkeypatch.setattr(Corpus, "of", lambda *args: read.append(args) or load(*args))
    options = ("--method", "random,majority", "--method", "plackett-luce,random", "--set", "random.seed=4")
    ran = cli("purify", made.path, *options)
    assert ran.code == 0 and len(read) == 1  # the responses are read once
    assert re.findall(r"^(\S+) kept", ran.out, re.M) == ["random", "majority", "plackett-luce"]
    assert made.methods() == ["majority", "plackett-luce", "random"]
    card = (made.path / "README.md").read_text()
    assert all(f"purified-{name}" in card for name in made.methods())
    (alone,) = cli("purify", made.path, "--method", "random", "--set", "seed=4", "--json").json
    both = cli("purify", made.path, *options, "--json").json
    assert [b["method"] for b in both] == ["random", "majority", "plackett-luce"] and both[0] == alone


def test_a_later_method_that_fails_leaves_the_earlier_ones(cli: Cli, tmp_path: Path) -> None:
    made = make_workspace(tmp_path / "ws", n=10, methods=False)
    ran = cli("purify", made.path, "--method", "majority,comprehension")
    assert ran.code == 1 and "comprehension needs a student" in ran.err
    assert made.methods() == ["majority"] and "purified-majority" in (made.path / "README.md").read_text()
    ran = cli("purify", made.path, "--method", "random,oracle")
    assert ran.code == 1 and "oracle looks at the gold answers" in ran.err and made.methods() == ["majority"]


class Longest(Purifier):
    """Of a user's own, without an entry point."""

    name, signals = "longest", frozenset[Signal]()

    def score(self, corpus: Corpus) -> Scores:
        return np.where(corpus.usable, np.float32(0), np.float32(np.nan))


def test_what_python_publishes_is_in_the_card_and_told_to_an_evaluation(cli: Cli, tmp_path: Path) -> None:
    made = make_workspace(tmp_path / "ws", n=10, methods=False)
    raffinate.publish(made.path, Longest())
    raffinate.publish(made, raffinate.method("majority")())
    card = (made.path / "README.md").read_text()
    assert "purified-longest" in card and "purified-majority" in card
    ran = cli("evaluate", made.path, "--methods", "majority,longest")
    assert ran.code == 1 and "longest was purified by a method that this command does not know" in ran.err


class Patient(Purifier):
    """Takes its time to fit, and is interrupted at the end."""

    name, signals, learns = "patient", frozenset[Signal](), True

    def fit(self, corpus: Corpus) -> Self:
        for done in range(1, 4):
            self.equipment.on_fit(done, 3, f"loss {1 / done:.2f}")
        raise KeyboardInterrupt

    def score(self, corpus: Corpus) -> Scores:
        return np.zeros(corpus.usable.shape, np.float32)


def test_a_long_fit_tells_how_far_it_is_and_what_ctrl_c_costs(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_workspace(tmp_path / "ws", n=10, methods=False)
    monkeypatch.setitem(METHODS, "patient", f"{__name__}:Patient")
    monkeypatch.setattr("raffinate.progress.QUIET_SECONDS", -1.0)  # where there is no terminal, a line now and then
    ran = cli("purify", made.path, "--method", "majority,patient")
    assert ran.code == 130 and made.methods() == ["majority"]
    *_, first, second, third, error = ran.err.splitlines()
    assert (first, third) == ("at work: 1 of 3  fit 1 of 5  loss 1.00", "at work: 3 of 3  fit 1 of 5  loss 0.33")
    assert error.startswith("error: interrupted while patient was fitted: a fit starts again") and "2 of 3" in second


@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_loses_a_value_silently(cli: Cli, command: str) -> None:
    """Given twice, an option either takes both values or is refused."""
    for param in typer.main.get_command(app).commands[command].params:  # type: ignore[attr-defined]
        if param.param_type_name == "option" and not (param.multiple or param.is_flag):
            ran = cli(command, "x", param.opts[0], "1", param.opts[0], "1")
            assert ran.code == 2 and f"{param.opts[0]} is there 2 times" in ran.err


def test_a_list_with_commas_may_be_repeated(cli: Cli, workspace: Workspace) -> None:
    options = ("--methods", "majority", "--methods", "random,majority", "--teachers", "alpha", "--teachers", "beta")
    ran = cli("evaluate", workspace.path, *options, "--json")
    assert [e["method"] for e in ran.json] == ["majority", "random"]
    assert set(ran.json[0]["share"]) == {"alpha", "beta"}


def test_evaluate_as_a_table(cli: Cli, workspace: Workspace) -> None:
    ran = cli("evaluate", workspace.path)
    assert ran.code == 0 and "How each method chose on test (6 questions" in ran.out
    assert all(m in ran.out for m in ("best-teacher", "majority", "oracle"))


def test_the_oracle_has_one_column(cli: Cli, workspace: Workspace) -> None:
    ran = cli("evaluate", workspace.path, "--methods", "majority,oracle", "--domains", "--curves")
    assert ran.code == 0, ran.err
    heads = [line for line in ran.out.splitlines() if line.startswith(("┃ domain ", "┃ teachers "))]
    assert [head.count("oracle") for head in heads] == [1, 1]


def test_a_server_without_a_list_of_models_is_not_called_ok(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("ada", "http://127.0.0.1:1/v1")
    down = "teacher 'ada': http://127.0.0.1:1/v1 cannot be reached: start the server"
    show.endpoints([EndpointReport(*asked, True, note="?"), EndpointReport(*asked, False, problem=down)])
    printed = capsys.readouterr().out
    assert "│ no list of models " in printed and "│ cannot be reached: start the server " in printed


def test_on_a_narrow_screen_an_evaluation_is_two_tables(
    cli: Cli, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raffinate.show.out.width", 80)
    ran = cli("evaluate", workspace.path)
    first, second = ran.out.split("How they came to it (more: --json)\n")
    assert "95 % interval ┃ gap closed" in first and "chosen most" in second and ran.out.count("│ best-teacher │") == 2


def test_a_method_that_kept_nothing_chose_nobody(cli: Cli, tmp_path: Path) -> None:
    made = workspace_of(tmp_path / "ws", ["--", "--"], split="train", gold="AB")
    ran = cli("evaluate", made.path, "--methods", "majority", "--on", "train")
    assert ran.code == 0 and "0.0%" in ran.out and "alpha 0%" not in ran.out


def test_methods_are_listed_with_their_settings(cli: Cli) -> None:
    text = cli("methods").out
    assert "plackett-luce" in text and "--set gamma=1000.0" in text and "for evaluation alone" in text
    (found,) = [m for m in cli("methods", "--json").json if m["method"] == "plackett-luce"]
    assert found["signals"] == ["question"] and found["learns"] and len(found["settings"]) == 6


def test_listed_settings_can_be_pasted(cli: Cli, workspace: Workspace) -> None:
    (listed,) = re.findall(r"^filtered .*?(?=^\w)", cli("methods").out, re.MULTILINE | re.DOTALL)
    pasted = shlex.split(" ".join(re.findall(r"--set .*?(?=   )", listed)))
    assert "language=null" in pasted and len(pasted) == 8
    assert cli("audit", workspace.path, "--method", "filtered", *pasted).code == 0
    listed = cli("methods").out
    assert "--set 'training={epochs: 60, " in listed and "--set 'judges=[]'   " in listed


def test_the_card_is_written_and_keeps_its_place(cli: Cli, tmp_path: Path) -> None:
    made = make_workspace(tmp_path / "ws", n=5)
    ran = cli("card", made.path)
    assert ran.code == 0 and Path(ran.out.strip()) == made.path / "README.md"
    assert "purified-majority" in (made.path / "README.md").read_text()


def test_what_to_do_next_can_be_pasted(cli: Cli, tmp_path: Path) -> None:
    made = make_workspace(tmp_path / "mein Datensatz", n=20)
    files = ("--questions", f"{made.path}/questions/*.parquet", "--responses", f"{made.path}/responses/*/*.parquet")
    printed = cli("import", made.path, *files).out
    (report,) = re.findall(r"^  raffinate (report .*)", printed, re.MULTILINE)
    assert cli(*shlex.split(report)).code == 0
    assert f"load_dataset({str(made.path)!r})" in printed


def test_an_import_into_nothing_says_what_is_missing(cli: Cli, tmp_path: Path) -> None:
    ran = cli("import", tmp_path / "new", "--responses", "r.jsonl")
    assert ran.code == 1 and "no workspace" in ran.err and "--questions FILE" in ran.err


def test_import_then_evaluate(cli: Cli, tmp_path: Path) -> None:
    made = make_workspace(tmp_path / "old", n=20, methods=False)
    files = ("--questions", made.path / "questions/*.parquet", "--responses", made.path / "responses/*/*.parquet")
    ran = cli("import", tmp_path / "new", *files, "--split-by-hash", "50/0/50", "--json")
    assert ran.code == 0 and ran.json["responses"] == {"alpha": 20, "beta": 20, "gamma": 20}, ran.err
    splits = cli("sql", tmp_path / "new", "SELECT DISTINCT split FROM questions ORDER BY 1", "--format", "json").json
    assert splits == [{"split": "test"}, {"split": "train"}]
    # a second import adds a teacher and leaves the others
    one = ("--responses", made.path / "responses/alpha/*.parquet")
    assert cli("import", tmp_path / "new", *one, "--json").json["responses"] == {"alpha": 20}
    assert Workspace.open(tmp_path / "new").teachers() == ["alpha", "beta", "gamma"]
    two = cli("import", tmp_path / "two", *files, "--teacher", "alpha,beta", "--json")
    assert two.json["responses"] == {"alpha": 20, "beta": 20}


def test_sandbox_questions_are_written(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "q.parquet"
    assert cli("sandbox", "--questions", 7, "--out", out).code == 0
    assert len(pl.read_parquet(out)) == 7


# -- as processes of their own


def test_the_command_runs_as_a_module(tmp_path: Path) -> None:
    ran = in_process("init", tmp_path / "r.yaml")
    assert ran.code == 0 and (tmp_path / "r.yaml").is_file() and not ran.err
    again = in_process("init", tmp_path / "r.yaml")
    assert again.code == 1 and again.err.startswith("error: ") and "Traceback" not in again.err


def test_a_reader_that_leaves_is_no_error(workspace: Workspace) -> None:
    code = (
        "import subprocess, sys\n"
        "sql = 'SELECT repeat(rationale, 500) AS x FROM responses'\n"
        "p = subprocess.Popen([sys.executable, '-m', 'raffinate', 'sql', sys.argv[1], sql, '--format', 'csv'],"
        " stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n"
        "p.stdout.read(10); p.stdout.close()\n"
        "print(p.stderr.read().decode(), p.wait())\n"
    )
    assert in_process(workspace.path, code=code).out.strip() == "1"


def test_a_shadowing_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "__init__.py").write_text("")
    ran = in_process(cwd=tmp_path, code="import raffinate")
    assert ran.code == 1
    last = ran.err.strip().splitlines()[-1]
    assert (
        last.startswith("ImportError: raffinate's package 'schemas' is shadowed by")
        and str(tmp_path / "schemas") in last
    )


def test_a_folder_without_code_shadows_nothing(tmp_path: Path) -> None:
    (tmp_path / "cards").mkdir()
    assert in_process(cwd=tmp_path, code="import raffinate; raffinate.write_card").code == 0


BLOCKED = """
import shlex, sys
from importlib.abc import MetaPathFinder

HEAVY = ("torch", "sentence_transformers", "transformers", "vllm", "ray", "peft", "accelerate", "scipy", "sklearn")

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HEAVY:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.split(".")[0] in HEAVY else real(name, package)
sys.meta_path.insert(0, Blocker())
from raffinate.cli import main
for line in sys.argv[1].split(" ; "):
    sys.argv = ["raffinate", *shlex.split(line)]
    try:
        main()
    except SystemExit as stopped:
        if stopped.code:
            sys.stderr.write(f"{line} -> {stopped.code}\\n")
"""


def test_the_core_needs_no_torch(tmp_path: Path) -> None:
    """build, import, majority and sql without any extra; a method that needs one says which."""
    from builders.sandbox import SandboxServer

    with SandboxServer() as sandbox:
        (tmp_path / "r.yaml").write_text(
            "workspace: ws\nquestions: {sandbox: {n: 30, seed: 0}}\nteachers:\n"
            f"  - {{id: ada, model: sandbox/ada, base_url: '{sandbox.url}'}}\n"
            f"  - {{id: bo, model: sandbox/bo, base_url: '{sandbox.url}'}}\n"
        )
        lines = [
            "build r.yaml --json",
            "purify ws --method majority",
            "evaluate ws",
            'sql ws "FROM teachers"',
            "import other --questions ws/questions/*.parquet --responses ws/responses/*/*.parquet",
            "methods",
            "card ws",
            "purify ws --method plackett-luce",
        ]
        ran = in_process(" ; ".join(lines), cwd=tmp_path, code=BLOCKED)
    failures = [line for line in ran.err.splitlines() if "->" in line or line.startswith("error")]
    assert failures == [
        "error: encoder sentence-transformers/all-MiniLM-L6-v2 needs packages that are not installed: "
        "run  pip install 'raffinate[routers]'",
        "purify ws --method plackett-luce -> 1",
    ], ran.err


# -- the public names


EXPORTED = """
Asker CALLS CardSpec Corpus Equipment Evaluation Examples Fault InputError MissingExtraError PURIFIED Params Price
Prompt Published Purified Purifier QUESTIONS QuestionSource Questions REJECTED RESPONSES RaffinateError Recipe
STUDENTS SandboxServer SandboxTeacher Selection Signal Student StudentModel StudentSpec Synthesis Teacher TeacherError
Training Workspace WorkspaceError __version__ build compare_students connect distil estimate evaluate
evaluate_student load
load_questions load_recipe load_student make_student method publish pull purify push query read_answer read_corpus
read_examples read_questions retry run sandbox_questions save status student_for student_of train_student verify
write_card write_report
"""


def test_what_is_exported() -> None:
    """A name that is gone breaks users: change this list together with the changelog."""
    assert sorted(raffinate.__all__) == sorted(EXPORTED.split())
    for name in raffinate.__all__:
        assert getattr(raffinate, name) is not None
    assert set(dir(raffinate)) == set(raffinate.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = raffinate.nonsense


def test_importing_is_light() -> None:
    heavy = ("torch", "polars", "duckdb", "pyarrow", "datasets", "openai", "numpy")
    code = f"import sys, raffinate.cli; print([m for m in {heavy} if m in sys.modules])"
    assert in_process(code=code).out.strip() == "[]"
