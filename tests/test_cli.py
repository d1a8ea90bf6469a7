"""The commands that look at a state and change it."""

from __future__ import annotations

import json
import shlex
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from easy import easy_calls, write_log
from test_engine import POLICY, serve, trained, url
from test_replay import run

from jitr_core import JITR, Answer, Call, Policy, __version__
from jitr_core.jobs import policy_to_json
from jitr_core.pipeline import Pipeline
from jitr_core.report.savings import task_savings
from jitr_core.savings import Prices, Rates
from jitr_core.store import Store
from jitr_core.types import Decision, Observation, Task


@pytest.fixture
def state(tmp_path: Path) -> str:
    """A state with a task that is replaced."""
    trained(tmp_path).close()
    return url(tmp_path)


def task_state(state: str) -> str:
    with Store(state) as store:
        return store.tasks()[0].state


def test_the_version_is_told_whatever_stands_beside_it() -> None:
    assert run("--version") == (0, f"jitr {__version__}\n")
    assert run("--version", "tasks", "--url", "sqlite:////nowhere/jitr.db") == (0, f"jitr {__version__}\n")


def test_tasks_says_what_was_found_and_what_serves_it(state: str) -> None:
    code, output = run("tasks", "--url", state)
    assert code == 0 and "active" in output and "lexical" in output


def test_tasks_says_whose_replacement_is_damaged_and_what_to_do(state: str, tmp_path: Path) -> None:
    assert "rollback" not in run("tasks", "--url", state)[1]
    (arrays,) = (tmp_path / "artifacts").rglob("arrays.safetensors")
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"?")
    code, output = run("tasks", "--url", state)
    with Store(state) as store:
        (task,) = store.tasks()
    assert code == 0 and "was changed" in output and f"`jitr rollback {task.id}`" in output
    shutil.rmtree(arrays.parent)
    code, output = run("tasks", "--url", state)
    assert code == 0 and output.count(str(arrays.parent)) == 1 and f"`jitr rollback {task.id}`" in output
    assert run("rollback", task.id, "--url", state)[0] == 0
    assert "rollback" not in run("tasks", "--url", state)[1]


def test_a_task_whose_replacement_is_damaged_is_not_shown_as_replaced(state: str, tmp_path: Path) -> None:
    with Store(state) as store:
        (task,) = store.tasks()
    (arrays,) = (tmp_path / "artifacts").rglob("arrays.safetensors")
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"?")
    output = run("tasks", "show", task.id, "--url", state)[1]
    assert "do not use its replacement" in output and f"`jitr rollback {task.id}`" in output
    assert "replaced where" not in output
    told = json.loads(run("tasks", "show", task.id, "--json", "--url", state)[1])
    assert str(arrays) in told["idle"] and told["state"] == "active"


def test_what_is_promised_is_told_after_an_act_by_hand_too(state: str) -> None:
    with Store(state) as store:
        (task,) = store.tasks()
        active = store.active_release(task.id)
    assert active is not None
    promised = f"certified on {active.certificate.calls} calls, {active.certificate.errors} errors, agreement ≥ 97%"
    assert f": {promised}" in run("tasks", "--url", state)[1]
    assert run("rollback", task.id, "--url", state)[0] == 0
    assert run("pin", task.id, active.id, "--url", state)[0] == 0
    assert f": pinned by hand; {promised}" in run("tasks", "--url", state)[1]


def test_going_back_to_what_serves_already_is_refused_and_leaves_no_trace(state: str) -> None:
    with Store(state) as store:
        (task,) = store.tasks()
        active, before = store.active_release(task.id), store.ledger(task.id)
        assert active is not None
        code, output = run("rollback", task.id, active.id, "--url", state)
        assert code == 2 and "serves already" in output
        assert store.ledger(task.id) == before and store.tasks() == [task]


def test_a_task_tells_what_audits_say_of_all_its_answers(tmp_path: Path) -> None:
    jitr = trained(tmp_path)
    serve(jitr, easy_calls(900, seed=5), tag="later-")
    jitr.close()
    with Store(url(tmp_path)) as store:
        (task,) = store.tasks()
    found = json.loads(run("tasks", "show", task.id, "--json", "--url", url(tmp_path))[1])["replacement"]["audited"]
    assert 0 < found["audits"] < found["answered"] and found["failed"] == 0
    assert 0 <= found["low"] < found["agreement"] <= found["high"] <= 1
    assert f"of its {found['answered']:,} answers agree" in run("tasks", "show", task.id, "--url", url(tmp_path))[1]


