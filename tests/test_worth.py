"""Whether a search pays, and what is left alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from easy import easy_calls, write_log
from test_engine import POLICY, url
from typer.testing import CliRunner

from jitr_core import JITR, Answer, Call, ConfigError, Policy, manage
from jitr_core.audit import audit_share
from jitr_core.cli import app
from jitr_core.store import Store
from jitr_core.types import Decision, Match, Observation
from jitr_core.worth import Worth, calls_per_day, expected_audits, search_s, worth

PRICED = dataclasses.replace(POLICY, price_model="gpt-4.1-nano")


def observed(
    folder: Path,
    policy: Policy,
    *,
    calls: int = 320,
    every_s: float = 60.0,
    replaceable: int = 1,
    since: Callable[[int], float] = lambda i: 1e9,
) -> Store:
    """A state after some calls of a task, one in `replaceable` being one that a student might answer."""
    jitr = JITR(url(folder), policy=policy, training="inline", seed=1)
    for i, recorded in enumerate(easy_calls(calls)):
        messages = tuple((m["role"], m["content"]) for m in recorded["messages"])
        call = Call(
            f"c{i}", messages, time=since(i) + i * every_s, replaceable=i % replaceable == 0, model="gpt-4.1-nano"
        )
        decision = jitr.decide(call)
        answer = Answer(recorded["answer"], "gpt-4.1-nano", 50, 1)
        jitr.observe(call, decision, answer if decision.kind == "teacher" else None)
        if decision.kind == "replacement" and decision.audit:
            jitr.audit(call, decision, lambda answer=answer: answer)
    jitr.close()
    return Store(url(folder))


DAY = 86_400.0


def every(number: int, gap_s: float, start: float = 0.0) -> list[float]:
    return [start + i * gap_s for i in range(number)]


def rate_of(folder: Path, times: list[float]) -> float | None:
    """What is made of calls of one task at these times, in the order of the stream."""
    decision = Decision("teacher", "no_release", Match("t", "T", ("x",)))
    calls = [Call(f"c{i}", (), time=time) for i, time in enumerate(times)]
    with Store(url(folder)) as store:
        store.add_observations([Observation(call, decision, Answer("yes")) for call in calls])
        return calls_per_day(store, "t")


@pytest.mark.parametrize(
    ("times", "low", "high"),
    [
        (every(200, 60.0), 1430, 1450),
        (every(3_000, DAY), 0.99, 1.01),
        ([t for day in range(28) if day % 7 < 5 for t in every(100, 288.0, day * DAY)], 62, 82),  # office hours
        ([t for day in range(6) for t in every(500, 5.0, day * DAY)], 400, 760),  # a batch a night, three of late
        ([t for week in range(5) for t in every(700, 5.0, week * 7 * DAY)], 75, 130),  # a batch a week
        ([DAY * i**0.5 for i in range(2_500)], 75, 100),  # growing: two a day more each day, 100 on the last
        (every(300, DAY / 10) + every(300, DAY / 1_000, 30 * DAY), 900, 1_100),  # a pilot, then production
        (every(150, 0.01), 3_600, 3_601),  # at least an hour
        ([5.0], 24, 24),
    ],
)
def test_calls_a_day_are_those_of_late(tmp_path: Path, times: list[float], low: float, high: float) -> None:
    found = rate_of(tmp_path, [1e9 + time for time in times])
    assert found is not None and low <= found <= high


@pytest.mark.parametrize("wrong", [-1e9 + 1, 3_650 * DAY])
@pytest.mark.parametrize("where", ["first", "last", "each day"])
def test_a_clock_that_jumps_changes_nothing_of_the_calls_a_day(tmp_path: Path, wrong: float, where: str) -> None:
    times = every(1_000, DAY / 100, 1e9)
    for i in range(1_000):
        if {"first": i < 20, "last": i >= 980, "each day": i % 100 < 10}[where]:
            times[i] += wrong
    assert rate_of(tmp_path, times) == pytest.approx(100.0, rel=0.01)


def test_calls_without_a_time_say_nothing_of_the_calls_a_day(tmp_path: Path) -> None:
    assert rate_of(tmp_path, [0.0] * 50) is None


def test_a_clock_at_1970_for_the_first_calls_leaves_no_task_alone(tmp_path: Path) -> None:
    policy = dataclasses.replace(PRICED, horizon_days=7.0, compute_usd_per_hour=5.0)
    with observed(tmp_path, policy, since=lambda i: 60.0 if i < 20 else 1e9) as store:
        (task,) = store.tasks()
        assert task.state == "active"


def test_the_audits_of_a_horizon_are_what_the_share_adds_up_to() -> None:
    policy = Policy()
    for calls in (1_000, 100_000):
        total = 0.0
        for n in range(calls):
            since = n if n < 20_000 else n - 20_000
            total += audit_share(since, policy, answered=50_000 + n, spent=1_200 + total)
        found = expected_audits(calls, policy, answered=50_000, spent=1_200, starts=[20_000] if calls > 20_000 else [])
        assert found == pytest.approx(total, rel=0.02)


def test_a_search_costs_more_with_more_labels_up_to_its_budget() -> None:
    policy = Policy(search_work_s=100)
    assert search_s(200, policy) < search_s(300, policy) < search_s(10_000, policy) == 100


def test_a_search_costs_more_where_an_encoder_may_be_tuned() -> None:
    frozen, tuning = Policy(families=("lexical", "encoder")), Policy()
    assert search_s(300, frozen) == search_s(300, tuning), "too few to tune one"
    assert search_s(1_000, tuning) > 2 * search_s(1_000, frozen)


def test_a_cheap_teacher_that_is_asked_rarely_is_left_alone_and_nothing_of_delta_is_spent(tmp_path: Path) -> None:
    rarely = dataclasses.replace(PRICED, horizon_days=7.0, compute_usd_per_hour=5.0)
    with observed(tmp_path, rarely, every_s=86_400.0) as store:
        (task,) = store.tasks()
        assert task.state == "refused" and task.reason.startswith("left alone: at $5.4e-06 a call")
        assert store.attempts(task.id) == 2 and store.delta_spent(task.id) == 0
        found = worth(store, task.id, rarely)
        assert isinstance(found, Worth) and not found.pays and found.calls_per_day == pytest.approx(1.0, rel=0.01)


def test_a_teacher_cheaper_than_a_student_of_ones_own_is_left_alone_at_any_volume(tmp_path: Path) -> None:
    dear = dataclasses.replace(PRICED, compute_usd_per_hour=50.0, calls_per_day=1e7)
    with observed(tmp_path, dear, calls=210) as store:
        (task,) = store.tasks()
        assert "could save nothing in 90 days" in task.reason


def test_it_is_looked_at_again_as_its_volume_grows(tmp_path: Path) -> None:
    wanted = dataclasses.replace(PRICED, compute_usd_per_hour=5.0, calls_per_day=10.0)
    observed(tmp_path, wanted, calls=250).close()
    more = dataclasses.replace(wanted, calls_per_day=1e6)
    jitr = JITR(url(tmp_path), policy=more, training="off")
    store = jitr.open_store()
    (task,) = store.tasks()
    assert "left alone" in task.reason
    pipeline = manage.pipeline(store, more, url(tmp_path))
    assert worth(store, task.id, more).pays
    list(manage.train(pipeline, task))
    assert store.active_release(task.id) is not None
    jitr.close()


@pytest.mark.parametrize(
    "changed", [{"price_model": None}, {"horizon_days": None}, {"calls_per_day": 1e6}, {"compute_usd_per_hour": 0.0}]
)
def test_what_may_pay_or_is_not_known_is_searched(tmp_path: Path, changed: dict[str, Any]) -> None:
    rarely = dataclasses.replace(PRICED, horizon_days=7.0, compute_usd_per_hour=5.0)
    jitr_policy = dataclasses.replace(rarely, **changed)
    jitr = JITR(url(tmp_path), policy=jitr_policy, training="inline", seed=1)
    for i, recorded in enumerate(easy_calls(250)):
        messages = tuple((m["role"], m["content"]) for m in recorded["messages"])
        call = Call(f"c{i}", messages, time=1e9 + i * 86_400.0, model="our-own")
        jitr.observe(call, jitr.decide(call), Answer(recorded["answer"], "our-own", 50, 1))
    jitr.flush()
    (task,) = jitr.open_store().tasks()
    assert task.state == "active"
    jitr.close()


def test_an_active_release_is_only_searched_again_for_the_calls_it_does_not_answer(tmp_path: Path) -> None:
    policy = dataclasses.replace(PRICED, calls_per_day=1000.0)
    with observed(tmp_path, policy, calls=250) as store:
        (task,) = store.tasks()
        with_it = worth(store, task.id, policy)
        store.activate(task.id, None, "gone")
        assert with_it.saved_usd < worth(store, task.id, policy).saved_usd


def test_the_replay_leaves_alone_by_the_traffic_it_is_told_and_never_by_its_clock(tmp_path: Path) -> None:
    log = write_log(tmp_path / "easy.jsonl", easy_calls(320))
    base = [
        "replay",
        str(log),
        "--families",
        "lexical",
        "--price-model",
        "gpt-4.1-nano",
        "--compute-usd-per-hour",
        "5",
    ]
    found = {}
    for name, options in (("unknown", []), ("rare", ["--calls-per-day", "1"]), ("often", ["--calls-per-day", "1e7"])):
        out = tmp_path / f"{name}.json"
        assert CliRunner().invoke(app, [*base, "--json", str(out), *options]).exit_code == 0
        found[name] = json.loads(out.read_text())
    assert found["unknown"]["replaced"] == found["often"]["replaced"] > 0 == found["rare"]["replaced"]
    assert "left alone" in found["rare"]["tasks"][0]["reason"]


def test_attempts_come_by_calls_that_a_student_might_answer(tmp_path: Path) -> None:
    with observed(tmp_path, POLICY, calls=380, replaceable=2) as store:
        (task,) = store.tasks()
        assert store.attempts(task.id) == 0  # 380 calls, 190 of them replaceable
        assert manage.pipeline(store, POLICY, url(tmp_path)).missing(task) == pytest.approx(10, abs=8)


def test_an_attempt_that_cannot_succeed_is_not_made_and_spends_nothing(tmp_path: Path) -> None:
    observed(tmp_path, POLICY, calls=190).close()
    for now in (1.9e9, 2e9):
        with Store(url(tmp_path), clock=lambda now=now: now) as store:
            (task,) = store.tasks()
            store.expire(1.0)  # most labels are gone: what is left could not certify
    with observed(tmp_path, POLICY, calls=30, every_s=1.0) as store:
        assert store.delta_spent(task.id) == 0 and store.active_release(task.id) is None


@pytest.mark.parametrize("wrong", [{"horizon_days": 0}, {"calls_per_day": -1}, {"compute_usd_per_hour": -0.1}])
def test_settings_out_of_their_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Policy(**wrong)


def test_savings_show_the_break_even_and_what_is_left_alone(tmp_path: Path) -> None:
    observed(tmp_path / "often", dataclasses.replace(PRICED, calls_per_day=1e6)).close()
    rare = dataclasses.replace(PRICED, compute_usd_per_hour=5.0, calls_per_day=1.0)
    observed(tmp_path / "rare", rare).close()
    often = CliRunner().invoke(app, ["savings", "--url", url(tmp_path / "often"), "--compute-usd-per-hour", "0.0001"])
    assert "paid for after" in often.output and "calls" in often.output.split("paid for after")[1]
    assert "left alone: at" in CliRunner().invoke(app, ["savings", "--url", url(tmp_path / "rare")]).output
