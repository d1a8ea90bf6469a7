"""The audit share and the monitor of audited answers."""

from __future__ import annotations

import random

import pytest

from jitr_core.audit import AuditMonitor, audit_share
from jitr_core.config import Policy


def _audits_until_rollback(error_rate: float, audits: int, seed: int, *, good: int = 0) -> int | None:
    rng = random.Random(seed)
    monitor = AuditMonitor(target=0.95, audit_delta=0.05)
    for _ in range(good):
        assert monitor.update(rng.random() >= 0.02) == "keep"
    return next((i for i in range(1, audits + 1) if monitor.update(rng.random() >= error_rate) == "rollback"), None)


def test_a_million_answered_calls_are_audited_at_half_a_percent_at_most():
    policy = Policy()
    expected = sum(1000 * audit_share(answered, policy) for answered in range(0, 1_000_000, 1000))
    assert expected <= 0.005 * 1_000_000


def test_the_audit_share_falls_from_its_start_to_its_minimum_and_never_to_zero():
    policy = Policy(audit_share_start=0.2, audit_share_min=0.001)
    shares = [audit_share(answered, policy) for answered in (0, 100, 10_000, 100_000, 10**7, 10**9)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 0.2 and shares[-1] == 0.001


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
