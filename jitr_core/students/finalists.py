"""Whether an encoder is tuned for the candidates that need one, and when that is given up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .training import Bench, Crossed
from .tuning import Settings, Tuner, plan

if TYPE_CHECKING:
    from .base_models import BaseModel

__all__ = ["Covered", "tuner_for"]

Covered = Callable[[Crossed, NDArray[np.bool_]], float]
"""Coverage in hindsight of a candidate, in [0, 1], on the calls of some inputs, shape (n,)."""

_FEWEST_CERTIFIED = 150  # calls above a threshold that a certificate takes at the least, at 0.95 with errors among them


def tuner_for(
    bench: Bench,
    encoder: BaseModel,
    rivals: Sequence[Crossed],
    covered: Covered,
    *,
    tokens: Sequence[float],
    calls: int,
    seed: int,
    progress: Callable[[str, float], None] | None = None,
) -> Tuner | str:
    """A tuner for a bench, if tuning pays.

    Args:
        bench: all inputs.
        encoder: the base model.
        rivals: what the other candidates did there.
        covered: tells the coverage of a candidate.
        tokens: of each input, estimated.
        calls: that calibrate.
        seed: of everything random.
        progress: told what is going on and the share done.

    Returns:
        The tuner, or the reason why nothing is tuned.

    Raises:
        TrainingError, MissingExtraError: the encoder cannot be tuned here.
    """

    def best(inputs: NDArray[np.bool_]) -> float:
        return max((covered(rival, inputs) for rival in rivals), default=0.0)

    def promising(scored: NDArray[np.bool_], scores: NDArray[np.float32]) -> str:
        own = Crossed(scores.argmax(axis=1), scores.max(axis=1).astype(np.float64), np.zeros(len(scores)))
        found, rival = covered(own, scored), best(scored)
        if not rivals:  # there is nothing else
            return ""
        if found <= rival:
            return f"{found:.0%} of the calls could be answered as promised, without tuning {rival:.0%}"
        if found * calls < _FEWEST_CERTIFIED:
            return f"{found:.0%} of {calls} calls could be answered as promised, too few to show it"
        return ""

    decided = plan(tokens, len(bench.classes.answers), best(np.ones(bench.n, bool)))
    if isinstance(decided, str):
        return decided
    return Tuner(
        encoder,
        bench.texts,
        bench.classes.labels,
        bench.folds,
        Settings(epochs=decided.epochs),
        decided.examples,
        seed,
        progress,
        promising,
    )
