"""A tuned encoder as it serves: a network of int8 weights in ONNX Runtime, the adapter, and a linear layer.

The adapter's weights are inputs of the network. So all encoders tuned from one base model hold the very same network,
and share one copy of it in memory: each task adds its adapter, less than a tenth.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base_models.models import OnnxEncoder

__all__ = ["ADAPTER_FILES", "AdaptedEncoder", "TunedEncoder", "joined", "shortened"]

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""The adapter in the format of peft, for whoever wants to load it over the base model; serving does not read them."""


_APART = "adapter."  # arrays of this prefix are inputs of the network
_networks: weakref.WeakValueDictionary[bytes, _Network] = weakref.WeakValueDictionary()


class _Network:
    """A network and its tokenizer, once in memory for all encoders that have them.

    Attributes:
        network, tokenizer: shape (bytes,), their files.
        digest: hash of both.
        session: the network, ready to run.
        reader: the tokenizer, ready to read.
    """

    def __init__(self, network: NDArray[np.uint8], tokenizer: NDArray[np.uint8], digest: bytes) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        self.network, self.tokenizer, self.digest = network, tokenizer, digest
        self.reader: Any = Tokenizer.from_buffer(tokenizer.tobytes())
        self.reader.no_padding()
        self.reader.no_truncation()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session: Any = onnxruntime.InferenceSession(network.tobytes(), options, providers=["CPUExecutionProvider"])

    @classmethod
    def of(cls, network: NDArray[np.uint8], tokenizer: NDArray[np.uint8]) -> _Network:
        """The one with these files."""
        digest = hashlib.sha256(network.data).digest() + hashlib.sha256(tokenizer.data).digest()
        found = _networks.get(digest)
        return found if found is not None else _networks.setdefault(digest, cls(network, tokenizer, digest))


class AdaptedEncoder(OnnxEncoder):
    """A base model's network with an adapter. It holds everything it needs: the base model may change or go.

    Attributes:
        name: name of the base model, and where it was tuned for an earlier task, of that.
        blocks: those of every prepared encoder; of one tuned by an earlier version only the last layer.
    """

    def __init__(self, settings: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """An encoder from what `state` gives.

        Args:
            settings: name, most tokens and blocks; for an earlier task's also `base` and `task`, see `earlier`.
            arrays: network and tokenizer as bytes, what the network takes of the adapter.
        """
        self._network = _Network.of(arrays["network"], arrays["tokenizer"])
        self._tokenizer, self._session = self._network.reader, self._network.session
        self._settings = dict(settings)
        self._apart = {key.removeprefix(_APART): arrays[key] for key in sorted(arrays) if key.startswith(_APART)}
        self.name: str = settings["name"]
        self.max_tokens: int = settings["max_tokens"]
        self.blocks = tuple((str(name), int(width)) for name, width in settings["blocks"])
        state = hashlib.sha256(self._network.digest)
        for key, weight in self._apart.items():
            state.update(key.encode() + np.ascontiguousarray(weight).tobytes())
        self.hash = state.hexdigest()

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Settings and arrays to store."""
        arrays: dict[str, NDArray[Any]] = {_APART + name: weight for name, weight in self._apart.items()}
        return self._settings, {**arrays, "network": self._network.network, "tokenizer": self._network.tokenizer}

    def earlier(self, name: str, task: str) -> AdaptedEncoder:
        """The encoder without what belongs to its own task's answers, as a base model of other tasks.

        Args:
            name: what to call it.
            task: id of the task it was tuned for.
        """
        kept = {"max_tokens": self.max_tokens, "blocks": self.blocks}
        return AdaptedEncoder({"name": name, "base": self.name, "task": task, **kept}, AdaptedEncoder.state(self)[1])


class TunedEncoder(AdaptedEncoder):
    """An encoder tuned for one task, with the linear layer that scores its answers.

    Attributes:
        separator: what stands between the slots of an input.
        weight: shape (w, c), of the linear layer.
        bias: shape (c,).
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
        adapter: Mapping[str, bytes] | None = None,
    ) -> None:
        """An encoder from what `state` gives.

        Args:
            settings: as of `AdaptedEncoder`, and the separator.
            arrays: likewise, and weight and bias of the linear layer.
            adapter: `ADAPTER_FILES`, to be written beside; None after loading.
        """
        self.weight, self.bias = (np.ascontiguousarray(arrays[key], np.float32) for key in ("weight", "bias"))
        super().__init__({"blocks": [["final", len(self.weight)]], **settings}, arrays)
        self._adapter = dict(adapter or {})
        self.separator: str = settings["separator"]

    @classmethod
    def read(cls, folder: Path) -> TunedEncoder:
        """The encoder that `jitr_core.students.lora` left in a folder."""
        import json

        from safetensors.numpy import load_file

        arrays: dict[str, NDArray[Any]] = dict(load_file(folder / "head.safetensors"))
        for key, name in (("network", "model.onnx"), ("tokenizer", "tokenizer.json")):
            arrays[key] = np.frombuffer((folder / name).read_bytes(), np.uint8)
        settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        adapter = [folder / name for name in ADAPTER_FILES]  # none where random weights were trained as a whole
        return cls(settings, arrays, {file.name: file.read_bytes() for file in adapter if file.exists()})

    def scores(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Log-probabilities of the classes of one input, shape (c,).

        Args:
            texts: normalised slots.
        """
        final = self.embed(joined(texts, self.separator))[: len(self.weight)]
        logits = np.einsum("w,wc->c", final, self.weight) + self.bias
        logits -= logits.max()
        found: NDArray[np.float32] = logits - np.log(np.exp(logits).sum())
        return found

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Settings and arrays to store."""
        settings, arrays = super().state()
        return settings, {**arrays, "weight": self.weight, "bias": self.bias}

    def write_adapter(self, folder: Path) -> None:
        """Write the adapter, as peft reads it; nothing after loading, where a student's own folder holds it."""
        for name, data in self._adapter.items():
            (folder / name).write_bytes(data)


def joined(texts: Sequence[str], separator: str) -> str:
    """The slots of an input as one text."""
    return separator.join(texts)


def shortened(tokens: list[int], most: int) -> list[int]:
    """Tokens of a text that count, as `OnnxEncoder.max_tokens` says."""
    start = most // 4
    return tokens if len(tokens) <= most else tokens[:start] + tokens[start - most :]
