"""Do noisy answers, an attacker or seasons bring a release that is worse? Whole lives through a real engine.

Every life is a real `JITR` that searches, certifies, compares, promotes, audits and rolls back in this process; the
teacher plays answers back. After every promotion the release is asked about clean calls that are not in the stream, and
about calls as the attacker makes them. Scenes: see `poisoned_streams.py`.

    python benchmarks/poisoned.py [--lives 4] [--calls 2400] [--logs NAME…] [--scenes NAME…] [--families NAME…]
        [--seed 0] [--json OUT]

Columns: releases; of these, how many agree with the teacher on less than the target on clean calls (behind the slash
those whose exact 95% upper bound is below it, too), and on the stream's own mixture; how many took the place of one
that kept the promise on the clean calls, and answer fewer of them or do not keep it (behind the slash, by more than
chance); share of the stream answered, and how much of that agreed; answers that were wrong, and of these those of
releases below the target; rollbacks. Clean calls are the log's own mixture; with seasons that of the season in which a
release is promoted, and "in both seasons alike" counts releases below the target where either has as many calls.

Exit code 1 where a release took the place of a better one by more than chance, or where broken promises are more than
delta allows: exact one-sided 95% lower bound of the rate of such lives, all scenes together. Broken is the promise of a
life with a release below the target on the stream's own mixture; with seasons, which have no such mixture, where the
answers given in the whole life agreed on less.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from certificate import lower_bound
from poisoned_streams import SCENES, SYNTHETIC, Row, Stream, rows_of
from scipy.special import betaincinv

from jitr_core import JITR, Policy
from jitr_core.types import Answer, Call, Decision

LOGS = (SYNTHETIC, "smsspam", "agnews")
SYSTEM = "You sort what people write. Answer with the name of the class and nothing else."
LESS = 0.01  # share of clean calls that a release may answer less than the one before and pass as no worse


@dataclass
class Judged:
    """What a release does with calls that are not in the stream.

    Attributes:
        answered, right: shape (n,), of the clean calls those it answers, and those it answers as the teacher.
        flooded: of the attacker's calls, shares it answers and answers as the teacher.
    """

    answered: np.ndarray
    right: np.ndarray
    flooded: tuple[float, float]

    def on(self, calls: np.ndarray) -> Judged:
        """The same on some of the calls."""
        return Judged(self.answered[calls], self.right[calls], self.flooded)

    def clean(self) -> tuple[int, int]:
        """Clean calls answered, and of these wrongly."""
        return int(self.answered.sum()), int((self.answered & ~self.right).sum())

    def clearly_below(self, target: float) -> bool:
        """Whether agreement on clean calls is below the target by more than chance, one-sided 95%."""
        calls, wrong = self.clean()
        return bool(calls and betaincinv(calls - wrong + 1, max(wrong, 1e-9), 0.95) < target)

    def own(self, flood: float) -> float:
        """Agreement where a share of the calls is the attacker's."""
        given = (1 - flood) * self.answered.mean() + flood * self.flooded[0]
        right = (1 - flood) * (self.answered & self.right).mean() + flood * self.flooded[1]
        return float(right / given) if given else 1.0


@dataclass
class Life:
    """What became of one stream."""

    releases: int = 0
    below: int = 0
    clearly: int = 0
    below_own: int = 0
    below_alike: int = 0
    worse: int = 0
    clearly_worse: int = 0
    answered: float = 0.0
    given: int = 0
    wrong: int = 0
    broken: bool = False
    wrong_below: int = 0
    rollbacks: int = 0
    searches: int = 0
    agreement: list[float] = field(default_factory=list)


