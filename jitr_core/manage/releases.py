"""What a user decides about replacements: which release serves a task, and whether a search is made."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import state_folder
from ..earlier import ARTIFACTS
from ..errors import ArtifactError, ConfigError
from ..files import verify_folder
from ..judge import unbilled
from .figures import at_hand, of_task

if TYPE_CHECKING:
    from ..base_models import BaseModels
    from ..config import Policy
    from ..pipeline import Pipeline
    from ..policies import Policies
    from ..store import Probation, Store
    from ..types import Release, SearchReport, Task

__all__ = [
    "approve",
    "missing_bases",
    "pause",
    "pin",
    "pipeline",
    "pipelines",
    "resume",
    "rollback",
    "tasks_resting_on",
    "train",
    "unpin",
    "veto",
]


def pause(store: Store, task: Task, reason: str = "paused by hand") -> None:
    """Veto: the teacher answers the task and nothing is trained for it, until `resume`."""
    store.set_state(task.id, "paused", reason, of_task(store, task))


def resume(store: Store, task: Task) -> None:
    """End a pause: the release that was active or on probation, if any, goes on.

    Raises:
        ConfigError: the task is ignored.
    """
    if task.ignored:
        raise ConfigError(f"task {task.name!r} is ignored.", hint=f"`jitr tasks unignore {task.id}` ends that.")
    store.resume(task.id, "resumed by hand", of_task(store, task))


def approve(store: Store, task: Task) -> str:
    """Let the release on probation go on: a shadow becomes a canary where the policy wants one, else it serves.

    Returns:
        The release's id.

    Raises:
        ConfigError: none is on probation, or the active release is pinned.
    """
    found = _on_probation(store, task)
    figures = at_hand(store, found.release)
    if not store.advance(task.id, found.release.id, found.state, "approved by hand", figures):
        raise ConfigError(
            f"task {task.name!r} is pinned, or its release on probation has just moved on.",
            hint=f"`jitr unpin {task.id}` ends a pin.",
        )
    return found.release.id


def veto(store: Store, task: Task) -> str:
    """Refuse the release on probation for good; what serves the task goes on, and so do later searches.

    Returns:
        The release's id.

    Raises:
        ConfigError: none is on probation.
    """
    release = _on_probation(store, task).release
    store.withdraw(task.id, release.id, "vetoed by hand", at_hand(store, release), restart=False)
    return release.id


def pin(store: Store, task: Task, release: str | None = None, *, despite_audits: bool = False) -> str:
    """Keep a release in service: no other one replaces it, and nothing is searched, until `unpin`.

    Args:
        store: the state.
        task: the task.
        release: id of one of its releases, or an unambiguous beginning; it serves from now on. None: the active one.
        despite_audits: audits that contradict it do not withdraw it. By default they do, which ends the pin.

    Returns:
        The release's id.

    Raises:
        ConfigError: there is no such release, or it was withdrawn.
    """
    active = store.active_release(task.id)
    chosen = active if release is None else _sound(store, task, release)
    if chosen is None:
        raise ConfigError(f"task {task.name!r} has no active replacement to pin.", hint="`jitr tasks show` lists all.")
    figures = at_hand(store, chosen)
    if active is None or active.id != chosen.id:
        store.activate(task.id, chosen.id, "pinned by hand", figures=figures)
    store.pin(task.id, chosen.id, despite_audits=despite_audits, figures=figures)
    return chosen.id


def unpin(store: Store, task: Task) -> None:
    """End a pin.

    Raises:
        ConfigError: nothing is pinned.
    """
    if store.pinned(task.id) is None:
        raise ConfigError(f"task {task.name!r} has no pinned replacement.")
    store.pin(task.id, None, figures=of_task(store, task))


def rollback(store: Store, task: Task, release: str | None = None) -> str:
    """Take the active release out of service: an earlier one serves again, or the teacher if there was none.

    A release that audits contradicted, or that was vetoed, never serves again.

    Args:
        store: the state.
        task: the task.
        release: id of the earlier release, or an unambiguous beginning; None: the one before the active one.

    Returns:
        What serves the task now, in words.

    Raises:
        ConfigError: nothing is active, there is no such release, or it serves already.
    """
    active = store.active_release(task.id)
    if active is None:
        hint = "`jitr pin TASK RELEASE` serves an earlier one."
        if task.id in store.probations():
            hint = "`jitr veto` refuses the one on probation."
        raise ConfigError(f"task {task.name!r} has no active replacement to roll back.", hint=hint)
    if release is not None:
        previous: Release | None = _sound(store, task, release)
    else:
        known = store.releases(task.id)  # in the order of their coming, whatever the clock said
        older = known[: [each.id for each in known].index(active.id)]
        retired = (r for r in reversed(older) if store.release_state(r.id) == "retired")
        previous = next((r for r in retired if _whole(r)), None)
    serves = previous.id if previous else None
    if serves == active.id:
        raise ConfigError(
            f"release {active.id} of task {task.name!r} serves already.", hint=f"`jitr pin {task.id}` keeps it."
        )
    store.activate(task.id, serves, "rolled back by hand", figures=at_hand(store, active))
    return f"release {previous.id}" if previous else "the teacher"


def tasks_resting_on(store: Store, base_models: BaseModels, key: str) -> list[Task]:
    """The tasks whose release, active or on probation, cannot be loaded without a base model.

    Args:
        store: the state.
        base_models: the base models of this machine.
        key: of one of them.
    """
    alike = {key, base_models.hashes().get(key)}
    probations = store.probations()
    found = []
    for task in store.tasks():
        active, probation = store.active_release(task.id), probations.get(task.id)
        releases = [active, probation.release if probation else None]
        if any(release is not None and alike & _bases(release).keys() for release in releases):
            found.append(task)
    return found


def missing_bases(release: Release, base_models: BaseModels) -> list[str]:
    """Names of the base models that a release needs and that are not here, or only in another version."""
    from ..base_models.sources import is_here, public_name

    hashes = base_models.hashes()
    here = hashes.keys() | set(hashes.values())
    missing = {name for wanted, name in _bases(release).items() if wanted not in here}
    generators = [each["answerer"]["base"] for each in _described(release) if "base" in each.get("answerer", {})]
    return sorted(missing | {public_name(base, Path(base).name) for base in generators if not is_here(base)})


def _bases(release: Release) -> dict[str, str]:
    """Names of the prepared base models that a release needs, by hash; of one that its rule needs, by key.

    What it holds a copy of, an encoder that was tuned for an earlier task, it does not need.
    """
    told = [own for each in _described(release) for own in each.get("models", {}).values()]
    found = {own["hash"]: own["name"] for own in told if "own" not in own}
    return found | ({"static": "static"} if release.certificate.equivalence.startswith("embedding") else {})


def _described(release: Release) -> list[dict[str, Any]]:
    from ..students import descriptions

    try:
        return descriptions(release.path)
    except ArtifactError:  # damaged: that is told elsewhere
        return []


def _on_probation(store: Store, task: Task) -> Probation:
    found = store.probations().get(task.id)
    if found is None:
        raise ConfigError(
            f"task {task.name!r} has no release on probation.",
            hint="`jitr rollback` withdraws one that serves, `jitr pause` keeps all from serving.",
        )
    return found


def _sound(store: Store, task: Task, wanted: str) -> Release:
    """A release of the task that may serve."""
    found = [each for each in store.releases(task.id) if wanted and each.id.startswith(wanted)]
    if len(found) != 1:
        raise ConfigError(
            f"task {task.name!r} has {'several releases' if found else 'no release'} {wanted!r}.",
            hint=f"`jitr tasks show {task.id}` lists them.",
        )
    if store.release_state(found[0].id) == "withdrawn":
        raise ConfigError(f"release {found[0].id} was withdrawn and never serves again.")
    if not _whole(found[0]):
        raise ConfigError(f"the files of release {found[0].id} are damaged or gone.", hint="Go to another one.")
    return found[0]


def _whole(release: Release) -> bool:
    """Whether a release's files are there as they were written."""
    try:
        verify_folder(Path(release.path))
    except ArtifactError:
        return False
    return True


