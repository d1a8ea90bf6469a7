"""Releases on probation, approved, vetoed, pinned and taken back."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from easy import easy_calls
from test_engine import POLICY, serve, url
from typer.testing import CliRunner

from jitr_core import JITR, Answer, ArtifactError, Call, ConfigError, Policy, manage
from jitr_core.cli import app
from jitr_core.manage import promise_by
from jitr_core.memory import Kept
from jitr_core.report.facts import task_facts
from jitr_core.store import Store
from jitr_core.terms import Terms
from jitr_core.types import SearchReport, Slots, Task

TURNED = {"billing": "delivery", "delivery": "billing"}


class Broken:
    """A student that fails."""

    def predict_one(self, slots: Slots) -> tuple[str, float, bool]:
        raise ArtifactError("broken")


def engine(folder: Path, calls: int = 250, **policy: Any) -> JITR:
    """An engine that has seen enough calls for the first release."""
    wanted = dataclasses.replace(POLICY, **policy)
    jitr = JITR(url(folder), policy=wanted, training="inline", seed=1)
    serve(jitr, easy_calls(calls))
    jitr.flush()
    return jitr


def turned(count: int) -> list[dict[str, Any]]:
    """Calls whose answers are the wrong way round."""
    return [dict(call, answer=TURNED[call["answer"]]) for call in easy_calls(count, seed=9)]


def states(store: Store, task: str) -> list[str | None]:
    return [store.release_state(each.id) for each in store.releases(task)]


def test_a_certified_release_serves_at_once_by_default(tmp_path: Path) -> None:
    jitr = engine(tmp_path)
    (task,) = jitr.open_store().tasks()
    assert task.state == "active" and not jitr.open_store().probations()
    jitr.close()


def test_a_shadow_is_compared_then_a_canary_then_active(tmp_path: Path) -> None:
    jitr = engine(tmp_path, shadow_calls=120, canary_share=0.5, canary_calls=40)
    store, events = jitr.open_store(), []
    jitr._listener = events.append
    (task,) = store.tasks()
    assert task.state == "shadow"
    shadow = serve(jitr, easy_calls(48, seed=3), "a")
    assert set(shadow) == {"shadow"}
    canary = serve(jitr, easy_calls(96, seed=4), "b")
    assert {"shadow", "canary", "answered"} <= set(canary)
    reasons = serve(jitr, easy_calls(200, seed=5), "c")
    assert set(reasons[-50:]) <= {"answered", "deferral"}
    assert store.task(task.id).state == "active" and states(store, task.id) == ["active"]
    told = [
        (e.details["state"], e.details["figures"]) for e in store.ledger(task.id) if e.kind in ("release", "activate")
    ]
    assert [state for state, _ in told][-3:] == ["shadow", "canary", "active"]
    assert [event["state"] for event in events if event["kind"] == "state"] == ["canary", "active"]
    assert told[-2][1] == {"compared": told[-2][1]["compared"], "differed": 0} and told[-2][1]["compared"] >= 120
    assert told[-1][1]["compared"] >= 40
    assert not store.verify() and not jitr.faults
    jitr.close()


def test_labels_of_a_probation_are_a_fair_sample(tmp_path: Path) -> None:
    jitr = engine(tmp_path, canary_share=0.5, canary_calls=1000)
    serve(jitr, easy_calls(200, seed=4), "b")
    jitr.flush()
    store = jitr.open_store()
    (task,) = store.tasks()
    labelled = [o for o in store.observations(task.id) if o.decision.reason == "canary"]
    assert labelled and all(o.decision.release is None and o.answer is not None for o in labelled)
    examples = store.examples(task.id)
    deferred = [o for o in store.observations(task.id) if o.decision.reason == "deferral" and not o.decision.audit]
    assert sum(not example.sampled for example in examples) == len(deferred)
    jitr.close()


def test_bad_comparisons_refuse_a_shadow_and_what_was_learnt_is_void(tmp_path: Path) -> None:
    jitr = engine(tmp_path, shadow_calls=500)
    store = jitr.open_store()
    assert "answered" not in serve(jitr, turned(64), "a")
    jitr.flush()
    (task,) = store.tasks()
    assert task.state == "observing" and "shadow answers differed" in task.reason
    assert states(store, task.id) == ["withdrawn"]
    assert store.last_entry("rollback", task.id) is not None
    assert not store.verify()
    jitr.close()


def test_what_a_shadow_raises_is_a_fault_and_compares_nothing(tmp_path: Path) -> None:
    jitr = engine(tmp_path, shadow_calls=60)
    store = jitr.open_store()
    (task,) = store.tasks()
    (loaded,) = jitr._router.loaded().values()
    student, loaded.student = loaded.student, Broken()
    serve(jitr, easy_calls(80, seed=3), "a")
    jitr.flush()
    assert jitr.faults["shadow"] >= 80 and store.task(task.id).state == "shadow"
    (loaded,) = jitr._router.loaded().values()  # the process serves on
    loaded.student = student
    serve(jitr, easy_calls(80, seed=4), "b")
    jitr.flush()
    assert store.task(task.id).state == "active"
    jitr.close()


def test_a_new_promise_reaches_running_processes_and_ends_a_probation(tmp_path: Path) -> None:
    jitr = engine(tmp_path, approval="manual")
    store = jitr.open_store()
    (task,) = store.tasks()
    manage.compare_by(store, task, "exact")  # certified so
    promise_by(store, task, "answered")
    assert states(store, task.id) == ["shadow"]
    version = store.version()
    promise_by(store, task, "classes")
    assert store.version() > version and store.task(task.id).decided
    assert store.task(task.id).state == "observing" and states(store, task.id) == ["withdrawn"] and not store.verify()
    jitr.close()


@pytest.mark.parametrize("loss", ["terms", "artifact"])
def test_a_probation_that_cannot_be_served_ends(tmp_path: Path, loss: str) -> None:
    jitr = engine(tmp_path, approval="manual")
    (release,) = jitr.open_store().releases(jitr.open_store().tasks()[0].id)
    jitr.close()
    policy = dataclasses.replace(POLICY, approval="manual")
    if loss == "terms":
        policy = dataclasses.replace(policy, promise="classes")
    else:
        shutil.rmtree(release.path)
    with Store(url(tmp_path)) as store:
        assert [release.id in problem for problem in store.verify()] == [True] * (loss == "artifact")
    jitr = JITR(url(tmp_path), policy=policy, training="off", seed=1)
    jitr.refresh()
    store = jitr.open_store()
    assert states(store, release.task) == ["withdrawn"] and store.task(release.task).state == "observing"
    assert not store.probations() and store.last_entry("rollback", release.task) is None
    jitr.close()


def test_a_purge_of_all_calls_does_not_hold_a_probation_up(tmp_path: Path) -> None:
    jitr = engine(tmp_path, shadow_calls=60)
    store = jitr.open_store()
    (task,) = store.tasks()
    manage.purge(store, before=math.inf)
    manage.purge(store, before=math.inf)
    serve(jitr, easy_calls(100, seed=5), "a")
    jitr.flush()
    assert store.task(task.id).state == "active"
    jitr.close()


def test_what_the_user_said_of_a_task_outlives_its_splitting_and_merging(tmp_path: Path) -> None:
    jitr = engine(tmp_path)
    store = jitr.open_store()
    (task,), (template,) = store.tasks(), store.templates()
    store.save_templates([dataclasses.replace(template, id="other", literals=("Else: ", ""))])
    promise_by(store, task, "overall")
    store.warn(task.id, {"release": manage.pin(store, task), "row": 9})
    store.save_task(Task("older", task.app, task.tenant, "older"))
    assert not store.merge_tasks(task.id, "older")  # the miner may not
    new = manage.split(store, task, [template.id])
    terms = Terms(store, POLICY)
    assert terms.promise(task.id) == terms.promise(new.id) == "overall"
    assert store.merge_tasks(new.id, "older", by_hand=True)
    assert terms.promise("older") == "overall" and store.pinned("older") is not None
    assert store.last_entry("warning", "older").details["row"] == 9
    promise_by(store, task, "answered")
    assert store.merge_tasks(task.id, "older", by_hand=True)
    assert terms.promise("older") == "overall" and not store.verify()
    jitr.close()


def test_bad_audits_withdraw_a_canary(tmp_path: Path) -> None:
    jitr = engine(tmp_path, canary_share=1.0, canary_calls=10_000, audit_share_start=1.0)
    store = jitr.open_store()
    serve(jitr, turned(64), "a")
    jitr.flush()
    (task,) = store.tasks()
    assert states(store, task.id) == ["withdrawn"] and task.state == "observing"
    jitr.close()


def test_a_canary_whose_audits_fail_goes_on_as_one(tmp_path: Path) -> None:
    jitr = engine(tmp_path, canary_share=1.0, canary_calls=60)
    store = jitr.open_store()
    (task,) = store.tasks()

    def down() -> Answer:
        raise ConnectionError

    for recorded in easy_calls(80, seed=3):
        call = Call("a" + recorded["id"], tuple((m["role"], m["content"]) for m in recorded["messages"]))
        decision = jitr.decide(call)
        answered = decision.kind == "replacement"
        jitr.observe(call, decision, None if answered else Answer(recorded["answer"], "gpt-4.1"))
        if answered and decision.audit:
            jitr.audit(call, decision, down)
    jitr.flush()
    assert store.counts(task.id).answered >= 60 and store.task(task.id).state == "canary"
    jitr.close()


def test_a_shadow_that_had_to_leave_memory_is_loaded_to_be_compared(tmp_path: Path) -> None:
    jitr = engine(tmp_path, shadow_calls=60, promise="overall")
    store = jitr.open_store()
    (task,) = store.tasks()
    (loaded,) = jitr._router.loaded().values()
    assert isinstance(loaded.student, Kept)
    loaded.student.student = None
    serve(jitr, turned(80), "a")
    jitr.flush()
    assert "shadow answers differed" in store.task(task.id).reason
    jitr.close()


def test_manual_approval_waits_and_tells_what_was_compared(tmp_path: Path) -> None:
    jitr = engine(tmp_path, approval="manual", shadow_calls=30)
    store = jitr.open_store()
    assert "answered" not in serve(jitr, easy_calls(48, seed=3), "a")
    (task,) = store.tasks()
    assert task.state == "shadow" and task.reason.startswith("waits for approval: 0 of")
    again = JITR(url(tmp_path), policy=jitr.policy, training="off", seed=1)
    again.refresh()
    serve(again, easy_calls(16, seed=6), "c")
    again.close()
    serve(jitr, easy_calls(64, seed=7), "d")
    waited = [entry.details["figures"] for entry in store.ledger(task.id) if "waits" in entry.details.get("reason", "")]
    compared = [each["compared"] for each in waited]
    assert 30 <= compared[0] and compared[-1] > 80, "told again, as there is more to approve by"
    assert all(later >= 2 * earlier for earlier, later in itertools.pairwise(compared)), "by one process, and seldom"
    with Store(url(tmp_path)) as other:
        manage.approve(other, task)
    told = store.last_entry("activate", task.id).details
    assert told["figures"] == {"release": told["release"], **waited[-1]}
    jitr.refresh()
    assert "answered" in serve(jitr, easy_calls(20, seed=4), "b")
    with pytest.raises(ConfigError, match="no release on probation"):
        manage.approve(store, task)
    jitr.close()


def test_a_vetoed_release_never_serves_and_the_labels_stay(tmp_path: Path) -> None:
    jitr = engine(tmp_path, approval="manual")
    store = jitr.open_store()
    (task,) = store.tasks()
    release = manage.veto(store, task)
    jitr.refresh()
    assert set(serve(jitr, easy_calls(20, seed=4), "b")) == {"no_release"}
    with pytest.raises(ConfigError, match="withdrawn"):
        manage.pin(store, task, release)
    assert store.last_entry("rollback", task.id) is None and not store.verify()
    jitr.close()


def test_nothing_is_searched_while_a_release_is_on_probation(tmp_path: Path) -> None:
    jitr = engine(tmp_path, calls=420, approval="manual")
    store = jitr.open_store()
    (task,) = store.tasks()
    assert "on probation" in store.searches(task.id)[-1].refusal and task.state == "shadow"
    assert store.delta_spent(task.id) < POLICY.delta / 5  # what is not searched spends nothing
    with pytest.raises(ConfigError, match="on probation"):
        list(manage.train(manage.pipeline(store, POLICY, url(tmp_path)), task))
    jitr.close()


def test_pause_and_resume_leave_a_probation_as_it_was(tmp_path: Path) -> None:
    jitr = engine(tmp_path, approval="manual")
    store = jitr.open_store()
    (task,) = store.tasks()
    manage.pause(store, task)
    jitr.refresh()
    assert set(serve(jitr, easy_calls(20, seed=4), "b")) == {"no_release"}
    manage.resume(store, task)
    manage.ignore(store, task)
    manage.unignore(store, store.task(task.id))
    assert store.task(task.id).state == "shadow"
    jitr.close()


def test_a_pinned_release_stays_until_audits_contradict_it(tmp_path: Path) -> None:
    jitr = engine(tmp_path, audit_share_start=1.0)
    store = jitr.open_store()
    (task,) = store.tasks()
    pinned = manage.pin(store, task)
    serve(jitr, easy_calls(200, seed=3), "a")
    assert "pinned" in store.searches(task.id)[-1].refusal
    assert store.active_release(task.id).id == pinned
    serve(jitr, turned(64), "b")
    jitr.flush()
    assert store.active_release(task.id) is None and store.pinned(task.id) is None
    jitr.close()


def test_a_pin_despite_audits_holds_against_them_until_it_ends(tmp_path: Path) -> None:
    jitr = engine(tmp_path, audit_share_start=1.0)
    store = jitr.open_store()
    (task,) = store.tasks()
    pinned = manage.pin(store, task, despite_audits=True)
    serve(jitr, turned(64), "b")
    jitr.flush()
    assert store.active_release(task.id).id == pinned
    manage.unpin(store, task)
    serve(jitr, turned(80)[64:], "c")
    jitr.flush()
    assert store.active_release(task.id) is None
    jitr.close()


def test_what_is_pinned_is_not_replaced_by_a_release_on_probation(tmp_path: Path) -> None:
    engine(tmp_path).close()
    jitr = JITR(url(tmp_path), policy=dataclasses.replace(POLICY, shadow_calls=20), training="off", seed=1)
    store = jitr.open_store()
    (task,) = store.tasks()
    first = store.active_release(task.id)
    second = dataclasses.replace(first, id="r_second")
    assert store.conclude(SearchReport(task.id, 1), 0.001, second, first.id, path=("shadow", "active"))
    manage.pin(store, task)
    jitr.refresh()
    serve(jitr, easy_calls(400, seed=4), "b")
    jitr.flush()
    assert states(store, task.id) == ["active", "shadow"]
    with pytest.raises(ConfigError, match="pinned"):
        manage.approve(store, task)
    manage.unpin(store, task)
    assert not store.advance(task.id, second.id, "canary", "seen by another process")
    serve(jitr, easy_calls(100, seed=5), "c")
    jitr.flush()
    assert states(store, task.id) == ["retired", "active"]
    jitr.close()


def test_one_goes_back_to_an_earlier_release_and_pins_it(tmp_path: Path) -> None:
    jitr = engine(tmp_path)
    store = jitr.open_store()
    (task,) = store.tasks()
    first = store.active_release(task.id)
    second = dataclasses.replace(first, id="r_second")
    store.add_release(second)
    store.activate(task.id, second.id, "better")
    assert manage.rollback(store, task) == f"release {first.id}"
    assert states(store, task.id) == ["active", "retired"]
    assert manage.pin(store, task, "r_s") == "r_second"
    assert store.active_release(task.id).id == "r_second" and not store.verify()
    jitr.close()


def test_a_split_ends_the_probation_of_what_was_compared_on_both_parts(tmp_path: Path) -> None:
    jitr = engine(tmp_path, approval="manual")
    store = jitr.open_store()
    (task,) = store.tasks()
    (template,) = store.templates()
    other = dataclasses.replace(template, id="other", literals=("Else: ", ""))
    store.save_templates([other])
    manage.split(store, task, [template.id])
    assert {t.state for t in store.tasks()} == {"observing"} and not store.verify()
    jitr.close()


def test_a_split_leaves_the_other_parts_probation_in_its_state(tmp_path: Path) -> None:
    jitr = engine(tmp_path)
    store = jitr.open_store()
    (task,) = store.tasks()
    (template,) = store.templates()
    other = dataclasses.replace(template, id="other", literals=("Else: ", ""))
    store.save_templates([other])
    active = store.active_release(task.id)
    both = dataclasses.replace(active, id="r_both", templates=(template.id, other.id))
    tried = dataclasses.replace(active, id="r_tried", templates=(template.id,))
    store.add_release(both)
    store.activate(task.id, both.id, "test")
    assert store.conclude(SearchReport(task.id, 1), 0.001, tried, both.id, path=("shadow", "active"))
    new = manage.split(store, task, [other.id])
    assert store.task(task.id).state == "shadow" and not store.verify()
    for each, what in ((task, f"task {new.id} is split off"), (new, "this task is split off another one")):
        told = task_facts(store, store.task(each.id))[0]["history"][-1]
        assert (told["what"], told["reason"]) == (what, "split by hand")
        assert told["figures"] == {"releases": {"r_both": "withdrawn"}}, "what did not change is not told"
    jitr.close()


def test_what_is_decided_by_hand_is_kept_with_the_figures_at_hand(tmp_path: Path) -> None:
    jitr = engine(tmp_path, audit_share_start=1.0)
    store = jitr.open_store()
    (task,) = store.tasks()
    first = store.active_release(task.id).id
    serve(jitr, easy_calls(64, seed=3), "a")
    serve(jitr, turned(2), "b")
    jitr.flush()
    (audited,) = [each["replacement"]["audited"] for each in task_facts(store)]
    assert audited["audits"] > 40 and 0.9 < audited["low"] <= audited["agreement"] < 1
    known = {"release": first, **audited}
    manage.pause(store, task)
    manage.resume(store, task)
    manage.ignore(store, task)
    manage.unignore(store, store.task(task.id))
    manage.pin(store, task)
    manage.unpin(store, task)
    promise_by(store, task, "classes")
    (fresh,) = (dataclasses.replace(each, id="r_fresh") for each in store.releases(task.id))
    promise_by(store, task, "answered")
    manage.pin(store, task, first)
    manage.unpin(store, task)
    manage.rollback(store, task)
    told = [e for e in store.ledger(task.id) if "figures" in e.details][1:]  # but the promotion
    kinds = ["state"] * 2 + ["ignore", "unignore", "pin", "pin", "activate", "activate", "pin", "pin", "activate"]
    assert [e.kind for e in told] == kinds and all(e.details["figures"] == known for e in told)
    history = json.loads(json.dumps(task_facts(store, task)[0]["history"]))
    assert [each["figures"] for each in history][1:] == [known] * len(kinds)
    assert store.conclude(SearchReport(task.id, 1), 0.001, fresh, None, path=("shadow", "active"))
    manage.veto(store, task)
    assert store.last_entry("release", task.id).details["figures"] == {"release": "r_fresh", "answered": 0, "audits": 0}
    jitr.close()


def test_the_command_line_takes_the_decisions_and_shows_every_change(tmp_path: Path) -> None:
    engine(tmp_path, approval="manual").close()

    def run(*words: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, [*words, "--url", url(tmp_path)])
        assert done.exit_code == code, (words, done.output, done.exception)
        return done.output

    with Store(url(tmp_path)) as store:
        (task,) = store.tasks()
        (release,) = store.releases(task.id)
    assert "on probation, compared silently" in run("tasks")
    assert f"release {release.id} is approved, and active" in run("approve", task.id)
    run("veto", task.id, code=1)
    assert release.id in run("pin", task.id, release.id[:6])
    shown = run("tasks", "show", task.id)
    assert f"release {release.id}: active, pinned" in shown
    for told in ("is shadow: certified on", "is active: approved by hand", "is pinned"):
        assert told in shown
    facts = json.loads(run("tasks", "show", task.id, "--json"))
    first, *_, last = facts["history"]
    assert first["figures"]["errors"] == 0 and last["what"].endswith("is pinned") and facts["pinned"] == release.id
    assert "no longer pinned" in run("unpin", task.id)
    assert "served by the teacher" in run("rollback", task.id)


@pytest.mark.parametrize("wrong", [{"approval": "maybe"}, {"shadow_calls": -1}, {"canary_share": 0.0}])
def test_settings_out_of_their_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Policy(**wrong)
