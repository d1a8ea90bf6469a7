"""Foreign inputs: of what a task never had, how much does a release answer, and what does its gate cost?

python benchmarks/foreign.py                        # a quarter of an hour of one core
python benchmarks/foreign.py --logs trec --seeds 1  # a minute

Students come from the real search, without tuning of encoders, and answer above the threshold that the real certificate
gives them, at the first of the targets 0.95, 0.9, 0.85 and 0.8 that is certified. They are served inputs they did not
learn from and foreign ones (`foreign_inputs.py`). Columns: the share answered with the threshold alone, and with one of
several gates besides: `former` is the rule this gate replaced (half the 0.25% quantile of the share of known n-grams,
four times the usual length), `text` has the figures of the text alone, `far` that of the encoder alone, `gate` is what
is served. Intervals: 95%, bootstrap over runs.

Exit code 1 where the gate leaves more genuine inputs to the teacher than its 1% allows (lower end of the interval), or
answers more than half of the foreign inputs that the threshold alone answers.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from foreign_inputs import foreign
from transfer import remembering
from transfer_data import shared

from jitr_core.base_models import BaseModels
from jitr_core.certify import Refusal, certify, next_attempt
from jitr_core.collect import Dataset, build_dataset
from jitr_core.config import Policy
from jitr_core.search import labels, search
from jitr_core.students import LinearStudent
from jitr_core.students.text import normalise
from jitr_core.students.training import Bench
from jitr_core.students.views import arrange
from jitr_core.types import Example, Slots

LOGS = (
    "banking77-gpt4",
    "phrasebank-gpt4",
    "imdb-gpt35",
    "rt-polarity-gpt35",
    "entity-match-abt-buy-gpt4omini",
    "trec",
    "agnews",
    "smsspam",
)
TARGETS = (0.95, 0.9, 0.85, 0.8)
GATES = ("threshold", "former", "text", "far", "gate")
HELD = 400
POLICY = Policy(families=("lexical", "static", "encoder", "stacked"))
_BEFORE = re.compile(r"^.*?(?:Review|Sentence): ", re.DOTALL)
_PAIR = re.compile(r"Entity 1: (.*?)\. Entity 2: (.*?)\.?(?:\n|$)", re.DOTALL)
benches: list[Bench] = []


class KeptBench(Bench):
    """A bench that can be found again."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        benches.append(self)


