"""What an engine notes of itself in the ledger: its policy, how it redacts, faults, what judges cost; of no call."""

from __future__ import annotations

import collections
import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .judge import unbilled
from .own import name_of
from .policies import noted

if TYPE_CHECKING:
    from .config import Policy
    from .store import Store

__all__ = ["Diary"]

_log = logging.getLogger("jitr")
_FAULTS_LOGGED = 20
_FAULTS_KEPT_S = 60.0  # how often, in seconds, new faults are noted


class Diary:
    """Counts the faults of one engine, logs the first of each kind, and tells the ledger.

    Args:
        app: name of the application.
        tenant: default tenant of its calls.
        policy: what the engine works by.
        redact: what all texts go through first; None: they are taken as they are.

    Attributes:
        faults: number of faults so far, by where they happened.
    """

    def __init__(self, app: str, tenant: str, policy: Policy, redact: Callable[[str], str] | None) -> None:
        self.faults: collections.Counter[str] = collections.Counter()
        redaction = "" if redact is None else name_of(redact)
        self._engine = {"app": app, "tenant": tenant, "policy": noted(policy), "redaction": redaction}
        self._introduced, self._told, self._tell_at = False, 0, 0.0

    def fault(self, where: str, error: BaseException) -> None:
        """Count a fault of JITR's own, and log the first one of each kind."""
        self.faults[where] += 1
        if self.faults[where] <= 1:
            # An error may quote the text that a redaction was to hide.
            told = type(error).__name__ if self._engine["redaction"] else repr(error)
            aside = (
                "an audit failed, and is tried again"
                if where == "audit"
                else f"JITR steps aside in {where}, the teacher serves"
            )
            _log.error("%s: %s", aside, told)
        elif self.faults[where] == _FAULTS_LOGGED:
            _log.error("JITR: %d faults in %s so far, see JITR.faults", _FAULTS_LOGGED, where)

    def keep(self, store: Store, *, calls: int = 0, last: bool = False) -> None:
        """Note in the ledger what is new; faults once a minute, or at once where there is no next time.

        Args:
            store: the state.
            calls: how many came just now; an engine that sees none, made for looking, says nothing of an app.
            last: there is no next time.

        Raises:
            StoreError: the store fails; it is noted the next time.
        """
        if calls and not self._introduced:
            known = store.last_entry("engine")
            if known is None or known.details != self._engine:  # not a line for every process of an app
                store.record("engine", None, self._engine)
            self._introduced = True
        for asked in unbilled():
            store.record("judged", None, asked)
        now, number = time.monotonic(), self.faults.total()
        if number > self._told and (last or now >= self._tell_at):
            store.record("faults", None, {"pid": os.getpid(), "faults": dict(self.faults)})
            self._told, self._tell_at = number, now + _FAULTS_KEPT_S
