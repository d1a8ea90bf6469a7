"""Spans: which parts of an input an answer can have copied, and how the copy is written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..structured import encoded
from ..types import Slots

__all__ = ["FORMS", "MAX_TOKENS", "Reading", "Token", "Tokens", "copies", "tokens"]

MAX_TOKENS = 800
"""Tokens of an input that can be copied from; what comes later is not looked at."""

MAX_LENGTH = 16
"""Tokens of the longest span that can be copied."""

_TOKEN = re.compile(r"\d+|[^\W\d_]+|[^\w\s]|_")
_BLANKS = re.compile(r"\s+")
_NUMBER = re.compile(r"(?:(?<!\w)[-+])?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Token:
    """A run of digits or letters, or a mark.

    Attributes:
        start, end: place in the slot's text.
        line: number of the line it stands in, over all slots.
        glued: whether no white space comes before it, in the same line.
    """

    start: int
    end: int
    line: int
    glued: bool


@dataclass(frozen=True)
class Tokens:
    """The tokens of an input.

    Attributes:
        texts: the slots.
        slot: of each token, the slot it stands in.
        tokens: in order, all slots together.
    """

    texts: Slots
    slot: list[int]
    tokens: list[Token]

    def text(self, first: int, last: int) -> str:
        """What stands from one token to another of its slot, as it was written."""
        return self.texts[self.slot[first]][self.tokens[first].start : self.tokens[last].end]

    def word(self, at: int) -> str:
        """The text of one token."""
        return self.text(at, at)

    @cached_property
    def features(self) -> list[list[str]]:
        """Features of every token: its word and shape, its neighbours, its place in its line."""
        return _features(self)


def _features(each: Tokens) -> list[list[str]]:
    words = [each.word(i) for i in range(len(each.tokens))]
    lower = [word.casefold() for word in words]
    found: list[list[str]] = []
    start = 0
    for end in range(1, len(words) + 1):
        if end < len(words) and each.tokens[end].line == each.tokens[start].line:
            continue
        label = _label(lower[start:end])
        for i in range(start, end):
            before = lower[i - 1] if i > start else "\n"
            after = lower[i + 1] if i + 1 < end else "\n"
            further = lower[i - 2] if i > start + 1 else "\n"
            beyond = lower[i + 2] if i + 2 < end else "\n"
            found.append(
                [
                    f"w {lower[i]}",
                    f"s {_shape(words[i])}",
                    f"e {lower[i][-3:]}",
                    f"p {before}",
                    f"n {after}",
                    f"pp {further} {before}",
                    f"nn {after} {beyond}",
                    f"l {each.slot[i]} {label}",
                    f"i {label} {min(i - start, 6)}",
                    f"j {label} {min(end - 1 - i, 3)}",
                    f"g {each.tokens[i].glued} {i + 1 < end and each.tokens[i + 1].glued}",
                ]
            )
        start = end
    return found


def _label(line: list[str]) -> str:
    """What opens a line: "title" of "title: …"."""
    return " ".join(line[: line.index(":")]) if ":" in line[:5] else ""


def _shape(word: str) -> str:
    if word.isdigit():
        return f"d{min(len(word), 6)}"
    if not word[0].isalpha():
        return word
    if word.isupper():
        return "X" if len(word) == 1 else "XX"
    return "Xx" if word[0].isupper() else "x"


def tokens(slots: Sequence[str]) -> Tokens:
    """The tokens of an input, at most `MAX_TOKENS`.

    Example:
        >>> found = tokens(["Size: 12oz"])
        >>> [found.word(i) for i in range(len(found.tokens))]
        ['Size', ':', '12', 'oz']
    """
    slot: list[int] = []
    made: list[Token] = []
    line = -1
    for i, text in enumerate(slots):
        line += 1
        end = 0
        for match in _TOKEN.finditer(text):
            line += text.count("\n", end, match.start())
            made.append(Token(match.start(), match.end(), line, match.start() == end and end > 0))
            slot.append(i)
            end = match.end()
            if len(made) == MAX_TOKENS:
                return Tokens(tuple(slots), slot, made)
    return Tokens(tuple(slots), slot, made)


def _number(text: str) -> str | None:
    return text.replace(",", "").removeprefix("+") if _NUMBER.fullmatch(text) else None


def _as_integer(text: str) -> str | None:
    number = _number(text)
    return None if number is None or float(number) != int(float(number)) else encoded(int(float(number)))


def _as_float(text: str) -> str | None:
    number = _number(text)
    return None if number is None else encoded(float(number))


def _as_written(text: str) -> str | None:
    number = _number(text)
    return None if number is None else encoded(float(number) if "." in number else int(number))


FORMS: dict[str, Callable[[str], str | None]] = {
    "as it stands": lambda text: encoded(text),
    "with single blanks": lambda text: encoded(_BLANKS.sub(" ", text)),
    "in lower case": lambda text: encoded(text.lower()),
    "in upper case": lambda text: encoded(text.upper()),
    "in title case": lambda text: encoded(text.title()),
    "capitalised": lambda text: encoded(text.capitalize()),
    "as a number": _as_written,
    "as an integer": _as_integer,
    "as a decimal number": _as_float,
}
"""How a copied part of the input becomes an encoded value; None where it cannot."""


@dataclass(frozen=True, slots=True)
class Reading:
    """All spans of some inputs that can be copied, as arrays.

    Attributes:
        inputs: n inputs.
        edges: shape (n + 1,), where the spans of each input begin.
        first, last: shape (s,), first and last token of each span, counted over all inputs.
        offsets: shape (n + 1,), where the tokens of each input begin.
    """

    inputs: list[Tokens]
    edges: NDArray[np.intp]
    first: NDArray[np.intp]
    last: NDArray[np.intp]
    offsets: NDArray[np.intp]

    @classmethod
    def of(cls, inputs: list[Tokens], length: int, *, numbers: bool) -> Reading:
        """The spans of these inputs.

        Args:
            inputs: n inputs.
            length: tokens of the longest span.
            numbers: only spans that are numbers.
        """
        first, last, edges, offsets = [], [], [0], [0]
        for each in inputs:
            one, other = _numbers(each) if numbers else _spans(each, length)
            first.append(one + offsets[-1])
            last.append(other + offsets[-1])
            edges.append(edges[-1] + len(one))
            offsets.append(offsets[-1] + len(each.tokens))
        none = [np.zeros(0, np.intp)]
        return cls(
            inputs, np.array(edges), np.concatenate(first or none), np.concatenate(last or none), np.array(offsets)
        )

    def written(self, span: int, form: str) -> str | None:
        """What a span gives, encoded."""
        at = int(np.searchsorted(self.edges, span, side="right")) - 1
        start = self.offsets[at]
        return FORMS[form](self.inputs[at].text(int(self.first[span] - start), int(self.last[span] - start)))


def _spans(each: Tokens, length: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and last token of all spans within one line, in order of their first token."""
    count = len(each.tokens)
    lines = np.array([token.line for token in each.tokens], np.intp)
    first = np.repeat(np.arange(count), length)
    last = first + np.tile(np.arange(length), count)
    inside = last < count
    first, last = first[inside], last[inside]
    same = lines[first] == lines[last] if count else inside[:0]
    return first[same], last[same]


