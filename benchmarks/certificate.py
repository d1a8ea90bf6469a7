"""Does the certificate hold? Whole lives of tasks, simulated, and how often a release agreed less than promised.

Two kinds of streams: synthetic ones, where the true agreement at every threshold is known, and random orders of real
call logs (read from `JITR_SHARED`, skipped without it), where the rest of the log stands in for the truth. A life is
what `jitr_core` does: attempts on schedule, certified on the calls the coin chose, releases that take labels away,
audits, rollbacks, retraining. Beside it, on the same streams: the same life with other rules for the threshold.

    python benchmarks/certificate.py [--quick] [--search LIVES [--families NAME…]] [--logs NAME…] [--seed 0]
                                     [--json OUT] [--plot FILE.svg]

The student of the real logs is a ridge classifier on fixed features, so that hundreds of lives take minutes; with
`--search` it is what the project's own search finds, which takes minutes a life.

Exit code 1 where the one-sided 95% lower bound of the rate of broken promises exceeds delta.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import plots
from certificate_streams import LOGS, SYNTHETIC, Fit, Log, Searched, Synthetic, load_log, load_rows
from scipy.special import bdtr, betaincinv

from jitr_core.audit import AuditMonitor, audit_share
from jitr_core.certify import Refusal, better, certify, next_attempt
from jitr_core.config import FAMILIES, Policy


class Stream(Protocol):
    """Calls in an order, and a student for any subset of labels."""

    calls: int

    def fit(self, labelled: np.ndarray) -> Fit:
        """Cross-fitted scores of the labelled calls and the final student's of all calls."""


Row = dict[str, Any]

Rule = Callable[[np.ndarray, np.ndarray, float, float], "float | None"]
"""(confidence, correct, target, delta) → threshold, None for a refusal."""


def jitr(confidence: np.ndarray, correct: np.ndarray, target: float, delta: float) -> float | None:
    """The rule of `jitr_core.certify`."""
    result = certify(confidence, correct, target=target, delta=delta)
    return None if isinstance(result, Refusal) else result.threshold


def _prefixes(confidence: np.ndarray, correct: np.ndarray, counts: Sequence[int]) -> list[tuple[int, int, float]]:
    order = np.argsort(-confidence, kind="stable")
    errors = np.concatenate([[0], np.cumsum(~correct[order])])
    return [(n, int(errors[n]), float(confidence[order][n - 1])) for n in counts if n > 0]


def hindsight(confidence: np.ndarray, correct: np.ndarray, target: float, delta: float) -> float | None:
    """The mistake to avoid: the loosest threshold that meets the target on the very calls it is picked on."""
    found = [t for n, e, t in _prefixes(confidence, correct, range(1, len(correct) + 1)) if e <= (1 - target) * n]
    return found[-1] if found else None


def fine(confidence: np.ndarray, correct: np.ndarray, target: float, delta: float) -> float | None:
    """Exact tests in steps of 10 calls from the strictest on, ended by the first failure."""
    found = None
    start = int(np.ceil(np.log(delta) / np.log(target)))
    for n, e, t in _prefixes(confidence, correct, range(start, len(correct) + 1, 10)):
        if bdtr(float(e), n, 1 - target) > delta:
            break
        found = t
    return found


def bonferroni(confidence: np.ndarray, correct: np.ndarray, target: float, delta: float) -> float | None:
    """Exact tests at 20 quantiles, each at delta / 20."""
    counts = np.linspace(0, len(correct), 21).astype(int)
    tests = _prefixes(confidence, correct, list(counts))
    return next((t for n, e, t in reversed(tests) if bdtr(float(e), n, 1 - target) <= delta / 20), None)


def hoeffding(confidence: np.ndarray, correct: np.ndarray, target: float, delta: float) -> float | None:
    """Hoeffding's bound at 20 quantiles, each at delta / 20."""
    counts = np.linspace(0, len(correct), 21).astype(int)
    tests = _prefixes(confidence, correct, list(counts))
    return next((t for n, e, t in reversed(tests) if e / n + np.sqrt(np.log(20 / delta) / 2 / n) <= 1 - target), None)


RULES: dict[str, Rule] = {
    "jitr": jitr,
    "hindsight (wrong)": hindsight,
    "fine steps": fine,
    "Bonferroni": bonferroni,
    "Hoeffding": hoeffding,
}


@dataclass
class Life:
    """What became of one stream.

    Attributes:
        coverage: share of the calls that replacements answered.
        agreeing, answered: of those, how many agreed, and their number.
        audits: answered calls also sent to the teacher.
        spent: sum of the shares that answered calls were audited with.
        since: calls that the active release has answered.
        first: calls before the first release, None without one.
        releases: true agreement of each release, as far as known.
        rollbacks: releases rolled back by audits, and how many of them kept the promise.
    """

    coverage: float = 0.0
    agreeing: int = 0
    answered: int = 0
    audits: int = 0
    spent: float = 0.0
    since: int = 0
    first: int | None = None
    releases: list[float] = field(default_factory=list)
    rollbacks: list[bool] = field(default_factory=list)


