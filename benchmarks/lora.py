"""What tuning an encoder with LoRA is worth, and whether the tuned encoder that serves keeps what was measured.

    python benchmarks/lora.py gain [--logs rt-polarity-gpt35] [--calls 1000 4000] [--seeds 1]
    python benchmarks/lora.py scratch [--logs trec subj sst2] [--calls 1000]

`gain` learns from the first calls of a log, in an order drawn by the seed, once with the frozen families and once with
`lora`, and tests on later calls. It fails where calls that the student lets through later, at its certified threshold,
agree significantly less often than the target. `scratch` tunes the pretrained encoder, and trains the same network from
random weights; it fails where the first does not agree significantly more often on the same later calls. Call logs and
labelled sets are read from $JITR_SHARED/data. One thread; minutes to hours.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.stats import beta, binomtest

from jitr_core.base_models import BaseModels
from jitr_core.certify import Refusal, certify
from jitr_core.collect import build_dataset
from jitr_core.config import FAMILIES, Policy
from jitr_core.search import SearchResult, search
from jitr_core.search.judge import hindsight
from jitr_core.students.text import normalise
from jitr_core.students.training import Classes
from jitr_core.students.tuned import TunedEncoder
from jitr_core.students.tuning import Settings, Tuner
from jitr_core.types import Example

TARGET, DELTA = 0.95, 0.05
FROZEN = tuple(family for family in FAMILIES if family != "lora")
SHARES = (0.1, 0.2, 0.3, 0.5, 1.0)
Pairs = list[tuple[str, str]]


def read(name: str, seed: int) -> Pairs:
    """Inputs and answers of a call log or a labelled set, in an order drawn by the seed."""
    folder = Path(os.environ.get("JITR_SHARED", "../shared")) / "data"
    calls, labelled = folder / "calls" / f"{name}.jsonl.gz", folder / "labelled" / f"{name}.jsonl.gz"
    with gzip.open(calls if calls.exists() else labelled, "rt") as file:
        lines = [json.loads(line) for line in file]
    if calls.exists():
        texts = [line["messages"][-1]["content"] for line in lines]
        start = len(os.path.commonprefix(texts))
        end = len(os.path.commonprefix([text[::-1] for text in texts]))
        found = [(t[start : len(t) - end], line["answer"]) for t, line in zip(texts, lines, strict=True)]
    else:
        found = [(line["text"], str(line["label"])) for line in lines]
    return [found[i] for i in np.random.default_rng(seed).permutation(len(found))]


def learn(pairs: Pairs, families: tuple[str, ...], models: BaseModels, seed: int) -> tuple[SearchResult, np.ndarray]:
    """A search over these families, and whether each cross-fitted answer was right."""
    dataset = build_dataset([Example((x,), a, group=normalise(x), seq=i) for i, (x, a) in enumerate(pairs)], 20_000)
    found = search(dataset, policy=Policy(target=TARGET), base_models=models, seed=seed, families=families)
    right = [found.predicted[g].strip() == a.strip() for g, a in zip(dataset.group, dataset.answers, strict=True)]
    found.confidence = found.confidence[dataset.group]
    return found, np.array(right)


def gain(name: str, calls: int, seed: int, families: tuple[str, ...], models: BaseModels, later: int) -> bool:
    """Print what one search gives; True if later calls break the promise significantly."""
    pairs = read(name, seed)
    began = time.perf_counter()
    found, right = learn(pairs[:calls], families, models, seed)
    student = found.fit()
    seconds = time.perf_counter() - began
    new = pairs[calls : calls + later]
    answers, confidence = student.predict([(x,) for x, _ in new])
    agrees = np.array([a.strip() == b.strip() for a, (_, b) in zip(answers, new, strict=True)])
    certificate = certify(found.confidence, right, target=TARGET, delta=DELTA)
    certified, kept = "none", True
    if not isinstance(certificate, Refusal):
        through = confidence >= certificate.threshold
        wrong, n = int((~agrees[through]).sum()), int(through.sum())
        kept = not wrong or beta.ppf(0.95, n - wrong + 1, wrong) >= TARGET
        certified = f"{certificate.coverage:.3f}, later {through.mean():.3f} at {1 - wrong / max(n, 1):.3f}"
    print(
        f"{name} | {calls} calls | seed {seed} | {found.chosen} | agreement {agrees.mean():.3f} "
        f"(cross-fitted {right.mean():.3f}) | hindsight {hindsight(confidence, agrees, TARGET):.3f} "
        f"(cross-fitted {hindsight(found.confidence, right, TARGET):.3f}) | certified {certified} | {seconds:.0f} s",
        flush=True,
    )
    # What a threshold lets through, cross-fitted and later: agreement, and the share of calls.
    for share in SHARES:
        threshold = float(np.quantile(found.confidence, 1 - share))
        before, after = found.confidence >= threshold, confidence >= threshold
        print(
            f"    top {share:.1f}: cross-fitted {right[before].mean():.3f}; "
            f"later {agrees[after].mean() if after.any() else float('nan'):.3f} of {after.mean():.3f} of the calls",
            flush=True,
        )
    taken = []
    for text, _ in new[:200]:
        start = time.perf_counter()
        student.predict_one((text,))
        taken.append(time.perf_counter() - start)
    print(f"    an answer takes {1000 * np.median(taken):.1f} ms at the median, {len(taken) / sum(taken):.0f} a second")
    mean = float(confidence.mean()), float(agrees.mean())
    print(
        f"    mean confidence later {mean[0]:.3f}, agreement {mean[1]:.3f}, cross-fitted {found.confidence.mean():.3f}"
    )
    return not kept


def scratch(name: str, calls: int, seed: int, models: BaseModels, later: int) -> bool:
    """Print the agreement of the pretrained encoder, tuned, and of the same network trained from random weights.

    True if the first is not ahead by more than chance.
    """
    pairs = read(name, seed)
    classes = Classes.of([a for _, a in pairs[:calls]], 300)
    texts = [(normalise(x),) for x, _ in pairs[:calls]]
    encoder = models.get("encoder")
    assert encoder is not None, "prepare the base models first"
    known = models.facts("encoder").source
    settings = {"tuned": Settings(), "from random weights": replace(Settings(), pretrained=False, rate=2e-4, epochs=8)}
    right = []
    for label, how in settings.items():
        began = time.perf_counter()
        tuner = Tuner(encoder, texts, classes.labels, np.arange(calls) % 10, how, calls, seed, known=known)
        tuned: TunedEncoder = tuner.fit()
        seconds = time.perf_counter() - began
        new = pairs[calls : calls + later]
        said = [classes.answers[int(tuned.scores((normalise(x),)).argmax())] for x, _ in new]
        right.append(np.array([a == b for a, (_, b) in zip(said, new, strict=True)]))
        print(
            f"{name} | {calls} labels | seed {seed} | {label} | agreement {right[-1].mean():.3f} | {seconds:.0f} s",
            flush=True,
        )
    ahead, behind = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    n = len(right[0])
    drawn = np.random.default_rng(0).multinomial(n, [ahead / n, behind / n, 1 - (ahead + behind) / n], 10_000)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, (0.025, 0.975))
    print(
        f"    ahead by {(ahead - behind) / n:.3f}, 95% interval {low:.3f} to {high:.3f} (bootstrap of {n} later calls)"
    )
    return not ahead or binomtest(ahead, ahead + behind, alternative="greater").pvalue > 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("gain", "scratch"))
    parser.add_argument("--logs", nargs="+", default=None)
    parser.add_argument("--calls", nargs="+", type=int, default=None)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--later", type=int, default=2_000, help="later calls to test on")
    parser.add_argument("--families", nargs="+", default=["frozen", "lora"], choices=("frozen", "lora"))
    options = parser.parse_args()
    models = BaseModels()
    print(models.prepare() or "base models are at hand", file=sys.stderr)
    broken = 0
    for name in options.logs or (["rt-polarity-gpt35"] if options.what == "gain" else ["trec", "subj", "sst2"]):
        for calls in options.calls or ([1_000, 4_000] if options.what == "gain" else [1_000]):
            for seed in options.seeds:
                if options.what == "scratch":
                    broken += scratch(name, calls, seed, models, options.later)
                    continue
                for family in options.families:
                    families = FROZEN if family == "frozen" else ("lora",)
                    broken += gain(name, calls, seed, families, models, options.later)
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
