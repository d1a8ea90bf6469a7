"""Where the cold path runs: a child process, so that the host app never loads what training needs."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import Policy

__all__ = ["TrainingChild", "policy_from_json", "policy_to_json"]

_PAUSE_S = 30.0  # between two children
_log = logging.getLogger("jitr")


def policy_to_json(policy: Policy) -> str:
    """A policy as one line, for a child process."""
    return json.dumps(dataclasses.asdict(policy))


def policy_from_json(text: str) -> Policy:
    """The policy `policy_to_json` wrote.

    Raises:
        ConfigError: a value is out of its range.
    """
    from .config import Policy

    values = json.loads(text)
    return Policy(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


class TrainingChild:
    """At most one child process that makes all attempts that are due: `jitr train`.

    It outlives neither its work nor a kill: what it had not promoted is simply due again.
    """

    def __init__(self, url: str, policy: Policy, seed: int | None) -> None:
        self._command = [sys.executable, "-m", "jitr_core.cli", "train", "--url", url]
        self._command += ["--policy", policy_to_json(policy), "--seed", str(seed or 0)]
        self._child: subprocess.Popen[bytes] | None = None
        self._started_s = float("-inf")

    def start(self) -> None:
        """Start the child unless one is still running or was just started: another process may be at the same task."""
        now = time.monotonic()
        if (self._child is not None and self._child.poll() is None) or now < self._started_s + _PAUSE_S:
            return
        self._started_s = now
        # One thread: training must not take the app's cores. A user's own setting wins.
        env = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
        self._child = subprocess.Popen(
            self._command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        threading.Thread(target=_report, args=(self._child,), name="jitr-train", daemon=True).start()


def _report(child: subprocess.Popen[bytes]) -> None:
    _, errors = child.communicate()
    if child.returncode != 0:
        _log.error("training ended with %d: %s", child.returncode, errors.decode(errors="replace")[-2000:])
