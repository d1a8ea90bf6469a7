"""What the calls of a freely worded task are told by, and the parts of a message that may be its question."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

from .text import words

__all__ = ["Pattern", "pieces", "said"]

EDGE = 2_000
"""Characters at the start and the end of a message that are searched for the question."""

MAX_PIECE = 160
"""Characters of a piece; a question is at an edge of a message, so of four pieces, two at each."""

_CUT = re.compile(r"(?<=[.?!:;…])\s+|\n+|[\"“”«»]|\s+[-–—]+\s+|\s+\.\.\.\s+|(?<=[。？！：；])")
_SAYS = re.compile(r"\w\W+\w|\w{4}|[^\W\d_a-zA-Z]{2}")


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a freely worded task's calls are told by. It holds figures and single words, no call's text.

    Attributes:
        model: hash of the model its vectors are of.
        messages: all messages of its calls but the last, (role, text).
        role: role of the last one.
        words: words its questions are made of; a piece with any other word is no question of this task. One word
            turns a question round, and vectors do not show it.
        gate, bound: see `Gate`.
        middle: mean of the calls' vectors, of length 1.
        reach: smallest cosine to the middle at which a call is still near.
    """

    model: str
    messages: tuple[tuple[str, str], ...]
    role: str
    words: frozenset[str]
    gate: tuple[float, ...]
    bound: float
    middle: tuple[float, ...]
    reach: float

    def to_json(self) -> str:
        """The pattern as text."""
        return json.dumps({**asdict(self), "words": sorted(self.words)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Pattern:
        """The pattern of a text that `to_json` gave."""
        values = json.loads(text)
        values["messages"] = tuple((role, said) for role, said in values["messages"])
        values["words"] = frozenset(values["words"])
        values["gate"], values["middle"] = tuple(values["gate"]), tuple(values["middle"])
        return cls(**values)


def pieces(text: str) -> list[str]:
    """Parts of a message that may be its question: up to two at its start and two at its end, one at least."""
    if len(text) > 2 * EDGE:
        text = f"{text[:EDGE]}\n{text[-EDGE:]}"
    parts = [part for part in map(str.strip, _CUT.split(text)) if _SAYS.search(part)]
    parts = parts if len(parts) <= 4 else [*parts[:2], *parts[-2:]]
    return [part[:MAX_PIECE] for part in parts] or [text[:MAX_PIECE]]


def said(piece: str) -> set[str]:
    """The different words of a piece, without case."""
    return {word.casefold() for word in words(piece)}
