"""Do the other promises hold (`overall`, `classes`, `cost`), and what do they bring?

Lives of simulated tasks: attempts on schedule, each with a student of its own, and every certificate counts as a
release. The truth is known, so a life is broken where any certificate breaks its promise. Then real call logs in random
orders (read from `JITR_SHARED`, skipped without it): what each promise would answer of the calls that were held out,
and what it kept there. Last, how rarely audits roll back a release at the very edge of its promise.

    python benchmarks/promises.py [--quick] [--lives 100] [--edge 400] [--audits 100] [--logs NAME…] [--orders 10]

Exit code 1 where the one-sided 95% lower bound of a rate of broken promises, or of false rollbacks, exceeds delta.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from certificate import lower_bound
from certificate_streams import LOGS, Log, load_log
from scipy.special import ndtr

from jitr_core.audit import HORIZON, Watch
from jitr_core.certify import Refusal, certify, next_attempt
from jitr_core.config import Policy
from jitr_core.equivalence import equivalent
from jitr_core.promises import NEVER, least_confidence, promise
from jitr_core.types import Certificate

CALLS = 4000
NAMES = np.array(["ok", "late", "fraud", "other"], dtype=object)
SHARES = np.array([0.5, 0.3, 0.15, 0.05])
DEAR = 'cost:{"fraud": {"*": 3}, "late": {"ok": 0.2}}'
PROMISES = ("answered", "overall", "classes", "classes:fraud", DEAR)

Agreement = Callable[[np.ndarray, int], np.ndarray]
"""(confidence, class given) → agreement."""

SYNTHETIC: dict[str, Agreement] = {
    "easy": lambda c, k: 0.985 + 0.015 * c,
    "falling": lambda c, k: 1 - (0.1 + 0.1 * k) * (1 - c) ** 1.5,
    "one bad class": lambda c, k: np.full_like(c, 0.94) if k == 2 else 0.97 + 0.03 * c,
    "just below": lambda c, k: np.full_like(c, 0.9499),
    "dear errors": lambda c, k: np.full_like(c, 1 - 0.0501 / _mean_cost(k)),
    "overconfident": lambda c, k: np.where(c >= 0.9, 0.8, 0.97),
}


def _mean_cost(k: int) -> float:
    """Mean cost of an error where class k is given: the teacher means each other class equally often."""
    others = [each for i, each in enumerate(NAMES) if i != k]
    return float(np.mean([promise(DEAR).cost(str(NAMES[k]), str(other)) for other in others]))


class Task:
    """Calls of one task, seen by students who differ a little."""

    def __init__(self, kind: str, seed: Sequence[int]) -> None:
        self.agreement, self.rng = SYNTHETIC[kind], np.random.default_rng(seed)
        self.given = self.rng.choice(len(NAMES), CALLS, p=SHARES)
        self.latent, self.luck = self.rng.standard_normal(CALLS), self.rng.random(CALLS)
        self.meant = (self.given + self.rng.integers(1, len(NAMES), CALLS)) % len(NAMES)

    def student(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Confidence, whether it agrees, and the teacher's class, for every call."""
        confidence = ndtr(np.sqrt(0.9) * self.latent + np.sqrt(0.1) * self.rng.standard_normal(CALLS))
        chance = np.select([self.given == k for k in range(len(NAMES))], self._chances(confidence))
        correct = self.luck < chance
        return confidence, correct, np.where(correct, self.given, self.meant)

    def _chances(self, confidence: np.ndarray) -> list[np.ndarray]:
        return [self.agreement(confidence, k) for k in range(len(NAMES))]

    def broken(self, found: Certificate) -> bool:
        """Whether the certificate breaks its promise; by integration over the confidence, which is uniform."""
        limits = [min(least_confidence(found, str(name)), 1.0) for name in NAMES]
        grids = [np.linspace(limit, 1, 4001) for limit in limits]
        wrong = np.array([1 - float(self.agreement(grid, k).mean()) for k, grid in enumerate(grids)])
        answered = SHARES * (1 - np.array(limits))
        kind, most = promise(found.promise), 1 - found.target
        if kind.kind == "overall":
            return float((answered * wrong).sum()) > most
        if kind.kind == "classes":
            if not kind.critical:
                return bool((wrong[answered > 0] > most).any())
            alone = np.array([name in kind.critical for name in NAMES])
            rest = answered * ~alone
            return bool((wrong[alone & (answered > 0)] > most).any()) or (rest * wrong).sum() > most * rest.sum()
        cost = np.array([_mean_cost(k) for k in range(len(NAMES))]) if kind.kind == "cost" else 1.0
        return float((answered * wrong * cost).sum()) > most * answered.sum()


def live(kind: str, wanted: str, policy: Policy, seed: Sequence[int]) -> tuple[bool, int | None, float]:
    """One life: whether a certificate broke the promise, calls before the first one, coverage of the last."""
    task, first, coverage, broken = Task(kind, seed), None, 0.0, False
    for index in range(100):
        due, delta = next_attempt(index, policy)
        if due > CALLS:
            break
        confidence, correct, teacher = task.student()
        found = certify(
            confidence[:due],
            correct[:due],
            target=policy.target,
            delta=delta,
            promise=wanted,
            given=NAMES[task.given[:due]].tolist(),
            teacher=NAMES[teacher[:due]].tolist(),
        )
        coverage = 0.0
        if not isinstance(found, Refusal):
            first = due if first is None else first
            coverage, broken = found.coverage, broken or task.broken(found)
    return broken, first, coverage


