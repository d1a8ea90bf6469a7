"""Tuned encoders that are finished, kept on disk until their search is concluded: one that was killed goes on there.

One is used again where nothing that counts has changed: base model, settings, seed and answers are the same, and all it
learnt from is still to be learnt from. So it has seen no input that it is to score. Calls that came while the search
was down are few; what was tuned without them is as good.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import ArtifactError
from ..files import verify_folder, write_folder

__all__ = ["digest", "source_hash", "tuned_part"]

_NEARLY = 0.9  # share of what would be learnt now that it must have learnt
_RECORD = "learnt.json"


def tuned_part(path: Path, learn: Sequence[str], may: Iterable[str], tune: Callable[[Path], None]) -> float:
    """Have a tuned encoder in a folder, tuned now unless one is there that can be used again.

    Args:
        path: the folder.
        learn: digests of the examples that would be learnt.
        may: digests of all examples that may be learnt.
        tune: tunes an encoder on `learn`, into the folder it is given.

    Returns:
        Seconds it took when it was tuned, by the clock.
    """
    known = _record(path)
    if known is not None and set(known["learnt"]) <= set(may) and len(known["learnt"]) >= _NEARLY * len(learn):
        return float(known["seconds"])
    shutil.rmtree(path, ignore_errors=True)
    began = time.monotonic()

    def fill(folder: Path) -> None:
        tune(folder)
        record = {"learnt": sorted(learn), "seconds": time.monotonic() - began}
        (folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")

    write_folder(path, fill, keep_existing=True)
    return time.monotonic() - began


def _record(path: Path) -> dict[str, Any] | None:
    """What is noted of a finished encoder; None if there is none, or it is damaged."""
    with contextlib.suppress(ArtifactError, OSError, ValueError):
        verify_folder(path)
        found: dict[str, Any] = json.loads((path / _RECORD).read_text(encoding="utf-8"))
        return found
    return None


def digest(*what: Any) -> str:
    """A hash of anything that JSON can say: texts are on disk as hashes only."""
    return hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=16).hexdigest()


def source_hash(source: str) -> str:
    """Hash of the weights and the tokenizer in a base model's folder; of any other source its name."""
    state = hashlib.sha256()
    files = sorted(file for file in Path(source).glob("*") if file.suffix in (".safetensors", ".json", ".txt"))
    for file in files:
        state.update(file.name.encode())
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                state.update(block)
    return state.hexdigest() if files else source
