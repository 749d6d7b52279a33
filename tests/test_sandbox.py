"""The sandbox as its users meet it: its questions, its teachers over HTTP through the openai client, its faults."""

import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from math import sqrt
from pathlib import Path
from random import Random

import openai
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from builders.sandbox import (
    DOMAINS,
    MIXTURES,
    TEACHERS,
    Fault,
    SandboxServer,
    SandboxTeacher,
    load_list,
    questions,
    write_questions,
)
from builders.sandbox.faults import FaultPlan
from builders.sandbox.numbers import column_add, column_subtract
from builders.sandbox.teachers import Sample, reply
from builders.sandbox.world import read
from schemas.errors import InputError
from schemas.tables import QUESTIONS

ROWS = questions(900).to_pylist()
ROOT = Path(__file__).parent.parent


def row_of(domain: str) -> dict:
    return next(row for row in ROWS if row["domain"] == domain)


def prompt_of(row: dict, style: str = "({}) {}") -> str:
    options = "\n".join(style.format(c["label"], c["text"]) for c in row["choices"])
    return f"{row['question']}\n{options}\nThink step by step, then give your answer."


def stated(text: str) -> str:
    """The answer that a reply ends with."""
    match = re.search(r"The answer is \(?(\w+)\)?\.$", text)
    assert match, text
    return match.group(1)


# --- the world


def test_questions_have_the_columns_of_the_questions_table():
    table = questions(20)
    assert table.schema.equals(QUESTIONS.arrow, check_metadata=True)
    table.validate(full=True)
    assert table["question_id"][17].as_py() == "sandbox-000017"


def test_more_questions_only_append_and_no_question_comes_twice():
    assert questions(100, seed=3).equals(questions(400, seed=3).slice(0, 100))
    assert len({row["question"] for row in ROWS}) == len(ROWS)
    assert questions(20, seed=1)["question"].to_pylist() != questions(20, seed=2)["question"].to_pylist()


def test_splits_and_domains_are_drawn_as_asked():
    table = questions(2000, seed=5, domains=["sets", "letters"], splits=(0.5, 0.2, 0.3))
    splits, domains = Counter(table["split"].to_pylist()), Counter(table["domain"].to_pylist())
    assert splits["train"] == pytest.approx(1000, abs=100)
    assert splits["validation"] == pytest.approx(400, abs=80)
    assert domains["sets"] == pytest.approx(1000, abs=100)
    assert set(domains) == {"sets", "letters"}


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_question_alone_is_enough_to_find_gold(domain):
    for row in (r for r in ROWS if r["domain"] == domain):
        problem = read(prompt_of(row))
        assert problem is not None
        assert (problem.domain.name, problem.text) == (domain, row["question"])
        assert problem.written(problem.truth.answer).strip("()") == row["answer"]


@pytest.mark.parametrize("domain", DOMAINS)
def test_mistakes_are_wrong_and_conclude_in_their_own_answer(domain):
    flaws = set()
    for row in (r for r in ROWS if r["domain"] == domain):
        problem = read(row["question"])
        assert len(problem.mistakes) >= 2
        for flaw, derivation in problem.mistakes.items():
            flaws.add(flaw)
            assert derivation.answer != problem.truth.answer
            assert derivation.answer in derivation.steps[-1]
            if row["choices"]:
                assert derivation.answer in [c["text"] for c in row["choices"]]
        assert problem.truth.answer in problem.truth.steps[-1]
    assert flaws == set(DOMAINS[domain].flaws)


def test_mixtures_are_asked_only_by_name_and_read_back():
    assert not {row["domain"] for row in ROWS} & set(MIXTURES)
    rows = questions(400, seed=2, domains=list(MIXTURES)).to_pylist()
    assert {row["domain"] for row in rows} == set(MIXTURES)
    for row in rows:
        problem = read(f"{prompt_of(row)}\nThe correct answer is {row['answer']}.")
        assert (problem.text, problem.shown) == (row["question"], row["answer"])
        assert len(problem.mistakes) == len(problem.domain.flaws), "another lore always ends in another answer"
        wrong = {d.answer for d in problem.mistakes.values()}
        assert len(wrong) == len(problem.mistakes), "and each lore in its own"