def synthetic(lives: int, seed: int, policy: Policy) -> bool:
    """Table of simulated lives; whether a bound exceeds delta."""
    print("| stream | promise | lives | promise broken (95% low) | first at | coverage at the last attempt |")
    print("|---|---|---|---|---|---|")
    failed, sums = False, dict.fromkeys(PROMISES, 0)
    for kind in SYNTHETIC:
        for wanted in PROMISES:
            runs = [live(kind, wanted, policy, [seed, i]) for i in range(lives)]
            hits, firsts = sum(run[0] for run in runs), [run[1] for run in runs if run[1] is not None]
            sums[wanted] += hits
            low = lower_bound(hits, lives)
            failed |= low > policy.delta
            first = f"{np.median(firsts):.0f}" if firsts else "–"
            coverage = np.mean([run[2] for run in runs])
            print(
                f"| {kind} | {_short(wanted)} | {lives} | {hits} ({low:.3f}) | {first} | {coverage:.3f} |", flush=True
            )
    for wanted, hits in sums.items():
        count = lives * len(SYNTHETIC)
        print(f"{_short(wanted)}: broken in {hits} of {count} lives, 95% lower bound {lower_bound(hits, count):.4f}")
    return failed


EDGE: dict[str, Sequence[float]] = {
    "the same at every confidence": (0.0502,),
    "dear at the top": (0.1, *[0.0447] * 9),
    "up and down, 20 times": (0.0602, 0.0402) * 10,
    "up and down, twice": (0.0602, 0.0402) * 2,
}
"""Mean costs from the highest confidence to the lowest, in bands of equal width, such that every threshold is bad."""


def edge(draws: int, seed: int, target: float, delta: float) -> bool:
    """Table of single attempts at all of delta where whatever is certified is wrong; whether a bound exceeds it."""
    print(f"\n| cost, every threshold just bad | certified wrongly at delta {delta}: answered | cost |\n|---|---|---|")
    failed, calls, dear = False, 2_000, np.array([_mean_cost(k) for k in range(len(NAMES))])
    for name, costs in EDGE.items():
        wrongly = dict.fromkeys(("answered", DEAR), 0)
        for i, wanted in itertools.product(range(draws), wrongly):
            rng = np.random.default_rng([seed, i])
            given, confidence = rng.choice(len(NAMES), calls, p=SHARES), rng.random(calls)
            rate = np.array(costs)[np.minimum(((1 - confidence) * len(costs)).astype(int), len(costs) - 1)]
            wrong = rng.random(calls) < (rate if wanted == "answered" else rate / dear[given])
            meant = np.where(wrong, (given + rng.integers(1, len(NAMES), calls)) % len(NAMES), given)
            said, told = NAMES[given].tolist(), NAMES[meant].tolist()
            found = certify(confidence, ~wrong, target=target, delta=delta, promise=wanted, given=said, teacher=told)
            wrongly[wanted] += isinstance(found, Certificate)
        failed |= any(lower_bound(hits, draws) > delta for hits in wrongly.values())
        cells = (f"{hits} of {draws} ({lower_bound(hits, draws):.3f})" for hits in wrongly.values())
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return failed


def _short(wanted: str) -> str:
    return "cost" if wanted.startswith("cost") else wanted


def judged(log: Log, policy: Policy, wanted: str) -> Iterator[tuple[float, bool]]:
    """At each attempt: what the certificate would answer of the calls held out, and whether it breaks its promise."""
    for index in range(100):
        due, delta = next_attempt(index, policy)
        if due > log.calls:
            return
        fit = log.fit(np.arange(due))
        assert fit.given is not None and fit.crossfit_given is not None
        found = certify(
            fit.crossfit,
            fit.crossfit_correct,
            target=policy.target,
            delta=delta,
            promise=wanted,
            given=[str(k) for k in fit.crossfit_given],
            teacher=[str(k) for k in log.answers[:due]],
        )
        if isinstance(found, Refusal):
            yield 0.0, False
            continue
        later = slice(log.calls, None)
        given, correct = fit.given[later], fit.correct[later]
        limit = np.array([least_confidence(found, str(k)) for k in range(int(given.max()) + 1)])
        says = fit.confidence[later] >= limit[given]
        yield float(says.mean()), _breaks(wanted, given, says, correct, policy.target)


def _breaks(wanted: str, given: np.ndarray, says: np.ndarray, correct: np.ndarray, target: float) -> bool:
    wrong = says & ~correct
    if wanted == "overall":
        return bool(wrong.mean() > 1 - target)
    if wanted == "classes":
        # few calls of a class are held out: broken only where that is no bad luck
        groups = [(int((wrong & (given == k)).sum()), int((says & (given == k)).sum())) for k in np.unique(given)]
        return any(lower_bound(e, n) > 1 - target for e, n in groups if n)
    return bool(wrong.sum() > (1 - target) * says.sum())


