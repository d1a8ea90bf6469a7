"""How structured answers are laid out: JSON, JSON within text that stays the same, lists and amounts in plain text."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping

from .amounts import Tolerance, alike, amount, bare, near
from .structured import Structured, encoded, joined, structured

__all__ = ["MOSTLY", "Reader", "close", "cut_out", "plain", "reader"]

Reader = Callable[[str], Structured | None]
"""Takes an answer apart; None if it is laid out otherwise."""

MOSTLY = 0.9
"""Smallest share of answers, in [0, 1], that must be laid out alike."""

MAX_ONCE = 0.15
"""Largest share of answers, in [0, 1], with an item that no other has, for lists in plain text."""

MIN_SEVERAL = 0.1
"""Smallest share of answers, in [0, 1], with several items, for lists in plain text."""

MIN_COMBINED = 2
"""Different answers for each different item that lists in plain text must have: "yes, but" is a label."""

MAX_ITEMS = 40
_MAX_CHARS = 10_000  # of an answer that is no JSON
_MAX_LINE = 300  # of an answer that may be a part of its input
_OPENINGS = 16  # brackets at which JSON may begin
_AND = (", and ", " and ", " und ", " et ", " y ")
# What opens a list, what joins its items, and the last two of them: what is more particular comes first.
_LISTS = (
    *((f"{mark} ", f"\n{mark} ", "") for mark in "-*•"),
    *((f"1{mark} ", f"\n{{n}}{mark} ", "") for mark in ".)"),
    *(("", ", ", last) for last in _AND),
    *(("", joint, "") for joint in ("\n", ", ", "; ", " | ", ",")),
)
_DECODER = json.JSONDecoder()


def reader(answers: Mapping[str, int]) -> Reader:
    """How answers like these are taken apart.

    Args:
        answers: how often each came. Text around JSON must be the same in most of them. Amounts with currency or unit
            stand for themselves. Plain text is a list of labels if its parts recur in combinations that are many more
            than the parts.

    Example:
        >>> read = reader({'Sure! {"a": 1}': 3, 'Sure! {"a": 2}': 2})
        >>> read('Sure! {"a": 3}').before, read('Well, {"a": 3}')
        ('Sure! ', None)
    """
    total = sum(answers.values())
    if sum(times for answer, times in answers.items() if structured(answer)) >= MOSTLY * total:
        return structured
    if sum(times for answer, times in answers.items() if amount(answer)) >= MOSTLY * total:
        return bare
    frames: Counter[tuple[str, str]] = Counter()
    for answer, times in answers.items():
        if found := cut_out(answer):
            frames[found.before, found.after] += times
    frame, most = max(frames.items(), key=lambda item: (item[1], item[0]), default=(("", ""), 0))
    if most and most >= MOSTLY * total:
        return functools.partial(_framed, frame)
    plain = sum(frames.values()) < MOSTLY * total  # commas of JSON part nothing
    for way in _LISTS if plain else ():
        if _are_lists(answers, total, way):
            return functools.partial(_listed, way)
    return structured


def cut_out(answer: str) -> Structured | None:
    """The first JSON object, or list of texts or objects, in an answer, with all text around it; None if there is none.

    Example:
        >>> cut_out('Sure! {"a": 1}').body, cut_out("Order [5] is ready")
        ('{"a": 1}', None)
    """
    text = answer.strip()
    at = -1
    for _ in range(_OPENINGS if len(text) <= _MAX_CHARS else 0):
        at = min((place for mark in "{[" if (place := text.find(mark, at + 1)) >= 0), default=-1)
        if at < 0:
            return None
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and value or isinstance(value, list) and value and isinstance(value[0], str | dict):
            taken = structured(text[at:end])
            return taken and Structured(taken.values, text[:at], text[end:], taken.body)
    return None


def plain(answer: str) -> Structured | None:
    r"""An answer of one line in plain text, as a structured one of a single text; None if it is longer, or none.

    Example:
        >>> plain(" Ada Lovelace\n").values, plain("two\nlines")
        ({(): '"Ada Lovelace"'}, None)
    """
    text = answer.strip()
    if not text or "\n" in text or len(text) > _MAX_LINE:
        return None
    before, _, after = answer.partition(text)
    return Structured({(): encoded(text)}, before, after, text)


def close(one: str, other: str, tolerance: Tolerance) -> bool:
    """Whether two answers differ in nothing but numbers, and in those no more than is tolerated.

    Args:
        one: an answer: an amount, or JSON, where numbers and texts that are amounts may differ.
        other: the teacher's.
        tolerance: how far.

    Example:
        >>> close('{"cost": 10.2, "in": "EUR"}', '{"cost": 10, "in": "EUR"}', Tolerance.of("5%"))
        True
    """
    if alike(amount(one), amount(other), tolerance):
        return True
    mine, theirs = structured(one) or cut_out(one), structured(other) or cut_out(other)
    if mine is None or theirs is None or mine.values.keys() != theirs.values.keys():
        return False
    if (mine.before.strip(), mine.after.strip()) != (theirs.before.strip(), theirs.after.strip()):
        return False
    pairs = ((value, theirs.values[path]) for path, value in mine.values.items())
    return all(a == b or near(a, b, tolerance) for a, b in pairs)


def _framed(frame: tuple[str, str], answer: str) -> Structured | None:
    found = cut_out(answer)
    return found if found and (found.before, found.after) == frame else None


def _listed(way: tuple[str, str, str], answer: str) -> Structured | None:
    opening, joint, last = way
    text = answer.strip()
    if not text.startswith(opening) or len(text) > _MAX_CHARS:
        return None
    parts = _parted(text[len(opening) :], joint, last)
    if any(part != part.strip() or not part for part in parts) or len(set(parts)) < len(parts):
        return None
    return Structured({(): encoded(parts)}, opening, "", text, joint, last)


def _parted(text: str, joint: str, last: str) -> list[str]:
    """The items of a list, of which none is empty if it is written so."""
    if "{n}" in joint:
        ways = [re.split(re.escape(joint).replace(r"\{n\}", r"\d+"), text)]
    else:
        cuts = [
            text.rpartition(sign) for sign in dict.fromkeys((last, last.removeprefix(","))) if sign in text and sign
        ]
        ways = [[*head.split(joint), tail] for head, _, tail in cuts] or [[text] if last else text.split(joint)]
    inside = joint.partition("{n}")[0]  # which no item may hold
    fits = (way for way in ways if joined(way, joint, last) == text and not any(inside in item for item in way))
    return next(fits, [""])


def _are_lists(answers: Mapping[str, int], total: int, way: tuple[str, str, str]) -> bool:
    """Whether answers are lists of recurring labels that are written so."""
    sign = way[2] or way[1].replace("{n}", "2")
    if sum(times for answer, times in answers.items() if sign in answer) < MIN_SEVERAL * total:
        return False
    items: Counter[str] = Counter()
    different, read = set(), 0
    for answer, times in answers.items():
        if found := _listed(way, answer):
            parts = json.loads(found.values[()])
            items.update({part: times for part in parts})
            different.add(answer.strip())
            read += times
    once = sum(times == 1 for times in items.values())
    kept = len(items) - once
    usual = read >= MOSTLY * total and once <= MAX_ONCE * total and 2 <= kept <= MAX_ITEMS
    return usual and len(different) >= MIN_COMBINED * kept
