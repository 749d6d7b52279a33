"""Fine-tune any Hugging Face encoder together with a router's head; on a GPU where there is one.

Knowledge purification (arXiv 2602.01064) and RouterDC (arXiv 2409.19886) fine-tune mDeBERTa-v3-base and read its first
token. AdamW with a smaller rate for the encoder than for the head, rates rising over the first tenth of the steps and
falling to zero; a long text loses its beginning, so that the options at its end survive. After each pass the held-out
train questions are routed: the pass with the best routed accuracy is kept (ties: the lower loss), not the best on the
questions it learnt from.

The weights travel in the purifier's state, with the configuration and the tokenizer's files as bytes: a saved router
needs no download, and is as large as its encoder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from purifiers.encoder import EMBEDDING, Vectors, embed, model_folder, reported
from purifiers.equipment import OnFit, untold
from purifiers.train_head import Arrays, Rows, batches

if TYPE_CHECKING:
    from torch import Tensor

WEIGHT, FILE = "encoder.", "encoder-file."
"""Prefixes in a purifier's state: of a parameter, and of a file as bytes."""

HeadLoss = Callable[["dict[str, Tensor]", "Tensor", Rows, bool], "Tensor"]
"""Loss of some rows, given the head's parameters and the rows' vectors; the flag says whether it is a training step."""
HeadScore = Callable[["dict[str, Tensor]", "Tensor"], "Tensor"]
"""(B, T) scores of the teachers, given the head's parameters and (B, D) vectors."""


class FineTuning(BaseModel):
    """Settings of fine-tuning an encoder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=5, gt=0, description="passes over the train questions at most")
    patience: int = Field(default=2, gt=0, description="passes without a better routed accuracy before it stops")
    batch: int = Field(default=16, gt=0, description="questions per step")
    rate: float = Field(default=2e-5, gt=0, description="learning rate of the encoder")
    head_rate: float = Field(default=1e-3, gt=0, description="learning rate of the head")
    decay: float = Field(default=0.01, ge=0, description="weight decay of AdamW")
    length: int = Field(default=512, gt=7, description="longest text (tokens); a longer one loses its beginning")
    pooling: Literal["first", "mean"] = Field(default="first", description="vector of the first token, or mean of all")
    held_out: int = Field(default=6, gt=1, description="one in this many train questions is held out to stop on")
    seed: int = Field(default=0, description="of the start, the order, dropout and the hold-out")


def or_default(value: Any) -> Any:
    """``true`` for the default settings, ``false`` for none, as people write them."""
    return FineTuning() if value is True else None if value is False else value


class Encoder:
    """A transformer and its tokenizer that turn texts into vectors.

    Args:
        model: the network.
        tokenizer: its own.
        settings: length and pooling.
    """

    def __init__(self, model: Any, tokenizer: Any, settings: FineTuning) -> None:
        import torch

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.tokenizer, self.settings = model.to(self.device), tokenizer, settings
        self.tokenizer.truncation_side = "left"

    @classmethod
    def load(cls, name: str, settings: FineTuning) -> Self:
        """A pretrained one.

        Raises:
            MissingExtraError: torch or transformers is not installed.
            InputError: the model cannot be loaded.
        """
        with reported(name):
            import torch
            from transformers import AutoModel, AutoTokenizer

            folder = model_folder(name)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(settings.seed)  # a layer that the files lack, such as a pooler, is made at random
                model = AutoModel.from_pretrained(folder)
            return cls(model, AutoTokenizer.from_pretrained(folder), settings)

    @classmethod
    def restored(cls, state: Mapping[str, npt.NDArray[Any]], settings: FineTuning) -> Self:
        """The one in a purifier's state."""
        with reported("in the saved router"), tempfile.TemporaryDirectory() as folder:
            import torch
            from transformers import AutoConfig, AutoModel, AutoTokenizer

            for name, content in state.items():
                if name.startswith(FILE):
                    (Path(folder) / name.removeprefix(FILE)).write_bytes(content.tobytes())
            with torch.random.fork_rng(devices=[]):
                model = AutoModel.from_config(AutoConfig.from_pretrained(folder))  # type: ignore[no-untyped-call]
            weights = {n.removeprefix(WEIGHT): torch.tensor(a) for n, a in state.items() if n.startswith(WEIGHT)}
            model.load_state_dict(weights)
            return cls(model, AutoTokenizer.from_pretrained(folder), settings)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Weights and files, for `restored`."""
        found = {WEIGHT + n: t.detach().float().cpu().numpy() for n, t in self.model.state_dict().items()}
        with tempfile.TemporaryDirectory() as folder:
            self.model.config.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            files = [p for p in sorted(Path(folder).iterdir()) if p.is_file()]
            return found | {FILE + p.name: np.frombuffer(p.read_bytes(), np.uint8) for p in files}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(B, D) vectors, with their gradient where one is asked for."""
        import torch

        read = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
        ).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            hidden: Tensor = self.model(**read).last_hidden_state.float()  # (B, L, D)
        if self.settings.pooling == "first":
            return hidden[:, 0]
        mask: Tensor = read["attention_mask"].unsqueeze(2)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1)

    @property
    def longest(self) -> int:
        """The setting, or what the model has positions for if that is less."""
        most = getattr(self.model.config, "max_position_embeddings", None) or self.settings.length
        return int(min(self.settings.length, most, self.tokenizer.model_max_length))

    def vectors(self, texts: Sequence[str], on_fit: OnFit = untold, batch: int = 32) -> npt.NDArray[np.float32]:
        """(N, D) vectors, texts of about equal length together; ``on_fit`` is told how many are done."""
        import torch

        self.model.eval()
        order = np.argsort([len(t) for t in texts], kind="stable")
        found = np.zeros((len(texts), self.model.config.hidden_size), np.float32)
        with torch.no_grad():
            for start in range(0, len(order), batch):
                part = order[start : start + batch]
                found[part] = self([texts[i] for i in part]).cpu().numpy()
                on_fit(start + len(part), len(order), EMBEDDING)
        return found