def test_a_lore_is_one_over_questions():
    """Each derivation names three qualities; in one lore a substance has the same one in every question."""
    for flaw in (None, *MIXTURES["herbs"].flaws):
        known: dict[str, str] = {}
        for row in questions(200, seed=3, domains=["herbs"]).to_pylist():
            problem = read(row["question"])
            steps = (problem.mistakes[flaw] if flaw else problem.truth).steps
            first, second, third = re.match(
                r"First (\w+) and (\w+) make \w+\. Then \w+ and (\w+) make", " ".join(steps)
            ).groups()
            for name, quality in zip(problem.facts, (first, second, third), strict=True):
                assert known.setdefault(name, quality) == quality
        assert len(known) == 12


def test_a_teacher_of_habit_makes_one_mistake_per_domain():
    rows = questions(600, seed=4, domains=["herbs", "woods"]).to_pylist()
    for habit, most in ((1.0, 1), (0.0, 3)):
        teacher = SandboxTeacher(name="one", default=0.4, habit=habit)
        flaws: dict[str, set[str]] = {}
        for row in rows:
            if flaw := reply(teacher, read(row["question"]), Sample()).flaw:
                flaws.setdefault(row["domain"], set()).add(flaw)
        assert [len(flaws[d]) for d in ("herbs", "woods")] == [most, most]


def test_teachers_of_one_school_have_their_habits_in_common():
    rows = questions(400, seed=4, domains=["herbs", "woods"]).to_pylist()

    def habits(school):
        pupils = [SandboxTeacher(name=f"t{i}", default=0.4, habit=1.0, school=school) for i in range(6)]
        made = [(row["domain"], reply(p, read(row["question"]), Sample()).flaw) for p in pupils for row in rows]
        return {at for at in made if at[1]}

    assert len(habits("one")) == 2  # one a domain
    assert len(habits(None)) > 2


def test_gold_is_right_by_a_second_way_of_computing_it():
    for row in ROWS:
        numbers = [int(x) for x in re.findall(r"\d+", row["question"])]
        if row["domain"] == "arithmetic":
            a, b, c = numbers
            assert int(row["answer"]) == a + b + (c if "buys" in row["question"] else -c)
        if row["domain"] == "percent":
            price, percent = numbers
            sign = 1 if "raised" in row["question"] else -1
            assert int(row["answer"]) * 100 == price * (100 + sign * percent)
        if row["domain"] == "clock":
            assert int(row["answer"]) == 60 * numbers[2] + numbers[3] - 60 * numbers[0] - numbers[1]
        if row["domain"] == "sets":
            assert int(row["answer"]) == numbers[0] - numbers[1] - numbers[2] + numbers[3]
        if row["domain"] == "weekday":
            days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
            start = next(i for i, day in enumerate(days) if day in row["question"])
            end = days[(start + (numbers[0] if "after" in row["question"] else -numbers[0])) % 7]
            assert {"label": row["answer"], "text": end} in row["choices"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Ana is the mother of Ben. Ben is the father of Eva. In this family, what is Ana to Eva?", "grandmother"),
        ("Abe is the brother of Eva. Eva is the daughter of Gus. In this family, what is Abe to Gus?", "son"),
        ("Ida is the daughter of Fay. Fay is the sister of Ian. In this family, what is Ida to Ian?", "niece"),
        (
            "Eva is older than Ben. Dan is older than Ian. Dan is younger than Ben. Of the four, who is the youngest?",
            "Ian",
        ),
        ("The weight of a dog is 7 kilograms and 40 grams. How many grams is that in all?", "7040"),
        ("Take the second letters of the words lamp, ring and exam. What do they spell in this order?", "aix"),
    ],
)
def test_gold_of_questions_worked_by_hand(question, answer):
    assert read(question).truth.answer == answer


