"""What names a request: everything that reaches the wire, and nothing else."""

from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.prompt import Prompt
from builders.requests import Plan, Request
from builders.sandbox import questions
from builders.teacher import Teacher, check_teachers
from schemas.errors import InputError
from schemas.workspace import Workspace

QUESTION = {
    "question_id": "q1",
    "dataset": "d",
    "split": "train",
    "task": "choice",
    "question": "Which is it?",
    "choices": [{"label": "A", "text": "this"}, {"label": "B", "text": "that"}],
    "context": None,
    "answer": "A",
    "domain": None,
}
TEACHER = {"id": "t", "model": "m", "base_url": ["http://one/v1"], "api_key": "secret-1", "params": {"seed": 1}}
FREE = Prompt.load("free")


def ask(question: dict = QUESTION, prompt: Prompt = FREE, overrides: dict | None = None, **teacher: object) -> Request:
    plan = Plan(Workspace("/nowhere"), Teacher.model_validate(TEACHER | teacher), prompt, overrides)
    return list(plan.requests(question))[-1]


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "n"},
        {"base_url": "http://two/v1"},
        {"revision": "abc"},
        {"max_tokens_field": "max_completion_tokens"},
        {"samples": 2},  # ask() returns the last sample
        {"params": {"seed": 2}},
        {"params": {}},
        {"params": {"seed": 1, "max_tokens": 7}},
        {"params": {"seed": 1, "temperature": 0.0}},
        {"params": {"seed": 1, "top_p": 0.5}},
        {"params": {"seed": 1, "stop": "\n"}},
        {"params": {"seed": 1, "logprobs": True}},
        {"params": {"seed": 1, "extra_body": {"top_k": 5}}},
        {"structured": "json_schema"},
        {"structured": "structured_outputs"},
        {"base_url": "http://one/v1?api-version=2"},
    ],
    ids=str,
)
def test_each_field_of_a_teacher_that_reaches_the_wire_changes_the_hash(changed: dict) -> None:
    assert ask(**changed).hash != ask().hash


@pytest.mark.parametrize(
    "changed",
    [
        {"question": "Which was it?"},
        {"context": "A passage."},
        {"choices": QUESTION["choices"][:1]},
        {"choices": [{"label": "A", "text": "those"}, QUESTION["choices"][1]]},
        {"task": "text"},
    ],
    ids=str,
)
def test_each_field_of_a_question_that_the_prompt_shows_changes_the_hash(changed: dict) -> None:
    assert ask(QUESTION | changed).hash != ask().hash


def test_system_and_user_message_change_the_hash() -> None:
    texts = [
        "{{ question }}",
        "{{ question }}!",
        "{% block system %}Be brief.{% endblock %}{% block user %}{{ question }}{% endblock %}",
    ]
    assert len({ask(prompt=Prompt("own", text)).hash for text in texts}) == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"id": "other"},
        {"api_key": "secret-2"},
        {"base_url": ["http://one/v1", "http://replica/v1"]},
        {"price": {"prompt_per_million": 1, "completion_per_million": 2}},
        {"timeout_s": 5, "max_attempts": 1, "max_concurrency": 3, "requests_per_minute": 9},
        {"licence": "mit"},
        {"transport": "openai"},
        {"batch": True},
        {"follow_up": True},
        {"api_key_header": "api-key"},
    ],
    ids=str,
)
def test_what_does_not_reach_the_wire_keeps_the_cache(changed: dict) -> None:
    assert ask(**changed).hash == ask().hash


def test_id_and_gold_of_a_question_keep_the_cache_unless_gold_is_shown() -> None:
    other = QUESTION | {"question_id": "q2", "answer": "B"}
    assert ask(other).hash == ask().hash
    forced = Prompt.load("teacher-forced")
    assert ask(other, forced).hash != ask(prompt=forced).hash


