"""Call logs made for the tests, and folders that keep them apart."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

WORDS = "invoice parcel refund charge card courier address label bill window tracking receipt payment depot van".split()
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


@pytest.fixture
def easy_log(tmp_path: Path) -> Path:
    """A log of 700 calls that a lexical student learns at once."""
    return write_log(tmp_path / "easy.jsonl", easy_calls(700))


@pytest.fixture
def shared() -> Path:
    """The folder of shared data; the test is skipped without it."""
    folder = Path(os.environ.get("JITR_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip("shared data is not at hand")
    return folder


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test leaves state in the working folder or hears the user's settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("JITR_DISABLED", "JITR_URL"):
        monkeypatch.delenv(name, raising=False)
