"""How fast audits roll back a release that breaks its promise, and how rarely one that keeps it; what they say of it.

    python benchmarks/audits.py [--quick] [--seed 0]

Exit code 1 where the one-sided 95% lower bound of the rate of false rollbacks exceeds `Policy.audit_delta`, where that
of intervals that ever lose the truth exceeds 0.05, where the estimate is biased, or where a task has audited more than
0.5% of a million answered calls, however often it was replaced.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Sequence

import numpy as np
from scipy.special import betaincinv

from jitr_core.audit import AuditMonitor, audit_share
from jitr_core.config import Policy
from jitr_core.estimate import Bets, Estimate, estimate
from jitr_core.worth import expected_audits

HORIZON = 10_000
MILLION = 1_000_000

LIVES: dict[str, tuple[Sequence[int], Sequence[int]]] = {
    "one release": ((), ()),
    "replaced at 500,000": ((500_000,), ()),
    "replaced at 20,000 and 100,000": ((20_000, 100_000), ()),
    "replaced five times early": ((2_000, 5_000, 10_000, 20_000, 50_000), ()),
    "replaced five times, one warning": ((10_000, 50_000, 150_000, 400_000, 700_000), (300_000,)),
    "replaced at every attempt, two warnings": ([int(200 * 1.5**k) for k in range(1, 21)], (300_000, 600_000)),
}
"""Lives of a task: after how many answered calls another release takes over, or a warning of drift comes."""

FULL = "replaced five times, one warning"
GIVEN = 100_000
"""Answers after which the estimate is looked at."""

ERRORS = {
    "steady, 0.03": np.full(GIVEN, 0.03),
    "steady, 0.005": np.full(GIVEN, 0.005),
    "0.01, from 20,000 on 0.08": np.where(np.arange(GIVEN) < 20_000, 0.01, 0.08),
    "0.08, from 20,000 on 0.01": np.where(np.arange(GIVEN) < 20_000, 0.08, 0.01),
    "all of 50 in a row, every 2,000": np.where(np.arange(GIVEN) % 2_000 < 50, 1.0, 0.0),
}
"""Rate of errors at each answer."""


def rollback_after(error_rate: float, audits: int, rng: random.Random, policy: Policy, *, good: int = 0) -> int | None:
    """Audits until the rollback, counted after `good` audits at an error rate of 0.02; None if there is none."""
    monitor = AuditMonitor(target=policy.target, audit_delta=policy.audit_delta)
    for i in range(good + audits):
        if monitor.update(rng.random() >= (0.02 if i < good else error_rate)) == "rollback":
            return i + 1 - good
    return None


def whole_life(starts: Sequence[int], warnings: Sequence[int], rng: random.Random, policy: Policy) -> list[int]:
    """Audits of each release and warning of a task in a million answered calls, a coin tossed for every one."""
    begins = {0: False, **dict.fromkeys(starts, False), **dict.fromkeys(warnings, True)}
    audits: list[int] = []
    since, spent, warned = 0, 0.0, False
    for answered in range(MILLION):
        if answered in begins:
            since, warned = 0, begins[answered]
            audits.append(0)
        share = audit_share(since, policy, answered=answered, spent=spent, warned=warned)
        since, spent = since + 1, spent + share
        audits[-1] += rng.random() < share
    return audits


def lives(seed: int, policy: Policy) -> bool:
    """Print what whole lives take; True where one has audited more than 0.5% of its million answered calls."""
    failed = False
    print("\n| life of a million answered calls | audits | share | expected | … of each release or warning |")
    print("|---|---|---|---|---|")
    for name, (starts, warnings) in LIVES.items():
        audits = whole_life(starts, warnings, random.Random(f"{seed}:{name}"), policy)
        expected = expected_audits(MILLION, policy, starts=starts, warnings=warnings)
        failed |= sum(audits) > 0.005 * MILLION
        each = ", ".join(map(str, audits))
        print(f"| {name} | {sum(audits):,} | {sum(audits) / MILLION:.2%} | {expected:,.0f} | {each} |", flush=True)
    return failed


def fresh(policy: Policy) -> None:
    """Print how many answers a release gives until it has had so many audits, as the first of its task and later."""
    starts, warnings = LIVES[FULL]
    tasks = (
        (0, 0.0),
        (500_000, expected_audits(500_000, policy)),
        (800_000, expected_audits(800_000, policy, starts=starts, warnings=warnings)),
    )
    print("\n| audits | answers until then: first release | second, after 500,000 | seventh, after a warning |")
    print("|---|---|---|---|")
    for wanted in (9, 31, 102, 256, 548):
        cells = []
        for answered, spent in tasks:
            since, total = 0, 0.0
            while total < wanted:
                share = audit_share(since, policy, answered=answered + since, spent=spent + total)
                since, total = since + 1, total + share
            cells.append(f"{since:,}")
        print(f"| {wanted} | {' | '.join(cells)} |")


def told(rates: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> tuple[Estimate, float, float, bool]:
    """What audits say in the end, the true agreement, that of the audits alone, and whether the truth was ever lost."""
    wrong, audited = rng.random(len(rates)) < rates, rng.random(len(rates)) < shares
    bets, errors, lost = Bets(0.05), 0, False
    for i in np.flatnonzero(wrong | audited):
        errors += int(wrong[i])
        if audited[i]:
            bets.audit(shares[i], not wrong[i])
        lost = lost or bets.too_many(errors, shares[i]) or bets.too_few(errors)
    audits = [(float(shares[i]), not wrong[i]) for i in np.flatnonzero(audited)]
    found = estimate(len(rates), audits, least=float(shares[-1]))
    return found, 1 - errors / len(rates), 1 - float(wrong[audited].mean()), lost


def tell(runs: int, seed: int, policy: Policy) -> bool:
    """Print what audits say of all answers; True where that is biased, or intervals lose the truth too often."""
    shares, spent, failed = np.empty(GIVEN), 0.0, False
    for i in range(GIVEN):
        shares[i] = audit_share(i, policy, answered=i, spent=spent)
        spent += shares[i]
    print("\n| errors | agreement | bias of the estimate | … of audits alone | interval: mean | lost the truth |")
    print("|---|---|---|---|---|---|")
    for name, rates in ERRORS.items():
        found = [told(rates, shares, np.random.default_rng([seed, run])) for run in range(runs)]
        off = np.array([each.agreement - true for each, true, _, _ in found])
        alone = np.mean([audits - true for _, true, audits, _ in found])
        lost = sum(each[3] for each in found)
        low = float(betaincinv(lost, runs - lost + 1, 0.05)) if lost else 0.0
        noise = 3.3 * off.std() / runs**0.5
        failed |= low > 0.05 or abs(off.mean()) > max(noise, 1e-4)
        between = f"{np.mean([e.low for e, *_ in found]):.4f} to {np.mean([e.high for e, *_ in found]):.4f}"
        print(
            f"| {name} | {np.mean([true for _, true, _, _ in found]):.4f} | {off.mean():+.4f} ± {noise:.4f} | "
            f"{alone:+.4f} | {between} | {lost} of {runs} |",
            flush=True,
        )
    return failed


def main(argv: Sequence[str] | None = None) -> int:
    """Print both tables and the audit bill; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    policy, rng, failed = Policy(), random.Random(arguments.seed), False
    runs = 40 if arguments.quick else 400
    print(f"| true error rate | rolled back within {HORIZON:,} audits |\n|---|---|")
    for rate in (0.05, 0.04, 0.03, 0.02):
        hits = sum(rollback_after(rate, HORIZON, rng, policy) is not None for _ in range(runs))
        low = float(betaincinv(hits, runs - hits + 1, 0.05)) if hits else 0.0
        failed |= low > policy.audit_delta
        print(f"| {rate} | {hits / runs:.4f} (95% low {low:.4f}) |", flush=True)
    print(
        "\n| error rate | audits until rollback, from the start: median, 95% | after 1,000 good audits |\n|---|---|---|"
    )
    for rate in (0.08, 0.12, 0.2, 0.4):
        cells = []
        for good in (0, 1000):
            delays = sorted(rollback_after(rate, 5000, rng, policy, good=good) or 5000 for _ in range(runs))
            cells.append(f"{statistics.median(delays):.0f}, {delays[int(0.95 * runs)]}")
        print(f"| {rate} | {cells[0]} | {cells[1]} |", flush=True)
    for answered in (1_000, 10_000, 100_000, 1_000_000):
        audits = expected_audits(answered, policy)
        print(f"{answered:,} answered calls: {audits:,.0f} audits, {audits / answered:.4f}")
    failed |= lives(arguments.seed, policy)
    fresh(policy)
    failed |= tell(runs, arguments.seed, policy)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