def test_samples_are_told_apart_and_seeded_one_by_one() -> None:
    plan = Plan(Workspace("/nowhere"), Teacher.model_validate(TEACHER | {"samples": 3}), FREE)
    requests = list(plan.requests(QUESTION))
    assert [orjson.loads(r.body)["seed"] for r in requests] == [1, 2, 3]
    unseeded = Plan(Workspace("/nowhere"), Teacher.model_validate(TEACHER | {"samples": 3, "params": {}}), FREE)
    assert len({r.hash for r in unseeded.requests(QUESTION)}) == 3
    assert len({r.body for r in unseeded.requests(QUESTION)}) == 1


def test_an_override_changes_the_token_limit_of_its_request_alone() -> None:
    base = ask()
    changed = ask(overrides={base.hash: 4096})
    assert (changed.base, changed.max_tokens) == (base.hash, 4096)
    assert changed.hash == ask(params={"seed": 1, "max_tokens": 4096}).hash
    assert ask(overrides={base.hash: 4096}, model="n").max_tokens == 2048


text = st.text(st.characters(codec="utf-8"), max_size=30)


wire = st.tuples(text, text, st.integers(1, 99))


@given(wire, wire)
def test_equal_hashes_mean_equal_requests(one: tuple[str, str, int], two: tuple[str, str, int]) -> None:
    plain = Prompt("own", "{{ question }}")

    def request(question: str, model: str, limit: int) -> Request:
        return ask(QUESTION | {"question": question}, plain, model="m" + model, params={"max_tokens": limit})

    first, second = request(*one), request(*two)
    assert (first.hash == second.hash) == (first.body == second.body)


def test_the_plan_walks_questions_in_order_and_counts_its_rows(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "ws")
    table = questions(50)
    with workspace.lock():
        workspace.write_questions(table)
    plan = Plan(workspace, Teacher.model_validate(TEACHER | {"samples": 2}), FREE)
    walked = [(split, r.question["question_id"], r.sample_idx) for split, batch in plan.batches(8) for r in batch]
    assert len(walked) == plan.rows == 100
    assert [w[0] for w in walked] == sorted((w[0] for w in walked), key=["train", "validation", "test"].index)
    assert [w[1:] for w in walked[:4]] == [(walked[0][1], 0), (walked[0][1], 1), (walked[2][1], 0), (walked[2][1], 1)]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"id": "a/b"}, "cannot name a folder"),
        ({"base_url": "localhost:8000"}, "is no URL"),
        ({"base_url": "http://me:pw@host/v1"}, "holds a password"),
        ({"base_url": "http://host/v1?api-version=1&subscription-key=secret-1"}, "holds 'subscription-key'"),
        ({"base_url": "http://host/v1?Code=secret-1"}, "holds 'Code'"),
        ({"base_url": "http://host/v1?sig="}, "holds 'sig'"),
        ({"params": {"extra_body": {"messages": []}}}, "extra_body may not set messages"),
        ({"api_key": "${RAFFINATE_NO_SUCH_KEY}"}, "RAFFINATE_NO_SUCH_KEY is not set"),
        ({"modle": "m"}, "modle"),
    ],
    ids=str,
)
def test_a_wrong_teacher_is_told_in_one_sentence(changed: dict, said: str) -> None:
    with pytest.raises((InputError, ValueError), match=said.replace("(", r"\(")) as told:
        Teacher.model_validate(TEACHER | changed)
    assert "secret-1" not in str(told.value) and ":pw" not in str(told.value)


def test_a_query_without_a_key_is_kept() -> None:
    url = "http://host/v1?keyword=a&max_tokens=5"
    assert Teacher.model_validate(TEACHER | {"base_url": url}).base_url == (url,)


def test_two_teachers_may_not_share_an_id() -> None:
    one, two = (Teacher.model_validate(TEACHER | {"id": name}) for name in ("gpt", "GPT"))
    with pytest.raises(InputError, match="own id"):
        check_teachers((one, two))


def test_a_key_is_read_from_the_environment_and_never_serialised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    teacher = Teacher.model_validate(TEACHER | {"api_key": "${MY_KEY}"})
    assert teacher.api_key is not None and teacher.api_key.get_secret_value() == "sk-very-secret"
    assert "MY_KEY" in teacher.key_name
    for shown in (repr(teacher), str(teacher), teacher.model_dump_json(), str(teacher.model_dump())):
        assert "sk-very-secret" not in shown
