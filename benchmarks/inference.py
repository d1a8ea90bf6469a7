"""What a replaced call costs: students answering one input, and 32 in a row, on one thread.

    python benchmarks/inference.py [--quick] [--lora] [--cache DIR] [--json OUT]
    python benchmarks/inference.py --encoders [--cache DIR]

Inputs are made up: short ones of about 12 words, and long ones of 200. Budgets: at the median 0.5 ms for lexical and
static students and 10 ms for students with an encoder on short inputs, and at least 150 short inputs a second one after
the other; 60 s for a search over 1,000 short examples with all families but `lora`, the winner trained and embeddings
made anew; with `--lora` 300 s with an encoder tuned besides, thrice to be cross-fitted and once to serve. Exit code
1 where one is missed by more than half. The encoder is prepared first where it was not yet; without the extra `offline`
only lexical students are measured. Times are seconds of this process's CPU, on one thread: those of the clock, given
for one short input, say little on a busy machine.

`--encoders` measures instead what ten encoders tuned from one base take in memory, and whether putting concurrent calls
into one batch would pay: calls by several threads against batches, and how far an embedding moves in a batch. Needs the
extra `train`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from safetensors.numpy import load_file, save_file

from jitr_core.base_models import BaseModels
from jitr_core.collect import build_dataset
from jitr_core.config import FAMILIES, Policy
from jitr_core.search import search
from jitr_core.students import LinearStudent
from jitr_core.students.recipes import candidates
from jitr_core.students.training import Bench, Classes
from jitr_core.students.tuned import TunedEncoder
from jitr_core.students.tuning import Settings, Tuner
from jitr_core.types import Example

BUDGET_S = {None: 0.0005, "static": 0.0005, "encoder": 0.010}
LEAST_PER_SECOND = 150
FACTOR = 1.5  # by how much a budget must be missed for the exit code to say so
EXAMPLES, SEARCH_S, TUNED_SEARCH_S = 1_000, 60.0, 300.0
CPU = time.process_time
FROZEN = tuple(family for family in FAMILIES if family != "lora")
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


def median_s(student: LinearStudent, texts: Sequence[tuple[str]], clock: Callable[[], float] = CPU) -> float:
    """Seconds an answer takes at the median."""
    taken = []
    for text in texts:
        began = clock()
        student.predict_one(text)
        taken.append(clock() - began)
    return statistics.median(taken)


def per_second(student: LinearStudent, texts: Sequence[tuple[str]]) -> float:
    """Answers a second to 32 inputs in a row, best of the batches."""
    best = 0.0
    for start in range(0, len(texts) - 31, 32):
        began = CPU()
        student.predict(texts[start : start + 32])
        best = max(best, 32 / (CPU() - began))
    return best


def searched(base_models: BaseModels, *, tuned: bool) -> Iterator[tuple[str, float, float, float]]:
    """What it is, CPU seconds, seconds of the clock and budget: of a search and its winner, and of a tuned finalist."""
    texts = inputs(EXAMPLES, 12, random.Random(4))
    labels = [SUBJECTS[i % len(SUBJECTS)] for i in range(EXAMPLES)]
    examples = [Example(x, y, x[0], i) for i, (x, y) in enumerate(zip(texts, labels, strict=True))]
    dataset, encoder = build_dataset(examples, EXAMPLES), base_models.get("encoder")

    def frozen() -> None:
        with tempfile.TemporaryDirectory() as folder:  # no embeddings are at hand there
            models = BaseModels(folder, encoder=encoder, static=base_models.get("static"))
            search(dataset, policy=Policy(families=FROZEN), base_models=models).fit()

    def finalist() -> None:
        classes, known = Classes.of(labels, 300), base_models.facts("encoder").source
        tuner = Tuner(encoder, texts, classes.labels, dataset.folds(10), Settings(), EXAMPLES, known=known)
        tuner.crossed()
        tuner.fit()

    used = clock = 0.0
    for what, work, budget in (("search", frozen, SEARCH_S), ("search, an encoder tuned", finalist, TUNED_SEARCH_S)):
        if work is frozen or tuned:
            before, began = sum(os.times()[:4]), time.perf_counter()  # children, which tune, included
            work()
            used, clock = used + sum(os.times()[:4]) - before, clock + time.perf_counter() - began
            yield what, used, clock, budget


def resident_mb() -> float:
    """Memory of this process, in MB; Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def tuned_arrays(base_models: BaseModels) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Settings and arrays of an encoder tuned on next to nothing."""
    texts = [(text,) for (text,) in inputs(60, 12, random.Random(1))]
    labels = np.arange(60) % 2
    encoder, known = base_models.get("encoder"), base_models.facts("encoder").source
    tuner = Tuner(encoder, texts, labels, np.arange(60) % 10, Settings(epochs=1), 60, known=known)
    return tuner.fit().state()


def share(base_models: BaseModels) -> None:
    """Print what each of ten tuned encoders adds to a process that loads them from files."""
    settings, arrays = tuned_arrays(base_models)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "arrays.safetensors"
        save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, file)
        subprocess.run([sys.executable, __file__, "--load", str(file), json.dumps(settings)], check=True)


def load(file: Path, settings: dict[str, Any]) -> None:
    """Load an encoder ten times, each time with another adapter, and print what that takes."""
    import onnxruntime  # noqa: F401
    import tokenizers  # noqa: F401

    rng, texts = np.random.default_rng(0), [text for (text,) in inputs(100, 12, random.Random(2))]
    encoders: list[TunedEncoder] = []
    start = resident_mb()
    print("| tuned encoders in memory | MB together | CPU s to load one | CPU ms a call, median |")
    print("|---|---|---|---|")
    for count in range(1, 11):
        began = CPU()
        arrays = load_file(file)
        for key in arrays:
            if key.startswith("adapter."):
                arrays[key] += rng.normal(0, 0.01, arrays[key].shape).astype(np.float32)
        encoders.append(TunedEncoder(settings, arrays))
        del arrays
        loaded = CPU() - began
        taken = [cpu_s(lambda text=text: encoders[-1].scores((text,))) for text in texts]
        together = resident_mb() - start
        print(f"| {count} | {together:.0f} | {loaded:.3f} | {statistics.median(taken) * 1e3:.2f} |", flush=True)


def cpu_s(work: Callable[[], object]) -> float:
    """Seconds of CPU that some work takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