def logs(names: Sequence[str], orders: int, seed: int, policy: Policy) -> None:
    """Table of real logs: coverage and broken promises, paired over the same orders and students."""
    shared = Path(os.environ.get("JITR_SHARED", Path(__file__).parents[2] / "shared"))
    print(
        "\n| log | promise | coverage at the last attempt | over `answered` (95% interval) | orders with a broken one |"
    )
    print("|---|---|---|---|---|")
    for name in names:
        data = load_log(shared, name)
        if data is None:
            continue
        base = np.zeros(orders)
        for wanted in ("answered", "overall", "classes"):
            runs = [list(judged(Log(data, [seed, i]), policy, wanted)) for i in range(orders)]
            last = np.array([run[-1][0] for run in runs])
            broken = sum(any(each for _, each in run) for run in runs)
            ratio = "1" if wanted == "answered" else _ratio(last, base, seed)
            base = last if wanted == "answered" else base
            print(f"| {name} | {wanted} | {last.mean():.3f} | {ratio} | {broken} of {orders} |", flush=True)


def _ratio(one: np.ndarray, other: np.ndarray, seed: int) -> str:
    """Ratio of the means with its bootstrap interval over orders."""
    if not other.any():
        return "–"
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(one), (2000, len(one)))
    ratios = one[draws].sum(1) / np.maximum(other[draws].sum(1), 1e-9)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return f"{one.sum() / other.sum():.2f} ({low:.2f} to {f'{high:.2f}' if high < 1e3 else '∞'})"


def audits(runs: int, seed: int, policy: Policy) -> bool:
    """Table of releases at the edge of their promise, 10,000 audits each; whether a bound exceeds `audit_delta`."""
    print(f"\n| promise | rolled back within {HORIZON:,} audits at the very edge | median audits at three times that |")
    print("|---|---|---|")
    failed, most = False, 1 - policy.target
    for wanted in PROMISES:
        thresholds = {"classes": dict.fromkeys(NAMES, 0.0), "classes:fraud": {"fraud": 0.0}}.get(wanted, {})
        rest = NEVER if wanted == "classes" else 0.0
        proof = Certificate(policy.target, 0.01, rest, 1.0, 100, 0, 0.96, promise=wanted, thresholds=thresholds)
        found = []
        for factor in (1, 3):
            ends = []
            for i in range(runs):
                rng = np.random.default_rng([seed, i, factor])
                watch = Watch(proof, equivalent, target=policy.target, audit_delta=policy.audit_delta)
                ends.append(_audited(watch, wanted, most * factor, rng))
            found.append(ends)
        hits = sum(end is not None for end in found[0])
        failed |= lower_bound(hits, runs) > policy.audit_delta
        delay = np.median([HORIZON if end is None else end for end in found[1]])
        print(f"| {_short(wanted)} | {hits} of {runs} ({lower_bound(hits, runs):.3f}) | {delay:.0f} |", flush=True)
    return failed


def _audited(watch: Watch, wanted: str, rate: float, rng: np.random.Generator) -> int | None:
    """Audits until the rollback; None if there was none. Under `overall` half of the calls are deferred."""
    given = rng.choice(len(NAMES), HORIZON, p=SHARES)
    meant = (given + rng.integers(1, len(NAMES), HORIZON)) % len(NAMES)
    costs = np.array([_mean_cost(k) for k in range(len(NAMES))])[given] if wanted == DEAR else 1.0
    wrong = rng.random(HORIZON) < rate / costs * (2 if wanted == "overall" else 1)
    deferred = (rng.random(HORIZON) < 0.5) & (wanted == "overall")
    for i in range(HORIZON):
        answer = str(NAMES[given[i]])
        teacher = str(NAMES[meant[i]]) if wrong[i] else answer
        if watch.update(None if deferred[i] else answer, teacher) == "rollback":
            return i + 1
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the lives, one log")
    parser.add_argument("--logs", nargs="*", choices=LOGS, default=list(LOGS), help="call logs; all unless told")
    parser.add_argument("--lives", type=int, default=100, help="of each stream and promise; 0 for none")
    parser.add_argument("--edge", type=int, default=400, help="single attempts at the edge of a promise; 0 for none")
    parser.add_argument("--audits", type=int, default=100, help="audited releases of each promise; 0 for none")
    parser.add_argument("--orders", type=int, default=10, help="random orders of each log")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    policy, began = Policy(), time.perf_counter()
    part = 10 if options.quick else 1
    failed = False
    if options.lives:
        failed = synthetic(max(options.lives // part, 1), options.seed, policy)
    if options.edge:
        failed |= edge(max(options.edge // part, 1), options.seed, policy.target, policy.delta)
    if options.audits:
        failed |= audits(max(options.audits // part, 1), options.seed, policy)
    logs(options.logs[: 1 if options.quick else None], max(options.orders // part, 2), options.seed, policy)
    print(f"{'FAILED' if failed else 'holds'}; {time.perf_counter() - began:.0f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
