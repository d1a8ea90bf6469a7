"""Which replacements are in memory: of those that are served, as many as the bound allows, the latest used."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator

from .route import NotLoaded, Predictor
from .types import Slots

__all__ = ["Kept", "Memory"]


class Kept:
    """A replacement that is in memory as long as there is room; see `Predictor`.

    While it is not, the teacher answers, and it asks to be loaded again, which happens in the background: no call waits
    for it.

    Attributes:
        student: the replacement, None while it is not in memory.
        size: bytes it takes.
        used: grows with every call of any replacement.
        wanted: whether it was called in vain.
    """

    def __init__(self, load: Callable[[], Predictor], size: int, clock: Iterator[int]) -> None:
        self.load, self.size, self._clock = load, size, clock
        self.student: Predictor | None = None
        self.used, self.wanted, self.broken = 0, False, False

    def predict_one(self, slots: Slots) -> tuple[str, float, bool]:
        """See `Predictor.predict_one`."""
        self.used = next(self._clock)
        student = self.student
        if student is None:
            self.wanted = not self.broken
            raise NotLoaded
        return student.predict_one(slots)


class Memory:
    """Loads replacements, and drops those that were not used for longest beyond a bound."""

    def __init__(self, most_bytes: float, fault: Callable[[str, BaseException], None]) -> None:
        """An empty memory.

        Args:
            most_bytes: that all replacements together may take; one is always kept.
            fault: told of a replacement that cannot be loaded again; the teacher answers then.
        """
        self._most, self._fault = most_bytes, fault
        self._clock = itertools.count(1)
        self._all: weakref.WeakSet[Kept] = weakref.WeakSet()

    def keep(self, load: Callable[[], Predictor], size: int) -> Kept:
        """A replacement, in memory now; forgotten with the last reference to it. Passes on what `load` raises.

        Args:
            load: reads it.
            size: bytes it takes.
        """
        kept = Kept(load, size, self._clock)
        kept.used = next(self._clock)
        self._load(kept)
        self._all.add(kept)
        return kept

    def tend(self) -> None:
        """Load the one of those called in vain that was called last: one at a time, if there is no room for all."""
        wanted = max((each for each in self._all if each.wanted), key=lambda each: each.used, default=None)
        if wanted is None:
            return
        try:
            self._load(wanted)
        except Exception as error:
            wanted.broken, wanted.wanted = True, False
            self._fault("load", error)

    def bring(self, student: Predictor) -> bool:
        """Load a replacement now if it had to leave: for work that nobody waits for.

        Returns:
            False if it cannot be loaded.
        """
        if isinstance(student, Kept) and student.student is None:
            try:
                self._load(student)
            except Exception as error:
                self._fault("load", error)
                return False
        return True

    def _load(self, kept: Kept) -> None:
        kept.student, kept.wanted = kept.load(), False
        inside = sorted((k for k in self._all if k is not kept and k.student is not None), key=lambda k: k.used)
        total = kept.size + sum(each.size for each in inside)
        for each in inside:
            if total <= self._most:
                break
            each.student = None
            total -= each.size
