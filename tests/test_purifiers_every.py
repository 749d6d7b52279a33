"""What every method that asks no LLM copes with: few or many teachers, missing responses, a late comer, the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers_corpus import make_workspace
from helpers_student import CountingStudent

from purifiers.base import Purifier, Signal
from purifiers.equipment import Equipment
from purifiers.registry import METHODS, method
from purifiers.run import fit, purify
from purifiers.store import load, save
from schemas.corpus import UNREAD, Corpus

CHOOSERS = [name for name in METHODS if method(name).chooses and Signal.LLM not in method(name)().looks_at]
STUDENT = Equipment(student=CountingStudent())


@pytest.fixture
def corpus(tmp_path: Path, stub_encoder: None) -> Corpus:
    """Four teachers; delta answers every second question, gamma not the first ten, nobody the sixth."""
    whole = Corpus.of(make_workspace(tmp_path / "ws", 50, ("alpha", "beta", "gamma", "delta"), methods=False))
    whole.usable[1::2, 3] = False
    whole.usable[:10, 2] = False
    whole.usable[5] = False
    return whole


def check(purifier: Purifier, corpus: Corpus, unable: int) -> None:
    """Every question is kept, with a usable rationale, or rejected; that of ``unable`` has none to keep."""
    kept = purify(purifier, corpus, folds=2)[1] if purifier.needs_fit else purifier.purify(corpus)
    rows = np.flatnonzero(kept.teacher >= 0)
    assert corpus.usable[rows, kept.teacher[rows]].all()
    assert set(rows.tolist()) | set(kept.rejected) == set(range(len(corpus)))
    assert unable in kept.rejected and not set(rows.tolist()) & set(kept.rejected)
    assert len(rows) > len(corpus) / 3


@pytest.mark.parametrize("name", CHOOSERS)
def test_any_number_of_teachers_and_missing_responses(name: str, corpus: Corpus):
    purifier = method(name)().equipped(STUDENT)
    for teachers in (("alpha",), corpus.teachers):
        check(purifier, corpus.with_teachers(teachers), 5)


@pytest.mark.parametrize("name", CHOOSERS)
def test_fitted_it_is_saved_without_pickle_and_judges_a_teacher_who_came_later(
    name: str, corpus: Corpus, tmp_path: Path
):
    purifier, hidden = method(name)().equipped(STUDENT), corpus.hide_gold()
    fitted = fit(purifier, corpus.with_teachers(["gamma", "alpha", "beta"])) if purifier.needs_fit else purifier
    save(fitted, tmp_path / "router")
    assert {file.suffix for file in (tmp_path / "router").iterdir()} <= {".json", ".safetensors"}
    again = load(tmp_path / "router").equipped(STUDENT)
    kept, same = fitted.purify(hidden), again.purify(hidden)
    np.testing.assert_array_equal(kept.teacher, same.teacher)
    np.testing.assert_array_equal(kept.score, same.score)
    rows = np.flatnonzero(kept.teacher >= 0)
    assert hidden.usable[rows, kept.teacher[rows]].all() and len(rows) > len(corpus) / 3


@pytest.mark.parametrize("name", ["consensus", "verified", "gate", "filtered"])
def test_train_questions_of_which_no_answer_was_read_spoil_nothing(name: str, corpus: Corpus):
    train = corpus.rows("train")
    corpus.answer[train] = UNREAD
    corpus.correct[train] = np.where(corpus.usable[train], 0, -1)
    fitted, kept = purify(method(name)().equipped(STUDENT), corpus, folds=2)
    assert not any(np.isnan(array).any() for array in fitted.state().values())
    others = np.setdiff1d(np.flatnonzero(corpus.usable.any(axis=1)), train)
    assert (kept.teacher[others] >= 0).all()
