"""What is known of LangChain's runs: what a request says to JITR, and whose observation a run is."""

from __future__ import annotations

import threading
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, var_child_runnable_config

from ._routing import Engine
from ._translate import REQUEST_KEYS

__all__ = ["claim", "claimed", "watched", "with_wishes"]

_LIMIT = 10_000
_lock = threading.Lock()
_claims: dict[UUID, int] = {}
_watched = False


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
        with _lock:
            if len(_claims) >= _LIMIT:  # the oldest run has ended long since
                del _claims[next(iter(_claims))]
            _claims[run] = id(engine)


def claimed(engine: Engine, run: UUID) -> bool:
    """True if somebody tells this very engine of the run."""
    return _claims.get(run) == id(engine)
