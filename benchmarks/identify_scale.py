"""What a call costs the identifier after ever more calls: time and memory must stay flat.

Usage: python benchmarks/identify_scale.py [--calls 1000000] [--tasks 2000] [--one-off 0.3] [--known 0] [--seed 0]
The stream is made up as it goes: tasks of Zipf-distributed volume, each with its own instruction, input place and
answer space, a tenth of them new in every tenth of the stream; and one-off requests that start alike. `--known` starts
with that many other templates.
Prints at every power of ten: microseconds a known and an unknown call (p50, mean and p99 of the latest calls), how
long an answer takes to note, tasks, templates and memory. Times are CPU time.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from collections import deque
from collections.abc import Iterator
from itertools import accumulate

from jitr_core.identify import Identifier
from jitr_core.identify.template import key_of, make_template
from jitr_core.types import Call, Template

SYLLABLES = (
    "ba be bi bo bu da de di do du ka ke ki ko ku la le li lo lu ma me mi mo mu na ne ni no nu ra re ri ro ru".split()
)
STARTS = (
    "Write a", "Write a short story about", "What is the", "Explain the difference between", "Give me an example of a",
    "Generate a list of", "How do I", "Summarise", "Why does the", "Suggest a name for a",
)  # fmt: skip
FRAMES = (
    "{task}\n\nInput: {0}\nOutput:",
    "{0}\n\n{task}",
    "{task}\nContext: {1}\nQuestion: {0}\nAnswer:",
    "{task} {0}",
)
WINDOW = 2_000
"""Latest calls that a row of the table is about."""


def word(draw: random.Random) -> str:
    return "".join(draw.choices(SYLLABLES, k=draw.randint(2, 4)))


def text(draw: random.Random, count: int) -> str:
    return " ".join(word(draw) for _ in range(count))


def stream(calls: int, tasks: int, one_off: float, seed: int) -> Iterator[tuple[Call, str]]:
    """Made-up calls with their answers, in order."""
    draw = random.Random(seed)
    jobs = []
    for number in range(tasks):
        own = random.Random(f"{seed}/{number}")
        frame = FRAMES[number % len(FRAMES)].replace("{task}", f"{text(own, own.randint(6, 30)).capitalize()}.")
        jobs.append((frame, [word(own) for _ in range(own.randint(2, 6))] if number % 2 else []))
    weights = list(accumulate(1 / (1 + rank) for rank in draw.sample(range(tasks), tasks)))
    for number in range(calls):
        if draw.random() < one_off:
            yield (
                Call(str(number), (("user", f"{draw.choice(STARTS)} {text(draw, draw.randint(3, 40))}"),)),
                text(draw, 9),
            )
            continue
        # A tenth of the tasks is there from the start, and another one comes with every tenth of the stream.
        known = max(1, tasks * (1 + 10 * number // calls) // 10)
        frame, labels = jobs[draw.choices(range(known), cum_weights=weights[:known])[0]]
        prompt = frame.format(text(draw, draw.randint(5, 40)), text(draw, 60))
        yield Call(str(number), (("user", prompt),)), draw.choice(labels) if labels else text(draw, 9)


def known(count: int, seed: int) -> Iterator[Template]:
    """Made-up templates that the stream has no calls of."""
    draw = random.Random(f"known/{seed}")
    for _ in range(count):
        yield make_template(key_of(Call("", ())), (f"\x1euser\x1f{text(draw, 12)}.\nInput: ", "\nOutput:"))


def row(times: dict[str, deque[float]], calls: int, identifier: Identifier) -> dict[str, float]:
    """One line of the table."""
    found: dict[str, float] = {"calls": calls}
    for kind, seconds in times.items():
        ordered = sorted(seconds) or [0.0]
        found[f"{kind}_us_p50"] = round(ordered[len(ordered) // 2] * 1e6, 1)
        found[f"{kind}_us_mean"] = round(sum(ordered) / len(ordered) * 1e6, 1)
        found[f"{kind}_us_p99"] = round(ordered[int(len(ordered) * 0.99)] * 1e6, 1)
    templates = identifier.templates()
    found["tasks"] = len({template.task for template in templates})
    found["templates"] = len(templates)
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--tasks", type=int, default=2_000)
    parser.add_argument("--one-off", type=float, default=0.3, help="share of calls, in [0, 1]")
    parser.add_argument("--known", type=int, default=0, help="templates known from the start")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    identifier = Identifier(known(arguments.known, arguments.seed))
    times: dict[str, deque[float]] = {kind: deque(maxlen=WINDOW) for kind in ("match", "learn", "answer")}
    due = {10**power for power in range(3, 10)} | {arguments.calls}
    for number, (call, answer) in enumerate(
        stream(arguments.calls, arguments.tasks, arguments.one_off, arguments.seed), 1
    ):
        start = time.thread_time()
        match = identifier.match(call)
        matched = time.thread_time()
        if match is None:
            match = identifier.learn(call).match
            times["learn"].append(time.thread_time() - matched)
        else:
            times["match"].append(matched - start)
        if match is not None:
            start = time.thread_time()
            identifier.note_answer(match.task, answer, match.slots, match.template)
            times["answer"].append(time.thread_time() - start)
        if number in due:
            print(json.dumps(row(times, number, identifier)), flush=True)


if __name__ == "__main__":
    main()
