"""What counts for one task: the promise that the user chose for it, and whether a release is good enough for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .promises import fulfils, promise, promised

if TYPE_CHECKING:
    from .config import Policy
    from .store import Store
    from .types import Task

__all__ = ["promise_by", "promise_of"]


def promise_of(store: Store, task_id: str, policy: Policy) -> str:
    """The promise that counts for a task: the user's for this task, else the policy's."""
    own = store.last_entry("promise", task_id)
    return policy.promise if own is None else str(own.details["promise"])


def promise_by(store: Store, task: Task, text: str) -> None:
    """Say what is promised of a task's answers; a release that promised less is withdrawn from service.

    Raises:
        ConfigError: there is no such promise.
    """
    promise(text)
    store.record("promise", task.id, {"promise": text})
    active = store.active_release(task.id)
    if active is not None and not fulfils(active.certificate.promise, text):
        store.activate(task.id, None, f"what is promised now is {promised(text)}: to be certified anew")
