"""Real processes killed at the worst moments, a teacher that is down, a clock that jumps."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from easy import easy_calls
from test_engine import POLICY, serve, trained, url
from test_engine import due as due  # a fixture

from jitr_core import JITR, Answer, Call, manage, observe
from jitr_core.certify import next_attempt
from jitr_core.observe import Auditor
from jitr_core.store import Store

DYING = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_engine import *
from test_probation import turned
from jitr_core import pipeline, serving
from jitr_core.store import observations, releases
url_, after = sys.argv[2], sys.argv[3] == "after"

def dies(owner, name, call=1):
    original, calls = getattr(owner, name), []
    def dying(*args, **kwargs):
        calls.append(name)
        if len(calls) < call:
            return original(*args, **kwargs)
        if after:
            original(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, dying)

"""
TRAIN = """
with Store(url_) as store:
    list(manage.train(manage.pipeline(store, POLICY, url_)))
"""
DOWN = """
from test_outages import *
teacher = Teacher()
teacher.down = True
jitr = JITR(url_, policy=ALL_AUDITED, training="off", seed=1)
jitr.refresh()
answered(jitr, teacher, 150, "down")
jitr.refresh()
os.kill(os.getpid(), signal.SIGKILL)
"""
TURN = """
policy = Policy(families=("lexical",), audit_share_start=1.0)
jitr = JITR(url_, policy=policy, training="inline", seed=1)
jitr.refresh()
serve(jitr, turned(64), "turned")
"""

ALL_AUDITED = dataclasses.replace(POLICY, audit_share_start=1.0, audit_share_min=1.0)


def killed(state: str, moment: str, body: str, when: str = "after") -> str:
    """Runs a process that is killed at a moment; what it printed."""
    command = [sys.executable, "-c", DYING + moment + body, str(Path(__file__).parent), state, when]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout


def later(state: str) -> Store:
    """The state an hour later, when the leases of the killed have run out."""
    return Store(state, clock=lambda: time.time() + 3600)


@pytest.mark.parametrize(
    ("moment", "promoted"),
    [
        ('dies(pipeline, "package")', False),  # the artifact is there, nobody knows of it
        ('dies(releases.Releases, "_set_state")', False),  # in the middle of the transaction
        ('dies(releases.Releases, "_point")', False),  # at its end
        ('dies(releases.Releases, "conclude")', True),  # just after it
        ('dies(pipeline, "remove_leftovers", 2)', True),
    ],
)
def test_a_kill_during_promotion_leaves_all_of_it_or_nothing(due: str, moment: str, promoted: bool) -> None:
    killed(due, moment, TRAIN)
    with later(due) as store:
        (task,) = store.tasks()
        assert not store.verify()
        assert (store.active_release(task.id) is not None, store.attempts(task.id)) == (promoted, promoted)
        list(manage.train(manage.pipeline(store, POLICY, due)))
        assert store.active_release(task.id) is not None
        assert store.delta_spent(task.id) == next_attempt(0, POLICY).delta, "no share of delta is spent twice"
        assert not store.verify()


@pytest.mark.parametrize(
    ("moment", "when"),
    [
        ('dies(observations, "_place")', "after"),  # in the middle of the transaction that stores audits
        ('dies(serving.Serving, "audit")', "before"),  # stored, not yet judged
        ('dies(releases.Releases, "withdraw")', "before"),
        ('dies(releases.Releases, "_set_state")', "after"),  # in the middle of the rollback's transaction
        ('dies(releases.Releases, "_point")', "after"),
        ('dies(releases.Releases, "withdraw")', "after"),
    ],
)
def test_a_kill_during_audit_or_rollback_is_made_up_for_at_the_next_start(
    tmp_path: Path, moment: str, when: str
) -> None:
    trained(tmp_path).close()
    killed(url(tmp_path), moment, TURN, when)
    with later(url(tmp_path)) as store:
        (task,) = store.tasks()
        assert not store.verify()
        audits = store.counts(task.id).audits
        decided = store.active_release(task.id) is None
    policy = dataclasses.replace(POLICY, audit_share_start=1.0)
    jitr = JITR(url(tmp_path), policy=policy, training="off", seed=1)
    jitr.refresh()
    jitr.refresh()
    store = jitr.open_store()
    enough = audits >= 8  # the first batch was stored: its audits say it all
    assert (store.active_release(task.id) is None) == (decided or enough)
    turned = [dict(call, answer="neither") for call in easy_calls(40, seed=3)]
    serve(jitr, turned, "again")
    jitr.flush()
    assert store.active_release(task.id) is None, "withdrawn at the latest by the next audits"
    assert len([entry for entry in store.ledger(task.id) if entry.kind == "rollback"]) == 1
    assert not store.verify() and not jitr.faults
    jitr.close()


