"""Loading: the student in an artifact, whatever its kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..base_models.store import BaseModels
from ..errors import ArtifactError
from ..files import verify_folder
from .fields import Part, restore_fields
from .numbers import NumberStudent, restore_number
from .student import FORMAT, LinearStudent, Student, restore_linear
from .text_student import restore_text_student

__all__ = ["descriptions", "load_student", "own_bytes"]

_SHARED = (".network", ".tokenizer", "__metadata__")


def load_student(path: str | Path, base_models: BaseModels) -> Student:
    """Load an artifact, verified against its manifest.

    Args:
        path: its folder.
        base_models: the base models of this machine.

    Raises:
        ArtifactError: the artifact is missing, changed or of another version, or its base model is not at hand.
    """
    from safetensors.numpy import load_file

    folder = Path(path)
    verify_folder(folder)
    try:
        settings = json.loads((folder / "student.json").read_text(encoding="utf-8"))
        kind = settings.get("kind", "linear")
        if kind == "text":
            return restore_text_student(folder, settings)
        if settings["format"] != FORMAT or kind not in ("linear", "fields", "number"):
            raise ArtifactError(f"{folder} was written by another version of JITR.", hint="Train the task again.")
        arrays = load_file(folder / "arrays.safetensors")
        if kind == "fields":
            return restore_fields(settings, arrays, lambda name: _part(folder / name, base_models))
        if kind == "number":
            return restore_number(settings, arrays, _labels(folder / "heads", base_models))
        return restore_linear(settings, arrays, base_models)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ArtifactError(f"{folder} cannot be read: {error!r}.", hint="Train the task again.") from error


def descriptions(path: str | Path) -> list[dict[str, Any]]:
    """What describes the student in an artifact, and those it is made of: their `student.json`.

    Args:
        path: the artifact's folder.

    Raises:
        ArtifactError: one of them cannot be read.
    """
    try:
        files = sorted(Path(path).rglob("student.json"))
        return [dict(json.loads(file.read_text(encoding="utf-8"))) for file in files]
    except (TypeError, ValueError, OSError) as error:
        raise ArtifactError(f"{path} cannot be read: {error!r}.", hint="Train the task again.") from error


def own_bytes(path: str | Path) -> int:
    """About the bytes that a student takes in memory, without what it shares with others, from its artifact's headers.

    Args:
        path: the artifact's folder.

    Raises:
        ArtifactError: it cannot be read.
    """
    total = 0
    try:
        for file in Path(path).rglob("arrays.safetensors"):
            with file.open("rb") as handle:
                header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
            offsets = [each["data_offsets"] for key, each in header.items() if not key.endswith(_SHARED)]
            total += sum(end - start for start, end in offsets)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ArtifactError(f"{path} cannot be read: {error!r}.", hint="Train the task again.") from error
    return total


def _part(folder: Path, base_models: BaseModels) -> Part:
    part = load_student(folder, base_models)
    if not isinstance(part, LinearStudent | NumberStudent):
        raise TypeError(f"{folder.name} is no student of labels or a number")
    return part


def _labels(folder: Path, base_models: BaseModels) -> LinearStudent:
    heads = load_student(folder, base_models)
    if not isinstance(heads, LinearStudent):
        raise TypeError(f"{folder.name} holds no heads")
    return heads
