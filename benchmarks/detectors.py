"""The audit detector beside ADWIN and Page-Hinkley of `river` on the same error streams, at equal false alarms.

    pip install river matplotlib   # not needed by JITR
    python benchmarks/detectors.py [--quick] [--runs 200] [--tune 300] [--seed 0] [--plot docs/detectors.svg]

A release errs at a rate it keeps its promise with, then at a higher one. Each detector is tuned on separate streams
without a change to the same rate of false alarms in 10,000 audits; ADWIN looks after every audit and is only believed
where the rate rose, Page-Hinkley watches for a rise and gets the tolerance that is quickest on further separate
streams. Then delays are compared, in audits, after changes of several sizes at several times; a detector that gave a
false alarm before the change leaves the pair out. A rise that keeps the promise, which no detector should alarm for,
is tried as well. The promise is 0.95 throughout.

Exit code 1 where the audit detector's median delay, all changes to an error rate that breaks the promise together, is
more than 0.7 of ADWIN's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from river import drift
from scipy.special import betaincinv

from jitr_core.audit import HORIZON, AuditMonitor

TARGET = 0.95
ALARMS = 0.05
"""Rate of false alarms per HORIZON audits that all are tuned to."""

BEFORE = (0.03, 0.05)
AFTER = (0.08, 0.12, 0.2, 0.4)
TIMES = (100, 800, 2000)
"""Audits before the change: so many are made by 1,000, 10,000 and 100,000 answered calls."""

TOLERANCES = (0.005, 0.02, 0.05)
LONGEST = 4000
HARMLESS = (0.01, 0.045)
"""A rise within the promise, which calls for no rollback."""

Detector = Callable[[bool], bool]
"""(whether the audit was an error) → alarm."""
Make = Callable[[], Detector]


def monitor(audit_delta: float) -> Make:
    """The audit detector."""

    def make() -> Detector:
        watch = AuditMonitor(target=TARGET, audit_delta=audit_delta)
        return lambda error: watch.update(not error) == "rollback"

    return make


def adwin(delta: float) -> Make:
    """ADWIN, asked after every audit."""

    def make() -> Detector:
        window = drift.ADWIN(delta=delta, clock=1)

        def update(error: bool) -> bool:
            before = window.estimation
            window.update(int(error))
            return bool(window.drift_detected and window.estimation > before)

        return update

    return make


def page_hinkley(tolerance: float, threshold: float) -> Make:
    """Page-Hinkley for a rise."""

    def make() -> Detector:
        test = drift.PageHinkley(delta=tolerance, threshold=threshold, mode="up")

        def update(error: bool) -> bool:
            test.update(int(error))
            return bool(test.drift_detected)

        return update

    return make


def first_alarm(make: Make, errors: Sequence[bool]) -> int | None:
    """Audits until the first alarm."""
    update = make()
    return next((i for i, error in enumerate(errors, 1) if update(error)), None)


def streams(rate: float, count: int, seed: Sequence[int]) -> list[list[bool]]:
    """Streams without a change."""
    rng = np.random.default_rng(seed)
    return (rng.random((count, HORIZON)) < rate).tolist()


def tuned(family: Callable[[float], Make], low: float, high: float, clean: list[list[bool]]) -> tuple[float, float]:
    """The setting, between one that alarms often and one that hardly does, with the wanted rate; and its rate."""
    found = (high, 0.0)
    for _ in range(8):
        middle = float(np.sqrt(low * high))
        rate = alarm_rate(family(middle), clean)
        if rate <= ALARMS:
            found, high = (middle, rate), middle
        else:
            low = middle
    return found


def delay(make: Make, before: float, after: float, at: int, rng: np.random.Generator) -> int | None:
    """Audits from the change to the alarm, at most LONGEST; None for a false alarm before."""
    errors = np.concatenate([rng.random(at) < before, rng.random(LONGEST) < after])
    alarm = first_alarm(make, errors.tolist())
    if alarm is not None and alarm <= at:
        return None
    return LONGEST if alarm is None else alarm - at


def peaks(tolerance: float, clean: list[list[bool]]) -> np.ndarray:
    """The largest value that Page-Hinkley's statistic reaches on each stream, as river computes it."""
    errors = np.array(clean, dtype=float)
    mean, total, least, most = (np.zeros(len(errors)) for _ in range(4))
    least += np.inf
    for i in range(errors.shape[1]):
        mean += (errors[:, i] - mean) / (i + 1)
        total = 0.9999 * total + errors[:, i] - mean - tolerance
        least = np.minimum(least, total)
        if i >= 29:
            most = np.maximum(most, total - least)
    return most