def test_column_arithmetic_agrees_with_python():
    rng = Random(0)
    for _ in range(500):
        a, b = rng.randint(0, 999), rng.randint(0, 999)
        assert column_add(a, b)[1] == a + b
        text, difference = column_subtract(max(a, b), min(a, b))
        digits = re.findall(r"= (\d+)", text)
        assert int("".join(reversed(digits))) == difference == abs(a - b)


@pytest.mark.parametrize("style", ["({}) {}", "{}. {}", "{}) {}"])
def test_options_are_found_however_they_are_labelled(style):
    row = row_of("weekday")
    problem = read(prompt_of(row, style))
    assert problem.labels == {c["text"]: c["label"] for c in row["choices"]}


def test_the_last_question_of_a_few_shot_prompt_counts():
    examples = "\n\n".join(f"{prompt_of(row_of(d))}\nThe correct answer is (A)." for d in DOMAINS if d != "kinship")
    row = row_of("kinship")
    problem = read(f"{examples}\n\n{prompt_of(row)}")
    assert problem.text == row["question"]
    assert problem.shown is None


def test_asking_for_more_questions_than_there_are_says_so(monkeypatch):
    only = row_of("percent")["question"]
    monkeypatch.setitem(DOMAINS, "percent", replace(DOMAINS["percent"], generate=lambda rng: only))
    with pytest.raises(InputError, match="no new question of domain 'percent' after 1 questions"):
        questions(2, domains=["percent"])


def test_impossible_requests_for_questions_are_told():
    with pytest.raises(InputError, match="did you mean 'clock'"):
        questions(1, domains=["clocks"])
    with pytest.raises(InputError, match="must sum to 1"):
        questions(1, splits=(0.5, 0.1, 0.1))
    with pytest.raises(InputError, match="at least one domain"):
        questions(1, domains=[])


def test_write_questions(tmp_path):
    write_questions(tmp_path / "q.parquet", 30, seed=4)
    assert pq.read_table(tmp_path / "q.parquet").to_pylist() == questions(30, seed=4).to_pylist()
    with pytest.raises(InputError, match="cannot write"):
        write_questions(tmp_path / "missing" / "q.parquet", 1)


# --- the teachers


def test_accuracy_per_domain_is_the_declared_competence_at_any_temperature():
    rows = questions(3600, seed=11).to_pylist()
    for teacher in TEACHERS:
        for temperature in (0.0, 1.0):
            right, seen = Counter(), Counter()
            for row in rows:
                answer = stated(reply(teacher, read(prompt_of(row)), Sample(temperature, seed=1)).content)
                seen[row["domain"]] += 1
                right[row["domain"]] += answer == row["answer"]
            for domain, n in seen.items():
                p = teacher.competence[domain]
                assert right[domain] / n == pytest.approx(p, abs=4 * sqrt(p * (1 - p) / n)), (teacher.name, domain)


def test_shipped_teachers_are_near_equal_overall_and_each_best_at_something():
    means = [sum(t.competence.values()) / len(DOMAINS) for t in TEACHERS]
    assert all(set(t.competence) == set(DOMAINS) for t in TEACHERS)
    assert 0.55 < min(means) < max(means) < 0.75
    assert max(means) - min(means) < 0.02
    assert {max(TEACHERS, key=lambda t: t.competence[d]).name for d in DOMAINS} == {t.name for t in TEACHERS}


def test_hard_questions_are_hard_for_everybody():
    first, second = (SandboxTeacher(name=name, default=0.5) for name in ("one", "two"))
    wrong = [[reply(t, read(row["question"]), Sample()).flaw is not None for t in (first, second)] for row in ROWS]
    both = sum(a and b for a, b in wrong) / len(wrong)
    assert both > 0.25 + 4 * sqrt(0.25 * 0.75 / len(wrong))  # 0.25 if they erred independently


def test_log_probabilities_tell_a_little_about_being_right():
    replies = [reply(TEACHERS[0], read(row["question"]), Sample()) for row in ROWS]
    right = [r.mean_logprob for r in replies if r.flaw is None]
    wrong = [r.mean_logprob for r in replies if r.flaw is not None]
    above = sum(a > b for a in right for b in wrong) / (len(right) * len(wrong))
    assert 0.55 < above < 0.85  # area under the ROC curve