def test_tasks_says_what_is_inconsistent(state: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "jitr.db") as connection:
        connection.execute("update tasks set active_release = null")
    code, output = run("tasks", "--url", state)
    assert code == 0 and "active without a release" in output


def test_savings_sets_what_was_spent_against_the_teacher_alone(state: str) -> None:
    jitr = JITR(state, policy=POLICY, training="off", seed=1)
    jitr.refresh()
    reasons = serve(jitr, easy_calls(100, seed=9), "later")
    jitr.close()
    assert "unnamed model: price unknown" in run("savings", "--url", state)[1]  # as the calls do not say
    code, output = run("savings", "--url", state, "--price-model", "gpt-4.1")
    shown = " ".join(output.split())
    assert code == 0 and "gpt-4.1: $2 in, $8 out" in shown and "energy saved (estimate)" in shown
    assert "of the tokens estimated" in shown and "Not yet" not in shown
    with Store(state) as store:
        (task,) = store.tasks()
        saved = task_savings(store, Prices(model="gpt-4.1"), Rates())[task.id]
        searched = sum(report.seconds for report in store.searches(task.id))
    assert saved.calls == 350 and saved.replaced >= reasons.count("answered") > 40
    assert saved.teacher_calls == saved.calls - saved.replaced + saved.audits
    assert saved.fixed_usd == pytest.approx(searched / 3600 * 0.05) and searched > 0
    assert saved.cost_teacher_only_usd is not None and saved.cost_usd is not None
    assert saved.cost_teacher_only_usd > saved.cost_usd and "-$" not in output
    dear = ("--price-model", "gpt-4.1", "--compute-usd-per-hour", "5000")
    assert "-$" in run("savings", "--url", state, *dear)[1]
    assert run("savings", "--url", state, "--price-model", "no-such-model")[0] == 2


def test_savings_are_unknown_with_an_unknown_price_and_not_yet_without_replacements(tmp_path: Path) -> None:
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    call = Call("1", (("user", "Who wrote Hamlet?"),))
    jitr.observe(call, jitr.decide(call), Answer("S.", "my-own-model"))
    jitr.close()
    code, output = run("savings", "--url", url(tmp_path))
    assert code == 0 and "Not yet" in output and "unknown price" in output and "one-off calls" in output
    assert "$0.00" not in output and "$0 " not in output


def test_the_searches_of_a_task_that_was_merged_are_billed_to_the_survivor(state: str) -> None:
    with Store(state) as store:
        (task,) = store.tasks()
        before = task_savings(store, Prices(), Rates())[task.id].fixed_usd
        store.save_task(Task("older", "default", "", "older"))
        store.merge_tasks(task.id, "older")
        assert task_savings(store, Prices(), Rates())["older"].fixed_usd == before > 0


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


def test_train_says_that_another_process_is_at_it_or_why_an_attempt_is_forfeited(tmp_path: Path) -> None:
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    serve(jitr, easy_calls(300))
    jitr.close()
    where = ("--url", url(tmp_path))
    with Store(url(tmp_path)) as store:
        (task,) = store.tasks()
        store.acquire(f"train:{task.id}", "another process", 60.0)
        for arguments in (("train", *where), ("train", task.id, *where)):
            code, output = run(*arguments)
            assert code == 0 and "another process is at it" in output and "Nothing was due" not in output
        store.free(f"train:{task.id}", "another process")
        assert "chosen lexical" in run("train", *where)[1]
    output = run("train", *where)[1]  # the next attempt was due, too
    assert "hardly any new labels since the last search" in output and "another process" not in output
    assert "Nothing was due" in run("train", *where)[1]


