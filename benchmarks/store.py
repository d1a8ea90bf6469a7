"""How many observations a second the store takes in, and what that costs in memory.

Usage: python benchmarks/store.py [--observations N]
Exit code 1 if a budget is missed by more than half.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from jitr_core.store import Store
from jitr_core.types import Answer, Call, Decision, Match, Observation, Task, Template

BATCH = 256
BUDGET_PER_S = 5_000.0
BUDGET_GROWTH_MIB = 16.0
TOLERANCE = 1.5
TEXT = "The parcel arrived two days late and the box was open, but everything was inside and works well. "


def resident_mib() -> float:
    """Memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def batch(start: int, size: int) -> list[Observation]:
    """Calls like those of a classification step; every eighth is a one-off with its whole prompt."""
    calls = []
    for number in range(start, start + size):
        one_off = number % 8 == 0
        messages = (("user", f"{TEXT * 3}{number}"),) if one_off else ()
        call = Call(f"call-{number}", messages, "shop", "", "triage", "", "gpt-4.1", float(number))
        match = None if one_off else Match("t", "T", (f"{number} {TEXT}",))
        decision = Decision("teacher", "no_task" if one_off else "no_release", match)
        calls.append(Observation(call, decision, Answer("positive", "gpt-4.1", 120, 2, 0.8)))
    return calls


def fill(store: Store, observations: int) -> tuple[list[float], float, float]:
    """Observations a second of each tenth, CPU seconds in all, growth of memory after the first tenth in MiB."""
    rates, first, cpu_s = [], 0.0, 0.0
    tenth = observations // 10
    for begin in range(0, 10 * tenth, tenth):
        spent = 0.0
        for start in range(begin, begin + tenth, BATCH):
            new = batch(start, min(BATCH, begin + tenth - start))
            wall, cpu = time.perf_counter(), time.process_time()
            store.add_observations(new)
            spent += time.perf_counter() - wall
            cpu_s += time.process_time() - cpu
        rates.append(tenth / spent)
        first = first or resident_mib()
    return rates, cpu_s, resident_mib() - first


def milliseconds(action) -> float:
    """Median of 21 runs."""
    times = []
    for _ in range(21):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--observations", type=int, default=100_000)
    number = parser.parse_args().observations
    with tempfile.TemporaryDirectory() as folder, Store(f"sqlite:///{folder}/jitr.db") as store:
        store.save_task(Task("t", "shop", "", "triage"))
        store.save_templates([Template("T", "t", "shop", "", "triage", "", ("Classify: ", "\nAnswer:"))])
        rates, cpu_s, growth = fill(store, number)
        sustained = statistics.median(rates)
        print(f"observations       {number:>10,} in batches of {BATCH}")
        print(f"sustained          {sustained:>10,.0f} /s    budget ≥ {BUDGET_PER_S:,.0f}")
        print(f"last tenth         {rates[-1]:>10,.0f} /s    {rates[-1] / rates[0]:.2f} of the first")
        print(f"CPU                {cpu_s / number * 1e6:>10,.1f} µs an observation")
        print(f"memory             {growth:>+10.1f} MiB   budget ≤ {BUDGET_GROWTH_MIB:g}, after the first tenth")
        print(f"file               {store.path.stat().st_size / number:>10,.0f} bytes an observation")
        print(f"version            {milliseconds(store.version):>10.3f} ms")
        print(f"label_count        {milliseconds(lambda: store.label_count('t')):>10.3f} ms")
        print(f"counts             {milliseconds(lambda: store.counts('t')):>10.3f} ms")
        print(f"1,000 examples     {milliseconds(lambda: store.examples('t', 1000)):>10.3f} ms")
    missed = sustained * TOLERANCE < BUDGET_PER_S or growth > BUDGET_GROWTH_MIB * TOLERANCE
    if missed:
        print("missed a budget by more than half")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
