"""Export: the artifact that serves a task, copied to a folder of the user's, with a model card."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigError
from .promises import promised, where

if TYPE_CHECKING:
    from .base_models import BaseModels
    from .store import Store
    from .types import Release, Task

__all__ = ["export"]


def export(store: Store, task: Task, folder: Path, base_models: BaseModels) -> Path:
    """Copy a task's active artifact to a new folder, with a model card beside it.

    The copy loads like the original; the card is not part of what its manifest vouches for.

    Args:
        store: the state.
        task: the task.
        folder: where to; must not exist, or be empty.
        base_models: those of this machine, for what is known of the base.

    Returns:
        The folder.

    Raises:
        ConfigError: the task has no replacement, or there is something in the folder.
        ArtifactError: the artifact is damaged; nothing is left behind.
    """
    from .files import verify_folder

    release = store.active_release(task.id)
    if release is None:
        raise ConfigError(f"task {task.name!r} has no active replacement to export.", hint="`jitr tasks` says why.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"there is something at {folder} already.", hint="Choose a new folder.")
    verify_folder(Path(release.path))
    try:
        shutil.copytree(release.path, folder, dirs_exist_ok=True)
        (folder / "README.md").write_text(_card(store, task, release, base_models), encoding="utf-8")
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _card(store: Store, task: Task, release: Release, base_models: BaseModels) -> str:
    certificate = release.certificate
    counts = store.counts(task.id)
    base = next((f for f in base_models.catalogue().values() if f.name == release.base_model), None)
    licence = (base.licence if base else None) or "unknown"
    made = time.strftime("%Y-%m-%d", time.gmtime(release.created))
    rows = [
        ("task", task.name),
        ("release", f"{release.id}, {made}"),
        ("family", release.family),
        ("base model", f"{release.base_model}, licence {licence}" if release.base_model else "none"),
        ("base model's source", base.source if base and base.source else "–"),
        ("size", f"{release.size_bytes:,} bytes, the base model not counted"),
        ("labels of the task so far", f"{counts.labels:,}, all from the teacher; {counts.audits:,} audits"),
        ("promise", f"{promised(certificate.promise, certificate.target)}; agreement is with the teacher"),
        ("probability of breaking it", f"≤ {certificate.delta:.4g} spent by this release's attempt"),
        ("threshold", where(certificate)),
        ("calibration", f"{certificate.calls:,} calls it would answer, {certificate.errors:,} answered otherwise"),
        (
            "agreement there",
            f"{1 - certificate.errors / certificate.calls:.4f}; shown of the promise: {certificate.agreement_low:.4f}",
        ),
        ("coverage", f"{certificate.coverage:.3f} of the calibration calls"),
    ]
    lines = "\n".join(f"| {name} | {' '.join(str(value).split()).replace('|', '/')} |" for name, value in rows)
    threshold = repr(certificate.threshold)
    if certificate.thresholds:
        threshold = f"{certificate.thresholds!r}.get(canonical(answer), {threshold})"
    return _CARD.format(
        title=" ".join(task.name.split()), base=_yaml(release, licence), rows=lines, threshold=threshold
    )


def _yaml(release: Release, licence: str) -> str:
    """The card's front matter: what model hubs read."""
    return f"base_model: {release.base_model}\nbase_model_license: {licence}\n" if release.base_model else ""


_CARD = """---
library_name: jitr
{base}tags: [jitr, text-classification]
---

# {title}

A replacement that JITR trained on the answers of an LLM to recurring calls of one task. It repeats that LLM's mistakes;
what is certified is agreement with it, on inputs like those it was calibrated on.

| | |
|---|---|
{rows}

## How to load it

```python
from jitr_core.base_models import BaseModels
from jitr_core.equivalence import canonical
from jitr_core.students import load_student

student = load_student("PATH/OF/THIS/FOLDER", BaseModels())
answer, confidence, out_of_distribution = student.predict_one(("the input",))
if confidence >= {threshold}:
    print(answer)  # else ask the LLM
```

An input is a tuple of the prompt's varying parts, in order. Files are safetensors and JSON, never code; `manifest.json`
holds their hashes. A base model must be prepared on the machine (`jitr models add`), in the version it had in training.
"""
