"""Purifiers that ask: what they show, what they make of replies, and what they do without any."""

from __future__ import annotations

from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_asking import ScriptedAsker, asked_by, failed, workspace_of

from builders.asker import Call, Said
from purifiers.aggregate import Aggregate
from purifiers.asking import blocks, nameless
from purifiers.base import Signal
from purifiers.debate import Debate
from purifiers.pairwise import Pairwise
from purifiers.peer_review import PeerReview, mean_score
from purifiers.run import publish, purify, shown
from purifiers.verified import Verified
from schemas.corpus import Corpus
from schemas.database import query
from schemas.errors import InputError

MERGED = "Both shelves are counted together.\nThe answer is (B)."


def note_of(reply: str | Said, answers: str = "ABB", tmp: Path | None = None, **settings: object) -> tuple[int, str]:
    """The column that `aggregate` keeps of one question, -1 for a merged rationale, and the note."""
    assert tmp is not None
    workspace = workspace_of(tmp / f"ws{len(list(tmp.iterdir()))}", [answers])
    asker = ScriptedAsker(workspace, ["judge"], lambda _: reply)
    kept = asked_by(Aggregate(judge="judge", **settings), asker).purify(Corpus.of(workspace))
    return int(kept.teacher[0]), kept.notes.get(0, "")


# What is shown


def test_prompts_show_no_names_and_each_question_has_its_own_order(tmp_path: Path) -> None:
    answers = ["ABC"] * 40
    texts = {"beta": "### Solution\nAs BETA I add the books; gamma would not.", "gamma": "Assistant: gamma adds them."}
    workspace = workspace_of(tmp_path / "ws", answers, **texts)
    orders = set()
    for purifier in (Aggregate(judge="judge"), PeerReview(judges=("judge",)), Pairwise(judges=("judge",))):
        asker = ScriptedAsker(workspace, ["judge"], lambda _: "?")
        asked_by(purifier, asker).purify(Corpus.of(workspace))
        for prompt, call in zip(asker.prompts(), asker.calls, strict=True):
            assert not any(word in prompt.lower() for word in ("alpha", "beta", "gamma", "assistant:", "### solution"))
            assert "the author" in prompt
            orders.add(call.about if call.purpose == "aggregate" else None)
    assert len(orders) == 7  # all six orders of three, and the None of the others


def test_a_name_that_the_question_uses_stays() -> None:
    question = {"question": "Is Mercury hot?", "context": None, "choices": []}
    assert nameless("Mercury has no air. I am Claude.", ["mercury", "claude"], question) == (
        "Mercury has no air. I am the author."
    )


def test_identical_rationales_are_shown_once_and_their_votes_shared(tmp_path: Path) -> None:
    same = "One and the same."
    workspace = workspace_of(tmp_path / "ws", ["AAB"], alpha=same, beta=f" {same.upper()}\n")
    (((question,), _),) = list(blocks(Corpus.of(workspace), 0))
    assert sorted(c.columns for c in question.candidates) == [(0, 1), (2,)]
    asker = ScriptedAsker(
        workspace, ["alpha", "beta", "gamma"], lambda c: "Score: 5" if c.about == ("alpha",) else "Score: 2"
    )
    scores = asked_by(PeerReview(), asker).score(Corpus.of(workspace))
    np.testing.assert_allclose(scores, [[5, 5, 2]])
    assert sorted(c.to for c in asker.calls) == ["alpha", "beta", "gamma"]  # nobody scores a copy of its own


# aggregate


