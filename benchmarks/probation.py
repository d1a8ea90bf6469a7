"""What a shadow or a canary costs, and what it saves where a certified release turns out to be bad.

    python benchmarks/probation.py                          # bad releases by simulation: half a minute
    python benchmarks/probation.py --logs a.jsonl b.jsonl   # replays: what each way costs in coverage

A bad release errs on a share of its answers that the certificate did not see coming, from its first answer on: what it
was certified on was no sample of the calls that came. It answers every call it is asked about.
"""

from __future__ import annotations

import argparse
import random
import statistics
from pathlib import Path
from typing import Any

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


def simulate(seed: int) -> None:
    """Print a table of bad releases."""
    print(f"| way | {' | '.join(f'{rate:g}' for rate in RATES)} |\n|---|{'---|' * len(RATES)}")
    for name, settings in WAYS.items():
        cells = []
        for rate in RATES:
            rng = random.Random(f"{seed}:{name}:{rate}")
            runs = [bad_release(rate, Policy(**settings), rng) for _ in range(RUNS)]
            gone = sum(run[2] for run in runs) / RUNS
            cells.append(f"{statistics.median(run[0] for run in runs):,.0f}, {gone:.3f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def replays(logs: list[Path], seeds: int, families: tuple[str, ...]) -> None:
    """Print a table of what each way costs in coverage."""
    print("| log | way | coverage | agreement | releases | refused or withdrawn |\n|---|---|---|---|---|---|")
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
            agreement = f"{agreed / replaced:.3f}" if replaced else "–"
            print(
                f"| {log.name} | {name} | {replaced / total:.3f} | {agreement} | {released} | {refused} |", flush=True
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--families", default="lexical,static")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.logs:
        replays(options.logs, options.seeds, tuple(options.families.split(",")))
        return
    print(f"Wrong answers given by the withdrawal (median), and share withdrawn within {CALLS:,} calls, by error rate:")
    simulate(options.seed)


if __name__ == "__main__":
    main()
