"""Training throughput against the plain Hugging Face trainers on the same rows, and what n teachers cost.

    python -m benchmarks.distill [--models tiny-seq2seq,tiny-causal,5m-seq2seq,5m-causal] [--questions 600] [--rounds 2]
    python -m benchmarks.distill --gpu          FLAN-T5-base- and 0.5B-decoder-shaped students of random weights,
                                                with 32 and with 256 rows a step
    python -m benchmarks.distill --gpu --tiny   the same path with tiny shapes, on a CPU too: does it work?

Questions and rationales are the sandbox's. Both sides train the same rows (an answer and a rationale row per question),
as many per optimiser step (32 by default), AdamW, the same model class and weights, by turns in one process; a figure
is the best round. Seconds are the process's own on a CPU, so that other work on the machine does not count, and the
clock's on a GPU. Ours is `distill.train`; theirs is `Seq2SeqTrainer` with `DataCollatorForSeq2Seq`, or TRL's
`SFTTrainer` on prompts and completions, as their documentation shows them. Tokens are those of the texts: padding does
not count, so tokens/s compares useful work. "bf16_peak" is the share of the GPU's peak (H100 and H200 989, A100 312
Tflop/s, dense) that 6 flops per weight and token come to: of the layers for the tokens that go through them (of a
seq2seq student the encoder's for the prompt, the decoder's for the target), of the head for target tokens; attention
scores are not counted. Both sides keep float32 weights and compute in bfloat16 on a GPU, and both are run for a few
steps before the clock starts. Every run is printed as a line of JSON when it ends, so that what is cut off keeps its
figures.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from builders.sandbox.teachers import TEACHERS, Sample, reply
from builders.sandbox.world import questions, read
from distill.batches import Rows, rows_of
from distill.data import Examples
from distill.memory import ran_out
from distill.model import StudentModel, best_device, make_student, student_of
from distill.spec import StudentSpec, Training
from distill.tiny import tiny_tokenizer
from distill.train import train
from schemas.layout import answer_texts
from schemas.render import prompts

SPECS = {
    "tiny-seq2seq": StudentSpec(model="tiny-seq2seq"),
    "tiny-causal": StudentSpec(model="tiny-causal"),
    "5m-seq2seq": StudentSpec(model="tiny-seq2seq", width=256, layers=3, vocabulary=2000),
    "5m-causal": StudentSpec(model="tiny-causal", width=256, layers=5, vocabulary=2000),
}
SHAPES = ("flan-t5-base", "0.5b-decoder")
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
WARM_UP = 3
"""Steps before the clock starts."""


def sandbox_examples(n: int, teachers: int, seed: int = 0) -> Examples:
    """``n`` sandbox questions with the rationales of the first teachers; of several, each under a prefix of its own."""
    table = questions(n, seed=seed)
    texts, gold = prompts(table).to_pylist(), table["answer"].to_pylist()
    targets = answer_texts(table, table["answer"].combine_chunks())
    rows = [(i, t) for i in range(n) for t in range(teachers)]
    said = [reply(TEACHERS[t], read(texts[i]), Sample()).content for i, t in rows]
    return Examples(
        method="keep-all" if teachers > 1 else "purified",
        question_id=[table["question_id"][i].as_py() for i, _ in rows],
        prompt=[texts[i] for i, _ in rows],
        answer=[str(targets[i] or gold[i]) for i, _ in rows],
        rationale=[text.rpartition("\n")[0] for text in said],
        completion=said,
        teacher=[t if teachers > 1 else None for _, t in rows],
        weight=np.ones(len(rows), np.float32),
        teachers=tuple(t.name for t in TEACHERS[:teachers]) if teachers > 1 else (),
    )


@dataclass(frozen=True)
class Run:
    """How long a training is, and its batches: ``rows`` per optimiser step."""

    steps: int
    rows: int
    bf16: bool


def ours(student: StudentModel, examples: Examples, run: Run) -> tuple[float, int]:
    """Seconds and tokens of a training."""
    settings = Training(max_steps=run.steps, batch_size=run.rows // 2, select_by="last", bf16=run.bf16)
    started = clock()
    done = train(student, examples, settings)
    return clock() - started, done.tokens


def clock() -> float:
    """Seconds, see the head of this file."""
    import torch

    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def theirs(student: StudentModel, rows: Rows, run: Run) -> tuple[float, int]:
    """Seconds and tokens of the plain trainer; the loss of a decoder is on the completion alone, as ours."""
    import torch
    from datasets import Dataset

    common: dict[str, Any] = {
        "per_device_train_batch_size": run.rows, "max_steps": run.steps, "learning_rate": 1e-3, "report_to": "none",
        "bf16": run.bf16, "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    source, target = ([texts[i].tolist() for i in range(len(rows))] for texts in (rows.source, rows.target))
    tokens = Counted(student.is_seq2seq)
    with tempfile.TemporaryDirectory() as folder:
        if student.is_seq2seq:
            from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

            data = Dataset.from_dict({"input_ids": source, "labels": target})
            collate = tokens.counting(DataCollatorForSeq2Seq(student.encoder.tokenizer, model=student.model))
            arguments = Seq2SeqTrainingArguments(folder, **common)
            trainer: Any = Seq2SeqTrainer(student.model, arguments, train_dataset=data, data_collator=collate)
        else:
            from trl import SFTConfig, SFTTrainer

            ids = [a + b for a, b in zip(source, target, strict=True)]
            masks = [[0] * len(a) + [1] * len(b) for a, b in zip(source, target, strict=True)]
            data = Dataset.from_dict({"input_ids": ids, "completion_mask": masks})
            settings = SFTConfig(folder, max_length=None, gradient_checkpointing=False, **common)
            trainer = SFTTrainer(
                student.model, args=settings, train_dataset=data, processing_class=student.encoder.tokenizer
            )
            trainer.data_collator = tokens.counting(trainer.data_collator)
        started = clock()
        with redirect_stdout(sys.stderr):  # it prints a summary of its own
            trainer.train()
        return clock() - started, sum(tokens.batches[: run.steps])


class Counted:
    """Counts the tokens of each batch that a collator made; a loader fetches more of them than are trained on."""

    def __init__(self, is_seq2seq: bool) -> None:
        self.is_seq2seq = is_seq2seq
        self.batches: list[int] = []

    def counting(self, collate: Callable[..., Any]) -> Callable[..., Any]:
        def collated(features: list[dict[str, Any]]) -> Any:
            targets = sum(len(f["labels"]) for f in features) if self.is_seq2seq else 0  # a decoder's are in its input
            self.batches.append(sum(len(f["input_ids"]) for f in features) + targets)
            return collate(features)

        return collated


def throughput(
    name: str, make: Callable[[], StudentModel], examples: Examples, run: Run, rounds: int
) -> dict[str, Any]:
    """Tokens/s of both by turns, the best round of each, and the ratio; a side that memory does not hold has none."""
    import torch

    rows = rows_of(make().encoder, examples, "multitask")
    sides: dict[str, Callable[[Run], tuple[float, int]]] = {
        "ours": lambda run: ours(make(), examples, run),
        "theirs": lambda run: theirs(make(), rows, run),
    }
    best: dict[str, float] = {}
    for number in range(-1, rounds):  # the first is to warm up
        for side, trained in sides.items():
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            line: dict[str, Any] = {"model": name, "rows": run.rows, "side": side, "round": number}
            try:
                seconds, tokens = trained(run if number >= 0 else replace(run, steps=WARM_UP))
            except Exception as error:
                if not (ran_out(error) or "out of memory" in str(error)):
                    raise
                tell({**line, "failed": " ".join(str(error).split())[:200]})
                continue
            if number >= 0:
                best[side] = max(best.get(side, 0.0), tokens / seconds)
                tell({**line, "seconds": round(seconds, 3), "tokens": tokens, **memory_used()})
    student = make()
    found: dict[str, Any] = {"model": name, "rows": run.rows, "weights": student.parameters}
    found |= {side: round(speed) for side, speed in best.items()}
    if len(best) == len(sides):
        found["ratio"] = round(best["ours"] / best["theirs"], 2)
    flops = flops_per_token(student, rows)
    found["gflops_per_token"] = round(flops / 1e9, 4)
    if peak := bf16_peak():
        found["bf16_peak"] = {side: round(flops * speed / peak, 3) for side, speed in best.items()}
    tell(found)
    return found


def tell(line: dict[str, Any]) -> None:
    """Print a figure as soon as it is there."""
    print(json.dumps(line), flush=True)


def memory_used() -> dict[str, float]:
    """The most memory that tensors took since it was last asked, on a GPU."""
    import torch

    return {"peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2)} if torch.cuda.is_available() else {}


def flops_per_token(student: StudentModel, rows: Rows) -> float:
    """Training flops per prompt or target token, mean over the rows; see the head of this file."""
    prompt, target = len(rows.source.ids), len(rows.target.ids)
    model = student.model
    head, embeddings = (part.weight for part in (model.get_output_embeddings(), model.get_input_embeddings()))
    layers = student.parameters - embeddings.numel() - (0 if head is embeddings else head.numel())
    if student.is_seq2seq:
        encoder = sum(w.numel() for w in model.get_encoder().parameters() if w is not embeddings)
        through = encoder * prompt + (layers - encoder) * target
    else:
        through = layers * (prompt + target)
    return 6 * (through + head.numel() * target) / (prompt + target)


def bf16_peak() -> float | None:
    """Flop/s of this GPU; None where it is not known, or there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    return next((peak for name, peak in PEAKS.items() if name in torch.cuda.get_device_name()), None)