def audit_limit(clean: list[list[bool]]) -> float:
    """`audit_delta` with the wanted rate, at most 0.99."""
    most = []
    for each in clean:
        watch = AuditMonitor(target=TARGET, audit_delta=1e-9)
        reached = 0.0
        for error in each:
            watch.update(not error)
            reached = max(reached, watch.evidence)
        most.append(reached)
    return float(min(2 * HORIZON / np.quantile(most, 1 - ALARMS), 0.99))


def alarm_rate(make: Make, clean: list[list[bool]]) -> float:
    """Share of streams with an alarm."""
    return sum(first_alarm(make, each) is not None for each in clean) / len(clean)


def tune(before: float, count: int, seed: int) -> dict[str, tuple[Make, str, float]]:
    """Each detector at the wanted rate of false alarms: how to make it, its setting in words, its rate in tuning."""
    clean = streams(before, count, [seed, 1])
    share = audit_limit(clean)
    found = {"audit detector": (monitor(share), f"audit_delta {share:.3g}", alarm_rate(monitor(share), clean))}
    limit, rate = tuned(lambda inverse: adwin(1 / inverse), 1.001, 1e8, clean)
    found["ADWIN"] = (adwin(1 / limit), f"delta {1 / limit:.2g}", rate)
    tried = []
    for tolerance in TOLERANCES:
        threshold = float(np.quantile(peaks(tolerance, clean), 1 - ALARMS))
        make = page_hinkley(tolerance, threshold)
        rng = np.random.default_rng([seed, 2])
        delays = [delay(make, before, after, 1000, rng) for after in AFTER for _ in range(10)]
        mean = np.mean(np.log([each for each in delays if each is not None]))
        tried.append((mean, make, f"delta {tolerance}, threshold {threshold:.3g}"))
    _, make, words = min(tried, key=lambda each: each[0])
    found["Page-Hinkley"] = (make, words, alarm_rate(make, clean))
    return found


def checked(detectors: dict[str, tuple[Make, str, float]], before: float, count: int, seed: int) -> None:
    """Print the settings, and the false alarms on streams that were not tuned on."""
    fresh = streams(before, count, [seed, 3])
    for name, (make, words, rate) in detectors.items():
        hits = sum(first_alarm(make, each) is not None for each in fresh)
        low = betaincinv(hits, count - hits + 1, 0.025) if hits else 0.0
        high = betaincinv(hits + 1, count - hits, 0.975) if hits < count else 1.0
        print(
            f"before {before}: {name}, {words}; false alarms in {HORIZON:,} audits {rate:.3f} in tuning, "
            f"{hits / count:.3f} ({low:.3f} to {high:.3f}) on fresh streams",
            flush=True,
        )


def compare(before: float, after: float, at: int, detectors: dict[str, Any], runs: int, seed: int) -> dict[str, Any]:
    """Delays of all detectors on the same streams, those with a false alarm left out."""
    rows = []
    for i in range(runs):
        key = [seed, 4, i, at, int(1000 * before), int(1000 * after)]
        rows.append([delay(make, before, after, at, np.random.default_rng(key)) for make, _, _ in detectors.values()])
    kept = np.array([row for row in rows if None not in row], dtype=float)
    return dict(zip(detectors, kept.T, strict=True))


