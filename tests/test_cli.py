"""The commands that look at a state and change it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import easy_calls, write_log
from test_engine import POLICY, serve, trained, url
from test_replay import run

from jitr_core import JITR, Policy
from jitr_core.jobs import policy_to_json
from jitr_core.store import Store


@pytest.fixture
def state(tmp_path: Path) -> str:
    """A state with a task that is replaced."""
    trained(tmp_path).close()
    return url(tmp_path)


def task_state(state: str) -> str:
    with Store(state) as store:
        return store.tasks()[0].state


def test_tasks_says_what_was_found_and_what_serves_it(state: str) -> None:
    code, output = run("tasks", "--url", state)
    assert code == 0 and "active" in output and "lexical" in output


def test_pause_resume_and_rollback_by_name(state: str) -> None:
    with Store(state) as store:
        (task,) = store.tasks()
    assert run("pause", task.name[:12], "--url", state)[0] == 0
    assert task_state(state) == "paused"
    assert run("resume", task.id, "--url", state)[0] == 0
    assert task_state(state) == "active"
    code, output = run("rollback", task.id, "--url", state)
    assert code == 0 and "the teacher" in output
    assert run("rollback", task.id, "--url", state)[0] == 2
    assert run("pause", "no such task", "--url", state)[0] == 2


def test_train_makes_what_is_due_and_one_task_at_once_if_told(tmp_path: Path) -> None:
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    serve(jitr, easy_calls(150))
    jitr.close()
    options = ("--url", url(tmp_path), "--policy", policy_to_json(POLICY))
    assert "Nothing was due" in run("train", *options)[1]
    with Store(url(tmp_path)) as store:
        (task,) = store.tasks()
        assert store.attempts(task.id) == 0
        assert run("train", task.id, *options)[0] == 0
        assert store.attempts(task.id) == 1


def test_purging_a_task_deletes_its_calls_and_files(state: str, tmp_path: Path) -> None:
    assert list((tmp_path / "artifacts").rglob("manifest.json"))
    with Store(state) as store:
        (task,) = store.tasks()
    assert run("purge", "--url", state)[0] == 2
    code, output = run("purge", "--task", task.id, "--yes", "--url", state)
    assert code == 0 and "calls deleted" in output
    with Store(state) as store:
        assert store.tasks() == [] and all(o.decision.task is None for o in store.observations())
    assert not list((tmp_path / "artifacts").rglob("manifest.json"))
    assert run("purge", "--all", "--yes", "--url", state)[0] == 0


def test_old_texts_expire_while_the_app_runs(tmp_path: Path) -> None:
    jitr = JITR(url(tmp_path), policy=Policy(families=("lexical",), retention_days=1e-9), training="inline")
    serve(jitr, easy_calls(16))  # one batch; texts are looked for after it
    assert [o.answer.text for o in jitr.open_store().observations() if o.answer] == [""] * 16
    jitr.close()


def test_identify_writes_a_line_a_call_in_order(tmp_path: Path) -> None:
    calls = easy_calls(60)
    calls.insert(5, {"id": "odd", "messages": [{"role": "user", "content": "Who wrote Hamlet?"}], "answer": "S."})
    out = tmp_path / "tasks.jsonl"
    assert run("identify", write_log(tmp_path / "l.jsonl", calls), "--out", out)[0] == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["id"] for line in lines] == [call["id"] for call in calls]
    assert lines[0]["task"] is None and lines[0]["final_task"] == lines[-1]["task"] is not None
    assert lines[5]["final_task"] is None


@pytest.mark.parametrize("command", ["tasks", "train", "pause x"])
def test_a_damaged_database_is_a_clear_error(tmp_path: Path, command: str) -> None:
    (tmp_path / "jitr.db").write_bytes(b"no database at all " * 50)
    code, output = run(*command.split(), "--url", url(tmp_path))
    assert code == 1 and "damaged" in output


def test_a_missing_state_is_not_made_up(tmp_path: Path) -> None:
    code, output = run("tasks", "--url", url(tmp_path / "nowhere"))
    assert code == 2 and "no state" in output and not (tmp_path / "nowhere").exists()
