"""What the calls in no crowd are good for: every attempt of a life certified with and without a say of theirs.

Streams as in `poisoned_streams.py`; nothing is ever released, so that every attempt has all labels and both ways see
the same students and calls. What is certified is asked about clean calls that are not in the stream.

    python benchmarks/crowds.py [--lives 2] [--logs NAME…] [--scenes NAME…]

Columns: attempts; calls that are seen to crowd, of the attacker's and of the others; then without and with: certified,
of these below the target on clean calls (behind the slash by more than chance), least agreement there, and the share of
the clean calls that would be answered, mean over all attempts.

Exit code 1 where, with a say of theirs, more attempts under an attacker are below by more than chance than delta
allows.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from poisoned_streams import SCENES, SYNTHETIC, Stream, rows_of
from scipy.special import betaincinv

from jitr_core import Policy
from jitr_core.base_models import BaseModels
from jitr_core.certify import Refusal, certify, next_attempt
from jitr_core.collect import build_dataset
from jitr_core.crowd import apart
from jitr_core.identify.text import normalise
from jitr_core.search import search
from jitr_core.types import Example

POLICY = Policy(families=("lexical",), horizon_days=None)
FLOODS = ("one input, stops", "copies, stops", "clean")


@dataclass
class Tried:
    """One attempt: what it certifies on, and what its student says to clean calls.

    Attributes:
        confidence, right, attack, alone: shape (k,), of the labelled calls.
        sure, agrees: shape (n,), of the clean calls.
        delta: what the attempt may spend.
    """

    confidence: np.ndarray
    right: np.ndarray
    attack: np.ndarray
    alone: np.ndarray
    sure: np.ndarray
    agrees: np.ndarray
    delta: float

    def outcome(self, crowds: bool) -> tuple[int, int]:
        """Clean calls that would be answered, 0 where nothing is certified, and of these wrongly."""
        alone = self.alone if crowds else None
        found = certify(self.confidence, self.right, target=POLICY.target, delta=self.delta, apart=alone)
        if isinstance(found, Refusal):
            return 0, 0
        answered = self.sure >= found.threshold
        return int(answered.sum()), int((answered & ~self.agrees).sum())


def tries(rows: Sequence[tuple[str, str]], scene: str, life: int, calls: int) -> Iterator[Tried]:
    """The attempts of a life in which nothing is released."""
    stream = Stream(rows, SCENES[scene], [0, life])
    seen = [stream.next(i, False) for i in range(calls)]
    index = 0
    while (attempt := next_attempt(index, POLICY)).calls <= calls:
        index += 1
        some = seen[: attempt.calls]
        examples = [Example((text,), said, normalise(text), i) for i, (text, said, _) in enumerate(some)]
        dataset = build_dataset(examples, POLICY.max_examples)
        result = search(dataset, policy=POLICY, base_models=BaseModels(), seed=life)
        if result.refusal:
            continue
        answers, sure = result.fit().predict([(text,) for text, _ in stream.held])[:2]
        yield Tried(
            result.confidence[dataset.group],
            np.array([result.predicted[g] == said for g, said in zip(dataset.group, dataset.answers, strict=True)]),
            np.array([attack for *_, attack in some]),
            apart(dataset.inputs, dataset.group, 1 - POLICY.target),
            np.asarray(sure),
            np.array([answer == said for answer, (_, said) in zip(answers, stream.held, strict=True)]),
            attempt.delta,
        )


def show(log: str, scene: str, tried: Sequence[Tried]) -> tuple[int, int]:
    """Print one row; how many were certified with a say of the others, and of these clearly below."""
    attack, crowd = (np.concatenate([getattr(each, name) for each in tried]) for name in ("attack", "alone"))
    seen = [f"{(~crowd[mine]).mean():.3f}" if mine.any() else "–" for mine in (attack, ~attack)]
    cells, certified, clearly = [], 0, 0
    for crowds in (False, True):
        found = [each.outcome(crowds) for each in tried]
        given = [(n, wrong) for n, wrong in found if n]
        below = [(n, wrong) for n, wrong in given if wrong > (1 - POLICY.target) * n]
        clearly = sum(float(betaincinv(n - wrong + 1, wrong, 0.95)) < POLICY.target for n, wrong in below)
        certified = len(given)
        least = min((1 - wrong / n for n, wrong in given), default=1.0)
        share = np.mean([n / len(each.sure) for (n, _), each in zip(found, tried, strict=True)])
        cells.append(f"{certified} | {len(below)} / {clearly} | {least:.3f} | {share:.3f}")
    print(f"| {log} | {scene} | {len(tried)} | {' | '.join(seen)} | {' | '.join(cells)} |", flush=True)
    return certified, clearly


def main(argv: Sequence[str] | None = None) -> int:
    """Run everything, print the table, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lives", type=int, default=2, help="of each scene and log")
    parser.add_argument("--calls", type=int, default=2_400)
    parser.add_argument("--logs", nargs="+", default=[SYNTHETIC, "smsspam"])
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(FLOODS))
    arguments = parser.parse_args(argv)
    shared = Path(os.environ.get("JITR_SHARED", Path(__file__).parents[2] / "shared"))
    way = "certified | below | least | coverage"
    print(f"| log | scene | attempts | attacker's | others | {way} | {way} |\n|{'---|' * 13}")
    attempts = clearly = 0
    for log in arguments.logs:
        rows = rows_of(shared, log)
        for scene in arguments.scenes if rows else ():
            tried = [each for life in range(arguments.lives) for each in tries(rows, scene, life, arguments.calls)]
            below = show(log, scene, tried)[1]
            if SCENES[scene].flood:
                attempts, clearly = attempts + len(tried), clearly + below
    low = float(betaincinv(clearly, attempts - clearly + 1, 0.05)) if clearly else 0.0
    return int(low > POLICY.delta)


if __name__ == "__main__":
    sys.exit(main())