def harmless(detectors: dict[str, Any], runs: int, seed: int) -> Iterator[str]:
    """How often each detector alarms within LONGEST audits of a rise within the promise, after 800 audits."""
    for name, (make, _, _) in detectors.items():
        found = [delay(make, *HARMLESS, 800, np.random.default_rng([seed, 5, i])) for i in range(runs)]
        kept = [each for each in found if each is not None]
        yield f"{name} {sum(each < LONGEST for each in kept) / max(len(kept), 1):.2f}"


def ratio(one: np.ndarray, other: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Ratio of the medians with its 95% bootstrap interval over the streams."""
    draws = np.random.default_rng(seed).integers(0, len(one), (1000, len(one)))
    found = np.median(one[draws], axis=1) / np.median(other[draws], axis=1)
    return float(np.median(one) / np.median(other)), *map(float, np.quantile(found, (0.025, 0.975)))


def plot(results: dict[tuple[float, int, float], dict[str, np.ndarray]], path: Path) -> None:
    """Median delays, and the lines up to the 95% quantile, against the error rate after the change."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "jitr"
    import matplotlib.pyplot as plt

    befores = sorted({before for before, _, _ in results})
    figure, axes = plt.subplots(1, len(befores), figsize=(9, 3.6), sharey=True, squeeze=False)
    for axis, before in zip(axes[0], befores, strict=True):
        for shift, name in zip((0.95, 1.0, 1.05), next(iter(results.values())), strict=True):
            pooled = [np.concatenate([results[before, at, after][name] for at in TIMES]) for after in AFTER]
            middle = [float(np.median(each)) for each in pooled]
            tops = [float(np.quantile(each, 0.95)) - m for each, m in zip(pooled, middle, strict=True)]
            places = [after * shift for after in AFTER]
            axis.errorbar(places, middle, yerr=[[0] * len(tops), tops], marker="o", capsize=3, label=name)
        axis.set(xscale="log", yscale="log", xlabel="error rate after the change", title=f"before: {before}")
        axis.set_xticks(AFTER, [str(each) for each in AFTER])
        axis.minorticks_off()
    axes[0, 0].set_ylabel("audits until the alarm: median, 95%")
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> int:
    """Tune, compare, print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of all streams")
    parser.add_argument("--runs", type=int, default=200, help="streams of each change")
    parser.add_argument("--tune", type=int, default=300, help="streams without a change, to tune on and to check")
    parser.add_argument("--before", nargs="*", type=float, default=BEFORE, help="error rates before the change")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="draw the delays here")
    options = parser.parse_args(argv)
    part, began = 5 if options.quick else 1, time.perf_counter()
    runs, count = options.runs // part, options.tune // part
    results: dict[tuple[float, int, float], dict[str, np.ndarray]] = {}
    rows = []
    for before in options.before:
        detectors = tune(before, count, options.seed)
        checked(detectors, before, count, options.seed)
        said = ", ".join(harmless(detectors, runs, options.seed))
        print(f"alarms within {LONGEST:,} audits of a rise from {HARMLESS[0]} to {HARMLESS[1]}: {said}", flush=True)
        for at in TIMES:
            for after in AFTER:
                found = results[before, at, after] = compare(before, after, at, detectors, runs, options.seed)
                cells = " | ".join(f"{np.median(d):.0f}, {np.quantile(d, 0.95):.0f}" for d in found.values())
                value, low, high = ratio(found["audit detector"], found["ADWIN"], options.seed)
                rows.append(f"| {before} → {after} | {at:,} | {cells} | {value:.2f} ({low:.2f} to {high:.2f}) |")
    print("| error rate | change after | audit detector: median, 95% | ADWIN | Page-Hinkley | audit detector / ADWIN |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))
    pooled = {name: np.concatenate([each[name] for each in results.values()]) for name in ("audit detector", "ADWIN")}
    value, low, high = ratio(pooled["audit detector"], pooled["ADWIN"], options.seed)
    print(f"all changes: median delay {value:.2f} of ADWIN's (95% interval {low:.2f} to {high:.2f})")
    print(f"{time.perf_counter() - began:.0f} s")
    if options.plot:
        plot(results, options.plot)
    return int(value > 0.7)


if __name__ == "__main__":
    sys.exit(main())
