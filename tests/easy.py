"""Call logs made for the tests."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

FILLER = "please today again my the it still thanks hello really urgent yesterday friend morning phone works".split()
QUEUES = {
    "billing": ("invoice", "refund", "charge", "bill", "receipt"),
    "delivery": ("parcel", "courier", "depot", "van"),
}


def easy_calls(count: int, seed: int = 0, noise: float = 0.0) -> list[dict[str, Any]]:
    """Calls of one step whose answer follows from a word of the input, with a share `noise` of random answers."""
    rng = random.Random(seed)
    calls = []
    for i in range(count):
        queue = rng.choice(sorted(QUEUES))
        words = rng.choices(FILLER, k=rng.randint(5, 12)) + [rng.choice(QUEUES[queue])] + [f"no{rng.randint(0, 9999)}"]
        rng.shuffle(words)
        answer = rng.choice(sorted(QUEUES)) if rng.random() < noise else queue
        calls.append(
            {
                "id": f"c{i}",
                "messages": [
                    {"role": "system", "content": "You sort messages of customers. Answer billing or delivery."},
                    {"role": "user", "content": "Message: " + " ".join(words)},
                ],
                "answer": answer,
                "model": "gpt-4.1",
            }
        )
    return calls


def write_log(path: Path, calls: list[dict[str, Any]]) -> Path:
    """Writes a call log, gzipped if its name says so."""
    opened = gzip.open(path, "wt") if path.suffix == ".gz" else open(path, "w")
    with opened as file:
        file.writelines(json.dumps(call) + "\n" for call in calls)
    return path
