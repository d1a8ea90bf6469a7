"""Unplaced calls by their vectors: the only door to Chroma, and an index in memory where it is not installed.

Chroma sees no other process's writes: one process owns the folder, under a lease of the store. What is in the folder
is a copy of what the store has and may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ChromaIndex", "MemoryIndex", "delete_index", "open_index"]

_log = logging.getLogger("jitr")
_BATCH = 1_000
_SEARCH = 1_024  # calls looked at for a query: as good as all of them, and never fewer than are asked for
_NAME = "unplaced-calls"
_HEADER = struct.Struct("<i4Q")  # of a file of hnswlib, see `_scrub`
_told: set[str] = set()

Vector = NDArray[np.float32]
Item = tuple[str, str, Vector, str, str]
"""(id, frame, vector, text, answer) of a call."""


def open_index(folder: Path | None) -> MemoryIndex | ChromaIndex:
    """Chroma in this folder; in memory where Chroma is not installed, fails, or there is no folder to own.

    Args:
        folder: where Chroma keeps its files; None if another process owns them.
    """
    if folder is not None and importlib.util.find_spec("chromadb") is not None:
        try:
            return ChromaIndex(folder)
        except Exception as error:  # whatever a damaged folder makes of it: the store has all that is in it
            _log.warning("the index in %s cannot be used, it is kept in memory: %s", folder, type(error).__name__)
            shutil.rmtree(folder, ignore_errors=True)
    elif folder is not None and "chroma" not in _told:
        _told.add("chroma")
        _log.info('calls without a task are compared in memory only; for more of them: pip install "jitr[chroma]"')
    return MemoryIndex()


def delete_index(folder: Path) -> None:
    """Delete an index that no process uses."""
    shutil.rmtree(folder, ignore_errors=True)


class MemoryIndex:
    """The latest calls, in memory.

    Args:
        limit: most calls kept, ≥ 1.
    """

    def __init__(self, limit: int = 2_000) -> None:
        self._limit = limit
        self._items: dict[str, Item] = {}

    def add(self, items: Sequence[Item]) -> None:
        """Keep calls; known ids are replaced, the oldest calls leave."""
        for item in items:
            self._items.pop(item[0], None)
            self._items[item[0]] = item
        for gone in list(self._items)[: max(0, len(self._items) - self._limit)]:
            del self._items[gone]

    def nearest(self, frame: str, vector: Vector, k: int) -> list[tuple[str, Vector, str, str]]:
        """(id, vector, text, answer) of the k calls of this frame nearest to the vector, nearest first."""
        here = [item for item in self._items.values() if item[1] == frame]
        if not here:
            return []
        likeness = np.stack([item[2] for item in here]) @ vector
        order = np.argsort(-likeness, kind="stable")[:k]
        return [(here[i][0], here[i][2], here[i][3], here[i][4]) for i in order]

    def keep(self, ids: set[str]) -> None:
        """Drop all calls but these."""
        self._items = {name: item for name, item in self._items.items() if name in ids}

    def close(self) -> None:
        """Nothing to let go of."""

    def drop(self, ids: Sequence[str]) -> None:
        """Drop these calls; unknown ids are ignored."""
        for name in ids:
            self._items.pop(name, None)


class ChromaIndex:
    """Calls in a Chroma folder that this process alone uses.

    Args:
        folder: created if missing.
        limit: most calls kept, ≥ 1; beyond it a tenth is dropped.
    """

    def __init__(self, folder: Path, limit: int = 20_000) -> None:
        self._folder, self._limit = folder, limit
        latest = max((int(each.name) for each in folder.glob("*") if each.name.isdigit()), default=0)
        self._open(latest)

    def _open(self, generation: int) -> None:
        import chromadb
        from chromadb.config import Settings

        self._generation = generation
        place = self._folder / str(generation)
        place.mkdir(parents=True, exist_ok=True)
        self._client: Any = chromadb.PersistentClient(str(place), Settings(anonymized_telemetry=False))
        # Without an embedding function: the default one would download a model.
        self._calls: Any = self._client.get_or_create_collection(
            _NAME,
            embedding_function=None,
            configuration={"hnsw": {"space": "cosine", "ef_search": _SEARCH, "num_threads": 1}},
        )

    def add(self, items: Sequence[Item]) -> None:
        """See `MemoryIndex.add`."""
        for start in range(0, len(items), _BATCH):
            some = items[start : start + _BATCH]
            self._calls.upsert(
                ids=[item[0] for item in some],
                embeddings=[item[2] for item in some],
                documents=[item[3].encode("utf-8", "replace").decode() for item in some],
                metadatas=[{"frame": _plain(item[1]), "answer": _plain(item[4])} for item in some],
            )
        _scrub(self._folder / str(self._generation))
        if self._calls.count() > self._limit:
            self.drop(self._calls.get(include=[], limit=self._limit // 10 + 1)["ids"])

    def nearest(self, frame: str, vector: Vector, k: int) -> list[tuple[str, Vector, str, str]]:
        """See `MemoryIndex.nearest`."""
        found = self._calls.query(
            query_embeddings=[vector],
            n_results=k,
            where={"frame": _plain(frame)},
            include=["embeddings", "documents", "metadatas"],
        )
        vectors = np.asarray(found["embeddings"][0], np.float32)
        rest = zip(found["ids"][0], vectors, found["documents"][0], found["metadatas"][0], strict=True)
        return [(name, vector, text, str(note["answer"])) for name, vector, text, note in rest]

    def close(self) -> None:
        """Let go of the files; they may be deleted or used by another process now."""
        self._client.close()

    def keep(self, ids: set[str]) -> None:
        """See `MemoryIndex.keep`. Chroma only marks what is deleted, so what stays moves to files of its own."""
        if ids.issuperset(self._calls.get(include=[])["ids"]):
            return
        held = self._calls.get(include=["embeddings", "documents", "metadatas"])
        rows = zip(held["ids"], held["embeddings"], held["documents"], held["metadatas"], strict=True)
        stay = [
            (i, str(note["frame"]), np.asarray(v), text, str(note["answer"])) for i, v, text, note in rows if i in ids
        ]
        self.close()
        self._open(self._generation + 1)
        self.add(stay)
        for old in self._folder.iterdir():
            if old.name != str(self._generation):
                shutil.rmtree(old, ignore_errors=True)

    def drop(self, ids: Sequence[str]) -> None:
        """See `MemoryIndex.drop`."""
        for start in range(0, len(ids), _BATCH):
            self._calls.delete(ids=list(ids[start : start + _BATCH]))


def _scrub(folder: Path) -> None:
    """Zero what hnswlib wrote beyond its calls: memory as it was, in which texts may stand that were deleted.

    Its header: version, an offset, room, calls, bytes of each call.
    """
    for header in folder.rglob("header.bin"):
        file, told = header.with_name("data_level0.bin"), header.read_bytes()
        if len(told) < _HEADER.size or not file.exists():
            continue
        version, _, room, calls, each = _HEADER.unpack_from(told)
        size = file.stat().st_size
        if version != 1 or not calls * each <= size <= room * each:
            continue  # laid out otherwise
        with contextlib.suppress(OSError), open(file, "r+b") as data:
            data.seek(calls * each)
            data.write(bytes(size - calls * each))


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
