"""What judges say is read or masked, never guessed."""

from __future__ import annotations

import pytest

from purifiers.verdicts import confidence, score, vote


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Score: 4", 4),
        ("It is right but terse.\n\n**Score: 4**", 4),
        ("Score: 4/5", 4),
        ("score = 4 out of 5.", 4),
        ("My score is 2.", 2),
        ("Rating: 4.5", 4.5),
        ("Score: 4 - clear, and right", 4),
        ("Score: 2 (it misses the point)", 2),
        ("5", 5),
        (" **3** \n", 3),
        ("Step 2 fails. Score: 1\nScore: 1", 1),
        ("", None),
        ("I cannot judge this.", None),
        ("Score: 11/5", None),
        ("Score: 8/10", None),
        ("Score: 0", None),
        ("Score: 6", None),
        ("Score: -3", None),
        ("Score: 3 or 4", None),
        ("Score: 3\nOn reflection, Score: 4", None),
        ("Score: 1-5", None),
        ("Score: 4, because 2 steps are missing", None),
        ("There are 3 steps and 4 numbers.", None),
        ("3 4", None),
        ("Score: high", None),
        ("Score:", None),
        ("Score: 4e9", None),
        ("Score: ４", 4),
        ("80%", None),
    ],
)
def test_scores(text: str, expected: float | None) -> None:
    assert score(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Confidence: 85", 85),
        ("The answer is (B).\nConfidence: 85%", 85),
        ("*Confidence:* 85/100", 85),
        ("confidence is 0", 0),
        ("Confidence: 101", None),
        ("Confidence: 0.9", None),
        ("Confidence: 1", 1),
        ("Confidence: between 80 and 90", None),
        ("Confidence: 80\nConfidence: 90", None),
        ("The answer is 85.", None),
        ("", None),
    ],
)
def test_confidences(text: str, expected: float | None) -> None:
    assert confidence(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Better: first", 1),
        ("The first skips a step.\n**Better: Second.**", 0),
        ("Better: equal", 0.5),
        ("Better: the second", 0),
        ("first", 1),
        ("", None),
        ("Better: A", None),
        ("Better: first or second", None),
        ("Better: first\nBetter: second", None),
        ("The first is better than the second.", None),
        ("I cannot say.", None),
    ],
)
def test_votes(text: str, expected: float | None) -> None:
    assert vote(text) == expected
