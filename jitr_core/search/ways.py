"""Ways to learn a field, as they were tried on inputs they had not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..structured import items
from ..students.combine import Trust
from ..students.copier import CopyBench
from ..students.plans import Plan
from .result import SearchResult

__all__ = ["Tried", "says", "sure"]

_Bools = NDArray[np.bool_]


@dataclass
class Tried:
    """One way to learn a field, tried on inputs it had not seen.

    Attributes:
        plan: the way.
        gate: the search of its gate.
        number: the search of its number, None if it has none.
        parts: the searches of its list's labels, by the label.
        bench: of what is copied, None if nothing is.
        values: n encoded values, None where none was found.
        figures: shape (n, f), what speaks for each.
        right: shape (n,).
    """

    plan: Plan
    gate: SearchResult
    number: SearchResult | None
    parts: list[tuple[str, SearchResult]]
    bench: CopyBench | None
    values: list[str | None]
    figures: NDArray[np.float64]
    right: _Bools

    def merit(self, rows: _Bools) -> float:
        """Agreement on some inputs, in [0, 1]."""
        return float(self.right[rows].mean()) if rows.any() else 0.0

    @cached_property
    def closed(self) -> _Bools:
        """Inputs that the gate of one of its students leaves to the teacher, shape (n,); see `SearchResult`."""
        found = [self.gate, *([self.number] if self.number else []), *(result for _, result in self.parts)]
        closed: _Bools = np.any([result.confidence == 0 for result in found], axis=0)
        return closed

    @property
    def base(self) -> str | None:
        """Name of the base model of what was chosen for it."""
        result = self.number or self.gate
        return next((c.base_model for c in result.candidates if c.name == result.chosen), None)

    @property
    def described(self) -> str:
        """The way, for reading."""
        if self.plan.kind == "copied":
            return f"copied {self.plan.form}, or what {self.gate.chosen} says"
        if self.plan.kind == "list":
            return f"list of {len(self.plan.items)} labels"
        if self.number is not None:
            return f"number by {self.number.chosen}"
        return f"labels by {self.gate.chosen}"


def says(item: str) -> Callable[[int, str | None, str], str]:
    """The label of one label of a list: whether it is in."""

    def label(row: int, value: str | None, stray: str) -> str:
        found = items(value) if value is not None else None
        return "yes" if found is not None and item in found else "no"

    return label


def sure(chosen: Mapping[Any, Tried], rows: _Bools) -> NDArray[np.float64]:
    """Confidence in every field, shape (n, k), judged from some inputs."""
    columns = [Trust.fit(each.figures[rows], each.right[rows]).of(each.figures) for each in chosen.values()]
    return np.column_stack(columns) if columns else np.zeros((len(rows), 0))
