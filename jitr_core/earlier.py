"""Encoders of earlier replacements as base models of later searches: the pool grows with what is replaced.

An encoder that was tuned for one task may serve the next of the same user better than the one it was tuned from. It is
private: offered to tasks of the same app and tenant in the same state alone, never written where other users' searches
look. A replacement that rests on it holds a copy, and goes with it when the task it was tuned for is purged.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
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

__all__ = [
    "ARTIFACTS",
    "MOST",
    "called",
    "dependants",
    "key_of",
    "known_share",
    "listed",
    "with_earlier",
    "withdraw_orphans",
]

ARTIFACTS = "artifacts"
"""Folder beside the database in which artifacts live."""

MOST = 3
"""Earlier encoders that a search looks at, the latest: each costs a probe on some hundred inputs."""

_MOST_COMPARED = 100_000  # labelled calls of their tasks that one search looks through, 0.05 to 0.2 ms each
_PAGE = 2_000  # of them are read at a time
_CHARS = 4_000  # of a slot that are compared: more than an encoder reads
_WORDS = 8  # words in a row that tell a text, see `_Inputs`
_SEARCH_S = 86_400.0  # a release was made at most so long after the calls that it learnt from were read
_LEASE_S = 180.0  # as of an attempt: one that was asked for longer counts as expired


def with_earlier(models: BaseModels, store: Store, task: Task, inputs: Sequence[Slots], policy: Policy) -> BaseModels:
    """Base models, and beside them the encoders that serve other tasks of the same user.

    An encoder that learnt from a task's own texts is none of them: their answers may be in its weights, so that it
    would do better on them than on calls to come, and a certificate would rest on that. Nor is one that may have, since
    texts of its task were deleted. Looking takes 5 to 20 s of CPU at most, far less than a search's lease lives.

    Args:
        models: the prepared ones.
        store: the state.
        task: the task that is searched for.
        inputs: its different inputs.
        policy: its families.
    """
    from .students import load_student

    others = list(_of_others(store, task))
    if not others or not {"encoder", "stacked"} & set(policy.families):
        return models
    own, looked = _Inputs(inputs), 0
    found: dict[str, tuple[BaseModel, str, str]] = {}
    refused: dict[str, str] = {}
    for other, release in others:
        origin = next((key for key in models.keys("encoder") if models.facts(key).name == release.base_model), None)
        if origin is None:
            continue
        name, labels = called(other, release), store.label_count(other.id)
        if looked + labels > _MOST_COMPARED:
            refused[name] = "not tried: its task has too many calls to look through for texts that this one has, too"
            continue
        looked += labels
        why = _no_measure(own, store, other, release)
        if why:
            refused[name] = f"not tried: {why}"
            continue
        try:
            tuned = getattr(load_student(release.path, models), "tuned", None)
        except JITRError as error:
            refused[name] = str(error)
            continue
        if tuned is not None:
            found[key_of(release)] = tuned.earlier(name, other.id), origin, other.name
        if len(found) == MOST:
            break
    return models.beside(found, refused) if found or refused else models


def _no_measure(own: _Inputs, store: Store, other: Task, release: Release) -> str:
    """Why a task's inputs are no measure of the encoder of another one's release; "" if they are."""
    known = own.known(_labelled(store, other.id))
    # Looked at last: what is deleted while it is read counts.
    if store.forgotten(other.id, release.created - _SEARCH_S):
        return "texts of its task are deleted, so nobody can tell any more whether it learnt from this one's"
    if known:
        return f"it may have learnt from {known:,} of the {own.number:,} inputs, so it would look too good"
    return ""


def _labelled(store: Store, task: str) -> Iterator[Slots]:
    """The inputs of a task's labelled calls, however many there are."""
    templates, row = list(store.template_counts(task)), 0
    while page := store.labels_since(task, row, templates, _PAGE):
        yield from (example.slots for _, example in page)
        row = page[-1][0]


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


def known_share(inputs: Sequence[Slots], learnt: Iterable[Slots]) -> float:
    """Share of inputs, in [0, 1], that are known from texts that were learnt, see `_Inputs`."""
    return _Inputs(inputs).known(learnt) / len(inputs) if inputs else 0.0


