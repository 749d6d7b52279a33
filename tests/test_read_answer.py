"""What a teacher's text commits itself to, and when two answers are the same."""

from __future__ import annotations

import os
import threading
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.numbers import canonical_number
from builders.read_answer import grade, read_answer, same_answer

TEXTS = ("dog", "cat", "bowling alley", "closed room", "radio station")
CHOICES = [{"label": label, "text": text} for label, text in zip("ABCDE", TEXTS, strict=True)]
YES_NO = [{"label": "A", "text": "yes"}, {"label": "B", "text": "no"}]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("The answer is (B).", "B"),
        ("**Answer: B**", "B"),
        ("**Answer:** (B) cat", "B"),
        (r"so $\boxed{\text{B}}$", "B"),
        ("#### B", "B"),
        ("answer is b.", "B"),
        ("Therefore, B is correct", "B"),
        ("So option (B) cat is the correct choice.", "B"),
        ("Final answer: B. 6 dollars", "B"),
        ("Answer:\n\nC) bowling alley", "C"),
        ("Hence the answer is Answer: (d) closed room", "D"),
        ("the answer is bowling alley", "C"),
        ("The answer is a closed room.", "D"),
        ("The answer is A closed room", "D"),
        ("The answer is A because dogs bark.", "A"),
        ("The correct answer is option D.", "D"),
        ("It is most likely to be heard there (E).", "E"),
        ("A place for shoes and pins. It is a bowling alley.", "C"),
        ("Dogs bark.\n\nB) cat", "B"),
        ("b)", "B"),
        ("cat", "B"),
        ("The answer is (a cat)", "B"),
        ("The best option is B.", "B"),
        ("The correct choice is (b).\nQuestion:\nWhat else?", "B"),
        ("Option B is the answer.", "B"),
        ("B is the right answer.", "B"),
        ("A cat is the correct one", "B"),
        ("<answer>B</answer>", "B"),
        ("It meows.\n<answer>\nB\n</answer>", "B"),
        ("The answer is “B”.", "B"),
        ("The answer is definitely B", "B"),
        ("Answer:\n- B", "B"),
    ],
)
def test_reads_a_label(text: str, label: str) -> None:
    assert read_answer(text, "choice", CHOICES).value == label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("The answer is (A). Wait, it meows, so the answer is (B).", "B"),
        ("The answer is not B. The answer is (C).", "C"),
        ("The answer is (C). The answer is not A.", "C"),
        ("The answer is B, and C is wrong.", "B"),
        ("The answer is (A) is false. The answer is (D).", "D"),
        ("It barks. The answer is (A).\n\nNow, let's summarize all the answers:\nThe answer is (B).", "A"),
        ("It barks. The answer is (A).\n\nWait, that is wrong.\n\nThe answer is (B).", "B"),
        ("It barks. The answer is (A).\nQuestion: What meows?\nThe answer is (B).", "A"),
    ],
)
def test_the_last_conclusion_stands_unless_the_model_runs_on(text: str, label: str) -> None:
    assert read_answer(text, "choice", CHOICES).value == label


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   \n",
        "Answer: A or B",
        "The answer is (A) and (C).",
        "The answer is (A), (C), (D).",
        "The answer is none of the above.",
        "The answer isn't C",
        "The answer is (F).",
        "The answer must be a place with noise.",
        "Cats (B) are not likely to bark.",
        "(a) dog\n(b) cat\n(c) bowling alley",
        "It barks and it meows and then",
        "I don't think the answer is A.",
        "The best option is A or B.",
        "The best option is not A.",
        "B is not the right answer",
        "So we are left with P(B)",
        "It follows from f(a)",
    ],
)
def test_leaves_a_text_that_commits_to_nothing_unread(text: str) -> None:
    answer = read_answer(text, "choice", CHOICES)
    assert (answer.status, answer.value, answer.rationale) == ("unread", None, text.strip())


@pytest.mark.parametrize(
    ("text", "label"),
    [("5", "A"), ("-5", "C"), ("5.5", "E"), ("5,000", "D"), ("5 x 2 = 10", "B"), ("5 apples", "A"), ("7", None)],
)
def test_an_option_that_is_a_number_is_compared_as_one(text: str, label: str | None) -> None:
    options = [{"label": o, "text": t} for o, t in zip("ABCDE", ("5", "10", "-5", "5000", "5.5"), strict=True)]
    assert read_answer(f"The answer is {text}", "choice", options).value == label


