"""Write chats as JSON Lines, with the configuration that LLaMA-Factory and Axolotl read them by.

    python examples/consumers/export_messages.py FOLDER_OR_REPO METHOD OUT

OUT/train.jsonl          {"messages": [{"role": "user", ...}, {"role": "assistant", ...}]} per line
OUT/dataset_info.json    for LLaMA-Factory:  dataset_dir: OUT, dataset: purified
OUT/axolotl.yaml         the ``datasets`` entry for an Axolotl configuration
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datasets import load_dataset

LLAMA_FACTORY = {
    "purified": {
        "file_name": "train.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    }
}
AXOLOTL = """datasets:
  - path: {file}
    ds_type: json
    split: train
    type: chat_template
    field_messages: messages
    message_property_mappings: {{role: role, content: content}}
    roles_to_train: [assistant]
"""


def main(dataset: str, method: str, out: str) -> None:
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    rows = load_dataset(dataset, f"purified-{method}", split="train").select_columns(["messages"])
    rows.to_json(folder / "train.jsonl", force_ascii=False)
    (folder / "dataset_info.json").write_text(json.dumps(LLAMA_FACTORY, indent=2))
    (folder / "axolotl.yaml").write_text(AXOLOTL.format(file=json.dumps(str(folder / "train.jsonl"))))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python examples/consumers/export_messages.py FOLDER_OR_REPO METHOD OUT")
    main(*sys.argv[1:])
