"""The one process beside the app in which text generators run: asked with a timeout, killed and begun anew on a hang.

See `jitr_core.students.generator_child` for what happens in it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import ArtifactError, TrainingError

__all__ = ["GeneratorWorker", "shared_worker"]

_log = logging.getLogger("jitr")
_START_S = 300.0  # importing torch and reading a base model, on a busy machine
_TRAIN_S = 12 * 3600.0
_BEAT_S = 20.0  # how often whoever waits for a long request is told that it goes on
_COMMAND = [sys.executable, "-m", "jitr_core.students.generator_child"]
_shared: GeneratorWorker | None = None
_shared_lock = threading.Lock()


def shared_worker() -> GeneratorWorker:
    """The worker of this process, made on first use."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = GeneratorWorker()
            atexit.register(_shared.close)
        return _shared


def _after_fork() -> None:
    """A forked child has a worker of its own: the parent's answers are the parent's."""
    global _shared, _shared_lock
    _shared, _shared_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class GeneratorWorker:
    """A worker process and what was asked of it. Safe to use from several threads; requests go one after the other.

    Attributes:
        starts: how often a process was started.
    """

    def __init__(self) -> None:
        self.starts = 0
        self._turn = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._replies: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._reviving = self._at_length = False
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Id of the process, None if there is none."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def train(self, request: dict[str, Any], progress: Callable[[float], None] | None = None) -> dict[str, Any]:
        """Train an adapter, however long it takes.

        Args:
            request: what `generator_child` needs.
            progress: told the share done, in [0, 1], and every now and then that it goes on.

        Raises:
            TrainingError: it could not be trained, or the process ended.
        """
        with self._lengthy():
            try:
                self._start()
                return self._ask({**request, "do": "train"}, _TRAIN_S, progress)
            except ArtifactError as error:
                raise TrainingError(str(error)) from error

    def load(self, adapter: dict[str, Any]) -> None:
        """Have an adapter in memory before it is needed; starts the process if there is none.

        Args:
            adapter: `adapter` (its folder), `base`, and the `hash` and `device` it was certified with.

        Raises:
            ArtifactError: it cannot be used here.
        """
        with self._lengthy():
            self._start()
            self._ask({**adapter, "do": "load"}, _START_S)

    @contextlib.contextmanager
    def _lengthy(self) -> Iterator[None]:
        """A turn that takes longer than an app waits."""
        with self._turn:
            self._at_length = True
            try:
                yield
            finally:
                self._at_length = False

    def answer(
        self, adapter: dict[str, Any], slots: tuple[str, ...], timeout_s: float, *, wait: bool = False
    ) -> dict[str, Any]:
        """What a generator answers; see `generator_child`. While the process starts, loads or trains it fails at once.

        Args:
            adapter: as for `load`, with `max_tokens`.
            slots: the input.
            timeout_s: seconds, waiting for other requests included, after which the process counts as hung.
            wait: also wait while it starts, loads or trains.

        Raises:
            ArtifactError: there is no answer.
        """
        if wait:
            self.load(adapter)
        began = time.monotonic()
        if self.pid is None:
            self._revive(adapter)
        if not wait and (self._reviving or self._at_length):
            raise ArtifactError("the worker of the generators is starting, loading or training.")
        if not self._turn.acquire(timeout=timeout_s):
            raise ArtifactError(f"the worker of the generators was busy for {timeout_s:g} s.")
        try:
            left = max(timeout_s - (time.monotonic() - began), 0.05)
            return self._ask({**adapter, "do": "answer", "slots": list(slots)}, left)
        finally:
            self._turn.release()
            if self.pid is None:
                self._revive(adapter)

    def close(self) -> None:
        """End the process; it also ends by itself with the app."""
        self._closed = True
        self._kill()

    def _revive(self, adapter: dict[str, Any]) -> None:
        """Start a process and read what it is about to be asked for, beside the app."""
        if self._reviving or self._closed:
            return
        self._reviving = True

        def work() -> None:
            try:
                self.load(adapter)
            except ArtifactError as error:
                if not self._closed:
                    _log.error("the worker of the generators: %s", error)
            finally:
                self._reviving = False

        threading.Thread(target=work, name="jitr-generators", daemon=True).start()

    def _start(self) -> None:
        """Start the process unless it runs; returns when it is ready."""
        if self.pid is not None:
            return
        if self._closed:
            raise ArtifactError("the worker of the generators is closed.")
        self.starts += 1
        env = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ, "HF_HUB_OFFLINE": "1"}
        try:
            self._process = subprocess.Popen(
                _COMMAND, env=env, text=True, encoding="utf-8",
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as error:
            raise ArtifactError(f"the worker of the generators cannot be started: {error}.") from error
        self._replies = queue.SimpleQueue()
        threading.Thread(
            target=_listen, args=(self._process, self._replies), name="jitr-generator-replies", daemon=True
        ).start()
        self._wait(_START_S)

    def _ask(
        self, request: dict[str, Any], timeout_s: float, progress: Callable[[float], None] | None = None
    ) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdin is None:
            raise ArtifactError("the worker of the generators is not running.")
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except OSError as error:
            self._kill()
            raise ArtifactError(f"the worker of the generators is gone: {error}.") from error
        return self._wait(timeout_s, progress)

    def _wait(self, timeout_s: float, progress: Callable[[float], None] | None = None) -> dict[str, Any]:
        """The reply to the last request. Without one in time the process is killed: it would come for the next."""
        deadline, done = time.monotonic() + timeout_s, 0.0
        try:
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ArtifactError(f"the worker of the generators did not answer within {timeout_s:.3g} s.")
                with contextlib.suppress(queue.Empty):
                    reply = self._replies.get(timeout=min(left, _BEAT_S))
                    if reply is None:
                        raise ArtifactError("the worker of the generators ended.", hint="Was there enough memory?")
                    if "error" in reply:
                        raise _Said(reply["error"])
                    if "progress" not in reply:
                        return reply
                    done = float(reply["progress"])
                if progress is not None:
                    progress(done)
        except _Said:
            raise
        except BaseException:
            self._kill()
            raise

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        process.wait()


class _Said(ArtifactError):
    """What the process said is wrong; it goes on."""


def _listen(process: subprocess.Popen[str], replies: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    """Pass on what the process says, and None when it ends."""
    if process.stdout is None:
        return
    with process.stdout as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                replies.put(json.loads(line))
    replies.put(None)