def test_a_teacher_shown_the_gold_answer_argues_for_it():
    for row in ROWS[:200]:
        given = f"({row['answer']})" if row["choices"] else row["answer"]
        problem = read(f"{prompt_of(row)}\nCorrect answer: {given}\nExplain why.")
        told = [reply(teacher, problem, Sample()).content for teacher in TEACHERS]
        assert {stated(text) for text in told} == {row["answer"]}
        assert problem.truth.steps[-1] in told[0]


def test_a_teacher_shown_a_wrong_gold_answer_finds_the_mistake_that_leads_there():
    row = row_of("sets")
    for flaw, derivation in read(row["question"]).mistakes.items():
        shown = reply(TEACHERS[0], read(f"{row['question']}\nThe correct answer is {derivation.answer}."), Sample())
        assert derivation.steps[-1] in shown.content, flaw
    assert stated(reply(TEACHERS[0], read(f"{row['question']} Correct answer: 987"), Sample()).content) == "987"


@pytest.mark.parametrize("domain", ["ordering", "sets", "letters"])
@pytest.mark.parametrize(
    "instruction",
    [
        "Give the correct answer: a single letter, word or number.",
        "End with: The correct answer is (X).",
        "Explain why the correct answer is correct.",
        "The correct answer is <answer>.",
    ],
)
def test_asking_for_the_correct_answer_shows_none(domain, instruction):
    assert read(f"{prompt_of(row_of(domain))}\n{instruction}").shown is None


def test_a_teacher_cannot_be_declared_for_an_unknown_domain_or_an_impossible_share():
    with pytest.raises(ValidationError, match="did you mean 'letters'"):
        SandboxTeacher(name="x", competence={"leters": 0.5})
    with pytest.raises(ValidationError, match="within 0 and 1"):
        SandboxTeacher(name="x", competence={"letters": 1.5})


@pytest.mark.parametrize(("share", "right"), [(0.0, 0), (1.0, 100)])
def test_competence_zero_and_one_are_never_and_always(share, right):
    teacher = SandboxTeacher(name="x", default=share)
    assert sum(reply(teacher, read(row["question"]), Sample(1.0)).flaw is None for row in ROWS[:100]) == right


def test_another_world_seed_is_another_world():
    def texts(seed: int) -> list[str]:
        return [reply(TEACHERS[0], read(row["question"]), Sample(), seed).content for row in ROWS[:50]]

    assert texts(1) == texts(1) != texts(2)


# --- the server, through the openai client


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer() as server:
        yield server


@pytest.fixture(scope="module")
def client(sandbox) -> Iterator[openai.OpenAI]:
    with connect(sandbox.url) as c:
        yield c


def connect(url: str, **options) -> openai.OpenAI:
    return openai.OpenAI(**{"base_url": url, "api_key": "any", "max_retries": 0, "timeout": 20} | options)


def ask(client: openai.OpenAI, row: dict, teacher: str = "ada", **options):
    messages = [{"role": "system", "content": "You are a tutor."}, {"role": "user", "content": prompt_of(row)}]
    return client.chat.completions.create(model=f"sandbox/{teacher}", messages=messages, **options)


def get(server: SandboxServer, path: str) -> dict:
    with urllib.request.urlopen(server.url.removesuffix("/v1") + path) as response:
        return json.load(response)


def port_of(server: SandboxServer) -> int:
    return int(server.url.split(":")[2].removesuffix("/v1"))


def test_chat_gives_a_rationale_that_ends_in_an_answer(client):
    row = row_of("weekday")
    done = ask(client, row, temperature=0)
    text = done.choices[0].message.content
    assert stated(text) in "ABCD"
    assert text.startswith("Step 1: ")
    assert done.choices[0].finish_reason == "stop"
    assert done.model == "sandbox/ada"
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens > 40
    assert ask(client, row, temperature=0, seed=9).choices[0].message.content == text