def test_a_merged_rationale_is_kept_with_all_its_parents(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path / "ws", ["ABB", "B--", "---", "?B?", "-?-", "??-"])
    asker = ScriptedAsker(workspace, ["gamma", "x"], lambda _: MERGED)
    _, kept = publish(workspace, asked_by(Aggregate(judge="gamma"), asker))
    rows = query(workspace, "SELECT * FROM purified ORDER BY question_id").to_pylist()
    first, alone, mixed, unread, both_unread = rows
    assert (unread["teacher_id"], unread["predicted_answer"]) == ("beta", None)
    assert (both_unread["written_by"], both_unread["predicted_answer"]) == ("gamma", "B")
    assert first["rationale"] == "Both shelves are counted together." and first["predicted_answer"] == "B"
    assert first["written_by"] == "gamma" and first["teacher_id"] is None and first["agreement"] == pytest.approx(2 / 3)
    assert [p["teacher_id"] for p in first["parents"]] == ["alpha", "beta", "gamma"]
    assert first["note"] == "merged by gamma, itself one of the teachers" == mixed["note"]
    assert first["completion"].endswith("counted together.\nThe answer is (B).")
    assert (alone["teacher_id"], alone["written_by"], alone["note"]) == ("alpha", None, None)
    assert kept.rejected == {2: "no teacher has a usable response"}
    assert [c.question_id for c in asker.calls] == ["q00000", "q00003", "q00005"]  # one rationale asks nobody
    assert set(first["signals_used"]) == {"question", "rationales", "answers", "llm"}


@pytest.mark.parametrize(
    ("reply", "settings", "why"),
    [
        ("", {}, "an empty reply"),
        (failed(), {}, "timeout: no whole reply within 600 s"),
        (Said(None, "refused", "refused to answer"), {}, "refused to answer"),
        (Said(MERGED, "truncated", ""), {}, "it was cut at the token limit"),
        ("The answer is (B).", {}, "it is empty"),
        ("They are counted.", {}, "no answer could be read in it"),
        ("word " * 16 + MERGED, {"words": 10}, "it has 21 words, 10 were asked for"),
        (MERGED.replace("(B)", "(D)"), {}, "it concludes in (D), which no rationale reached"),
        (MERGED.replace("(B)", "(A)"), {"majority": True}, "it concludes in (A), not in (B)"),
    ],
)
def test_a_merged_rationale_that_cannot_be_used_gives_way(
    tmp_path: Path, reply: str | Said, settings: dict[str, object], why: str
) -> None:
    column, note = note_of(reply, tmp=tmp_path, **settings)
    assert column in (1, 2)  # the majority's answer is B
    assert note == f"the merged rationale was not taken: {why}"


def test_the_majority_is_stated_only_if_there_is_one(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path / "ws", ["ABB", "ABC", "AB?"])
    asker = ScriptedAsker(workspace, ["judge"], lambda _: MERGED)
    asked_by(Aggregate(judge="judge", majority=True), asker).purify(Corpus.of(workspace))
    assert ["Most of them conclude: (B)" in p for p in asker.prompts()] == [True, False, False]


def test_gold_is_shown_on_train_alone_and_then_binds(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path / "train", ["ABB", "ABB", "AAB"], split="train", gold="BC?")
    asker = ScriptedAsker(workspace, ["judge"], lambda _: MERGED)
    purifier = asked_by(Aggregate(judge="judge", gold=True), asker)
    assert Signal.GOLD in purifier.looks_at and Signal.GOLD not in Aggregate().looks_at
    _, kept = publish(workspace, purifier)
    assert [("Correct answer: (B)" in p, "Correct answer" in p) for p in asker.prompts()] == [
        (True, True), (False, True), (False, False),
    ]  # fmt: skip
    assert kept.notes[0] == "gold was shown to judge" and kept.notes.get(2, "") == ""
    why = "no teacher was right; the merged rationale was not taken: it concludes in (B), not in (C)"
    assert kept.rejected == {1: why}

    test = workspace_of(tmp_path / "test", ["ABB"] * 3, split="test", gold="BCA")
    judges: dict[str, Any] = {"judges": ("judge",), "gold": True}
    for method in (Aggregate(judge="judge", gold=True), PeerReview(**judges), Pairwise(**judges)):
        asker = ScriptedAsker(test, ["judge"], lambda _: MERGED)
        purify(asked_by(method, asker), Corpus.of(test))
        assert asker.calls and not any(call.gold_shown for call in asker.calls)
        assert not any("Correct answer" in prompt for prompt in asker.prompts())


