"""Training throughput against the plain Hugging Face trainers on the same rows, and what n teachers cost.

    python -m benchmarks.distill [--models tiny-seq2seq,5m-seq2seq,tiny-causal,5m-causal] [--questions 600] [--rounds 2]
    python -m benchmarks.distill --gpu          FLAN-T5-base- and 0.5B-decoder-shaped students of random weights

Questions and rationales are the sandbox's. Both sides train the same rows (an answer and a rationale row per question),
32 rows per optimiser step, AdamW, the same model class and weights, by turns in one process; a figure is the best
round. Seconds are the process's own on a CPU, so that other work on the machine does not count, and the clock's on a
GPU. Ours is `distill.train`; theirs is `Seq2SeqTrainer` with `DataCollatorForSeq2Seq`, or TRL's `SFTTrainer` on prompts
and completions, as their documentation shows them. Tokens are those of the texts: padding does not count, so tokens/s
compares useful work. "bf16 peak" is the share of the GPU's (H100 989, A100 312 Tflop/s, dense) that 6 flops per weight
of a layer and token come to; attention, embeddings and the head are not counted.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from builders.sandbox.teachers import TEACHERS, Sample, reply
from builders.sandbox.world import questions, read
from distill.batches import Rows, rows_of
from distill.data import Examples
from distill.model import StudentModel, make_student, student_of
from distill.spec import StudentSpec, Training
from distill.train import train
from schemas.layout import answer_texts
from schemas.render import prompts

SPECS = {
    "tiny-seq2seq": StudentSpec(model="tiny-seq2seq"),
    "tiny-causal": StudentSpec(model="tiny-causal"),
    "5m-seq2seq": StudentSpec(model="tiny-seq2seq", width=256, layers=3, vocabulary=2000),
    "5m-causal": StudentSpec(model="tiny-causal", width=256, layers=5, vocabulary=2000),
}
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
ROWS = 32


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


def ours(student: StudentModel, examples: Examples, steps: int) -> tuple[float, int]:
    """Seconds and tokens of a training."""
    settings = Training(max_steps=steps, batch_size=ROWS // 2, select_by="last")
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


def theirs(student: StudentModel, rows: Rows, steps: int) -> tuple[float, int]:
    """Seconds and tokens of the plain trainer; the loss of a decoder is on the completion alone, as ours."""
    import torch
    from datasets import Dataset

    gpu = torch.cuda.is_available()
    common: dict[str, Any] = {
        "per_device_train_batch_size": ROWS, "max_steps": steps, "learning_rate": 1e-3, "bf16": gpu, "use_cpu": not gpu,
        "report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True,
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
        trainer.train()
        return clock() - started, sum(tokens.batches[:steps])


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
    name: str, make: Callable[[], StudentModel], examples: Examples, steps: int, rounds: int
) -> dict[str, Any]:
    """Tokens/s of both by turns, the best round of each, and the ratio."""
    rows = rows_of(make().encoder, examples, "multitask")
    ours(make(), examples, 3)
    best: dict[str, float] = {"ours": 0.0, "theirs": 0.0}
    for _ in range(rounds):
        for side, run in (
            ("ours", lambda: ours(make(), examples, steps)),
            ("theirs", lambda: theirs(make(), rows, steps)),
        ):
            gc.collect()
            seconds, tokens = run()
            best[side] = max(best[side], tokens / seconds)
    student = make()
    found = {"model": name, "weights": student.parameters, **{k: round(v) for k, v in best.items()}}
    found["ratio"] = round(best["ours"] / best["theirs"], 2)
    found |= share_of_peak(student, best["ours"])
    return found


def share_of_peak(student: StudentModel, tokens_per_second: float) -> dict[str, float]:
    """6 flops per weight and token over the GPU's bf16 peak; a seq2seq token meets half of the layers."""
    import torch

    if not torch.cuda.is_available():
        return {}
    peak = next((p for n, p in PEAKS.items() if n in torch.cuda.get_device_name()), None)
    if peak is None:
        return {}
    embedding = student.model.get_input_embeddings().weight.numel()
    layers = student.parameters - embedding - (embedding if not student.model.config.tie_word_embeddings else 0)
    met = layers / 2 if student.is_seq2seq else layers
    return {"bf16_peak": round(6 * met * tokens_per_second / peak, 3)}


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
    return found


def shaped_like(name: str, texts: list[str]) -> Callable[[], StudentModel]:
    """A student of random weights with the shape of a pre-trained one, and the sandbox's tokenizer."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, T5Config, T5ForConditionalGeneration

    from distill.model import best_device
    from distill.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer(texts, 2000)
    ids: dict[str, Any] = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    if name == "flan-t5-base":
        model: Any = T5ForConditionalGeneration(
            T5Config(
                vocab_size=32128, d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_heads=12,
                feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0, **ids,
            )
        )  # fmt: skip
    else:
        model = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
                num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True, **ids,
            )
        )  # fmt: skip
    return lambda: student_of(model.to(best_device()), tokenizer, StudentSpec(model=name))


def main() -> None:
    """Measure and print a line per figure."""
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="tiny-seq2seq,5m-seq2seq,tiny-causal,5m-causal")
    parser.add_argument("--questions", type=int, default=600)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--throughput-alone", action="store_true", help="leave out the cost of teachers")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    examples = sandbox_examples(options.questions, 1)
    found: dict[str, Any] = {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}
    if options.gpu:
        if not torch.cuda.is_available():
            print("skipped: --gpu needs a CUDA GPU, and there is none here")
            sys.exit(0)
        made = {name: shaped_like(name, examples.texts()) for name in ("flan-t5-base", "0.5b-decoder")}
    else:
        made = {
            name: (lambda spec=SPECS[name]: make_student(spec, examples.texts())) for name in options.models.split(",")
        }
    found["throughput"] = []
    for name, make in made.items():
        found["throughput"].append(throughput(name, make, examples, options.steps, options.rounds))
        print(found["throughput"][-1], flush=True)
    if not options.gpu and not options.throughput_alone:
        found["cost of teachers"] = cost_of_teachers(SPECS["tiny-seq2seq"], min(options.questions, 300))
        for line in found["cost of teachers"]:
            print(line, flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