def test_teachers_write_in_different_styles(client):
    texts = [ask(client, row_of("sets"), t.name).choices[0].message.content for t in TEACHERS]
    assert len(set(texts)) == len(TEACHERS)


def test_reasoning_comes_in_its_own_channel(client):
    done = ask(client, row_of("units"), "dee")
    assert done.choices[0].message.reasoning_content.startswith("Let me think.")
    assert 0 < done.usage.completion_tokens_details.reasoning_tokens < done.usage.completion_tokens
    assert not hasattr(ask(client, row_of("units"), "bo").choices[0].message, "reasoning_content")


def test_samples_vary_by_index_and_seed_at_a_temperature_and_repeat_for_the_same_seed(client):
    def texts(**options):
        done = [ask(client, row, "cy", **options).choices for row in ROWS[:8]]
        return [[choice.message.content for choice in choices] for choices in done]

    first = texts(n=6, temperature=1, seed=1)
    assert [len(samples) for samples in first] == [6] * 8
    assert any(len(set(samples)) > 1 for samples in first)
    assert texts(n=6, temperature=1, seed=1) == first
    assert texts(n=6, temperature=1, seed=2) != first
    assert all(len(set(samples)) == 1 for samples in texts(n=6, temperature=0, seed=1))


@pytest.mark.parametrize("teacher", ["ada", "dee"])
def test_stream_joins_to_the_plain_reply_and_brings_usage(client, teacher):
    asked = {"n": 2, "temperature": 1}
    plain = ask(client, ROWS[0], teacher, **asked)
    events = list(ask(client, ROWS[0], teacher, **asked, stream=True, stream_options={"include_usage": True}))
    texts, finishes = {0: "", 1: ""}, {}
    for choice in (choice for event in events for choice in event.choices):
        texts[choice.index] += choice.delta.content or ""
        finishes[choice.index] = choice.finish_reason
    assert list(texts.values()) == [choice.message.content for choice in plain.choices]
    assert finishes == {0: "stop", 1: "stop"}
    assert events[-1].usage == plain.usage
    assert all(event.usage is None for event in ask(client, ROWS[0], stream=True))


def test_logprobs_cover_the_reply_token_by_token(client):
    choice = ask(client, ROWS[0], logprobs=True).choices[0]
    assert "".join(item.token for item in choice.logprobs.content) == choice.message.content
    assert all(item.logprob < 0 for item in choice.logprobs.content)
    assert ask(client, ROWS[0]).choices[0].logprobs is None
    streamed = [c for event in ask(client, ROWS[0], logprobs=True, stream=True) for c in event.choices if c.logprobs]
    assert [c.logprobs.content[0] for c in streamed] == choice.logprobs.content


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("teacher", ["ada", "dee"])
def test_a_token_limit_cuts_the_reply(client, name, teacher):
    whole, short = ask(client, ROWS[0], teacher), ask(client, ROWS[0], teacher, **{name: 7})
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 7)
    assert whole.choices[0].message.content.startswith(short.choices[0].message.content)
    exact = ask(client, ROWS[0], teacher, **{name: whole.usage.completion_tokens})
    assert exact.choices[0].finish_reason == "stop"


def test_a_prompt_without_a_question_gets_a_sentence_and_no_answer(client):
    done = client.chat.completions.create(model="sandbox/bo", messages=[{"role": "user", "content": "Hello"}])
    assert "do not know this question" in done.choices[0].message.content
    assert "answer is" not in done.choices[0].message.content


def test_content_in_parts_and_earlier_turns_are_read(client):
    messages = [
        {"role": "user", "content": prompt_of(row_of("sets"))},
        {"role": "assistant", "content": "The answer is 3."},
        {"role": "user", "content": [{"type": "text", "text": prompt_of(row_of("letters"))}]},
    ]
    done = client.chat.completions.create(model="sandbox/dee", messages=messages)
    assert "letter of" in done.choices[0].message.content