def test_a_template_and_examples_of_ones_own(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path / "ws", ["AB"])
    (tmp_path / "mine.jinja").write_text(
        "{% for e in examples %}{{ e.question }}={{ e.answer }};{% endfor %}"
        "{{ question }}{{ rationales | length }}{{ words }}"
    )
    (tmp_path / "mine.jsonl").write_text(
        '{"question": "Q", "rationales": [{"text": "t", "answer": "1"}], "rationale": "r", "answer": "2"}\n'
    )
    own = {"judge": "judge", "prompt": str(tmp_path / "mine.jinja"), "examples": str(tmp_path / "mine.jsonl")}
    asker = ScriptedAsker(workspace, ["judge"], lambda _: MERGED)
    asked_by(Aggregate(**own, words=77), asker).purify(Corpus.of(workspace))
    assert asker.prompts()[0].startswith("Q=2;A shelf") and asker.prompts()[0].endswith("277")
    (tmp_path / "mine.jinja").write_text("{{ golden }}")
    with pytest.raises(InputError, match=r"prompt 'mine' uses 'golden' \(did you mean 'gold'\?\)"):
        asked_by(Aggregate(**own), asker).purify(Corpus.of(workspace))
    (tmp_path / "mine.jsonl").write_text('{"question": "Q", "rationales": ["t"], "rationale": "r", "answer": "2"}\n')
    with pytest.raises(InputError, match=r"mine\.jsonl, line 1: needs the texts question"):
        asked_by(Aggregate(judge="judge", examples=own["examples"]), asker).purify(Corpus.of(workspace))


