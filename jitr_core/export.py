"""Export: the artifact that serves a task, copied to a folder of the user's, with a model card."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigError
from .promises import at_least, promised, where

if TYPE_CHECKING:
    from .base_models import BaseModels
    from .base_models.catalog import Facts
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
        (folder / "README.md").write_text(_card(store, task, release, base_models, folder), encoding="utf-8")
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _card(store: Store, task: Task, release: Release, base_models: BaseModels, folder: Path) -> str:
    certificate = release.certificate
    counts = store.counts(task.id)
    bases = _bases(folder, release, base_models.catalogue())
    made = time.strftime("%Y-%m-%d", time.gmtime(release.created))
    rows = [
        ("task", task.name),
        ("release", f"{release.id}, {made}"),
        ("family", release.family),
        ("base models", "; ".join(f"{name}, licence {licence}" for name, licence in bases.items()) or "none"),
        ("encoder tuned before", "; ".join(_tuned_before(folder)) or "no"),
        ("adapter", _adapter(folder)),
        ("size", f"{release.size_bytes:,} bytes, the base model not counted"),
        ("labels of the task so far", f"{counts.labels:,}, all from the teacher; {counts.audits:,} audits"),
        ("promise", f"{promised(certificate.promise, certificate.target)}; agreement is with the teacher"),
        ("probability of breaking it", f"≤ {certificate.delta:.4g} spent by this release's attempt"),
        ("threshold", where(certificate)),
        ("calibration", f"{certificate.calls:,} calls it would answer, {certificate.errors:,} answered otherwise"),
        (
            "agreement there",
            f"{1 - certificate.errors / certificate.calls:.4f}; at least {certificate.agreement_low:.4f} is certified",
        ),
        ("coverage", f"{certificate.coverage:.3f} of the calibration calls"),
    ]
    lines = "\n".join(f"| {name} | {' '.join(str(value).split()).replace('|', '/')} |" for name, value in rows)
    imports, sure = "", f"confidence >= {certificate.threshold!r}"
    if at_least(certificate.threshold) == at_least(0.0):  # all but foreign inputs, whose confidence is 0
        sure = "confidence > 0"
    if certificate.thresholds:
        imports = "from jitr_core.equivalence import canonical\n"
        sure = f"confidence >= {certificate.thresholds!r}.get(canonical(answer), {certificate.threshold!r})"
    title = " ".join(task.name.split())
    return _CARD.format(title=title, base=_yaml(bases), tags=_tags(folder), rows=lines, imports=imports, sure=sure)


def _bases(folder: Path, release: Release, known: Mapping[str, Facts]) -> dict[str, str]:
    """Every base model that something in an artifact was made of, and its licence; by hub id where it has one."""
    from .base_models.catalog import POOL
    from .base_models.sources import public_name
    from .students import descriptions

    facts = {each.name: each for each in (*POOL, *known.values())}
    facts |= {each.source: each for each in facts.values() if each.source}
    earlier = _tuned_before(folder)
    own = release.base_model if release.family != "fields" and release.base_model not in earlier else None
    names = [own] if own else []
    for student in descriptions(folder):
        names += [each.get("own", {}).get("base", each["name"]) for each in student.get("models", {}).values()]
        names += [student["tuned"]["name"]] if "tuned" in student else []
        base = student.get("answerer", {}).get("base")
        names += [public_name(base, Path(base).name)] if base else []
    found = {}
    for name in names:
        told = facts.get(name)
        found[public_name(told.source, name) if told else name] = (told.licence if told else None) or "unknown"
    return found


def _tuned_before(folder: Path) -> list[str]:
    """Names of the encoders in an artifact that were tuned for other tasks before."""
    from .students import descriptions

    models = [told for student in descriptions(folder) for told in student.get("models", {}).values()]
    return sorted({told["name"] for told in models if "own" in told})


def _adapter(folder: Path) -> str:
    """What is said of an adapter that others can load."""
    for file in sorted(folder.rglob("adapter_config.json")):
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
        return f"LoRA, as peft writes it, over {base}"
    return "none"


def _tags(folder: Path) -> str:
    """What a hub finds it by."""
    settings = json.loads((folder / "student.json").read_text(encoding="utf-8"))
    return ", ".join(["jitr", *_TAGS.get(settings.get("kind", "linear"), [])])


def _yaml(bases: Mapping[str, str]) -> str:
    """The card's front matter: what model hubs read."""
    if not bases:
        return ""
    return "".join(
        f"{key}:\n" + "".join(f"- {value}\n" for value in values)
        for key, values in (("base_model", bases), ("base_model_license", bases.values()))
    )


_TAGS = {"linear": ["text-classification"], "fields": ["information-extraction"], "text": ["text-generation"]}
"""By kind of student; as hubs name tasks."""

_CARD = """---
library_name: jitr
{base}tags: [{tags}]
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
{imports}from jitr_core.students import load_student

student = load_student("PATH/OF/THIS/FOLDER", BaseModels())
answer, confidence, out_of_distribution = student.predict_one(("the input",))
if {sure}:
    print(answer)  # else ask the LLM
```

An input is a tuple of the prompt's varying parts, in order. Files are safetensors and JSON, never code; `manifest.json`
holds their hashes. A base model must be prepared on the machine (`jitr models add`), in the version it had in training.
"""
