"""What a shadow or a canary costs, and what it saves where a certified release turns out to be bad.

    python benchmarks/probation.py                          # bad releases by simulation: half a minute
    python benchmarks/probation.py --logs a.jsonl b.jsonl   # replays: what each way costs in coverage

A bad release errs on a share of its answers that the certificate did not see coming, from its first answer on: what it
was certified on was no sample of the calls that came. It answers every call it is asked about. Medians and shares are
given with their exact 95% intervals.

Exit code 1 where a release that keeps its promise is withdrawn more often than `Policy.audit_delta` allows (one-sided
95% lower bound), where one that errs on a fifth or more of its answers surely goes in fewer than 0.95 of the runs,
where a probation does not surely give away fewer of its wrong answers than none, or one that begins with a shadow any
in the median; of replays, where the answers of a way surely agree less often than was promised.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from power import quantile
from scipy.special import betaincinv

from jitr_core.audit import AuditMonitor, audit_share
from jitr_core.config import Policy
from jitr_core.equivalence import equivalent
from jitr_langchain.replay import replay

WAYS: dict[str, dict[str, Any]] = {
    "at once": {},
    "shadow of 50": {"shadow_calls": 50},
    "shadow of 200": {"shadow_calls": 200},
    "canary of 100 at 0.1": {"canary_calls": 100, "canary_share": 0.1},
    "canary of 100 at 0.5": {"canary_calls": 100, "canary_share": 0.5},
    "shadow of 50, canary of 50 at 0.5": {"shadow_calls": 50, "canary_calls": 50, "canary_share": 0.5},
}
RATES, CALLS, RUNS = (0.03, 0.08, 0.12, 0.2, 0.4), 10_000, 200


def bad_release(rate: float, policy: Policy, rng: random.Random) -> tuple[int, int, bool]:
    """Wrong answers that reached the app, calls until the withdrawal, and whether it came within `CALLS`."""
    shadow = AuditMonitor(target=policy.target, audit_delta=policy.audit_delta)
    audits = AuditMonitor(target=policy.target, audit_delta=policy.audit_delta)
    answered, wrong, spent = 0, 0, 0.0
    for call in range(CALLS):
        errs = rng.random() < rate
        if shadow.audits < policy.shadow_calls:
            if shadow.update(not errs) == "rollback":
                return wrong, call, True
            continue
        canary = answered < policy.canary_calls
        if canary and rng.random() >= policy.canary_share:
            continue
        share = 1.0 if canary else audit_share(answered, policy, answered=answered, spent=spent)
        answered, wrong, spent = answered + 1, wrong + errs, spent + share
        if rng.random() < share and audits.update(not errs) == "rollback":
            return wrong, call, True
    return wrong, CALLS, False


def interval(hits: int, n: int, level: float = 0.05) -> tuple[float, float]:
    """Exact two-sided interval of a rate (Clopper and Pearson 1934)."""
    low = betaincinv(hits, n - hits + 1, level / 2) if hits else 0.0
    return float(low), float(betaincinv(hits + 1, n - hits, 1 - level / 2)) if hits < n else 1.0


def simulate(seed: int) -> bool:
    """Print a table of bad releases; True where it contradicts what is said of them."""
    failed, at_once = False, {}
    print(f"| way | {' | '.join(f'{rate:g}' for rate in RATES)} |\n|---|{'---|' * len(RATES)}")
    for name, settings in WAYS.items():
        cells, policy = [], Policy(**settings)
        for rate in RATES:
            rng = random.Random(f"{seed}:{name}:{rate}")
            runs = [bad_release(rate, policy, rng) for _ in range(RUNS)]
            gone = sum(run[2] for run in runs)
            wrong, least, most = quantile([run[0] for run in runs], 0.5)
            low, high = interval(gone, RUNS, 0.1)  # its ends are one-sided 95% bounds
            if rate <= 1 - policy.target:
                failed |= low > policy.audit_delta
            elif rate >= 0.2:
                failed |= high < 0.95 or (name != "at once" and most >= at_once[rate])
                failed |= bool(policy.shadow_calls) and wrong > 0
            if name == "at once":
                at_once[rate] = least
            low, high = interval(gone, RUNS)
            cells.append(f"{wrong:,.0f} ({least:,.0f} to {most:,.0f}), {gone / RUNS:.3f} ({low:.3f} to {high:.3f})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return failed


def replays(logs: list[Path], seeds: int, families: tuple[str, ...]) -> bool:
    """Print a table of what each way costs in coverage; True where one breaks the promise."""
    failed = False
    print("| log | way | coverage | agreement (95%) | releases | refused or withdrawn |\n|---|---|---|---|---|---|")
    for log in logs:
        for name, settings in WAYS.items():
            policy = Policy(families=families, **settings)
            total = replaced = agreed = released = refused = 0
            for seed in range(seeds):
                events: list[dict[str, Any]] = []
                for _, each in replay([log], policy=policy, seed=seed, shuffle=True, tell=events.append):
                    total += 1
                    if each.decision is not None and each.decision.kind == "replacement":
                        replaced += 1
                        agreed += equivalent(each.answer, each.record.said)
                found = [event["report"] for event in events if event["kind"] == "search"]
                released += sum(report.certificate is not None and not report.refusal for report in found)
                refused += sum(event["kind"] == "rollback" for event in events)
            low, high = interval(agreed, replaced)
            failed |= interval(agreed, replaced, 0.1)[1] < policy.target
            agreement = f"{agreed / replaced:.3f} ({low:.3f} to {high:.3f})" if replaced else "–"
            print(
                f"| {log.name} | {name} | {replaced / total:.3f} | {agreement} | {released} | {refused} |", flush=True
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--families", default="lexical,static")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.logs:
        failed = replays(options.logs, options.seeds, tuple(options.families.split(",")))
    else:
        print(f"Wrong answers given by the withdrawal (median), share withdrawn within {CALLS:,} calls, by error rate:")
        failed = simulate(options.seed)
    print("FAILED" if failed else "holds")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
