"""The examples of reading a dataset, run as a user runs them: on a folder, and streamed from a Hub."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers_corpus import make_workspace
from hub_stub import running_hub

from cards.card import write_card
from cards.publication import published_files
from schemas.database import query
from schemas.workspace import Workspace

EXAMPLES = Path(__file__).parent.parent / "examples" / "consumers"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = make_workspace(tmp_path_factory.mktemp("made") / "sums", n=10)
    write_card(workspace)
    return workspace


def run(name: str, *arguments: str, cache: Path) -> str:
    environment = {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda f: f.stem)
def test_without_arguments_each_says_how_it_is_run(file: Path) -> None:
    if file.stem == "with_trl":
        pytest.importorskip("trl")
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1 and done.stderr.startswith(f"usage: python examples/consumers/{file.name} FOLDER")


def test_duckdb(workspace: Workspace, tmp_path: Path) -> None:
    told = run("with_duckdb.py", str(workspace.path), cache=tmp_path)
    for row in query(workspace, "SELECT teacher_id, round(accuracy, 3) AS a FROM teachers").to_pylist():
        assert row["teacher_id"] in told
        assert str(row["a"]) in told


def test_polars(workspace: Workspace, tmp_path: Path) -> None:
    told = run("with_polars.py", str(workspace.path), cache=tmp_path)
    assert "all responses" in told
    assert "majority" in told


def test_datasets_streams_from_a_folder(workspace: Workspace, tmp_path: Path) -> None:
    told = run("with_datasets.py", str(workspace.path), "majority", cache=tmp_path)
    assert told.count("The answer is (") == 3


def test_datasets_streams_from_the_hub(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    with running_hub(monkeypatch, tmp_path / "cache") as hub:
        files = {path: (workspace.path / path).read_bytes() for path in published_files(workspace.path)}
        hub.add("bob/sums", files)
        rows = datasets.load_dataset("bob/sums", "purified-majority", split="train", streaming=True)
        first = next(iter(rows))
    assert first["messages"][1] == {"role": "assistant", "content": first["completion"]}
    assert not any("responses/" in request for request in hub.requests)


def test_messages_for_llama_factory_and_axolotl(workspace: Workspace, tmp_path: Path) -> None:
    run("export_messages.py", str(workspace.path), "majority", str(tmp_path / "out"), cache=tmp_path / "cache")
    lines = (tmp_path / "out" / "train.jsonl").read_text().splitlines()
    assert len(lines) == 6
    assert [turn["role"] for turn in json.loads(lines[0])["messages"]] == ["user", "assistant"]
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())["purified"]
    assert (tmp_path / "out" / info["file_name"]).is_file()
    assert info["columns"]["messages"] in json.loads(lines[0])
    (entry,) = yaml.safe_load((tmp_path / "out" / "axolotl.yaml").read_text())["datasets"]
    assert Path(entry["path"]).is_file()


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed")
@pytest.mark.parametrize("columns", [[], ["messages"]])
def test_trl(workspace: Workspace, tmp_path: Path, columns: list[str]) -> None:
    from safetensors.numpy import load_file

    model = tiny_model(tmp_path / "model")
    arguments = [str(workspace.path), "majority", model, str(tmp_path / "out"), "3", *columns]
    told = run("with_trl.py", *arguments, cache=tmp_path)
    assert 0 < float(told.split()[-1]) < 8
    before, after = (load_file(tmp_path / where / "model.safetensors") for where in ("model", "out"))
    assert any((before[name] != after[name]).any() for name in before)  # it has learnt something
    assert list((tmp_path / "out").glob("*.safetensors"))
    shutil.rmtree(tmp_path / "out")


def tiny_model(folder: Path) -> str:
    """A Llama of random weights with a byte-level tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    symbols = ["<pad>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    fast.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}<eos>{% endfor %}"
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(symbols), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=512, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)
