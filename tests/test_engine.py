"""The engine under an app: it serves, it steps aside, it survives."""

from __future__ import annotations

import errno
import functools
import gc
import logging
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from easy import easy_calls

from jitr_core import JITR, Answer, Call, ConfigError, Policy, manage
from jitr_core.jobs import policy_to_json
from jitr_core.memory import Kept, Memory
from jitr_core.observe import Auditor, Recorder
from jitr_core.route import NotLoaded
from jitr_core.store import Store

POLICY = Policy(families=("lexical",))


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'jitr.db'}"


def serve(jitr: JITR, calls: list[dict], tag: str = "") -> list[str]:
    """Runs calls through an engine as an integration would; returns the reasons."""
    reasons = []
    for recorded in calls:
        messages = tuple((m["role"], m["content"]) for m in recorded["messages"])
        call = Call(f"{tag}{recorded['id']}", messages, step=recorded.get("step", ""))
        decision = jitr.decide(call)
        reasons.append(decision.reason)
        answer = Answer(recorded["answer"], "gpt-4.1")
        jitr.observe(call, decision, None if decision.kind == "replacement" else answer)
        if decision.kind == "replacement" and decision.audit:
            jitr.audit(call, decision, lambda answer=answer: answer)
    return reasons


def trained(folder: Path, count: int = 250) -> JITR:
    """An engine whose step has been replaced."""
    jitr = JITR(url(folder), policy=POLICY, training="inline", seed=1)
    serve(jitr, easy_calls(count))
    jitr.flush()
    return jitr


@pytest.fixture
def due(tmp_path: Path) -> Iterator[str]:
    """A state with a task that is due for its first attempt."""
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    serve(jitr, easy_calls(300))
    jitr.close()
    yield url(tmp_path)


def train(state: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jitr_core.cli", "train", "--url", state, "--policy", policy_to_json(POLICY)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_an_app_that_waits_for_its_start_has_its_first_calls_answered(tmp_path: Path) -> None:
    trained(tmp_path).close()
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    jitr.refresh()
    reasons = serve(jitr, easy_calls(20, seed=9))
    assert "no_task" not in reasons and "no_release" not in reasons and "answered" in reasons
    jitr.close()


def test_what_is_known_is_loaded_when_the_thread_starts_not_when_a_batch_is_due() -> None:
    loaded = threading.Event()
    recorder: Recorder[int] = Recorder(lambda items: loaded.set(), lambda where, error: None, wait_s=3_600)
    recorder.start()
    assert loaded.wait(60)
    recorder.close()


def test_a_step_is_found_learnt_and_answered(tmp_path: Path) -> None:
    jitr = trained(tmp_path)
    reasons = serve(jitr, easy_calls(50, seed=9), "later")
    assert reasons.count("answered") > 25
    assert not jitr.faults
    jitr.close()


def test_a_restart_goes_on_where_it_stopped(tmp_path: Path) -> None:
    trained(tmp_path).close()
    again = JITR(url(tmp_path), policy=POLICY, training="off", seed=1)
    again.refresh()
    assert serve(again, easy_calls(50, seed=9), "later").count("answered") > 25
    again.close()


def test_pause_rollback_and_resume_take_effect_in_the_running_app(tmp_path: Path) -> None:
    jitr = trained(tmp_path)
    later = easy_calls(40, seed=9)
    with Store(url(tmp_path)) as store:
        (task,) = store.tasks()
        manage.pause(store, task)
        jitr.refresh()
        assert "answered" not in serve(jitr, later, "a")
        manage.resume(store, task)
        jitr.refresh()
        assert "answered" in serve(jitr, later, "b")
        assert manage.rollback(store, task) == "the teacher"
        jitr.refresh()
        assert "answered" not in serve(jitr, later, "c")
        with pytest.raises(ConfigError, match="no active replacement"):
            manage.rollback(store, task)
    jitr.close()


def test_audits_that_contradict_the_certificate_roll_back_by_themselves(tmp_path: Path) -> None:
    events = []
    jitr = JITR(url(tmp_path), policy=POLICY, training="inline", seed=1, listener=events.append)
    serve(jitr, easy_calls(400))
    turned = [dict(c, answer={"billing": "delivery", "delivery": "billing"}[c["answer"]]) for c in easy_calls(180, 9)]
    reasons = serve(jitr, turned, "later")
    jitr.flush()
    (rollback,) = [e for e in events if e["kind"] == "rollback"]
    assert "audited answers differed" in rollback["reason"]
    assert reasons[-50:].count("answered") == 0
    (task,) = jitr.open_store().tasks()
    assert task.state != "active"
    jitr.close()


def test_a_damaged_database_makes_jitr_step_aside_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "jitr.db").write_bytes(b"this is no database" * 100)
    with caplog.at_level(logging.ERROR, "jitr"):
        jitr = JITR(url(tmp_path), policy=POLICY, training="inline")
        reasons = serve(jitr, easy_calls(100))
        jitr.close()
    assert set(reasons) == {"no_task"}
    assert len([r for r in caplog.records if "steps aside" in r.getMessage()]) == 1
    assert (tmp_path / "jitr.db").read_bytes().startswith(b"this is no database")


