"""Pretrained models that candidates start from: a sentence encoder and a static token table.

Both are prepared once per machine in a child process (see `jitr_core.students.prepare`) and served here with NumPy,
`tokenizers` and ONNX Runtime, one text at a time: int8 quantisation scales a whole batch by its largest activation, so
a text's embedding would depend on its batch mates, and what is certified must be what serves.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError
from .embedding_cache import EmbeddingCache
from .files import verify_folder

__all__ = [
    "BaseModel",
    "BaseModels",
    "HashingModel",
    "OnnxEncoder",
    "TokenTable",
    "default_cache_dir",
    "prepared_folder",
]

_log = logging.getLogger(__name__)
_PREPARE_TIMEOUT_S = 1800.0
_CHARS_PER_TOKEN = 24  # far more than any text has at the median


class BaseModel(Protocol):
    """What students need of a pretrained model."""

    @property
    def name(self) -> str:
        """Name of the pretrained model."""

    @property
    def hash(self) -> str:
        """Hash of everything its embeddings depend on."""

    @property
    def blocks(self) -> tuple[tuple[str, int], ...]:
        """Name and width of each part of an embedding, the most telling first."""

    def embed(self, text: str) -> NDArray[np.float32]:
        """The embedding of one text, shape (sum of block widths,): its blocks in order, each of length 1 or 0."""


class OnnxEncoder:
    """A sentence encoder in ONNX Runtime on one thread.

    Attributes:
        name: name of the pretrained model.
        hash: hash of its prepared files.
        blocks: name and width of each part of an embedding: mean-pooled layers of the network, the last one first.
        max_tokens: of a longer text the first quarter of so many tokens counts, and the last three quarters: what a
            text comes to tends to stand at its end.
    """

    def __init__(self, path: Path) -> None:
        """The prepared encoder in the folder `path`, which is verified.

        Raises:
            ArtifactError: files are missing or changed.
        """
        import onnxruntime
        from tokenizers import Tokenizer

        self.hash = verify_folder(path)
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        self.name: str = config["name"]
        self.blocks = tuple((str(name), int(width)) for name, width in config["blocks"])
        self.max_tokens: int = config["max_tokens"]
        self._tokenizer: Any = Tokenizer.from_file(str(path / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(
            str(path / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def embed(self, text: str) -> NDArray[np.float32]:
        """See `BaseModel.embed`."""
        near = _CHARS_PER_TOKEN * self.max_tokens
        if len(text) > 2 * near:  # what is cut out anyway need not be read
            text = f"{text[:near]} {text[-near:]}"
        tokens = self._tokenizer.encode(text).ids
        if len(tokens) > self.max_tokens:
            start = self.max_tokens // 4
            tokens = tokens[:start] + tokens[start - self.max_tokens :]
        ids = np.array([tokens], dtype=np.int64)
        found: NDArray[np.float32] = self._session.run(None, {"ids": ids, "mask": np.ones_like(ids)})[0][0]
        return found


class TokenTable:
    """Static token embeddings: a text is the weighted mean of its tokens' vectors.

    Attributes:
        name, hash, blocks: see `BaseModel`; there is one block.
    """

    def __init__(self, path: Path) -> None:
        """The table in the folder `path`: one that JITR prepared, or any Model2Vec folder.

        Raises:
            ArtifactError: files are missing or changed.
        """
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        prepared = (path / "manifest.json").exists()
        self.hash = verify_folder(path) if prepared else _hash_files(path)
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        self.name: str = config["name"] if prepared else path.name
        tensors = load_file(path / "model.safetensors")
        # Model2Vec writes "embeddings", sentence-transformers "embedding.weight".
        name = next((each for each in ("embeddings", "embedding.weight") if each in tensors), None)
        if name is None:
            raise ArtifactError(f"{path} holds no token table.", hint="Give a Model2Vec folder.")
        table = np.array(tensors[name], dtype=np.float32)
        if "weights" in tensors:
            table *= tensors["weights"].astype(np.float32)[:, None]
        self._mapping: NDArray[Any] | None = tensors.get("mapping")
        self._table = table
        self.blocks = (("static", table.shape[1]),)
        self._tokenizer: Any = Tokenizer.from_file(str(path / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(512)

    def embed(self, text: str) -> NDArray[np.float32]:
        """See `BaseModel.embed`; no token, no direction: the zero vector."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not ids:
            return np.zeros(self._table.shape[1], np.float32)
        rows = np.array(ids) if self._mapping is None else self._mapping[ids]
        mean: NDArray[np.float32] = self._table[rows].mean(axis=0)
        norm = float(np.sqrt(mean @ mean))
        if norm:
            mean /= np.float32(norm)
        return mean


class HashingModel:
    """A base model without weights, for tests and demonstrations: words as random directions, nothing pretrained.

    Attributes:
        name, hash, blocks: see `BaseModel`.
        calls: number of texts embedded so far.
    """

    def __init__(self, name: str = "hashing", width: int = 64) -> None:
        self.name, self.hash = name, f"hashing-{name}-{width}"
        self.blocks = ((("final", width)), ("inner", width))
        self.calls = 0

    def embed(self, text: str) -> NDArray[np.float32]:
        """See `BaseModel.embed`."""
        self.calls += 1
        parts = []
        for name, width in self.blocks:
            total = np.zeros(width)
            for word in text.split():
                seed = int.from_bytes(hashlib.blake2b(f"{name} {word}".encode(), digest_size=8).digest(), "big")
                total += np.random.default_rng(seed).standard_normal(width)
            norm = float(np.linalg.norm(total))
            parts.append(total / norm if norm else total)
        return np.concatenate(parts).astype(np.float32)


