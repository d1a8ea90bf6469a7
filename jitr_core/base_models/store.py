"""The base models of this machine: which there are, loading them, and what they gave."""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError, JITRError, MissingExtraError
from ..files import folder_hash
from .catalog import (
    DEFAULT_KEYS,
    POOL,
    Facts,
    Kind,
    default_cache_dir,
    model_key,
    prepared_folder,
    prepared_models,
    read_facts,
)
from .embeddings import EmbeddingCache
from .models import BaseModel, OnnxEncoder, TokenTable
from .sources import HUB_ID_FORM, find_source, is_here, locate, source_kind

__all__ = ["BaseModels"]

_log = logging.getLogger(__name__)
_PREPARE_TIMEOUT_S = 1800.0
_TOLD_EVERY_S = 10.0


class BaseModels:
    """The base models of this machine, loaded when first asked for, and the embeddings they gave.

    Attributes:
        folder: where prepared models and embeddings are kept.
        refused: why wanted models cannot be used, by source or key.
    """

    def __init__(
        self,
        cache_dir: str | Path | None = None,
        *,
        encoder: BaseModel | None = None,
        static: BaseModel | None = None,
        further: Sequence[tuple[Facts, BaseModel]] = (),
        wanted: Sequence[str] = (),
        download: bool = False,
    ) -> None:
        """The models prepared in `cache_dir`.

        Args:
            cache_dir: None for `$JITR_CACHE` or `~/.cache/jitr`.
            encoder: use this encoder, and only models given here, instead of prepared ones.
            static: use this static model likewise; `TokenTable` reads any Model2Vec folder.
            further: more models to use likewise, with what is known of each; their names make their keys.
            wanted: sources (hub ids, folders, packages) to prepare besides the default ones.
            download: whether hub ids may be fetched; the models of `POOL` are wanted then, too.
        """
        self.folder = Path(cache_dir) if cache_dir is not None else default_cache_dir()
        self.refused: MutableMapping[str, str] = {}
        self._private: dict[str, tuple[Facts, BaseModel, str]] = {}
        self._vectors: dict[tuple[str, str], NDArray[np.float32]] = {}  # that private models gave
        # A model that is given alone tells nothing of its shape: an encoder counts like the default one.
        self._given: dict[str, tuple[Facts, BaseModel]] = {}
        if encoder is not None:
            self._given["encoder"] = Facts(encoder.name, "encoder", "", layers=6, width=384), encoder
        if static is not None:
            self._given["static"] = Facts(static.name, "static", ""), static
        self._given |= {model_key(facts.name): (facts, model) for facts, model in further}
        pool = [each.source for each in POOL if each.kind != "generator"] if download else []
        self._wanted, self._download = tuple(dict.fromkeys([*wanted, *pool])), download
        self._loaded: dict[str, BaseModel] = {}
        self._facts: dict[str, Facts] = {}
        self._failed = ""
        self._cache = EmbeddingCache(self.folder / "embeddings.sqlite3")
        self._lock = threading.RLock()

    def beside(
        self, private: Mapping[str, tuple[BaseModel, str, str]], refused: Mapping[str, str] | None = None
    ) -> BaseModels:
        """These models and further ones, of which nothing is ever written into the folder: others look there, too.

        Args:
            private: by key, encoders that were tuned from models at hand, with the key of that, and what for.
            refused: why others were not taken, see `refused`.
        """
        found = copy.copy(self)
        found._vectors, found.refused = {}, ChainMap(self.refused, dict(refused or {}))
        found._private = {
            key: (replace(self.facts(origin), name=model.name, tuned_for=task), model, origin)
            for key, (model, origin, task) in private.items()
        }
        return found

    def origin(self, key: str) -> str:
        """Key of the model that a private one was tuned from; any other's own."""
        return self._private[key][2] if key in self._private else key

    def keys(self, kind: Kind) -> list[str]:
        """Keys of the models of a kind that are at hand, the default one first; see `jitr_core.base_models.catalog`."""
        private = [key for key, (each, _, _) in self._private.items() if each.kind == kind]
        if self._given:
            return [key for key, (each, _) in self._given.items() if each.kind == kind] + private
        if kind != "generator" and not _installed("tokenizers", "onnxruntime"):
            return []
        return [key for key, facts in prepared_models(self.folder).items() if facts.kind == kind] + private

    def generators(self) -> dict[str, str]:
        """Where the generators prepared here lie, a folder or a hub id, by name; one that is gone is left out."""
        known = [each for each in self.catalogue().values() if each.kind == "generator" and is_here(each.source)]
        return {each.name: each.source if "/" in each.source else str(locate(each.source)) for each in known}

    def catalogue(self) -> dict[str, Facts]:
        """What is known of every model at hand, by key."""
        known = {key: self.facts(key) for key in self._given} if self._given else prepared_models(self.folder)
        return known | {key: facts for key, (facts, _, _) in self._private.items()}

    def hashes(self) -> dict[str, str]:
        """What `by_hash` tells models at hand apart by, by key; none of them is loaded.

        One whose manifest is damaged is left out: `get` says so of it, and the others are as good as ever.
        """
        if self._given:
            return {key: model.hash for key, (_, model) in self._given.items()}
        found = {}
        for key in prepared_models(self.folder):
            try:
                found[key] = folder_hash(prepared_folder(self.folder) / key)
            except ArtifactError as error:
                _log.warning("base model %s cannot be used: %s", key, error)
        return found

    def remove(self, key: str) -> None:
        """Delete a prepared model; replacements that need it can no longer be loaded.

        Raises:
            OSError: its files cannot be deleted.
        """
        with self._lock:
            self._loaded.pop(key, None)
            self._facts.pop(key, None)
            shutil.rmtree(prepared_folder(self.folder) / key)

    def facts(self, key: str) -> Facts:
        """What is known of a model that is at hand."""
        if key in self._private:
            return self._private[key][0]
        if self._given:
            return self._given[key][0]
        with self._lock:
            if key not in self._facts:
                self._facts[key] = read_facts(prepared_folder(self.folder) / key)
            return self._facts[key]

    def get(self, key: str) -> BaseModel | None:
        """The model with this key, "encoder" and "static" being the default ones; None if it was never prepared here.

        Raises:
            ArtifactError: its files were changed.
        """
        if key in self._private:
            return self._private[key][1]
        if self._given:
            return self._given[key][1] if key in self._given else None
        with self._lock:
            if key not in self._loaded:
                path = prepared_folder(self.folder) / key
                if not path.exists() or not _installed("tokenizers", "onnxruntime"):
                    return None
                self._loaded[key] = OnnxEncoder(path) if (path / "model.onnx").exists() else TokenTable(path)
            return self._loaded[key]

    def by_hash(self, key: str, name: str, digest: str) -> BaseModel:
        """Exactly the model a student was trained on, whatever its key is here.

        Raises:
            ArtifactError: it is not at hand, or another version is.
        """
        if not self._given:
            key = next((each for each, known in self.hashes().items() if known == digest), key)
        model = self.get(key)
        if model is None:
            raise ArtifactError(
                f"the base model {name} is not prepared in {self.folder}.",
                hint="`jitr models` lists what is; `jitr models add` prepares one.",
            )
        if model.hash != digest:
            raise ArtifactError(
                f"the replacement was trained on another version of the base model {name}.", hint="Train it again."
            )
        return model

    def prepare(self, tell: Callable[[], None] = lambda: None) -> str:
        """Prepare what is missing, each in a child process; a no-op once that is done. About a minute of CPU each.

        Nothing is fetched unless downloads are allowed. What was wanted and cannot be had is noted in `refused`.

        Args:
            tell: called every few seconds while it takes; what it raises ends it.

        Returns:
            "" if the default encoder and static table are at hand, else why not.
        """
        if self._given:
            return ""
        with self._lock:
            why = self._prepare_defaults(tell)
            known = {word for facts in prepared_models(self.folder).values() for word in (facts.name, facts.source)}
            names = {each.source: each.name for each in POOL}
            for source in self._wanted:
                if not known & {source, str(Path(source).absolute()), names.get(source)} | self.refused.keys() & {
                    source
                }:
                    failed = self.add(source, tell)
                    if failed:
                        _log.warning("%s: %s", source, failed)
                        self.refused[source] = failed
            return why

    def _prepare_defaults(self, tell: Callable[[], None]) -> str:
        if all((prepared_folder(self.folder) / key).exists() for key in DEFAULT_KEYS):
            return "" if _installed("tokenizers", "onnxruntime") else _NEEDS_EXTRA
        if not self._failed:
            if not _installed(*_PREPARES):
                self._failed = _NEEDS_EXTRA
            else:
                self._failed = _run_prepare(self.folder, *(["--download"] if self._download else []), tell=tell)
                if self._failed:
                    _log.warning(self._failed)
        return self._failed

    def lacking(self) -> str:
        """What is to be done before a search can prepare the default models here; "" if nothing."""
        try:
            if not _installed(*_PREPARES):
                raise MissingExtraError("offline", "Preparing base models")
            source = find_source(download=self._download)
            if Path(source).is_dir() or not HUB_ID_FORM.fullmatch(source):  # else it is asked for when it is needed
                source_kind(locate(source))
        except MissingExtraError as error:
            return error.hint
        except JITRError as error:
            return str(error)
        return ""

    def add(self, source: str, tell: Callable[[], None] = lambda: None) -> str:
        """Prepare one more model in a child process: a hub id, a folder or an installed package.

        Returns:
            "" if it is at hand now, else why it cannot be used.
        """
        if not _installed(*_PREPARES):
            return _NEEDS_EXTRA
        return _run_prepare(self.folder, "--add", source, *(["--download"] if self._download else []), tell=tell)

    def embed(
        self, key: str, texts: Sequence[str], progress: Callable[[float], None] | None = None
    ) -> NDArray[np.float32]:
        """Embeddings of many texts, each computed once per machine.

        Args:
            key: of a model that is at hand.
            texts: what to embed.
            progress: told the share done, in [0, 1].

        Returns:
            Shape (len(texts), d).
        """
        model = self.get(key)
        if model is None:
            raise ArtifactError(f"no base model {key} is at hand.", hint=_NEEDS_EXTRA)
        private = key in self._private
        # A static embedding costs less than looking it up.
        kept = self.facts(key).kind == "encoder" and not private
        vectors = np.zeros((len(texts), sum(width for _, width in model.blocks)), np.float32)
        distinct = list(dict.fromkeys(texts))
        known: dict[str, NDArray[np.float32]] = {}
        if kept:
            known = {distinct[i]: v for i, v in self._cache.get(model.hash, distinct).items()}
        elif private:
            known = {text: self._vectors[key, text] for text in distinct if (key, text) in self._vectors}
        missing = [text for text in distinct if text not in known]
        for start in range(0, len(missing), 256):
            some = missing[start : start + 256]
            fresh = np.stack([model.embed(text) for text in some])
            known.update(zip(some, fresh, strict=True))
            if kept:
                self._cache.put(model.hash, some, fresh)
            elif private:
                self._vectors.update({(key, text): vector for text, vector in zip(some, fresh, strict=True)})
            if progress:
                progress((start + len(some)) / len(missing))
        for i, text in enumerate(texts):
            vectors[i] = known[text]
        return vectors


_PREPARES = ("torch", "transformers", "onnx", "onnxruntime", "tokenizers")
_NEEDS_EXTRA = 'needs pip install "jitr[offline]"'


def _installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


def _run_prepare(folder: Path, *options: str, tell: Callable[[], None]) -> str:
    """Run the preparation, telling every few seconds; "" if it went well, else the last line it said."""
    command = [sys.executable, "-m", "jitr_core.base_models.prepare", "--cache", str(folder), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    ends = time.monotonic() + _PREPARE_TIMEOUT_S
    try:
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
    except OSError as error:
        return f"preparing the base models failed: {error}"
    try:
        while True:
            try:
                _, errors = child.communicate(timeout=_TOLD_EVERY_S)
                break
            except subprocess.TimeoutExpired:
                tell()
                if time.monotonic() > ends:
                    return f"preparing the base models took over {_PREPARE_TIMEOUT_S:.0f} s"
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    if child.returncode == 0:
        return ""
    said = errors.decode(errors="replace").strip()
    _log.info("preparing the base models failed: %s", said)
    return f"preparing the base models failed: {(said.splitlines() or ['no message'])[-1]}"
