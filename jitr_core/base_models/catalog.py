"""What is known of base models: of those prepared on this machine, and of a pool worth having.

A prepared model is a folder below `prepared_folder(cache)`; its name is the model's **key**. What its embeddings
depend on is in its manifest, what is merely known of it in `facts.json` beside that, so that facts may change without
making replacements void.
"""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ..files import MANIFEST

__all__ = [
    "DEFAULT_KEYS",
    "POOL",
    "Facts",
    "Kind",
    "default_cache_dir",
    "model_key",
    "prepared_folder",
    "prepared_models",
    "read_facts",
    "write_facts",
]

Kind = Literal["encoder", "static", "generator"]

DEFAULT_KEYS = ("encoder", "static")
"""Keys of the models that are prepared without being asked for: one of each kind that embeds."""

_log = logging.getLogger(__name__)
_FACTS = "facts.json"
_NOT_SAFE = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a base model.

    Attributes:
        name: what to call it.
        kind: "encoder" (a network that embeds texts), "static" (a token table) or "generator" (writes text).
        source: hub id, folder or package it comes from.
        licence: of the weights, as their source states it; None if it does not.
        parameters: number of weights; None if unknown.
        layers: of the network, 0 for a token table; None if unknown.
        width: of a hidden state or a token's vector; None if unknown.
        tuned_for: kind of task it was tuned for beyond general texts; "" for none.
        size_bytes: on this disk; None if it is not here.
        token_s: seconds for a token of a text of 32, measured here on one thread; None if not measured.
    """

    name: str
    kind: Kind
    source: str
    licence: str | None = None
    parameters: int | None = None
    layers: int | None = None
    width: int | None = None
    tuned_for: str = ""
    size_bytes: int | None = None
    token_s: float | None = None

    @property
    def multiplications(self) -> int | None:
        """Multiply-adds for a token, counted from the shape: 12 · layers · width², 0 for a token table."""
        if self.kind == "static":
            return 0
        return None if self.layers is None or self.width is None else 12 * self.layers * self.width**2


POOL: tuple[Facts, ...] = (
    Facts("all-MiniLM-L6-v2", "encoder", "sentence-transformers/all-MiniLM-L6-v2", "apache-2.0", 22_700_000, 6, 384),
    Facts("bge-small-en-v1.5", "encoder", "BAAI/bge-small-en-v1.5", "mit", 33_400_000, 12, 384),
    Facts("multilingual-e5-small", "encoder", "intfloat/multilingual-e5-small", "mit", 118_000_000, 12, 384),
    Facts(
        "distilbert-sst2", "encoder", "distilbert/distilbert-base-uncased-finetuned-sst-2-english", "apache-2.0",
        67_000_000, 6, 768, "sentiment",
    ),
    Facts(
        "twitter-roberta-sentiment", "encoder", "cardiffnlp/twitter-roberta-base-sentiment-latest", "cc-by-4.0",
        125_000_000, 12, 768, "sentiment",
    ),
    Facts(
        "nli-MiniLM2-L6", "encoder", "cross-encoder/nli-MiniLM2-L6-H768", "apache-2.0", 82_000_000, 6, 768,
        "natural language inference",
    ),
    Facts(
        "roberta-go-emotions", "encoder", "SamLowe/roberta-base-go_emotions", "mit", 125_000_000, 12, 768, "emotion"
    ),
    Facts("potion-base-8M", "static", "minishlab/potion-base-8M", "mit", 7_600_000, 0, 256),
    Facts("potion-base-32M", "static", "minishlab/potion-base-32M", "mit", 32_300_000, 0, 512),
    Facts("flan-t5-small", "generator", "google/flan-t5-small", "apache-2.0", 77_000_000, 16, 512, "instructions"),
    Facts(
        "SmolLM2-135M-Instruct", "generator", "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0", 135_000_000, 30, 576,
        "instructions",
    ),
    Facts("Qwen3-0.6B", "generator", "Qwen/Qwen3-0.6B", "apache-2.0", 600_000_000, 28, 1024, "instructions"),
)  # fmt: skip
"""Base models worth trying, as their model cards describe them. Fetched only where the user allows downloads."""


def default_cache_dir() -> Path:
    """`$JITR_CACHE`, or `~/.cache/jitr`."""
    given = os.environ.get("JITR_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "jitr"


def prepared_folder(cache: Path) -> Path:
    """Where prepared models are; its name changes whenever they would be prepared or read differently."""
    return cache / "base_models" / "2"


def model_key(name: str) -> str:
    """A name as a key: letters, digits, "-" and "_" only.

    Example:
        >>> model_key("BAAI/bge-small-en-v1.5")
        'bge-small-en-v1_5'
    """
    return _NOT_SAFE.sub("_", name.rstrip("/").rsplit("/", 1)[-1]).strip("_") or "model"


def prepared_models(cache: Path) -> dict[str, Facts]:
    """Facts of every model prepared in a cache folder, by key: the default ones first, then by name."""
    folder = prepared_folder(cache)
    keys = [path.name for path in folder.glob("*") if not path.name.startswith(".") and (path / MANIFEST).is_file()]
    found = {}
    for key in sorted(keys, key=lambda key: (key not in DEFAULT_KEYS, key)):
        try:
            found[key] = read_facts(folder / key)
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("base model %s cannot be used: %s", folder / key, error)
    return found


def read_facts(path: Path) -> Facts:
    """What is known of the prepared model in the folder `path`.

    Raises:
        OSError, ValueError, KeyError, TypeError: its files cannot be read.
    """
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    told: dict[str, Any] = {}
    if (path / _FACTS).is_file():
        told = json.loads((path / _FACTS).read_text(encoding="utf-8"))
    told = {name: value for name, value in told.items() if name in {each.name for each in fields(Facts)}}
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    seen = {"name": str(config["name"]), "kind": _kind(path, config), "source": "", **_shape(config)}
    pooled = next((asdict(each) for each in POOL if each.name == seen["name"]), {})
    if path.name in DEFAULT_KEYS and pooled:  # prepared before that was noted: nothing else is prepared unasked
        seen["source"] = pooled["source"]
    return Facts(**{**pooled, **seen, **told, "size_bytes": size})


def write_facts(path: Path, facts: Facts) -> None:
    """Note what is known of the prepared model in the folder `path`."""
    text = json.dumps(asdict(facts), ensure_ascii=True, indent=1, sort_keys=True)
    temporary = path / f".{_FACTS}"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path / _FACTS)


def _kind(path: Path, config: dict[str, Any]) -> Kind:
    if config.get("kind") == "generator":
        return "generator"
    return "encoder" if (path / "model.onnx").is_file() else "static"


def _shape(config: dict[str, Any]) -> dict[str, int]:
    """Layers and width, from the blocks of an encoder: its last layer and the inner ones by number."""
    if "blocks" not in config:
        return {"layers": 0, "width": int(config["width"])} if "width" in config else {}
    inner = [int(name.removeprefix("layer")) for name, _ in config["blocks"] if name.startswith("layer")]
    return {"layers": max(inner, default=0) + 1, "width": int(config["blocks"][0][1])}
