"""How many calls until a first release, for a student that agrees equally often at every confidence.

python benchmarks/power.py       # some seconds; 200 tasks a row, seed 0
"""

from __future__ import annotations

import numpy as np

from jitr_core import Policy
from jitr_core.certify import Refusal, certify, next_attempt

TASKS, ATTEMPTS = 200, 11
RATES = {0.95: (0.995, 0.99, 0.98, 0.97, 0.96), 0.9: (0.98, 0.95, 0.93)}


def first_release(rate: float, policy: Policy, rng: np.random.Generator) -> float:
    """Calls at which a task is first released; infinite if it is not within the attempts."""
    plan = [next_attempt(i, policy) for i in range(ATTEMPTS)]
    right = rng.random(plan[-1].calls) < rate
    for calls, delta in plan:
        found = certify(rng.random(calls), right[:calls], target=policy.target, delta=delta)
        if not isinstance(found, Refusal):
            return calls
    return float("inf")


def main() -> None:
    rng = np.random.default_rng(0)
    print("| target | agreement | median | 80% of tasks |\n|---|---|---|---|")
    for target, rates in RATES.items():
        policy = Policy(target=target)
        for rate in rates:
            first = sorted(first_release(rate, policy, rng) for _ in range(TASKS))
            print(f"| {target} | {rate} | {first[TASKS // 2]:,.0f} | {first[int(0.8 * TASKS)]:,.0f} |")


if __name__ == "__main__":
    main()
