"""How many calls until a first release, for a student that agrees equally often at every confidence.

    python benchmarks/power.py [--tasks 200] [--seed 0]       # some seconds

Such a student has nothing to gain from a threshold: the best test there is looks at all calls at once. It is run beside
JITR's on the same calls and the same schedule, at the same delta of each attempt. Quantiles are given with their exact
95% intervals (order statistics).

Exit code 1 where the 95% lower bound of JITR's median is more than one attempt later than the median of that test, or
where a student just below the target is released more often than delta allows (one-sided 95% lower bound).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

import numpy as np
from certificate import lower_bound
from scipy.stats import binom

from jitr_core import Policy
from jitr_core.certify import Refusal, certify, next_attempt

ATTEMPTS = 11
RATES = {0.95: (0.995, 0.99, 0.98, 0.97, 0.96), 0.9: (0.98, 0.95, 0.93)}


def first_release(rate: float, policy: Policy, rng: np.random.Generator) -> tuple[float, float]:
    """Calls at which a task is first released, by JITR's rule and by one test of all calls; infinite if it never is."""
    plan = [next_attempt(i, policy) for i in range(ATTEMPTS)]
    right = rng.random(plan[-1].calls) < rate
    best = first = math.inf
    for calls, delta in plan:
        errors = calls - int(right[:calls].sum())
        if math.isinf(best) and binom.cdf(errors, calls, 1 - policy.target) <= delta:
            best = calls
        if math.isinf(first):
            found = certify(rng.random(calls), right[:calls], target=policy.target, delta=delta)
            first = calls if not isinstance(found, Refusal) else first
    return first, best


def quantile(values: Sequence[float], share: float) -> tuple[float, float, float]:
    """A quantile with its exact 95% interval."""
    ordered, n = sorted(values), len(values)
    low, high = int(binom.ppf(0.025, n, share)), int(binom.ppf(0.975, n, share))
    return ordered[min(int(share * n), n - 1)], ordered[max(low - 1, 0)], ordered[min(high, n - 1)]


def cell(found: tuple[float, float, float]) -> str:
    """A quantile as it is printed."""
    value, low, high = ("never" if math.isinf(each) else f"{each:,.0f}" for each in found)
    return value if low == value == high else f"{value} ({low} to {high})"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=200, help="tasks a row")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    rng, failed = np.random.default_rng(options.seed), False
    columns = "target | agreement | median (95%) | 80% of tasks (95%) | one test of all calls: median"
    print(f"| {columns} |\n|{'---|' * 5}")
    for target, rates in RATES.items():
        policy = Policy(target=target)
        for rate in rates:
            first, best = zip(*(first_release(rate, policy, rng) for _ in range(options.tasks)), strict=True)
            median, least = quantile(first, 0.5), quantile(best, 0.5)[0]
            failed |= median[1] > math.ceil(least * policy.attempt_growth)
            print(f"| {target} | {rate} | {cell(median)} | {cell(quantile(first, 0.8))} | {least:,.0f} |", flush=True)
    for target in RATES:
        policy = Policy(target=target)
        wrong = sum(math.isfinite(first_release(target - 1e-4, policy, rng)[0]) for _ in range(options.tasks))
        low = lower_bound(wrong, options.tasks)
        failed |= low > policy.delta
        print(
            f"target {target}, agreement {target - 1e-4:.4f}: released {wrong} of {options.tasks} (95% low {low:.3f})"
        )
    print("FAILED" if failed else "holds")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
