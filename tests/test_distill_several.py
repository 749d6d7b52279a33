"""Two processes on a CPU, started as a user starts them, train what one does and end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers_cli import Cli
from helpers_corpus import make_workspace
from safetensors.numpy import load_file

from distill import checkpoint
from schemas.database import query
from schemas.workspace import Workspace

TINY = ["--set", "width=16", "--set", "layers=1", "--set", "heads=2", "--set", "vocabulary=300"]
LAUNCHERS = {
    "torchrun": ["torchrun", "--nproc-per-node", "2"],
    "accelerate": ["accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"],
}
INTERRUPTED = "error: interrupted: nothing that arrived is lost, run the same command again to go on\n"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("made") / "sums", n=20)


def launched(launcher: list[str], *words: object) -> subprocess.Popen[str]:
    """A launcher in a group of its own, as a shell starts it."""
    command = [str(Path(sys.executable).with_name(launcher[0])), *launcher[1:], *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def distilled(workspace: Workspace, out: Path, *more: object) -> list[object]:
    return ["distill", workspace.path, "--method", "keep-all", "--out", out, *TINY, *more]


def weights_differ_by(a: Path, b: Path) -> float:
    ours, theirs = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert ours.keys() == theirs.keys()
    return max(float(abs(ours[name] - theirs[name]).max()) for name in ours)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_train_what_one_does(launcher: str, workspace: Workspace, tmp_path: Path, cli: Cli) -> None:
    steps = ["--set", "max_steps=5", "--set", "batch_size=3", "--set", "eval_every=2"]
    both = launched(LAUNCHERS[launcher], "-m", "raffinate", *distilled(workspace, tmp_path / "both", *steps))
    out, err = both.communicate(timeout=300)
    assert both.returncode == 0, err
    assert out.count("student: ") == 1, "the first process alone speaks"
    (device,) = query(workspace, "SELECT device FROM students").column(0).to_pylist()
    assert device == "cpu x2"
    alone = cli(*distilled(workspace, tmp_path / "alone", *steps))
    assert alone.code == 0, alone.err
    assert 0 <= weights_differ_by(tmp_path / "both", tmp_path / "alone") < 1e-4
    assert not list(tmp_path.rglob(f"{checkpoint.NAME}*"))


def test_ctrl_c_ends_both_with_one_sentence_and_a_checkpoint(workspace: Workspace, tmp_path: Path) -> None:
    endless = distilled(workspace, tmp_path / "student", "--set", "max_steps=1000000", "--set", "checkpoint_every=1")
    both = launched(LAUNCHERS["torchrun"], "-m", "raffinate", *endless)
    wait_for(tmp_path / "student" / checkpoint.NAME, both)
    os.killpg(both.pid, signal.SIGINT)
    _, err = both.communicate(timeout=300)
    assert err.count(INTERRUPTED) == 1
    assert err.count("error: ") == 1
    assert not [line for line in running() if str(tmp_path) in line], "all processes have ended"
    assert (tmp_path / "student" / checkpoint.NAME).is_file()


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 300
    while not file.is_file():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.05)


def running() -> list[str]:
    return subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, text=True, check=True).stdout.splitlines()


SHORT_OF_MEMORY = """
import os, sys
import torch
from distill import train
from raffinate.cli import main

real, steps = train.nll_of_pass, []

def short(student, inputs):
    steps.append(inputs)
    if os.environ["RANK"] == "1" and len(steps) >= 3:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return real(student, inputs)

train.nll_of_pass = short
main()
"""


def test_memory_that_one_lacks_ends_both_with_one_sentence_and_a_checkpoint(
    workspace: Workspace, tmp_path: Path
) -> None:
    script = tmp_path / "short.py"
    script.write_text(SHORT_OF_MEMORY)
    steps = ["--set", "max_steps=20", "--set", "batch_size=2"]
    both = launched(LAUNCHERS["torchrun"], script, *distilled(workspace, tmp_path / "student", *steps))
    _, err = both.communicate(timeout=300)
    assert both.returncode != 0
    assert err.count("error: out of memory, however small its passes: set lora_rank, a smaller max_input") == 1
    assert f"step 2 is kept in {tmp_path / 'student'}" in err
    assert (tmp_path / "student" / checkpoint.NAME).is_file()


def test_accelerate_that_starts_one_process_for_two_is_told(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)  # what `accelerate launch --cpu --num_processes 2` sets, and no WORLD_SIZE
    told = cli("distill", "nowhere", "--method", "majority")
    assert "accelerate launch --cpu starts one process alone" in " ".join(told.err.split())


def test_a_comparison_is_not_for_several_processes(
    workspace: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = cli("compare", workspace.path, "--methods", "fine-tuning", "--seeds", 1)
    assert (told.code, told.err.count("\n")) == (1, 1)
    assert "start it without torchrun or accelerate" in told.err
