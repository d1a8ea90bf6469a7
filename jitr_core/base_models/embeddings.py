"""Embeddings on disk: each (base model, text) is embedded once, whatever searches and runs need it."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["EmbeddingCache"]

_log = logging.getLogger(__name__)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS vectors (
    id INTEGER PRIMARY KEY, model TEXT NOT NULL, text BLOB NOT NULL, vector BLOB NOT NULL, time REAL NOT NULL,
    UNIQUE (model, text)
)
"""
_CHUNK = 500  # below SQLite's limit of variables in a statement
_WAIT_S = 3.0  # for other processes; embedding anew may take less than waiting longer


class EmbeddingCache:
    """A bounded table of vectors in one SQLite file. Texts are kept as hashes only.

    It is a cache: damage, locks or a full disk cost time, never a result.
    """

    def __init__(self, path: Path, *, max_bytes: int = 1_000_000_000) -> None:
        """A cache in the file `path`, created when first written; oldest vectors go first beyond `max_bytes`."""
        self._path = path
        self._max_bytes = max_bytes

    def get(self, model: str, texts: Sequence[str]) -> dict[int, NDArray[np.float32]]:
        """The vectors at hand, by index into `texts`.

        Args:
            model: hash of the base model.
            texts: what was embedded.
        """
        found: dict[int, NDArray[np.float32]] = {}
        if not self._path.exists():
            return found
        keys = [_key(text) for text in texts]
        place: dict[bytes, list[int]] = {}
        for i, key in enumerate(keys):
            place.setdefault(key, []).append(i)
        with self._guarded(), self._open() as db:
            distinct = list(place)
            for start in range(0, len(distinct), _CHUNK):
                some = distinct[start : start + _CHUNK]
                marks = ",".join("?" * len(some))
                query = f"SELECT text, vector FROM vectors WHERE model = ? AND text IN ({marks})"
                for key, data in db.execute(query, (model, *some)):
                    for i in place[key]:
                        found[i] = np.frombuffer(data, np.float32)
        return found

    def put(self, model: str, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Store vectors, shape (len(texts), d)."""
        now = time.time()
        rows = [(model, _key(t), v.astype(np.float32).tobytes(), now) for t, v in zip(texts, vectors, strict=True)]
        with self._guarded():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as db:
                db.execute("BEGIN IMMEDIATE")
                db.executemany("INSERT OR IGNORE INTO vectors (model, text, vector, time) VALUES (?, ?, ?, ?)", rows)
                self._trim(db)
                db.execute("COMMIT")

    def _trim(self, db: sqlite3.Connection) -> None:
        used = db.execute("SELECT coalesce(sum(length(vector)), 0), count(*) FROM vectors").fetchone()
        if used[0] > self._max_bytes:
            # A tenth more than needed goes, so that not every write has to trim.
            share = min(1.0, 1.1 - self._max_bytes / used[0])
            drop = int(used[1] * share) + 1
            db.execute("DELETE FROM vectors WHERE id IN (SELECT id FROM vectors ORDER BY id LIMIT ?)", (drop,))

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute(_SCHEMA)
            yield db
        finally:
            db.close()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            _log.warning("embedding cache %s cannot be used: %s", self._path, error)
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                with contextlib.suppress(OSError):
                    self._path.unlink(missing_ok=True)


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