def live(stream: Stream, policy: Policy, rule: Rule, rng: np.random.Generator) -> Life:
    """Run a task's life; the last quarter of a log is never streamed, so that every release can be judged."""
    life, end = Life(), stream.calls
    sampled, labelled = np.zeros(end, dtype=bool), np.zeros(end, dtype=bool)
    active: tuple[Fit, float] | None = None
    monitor, position, index = AuditMonitor(target=policy.target, audit_delta=policy.audit_delta), 0, 0
    while position < end:
        attempt = next_attempt(index, policy)
        until, index = min(attempt.calls, end), index + 1
        position, active = _serve(life, active, monitor, policy, (position, until), sampled, labelled, rng)
        if until < attempt.calls:
            break
        fit = stream.fit(np.flatnonzero(labelled[:until]))
        use = sampled[:until][labelled[:until]]
        threshold = rule(fit.crossfit[use], fit.crossfit_correct[use], policy.target, attempt.delta)
        if threshold is None or (active and not _gains(fit, threshold, active, sampled, until)):
            continue
        life.first = until if life.first is None else life.first
        life.releases.append(fit.truth(threshold, until))
        active, monitor = (fit, threshold), AuditMonitor(target=policy.target, audit_delta=policy.audit_delta)
        life.since = 0
    life.coverage = life.answered / end
    return life


def _gains(fit: Fit, threshold: float, active: tuple[Fit, float], sampled: np.ndarray, until: int) -> bool:
    """Whether the new student answers more of the sampled calls that the active one had not learnt from."""
    old, old_threshold = active
    labelled = fit.labelled
    fresh = sampled[labelled] & (labelled > old.labelled[-1])
    return better(fit.crossfit[fresh] >= threshold, old.confidence[labelled[fresh]] >= old_threshold)


def _serve(
    life: Life,
    active: tuple[Fit, float] | None,
    monitor: AuditMonitor,
    policy: Policy,
    span: tuple[int, int],
    sampled: np.ndarray,
    labelled: np.ndarray,
    rng: np.random.Generator,
) -> tuple[int, tuple[Fit, float] | None]:
    """Stream the calls of `span`: who answers, which are labelled, and whether the audits call for a rollback."""
    start, end = span
    for i in range(start, end):
        if active is None:
            sampled[i:end] = labelled[i:end] = True
            break
        fit, threshold = active
        share = audit_share(life.since, policy, answered=life.answered, spent=life.spent)
        sampled[i] = rng.random() < share
        answers = fit.confidence[i] >= threshold
        labelled[i] = sampled[i] or not answers
        if not answers:
            continue
        life.answered, life.since, life.spent = life.answered + 1, life.since + 1, life.spent + share
        life.agreeing += int(fit.correct[i])
        if sampled[i]:
            life.audits += 1
            if monitor.update(bool(fit.correct[i])) == "rollback":
                life.rollbacks.append(life.releases[-1] >= policy.target)
                active = None
    return end, active


def lower_bound(hits: int, n: int) -> float:
    """Exact one-sided 95% lower bound of a rate."""
    return float(betaincinv(hits, n - hits + 1, 0.05)) if hits else 0.0


def summary(lives: list[Life], target: float) -> Row:
    """Figures of many lives."""
    broken = sum(any(r < target for r in life.releases) for life in lives)
    answered = sum(life.answered for life in lives)
    firsts = [life.first for life in lives if life.first is not None]
    return {
        "lives": len(lives),
        "released": len(firsts),
        "broken": broken,
        "broken_low": round(lower_bound(broken, len(lives)), 4),
        "coverage": round(float(np.mean([life.coverage for life in lives])), 4),
        "agreement": round(sum(life.agreeing for life in lives) / answered, 4) if answered else None,
        "first": float(np.median(firsts)) if firsts else None,
        "audit_share": round(sum(life.audits for life in lives) / answered, 4) if answered else None,
        "rollbacks": sum(len(life.rollbacks) for life in lives),
        "false_rollbacks": sum(sum(life.rollbacks) for life in lives),
    }


def show(kind: str, rule: str, s: Row) -> None:
    """One row of the table."""
    agreement = "–" if s["agreement"] is None else f"{s['agreement']:.4f}"
    first = "–" if s["first"] is None else f"{s['first']:.0f}"
    print(
        f"| {kind} | {rule} | {s['lives']} | {s['released']} | {s['broken']} ({s['broken_low']:.3f}) | "
        f"{s['coverage']:.3f} | {agreement} | {first} | {s['rollbacks']} ({s['false_rollbacks']}) |",
        flush=True,
    )


def run(name: str, make: Callable[[Sequence[int]], Stream], draws: int, others: int, seed: int) -> dict[str, Row]:
    """All rules on the streams of one kind; `draws` lives for JITR's rule, `others` for the rest."""
    policy, rows = Policy(), {}
    for rule, choose in RULES.items():
        count = draws if rule == "jitr" else others
        if not count:
            continue
        lives = [live(make([seed, d]), policy, choose, np.random.default_rng([seed, d])) for d in range(count)]
        rows[rule] = summary(lives, policy.target)
        show(name, rule, rows[rule])
    return rows


