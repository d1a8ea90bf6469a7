"""Whether tasks are learnt, and what serves them can be loaded and is audited."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import JITRError
from ..files import verify_folder
from ..manage import missing_bases, pipelines, unmet
from ..policies import Policies
from ..settings import Settings
from .bases import ELSEWHERE
from .check import Check

if TYPE_CHECKING:
    from ..pipeline import Pipeline
    from ..store import Store
    from ..types import SearchReport, Task

__all__ = ["replacements"]

_SILENT = 100  # calls of a task without a label from which something is wrong
_LATEST = tuple(100 * 2**k for k in range(8))  # answers of a release whose audits are counted: what died may do so late
_UNLIKELY = math.log(1e4)  # one in so many states without fault is told that its audits are missing


def replacements(store: Store, url: str, settings: Settings) -> Iterator[Check]:
    """Look at the searches and the releases of a state.

    Args:
        store: the state.
        url: where it is.
        settings: what environment and files say.
    """
    tasks = store.tasks()
    policies = Policies(store, settings)
    cold_path = pipelines(store, policies, url)
    silent = [t for t in tasks if not store.label_count(t.id) and store.counts(t.id).calls >= _SILENT and not t.ignored]
    waiting = store.probations().keys()  # what is found meanwhile is not released: the attempt would be forfeited
    due = [t for t in tasks if t.id not in waiting and store.pinned(t.id) is None and cold_path(t).due(t)]
    broke = list(_broke(store, tasks))
    if silent:
        fix = "`jitr tasks show TASK` says why: tools of the LLM's choice, several answers, logprobs, deleted texts."
        yield Check("learning", "warn", f"{_named(silent)}: many calls, and none teaches anything", fix)
    if due:
        fix = "`jitr train` makes them now; see that the app's setting `training` is not off."
        yield Check("learning", "warn", f"a search is due for {_named(due)}", fix)
    yield from broke
    if not silent and not due and not broke:
        yield Check("learning", "ok", f"{len(tasks)} tasks, none waits for a search")
    yield from _releases(store, tasks, cold_path, policies)


def _broke(store: Store, tasks: list[Task]) -> Iterator[Check]:
    """Tasks whose latest search broke off by an error."""
    latest = {task.id: report for task in tasks if (report := _latest(store.searches(task.id))) is not None}
    failed = [task for task in tasks if task.id in latest and latest[task.id].failed]
    if failed:
        all_of_them = "every search" if len(failed) == len(latest) else f"{len(failed)} of {len(latest)} searches"
        found = f"the last time {all_of_them} broke off: {_named(failed)}: {latest[failed[0].id].refusal}"
        fix = "`jitr train TASK` searches again and shows where it breaks."
        yield Check("searches", "fail" if len(failed) == len(latest) else "warn", found, fix)


def _latest(searches: list[SearchReport]) -> SearchReport | None:
    """The last search that took place: an attempt may be forfeited without one."""
    return next((report for report in reversed(searches) if report.seconds), None)


def _releases(
    store: Store, tasks: list[Task], cold_path: Callable[[Task], Pipeline], policies: Policies
) -> Iterator[Check]:
    served = [(task, release) for task in tasks if (release := store.active_release(task.id)) is not None]
    broken = 0
    for task, release in served:
        from ..students import load_student

        if why := unmet(store, policies, task, release):
            broken += 1
            fix = f"`jitr train {task.id}` searches for one now; else the next search does."
            yield Check("replacements", "warn", f"{_named([task])}: its app does not use it: {why}", fix)
        try:
            load_student(release.path, cold_path(task).base_models)
        except (JITRError, OSError) as error:
            broken += 1
            fix = f"`jitr rollback {task.id}` withdraws it; restoring its folder mends it."
            if missing_bases(release, cold_path(task).base_models):
                fix = f"`jitr models add` prepares the base model. {ELSEWHERE}"
            yield Check("replacements", "fail", f"{_named([task])}: cannot be loaded: {error}", fix)
    if served and not broken:
        held = [task for task, release in served if store.held_since(task.id, release.id) is not None]
        told = f"; held, so that the teacher answers until they were compared: {_named(held)}" if held else ""
        yield Check("replacements", "ok", f"{len(served)} in service, all can be loaded{told}")
    waiting = [task for task in tasks if task.id in store.probations()]
    if waiting:
        fix = "`jitr approve TASK` or `jitr veto TASK` ends it; else it ends by itself unless approval is manual."
        yield Check("probation", "ok", f"{_named(waiting)}", fix)
    yield from _earlier(store, tasks)
    yield from (check for task, release in served for check in _audits(store, task, release.id))


def _earlier(store: Store, tasks: list[Task]) -> Iterator[Check]:
    """Retired releases that nobody could go back to."""
    lost = []
    for task in tasks:
        for release in store.releases(task.id):
            try:
                if store.release_state(release.id) == "retired":
                    verify_folder(Path(release.path))
            except JITRError:
                lost.append(task)
    if lost:
        found = f"{len(lost)} damaged or gone, of {_named(list({task.id: task for task in lost}.values()))}"
        yield Check("earlier releases", "warn", found, "`jitr rollback TASK RELEASE` cannot go back to them.")


def _audits(store: Store, task: Task, release: str) -> Iterator[Check]:
    """Whether as many audits came back as the coins of the latest answers ask for."""
    looks = [store.drawn(task.id, release, latest) for latest in _LATEST]
    missing = [each for each in looks if _against(each.made, each.expected) > _UNLIKELY]
    if not missing:
        return
    drawn = missing[0]
    found = (
        f"{_named([task])}: of some {drawn.expected:,.0f} audits of the last {drawn.answered:,} answers {drawn.made:,}"
    )
    found += f" came back, {drawn.failed:,} failed" if drawn.failed else " came back"
    fix = (
        "See that the LLM can be asked in the background, that the app runs long enough and calls `close()` at its end."
    )
    yield Check("audits seen", "warn" if looks[-1].made else "fail", found, fix)


def _against(made: int, expected: float) -> float:
    """Minus the logarithm of a bound (Chernoff) of the probability that chance alone let so few be made."""
    if made >= expected:
        return 0.0
    return expected - made + (made * math.log(made / expected) if made else 0.0)


def _named(tasks: list[Task]) -> str:
    more = f" and {len(tasks) - 3} more" if len(tasks) > 3 else ""
    return ", ".join(f"“{task.name[:40]}”" for task in tasks[:3]) + more
