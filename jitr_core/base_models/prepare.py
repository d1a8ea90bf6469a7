"""Prepare base models on this machine: `python -m jitr_core.base_models.prepare [--cache DIR] [--add SOURCE]`.

Exports sentence encoders to ONNX with int8 weights, distils from the default one a static token table, and copies the
tables of Model2Vec folders. Needs the extra `train`; runs in a process of its own, because torch is slow to load and
never needed again.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError, JITRError, MissingExtraError
from ..files import write_folder
from .catalog import Facts, default_cache_dir, model_key, prepared_folder, prepared_models, read_facts, write_facts
from .export import pooled_blocks, write_network
from .models import BaseModel, OnnxEncoder, TokenTable
from .sources import find_source, known_facts, locate, said, source_kind

__all__ = ["add", "add_encoder", "main", "prepare", "write_tokenizer"]

_MAX_TOKENS = 128
_TABLE_WIDTH = 256
_SIF = 1e-4  # a in a / (a + p(token)), Arora et al. 2017
_TIMED_TOKENS, _TIMED = 32, 20  # tokens of a text, and texts, by which a model's speed is measured


def prepare(cache: Path, source: str | None = None, *, max_tokens: int = _MAX_TOKENS, download: bool = False) -> None:
    """Write the default encoder and the token table distilled from it below `cache`, unless they are there.

    Args:
        cache: the cache folder.
        source: see `find_source`.
        max_tokens: tokens of a text that the encoder reads, ≥ 8.
        download: whether the model hub may be asked.

    Raises:
        MissingExtraError: torch, transformers or onnx is not installed, or there are no weights.
        ArtifactError: the source cannot be used.
    """
    folder = prepared_folder(cache)
    if all((folder / kind).exists() for kind in ("encoder", "static")):
        return
    _need_torch()
    where = find_source(source, download=download)
    place = locate(where, download=download)
    facts = known_facts(where, place, "encoder")
    model, tokenizer = _load(place)
    if not (folder / "encoder").exists():
        _write(folder / "encoder", facts, lambda path: _write_encoder(path, model, tokenizer, facts.name, max_tokens))
    if not (folder / "static").exists():
        table = replace(facts, name=f"{facts.name}-static", kind="static", parameters=None, layers=0, width=None)
        _write(folder / "static", table, lambda path: _write_table(path, model, tokenizer, facts.name))


def add(cache: Path, source: str, *, max_tokens: int = _MAX_TOKENS, download: bool = False) -> str:
    """Prepare one more base model; a no-op if it is there.

    Args:
        cache: the cache folder.
        source: a hub id, a folder with a transformers encoder or a Model2Vec table, or an installed package.
        max_tokens: tokens of a text that an encoder reads, ≥ 8.
        download: whether a hub id may be fetched.

    Returns:
        Its key.

    Raises:
        MissingExtraError: torch, transformers or onnx is not installed.
        ArtifactError: the source cannot be used; the message says why.
    """
    place = locate(source, download=download)
    kind = source_kind(place)
    facts = known_facts(source, place, kind)
    for key, known in prepared_models(cache).items():
        if known.kind == kind and facts.source == known.source:
            return key
    key = _free_key(cache, facts.name)
    facts = replace(facts, name=key if key != model_key(facts.name) else facts.name)
    path = prepared_folder(cache) / key
    if kind == "static":
        table = TokenTable(place)  # read before anything is written
        width = table.blocks[0][1]
        facts = replace(facts, layers=0, width=width, parameters=facts.parameters or table.parameters)
        _write(path, facts, lambda to: _copy_table(to, place, facts.name, width))
    elif kind == "generator":
        _write(path, facts, lambda to: _write_config(to, {"name": facts.name, "kind": kind}))
    else:
        _need_torch()
        return add_encoder(cache, *_load(place), facts, max_tokens=max_tokens)
    return key


def add_encoder(cache: Path, model: Any, tokenizer: Any, facts: Facts, *, max_tokens: int = _MAX_TOKENS) -> str:
    """Prepare an encoder that is in memory, such as one tuned for an earlier task: later searches choose among it, too.

    Args:
        cache: the cache folder.
        model: a transformers encoder, in evaluation mode.
        tokenizer: its fast tokenizer.
        facts: what is known of it; the name makes its key.
        max_tokens: tokens of a text that it reads, ≥ 8.

    Returns:
        Its key.

    Raises:
        ArtifactError: it cannot be exported or does not embed; nothing is left behind.
    """
    key = _free_key(cache, facts.name)
    name = key if key != model_key(facts.name) else facts.name
    parameters = facts.parameters or sum(each.numel() for each in model.parameters())
    facts = replace(facts, name=name, parameters=parameters)
    _write(prepared_folder(cache) / key, facts, lambda to: _write_encoder(to, model, tokenizer, name, max_tokens))
    return key


def _free_key(cache: Path, name: str) -> str:
    taken = prepared_folder(cache)
    keys = (model_key(name) + (f"-{i}" if i else "") for i in range(1000))
    return next(key for key in keys if not (taken / key).exists())


def _need_torch() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("train", "Preparing base models") from error
    torch.set_num_threads(1)


def _load(folder: Path) -> tuple[Any, Any]:
    """Network and tokenizer of a folder."""
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(
            folder, local_files_only=True, attn_implementation="eager", use_safetensors=True
        ).eval()
    except Exception as error:  # transformers raises whatever its parts do
        raise ArtifactError(f"{folder} cannot be loaded as a text encoder: {said(error)}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ArtifactError(f"{folder} has no tokenizer.json.", hint="Only fast tokenizers can be used.")
    return model, tokenizer


def _write(path: Path, facts: Facts, fill: Any) -> None:
    """Write a prepared model if it embeds, and note what is known of it, its speed included."""

    def checked(folder: Path) -> None:
        try:
            fill(folder)
        except (JITRError, OSError):
            raise
        except Exception as error:  # exporters raise whatever their parts do
            raise ArtifactError(f"{facts.source} cannot be exported as a text encoder: {said(error)}") from error

    write_folder(path, checked, keep_existing=True)
    if facts.kind != "generator":
        try:
            facts = replace(facts, token_s=_speed(OnnxEncoder(path) if facts.kind == "encoder" else TokenTable(path)))
        except Exception as error:
            shutil.rmtree(path, ignore_errors=True)
            raise ArtifactError(f"{facts.source} does not embed texts: {said(error)}") from error
    seen = read_facts(path)
    write_facts(path, replace(facts, layers=facts.layers or seen.layers, width=facts.width or seen.width))


def _speed(model: BaseModel) -> float:
    """Seconds a token of a short text takes; what it gives must be finite, too."""
    text = " ".join(["word"] * (_TIMED_TOKENS - 2))
    if not np.isfinite(model.embed(text)).all():
        raise ArtifactError("it gives no finite numbers")
    began = time.perf_counter()
    for _ in range(_TIMED):
        model.embed(text)
    return (time.perf_counter() - began) / _TIMED / _TIMED_TOKENS


def _copy_table(path: Path, source: Path, name: str, width: int) -> None:
    for file in ("model.safetensors", "tokenizer.json"):
        shutil.copyfile(source / file, path / file)
    _write_config(path, {"name": name, "width": width})


def _write_encoder(path: Path, model: Any, tokenizer: Any, name: str, max_tokens: int) -> None:
    layers, blocks = pooled_blocks(model.config)
    write_network(path / "model.onnx", model, layers, {})
    write_tokenizer(path, tokenizer)
    positions = getattr(model.config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        max_tokens = min(max_tokens, positions - 2)  # RoBERTa and its kin keep two positions for themselves
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
    parser = argparse.ArgumentParser(prog="python -m jitr_core.base_models.prepare", description=__doc__)
    parser.add_argument("--cache", type=Path, default=None, help="cache folder; default $JITR_CACHE or ~/.cache/jitr")
    parser.add_argument("--source", default=None, help="folder or hub id of the default encoder")
    parser.add_argument("--add", default=None, help="prepare this model instead: a hub id, a folder or a package")
    parser.add_argument("--download", action="store_true", help="a hub id may be fetched")
    options = parser.parse_args(arguments)
    logging.getLogger().setLevel(logging.ERROR)
    try:
        cache = options.cache or default_cache_dir()
        if options.add is not None:
            add(cache, options.add, download=options.download)
        else:
            prepare(cache, options.source, download=options.download)
    except (JITRError, OSError, ValueError) as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
