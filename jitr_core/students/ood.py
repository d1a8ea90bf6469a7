"""The gate: inputs unlike anything a student learnt from are left to the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Gate"]

_QUANTILE = 0.0025  # of the training inputs' known shares; the gate opens at half of it
_LONGER = 4.0  # times the longest usual input


@dataclass(frozen=True, slots=True)
class Gate:
    """Says whether an input is out of distribution. It looks at character n-grams and length, not at meaning.

    Attributes:
        least_known: share, in [0, 1], of an input's different character n-grams that training inputs must have had.
        most_chars: longest input in characters.
        empty: whether training inputs could be empty.
    """

    least_known: float
    most_chars: int
    empty: bool

    @classmethod
    def fit(cls, shares: Sequence[float | None], lengths: Sequence[int]) -> Gate:
        """A gate that defers well under 1% of inputs like these.

        Args:
            shares: for each training input, the share of its n-grams that another training input has as well; None if
                it has no n-gram.
            lengths: in characters, as the inputs came.
        """
        ordered = np.sort(np.asarray(lengths))
        usual = ordered[min(int(0.995 * len(ordered)), len(ordered) - 1)]
        most = max(int(ordered[-1] * 1.5), int(usual * _LONGER)) + 50
        filled = [share for share in shares if share is not None]
        least = 0.5 * float(np.quantile(filled, _QUANTILE)) if filled else 0.0
        return cls(least, most, len(filled) < len(shares))

    def closed(self, length: int, share: float | None) -> bool:
        """True if the input is out of distribution.

        Args:
            length: in characters, all slots together, as the input came.
            share: see `Known.share`.
        """
        if length > self.most_chars:
            return True
        return not self.empty if share is None else share < self.least_known

    def state(self) -> dict[str, Any]:
        """Settings to store."""
        return {"least_known": self.least_known, "most_chars": self.most_chars, "empty": self.empty}

    @classmethod
    def restore(cls, settings: dict[str, Any]) -> Gate:
        """The inverse of `state`."""
        return cls(float(settings["least_known"]), int(settings["most_chars"]), bool(settings["empty"]))
