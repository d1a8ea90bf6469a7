"""A certified student becomes a release, or leaves nothing behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from jitr_core.promote import package, remove_leftovers
from jitr_core.types import CandidateReport, Certificate, Release

CANDIDATE = CandidateReport("static:m", "static", "m")
CERTIFICATE = Certificate(0.95, 0.01, 0.8, 0.7, 140, 2, 0.951)


class Written:
    """A student of ten bytes."""

    def save(self, path: Path) -> None:
        path.mkdir()
        (path / "weights").write_bytes(b"x" * 10)


class DiskFull:
    """A student that cannot be written to the end."""

    def save(self, path: Path) -> None:
        Written().save(path)
        raise OSError("No space left on device")


def made(student: Written | DiskFull, folder: Path) -> Release:
    return package(student, task="t", candidate=CANDIDATE, certificate=CERTIFICATE, folder=folder, clock=lambda: 5.0)


def test_a_release_tells_where_it_is_and_what_it_rests_on(tmp_path: Path) -> None:
    release = made(Written(), tmp_path)
    assert (release.task, release.family, release.base_model, release.size_bytes) == ("t", "static", "m", 10)
    assert (release.certificate, release.created) == (CERTIFICATE, 5.0)
    assert (Path(release.path) / "weights").exists()


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        made(DiskFull(), tmp_path)
    assert list((tmp_path / "t").iterdir()) == []


def test_leftovers_of_killed_attempts_go_and_releases_and_fresh_work_stay(tmp_path: Path) -> None:
    kept, orphan, fresh = (Path(made(Written(), tmp_path).path) for _ in range(3))
    half_written = tmp_path / "t" / ".r_1-abc"
    half_written.mkdir()
    hours_ago = time.time() - 7200
    for old in (kept, orphan, half_written):
        os.utime(old, (hours_ago, hours_ago))
    assert remove_leftovers(tmp_path / "t", {str(kept)}) == 2
    assert sorted((tmp_path / "t").iterdir()) == sorted([kept, fresh])
