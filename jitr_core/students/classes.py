"""The answers a student of labels can give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import TrainingError

__all__ = ["Classes"]

_MIN_INPUTS = 10


@dataclass(frozen=True, slots=True)
class Classes:
    """The answers a student can give.

    Attributes:
        answers: shape (c,), as the teacher writes them most often.
        labels: shape (n,), the class of each input, −1 where none stands for its answer.
    """

    answers: tuple[str, ...]
    labels: NDArray[np.intp]

    @classmethod
    def of(cls, labels: Sequence[str], most: int) -> Classes:
        """Classes of the answers seen at least twice; answers that differ in outer white space only are one.

        Args:
            labels: training labels.
            most: most classes; the most frequent ones are kept.

        Raises:
            TrainingError: too few examples, or answers hardly ever recur.
        """
        if len(labels) < _MIN_INPUTS:
            raise TrainingError(
                f"{len(labels)} different inputs are too few to learn from.", hint=f"At least {_MIN_INPUTS} are needed."
            )
        forms = Counter(labels)
        counts = Counter(label.strip() for label in labels)
        kept = sorted((k for k, v in counts.items() if v >= 2), key=lambda k: (-counts[k], k))[:most]
        if sum(counts[k] for k in kept) < 0.2 * len(labels):
            raise TrainingError(
                f"{len(counts)} different answers to {len(labels)} inputs: answers hardly ever recur.",
                hint="Only tasks with a limited set of answers can be learnt.",
            )
        surface: dict[str, str] = {}
        for form, _ in sorted(forms.items(), key=lambda item: (-item[1], item[0])):
            surface.setdefault(form.strip(), form)
        place = {key: i for i, key in enumerate(kept)}
        return cls(
            tuple(surface[key] for key in kept), np.array([place.get(x.strip(), -1) for x in labels], dtype=np.intp)
        )