class Teacher:
    """Answers, unless it is down."""

    def __init__(self) -> None:
        self.down, self.asked = False, 0

    def ask(self, answer: str) -> Callable[[], Answer]:
        def ask() -> Answer:
            self.asked += 1
            if self.down:
                raise ConnectionError("503")
            return Answer(answer, "gpt-4.1")

        return ask


def answered(jitr: JITR, teacher: Teacher, count: int, tag: str) -> int:
    """Calls as an app makes them, whose audits are made in the background; how many a replacement answered."""
    number = 0
    for i, recorded in enumerate(easy_calls(count, seed=7)):
        call = Call(f"{tag}{i}", tuple((m["role"], m["content"]) for m in recorded["messages"]))
        decision = jitr.decide(call)
        number += decision.kind == "replacement"
        jitr.observe(call, decision, None)
        if decision.kind == "replacement" and decision.audit:
            jitr.audit(call, decision, teacher.ask(recorded["answer"]))
    return number


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def until(jitr: JITR, done: Callable[[], bool]) -> None:
    """Waits, seconds at most, for what another thread does."""
    deadline = time.monotonic() + 20
    while not done() and time.monotonic() < deadline:
        time.sleep(0.005)
        jitr.flush()
    assert done()


def test_while_the_teacher_is_down_for_an_hour_replacements_go_on_and_no_audit_is_lost(tmp_path: Path) -> None:
    trained(tmp_path).close()
    jitr, clock, teacher = JITR(url(tmp_path), policy=ALL_AUDITED, training="off", seed=1), Clock(), Teacher()
    jitr._audits = Auditor(threaded=True, clock=clock)
    jitr.refresh()
    store = jitr.open_store()
    (task,) = store.tasks()
    before, teacher.down, number = store.counts(task.id), True, 0
    for minute in range(60):
        number += answered(jitr, teacher, 5, f"minute{minute}-")
        jitr.flush()  # waits for no teacher
        clock.now += 60
    during = store.counts(task.id)
    assert number > 200 and during.answered - before.answered == number, "stored before their audits are done"
    assert during.audits == before.audits
    assert teacher.asked <= 61, "one audit is tried every minute, not each of them"
    given = store.given(task.id, store.active_release(task.id).id)
    assert len(given.failed) == number, "what is not audited yet does not count as agreed"
    teacher.down = False
    number += answered(jitr, teacher, 5, "after")
    until(jitr, lambda: store.counts(task.id).audits - before.audits == number)
    after = store.counts(task.id)
    assert (after.calls - during.calls, after.answered - before.answered) == (5, number), "none is counted twice"
    assert store.replaceable_count(task.id) == after.calls and store.label_count(task.id) == after.labels
    assert not store.given(task.id, store.active_release(task.id).id).failed and not jitr.faults.keys() - {"audit"}
    jitr.close()


def test_a_process_killed_with_its_audits_undone_has_stored_what_it_answered(tmp_path: Path) -> None:
    trained(tmp_path).close()
    with Store(url(tmp_path)) as store:
        (task,) = store.tasks()
        before, release = store.counts(task.id), store.active_release(task.id).id
        told = store.answers(task.id).answered
    killed(url(tmp_path), "", DOWN)
    with Store(url(tmp_path), clock=lambda: time.time() + 4 * 3600) as store:
        after = store.counts(task.id)
        number = after.answered - before.answered
        assert number > 100 and (after.calls - before.calls, after.audits) == (150, before.audits)
        assert len(store.given(task.id, release).failed) == number
        assert store.answers(task.id).answered == told, "their audits may still come"
        assert store.give_up_audits(3 * 3600.0) == number and not store.give_up_audits(3 * 3600.0)
        assert store.answers(task.id).answered == told + number
        assert store.counts(task.id) == after and len(store.given(task.id, release).failed) == number
        assert store.replaceable_count(task.id) == after.calls and not store.verify()