def load(name: str) -> list[tuple[Slots, str]]:
    """The different inputs of a log with their first answers."""
    path = shared() / "labelled" / f"{name}.jsonl.gz"
    found: dict[tuple[str, ...], tuple[Slots, str]] = {}
    with gzip.open(path if path.exists() else shared() / "calls" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in map(json.loads, file):
            if "label" in line:
                slots, answer = (line["text"],), line["label"]
            else:
                text, answer = line["messages"][-1]["content"], line["answer"]
                pair = _PAIR.search(text)
                slots = pair.groups() if pair else (_BEFORE.sub("", text),)
            found.setdefault(tuple(map(normalise, slots)), (slots, answer))
    return list(found.values())


def threshold(found: Any, dataset: Dataset) -> tuple[float, float] | None:
    """The first target that is certified, and its threshold."""
    predicted = [found.predicted[group] for group in dataset.group]
    right = np.array([p.strip() == a.strip() for p, a in zip(predicted, dataset.answers, strict=True)])
    delta = max(attempt.delta for i in range(8) if (attempt := next_attempt(i, POLICY)))
    for target in TARGETS:
        got = certify(
            found.confidence[dataset.group], right, target=target, delta=delta,
            promise="answered", given=predicted, teacher=dataset.answers,
        )  # fmt: skip
        if not isinstance(got, Refusal):
            return target, got.threshold
    return None


def former(bench: Bench, student: LinearStudent):
    """The rule this gate replaced."""
    chars = bench.vocabularies["char"]
    shares = [chars.known(chars.bag(texts)).share for texts in bench.texts]
    filled, ordered = [s for s in shares if s is not None], np.sort(bench._lengths)
    most = max(int(ordered[-1] * 1.5), int(ordered[min(int(0.995 * len(ordered)), len(ordered) - 1)] * 4)) + 50
    least = 0.5 * float(np.quantile(filled, 0.0025))

    def closed(slots: Slots) -> bool:
        share = chars.known(chars.bag(arrange([normalise(s) for s in slots], student.slots))).share
        return sum(map(len, slots)) > most or (len(filled) == len(shares) if share is None else share < least)

    return closed


def gates(bench: Bench, student: LinearStudent) -> dict[str, LinearStudent]:
    """The student with other gates."""
    served, (text, strange) = student.gate, bench._reading
    never = dict.fromkeys(served.limits, float("inf"))
    limits = {"threshold": never, "text": never | text.limits, "gate": dict(served.limits), "far": never}
    if served.view:
        vectors, landmarks = bench._view(served.view)
        far = replace(strange, figures={"far": landmarks.apart(vectors, bench._chosen)})
        limits["far"] = never | far.limits()
    return {name: replace(student, gate=replace(served, limits=own)) for name, own in limits.items()}


def run(name: str, size: int, seed: int, each: int, models: BaseModels) -> dict[str, Any] | None:
    """One student: of every kind of input, what share is answered with each gate, and what genuine ones it costs."""
    items = load(name)
    random.Random(f"{name} {seed}").shuffle(items)
    size = min(size, len(items) * 3 // 4)
    learn, held = items[:size], items[size : size + HELD]
    calls = [Example(slots, answer, "\0".join(map(normalise, slots)), i) for i, (slots, answer) in enumerate(learn)]
    dataset = build_dataset(calls, size)
    benches.clear()
    found = search(dataset, policy=POLICY, base_models=models, seed=seed)
    student, bound = found.fit(), threshold(found, dataset)
    if bound is None or not isinstance(student, LinearStudent):
        print(f"{name}, {size} calls, seed {seed}: nothing is certified", flush=True)
        return None
    bench = next(b for b in benches if b.n == len(dataset.inputs))
    students, was_closed = gates(bench, student), former(bench, student)
    kinds = inputs(name, [slots for slots, _ in held], sorted({a for _, a in learn}), each, seed)
    row: dict[str, Any] = {"log": name, "calls": size, "seed": seed, "chosen": found.chosen, "target": bound[0]}
    row["closed in training"] = float(bench.gated(None)[1].mean())
    for kind, some in {("genuine", ""): [slots for slots, _ in held], **kinds}.items():
        said = {gate: [each.predict_one(slots) for slots in some] for gate, each in students.items()}
        said["former"] = [
            (a, 0.0 if was_closed(x) else c, was_closed(x))
            for x, (a, c, _) in zip(some, said["threshold"], strict=True)
        ]
        given = {gate: np.array([c >= bound[1] and c > 0 for _, c, _ in said[gate]]) for gate in GATES}
        row["/".join(kind)] = {gate: float(given[gate].mean()) for gate in GATES}
        row["/".join(kind)]["closed"] = float(np.mean([ood for _, _, ood in said["gate"]]))
        if kind[0] == "genuine":
            right = np.array([s[0].strip() == a.strip() for s, (_, a) in zip(said["gate"], held, strict=True)])
            row["agreement"] = {g: float(right[given[g]].mean()) for g in GATES if given[g].any()}
            row["former closed"] = float(np.mean([ood for _, _, ood in said["former"]]))
    row["gate_s"], row["bare_s"] = (seconds(student, held, gated) for gated in (True, False))
    print(f"{name}, {size} calls, seed {seed}: {found.chosen} at {bound[0]}", flush=True)
    return row


def inputs(name: str, own: list[Slots], answers: list[str], each: int, seed: int) -> dict[tuple[str, str], list[Slots]]:
    """Foreign inputs by kind; where a task has two slots, the first stays genuine."""
    rng = random.Random(seed)
    others = [" ".join(slots) for log in LOGS if log != name for slots, _ in rng.sample(load(log), each)]
    german = [slots[0] for slots, _ in load("translate-de-en-gpt4")]
    made = foreign(each, [slots[-1] for slots in own], answers, others, german, seed)
    return {kind: [(*rng.choice(own)[:-1], text) for text in texts] for kind, texts in made.items()}


def seconds(student: LinearStudent, held: list[tuple[Slots, str]], gated: bool) -> float:
    """Median time of an answer whose embedding is known, where the gate does not close."""
    best = float("inf")
    for _ in range(3):
        taken = []
        for slots in [slots for slots, _ in held[:200] if student.seen(slots) is not None]:
            began = time.perf_counter()
            if gated:
                student.predict_one(slots)
            else:
                seen = student.look(arrange([normalise(slot) for slot in slots], student.slots))
                student.combination.decide(student.scores(seen))
            taken.append(time.perf_counter() - began)
        best = min(best, float(np.median(taken)))
    return best


def ends(values: list[float]) -> tuple[float, float]:
    """95% bootstrap interval of the mean over runs."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values))).mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def interval(values: list[float]) -> str:
    """Mean, and its interval."""
    low, high = ends(values)
    return f"{np.mean(values):.3f} ({low:.3f} to {high:.3f})"


def table(rows: list[dict[str, Any]]) -> bool:
    """Print what was found; True where the gate takes too much or brings too little."""
    print("\n| inputs | " + " | ".join(GATES) + " |\n|---|" + "---|" * len(GATES))
    groups: dict[str, list[str]] = defaultdict(list)
    for key in (key for key in rows[0] if "/" in key):
        groups[key.partition("/")[0]].append(key)
    for group, keys in groups.items():
        for key in keys:
            print(f"| {key.rstrip('/').replace('/', ': ')} | " + " | ".join(_cells(rows, [key])) + " |")
        if len(keys) > 1:
            print(f"| **{group}** | " + " | ".join(_cells(rows, keys)) + " |")
    foreign_keys = [key for group, keys in groups.items() if group != "genuine" for key in keys]
    print("| **all foreign** | " + " | ".join(_cells(rows, foreign_keys)) + " |")
    columns = "runs | foreign answered: former, gate | genuine closed by the gate | coverage without, with it"
    print(f"\n| log | {columns} | agreement without, with it |\n|---|---|---|---|---|---|")
    for log in [*dict.fromkeys(row["log"] for row in rows), "all"]:
        own = [row for row in rows if log in ("all", row["log"])]
        shut = interval([row["genuine/"]["closed"] for row in own])
        pairs = [
            [np.mean([row[key][g] for row in own]) for g in ("threshold", "gate")] for key in ("genuine/", "agreement")
        ]
        strange = [np.mean([row[key][g] for row in own for key in foreign_keys]) for g in ("former", "gate")]
        print(
            f"| {log} | {len(own)} | {strange[0]:.3f}, {strange[1]:.3f} | {shut} | "
            + " | ".join(f"{a:.3f}, {b:.3f}" for a, b in pairs)
            + " |"
        )
    print(f"\nthe former gate left {interval([row['former closed'] for row in rows])} of genuine inputs to the teacher")
    taken = [1e3 * (row["gate_s"] - row["bare_s"]) for row in rows]
    print(f"time of the gate: {np.median(taken):.2f} ms in the median of the runs, at most {max(taken):.2f}")
    left = {gate: np.mean([row[key][gate] for row in rows for key in foreign_keys]) for gate in ("threshold", "gate")}
    return ends([row["genuine/"]["closed"] for row in rows])[0] > 0.01 or bool(left["gate"] > left["threshold"] / 2)


def _cells(rows: list[dict[str, Any]], keys: list[str]) -> list[str]:
    means = {gate: [float(np.mean([row[key][gate] for key in keys])) for row in rows] for gate in GATES}
    return [interval(values) if gate == "gate" else f"{np.mean(values):.3f}" for gate, values in means.items()]


def main() -> int:
    """Run what is not there yet, print the tables, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", nargs="+", default=list(LOGS))
    parser.add_argument("--calls", nargs="+", type=int, default=[300, 1000])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--each", type=int, default=40, help="foreign inputs of each kind")
    parser.add_argument("--out", type=Path, help="JSON lines, one a run; those that are there are not run again")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.out.open()] if options.out and options.out.exists() else []
    done = {(row["log"], row["wanted"], row["seed"]) for row in rows}
    labels.Bench = KeptBench
    models = remembering(None)
    for name in options.logs:
        for size in options.calls:
            for seed in range(options.seeds):
                row = None if (name, size, seed) in done else run(name, size, seed, options.each, models)
                if row:
                    rows.append({**row, "wanted": size})
                    if options.out:
                        with options.out.open("a") as file:
                            file.write(json.dumps(rows[-1]) + "\n")
    return int(bool(rows) and table(rows))


if __name__ == "__main__":
    sys.exit(main())