@pytest.mark.parametrize(("text", "label"), [("Answer: True", "A"), ("So the final answer is no.", "B")])
def test_yes_and_true_are_one(text: str, label: str) -> None:
    assert read_answer(text, "choice", YES_NO).value == label


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 18", "18"),
        ("answer: 1,234.50", "1234.5"),
        ("The answer is $18.", "18"),
        ("The answer is -5.", "-5"),
        ("The answer is 42 apples.", "42"),
        ("The answer is 3.5 km/h.", "3.5"),
        ("Answer: 50%", "50"),
        (r"\boxed{\frac{1}{2}}", "0.5"),
        (r"The answer is $\frac{2}{6}$.", "1/3"),
        (r"answer is \boxed{1{,}234}", "1234"),
        (r"\[ x = \boxed{\sqrt{16}} \]", "4"),
        ("Hence the answer is 19 - 5 = 14.", "14"),
        ("The answer is 18, i.e. 9 * 2.", "18"),
        ("He had 9. So he has 13-2 = 11 more.", "11"),
        ("406.0 - 132.0 = 274.0", "274"),
        ("He spent $5. The total is $ 900.", "900"),
        ("So it is 17 000/5 = 3 400.", "3400"),
        ("He can store 2400 / 200 = 12 200-kilobyte videos.", "12"),
        ("The answer is negative 5.", "-5"),
        ("The answer is minus 5.", "-5"),
        ("The answer is 53, i.e. 79 minus 26.", "53"),
        ("Answer:\n- 5 apples", "5"),
        ("<answer>5</answer>", "5"),
    ],
)
def test_reads_a_number(text: str, number: str) -> None:
    assert read_answer(text, "number").value == number


@pytest.mark.parametrize(
    "text",
    [
        "The answer is 5 or 6",
        "The answer is 136.0 - 27.0",
        "I cannot say.",
        r"\boxed{\sqrt{2}}",
        "The answer is x=5 or x=-5",
        "The answer is 5 and 6",
        "The answer is between 5 and 6",
        "The answer is 3:4",
        "The answer is 10:30",
        "The answer is 3 hours and 20 minutes",
    ],
)
def test_leaves_a_number_that_is_not_settled_unread(text: str) -> None:
    assert read_answer(text, "number").status == "unread"


def test_reads_a_text_as_it_stands() -> None:
    assert read_answer("Long ago.\nThe answer is **Marie Curie**.", "text").value == "Marie Curie"
    assert read_answer("Marie Curie", "text").value == "Marie Curie"
    assert read_answer("The answer is St. Louis. It is big.", "text").value == "St. Louis"


@pytest.mark.parametrize(
    ("text", "rationale"),
    [
        ("It barks.\nThe answer is (A).", "It barks."),
        ("It barks, so the answer is (A)", "It barks"),
        ("It barks. **Therefore, the most likely answer is (A).**", "It barks."),
        ("1. It barks.\n2. Therefore the answer is A) dog.", "1. It barks."),
        ("It barks. The answer is (A).\n\nNow, all answers:\nThe answer is (B).", "It barks."),
        ("The answer is (A).", ""),
        ("**Answer: A**\n\nIt barks, which is what dogs do.", "It barks, which is what dogs do."),
        (
            "It barks. The answer is (A).\n\nDogs do.\nCats do not.",
            "It barks. The answer is (A).\n\nDogs do.\nCats do not.",
        ),
    ],
)
def test_the_rationale_lacks_the_answer_line(text: str, rationale: str) -> None:
    assert read_answer(text, "choice", CHOICES).rationale == rationale


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,234.50", "1234.5"),
        ("1/2", "0.5"),
        ("2/6", "1/3"),
        ("-0", "0"),
        (".5", "0.5"),
        ("5.", "5"),
        ("1.5e3", "1500"),
        ("1.5 × 10^3", "1500"),
        (r"1.5 \times 10^{-3}", "0.0015"),
        ("−5", "-5"),
        ("$-5", "-5"),
        ("3 1/2", "3.5"),
        ("5 apples", "5"),
        (r"\frac{10}{-4}", "-2.5"),
        ("2^{10}", "1024"),
        ("five", None),
        ("", None),
        ("--3", None),
        ("1,23", None),
        ("1/0", None),
        ("12:30", None),
        ("1.2.3", None),
        ("5 apples and 3 pears", None),
        ("1e9999", None),
        ("9" * 500, None),
        ("9^{9^{9}}", None),
        ("__import__('os').system('true') + 1", None),
    ],
)
def test_canonical_number(text: str, number: str | None) -> None:
    assert canonical_number(text) == number


