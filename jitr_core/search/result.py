"""What every search returns, and how it computes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..types import CandidateReport, CurvePoint

if TYPE_CHECKING:
    from ..students import Student

__all__ = ["FOLDS", "Coverage", "Progress", "SearchResult", "one_thread"]

FOLDS = 10
"""Folds of the inputs, by their content."""

Coverage = Callable[[NDArray[np.float64], NDArray[np.bool_]], float]
"""Estimates the coverage at the certificate, in [0, 1], from confidences and whether the answers were right."""

Progress = Callable[[str, float], None]
"""Told what is going on and how far it is, in [0, 1]."""


def one_thread() -> contextlib.AbstractContextManager[object]:
    """Keep BLAS to one thread unless the user chose a number: on busy cores more threads are many times slower."""
    from threadpoolctl import threadpool_limits

    return contextlib.nullcontext() if os.environ.get("OMP_NUM_THREADS") else threadpool_limits(limits=1)


@dataclass(slots=True)
class SearchResult:
    """What a search found.

    Attributes:
        candidates: every candidate, in the order they were tried.
        chosen: name of the winner.
        confidence: shape (n,), cross-fitted confidence in each input's answer, in [0, 1]; 0 where there is none.
        predicted: n cross-fitted answers.
        held: shape (n,), which inputs the winner was measured on; None: on all.
        refusal: why there is no winner; "" if there is one.
        curve: how the winner fared on parts of the inputs, smallest first.
    """

    candidates: list[CandidateReport]
    chosen: str | None
    confidence: NDArray[np.float64]
    predicted: list[str]
    _fit: Callable[[], Student] = field(repr=False)
    held: NDArray[np.bool_] | None = None
    refusal: str = ""
    curve: list[CurvePoint] = field(default_factory=list)

    def fit(self) -> Student:
        """The chosen candidate, trained on everything."""
        with one_thread():
            return self._fit()
