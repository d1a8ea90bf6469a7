"""How well and how fast recurring tasks are found in call logs.

Usage: python benchmarks/identify.py CALLS… [--out PREDICTED.jsonl] [--show]
Prints per log: calls, tasks, templates, calls in a task, microseconds a look-up and a call, peak memory.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from jitr_core.identify import Identifier, Learned, identify_stream, join_prompt, prompt_text
from jitr_core.types import Call, Match


def read_calls(path: Path) -> Iterator[tuple[Call, str]]:
    """The calls of a log with their recorded answers; ground truth is left out."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with opened as lines:
        for number, line in enumerate(lines):
            record = json.loads(line)
            messages = tuple((message["role"], message["content"] or "") for message in record["messages"])
            call = Call(str(record.get("id", number)), messages, step=record.get("step") or "")
            yield call, record["answer"]


class Timed(Identifier):
    """An identifier that keeps the time of every look-up and lesson."""

    def __init__(self) -> None:
        super().__init__()
        self.matches: list[float] = []
        self.lessons: list[float] = []

    def match(self, call: Call) -> Match | None:
        """As always, timed."""
        start = time.perf_counter()
        found = super().match(call)
        if found is not None:
            self.matches.append(time.perf_counter() - start)
        return found

    def learn(self, call: Call) -> Learned:
        """As always, timed."""
        start = time.perf_counter()
        learned = super().learn(call)
        self.lessons.append(time.perf_counter() - start)
        return learned


def quantile(seconds: list[float], share: float) -> float:
    """Microseconds below which this share of the times lies."""
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))] * 1e6 if seconds else 0.0


def measure(path: Path, out: Path | None, show: bool) -> None:
    logged = list(read_calls(path))
    identifier = Timed()
    start = time.perf_counter()
    assigned = list(identify_stream((call for call, _ in logged), identifier, answers=(answer for _, answer in logged)))
    seconds = time.perf_counter() - start
    for call, _ in logged:
        match = identifier.match(call)
        if match is not None:
            template = identifier.template(match.template)
            assert template is not None and join_prompt(template.literals, match.slots) == prompt_text(call.messages)
    sizes = Counter(a.final_task for a in assigned)
    row = {
        "log": path.name.split(".")[0],
        "calls": len(logged),
        "tasks": len(set(sizes) - {None}),
        "templates": len(identifier.templates()),
        "placed": round(1 - sizes[None] / max(1, len(logged)), 4),
        "match_us_p50": round(quantile(identifier.matches, 0.5), 1),
        "match_us_p99": round(quantile(identifier.matches, 0.99), 1),
        "learn_us_p50": round(quantile(identifier.lessons, 0.5)),
        "learn_us_p99": round(quantile(identifier.lessons, 0.99)),
        "learn_us_max": round(max(identifier.lessons, default=0.0) * 1e6),
        "seconds": round(seconds, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(row))
    if show:
        by_task = Counter(a.final_task for a in assigned)
        for template in sorted(identifier.templates(), key=lambda t: (-by_task[t.task], t.task)):
            print(
                f"  {by_task[template.task]:6} {template.task} "
                + json.dumps("⟦…⟧".join(template.literals), ensure_ascii=False)[:400]
            )
    if out is not None:
        with out.open("w", encoding="utf-8") as lines:
            for a in assigned:
                lines.write(json.dumps({"id": a.id, "task": a.task, "final_task": a.final_task}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calls", nargs="+", type=Path, help="call logs, .jsonl or .jsonl.gz")
    parser.add_argument("--out", type=Path, help="where to write the assignment of the (only) log")
    parser.add_argument("--show", action="store_true", help="print the templates found")
    arguments = parser.parse_args()
    if arguments.out is not None and len(arguments.calls) > 1:
        parser.error("--out goes with a single log")
    for path in arguments.calls:
        measure(path, arguments.out, arguments.show)


if __name__ == "__main__":
    main()
