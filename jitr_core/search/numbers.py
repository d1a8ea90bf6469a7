"""Search for a number: which features a regression reads it from best, and how far each answer is to be trusted.

Everything is cross-fitted over the folds of the inputs, as for labels: what the heads say, how they are weighed, how
far they are off, and which candidate is the best.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..amounts import Tolerance
from ..errors import TrainingError
from ..students.combine import Trust
from ..students.numbers import Format, NumberStudent, Scale, figures
from ..students.recipes import CandidateRecipe, HeadRecipe, candidates
from ..students.training import Bench
from ..types import CandidateReport
from .judge import half_errors
from .result import SearchResult

if TYPE_CHECKING:
    from .trials import Trials

__all__ = ["search_number"]

_RIDGES = (0.3, 0.03)
"""Penalties tried for every head: numbers that follow from the input exactly want a weaker one than labels do. A tenth
of that again is beyond what single precision solves: served, the heads were off by more than their error."""

_FEWEST = 30
"""Fewest numbers to learn from."""

_TINY = 1e-3  # in standard deviations of the numbers: less is no error
_Array = NDArray[np.float64]
_Bools = NDArray[np.bool_]


@dataclass(slots=True)
class _Tried:
    """A candidate, and what it did on inputs it had not seen, all of shape (n,)."""

    recipe: CandidateRecipe
    predicted: list[str]
    confidence: _Array
    right: _Bools
    fit: Callable[[], NumberStudent]


def search_number(
    values: Sequence[str | None],
    *,
    format: Format,
    tolerance: Tolerance,
    bench: Bench,
    trials: Trials,
    families: Sequence[str],
) -> SearchResult:
    """Find the candidate that gives a field's number most reliably.

    Args:
        values: n encoded values; what is no number of this format is not learnt from.
        format: how numbers are written.
        tolerance: how far a number may be from the teacher's.
        bench: the inputs.
        trials: keeps the budget.
        families: candidate families.

    Raises:
        TrainingError: there are too few numbers, or nothing could be tried.
    """
    return _NumberSearch(values, format, tolerance, bench, trials, families).run()


class _NumberSearch:
    def __init__(
        self,
        values: Sequence[str | None],
        format: Format,
        tolerance: Tolerance,
        bench: Bench,
        trials: Trials,
        families: Sequence[str],
    ) -> None:
        self.format, self.tolerance, self.bench, self.trials = format, tolerance, bench, trials
        read = [None if value is None else format.read(value) for value in values]
        self.known = np.array([number is not None for number in read], bool)
        self.numbers = np.array([number if number is not None else np.nan for number in read], np.float64)
        if self.known.sum() < _FEWEST:
            raise TrainingError(f"{int(self.known.sum())} numbers are too few to learn from.", hint=f"{_FEWEST} are.")
        self.scale = Scale.of(self.numbers[self.known], tolerance)
        # An input without a number is learnt from as one with an average number: a gate leaves it out anyway.
        self.wanted = np.zeros(len(values))
        self.wanted[self.known] = self.scale.seen(self.numbers[self.known])
        found = candidates(families, paired=bench.paired)
        if any(recipe.base for recipe in found):
            trials.models.prepare(lambda: trials.tell("preparing base models", 0.0))
        self.recipes = [r for r in (self._recipe(r) for r in found) if r]

    def _recipe(self, recipe: CandidateRecipe) -> CandidateRecipe | None:
        """A candidate for numbers: with penalties of several strengths, without what is about classes."""
        models = self.trials.models
        missing = {kind for kind in ("static", "encoder") if recipe.needs(kind) and models.get(kind) is None}
        if recipe.base in missing or recipe.tuned:
            return None
        heads = [head for head in recipe.without(missing).heads if head.names is None]
        both = tuple(_named(head, ridge) for head in heads for ridge in _RIDGES)
        return replace(recipe, heads=both) if heads else None

    def run(self) -> SearchResult:
        began = time.perf_counter()
        tried = [found for recipe in self.recipes if (found := self._try(recipe)) is not None]
        if not tried:
            raise TrainingError("no regression could be tried.")
        best = self._best(tried, np.ones(len(self.known), bool))
        predicted, confidence = [""] * len(self.known), np.zeros(len(self.known))
        for fold in np.unique(self.bench.folds):
            chosen = self._best(tried, self.bench.folds != fold)
            for i in np.flatnonzero(self.bench.folds == fold):
                predicted[i], confidence[i] = chosen.predicted[i], chosen.confidence[i]
        model = self.trials.models.get(best.recipe.base) if best.recipe.base else None
        report = CandidateReport(best.recipe.name, best.recipe.family, model.name if model else None)
        report.agreement, report.seconds = float(best.right[self.known].mean()), time.perf_counter() - began
        return SearchResult([report], report.name, confidence, predicted, best.fit)

    def _best(self, tried: Sequence[_Tried], rows: _Bools) -> _Tried:
        """The candidate with the fewest errors among its more confident half of some inputs, the cheapest of equals."""
        rows = rows & self.known
        return min(tried, key=lambda each: half_errors(each.confidence[rows], each.right[rows]))

    def _try(self, recipe: CandidateRecipe) -> _Tried | None:
        """What a candidate does; None if the budget or the memory does not allow it."""
        try:
            self.trials.tell(f"{recipe.name} on {self.bench.n} inputs", 0.0)
            return self._crossed(recipe) if self.trials.affords(recipe, self.bench) else None
        except MemoryError:
            return None

    def _crossed(self, recipe: CandidateRecipe) -> _Tried | None:
        level = self.bench.of(self.wanted)
        recipe = replace(recipe, heads=tuple(level.heads(recipe)))
        if not recipe.heads:
            return None
        levels = level.scores(recipe)[:, :, 0].astype(np.float64)
        joint = self._each_fold(lambda rest, held: _weights(levels[:, rest], self.wanted[rest]) @ levels[:, held])
        logs = np.log(np.abs(self.wanted - joint) + _TINY)
        centre, spread = float(logs[self.known].mean()), float(logs[self.known].std()) or 1.0
        off = self.bench.of(np.where(self.known, (logs - centre) / spread, 0.0))
        # How far off a number is follows from the input only roughly: there the strong penalty is right.
        firm = replace(recipe, heads=tuple(_named(head, _RIDGES[0]) for head in recipe.heads))
        distance = centre + spread * off.scores(firm)[:, :, 0].mean(axis=0)
        signs = figures(joint, distance, self.scale.width(joint))
        predicted = self._written(joint)
        right = np.array([self._agrees(i, value) for i, value in enumerate(predicted)], bool)
        confidence = self._each_fold(lambda rest, held: Trust.fit(signs[rest], right[rest]).of(signs[held]))
        known = self.known

        def fit() -> NumberStudent:
            return NumberStudent(
                self.format,
                self.scale,
                float(self.numbers[known].min()),
                float(self.numbers[known].max()),
                _weights(levels[:, known], self.wanted[known]),
                (centre, spread),
                Trust.fit(signs[known], right[known]),
                level.scorer(recipe, off, firm),
            )

        return _Tried(recipe, predicted, np.where(level.gated(recipe)[1], 0.0, confidence), right, fit)

    def _each_fold(self, said: Callable[[_Bools, _Bools], _Array]) -> _Array:
        """What is said of the inputs of each fold from the numbers of the others, shape (n,)."""
        found = np.zeros(len(self.known))
        for fold in np.unique(self.bench.folds):
            held = self.bench.folds == fold
            rest = self.known & ~held
            if rest.any():
                found[held] = said(rest, held)
        return found

    def _written(self, joint: _Array) -> list[str]:
        """The numbers as they would be given: those of a fold within what the others hold."""

        def edge(of: Callable[[_Array], float]) -> _Array:
            return self._each_fold(lambda rest, held: np.full(int(held.sum()), of(self.numbers[rest])))

        bounds = zip(joint.tolist(), edge(np.min).tolist(), edge(np.max).tolist(), strict=True)
        return [self.format.write(self.scale.number(seen, low, high)) for seen, low, high in bounds]

    def _agrees(self, row: int, value: str) -> bool:
        given = self.format.read(value)
        return bool(self.known[row]) and given is not None and self.tolerance.met(given, float(self.numbers[row]))


def _named(head: HeadRecipe, ridge: float) -> HeadRecipe:
    """A head with another penalty, which its name tells."""
    return replace(head, name=f"{head.name.partition('/')[0]}/{ridge}", ridge=ridge)


def _weights(levels: _Array, wanted: _Array) -> _Array:
    """Weights ≥ 0 of the heads with the least squared error, shape (v,).

    Args:
        levels: shape (v, n), what each head says.
        wanted: shape (n,).
    """
    from scipy.optimize import nnls

    found: _Array = nnls(levels.T, wanted)[0]
    return found
