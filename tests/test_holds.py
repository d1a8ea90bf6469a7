"""A release whose audits do not come back any more does not answer unwatched for ever."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from easy import easy_calls
from test_engine import POLICY, serve, trained, url
from test_outages import ALL_AUDITED
from typer.testing import CliRunner

from jitr_core import JITR, Answer, Call
from jitr_core.audit import Watch
from jitr_core.base_models import BaseModels
from jitr_core.cli import app
from jitr_core.estimate import estimate
from jitr_core.holds import Holds
from jitr_core.pipeline import Pipeline
from jitr_core.route import Router
from jitr_core.serving import Serving
from jitr_core.store import Store
from jitr_core.types import Decision, Match, Observation, SearchReport, Task

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
    assert "held: none of" in shown.output and "is held" in shown.output and "so far)" in shown.output
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


def warn(store: Store, holds: Holds, task: str, release: str) -> None:
    """A warning of drift, as it holds a release."""
    last = store.last_entry("warning", task)
    row = (last.details["row"] if last else 0) + 1
    details = {"release": release, "row": row, "signal": "answers", "calls": 100}
    assert store.warn(task, details, since=row - 1, hold=holds.change(task, release, "answers"))


def held_back(store: Store, task: str, release: str, pairs: list[tuple[str, str]], start: int = 0) -> list[Decision]:
    """Calls of a held release: what it would have said, and what the teacher did."""
    (template,) = store.templates()
    found = []
    for i, (given, said) in enumerate(pairs, start):
        match = Match(task, template.id, (f"text {i}",))
        decision = Decision("teacher", "audit_hold", match, release, given, 0.9, True, 1.0)
        found.append(Observation(Call(f"h{i}", (), time=time.time()), decision, Answer(said, "gpt-4.1")))
    store.add_observations(found)
    return [each.decision for each in found]


def serving(store: Store, folder: Path) -> Serving:
    """What tends the releases of a process, with a state's active release at work."""
    pipeline = Pipeline(store, POLICY, folder / "artifacts", BaseModels(folder / "cache"))
    made = Serving(store, POLICY, Router(time.perf_counter), pipeline, lambda event: None, lambda where, error: None, 1)
    made.refresh(store.tasks(), store.templates(), frozenset())
    return made


AGREE, DIFFER = ("billing", "billing"), ("billing", "delivery")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Store]:
    """A state with a replaced step."""
    trained(tmp_path).close()
    with Store(url(tmp_path)) as store:
        yield store


def test_a_burst_of_errors_in_a_hold_is_made_up_for(state: Store, tmp_path: Path) -> None:
    (task,) = state.tasks()
    release = state.active_release(task.id).id
    held_back(state, task.id, release, [AGREE] * 300)
    tending = serving(state, tmp_path)
    warn(state, Holds(state, lambda event: None), task.id, release)
    for start, pairs in ((1_000, [DIFFER] * 3), (2_000, [AGREE] * 50)):
        tending.audit((each, True) for each in held_back(state, task.id, release, pairs, start))
        assert state.held_since(task.id, release) is not None
    tending.audit((each, True) for each in held_back(state, task.id, release, [AGREE] * 60, 3_000))
    assert state.held_since(task.id, release) is None, "3 of 113 differed"
    assert state.holds(task.id, release)[-1]["figures"] == {"compared": 113, "differed": 3}


def test_comparisons_count_though_their_texts_have_expired(state: Store, tmp_path: Path) -> None:
    (task,) = state.tasks()
    release = state.active_release(task.id).id
    tending = serving(state, tmp_path)
    warn(state, Holds(state, lambda event: None), task.id, release)
    tending.audit((each, True) for each in held_back(state, task.id, release, [AGREE] * 90))
    later = time.time() + 40 * 86_400
    state._database.clock = lambda: later
    state.expire(30)
    later += 86_400
    state.expire(30)
    assert not state.audited(task.id, release, held=True)
    tending.audit((each, True) for each in held_back(state, task.id, release, [AGREE] * 10, 1_000))
    assert state.held_since(task.id, release) is None


def test_the_costs_of_a_promise_say_whether_a_hold_ends(state: Store) -> None:
    (task,) = state.tasks()
    release = state.active_release(task.id)
    free = replace(release.certificate, promise='cost:{"delivery": {"billing": 0}}')
    watch = Watch(free, str.__eq__, target=0.95, audit_delta=0.05)
    costs = [watch.cost(given, said) for given, said in [AGREE] * 80 + [DIFFER] * 20]
    holds = Holds(state, lambda event: None)
    warn(state, holds, task.id, release.id)
    holds.compared(task.id, release.id, 100, [1.0 if cost else 0.0 for cost in [0] * 80 + [1] * 20], 0.05)
    assert holds.on(task.id, release.id)
    holds.compared(task.id, release.id, 100, costs, 0.05)
    assert not holds.on(task.id, release.id)


