"""The card: what the Hub and `datasets` make of it, what it says, and what hostile content cannot do to it."""

from __future__ import annotations

import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from helpers_asking import ScriptedAsker, asked_by, workspace_of
from helpers_corpus import make_workspace, question_row, response_row, write_recipe, write_workspace
from huggingface_hub import DatasetCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from pydantic import ValidationError

from cards import markdown
from cards.card import TAGS, size_category, write_card
from cards.report import render
from cards.spec import CardSpec
from purifiers.aggregate import Aggregate
from purifiers.best_teacher import BestTeacher
from purifiers.majority import Majority
from purifiers.run import publish
from schemas.errors import InputError, WorkspaceError
from schemas.workspace import Workspace


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("made") / "sums", n=20).path


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Workspace:
    return Workspace.open(shutil.copytree(made, tmp_path / "sums"))


def metadata(workspace: Workspace) -> dict[str, Any]:
    card = DatasetCard.load(workspace.path / "README.md")
    return dict(card.data.to_dict())


def html(text: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text.split("\n---\n", 1)[1])


def test_every_config_loads_from_the_folder_and_rows_add_up(workspace: Workspace, tmp_path: Path) -> None:
    write_card(workspace)
    rows = {
        config["config_name"]: datasets.load_dataset(
            str(workspace.path), config["config_name"], cache_dir=str(tmp_path / "cache")
        ).num_rows
        for config in metadata(workspace)["configs"]
    }
    assert rows == {
        "questions": {"train": 12, "validation": 4, "test": 4},
        "responses": {"train": 36, "validation": 12, "test": 12},
        "purified-majority": {"train": 12, "validation": 4, "test": 4},
    }


def test_without_a_name_the_purified_rows_load(workspace: Workspace, tmp_path: Path) -> None:
    write_card(workspace)
    rows = datasets.load_dataset(str(workspace.path), split="test", cache_dir=str(tmp_path / "cache"))
    assert {"prompt", "completion", "messages"} <= set(rows.column_names)


def test_rejected_questions_load_with_the_reason(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path / "ws", ["AB", "--"])
    publish(workspace, Majority())
    write_card(workspace)
    rows = datasets.load_dataset(str(workspace.path), "rejected", split="test", cache_dir=str(tmp_path / "cache"))
    assert [(row["question_id"], row["method"]) for row in rows] == [("q00001", "majority")]
    assert rows[0]["reason"] == "no teacher has a usable response"


def test_split_without_files_is_not_promised(tmp_path: Path) -> None:
    rng = random.Random(0)
    questions = [question_row(i, "train", rng) for i in range(3)]
    workspace = write_workspace(
        tmp_path / "w", questions, {"alpha": [response_row(q, "alpha", True) for q in questions]}
    )
    write_card(workspace)
    configs = {c["config_name"]: c for c in metadata(workspace)["configs"]}
    assert configs.keys() == {"questions", "responses"}
    assert [f["split"] for f in configs["questions"]["data_files"]] == ["train"]
    assert configs["responses"]["default"] is True


def test_what_the_card_gives_trl_is_the_default_config_with_a_line_break_before_the_rationale(
    workspace: Workspace, tmp_path: Path
) -> None:
    publish(workspace, BestTeacher())
    code = (
        write_card(workspace, CardSpec(default_method="majority"))
        .read_text()
        .split("# `prompt` and `completion` are the columns that TRL trains on\n")[1]
        .split("SFTTrainer(")[0]
    )
    load = partial(datasets.load_dataset, cache_dir=str(tmp_path / "cache"))
    names: dict[str, Any] = {"load_dataset": load, "DATASET": str(workspace.path)}
    exec(code, names)  # noqa: S102 - our own card
    given, published = names["rows"], load(str(workspace.path), "purified-majority", split="train")
    assert [row["prompt"] + row["completion"] for row in given] == [
        "\n".join(turn["content"] for turn in chat) for chat in published["messages"]
    ]


def test_same_data_gives_the_same_bytes(workspace: Workspace) -> None:
    first = write_card(workspace).read_bytes()
    assert write_card(workspace).read_bytes() == first


def test_licence_is_never_guessed(workspace: Workspace) -> None:
    text = write_card(workspace).read_text()
    assert "license" not in metadata(workspace)
    assert "No licence has been declared for this dataset" in text
    write_recipe(workspace, ["alpha", "beta"], "mit")
    assert "The licence of the outputs of `gamma` has not been declared." in write_card(workspace).read_text()


