"""The settings of a student and of its training, each described once: ``--set k=v`` and the docs read them."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distill.checkpoint import NAME as CHECKPOINT

TINY = ("tiny-seq2seq", "tiny-causal")

Objective = Literal["multitask", "rationale-then-answer", "fine-tuning"]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def content(folder: Path) -> str:
    """Changes with the files in a folder, those of a training under way left aside."""
    files = sorted(f for f in folder.iterdir() if f.is_file() and not f.name.startswith(CHECKPOINT))
    stats = [(f, f.stat()) for f in files]
    return _content(tuple((f, s.st_size, s.st_mtime_ns) for f, s in stats))


@lru_cache
def _content(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Read once: a comparison asks for every cell."""
    digest = hashlib.sha256()
    for file, size, _ in files:
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]


class StudentSpec(_Settings):
    """Which model a student starts from, and how it reads and writes."""

    model: str = Field(
        default="tiny-seq2seq",
        description="`tiny-seq2seq` (a T5) or `tiny-causal` (a Llama) from scratch, a Hugging Face id, or a folder",
    )
    revision: str | None = Field(default=None, description="revision of a Hugging Face id")
    width: int = Field(default=64, ge=8, description="hidden size of a tiny student")
    layers: int = Field(default=2, ge=1, description="layers of a tiny student (of its encoder and its decoder each)")
    heads: int = Field(default=4, ge=1, description="attention heads of a tiny student")
    vocabulary: int = Field(default=1000, ge=300, description="at most so many tokens in a tiny student's vocabulary")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout of a tiny student while it is trained")
    lora_rank: int | None = Field(
        default=None, ge=1, description="train low-rank adapters of this rank (peft) in place of all weights"
    )
    chat: bool = Field(
        default=True, description="put a decoder's prompts into its chat template, where its tokenizer has one"
    )
    max_input: int = Field(
        default=512,
        ge=16,
        description="longest prompt (tokens); a longer question loses its beginning, not its options",
    )
    max_target: int = Field(default=256, ge=8, description="longest target (tokens)")

    @property
    def is_tiny(self) -> bool:
        """Whether it is made from scratch, with a tokenizer of its own."""
        return self.model in TINY

    @property
    def label(self) -> str:
        """The model in a table of results: sizes told where they are ours to choose, of a folder which one it held."""
        if self.is_tiny:
            return f"{self.model}-{self.layers}x{self.width}"
        held = f"@{self.files[:8]}" if self.files else ""
        return f"{self.model}{held}" + (f"+lora{self.lora_rank}" if self.lora_rank else "")

    @property
    def files(self) -> str | None:
        """A hash of the files of a model in a folder; None for others."""
        folder = Path(self.model).expanduser()
        return None if self.is_tiny or not folder.is_dir() else content(folder)

    def identity(self) -> dict[str, Any]:
        """All settings; of a model in a folder also its files, which may change under the same name."""
        return self.model_dump() | ({"files": self.files} if self.files else {})

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of twice the heads ({self.heads})")
        return self


class Training(_Settings):
    """What is minimised, for how long, and which weights are kept."""

    objective: Objective = Field(
        default="multitask",
        description="`multitask` (predict the answer, and explain it under another prefix), `rationale-then-answer` "
        "(one text: the rationale, then the answer), or `fine-tuning` (answers alone)",
    )
    rationale_weight: float = Field(default=1.0, ge=0, description="lambda: weight of the loss of each rationale task")
    teacher_weights: dict[str, float] = Field(
        default_factory=dict, description="lambda of single teachers, by id, where keep-all is to weigh them unequally"
    )
    normalise: Literal["token", "sequence"] = Field(
        default="token",
        description="`token`: mean over the target tokens of a batch, as the papers' code does; `sequence`: sum over "
        "tokens, mean over examples, as their formulas say",
    )
    epochs: float = Field(default=10, gt=0, description="passes over the questions")
    max_steps: int | None = Field(default=None, ge=1, description="optimiser steps; takes the place of epochs")
    batch_size: int = Field(default=16, ge=1, description="questions per optimiser step, with all their tasks")
    tokens_per_pass: int | None = Field(
        default=None,
        ge=64,
        description="most tokens in memory at a time; a larger batch is accumulated from several passes, which "
        "changes no gradient; null: 16,384, and up to 65,536 for a small model on a GPU. Where memory does not hold "
        "them, passes are halved",
    )
    cuda_graphs: bool = Field(
        default=True,
        description="on a GPU, record the passes of each shape that comes again, and launch them at a stroke; false: "
        "launch every operation anew, slower and in less memory",
    )
    learning_rate: float | None = Field(
        default=None, gt=0, description="null: 3e-3 for a tiny student, 2e-4 for adapters, 5e-5 otherwise"
    )
    warm_up: float = Field(default=0.05, ge=0, lt=1, description="share of the steps in which the rate rises")
    weight_decay: float = Field(default=0.01, ge=0, description="of AdamW")
    clip: float = Field(default=1.0, gt=0, description="largest norm of a gradient")
    seed: int = Field(default=0, ge=0, description="of the weights made, the order of questions, and dropout")
    bf16: bool | None = Field(default=None, description="compute in bfloat16; null: on a GPU that can")
    eval_every: int | None = Field(
        default=None, ge=1, description="steps between validations; null: ten times in the whole training"
    )
    eval_questions: int = Field(
        default=500,
        ge=1,
        description="most validation questions answered each time; of 500, chance alone moves accuracy by 2 points",
    )
    patience: int | None = Field(
        default=None, ge=1, description="stop after so many validations without a better one; null: never"
    )
    select_by: Literal["accuracy", "loss", "last"] = Field(
        default="accuracy", description="which weights are kept: best validation accuracy or loss, or the last"
    )
    checkpoint_every: int = Field(default=500, ge=1, description="steps between checkpoints, where there is a folder")

    @model_validator(mode="after")
    def _can_select(self) -> Self:
        if self.select_by == "loss" and self.objective == "rationale-then-answer":
            raise ValueError("select_by=loss is the loss of predicted answers, which rationale-then-answer has none of")
        if self.select_by == "last" and self.patience is not None:
            raise ValueError("patience waits for a better validation, and select_by=last makes none: leave out one")
        return self

    def identity(self) -> dict[str, Any]:
        """All settings but those that change no weight, beyond rounding and dropout's draws on a GPU."""
        return self.model_dump(exclude={"checkpoint_every", "tokens_per_pass", "cuda_graphs"})

    def rate_for(self, spec: StudentSpec) -> float:
        """The learning rate, or the default for this kind of student."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 3e-3 if spec.is_tiny else 2e-4 if spec.lora_rank else 5e-5
