"""What a replaced call costs: students answering one input, and 32 in a row, on one thread.

    python benchmarks/inference.py [--quick] [--cache DIR] [--json OUT]

Inputs are made up: short ones of about 12 words, and long ones of 200. Exit code 1 where a budget is missed: at the
median 0.5 ms for lexical and static students and 10 ms for students with an encoder on short inputs, and at least 150
short inputs a second one after the other. The encoder is prepared first where it was not yet; without the extra
`offline` only lexical students are measured. Times are wall times: on a busy machine they say little.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from jitr_core.base_models import BaseModels
from jitr_core.config import FAMILIES
from jitr_core.students import LinearStudent
from jitr_core.students.recipes import candidates
from jitr_core.students.training import Bench, Classes

BUDGET_S = {None: 0.0005, "static": 0.0005, "encoder": 0.010}
LEAST_PER_SECOND = 150
SUBJECTS = "card payment transfer refund account cash fee limit statement pin".split()
FILLER = (
    "my the was is not why how when please help today again yesterday still charged declined pending missing wrong new "
    "old twice abroad online shop bank app phone waiting hello thanks urgent really should could would money back"
).split()


def inputs(count: int, words: int, rng: random.Random) -> list[tuple[str]]:
    """Made-up messages, each about one subject."""
    made = []
    for i in range(count):
        text = [*rng.choices(FILLER, k=words - 2), SUBJECTS[i % len(SUBJECTS)], f"no{rng.randint(0, 9999)}"]
        rng.shuffle(text)
        made.append((" ".join(text),))
    return made


def train(name: str, texts: Sequence[tuple[str]], base_models: BaseModels) -> tuple[LinearStudent, float]:
    """A student of this candidate, and the seconds that training it took."""
    labels = [SUBJECTS[i % len(SUBJECTS)] for i in range(len(texts))]
    began = time.perf_counter()
    bench = Bench(texts, Classes.of(labels, 300), np.arange(len(texts)) % 10, base_models)
    recipe = next(r for r in candidates(FAMILIES, paired=False) if r.name == name)
    return bench.fit(recipe), time.perf_counter() - began


def median_s(student: LinearStudent, texts: Sequence[tuple[str]]) -> float:
    """Seconds an answer takes at the median."""
    taken = []
    for text in texts:
        began = time.perf_counter()
        student.predict_one(text)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def per_second(student: LinearStudent, texts: Sequence[tuple[str]]) -> float:
    """Answers a second to 32 inputs in a row, best of the batches."""
    best = 0.0
    for start in range(0, len(texts) - 31, 32):
        began = time.perf_counter()
        student.predict(texts[start : start + 32])
        best = max(best, 32 / (time.perf_counter() - began))
    return best


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer inputs")
    parser.add_argument("--cache", default=None, help="folder of prepared base models")
    parser.add_argument("--json", type=Path, default=None, help="write the figures there")
    arguments = parser.parse_args(argv)
    rng, base_models = random.Random(0), BaseModels(arguments.cache)
    missing = base_models.prepare()
    known = inputs(300 if arguments.quick else 1500, 12, rng)
    short, long = inputs(96 if arguments.quick else 320, 12, rng), inputs(32, 200, rng)
    figures, missed = [], False
    print("| candidate | training, s | one short input, ms | one long input, ms | short inputs / s |")
    print("|---|---|---|---|---|")
    for recipe in candidates(FAMILIES, paired=False):
        if recipe.base and missing:
            print(f"| {recipe.name} | {missing} | | | |")
            continue
        student, seconds = train(recipe.name, known, base_models)
        student.predict(short[:8])
        row = {
            "candidate": recipe.name,
            "training_s": seconds,
            "short_s": median_s(student, short),
            "long_s": median_s(student, [(text[: student.gate.most_chars],) for (text,) in long]),
            "short_per_s": per_second(student, short),
        }
        over = row["short_s"] > BUDGET_S[recipe.base] or row["short_per_s"] < LEAST_PER_SECOND
        missed |= over
        print(
            f"| {row['candidate']} | {seconds:.2f} | {row['short_s'] * 1e3:.2f} | {row['long_s'] * 1e3:.2f} | "
            f"{row['short_per_s']:.0f} |{' over budget' if over else ''}",
            flush=True,
        )
        figures.append(row)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