def test_a_damaged_artifact_leaves_the_task_to_the_teacher(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained(tmp_path).close()
    for file in (tmp_path / "artifacts").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-7] + b"garbage")
    again = JITR(url(tmp_path), policy=POLICY, training="off", seed=1)
    again.refresh()
    with caplog.at_level(logging.ERROR, "jitr"):
        assert set(serve(again, easy_calls(30, seed=9), "later")) == {"no_release"}
    again.close()


def test_a_student_that_raises_falls_back_to_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jitr = trained(tmp_path)
    monkeypatch.setattr(jitr._router, "decide", lambda match: 1 / 0)
    assert set(serve(jitr, easy_calls(5, seed=9), "later")) == {"fallback"}
    assert jitr.faults["decide"] == 5
    jitr.close()


def test_redaction_comes_before_everything_else(tmp_path: Path) -> None:
    secret = "billing of ACCOUNT-77 "
    calls = [dict(c, messages=[*c["messages"][:1], {"role": "user", "content": secret}]) for c in easy_calls(40)]
    jitr = JITR(url(tmp_path), training="inline", redact=lambda text: text.replace("ACCOUNT-77", "[account]"))
    serve(jitr, calls)
    jitr.close()
    stored = b"".join(f.read_bytes() for f in tmp_path.glob("jitr.db*"))
    assert b"ACCOUNT-77" not in stored and b"[account]" in stored


def test_a_redaction_that_fails_stores_nothing(tmp_path: Path) -> None:
    def fails(text: str) -> str:
        raise RuntimeError(text)

    jitr = JITR(url(tmp_path), training="inline", redact=fails)
    assert set(serve(jitr, easy_calls(40))) == {"fallback"}
    jitr.flush()
    assert list(jitr.open_store().observations()) == []
    jitr.close()


def test_a_state_that_is_copied_serves_where_it_is_and_stands_alone(tmp_path: Path) -> None:
    trained(tmp_path / "here").close()
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    for where in ("here", "there"):
        with Store(url(tmp_path / where)) as store:
            (release,) = store.releases(store.tasks()[0].id)
            assert Path(release.path).is_relative_to(tmp_path / where) and store.verify() == []
    with Store(url(tmp_path / "here")) as store:
        manage.purge(store)  # takes its own artifacts along, not those of the copy
    assert not list((tmp_path / "here" / "artifacts").glob("*/*"))
    shutil.move(tmp_path / "there", tmp_path / "elsewhere")
    jitr = JITR(url(tmp_path / "elsewhere"), policy=POLICY, training="inline", seed=1)
    jitr.refresh()
    assert serve(jitr, easy_calls(20, seed=7), "b").count("answered") > 10
    jitr.close()


def test_tenants_never_share_a_task(tmp_path: Path) -> None:
    jitr = JITR(url(tmp_path), training="inline")
    for tenant in ("a", "b"):
        for recorded in easy_calls(20):
            messages = tuple((m["role"], m["content"]) for m in recorded["messages"])
            call = Call(tenant + recorded["id"], messages, tenant=tenant)
            jitr.observe(call, jitr.decide(call), Answer(recorded["answer"]))
    jitr.flush()
    assert {t.tenant for t in jitr.open_store().tasks()} == {"a", "b"}
    jitr.close()


