"""What audits say of all answers a release has given: how many agreed, and how surely that is known at any time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Bets", "Estimate", "estimate"]

STAKES = tuple(3.2 / 2**k for k in range(13))
"""Stakes of the bets: from where every answer is audited to where a thousandth is."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Agreement of the answers given so far.

    Attributes:
        answered: answers given.
        audits: of these, the ones the teacher was asked about as well.
        failed: further answers whose audit came to nothing, as while the teacher was down, or has not come back yet.
        agreement: estimated share of all answers given that agree with the teacher, in [0, 1].
        low, high: that share lies between them, in [0, 1]; at all times together with probability ≥ 1 − delta.
    """

    answered: int
    audits: int
    failed: int
    agreement: float
    low: float
    high: float


class Bets:
    """A confidence sequence for the number S of errors among the answers given, of which some were audited.

    No assumption is made about the errors: what is random are the coins that drew the audits. For a stake d let an
    audited error of share p weigh w = −log(1 − (1 − exp(−d)) / p). Then exp(d · S − sum of w) has, whatever errors
    come, a mean of 1, and ever reaches 1 / level with probability ≤ level (Ville). Several stakes are mixed; one that a
    share has become too small for, 1 − exp(−d) ≥ p, is dropped, which only lowers the mixture. For the other side it
    is exp(sum of w − d · S) with w = log(1 + (exp(d) − 1) / p). After Waudby-Smith and Ramdas, "Estimating means of
    bounded random variables by betting" (2023), with the known probabilities of the coins in place of a mean.

    Args:
        delta: probability, in (0, 1), that S is ever excluded.
    """

    __slots__ = ("_heavy", "_level", "_light")

    def __init__(self, delta: float) -> None:
        self._level = math.log(2 * len(STAKES) / delta)
        self._heavy, self._light = [0.0] * len(STAKES), [0.0] * len(STAKES)

    def audit(self, share: float, agreed: bool | None) -> None:
        """Takes in an audit, drawn with probability `share`; None where it failed: that speaks for an error only."""
        for k, stake in enumerate(STAKES):
            if not agreed:
                missed = math.expm1(-stake) / share
                self._heavy[k] += math.inf if missed <= -1 else -math.log1p(missed)
            if agreed is False:
                self._light[k] += math.log1p(math.expm1(stake) / share)

    def too_many(self, errors: float, least: float) -> bool:
        """Whether there are surely fewer errors than this; `least` is the smallest share so far."""
        alive = [k for k, stake in enumerate(STAKES) if -math.expm1(-stake) < least]
        return _log_sum([STAKES[k] * errors - self._heavy[k] for k in alive]) >= self._level

    def too_few(self, errors: float) -> bool:
        """Whether there are surely more errors than this."""
        logs = [light - stake * errors for stake, light in zip(STAKES, self._light, strict=True)]
        return _log_sum(logs) >= self._level


def estimate(
    answered: int,
    audits: Iterable[tuple[float, bool | None]],
    *,
    least: float,
    delta: float = 0.05,
) -> Estimate:
    """Agreement of all answers given, from those that were audited.

    Each audit stands for 1 / share answers, share being the known probability with which it was drawn: the estimate is
    unbiased however the share changes and whatever the order of the errors (Horvitz and Thompson 1952).

    Args:
        answered: answers the release has given, ≥ 1.
        audits: (share, agreed) of each audited one, in any order; None where an audit failed.
        least: the smallest share so far, in (0, 1].
        delta: 1 − confidence level, in (0, 1).

    Returns:
        The estimate. Failed audits are left out of it, and count as errors for `low` and as right for `high`.

    Example:
        >>> found = estimate(1000, [(0.1, i >= 3) for i in range(100)], least=0.1)
        >>> round(found.agreement, 3), found.low < 0.97 < found.high
        (0.97, True)
    """
    bets, known, differed, seen = Bets(delta), float(answered), 0.0, [0, 0, 0]
    for share, agreed in audits:
        bets.audit(share, agreed)
        seen[2 if agreed is None else int(agreed)] += 1
        known -= 1 / share if agreed is None else 0.0
        differed += 1 / share if agreed is False else 0.0
    wrong, right, failed = seen
    most = _first(lambda errors: bets.too_many(errors + 1, least), wrong, answered - right)
    fewest = _first(lambda errors: not bets.too_few(errors), wrong, answered - right)
    agreement = 1 - (min(differed / known, 1.0) if known > 0 else most / answered)
    return Estimate(answered, wrong + right, failed, agreement, 1 - most / answered, 1 - fewest / answered)


def _log_sum(logs: Sequence[float]) -> float:
    """Logarithm of the sum of the exponentials; −∞ of none."""
    top = max(logs, default=-math.inf)
    return top if math.isinf(top) else top + math.log(sum(math.exp(each - top) for each in logs))


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The least number in [low, high] for which `holds`, which stays so for all larger ones; `high` if for none."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
