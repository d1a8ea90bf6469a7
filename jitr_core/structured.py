"""Structured answers: a JSON value in its frame of text, flat as paths and values; written as the teacher writes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MISSING", "Path", "Structured", "Style", "encoded", "items", "joined", "named", "nested", "structured"]

Path = tuple[str, ...]
"""Where in an object a value stands: the keys that lead to it; () for an answer that is no object."""

MISSING = "<absent>"
"""In place of an encoded value: there is none. JSON never begins with it."""

MAX_CHARS = 100_000
MAX_DEPTH = 12
MAX_PATHS = 200

_FENCED = re.compile(r"(```[\w+-]*[ \t]*\r?\n)(.*?)(\r?\n?```)", re.DOTALL)
_SAMPLE = 200
_STYLES = [
    (indent, separators, ascii_only)
    for indent in (None, 2, 4, 1, "\t")
    for separators in ((None,) if indent is not None else (None, (",", ":")))
    for ascii_only in (False, True)
]


@dataclass(frozen=True, slots=True)
class Structured:
    """A structured answer, taken apart.

    Attributes:
        values: encoded value (see `encoded`) of each path, in the answer's order. Lists are values, and so are empty
            objects.
        before, after: the text around the JSON: white space, the marks of a code block, or a sentence.
        body: the JSON as it was written; of a text that stands for itself (see `jitr_core.amounts.bare`), the text.
        joint: what is between the items of a list of texts that is no JSON, "" for anything else; `{n}` is the number
            of the second one.
        last: what is between its last two items, "" where that is `joint`; of two items alone, without its comma.
    """

    values: Mapping[Path, str]
    before: str
    after: str
    body: str
    joint: str = ""
    last: str = ""


def joined(items: Sequence[str], joint: str, last: str = "") -> str:
    """A list of one text or more in plain text, see `Structured.joint` and `last`.

    Example:
        >>> joined(["red", "blue", "white"], ", ", " and ")
        'red, blue and white'
    """
    text = items[0]
    for n, item in enumerate(items[1:], 2):
        ends = last if n > 2 else last.removeprefix(",")
        text += (ends if last and n == len(items) else joint.replace("{n}", str(n))) + item
    return text


def structured(answer: str) -> Structured | None:
    """An answer that is a JSON object, list or number, alone or in a code block; None if it is anything else.

    Answers that are very large, nested very deeply or hold no plain JSON (`NaN`) are none.

    Example:
        >>> structured('{"a": {"b": 1}, "c": []}').values
        {('a', 'b'): '1', ('c',): '[]'}
    """
    text = answer.strip()
    if not text or len(text) > MAX_CHARS or text[0] not in "{[`-0123456789":
        return None
    start = answer.index(text)
    before, body, after = answer[:start], text, answer[start + len(text) :]
    if fenced := _FENCED.fullmatch(text):
        before, body, after = before + fenced[1], fenced[2], fenced[3] + after
    try:
        value = json.loads(body, parse_constant=_refused)
        values: dict[Path, str] = {}
        _flatten(value, (), values)
    except (ValueError, RecursionError):
        return None
    return Structured(values, before, after, body)


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _flatten(value: Any, path: Path, into: dict[Path, str]) -> None:
    if len(path) > MAX_DEPTH or len(into) > MAX_PATHS:
        raise ValueError("too deep or too large")
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            _flatten(inner, (*path, key), into)
    else:
        into[path] = encoded(value)


def encoded(value: Any) -> str:
    """A JSON value as a text that tells values of different types apart.

    Example:
        >>> encoded(1), encoded(1.0), encoded("1")
        ('1', '1.0', '"1"')
    """
    return json.dumps(value, ensure_ascii=False)


def items(value: str) -> list[str] | None:
    """The encoded items of an encoded list of simple values; None for any other value.

    Example:
        >>> items('["a", 1]'), items('[{}]'), items('"a"')
        (['"a"', '1'], None, None)
    """
    if not value.startswith("["):
        return None
    found = json.loads(value)
    return None if any(isinstance(item, dict | list) for item in found) else [encoded(item) for item in found]


def nested(values: Mapping[Path, str]) -> Any:
    """The JSON value of some paths, in their order; the inverse of `Structured.values`.

    Raises:
        ValueError: two paths contradict each other.
    """
    if () in values:
        if len(values) > 1:
            raise ValueError("an answer is an object or it is not")
        return json.loads(values[()])
    whole: dict[str, Any] = {}
    for path, value in values.items():
        inner = whole
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise ValueError(f"{named(path)} is in what is no object")
        if path[-1] in inner:
            raise ValueError(f"{named(path)} is there already")
        inner[path[-1]] = json.loads(value)
    return whole


def named(path: Path) -> str:
    """A path for reading.

    Example:
        >>> named(("address", "city")), named(())
        ('address.city', 'answer')
    """
    return ".".join(path) or "answer"


@dataclass(frozen=True, slots=True)
class Style:
    """How a teacher writes JSON.

    Attributes:
        indent: of nested lines: a number of blanks, or a text; None: all in one line.
        compact: whether there is no blank after commas and colons.
        ascii_only: whether other characters are escaped.
        before, after: the text around it.
        bare: whether answers are no JSON, but texts that stand for themselves.
        joint, last: what is between the items where answers are lists of texts and no JSON, see `Structured`; else "".
    """

    indent: int | str | None = None
    compact: bool = False
    ascii_only: bool = False
    before: str = ""
    after: str = ""
    bare: bool = False
    joint: str = ""
    last: str = ""

    @classmethod
    def of(cls, answers: Sequence[Structured]) -> Style:
        """The style in which most of these answers are written."""
        frames = Counter((each.before, each.after) for each in answers)
        before, after = max(frames, key=lambda frame: (frames[frame], frame))
        if answers and answers[0].joint:
            return cls(before=before, after=after, joint=answers[0].joint, last=answers[0].last)
        parsed = [(each.body, nested(each.values)) for each in answers[-_SAMPLE:]]
        if all(body == value for body, value in parsed):
            return cls(before=before, after=after, bare=True)
        hits = [
            sum(_dumped(value, indent, separators is not None, ascii_only) == body for body, value in parsed)
            for indent, separators, ascii_only in _STYLES
        ]
        indent, separators, ascii_only = _STYLES[hits.index(max(hits))]
        return cls(indent, separators is not None, ascii_only, before, after)

    def write(self, values: Mapping[Path, str]) -> str:
        """The answer with these values, as the teacher would write it; "" if it would write none such.

        Raises:
            ValueError: two paths contradict each other.
        """
        value = nested(values)
        if self.joint:
            return f"{self.before}{joined(value, self.joint, self.last)}{self.after}" if value else ""
        text = value if self.bare else _dumped(value, self.indent, self.compact, self.ascii_only)
        return f"{self.before}{text}{self.after}"


def _dumped(value: Any, indent: int | str | None, compact: bool, ascii_only: bool) -> str:
    separators = (",", ":") if compact else None
    return json.dumps(value, indent=indent, separators=separators, ensure_ascii=ascii_only)
