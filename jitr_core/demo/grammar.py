"""A context-free grammar that writes sentences: how the demo's inputs get their variety. Standard library only."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

__all__ = ["Grammar", "expand", "load_grammar", "pick", "scramble"]

Grammar = Mapping[str, Sequence[str]]
"""Symbol → its alternatives; `{symbol}` inside an alternative is expanded in turn."""

T = TypeVar("T")
_SYMBOL = re.compile(r"\{(\w+)\}")
_TEXTS = Path(__file__).parent / "texts"


def load_grammar(*names: str) -> dict[str, list[str]]:
    """The grammar in the files `texts/NAME.txt`, read as one.

    A line `[symbol]` starts a symbol; the lines below hold its alternatives, ` | ` between those that share a line.
    Empty lines and lines starting with `# ` say nothing.
    """
    grammar: dict[str, list[str]] = {}
    for name in names:
        symbol = ""
        for line in (_TEXTS / f"{name}.txt").read_text(encoding="utf-8").splitlines():
            if line.startswith("[") and line.endswith("]"):
                symbol = line[1:-1]
                grammar.setdefault(symbol, [])
            elif line and not line.startswith("# "):
                grammar[symbol] += line.split(" | ")
    return grammar


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """One of the options, each equally likely; unlike `random.choice` the same on every Python version."""
    return options[int(rng.random() * len(options))]


def expand(rng: random.Random, grammar: Grammar, text: str) -> str:
    """The text with every `{symbol}` replaced by one of its alternatives, down to the last.

    Raises:
        KeyError: the text names a symbol the grammar does not have.

    Example:
        >>> expand(random.Random(0), {"who": ["{name}"], "name": ["Ada"]}, "Dear {who},")
        'Dear Ada,'
    """
    return _SYMBOL.sub(lambda found: expand(rng, grammar, pick(rng, grammar[found[1]])), text)


def scramble(rng: random.Random, text: str, *, share: float) -> str:
    """The text with a slip of the finger in about `share`, in [0, 1], of its words of five letters or more.

    A slip loses a letter, doubles one or swaps two; the first letter always stays.
    """

    def slip(found: re.Match[str]) -> str:
        word = found[0]
        if rng.random() >= share:
            return word
        at = 1 + int(rng.random() * (len(word) - 2))
        kind = int(rng.random() * 3)
        if kind == 0:
            return word[:at] + word[at + 1 :]
        if kind == 1:
            return word[:at] + word[at] + word[at:]
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]

    return re.sub(r"[A-Za-z]{5,}", slip, text)
