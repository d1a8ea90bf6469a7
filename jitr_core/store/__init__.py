"""The only door to the database.

Example:
    >>> import tempfile
    >>> from jitr_core.types import Task
    >>> with tempfile.TemporaryDirectory() as folder, Store(f"sqlite:///{folder}/jitr.db") as store:
    ...     store.save_task(Task("t1", "shop", "", "triage"))
    ...     [task.name for task in store.tasks()]
    ['triage']
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from ..types import Slots
from .audits import Audits
from .database import Database
from .observations import Observations
from .patterns import Patterns
from .records import (
    Answers,
    Asked,
    Audited,
    Drawn,
    Given,
    Handled,
    LedgerEntry,
    Pin,
    Probation,
    Purged,
    ReleaseState,
    TaskCounts,
    TemplateUse,
    Usage,
)
from .regroup import Regrouping
from .tasks import Tasks
from .unplaced import UnplacedCalls
from .upkeep import Upkeep
from .wanted import Wanted

__all__ = [
    "Answers",
    "Asked",
    "Audited",
    "Drawn",
    "Given",
    "Handled",
    "LedgerEntry",
    "Pin",
    "Probation",
    "Purged",
    "ReleaseState",
    "Store",
    "TaskCounts",
    "TemplateUse",
    "Usage",
]


class Store(Observations, Audits, UnplacedCalls, Tasks, Regrouping, Patterns, Wanted, Upkeep):
    """Everything JITR remembers, in one database that several threads and processes may share.

    Every method is one transaction; those that write hold the write lock from the start and wait for other writers.
    An older schema is migrated on opening. The store survives a fork.

    Args:
        url: `sqlite:///path`; the folder is created.
        content_hash: hash of the normalised input, by which examples are grouped; by default the one of
            `jitr_core.identify`.
        clock: seconds since the epoch.

    Raises:
        ConfigError: the URL does not name an SQLite file.
        StoreError: the file is damaged, of another program, of a newer version, or cannot be written. Every method
            raises it, too, where the database fails.
    """

    def __init__(
        self,
        url: str,
        *,
        content_hash: Callable[[Slots], str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if content_hash is None:
            from ..identify import content_hash as default

            content_hash = default
        self._content_hash = content_hash
        self._literal_chars = {}
        self._tallies = {}
        self._answers = {}
        self._database = Database(url, clock=clock)

    @property
    def path(self) -> Path:
        """The database file."""
        return self._database.path

    def close(self) -> None:
        """Closes all connections."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