def test_a_pickled_engine_is_the_one_of_its_process_and_state(tmp_path: Path) -> None:
    jitr = JITR(url(tmp_path))
    assert pickle.loads(pickle.dumps(jitr)) is jitr
    program = "import pickle, sys; jitr = pickle.loads(bytes.fromhex(sys.argv[1])); print(jitr.url); jitr.close()"
    command = [sys.executable, "-c", program, pickle.dumps(jitr).hex()]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == url(tmp_path)
    jitr.close()


def test_two_trainings_at_once_make_one_attempt(due: str) -> None:
    children = [train(due) for _ in range(2)]
    outputs = [child.communicate(timeout=100)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    with Store(due) as store:
        (task,) = store.tasks()
        assert store.attempts(task.id) == 1 and len(store.releases(task.id)) == 1
        assert task.state == "active"


def test_two_processes_lose_no_observation(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_engine import *\n"
        "jitr = JITR(sys.argv[2], policy=POLICY, training='off')\n"
        "serve(jitr, easy_calls(400, seed=int(sys.argv[3])), sys.argv[3]); jitr.close()\n"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent), url(tmp_path)]
    children = [subprocess.Popen([*command, str(i)]) for i in (1, 2)]
    assert [child.wait(100) for child in children] == [0, 0]
    with Store(url(tmp_path)) as store:
        (task,) = store.tasks()
        assert sum(1 for _ in store.observations()) == 800
        assert store.counts(task.id).calls >= 780  # both may have started before the template was known
        assert not store.verify()


@pytest.mark.parametrize("wait_s", [0.3, 1.0, 1.8])
def test_a_kill_in_the_cold_path_corrupts_nothing_and_the_next_start_goes_on(due: str, wait_s: float) -> None:
    child = train(due)
    time.sleep(wait_s + random.Random(wait_s).random() / 2)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    # An hour later: the lease of the killed process can be taken over.
    with Store(due, clock=lambda: time.time() + 3600) as store:
        assert not store.verify()
        (task,) = store.tasks()
        list(manage.train(manage.pipeline(store, POLICY, due)))
        assert store.active_release(task.id) is not None
        assert not store.verify()


def test_a_changed_prompt_under_the_same_step_is_not_answered_by_the_old_replacement(tmp_path: Path) -> None:
    jitr = JITR(url(tmp_path), policy=POLICY, training="inline", seed=1)
    serve(jitr, [dict(c, step="triage") for c in easy_calls(250)])
    turned = easy_calls(40, seed=9)  # the next attempt comes at 300 calls
    for call in turned:
        call["messages"][0]["content"] = "Translate the message of the customer into German, and nothing else."
    reasons = serve(jitr, [dict(c, step="triage") for c in turned], "later")
    assert "answered" not in reasons
    assert "answered" in serve(jitr, [dict(c, step="triage") for c in easy_calls(9, seed=8)], "same")
    jitr.close()


def test_what_cannot_be_stored_is_not_answered_and_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jitr = trained(tmp_path)
    store = jitr.open_store()
    known = sum(1 for _ in store.observations())
    with monkeypatch.context() as patch:
        patch.setattr(type(store), "add_observations", lambda self, rows: 1 / 0)
        reasons = serve(jitr, easy_calls(64, seed=9), "later")
        assert "answered" not in reasons[20:] and jitr.faults["background"] >= 1
    jitr.refresh()
    assert sum(1 for _ in store.observations()) == known + 64
    assert "answered" in serve(jitr, easy_calls(20, seed=8), "again")
    jitr.close()


def test_a_task_that_cannot_be_stored_is_not_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    store = jitr.open_store()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "save_task", lambda self, task: 1 / 0)
        serve(jitr, easy_calls(40))
        jitr.flush()
    assert jitr.faults and not store.templates()
    serve(jitr, easy_calls(40, seed=2), "later")
    jitr.flush()
    assert len(store.templates()) == 1 and not store.verify()
    assert sum(store.counts(task.id).calls for task in store.tasks()) >= 30
    jitr.close()


