"""How fast audits roll back a release that breaks its promise, and how rarely one that keeps it.

    python benchmarks/audits.py [--quick] [--seed 0]

Exit code 1 where the one-sided 95% lower bound of the rate of false rollbacks exceeds `Policy.audit_delta`.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Sequence

from scipy.special import betaincinv

from jitr_core.audit import AuditMonitor, audit_share
from jitr_core.config import Policy

HORIZON = 10_000


def rollback_after(error_rate: float, audits: int, rng: random.Random, policy: Policy, *, good: int = 0) -> int | None:
    """Audits until the rollback, counted after `good` audits at an error rate of 0.02; None if there is none."""
    monitor = AuditMonitor(target=policy.target, audit_delta=policy.audit_delta)
    for i in range(good + audits):
        if monitor.update(rng.random() >= (0.02 if i < good else error_rate)) == "rollback":
            return i + 1 - good
    return None


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
        audits = sum(audit_share(i, policy) for i in range(answered))
        print(f"{answered:,} answered calls: {audits:,.0f} audits, {audits / answered:.4f}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
