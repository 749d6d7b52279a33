"""Every mistake of a user is one sentence and exit code 1, and leaves what was there as it was."""

# ruff: noqa: E501  one case a line

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from helpers_cli import Cli, Ran, contents, in_process
from helpers_corpus import make_workspace

from builders.sandbox import SandboxServer
from schemas.tables import SCHEMA_VERSION
from schemas.workspace import Workspace

TEACHER = {"id": "ada", "model": "sandbox/ada", "base_url": "http://127.0.0.1:9/v1"}
QUESTION = {
    "question_id": "q1",
    "question": "2 + 2?",
    "choices": [{"label": "A", "text": "3"}, {"label": "B", "text": "4"}],
    "answer": "B",
    "split": "train",
}


def told(ran: Ran, says: str) -> None:
    """One sentence on stderr, beginning ``error: ``, with nothing on stdout and no traceback."""
    assert ran.code == 1, (ran.out, ran.err)
    last = ran.err.strip().splitlines()
    assert len(last) == 1 and last[0].startswith("error: "), ran.err
    assert re.search(says, last[0]), ran.err
    assert not ran.out


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(api_key="right") as server:
        yield server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("made") / "ws", n=10)


@pytest.fixture
def workspace(made: Workspace, tmp_path: Path) -> Workspace:
    """A copy: making one takes longer."""
    shutil.copytree(made.path, tmp_path / "ws")
    return Workspace.open(tmp_path / "ws")


