"""What audits say of all answers given."""

from __future__ import annotations

import random
from statistics import mean

import pytest

from jitr_core.audit import audit_share
from jitr_core.config import Policy
from jitr_core.estimate import Bets, Estimate, estimate

SHARES = [audit_share(answered, Policy()) for answered in range(50_000)]


def _audited(wrong: list[bool], rng: random.Random) -> tuple[list[tuple[float, bool | None]], float]:
    """The audits of answers that were wrong or not, and the least share they were drawn with."""
    audits: list[tuple[float, bool | None]] = [
        (share, not bad) for share, bad in zip(SHARES, wrong, strict=False) if rng.random() < share
    ]
    return audits, SHARES[len(wrong) - 1]


def test_the_estimate_is_unbiased_where_errors_come_when_hardly_any_answer_is_audited() -> None:
    wrong = [i >= 15_000 and i % 4 == 0 for i in range(20_000)]
    found, plain = [], []
    for seed in range(60):
        audits, least = _audited(wrong, random.Random(seed))
        found.append(estimate(len(wrong), audits, least=least).agreement)
        plain.append(mean(float(agreed or 0) for _, agreed in audits))
    assert mean(found) == pytest.approx(1 - 0.0625, abs=0.01)
    assert mean(plain) > 1 - 0.04  # all audits alike would say so


@pytest.mark.parametrize("late", [False, True])
def test_at_no_time_does_the_interval_lose_the_truth_more_often_than_it_may(late: bool) -> None:
    lost = 0
    for seed in range(60):
        rng, bets, errors, left = random.Random(seed), Bets(0.2), 0, False
        for i in range(3_000):
            share = SHARES[i]
            bad = rng.random() < (0.2 if late and i > 2_000 else 0.03)
            errors += bad
            if rng.random() < share:
                bets.audit(share, not bad)
            left |= bad and (bets.too_many(errors, share) or bets.too_few(errors))
        lost += left
    assert lost <= 12  # 0.2 of them may


def test_the_interval_narrows_around_the_truth() -> None:
    widths: dict[int, list[float]] = {1_000: [], 5_000: [], 50_000: []}
    lost = 0
    for seed in range(20):
        rng = random.Random(seed)
        wrong = [rng.random() < 0.03 for _ in range(50_000)]
        for answered, found_before in widths.items():
            audits, least = _audited(wrong[:answered], random.Random(1_000 + seed))
            found = estimate(answered, audits, least=least)
            lost += not found.low <= 1 - sum(wrong[:answered]) / answered <= found.high
            found_before.append(found.high - found.low)
    assert lost <= 3  # one in twenty may
    first, second, last = (mean(each) for each in widths.values())
    assert 0.14 > first > second > last and last < 0.08


def test_where_every_answer_is_audited_nearly_everything_is_known() -> None:
    found = estimate(400, [(1.0, i >= 8) for i in range(400)], least=1.0)
    assert found == Estimate(400, 400, 0, 0.98, 0.98, 0.98)


def test_a_failed_audit_counts_for_neither_side() -> None:
    audits: list[tuple[float, bool | None]] = [(0.1, i >= 4) for i in range(100)]
    whole = estimate(1_100, audits, least=0.1)
    found = estimate(1_100, [*audits, *[(0.1, None)] * 10], least=0.1)
    assert (found.audits, found.failed) == (100, 10)
    assert found.agreement == pytest.approx(0.96) and whole.agreement > 0.96
    assert found.low < whole.low and found.high == whole.high


def test_without_any_audit_everything_is_possible() -> None:
    found = estimate(50, [], least=0.1)
    assert (found.low, found.high) == (0.0, 1.0)