def test_models_and_health(client, sandbox):
    assert [model.id for model in client.models.list()] == sandbox.models == [t.model for t in TEACHERS]
    assert get(sandbox, "/health") == {"status": "ok"}


def test_errors_have_the_shape_that_the_client_expects(client):
    with pytest.raises(openai.NotFoundError, match="'sandbox/eve' does not exist"):
        ask(client, ROWS[0], "eve")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        ask(client, ROWS[0], temperature=3)
    with pytest.raises(openai.BadRequestError, match="messages"):
        client.chat.completions.create(model="sandbox/ada", messages=[])
    with pytest.raises(openai.NotFoundError, match="Unknown request URL"):
        client.embeddings.create(model="sandbox/ada", input="x")


def test_a_body_that_is_no_json_is_a_bad_request(sandbox):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(sandbox.url + "/chat/completions", data=b"{no json")
    with caught.value as answer:
        assert answer.code == 400
        assert "Invalid JSON" in json.load(answer)["error"]["message"]


def test_an_api_key_is_required_where_one_is_set():
    with SandboxServer(api_key="secret") as server:
        with connect(server.url) as wrong, pytest.raises(openai.AuthenticationError):
            ask(wrong, ROWS[0])
        with connect(server.url, api_key="secret") as right:
            assert ask(right, ROWS[0]).choices


def test_stats_count_per_teacher_and_tell_repeated_bodies():
    with SandboxServer(faults=[Fault(kind="server_error", teacher="bo", first=1)], latency_ms=1) as server:
        with connect(server.url) as client:
            with pytest.raises(openai.InternalServerError):
                ask(client, ROWS[0], "bo")
            for teacher in ("bo", "ada", "ada"):
                ask(client, ROWS[0], teacher)
        stats = get(server, "/stats")
        assert stats == server.stats()
    assert stats["teachers"]["bo"] == {"received": 2, "completed": 1, "faults": {"server_error": 1}}
    assert stats["teachers"]["ada"] == {"received": 2, "completed": 2, "faults": {}}
    # bo's second try repeats a body that had failed, ada's one that had been answered
    assert (stats["received"], stats["completed"], stats["distinct"], stats["duplicates"]) == (4, 3, 2, 1)


# --- faults


def run_with(fault: Fault, *, stream: bool = False, **options):
    """The reply of a server with one fault: a choice, or the events of a stream."""
    with SandboxServer(faults=[fault]) as server, connect(server.url, **options) as client:
        done = ask(client, ROWS[0], stream=stream)
        return list(done) if stream else done.choices[0]


def test_rate_limit_tells_when_to_come_back():
    with pytest.raises(openai.RateLimitError) as caught:
        run_with(Fault(kind="rate_limit", retry_after=2.5))
    assert caught.value.response.headers["retry-after"] == "2.5"


def test_the_client_gets_over_a_fault_of_the_first_requests():
    fault = Fault(kind="rate_limit", first=2, retry_after=0.01)
    assert run_with(fault, max_retries=2).finish_reason == "stop"


def test_hang_outlasts_a_client_that_will_not_wait_and_then_replies():
    with pytest.raises(openai.APITimeoutError):
        run_with(Fault(kind="hang", seconds=30), timeout=0.2)
    assert run_with(Fault(kind="hang", seconds=0.05)).finish_reason == "stop"


def test_a_reply_that_nobody_waited_for_is_not_counted_as_one():
    server = SandboxServer(faults=[Fault(kind="hang", seconds=0.3)])
    with server, connect(server.url, timeout=0.1) as client, pytest.raises(openai.APITimeoutError):
        ask(client, ROWS[0])
    assert server.stats()["teachers"]["ada"] == {"received": 1, "completed": 0, "faults": {"hang": 1}}


def test_content_faults():
    truncated = run_with(Fault(kind="truncation"))
    assert truncated.finish_reason == "length"
    assert "The answer is" not in truncated.message.content
    assert run_with(Fault(kind="empty")).message.content == ""
    refused = run_with(Fault(kind="refusal")).message
    assert refused.content is None
    assert "can't help" in refused.refusal