class Run:
    """One life."""

    def __init__(self, rows: Sequence[Row], scene: str, policy: Policy, seed: Sequence[int], folder: str) -> None:
        self.stream, self.policy, self.life = Stream(rows, SCENES[scene], seed), policy, Life()
        self.jitr = JITR(
            f"sqlite:///{folder}/jitr.db", policy=policy, training="inline", seed=seed[-1], listener=self._hear
        )
        self._promoted = False
        self._active: Judged | None = None

    def _hear(self, event: dict[str, Any]) -> None:
        if event["kind"] == "search":
            self.life.searches += 1
            self._promoted |= event["report"].certificate is not None and not event["report"].refusal
        elif event["kind"] == "rollback":
            self.life.rollbacks += 1
            self._active = None

    def _decide(self, text: str, call: str) -> tuple[Call, Decision]:
        asked = Call(call, (("system", SYSTEM), ("user", text)), step="sort")
        return asked, self.jitr.decide(asked)

    def live(self, calls: int) -> Life:
        """Stream the calls."""
        life, given = self.life, 0
        for i in range(calls):
            text, teacher, _ = self.stream.next(i, self._active is not None)
            call, decision = self._decide(text, str(i))
            if decision.kind == "replacement":
                given += 1
                life.wrong += decision.answer != teacher
                if decision.answer != teacher and self._active is not None and self._is_below(self._active):
                    life.wrong_below += 1
                if decision.audit:
                    self.jitr.audit(call, decision, lambda said=teacher: Answer(said))
                else:
                    self.jitr.observe(call, decision, None)
            else:
                self.jitr.observe(call, decision, Answer(teacher))
            if self._promoted:
                self._judge(self.stream.clean(i))
        life.answered, life.given = given / calls, given
        seasons = self.stream.scene.period or self.stream.scene.late
        life.broken = life.wrong > (1 - self.policy.target) * given if seasons else life.below_own > 0
        self.jitr.close()
        return life

    def _is_below(self, judged: Judged) -> bool:
        answered, wrong = judged.clean()
        return wrong > (1 - self.policy.target) * answered

    def _judge(self, calls: np.ndarray) -> None:
        """Ask the release that has just been promoted about calls that are not in the stream; judge it on some."""
        self._promoted = False
        self.jitr.flush()
        found = [self._decide(text, "held")[1] for text, _ in self.stream.held]
        answered = np.array([_gives(d) for d in found])
        right = np.array([d.answer == said for d, (_, said) in zip(found, self.stream.held, strict=True)])
        flood = [(self._decide(text, "flood")[1], said) for text, said in self.stream.flood]
        shares = [
            float(np.mean([_gives(d) and (d.answer == said or not told) for d, said in flood] or [0.0]))
            for told in (False, True)
        ]
        everywhere = Judged(answered, right, (shares[0], shares[1]))
        new, old = everywhere.on(calls), self._active.on(calls) if self._active is not None else None
        life, target = self.life, self.policy.target
        given, wrong = new.clean()
        life.releases += 1
        life.agreement.append(1 - wrong / given if given else 1.0)
        life.below_alike += self._is_below(everywhere)
        life.below += self._is_below(new)
        life.clearly += new.clearly_below(target)
        life.below_own += new.own(self.stream.scene.flood) < target
        if old is not None:
            less = new.answered.mean() < old.answered.mean() - LESS
            life.worse += not self._is_below(old) and bool(less or self._is_below(new))
            life.clearly_worse += not self._is_below(old) and bool(less or new.clearly_below(target))
        self._active = everywhere


def _gives(decision: Decision) -> bool:
    """Whether the release gives an answer, now or as soon as it is no longer held."""
    return decision.kind == "replacement" or decision.reason == "audit_hold"


def summary(lives: list[Life]) -> dict[str, Any]:
    """Figures of many lives."""
    sums = {k: sum(getattr(life, k) for life in lives) for k in asdict(lives[0]) if k not in ("answered", "agreement")}
    found = [a for life in lives for a in life.agreement]
    return {
        "lives": len(lives),
        **sums,
        "agreed": round(1 - sums["wrong"] / sums["given"], 4) if sums["given"] else None,
        "coverage": round(float(np.mean([life.answered for life in lives])), 4),
        "least": round(min(found), 4) if found else None,
    }


def show(log: str, scene: str, s: dict[str, Any], seconds: float) -> None:
    """One row of the table."""
    least, agreed = ("–" if s[key] is None else f"{s[key]:.3f}" for key in ("least", "agreed"))
    print(
        f"| {log} | {scene} | {s['lives']} | {s['releases']} | {s['below']} / {s['clearly']} | {least} | "
        f"{s['below_own']} | {s['below_alike']} | {s['worse']} / {s['clearly_worse']} | "
        f"{s['coverage']:.3f} | {agreed} | {s['wrong']} | "
        f"{s['wrong_below']} | {s['rollbacks']} | {seconds:.0f} |",
        flush=True,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run everything, print the table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lives", type=int, default=4, help="of each scene and log")
    parser.add_argument("--calls", type=int, default=2_400)
    parser.add_argument("--logs", nargs="+", default=list(LOGS))
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--families", nargs="+", default=["lexical"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    shared = Path(os.environ.get("JITR_SHARED", Path(__file__).parents[2] / "shared"))
    policy = Policy(families=tuple(arguments.families), horizon_days=None)
    columns = (
        "log, scene, lives, releases, below on clean calls, least agreement there, below on its own, "
        "in both seasons alike, worse, "
        "coverage, agreement, wrong, of releases below, rollbacks, seconds"
    )
    print(f"| {columns.replace(', ', ' | ')} |\n|{'---|' * 15}")
    results: dict[str, dict[str, Any]] = {}
    for log in arguments.logs:
        rows = rows_of(shared, log)
        for scene in arguments.scenes if rows else ():
            began, lives = time.perf_counter(), []
            for life in range(arguments.lives):
                with tempfile.TemporaryDirectory(prefix="jitr-poisoned-") as folder:
                    lives.append(Run(rows, scene, policy, [arguments.seed, life], folder).live(arguments.calls))
            results[f"{log}: {scene}"] = found = summary(lives)
            show(log, scene, found, time.perf_counter() - began)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    return verdict(results, policy.delta)


def verdict(results: dict[str, dict[str, Any]], delta: float) -> int:
    """Print the pooled rates; 1 if a promise is broken too often or a better release was replaced."""
    lives, broken = (sum(r[key] for r in results.values()) for key in ("lives", "broken"))
    worse, releases = (sum(r[key] for r in results.values()) for key in ("clearly_worse", "releases"))
    low = lower_bound(broken, lives)
    print(
        f"promise broken in {broken} of {lives} lives (95% lower bound {low:.3f}); {worse} of {releases} releases worse"
    )
    return int(low > delta or worse > 0)


if __name__ == "__main__":
    sys.exit(main())
