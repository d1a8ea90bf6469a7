"""Amounts: texts that are one number, with a currency or a unit perhaps; and how far two numbers may differ."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from .structured import Structured, encoded

__all__ = ["Amount", "Tolerance", "alike", "amount", "amount_in", "bare", "mostly_amounts", "near"]

MIN_SHARE = 0.9
"""Smallest share of a task's answers, in [0, 1], that must be amounts if it is to be learnt as a task of numbers."""

_NUMBER = r"[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
# A sign of a currency or its code before the number; after it a unit, a sign of a currency, or per cent.
_AMOUNT = re.compile(
    rf"((?:[A-Z]{{3}} ?|[^\w\s.,+−-]{{1,3}} ?)?)({_NUMBER})((?: ?(?:[^\W\d_]{{1,12}}|[^\w\s.,]{{1,3}}))?)"
)
_FUZZ = 1e-9  # relative; what floating-point numbers add to a difference


class Amount(NamedTuple):
    """A number as it was written.

    Attributes:
        before, after: what stands around it.
        digits: the number as written.
        value: the number.
    """

    before: str
    digits: str
    after: str
    value: float


def amount(text: str) -> Amount | None:
    """The amount that a text is; None if it is anything else, or its number is out of all proportion.

    Example:
        >>> amount("$1,250.50"), amount("12 minutes").value, amount("2024-03-01")
        (Amount(before='$', digits='1,250.50', after='', value=1250.5), 12.0, None)
    """
    if len(text) > 40 or (found := _AMOUNT.fullmatch(text.strip())) is None:
        return None
    value = float(found[2].replace(",", "").replace("−", "-"))
    return Amount(found[1], found[2], found[3], value) if abs(value) < 1e15 else None


def amount_in(value: str) -> Amount | None:
    """The amount in an encoded JSON value: a number, or a text that is an amount."""
    return amount(json.loads(value) if value.startswith('"') else value)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a number may be from the teacher's.

    Attributes:
        bound: the largest difference, > 0.
        relative: whether it is a share of the teacher's number.
    """

    bound: float
    relative: bool

    @classmethod
    def of(cls, text: str) -> Tolerance:
        """The tolerance written as `0.5` (a difference) or `5%` (a share).

        Raises:
            ValueError: it is neither, or not > 0.
        """
        bound = float(text.removesuffix("%"))
        if not 0 < bound < float("inf"):
            raise ValueError(text)
        return cls(bound / 100, True) if text.endswith("%") else cls(bound, False)

    def width(self, number: float) -> float:
        """How far a number may be from this one of the teacher's, ≥ 0."""
        return self.bound * abs(number) if self.relative else self.bound

    def met(self, number: float, teachers: float) -> bool:
        """Whether a number counts as the teacher's.

        Example:
            >>> Tolerance.of("0.1").met(0.3, 0.2), Tolerance.of("5%").met(106, 100)
            (True, False)
        """
        return abs(number - teachers) <= self.width(teachers) + _FUZZ * max(abs(number), abs(teachers))


def near(one: str, other: str, tolerance: Tolerance) -> bool:
    """Whether two encoded JSON values, the second the teacher's, are amounts that differ no more than is tolerated."""
    return alike(amount_in(one), amount_in(other), tolerance)


def alike(one: Amount | None, other: Amount | None, tolerance: Tolerance) -> bool:
    """Whether two amounts, the second the teacher's, are written alike and differ no more than is tolerated."""
    if one is None or other is None or (one.before, one.after) != (other.before, other.after):
        return False
    return tolerance.met(one.value, other.value)


def bare(answer: str) -> Structured | None:
    """An answer that is an amount, as a structured one of a single text; None if it is none."""
    text = answer.strip()
    if amount(text) is None:
        return None
    before, _, after = answer.partition(text)
    return Structured({(): encoded(text)}, before, after, text)


def mostly_amounts(answers: Iterable[str]) -> bool:
    """Whether `MIN_SHARE` of these answers are amounts."""
    found = [amount(answer) is not None for answer in answers]
    return bool(found) and sum(found) >= MIN_SHARE * len(found)
