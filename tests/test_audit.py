"""The audit share and the monitor of audited answers."""

from __future__ import annotations

import random

import pytest

from jitr_core.audit import AuditMonitor, audit_share
from jitr_core.config import Policy
from jitr_core.worth import expected_audits


def _audits_until_rollback(error_rate: float, audits: int, seed: int, *, good: int = 0) -> int | None:
    rng = random.Random(seed)
    monitor = AuditMonitor(target=0.95, audit_delta=0.05)
    for _ in range(good):
        assert monitor.update(rng.random() >= 0.02) == "keep"
    return next((i for i in range(1, audits + 1) if monitor.update(rng.random() >= error_rate) == "rollback"), None)


@pytest.mark.parametrize(
    ("starts", "warnings"),
    [
        ((), ()),
        ((500_000,), ()),
        ((2_000, 5_000, 10_000, 20_000, 50_000), ()),
        ((10_000, 50_000, 150_000, 400_000, 700_000), (300_000,)),
        (range(1_000, 1_000_000, 1_000), range(50_000, 1_000_000, 50_000)),
    ],
)
def test_a_million_answered_calls_are_audited_at_half_a_percent_at_most_however_often_it_begins_again(starts, warnings):
    assert expected_audits(1_000_000, Policy(), starts=starts, warnings=warnings) <= 4_801


def test_a_longer_life_leaves_more_to_later_releases():
    policy = Policy()
    ten = expected_audits(10_000_000, policy, starts=range(500_000, 10_000_000, 500_000))
    assert 0.002 * 10_000_000 < ten <= 0.0048 * 10_000_000 + 1
    late, early = (audit_share(10_000, policy, answered=n, spent=0.002 * n) for n in (10_000_000, 1_000_000))
    assert late > 5 * early


def test_a_fresh_release_of_an_old_task_is_watched_from_its_start_as_the_first_one_was():
    policy = Policy()
    spent = expected_audits(500_000, policy)
    with_first = expected_audits(1_000, policy)
    assert expected_audits(1_000, policy, answered=500_000, spent=spent) == pytest.approx(with_first, rel=0.02)
    assert expected_audits(5_000, policy, answered=500_000, spent=spent) > 0.7 * expected_audits(5_000, policy)


def test_what_was_spent_beyond_the_allowance_leaves_the_least_share():
    policy = Policy()
    assert audit_share(0, policy, answered=100_000, spent=90_000.0) == policy.audit_share_min


@pytest.mark.parametrize("budget", [0.5, 5.0, 50.0])
def test_at_no_time_are_more_audits_to_be_expected_than_the_budget_for_a_thousand_answers(budget):
    policy, spent, shares = Policy(audit_budget=budget), 0.0, []
    for answered in range(60_000):
        warned = answered >= 40_000
        since = answered % 20_000
        shares.append(audit_share(since, policy, answered=answered, spent=spent, warned=warned))
        spent += shares[-1]
        assert 0 < spent <= budget * (answered + 1) / 1000 + 1e-6
    plain = [audit_share(n % 20_000, Policy()) for n in range(60_000)]
    assert all(share <= other + 1e-9 for share, other in zip(shares[:40_000], plain, strict=False))
    if budget == 50:  # what was saved is spent on what is new
        assert shares[40_000] > 0.08 > shares[0] == 0.05


def test_a_budget_that_was_overdrawn_is_made_up_for_and_leaves_some_audits():
    policy = Policy(audit_budget=10)
    assert audit_share(0, policy, answered=1_000, spent=1_000.0) == 0.005
    assert audit_share(0, policy, answered=1_000, spent=12.0) == pytest.approx(0.008)


def test_the_audit_share_falls_from_its_start_to_its_minimum_and_never_to_zero():
    policy = Policy(audit_share_start=0.2, audit_share_min=0.001)
    shares = [audit_share(answered, policy) for answered in (0, 100, 10_000, 100_000, 10**7, 10**9)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 0.2 and shares[-1] == pytest.approx(0.001, rel=0.01)


def test_the_share_never_exceeds_its_start_even_if_the_minimum_does():
    assert audit_share(10**6, Policy(audit_share_start=0.01, audit_share_min=0.05)) == 0.01


def test_a_release_at_the_very_edge_of_its_promise_is_rarely_rolled_back():
    # bound: (10,000 + 1,000) / 20,000 · 0.05 = 0.0275 within the first 1,000 audits
    alarms = sum(_audits_until_rollback(0.05, 1000, seed) is not None for seed in range(200))
    assert alarms <= 12


def test_a_release_that_was_wrong_from_the_start_is_rolled_back_within_a_few_dozen_audits():
    delays = sorted(_audits_until_rollback(0.25, 2000, seed) or 2000 for seed in range(40))
    assert delays[20] <= 40 and delays[37] <= 120


def test_good_times_are_no_credit_against_bad_ones():
    delays = sorted(_audits_until_rollback(0.25, 2000, seed, good=3000) or 2000 for seed in range(20))
    assert delays[10] <= 80 and delays[18] <= 200


def test_a_rollback_stays_one():
    monitor = AuditMonitor(target=0.9, audit_delta=0.05)
    while monitor.update(False) == "keep":
        pass
    before = monitor.audits, monitor.errors
    assert monitor.update(True) == "rollback"
    assert (monitor.audits, monitor.errors) == before


def test_a_strict_promise_is_watched_for_small_shifts_too():
    rng = random.Random(0)
    monitor = AuditMonitor(target=0.99, audit_delta=0.05)
    assert any(monitor.update(rng.random() >= 0.016) == "rollback" for _ in range(8000))


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="target"):
        AuditMonitor(target=95, audit_delta=0.05)