def test_refreshes_while_a_release_is_held_wake_nobody(state: Store, tmp_path: Path) -> None:
    (task,) = state.tasks()
    warn(state, Holds(state, lambda event: None), task.id, state.active_release(task.id).id)
    jitr = JITR(url(tmp_path), policy=POLICY, training="off", seed=1)
    jitr.refresh()
    before = state.version()
    for _ in range(3):
        jitr.refresh()
    assert state.version() == before
    jitr.close()


def test_a_release_is_not_held_while_audits_fail_but_for_lack_of_them(state: Store, tmp_path: Path) -> None:
    (task,) = state.tasks()
    release = state.active_release(task.id).id
    jitr = JITR(url(tmp_path), policy=ALL_AUDITED, training="off", seed=1)
    jitr.refresh()
    calls = [
        Call(f"f{i}", tuple((m["role"], m["content"]) for m in each["messages"]))
        for i, each in enumerate(easy_calls(40, seed=6))
    ]
    answered = next((call, found) for call in calls if (found := jitr.decide(call)).kind == "replacement")

    def refused() -> Answer:
        raise ConnectionError("down")

    jitr.audit(*answered, refused)
    deadline = time.monotonic() + 10
    while not jitr._audits.failing and time.monotonic() < deadline:
        time.sleep(0.01)
    warn(state, Holds(state, lambda event: None), task.id, release)
    jitr.refresh()
    assert {jitr.decide(call).reason for call in calls} <= {"answered", "deferral", "ood"}
    jitr._audits.give_up()
    assert "audit_hold" in {jitr.decide(call).reason for call in calls}
    state.hold(task.id, release, False, "compared", {})
    state.hold(task.id, release, True, "none of 50 audits came back", {"missed": 50, "hours": 30})
    jitr.audit(*answered, refused)
    while not jitr._audits.failing and time.monotonic() < deadline:
        time.sleep(0.01)
    jitr.refresh()
    assert "answered" not in {jitr.decide(call).reason for call in calls}
    jitr.close()


def test_a_merge_hands_a_hold_on(state: Store) -> None:
    (task,) = state.tasks()
    release = state.active_release(task.id).id
    state.save_task(Task("t_other", task.app, task.tenant, "other"))
    warn(state, Holds(state, lambda event: None), task.id, release)
    assert state.merge_tasks(task.id, "t_other", by_hand=True)
    assert state.active_release("t_other").id == release and state.held_since("t_other", release) is not None


def test_holds_of_a_canary_and_of_the_active_release_are_two(state: Store, tmp_path: Path) -> None:
    (task,) = state.tasks()
    first = state.active_release(task.id)
    path = shutil.copytree(first.path, Path(first.path).parent / "r_second")
    second = replace(first, id="r_second", path=str(path))
    assert state.conclude(SearchReport(task.id, 1), 0.001, second, first.id, path=("canary", "active"))
    holds = Holds(state, lambda event: None)
    warn(state, holds, task.id, first.id)
    policy = replace(POLICY, canary_share=0.5, canary_calls=40)
    jitr = JITR(url(tmp_path), policy=policy, training="off", seed=1)
    jitr.refresh()
    assert set(serve(jitr, easy_calls(40, seed=5), "z")) == {"audit_hold"}, "nor does a canary answer meanwhile"
    jitr.close()
    state.hold(task.id, "r_second", True, "its audits do not come back", {})
    holds.inherit(task.id, first.id)
    assert holds.on(task.id, first.id) and len(state.holds(task.id, first.id)) == 1
    holds.compared(task.id, first.id, 100, [0.0] * 100, 0.05)
    holds.inherit(task.id, first.id)
    assert not holds.on(task.id, first.id) and holds.on(task.id, "r_second")


def test_each_hold_that_a_release_came_out_of_makes_the_next_one_shorter(tmp_path: Path) -> None:
    trained(tmp_path).close()
    with Store(url(tmp_path)) as store:
        (task,) = store.tasks()
        release, events = store.active_release(task.id).id, []
        holds = Holds(store, events.append)
        for enough in (100, 50, 25, 25):
            warn(store, holds, task.id, release)
            differ = [1.0] * (enough // 20)
            for number, costs in ((enough - 1, [0.0] * (enough - 1)), (enough, [0.0] * (enough - len(differ) - 1))):
                holds.compared(task.id, release, number, [*costs, 1.0, *differ] if number == enough else costs, 0.05)
            assert holds.on(task.id, release), "too few, or too few that agreed"
            holds.compared(task.id, release, enough, [0.0] * (enough - len(differ)) + differ, 0.05)
            assert not holds.on(task.id, release) and events[-1]["held"] is False
            assert str(enough) in store.holds(task.id, release)[-2]["reason"]


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
