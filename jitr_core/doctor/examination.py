"""What can be said of a user's real state without changing it."""

from __future__ import annotations

import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import state_exists, state_folder
from ..errors import JITRError
from ..observe import DROPPED
from ..policies import Policies, in_words
from ..prices import Prices
from ..settings import Settings
from .bases import bases
from .check import Check
from .privacy import privacy
from .replacements import replacements

if TYPE_CHECKING:
    from ..store import LedgerEntry, Store

__all__ = ["examine"]

_DAY_S = 86_400.0
_LEAST_DISK = 500_000_000  # bytes: a search may need as much for a base model
_AHEAD_S = 300.0  # seconds a stored time may be ahead of the clock


def examine(url: str, settings: Settings) -> Iterator[Check]:
    """Look at the state, and at what JITR needs around it.

    Args:
        url: the state.
        settings: what environment and files say.

    Yields:
        A check for each thing looked at.
    """
    if settings.disabled:
        yield Check("settings", "warn", "JITR is switched off here", "Unset JITR_DISABLED, or `disabled` in jitr.toml.")
    yield bases(settings)
    folder = state_folder(url)
    if not state_exists(url):
        yield Check("policy", "ok", f"{in_words(settings.policy)}, as settings and defaults say")
        yield Check("state", "warn", f"there is none at {url} yet", "Wrap a model and run your app, or give --url.")
        return
    from ..store import Store

    try:
        with Store(url) as store:
            yield from _state(store, folder)
            yield from _policies(Policies(store, settings), settings)
            ledger = store.ledger()
            yield from _calls(store, ledger)
            yield from privacy(store, settings, ledger)
            yield from replacements(store, url, settings)
    except JITRError as error:
        yield Check("state", "fail", str(error.args[0]), error.hint or "See the message.")


def _state(store: Store, folder: Path) -> Iterator[Check]:
    name = f"doctor:{uuid.uuid4().hex}"
    if store.acquire(name, name, 60.0):
        store.free(name, name)
    free = shutil.disk_usage(folder).free
    if free < _LEAST_DISK:
        yield Check("storage", "warn", f"written; {free / 1e6:,.0f} MB left", "Make room, or `jitr purge --days N`.")
    else:
        yield Check("storage", "ok", f"{store.path} was opened and written; {free / 1e9:,.0f} GB left")
    problems = store.verify()
    if problems:
        fix = "`jitr rollback TASK` withdraws a damaged replacement; else restore a copy of the folder."
        yield Check("integrity", "fail", " ".join(problems[:5]), fix)
    else:
        yield Check("integrity", "ok", "no damage and no contradiction")


def _policies(policies: Policies, settings: Settings) -> Iterator[Check]:
    """What each app works with, and whether something else is set here."""
    for owner in policies.owners():
        told = f"{in_words(policies.of(*owner))}, {policies.whose(*owner)}"
        fix = "Take it back, or start the app with it: commands go by what is set here, the app does not."
        if policies.unusable(*owner):
            fix = (
                "Use the same version and extras of JITR here as the app does; until then commands go by the settings."
            )
        doubtful = policies.unusable(*owner) or policies.set_otherwise(*owner)
        yield Check("policy", "warn" if doubtful else "ok", told, fix if doubtful else "")
    if not policies.owners():
        yield Check("policy", "ok", f"{in_words(settings.policy)}, as settings and defaults say")


def _calls(store: Store, ledger: list[LedgerEntry]) -> Iterator[Check]:
    now, tasks = time.time(), store.tasks()
    usage = store.usage()
    number = sum(each.calls for each in usage)
    times = [t for t in (store.counts(task.id).last_time for task in tasks) if t is not None]
    times += [call.time for call in store.unplaced(1)]
    last = max(times, default=None)
    if last is None or not number:
        yield Check("calls", "warn", "none came in yet", "See that the app uses the wrapped model, and this state.")
    elif last > now + _AHEAD_S:
        fix = "Set the clock. Nothing is decided by it but `retention_days`, leases and the figures a day."
        yield Check("clock", "warn", f"the last call was stored {last - now:,.0f} s in the future", fix)
    elif now - last > _DAY_S:
        fix = "See that the app runs, and uses the wrapped model and this state."
        yield Check("calls", "warn", f"{number:,}, the last {(now - last) / _DAY_S:,.1f} days ago", fix)
    else:
        yield Check("calls", "ok", f"{number:,}, the last {(now - last) / 60:,.0f} minutes ago")
    yield from _faults(ledger, now)
    prices = Prices()
    asked = {each.model for each in usage if each.asked}
    unknown = sorted(name for name in asked if prices.of(name) is None)
    if unknown:
        names = ", ".join(name or "(no name)" for name in unknown[:5])
        yield Check("prices", "warn", f"unknown: {names}", "`jitr savings --price-model NAME` prices them as another.")
    elif asked:
        yield Check("prices", "ok", f"known for all {len(asked)} models seen")


def _faults(ledger: list[LedgerEntry], now: float) -> Iterator[Check]:
    """The latest count of each process of the last day."""
    latest = {e.details["pid"]: e.details["faults"] for e in ledger if e.kind == "faults" and e.time > now - _DAY_S}
    number: Counter[str] = Counter()
    for counts in latest.values():
        number.update(counts)
    dropped = number.pop(DROPPED, 0)
    if dropped:
        found = f"{dropped:,} calls of the last day were not stored: more came than could be written"
        fix = "See that the state is on a disk of this machine, and that no other program keeps its database locked."
        yield Check("dropped calls", "warn", found, fix)
    if number:
        found = f"{number.total():,} in the last day, in {', '.join(sorted(number))}: the app was not disturbed"
        yield Check("faults", "warn", found, "The app's log names the first of each kind.")
    elif not dropped:
        yield Check("faults", "ok", "none in the last day")
