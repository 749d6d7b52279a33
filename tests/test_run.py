"""A recipe from its first line to a dataset that loads, against the sandbox, through the command."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pytest
import yaml
from helpers_cli import Cli, contents

from builders.sandbox import SandboxServer, write_questions
from cards.publication import published_files
from raffinate.starter import RECIPE
from schemas.database import query
from schemas.workspace import Workspace

TEACHERS = ("ada", "bo", "cy", "dee")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def write_recipe(path: Path, url: str, **sections: Any) -> Path:
    teachers = [
        {
            "id": t,
            "model": f"sandbox/{t}",
            "base_url": url,
            "price": {"prompt_per_million": 1, "completion_per_million": 2},
        }
        for t in TEACHERS
    ]
    recipe = {
        "workspace": "ws",
        "questions": {"sandbox": {"n": 60, "seed": 1}},
        "teachers": teachers,
        "purify": ["majority", {"method": "random", "seed": 3}],
        **sections,
    }
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def test_init_check_estimate_run_and_run_again(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `init` writes runs as it is: nothing asked twice, and everything the report promises is there."""
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "my.yaml"
    assert cli("init", recipe).code == 0 and recipe.read_text() == RECIPE
    port = free_port()
    text = RECIPE.replace("18765", str(port)).replace("n: 400", "n: 50")
    recipe.write_text(text)
    checked = cli("check", recipe)
    assert checked.code == 0, checked.err
    assert "my.yaml is valid: 50 questions, 2 teachers" in checked.out and not (tmp_path / "my-dataset").exists()
    (ada, _) = cli("estimate", recipe, "--json").json
    assert (ada["teacher_id"], ada["rows"], ada["requests"], ada["cost_usd"]) == ("ada", 50, 50, None)

    first = cli("run", recipe)
    assert first.code == 0, first.err
    for heading in (
        "Who was asked",
        "Who is right where",
        "Where they disagree",
        "How each method chose",
        "Where everything",
    ):
        assert heading in first.out
    for step in (
        "reading questions",
        "purifying by majority",
        "purifying by gold-first",
        "evaluating",
        "writing the card",
    ):
        assert step in first.err
    before = contents(tmp_path / "my-dataset" / "purified")
    again = cli("run", recipe, "--json").json
    assert [t["asked"] for t in again["build"]["teachers"]] == [0, 0]
    assert again["methods"] == ["gold-first", "majority"]
    assert {e["method"] for e in again["evaluations"]} == {"majority", "gold-first", "best-teacher", "oracle"}
    assert contents(tmp_path / "my-dataset" / "purified") == before
    assert (tmp_path / "my-dataset" / "README.md").read_text().startswith("---\n")


