"""Encoders of earlier replacements as base models of later searches: the pool grows with what is replaced.

An encoder that was tuned for one task may serve the next of the same user better than the one it was tuned from. It is
private: offered to tasks of the same app and tenant in the same state alone, never written where other users' searches
look. A replacement that rests on it holds a copy, and goes with it when the task it was tuned for is purged.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import JITRError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .base_models import BaseModels
    from .base_models.models import BaseModel
    from .config import Policy
    from .store import Store
    from .types import Release, Slots, Task

__all__ = ["ARTIFACTS", "MOST", "called", "key_of", "known_share", "listed", "with_earlier", "withdraw_orphans"]

ARTIFACTS = "artifacts"
"""Folder beside the database in which artifacts live."""

MOST = 3
"""Earlier encoders that a search looks at, the latest: each costs a probe on some hundred inputs."""

_KNOWN = 0.01  # largest share of a task's inputs that an earlier encoder may have learnt from
_MOST_COMPARED = 100_000  # labelled calls of its task, which are looked through
_WORDS = 5  # words in a row that tell a text


def with_earlier(models: BaseModels, store: Store, task: Task, inputs: Sequence[Slots], policy: Policy) -> BaseModels:
    """Base models, and beside them the encoders that serve other tasks of the same user.

    An encoder that learnt from a task's own texts is none of them: their answers may be in its weights, so that it
    would do better on them than on calls to come, and a certificate would rest on that.

    Args:
        models: the prepared ones.
        store: the state.
        task: the task that is searched for.
        inputs: its different inputs.
        policy: its families.
    """
    from .students import load_student

    if not {"encoder", "stacked"} & set(policy.families):
        return models
    found: dict[str, tuple[BaseModel, str, str]] = {}
    refused: dict[str, str] = {}
    for other, release in _of_others(store, task):
        name = called(other, release)
        origin = next((key for key in models.keys("encoder") if models.facts(key).name == release.base_model), None)
        if origin is None:
            continue
        try:
            tuned = getattr(load_student(release.path, models), "tuned", None)
        except JITRError as error:
            refused[name] = str(error)
            continue
        if tuned is None:
            continue
        if store.label_count(other.id) > _MOST_COMPARED:
            refused[name] = "not tried: its task has too many calls to look through for texts that this one has, too"
            continue
        share = known_share(inputs, [example.slots for example in store.examples(other.id)])
        if share > _KNOWN:
            refused[name] = f"not tried: it may have learnt from {share:.0%} of the inputs, so it would look too good"
            continue
        found[key_of(release)] = tuned.earlier(name, other.id), origin, other.name
        if len(found) == MOST:
            break
    return models.beside(found, refused) if found or refused else models


def called(task: Task, release: Release) -> str:
    """What the encoder of a task's release is called as a base model."""
    return f"{release.base_model} tuned for “{task.name}”"


def key_of(release: Release) -> str:
    """Its key there."""
    return f"earlier-{release.id}"


def listed(store: Store) -> Iterator[tuple[Task, Release]]:
    """Tasks whose active replacement has a tuned encoder, and that replacement; the latest task first.

    Without tasks that were ever divided: an encoder may have learnt from calls that are another task's now.
    """
    divided = [entry for entry in store.ledger() if entry.kind in ("split", "part")]
    apart = {each for entry in divided for each in (entry.task, entry.details["new"])}
    for task in reversed(store.tasks()):
        release = store.active_release(task.id) if task.state == "active" and task.id not in apart else None
        if release is not None and release.family == "lora":
            yield task, release


def _of_others(store: Store, task: Task) -> Iterator[tuple[Task, Release]]:
    """Those of other tasks of the same user."""
    own = task.app, task.tenant
    return (each for each in listed(store) if (each[0].app, each[0].tenant) == own and each[0].id != task.id)


def known_share(inputs: Sequence[Slots], learnt: Sequence[Slots]) -> float:
    """Share of inputs, in [0, 1], more than half of whose words stand in the same order in what was learnt.

    Compared are runs of five words, of a shorter text all its words, whatever slot they are in.
    """
    import numpy as np

    known = np.unique(np.concatenate([np.zeros(0, np.uint64), *map(_runs, learnt)]))
    if not len(known) or not inputs:
        return 0.0
    shares = []
    for slots in inputs:
        runs = _runs(slots)
        at = np.minimum(np.searchsorted(known, runs), len(known) - 1)
        shares.append(float(np.mean(known[at] == runs)) if len(runs) else 0.0)
    return float(np.mean(np.array(shares) > 0.5))


def _runs(slots: Slots) -> NDArray[np.uint64]:
    """Hashes of the runs of words in each slot."""
    import numpy as np

    from .students.text import normalise, word_hashes

    found = [np.zeros(0, np.uint64)]
    for slot in slots:
        words = word_hashes(normalise(slot))
        size = min(_WORDS, len(words))
        if size:
            count = len(words) - size + 1
            total = np.full(count, size, np.uint64)
            for i in range(size):
                total = total * np.uint64(0x9E3779B97F4A7C15) + words[i : i + count]
            found.append(total)
    return np.concatenate(found)


def withdraw_orphans(store: Store, folder: Path) -> list[str]:
    """Take out of use, and delete, replacements that rest on the encoder of a task that is there no more.

    Looked for after a purge, and after an attempt, during which the task may have been purged.

    Args:
        store: the state.
        folder: where artifacts live.

    Returns:
        Ids of the releases.
    """
    owners = {release.id: task.id for task in store.tasks() for release in store.releases(task.id)}
    gone = []
    for path in sorted(folder.glob("*/*")):
        if store.task(path.parent.name) is None:
            continue  # another state's, or gone with its task
        if any(store.task(task) is None for task in _rests_on(path)):
            if path.name in owners:
                reason = "withdrawn: it rests on an encoder that was tuned for a task that was purged"
                store.withdraw(owners[path.name], path.name, reason, restart=False)
            shutil.rmtree(path, ignore_errors=True)
            gone.append(path.name)
    return gone


def _rests_on(path: Path) -> set[str]:
    """Ids of the tasks that encoders in an artifact were tuned for, its own not counted."""
    found = set()
    for file in path.rglob("student.json"):
        try:
            models = json.loads(file.read_text(encoding="utf-8")).get("models", {})
        except (OSError, ValueError):
            continue  # it cannot be loaded either
        found |= {told["own"]["task"] for told in models.values() if "own" in told}
    return found