def encoder_of(
    name: str, settings: FineTuning | None, state: Mapping[str, npt.NDArray[Any]], on_fit: OnFit
) -> Callable[[Sequence[str]], Vectors]:
    """What turns a fitted router's texts into (N, D) vectors: a frozen encoder, or the one that it fine-tuned."""
    if settings is None:
        return lambda texts: embed(texts, name, on_fit)
    encoder = Encoder.restored(state, settings)
    return lambda texts: encoder.vectors(texts, on_fit)


@dataclass(frozen=True)
class Lesson:
    """What a head and its encoder learn.

    Attributes:
        texts: the Q questions.
        correct: (Q, T) 1 right, 0 wrong, -1 unknown.
        loss: mean loss of some rows.
        score: the teachers' scores, for the routed accuracy.
    """

    texts: Sequence[str]
    correct: npt.NDArray[np.int8]
    loss: HeadLoss
    score: HeadScore


def fine_tune(encoder: Encoder, start: Arrays, lesson: Lesson, rows: tuple[Rows, Rows], on_fit: OnFit) -> Arrays:
    """Train encoder and head; the encoder is changed in place, the head's parameters are returned.

    Args:
        encoder: the one to train.
        start: the head's parameters to start from.
        lesson: questions, outcomes, loss and scores.
        rows: to learn from, and to stop on.
        on_fit: told after every step; there are fewer where training stops early.
    """
    import torch

    settings, (inside, outside) = encoder.settings, rows
    rng = np.random.default_rng(settings.seed)
    with torch.random.fork_rng(devices=[encoder.device] if encoder.device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        head = {name: torch.tensor(value, requires_grad=True, device=encoder.device) for name, value in start.items()}
        body = list(encoder.model.parameters())
        groups = [{"params": body, "lr": settings.rate}, {"params": [*head.values()], "lr": settings.head_rate}]
        optimiser = torch.optim.AdamW(groups, weight_decay=settings.decay)
        steps = settings.epochs * -(-len(inside) // settings.batch)
        slope = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps))
        best, kept, waited = (-np.inf, -np.inf), (_copied(encoder.model.state_dict()), dict(start)), 0
        for _ in range(settings.epochs):
            encoder.model.train()
            for part in batches(rng.permutation(inside), settings.batch):
                optimiser.zero_grad()
                loss = lesson.loss(head, encoder([lesson.texts[i] for i in part]), part, True)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_([*body, *head.values()], 1.0)
                optimiser.step()
                slope.step()
                right = f"  held out {best[0]:.1%}" if np.isfinite(best[0]) else ""
                on_fit(slope.last_epoch, steps, f"loss {float(loss.detach()):.3f}{right}")
            now = _judged(encoder, head, lesson, outside)
            waited = 0 if now > best else waited + 1
            if now > best:
                arrays = {name: p.detach().cpu().numpy().copy() for name, p in head.items()}
                best, kept = now, (_copied(encoder.model.state_dict()), arrays)
            if waited >= settings.patience:
                break
    encoder.model.load_state_dict(kept[0])
    return kept[1]


def _judged(encoder: Encoder, head: dict[str, Tensor], lesson: Lesson, rows: Rows) -> tuple[float, float]:
    """Routed accuracy of held-out rows, and minus their loss."""
    import torch

    vectors = torch.from_numpy(encoder.vectors([lesson.texts[i] for i in rows])).to(encoder.device)
    with torch.no_grad():
        scores = lesson.score(head, vectors).cpu().numpy()
        now = float(lesson.loss(head, vectors, rows, False))
    picked = np.where(lesson.correct[rows] >= 0, scores, -np.inf).argmax(axis=1)
    return float((lesson.correct[rows, picked] == 1).mean()), -now


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def _rate(step: int, steps: int) -> float:
    rising = max(1, steps // 10)
    return min((step + 1) / rising, max(0.0, (steps - step) / max(1, steps - rising)))
