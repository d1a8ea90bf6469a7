"""Plans: what a field of structured answers may be learnt as, judged from its values and the inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..layout import plain
from ..structured import MISSING, Path, Structured, items, named
from ..types import Slots
from .fields import COPIED, LISTED, NUMBER
from .numbers import Format
from .spans import FORMS, Tokens, copies, tokens

__all__ = ["Plan", "Table", "extracted"]

MAX_NEW = 0.15
"""Largest share of a field's values seen once, in [0, 1], at which they count as a closed set."""

MAX_CLOSED = 60
"""Most values of a field that is copied as well, to be tried as a closed set too."""

MIN_COPIES = 8
"""Fewest inputs a field must be copied from, and fewest different values it must have there: a handful of values that
stand in the input are a closed set."""

MIN_COPIED = 0.1
"""Smallest share of a field's values, in [0, 1], that must stand in the input."""

MIN_EXTRACTED = 0.5
"""Smallest share of answers in plain text, in [0, 1], that must be parts of their inputs, or recur beside such, to be
learnt as what is copied rather than as free text."""

MIN_USUAL, MIN_USUALLY = 0.05, 0.2
"""A field that is otherwise written freely is learnt where it has one of its usual values: each at least this share of
all, in [0, 1], and together at least that."""

MIN_NUMBERS = 0.5
"""Smallest share of a field's values, in [0, 1], that must be numbers written alike, to be learnt as numbers."""

MAX_ITEMS = 40
"""Most labels that lists may have."""

_LOOKED_AT = 1_000  # inputs that tell how a field is copied


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to learn a field.

    Attributes:
        kind: labels, copied, list or number.
        form: how copies are written, "" if nothing is copied; see `jitr_core.students.spans.FORMS`.
        items: labels of a list, in the order in which lists have them.
        number: how numbers are written, None if none is learnt as such.
    """

    kind: str
    form: str = ""
    items: tuple[str, ...] = ()
    number: Format | None = None

    def label(self, each: Tokens | None, value: str | None, stray: str) -> str:
        """What a field's gate should say of an input.

        Args:
            each: the input's tokens, None if nothing is copied.
            value: the encoded value; None if the answer is not structured.
            stray: what to say where nothing can be said.
        """
        if value is None or value == MISSING:
            return value or stray
        if self.form and each is not None and next(copies(each, value, self.form), None) is not None:
            return COPIED
        if self.items and items(value) is not None:
            return LISTED
        if self.number is not None and self.number.read(value) is not None:
            return NUMBER
        return value


@dataclass
class Table:
    """The values of all fields of some answers, a row an input.

    Attributes:
        inputs: n inputs.
        answers: n structured answers; None for those that are not, or have a field that hardly ever comes.
        numbers: whether numbers need not be the teacher's to the last digit.
        paths: all fields, in the order in which they first came.
    """

    inputs: Sequence[Slots]
    answers: list[Structured | None]
    numbers: bool = False
    paths: tuple[Path, ...] = field(init=False)

    def __post_init__(self) -> None:
        counts = Counter(path for each in self.answers if each for path in each.values)
        rare = {path for path, times in counts.items() if times < 2}
        self.answers = [None if each is None or rare & each.values.keys() else each for each in self.answers]
        self.paths = tuple(path for path in counts if path not in rare)

    @cached_property
    def tokens(self) -> list[Tokens]:
        """Tokens of every input."""
        return [tokens(slots) for slots in self.inputs]

    def column(self, path: Path) -> list[str | None]:
        """A field's encoded values; `MISSING` where an answer lacks it, None where there is no answer."""
        return [None if each is None else each.values.get(path, MISSING) for each in self.answers]

    def plans(self, path: Path) -> list[Plan]:
        """Ways to learn a field; none if it can only be written freely."""
        values = [(i, value) for i, value in enumerate(self.column(path)) if value is not None]
        counts = Counter(value for _, value in values)
        once = sum(times == 1 for times in counts.values())
        closed = once <= MAX_NEW * len(values)
        found = []
        copied = self._copied(values)
        if copied is not None:
            found.append(copied)
        listed = _listed([value for _, value in values])
        if listed is not None and len(counts) > len(listed.items):  # else every list is one of a few
            found.append(listed)
        usual = sum(times for times in counts.values() if times >= MIN_USUAL * len(values))
        if closed and len(counts) <= MAX_CLOSED or not found and (closed or usual >= MIN_USUALLY * len(values)):
            found.append(Plan("labels"))
        # What can be copied is exact, and codes that are copied are no numbers one could be near to.
        number = self._number([value for _, value in values]) if self.numbers and copied is None else None
        return found if number is None else [*found, number]

    @staticmethod
    def _number(values: list[str]) -> Plan | None:
        """The format of a field's numbers, if enough of its values are numbers."""
        there = [value for value in values if value != MISSING]
        form = Format.of(there)
        if form is None or sum(form.read(value) is not None for value in there) < MIN_NUMBERS * len(values):
            return None
        return Plan("number", number=form)

    def _copied(self, values: list[tuple[int, str]]) -> Plan | None:
        """The form in which most values stand in their inputs, if enough do."""
        some = [(i, value) for i, value in values[-_LOOKED_AT:] if value != MISSING and _copyable(value)]
        best, most = "", 0
        for form in FORMS:
            there = [value for i, value in some if next(copies(self.tokens[i], value, form), None) is not None]
            if len(there) > most and len(set(there)) >= MIN_COPIES:
                best, most = form, len(there)
        return Plan("copied", best) if most >= max(MIN_COPIES, MIN_COPIED * len(values[-_LOOKED_AT:])) else None

    def why_not(self, path: Path) -> str:
        """Why a field cannot be learnt, for the user."""
        values = [value for value in self.column(path) if value not in (None, MISSING)]
        different = len(set(values))
        return f"field {named(path)} is written freely: {different} different values in {len(values)} answers."


def extracted(inputs: Sequence[Slots], answers: Sequence[str]) -> bool:
    """Whether answers in plain text are mostly taken from their inputs: a name, a date, or "none" where there is none.

    Args:
        inputs: n inputs.
        answers: the answer to each.
    """
    table = Table(inputs, [plain(answer) for answer in answers])
    plan = next((plan for path in table.paths for plan in table.plans(path) if plan.form), None)
    if plan is None:
        return False
    said = Counter(plan.label(*row, "") for row in zip(table.tokens, table.column(()), strict=True))
    learnt = sum(times for label, times in said.items() if label and times > 1)
    return learnt >= MIN_EXTRACTED * len(answers)


def _copyable(value: str) -> bool:
    return value.startswith('"') and len(value) > 2 or value[0] in "-0123456789"


def _listed(values: list[str]) -> Plan | None:
    """The labels of lists, if lists are what most values are and their labels a closed set."""
    lists = [found for value in values if value != MISSING and (found := items(value)) is not None]
    counts = Counter(item for each in lists for item in each)
    if len(lists) < 0.5 * len(values) or not counts:
        return None
    once = sum(times == 1 for times in counts.values())
    kept = {item for item, times in counts.items() if times > 1}
    if once > MAX_NEW * len(lists) or not 1 <= len(kept) <= MAX_ITEMS:
        return None
    return Plan("list", items=tuple(sorted(kept, key=lambda item: (_place(item, lists), item))))


def _place(item: str, lists: list[list[str]]) -> float:
    """Where in lists an item stands on average, in [0, 1]."""
    return float(np.mean([each.index(item) / max(len(each) - 1, 1) for each in lists if item in each]))