class _Inputs:
    """Inputs, as they are compared with texts that were learnt.

    An input is known if more than half of its words stand in the same order in what was learnt, whatever slot they are
    in. Compared are runs of eight words, of a shorter slot all its words.

    One known input is one too many: what certifies must be new to the encoder. By chance there is hardly any. Of 77
    ordered pairs of whole public sets that share no source (ten sets of 1,118 to 16,393 texts, measured once), 71 know
    none of each other's inputs and the others 1 to 5, questions such as "my card isn't working"; sst2, phrasebank,
    imdb and banking77 none, but 2 of sst2's 8,781 that imdb has. Runs of five words knew up to 27 in 5,000.

    Attributes:
        number: how many there are.
    """

    def __init__(self, inputs: Sequence[Slots]) -> None:
        import numpy as np

        found = [_runs(slots) for slots in inputs]
        self.number = len(found)
        self._of = np.repeat(np.arange(len(found)), [len(runs) for runs, _ in found])
        self._words = np.concatenate([np.zeros(0), *(words for _, words in found)])
        runs = np.concatenate([np.zeros(0, np.uint64), *(runs for runs, _ in found)])
        self._runs, self._at = np.unique(runs, return_inverse=True)

    def known(self, learnt: Iterable[Slots]) -> int:
        """How many of them are known."""
        import numpy as np

        seen = np.zeros(len(self._runs), bool)
        for slots in learnt if len(seen) else ():
            runs, _ = _runs(slots)
            at = np.minimum(np.searchsorted(self._runs, runs), len(seen) - 1)
            seen[at[self._runs[at] == runs]] = True
        known = np.bincount(self._of, self._words * seen[self._at], minlength=self.number)
        return int(np.sum(known > np.bincount(self._of, self._words, minlength=self.number) / 2))


def _runs(slots: Slots) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
    """Hashes of the runs of words in each slot, and how many of its words each stands for: they overlap."""
    import numpy as np

    from .students.text import normalise, word_hashes

    found, weights = [np.zeros(0, np.uint64)], [np.zeros(0)]
    for slot in slots:
        words = word_hashes(normalise(slot[:_CHARS]))
        size = min(_WORDS, len(words))
        if size:
            count = len(words) - size + 1
            total = np.full(count, size, np.uint64)
            for i in range(size):
                total = total * np.uint64(0x9E3779B97F4A7C15) + words[i : i + count]
            found.append(total)
            weights.append(np.full(count, len(words) / count))
    return np.concatenate(found), np.concatenate(weights)


def withdraw_orphans(store: Store, folder: Path) -> list[str]:
    """Take out of use, and delete, replacements that rest on the encoder of a task that is there no more.

    Looked for after a purge; after an attempt, during which the task may have been purged; and now and then by every
    app, since a purge may be killed.

    Args:
        store: the state.
        folder: where artifacts live.

    Returns:
        Ids of the releases.
    """
    owners = {release.id: task.id for task in store.tasks() for release in store.releases(task.id)}
    gone, own, there = [], f"orphans:{uuid.uuid4().hex}", cache(lambda task: store.task(task) is not None)
    for path in sorted(folder.glob("*/*")):
        if not there(path.parent.name):
            continue  # another state's, or gone with its task
        if all(map(there, _rests_on(path))):
            continue
        lease = f"train:{path.parent.name}"  # held while an attempt is made, see `jitr_core.pipeline`
        if path.name in owners:
            reason = "withdrawn: it rests on an encoder that was tuned for a task that was purged"
            store.withdraw(owners[path.name], path.name, reason, restart=False)
        elif not store.acquire(lease, own, _LEASE_S):
            continue  # it is just being made, and looked at when that is done: a release must not lose its files
        shutil.rmtree(path, ignore_errors=True)
        store.free(lease, own)
        gone.append(path.name)
    return gone


def dependants(store: Store, folder: Path, tasks: Collection[str]) -> list[Task]:
    """Other tasks with a replacement that rests on an encoder tuned for one of these: it goes when they do.

    Args:
        store: the state.
        folder: where artifacts live.
        tasks: ids of the tasks.
    """
    others = [task for task in store.tasks() if task.id not in tasks]
    return [task for task in others if any(_rests_on(path) & set(tasks) for path in (folder / task.id).glob("*"))]


def _rests_on(path: Path) -> set[str]:
    """Ids of the tasks that encoders in an artifact were tuned for, its own not counted."""
    found = set()
    for file in path.rglob("student.json"):
        try:
            models = json.loads(file.read_text(encoding="utf-8")).get("models", {})
            found |= {str(told["own"]["task"]) for told in models.values() if "own" in told}
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            continue  # it cannot be loaded either
    return found
