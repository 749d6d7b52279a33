"""A million questions routed by a fitted `similarity`, and chosen for by a fitted `consensus`: seconds and peak memory.

    python -m benchmarks.routed [--questions 1000000] [--train 2000] [--folder FOLDER] [--methods similarity,consensus]

The corpus is synthetic (four teachers, rationales of 500 characters), each method runs in a process of its own, fitted
on the first questions and then asked about all of them. The questions' vectors are given: random ones are put into the
cache of vectors beforehand, so that no encoder runs. Peak memory is the process's own, start-up and corpus included.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CHUNK = 20_000
WIDTH = 384


def remember(folder: Path) -> None:
    """Put a random unit vector of every question into the cache."""
    import xxhash

    from purifiers.encoder import DEFAULT_ENCODER, _Kept, unit
    from schemas.corpus import Corpus
    from schemas.workspace import Workspace

    ids = Corpus.of(Workspace.open(folder))
    rng = np.random.default_rng(0)
    with _Kept(DEFAULT_ENCODER) as kept:
        for start in range(0, len(ids), CHUNK):
            texts = ids.take(np.arange(start, min(start + CHUNK, len(ids)))).question_texts()
            vectors = unit(rng.normal(size=(len(texts), WIDTH)).astype(np.float32))
            kept.put({xxhash.xxh3_128_digest(t.encode()): v for t, v in zip(texts, vectors, strict=True)})


def routed(folder: Path, name: str, train: int) -> None:
    """Fit, then choose for every question; print the seconds of each step, and the peak memory in GB."""
    from purifiers.registry import method
    from schemas.corpus import Corpus
    from schemas.workspace import Workspace

    marks = [time.perf_counter()]
    corpus = Corpus.of(Workspace.open(folder))
    marks.append(time.perf_counter())
    fitted = method(name)().fit(corpus.take(np.arange(train)))
    marks.append(time.perf_counter())
    busy = time.process_time()
    kept = fitted.purify(corpus.hide_gold())
    busy = time.process_time() - busy
    marks.append(time.perf_counter())
    right = (kept.teacher >= 0) & (corpus.correct[np.arange(len(corpus)), kept.teacher] == 1)
    [peak] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    load, fit, choose = np.diff(marks)
    took = f"read {load:.1f} s   fit {fit:.1f} s   choose {choose:.1f} s, {busy:.1f} s of CPU"
    took += f"   peak {int(peak) / 1e6:.2f} GB"
    print(f"{name:12} {took}   kept {(kept.teacher >= 0).mean():.3f}, right {right.mean():.3f}", flush=True)


def main() -> None:
    """Make the corpus and its vectors once, then run each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=1_000_000)
    parser.add_argument("--train", type=int, default=2000, help="questions that a method is fitted on")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "raffinate-routed")
    parser.add_argument("--methods", default="similarity,consensus")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    corpus = options.folder / f"corpus-{options.questions}"
    os.environ["RAFFINATE_CACHE_DIR"] = str(options.folder / f"vectors-{options.questions}")
    if options.child == "vectors":
        return remember(corpus)
    if options.child:
        return routed(corpus, options.child, options.train)
    if not corpus.exists():
        from benchmarks.synthetic import make

        make(str(corpus), options.questions, shuffled=False)
    again = [sys.executable, "-m", "benchmarks.routed", "--questions", str(options.questions)]
    again += ["--train", str(options.train), "--folder", str(options.folder), "--child"]
    if not Path(os.environ["RAFFINATE_CACHE_DIR"]).exists():
        subprocess.run([*again, "vectors"], check=True)
    for name in options.methods.split(","):
        subprocess.run([*again, name], check=True)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