@pytest.mark.skipif(sys.platform != "linux", reason="open files are listed on Linux only")
def test_a_closed_engine_leaves_its_database_closed(tmp_path: Path) -> None:
    for i in range(5):
        jitr = JITR(url(tmp_path / str(i)), policy=POLICY, training="off")
        serve(jitr, easy_calls(5))
        jitr.close()
    time.sleep(0.6)  # longer than the recorder's thread waits
    held = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [path for path in held if str(tmp_path) in path]


def test_replacements_beyond_the_bound_of_memory_come_back_when_they_are_called(tmp_path: Path) -> None:
    loads: list[str] = []

    class Loaded:
        def __init__(self, name: str) -> None:
            loads.append(name)
            self.name = name

        def predict_one(self, slots: tuple[str, ...]) -> tuple[str, float, bool]:
            return self.name, 1.0, False

    faults: list[str] = []
    memory = Memory(25, lambda where, error: faults.append(where))
    a, b, c = (memory.keep(functools.partial(Loaded, name), 10) for name in "abc")
    assert loads == ["a", "b", "c"] and [each.student is not None for each in (a, b, c)] == [False, True, True]
    assert b.predict_one(()) == ("b", 1.0, False)
    with pytest.raises(NotLoaded):
        a.predict_one(())
    assert loads == ["a", "b", "c"]  # no call waits
    memory.tend()
    assert a.predict_one(()) == ("a", 1.0, False) and c.student is None and b.student is not None
    memory.tend()
    assert loads == ["a", "b", "c", "a"]
    c.load = lambda: 1 / 0  # type: ignore[assignment,return-value]
    for _ in range(3):
        with pytest.raises(NotLoaded):
            c.predict_one(())
        memory.tend()
    assert faults == ["load"] and a.student is not None
    del b
    gc.collect()
    assert memory.keep(functools.partial(Loaded, "d"), 10).student is not None and a.student is not None


def test_what_is_no_answer_reaches_no_app_whatever_the_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jitr = trained(tmp_path)
    (loaded,) = jitr._router.loaded().values()
    certificate = replace(loaded.release.certificate, threshold=0.0)  # as earlier versions wrote it
    loaded.release = replace(loaded.release, certificate=certificate)
    monkeypatch.setattr(loaded.student, "predict_one", lambda slots: ("", 0.0, False))
    assert set(serve(jitr, easy_calls(5, seed=3), "none")) == {"deferral"}
    jitr.close()


def test_a_replacement_that_left_memory_serves_again_in_the_background(tmp_path: Path) -> None:
    trained(tmp_path).close()
    jitr = JITR(url(tmp_path), policy=replace(POLICY, serving_memory_mb=1), training="inline", seed=1)
    jitr.refresh()
    (kept,) = (each.student for each in jitr._router.loaded().values())
    assert isinstance(kept, Kept) and 0 < kept.size < 1e6
    kept.student = None  # as if others had needed the room
    assert serve(jitr, easy_calls(1, seed=3), "gone") == ["no_release"]
    jitr.refresh()
    assert "answered" in serve(jitr, easy_calls(20, seed=4), "back") and not jitr.faults
    jitr.close()


