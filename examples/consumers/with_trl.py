"""Fine-tune a student on purified rationales with TRL, on the columns as they are published.

pip install trl
python examples/consumers/with_trl.py FOLDER_OR_REPO METHOD Qwen/Qwen3-0.6B student/ [STEPS [messages]]

`prompt` and `completion` by default: the loss is on the completion alone. `messages` go through the model's chat
template, and the loss is on the whole chat unless the template marks the assistant's part (assistant_only_loss).
"""

from __future__ import annotations

import sys

import torch
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer


def main(dataset: str, method: str, model: str, output: str, *more: str) -> None:
    steps, *columns = more or ["-1"]
    wanted = columns or ["prompt", "completion"]
    rows = load_dataset(dataset, f"purified-{method}", split="train").select_columns(wanted)
    gpu = torch.cuda.is_available()
    config = SFTConfig(
        output_dir=output,
        max_steps=int(steps),
        max_length=512,
        bf16=gpu,
        use_cpu=not gpu,
        report_to="none",
        save_strategy="no",
    )
    trainer = SFTTrainer(model=model, args=config, train_dataset=rows)
    print(trainer.train().metrics["train_loss"])
    trainer.save_model(output)


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit("usage: python examples/consumers/with_trl.py FOLDER_OR_REPO METHOD MODEL OUT [STEPS [messages]]")
    main(*sys.argv[1:])
