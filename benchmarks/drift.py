"""How soon is a release withdrawn when calls or teacher change, and how often for nothing?

Streams spliced from real logs (read from `JITR_SHARED`): a release certified on one half of a log serves the other half
for a while, then

    teacher   the teacher gives other answers to 40% of the classes, under the same name
    topics    half of the calls come from another log, with answers the release does not know
    mix       a fifth of the classes makes up four fifths of the calls

Compared: audits alone, and audits that warnings of drift make more frequent (`jitr_core.drift`), both with the release
young (it has answered nothing yet) and mature (50,000 calls, so that 0.5% are audited). The student is a ridge
classifier on fixed features without a gate for inputs out of distribution, so changes of topic reach it in full.

    python benchmarks/drift.py [--streams 200] [--clean 300000] [--seed 0] [--json OUT]

Exit code 1 if more than one release in 100,000 clean served calls was withdrawn, or warnings do not make it sooner.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from certificate_streams import Data, Log, load_log

from jitr_core.audit import AuditMonitor, audit_share
from jitr_core.certify import Refusal, certify
from jitr_core.config import Policy
from jitr_core.drift import Signals
from jitr_core.store import Handled
from jitr_core.worth import expected_audits

LOGS = ("smsspam", "clinc150", "trec", "banking77-gpt4", "phrasebank-gpt4")
STABLE, AFTER = 2_000, 20_000
MATURE = 50_000
CHANGES = ("teacher", "topics", "mix")


@dataclass(frozen=True)
class Release:
    """A certified release: what it does with each call of a log."""

    confidence: np.ndarray
    given: np.ndarray
    threshold: float


@dataclass
class Outcome:
    """What became of a stream after the change; counts of calls."""

    due: bool
    served: int | None = None
    audited: int = 0
    wrong: int = 0
    warned: int | None = None
    early: bool = False


class Ridge(Log):
    """The log, with what the student answers to each call, and to those of another log."""

    def release(self, policy: Policy, foreign: np.ndarray | None) -> tuple[Release, np.ndarray, Release | None] | None:
        """The release on the second half and on foreign features, with the teacher's answers; None if not certified."""
        half = np.arange(len(self._y) // 2)
        fit = self.fit(half)
        found = certify(fit.crossfit, fit.crossfit_correct, target=policy.target, delta=policy.delta)
        if isinstance(found, Refusal):
            return None
        rest = np.arange(len(half), len(self._y))
        given = np.asarray(fit.given)
        own = Release(fit.confidence[rest], given[rest], found.threshold)
        other = None
        if foreign is not None:
            c, g = self.answer(np.hstack([foreign, np.ones((len(foreign), 1), dtype=np.float32)]))
            other = Release(c, g, found.threshold)
        return own, self._y[rest], other


def stream(
    release: Release, teacher: np.ndarray, other: Release | None, change: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(confidence, given, teacher's answer) of STABLE calls and of AFTER changed ones."""
    n = len(teacher)
    rows = rng.integers(0, n, STABLE + AFTER)
    confidence, given, said = release.confidence[rows], release.given[rows], teacher[rows].copy()
    late = np.arange(STABLE + AFTER) >= STABLE
    classes = np.unique(teacher)
    if change == "teacher":
        changed = rng.permutation(classes)[: max(round(0.4 * len(classes)), 1)]
        mapped = dict(zip(changed, rng.permutation(np.setdiff1d(classes, changed[:0]))[: len(changed)], strict=True))
        for old, new in mapped.items():
            said[late & (teacher[rows] == old)] = new if new != old else classes.max() + 1
    elif change == "topics" and other is not None:
        take = late & (rng.random(len(rows)) < 0.5)
        foreign = rng.integers(0, len(other.given), len(rows))
        confidence, given = confidence.copy(), given.copy()
        confidence[take], given[take] = other.confidence[foreign[take]], other.given[foreign[take]]
        said[take] = classes.max() + 1
    elif change == "mix":
        favoured = np.isin(teacher, rng.permutation(classes)[: max(round(0.2 * len(classes)), 1)])
        odds = np.where(favoured, 0.8 / favoured.mean(), 0.2 / max(1 - favoured.mean(), 1e-9))
        picked = rng.choice(n, size=len(rows), p=odds / odds.sum())
        confidence = np.where(late, release.confidence[picked], confidence)
        given, said = np.where(late, release.given[picked], given), np.where(late, teacher[picked], said)
    return confidence, given, said


def watch(
    calls: tuple[np.ndarray, np.ndarray, np.ndarray],
    threshold: float,
    *,
    answered: int,
    warnings: bool,
    policy: Policy,
    rng: np.random.Generator,
    only_due: bool = True,
) -> Outcome:
    """Serve a stream until its release is withdrawn; `only_due`: unless it keeps its promise after the change."""
    confidence, given, said = calls
    takes, right = confidence >= threshold, given == said
    late = takes[STABLE:]
    out = Outcome(due=bool(late.any() and right[STABLE:][late].mean() < policy.target))
    if not out.due and only_due:
        return out
    monitor, seen, warned, served = (
        AuditMonitor(target=policy.target, audit_delta=policy.audit_delta),
        Signals(0),
        False,
        0,
    )
    coins, since, spent = rng.random(len(takes)), answered, expected_audits(answered, policy)
    for i in range(len(takes)):
        share = audit_share(since, policy, answered=answered, spent=spent, warned=warned)
        audits = takes[i] and coins[i] < share
        if i == STABLE:
            served, out.audited = 0, 0
        if takes[i]:
            answered, since, served, spent = answered + 1, since + 1, served + 1, spent + share
            out.audited += int(audits)
            out.wrong += int(i >= STABLE and not right[i])
            if audits and monitor.update(bool(right[i])) == "rollback":
                out.early = i < STABLE
                out.served = served
                return out
        if warnings:
            told = None if takes[i] else str(said[i])
            call = Handled(i, "answered" if takes[i] else "deferral", "", str(given[i]), told)
            if seen.update(call, str.__eq__) is not None:
                seen, warned, since = Signals(i), True, 0
                if out.warned is None and i >= STABLE:
                    out.warned = i - STABLE
    return out


def quantiles(values: list[int]) -> str:
    """Median and 95th percentile."""
    return f"{np.median(values):,.0f}, {np.quantile(values, 0.95):,.0f}" if values else "–"


def prepared(shared: Path, streams: int, seed: int, policy: Policy) -> list[tuple[Release, np.ndarray, Release | None]]:
    """Certified releases on random halves of the logs."""
    logs = [data for data in (load_log(shared, name) for name in LOGS) if data is not None]
    found = []
    for k in range(streams):
        data: Data = logs[k % len(logs)]
        foreign = logs[(k + 1) % len(logs)].features
        made = Ridge(data, [seed, k]).release(policy, foreign if foreign.shape[1] == data.features.shape[1] else None)
        if made is not None:
            found.append(made)
    return found


def clean(
    found: list[tuple[Release, np.ndarray, Release | None]], calls: int, seed: int, policy: Policy
) -> tuple[int, ...]:
    """Served calls without a change, releases withdrawn that keep the promise, and warnings."""
    served = withdrawn = warnings = 0
    k = 0
    while served < calls:
        release, teacher, _ = found[k % len(found)]
        rng = np.random.default_rng([seed, 9, k])
        k += 1
        takes = release.confidence >= release.threshold
        if not takes.any() or (release.given == teacher)[takes].mean() < policy.target:
            continue  # the promise is broken: withdrawing it is right
        out = watch(
            stream(release, teacher, None, "none", rng),
            release.threshold,
            answered=0,
            warnings=True,
            policy=policy,
            rng=rng,
        )
        served += round((STABLE + AFTER) * takes.mean())
        withdrawn += out.served is not None
        warnings += out.warned is not None
    return served, withdrawn, warnings


def main(argv: Sequence[str] | None = None) -> int:
    """Run everything, print the table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--clean", type=int, default=300_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    began, policy = time.perf_counter(), Policy()
    shared = Path(os.environ.get("JITR_SHARED", Path(__file__).parents[2] / "shared"))
    found = prepared(shared, arguments.streams, arguments.seed, policy)
    print(f"{len(found)} of {arguments.streams} releases certified")
    if not found:
        print("no call logs: set JITR_SHARED")
        return 0
    columns = (
        "change, release, watched by, due, withdrawn, served until then: median - 95%, audited, wrong, warned after"
    )
    print(f"| {columns.replace(', ', ' | ')} |\n|{'---|' * 9}")
    results, slower = [], False
    for change in CHANGES:
        for age, answered in (("young", 0), ("mature", MATURE)):
            medians = []
            for warnings in (False, True):
                outs = []
                for k, (release, teacher, other) in enumerate(found):
                    if change == "topics" and other is None:
                        continue
                    calls = stream(release, teacher, other, change, np.random.default_rng([arguments.seed, 1, k]))
                    rng = np.random.default_rng([arguments.seed, 2, k])
                    outs.append(
                        watch(calls, release.threshold, answered=answered, warnings=warnings, policy=policy, rng=rng)
                    )
                due = [o for o in outs if o.due and not o.early]
                gone = [o for o in due if o.served is not None]
                served = [o.served or 0 for o in gone] + [AFTER] * (len(due) - len(gone))
                medians.append(np.median(served) if served else 0)
                warned = [o.warned for o in due if o.warned is not None]
                row = {
                    "change": change, "release": age, "by": "audits and warnings" if warnings else "audits alone",
                    "due": len(due), "withdrawn": len(gone), "served": quantiles(served),
                    "audited": quantiles([o.audited for o in gone]), "wrong": quantiles([o.wrong for o in due]),
                    "warned": quantiles(warned),
                }  # fmt: skip
                results.append(row)
                print("| " + " | ".join(str(value) for value in row.values()) + " |", flush=True)
            slower |= age == "mature" and medians[1] > medians[0]
    served, withdrawn, warnings = clean(found, arguments.clean, arguments.seed, policy)
    print(f"clean: {served:,} served calls, {withdrawn} releases withdrawn that keep the promise, {warnings} warnings")
    print(f"{time.perf_counter() - began:.0f} s")
    if arguments.json:
        clean_row = {"served": served, "withdrawn": withdrawn, "warnings": warnings}
        arguments.json.write_text(json.dumps({"rows": results, "clean": clean_row}, indent=1))
    return int(slower or withdrawn > served / 100_000)


if __name__ == "__main__":
    sys.exit(main())
