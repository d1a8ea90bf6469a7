"""Does the certificate hold where two wordings of a task are merged after a release? Simulated, with known truth.

Two wordings of one task with different agreement at the same confidence. The first one is released, then the second
comes, alone or beside it, and is merged with it. Calls of a wording that no release answers are all labelled, those of
the other by the coin, so labels as they are do not have the wordings in the shares of the calls. Compared:

    strata        what the project does: `jitr_core.collect.fair_sample`
    since merge   only labels the coin chose since the merge
    as they are   all labels that are a fair sample of their own wording

    python benchmarks/merges.py [--lives 300] [--seed 0] [--json OUT]

Exit code 1 where the one-sided 95% lower bound of the rate of broken promises exceeds delta for `strata`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from certificate import lower_bound

from jitr_core.audit import audit_share
from jitr_core.certify import Refusal, better, certify, next_attempt, peak_calls
from jitr_core.collect import fair_sample, strata
from jitr_core.config import Policy
from jitr_core.types import Example

CALLS = 8000
MERGED_AFTER = 100  # calls of the second wording
Agreement = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Scene:
    """Two wordings.

    Attributes:
        first, second: confidence → agreement, of each wording.
        share: of the calls that have the second wording from `begins` on.
        begins: the call from which on it comes.
    """

    first: Agreement
    second: Agreement
    share: float
    begins: int = 1500


def _falling(best: float, loss: float) -> Agreement:
    return lambda c: best - loss * (1 - c) ** 1.5


SCENES = {
    "new wording alike, alone": Scene(_falling(0.995, 0.2), _falling(0.995, 0.2), 1.0),
    "new wording harder, alone": Scene(_falling(0.995, 0.1), _falling(0.99, 0.5), 1.0),
    "new wording alike, beside": Scene(_falling(0.995, 0.2), _falling(0.995, 0.2), 0.4),
    "new wording harder, beside": Scene(_falling(0.995, 0.1), _falling(0.99, 0.5), 0.4),
    "just below the target in all": Scene(lambda c: np.full_like(c, 0.985), lambda c: np.full_like(c, 0.8974), 0.4),
    "just below the target, alone": Scene(lambda c: np.full_like(c, 0.99), lambda c: np.full_like(c, 0.9499), 1.0),
    "just below, rare": Scene(lambda c: np.full_like(c, 0.952), lambda c: np.full_like(c, 0.929), 0.1),
}


@dataclass
class Life:
    """One stream: the wording, confidence and luck of every call, and what became of it."""

    wording: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray
    labelled: np.ndarray
    fair: np.ndarray
    coin: np.ndarray
    broken: bool = False
    answered: int = 0
    agreed: int = 0
    first: int | None = None


def born(scene: Scene, rng: np.random.Generator) -> Life:
    """A stream of a scene."""
    late = np.arange(CALLS) >= scene.begins
    wording = (late & (rng.random(CALLS) < scene.share)).astype(int)
    confidence = rng.random(CALLS)
    likely = np.where(wording == 1, scene.second(confidence), scene.first(confidence))
    no = np.zeros(CALLS, bool)
    return Life(wording, confidence, rng.random(CALLS) < likely, no.copy(), no.copy(), no.copy())


def truth(scene: Scene, threshold: float, served: frozenset[int], since: int) -> float:
    """True agreement of a release on the calls to come."""
    c = np.linspace(threshold, 1, 2001)
    share = scene.share if since >= scene.begins else 0.0
    parts = [(w, s, a) for w, s, a in ((0, 1 - share, scene.first), (1, share, scene.second)) if w in served and s]
    return sum(s * a(c).mean() for _, s, a in parts) / sum(s for _, s, _ in parts) if parts else 1.0


def live(scene: Scene, how: str, policy: Policy, seed: Sequence[int]) -> Life:
    """The task's life; before the merge only the first wording is its own."""
    rng = np.random.default_rng(seed)
    life = born(scene, rng)
    merge = int(np.flatnonzero(np.cumsum(life.wording) >= MERGED_AFTER)[0])
    coins = rng.random(CALLS)
    active: tuple[float, frozenset[int]] | None = None
    served: dict[str, str] = {"0": "", "1": ""}
    restart, done, mine, answered, since, spent = 0, 0, 0, 0, 0, 0.0
    for i in range(CALLS):
        if i == merge and active:
            restart, mine = i, 0
            start = done
        own = life.wording[i] == 0 or i >= merge
        if i == merge and not active:
            mine = i
        asks = active is not None and int(life.wording[i]) in active[1]
        share = audit_share(since, policy, answered=answered, spent=spent) if active else 1.0
        life.coin[i] = coins[i] < share
        life.fair[i] = not asks or life.coin[i]
        says = asks and life.confidence[i] >= active[0]  # type: ignore[index]
        life.labelled[i] = life.coin[i] or not says
        if says:
            answered, since, spent = answered + 1, since + 1, spent + share
            life.agreed += int(life.correct[i])
        mine += own
        due = next_attempt(done - (start if restart else 0), policy).calls
        if not own or mine < due:
            continue
        delta, done = next_attempt(done, policy).delta, done + 1
        rows, spoken = sample(life, how, i + 1, merge, restart, served, policy)
        found = certify(life.confidence[rows], life.correct[rows], target=policy.target, delta=delta)
        if isinstance(found, Refusal):
            continue
        new = found.threshold, spoken
        if active and not gains(life, new, active, i):
            continue
        active, life.first, since = new, life.first or i, 0
        for wording in spoken:
            served[str(wording)] = served[str(wording)] or f"r{done}"
        life.broken |= truth(scene, found.threshold, spoken, i) < policy.target
    life.answered = answered
    return life