def test_audits_beyond_the_bound_and_at_the_end_count_as_answered(tmp_path: Path) -> None:
    trained(tmp_path).close()
    jitr = JITR(url(tmp_path), policy=ALL_AUDITED, training="off", seed=1)
    jitr._audits = Auditor(threaded=True, limit=10, clock=Clock())
    jitr.refresh()
    store, teacher = jitr.open_store(), Teacher()
    (task,) = store.tasks()
    before, teacher.down = store.counts(task.id), True
    told = store.answers(task.id).answered
    number = answered(jitr, teacher, 60, "down")
    jitr.flush()
    assert store.counts(task.id).answered - before.answered == number
    # Those that may wait are not given up, nor is the one that is being tried meanwhile.
    assert number - 11 <= store.answers(task.id).answered - told < number
    began = time.monotonic()
    jitr.close()
    assert time.monotonic() - began < 5
    with Store(url(tmp_path)) as again:
        after = again.counts(task.id)
        assert (after.answered - before.answered, after.audits) == (number, before.audits)
        assert again.answers(task.id).answered - told == number


def test_what_waits_too_long_is_given_up_whether_its_turn_came_or_not() -> None:
    clock, given_up = Clock(), []

    def down() -> None:
        raise ConnectionError("503")

    auditor = Auditor(threaded=True, clock=clock)
    for i in range(20):
        auditor.put(down, lambda i=i: given_up.append(i))
    auditor.join()
    clock.now += observe.PATIENCE_S + 1
    auditor.put(down, lambda: given_up.append("late"))
    deadline = time.monotonic() + 5
    while len(given_up) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(given_up) == list(range(20))
    auditor.give_up()


def test_an_audit_that_alone_fails_is_given_up_and_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "PAUSE_S", (0.001, 0.002))
    auditor, given_up, made = Auditor(threaded=True), threading.Event(), []

    def refused() -> None:
        raise ValueError("content filter")

    auditor.put(refused, given_up.set)
    for i in range(50):
        auditor.put(lambda i=i: made.append(i), lambda: None)
        time.sleep(0.002)
    assert given_up.wait(5)
    deadline = time.monotonic() + 5
    while len(made) < 50 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(made) == list(range(50))


@pytest.mark.parametrize("jump_s", [-365 * 86_400.0, 365 * 86_400.0])
def test_a_clock_that_jumps_changes_no_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    real = time.time
    jitr = JITR(url(tmp_path), policy=POLICY, training="inline", seed=1)
    serve(jitr, easy_calls(150))
    monkeypatch.setattr(time, "time", lambda: real() + jump_s)
    jitr.open_store()._database.clock = time.time
    reasons = serve(jitr, easy_calls(200, seed=2), "later")
    assert reasons.count("answered") > 100
    store = jitr.open_store()
    (task,) = store.tasks()
    first = store.active_release(task.id)
    second = dataclasses.replace(first, id="r_second", created=first.created + jump_s / 2)
    store.add_release(second)
    store.activate(task.id, second.id, "better")
    assert manage.rollback(store, task) == f"release {first.id}", "the one before, by the order of their coming"
    turned = [dict(call, answer="neither") for call in easy_calls(400, seed=3)]
    jitr.refresh()
    serve(jitr, turned, "turned")
    jitr.flush()
    assert store.release_state(first.id) == "withdrawn" and not store.verify() and not jitr.faults
    jitr.close()


def test_a_start_with_a_clock_that_leapt_deletes_no_texts_and_they_go_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = dataclasses.replace(POLICY, retention_days=30.0)
    kept, day = [], 86_400.0
    for run, leap in enumerate((0.0, 365 * day, 1 * day, 31 * day, 32 * day)):
        monkeypatch.setitem(Store.__init__.__kwdefaults__, "clock", lambda leap=leap: time.time() + leap)
        jitr = JITR(url(tmp_path), policy=policy, training="off")
        serve(jitr, easy_calls(20, seed=run) if run < 2 else [], str(run))
        jitr.refresh()
        kept.append(sum(o.answer.text != "" for o in jitr.open_store().observations() if o.answer))
        jitr.close()
    assert kept == [20, 40, 40, 40, 0]


def test_a_lease_from_the_future_is_not_kept_for_a_clock_that_was_set_back(tmp_path: Path) -> None:
    now = [1e9 + 86_400.0]
    with Store(url(tmp_path), clock=lambda: now[0]) as store:
        assert store.acquire("train:t", "dead", 180.0)
        now[0] -= 60.0  # a small step: whoever holds it may be alive
        assert not store.acquire("train:t", "other", 180.0)
        now[0] -= 86_400.0
        assert store.acquire("train:t", "other", 180.0)
        assert not store.renew("train:t", "dead", 180.0)
