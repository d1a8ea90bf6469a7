"""Agreement on answered calls: exact tests on the calls the teacher labelled, and how often they may be tried.

The promise: in the whole life of a task, the probability that any release agrees with the teacher on fewer than
`target` of the calls it answers is at most `delta`. See `docs/certificate.md` for the argument and the measurements.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config import Policy
from ..types import Certificate

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Attempt",
    "Refusal",
    "agreement_low",
    "allowed_errors",
    "answered",
    "better",
    "next_attempt",
    "peak_calls",
    "thresholds",
]

LOOKS = 30
"""Thresholds that are tested at most."""

OWN = 0.8
"""Share of delta that a threshold is tested with by its own calls; looser ones get the rest, in equal parts."""

START = 15
"""Tests start where 1/START of the errors that all calibration calls together may have would pass."""

START_ERRORS = (1, 12)
"""Least and most errors allowed at that start: one unlucky call must not decide, nor a long run-up delay it."""

PEAK_ERRORS = 35
"""An attempt is worth most where this many errors would be expected at exactly the target: 700 calls at 0.95."""

LEAST = math.ulp(0.0)
"""The loosest threshold: everything passes but a confidence of 0, which says that there is no answer."""

LEVEL_BETTER = 0.1
"""Level in (0, 1) of the sign test that a new release answers more calls than the active one."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no threshold was certified.

    Attributes:
        reason: one sentence for a reader, with figures.
        calls: calibration calls of the threshold that came closest; 0 if none could be tested.
        errors: how many of those the student answered otherwise than the teacher.
        allowed: errors with which that threshold would have passed; −1 if there were too few calls.
        more_labels: roughly how many more calibration labels would do if the student stayed as good as it looks,
            None if no number would.
    """

    reason: str
    calls: int = 0
    errors: int = 0
    allowed: int = -1
    more_labels: int | None = None


class Attempt(NamedTuple):
    """One certification in the life of a task.

    Attributes:
        calls: the attempt is due once the task's stream has this many calls, answered ones included; before the
            first release that is its number of labels.
        delta: error probability it may spend, in (0, 1).
    """

    calls: int
    delta: float


def allowed_errors(calls: int, *, target: float, delta: float) -> int:
    """Most errors with which the exact binomial test at level `delta` shows agreement ≥ target.

    Args:
        calls: calls the threshold lets through, ≥ 0.
        target: promised agreement, in (0, 1).
        delta: level of the test, in (0, 1).

    Returns:
        The largest k with P(Binomial(calls, 1 − target) ≤ k) ≤ delta; −1 if even k = 0 is too many.

    Example:
        >>> allowed_errors(59, target=0.95, delta=0.05), allowed_errors(58, target=0.95, delta=0.05)
        (0, -1)
    """
    from scipy.special import bdtr

    return bisect_right(range(calls + 1), delta, key=lambda k: float(bdtr(float(k), calls, 1 - target))) - 1


def answered(
    confidence: NDArray[Any], correct: NDArray[Any], *, target: float, delta: float, least: float = LEAST
) -> Certificate | Refusal:
    """The loosest threshold shown to keep the promise, by exact tests of where the promise would first be broken.

    Thresholds are quantiles of the confidences, so no label has a say in them. For each of them there is the hypothesis
    that it is the strictest bad one, and looser ones are bad too. Only one of these can be true, so each is tested at
    the whole of `delta` (partitioning, Finner and Strassburger 2002); what is certified is the loosest threshold
    before the first hypothesis that stands. Evidence against a hypothesis are few errors above its own threshold, or
    above a looser one: its test is a group-sequential one over both (Lan and DeMets 1983), so an unlucky call among
    the most confident is made up for by many good ones below. A threshold lets through what lies strictly above a
    confidence that itself is left out of the test: given that confidence, the calls above it are independent draws of
    what the release will answer.

    What is shown is shown of all thresholds at once, so a stricter one than the loosest may be taken for any reason.

    Args:
        confidence: shape (k,), cross-fitted confidence in [0, 1] of each calibration call.
        correct: shape (k,), whether the student's cross-fitted answer was equivalent to the teacher's.
        target: promised agreement on answered calls, in (0, 1).
        delta: error probability spent, in (0, 1).
        least: looser thresholds than this are not certified.

    Returns:
        The certificate, or the refusal with its reason.
    """
    import numpy as np

    order = np.argsort(-confidence, kind="stable")
    score, wrong, total = confidence[order], np.concatenate([[0], np.cumsum(~correct[order])]), len(order)
    looks = list(thresholds(score, _counts(total, target, delta)))
    found: tuple[int, float] | None = None
    for (calls, threshold), bounds in zip(looks, _bounds(tuple(n for n, _ in looks), target, delta), strict=True):
        if not any(wrong[n] <= most for n, most in bounds):
            if found is None:
                return _refusal(calls, bounds[0][1], wrong, total, target=target, delta=delta)
            break
        if threshold >= least and wrong[calls] <= allowed_errors(calls, target=target, delta=delta):
            found = calls, threshold
    if found is None:
        return _refusal(0, -1, wrong, total, target=target, delta=delta)
    calls, threshold = found
    errors = int(wrong[calls])
    return Certificate(target, delta, threshold, calls / total, calls, errors, agreement_low(calls, errors, delta))


def _counts(total: int, target: float, delta: float) -> list[int]:
    """How many calls the thresholds should let through: the fewest with which 1, 2, 3 … errors pass, and all."""
    import numpy as np

    most = allowed_errors(total, target=target, delta=OWN * delta)
    if most < 0:
        return [total]
    least = min(max(int(total * (1 - target) / START), START_ERRORS[0]), START_ERRORS[1], most)
    errors = np.unique(np.linspace(least, most, min(LOOKS, most - least + 1)).round().astype(int))
    return [*(_fewest(int(e), total, target, OWN * delta) for e in errors), total]


def _fewest(errors: int, total: int, target: float, delta: float) -> int:
    """Fewest calls with which that many errors pass, at most `total`; the tail falls as the calls grow."""
    from scipy.special import bdtr

    return errors + bisect_left(
        range(errors, total), True, key=lambda n: bool(bdtr(float(errors), n, 1 - target) <= delta)
    )


@lru_cache(maxsize=256)
def _bounds(looks: tuple[int, ...], target: float, delta: float) -> list[list[tuple[int, int]]]:
    """The test of each hypothesis "bad from here on": for its own and all looser thresholds the most errors against it.

    If calls err independently at 1 − target, the probability that there are so few errors at any of them is at most
    delta, exactly; where a threshold and the looser ones are bad there are more errors. What one of them does not
    spend of its part of delta, since errors are whole numbers, goes to the next looser one.
    """
    import numpy as np
    from scipy.stats import binom

    errors = np.arange(max(allowed_errors(looks[-1], target=target, delta=delta), 0) + 1 if looks else 0)
    steps = [binom.pmf(errors, n - m, 1 - target) for m, n in pairwise(looks)]
    found = []
    for first in range(len(looks)):
        spent, bounds = 0.0, []
        alive = binom.pmf(errors, looks[first], 1 - target)  # probability of so many errors, without an earlier end
        for place in range(first, len(looks)):
            if place > first:
                alive = np.convolve(alive, steps[place - 1])[: len(errors)]
            level = delta * (1 - (1 - OWN) * (len(looks) - 1 - place) / max(len(looks) - 1 - first, 1))
            ends = np.cumsum(alive)
            bound = int(np.searchsorted(ends, level - spent, side="right")) - 1
            if bound >= 0:
                spent += float(ends[bound])
                alive[: bound + 1] = 0
            bounds.append((looks[place], bound))
        found.append(bounds)
    return found


def agreement_low(calls: int, errors: int, delta: float) -> float:
    """Exact one-sided lower confidence bound of the agreement (Clopper and Pearson 1934).

    Args:
        calls: calls compared, ≥ 0.
        errors: those answered differently, in [0, calls].
        delta: 1 − confidence level, in (0, 1).

    Returns:
        The bound in [0, 1]; 0 without an agreeing call.
    """
    from scipy.special import betaincinv

    return float(betaincinv(calls - errors, errors + 1, delta)) if errors < calls else 0.0


def thresholds(score: NDArray[Any], counts: Iterable[int]) -> Iterator[tuple[int, float]]:
    """Yields (calls let through, threshold) from strict to loose; looks at no label.

    Args:
        score: shape (k,), confidences, falling.
        counts: calls that should be let through, rising; equal confidences let through fewer.
    """
    import numpy as np

    total = len(score)
    seen = -1 if total == 0 else 0
    for count in counts:
        if count == total:
            calls, threshold = int(np.searchsorted(-score, -LEAST, side="right")), LEAST
        else:
            # strictly above the (count + 1)-th: with ties this lets fewer than `count` through
            calls = int(np.searchsorted(-score, -score[count], side="left"))
            threshold = float(np.nextafter(score[count], np.inf))
        if calls > seen:
            seen = calls
            yield calls, threshold


def _refusal(calls: int, allowed: int, wrong: NDArray[Any], total: int, *, target: float, delta: float) -> Refusal:
    """Words and figures for the strictest threshold that may be bad."""
    errors = int(wrong[calls])
    least = math.ceil(math.log(delta) / math.log(target))
    if total < least:
        reason = f"{total} labelled calls are too few: even without an error {least} are needed to show {target:.3g}"
        return Refusal(reason, calls, errors, allowed, least - total)
    if not calls:
        return Refusal(f"on none of {total} labelled calls is the student sure at all", 0, 0, allowed)
    share = calls / total
    needs = f"{f'at most {allowed}' if allowed else 'none'} may" if allowed >= 0 else "there must be more of them"
    differ = "differs" if errors == 1 else "differ"
    reason = (
        f"{errors} of the {calls} answers the student is surest of ({share:.0%} of {total} calls) "
        f"{differ} from the teacher's, agreement {1 - errors / calls:.3f}; "
        f"to be sure of {target:.3g} in calls to come, {needs}"
    )
    needed = _calls_needed(errors / calls, target=target, delta=delta)
    if needed is None:
        return Refusal(f"{reason}, and more labels help only if the student learns from them", calls, errors, allowed)
    more = max(1, math.ceil(needed / share) - total)
    rounded = f"{float(f'{more:.2g}'):,.0f}"
    return Refusal(f"{reason}; about {rounded} more labels might do", calls, errors, allowed, more)


def _calls_needed(error_rate: float, *, target: float, delta: float) -> int | None:
    """Calls with which the test passes at this error rate, by the normal approximation; None if over a million."""
    from scipy.special import ndtri

    gap = 1 - target - error_rate
    if gap <= 0:
        return None
    calls = max(target * (1 - target) * float(ndtri(delta) / gap) ** 2, math.log(delta) / math.log(target))
    return math.ceil(calls) if calls <= 1_000_000 else None


def peak_calls(policy: Policy) -> float:
    """Calls at which an attempt is worth most: with fewer hardly anything certifies, with many a little delta does."""
    return PEAK_ERRORS / (1 - policy.target)


def next_attempt(index: int, policy: Policy) -> Attempt:
    """The attempt with this index: when it is due and what it may spend.

    The stream grows by `policy.attempt_growth` from `policy.first_attempt` calls on; with x = calls / peak an attempt
    spends in proportion to 1 / (x + 1 / x): little where it can hardly succeed, little where so many calls are known
    that a small share does. The shares sum to at most `policy.delta` over infinitely many attempts. When attempts
    are made and what they spend is known before the first call; that is what makes the sum a bound for the task's
    life. An attempt that is skipped, fails, or ends in a rollback changes nothing for the others.

    Args:
        index: 0 for the first attempt.
        policy: the task's policy.

    Returns:
        The attempt; unpacks to (calls, delta).

    Raises:
        ValueError: index < 0.
    """
    if index < 0:
        raise ValueError(f"index must be ≥ 0, got {index}")
    first, growth, peak = policy.first_attempt, policy.attempt_growth, peak_calls(policy)
    calls = math.ceil(first * growth**index)
    return Attempt(calls, policy.delta * _weight(calls, peak) / _total_weight(first, growth, peak))


def _weight(calls: int, peak: float) -> float:
    return 1 / (calls / peak + peak / calls)


@lru_cache(maxsize=256)
def _total_weight(first: int, growth: float, peak: float) -> float:
    """Sum of the weights of all attempts, from above: the rest beyond the last one added is a geometric series."""
    total, calls, index = 0.0, first, 0
    while calls < 1000 * peak:
        total += _weight(calls, peak)
        index += 1
        calls = math.ceil(first * growth**index)
    return total + peak / (first * growth**index) * growth / (growth - 1)


def better(new: Sequence[bool] | NDArray[Any], active: Sequence[bool] | NDArray[Any]) -> bool:
    """Whether a certified candidate answers more calls than the active release, judged on the same calls.

    Both keep the promise, so coverage decides. A sign test on the calls only one of them answers (McNemar 1947,
    exact, one-sided, level `LEVEL_BETTER`) keeps a lucky draw from replacing a better release.

    Args:
        new: shape (k,), whether the candidate would answer the call, by its cross-fitted confidence.
        active: shape (k,), whether the active release would; on calls it was not trained on.

    Returns:
        True if the candidate should be promoted.

    Raises:
        ValueError: the shapes differ.
    """
    import numpy as np
    from scipy.special import bdtr

    one, other = np.asarray(new, dtype=bool), np.asarray(active, dtype=bool)
    if one.shape != other.shape:
        raise ValueError("new and active must be judged on the same calls")
    gained, lost = int((one & ~other).sum()), int((other & ~one).sum())
    return gained > lost and float(bdtr(float(lost), gained + lost, 0.5)) <= LEVEL_BETTER
