"""When a prompt was edited right beside a slot: what all calls begin or end with since then is no input any more."""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..types import Slots
from .text import tokens, words

__all__ = ["Edited"]

WORDS = 3
"""Words at the edge of a slot by which calls are compared; added text that is shorter stays input."""

EDGE = 4_000
"""Characters at each end of a slot that can turn out to be added text."""

EARLIER = 32
"""Runs of calls before the present one that are remembered: what one of them began with is no new text."""

PATIENCE = 2
"""A run must be longer than as many times the longest run before: inputs that come in bursts are no edited prompt."""

MAX_RUN = 64
"""Inputs of a run that are told apart; more than MAX_RUN / PATIENCE in a burst, and no edit is found any more."""

MAX_WATCHED = 1024
"""Templates whose calls are followed; those without calls for the longest time leave."""

_FIRST = 80  # characters in which the first WORDS words are looked for
_MARKS = re.compile(r"\A[ \t]*[.?!…。？！]+")  # that the few inputs of a run end with, and others need not


@dataclass(slots=True)
class _Run:
    """Calls in a row whose slot begins with the same words; of an end, read backwards.

    Attributes:
        text: what they begin with.
        opening: the first words of it, as a hash.
        inputs: hashes of the slot's different values; one that comes again proves nothing.
        longest: inputs of the longest run before.
        earlier: the openings of the latest runs before.
    """

    text: str = ""
    opening: int = 0
    inputs: set[int] = field(default_factory=set)
    longest: int = 0
    earlier: deque[int] = field(default_factory=lambda: deque(maxlen=EARLIER))

    def add(self, edge: str, opening: int, value: int) -> None:
        """Take in a call."""
        if opening != self.opening:
            self.end()
            self.text, self.opening = edge, opening
        elif value not in self.inputs:
            self.text = _common(self.text, edge)
        if len(self.inputs) < MAX_RUN:
            self.inputs.add(value)

    def end(self) -> None:
        """The run is over."""
        if self.inputs:
            self.earlier.append(self.opening)
            self.longest = max(self.longest, len(self.inputs))
        self.text, self.opening, self.inputs = "", 0, set()

    def added(self, min_calls: int) -> str:
        """What was added to the prompt, "" where there is no evidence."""
        if len(self.inputs) < max(min_calls, PATIENCE * self.longest + 1) or len(self.earlier) < min_calls:
            return ""
        # Formulas that inputs begin with come and go; an edit was never seen before.
        if self.opening in self.earlier:
            return ""
        cut = tokens(self.text)
        if words(self.text[-1:]):  # it may be the beginning of a longer word
            cut.pop()
        return "".join(cut) if sum(bool(words(token)) for token in cut) >= WORDS else ""


class Edited:
    """Follows the slots of templates, call by call.

    A template holds all that its first calls had in common. What later ones all begin or end a slot with, and none did
    before, was added since, unless inputs come in bursts, as the turns of a conversation do: how long those
    were is remembered.

    Args:
        min_calls: different inputs in a row that must have text in common, and runs of calls before that, ≥ 2.
    """

    def __init__(self, min_calls: int) -> None:
        self._min_calls = min_calls
        self._watched: OrderedDict[str, list[tuple[_Run, _Run]]] = OrderedDict()

    def note(self, template: str, literals: Sequence[str], slots: Slots) -> tuple[str, ...] | None:
        """Take in a call.

        Args:
            template: id of the call's template.
            literals: its constant parts.
            slots: the call's input.

        Returns:
            The literals of the edited template, once there is enough evidence of one; mostly None.
        """
        watch = self._watched.get(template)
        if watch is None:
            watch = self._watched[template] = [(_Run(), _Run()) for _ in slots]
            if len(self._watched) > MAX_WATCHED:
                self._watched.popitem(last=False)
        self._watched.move_to_end(template)
        wider, found = [literals[0]], False
        for (start, end), slot, literal in zip(watch, slots, literals[1:], strict=True):
            value = hash(slot)
            start.add(slot[:EDGE], hash(tuple(words(slot[:_FIRST])[:WORDS])), value)
            end.add(slot[: -EDGE - 1 : -1], hash(tuple(words(slot[-_FIRST:])[-WORDS:])), value)
            head, tail = start.added(self._min_calls), _MARKS.sub("", end.added(self._min_calls)[::-1])
            wider[-1] += head
            wider.append(tail + literal)
            found = found or bool(head or tail)
        if not found:
            return None
        for run in (run for runs in watch for run in runs):
            run.end()
        return tuple(wider)

    def forget(self, template: str) -> None:
        """Start anew with a template."""
        self._watched.pop(template, None)


def _common(one: str, other: str) -> str:
    """What both texts begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return one[:low]