def test_content_faults_reach_a_stream_too():
    truncated = run_with(Fault(kind="truncation"), stream=True)
    assert truncated[-1].choices[0].finish_reason == "length"
    refused = run_with(Fault(kind="refusal"), stream=True)
    assert "can't help" in "".join(event.choices[0].delta.refusal or "" for event in refused)


@pytest.mark.parametrize("stream", [False, True])
def test_malformed_bodies_are_no_json(stream):
    with pytest.raises(json.JSONDecodeError):
        run_with(Fault(kind="malformed"), stream=stream)


def test_a_teacher_that_dies_stays_dead_while_the_others_live():
    fault = Fault(kind="death", teacher="sandbox/bo", after=2, first=1)
    with SandboxServer(faults=[fault]) as server, connect(server.url) as client:
        for row in ROWS[:2]:
            assert ask(client, row, "bo").choices
        for row in ROWS[:2]:
            with pytest.raises(openai.APIConnectionError):
                ask(client, row, "bo")
        assert ask(client, ROWS[0], "ada").choices
        assert server.stats()["teachers"]["bo"] == {"received": 4, "completed": 2, "faults": {"death": 2}}


def test_death_of_the_server_refuses_every_later_connection():
    with SandboxServer(faults=[Fault(kind="death", after=1)]) as server, connect(server.url) as client:
        assert ask(client, ROWS[0]).choices
        for teacher in ("ada", "bo"):
            with pytest.raises(openai.APIConnectionError):
                ask(client, ROWS[0], teacher)
    assert server.stats()["received"] == 2


def test_connections_that_arrive_while_the_server_stops_leak_no_socket(monkeypatch):
    leaks = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: leaks.append(unraisable.exc_value))

    def hammer(port: int) -> None:
        opened = []
        with suppress(OSError):  # refused: the server has stopped
            while len(opened) < 3000:
                opened.append(socket.create_connection(("127.0.0.1", port), timeout=5))
                if len(opened) > 20:
                    opened[-20].close()
        for connection in opened:
            connection.close()

    for _ in range(3):
        with SandboxServer() as server:
            knocking = threading.Thread(target=hammer, args=(port_of(server),))
            knocking.start()
            get(server, "/health")
        knocking.join()
        gc.collect()
    assert leaks == []


def test_rules_choose_by_count_text_and_teacher():
    ada, bo = TEACHERS[:2]

    def struck(rule: Fault, *asked: tuple[SandboxTeacher, str]) -> list[bool]:
        plan = FaultPlan([rule])
        return [plan.strike(teacher, prompt, str(i)) is not None for i, (teacher, prompt) in enumerate(asked)]

    third = Fault(kind="empty", after=2, first=1)
    assert struck(third, *[(ada, "x")] * 4) == [False, False, True, False]
    named = Fault(kind="empty", teacher="bo", match=r"play (chess|golf)")
    assert struck(named, (ada, "play golf"), (bo, "play golf"), (bo, "play darts")) == [False, True, False]
    assert struck(Fault(kind="empty", teacher="bo", first=1), (ada, "x"), (bo, "x"), (bo, "x")) == [False, True, False]


def test_a_share_is_drawn_per_attempt_whatever_the_order():
    rule = Fault(kind="empty", share=0.25)
    attempts = [f"{body}|{attempt}" for body in range(1000) for attempt in (1, 2)]

    def struck(order: list[str], seed: int = 0) -> set[str]:
        plan = FaultPlan([rule], seed)
        return {attempt for attempt in order if plan.strike(TEACHERS[0], "x", attempt)}

    hit = struck(attempts)
    assert len(hit) == pytest.approx(500, abs=80)
    assert struck(attempts[::-1]) == hit != struck(attempts, seed=1)
    assert any(f"{body}|1" in hit and f"{body}|2" not in hit for body in range(1000))


