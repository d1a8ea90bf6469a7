"""Pretrained models that candidates start from: sentence encoders and static token tables.

They are prepared once per machine in a child process (see `jitr_core.base_models.prepare`) and served here with NumPy,
`tokenizers` and ONNX Runtime, one text at a time: int8 quantisation scales a whole batch by its largest activation, so
a text's embedding would depend on its batch mates, and what is certified must be what serves.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError
from ..files import verify_folder

__all__ = ["BaseModel", "HashingModel", "OnnxEncoder", "TokenTable"]

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
        self._apart: dict[str, NDArray[np.float32]] = {}  # weights that are inputs of the network

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
        found: NDArray[np.float32] = self._session.run(None, {"ids": ids, "mask": np.ones_like(ids), **self._apart})[0][
            0
        ]
        return found


class TokenTable:
    """Static token embeddings: a text is the weighted mean of its tokens' vectors.

    Attributes:
        name, hash, blocks: see `BaseModel`; there is one block.
        parameters: number of weights.
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
        self.name: str = path.name
        if prepared:
            self.name = json.loads((path / "config.json").read_text(encoding="utf-8"))["name"]
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
        self.parameters: int = table.size
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


def _hash_files(path: Path) -> str:
    state = hashlib.sha256()
    for name in ("model.safetensors", "tokenizer.json"):
        try:
            state.update(hashlib.sha256((path / name).read_bytes()).digest())
        except OSError as error:
            raise ArtifactError(f"{path} holds no token table: {error}.", hint="Give a Model2Vec folder.") from error
    return state.hexdigest()
