"""How well and how fast recurring tasks are found in call logs.

Usage: python benchmarks/identify.py CALLS… [--out PREDICTED.jsonl] [--show] [--shuffle SEED] [--half SEED] [--ceiling]
Prints per log: calls, tasks, templates, calls in a task, calls that are not rebuilt exactly, slots whose values share
words, microseconds of CPU a look-up and a lesson, peak memory; where the log tells the truth, the scores against it.
`--shuffle` permutes the calls, `--half` keeps a random half of the true tasks and of the one-off calls: a threshold
that suits one file only shows there. `--ceiling` scores an assignment that knows the truth, but takes true tasks whose
calls bring the same constant text for one, since nothing in the calls tells them apart.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import resource
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jitr_core.identify import Assignment, Identifier, Learned, identify_stream, join_prompt, prompt_text
from jitr_core.identify.align import literal_choices, mining_tokens
from jitr_core.identify.merge import wording
from jitr_core.identify.text import tokens, words
from jitr_core.types import Call, Match, Slots

MIN_TASK = 8
"""Predicted tasks with fewer calls count as one-off, and so do true ones where placed calls are counted."""

CEILING_SAMPLE = 64
"""Calls of a true template whose constant text is looked for."""

SETTLED = 30
"""Calls of a task after which a call should be placed at once as after the whole stream."""


@dataclass(slots=True)
class Logged:
    """A recorded call, its answer, and what it truly belongs to (None: one-off, or not told)."""

    call: Call
    answer: str
    task: str | None
    template: str | None


def read_calls(path: Path) -> Iterator[Logged]:
    """The calls of a log; what they truly belong to is for scoring only."""
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    with opened as lines:
        for number, line in enumerate(lines):
            record = json.loads(line)
            messages = tuple((message["role"], message["content"] or "") for message in record["messages"])
            call = Call(str(record.get("id", number)), messages, step=record.get("step") or "")
            task = record.get("task")
            yield Logged(call, record["answer"], task, record.get("template") or task)


def varied(logged: list[Logged], shuffle: int | None, half: int | None) -> list[Logged]:
    """The log in another order, or half of its tasks."""
    if half is not None:
        logged = [each for each in logged if random.Random(f"{half}/{each.task or each.call.id}").random() < 0.5]
    if shuffle is not None:
        random.Random(shuffle).shuffle(logged)
    return logged


def share(own: Sequence[Hashable], other: Sequence[Hashable]) -> float:
    """Mean over calls of the share of their group in `other` that is in their group in `own` too (B-cubed)."""
    both, size = Counter(zip(own, other, strict=True)), Counter(other)
    return sum(both[a, b] / size[b] for a, b in zip(own, other, strict=True)) / max(1, len(own))


def scores(logged: Sequence[Logged], assigned: Sequence[Assignment]) -> dict[str, float]:
    """The assignment against the truth.

    Precision: no different tasks together; recall: no template torn apart. To merge the templates of one task, or not
    to, is no error.
    """
    size = Counter(each.final_task for each in assigned)
    final = [a.final_task if a.final_task and size[a.final_task] >= MIN_TASK else None for a in assigned]
    true_size = Counter(each.task for each in logged if each.task)
    placed = [place or f"alone {number}" for number, place in enumerate(final)]
    recurring = [number for number, each in enumerate(logged) if each.task]
    big = [number for number in recurring if true_size[logged[number].task] >= MIN_TASK]
    one_off = [number for number, each in enumerate(logged) if not each.task]
    seen: Counter[str | None] = Counter()
    steady = []
    for each, a in zip(logged, assigned, strict=True):
        seen[each.task] += 1
        if each.task and seen[each.task] > SETTLED:
            steady.append(a.task is not None and a.task == a.final_task)
    precision = share([logged[n].task for n in recurring], [placed[n] for n in recurring])
    recall = share([placed[n] for n in recurring], [logged[n].template for n in recurring])
    return {
        "f1": round(2 * precision * recall / max(1e-9, precision + recall), 4),
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "one_off_caught": round(sum(final[n] is not None for n in one_off) / max(1, len(one_off)), 4),
        "placed_recurring": round(sum(final[n] is not None for n in big) / max(1, len(big)), 4),
        "online_as_final": round(sum(steady) / max(1, len(steady)), 4),
        "true_tasks": sum(count >= MIN_TASK for count in true_size.values()),
    }


def ceiling(logged: Sequence[Logged]) -> list[Assignment]:
    """The best that can be done without being told: true templates, as one where their constant text is the same."""
    of_template: dict[str, list[Logged]] = defaultdict(list)
    for each in logged:
        if each.template:
            of_template[each.template].append(each)
    constant: dict[str, str] = {}
    for name, calls in of_template.items():
        sample = calls[:: max(1, len(calls) // CEILING_SAMPLE)][:CEILING_SAMPLE]
        literals = literal_choices([mining_tokens(prompt_text(each.call.messages)) for each in sample])[-1]
        constant[name] = repr(wording(literals)) if len(calls) >= MIN_TASK else name
    found = [constant[each.template] if each.template else None for each in logged]
    return [Assignment(each.call.id, place, place) for each, place in zip(logged, found, strict=True)]


def slot_faults(identifier: Identifier, logged: Sequence[Logged]) -> dict[str, int]:
    """Calls that template and slots do not rebuild, and slots whose values have a word in the same place."""
    values: dict[str, list[Slots]] = defaultdict(list)
    inexact = 0
    for each in logged:
        match = identifier.match(each.call)
        if match is not None:
            template = identifier.template(match.template)
            assert template is not None
            inexact += join_prompt(template.literals, match.slots) != prompt_text(each.call.messages)
            values[match.template].append(match.slots)
    loose = 0
    for found in values.values():
        for slot in zip(*found, strict=True) if len(found) >= MIN_TASK else ():
            cut = [tokens(value) for value in slot]
            loose += any(_same_word(side) for side in (cut, [each[::-1] for each in cut]))
    return {"inexact": inexact, "slots_sharing_words": loose}


def _same_word(values: Sequence[Sequence[str]]) -> bool:
    """Whether all values have the same word at the same place, counted from the start."""
    return any(words(column[0]) and len(set(column)) == 1 for column in zip(*values, strict=False))


class Timed(Identifier):
    """An identifier that keeps the time of every look-up and lesson."""

    def __init__(self) -> None:
        super().__init__()
        self.matches: list[float] = []
        self.lessons: list[float] = []

    def match(self, call: Call) -> Match | None:
        """As always, timed."""
        start = time.thread_time()
        found = super().match(call)
        if found is not None:
            self.matches.append(time.thread_time() - start)
        return found

    def learn(self, call: Call) -> Learned:
        """As always, timed."""
        start = time.thread_time()
        learned = super().learn(call)
        self.lessons.append(time.thread_time() - start)
        return learned


def quantile(seconds: list[float], share: float) -> float:
    """Microseconds below which this share of the times lies."""
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))] * 1e6 if seconds else 0.0


def measure(path: Path, arguments: argparse.Namespace) -> None:
    logged = varied(list(read_calls(path)), arguments.shuffle, arguments.half)
    if arguments.ceiling:
        print(json.dumps({"log": path.name.split(".")[0], "ceiling": scores(logged, ceiling(logged))}))
        return
    identifier = Timed()
    start = time.perf_counter()
    calls, answers = (each.call for each in logged), (each.answer for each in logged)
    assigned = list(identify_stream(calls, identifier, answers=answers))
    seconds = time.perf_counter() - start
    matches, lessons = identifier.matches, identifier.lessons
    sizes = Counter(a.final_task for a in assigned)
    row = {
        "log": path.name.split(".")[0],
        "calls": len(logged),
        "tasks": len(set(sizes) - {None}),
        "templates": len(identifier.templates()),
        "placed": round(1 - sizes[None] / max(1, len(logged)), 4),
        **slot_faults(identifier, logged),
        **(scores(logged, assigned) if any(each.task for each in logged) else {}),
        "match_us_p50": round(quantile(matches, 0.5), 1),
        "match_us_p99": round(quantile(matches, 0.99), 1),
        "learn_us_p50": round(quantile(lessons, 0.5)),
        "learn_us_p99": round(quantile(lessons, 0.99)),
        "learn_us_mean": round(sum(lessons) / max(1, len(lessons)) * 1e6),
        "seconds": round(seconds, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(row))
    if arguments.show:
        by_task = Counter(a.final_task for a in assigned)
        for template in sorted(identifier.templates(), key=lambda t: (-by_task[t.task], t.task)):
            print(
                f"  {by_task[template.task]:6} {template.task} "
                + json.dumps("⟦…⟧".join(template.literals), ensure_ascii=False)[:400]
            )
    if arguments.out is not None:
        with arguments.out.open("w", encoding="utf-8") as lines:
            for a in assigned:
                lines.write(json.dumps({"id": a.id, "task": a.task, "final_task": a.final_task}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("calls", nargs="+", type=Path, help="call logs, .jsonl or .jsonl.gz")
    parser.add_argument("--out", type=Path, help="where to write the assignment of the (only) log")
    parser.add_argument("--show", action="store_true", help="print the templates found")
    parser.add_argument("--shuffle", type=int, help="permute the calls by this seed")
    parser.add_argument("--half", type=int, help="keep the half of the tasks that this seed draws")
    parser.add_argument("--ceiling", action="store_true", help="score what any assignment can reach instead")
    arguments = parser.parse_args()
    if arguments.out is not None and len(arguments.calls) > 1:
        parser.error("--out goes with a single log")
    for path in arguments.calls:
        measure(path, arguments)


if __name__ == "__main__":
    main()
