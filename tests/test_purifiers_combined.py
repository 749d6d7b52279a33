"""`gate` and `filtered`: who chooses where, what is left out, and that both are saved with what is inside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from helpers_arrays import TextsOf, corpus_of
from helpers_asking import ScriptedAsker, asked_by, workspace_of
from helpers_cli import Cli
from helpers_corpus import make_workspace

from purifiers.base import Signal
from purifiers.equipment import Equipment
from purifiers.evaluate import evaluate
from purifiers.filtered import WHY, Filtered, repeated
from purifiers.gate import Gate
from purifiers.run import fit, publish, purify
from purifiers.store import load, save
from schemas.database import query
from schemas.errors import InputError


def test_the_gate_sends_agreed_questions_to_the_first_method(tmp_path: Path):
    corpus = corpus_of(["AAB"] * 6 + ["ABC"] * 6 + ["BBA"] * 2, "A" * 12 + "B" * 2)
    gate = Gate(first="majority", otherwise={"method": "best-teacher"})
    fitted = fit(gate, corpus)
    kept = fitted.purify(corpus_of(["BCC", "ABC", "C-A"], split="test"))
    assert kept.teacher[0] in (1, 2), "b and c agree"
    assert kept.teacher.tolist()[1:] == [0, 0], "nobody agrees: the best teacher"
    save(fitted, tmp_path)
    np.testing.assert_array_equal(load(tmp_path).score(corpus), fitted.score(corpus))
    assert fit(Gate(agree=3, first="majority", otherwise="best-teacher"), corpus).purify(corpus).teacher[13] == 0


def test_what_is_inside_says_what_is_looked_at_and_is_equipped():
    gate = Gate(first="gold-first", otherwise="comprehension")
    assert gate.looks_at >= {Signal.GOLD, Signal.STUDENT, Signal.ANSWERS}
    assert Gate(first="majority", otherwise="random").looks_at == {Signal.ANSWERS}
    equipment = Equipment()
    assert all(part.equipment is equipment for part in gate.equipped(equipment)._parts.values())


def test_what_is_inside_says_whether_gold_is_needed_and_whether_there_are_chances():
    unlabelled = corpus_of(["AAB", "BAB", "ABC"] * 4)
    for combined in (Filtered(chooser="majority"), Gate(first="majority", otherwise="random")):
        plain, kept = purify(combined, unlabelled)
        assert (kept.teacher >= 0).all() and not plain.state() and not combined.gives_chances
    (found,) = evaluate(corpus_of(["AAB"] * 4, "AAAA", "test"), [Filtered(chooser="majority")])
    assert found.accuracy == 1 and found.calibration is None
    assert Filtered(chooser="consensus").gives_chances
    assert not Gate(first="consensus", otherwise="majority").gives_chances
    with pytest.raises(InputError, match="gate learns from labelled train questions and there are none"):
        purify(Gate(first="majority", otherwise="best-teacher"), unlabelled)


def test_a_gate_asks_where_teachers_disagree_and_nowhere_else(tmp_path: Path):
    workspace = workspace_of(tmp_path / "ws", ["AAB", "ABC", "ABB", "CBA", "A--"], gold="AABB?", split="train")
    asker = ScriptedAsker(workspace, ["judge"], lambda _: "Both shelves are counted.\nThe answer is (B).")
    gate = Gate(first="majority", otherwise={"method": "aggregate", "judge": "judge"})
    assert Signal.LLM in gate.looks_at and Signal.LLM not in Gate(first="majority", otherwise="random").looks_at
    kept = publish(workspace, asked_by(gate, asker))[1]
    assert sorted(call.question_id for call in asker.calls) == ["q00001", "q00003"]
    assert set(kept.synthesised) == {1, 3} and kept.teacher[[0, 2, 4]].min() >= 0
    rows = query(workspace, "SELECT * FROM purified WHERE written_by = 'judge' ORDER BY question_id").to_pylist()
    assert [(r["method"], r["question_id"], r["predicted_answer"]) for r in rows] == [
        ("gate", "q00001", "B"), ("gate", "q00003", "B"),
    ]  # fmt: skip
    ledger = query(workspace, "SELECT DISTINCT method, judge_id, purpose, verdict FROM calls").to_pylist()
    assert ledger == [{"method": "gate", "judge_id": "judge", "purpose": "aggregate", "verdict": "B"}]
    with pytest.raises(InputError, match="aggregate asks teachers or judges and none are at hand"):
        publish(workspace, gate)


def test_a_judge_is_named_in_the_inner_method(cli: Cli, tmp_path: Path):
    ran = cli("purify", make_workspace(tmp_path / "ws", n=5).path, "--method", "gate", "--judge", "gpt")
    assert ran.code == 1 and "name the judge there, like {method: aggregate, judge: gpt}" in ran.err


class Said(TextsOf):
    """Rationales by teacher."""

    said: ClassVar = {
        "a": "we add two and two and so we get four in the end of it all " * 6,
        "b": "Wir addieren die beiden Zahlen und erhalten dann genau die gesuchte Summe der Bücher.",
        "c": "We add both of the numbers, which gives the sum that the question is asking for.",
    }

    def rationales(self, ids, teachers, samples):
        return [self.said[t] for t in teachers]


def test_what_repeats_itself_or_is_in_another_language_is_left_out():
    assert repeated(Said.said["a"]) > 0.8 > repeated(Said.said["c"]) == 0 == repeated("too short")
    corpus = corpus_of(["AAA", "AA-", "A--", "---"], "AAAA")
    corpus = replace(corpus, texts=Said(corpus.texts.texts))
    kept = fit(Filtered(chooser="majority", language="en"), corpus).purify(corpus)
    assert kept.teacher.tolist() == [2, -1, -1, -1]
    assert [kept.rejected[r] for r in (1, 2)] == [WHY, WHY] and kept.rejected[3] != WHY
    kept = fit(Filtered(chooser="best-teacher", repeating=1), corpus).purify(corpus)
    assert kept.teacher.tolist() == [0, 0, 0, -1]


def test_a_rationale_that_argues_for_another_option_is_left_out(tmp_path: Path):
    workspace = make_workspace(tmp_path / "ws", 10, methods=False)
    from schemas.corpus import Corpus

    corpus = Corpus.of(workspace)
    options = dict(zip(corpus.question_ids.to_pylist(), corpus.choice_texts(), strict=True))

    class Contrary:
        """Alpha's rationales end in the option after its own."""

        def __getattr__(self, name):
            return getattr(corpus.texts, name)

        def rationales(self, ids, teachers, samples):
            words = corpus.vocabulary.to_pylist()
            found = []
            for i, t in zip(ids, teachers, strict=True):
                row = corpus.question_ids.to_pylist().index(i)
                own = words[corpus.answer[row, corpus.teachers.index(t)]]
                label = "ABCDA"["ABCD".index(own) + 1] if t == "alpha" else own
                found.append(f"We add up and get {options[i][label]}, which is ({label}).")
            return found

    twisted = replace(corpus, texts=Contrary())
    left = Filtered(chooser="majority")._left(twisted)
    assert not left.usable[:, 0].any() and left.usable[:, 1:].all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"first": "concensus"}, r"no method 'concensus' \(did you mean 'consensus'"),
        (
            {"otherwise": {"method": "plackett-luce", "gama": 3}},
            r"plackett-luce has no setting 'gama' \(did you mean 'gamma'",
        ),
        ({"otherwise": "oracle"}, "oracle cannot be combined"),
        ({"otherwise": "keep-all"}, "keep-all cannot be combined"),
    ],
)
def test_an_inner_method_that_does_not_fit_is_told(settings: dict, said: str):
    from raffinate.recipe import make_purifier

    with pytest.raises(InputError, match=said):
        make_purifier("gate", settings)


def test_the_command_combines(cli: Cli, tmp_path: Path):
    path = make_workspace(tmp_path / "ws", 12, methods=False).path
    ran = cli("purify", path, "--method", "gate", "--set", "first=majority", "--set", "otherwise=random", "--json")
    assert ran.code == 0 and ran.json[0]["kept"] == 12
    assert cli("methods", "--json").code == 0