def test_latex_is_read_off_the_main_thread() -> None:
    found: list[str | None] = []
    thread = threading.Thread(target=lambda: found.append(canonical_number(r"\frac{3}{4} \times 12")))
    thread.start()
    thread.join()
    assert found == ["9"]


@pytest.mark.parametrize("endless", ["((9^{999})^{999})^{999}", r"\sqrt{((9^{999})^{999})^{99}}"])
def test_an_expression_that_would_be_computed_for_ever_is_unread_and_hurts_no_other(endless: str) -> None:
    assert read_answer(rf"The answer is \boxed{{{endless}}}", "number").status == "unread"
    assert canonical_number(r"\sqrt{6 \times 24}") == "12"


def test_same_answer_and_grade() -> None:
    assert same_answer("b", "B", "choice")
    assert same_answer("0.5", "1/2", "number")
    assert same_answer("The Beatles!", "beatles", "text")
    assert not same_answer("1/3", "0.333", "number")
    assert not same_answer("?", "!", "text")
    assert grade("18.0", "18", "number")
    assert not grade(None, "18", "number")


@given(st.text(), st.sampled_from(["choice", "number", "text"]))
def test_never_raises_on_any_text(text: str, task: str) -> None:
    answer = read_answer(text, task, CHOICES)
    assert (answer.status == "read") == (answer.value is not None)


_PIECES = st.sampled_from(
    [
        "answer",
        "Answer:",
        " is ",
        "not ",
        "(A)",
        "B",
        "\\boxed{",
        "}",
        "#### ",
        "correct",
        "\n",
        "\n\n",
        ". ",
        "=",
        "1/",
        "7",
    ]
)


@given(st.lists(_PIECES, max_size=30).map("".join), st.sampled_from(["choice", "number", "text"]))
def test_never_raises_on_broken_conclusions(text: str, task: str) -> None:
    answer = read_answer(text, task, CHOICES)
    assert answer.rationale in text


@given(st.fractions(max_denominator=10_000))
def test_canonical_numbers_are_exact_and_stay_as_they_are(value: Fraction) -> None:
    text = canonical_number(f"{value.numerator}/{value.denominator}")
    assert text is not None
    assert Fraction(text) == value
    assert canonical_number(text) == text
    assert read_answer(f"The answer is {text}.", "number").value == text


@given(st.text())
def test_canonical_number_is_idempotent(text: str) -> None:
    number = canonical_number(text)
    assert number is None or canonical_number(number) == number


@given(st.sampled_from("ABCDE"), st.sampled_from(["", "Dogs bark. ", "It is not (A).\n"]))
def test_reads_back_what_was_written(label: str, before: str) -> None:
    assert read_answer(f"{before}The answer is {label}.", "choice", CHOICES).value == label


@pytest.mark.data
def test_agrees_with_the_answers_on_file() -> None:
    import polars as pl

    data = Path(os.environ.get("RAFFINATE_DATA", "../shared/data"))
    if not (data / "responses.parquet").exists():
        pytest.skip(f"real answers are absent: {data}")
    questions = pl.read_parquet(data / "questions.parquet").select("dataset", "question_id", "choices")
    rows = (
        pl.read_parquet(data / "responses.parquet")
        .filter(dataset="mmlu_pro")
        .join(questions, on=["dataset", "question_id"])
    )
    ours = [read_answer(t, "choice", c).value for t, c in rows.select("rationale", "choices").iter_rows()]
    pairs = [(o, t) for o, t in zip(ours, rows["predicted_answer"], strict=True) if o is not None and t is not None]
    assert len(pairs) / rows["predicted_answer"].is_not_null().sum() > 0.98
    assert sum(o == t for o, t in pairs) / len(pairs) > 0.995
