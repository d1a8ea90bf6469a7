"""The race of base models: samples grow, the clearly worse drop out, and no input chooses its own base model.

Beside the race over all inputs there is one for each half of them, in which that half takes no part. What a half is
answered with is chosen by the other, so that choosing among many base models costs no error probability; with ten parts
instead of two it did, in simulations of equal base models (docs/search.md). Nearly always all races have one winner.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from ..students.training import Crossed
from .judge import lead

__all__ = ["HALVES", "SIZES", "Bracket", "half_of"]

SIZES = (250, 500, 1000)
"""Inputs on which base models are compared."""

HALVES = 2

_CLEARLY = 2.0  # standard errors of the mean difference in log-loss from which a base model is clearly worse
_EVEN = 1.0  # … up to which two are even, so that the cheaper one wins
# … by which an encoder tuned for an earlier task must lead, over all inputs. One of an unrelated task led by up to 2.1
# and lost accuracy; related ones led by 2.9 or more from 250 inputs on (docs/search.md).
_EARLIER = 2.5


def half_of(folds: NDArray[np.intp]) -> NDArray[np.intp]:
    """The half, 0 or 1, of inputs in these folds."""
    return folds % HALVES


class Bracket:
    """Races of the same base models over all inputs (race −1) and without each half of them (races 0 and 1).

    Attributes:
        alive: for each race, keys of the base models still in it, cheapest first.
    """

    def __init__(self, keys: Sequence[str], earlier: Collection[str] = ()) -> None:
        """Races of the base models `keys`, cheapest first; those in `earlier` were tuned for earlier tasks."""
        self._earlier = frozenset(earlier)
        self.alive: dict[int, list[str]] = {race: list(keys) for race in range(-1, HALVES)}

    @property
    def running(self) -> list[str]:
        """Base models that are still in some race, cheapest first; empty once every race has its winner."""
        if all(len(keys) <= 1 for keys in self.alive.values()):
            return []
        return list(dict.fromkeys(key for keys in self.alive.values() for key in keys))

    def judge(self, tried: dict[str, Crossed], halves: NDArray[np.intp], *, last: bool) -> None:
        """Let drop out what is clearly worse on a sample, and of more than three at least half.

        Args:
            tried: what each running base model's probe did on the sample; those that are missing drop out.
            halves: shape (n,), of the sample's inputs.
            last: whether this is the last sample, after which only the cheapest of those even with the best is left.
        """
        for race, keys in self.alive.items():
            own = {key: _part(tried[key], halves != race) for key in keys if key in tried}
            if len(own) < 2:
                self.alive[race] = list(own) or keys[:1]
                continue
            ranked = sorted(own, key=lambda key: -float(own[key].logp.mean()))
            ahead = self._ahead(own, ranked, _EARLIER * float(np.mean(halves != race)) ** 0.5)
            most = max(2, (len(ranked) + 1) // 2)
            kept = {ahead, *[key for key in ranked if lead(own[ahead], own[key]) <= _CLEARLY][:most]}
            left = [key for key in keys if key in kept]
            if last:
                same = [key for key in left if (key in self._earlier) <= (ahead in self._earlier)]
                left = [next(key for key in same if lead(own[ahead], own[key]) <= _EVEN)]
            self.alive[race] = left

    def _ahead(self, own: dict[str, Crossed], ranked: list[str], margin: float) -> str:
        """What others are measured against: the best; no earlier task's encoder, unless it leads by a margin."""
        best, rivals = ranked[0], [key for key in ranked if key not in self._earlier]
        if best in self._earlier and rivals and lead(own[best], own[rivals[0]]) <= margin:
            return rivals[0]
        return best

    def winner(self, race: int) -> str | None:
        """The winner of a race; None if there was no base model."""
        return self.alive[race][0] if self.alive[race] else None


def _part(crossed: Crossed, use: NDArray[np.bool_]) -> Crossed:
    return Crossed(crossed.chosen[use], crossed.confidence[use], crossed.logp[use])