def recipe_file(folder: Path, text: str | bytes | None = None, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    recipe = {"workspace": "new", "questions": {"sandbox": {"n": 5, "seed": 0}}, "teachers": [TEACHER]} | changes
    data = yaml.safe_dump(recipe) if text is None else text
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


# -- recipes


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"teacher": []}, r"unknown key 'teacher' \(did you mean 'teachers'\?\); known here: workspace, questions"),
        ({"teacher": [TEACHER], "teachers": None}, r"unknown key 'teacher' \(did you mean 'teachers'\?\)"),
        ({"purify": "majority"}, "purify: must be a list: one  - ...  a line"),
        ({"purify": None}, "purify: must be a list: one  - ...  a line"),
        ({"teachers": TEACHER}, "teachers: must be a list: one  - ...  a line"),
        ({"teachers": ["ada"]}, r"teachers\.1: must be a mapping, like  id: \.\.\."),
        ({"questions": "q.jsonl"}, r"questions: must be a mapping, like  path: \.\.\."),
        ({"questions": {"sandbox": {"n": 5, "sed": 0}}}, r"unknown key 'questions\.sandbox\.sed' \(did you mean 'seed'\?\)"),
        ({"teachers": [TEACHER | {"modell": "x"}]}, r"unknown key 'teachers\.1\.modell' \(did you mean 'model'\?\)"),
        ({"teachers": [TEACHER | {"params": {"temprature": 1}}]}, r"'teachers\.1\.params\.temprature' \(did you mean 'temperature'\?\)"),
        ({"build": {"max_cost": 1}}, r"unknown key 'build\.max_cost' \(did you mean 'max_cost_usd'\?\)"),
        ({"teachers": []}, "teachers"),
        ({"teachers": [TEACHER, TEACHER]}, "two teachers are called 'ada'"),
        ({"teachers": [TEACHER | {"id": "../up"}]}, r"teacher id '\.\./up' cannot name a folder"),
        ({"teachers": [TEACHER | {"base_url": "localhost:8000"}]}, "is no URL"),
        ({"teachers": [TEACHER | {"base_url": "http://127.0.0.1:9/v1/chat/completions"}]}, "leave out /chat/completions"),
        ({"teachers": [TEACHER | {"api_key": "$KEY"}]}, r"teacher 'ada': write api_key as \$\{NAME\} and nothing else"),
        ({"teachers": [TEACHER | {"api_key": "Bearer ${KEY}"}]}, r"write api_key as \$\{NAME\} and nothing else"),
        ({"teachers": [TEACHER | {"api_key": "${NOT_SET_ANYWHERE}"}]}, "environment variable NOT_SET_ANYWHERE is not set: export it"),
        ({"teachers": [TEACHER | {"model": "${NOT_SET_ANYWHERE}"}]}, "model names the environment variable NOT_SET_ANYWHERE"),
        ({"questions": {}}, "give exactly one of path, hub, preset or sandbox"),
        ({"questions": {"preset": "openbookq"}}, r"preset 'openbookq' is not known \(did you mean 'openbookqa'\?\)"),
        ({"questions": {"path": "nowhere.jsonl"}}, r"no file matches .*nowhere\.jsonl"),
        ({"questions": {"path": "q.jsonl", "columns": {"qestion": "x"}}}, r"unknown field 'qestion' \(did you mean 'question'\?\)"),
        ({"purify": ["majorty"]}, r"there is no method 'majorty' \(did you mean 'majority'\?\)"),
        ({"purify": [{"method": "majority", "sed": 1}]}, r"method majority: unknown key 'sed' \(did you mean 'seed'\?\)"),
        ({"purify": [{"method": "plackett-luce", "gamma": -1}]}, "method plackett-luce: gamma: .*greater than 0"),
        ({"purify": ["majority", "majority"]}, "method 'majority' is listed twice"),
        ({"purify": ["oracle"]}, "method 'oracle' serves evaluation alone"),
        ({"evaluate_on": "dev"}, "evaluate_on: Input should be 'train', 'validation' or 'test'"),
        ({"distill": {"method": ["majority"]}}, "did you mean 'methods'"),
        ({"prompt": "nowhere.jinja"}, "no such prompt and no readable UTF-8 file"),
        ({"sandbox": {"faults": [{"kind": "flood"}]}}, r"sandbox\.faults\.1\.kind"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_wrong_recipe(cli: Cli, tmp_path: Path, command: str, changes: dict[str, Any], says: str) -> None:
    told(cli(command, recipe_file(tmp_path, **changes)), says)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("recipe.yaml/ws", r"cannot write to .*recipe\.yaml/ws: a part of its path is a file: choose another folder"),
        ("recipe.yaml", "exists and is no workspace"),
        ("a" * 300, "a part of its path is too long"),
    ],
)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_workspace_that_cannot_be_made(cli: Cli, tmp_path: Path, command: str, place: str, says: str) -> None:
    told(cli(command, recipe_file(tmp_path, workspace=place)), says)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_workspace_where_no_folder_can_be_made(cli: Cli, tmp_path: Path) -> None:
    told(cli("run", recipe_file(tmp_path, workspace="/proc/nobody")), "cannot write to /proc/nobody: ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no recipe: it must be a mapping"),
        ("- a\n- b\n", "is no recipe: it must be a mapping"),
        ("a: [1, 2\nb: }", "is no valid YAML: line 2: "),
        (
            "purify: [a]\nteachers: []\npurify: [b]\n",
            "is no valid YAML: line 3: the key 'purify' is there twice, first in line 1",
        ),
        ("teachers:\n- {id: gpt, api_key: ${KEY}}\n", r"line 2: .*inside \{ \} write it in quotes"),
        (b"workspace: caf\xe9\n", "cannot be read as UTF-8"),
        ("a: \0", "is no valid YAML"),
        ("workspace: !!python/object/apply:os.system ['true']\n", "is no valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe(cli: Cli, tmp_path: Path, text: str | bytes, says: str) -> None:
    told(cli("check", recipe_file(tmp_path, text)), rf"recipe\.yaml.* {says}")


def test_a_missing_recipe(cli: Cli, tmp_path: Path) -> None:
    told(cli("run", tmp_path / "none.yaml"), r"none\.yaml is not there: write one with  raffinate init")
    told(cli("status", tmp_path), r"recipe\.yaml is not there")


def test_an_imported_workspace_has_no_recipe(cli: Cli, workspace: Workspace) -> None:
    (workspace.path / "recipe.yaml").unlink()  # as an import leaves it
    for command in ("status", "run"):
        told(cli(command, workspace.path), "has no recipe, its answers were imported: go on with  raffinate purify")


def test_init_overwrites_nothing(cli: Cli, tmp_path: Path) -> None:
    path = recipe_file(tmp_path)
    before = path.read_bytes()
    told(cli("init", path), "exists: choose another name")
    told(cli("init", tmp_path / "my-dataset"), r"ends in \.yaml: write one with  raffinate init .*my-dataset\.yaml")
    told(cli("init", tmp_path / "no" / "folder" / "r.yaml"), r"cannot write .*: No such file or directory")
    assert path.read_bytes() == before


# -- questions


def lines(*rows: dict[str, Any]) -> bytes:
    return b"\n".join(map(orjson.dumps, rows)) + b"\n"


BAD_QUESTIONS = [
    ("q.jsonl", lines({k: v for k, v in QUESTION.items() if k != "question"}), "has no column 'question'"),
    ("q.jsonl", lines(QUESTION, QUESTION), r"question_id 'q1' appears twice: .*row 1 and .*row 2"),
    ("q.jsonl", lines(QUESTION | {"choices": [{"label": "a", "text": "x"}, {"label": "A", "text": "y"}]}), "label '.' of choices is used twice"),
    ("q.jsonl", lines(QUESTION | {"answer": "E"}), r"row 1: the answer 'E' is none of the choices"),
    ("q.jsonl", lines(QUESTION | {"split": "dev"}), r"split 'dev' is not known.*map it"),
    ("q.jsonl", lines(QUESTION)[:-20], r"q\.jsonl"),
    ("q.jsonl", b'{"question": "caf\xe9"}\n', "UTF-8"),
    ("q.csv", b"question,answer\ncaf\xe9,1\n", "UTF-8"),
    ("q.jsonl", b"", r"q\.jsonl is empty"),
    ("q.csv", b"question,answer\n", r"q\.csv is empty"),
    ("q.json", b"[]", r"q\.json is empty: it must hold at least one row"),
    ("q.parquet", b"PAR1 nothing", r"q\.parquet"),
    ("q.txt", b"hello", "ending that is not known"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "says"), BAD_QUESTIONS)
def test_bad_questions_leave_the_workspace_alone(
    cli: Cli, workspace: Workspace, tmp_path: Path, name: str, data: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(data)
    recipe = recipe_file(tmp_path, questions={"path": name}, workspace="ws")
    before = contents(workspace.path)
    for command in ("check", "estimate", "run"):
        told(cli(command, recipe), says)
    assert contents(workspace.path) == before


@pytest.mark.parametrize("shares", ["70/30", "nan/1/1", "inf/1/1", "a/b/c", "0/0/0", "-1/1/1"])
def test_shares_that_are_none(cli: Cli, tmp_path: Path, shares: str) -> None:
    files = ("--questions", "q.jsonl", "--responses", "r.jsonl")
    told(
        cli("import", tmp_path / "new", *files, "--split-by-hash", shares),
        "is not three shares: write it like 70/10/20",
    )


def test_a_folder_is_no_file(cli: Cli, tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path, questions={"path": "."})
    told(cli("check", recipe), rf"{tmp_path} is a folder: name the files in it, as in '{tmp_path}/\*\.parquet'")


def test_bad_questions_leave_an_import_undone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(lines(QUESTION, QUESTION))
    (tmp_path / "r.jsonl").write_bytes(lines({"question_id": "q1", "teacher_id": "ada", "rationale": "So B."}))
    told(
        cli("import", tmp_path / "new", "--questions", tmp_path / "q.jsonl", "--responses", tmp_path / "r.jsonl"),
        "twice",
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("responses", "more", "says"),
    [
        ([{"question_id": "nobody", "teacher_id": "ada", "rationale": "x"}], [], "question_id 'nobody' is not among the questions"),
        ([{"question_id": "q00001", "teacher_id": "a/b", "rationale": "x"}], [], "teacher id 'a/b' cannot name a folder"),
        ([{"question_id": "q00001", "rationale": "x"}], [], "has no column 'teacher_id'"),
        ([{"question_id": "q00001", "teacher_id": "ada", "rationale": "x"}] * 2, [], "twice|same"),
        ([{"question_id": "q00001", "teacher_id": "ada", "rationale": "x"}], ["--teacher", "adda"], r"no teacher 'adda' \(did you mean 'ada'"),
        ([{"question_id": "q00001", "teacher_id": "ada", "rationale": "x"}], ["--split-by-hash", "7/1/2"], "give --questions"),
    ],
)  # fmt: skip
def test_bad_responses_leave_the_workspace_alone(
    cli: Cli, workspace: Workspace, tmp_path: Path, responses: list[dict[str, Any]], more: list[str], says: str
) -> None:
    (tmp_path / "r.jsonl").write_bytes(lines(*responses))
    before = contents(workspace.path)
    told(cli("import", workspace.path, "--responses", tmp_path / "r.jsonl", *more), says)
    assert contents(workspace.path) == before


# -- endpoints


def test_an_unreachable_endpoint(cli: Cli, workspace: Workspace, tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path, build={"patience_s": 0})
    ran = cli("check", recipe, "--json")
    assert ran.code == 1 and "error: teacher 'ada': http://127.0.0.1:9/v1 cannot be reached" in ran.err
    assert ran.json["endpoints"][0]["reachable"] is False
    ran = cli("run", recipe)
    assert ran.code == 1 and "Traceback" not in ran.err and "http://127.0.0.1:9/v1" in ran.err
    rows = cli("sql", tmp_path / "new", "SELECT DISTINCT status FROM responses", "--format", "json").json
    assert rows == [{"status": "failed"}]


def test_a_wrong_key_is_told_without_showing_it(
    cli: Cli, sandbox: SandboxServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "wrong-key")
    teacher = TEACHER | {"base_url": sandbox.url, "api_key": "${A_KEY}"}
    recipe = recipe_file(tmp_path, teachers=[teacher])
    for command in ("check", "run"):
        ran = cli(command, recipe)
        assert ran.code == 1 and "Traceback" not in ran.err and "wrong-key" not in ran.err + ran.out
        assert "the key in A_KEY" in ran.err and "401" in ran.err
    monkeypatch.setenv("A_KEY", "right")
    assert cli("check", recipe).code == 0


def test_an_unknown_model(cli: Cli, sandbox: SandboxServer, tmp_path: Path) -> None:
    teacher = TEACHER | {"base_url": sandbox.url, "api_key": "right", "model": "sandbox/nobody"}
    ran = cli("check", recipe_file(tmp_path, teachers=[teacher]))
    assert ran.code == 1 and "does not list model 'sandbox/nobody'; it lists sandbox/ada" in ran.err


def test_a_url_without_v1_is_remarked(cli: Cli, sandbox: SandboxServer, tmp_path: Path) -> None:
    url = sandbox.url.removesuffix("/v1")
    recipe = recipe_file(tmp_path, teachers=[TEACHER | {"base_url": url, "api_key": "right"}])
    said = f"HTTP 404 and no list of models at {url}/models: does base_url end in /v1?"
    ran = cli("check", recipe)
    assert ran.code == 0 and f"note: teacher 'ada': {said}" in ran.err
    (found,) = cli("check", recipe, "--json").json["endpoints"]
    assert said in found["note"] and found["problem"] is None


def test_a_server_that_is_out_of_order_is_a_problem(cli: Cli, tmp_path: Path) -> None:
    class OutOfOrder(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(503)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), OutOfOrder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        ran = cli("check", recipe_file(tmp_path, teachers=[TEACHER | {"base_url": url}]))
        server.shutdown()
    assert ran.code == 1 and f"teacher 'ada': {url}/models answers HTTP 503: look at the server" in ran.err


def test_a_taken_port(cli: Cli, sandbox: SandboxServer, tmp_path: Path) -> None:
    port = int(sandbox.url.split(":")[2].split("/")[0])
    told(cli("check", recipe_file(tmp_path, sandbox={"port": port})), f"cannot listen on 127.0.0.1 port {port}")
    told(cli("sandbox", "--port", port), "cannot listen")


# -- workspaces


WRITING = [
    ("purify", "WS", "--method", "majority"),
    ("purify", "WS", "--method", "best-teacher"),
    ("import", "WS", "--responses", "WS/responses/alpha/*.parquet"),
    ("card", "WS"),
    ("sql", "WS", "--refresh"),
]
READING = [("sql", "WS", "FROM teachers"), ("evaluate", "WS", "--methods", "majority")]


def put(args: tuple[str, ...], workspace: Workspace) -> list[str]:
    return [a.replace("WS", str(workspace.path)) for a in args]


@pytest.mark.parametrize("args", [*WRITING, *READING], ids=lambda a: "-".join(a[:1] + a[2:4]))
def test_a_newer_workspace_is_refused(cli: Cli, workspace: Workspace, args: tuple[str, ...]) -> None:
    marker = workspace.private / "workspace.json"
    marker.write_bytes(orjson.dumps({"schema_version": SCHEMA_VERSION + 1}))
    before = contents(workspace.path)
    told(cli(*put(args, workspace)), "was made by a newer raffinate .*upgrade")
    assert contents(workspace.path) == before


@pytest.mark.parametrize("args", [*WRITING, *READING], ids=lambda a: "-".join(a[:1] + a[2:4]))
def test_what_is_no_workspace(cli: Cli, tmp_path: Path, args: tuple[str, ...]) -> None:
    if args[0] == "import":
        pytest.skip("an import makes the workspace")
    told(cli(*[a.replace("WS", str(tmp_path / "nothing")) for a in args]), "is no raffinate workspace")
    assert not (tmp_path / "nothing").exists()


def test_a_damaged_file_is_named(cli: Cli, workspace: Workspace) -> None:
    path = workspace.responses_dir("alpha") / "train-00000.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    before = contents(workspace.path)
    for args in (*WRITING, *READING):
        told(cli(*put(args, workspace)), r"responses/alpha/train-00000\.parquet is damaged")
    assert contents(workspace.path) == before


@pytest.mark.parametrize(
    "args", [*WRITING[:3], WRITING[4], ("build", "recipe"), ("run", "recipe"), ("retry", "recipe")],
    ids=lambda a: "-".join(a[:1] + a[2:4]),
)  # fmt: skip
def test_two_runs_on_one_workspace(cli: Cli, workspace: Workspace, tmp_path: Path, args: tuple[str, ...]) -> None:
    recipe = recipe_file(tmp_path, workspace="ws")
    with workspace.lock():
        before = contents(workspace.path)
        ran = cli(*[str(recipe) if a == "recipe" else a for a in put(args, workspace)])
        told(ran, f"another run works on .* \\(process {os.getpid()}\\): wait for it to end, or stop it")
        assert contents(workspace.path) == before


def test_reading_goes_on_while_another_run_writes(cli: Cli, workspace: Workspace) -> None:
    with workspace.lock():
        for args in READING:
            assert cli(*put(args, workspace)).code == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few hundred kilobytes; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small disk here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)  # lazy: a connection may be collected later


@pytest.mark.parametrize("args", WRITING[:2], ids=lambda a: a[3])
def test_a_full_disk(cli: Cli, small_disk: Path, args: tuple[str, ...]) -> None:
    workspace = make_workspace(small_disk / "ws", n=20)
    before = contents(workspace.path)
    (small_disk / "filler").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 8192))
    told(
        cli(*put(args, workspace), "--set", "seed=1") if args[3] == "majority" else cli(*put(args, workspace)),
        "the disk is full: free some space",
    )
    after = contents(workspace.path)
    assert {k: v for k, v in after.items() if k in before} == before and not list(workspace.aside.glob("*"))
    (small_disk / "filler").unlink()
    assert cli(*put(args, workspace)).code == 0


