"""Data sets of the transfer benchmarks: a fixed test set, and samples to learn from, nested by size."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jitr_core.collect import Dataset, build_dataset
from jitr_core.types import Example

SETS = ("banking77-gpt4", "trec", "clinc150", "sst2", "agnews", "subj")
TEST = 1_000


@dataclass(frozen=True)
class Texts:
    """Texts with labels: a pool to learn from and a test set, disjoint.

    Attributes:
        pool, test: texts.
        pool_labels, test_labels: of the teacher where there is one, else gold.
    """

    pool: list[str]
    pool_labels: list[str]
    test: list[str]
    test_labels: list[str]

    def sample(self, size: int, seed: int) -> Dataset:
        """A sample of the pool; of two with one seed the smaller is part of the larger."""
        rows = np.random.default_rng(seed).permutation(len(self.pool))[:size]
        pairs = [(self.pool[i], self.pool_labels[i]) for i in rows]
        examples = [Example((text,), label, group=text, seq=i) for i, (text, label) in enumerate(pairs)]
        return build_dataset(examples, 100_000)


def shared() -> Path:
    """The folder of shared data."""
    return Path(os.environ.get("JITR_SHARED", "../shared")) / "data"


def load(name: str, test: int = TEST) -> Texts:
    """A data set by name: a call log or a labelled set; its test set is drawn with seed 0."""
    path = shared() / "labelled" / f"{name}.jsonl.gz"
    with gzip.open(path if path.exists() else shared() / "calls" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    if "label" in lines[0]:
        found = {line["text"]: (line["label"], line["split"] == "test") for line in lines}
    else:
        found = {line["messages"][-1]["content"]: (line["answer"], True) for line in lines}
    order = np.random.default_rng(0).permutation(len(found))
    items = list(found.items())
    held = {i for i in [i for i in order if items[i][1][1]][:test]}
    kept = [i for i in order if i not in held and not (items[i][1][1] and "label" in lines[0])]
    return Texts(
        [items[i][0] for i in kept],
        [items[i][1][0] for i in kept],
        [items[i][0] for i in sorted(held)],
        [items[i][1][0] for i in sorted(held)],
    )
