"""Stream purified rows without downloading the dataset first, with `datasets`.

python examples/consumers/with_datasets.py FOLDER_OR_REPO METHOD
"""

from __future__ import annotations

import sys
from itertools import islice

from datasets import load_dataset


def main(dataset: str, method: str) -> None:
    rows = load_dataset(dataset, f"purified-{method}", split="train", streaming=True)
    for row in islice(rows.shuffle(seed=0, buffer_size=1000), 3):
        print(row["prompt"] + row["completion"], end="\n\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python examples/consumers/with_datasets.py FOLDER_OR_REPO METHOD")
    main(*sys.argv[1:])