def test_a_full_disk_from_the_start(cli: Cli, small_disk: Path, tmp_path: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * shutil.disk_usage(small_disk).free)
    told(cli("build", recipe_file(tmp_path, workspace=str(small_disk / "ws"))), "the disk is full|No space left")
    workspace = make_workspace(tmp_path / "old", n=5)
    told(
        cli("sql", workspace.path, "FROM responses", "--format", "csv", "-o", small_disk / "x.csv"),
        r"cannot write .*x\.csv: No space left",
    )
    told(cli("init", small_disk / "r.yaml"), r"cannot write .*r\.yaml: No space left")


@pytest.mark.parametrize(
    "where", ["purifiers.write.write_splits", "purifiers.store.save", "schemas.database.create_views"]
)
def test_a_disk_that_fills_at_any_step_leaves_the_old_rows(
    cli: Cli, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    before = contents(workspace.path / "purified") | contents(workspace.path / "responses")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    if where != "schemas.database.create_views":
        monkeypatch.setattr(where, full)
        told(cli("purify", workspace.path, "--method", "majority", "--set", "seed=1"), "the disk is full")
        assert contents(workspace.path / "purified") | contents(workspace.path / "responses") == before
    else:
        monkeypatch.setattr(where, full)
        told(cli("sql", workspace.path, "--refresh"), "the disk is full")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(cli: Cli, workspace: Workspace) -> None:
    workspace.path.chmod(0o500)
    told(cli("card", workspace.path), "may not write")


# -- options


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["purify", "WS", "--method", "majorty"], r"there is no method 'majorty' \(did you mean 'majority'\?\)"),
        (["purify", "WS", "--method", "oracle"], "for  raffinate evaluate  alone"),
        (["purify", "WS", "--method", "majority", "--set", "sed=1"], r"unknown key 'sed' \(did you mean 'seed'\?\)"),
        (["purify", "WS", "--method", "majority", "--set", "seed"], "--set 'seed' is not KEY=VALUE"),
        (["purify", "WS", "--method", "majority", "--set", "seed=x"], "method majority: seed: .*valid integer"),
        (["purify", "WS", "--method", "majority", "--set", "seed=[1"], r"--set 'seed=\[1'"),
        (["purify", "WS", "--method", "plackett-luce", "--set", "gamma=0"], "gamma: .*greater than 0"),
        (["evaluate", "WS", "--on", "tset"], r"--on 'tset' is no split \(did you mean 'test'\?\)"),
        (["evaluate", "WS", "--methods", "majority,nonsense"], "there is no method 'nonsense'"),
        (["purify", "WS", "--method", "majority", "--set", "seed=1", "--set", "seed=2"], "--set seed is there twice"),
        (["purify", "WS", "--method", "majority,random", "--set", "seed=1"], "say which method it is for, like majority.seed"),
        (["purify", "WS", "--method", "majority", "--method", "majorty"], r"there is no method 'majorty'"),
        (["purify", "WS", "--method", ","], "--method names none"),
        (["evaluate", "WS", "--methods", ","], "--methods names none"),
        (["evaluate", "WS", "--methods", "majority,random", "--set", "seed=1"], "say which method it is for, like majority.seed"),
        (["evaluate", "WS", "--teachers", "alpha,nobody"], "has no responses of nobody; it has alpha, beta, gamma"),
        (["sql", "WS", "SELECT 1", "--format", "jsn"], r"--format 'jsn' is unknown \(did you mean 'json'\?\)"),
        (["sql", "WS", "SELECT 1", "-o", "x.xlsx"], r"-o x\.xlsx: a file is csv, json, parquet: end its name so, or say  --format"),
        (["sql", "WS", "SELECT 1", "-o", "x.csv", "--format", "table"], "a file is csv, json, parquet"),
        (["import", "user/name"], "into the workspace user/name: .* USER/NAME of a published dataset after the workspace"),
        (["sql", "WS", "SELECT nothing FROM responses"], "nothing"),
        (["sql", "WS", "DROP VIEW responses"], "one SELECT"),
        (["sql", "WS", "SELECT * FROM read_csv('/etc/passwd')"], "Permission Error"),
        (["sql", "WS", "SELECT error('two\nlines')"], "two lines"),
        (["sql", "WS", "SELECT 1", "--format", "csv", "-o", "/no/such/folder/x"], "cannot write /no/such/folder/x"),
    ],
)  # fmt: skip
def test_wrong_options(cli: Cli, workspace: Workspace, args: list[str], says: str) -> None:
    before = contents(workspace.path)
    told(cli(*put(tuple(args), workspace)), says)
    assert contents(workspace.path) == before


def test_a_condition_that_is_no_sql(cli: Cli, workspace: Workspace, tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path, workspace="ws", teachers=[TEACHER | {"id": "alpha"}])
    before = contents(workspace.path / "responses")
    for where, says in (
        ("statuz = 1", "statuz"),
        ("1) OR (1", "SQL|one SELECT|fits|changed"),
        ("status = 'failed'", "nothing to ask again"),
    ):
        told(cli("retry", recipe, "--where", where), says)
    assert contents(workspace.path / "responses") == before


def test_it_is_so_as_a_process_too(workspace: Workspace) -> None:
    told(in_process("purify", workspace.path, "--method", "majorty"), "did you mean 'majority'")
    told(in_process("sql", workspace.path, "SELEC 1"), "SQL: Parser Error")
