"""Observing: bounded queues between the app and the threads that do what is slow: storing, and asking for audits."""

from __future__ import annotations

import atexit
import collections
import contextlib
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["DROPPED", "Auditor", "Recorder"]

T = TypeVar("T")

DROPPED = "queue"
"""Where the faults are that lost a call: more came than could be stored."""

_alive: weakref.WeakSet[Recorder[Any]] = weakref.WeakSet()


def _close_all() -> None:
    for recorder in list(_alive):
        recorder.close()


def _reset_all() -> None:
    for recorder in list(_alive):
        recorder._reset()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)


class Recorder(Generic[T]):
    """Hands items to `process` in batches, from a daemon thread of its own or, inline, in the caller's thread.

    `put` takes about a microsecond, never blocks and never raises: when the queue is full the item is dropped, which
    is a fault. The thread starts with the first item, again after a fork, and what is queued at exit is still
    processed.

    Args:
        process: called with 1 … `batch` items, or with none when `wait_s` passed; never from two threads at once;
            an exception goes to `fault`.
        fault: told of exceptions, and of every dropped item as a `queue.Full` under `DROPPED`.
        batch: most items a call of `process` gets, ≥ 1.
        limit: most items that wait, ≥ 1.
        wait_s: seconds after which an incomplete batch is processed all the same.
        threaded: False processes whenever a batch is full, in the thread that puts the item.
    """

    def __init__(
        self,
        process: Callable[[list[T]], None],
        fault: Callable[[str, BaseException], None],
        *,
        batch: int = 256,
        limit: int = 20_000,
        wait_s: float = 0.5,
        threaded: bool = True,
    ) -> None:
        self._process, self._fault = process, fault
        self._batch, self._limit, self._wait_s, self._threaded = batch, limit, wait_s, threaded
        self._closed = False
        self._reset()
        _alive.add(self)

    def _reset(self) -> None:
        """A fresh queue: a forked child neither has the thread nor owns the parent's items."""
        self._queue: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._working = threading.Lock()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def put(self, item: T) -> None:
        """Queue an item."""
        if self._queue.qsize() >= self._limit:
            self._fault(DROPPED, queue.Full(f"{self._limit:,} calls wait to be stored, this one is lost"))
            return
        self._queue.put(item)
        if not self._threaded:
            if self._queue.qsize() >= self._batch:
                self.flush()
        elif self._thread is None:
            self.start()

    def flush(self, *, force: bool = False) -> None:
        """Process all that is queued, now and in this thread; `force` calls `process` even if nothing is."""
        with self._working:
            while self._drain():
                force = False
            if force and not self._closed:  # what is closed is not opened again
                self._attempt([])

    def close(self) -> None:
        """Process what is queued and end the thread; later items are queued but wait for a flush."""
        if self._closed:
            return
        self._closed = True
        self._wake.set()
        self.flush()

    def start(self) -> None:
        """Start the thread before the first item is there; without effect if it runs or there is to be none."""
        with self._starting:
            if self._thread is None and self._threaded and not self._closed:
                thread = threading.Thread(target=self._run, name="jitr-observe", daemon=True)
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        while not self._closed:
            self.flush(force=True)
            self._wake.wait(self._wait_s)

    def _drain(self) -> bool:
        """Process one batch; False if there was nothing."""
        items: list[T] = []
        while len(items) < self._batch:
            try:
                items.append(self._queue.get_nowait())
            except queue.Empty:
                break
        if items:
            self._attempt(items)
        return bool(items)

    def _attempt(self, items: list[T]) -> None:
        try:
            self._process(items)
        except Exception as error:
            self._fault("background", error)


PAUSE_S = (1.0, 60.0)
"""Seconds until the next try while the teacher fails: at first, and at most; they double in between."""

PATIENCE_S = 2 * 3600.0
"""Seconds after which an audit that waits while others fail is given up: longer than most outages."""

TRIES = 3
"""Failures of an audit, with others made in between, after which it is given up: the teacher works, but not for it."""


@dataclass(slots=True)
class _Audit:
    """An audit that waits."""

    make: Callable[[], None]
    give_up: Callable[[], None]
    since: float
    failures: int = 0
    made_before: int = -1


class Auditor:
    """Runs audits one after the other in a thread, at most `limit` waiting: one too many is given up.

    While the teacher fails, one audit is tried now and then and the others wait for it to come back.

    Args:
        threaded: False runs them in the thread that puts them, and gives up what fails.
        limit: most audits that wait.
        clock: seconds that only ever grow.
    """

    def __init__(self, *, threaded: bool, limit: int = 1000, clock: Callable[[], float] = time.monotonic) -> None:
        self._threaded, self._limit, self._clock = threaded, limit, clock
        self.reset()

    def reset(self) -> None:
        """Forget what waits: it is a forked child's parent that makes those audits."""
        self._queue: queue.Queue[_Audit] = queue.Queue()
        self._failed: collections.deque[_Audit] = collections.deque()
        self._made, self._pause_s, self._retry_at = 0, 0.0, 0.0
        self._thread: threading.Thread | None = None

    def put(self, make: Callable[[], None], give_up: Callable[[], None]) -> None:
        """Make an audit when its turn comes, or give it up."""
        audit = _Audit(make, give_up, self._clock())
        if not self._threaded:
            try:
                make()
            except Exception:
                give_up()
            return
        if self._queue.qsize() + len(self._failed) >= self._limit:
            give_up()
            return
        self._queue.put(audit)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="jitr-audit", daemon=True)
            self._thread.start()

    @property
    def failing(self) -> bool:
        """Whether audits wait because the latest ones failed: the teacher may be down."""
        return bool(self._failed)

    def join(self) -> None:
        """Wait until all audits are made, or wait for a teacher that fails."""
        self._queue.join()

    def give_up(self) -> None:
        """Give up what waits."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait().give_up()
                self._queue.task_done()
        with contextlib.suppress(IndexError):
            while True:
                self._failed.popleft().give_up()

    def _run(self) -> None:
        while True:
            wait_s = max(self._retry_at - self._clock(), 0.0)
            if self._failed and not wait_s:
                with contextlib.suppress(IndexError):  # given up meanwhile
                    self._try(self._failed.popleft())
                continue
            try:
                audit = self._queue.get(timeout=wait_s if self._failed else None)
            except queue.Empty:
                continue
            if self._failed:
                self._failed.append(audit)
            else:
                self._try(audit)
            self._queue.task_done()

    def _try(self, audit: _Audit) -> None:
        try:
            audit.make()
        except Exception:
            audit.failures += self._made != audit.made_before
            audit.made_before = self._made
            least, most = PAUSE_S
            self._pause_s = min(max(2 * self._pause_s, least), most)
            self._retry_at = self._clock() + self._pause_s
            if audit.failures >= TRIES:
                audit.give_up()
            else:
                self._failed.append(audit)
            self._lose_patience()
        except BaseException:  # a teacher may raise anything, the next audit is to be made all the same
            audit.give_up()
        else:
            self._made += 1
            self._pause_s = self._retry_at = 0.0

    def _lose_patience(self) -> None:
        """Give up what has waited too long, whether its turn came or not."""
        limit = self._clock() - PATIENCE_S
        with contextlib.suppress(IndexError):  # given up meanwhile
            for _ in range(len(self._failed)):
                audit = self._failed.popleft()
                if audit.since < limit:
                    audit.give_up()
                else:
                    self._failed.append(audit)
