"""Where the cold path runs: a child process, so that the host app never loads what training needs."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

    from .config import Policy

__all__ = ["TrainingChild", "end_training", "limit_memory", "policy_from_json", "policy_to_json"]

_PAUSE_S = 30.0  # between two children
_AS_JSON = 'As in \'{"target": 0.9, "families": ["lexical"]}\'; what is left out has its default.'
_log = logging.getLogger("jitr")


def policy_to_json(policy: Policy) -> str:
    """A policy as one line, for a child process."""
    return json.dumps(dataclasses.asdict(policy))


def policy_from_json(text: str) -> Policy:
    """The policy `policy_to_json` wrote.

    Raises:
        ConfigError: it is no policy, or a value is of another type or out of its range.
    """
    from .config import Policy
    from .errors import ConfigError
    from .policies import misfit

    try:
        values = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"a policy is written in JSON: {error}.", hint=_AS_JSON) from error
    if not isinstance(values, dict):
        raise ConfigError(f"a policy is a JSON object, not {text}.", hint=_AS_JSON)
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    if wrong := misfit(values):
        raise ConfigError(f"a policy cannot have that: {wrong}.", hint=_AS_JSON)
    return Policy(**values)


def limit_memory(megabytes: int | None) -> None:
    """Let this process and its children take so much memory each, where the system can limit it; None lifts nothing.

    What needs more fails with a `MemoryError`, which costs a search the candidate that asked for it.
    """
    if megabytes is None:
        return
    try:
        import resource
    except ImportError:  # not on Windows
        _log.warning("search_memory_mb has no effect on this system")
        return
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = megabytes * 1_000_000
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if most < 0 else min(wanted, most), most))


class TrainingChild:
    """At most one child process that makes all attempts that are due for an app: `jitr train`.

    It outlives neither its work nor a kill: what it had not promoted is simply due again.
    """

    def __init__(self, url: str, policy: Policy, seed: int | None, app: str) -> None:
        self.url = url
        self._command = [sys.executable, "-m", "jitr_core.cli", "train", "--url", url]
        self._command += ["--policy", policy_to_json(policy), "--seed", str(seed or 0), "--app", app]
        self._child: subprocess.Popen[bytes] | None = None
        self._started_s = float("-inf")

    def start(self) -> None:
        """Start the child unless one is still running or was just started: another process may be at the same task."""
        now = time.monotonic()
        if (self._child is not None and self._child.poll() is None) or now < self._started_s + _PAUSE_S:
            return
        self._started_s = now
        import subprocess

        # One thread: training must not take the app's cores. A user's own setting wins.
        env = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
        self._child = subprocess.Popen(
            self._command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        threading.Thread(target=_report, args=(self._child,), name="jitr-train", daemon=True).start()
        _started.add(self)

    def end(self) -> None:
        """End the child, if it runs, and wait until it is gone."""
        if self._child is not None and self._child.poll() is None:
            _ended.add(self._child)
            self._child.kill()
            self._child.wait()


_started: weakref.WeakSet[TrainingChild] = weakref.WeakSet()
_ended: weakref.WeakSet[subprocess.Popen[bytes]] = weakref.WeakSet()


def end_training(url: str) -> None:
    """End the training that this process has started for a state that is about to be deleted."""
    for each in list(_started):
        if each.url == url:
            each.end()


def _report(child: subprocess.Popen[bytes]) -> None:
    _, errors = child.communicate()
    if child.returncode != 0 and child not in _ended:
        _log.error("training ended with %d: %s", child.returncode, errors.decode(errors="replace")[-2000:])
