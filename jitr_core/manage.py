"""What a user decides by hand: pause, resume, roll back, train, purge. All of it works while the app runs."""

from __future__ import annotations

import math
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .config import state_folder
from .errors import ConfigError
from .freely import forget

if TYPE_CHECKING:
    from .config import Policy
    from .pipeline import Pipeline
    from .store import Store
    from .students import BaseModels
    from .types import SearchReport, Task

__all__ = ["find_task", "pause", "pipeline", "purge", "resume", "rollback", "train"]


def find_task(store: Store, name: str) -> Task:
    """The task with this id, name or unambiguous beginning of either.

    Raises:
        ConfigError: there is none, or several.
    """
    tasks = store.tasks()
    exact = [t for t in tasks if name in (t.id, t.name)]
    found = exact or [t for t in tasks if t.id.startswith(name) or t.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(f"no task {name!r}.", hint="`jitr tasks` lists them.")
    raise ConfigError(f"{name!r} could be {', '.join(t.id for t in found)}.", hint="Give the id.")


def pause(store: Store, task: Task, reason: str = "paused by hand") -> None:
    """Veto: the teacher answers the task and nothing is trained for it, until `resume`."""
    store.set_state(task.id, "paused", reason)


def resume(store: Store, task: Task) -> None:
    """End a pause: the release that was active, if any, serves again."""
    active = store.active_release(task.id)
    store.set_state(task.id, "active" if active else "observing", "resumed by hand")


def rollback(store: Store, task: Task) -> str:
    """Take the active release out of service: the one before it serves again, or the teacher if there was none.

    A release that audits contradicted never serves again.

    Returns:
        What serves the task now, in words.

    Raises:
        ConfigError: nothing is active.
    """
    active = store.active_release(task.id)
    if active is None:
        raise ConfigError(f"task {task.name!r} has no active replacement to roll back.")
    older = [r for r in store.releases(task.id) if r.created < active.created]
    sound = [r for r in older if store.release_state(r.id) != "withdrawn"]
    previous = max(sound, key=lambda r: r.created, default=None)
    store.activate(task.id, previous.id if previous else None, "rolled back by hand")
    return f"release {previous.id}" if previous else "the teacher"


def train(pipeline: Pipeline, task: Task | None = None) -> Iterator[tuple[Task, SearchReport | None]]:
    """Make the attempts that are due, or one for `task` at once.

    Args:
        pipeline: the cold path.
        task: attempt this one now, due or not; it spends its share of delta all the same.

    Raises:
        ConfigError: the task is paused.

    Yields:
        Each task attempted with its report; None if another process was at it.
    """
    if task is not None:
        if task.state == "paused":
            raise ConfigError(f"task {task.name!r} is paused.", hint=f"`jitr resume {task.id}` ends that.")
        yield task, pipeline.run(task.id, force=True)
        return
    for each in pipeline.store.tasks():
        if pipeline.due(each):
            yield each, pipeline.run(each.id)


def pipeline(
    store: Store, policy: Policy, url: str, *, seed: int = 0, base_models: BaseModels | None = None
) -> Pipeline:
    """The cold path of the state at `url`.

    Args:
        store: the opened state.
        policy: what is promised.
        url: where the state is; artifacts live beside it.
        seed: drives splits and training.
        base_models: pretrained models at hand; by default those in the policy's cache folder.
    """
    from .pipeline import Pipeline
    from .students import BaseModels

    owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    folder = state_folder(url) / "artifacts"
    return Pipeline(store, policy, folder, base_models or BaseModels(policy.cache_dir), seed, owner)


def purge(store: Store, *, task: Task | None = None, tenant: str | None = None, before: float | None = None) -> int:
    """Delete stored calls, and with a whole task or tenant its templates, releases and artifacts too.

    Without a task, tenant or time everything goes.

    Args:
        store: the state.
        task: only this task.
        tenant: only this tenant.
        before: only calls before this time, in seconds since the epoch.

    Returns:
        Number of calls deleted.
    """
    if task is None and tenant is None and before is None:
        purged = [store.purge(task=each.id) for each in store.tasks()] + [store.purge(before=math.inf)]
    else:
        purged = [store.purge(task=task.id if task else None, tenant=tenant, before=before)]
    forget(store)
    for path in (path for part in purged for path in part.paths):
        shutil.rmtree(Path(path), ignore_errors=True)
    return sum(part.observations for part in purged)
