"""What all tests share: an own cache of embeddings, a stand-in for an encoder, the command line in this process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from helpers_cli import Cli, Ran
from helpers_encoder import hashed


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or writes the user's cache of embeddings."""
    monkeypatch.setenv("RAFFINATE_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def stub_encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Vectors of `hashed`, kept apart from those of real encoders."""
    monkeypatch.setattr("purifiers.encoder._encode", hashed)
    monkeypatch.setenv("RAFFINATE_CACHE_DIR", str(tmp_path / "embeddings"))


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run ``raffinate ARGS`` in this process, as the installed command does."""
    from raffinate.cli import main

    def run(*args: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["raffinate", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return Ran(int(stopped.value.code or 0), out, err)

    return run