def _numbers(each: Tokens) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and last token of all spans that are numbers."""
    starts = {(s, t.start): i for i, (s, t) in enumerate(zip(each.slot, each.tokens, strict=True))}
    ends = {(s, t.end): i for i, (s, t) in enumerate(zip(each.slot, each.tokens, strict=True))}
    found = [
        (starts[s, match.start()], ends[s, match.end()])
        for s, text in enumerate(each.texts)
        for match in _NUMBER.finditer(text)
        if (s, match.start()) in starts and (s, match.end()) in ends
    ]
    pairs = np.array(found, np.intp).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def copies(each: Tokens, value: str, form: str) -> Iterator[tuple[int, int]]:
    """First and last token of every span that gives a value.

    Args:
        each: the input.
        value: encoded.
        form: see `FORMS`.
    """
    wanted: Any = json.loads(value)
    if isinstance(wanted, bool) or not isinstance(wanted, str | int | float):
        return
    write = FORMS[form]
    if not isinstance(wanted, str):
        for first, last in zip(*_numbers(each), strict=True):
            if write(each.text(int(first), int(last))) == value:
                yield int(first), int(last)
        return
    words = wanted.split()
    if not words or "number" in form or "integer" in form:
        return
    pattern = re.compile(r"\s+".join(map(re.escape, words)), re.IGNORECASE)
    starts = {(s, t.start): i for i, (s, t) in enumerate(zip(each.slot, each.tokens, strict=True))}
    ends = {(s, t.end): i for i, (s, t) in enumerate(zip(each.slot, each.tokens, strict=True))}
    for s, text in enumerate(each.texts):
        for match in pattern.finditer(text):
            first, last = starts.get((s, match.start())), ends.get((s, match.end()))
            if first is None or last is None or last - first >= MAX_LENGTH:
                continue
            if each.tokens[first].line == each.tokens[last].line and write(match[0]) == value:
                yield first, last