def test_lists_from_yaml_and_their_mistakes(tmp_path):
    file = tmp_path / "faults.yaml"
    file.write_text("- {kind: rate_limit, share: 0.1}\n- {kind: death, teacher: bo, after: 20}\n")
    assert [fault.kind for fault in load_list(file, Fault)] == ["rate_limit", "death"]
    for content, told in [
        (
            "- {kind: rate_limit}\n- {kind: empty, share: 2}\n",
            r"faults.yaml: entry 2, share: .*less than or equal to 1",
        ),
        ("- {kind: empty, match: '('}\n", "no regular expression"),
        ("- {kind: empty, shares: 1}\n", "entry 1, shares: Extra inputs"),
        ("kind: empty\n", "valid list"),
        ("- [", "is no valid YAML: line 1: expected the node content"),
        ("- {kind: empty, share: 1, share: 0}\n", "line 1: the key 'share' is there twice"),
    ]:
        file.write_text(content)
        with pytest.raises(InputError, match=told):
            load_list(file, Fault)
    with pytest.raises(InputError, match=r"none\.yaml is not there: check the path"):
        load_list(tmp_path / "none.yaml", Fault)


# --- running it


def command(*args: str) -> subprocess.Popen:
    line = [sys.executable, "-m", "builders.sandbox", *args]
    return subprocess.Popen(line, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def start(*args: str) -> tuple[subprocess.Popen, str]:
    process = command(*args)
    return process, re.search(r"http://\S+/v1", process.stdout.readline()).group()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_told_to_stop(signum):
    process, url = start("--seed", "3")
    with process, connect(url) as client:
        done = ask(client, ROWS[0], temperature=0).choices[0].message.content
        os.kill(process.pid, signum)
        assert process.wait(timeout=20) == 0
        assert process.stderr.read() == ""
    assert done == reply(TEACHERS[0], read(prompt_of(ROWS[0])), Sample(), 3).content


def test_the_command_exits_when_a_fault_kills_the_server(tmp_path):
    (tmp_path / "faults.yaml").write_text("- {kind: death}\n")
    (tmp_path / "teachers.yaml").write_text("- {name: solo, default: 1.0}\n")
    process, url = start("--faults", str(tmp_path / "faults.yaml"), "--teachers", str(tmp_path / "teachers.yaml"))
    with process, connect(url) as client:
        with pytest.raises(openai.APIConnectionError):
            ask(client, ROWS[0], "solo")
        assert process.wait(timeout=20) == 1
        assert process.stderr.read() == ""


def test_the_command_writes_questions_and_tells_mistakes_in_one_line(tmp_path, sandbox):
    with command("--questions", "12", "--out", str(tmp_path / "q.parquet")) as process:
        assert process.wait(timeout=60) == 0
    assert pq.read_table(tmp_path / "q.parquet").num_rows == 12
    with command("--port", str(port_of(sandbox))) as process:
        assert process.wait(timeout=60) == 1
        assert re.fullmatch(r"error: the sandbox cannot listen on 127.0.0.1 port \d+ .*\n", process.stderr.read())


def test_the_examples_of_the_docs_work(tmp_path):
    blocks = re.findall(r"```(python|yaml)\n(.*?)```", (ROOT / "docs" / "sandbox.md").read_text(), re.DOTALL)
    lists = [text for kind, text in blocks if kind == "yaml"]
    for text, item in zip(lists, [SandboxTeacher, Fault], strict=True):
        (tmp_path / "list.yaml").write_text(text)
        assert load_list(tmp_path / "list.yaml", item)
    script = "\n".join(text for kind, text in blocks if kind == "python")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "The answer is" in done.stdout


def test_a_server_that_cannot_start_says_so(sandbox):
    with pytest.raises(InputError, match="choose another port"), SandboxServer(port=port_of(sandbox)):
        pass
    with pytest.raises(InputError, match="sandbox: latency: Extra inputs"):
        SandboxServer(latency=3)
    with pytest.raises(InputError, match=r"unknown teacher 'add' .did you mean 'ada'"):
        SandboxServer(faults=[Fault(kind="death", teacher="add")])
    with pytest.raises(InputError, match="two teachers are named 'ada'"):
        SandboxServer(teachers=[TEACHERS[0], TEACHERS[0]])