def test_the_workspace_loads_in_datasets_and_duckdb(cli: Cli, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    with SandboxServer() as sandbox:
        ran = cli("run", write_recipe(tmp_path / "recipe.yaml", sandbox.url), "--json")
        assert ran.code == 0, ran.err
        received = sandbox.stats()["received"]
        assert received == 240
        assert cli("run", tmp_path / "recipe.yaml").code == 0
        assert sandbox.stats()["received"] == received
    workspace = Workspace.open(tmp_path / "ws")
    train = datasets.load_dataset(
        str(workspace.path), "purified-majority", split="train", cache_dir=str(tmp_path / "c")
    )
    (kept,) = query(
        workspace,
        "SELECT count(*) AS n FROM purified JOIN questions USING (question_id) "
        "WHERE method = 'majority' AND split = 'train'",
    ).to_pylist()
    assert len(train) == kept["n"] > 20
    row = train[0]
    assert row["messages"][1] == {"role": "assistant", "content": row["completion"]}
    responses = datasets.load_dataset(str(workspace.path), "responses", split="test", cache_dir=str(tmp_path / "c"))
    assert set(responses["teacher_id"]) == set(TEACHERS)
    with duckdb.connect(str(workspace.database), read_only=True) as con:
        joined = con.sql("SELECT question_id FROM purified_majority JOIN questions USING (question_id)").fetchall()
        assert len(joined) > 40
    assert yaml.safe_load((workspace.path / "recipe.yaml").read_text())["teachers"][0]["id"] == "ada"


def test_each_step_alone_and_later_ones_from_the_workspace(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy of the recipe in the workspace serves as well as the recipe, from any working directory."""
    source = tmp_path / "source"
    source.mkdir()
    write_questions(source / "q.parquet", 30, 0)
    (source / "short.jinja").write_text(
        "{{ question }}\n{% for c in choices %}({{ c.label }}) {{ c.text }}\n{% endfor %}"
    )
    with SandboxServer(faults=[{"kind": "truncation", "teacher": "bo", "first": 20}]) as sandbox:
        files = {"questions": {"path": "q.parquet"}, "prompt": "short.jinja", "build": {"cache": "kept.sqlite"}}
        recipe = write_recipe(source / "recipe.yaml", sandbox.url, **files, workspace="../ws")
        monkeypatch.chdir(source)
        built = cli("build", "recipe.yaml", "--json")
        assert built.code == 0, built.err
        assert {t["teacher_id"]: t["truncated"] for t in built.json["teachers"]} == {
            "ada": 0,
            "bo": 20,
            "cy": 0,
            "dee": 0,
        }
        assert "20 answers were cut at the token limit" in built.json["advice"][0]
        assert (source / "kept.sqlite").is_file()

        monkeypatch.chdir(tmp_path)
        assert "30 questions, 4 teachers" in cli("check", "ws").out
        status = {t["teacher_id"]: t for t in cli("status", "ws", "--json").json}
        assert (status["bo"]["ok"], status["bo"]["truncated"], status["ada"]["ok"]) == (10, 20, 30)
        for again in ("ws", recipe):
            assert [t["asked"] for t in cli("build", again, "--json").json["teachers"]] == [0, 0, 0, 0]

        count = sandbox.stats()["received"]
        retried = cli("retry", "ws", "--where", "status = 'truncated'", "--json")
        assert retried.code == 0, retried.err
        assert sandbox.stats()["received"] - count == 20
        assert {t["teacher_id"]: t["truncated"] for t in retried.json["teachers"]}["bo"] == 0
    assert not list(tmp_path.glob("*.sqlite"))
    assert cli("purify", "ws", "--method", "majority").code == 0


def test_retry_with_more_tokens_asks_only_the_cut_rows(cli: Cli, tmp_path: Path) -> None:
    with SandboxServer() as sandbox:
        recipe = write_recipe(tmp_path / "recipe.yaml", sandbox.url, questions={"sandbox": {"n": 12, "seed": 1}})
        data = yaml.safe_load(recipe.read_text())
        data["teachers"][0]["params"] = {"max_tokens": 8}
        recipe.write_text(yaml.safe_dump(data))
        assert cli("build", recipe).code == 0
        before = sandbox.stats()["received"]
        ran = cli("retry", tmp_path / "ws", "--where", "finish_reason = 'length'", "--max-tokens", 2048, "--json")
        assert ran.code == 0, ran.err
        assert sandbox.stats()["received"] - before == 12
    rows = cli("sql", tmp_path / "ws", "SELECT DISTINCT status FROM responses", "--format", "json").json
    assert rows == [{"status": "ok"}]


def test_too_many_failures_end_a_run_with_1_and_say_how_to_go_on(cli: Cli, tmp_path: Path) -> None:
    faults = [{"kind": "malformed", "teacher": "cy"}]
    with SandboxServer(faults=faults) as sandbox:
        recipe = write_recipe(
            tmp_path / "recipe.yaml", sandbox.url, questions={"sandbox": {"n": 5, "seed": 0}}, build={"patience_s": 0}
        )
        data = yaml.safe_load(recipe.read_text())
        for teacher in data["teachers"]:
            teacher["max_attempts"] = 1
        recipe.write_text(yaml.safe_dump(data))
        ran = cli("run", recipe)
    assert ran.code == 1 and "Traceback" not in ran.err
    assert ran.err.splitlines()[-1] == (
        "error: the run stopped here: 25.0% of the rows have no answer (build.max_failed_share is 5.0%); nothing was "
        "purified: correct what the notes say, and run it again"
    )
    assert "Who was asked" in ran.out and "Where they disagree" not in ran.out and "Next" not in ran.out
    assert not (tmp_path / "ws" / "purified").exists()
    failed = cli(
        "sql", tmp_path / "ws", "SELECT count(*) AS n FROM responses WHERE status = 'failed'", "--format", "json"
    )
    assert failed.json == [{"n": 5}]


def test_one_teacher_disagrees_with_nobody(cli: Cli, tmp_path: Path) -> None:
    with SandboxServer() as sandbox:
        recipe = write_recipe(tmp_path / "recipe.yaml", sandbox.url, questions={"sandbox": {"n": 20, "seed": 0}})
        data = yaml.safe_load(recipe.read_text())
        recipe.write_text(yaml.safe_dump(data | {"teachers": data["teachers"][:1], "purify": ["majority"]}))
        ran = cli("run", recipe)
    assert ran.code == 0 and "How each method chose" in ran.out and "Where they disagree" not in ran.out, ran.err


def test_an_estimate_says_that_it_is_an_upper_bound_until_replies_are_measured(cli: Cli, tmp_path: Path) -> None:
    with SandboxServer() as sandbox:
        recipe = write_recipe(tmp_path / "recipe.yaml", sandbox.url, questions={"sandbox": {"n": 20, "seed": 0}})
        before = cli("estimate", recipe)
        assert (
            "≤ 40,960" in before.out
            and "≤ $0.08" in before.out
            and "raffinate build RECIPE --max-requests" in before.err
        )
        assert [e["measured"] for e in cli("estimate", recipe, "--json").json] == [False] * 4
        cli("build", recipe, "--max-requests", "8")
        after = cli("estimate", recipe)
    assert "≤" not in after.out and "at most" not in after.err


def test_a_recipe_without_gold_runs_and_says_what_it_could_not_do(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes(
        b"\n".join(
            orjson.dumps({"question": f"What is {i} + {i}?", "task": "number", "split": "train"}) for i in range(4)
        )
    )
    with SandboxServer() as sandbox:
        recipe = write_recipe(tmp_path / "recipe.yaml", sandbox.url, questions={"path": "q.jsonl"})
        ran = cli("run", recipe)
    assert ran.code == 0, ran.err
    assert "not evaluated: the split 'test' has no labelled question" in ran.err
    assert "4 questions have no gold answer" in ran.err


def test_secrets_are_kept_nowhere(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret-123")
    with SandboxServer(api_key="sk-very-secret-123") as sandbox:
        recipe = write_recipe(tmp_path / "recipe.yaml", sandbox.url, questions={"sandbox": {"n": 4, "seed": 0}})
        data = yaml.safe_load(recipe.read_text())
        data["teachers"] = [t | {"api_key": "${MY_KEY}"} for t in data["teachers"]]
        data["teachers"][1]["api_key"] = "sk-very-secret-123"  # written down: works, but is not kept
        recipe.write_text(yaml.safe_dump(data))
        ran = cli("run", recipe)
    assert ran.code == 0, ran.err
    assert "sk-very-secret" not in ran.out + ran.err
    for file in (p for p in (tmp_path / "ws").rglob("*") if p.is_file()):
        assert b"sk-very-secret" not in file.read_bytes(), file
    kept = yaml.safe_load((tmp_path / "ws" / "recipe.yaml").read_text())
    assert [t["api_key"] for t in kept["teachers"]] == ["${MY_KEY}", None, "${MY_KEY}", "${MY_KEY}"]


def test_a_key_in_the_query_of_a_url_is_refused_before_it_is_kept(cli: Cli, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", "http://127.0.0.1:9/v1?api-version=3&api-key=0123abcd")
    refused = cli("estimate", recipe)
    assert refused.code == 1 and "holds 'api-key', which would be kept with the data" in refused.err
    assert "0123abcd" not in refused.err and not (tmp_path / "ws").exists()


def test_a_router_fitted_in_one_workspace_decides_whom_to_ask_in_another(cli: Cli, tmp_path: Path) -> None:
    with SandboxServer() as sandbox:
        first = write_recipe(tmp_path / "first.yaml", sandbox.url, purify=["best-teacher", "majority"])
        assert cli("run", first).code == 0
        new = {"workspace": "new", "questions": {"sandbox": {"n": 40, "seed": 9}}}
        second = write_recipe(tmp_path / "second.yaml", sandbox.url, **new)
        asked_before = sandbox.stats()["received"]
        routed = cli("build", second, "--route", "best-teacher", "--from", tmp_path / "ws")
        assert routed.code == 0, routed.err
        assert sandbox.stats()["received"] - asked_before == 40
        both = cli("build", second, "--route", "best-teacher", "--from", tmp_path / "ws", "--top", "2")
        assert both.code == 0 and sandbox.stats()["received"] - asked_before == 80
        blind = cli("build", second, "--route", "majority", "--from", tmp_path / "ws")
        assert blind.code == 1 and "looks at answers, which nobody has before asking" in blind.err
    assert query(Workspace.open(tmp_path / "new"), "SELECT count(*) AS n FROM responses")["n"].to_pylist() == [80]
    assert cli("purify", tmp_path / "new", "--method", "majority").code == 0


def test_samples_that_would_be_the_same_text_are_noted_before_they_are_paid(cli: Cli, tmp_path: Path) -> None:
    with SandboxServer() as sandbox:
        greedy = {"id": "ada", "model": "sandbox/ada", "base_url": sandbox.url, "samples": 3}
        warm = greedy | {"id": "bo", "model": "sandbox/bo", "params": {"temperature": 0.7}}
        recipe = write_recipe(
            tmp_path / "r.yaml", sandbox.url, teachers=[greedy | {"params": {"temperature": 0}}, warm]
        )
        for command in ("check", "estimate", "build"):
            told = cli(command, recipe).err
            assert "teacher 'ada' is asked 3 times at temperature 0" in told and "'bo' is asked" not in told
        assert cli("check", recipe, "--json").json["notes"] != []


def test_a_build_stops_at_the_most_requests(cli: Cli, tmp_path: Path) -> None:
    with SandboxServer() as sandbox:
        recipe = write_recipe(tmp_path / "r.yaml", sandbox.url)
        stopped = cli("build", recipe, "--max-requests", "30")
        assert stopped.code == 1 and sandbox.stats()["received"] == 30
        assert cli("build", recipe).code == 0 and sandbox.stats()["received"] == 240


def test_without_a_terminal_lines_tell_how_far_a_build_is(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raffinate.progress.QUIET_SECONDS", -1.0)
    with SandboxServer(latency_ms=300) as sandbox:
        recipe = write_recipe(tmp_path / "r.yaml", sandbox.url)
        data = yaml.safe_load(recipe.read_text())
        price = {"prompt_per_million": 100.0, "completion_per_million": 100.0}
        data["teachers"] = [t | {"max_concurrency": 10, "price": price} for t in data["teachers"]]
        recipe.write_text(yaml.safe_dump(data))
        ran = cli("build", recipe)
    number = r"[\d,]+"
    told = rf"({number}) of 240 rows, {number} requests/s, {number} tokens/s, cost \$[\d.]+(, about {number} s left)?"
    lines = [found for line in ran.err.splitlines() if (found := re.fullmatch(told, line))]
    assert len(lines) >= 3 and len({found[1] for found in lines}) >= 2
    assert any(found[2] for found in lines) and lines[-1][1] == "240"


def test_the_environment_of_a_vllm_server_is_not_kept(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUB_KEY", "hf_from_the_environment")
    served = {"id": "own", "model": "m", "vllm": {"env": {"HF_TOKEN": "hf_written_down", "HUB": "${HUB_KEY}"}}}
    recipe = write_recipe(tmp_path / "r.yaml", "http://127.0.0.1:9/v1", teachers=[served])
    assert cli("estimate", recipe).code == 0
    kept = (tmp_path / "ws" / "recipe.yaml").read_text()
    assert "hf_written_down" not in kept and "hf_from_the_environment" not in kept and "${HUB_KEY}" in kept


def test_a_prompt_of_ones_own_goes_with_the_dataset(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(
        "{{ question }}{% for c in choices %}\n({{ c.label }}) {{ c.text }}{% endfor %}"
    )
    with SandboxServer() as sandbox:
        recipe = write_recipe(tmp_path / "r.yaml", sandbox.url, prompt="mine.jinja")
        assert cli("run", recipe).code == 0
        (tmp_path / "mine.jinja").unlink()
        again = cli("build", tmp_path / "ws", "--json")
        assert again.code == 0 and [t["asked"] for t in again.json["teachers"]] == [0] * 4
    assert "prompts/mine.jinja" in published_files(tmp_path / "ws")


def test_prompts_of_one_name_are_kept_apart(cli: Cli, tmp_path: Path) -> None:
    for folder in ("ask", "judge"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.jinja").write_text(f"{folder}: {{{{ question }}}}")
    asks = {"method": "aggregate", "judge": "ada", "prompt": "judge/mine.jinja"}
    recipe = write_recipe(tmp_path / "r.yaml", "http://127.0.0.1:9/v1", prompt="ask/mine.jinja", purify=[asks])
    assert cli("estimate", recipe).code == 0
    kept = yaml.safe_load((tmp_path / "ws" / "recipe.yaml").read_text())
    texts = [(tmp_path / "ws" / name).read_text() for name in (kept["prompt"]["name"], kept["purify"][0]["prompt"])]
    assert [text.split(":")[0] for text in texts] == ["ask", "judge"]
