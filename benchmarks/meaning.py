"""How well freely worded tasks are found in synthetic streams, and what they cost.

Usage: python benchmarks/meaning.py
Prints, for wordings the method was not developed with: the share of each job's calls in a task of its own, the share of
one-off calls caught, and microseconds (p50, p99) of looking up a call that is recognised, a one-off call, and a call
while no freely worded task is known. The vectors are those of the prepared static model, of plain words without one.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from wording import WordModel, stream

from jitr_core.base_models import BaseModels
from jitr_core.identify import Identifier, identify_stream
from jitr_core.identify.meaning import Meaning
from jitr_core.types import Call
from jitr_core.vectors import MemoryIndex

STREAMS = (
    {"spam": 250, "topic": 250, "good": 250},
    {"good": 250, "bad": 250, "topic": 250},
    {"good": 350, "bad": 150},
    {"topic": 250},
    {},
)


def lookups(identifier: Identifier, calls: list[Call]) -> str:
    """p50 and p99 of a look-up, in microseconds."""
    times = []
    for call in calls * 3:
        start = time.perf_counter()
        identifier.match(call)
        times.append((time.perf_counter() - start) * 1e6)
    times.sort()
    return f"{times[len(times) // 2]:.0f} / {times[int(len(times) * 0.99)]:.0f}" if times else "-"


def main() -> None:
    model = BaseModels().get("static") or WordModel()
    print(f"vectors: {type(model).__name__}")
    for counts in STREAMS:
        caught: Counter[str | None] = Counter()
        pure = total = 0
        start = time.perf_counter()
        asked: Counter[str | None] = Counter()
        for seed in (1, 2, 3):
            calls, answers, jobs = stream(counts, seed, test=True, others=600)
            identifier = Identifier()
            meaning = identifier.meaning = Meaning(lambda: model, MemoryIndex)
            assigned = list(identify_stream(calls, identifier, answers=answers))
            for task in {template.task for template, _ in meaning.patterns}:
                members = Counter(job for each, job in zip(assigned, jobs, strict=True) if each.final_task == task)
                caught += members
                total += members.total()
                pure += members.most_common(1)[0][1] if members else 0
            asked.update(jobs)
        seconds = time.perf_counter() - start
        row = {
            "stream": counts,
            "caught": {str(job): round(caught[job] / number, 3) for job, number in sorted(asked.items(), key=str)},
            "precision": round(pure / total, 3) if total else None,
            "seconds": round(seconds, 1),
        }
        known = [call for call in calls if meaning.match(call) is not None]
        row["recognised_us"] = lookups(identifier, known)
        row["one_off_us"] = lookups(identifier, [call for call, job in zip(calls, jobs, strict=True) if job is None])
        identifier.meaning = None
        row["without_us"] = lookups(identifier, calls)
        print(json.dumps(row))


if __name__ == "__main__":
    main()