def test_train_tells_no_earlier_search_as_one_just_made(state: str, monkeypatch) -> None:
    with Store(state) as store:
        (task,) = store.tasks()
        attempts = store.attempts(task.id)
    whole = Pipeline.run

    def paused_meanwhile(self: Pipeline, task_id: str, *, force: bool = False):
        self.store.set_state(task_id, "paused", "paused by hand")
        return whole(self, task_id, force=force)

    monkeypatch.setattr(Pipeline, "run", paused_meanwhile)
    code, output = run("train", task.id, "--url", state)
    assert code == 0 and "chosen" not in output and "not searched: it was paused" in output
    with Store(state) as store:
        assert store.attempts(task.id) == attempts


def test_purging_a_task_deletes_its_calls_and_files(state: str, tmp_path: Path) -> None:
    assert list((tmp_path / "artifacts").rglob("manifest.json"))
    with Store(state) as store:
        (task,) = store.tasks()
    assert run("purge", "--url", state)[0] == 2
    assert run("purge", "--all", "--days", "1", "--yes", "--url", state)[0] == 2
    code, output = run("purge", "--task", task.id, "--yes", "--url", state)
    assert code == 0 and "calls deleted" in output
    with Store(state) as store:
        assert store.tasks() == [] and all(o.decision.task is None for o in store.observations())
    assert not list((tmp_path / "artifacts").rglob("manifest.json"))
    assert run("purge", "--all", "--yes", "--url", state)[0] == 0


def test_old_texts_expire_while_the_app_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    for days in (0, 1):
        monkeypatch.setitem(Store.__init__.__kwdefaults__, "clock", lambda days=days: time.time() + 2 + days * 86_400)
        jitr = JITR(url(tmp_path), policy=Policy(families=("lexical",), retention_days=1e-9), training="inline")
        serve(jitr, easy_calls(16), f"day {days} ")  # one batch; texts are looked for after it
        texts.append([o.answer.text for o in jitr.open_store().observations() if o.answer])
        jitr.close()
    assert texts[0].count("") == 0 and texts[1][:16] == [""] * 16


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


def test_calls_of_no_task_are_counted_with_what_they_have_in_common_and_how_to_name_it(tmp_path: Path) -> None:
    where = ("--url", url(tmp_path))
    with Store(url(tmp_path)) as store:
        calls = [Call(f"s{i}", (("system", "Sort {it}."), ("user", f"text {i}"))) for i in range(9)]
        calls += [Call(f"o{i}", (("user", f"Tell me of {i}, please.\n{i} is odd."),), app="shop") for i in range(5)]
        calls += [Call(f"e{i}", (("user", f"{i} {i}\nYes or no?"),), app="shop") for i in range(7)]
        seen = [Observation(call, Decision("teacher", "no_task"), Answer("a")) for call in calls]
        mute = Call("m", (("user", "x"),), replaceable=False)
        store.add_observations([*seen, Observation(mute, Decision("teacher", "no_task"), Answer("a"))])
    code, output = run("tasks", *where)
    assert code == 0 and "22 calls belong to no task" in output and "1 of them has no answer to learn from" in output
    assert "9 have the system message “Sort {it}.”" in output and "`jitr tasks unplaced`" in output
    told = json.loads(run("tasks", "unplaced", "--json", *where)[1])
    assert (told["calls"], told["labels"], told["looked_at"]) == (22, 21, 22)
    assert [(each["where"], each["text"], each["calls"]) for each in told["alike"]] == [
        ("system message", "Sort {it}.", 9),
        ("last line", "Yes or no?", 7),
    ]
    shown = run("tasks", "unplaced", *where)[1]
    for each in told["alike"]:
        assert each["declare"] in shown
        command = shlex.split(each["declare"])
        assert f"{each['calls']} earlier calls are its own" in run(*command[1:3], each["text"], *command[4:], *where)[1]
    assert "6 calls belong to no task" in run("tasks", *where)[1]
    assert json.loads(run("tasks", "unplaced", "--json", *where)[1])["alike"] == []


def test_where_every_call_has_a_task_nothing_is_said_of_others(tmp_path: Path) -> None:
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    serve(jitr, easy_calls(30))
    jitr.close()
    assert "no task" not in run("tasks", "--url", url(tmp_path))[1]
    assert "Every call belongs to a task" in run("tasks", "unplaced", "--url", url(tmp_path))[1]
