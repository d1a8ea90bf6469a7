"""Whether the base models of this machine can be used, by using each."""

from __future__ import annotations

import math
from pathlib import Path

from ..base_models import BaseModels
from ..base_models.catalog import prepared_folder, read_facts
from ..errors import JITRError
from ..files import MANIFEST, verify_folder
from ..settings import Settings
from .check import Check

__all__ = ["ELSEWHERE", "bases"]

ELSEWHERE = "If the app has them in another folder, as with another HOME, name that here: JITR_CACHE=FOLDER."
"""What to do where base models are missing only here."""


def bases(settings: Settings) -> Check:
    """Load every prepared base model as serving does, compare it with its hashes, and have it embed a text."""
    wanted = {"static", "encoder", "stacked", "lora"} & set(settings.policy.families)
    if not wanted and not settings.policy.generators:
        return Check("base models", "ok", "none needed: only word-based students are wanted")
    models = BaseModels(settings.policy.cache_dir, download=settings.policy.download)
    folder = prepared_folder(models.folder)
    broken: dict[str, str] = {}
    sound: list[str] = []
    for path in sorted(each.parent for each in folder.glob(f"[!.]*/{MANIFEST}")):
        key = path.name
        try:
            sound += _used(BaseModels(settings.policy.cache_dir), path)
        except Exception as error:
            broken[key] = str(error.args[0]) if isinstance(error, JITRError) else repr(error)
    if broken:
        named = "; ".join(f"{key}: {why}" for key, why in broken.items())
        fix = f"Delete it in {folder}; the next search, or `jitr models add`, prepares it anew."
        return Check("base models", "fail", f"cannot be used: {named}", fix)
    if sound:
        return Check("base models", "ok", f"{len(sound)} loaded, each embedded a text: {', '.join(sorted(sound))}")
    found, lacking = f"none prepared in {models.folder}", models.lacking()
    if lacking:
        fix = f"{lacking.removesuffix('.')}, or `jitr models add FOLDER` prepares one of yours. {ELSEWHERE}"
        return Check("base models", "warn", f"{found}: students are word-based", fix)
    return Check("base models", "ok", f"{found} yet: the first search does it, some minutes of one core", ELSEWHERE)


def _used(models: BaseModels, path: Path) -> list[str]:
    """The name of a model that embeds, having embedded a text; nothing of a generator, whose files are as they were.

    Raises:
        Exception: it is damaged, in whatever way.
    """
    facts = read_facts(path)
    if facts.kind == "generator":
        verify_folder(path)
        return []
    model = models.get(path.name)
    if model is None:  # the libraries that run it are not installed
        return []
    if not all(map(math.isfinite, model.embed("The parcel has not arrived yet."))):
        raise ValueError("it embeds a text as no numbers")
    return [facts.name]
