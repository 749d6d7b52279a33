"""The report in a real browser: it opens, finds, shows, and stays harmless whatever the texts say."""

from __future__ import annotations

import datetime as dt
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_corpus import make_workspace, question_row, response_row, write_workspace

from cards import report_data
from cards.publication import published_files
from cards.report import as_json, render, usd, write_report
from cards.report_data import choices_of, number_questions
from cards.report_stats import Share, judged
from purifiers.majority import Majority
from purifiers.run import publish
from schemas.corpus import Corpus
from schemas.database import connect, query
from schemas.errors import WorkspaceError
from schemas.tables import PURIFIED, STUDENTS
from schemas.workspace import Workspace

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
HOSTILE = {
    "script": "<script>window.pwned = 1</script> and </script><script>window.pwned = 2</script>",
    "image": '<img src=x onerror="window.pwned = 3"> <svg onload=window.pwned=4> <!-- <b>bold</b>',
    "controls": "null \0 byte, escape \x1b[31m, line \u2028 and paragraph \u2029 separators",
    "directions": "\u202eright to left\u202c, עברית, العربية",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 é 漢字 \U0001f9ea",
    "template": "{{ 7 * 7 }} {% raw %} ${window.pwned = 5} ]]> &lt;i&gt;",
    "quo\"ted' id <b>": "javascript:window.pwned=6 ' \" ` \\",
    "long": "word " * 200_000,
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Any]:
    """Opens a report in a new window; at the end no error, warning or request beyond the file may have come."""
    troubles: list[str] = []
    contexts = []

    def opened(path: Path, address: str = "", **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: troubles.append(request.url) if not local(request.url) else None)
        page.goto(path.as_uri() + address)
        page.wait_for_selector("html[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


def local(url: str) -> bool:
    return url.startswith(("file://", "data:", "blob:"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("made") / "sums", n=60)


@pytest.fixture(scope="module")
def report(made: Workspace) -> Path:
    return write_report(made)


def count(workspace: Workspace, sql: str) -> int:
    return int(query(workspace, sql).column(0)[0].as_py())


def shown(page: Page) -> str:
    """The sentence above the list, once the list has settled."""
    page.wait_for_timeout(200)  # longer than the pause after typing
    return str(page.text_content("#count"))


def test_figures_of_the_overview_are_those_of_the_tables(visit: Any, made: Workspace, report: Path) -> None:
    page = visit(report)
    both = "a.teacher_id = 'alpha' AND b.teacher_id = 'beta' AND a.answer_status = 'read' AND b.answer_status = 'read'"
    differ = count(made, "SELECT count(*) FROM conflicts WHERE teacher_a = 'alpha' AND teacher_b = 'beta'")
    pairs = count(made, f"SELECT count(*) FROM answers a JOIN answers b USING (question_id) WHERE {both}")
    cell = (
        page.locator("table.heat", has_text="Different answers")
        .locator("tbody tr", has_text="alpha")
        .locator("td")
        .nth(1)
    )
    assert cell.inner_text().strip() == f"{100 * differ / pairs:.0f}%"
    right = count(
        made, "SELECT sum((predicted_answer = answer)::INT) FROM answers JOIN questions USING (question_id) "
        "WHERE teacher_id = 'alpha' AND split = 'test'"
    )  # fmt: skip
    assert f"{100 * right / 12:.1f}%" in page.locator(".ranking tr", has_text="alpha").inner_text()
    assert "60" in page.locator(".tile").first.inner_text()


def test_a_teacher_that_saw_gold_has_no_accuracy_and_no_method_beats_the_oracle(tmp_path: Path) -> None:
    rng = random.Random(0)
    questions = [question_row(i, "test", rng) for i in range(8)]
    saw = {"gold_shown": True, "is_correct": None}
    answers = {
        "alpha": [response_row(q, "alpha", i < 2) for i, q in enumerate(questions)],
        "forced": [response_row(q, "forced", True, **saw) for q in questions],
        "partly": [response_row(q, "partly", i < 3, **(saw if i < 4 else {})) for i, q in enumerate(questions)],
    }
    workspace = write_workspace(tmp_path / "w", questions, answers)
    publish(workspace, Majority())
    found = judged_of(workspace)
    assert found["forced"] is None
    assert (found["partly"].n, found["alpha"].value) == (4, 0.25)
    assert found["some teacher is right"].value == 1.0 > found["alpha"].value
    assert "was shown the answers" in render(workspace)


def judged_of(workspace: Workspace) -> dict[str, Any]:
    """Name -> share, of who is right."""
    corpus, con = Corpus.of(workspace), connect(workspace)
    number_questions(con, corpus)
    found = judged(corpus, choices_of(con, corpus, workspace.methods()))
    assert found is not None
    assert found["rows"][-1]["share"] is None
    return {row["name"]: row["share"] for row in found["rows"]}


def test_a_figure_leads_to_its_questions(visit: Any, made: Workspace, report: Path) -> None:
    page = visit(report)
    page.locator("table.heat", has_text="Different answers").locator("a").first.click()
    differ = count(made, "SELECT count(*) FROM conflicts WHERE teacher_a = 'alpha' AND teacher_b = 'beta'")
    assert shown(page) == f"{differ} of 60 questions"


@pytest.mark.parametrize(
    ("filters", "sql"),
    [
        ({"conflict": "yes"}, "SELECT count(DISTINCT question_id) FROM conflicts"),
        ({"split": "test"}, "SELECT count(*) FROM questions WHERE split = 'test'"),
        ({"domain": "shelves"}, "SELECT count(*) FROM questions WHERE domain = 'shelves'"),
        (
            {"teacher": "gamma", "outcome": "wrong"},
            "SELECT count(*) FROM answers WHERE teacher_id = 'gamma' AND NOT is_correct",
        ),
        (
            {"teacher": "*", "outcome": "right"},
            "SELECT count(*) FROM (SELECT question_id FROM answers GROUP BY ALL HAVING bool_and(is_correct))",
        ),
        (
            {"method": "majority", "kept": "right"},
            "SELECT count(*) FROM purified JOIN questions USING (question_id) WHERE predicted_answer = answer",
        ),
        ({"method": "majority", "kept": "from:beta"}, "SELECT count(*) FROM purified WHERE teacher_id = 'beta'"),
    ],
)
def test_filters_find_what_sql_finds(
    visit: Any, made: Workspace, report: Path, filters: dict[str, str], sql: str
) -> None:
    page = visit(report, "#view=questions")
    for name, value in filters.items():
        page.select_option(f"select[name={name}]", value)
    expected = count(made, sql)
    assert 0 < expected < 60
    assert shown(page) == f"{expected} of 60 questions"
    page.click("text=Clear")
    assert shown(page) == "60 questions"


def test_search_takes_words_in_any_order_and_ids(visit: Any, report: Path) -> None:
    page = visit(report, "#view=questions")
    page.fill("input[name=s]", "BOOKS (case 17)")
    assert shown(page) == "1 of 60 questions"
    page.fill("input[name=s]", "q00042")
    assert shown(page) == "1 of 60 questions"
    page.fill("input[name=s]", "nowhere to be found")
    assert shown(page) == "0 of 60 questions"


def test_deep_link_opens_a_conflict_with_all_rationales_beside_the_purified_one(
    visit: Any, made: Workspace, report: Path
) -> None:
    which = query(made, "SELECT min(question_id) FROM conflicts").column(0)[0].as_py()
    page = visit(report, f"#q={which}")
    assert page.locator(".card h3").all_inner_texts() == ["Purified", "alpha", "beta", "gamma"]
    for teacher in ("alpha", "beta", "gamma"):
        text = page.locator(f"section[aria-label='Teacher {teacher}'] .text").inner_text()
        assert text.startswith(f"{teacher} adds the numbers of {which}")
    kept = query(made, f"SELECT rationale, predicted_answer FROM purified WHERE question_id = '{which}'").to_pylist()[0]
    assert page.locator(".card.kept .text").inner_text() == kept["rationale"]
    differing = [
        c for c in page.locator(".said .card").all() if c.locator(".pill").inner_text() != kept["predicted_answer"]
    ]
    assert differing
    assert all("≠ kept" in card.inner_text() for card in differing)


def test_unknown_link_says_so_and_leads_back(visit: Any, report: Path) -> None:
    page = visit(report, "#q=missing")
    assert "no question “missing”" in page.inner_text("#question")
    page.click("#question >> text=All questions")
    assert "Choose a question" in page.inner_text("#question")


def test_everything_is_reached_from_the_keyboard(visit: Any, report: Path) -> None:
    page = visit(report, "#view=questions&conflict=yes")
    page.keyboard.press("/")
    page.keyboard.type("shelf")
    shown(page)
    page.keyboard.press("Enter")
    first = page.locator("#question .id").inner_text()
    page.keyboard.press("ArrowDown")
    second = page.locator(f"#question .id:not(:text-is('{first}'))").inner_text()
    assert page.locator(".row[aria-selected=true]").inner_text().find(second) > 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.press("k")
    page.wait_for_selector(f"#question .id:text-is('{first}')")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "list"
    page.keyboard.press("End")
    page.wait_for_function("first => !document.querySelector('#question .id').textContent.includes(first)", arg=first)
    page.go_back()


def test_link_reopens_the_same_filters(visit: Any, report: Path) -> None:
    page = visit(report, "#view=questions")
    page.select_option("select[name=conflict]", "no")
    page.select_option("select[name=split]", "train")
    found = shown(page)
    again = visit(report, "#" + page.url.split("#")[1])
    assert shown(again) == found
    assert again.input_value("select[name=conflict]") == "no"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_list_then_question_without_scrolling_sideways(visit: Any, report: Path, scheme: str) -> None:
    page = visit(report, viewport={"width": 390, "height": 800}, color_scheme=scheme)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits)
    page.click("text=Questions")
    assert not page.locator("#question").is_visible()
    page.locator(".row").nth(2).click()
    page.wait_for_selector(".card")
    assert page.evaluate(fits)
    assert not page.locator("#list").is_visible()
    page.click("text=← All questions")
    assert page.locator("#list").is_visible()


def hostile_workspace(path: Path) -> Workspace:
    rng = random.Random(0)
    questions, alpha, beta = [], [], []
    for i, (name, text) in enumerate(HOSTILE.items()):
        short = text[:500]
        choices = [{"label": label, "text": f"{label} {short}"} for label in "ABCD"]
        changes = {"question_id": name, "question": short, "context": short, "choices": choices, "domain": short}
        q = question_row(i, "train", rng, **changes)
        questions.append(q)
        alpha.append(response_row(q, "alpha", True, rationale=text, model=short))
        failed = {"status": "failed", "rationale": None, "raw_text": None, "error_message": short}
        beta.append(response_row(q, "beta", True, predicted_answer=None, answer_status="unread", **failed))
    workspace = write_workspace(path, questions, {"alpha": alpha, "beta": beta})
    publish(workspace, Majority())
    return workspace


def test_hostile_texts_stay_text(visit: Any, tmp_path: Path) -> None:
    path = write_report(hostile_workspace(tmp_path / "it's <b>bold</b>"))
    page = visit(path)
    scripts = page.locator("script").count()
    for name, text in HOSTILE.items():
        page.goto(f"{path.as_uri()}#q={quote(name)}")
        page.wait_for_selector(f"#question .id >> text={name.split()[0]}")
        said = page.locator("section[aria-label='Teacher alpha'] .text").first.text_content()
        assert said[:30].replace("␀", "\0").replace("␛", "\x1b") == text[:30]
        assert len(said) <= report_data.LONGEST
        assert page.evaluate("[window.pwned, document.images.length]") == [None, 0]
        assert page.locator("script").count() == scripts
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "980,000 more characters" in page.inner_text("#question")
    assert page.locator("b:text-is('bold')").count() == 0


def test_no_text_of_the_data_is_in_the_file_as_markup(tmp_path: Path) -> None:
    html = write_report(hostile_workspace(tmp_path / "hostile")).read_text(encoding="utf-8")

    assert not any(
        mark in html for mark in ("<script>window", "<img", "<svg onload", "<b>bold", "\0", "\u2028", "\u202e")
    )


def test_json_in_a_script_element_cannot_end_it() -> None:
    text = as_json({"x": "</script><!-- & \u2028\u2029"})
    assert not set("<>&\u2028\u2029") & set(text)


def test_what_does_not_fit_is_left_out_conflicts_last_and_told(
    visit: Any, made: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chars = count(made, "SELECT sum(rationale_chars) FROM responses")
    monkeypatch.setattr(report_data, "RAW_CHARS", chars // 10)
    monkeypatch.setattr(report_data, "CHUNK_BYTES", 2000)
    page = visit(write_report(made, tmp_path / "small.html"), "#view=questions")
    with_texts = shown_with(page, texts="yes")
    assert 0 < with_texts < 10
    assert f"texts of {with_texts} of 60 questions" in page.inner_text(".partial")
    assert shown_with(page, conflict="yes") == with_texts
    page.goto(page.url.split("#")[0] + "#view=questions&conflict=no")
    page.locator(".row").first.click()
    page.wait_for_selector("text=texts of this question are not in this file")
    assert "majority: kept" in page.inner_text("#question")


def shown_with(page: Page, **filters: str) -> int:
    for name, value in filters.items():
        page.select_option(f"select[name={name}]", value)
    return int(shown(page).split()[0])


def test_list_longer_than_browsers_allow_is_cut_and_told(
    visit: Any, made: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_data, "MOST_LISTED", 20)
    page = visit(write_report(made, tmp_path / "few.html"), "#view=questions")
    assert shown(page) == "20 questions"
    assert "20 of 60 questions are listed" in page.inner_text(".partial")
    assert "60" in page.locator(".tile").first.text_content()


def test_without_labels_methods_or_a_second_teacher(visit: Any, tmp_path: Path) -> None:
    rng = random.Random(0)
    questions = [question_row(i, "train", rng, answer=None, domain=None) for i in range(4)]
    answers = [response_row(q, "solo", True, predicted_answer="B") for q in questions]
    page = visit(write_report(write_workspace(tmp_path / "bare", questions, {"solo": answers})), "#q=q00001")
    assert "Nothing is purified yet" in page.text_content("#overview")
    assert page.locator(".card h3").all_inner_texts() == ["solo"]
    assert page.locator("#h-judged").count() == 0


def test_calibration_where_a_method_gives_probabilities(visit: Any, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "sums", n=60)
    kept = pq.read_table(workspace.purified_dir("majority") / "test-00000.parquet").to_pylist()
    for row in kept:
        row |= {"method": "router", "probabilities": [{"teacher_id": row["teacher_id"], "probability": 0.75}]}
    workspace.purified_dir("router").mkdir()
    table = pa.Table.from_pylist(kept, PURIFIED.arrow)
    pq.write_table(table, workspace.purified_dir("router") / "test-00000.parquet")
    right = count(
        workspace, "SELECT count(*) FROM purified JOIN questions USING (question_id) "
        "WHERE method = 'router' AND predicted_answer = answer"
    )  # fmt: skip
    page = visit(write_report(workspace))
    assert f"12 questions, calibration error {abs(right / 12 - 0.75):.3f}" in page.inner_text("figure")
    page.goto(page.url.split("#")[0] + f"#q={kept[0]['question_id']}")
    page.wait_for_selector(".card.kept")
    page.select_option(".card.kept select", label="router")
    assert "0.750" in page.inner_text(".card.kept")


def with_students(path: Path, rows: list[tuple[str, list[str], int, float]], **same: Any) -> Workspace:
    """A workspace with these students: method, teachers, seed, accuracy."""
    workspace = make_workspace(path, n=10)
    about = {
        **dict.fromkeys(STUDENTS.names), "base_model": "tiny", "objective": "multitask", "comparison": "c0ffee",
        "eval_dataset": "sums", "eval_split": "test", "n": 200, "seconds": 1.0, "device": "cpu",
        "created_at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC), **same,
    }  # fmt: skip
    table = [
        {**about, "run_id": f"run-{i}", "method": method, "teachers": teachers, "seed": seed, "accuracy": accuracy}
        for i, (method, teachers, seed, accuracy) in enumerate(rows)
    ]
    (workspace.path / "students").mkdir()
    pq.write_table(pa.Table.from_pylist(table, STUDENTS.arrow), workspace.path / "students" / "test-00000.parquet")
    return workspace


NESTED = [["a"], ["a", "b"], ["a", "b", "c"]]
GRID = [
    row
    for seed, luck in ((0, 0.0), (1, 0.02))
    for row in [
        ("fine-tuning", [], seed, 0.4 + luck),
        ("teacher:a", NESTED[0], seed, 0.5 + luck),
        ("keep-all", NESTED[1], seed, 0.5 + luck),
        ("keep-all", NESTED[2], seed, 0.4 + luck),
        ("majority", NESTED[1], seed, 0.55 + luck),
        ("majority", NESTED[2], seed, 0.6 + 2 * luck),
    ]
]


def test_students_by_number_of_teachers_and_cmv(visit: Any, tmp_path: Path) -> None:
    page = visit(write_report(with_students(tmp_path / "sums", GRID)))
    section = page.locator("section[aria-labelledby=h-students]")
    assert section.locator(".panel h3").all_inner_texts() == ["keep-all", "majority CMV +13.0 ±6.4"]
    assert [panel.locator("circle").count() for panel in section.locator(".panel").all()] == [3, 3], "one teacher too"
    cells = section.locator("tr", has_text="majority").locator("td").all_inner_texts()
    assert cells[:5] == ["", "", "56.0% ±12.7", "62.0% ±25.4", "+13.0 ±6.4"]  # by hand: t = 12.706 of two seeds
    assert section.locator("svg.gain").count() == 1


def test_one_student_is_a_table_without_a_picture(visit: Any, tmp_path: Path) -> None:
    workspace = with_students(tmp_path / "sums", [("majority", ["a", "b"], 0, 0.625)], comparison=None, objective=None)
    section = visit(write_report(workspace)).locator("section[aria-labelledby=h-students]")
    assert "62.5%" in section.inner_text()
    assert "±" not in section.inner_text()
    assert section.locator("svg").count() == 0


def test_names_of_students_stay_text(visit: Any, tmp_path: Path) -> None:
    name = HOSTILE["image"] + "W" * 200
    rows = [(name if method == "majority" else method, *rest) for method, *rest in GRID]
    same = dict.fromkeys(["base_model", "objective", "eval_dataset", "comparison"], name)
    path = write_report(with_students(tmp_path / "sums", rows, **same))
    page = visit(path, viewport={"width": 390, "height": 800})
    assert page.evaluate("[window.pwned, document.images.length]") == [None, 0]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "<img" not in path.read_text(encoding="utf-8")


def test_same_data_gives_the_same_bytes_in_a_place_that_is_not_published(made: Workspace, tmp_path: Path) -> None:
    first = write_report(made)
    assert first == made.path / "report.html"
    assert "report.html" not in published_files(made.path)
    assert first.read_bytes() == write_report(made, tmp_path / "again" / "report.html").read_bytes()


def test_no_responses_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="no responses yet"):
        write_report(Workspace.create(tmp_path / "empty"))


def test_share_has_wilsons_interval() -> None:
    share = Share.of(8, 10)
    assert share is not None
    assert (share.value, round(share.low, 3), round(share.high, 3)) == (0.8, 0.49, 0.943)  # Newcombe 1998's method 3
    assert Share.of(0, 0) is None


@pytest.mark.parametrize(
    ("value", "text"), [(None, "—"), (0, "$0.00"), (1234.5, "$1,234.50"), (0.0000545, "$0.0000545")]
)
def test_money_is_readable(value: float | None, text: str) -> None:
    assert usd(value) == text
