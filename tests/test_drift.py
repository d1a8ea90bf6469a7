"""Changes that show without audits: when they are noticed, when not, and what follows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from easy import easy_calls
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import POLICY, serve, url
from test_holds import warn

from jitr_core import JITR, Answer, Call
from jitr_core.audit import audit_share
from jitr_core.drift import BLOCK, ChangeDetector, Signals, signals
from jitr_core.holds import COMPARED, Holds
from jitr_core.store import Handled

FLIPPED = {"billing": "delivery", "delivery": "billing"}


def blocks(rng: np.random.Generator, shares: list[float], count: int) -> list[Counter[str]]:
    draws = rng.multinomial(BLOCK, shares, size=count)
    return [Counter({str(k): int(n) for k, n in enumerate(row) if n}) for row in draws]


def test_while_nothing_changes_there_is_hardly_ever_an_alarm() -> None:
    rng = np.random.default_rng(0)
    alarms = 0
    for shares in ([0.5, 0.5], [0.9, 0.08, 0.02], [0.999, 0.001], [1 / 12] * 12):
        for _ in range(25):
            detector = ChangeDetector()
            alarms += any(detector.add(block) for block in blocks(rng, shares, 200))
    assert alarms <= 1  # in a million calls


def test_a_change_is_noticed_and_both_sides_of_it_are_told() -> None:
    rng = np.random.default_rng(1)
    detector = ChangeDetector()
    assert not any(detector.add(block) for block in blocks(rng, [0.7, 0.3], 400))
    late = [detector.add(block) for block in blocks(rng, [0.4, 0.6], 8)]
    assert any(late)
    assert detector.before["0"] / detector.before.total() > 0.65
    assert detector.since["0"] / detector.since.total() < 0.5


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), st.integers(0, BLOCK), min_size=1), st.integers(1, 100))
def test_calls_that_are_always_the_same_are_no_change_and_memory_is_bounded(counts, repeats) -> None:
    detector = ChangeDetector()
    assert not any(detector.add(counts) for _ in range(repeats))
    assert len(detector._blocks) <= 5 * (1 + np.log2(repeats + 1))
    total = sum((block for _, block in detector._blocks), Counter())
    assert total == Counter({k: n * repeats for k, n in counts.items() if n}), "nothing is lost where blocks are merged"


def test_deferred_calls_tell_whether_the_teacher_agrees_and_answered_ones_what_was_answered() -> None:
    def same(one: str, other: str) -> bool:
        return one == other

    call = Handled(1, "deferral", "gpt", "a", "b")
    assert dict(signals(call, same))["agreement where it defers"] == "differs"
    assert dict(signals(replace(call, teacher="a"), same))["agreement where it defers"] == "same"
    assert "agreement where it defers" not in dict(signals(replace(call, replacement=None), same))
    assert dict(signals(replace(call, reason="answered"), same))["the mix of its answers"] == "a"
    assert dict(signals(call, same))["who answers"] == "deferral" and dict(signals(call, same))["model"] == "gpt"


def share_of_calls(count: int, coverage: float, audited: float, rng: random.Random, row: int = 0) -> Iterator[Handled]:
    """Calls of which a share is answered, and of these a share audited; the others are left to the teacher."""
    for n in range(row, row + count):
        answers = rng.random() < coverage
        teacher = None if answers and rng.random() >= audited else "a"
        yield Handled(n, "answered" if answers else "deferral", "gpt", "a", teacher)


@pytest.mark.parametrize("coverage", [0.3, 0.7, 0.9, 0.98])
@pytest.mark.parametrize("audited", [0.0, 0.1])
def test_an_outage_of_the_teacher_is_no_change_of_who_answers(coverage: float, audited: float) -> None:
    for start in (3_000, 3_013, 3_025, 3_041):  # anywhere in a block of calls that is looked at
        rng, seen = random.Random(start), Signals(0)
        up = list(share_of_calls(start, coverage, audited, rng))
        down = list(share_of_calls(220, 1.0, 0.0, rng, start))  # what is left to the teacher fails, and is not told of
        again = list(share_of_calls(3_000, coverage, audited, rng, start + 220))
        assert not any(seen.update(call, str.__eq__) for call in (*up, *down, *again))


@pytest.mark.parametrize(("later", "audited"), [(0.4, 0.0), (0.97, 0.002), (1.0, 0.1)])
def test_a_change_of_who_answers_is_one_while_the_teacher_is_heard(later: float, audited: float) -> None:
    rng, seen = random.Random(0), Signals(0)
    assert not any(seen.update(call, str.__eq__) for call in share_of_calls(3_000, 0.7, audited, rng))
    changed = [
        found for call in share_of_calls(1_500, later, audited, rng, 3_000) if (found := seen.update(call, str.__eq__))
    ]
    assert changed and changed[0][0] == "who answers"


def test_after_a_warning_more_is_audited_and_then_less_again() -> None:
    shares = [audit_share(answered, POLICY, warned=True) for answered in (0, 1_000, 10_000, 10**6)]
    assert shares[0] == 0.5 and shares == sorted(shares, reverse=True) and shares[-1] < 0.0025
    assert (
        audit_share(0, POLICY) == 0.1 and audit_share(0, replace(POLICY, audit_share_warned=0.01), warned=True) == 0.1
    )


def run(folder: Path, later: list[dict], policy=POLICY) -> tuple[JITR, list[dict]]:
    """A replaced step that was long stable, and then other calls."""
    events: list[dict] = []
    jitr = JITR(url(folder), policy=policy, training="off", seed=1, listener=events.append)
    for i in range(0, len(later), BLOCK):
        serve(jitr, later[i : i + BLOCK], f"n{i}")
        jitr.flush()
    return jitr, events


def trained(folder: Path) -> None:
    jitr = JITR(url(folder), policy=POLICY, training="inline", seed=1)
    serve(jitr, easy_calls(250))
    jitr.flush()
    jitr.close()


def test_a_shifted_mix_of_labels_is_warned_of_once_told_and_audited_and_the_release_stays(tmp_path: Path) -> None:
    trained(tmp_path)
    mixed = easy_calls(2_000, seed=3)
    shifted = [call for call in easy_calls(2_000, seed=4) if call["answer"] == "billing"]
    jitr, events = run(tmp_path, mixed + shifted[:400])
    warnings = [event for event in events if event["kind"] == "warning"]
    assert [event["signal"] for event in warnings] == ["the mix of its answers"]
    store = jitr.open_store()
    (task,) = store.tasks()
    assert task.state == "active"
    entry = store.last_entry("warning", task.id)
    assert "billing" not in str(entry.details), "answers are texts that may have to be forgotten"
    decisions = [event["decision"] for event in events if event["kind"] == "decision"]
    assert decisions[1_900].audit_share < decisions[-1].audit_share == 0.5
    reasons = [decision.reason for decision in decisions]
    assert reasons[:2_000].count("audit_hold") == 0 and COMPARED <= reasons.count("audit_hold") <= COMPARED + BLOCK
    assert reasons[-1] == "answered", "what it would have answered was compared, and agreed"
    assert [event["held"] for event in events if event["kind"] == "hold"] == [True, False]
    jitr.close()
    # A new process goes on where this one was: warned, and not again of the same.
    jitr, events = run(tmp_path, shifted[400:700])
    assert not [event for event in events if event["kind"] == "warning"]
    shares = [e["decision"].audit_share for e in events if e["kind"] == "decision"]
    assert shares[-1] > 2 * decisions[1_900].audit_share, "it begins to fall again"
    assert not jitr.faults
    jitr.close()


@pytest.mark.parametrize("turned", [False, True])
def test_another_model_behind_the_same_step_is_compared_before_the_release_goes_on(
    tmp_path: Path, turned: bool
) -> None:
    events: list[dict] = []
    jitr = JITR(url(tmp_path), policy=POLICY, training="inline", seed=1, listener=events.append)
    for i, recorded in enumerate(easy_calls(2_500, seed=3)):
        messages = tuple((m["role"], m["content"]) for m in recorded["messages"])
        call = Call(f"m{i}", messages, model="gpt-4.1" if i < 1_200 else "gpt-5")
        decision = jitr.decide(call)
        said = FLIPPED[recorded["answer"]] if turned and i >= 1_200 else recorded["answer"]
        answer = Answer(said, f"{call.model}-2025")  # as the provider names it, where it is asked
        jitr.observe(call, decision, None if decision.kind == "replacement" else answer)
        if decision.kind == "replacement" and decision.audit:
            jitr.audit(call, decision, lambda answer=answer: answer)
        if i % BLOCK == BLOCK - 1:
            jitr.flush()
    warned = [event for event in events if event["kind"] == "warning"]
    assert [event["signal"] for event in warned] == ["model"] and max(warned[0]["since"]) == "gpt-5-2025"
    held = [event["held"] for event in events if event["kind"] == "hold"]
    assert held == ([True] if turned else [True, False])
    assert ("rollback" in [event["kind"] for event in events]) == turned
    jitr.close()


def test_a_release_that_replaces_a_held_one_is_held_as_well_but_not_after_a_rollback(tmp_path: Path) -> None:
    jitr = JITR(url(tmp_path), policy=POLICY, training="inline", seed=1)
    serve(jitr, easy_calls(250))
    jitr.flush()
    store = jitr.open_store()
    (task,) = store.tasks()
    first = store.active_release(task.id)
    holds = Holds(store, lambda event: None)
    warn(store, holds, task.id, first.id)
    store.add_release(replace(first, id="r_second"))
    store.activate(task.id, "r_second", "better")
    jitr.refresh()
    assert store.held_since(task.id, "r_second") is not None and "audit_hold" in serve(jitr, easy_calls(5, seed=7), "x")
    store.withdraw(task.id, "r_second", "it differs too often")
    holds.inherit(task.id, "r_later")
    assert store.held_since(task.id, "r_later") is None
    jitr.close()


def test_a_release_pinned_despite_audits_goes_on_after_a_warning(tmp_path: Path) -> None:
    trained(tmp_path)
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    store = jitr.open_store()
    (task,) = store.tasks()
    release = store.active_release(task.id).id
    for despite in (True, False):
        store.pin(task.id, release, despite_audits=despite)
        assert (Holds(store, lambda event: None).change(task.id, release, "answers") is None) == despite
    jitr.close()


def test_two_processes_warn_once(tmp_path: Path) -> None:
    trained(tmp_path)
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    store = jitr.open_store()
    (task,) = store.tasks()
    release = store.active_release(task.id).id
    details = {"release": release, "row": 300, "signal": "answers", "calls": 100}
    version = store.version()
    assert store.warn(task.id, details) and store.version() > version
    assert not store.warn(task.id, {**details, "row": 310}), "another process has warned of the same change"
    assert store.warn(task.id, {**details, "row": 900}, since=300)
    jitr.close()