def batches(base_models: BaseModels) -> None:
    """Print what calls cost one by one, by threads and in batches, and how far batches move an embedding."""
    encoder: Any = base_models.get("encoder")
    texts = [text for (text,) in inputs(320, 12, random.Random(3))]
    ids = [encoder._tokenizer.encode(text).ids for text in texts]
    alone = np.stack([encoder.embed(text) for text in texts])
    width = encoder.blocks[0][1]

    def together(rows: Sequence[int]) -> np.ndarray:
        longest = max(len(ids[i]) for i in rows)
        padded = np.array([ids[i] + [0] * (longest - len(ids[i])) for i in rows])
        mask = np.array([[1] * len(ids[i]) + [0] * (longest - len(ids[i])) for i in rows])
        return encoder._session.run(None, {"ids": padded, "mask": mask})[0]

    print("| calls | a second of CPU | least cosine with the embedding alone |")
    print("|---|---|---|")
    for count in (1, 8):
        with ThreadPoolExecutor(count) as pool:
            spent = cpu_s(lambda pool=pool: list(pool.map(encoder.embed, texts)))
        print(f"| by {count} threads | {len(texts) / spent:.0f} | 1 |")
    by_length = sorted(range(len(texts)), key=lambda i: len(ids[i]))
    for size in (8, 32):
        for name, order in (("as they come", list(range(len(texts)))), ("of about equal length", by_length)):
            groups = [order[a : a + size] for a in range(0, len(order), size)]
            moved: list[float] = []
            for rows in groups:
                cosine = (together(rows)[:, :width] * alone[rows, :width]).sum(axis=1)
                moved.append(float(cosine.min()))
            spent = cpu_s(lambda groups=groups: [together(rows) for rows in groups])
            print(f"| batches of {size}, {name} | {len(texts) / spent:.0f} | {min(moved):.4f} |")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer inputs")
    parser.add_argument("--lora", action="store_true", help="also tune an encoder, which takes minutes")
    parser.add_argument("--cache", default=None, help="folder of prepared base models")
    parser.add_argument("--json", type=Path, default=None, help="write the figures there")
    parser.add_argument("--encoders", action="store_true", help="ten tuned encoders, and batches")
    parser.add_argument("--load", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.load:
        load(Path(arguments.load[0]), json.loads(arguments.load[1]))
        return 0
    rng, base_models = random.Random(0), BaseModels(arguments.cache)
    missing = base_models.prepare()
    if arguments.encoders:
        share(base_models)
        batches(base_models)
        return 0
    known = inputs(300 if arguments.quick else 1500, 12, rng)
    short, long = inputs(96 if arguments.quick else 320, 12, rng), inputs(32, 200, rng)
    figures, missed = [], False
    print("| candidate | training, s | one short input, ms | by the clock | one long input, ms | short inputs / s |")
    print("|---|---|---|---|---|---|")
    for recipe in candidates(FROZEN, paired=False):
        if recipe.base and missing:
            print(f"| {recipe.name} | {missing} | | | | |")
            continue
        student, seconds = train(recipe.name, known, base_models)
        student.predict(short[:8])
        row = {
            "candidate": recipe.name,
            "training_s": seconds,
            "short_s": median_s(student, short),
            "short_clock_s": median_s(student, short, time.perf_counter),
            "long_s": median_s(student, [(text[: int(student.gate.limits["length"])],) for (text,) in long]),
            "short_per_s": per_second(student, short),
        }
        over = max(row["short_s"] / BUDGET_S[recipe.base], LEAST_PER_SECOND / row["short_per_s"])
        missed |= over > FACTOR
        print(
            f"| {row['candidate']} | {seconds:.2f} | {row['short_s'] * 1e3:.2f} | "
            f"{row['short_clock_s'] * 1e3:.2f} | {row['long_s'] * 1e3:.2f} | "
            f"{row['short_per_s']:.0f} |{f' {over:.1f} of the budget' if over > 1 else ''}",
            flush=True,
        )
        figures.append(row)
    for what, used, clock, budget in () if missing else searched(base_models, tuned=arguments.lora):
        missed |= used > FACTOR * budget
        print(f"{what}, {EXAMPLES:,} short examples: {used:.1f} s of CPU, {clock:.1f} s by the clock, ", end="")
        print(f"budget {budget:.0f} s{', over budget' if used > budget else ''}", flush=True)
        figures.append({"candidate": what, "search_s": used, "search_clock_s": clock})
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