class BaseModels:
    """The base models of this machine, loaded when first asked for, and the embeddings they gave.

    Attributes:
        folder: where prepared models and embeddings are kept.
    """

    def __init__(
        self,
        cache_dir: str | Path | None = None,
        *,
        encoder: BaseModel | None = None,
        static: BaseModel | None = None,
    ) -> None:
        """The models prepared in `cache_dir`.

        Args:
            cache_dir: None for `$JITR_CACHE` or `~/.cache/jitr`.
            encoder: use this encoder instead of a prepared one.
            static: use this static model instead of a prepared one; `TokenTable` reads any Model2Vec folder.
        """
        self.folder = Path(cache_dir) if cache_dir is not None else default_cache_dir()
        self._given: dict[str, BaseModel | None] = {"encoder": encoder, "static": static}
        self._fixed = encoder is not None or static is not None
        self._loaded: dict[str, BaseModel] = {}
        self._failed = ""
        self._cache = EmbeddingCache(self.folder / "embeddings.sqlite3")
        self._lock = threading.RLock()

    def get(self, kind: str) -> BaseModel | None:
        """The model of this kind, "encoder" or "static"; None if it was never prepared here.

        Raises:
            ArtifactError: its files were changed.
        """
        if self._given[kind] is not None or self._fixed:
            return self._given[kind]
        with self._lock:
            if kind not in self._loaded:
                path = prepared_folder(self.folder) / kind
                if not path.exists() or not _installed("tokenizers", "onnxruntime"):
                    return None
                self._loaded[kind] = OnnxEncoder(path) if kind == "encoder" else TokenTable(path)
            return self._loaded[kind]

    def by_hash(self, kind: str, name: str, digest: str) -> BaseModel:
        """Exactly the model a student was trained on.

        Raises:
            ArtifactError: it is not at hand, or another version is.
        """
        model = self.get(kind)
        if model is None:
            raise ArtifactError(
                f"the base model {name} is not prepared in {self.folder}.",
                hint='Install it with: pip install "jitr[offline]", then run `python -m jitr_core.students.prepare`.',
            )
        if model.hash != digest:
            raise ArtifactError(
                f"the replacement was trained on another version of the base model {name}.", hint="Train it again."
            )
        return model

    def prepare(self) -> str:
        """Prepare what is missing, in a child process; a no-op once that is done. Takes about a minute of CPU.

        Returns:
            "" if encoder and static table are at hand, else why not.
        """
        if self._fixed:
            return ""
        with self._lock:
            if all((prepared_folder(self.folder) / kind).exists() for kind in ("encoder", "static")):
                return "" if _installed("tokenizers", "onnxruntime") else _NEEDS_EXTRA
            if self._failed:
                return self._failed
            if not _installed("torch", "transformers", "onnx", "onnxruntime", "tokenizers"):
                self._failed = _NEEDS_EXTRA
            else:
                self._failed = _run_prepare(self.folder)
            return self._failed

    def embed(
        self, kind: str, texts: Sequence[str], progress: Callable[[float], None] | None = None
    ) -> NDArray[np.float32]:
        """Embeddings of many texts, each computed once per machine.

        Args:
            kind: "encoder" or "static"; the model must be at hand.
            texts: what to embed.
            progress: told the share done, in [0, 1].

        Returns:
            Shape (len(texts), d).
        """
        model = self.get(kind)
        if model is None:
            raise ArtifactError(f"no {kind} base model is at hand.", hint=_NEEDS_EXTRA)
        vectors = np.zeros((len(texts), sum(width for _, width in model.blocks)), np.float32)
        distinct = list(dict.fromkeys(texts))
        known: dict[str, NDArray[np.float32]] = {}
        if kind == "encoder":  # a static embedding costs less than looking it up
            known = {distinct[i]: v for i, v in self._cache.get(model.hash, distinct).items()}
        missing = [text for text in distinct if text not in known]
        for start in range(0, len(missing), 256):
            some = missing[start : start + 256]
            fresh = np.stack([model.embed(text) for text in some])
            known.update(zip(some, fresh, strict=True))
            if kind == "encoder":
                self._cache.put(model.hash, some, fresh)
            if progress:
                progress((start + len(some)) / len(missing))
        for i, text in enumerate(texts):
            vectors[i] = known[text]
        return vectors


_NEEDS_EXTRA = 'needs pip install "jitr[offline]"'


def default_cache_dir() -> Path:
    """`$JITR_CACHE`, or `~/.cache/jitr`."""
    given = os.environ.get("JITR_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "jitr"


def prepared_folder(cache: Path) -> Path:
    """Where prepared models are; its name changes whenever they would be prepared or read differently."""
    return cache / "base_models" / "2"


def _installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


def _hash_files(path: Path) -> str:
    state = hashlib.sha256()
    for name in ("model.safetensors", "tokenizer.json"):
        try:
            state.update(hashlib.sha256((path / name).read_bytes()).digest())
        except OSError as error:
            raise ArtifactError(f"{path} holds no token table: {error}.", hint="Give a Model2Vec folder.") from error
    return state.hexdigest()


def _run_prepare(folder: Path) -> str:
    """Run the preparation; "" if it went well, else the last line it said."""
    command = [sys.executable, "-m", "jitr_core.students.prepare", "--cache", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_PREPARE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"preparing the base models failed: {error}"
    if done.returncode == 0:
        return ""
    said = done.stderr.strip().splitlines() or ["no message"]
    _log.warning("preparing the base models failed: %s", done.stderr.strip())
    return f"preparing the base models failed: {said[-1]}"