def train(
    pipeline: Pipeline, task: Task | None = None, *, among: Sequence[Task] | None = None
) -> Iterator[tuple[Task, SearchReport | None]]:
    """Make the attempts that are due, or one for `task` at once.

    Args:
        pipeline: the cold path.
        task: attempt this one now, due or not; it spends its share of delta all the same.
        among: without a task, the tasks that are looked at; None for all.

    Raises:
        ConfigError: the task is paused or pinned, or a release of it is on probation.

    Yields:
        Each task attempted with its report; None if another process was at it.
    """
    if task is not None:
        if task.state == "paused":
            raise ConfigError(f"task {task.name!r} is paused.", hint=f"`jitr resume {task.id}` ends that.")
        if pipeline.store.pinned(task.id) is not None:
            raise ConfigError(f"task {task.name!r} is pinned.", hint=f"`jitr unpin {task.id}` ends that.")
        if task.id in pipeline.store.probations():
            raise ConfigError(
                f"a release of task {task.name!r} is on probation.", hint="`jitr approve` or `jitr veto`."
            )
        yield task, _run(pipeline, task, force=True)
        return
    for each in pipeline.store.tasks() if among is None else among:
        if pipeline.due(each):
            yield each, _run(pipeline, each)


def _run(pipeline: Pipeline, task: Task, *, force: bool = False) -> SearchReport | None:
    """Make an attempt; what judges were asked for it is billed, whatever comes of it."""
    try:
        return pipeline.run(task.id, force=force)
    finally:
        for asked in unbilled():
            pipeline.store.record("judged", None, asked)


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
    from ..base_models import BaseModels
    from ..pipeline import Pipeline

    owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    folder = state_folder(url) / ARTIFACTS
    models = base_models or BaseModels(policy.cache_dir, wanted=policy.base_models, download=policy.download)
    return Pipeline(store, policy, folder, models, seed, owner)


def pipelines(store: Store, policies: Policies, url: str) -> Callable[[Task], Pipeline]:
    """The cold path of each task, for looking.

    Args:
        store: the opened state.
        policies: what counts for its apps.
        url: where the state is.
    """
    made: dict[Policy, Pipeline] = {}

    def of(task: Task) -> Pipeline:
        policy = policies.of(task.app, task.tenant)
        if policy not in made:
            made[policy] = pipeline(store, policy, url)
        return made[policy]

    return of
