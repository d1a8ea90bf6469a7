"""`jitr doctor` finds what is dead, by doing."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from pathlib import Path

import pytest
from easy import easy_calls
from test_engine import POLICY, serve, trained, url
from typer.testing import CliRunner

from jitr_core import JITR, Answer, Call
from jitr_core.cli import app
from jitr_core.doctor import Check, examine, rehearse
from jitr_core.settings import Settings
from jitr_core.store import Store

SETTINGS = Settings(False, {}, POLICY)


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def looked(folder: Path) -> dict[str, Check]:
    return by_name(list(examine(url(folder), SETTINGS)))


def test_a_healthy_set_up_passes_every_step_and_leaves_nothing_behind(tmp_path: Path) -> None:
    checks = list(rehearse(tmp_path / "state", POLICY))
    assert [check.name for check in checks] == ["capture", "redaction", "training", "routing", "audits", "costs"]
    assert {check.verdict for check in checks} == {"ok"}, checks
    assert not list(tmp_path.iterdir())


def test_what_is_wanted_of_the_users_tasks_does_not_reach_the_rehearsal(tmp_path: Path) -> None:
    policy = dataclasses.replace(POLICY, promise="classes:fraud", equivalence="embedding:0.9", horizon_days=1e-9)
    checks = list(rehearse(tmp_path, policy))
    assert {check.verdict for check in checks} == {"ok"}, checks


def test_a_state_is_found_whatever_its_file_is_called(tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path / 'shop.sqlite'}"
    Store(other).close()
    assert "state" not in by_name(list(examine(other, SETTINGS)))
    assert looked(tmp_path)["state"].verdict == "warn"


def test_a_training_process_that_cannot_run_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    *_, last = rehearse(tmp_path, POLICY, timeout_s=0.5)
    assert (last.name, last.verdict) == ("training", "fail") and "jitr train" in last.fix


def test_a_redaction_that_does_nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jitr_core.doctor import rehearsal

    monkeypatch.setattr(rehearsal, "_HIDDEN", rehearsal._SECRET)
    *_, last = rehearse(tmp_path, POLICY)
    assert (last.name, last.verdict) == ("redaction", "fail")


def test_a_recorder_that_stores_nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "add_observations", lambda self, rows: 1 / 0)
    *_, last = rehearse(tmp_path, POLICY)
    assert (last.name, last.verdict) == ("capture", "fail") and "ZeroDivision" not in last.found


def test_a_live_state_is_well(tmp_path: Path) -> None:
    jitr = trained(tmp_path)
    serve(jitr, easy_calls(40, seed=9), "later")
    jitr.close()
    found = looked(tmp_path)
    assert {check.verdict for check in found.values()} == {"ok"}, found
    assert {"storage", "integrity", "calls", "faults", "prices", "replacements", "learning"} <= set(found)


def test_an_artifact_that_is_gone_fails(tmp_path: Path) -> None:
    trained(tmp_path).close()
    shutil.rmtree(tmp_path / "artifacts")
    found = looked(tmp_path)
    assert found["replacements"].verdict == "fail" and "jitr rollback" in found["replacements"].fix
    assert found["integrity"].verdict == "fail"
    done = CliRunner().invoke(app, ["doctor", "--look-only", "--url", url(tmp_path)])
    assert done.exit_code == 1 and "fail  replacements" in done.output


def test_a_damaged_state_fails(tmp_path: Path) -> None:
    (tmp_path / "jitr.db").write_bytes(b"this is no database" * 100)
    assert looked(tmp_path)["state"].verdict == "fail"


def test_no_state_yet_is_no_failure(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--look-only", "--url", url(tmp_path / "none")])
    assert done.exit_code == 0 and "there is none" in done.output
    assert not (tmp_path / "none").exists()


def test_what_teaches_nothing_has_no_price_and_comes_from_the_future_is_told(tmp_path: Path) -> None:
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    for recorded in easy_calls(150):
        messages = tuple((m["role"], m["content"]) for m in recorded["messages"])
        call = Call(recorded["id"], messages, replaceable=False, time=time.time() + 7200, model="our-own")
        jitr.observe(call, jitr.decide(call), Answer(recorded["answer"], "our-own"))
    jitr.fault("decide", ValueError("secret"))
    jitr.close()
    found = looked(tmp_path)
    assert found["clock"].verdict == "warn" and "future" in found["clock"].found
    assert found["prices"].verdict == "warn" and "our-own" in found["prices"].found
    assert found["learning"].verdict == "warn"
    assert found["faults"].verdict == "warn" and "decide" in found["faults"].found


def test_being_switched_off_is_told(tmp_path: Path) -> None:
    first, *_ = examine(url(tmp_path), dataclasses.replace(SETTINGS, disabled=True))
    assert first.verdict == "warn" and "JITR_DISABLED" in first.fix