def cost_of_teachers(spec: StudentSpec, n: int) -> list[dict[str, Any]]:
    """An epoch on one purified rationale, and on those of one to four teachers: tokens for rationales, and seconds."""
    found = []
    student = make_student(spec, sandbox_examples(n, 4).texts())
    start = {name: w.detach().clone() for name, w in student.trainable().items()}
    for teachers in (1, 2, 3, 4):
        for name, weight in student.trainable().items():
            weight.data.copy_(start[name])
        examples, started = sandbox_examples(n, teachers), clock()
        done = train(student, examples, Training(epochs=1, select_by="last"))
        seconds = clock() - started
        found.append(
            {
                "rationales per question": teachers,
                "rationale_tokens": done.rationale_tokens,
                "seconds": round(seconds, 1),
                "rationale work of one": round(done.rationale_tokens / found[0]["rationale_tokens"], 2)
                if found
                else 1.0,
                "time of one": round(seconds / found[0]["seconds"], 2) if found else 1.0,
            }
        )
        tell(found[-1])
    return found


def shaped_like(name: str, texts: list[str], *, tiny: bool) -> Callable[[], StudentModel]:
    """A student of random weights with the shape of a pre-trained one, and the sandbox's tokenizer."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, T5Config, T5ForConditionalGeneration

    tokenizer = tiny_tokenizer(texts, 2000)
    ids: dict[str, Any] = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    if name == "flan-t5-base":
        shape = {"vocab_size": 32128, "d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12}
        small = {"vocab_size": 2048, "d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2}
        made: Any = T5Config
        config = made(
            d_kv=64, feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0,
            **(small if tiny else shape), **ids,
        )  # fmt: skip
        model: Any = T5ForConditionalGeneration(config)
    else:
        shape = {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
                 "num_attention_heads": 14}  # fmt: skip
        small = {"vocab_size": 2048, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                 "num_attention_heads": 4}  # fmt: skip
        made = Qwen2Config
        config = made(num_key_value_heads=2, tie_word_embeddings=True, **(small if tiny else shape), **ids)
        model = Qwen2ForCausalLM(config)

    def make() -> StudentModel:
        model.zero_grad(set_to_none=True)
        return student_of(model.to(best_device()), tokenizer, StudentSpec(model=name))

    return make


def main() -> None:
    """Measure and print a line per figure."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=None, help="several after commas (default: all)")
    parser.add_argument("--questions", type=int, default=600)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", default=None, help="per optimiser step; several after commas (default: see above)")
    parser.add_argument("--gpu", action="store_true", help="shapes of pre-trained models")
    parser.add_argument("--tiny", action="store_true", help="with --gpu: tiny shapes, two steps, on any device")
    parser.add_argument("--throughput-alone", action="store_true", help="leave out the cost of teachers")
    options = parser.parse_args()
    known = SHAPES if options.gpu else tuple(SPECS)
    models = options.models.split(",") if options.models else known
    if unknown := set(models) - set(known):
        parser.error(f"there is no model {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    gpu = torch.cuda.is_available()
    if options.gpu and not gpu and not options.tiny:
        print("skipped: --gpu needs a CUDA GPU, and there is none here")
        sys.exit(0)
    if options.tiny:
        options.questions, options.steps, options.rounds = min(options.questions, 64), 2, 1
    tell({"device": torch.cuda.get_device_name() if gpu else "cpu", "torch": torch.__version__})
    examples = sandbox_examples(options.questions, 1)
    for name in models:
        if options.gpu:
            make = shaped_like(name, examples.texts(), tiny=options.tiny)
        else:
            make = partial(make_student, SPECS[name], examples.texts())
        for rows in (options.rows or ("32,256" if options.gpu and not options.tiny else "32")).split(","):
            run = Run(options.steps, int(rows), bf16=options.gpu or gpu)
            throughput(name, make, examples, run, options.rounds)
    if not options.gpu and not options.throughput_alone:
        cost_of_teachers(SPECS["tiny-seq2seq"], min(options.questions, 300))


if __name__ == "__main__":
    main()