def plot(results: dict[str, dict[str, Row]], delta: float, path: Path) -> None:
    """Coverage of each rule, and how many lives break the promise with exact 95% intervals, stream by stream."""
    marks = {"jitr": (plots.BLUE, "o", "JITR"), "Bonferroni": (plots.GREEN, "s", "Bonferroni, 20 thresholds")}
    marks["Hoeffding"] = (plots.GREY, "^", "Hoeffding, 20 thresholds")
    marks["hindsight (wrong)"] = (plots.ORANGE, "D", "picked in hindsight: breaks the promise")
    figure, (left, right) = plots.panels(2, 9, 4.6, sharey=True)
    for rule, (colour, mark, words) in marks.items():
        rows = [(i, stream[rule]) for i, stream in enumerate(results.values()) if rule in stream]
        places = [i for i, _ in rows]
        top = 3 if rule == "jitr" else 2
        left.plot([r["coverage"] for _, r in rows], places, mark, color=colour, ms=6, label=words, zorder=top)
        if rule in ("jitr", "hindsight (wrong)"):
            k, n = (np.array([r[key] for _, r in rows], dtype=float) for key in ("broken", "lives"))
            low = np.where(k > 0, betaincinv(np.maximum(k, 1), n - k + 1, 0.025), 0)
            high = np.where(k < n, betaincinv(k + 1, np.maximum(n - k, 1), 0.975), 1)
            right.errorbar(k / n, places, xerr=[k / n - low, high - k / n], fmt=mark, color=colour, ms=6, capsize=2)
    right.axvline(delta, color="black", ls="--", lw=1)
    right.text(delta + 0.015, -0.85, f"allowed: {delta:g}", fontsize=7, va="center")
    left.set(yticks=range(len(results)), yticklabels=results, ylim=(len(results) - 0.5, -1.3), xlim=(-0.03, 1.03))
    left.set_xlabel("coverage: share of a life's calls that are answered")
    right.set(xlim=(-0.03, 1.03), xlabel="share of lives in which the promise is broken")
    figure.legend(*left.get_legend_handles_labels(), loc="upper center", ncols=len(marks), fontsize=8, frameon=False)
    plots.save(figure, path, top=0.94)


def main(argv: Sequence[str] | None = None) -> int:
    """Run everything, print the table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the lives, one log")
    parser.add_argument("--search", type=int, metavar="LIVES", help="lives of each log with the project's own search")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES, help="that this search looks at")
    parser.add_argument("--logs", nargs="+", choices=LOGS, default=list(LOGS), help="call logs; all unless told")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="draw coverage and broken promises (needs matplotlib)")
    arguments = parser.parse_args(argv)
    start, delta = time.perf_counter(), Policy().delta
    draws, orders, others = (40, 4, 4) if arguments.quick else (300, 40, 20)
    shared = Path(os.environ.get("JITR_SHARED", Path(__file__).parents[2] / "shared"))
    columns = (
        "stream, rule, lives, released, promise broken (95% low), coverage, agreement, first at, rollbacks (false)"
    )
    print(f"| {columns.replace(', ', ' | ')} |\n|{'---|' * 9}")
    results: dict[str, dict[str, Row]] = {}
    for kind in () if arguments.search else SYNTHETIC:
        results[kind] = run(kind, partial(Synthetic, kind), draws, others * 2, arguments.seed)
    for log in arguments.logs[: 1 if arguments.quick else None]:
        if arguments.search:
            rows = load_rows(shared, log)
            if rows:
                results[log] = run(
                    log, partial(Searched, rows, tuple(arguments.families)), arguments.search, 0, arguments.seed
                )
            continue
        data = load_log(shared, log)
        if data is not None:
            results[log] = run(log, partial(Log, data), orders, others, arguments.seed)
    if arguments.plot:
        plot(results, delta, arguments.plot)
    return verdict(results, delta, time.perf_counter() - start, arguments.json)


def verdict(results: dict[str, dict[str, Row]], delta: float, seconds: float, out: Path | None) -> int:
    """Print the pooled rates; 1 if a bound for JITR's rule exceeds delta."""
    failed = any(rows["jitr"]["broken_low"] > delta for rows in results.values())
    for group, synthetic in (("synthetic streams", True), ("real logs", False)):
        kinds = [rows for name, rows in results.items() if (name in SYNTHETIC) == synthetic]
        for rule in RULES if kinds else ():
            broken, lives = (sum(rows[rule][key] for rows in kinds if rule in rows) for key in ("broken", "lives"))
            if not lives:
                continue
            low = lower_bound(broken, lives)
            print(f"{group}, {rule}: promise broken in {broken} of {lives} lives, 95% lower bound {low:.4f}")
            failed |= rule == "jitr" and low > delta
    print(f"{'FAILED' if failed else 'holds'} at delta {delta}; {seconds:.0f} s")
    if out:
        out.write_text(json.dumps({"delta": delta, "results": results, "seconds": round(seconds, 1)}, indent=1))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
