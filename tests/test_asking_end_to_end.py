"""Purifiers that ask, from the command line to the sandbox over HTTP: caching, the ledger, limits, faults, resuming."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from helpers_cli import ROOT, Cli, contents

from builders.asker import Asker, Call
from builders.journal import own_file
from builders.progress import Snapshot
from builders.sandbox import Fault, SandboxServer, SandboxTeacher
from builders.sandbox.teachers import TEACHERS
from builders.teacher import Price, Teacher
from cards.card import judges_of, write_card
from cards.facts import facts_of
from cards.publication import choose, published_files, stage
from purifiers.base import Purifier
from purifiers.debate import Debate
from purifiers.equipment import Equipment
from purifiers.peer_review import PeerReview
from purifiers.run import publish, purify
from purifiers.verified import Verified
from schemas.corpus import Corpus
from schemas.database import query
from schemas.tables import CALLS
from schemas.workspace import Workspace

PRICE = {"prompt_per_million": 1, "completion_per_million": 2}
JUDGE = SandboxTeacher(name="wise", default=0.95)
QUESTIONS = 16
WHOLE = QUESTIONS * (4 + 12)
"""Requests of a build and of `peer-review`."""


def recipe(path: Path, url: str, *, judges: bool | list[Any] = True, **sections: Any) -> Path:
    def entry(name: str) -> dict[str, Any]:
        return {"id": name, "model": f"sandbox/{name}", "base_url": url, "price": PRICE}

    made = {
        "workspace": "ws",
        "questions": {"sandbox": {"n": QUESTIONS, "seed": 3}},
        "teachers": [entry(t.name) for t in TEACHERS],
        **({"judges": [entry("wise")] if judges is True else judges} if judges else {}),
        "purify": ["majority"],
        **sections,
    }
    path.write_text(yaml.safe_dump(made, sort_keys=False))
    return path


def served(**config: Any) -> SandboxServer:
    return SandboxServer(teachers=(*TEACHERS, JUDGE), **config)


def built(cli: Cli, tmp_path: Path, sandbox: SandboxServer, **sections: Any) -> Workspace:
    ran = cli("run", recipe(tmp_path / "r.yaml", sandbox.url, **sections))
    assert ran.code == 0, ran.err
    return Workspace.open(tmp_path / "ws")


def rows(workspace: Workspace, sql: str) -> list[dict[str, Any]]:
    return query(workspace, sql).to_pylist()


def counts(sandbox: SandboxServer) -> tuple[int, int]:
    stats = sandbox.stats()
    return stats["received"], stats["duplicates"]


@pytest.mark.parametrize(
    ("method", "options", "most"),
    [
        ("aggregate", ["--judge", "wise"], QUESTIONS),
        ("peer-review", [], QUESTIONS * 12),
        ("pairwise", ["--judge", "wise"], QUESTIONS * 12),
        ("debate", ["--set", "rounds=1"], QUESTIONS * 4),
    ],
)
def test_each_method_from_the_command_line(
    cli: Cli, tmp_path: Path, method: str, options: list[str], most: int
) -> None:
    with served() as sandbox:
        workspace = built(cli, tmp_path, sandbox)
        asked_before = counts(sandbox)[0]
        done = cli("purify", workspace.path, "--method", method, *options, "--json")
        assert done.code == 0, done.err
        received, duplicates = counts(sandbox)
        first = contents(workspace.path / "purified" / method) | contents(workspace.path / "calls" / method)
        again = cli("purify", workspace.path, "--method", method, *options, "--json")
        assert counts(sandbox) == (received, duplicates) and again.json == done.json  # nothing is paid twice
        assert contents(workspace.path / "purified" / method) | contents(workspace.path / "calls" / method) == first
    (found,) = done.json
    assert found["kept"] + found["rejected"] == QUESTIONS
    ledger = rows(workspace, f"SELECT * FROM calls WHERE method = '{method}' ORDER BY call_idx")
    assert len(ledger) == received - asked_before <= most and duplicates == 0
    assert [r["call_idx"] for r in ledger] == list(range(len(ledger)))
    assert all(r["status"] == "ok" and r["reply"] and r["attempts"] == 1 and not r["gold_shown"] for r in ledger)
    assert all(r["cost_usd"] == pytest.approx((r["prompt_tokens"] + 2 * r["completion_tokens"]) / 1e6) for r in ledger)
    by_judge = {a["judge"]: a for a in found["asked"]}
    assert sum(a["requests"] for a in by_judge.values()) == len(ledger)
    assert all(a["is_teacher"] == (name != "wise") for name, a in by_judge.items())
    costs = rows(workspace, f"SELECT sum(requests) AS n, sum(cost_usd) AS usd FROM costs WHERE spent_on = '{method}'")
    assert costs[0]["n"] == len(ledger) and costs[0]["usd"] == pytest.approx(sum(r["cost_usd"] for r in ledger))
    card = (workspace.path / "README.md").read_text()
    assert f"| `{method}` | `{sorted(by_judge)[0]}`" in card and "config_name: calls" in card
    assert cli("verify", workspace.path, "--json").code == 0


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("aggregate", ["--judge", "wise"]),
        ("peer-review", []),
        ("debate", []),
        ("verified", ["--judge", "best", "--set", "encoder=null"]),
        (
            "gate",
            ["--set", "agree=3", "--set", "first=majority", "--set", "otherwise={method: aggregate, judge: wise}"],
        ),
    ],
)
def test_an_estimate_says_what_is_then_asked(cli: Cli, tmp_path: Path, method: str, options: list[str]) -> None:
    with served() as sandbox:
        workspace = built(cli, tmp_path, sandbox)
        asked_before, before = counts(sandbox), contents(workspace.path)
        command = ("purify", workspace.path, "--method", method, *options)
        ran = cli(*command, "--estimate", "--json")
        assert ran.code == 0, ran.err
        assert counts(sandbox) == asked_before and contents(workspace.path) == before
        done = cli(*command, "--json")
        expected = {e["teacher_id"]: (e["rows"], e["requests"]) for e in ran.json}
        asked = {a["judge"]: (a["requests"], a["requests"]) for a in done.json[0]["asked"]}
        if method == "debate":  # a teacher that is not moved by the first round is asked the same in the second
            assert set(expected.values()) == {(QUESTIONS * 2, QUESTIONS * 2)}
            assert all(n <= QUESTIONS * 2 for n, _ in asked.values())
        else:
            assert expected == asked and sum(n for n, _ in asked.values()) == counts(sandbox)[0] - asked_before[0] > 0
        again = cli(*command, "--estimate", "--json").json
        assert [(e["requests"], e["cost_usd"]) for e in again] == [(0, 0.0)] * len(again)
        assert {e["teacher_id"]: (e["rows"], e["rows"]) for e in again} == asked
        assert f"{method} would ask" in cli(*command, "--estimate").out
    assert all(e["spent_on"] == method and e["measured"] and e["cost_usd"] > 0 for e in ran.json)


def test_an_estimate_goes_by_the_length_of_replies_to_the_same_calls(cli: Cli, tmp_path: Path) -> None:
    with served() as sandbox:
        workspace = built(cli, tmp_path, sandbox)
        command = ("purify", workspace.path, "--method", "aggregate", "--judge", "wise")
        assert cli(*command, "--max-requests", QUESTIONS // 2).code == 1
        (half,) = cli(*command, "--estimate", "--json").json
        assert (half["rows"], half["requests"]) == (QUESTIONS, QUESTIONS - QUESTIONS // 2)
        assert cli(*command).code == 0
    paid = rows(workspace, "SELECT avg(completion_tokens) AS mean, avg(prompt_tokens) AS asked FROM calls")[0]
    assert half["completion_tokens"] / half["requests"] == pytest.approx(paid["mean"], rel=0.3)
    assert half["prompt_tokens"] / half["requests"] == pytest.approx(paid["asked"], rel=0.5)


def test_estimates_of_what_asks_nobody_of_a_recipe_and_of_an_evaluation(cli: Cli, tmp_path: Path) -> None:
    with served() as sandbox:
        made = recipe(tmp_path / "r.yaml", sandbox.url, purify=["majority", {"method": "aggregate", "judge": "wise"}])
        before = cli("estimate", made, "--json")
        assert {e["spent_on"] for e in before.json} == {"build"}
        assert "aggregate will ask too: how much can be said once the build is done" in before.err
        assert cli("build", made).code == 0
        asked = counts(sandbox)
        after = cli("estimate", made, "--json").json
        assert [(e["spent_on"], e["teacher_id"], e["requests"]) for e in after if e["requests"]] == [
            ("aggregate", "wise", QUESTIONS)
        ]
        evaluated = ("evaluate", tmp_path / "ws", "--methods", "majority,aggregate", "--judge", "wise", "--on", "train")
        (part,) = cli(*evaluated, "--estimate", "--json").json
        assert 0 < part["requests"] < QUESTIONS and counts(sandbox) == asked
        nobody = cli("purify", tmp_path / "ws", "--method", "majority,random", "--estimate")
        assert nobody.code == 1 and "majority, random: nobody is asked, so there is nothing to estimate" in nobody.err


@pytest.mark.parametrize("purifier", [PeerReview(), Debate(), Verified(judge="best", encoder=None)])
def test_progress_is_of_the_whole_method(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, purifier: Purifier
) -> None:
    """Asked in many rounds, a method has one bar per judge that grows to its end, and no cost or reply is forgotten."""
    seen: list[Snapshot] = []
    monkeypatch.setattr("purifiers.asking.BLOCK", 3)
    with served() as sandbox:
        workspace = built(cli, tmp_path, sandbox)
        teachers = [Teacher(id=t.name, model=f"sandbox/{t.name}", base_url=sandbox.url) for t in TEACHERS]
        for name in ("ada", "bo"):  # two with a price
            teachers[[t.id for t in teachers].index(name)] = Teacher(
                id=name, model=f"sandbox/{name}", base_url=sandbox.url, price=Price(**PRICE)
            )
        asker = Asker(workspace, teachers, on_progress=seen.append)
        publish(workspace, purifier.equipped(Equipment(asker=asker)))
    ledger = rows(workspace, "SELECT judge_id, count(*) AS n, sum(cost_usd) AS usd FROM calls GROUP BY ALL")
    last = {t.teacher_id: t for t in seen[-1].teachers}
    if not isinstance(purifier, Debate):  # who is not moved by a round is asked the same again, and listed once
        assert {n: (t.done, t.total) for n, t in last.items()} == {r["judge_id"]: (r["n"], r["n"]) for r in ledger}
    assert all(last[r["judge_id"]].cost_usd == pytest.approx(r["usd"]) for r in ledger if r["usd"] is not None)
    for name in last:
        mine = [t for snapshot in seen for t in snapshot.teachers if t.teacher_id == name]
        assert [t.done for t in mine] == sorted(t.done for t in mine)
        assert all(t.total >= t.done for t in mine)
    if isinstance(purifier, PeerReview):  # as many calls about each question: the end is known from the start
        assert {t.total for snapshot in seen for t in snapshot.teachers} == {QUESTIONS * 3}


def test_what_was_asked_without_publishing_is_not_booked_on_the_next_method(cli: Cli, tmp_path: Path) -> None:
    with served() as sandbox:
        workspace = built(cli, tmp_path, sandbox)
        teachers = [Teacher(id=t.name, model=f"sandbox/{t.name}", base_url=sandbox.url) for t in TEACHERS]
        equipment = Equipment(asker=Asker(workspace, teachers))
        purify(PeerReview().equipped(equipment), Corpus.of(workspace))
        publish(workspace, Debate().equipped(equipment))
    purposes = {r["purpose"] for r in rows(workspace, "SELECT DISTINCT purpose FROM calls")}
    assert purposes, "debate asked"
    assert all(p.startswith("debate") for p in purposes)


def test_evaluate_gives_the_cost_of_a_purified_row_and_reuses_replies(cli: Cli, tmp_path: Path) -> None:
    with served() as sandbox:
        workspace = built(cli, tmp_path, sandbox)
        assert cli("purify", workspace.path, "--method", "aggregate", "--judge", "wise").code == 0
        before = counts(sandbox)
        ran = cli(
            "evaluate", workspace.path, "--methods", "majority,aggregate", "--judge", "wise", "--on", "train", "--json"
        )
        assert ran.code == 0 and counts(sandbox) == before
        majority, aggregate = ran.json
    assert majority["cost_usd"] is None
    paid = rows(
        workspace,
        "SELECT sum(cost_usd) AS usd FROM calls JOIN questions USING (question_id) WHERE split = 'train' "
        "AND question_id IN (SELECT question_id FROM answers WHERE is_correct IS NOT NULL)",
    )[0]["usd"]
    assert aggregate["cost_usd"] == pytest.approx(paid / aggregate["n"]) and aggregate["coverage"] == 1


def test_a_recipe_purifies_with_judges_within_the_limits_of_its_build(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{{ question }} {{ rationales[0].text }} Score: N")
    methods = ["majority", {"method": "aggregate", "judge": "wise"}, {"method": "peer-review", "prompt": "mine.jinja"}]
    with served() as sandbox:
        ran = cli(
            "run", recipe(tmp_path / "r.yaml", sandbox.url, purify=methods, build={"max_requests": QUESTIONS * 5 + 30})
        )
        assert ran.code == 1 and f"a limit was reached ({QUESTIONS + 30} requests)" in ran.err
        assert counts(sandbox)[0] == QUESTIONS * 5 + 30
        assert not (tmp_path / "ws" / "purified" / "peer-review").exists()
        ran = cli("run", recipe(tmp_path / "r.yaml", sandbox.url, purify=methods), "--json")
        assert ran.code == 0, ran.err
        assert counts(sandbox)[1] == 0
    evaluated = {e["method"]: e["cost_usd"] for e in ran.json["evaluations"]}
    assert evaluated["aggregate"] > 0 and evaluated["majority"] is None
    kept = yaml.safe_load((tmp_path / "ws" / "recipe.yaml").read_text())
    assert kept["judges"][0]["id"] == "wise" and kept["purify"][2]["prompt"] == "prompts/mine.jinja"
    assert (tmp_path / "ws" / "prompts" / "mine.jinja").is_file()


def test_a_limit_writes_nothing_and_loses_nothing(cli: Cli, tmp_path: Path) -> None:
    with served() as sandbox:
        workspace = built(cli, tmp_path, sandbox)
        before = contents(workspace.path / "purified")
        stopped = cli("purify", workspace.path, "--method", "peer-review", "--max-requests", 40)
        assert stopped.code == 1 and "a limit was reached (40 requests)" in stopped.err
        costly = cli("purify", workspace.path, "--method", "peer-review", "--max-cost", 0.0001)
        assert costly.code == 1 and "(0.0001 US dollars)" in costly.err
        assert contents(workspace.path / "purified") == before and not (workspace.path / "calls").exists()
        received = counts(sandbox)[0]
        assert cli("purify", workspace.path, "--method", "peer-review").code == 0
        assert counts(sandbox) == (WHOLE, 0) and received > QUESTIONS * 4 + 40


def test_failures_are_rows_and_too_many_end_the_run(cli: Cli, tmp_path: Path) -> None:
    faults = [
        Fault(kind="refusal", match="Score: N", teacher="bo", first=3),
        Fault(kind="server_error", match="Score: N", teacher="cy", share=0.2),
        Fault(kind="truncation", match="Merge the explanations", first=4),
        Fault(kind="death", teacher="dee", match="Better: first"),
    ]
    with served(faults=faults) as sandbox:
        workspace = built(cli, tmp_path, sandbox)
        assert cli("purify", workspace.path, "--method", "peer-review").code == 0
        assert cli("purify", workspace.path, "--method", "aggregate", "--judge", "wise").code == 0
        died = cli("purify", workspace.path, "--method", "pairwise")
        stats = sandbox.stats()["teachers"]
    refused = rows(workspace, "SELECT * FROM calls WHERE status = 'refused'")
    assert len(refused) == 3 and {(r["judge_id"], r["verdict"], r["reply"]) for r in refused} == {("bo", None, None)}
    (cy,) = rows(workspace, "SELECT sum(attempts) AS sent, count(*) AS n FROM calls WHERE judge_id = 'cy'")
    assert cy["sent"] == stats["cy"]["received"] - QUESTIONS - _pairwise_calls(stats) and cy["sent"] > cy["n"]
    notes = rows(workspace, "SELECT note FROM purified WHERE note LIKE '%cut at the token limit'")
    assert len(notes) == 4
    assert died.code == 1 and "have no answer" in died.err and "build.max_failed_share" in died.err
    assert not (workspace.path / "purified" / "pairwise").exists()


def _pairwise_calls(stats: dict[str, Any]) -> int:
    """What cy was asked by `pairwise`: as much as ada, who had no faults."""
    return int(stats["ada"]["received"]) - QUESTIONS - QUESTIONS * 3


CHILD = "import sys; from raffinate.cli import main; sys.argv = ['raffinate', *sys.argv[1:]]; main()"


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_a_purifier_that_is_stopped_goes_on_where_it_was(cli: Cli, tmp_path: Path, signum: int) -> None:
    with served(latency_ms=30) as sandbox:
        workspace = built(cli, tmp_path, sandbox)
        command = [sys.executable, "-c", CHILD, "purify", str(workspace.path), "--method", "peer-review"]
        process = subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        while counts(sandbox)[0] < QUESTIONS * 4 + 60 and process.poll() is None:
            time.sleep(0.002)
        os.kill(process.pid, signum)
        err = process.communicate()[1].decode()
        time.sleep(0.2)  # what was on the wire reaches the server
        received = counts(sandbox)[0]
        kept = sum(1 for _ in sqlite3.connect(own_file(workspace)).execute("SELECT 1 FROM answers"))
        assert not (workspace.path / "purified" / "peer-review").exists() and kept < WHOLE
        assert cli("purify", workspace.path, "--method", "peer-review").code == 0
        assert counts(sandbox)[0] - received == WHOLE - kept  # what was kept is not asked again, and nothing else is
        assert received - kept <= (0 if signum == signal.SIGINT else 256)  # in flight at the end
    if signum == signal.SIGINT:
        assert process.returncode == 130 and "run the same command again" in err
    assert rows(workspace, "SELECT count(*) AS n FROM calls")[0]["n"] == QUESTIONS * 12


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("aggregate", "method 'aggregate' asks an LLM: name it, like  judge: wise"),
        ({"method": "aggregate", "judge": "wis"}, "asks 'wis' (did you mean 'wise'?), who is neither under teachers"),
        ({"method": "pairwise", "judges": ["gpt"]}, "method 'pairwise' asks 'gpt', who is neither"),
    ],
)
def test_a_judge_that_is_missing_is_told_before_anybody_is_asked(
    cli: Cli, tmp_path: Path, method: Any, sentence: str
) -> None:
    ran = cli("run", recipe(tmp_path / "r.yaml", "http://127.0.0.1:9/v1", purify=[method]))
    assert ran.code == 1 and sentence in ran.err


def test_what_was_asked_for_one_command_serves_the_others(cli: Cli, tmp_path: Path) -> None:
    with served() as sandbox:
        workspace = built(cli, tmp_path, sandbox)
        options = ("--method", "verified", "--judge", "best", "--set", "encoder=null", "--json")
        done = cli("purify", workspace.path, *options)
        assert done.code == 0, done.err
        received = counts(sandbox)[0]
        assert cli("audit", workspace.path, *options).code == 0 and counts(sandbox)[0] == received
    nobody = rows(
        workspace,
        "SELECT question_id FROM answers JOIN questions USING (question_id) WHERE split = 'train' "
        "GROUP BY question_id HAVING NOT bool_or(is_correct)",
    )
    asked = rows(workspace, "SELECT question_id, gold_shown FROM calls")
    assert {r["question_id"] for r in asked} == {r["question_id"] for r in nobody} and done.json[0]["asked"] != []
    assert all(r["gold_shown"] for r in asked)


def test_what_the_build_may_have_cost_is_not_left_to_the_methods(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builders.sandbox.wire.Completion._usage", lambda _: None)
    price = {"prompt_per_million": 0, "completion_per_million": 1e4}  # half a dollar a reply
    with served() as sandbox:
        half = {"base_url": sandbox.url, "price": price, "params": {"max_tokens": 50}, "max_concurrency": 1}
        made = recipe(
            tmp_path / "r.yaml",
            sandbox.url,
            teachers=[{"id": name, "model": f"sandbox/{name}", **half} for name in ("ada", "bo")],
            judges=[{"id": "wise", "model": "sandbox/wise", **half}],
            build={"max_cost_usd": QUESTIONS + 1},
            purify=[{"method": "aggregate", "judge": "wise"}],
        )
        ran = cli("run", made)
        assert ran.code == 1 and "a limit was reached (1 US dollars)" in ran.err
        assert counts(sandbox)[0] == QUESTIONS * 2 + 2


def test_a_judge_without_a_licence_is_not_published(cli: Cli, tmp_path: Path) -> None:
    with served() as sandbox:
        workspace = built(cli, tmp_path, sandbox)
        assert cli("purify", workspace.path, "--method", "aggregate", "--judge", "wise").code == 0
    facts = facts_of(workspace)
    assert judges_of(facts) == ["wise"]
    card = (workspace.path / "README.md").read_text()
    assert "licence of the outputs of `wise`, which wrote or judged rationales, has not been declared" in card
    kept = yaml.safe_load((workspace.path / "recipe.yaml").read_text())
    kept["judges"][0]["licence"] = "apache-2.0"
    (workspace.path / "recipe.yaml").write_text(yaml.safe_dump(kept))
    assert "outputs of `wise`" not in write_card(workspace).read_text()


def test_an_excluded_teacher_takes_along_what_it_wrote_and_said(cli: Cli, tmp_path: Path) -> None:
    with served() as sandbox:
        workspace = built(cli, tmp_path, sandbox)
        for options in (["--method", "aggregate", "--judge", "ada"], ["--method", "peer-review"]):
            assert cli("purify", workspace.path, *options).code == 0
    staged, dropped = stage(workspace, tmp_path / "out" / "ws", choose(workspace, None, ["ada"]))
    assert dropped["aggregate"] == QUESTIONS
    assert not any(path.startswith("purified/aggregate") for path in published_files(staged.path))
    asked = {r["judge_id"] for r in rows(staged, "SELECT DISTINCT judge_id FROM calls")}
    assert asked == {"bo", "cy", "dee"}
    assert "calls/peer-review/train-00000.parquet" in published_files(staged.path)


def test_purified_files_without_the_newer_columns_are_read(cli: Cli, tmp_path: Path) -> None:
    with served() as sandbox:
        workspace = built(cli, tmp_path, sandbox)
        for file in (workspace.path / "purified" / "majority").glob("*.parquet"):
            pq.write_table(pq.read_table(file).drop_columns(["note", "written_by"]), file)
        assert rows(workspace, "SELECT count(note) AS n, count(*) > 9 AS some FROM purified") == [
            {"n": 0, "some": True}
        ]
        assert cli("purify", workspace.path, "--method", "aggregate", "--judge", "bo").code == 0
    both = rows(workspace, "SELECT method, count(written_by) > 0 AS has FROM purified GROUP BY ALL ORDER BY ALL")
    assert both == [{"method": "aggregate", "has": True}, {"method": "majority", "has": False}]
    assert cli("verify", workspace.path, "--json").code == 0
    staged, _ = stage(workspace, tmp_path / "out" / "ws", choose(workspace, ["majority"], ["ada"]))
    assert rows(staged, "SELECT count(*) > 3 AS some FROM purified") == [{"some": True}]


def test_without_a_recipe_or_with_another_one(cli: Cli, tmp_path: Path) -> None:
    with served() as sandbox:
        workspace = built(cli, tmp_path, sandbox, judges=False)
        unknown = cli("purify", workspace.path, "--method", "aggregate", "--judge", "wise")
        assert unknown.code == 1 and "add it under judges" in unknown.err
        (workspace.path / "recipe.yaml").unlink()
        missing = cli("purify", workspace.path, "--method", "aggregate", "--judge", "wise")
        assert missing.code == 1 and "name one with --recipe FILE" in missing.err
        other = recipe(tmp_path / "other.yaml", sandbox.url)
        done = cli("purify", workspace.path, "--method", "aggregate", "--judge", "wise", "--recipe", other)
        assert done.code == 0, done.err
        wrong = cli("purify", workspace.path, "--method", "majority", "--judge", "wise")
        assert wrong.code == 1 and "majority asks nobody" in wrong.err


def test_equal_calls_are_sent_and_listed_once(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "ws")
    with served() as sandbox:
        teachers = [Teacher(id=n, model=f"sandbox/{n}", base_url=sandbox.url) for n in ("ada", "bo")]
        asker = Asker(workspace, teachers)
        say = [{"role": "user", "content": "Hello?"}]
        calls = [Call(to, f"q{i}", "greet", say) for i in range(3) for to in ("ada", "bo")]
        said = asker.ask(calls, max_tokens=5)
        for reply in said:
            reply.verdict = "heard"
        assert [s.text for s in said] == [said[0].text] * 6 and said[0].status == "truncated"
        assert asker.ask(calls[:1], max_tokens=5)[0].text == said[0].text
        assert counts(sandbox) == (2, 0)
    ledger = asker.ledger("greeter")
    assert ledger.schema.equals(CALLS.arrow)
    assert ledger.select(["judge_id", "question_id", "verdict", "cost_usd"]).to_pylist() == [
        {"judge_id": name, "question_id": "q0", "verdict": "heard", "cost_usd": None} for name in ("ada", "bo")
    ]
    assert asker.ledger("greeter").num_rows == 0
