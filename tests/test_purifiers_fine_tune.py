"""Encoders trained together with a router: a tiny random BERT learns which word sends a question to whom."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from helpers_arrays import corpus_of  # noqa: E402
from helpers_cli import Cli  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: E402
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast  # noqa: E402

from purifiers.base import Purifier  # noqa: E402
from purifiers.classifier import Classifier  # noqa: E402
from purifiers.equipment import Equipment  # noqa: E402
from purifiers.fine_tune import Encoder, FineTuning  # noqa: E402
from purifiers.run import fit  # noqa: E402
from purifiers.similarity import Similarity  # noqa: E402
from purifiers.store import load, save  # noqa: E402
from schemas.corpus import Corpus  # noqa: E402
from schemas.errors import InputError  # noqa: E402

WORDS = ["the", "red", "blue", "car", "book", "runs", "lies", "fast", "here", "old", "new"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers with a tokenizer of `WORDS`."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def specialists(n: int, seed: int = 0) -> Corpus:
    """a is right on what is red, b on what is blue, c never."""
    rng = random.Random(seed)
    texts, answers = [], []
    for _ in range(n):
        red, car = rng.random() < 0.5, rng.random() < 0.5
        said = ["red" if red else "blue", "car" if car else "book"]
        texts.append(" ".join(["the", *said, *rng.sample(WORDS[5:], 3)]))
        answers.append("ABB" if red else "BAB")
    return corpus_of(answers, "A" * n, "train" if seed == 0 else "test", texts)


SETTINGS = FineTuning(epochs=6, patience=6, batch=8, rate=2e-3, head_rate=1e-2)


def methods(tiny: Path, settings: FineTuning = SETTINGS) -> list[Purifier]:
    return [
        Classifier(encoder=str(tiny), fine_tune=settings, hidden=16),
        Similarity(encoder=str(tiny), fine_tune=settings, clusters=2),
    ]


@pytest.mark.parametrize("which", [0, 1], ids=["classifier", "similarity"])
def test_it_learns_whom_to_ask_and_travels_with_its_router(tiny: Path, which: int, tmp_path: Path):
    test = specialists(60, seed=1)
    fitted = fit(methods(tiny)[which], specialists(120))
    kept = fitted.purify(test.hide_gold())
    assert (test.correct[np.arange(60), kept.teacher] == 1).mean() > 0.95
    save(fitted, tmp_path / "router")
    (tmp_path / "nothing").mkdir()
    again = load(tmp_path / "router")
    again = again.model_copy(update={"encoder": str(tmp_path / "nothing")})  # it needs no other copy of the encoder
    np.testing.assert_allclose(again.score(test), fitted.score(test), rtol=1e-5)


def test_the_loss_falls_and_the_best_pass_is_kept(tiny: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[float, float]] = []
    from purifiers import fine_tune

    judge = fine_tune._judged
    monkeypatch.setattr(fine_tune, "_judged", lambda *a: seen.append(judge(*a)) or seen[-1])
    fit(methods(tiny)[0], specialists(80))
    losses = [-minus for _, minus in seen]
    assert len(seen) == 6 and losses[-1] < 0.8 * losses[0] and seen[-1][0] == 1
    seen.clear()
    monkeypatch.setattr(fine_tune, "_judged", lambda *a: seen.append((1.0 - len(seen), 0.0)) or seen[-1])
    fit(methods(tiny, FineTuning(epochs=8, patience=2, rate=1e-3))[0], specialists(24))
    assert len(seen) == 3, "the first pass was the best: two more, and it stops"


@pytest.mark.parametrize("which", [0, 1], ids=["classifier", "similarity"])
def test_a_training_says_how_far_it_is(tiny: Path, which: int):
    told: list[tuple[int, int, str]] = []
    settings = FineTuning(epochs=3, patience=3, batch=8, rate=1e-3)
    fit(methods(tiny, settings)[which].equipped(Equipment(on_fit=lambda *now: told.append(now))), specialists(48))
    read = [now for now in told if now[2] == "embedding texts"]
    assert [done for done, *_ in read] == [32, 48] * which, "the questions' vectors, for the clusters"
    told = told[len(read) :]
    steps = told[-1][1]
    assert [done for done, _, _ in told] == list(range(1, steps + 1)) and steps % 3 == 0
    assert all(facts.startswith("loss ") for *_, facts in told)
    assert "held out" not in told[0][2] and "held out" in told[-1][2]


def test_the_seed_decides(tiny: Path):
    settings = FineTuning(epochs=1, rate=1e-3)
    first, again = (fit(methods(tiny, settings)[1], specialists(40)).state() for _ in range(2))
    assert first.keys() == again.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])


def test_a_long_text_loses_its_beginning_and_the_batch_does_not_matter(tiny: Path):
    encoder = Encoder.load(str(tiny), FineTuning(length=16))
    end = " ".join(WORDS + WORDS[:3])  # 14 words, and two marks
    vectors = encoder.vectors([end, "old new fast " * 20 + end, "the car"])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    np.testing.assert_allclose(encoder.vectors(["the car"])[0], vectors[2], atol=1e-5)
    mean = Encoder.load(str(tiny), FineTuning(pooling="mean")).vectors(["the car", "the car runs fast here"])
    np.testing.assert_allclose(
        mean[0], Encoder.load(str(tiny), FineTuning(pooling="mean")).vectors(["the car"])[0], atol=1e-5
    )


def test_it_is_switched_on_by_true_and_told_what_is_wrong(cli: Cli, tmp_path: Path):
    assert Classifier(fine_tune=True).fine_tune == FineTuning()
    assert Similarity(fine_tune={"epochs": 2}).fine_tune == FineTuning(epochs=2)
    assert Classifier(fine_tune=False).fine_tune is None
    with pytest.raises(InputError, match=r"encoder '.*nowhere' cannot be loaded"):
        fit(Classifier(encoder=str(tmp_path / "nowhere"), fine_tune=True), specialists(12))
    ran = cli("evaluate", tmp_path, "--methods", "classifier", "--set", "fine_tune={epochs: 0}")
    assert ran.code == 1
