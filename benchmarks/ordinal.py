"""Would the order of labels help? Confidence with and without signs that know the order.

    python benchmarks/ordinal.py [--target 0.9] [--samples 12]

Samples of phrasebank-gpt4 (negative, neutral, positive) and made logs of ratings from 1 to 5 are searched twice: as
they are, and with signs of the order beside what the confidence is made of (expected rank, variance, distance of the
answer).
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jitr_core.base_models import BaseModels
from jitr_core.calllog import read_calls
from jitr_core.certify import Refusal, certify
from jitr_core.collect import build_dataset
from jitr_core.config import Policy
from jitr_core.search import search
from jitr_core.search.judge import half_errors, hindsight
from jitr_core.students import combine
from jitr_core.students.classes import Classes
from jitr_core.types import Example

Pairs = list[tuple[str, str]]
MOODS, STARS = ("NEGATIVE", "NEUTRAL", "POSITIVE"), tuple("12345")


def phrasebank() -> Pairs:
    """Sentences and what GPT-4 said of them."""
    path = Path(os.environ.get("JITR_SHARED", "../shared")) / "data" / "calls" / "phrasebank-gpt4.jsonl.gz"
    return [(str(record.messages[1]["content"]), record.answer) for record in read_calls([path])]


def ratings(count: int, seed: int) -> Pairs:
    """Texts whose words add up to a rating, and some noise."""
    rng = random.Random(seed)
    worth = {f"w{i}": rng.gauss(0, 1) for i in range(60)}
    made = []
    for i in range(count):
        words = rng.choices(sorted(worth), k=8)
        total = sum(worth[word] for word in words) / 8**0.5 * 1.2 + rng.gauss(0, 0.35)
        made.append((" ".join(words) + f" no{i}", str(int(np.clip(np.round(total + 3), 1, 5)))))
    return made


def both(pairs: Pairs, order: tuple[str, ...], families: tuple[str, ...], target: float) -> list[list[float]]:
    """Agreement, coverage in hindsight, certified coverage and errors of the surer half: without and with the order."""
    dataset = build_dataset([Example((text,), answer, text, i) for i, (text, answer) in enumerate(pairs)], len(pairs))
    ranks = np.array([order.index(each.strip()) for each in Classes.of(dataset.labels, 300).answers], float)
    plain: Any = combine._features

    def ordered(scores: Any, pooled: Any, chosen: Any, reliability: Any) -> Any:
        mean = pooled @ ranks
        variance = pooled @ ranks**2 - mean**2
        signs = [variance, np.log(variance + 1e-6), np.abs(mean - ranks[chosen]), mean]
        return np.column_stack([plain(scores, pooled, chosen, reliability), *signs])

    rows = []
    for features in (plain, ordered):
        combine._features = features
        try:
            found = search(dataset, policy=Policy(families=families), base_models=BaseModels())
        finally:
            combine._features = plain
        right = np.array([a == b for a, b in zip(found.predicted, dataset.labels, strict=True)])
        certificate = certify(found.confidence, right, target=target, delta=0.05)
        coverage = 0.0 if isinstance(certificate, Refusal) else certificate.coverage
        share = hindsight(found.confidence, right, target)
        rows.append([float(right.mean()), share, coverage, half_errors(found.confidence, right)])
    return rows


def tell(name: str, rows: Iterable[list[list[float]]]) -> None:
    """Prints the means without the order, and what it changes, with standard errors."""
    found = np.array(list(rows))
    change = found[:, 1] - found[:, 0]
    error = change.std(axis=0, ddof=1) / len(change) ** 0.5
    print(f"{name}: agreement, coverage in hindsight, certified coverage, errors of the surer half")
    print(f"  without {np.round(found[:, 0].mean(axis=0), 3)}, the order changes them by", end=" ")
    print(f"{np.round(change.mean(axis=0), 3)} ± {np.round(error, 3)}")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=float, default=0.9)
    parser.add_argument("--samples", type=int, default=12)
    args = parser.parse_args()
    calls, rng = phrasebank(), random.Random(0)
    sizes = (500, 700, 900)
    samples = [rng.sample(calls, sizes[i % 3]) for i in range(args.samples)]
    tell("phrasebank-gpt4", [both(each, MOODS, ("lexical", "static"), args.target) for each in samples])
    made = [ratings(800, seed) for seed in range(args.samples)]
    tell("ratings", [both(each, STARS, ("lexical",), args.target) for each in made])


if __name__ == "__main__":
    main()
