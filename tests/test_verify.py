"""What is found in a workspace before others find it; each fault is planted and must be told, and nothing else."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers_asking import ScriptedAsker, asked_by, workspace_of
from helpers_corpus import make_workspace, question_row, response_row, write_workspace

from cards import texts
from cards.secrets import find_secrets, mark_of
from cards.verify import Finding, verify
from purifiers.aggregate import Aggregate
from purifiers.run import publish
from schemas.errors import InputError
from schemas.tables import QUESTIONS, REJECTED, RESPONSES
from schemas.workspace import Workspace

Rows = list[dict[str, Any]]


def problems(workspace: Workspace, **options: Any) -> list[Finding]:
    return [finding for finding in verify(workspace, **options) if finding.level != "note"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("made") / "sums", n=15)


def planted(
    folder: Path,
    of_question: Callable[[Rows], object] = lambda rows: None,
    of_response: Callable[[Rows], object] = lambda rows: None,
) -> Workspace:
    """A workspace of ten questions and one teacher, with its rows changed before they are written."""
    rng = random.Random(1)
    questions = [question_row(i, "train" if i < 7 else "test", rng) for i in range(10)]
    answers = [response_row(q, "alpha", True) for q in questions]
    of_question(questions)
    of_response(answers)
    return write_workspace(folder, questions, {"alpha": answers})


def test_sound_workspace_has_no_problem(sound: Workspace) -> None:
    assert problems(sound) == []


def test_language_is_told(sound: Workspace) -> None:
    assert any(finding.check == "language" and "en " in finding.message for finding in verify(sound))
    (strange,) = problems(sound, language="de")
    assert "not in 'de'" in strange.message


def rewrite(file: Path, change: Callable[[Rows], Rows], schema: pa.Schema) -> None:
    pq.write_table(pa.Table.from_pylist(change(pq.read_table(file).to_pylist()), schema), file)


def test_duplicate_and_orphan_rows_are_errors(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "w", n=15)
    file = workspace.responses_dir("alpha") / "test-00000.parquet"
    rewrite(file, lambda rows: [*rows, rows[0]], RESPONSES.arrow)
    rewrite(workspace.questions_dir / "train-00000.parquet", lambda rows: rows[1:], QUESTIONS.arrow)
    found = {finding.message: finding for finding in problems(workspace)}
    assert found["1 duplicate responses (same question, teacher and sample)"].level == "error"
    assert found["3 responses to questions that are not there"].examples == (
        "q00000, alpha",
        "q00000, beta",
        "q00000, gamma",
    )
    assert "1 purified rows of questions that are not there" in found


def test_lost_parents_and_gaps_are_told(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "w", n=15)
    for teacher in ("alpha", "beta", "gamma"):
        file = workspace.responses_dir(teacher) / "test-00000.parquet"
        rewrite(file, lambda rows: rows[1:], RESPONSES.arrow)
    found = {finding.message: finding.level for finding in problems(workspace)}
    assert found["1 purified rows whose parent response is not there"] == "error"
    assert found["3 pairs of a question and a teacher without a response"] == "warning"


def test_foreign_columns_types_and_nulls_are_told(tmp_path: Path) -> None:
    workspace = planted(tmp_path / "w")
    file = workspace.questions_dir / "test-00000.parquet"
    table = pq.read_table(file)
    loose = table.set_column(table.schema.get_field_index("dataset"), "dataset", pa.nulls(len(table), pa.string()))
    pq.write_table(loose, file)
    (nulls,) = problems(workspace)
    assert nulls.message == "3 rows without a value that is never null"
    numbers = table.set_column(table.schema.get_field_index("domain"), "domain", pa.array([1.5] * len(table)))
    pq.write_table(numbers, file)
    assert "column domain is double, not string" in problems(workspace)[0].message


def test_answer_that_is_no_choice_is_told(tmp_path: Path) -> None:
    workspace = planted(tmp_path / "w", lambda rows: rows[3].update(answer="Z"))
    assert [(f.level, f.examples) for f in problems(workspace)] == [("error", ("q00003",))]


def test_secret_is_an_error_and_stays_unsaid(tmp_path: Path) -> None:
    secret = "gl" + "pat-" + "a1B2c3D4e5" * 2
    workspace = planted(tmp_path / "w", of_response=lambda rows: rows[2].update(raw_text=f"token {secret}"))
    (finding,) = problems(workspace)
    assert (finding.check, finding.level) == ("secrets", "error")
    assert finding.examples == (f"responses.raw_text of q00002, alpha, 0 (mark {mark_of(secret)})",)
    assert not problems(workspace, allow_secrets=[mark_of(secret)])
    assert secret not in repr(finding)


KEYS = {
    "Stripe": "sk_" + "live_" + "a1B2c3D4" * 3,
    "Twilio": "S" + "K" + "0123456789abcdef" * 2,
    "Telegram": "123456789" + ":" + "AAbbCC1" * 5,
    "Discord": "M" + "TAxMjM0NTY3ODkwMTIzNDU2" + ".GaBcDe." + "a1B2c3D" * 4,
    "Azure": "Account" + "Key=" + "a1B2c3D+" * 10 + "a1B2c3==",
    "Mailchimp": "0123456789abcdef" * 2 + "-" + "us12",
    "Square": "sq0" + "csp-" + "a1B2c3D" * 6 + "x",
    "Groq": "gs" + "k_" + "a1B2c3D4" * 6,
    "xAI": "x" + "ai-" + "a1B2c3D4" * 10,
    "OpenRouter": "sk" + "-or-v1-" + "0123456789abcdef" * 4,
    "DeepSeek": "sk" + "-" + "0123456789abcdef" * 2,
    "Slack webhook": "https://hooks.slack.com/services/" + "T0000/B0000/" + "a1B2c3D4" * 3,  # detect-secrets alone
}


@pytest.fixture(scope="module")
def with_keys(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    rng = random.Random(1)
    questions = [question_row(i, "train", rng) for i in range(len(KEYS))]
    told = [f"For {name} I pass {key} along." for name, key in KEYS.items()]
    answers = [response_row(q, "alpha", True, rationale=text) for q, text in zip(questions, told, strict=True)]
    return write_workspace(tmp_path_factory.mktemp("keys") / "w", questions, {"alpha": answers})


@pytest.mark.parametrize("name", KEYS)
def test_keys_of_many_vendors_are_found_in_texts_and_once(with_keys: Workspace, name: str) -> None:
    where = f"responses.rationale of q{list(KEYS).index(name):05d}, alpha, 0"
    (secret,) = [secret for secret in find_secrets(with_keys) if secret.where == where]
    assert secret.mark == mark_of(KEYS[name])


@pytest.mark.parametrize(
    ("teacher", "told"),
    [
        ({"base_url": "http://10.1.2.3:8000/v1"}, True),
        ({"base_url": "http://models.corp/v1"}, True),
        ({"base_url": "http://127.0.0.1:8000/v1"}, False),
        ({"base_url": "https://api.example.org/v1", "model": "example/llm"}, False),
        ({"model": "~/models/llm"}, True),
    ],
)
def test_private_host_or_path_in_the_recipe_is_a_warning(tmp_path: Path, teacher: dict[str, str], told: bool) -> None:
    workspace = planted(tmp_path / "w")
    (workspace.path / "recipe.yaml").write_text(yaml.safe_dump({"teachers": [teacher]}))
    assert [(finding.check, finding.level) for finding in problems(workspace)] == [("private-places", "warning")] * told


def test_local_path_as_the_name_of_a_model_is_a_warning(tmp_path: Path) -> None:
    def plant(rows: Rows) -> None:
        for row in rows:
            row.update(model="/scratch/alice/models/llm")

    (finding,) = problems(planted(tmp_path / "w", of_response=plant))
    assert finding.examples == ("responses.model of alpha: /scratch/alice/models/llm",)


def test_words_with_hyphens_are_no_key(tmp_path: Path) -> None:
    text = "See sk-learn-based-classification-pipelines-tutorial on APERIODICITY."
    workspace = planted(tmp_path / "w", of_response=lambda rows: rows[2].update(rationale=text))
    assert find_secrets(workspace) == []


def test_secrets_are_looked_for_in_all_that_is_published(tmp_path: Path) -> None:
    secret = "gl" + "pat-" + "a1B2c3D4e5" * 2
    workspace = planted(tmp_path / "w")
    for name in ("mine.jinja", "examples.jsonl"):
        (workspace.path / "prompts").mkdir(exist_ok=True)
        (workspace.path / "prompts" / name).write_text(f"Use {secret} to look it up.")
    row = {"question_id": "q00001", "method": "m", "reason": f"said {secret}", "purifier_fingerprint": "0"}
    workspace.rejected_dir("m").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row], REJECTED.arrow), workspace.rejected_dir("m") / "train-00000.parquet")
    assert {found.where for found in find_secrets(workspace)} == {
        "prompts/mine.jinja",
        "prompts/examples.jsonl",
        "rejected.reason of q00001, m",
    }


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "VENDOR_KEY", "DB_PASSWD", "GITHUB_PAT", "UNUSUAL", "QUERY"])
def test_keys_of_this_machine_are_known_by_name_or_by_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    workspace = planted(
        tmp_path / "w", of_response=lambda rows: rows[2].update(rationale="It is correct/horse+battery.")
    )
    teachers = [{"id": "a", "api_key": "${UNUSUAL}", "base_url": ["http://127.0.0.1/v1?sig=${QUERY}"]}]
    (workspace.path / "recipe.yaml").write_text(yaml.safe_dump({"teachers": teachers}))
    monkeypatch.setenv("VENDOR_KEY", "xxxxxxxxxxxxxxx")
    monkeypatch.setenv("SIGNING_KEY", str(tmp_path))
    assert find_secrets(workspace) == []
    monkeypatch.setenv(name, "correct/horse+battery")
    (secret,) = find_secrets(workspace)
    assert (secret.kind, secret.mark) == (f"value of ${name}", None)


@pytest.mark.parametrize("name", ["api-key", "x.token-2", "Password", "sig", "code"])
def test_key_in_the_query_of_a_url_of_the_recipe_is_told(tmp_path: Path, name: str) -> None:
    workspace = planted(tmp_path / "w")
    url = f"https://models.example.org/v1?api-version=3&keyword=a&{name}={{}}"
    for value, kinds in (("${AZURE}", []), ("0a1b2c", ["key written into a recipe"])):
        (workspace.path / "recipe.yaml").write_text(yaml.safe_dump({"teachers": [{"base_url": url.format(value)}]}))
        assert [secret.kind for secret in find_secrets(workspace)] == kinds


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Write to jane.roe@mail-provider.co.uk for more.", "e-mail address"),
        ("Call +49 30 901820 at noon.", "phone number"),
        ("Pay to DE89 3704 0044 0532 0130 00 please.", "bank account (IBAN)"),
        ("The card 4111 1111 1111 1111 is charged.", "payment card"),
        ("Call 650-253-0000 at noon.", "phone number"),
        ("The card 3782 822463 10005 is charged.", "payment card"),
        ("The card 2223003122003222 is charged.", "payment card"),
        ("His number is 536-90-4399 there.", "US social security number"),
    ],
)
def test_personal_data_is_told(tmp_path: Path, text: str, kind: str) -> None:
    workspace = planted(tmp_path / "w", of_response=lambda rows: rows[4].update(rationale=text))
    (finding,) = problems(workspace)
    assert finding.message == f"1 texts hold what looks like a {kind}"
    assert finding.examples == ("responses q00004, alpha",)


MAIL = "jane.roe@mail-provider.co.uk"


@pytest.mark.parametrize("column", ["raw_text", "follow_up", "error_message", "reasoning"])
def test_personal_data_is_looked_for_in_all_that_a_teacher_said(tmp_path: Path, column: str) -> None:
    (finding,) = problems(planted(tmp_path / "w", of_response=lambda rows: rows[4].update({column: f"Ask {MAIL}."})))
    assert finding.examples == ("responses q00004, alpha",)


def test_personal_data_is_looked_for_in_choices_calls_and_merged_rationales(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path / "w", ["ABB"], split="train", gold="B")
    judge = ScriptedAsker(workspace, ["judge"], lambda _: f"Ask {MAIL}.\nThe answer is (B).")
    publish(workspace, asked_by(Aggregate(judge="judge"), judge))
    file = workspace.questions_dir / "train-00000.parquet"
    choices = [{"label": "A", "text": MAIL}, {"label": "B", "text": "none"}]
    rewrite(file, lambda rows: [{**rows[0], "choices": choices}], QUESTIONS.arrow)
    (found,) = [finding for finding in verify(workspace) if finding.check == "personal-data"]
    assert [example.split()[0] for example in found.examples] == ["questions", "purified", "calls"]


@pytest.mark.parametrize(
    "text",
    [
        "Write to someone@example.org or user@localhost.",
        "1234 5678 9012 3456 plus 4111 1111 1111 1112 is a large sum",
        "It is 0.371449635398431 or 12.4111111111111111 in all, and 123-456-7890 is negative",
        "DE00 3704 0044 0532 0130 00 fails its check digits",
        "The sequence 000-12-3456 goes on, from 1990 to 2024, 3.14159265 and 12 + 345 + 678",
    ],
)
def test_what_only_looks_personal_is_not_told(tmp_path: Path, text: str) -> None:
    workspace = planted(tmp_path / "w", of_response=lambda rows: rows[4].update(rationale=text))
    assert problems(workspace) == []


LONG = (
    "A farmer near the river sells forty baskets of ripe apples every week of the summer to a small shop in the town, "
    "and the shop pays three coins for every single basket that it gets from him. How much does he earn in a {}?"
)


def test_repeated_and_nearly_repeated_questions_are_told(tmp_path: Path) -> None:
    def plant(rows: Rows) -> None:
        rows[1].update(question=rows[0]["question"].upper() + " ", choices=rows[0]["choices"])
        rows[2].update(question=LONG.format("week"), choices=rows[0]["choices"])
        rows[3].update(question=LONG.format("month"), choices=rows[0]["choices"])

    found = {f.message.split(" questions ")[1][:20]: f for f in problems(planted(tmp_path / "w", plant))}
    assert found["repeat another one"].examples == ("q00000 = q00001",)
    near = next(f for key, f in found.items() if key.startswith("share at least"))
    assert set(near.examples[0].split(" ~ ")) == {"q00002", "q00003"}


def test_test_question_seen_in_training_is_told(tmp_path: Path) -> None:
    def plant(rows: Rows) -> None:
        rows[0].update(question=LONG.format("week"))
        rows[9].update(question="Think hard! " + LONG.format("month") + " Then double it, and say how much that makes.")

    (finding,) = problems(planted(tmp_path / "w", plant))
    assert finding.check == "train-test-overlap"
    assert finding.examples == ("q00009 ~ q00000",)


@pytest.mark.parametrize(
    "same", ["What is one plus two?", "一加二等于几？", "一个农夫每周卖四十篮苹果，一共得到多少钱？"]
)
def test_short_question_is_found_where_it_is_asked_again_and_not_within_others(tmp_path: Path, same: str) -> None:
    def plant(rows: Rows) -> None:
        rows[0].update(question=same)
        rows[1].update(question=f"Tell me now, children, before the bell rings: {same} And what is twice that sum?")
        rows[9].update(question=same)

    (finding,) = problems(planted(tmp_path / "w", plant))
    assert finding.check == "train-test-overlap"
    assert finding.examples == ("q00009 ~ q00000",)


def test_questions_repeated_in_another_split_are_told_with_it(tmp_path: Path) -> None:
    def plant(rows: Rows) -> None:
        rows[1].update(question=rows[0]["question"], choices=rows[0]["choices"], answer=rows[0]["answer"])
        rows[9].update(question=rows[2]["question"], choices=rows[2]["choices"], answer=rows[2]["answer"])

    found = {finding.check: finding for finding in problems(planted(tmp_path / "w", plant))}
    assert found["near-duplicates"].message == "2 questions repeat another one, 1 of another split"
    assert found["near-duplicates"].examples == ("q00002 (train) = q00009 (test)", "q00000 = q00001")


def test_sums_that_differ_in_the_sign_alone_are_different_questions(tmp_path: Path) -> None:
    def plant(rows: Rows) -> None:
        for row, sign in zip((rows[0], rows[1], rows[8], rows[9]), "+-*/", strict=True):
            row.update(question=f"What is 12 {sign} 5?", choices=rows[0]["choices"], answer=rows[0]["answer"])

    assert problems(planted(tmp_path / "w", plant)) == []


@pytest.mark.parametrize("name", ["b.txt", "b.jsonl", "b.csv", "b.parquet"])
def test_benchmark_question_is_told(sound: Workspace, tmp_path: Path, name: str) -> None:
    import polars as pl

    theirs = sound.read_questions()["question"][7].as_py()
    frame = pl.DataFrame({"question": ["What else is there to be asked about, if anything?", theirs]})
    file = tmp_path / name
    if name.endswith(".txt"):
        file.write_text("\n".join(frame["question"]))
    else:
        {".jsonl": frame.write_ndjson, ".csv": frame.write_csv, ".parquet": frame.write_parquet}[file.suffix](file)
    (finding,) = problems(sound, benchmarks=[file])
    assert finding.check == "benchmark-overlap"
    assert len(finding.examples) == 1


def test_benchmark_that_cannot_be_read_is_told(sound: Workspace, tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("text\nhello\n")
    with pytest.raises(InputError, match=r"b\.csv cannot be read as questions"):
        verify(sound, benchmarks=[tmp_path / "b.csv"])
    with pytest.raises(InputError, match="there is no benchmark file"):
        verify(sound, benchmarks=[tmp_path / "none.csv"])


def test_same_meaning_is_told_with_an_encoder(sound: Workspace) -> None:
    def alike(texts: list[str]) -> Any:
        return np.tile(np.array([[0.6, 0.8]], np.float32), (len(texts), 1))

    (finding,) = problems(sound, encode=alike)
    assert finding.message.startswith("3 test questions mean nearly the same")


def test_without_the_extra_the_rest_is_checked(sound: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    texts._language_identifier.cache_clear()
    for name in ("phonenumbers", "stdnum", "datasketch", "py3langid", "py3langid.langid"):
        monkeypatch.setitem(sys.modules, name, None)
    notes = [f for f in verify(sound) if "raffinate[verify]" in f.message]
    assert {f.check for f in notes} == {"personal-data", "near-duplicates", "languages"}
