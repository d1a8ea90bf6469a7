"""Promotion: a certified student becomes a release."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from .types import CandidateReport, Certificate, Release

__all__ = ["KEPT", "Savable", "package", "remove_leftovers"]

KEPT = "unfinished"
"""Folder beside the artifacts in which searches that are under way, or were killed, keep what they need again."""


class Savable(Protocol):
    """What promotion needs of a student."""

    def save(self, path: Path) -> None:
        """Write the artifact to `path`, complete or not at all."""


def package(
    student: Savable,
    *,
    task: str,
    candidate: CandidateReport,
    certificate: Certificate,
    folder: Path,
    clock: Callable[[], float] = time.time,
) -> Release:
    """Write a student's artifact below `folder` and describe it as a release that serves nobody yet.

    Args:
        student: what was certified.
        task: id of the task.
        candidate: the candidate it came from.
        certificate: its proof.
        folder: where artifacts live; the artifact gets a folder of its own in it.
        clock: seconds since the epoch.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind that could be loaded.
    """
    release = f"r_{uuid.uuid4().hex[:12]}"
    path = folder / task / release
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        student.save(path)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    return Release(
        release, task, candidate.family, candidate.base_model, str(path.resolve()), size, certificate, clock()
    )


def remove_leftovers(folder: Path, known: set[str], older_than_s: float = 3600.0) -> int:
    """Delete folders, such as artifacts, that no release refers to and that are old enough not to be in the making.

    Args:
        folder: where they are.
        known: paths of all releases there.
        older_than_s: age in seconds.

    Returns:
        Number of folders deleted.
    """
    removed, known = 0, {str(Path(path).resolve()) for path in known}
    for path in folder.glob("*"):
        if str(path.resolve()) not in known and time.time() - path.stat().st_mtime > older_than_s:
            shutil.rmtree(path, ignore_errors=True)
            removed += 1
    return removed
