"""What more calls would bring: a learning curve extrapolated to the next searches. For readers; it decides nothing.

The error rate at rank q ∈ (0, 1] of a student's confidence is taken as A · qᵝ, and as falling with the inputs n
like n⁻ᶜ. β and A come from the whole data, c from the parts of the learning curve, drawn towards a usual value. Each
later attempt is then played through with made-up calls of that kind and the very certificate it would have to pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .certify import Refusal, certify, next_attempt
from .promises import ANSWERED
from .types import CURVE_SHARES, CurvePoint, Outlook

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .config import Policy

__all__ = ["look_ahead"]

_USUAL_SLOPE = 0.3  # c where the curve says nothing; see docs/search.md
_TRUST = 30.0  # errors that weigh as much as the usual slope
_MOST_SLOPE = 1.0
_DRAWS = 9  # plays of each attempt; more than half must succeed
_FURTHER = 20.0  # times the present calls that are looked ahead …
_FURTHEST = 50_000  # … and most calls


def look_ahead(
    curve: Sequence[CurvePoint], *, calls: int, attempts: int, policy: Policy, promise: str = ANSWERED
) -> Outlook:
    """At how many calls a search will likely release a replacement, if the student goes on learning as it did.

    Args:
        curve: points of the chosen candidate, smallest first; the last is from all inputs. At least one.
        calls: labelled calls those inputs are from, ≥ 1.
        attempts: attempts made so far, this one included.
        policy: the task's.
        promise: what is promised. Made-up calls have no answers: `classes` and `cost` are estimated as `answered`.
    """
    import numpy as np

    slope, shape, rate = _slope(curve), _shape(curve[-1]), curve[-1].errors[-1]
    kind = promise if promise == "overall" else ANSWERED
    horizon = int(min(calls * _FURTHER, _FURTHEST))
    for index in range(attempts, attempts + 100):
        due, delta = next_attempt(index, policy)
        if due > horizon:
            break
        labels = min(due, policy.max_examples)
        wrong = _error_rates(labels, shape, rate * (max(labels, calls) / calls) ** -slope)
        confidence = np.linspace(1, 0, labels)
        rng = np.random.default_rng(index)
        found = [
            certify(confidence, rng.random(labels) >= wrong, target=policy.target, delta=delta, promise=kind)
            for _ in range(_DRAWS)
        ]
        coverages = sorted(0.0 if isinstance(each, Refusal) else each.coverage for each in found)
        if coverages[_DRAWS // 2]:
            return Outlook(tuple(curve), due, coverages[_DRAWS // 2], horizon)
    return Outlook(tuple(curve), None, None, horizon)


def _error_rates(calls: int, shape: float, rate: float) -> NDArray[np.float64]:
    """Error rate of each call, the most confident first: (shape + 1) · rate · qᶜ, so that `rate` is their mean."""
    import numpy as np

    rank = (np.arange(calls) + 0.5) / calls
    found: NDArray[np.float64] = np.minimum((shape + 1) * rate * rank**shape, 0.95)
    return found


def _shape(point: CurvePoint) -> float:
    """β of largest likelihood, given the errors between the shares of one point."""
    rate = max(point.errors[-1], 0.5 / point.inputs)
    best, most = 0.0, -math.inf
    for step in range(33):
        beta = step / 8
        likelihood, before, seen = 0.0, 0.0, 0.0
        for share, errors in zip(CURVE_SHARES, point.errors, strict=True):
            count, wrong = (share - before) * point.inputs, max(share * errors - seen, 0.0) * point.inputs
            expected = rate * (share ** (beta + 1) - before ** (beta + 1)) / (share - before)
            expected = min(max(expected, 1e-6), 0.999)
            likelihood += wrong * math.log(expected) + max(count - wrong, 0.0) * math.log(1 - expected)
            before, seen = share, share * errors
        if likelihood > most:
            best, most = beta, likelihood
    return best


def _slope(curve: Sequence[CurvePoint]) -> float:
    """c: how fast errors fell from part to part, drawn towards the usual slope as far as errors are few."""
    total, weight = _USUAL_SLOPE * _TRUST, _TRUST
    for small, large in zip(curve, curve[1:], strict=False):
        for at in (CURVE_SHARES.index(0.5), len(CURVE_SHARES) - 1):
            share = CURVE_SHARES[at]
            few, many = ((point.errors[at] * share * point.inputs, share * point.inputs) for point in (small, large))
            fell = math.log((few[0] + 0.5) / few[1]) - math.log((many[0] + 0.5) / many[1])
            trust = min(few[0], many[0])
            total += trust * fell / math.log(large.inputs / small.inputs)
            weight += trust
    return min(max(total / weight, 0.0), _MOST_SLOPE)