def test_recipe_section_is_used(workspace: Workspace) -> None:
    card = {
        "title": "Sums, purified",
        "language": "en",
        "license": "cc-by-4.0",
        "tags": ["sums"],
        "source_datasets": ["example/sums"],
        "citation": "@misc{sums}",
        "teachers": {"gamma": {"licence": "llama3.1", "terms": "https://example.org/terms"}},
    }
    write_recipe(workspace, ["alpha", "beta", "gamma"], None, card)
    text = write_card(workspace).read_text()
    found = metadata(workspace)
    assert (found["pretty_name"], found["language"], found["license"]) == ("Sums, purified", ["en"], "cc-by-4.0")
    assert "sums" in found["tags"]
    assert found["source_datasets"] == ["example/sums"]
    assert "# Sums, purified" in text
    assert "llama3.1" in text
    assert "@misc{sums}" in text


@pytest.mark.parametrize(
    ("card", "told"),
    [
        ({"licence": "mit"}, "card.licence"),
        ({"license": "MIT License"}, "card.license"),
        ({"license": "other"}, "license_name"),
        ({"language": "English"}, "card.language"),
        ({"title": "a\nlicense: mit"}, "one line"),
        ({"default_method": "oracle"}, "default_method 'oracle' has no purified rows; there are: majority"),
    ],
)
def test_mistakes_in_the_section_are_told(workspace: Workspace, card: dict[str, Any], told: str) -> None:
    write_recipe(workspace, ["alpha"], None, card)
    with pytest.raises(InputError, match=told):
        write_card(workspace)


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ("teachers: [", r"recipe\.yaml is no valid YAML: line 1"),
        ("card: {title: one}\ncard: {title: two}\n", "line 2: the key 'card' is there twice, first in line 1"),
    ],
)
def test_recipe_that_is_no_yaml_is_told(workspace: Workspace, recipe: str, told: str) -> None:
    (workspace.path / "recipe.yaml").write_text(recipe)
    with pytest.raises(InputError, match=told):
        write_card(workspace)


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ({"teachers": 5}, "recipe.yaml: teachers is 5: write it as  - id: "),
        ({"judges": {"id": "j"}}, "recipe.yaml: judges is "),
        ({"card": {"teachers": [1]}}, "card.teachers"),
    ],
)
def test_recipe_with_something_else_where_lists_should_be_is_told(
    workspace: Workspace, recipe: dict[str, Any], told: str
) -> None:
    (workspace.path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError, match=told):
        write_card(workspace)


@pytest.mark.parametrize(("tags", "kept"), [("7", []), ("sums", ["sums"]), ("[sums, 7]", ["sums"])])
def test_tags_that_are_no_list_of_words_do_no_harm(workspace: Workspace, tags: str, kept: list[str]) -> None:
    (workspace.path / "README.md").write_text(f"---\ntags: {tags}\n---\n# My sums\n")
    write_card(workspace)
    assert metadata(workspace)["tags"] == [*TAGS, *kept]


def test_numbers_are_those_of_the_data(workspace: Workspace) -> None:
    from schemas.database import query

    text = write_card(workspace).read_text()
    for row in query(workspace, "SELECT teacher_id, accuracy FROM teachers").to_pylist():
        assert f"{100 * row['accuracy']:.1f}%" in next(
            line for line in text.splitlines() if line.startswith(f"| `{row['teacher_id']}` | 20 |")
        )
    shares = query(workspace, "SELECT teacher_id, count(*) AS n FROM purified GROUP BY teacher_id").to_pylist()
    for row in shares:
        assert f"| `majority` | `{row['teacher_id']}` | {row['n']} | {5 * row['n']}.0% |" in text


def test_what_the_card_says_of_conflict_is_what_the_report_says(tmp_path: Path) -> None:
    """Of four questions one was not asked, and one has no answer that could be read."""
    rng = random.Random(0)
    q = [question_row(i, "test", rng) for i in range(4)]
    unread = {"predicted_answer": None, "answer_status": "unread", "is_correct": False}
    answers = {
        "alpha": [
            response_row(q[0], "alpha", True),
            response_row(q[1], "alpha", True),
            response_row(q[2], "alpha", True),
        ],
        "beta": [response_row(q[0], "beta", False), response_row(q[2], "beta", True)],
    }
    answers["alpha"][2] |= unread
    answers["beta"][1] |= unread
    workspace = write_workspace(tmp_path / "w", q, answers)
    publish(workspace, Majority())
    text = write_card(workspace).read_text()
    assert "4 questions and the answers of 2 teacher models to 2 of them." in text
    assert "Before: 50.0% of 2 answered questions have teachers that contradict each other" in text
    assert "of the answers read, 66.7% are right where that is known" in text
    assert "contradict each other on 1 of 2 answered questions" in render(workspace)


def test_shares_of_a_method_that_writes_some_rationales_anew_add_up(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path / "ws", ["ABB", "BBB", "B--"], split="train", gold="BBB")
    asker = ScriptedAsker(workspace, ["judge"], lambda _: "Both shelves are counted.\nThe answer is (B).")
    publish(workspace, asked_by(Aggregate(judge="judge"), asker))
    text = write_card(workspace).read_text()
    assert "| `aggregate` | `alpha` | 1 | 33.3% |\n| `aggregate` | written anew | 2 | 66.7% |" in text


