"""How soon is a release withdrawn when calls or teacher change, and how often for nothing?

Streams spliced from real logs (read from `JITR_SHARED`): a release certified on one half of a log serves the other half
for a while, then

    teacher   the teacher gives other answers to 40% of the classes, under the same name
    topics    half of the calls come from another log, with answers the release does not know
    mix       a fifth of the classes makes up four fifths of the calls

Compared: audits alone; audits that warnings of drift make more frequent (`jitr_core.drift`); and warnings after which
the release is held until its answers were compared as well, as JITR does (`jitr_core.holds`). Each with the release
young (it has answered nothing yet) and mature (50,000 calls, so that 0.5% are audited). Another mix after which the
promise is kept tells what a warning costs that was for nothing. The student is a ridge
classifier on fixed features without a gate for inputs out of distribution, so changes of topic reach it in full. With
`--gate` it has one, on the distance to the nearest training input, and a fourth way to watch is compared: warnings also
of a change in how far inputs are from those learnt from.

    python benchmarks/drift.py [--gate] [--streams 200] [--clean 300000] [--seed 0] [--json OUT] [--plot FILE.svg]

Exit code 1 if more than one release in 100,000 clean served calls was withdrawn, if one that keeps the promise was
withdrawn after another mix, or if mature releases give more wrong answers, in the median, with holds than with audits
alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plots
from certificate_streams import Data, Log, load_log

from jitr_core.audit import AuditMonitor, audit_share
from jitr_core.certify import Refusal, certify
from jitr_core.config import Policy
from jitr_core.drift import BLOCK, ChangeDetector, Signals
from jitr_core.holds import COMPARED
from jitr_core.store import Handled
from jitr_core.students.ood import Strange
from jitr_core.worth import expected_audits

LOGS = ("smsspam", "clinc150", "trec", "banking77-gpt4", "phrasebank-gpt4")
STABLE, AFTER = 2_000, 20_000
MATURE = 50_000
CHANGES = ("teacher", "topics", "mix")
KEPT = "mix, promise kept"
ALONE, WARNED, HELD, FAR = (
    "audits alone",
    "warnings, more audits",
    "warnings, holds",
    "holds, warnings of distances too",
)
CLOSED = 3  # the last of four groups of distances: beyond the gate's limit
MOST = 2_000  # releases tried until enough streams are due
FOREIGN = 2_000  # most inputs of another log


@dataclass(frozen=True)
class Release:
    """A certified release: what it does with each call of a log, and in which of four groups of distances that is."""

    confidence: np.ndarray
    given: np.ndarray
    far: np.ndarray
    threshold: float

    def takes(self) -> np.ndarray:
        """Which calls it answers."""
        return (self.confidence >= self.threshold) & (self.far < CLOSED)


@dataclass
class Outcome:
    """What became of a stream after the change; counts of calls. `held`: those the teacher answered in its place."""

    withdrawn: bool = False
    served: int = 0
    audited: int = 0
    wrong: int = 0
    warned: int | None = None
    warnings: int = 0
    held: int = 0
    early: bool = False


class Ridge(Log):
    """The log, with what the student answers to each call, and to those of another log."""

    def release(
        self, policy: Policy, foreign: np.ndarray | None, *, gate: bool
    ) -> tuple[Release, np.ndarray, Release | None] | None:
        """The release on the second half and on foreign features, with the teacher's answers; None if not certified."""
        half = np.arange(len(self._y) // 2)
        fit = self.fit(half)
        sure = np.where(self._strange(half) == CLOSED, 0.0, fit.crossfit) if gate else fit.crossfit
        found = certify(sure, fit.crossfit_correct, target=policy.target, delta=policy.delta)
        if isinstance(found, Refusal):
            return None
        rest = np.arange(len(half), len(self._y))
        given = np.asarray(fit.given)
        far = self._groups(self._x[rest, :-1], self._group[rest]) if gate else np.zeros(len(rest), int)
        own = Release(fit.confidence[rest], given[rest], far, found.threshold)
        other = None
        if foreign is not None:
            foreign = foreign[:FOREIGN]
            c, g = self.answer(np.hstack([foreign, np.ones((len(foreign), 1), dtype=np.float32)]))
            far = self._groups(foreign, np.full(len(foreign), -1)) if gate else np.zeros(len(foreign), int)
            other = Release(c, g, far, found.threshold)
        return own, self._y[rest], other

    def _strange(self, half: np.ndarray) -> np.ndarray:
        """The groups of the training inputs, each left out of what it is compared with; sets the limits."""
        x, group = self._x[half, :-1], self._group[half]
        likeness = x @ x.T
        likeness[group[:, None] == group[None, :]] = -1
        far = 1 - likeness.max(1).astype(np.float64)
        calls = np.bincount(group)[group]
        strange = Strange({"far": far}, calls, calls)
        limit = strange.limits()["far"]
        self._learnt, self._known = x, np.unique(group)
        self._edges = np.array([*np.quantile(far, (0.5, 0.9)).clip(max=limit), limit])
        return np.where(strange.beyond({"far": limit}), CLOSED, 0)

    def _groups(self, x: np.ndarray, group: np.ndarray) -> np.ndarray:
        """How far inputs are from the training inputs, as one of four groups; what was learnt from is near."""
        far = 1 - (x @ self._learnt.T).max(1)
        return np.where(np.isin(group, self._known), 0, self._edges.searchsorted(far))


def stream(
    release: Release, teacher: np.ndarray, other: Release | None, change: str, rng: np.random.Generator
) -> tuple[Release, np.ndarray]:
    """What the release does with STABLE calls and AFTER changed ones, and the teacher's answers."""
    n = len(teacher)
    rows = rng.integers(0, n, STABLE + AFTER)
    confidence, given, far = (each[rows].copy() for each in (release.confidence, release.given, release.far))
    said = teacher[rows].copy()
    late = np.arange(STABLE + AFTER) >= STABLE
    classes = np.unique(teacher)
    if change == "teacher":
        changed = rng.permutation(classes)[: max(round(0.4 * len(classes)), 1)]
        mapped = dict(zip(changed, rng.permutation(classes)[: len(changed)], strict=True))
        for old, new in mapped.items():
            said[late & (teacher[rows] == old)] = new if new != old else classes.max() + 1
    elif change == "topics" and other is not None:
        take = late & (rng.random(len(rows)) < 0.5)
        foreign = rng.integers(0, len(other.given), len(rows))
        confidence[take], given[take] = other.confidence[foreign[take]], other.given[foreign[take]]
        far[take] = other.far[foreign[take]]
        said[take] = classes.max() + 1
    elif change == "mix":
        favoured = np.isin(teacher, rng.permutation(classes)[: max(round(0.2 * len(classes)), 1)])
        odds = np.where(favoured, 0.8 / favoured.mean(), 0.2 / max(1 - favoured.mean(), 1e-9))
        picked = rng.choice(n, size=len(rows), p=odds / odds.sum())
        confidence = np.where(late, release.confidence[picked], confidence)
        given, said = np.where(late, release.given[picked], given), np.where(late, teacher[picked], said)
        far = np.where(late, release.far[picked], far)
    return Release(confidence, given, far, release.threshold), said


def watch(
    calls: tuple[Release, np.ndarray],
    *,
    answered: int,
    by: str,
    policy: Policy,
    rng: np.random.Generator,
) -> Outcome:
    """Serve a stream until its release is withdrawn."""
    release, said = calls
    takes, given, right = release.takes(), release.given, release.given == said
    out = Outcome()
    monitor, seen, warned = AuditMonitor(target=policy.target, audit_delta=policy.audit_delta), Signals(0), False
    distances = ChangeDetector()
    held: list[bool] | None = None
    coins, since, spent = rng.random(len(takes)), answered, expected_audits(answered, policy)
    for i in range(len(takes)):
        share = audit_share(since, policy, answered=answered, spent=spent, warned=warned)
        audits = takes[i] and coins[i] < share
        if i == STABLE:
            out.served = out.audited = out.held = 0
        if takes[i] and held is not None:
            held.append(bool(right[i]))
            out.held += 1
            if monitor.update(bool(right[i])) == "rollback":
                out.withdrawn, out.early = True, i < STABLE
                return out
            if len(held) >= COMPARED and sum(held) >= policy.target * len(held):
                held = None
        elif takes[i]:
            answered, since, out.served, spent = answered + 1, since + 1, out.served + 1, spent + share
            out.audited += int(audits)
            out.wrong += int(i >= STABLE and not right[i])
            if audits and monitor.update(bool(right[i])) == "rollback":
                out.withdrawn, out.early = True, i < STABLE
                return out
        if by != ALONE:
            reason = "answered" if takes[i] else "ood" if release.far[i] == CLOSED else "deferral"
            heard = not takes[i] or audits or held is not None
            call = Handled(i, reason, "", str(given[i]), str(said[i]) if heard else None)
            changed = seen.update(call, str.__eq__) is not None
            if by == FAR and i % BLOCK == BLOCK - 1:
                changed |= distances.add(Counter(map(str, release.far[i + 1 - BLOCK : i + 1])))
            if changed:
                seen, distances, warned, since = Signals(i), ChangeDetector(), True, 0
                held = [] if by in (HELD, FAR) else None
                out.warnings += 1
                if out.warned is None and i >= STABLE:
                    out.warned = i - STABLE
    return out


def middle(values: list[int]) -> str:
    """Median and its 95% bootstrap interval."""
    if not values:
        return "–"
    drawn = np.random.default_rng(0).choice(values, (2_000, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return f"{np.median(values):,.0f} ({low:,.0f} to {high:,.0f})"


def quantiles(values: list[int]) -> str:
    """Median and 95th percentile."""
    return f"{np.median(values):,.0f}, {np.quantile(values, 0.95):,.0f}" if values else "–"


class Releases:
    """Certified releases on random halves of the logs, with the teacher's answers; made when they are asked for."""

    def __init__(self, shared: Path, seed: int, policy: Policy, *, gate: bool) -> None:
        self._logs = [data for data in (load_log(shared, name) for name in LOGS) if data is not None]
        self._seed, self._policy, self._gate = seed, policy, gate
        self.made: list[tuple[Release, np.ndarray, Release | None]] = []
        self.tries = 0

    def __iter__(self) -> Iterator[tuple[Release, np.ndarray, Release | None]]:
        k = 0
        while True:
            while k >= len(self.made):
                if self.tries == MOST or not self._logs:
                    return
                self._make()
            yield self.made[k]
            k += 1

    def _make(self) -> None:
        data: Data = self._logs[self.tries % len(self._logs)]
        foreign = self._logs[(self.tries + 1) % len(self._logs)].features
        foreign = foreign if foreign.shape[1] == data.features.shape[1] else None
        made = Ridge(data, [self._seed, self.tries]).release(self._policy, foreign, gate=self._gate)
        self.tries += 1
        if made is not None:
            self.made.append(made)


def due(releases: Releases, change: str, number: int, seed: int, policy: Policy) -> list[tuple[int, Any]]:
    """So many streams after whose change the promise is broken, or kept, with the numbers of their releases."""
    found: list[tuple[int, Any]] = []
    for k, (release, teacher, other) in enumerate(releases):
        if len(found) == number:
            break
        if change == "topics" and other is None:
            continue
        calls = stream(release, teacher, other, change.partition(",")[0], np.random.default_rng([seed, 1, k]))
        late = calls[0].takes()[STABLE:]
        if not late.any():
            continue
        if ((calls[0].given == calls[1])[STABLE:][late].mean() < policy.target) == (change != KEPT):
            found.append((k, calls))
    return found


def clean(
    found: list[tuple[Release, np.ndarray, Release | None]], calls: int, seed: int, policy: Policy, by: str
) -> tuple[int, ...]:
    """Served calls without a change, half by mature releases; releases withdrawn that keep the promise; warnings."""
    served = withdrawn = warnings = 0
    k = 0
    while served < calls:
        release, teacher, _ = found[k % len(found)]
        rng = np.random.default_rng([seed, 9, k])
        k += 1
        takes = release.takes()
        if not takes.any() or (release.given == teacher)[takes].mean() < policy.target:
            continue  # the promise is broken: withdrawing it is right
        out = watch(
            stream(release, teacher, None, "none", rng),
            answered=MATURE * (k % 2),
            by=by,
            policy=policy,
            rng=rng,
        )
        if not out.withdrawn:
            served += round((STABLE + AFTER) * takes.mean())
        withdrawn += out.withdrawn
        warnings += out.warnings
    return served, withdrawn, warnings


def plot(given: dict[tuple[str, str, str], list[int]], path: Path) -> None:
    """Share of the releases due that gave so many wrong answers and more since the change."""
    titles = {"teacher": "the teacher answers otherwise", "topics": "new topics", "mix": "another mix of answers"}
    figure, axes = plots.panels(len(CHANGES), 9, 3.2, sharey=True)
    wrong = np.geomspace(1, 5_000, 100)
    for axis, change in zip(axes, CHANGES, strict=True):
        for (of, age, by), values in given.items():
            if of == change and by in (ALONE, HELD) and values:
                left = (np.array(values)[:, None] >= wrong).mean(0)
                colour, line = plots.ORANGE if by == ALONE else plots.BLUE, "-" if age == "mature" else ":"
                axis.plot(wrong, left, color=colour, ls=line, label=f"{age}, {by}")
        axis.set(
            xscale="log", xlim=(1, 5_000), ylim=(0, 1.02), xlabel="wrong answers since the change", title=titles[change]
        )
    axes[0].set_ylabel("share of releases that gave as many")
    axes[-1].legend(fontsize=7, loc="lower left")
    plots.save(figure, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run everything, print the table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=200, help="of each change, all due to be noticed")
    parser.add_argument("--clean", type=int, default=300_000)
    parser.add_argument(
        "--gate", action="store_true", help="releases leave to the teacher what is far from all they learnt"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="draw how many wrong answers bad releases give (needs matplotlib)")
    arguments = parser.parse_args(argv)
    began, policy = time.perf_counter(), Policy()
    shared = Path(os.environ.get("JITR_SHARED", Path(__file__).parents[2] / "shared"))
    releases = Releases(shared, arguments.seed, policy, gate=arguments.gate)
    if next(iter(releases), None) is None:
        print("no call logs: set JITR_SHARED")
        return 0
    columns = (
        "change, release, watched by, streams, withdrawn, served: median (95% interval), … 95th percentile, "
        "audited: median - 95%, held: median - 95%, wrong: median - 95%, wrong: mean, warned after: median - 95%"
    )
    print(f"| {columns.replace(', ', ' | ').replace(' - ', ', ')} |\n|{'---|' * 12}")
    results, failed = [], False
    given: dict[tuple[str, str, str], list[int]] = {}
    for change in (*CHANGES, KEPT):
        streams = due(releases, change, arguments.streams, arguments.seed, policy)
        for age, answered in (("young", 0), ("mature", MATURE)):
            medians = {}
            for by in (ALONE, WARNED, HELD, FAR) if arguments.gate else (ALONE, WARNED, HELD):
                outs = []
                for k, calls in streams:
                    rng = np.random.default_rng([arguments.seed, 2, k])
                    outs.append(watch(calls, answered=answered, by=by, policy=policy, rng=rng))
                late = [o for o in outs if not o.early]
                gone = sum(o.withdrawn for o in late)
                served = [o.served for o in late]
                wrong = [o.wrong for o in late] or [0]
                medians[by] = np.median(wrong)
                failed |= change == KEPT and gone > 0
                row = {
                    "change": change, "release": age, "by": by, "due": len(late), "withdrawn": gone,
                    "served": middle(served), "served95": f"{np.quantile(served, 0.95):,.0f}" if served else "–",
                    "audited": quantiles([o.audited for o in late]), "held": quantiles([o.held for o in late]),
                    "wrong": quantiles(wrong), "wrong_mean": f"{np.mean(wrong):,.0f}",
                    "warned": quantiles([o.warned for o in late if o.warned is not None]),
                }  # fmt: skip
                results.append(row)
                given[change, age, by] = wrong
                print("| " + " | ".join(str(value) for value in row.values()) + " |", flush=True)
            failed |= age == "mature" and medians[HELD] > medians[ALONE]
        del streams
    print(f"{len(releases.made)} of {releases.tries} releases certified")
    found = releases.made
    by = FAR if arguments.gate else HELD
    served, withdrawn, warnings = clean(found, arguments.clean, arguments.seed, policy, by)
    print(f"clean: {served:,} served calls, {withdrawn} releases withdrawn that keep the promise, {warnings} warnings")
    print(f"{time.perf_counter() - began:.0f} s")
    if arguments.json:
        clean_row = {"served": served, "withdrawn": withdrawn, "warnings": warnings}
        arguments.json.write_text(json.dumps({"rows": results, "clean": clean_row}, indent=1))
    if arguments.plot:
        plot(given, arguments.plot)
    return int(failed or withdrawn > served / 100_000)


if __name__ == "__main__":
    sys.exit(main())