def test_a_search_that_fails_is_recorded_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jitr_core import search

    def fails(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(search, "search", fails)
    jitr = JITR(url(tmp_path), policy=POLICY, training="inline", seed=1)
    serve(jitr, easy_calls(280))
    (task,) = jitr.open_store().tasks()
    assert jitr.open_store().attempts(task.id) == 1
    assert task.state == "refused" and "out of memory" in task.reason
    jitr.close()


def test_a_full_disk_promotes_nothing_and_the_teacher_serves_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jitr_core.students import LinearStudent

    def full(self: LinearStudent, path: Path) -> None:
        path.mkdir(parents=True)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LinearStudent, "save", full)
    jitr = JITR(url(tmp_path), policy=POLICY, training="inline", seed=1)
    assert set(serve(jitr, easy_calls(280))) <= {"no_task", "no_release"}
    (task,) = jitr.open_store().tasks()
    assert task.state == "refused" and "the disk is full" in task.reason
    assert jitr.open_store().active_release(task.id) is None
    assert not [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
    jitr.close()


def test_a_rolled_back_release_never_serves_again(tmp_path: Path) -> None:
    jitr = trained(tmp_path)
    store = jitr.open_store()
    (task,) = store.tasks()
    first = store.active_release(task.id)
    assert first is not None and store.withdraw(task.id, first.id, "audits")
    list(manage.train(manage.pipeline(store, POLICY, url(tmp_path)), task))  # on what came after: nothing
    assert store.active_release(task.id) is None
    with pytest.raises(ConfigError, match="no active replacement"):
        manage.rollback(store, task)
    jitr.close()


def test_purging_a_task_of_a_running_app_lets_it_be_found_again(tmp_path: Path) -> None:
    jitr = trained(tmp_path)
    store = jitr.open_store()
    manage.purge(store, task=store.tasks()[0])
    jitr.refresh()
    assert set(serve(jitr, easy_calls(40, seed=9), "later")) <= {"no_task", "no_release"}
    jitr.flush()
    assert len(store.tasks()) == 1 and not store.verify()
    jitr.close()


def test_a_task_shows_over_many_short_runs(tmp_path: Path) -> None:
    for i in range(4):
        jitr = JITR(url(tmp_path), policy=POLICY, training="inline")
        serve(jitr, easy_calls(3, seed=i), f"{i}-")
        jitr.close()
    with Store(url(tmp_path)) as store:
        (task,) = store.tasks()
        assert store.counts(task.id).calls >= 9


def test_pending_audits_at_exit_count_as_answered(tmp_path: Path) -> None:
    trained(tmp_path).close()
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from test_engine import *\n"
        "policy = Policy(families=('lexical',), audit_share_start=1.0)\n"
        "jitr = JITR(sys.argv[2], policy=policy, training='off', seed=1)\n"
        "jitr.refresh()\n"
        "for i, c in enumerate(easy_calls(20, seed=9)):\n"
        "    call = Call(f'x{i}', tuple((m['role'], m['content']) for m in c['messages']))\n"
        "    decision = jitr.decide(call)\n"
        "    assert decision.kind == 'replacement' and decision.audit\n"
        "    jitr.audit(call, decision, lambda: time.sleep(60))\n"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent), url(tmp_path)]
    assert subprocess.run(command, timeout=60).returncode == 0
    with Store(url(tmp_path)) as store:
        stored = [o for o in store.observations() if o.call.id.startswith("x")]
        assert len(stored) >= 19 and all(o.answer is None for o in stored)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_serves_and_leaves(tmp_path: Path) -> None:
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_engine import *\n"
        "jitr = JITR(sys.argv[2], policy=POLICY, training='off', seed=1)\n"
        "child = os.fork()\n"
        "serve(jitr, easy_calls(30, seed=os.getpid() % 1000), str(os.getpid())); jitr.close()\n"
        "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, str(Path(__file__).parent), url(tmp_path)]
    assert subprocess.run(command, timeout=60).returncode == 0
    with Store(url(tmp_path)) as store:
        assert sum(1 for _ in store.observations()) == 60


def test_an_audit_that_raises_what_no_exception_is_leaves_the_others_standing():
    made, given_up = [], []

    def cancelled() -> None:
        raise KeyboardInterrupt

    auditor = Auditor(threaded=True)
    auditor.put(cancelled, lambda: given_up.append(1))
    auditor.put(lambda: made.append(1), lambda: None)
    auditor.join()
    assert (made, given_up) == ([1], [1])


def test_a_state_deleted_under_a_running_app_takes_its_replacements_out_of_service(tmp_path, caplog):
    folder = tmp_path / "state"
    jitr = JITR(url(folder), policy=POLICY, training="inline", seed=0)
    assert "answered" in serve(jitr, easy_calls(600))
    shutil.rmtree(folder)
    jitr.refresh()
    assert "answered" not in serve(jitr, easy_calls(20, seed=7))
    assert "is gone" in caplog.text and jitr.faults


@pytest.mark.parametrize("wrong", ["nonsense", "sqlite://", "sqlite:///", "sqlite:///:memory:", "postgresql://x/y"])
def test_a_url_that_names_no_file_is_refused_at_once(wrong):
    with pytest.raises(ConfigError, match="SQLite file"):
        JITR(wrong)