@pytest.mark.parametrize(
    ("purifier", "sentence"),
    [
        (Aggregate(), "name it with --judge"),
        (Aggregate(judge="alhpa"), r"no teacher or judge 'alhpa' \(did you mean 'alpha'\?\)"),
        (Aggregate(judge="alpha", fallback="consensus"), "cannot fall back on 'consensus'"),
        (
            PeerReview(judges=("alpha",)),
            "nobody judge a rationale of its own, and with alpha asked nobody is left",
        ),
        (Pairwise(judges=("alpha", "beta")), "it takes 3 teachers of the recipe, or a judge that is no teacher"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, purifier: Aggregate, sentence: str) -> None:
    workspace = workspace_of(tmp_path / "ws", ["ABB"])
    asker = ScriptedAsker(workspace, ["alpha", "beta", "gamma"], lambda _: MERGED)
    with pytest.raises(InputError, match=sentence):
        asked_by(purifier, asker).purify(Corpus.of(workspace))
    with pytest.raises(InputError, match="none are at hand"):
        Aggregate(judge="alpha").purify(Corpus.of(workspace))


# peer-review


def test_scores_are_means_over_the_others_and_unreadable_ones_are_masked(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path / "ws", ["ABC", "AB-", "ABC"])
    said = {
        ("alpha", "beta"): "Score: 5", ("alpha", "gamma"): "Score: 11/5",
        ("beta", "alpha"): "Score: 2", ("beta", "gamma"): "3 or 4",
        ("gamma", "alpha"): "Score: 4", ("gamma", "beta"): "I cannot",
    }  # fmt: skip

    def reply(call: Call) -> str | Said:
        assert call.to != call.about[0]
        return "" if call.question_id == "q00002" else said[call.to, call.about[0]]

    asker = ScriptedAsker(workspace, ["alpha", "beta", "gamma"], reply)
    corpus = Corpus.of(workspace)
    purifier = asked_by(PeerReview(), asker)
    np.testing.assert_allclose(purifier.score(corpus), [[3, 5, np.nan], [3, 5, np.nan], [np.nan] * 3])
    kept = purifier.purify(corpus)
    assert kept.teacher.tolist() == [1, 1, -1] and kept.rejected == {2: "no judge gave a readable score"}
    strict = asked_by(PeerReview(threshold=5), asker).purify(corpus)
    assert strict.teacher.tolist() == [-1] * 3
    assert strict.rejected[0] == "no rationale has a mean score above 5"


def test_a_strict_judge_does_not_favour_itself_once_means_are_taken_out() -> None:
    # Judges 0 and 1 say 4 of a good one and 3 of a bad one, judge 2 says 2 and 1; the third teacher's is the bad one.
    nan = np.nan
    grid = np.array([[[nan, 4, 3.0]], [[4, nan, 3.0]], [[2, 2, nan]]])
    plain, centred = mean_score(grid, centred=False), mean_score(grid, centred=True)
    np.testing.assert_allclose(plain, [[3, 3, 3]])
    assert centred[0, 0] == centred[0, 1] > centred[0, 2]
    np.testing.assert_allclose(centred, [[3.25, 3.25, 2.5]])


# pairwise


def test_bradley_terry_by_hand(tmp_path: Path) -> None:
    """Two rationales, 3 votes to 1: xi_1 - xi_2 = log 3 as the ridge goes to 0."""
    workspace = workspace_of(tmp_path / "ws", ["AB"])
    votes = {("x", "alpha"): "Better: first", ("y", "alpha"): "Better: first", ("x", "beta"): "Better: second"}
    asker = ScriptedAsker(workspace, ["x", "y"], lambda c: votes.get((c.to, c.about[0]), "Better: first"))
    scores = asked_by(Pairwise(judges=("x", "y"), ridge=1e-6), asker).score(Corpus.of(workspace))
    assert scores[0, 0] - scores[0, 1] == pytest.approx(log(3), abs=1e-3)
    assert {c.about for c in asker.calls} == {("alpha", "beta"), ("beta", "alpha")} and len(asker.calls) == 4
    assert asked_by(Pairwise(judges=("x", "y")), asker).purify(Corpus.of(workspace)).teacher[0] == 0


def test_a_judge_that_loves_the_first_place_decides_nothing(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path / "ws", ["ABCD", "A---", "----", "AB--"])
    names = ["alpha", "beta", "gamma", "delta"]
    asker = ScriptedAsker(workspace, names, lambda c: "Better: first" if c.question_id == "q00000" else "?")
    corpus = Corpus.of(workspace)
    kept = asked_by(Pairwise(), asker).purify(corpus)
    np.testing.assert_allclose(asked_by(Pairwise(), asker).score(corpus)[0], 0, atol=1e-9)
    of_first = [c for c in asker.calls if c.question_id == "q00000"]
    assert len(of_first) == 2 * 4 * 3 * 2  # scored twice above: 12 ordered pairs, each by the two others
    assert all(c.to not in c.about for c in asker.calls)
    assert kept.teacher[1] == 0  # alone: kept without a vote
    assert kept.rejected == {
        2: "no teacher has a usable response", 3: "no vote between its rationales could be read",
    }  # fmt: skip


def test_votes_match_an_independent_fit(tmp_path: Path) -> None:
    """The scores solve the likelihood equations: expected wins are the wins, the ridge aside."""
    workspace = workspace_of(tmp_path / "ws", ["ABC"])
    beats = {("alpha", "beta"), ("alpha", "gamma"), ("gamma", "beta")}
    replies = iter(["Better: equal"])
    asker = ScriptedAsker(
        workspace,
        ["x", "y"],
        lambda c: next(replies, "Better: first" if c.about in beats else "Better: second"),
    )
    xi = asked_by(Pairwise(judges=("x", "y"), ridge=0.5), asker).score(Corpus.of(workspace))[0].astype(float)
    wins = np.zeros((3, 3))
    order = ["alpha", "beta", "gamma"]
    for number, call in enumerate(asker.calls):
        i, j = (order.index(t) for t in call.about)
        value = 0.5 if number == 0 else float(call.about in beats)
        wins[i, j] += value
        wins[j, i] += 1 - value
    chance = 1 / (1 + np.exp(xi[None, :] - xi[:, None]))
    gradient = (wins - (wins + wins.T) * chance).sum(axis=1) - 0.5 * xi
    np.testing.assert_allclose(gradient, 0, atol=1e-4)


# debate


def test_the_surest_revision_is_kept_and_weights_are_a_softmax(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path / "ws", ["ABB", "A--", "ABC", "---"])
    sure = {"alpha": 90, "beta": 60, "gamma": 60}

    def reply(call: Call) -> str:
        if call.question_id == "q00002":
            return "The answer is (A)."  # no confidence, no rationale
        return f"{call.purpose} says {call.to[0]}.\nThe answer is (A).\nConfidence: {sure[call.to]}"

    asker = ScriptedAsker(workspace, ["alpha", "beta", "gamma"], reply)
    kept = asked_by(Debate(tau=0.5), asker).purify(Corpus.of(workspace))
    weights = np.exp(np.array([0.9, 0.6, 0.6]) / 0.5)
    np.testing.assert_allclose(kept.probabilities[0], weights / weights.sum(), rtol=1e-5)
    made = kept.synthesised[0]
    assert (made.rationale, made.answer, made.written_by) == ("debate 2 says a.", "A", "alpha")
    assert made.teachers == (0, 1, 2) and kept.teacher.tolist() == [-1, 0, -1, -1]
    assert kept.rejected == {2: "no teacher said readably how sure it is", 3: "no teacher has a usable response"}
    rounds = [c.purpose for c in asker.calls if c.question_id == "q00000"]
    assert rounds == ["debate 1"] * 3 + ["debate 2"] * 3
    second = next(p for p, c in zip(asker.prompts(), asker.calls, strict=True) if c.purpose == "debate 2")
    assert "debate 1 says" in second and "counts the books" not in second  # round 2 is about what round 1 said


def test_equal_confidence_falls_to_the_answer_with_more_weight_and_silence_keeps_the_stance(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path / "ws", ["ABB"] * 8)

    def reply(call: Call) -> str | Said:
        if call.purpose == "debate 2" and call.to != "beta":
            return failed()
        answer = "A" if call.to == "alpha" else "B"
        return f"So says {call.to[0]} in {call.purpose}.\nThe answer is ({answer}).\n**Confidence: 80%**"

    asker = ScriptedAsker(workspace, ["alpha", "beta", "gamma"], reply)
    kept = asked_by(Debate(), asker).purify(Corpus.of(workspace))
    assert {m.answer for m in kept.synthesised.values()} == {"B"}
    assert {m.written_by for m in kept.synthesised.values()} == {"beta", "gamma"}  # the hash decides between the two
    assert {m.rationale for m in kept.synthesised.values()} == {"So says b in debate 2.", "So says g in debate 1."}
    assert not any("alpha" in p or "beta" in p for p in asker.prompts())


# verified


def test_gold_is_shown_to_the_best_teacher_where_nobody_was_right(tmp_path: Path) -> None:
    answers = ["AB"] * 12 + ["CC", "CC", "CC"]
    workspace = workspace_of(tmp_path / "ws", answers, split="train", gold="A" * 12 + "BBB")
    replies = {
        "q00012": "Counting gives it.\nThe answer is (B).",
        "q00013": "Counting gives another.\nThe answer is (C).",
        "q00014": "The correct answer is given as B.\nThe answer is (B).",
    }
    asker = ScriptedAsker(workspace, ["alpha", "beta"], lambda c: replies[c.question_id])
    purifier = asked_by(Verified(encoder=None, judge="best"), asker)
    _, kept = publish(workspace, purifier)
    assert {c.to for c in asker.calls} == {"alpha"} and all(c.gold_shown for c in asker.calls)
    assert all("Correct answer: (B)" in p for p in asker.prompts()) and len(asker.calls) == 3
    (row,) = query(workspace, "SELECT * FROM purified WHERE written_by IS NOT NULL").to_pylist()
    assert (row["question_id"], row["rationale"], row["predicted_answer"]) == ("q00012", "Counting gives it.", "B")
    assert row["note"] == "no teacher reached gold: it was shown to alpha" and row["parents"] == []
    assert "llm" in row["signals_used"]
    assert kept.rejected[13] == "no teacher was right; alpha, shown gold, does not conclude in it"
    assert kept.rejected[14].endswith("does not derive it but says that it was given")


def test_test_questions_are_never_asked_again_with_gold(tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path / "ws", ["AB"] * 12 + ["CC"] * 3, split="test", gold="A" * 12 + "BBB")
    corpus = Corpus.of(workspace)
    asker = ScriptedAsker(workspace, ["alpha"], lambda _: MERGED)
    fitted = asked_by(Verified(encoder=None, judge="alpha"), asker).fit(corpus)
    fitted.purify(shown(corpus, fitted))
    assert not asker.calls
