"""A release whose audits do not come back any more does not answer unwatched for ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from easy import easy_calls
from test_engine import trained, url
from test_outages import ALL_AUDITED
from typer.testing import CliRunner

from jitr_core import JITR, Answer, Call
from jitr_core.cli import app
from jitr_core.estimate import estimate
from jitr_core.holds import Holds
from jitr_core.store import Store
from jitr_core.types import Decision, Match, Observation

HOUR_S = 3600.0


class App:
    """An app whose teacher refuses audits, or refuses everything; its clock is that of its calls."""

    def __init__(self, folder: Path) -> None:
        self.events: list[dict[str, Any]] = []
        trained(folder).close()
        self.now, self.number, self.audited, self.turned = 1e9, 0, False, False
        self.jitr = JITR(url(folder), policy=ALL_AUDITED, training="inline", seed=1, listener=self.events.append)
        self.jitr.refresh()

    def call(self, count: int, every_s: float, *, up: bool = True) -> list[str]:
        """Makes calls; returns why each was decided as it was."""
        reasons = []
        for recorded in easy_calls(count, seed=self.number):
            self.number, self.now = self.number + 1, self.now + every_s
            messages = tuple((m["role"], m["content"]) for m in recorded["messages"])
            call = Call(f"n{self.number}", messages, time=self.now)
            decision = self.jitr.decide(call)
            reasons.append(decision.reason)
            if decision.kind == "replacement":
                self.jitr.audit(call, decision, lambda said=recorded["answer"]: self.ask(said))
            elif up:
                said = "neither" if self.turned else recorded["answer"]
                self.jitr.observe(call, decision, Answer(said, "gpt-4.1"))
        self.jitr.flush()
        return reasons

    def ask(self, said: str) -> Answer:
        if not self.audited:
            raise PermissionError("401")
        return Answer(said, "gpt-4.1")

    def held(self) -> list[bool]:
        return [event["held"] for event in self.events if event["kind"] == "hold"]


@pytest.fixture
def shop(tmp_path: Path) -> App:
    return App(tmp_path)


def test_an_outage_of_an_hour_holds_nothing_however_many_audits_it_takes(shop: App) -> None:
    assert shop.call(300, HOUR_S / 300, up=False).count("answered") > 200
    shop.audited = True
    assert shop.call(20, 60).count("answered") > 15 and not shop.held()
    shop.jitr.close()


def test_a_few_audits_that_fail_in_many_days_hold_nothing(shop: App) -> None:
    assert "audit_hold" not in shop.call(40, 24 * HOUR_S) and not shop.held()
    shop.jitr.close()


def test_after_a_day_without_any_audit_the_teacher_answers_until_enough_was_compared(shop: App, tmp_path: Path) -> None:
    reasons = shop.call(100, HOUR_S / 2)
    assert "audit_hold" not in reasons[:48] and reasons[-20:].count("audit_hold") > 15
    store = shop.jitr.open_store()
    (task,) = store.tasks()
    assert task.state == "active" and shop.held() == [True]
    shown = CliRunner().invoke(app, ["tasks", "show", task.name, "--url", url(tmp_path)])
    assert "held: none of" in shown.output and "is held: the teacher answers" in shown.output
    (facts,) = json.loads(CliRunner().invoke(app, ["tasks", "--json", "--url", url(tmp_path)]).output)
    assert "came back" in facts["held"]
    assert facts["replacement"]["audited"]["audits"] <= store.counts(task.id).audits, "none of them was an answer given"
    before = store.last_entry("hold", task.id)
    assert before.details["figures"]["missed"] >= 50 and before.details["figures"]["hours"] >= 24
    later = shop.call(200, HOUR_S / 2)
    assert later.index("answered") < 120, "compared again, it goes on for another day"
    assert shop.held()[:3] == [True, False, True], "and is held again, as audits still fail"
    assert not shop.jitr.faults.keys() - {"audit"}
    shop.jitr.close()


def test_while_it_is_held_another_process_holds_it_too_and_a_teacher_that_is_down_is_asked(
    shop: App, tmp_path: Path
) -> None:
    shop.call(100, HOUR_S / 2, up=False)
    assert set(shop.call(60, HOUR_S, up=False)) <= {"audit_hold", "deferral", "ood"}, "nothing was compared since"
    shop.jitr.close()
    other = JITR(url(tmp_path), policy=ALL_AUDITED, training="off", seed=2)
    other.refresh()
    recorded = easy_calls(30, seed=99)
    calls = [Call(f"o{i}", tuple((m["role"], m["content"]) for m in c["messages"])) for i, c in enumerate(recorded)]
    decisions = [other.decide(call) for call in calls]
    held = [decision for decision in decisions if decision.reason == "audit_hold"]
    assert len(held) > 20 and all(d.kind == "teacher" and d.answer and d.audit_share == 1 for d in held)
    other.close()


def test_what_a_held_release_would_have_said_counts_against_it(shop: App) -> None:
    shop.call(100, HOUR_S / 2, up=False)
    shop.turned = True
    reasons = shop.call(60, 60)
    store = shop.jitr.open_store()
    (task,) = store.tasks()
    assert task.state != "active" and "rolled back" in store.last_entry("activate", task.id).details["reason"]
    assert reasons[-1] == "no_release" and shop.held() == [True]
    shop.jitr.close()


def test_each_hold_that_a_release_came_out_of_makes_the_next_one_shorter(tmp_path: Path) -> None:
    trained(tmp_path).close()
    with Store(url(tmp_path)) as store:
        (task,) = store.tasks()
        release, events = store.active_release(task.id).id, []
        holds = Holds(store, events.append)
        for enough in (100, 50, 25, 25):
            holds.changed(task.id, release, "answers")
            holds.compared(task.id, release, enough - 1, 0, 0.95)
            holds.compared(task.id, release, enough, enough // 20 + 1, 0.95)
            assert holds.on(task.id, release), "too few, or too few that agreed"
            holds.compared(task.id, release, enough, enough // 20, 0.95)
            assert not holds.on(task.id, release)
            assert str(enough) in events[-2]["reason"] and [e["held"] for e in events[-2:]] == [True, False]


def test_a_release_pinned_despite_audits_is_not_held(shop: App) -> None:
    store = shop.jitr.open_store()
    (task,) = store.tasks()
    store.pin(task.id, store.active_release(task.id).id, despite_audits=True)
    assert "audit_hold" not in shop.call(100, HOUR_S / 2) and not shop.held()
    shop.jitr.close()


def test_the_calls_of_a_hold_are_a_fair_sample_and_no_answers_given(shop: App) -> None:
    shop.call(100, HOUR_S / 2)
    store = shop.jitr.open_store()
    (task,) = store.tasks()
    release = store.active_release(task.id).id
    given = store.given(task.id, release)
    start = store.held_since(task.id, release)
    assert start is not None
    found = store.examples(task.id, after=start)
    assert found and all(example.sampled for example in found)
    seen = [(each.audit_share, True) for each in store.audited(task.id, release)]
    told = estimate(given.answered, [*seen, *((share, None) for share in given.failed)], least=given.least)
    assert told.answered == store.counts(task.id, release).answered and told.failed >= 50
    shop.jitr.close()


def test_what_killed_processes_left_unaudited_holds_a_release_when_it_is_loaded_next(tmp_path: Path) -> None:
    trained(tmp_path).close()
    with Store(url(tmp_path)) as store:
        (task,), (template,) = store.tasks(), store.templates()
        release = store.active_release(task.id).id
        match = Match(task.id, template.id, ("x",))
        decision = Decision("replacement", "answered", match, release, "billing", 0.9, True, 0.1)
        calls = [Call(f"k{i}", (), time=1e9 + i * HOUR_S) for i in range(60)]
        store.add_observations([Observation(call, decision, None, pending=True) for call in calls])
    jitr = JITR(url(tmp_path), policy=ALL_AUDITED, training="off", seed=1)
    jitr.refresh()
    with Store(url(tmp_path)) as store:
        assert store.held_since(task.id, release) is not None
    jitr.close()
