"""``make bench``: every benchmark in turn. Figures go to docs/findings.md by hand, with the machine they are from."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = {
    "crash": "SIGKILL at twenty moments of a 2,000 x 4 build",
    "client_cpu": "client CPU seconds per 1,000 requests",
    "faults": "2,000 x 4 with 429s, 500s, hangs and a teacher that dies",
    "memory": "peak memory of a build of 62,500, 250,000 and a million questions x 4 (an hour, 8 GB of disk)",
    "ray_http": "Ray Data's HTTP processor and --engine ray under the same faults",
    "majority": "a million questions x 4: majority against plain DuckDB, and the views",
    "purifiers": "the purifiers on real teachers' answers, five splits each (RAFFINATE_DATA)",
    "student": "methods with a student, combined methods, fine-tuned encoders (RAFFINATE_DATA; an hour)",
    "routed": "a million questions routed by fitted methods, vectors given",
    "distill": "training throughput against the plain Hugging Face trainers; what n teachers cost",
    "real_students": "students from MiniLM on real teachers' rationales (RAFFINATE_DATA; a GPU, or --tiny)",
    "judging": "purifiers that ask, with the sandbox's teachers as judges",
    "answer_reader": "share read and agreement on real teachers' texts (RAFFINATE_DATA)",
}


def main() -> int:
    """Run those named on the command line, or all."""
    failed = 0
    for name in sys.argv[1:] or BENCHMARKS:
        print(f"\n== {name}: {BENCHMARKS[name]}", flush=True)
        failed += subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode != 0
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