def test_authors_sections_and_metadata_survive(workspace: Workspace) -> None:
    path = write_card(workspace)
    text = path.read_text()
    hint = "<!-- add limits, biases and risks that you know of -->"
    mine = "**Beware** of `<!-- comments -->`\n\n---\n\nand rules"
    extra = "<!-- yours: thanks -->\nThanks to all.\n<!-- end of yours -->\n"
    text = text.replace(hint, mine).replace("configs:", "annotations_creators:\n- machine-generated\nconfigs:")
    path.write_text(text + extra)
    publish(workspace, Majority(seed=7))
    again = write_card(workspace).read_text()
    assert mine in again
    assert "Thanks to all." in again
    assert metadata(workspace)["annotations_creators"] == ["machine-generated"]
    assert write_card(workspace).read_text() == again


def test_a_card_written_by_hand_becomes_a_section(workspace: Workspace) -> None:
    (workspace.path / "README.md").write_text("---\nlicense: mit\n---\n# My sums\n\nAll by hand.\n")
    text = write_card(workspace).read_text()
    assert "# My sums\n\nAll by hand.\n<!-- end of yours -->" in text
    assert metadata(workspace)["license"] == "mit"


def test_unclosed_section_stops_before_text_is_lost(workspace: Workspace) -> None:
    path = write_card(workspace)
    broken = path.read_text().replace("<!-- end of yours -->", "", 1)
    path.write_text(broken)
    with pytest.raises(InputError, match="end of yours"):
        write_card(workspace)
    assert path.read_text() == broken


def test_empty_workspace_is_told(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="no questions yet"):
        write_card(Workspace.create(tmp_path / "empty"))


HOSTILE = [
    "<script>alert(1)</script>",
    "</td></table><img src=x onerror=alert(1)>",
    "a | b | c\n---\nlicense: mit",
    "[click](javascript:alert(1)) ![x](http://evil.example/x.png)",
    "`` ` ``` <!-- end of yours -->",
    "\x00\x1b[31m\u202egnp.exe\u2066 https://evil.example @everyone",
    "שלום עולם مرحبا 👩\u200d👩\u200d👧",
    "{{ 7*7 }}{% raw %}",
    "*" * 10_000,
]


@pytest.fixture(scope="module")
def hostile_card(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The card of a workspace with hostile text in every place that a card repeats."""
    rng = random.Random(0)
    questions = [
        question_row(i, "train", rng, dataset=text, domain=text, question=text, context=text)
        for i, text in enumerate(HOSTILE)
    ]
    answers = [
        response_row(q, "alpha", True, model=text, model_revision=text, params=text, prompt_id=text, rationale=text)
        for q, text in zip(questions, HOSTILE, strict=True)
    ]
    answers[0]["rationale"] = "<script>" + "x" * 1_000_000
    workspace = write_workspace(tmp_path_factory.mktemp("hostile") / "w", questions, {"alpha": answers})
    publish(workspace, Majority())
    (workspace.path / "recipe.yaml").write_text(
        "note: |\n  ```\n  <script>alert(2)</script>\n  <!-- end of yours -->\n"
    )
    write_card(workspace)
    return write_card(workspace).read_text(encoding="utf-8")  # twice: it must read its own output well


def test_hostile_content_stays_text(hostile_card: str) -> None:
    page = html(hostile_card)
    for tag in ("<script", "<img", "onerror=alert(1)>", 'href="javascript', 'src="http'):
        assert tag not in page
    assert "&lt;script&gt;" in page
    assert "49" not in page.split("<h2>The teachers</h2>")[1].split("<h2>")[0].replace("0.49", "")
    assert len(hostile_card) < 100_000


def test_hostile_content_brings_no_metadata_and_no_control_characters(hostile_card: str) -> None:
    data = yaml.safe_load(hostile_card.split("\n---\n", maxsplit=1)[0])
    assert "license" not in data
    assert not [c for c in hostile_card if ord(c) < 32 and c not in "\n\t"]
    assert not set(hostile_card) & set("\u202e\u2066\u2028")
    assert "👩\u200d👩\u200d👧" in hostile_card
    assert "שלום עולם" in hostile_card


@given(st.text())
def test_inline_text_is_one_paragraph_of_text(text: str) -> None:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse("x " + markdown.inline(text))
    assert [t.type for t in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {child.type for child in tokens[1].children or []} <= {"text", "text_special"}


@given(st.text(), st.sampled_from(["yaml", "text"]))
def test_fenced_text_is_one_block(text: str, language: str) -> None:
    tokens = MarkdownIt().parse(markdown.fenced(text, language))
    assert [t.type for t in tokens] == ["fence"]


@pytest.mark.parametrize(("rows", "word"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M")])
def test_size_category(rows: int, word: str) -> None:
    assert size_category(rows) == word


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="licence"):
        CardSpec.model_validate({"licence": "mit"})
