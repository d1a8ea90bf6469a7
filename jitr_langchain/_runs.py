"""What is known of LangChain's runs: what a request says to JITR, and whose observation a run is."""

from __future__ import annotations

from contextlib import suppress
from typing import TypeVar
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, var_child_runnable_config

from jitr_core.config import disabled
from jitr_core.integration import Engine

from ._translate import REQUEST_KEYS

__all__ = ["claim", "claimed", "engine_or_default", "remember", "watched", "with_wishes"]

K = TypeVar("K")
V = TypeVar("V")

_LIMIT = 10_000
_claims: dict[tuple[UUID, int], None] = {}  # (run, id of the engine), in order
_watched = False


def engine_or_default(engine: Engine | None) -> Engine | None:
    """The engine given, else the one of this process; None if JITR is off or cannot be configured."""
    if engine is None and not disabled():
        from jitr_core.engine import default

        return default()
    return engine


def with_wishes(config: RunnableConfig | None) -> RunnableConfig | None:
    """The config with what its `configurable` says to JITR as metadata, which reaches callbacks and models."""
    said = (config or {}).get("configurable")
    if said is None:
        said = (var_child_runnable_config.get() or {}).get("configurable")
    wishes = {key: said[key] for key in REQUEST_KEYS if key in said} if said else None
    if not wishes:
        return config
    config = ensure_config(config)
    return {**config, "metadata": {**config["metadata"], **wishes}}


def watched() -> None:
    """Says that a handler observes this process: from now on runs have to be claimed, to be counted once."""
    global _watched
    _watched = True


def claim(engine: Engine, run: UUID | None) -> None:
    """Says that `engine` is told of this run, by a wrapped model or a handler, so that no other handler need."""
    if _watched and run is not None:
        remember(_claims, (run, id(engine)), None)


def claimed(engine: Engine, run: UUID) -> bool:
    """True if somebody tells this very engine of the run."""
    return (run, id(engine)) in _claims


def remember(table: dict[K, V], key: K, value: V) -> None:
    """Adds to a table of runs, which forgets the oldest: they have ended, or never will.

    Without a lock, which a forked child might find taken: one step at a time is safe in threads.
    """
    if len(table) >= _LIMIT:
        with suppress(KeyError, RuntimeError, StopIteration):  # another thread did the same
            del table[next(iter(table))]
    table[key] = value
