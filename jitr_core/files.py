"""Files and folders that are complete or not there; folders with a manifest of hashes, written last."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from .errors import ArtifactError

__all__ = ["MANIFEST", "folder_hash", "verify_folder", "write_folder", "written"]

MANIFEST = "manifest.json"


def write_folder(path: Path, fill: Callable[[Path], None], *, keep_existing: bool = False) -> None:
    """Write a folder beside its place, add the manifest, then rename it into place.

    Args:
        path: where it shall be.
        fill: writes the files, in folders of their own if it likes, into the folder it is given.
        keep_existing: if something is there already, leave that and throw the new folder away.

    Raises:
        ArtifactError: there is something at `path` already.
        OSError: the disk is full or not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        _filled(temporary, fill)
        found = sorted(f for f in temporary.rglob("*") if f.is_file())
        files = {f.relative_to(temporary).as_posix(): _sha256(f) for f in found}
        text = json.dumps({"format": 1, "files": files}, indent=1, sort_keys=True)
        (temporary / MANIFEST).write_text(text, encoding="utf-8")
        temporary.chmod(0o755)
        try:
            os.replace(temporary, path)
        except OSError as error:
            if not path.exists():
                raise
            if not keep_existing:
                raise ArtifactError(f"{path} exists.", hint="Choose another folder.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _filled(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder; what safetensors says of the system is said as Python says it."""
    try:
        fill(folder)
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if isinstance(error, OSError) or number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def verify_folder(path: Path) -> str:
    """Check every file against the manifest.

    Returns:
        The folder's hash: equal hashes, equal contents.

    Raises:
        ArtifactError: the folder or a file is missing, changed or unreadable.
    """
    manifest = _manifest(path)
    for name, digest in manifest["files"].items():
        file = path / name
        if not file.is_file() or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ArtifactError(f"{file} is missing.", hint="Train the task again, or restore the file.")
        if _sha256(file) != digest:
            raise ArtifactError(f"{file} was changed.", hint="Train the task again, or restore the file.")
    return _hash(manifest)


def folder_hash(path: Path) -> str:
    """What `verify_folder` would return if nothing was changed; no file but the manifest is read.

    Raises:
        ArtifactError: there is no manifest, or it is unreadable.
    """
    return _hash(_manifest(path))


def _hash(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest["files"], sort_keys=True).encode()).hexdigest()


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} holds no finished artifact.", hint="Train the task again.") from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path / MANIFEST} cannot be read: {error}.", hint="Train the task again.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != 1 or not isinstance(manifest.get("files"), dict):
        raise ArtifactError(f"{path} was written by another version of JITR.", hint="Train the task again.")
    return manifest


def _sha256(file: Path) -> str:
    state = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(1 << 20):
            state.update(block)
    return state.hexdigest()


@contextmanager
def written(path: Path) -> Iterator[TextIO]:
    """A text file that appears under its name only when the block ends without an error; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
