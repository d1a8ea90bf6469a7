"""A certified student becomes a release, or leaves nothing behind."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from jitr_core.config import Policy
from jitr_core.files import write_folder
from jitr_core.promote import package, remove_leftovers
from jitr_core.types import CandidateReport, Certificate, Release, Task

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


def test_whoever_compares_two_students_keeps_the_lease(tmp_path: Path) -> None:
    from types import SimpleNamespace as Some

    from jitr_core.pipeline import Pipeline
    from jitr_core.store import Asked

    renewed: list[str] = []

    class Fake:
        """A store with a release that was asked 30 times, and a generator that is surer than it."""

        family, kept, came, compared = "generator", 30, 30, 99
        held: int | None = None

        def last_entry(self, kind: object, task: str) -> None:
            return None

        def template_use(self, task: str, after: int) -> dict[str, Any]:
            return {}

        template_counts = template_use

        def active_release(self, task: str) -> Any:
            return active

        def asked(self, release: str, limit: int, after: int) -> list[Asked]:
            return [Asked((f"text {i}",), f"g{i}", False, "T") for i in range(self.kept)]

        def handled(self, task: str, release: str, row: int, limit: int) -> list[str]:
            return ["call"] * self.came

        def held_since(self, task: str, release: str) -> int | None:
            return self.held

        def compared_since(self, task: str, release: str, row: int) -> int:
            return self.compared

        def renew(self, name: str, owner: str, ttl_s: float) -> bool:
            renewed.append(name)
            return True

        def predict(self, inputs: list[tuple[str, ...]]) -> tuple[list[str], list[float]]:
            return ["yes"] * len(inputs), [0.99] * len(inputs)

    active = made(Written(), tmp_path)
    write_folder(Path(active.path) / "real", lambda folder: None)
    active = replace(active, path=str(Path(active.path) / "real"))
    found: Any = Some(held=None, confidence=[])
    line: Any = Pipeline(Fake(), Policy(), tmp_path, Some())  # type: ignore[arg-type]
    task, some = Task("t", "a", "", "n"), cast(Any, Some(groups=[], templates={"T"}))
    assert line._worse(task, active, Fake(), CERTIFICATE, found, some) == ""
    assert len(renewed) == 30

    line.store.kept = 0  # expired
    assert "stays" in line._worse(task, active, Fake(), CERTIFICATE, found, some)
    line.store.held = 7  # it does not answer now
    assert "stays" in line._worse(task, active, Fake(), CERTIFICATE, found, some)
    line.store.compared = 100  # nor has it shown that it should
    assert line._worse(task, active, Fake(), CERTIFICATE, found, some) == ""
    line.store.held = None
    line.store.came = 0  # calls of another wording have taken over
    assert line._worse(task, active, Fake(), CERTIFICATE, found, some) == ""
    line.store.kept = 30

    class Unsure(Fake):
        """One to whom all inputs are out of distribution: it gives none, whatever the threshold."""

        def predict(self, inputs: list[tuple[str, ...]]) -> tuple[list[str], list[float]]:
            return ["yes"] * len(inputs), [0.0] * len(inputs)

    nothing = replace(CERTIFICATE, threshold=0.0)
    assert "no better" in line._worse(task, active, Unsure(), nothing, found, some)


def test_leftovers_of_killed_attempts_go_and_releases_and_fresh_work_stay(tmp_path: Path) -> None:
    kept, orphan, fresh = (Path(made(Written(), tmp_path).path) for _ in range(3))
    half_written = tmp_path / "t" / ".r_1-abc"
    half_written.mkdir()
    hours_ago = time.time() - 7200
    for old in (kept, orphan, half_written):
        os.utime(old, (hours_ago, hours_ago))
    (tmp_path / "linked").symlink_to(tmp_path / "t")
    assert remove_leftovers(tmp_path / "linked", {str(tmp_path / "linked" / kept.name)}) == 2
    assert sorted((tmp_path / "t").iterdir()) == sorted([kept, fresh])