def gains(life: Life, new: tuple[float, frozenset[int]], old: tuple[float, frozenset[int]], now: int) -> bool:
    """Whether the new release answers more of the latest calls."""
    calls = np.arange(max(now - 2000, 0), now)
    takes = [np.isin(life.wording[calls], list(w)) & (life.confidence[calls] >= t) for t, w in (new, old)]
    return better(*takes)


def sample(
    life: Life, how: str, now: int, merge: int, restart: int, served: dict[str, str], policy: Policy
) -> tuple[np.ndarray, frozenset[int]]:
    """Rows that certify, and the wordings they speak for."""
    mine = (life.wording[:now] == 0) | (now > merge)
    fair = np.flatnonzero(life.labelled[:now] & life.fair[:now] & mine)
    wordings = frozenset(int(w) for w in np.unique(life.wording[fair]))
    if how == "as they are":
        return fair, wordings
    if how == "since merge":
        coin = fair[life.coin[fair] & (fair >= restart)] if restart else fair
        return coin, frozenset(int(w) for w in np.unique(life.wording[coin]))
    began = {released: int(np.flatnonzero((life.wording == int(w)) & (np.arange(CALLS) < now))[0])
             for w, released in served.items() if (life.wording[:now][mine] == int(w)).any()}  # fmt: skip
    youngest = max(began.values()) if len(began) > 1 else restart
    since = max(youngest, restart) if now - max(youngest, restart) >= policy.first_attempt else restart
    counts = np.bincount(life.wording[since:now][mine[since:now]], minlength=2)
    calls = {str(w): int(n) for w, n in enumerate(counts) if n or any(life.wording[fair] == w)}
    examples = [Example((), "", "", int(i), template=str(life.wording[i])) for i in fair]
    kept, spoken = fair_sample(
        examples, strata({w: served[w] for w in calls}, calls), enough=peak_calls(policy), seed=int(life.wording.sum())
    )
    rows = np.array([e.seq for e in kept if e.sampled], dtype=int)
    return rows, frozenset(int(w) for w in spoken)


def main(argv: Sequence[str] | None = None) -> int:
    """Run all scenes, print a table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lives", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    policy, began, failed, results = Policy(), time.perf_counter(), False, {}
    print("| scene | labels | lives | promise broken (95% low) | coverage | agreement |\n|---|---|---|---|---|---|")
    for n, (name, scene) in enumerate(SCENES.items()):
        for how in ("strata", "since merge", "as they are"):
            lives = [live(scene, how, policy, [arguments.seed, n, d]) for d in range(arguments.lives)]
            broken, answered = sum(bool(life.broken) for life in lives), sum(int(life.answered) for life in lives)
            low = lower_bound(broken, len(lives))
            failed |= how == "strata" and low > policy.delta
            agreement = sum(int(life.agreed) for life in lives) / max(answered, 1)
            coverage = answered / len(lives) / CALLS
            results[f"{name}, {how}"] = {"broken": broken, "coverage": coverage, "agreement": agreement}
            print(
                f"| {name} | {how} | {len(lives)} | {broken} ({low:.3f}) | {coverage:.3f} | {agreement:.4f} |",
                flush=True,
            )
    print(f"{'FAILED' if failed else 'holds'} at delta {policy.delta}; {time.perf_counter() - began:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
