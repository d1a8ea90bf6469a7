"""Certificates for every promise a user may choose, see `jitr_core.promises` and `docs/certificate.md`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..promises import ANSWERED, NEVER, Promise, least_confidence
from ..promises import promise as read
from ..types import Certificate
from .agreement import LEAST, Refusal, agreement_low, allowed_errors, answered

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["certify"]

BETS = (0.9, 0.6, 0.35, 0.2, 0.1)
"""Stakes of the test by betting, as shares of the largest that never goes bankrupt; their capitals are averaged."""


def certify(
    confidence: Sequence[float] | NDArray[Any],
    correct: Sequence[bool] | NDArray[Any],
    *,
    target: float,
    delta: float,
    promise: str = ANSWERED,
    given: Sequence[str] | None = None,
    teacher: Sequence[str] | None = None,
    apart: Sequence[bool] | NDArray[Any] | None = None,
) -> Certificate | Refusal:
    """The loosest threshold, or thresholds, shown to keep a promise.

    Args:
        confidence: shape (k,), cross-fitted confidence in [0, 1] of each calibration call, in the stream's
            frequencies (repeated inputs repeated).
        correct: shape (k,), whether the student's cross-fitted answer was equivalent to the teacher's.
        target: promised agreement, in (0, 1); under `cost` 1 − the expected cost.
        delta: error probability spent, in (0, 1).
        promise: what is promised, see `jitr_core.promises`.
        given: k cross-fitted answers; needed for `classes` and `cost`.
        teacher: k answers of the teacher; needed for `cost`.
        apart: shape (k,), the calls in no crowd, see `jitr_core.crowd`. They may be all that is to come, so the promise
            is shown of them alone as well, with thresholds that are at least as strict. None: all are.

    Returns:
        The certificate, or the refusal with its reason.

    Raises:
        ValueError: the shapes differ, a confidence is not a number, answers are missing, or target or delta is out of
            range.
        ConfigError: there is no such promise.
    """
    import numpy as np

    wanted = read(promise)
    score, right = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=bool)
    if score.ndim != 1 or score.shape != right.shape or np.isnan(score).any():
        raise ValueError("confidence and correct must be two sequences of one length, without NaN")
    if not (0 < target < 1 and 0 < delta < 1):
        raise ValueError(f"target and delta must be in (0, 1), got {target} and {delta}")
    groups, loss = np.full(len(score), ""), (~right).astype(float)
    if wanted.kind in ("classes", "cost"):
        if given is None or len(given) != len(score):
            raise ValueError(f"the promise {promise} needs the answers given")
        groups = np.array([wanted.group(each) for each in given], dtype=object)
    if given is not None and wanted.kind == "cost":
        if teacher is None or len(teacher) != len(score):
            raise ValueError(f"the promise {promise} needs the teacher's answers")
        pairs = zip(given, teacher, right, strict=True)
        loss = np.array([0.0 if ok else wanted.cost(one, other) for one, other, ok in pairs])
    how: dict[str, Any] = {"wanted": wanted, "target": target, "delta": delta}
    least: Certificate | None = None
    if apart is not None and not np.all(apart):
        rows = np.flatnonzero(apart)
        alone = _shown(score[rows], right[rows], groups[rows], loss[rows], **how)
        if isinstance(alone, Refusal):
            return replace(alone, reason=f"of the calls that do not repeat one input, or nearly: {alone.reason}")
        least = alone
    found = _shown(score, right, groups, loss, **how, least=least)
    return replace(found, promise=promise) if isinstance(found, Certificate) else found


def _shown(
    score: NDArray[Any],
    right: NDArray[Any],
    groups: NDArray[Any],
    loss: NDArray[Any],
    *,
    wanted: Promise,
    target: float,
    delta: float,
    least: Certificate | None = None,
) -> Certificate | Refusal:
    """What is shown of these calls, with thresholds that are at least as strict as those of `least`."""
    if wanted.kind == "classes":
        return _classes(score, right, groups, wanted, target=target, delta=delta, least=least)
    limit = least.threshold if least else LEAST
    if wanted.kind == "answered":
        return answered(score, right, target=target, delta=delta, least=limit)
    if wanted.kind == "overall":
        return _overall(score, right, target=target, delta=delta, least=limit)
    return _cost(score, loss, right, wanted.dearest, target=target, delta=delta, least=limit)


def _overall(
    score: NDArray[Any], right: NDArray[Any], *, target: float, delta: float, least: float
) -> Certificate | Refusal:
    """Deferred calls count as right.

    The rate of errors above a threshold, among all calls, never falls as the threshold does. So one exact test with
    the whole of delta is enough for all thresholds: the loosest with few enough errors is certified (Bates et al.,
    "Distribution-free, risk-controlling prediction sets", 2021).
    """
    import numpy as np

    total, allowed = len(score), allowed_errors(len(score), target=target, delta=delta)
    if allowed < 0:
        needed = math.ceil(math.log(delta) / math.log(target))
        reason = f"{total} labelled calls are too few: even without an error {needed} are needed to show {target:.3g}"
        return Refusal(reason, total, 0, allowed, needed - total)
    wrong = np.sort(score[~right])[::-1]
    threshold = least if len(wrong) <= allowed else max(least, float(np.nextafter(wrong[allowed], np.inf)))
    above = score >= threshold
    calls, errors = int(above.sum()), int((above & ~right).sum())
    if not calls:
        reason = (
            f"more than {allowed} of {total} calls are answered wrongly at the very highest confidence; at most "
            f"{allowed} would show {target:.3g} overall"
        )
        return Refusal(reason, total, len(wrong), allowed)
    return Certificate(target, delta, threshold, calls / total, calls, errors, agreement_low(total, errors, delta))


def _classes(
    score: NDArray[Any],
    right: NDArray[Any],
    groups: NDArray[Any],
    wanted: Promise,
    *,
    target: float,
    delta: float,
    least: Certificate | None,
) -> Certificate | Refusal:
    """Every group of answers has a threshold of its own, or is never given.

    Given which calls got an answer of a group, those calls are independent draws of what the release will answer so.
    How often a group occurs may therefore decide how delta is split: in equal parts among the groups that are large
    enough to pass at all, the others get nothing.
    """
    total, counts = len(score), Counter(groups.tolist()).most_common()
    tried = 0
    for rank, (_, count) in enumerate(counts, 1):
        if count >= math.log(delta / rank) / math.log(target):
            tried = rank
    thresholds = dict.fromkeys(wanted.critical, NEVER)
    certified: list[Certificate] = []
    refused: list[tuple[str, Refusal]] = []
    rest = NEVER
    for name, _ in counts[:tried]:
        mine = groups == name
        limit = least_confidence(least, name) if least else LEAST
        found = answered(score[mine], right[mine], target=target, delta=delta / tried, least=limit)
        if isinstance(found, Refusal):
            refused.append((name, found))
            continue
        certified.append(found)
        if wanted.critical and name not in wanted.critical:
            rest = found.threshold
        else:
            thresholds[name] = found.threshold
    if not certified:
        return _no_class(refused, counts, total)
    calls, errors = sum(each.calls for each in certified), sum(each.errors for each in certified)
    low = min(each.agreement_low for each in certified)
    return Certificate(target, delta, rest, calls / total, calls, errors, low, thresholds=thresholds)


def _no_class(refused: list[tuple[str, Refusal]], counts: list[tuple[str, int]], total: int) -> Refusal:
    if not refused:
        most = max((count for _, count in counts), default=0)
        return Refusal(f"no answer was given often enough to be certified by itself: {most} times of {total} at most")
    name, why = refused[0]
    return replace(why, reason=f"no answer could be certified by itself; for {name}: {why.reason}", more_labels=None)


def _cost(
    score: NDArray[Any],
    loss: NDArray[Any],
    right: NDArray[Any],
    dearest: float,
    *,
    target: float,
    delta: float,
    least: float,
) -> Certificate | Refusal:
    """The mean cost of answered calls, by betting against its being 1 − target or more, from the surest call on.

    Per stake s the capital is the product of 1 + s · (1 − target − cost) over the calls. From the strictest threshold
    on at which the mean cost is too high, and while it does not fall as the confidence does, the capital is expected to
    grow at no call: that it reaches 1 / delta at any has probability ≤ delta (Ville 1939; Waudby-Smith and Ramdas,
    "Estimating means of bounded random variables by betting", 2023). So the loosest threshold at which it does is
    certified. The stakes are fixed and the capitals averaged, so that the order of equally confident calls does not
    matter.
    """
    import numpy as np

    most, total, enough = 1 - target, len(score), -math.log(delta)
    order = np.argsort(-score, kind="stable")
    score, loss, wrong = score[order], loss[order], np.cumsum(~right[order])
    capital = _log_capital(loss, most, dearest)
    # Calls that a threshold lets through: all that are surer than the next one.
    ends = np.flatnonzero(np.append(score[:-1] > score[1:], score[-1:] >= LEAST)) + 1
    limits = np.append(np.nextafter(score[1:], np.inf), LEAST)
    passed = ends[(capital[ends - 1] >= enough) & (limits[ends - 1] >= least)]
    if len(passed):
        calls = int(passed[-1])
        threshold = float(limits[calls - 1])
        high = _cost_high(loss[:calls], dearest, delta)
        return Certificate(target, delta, threshold, calls / total, calls, int(wrong[calls - 1]), 1 - high)
    fewest = math.ceil(enough / math.log1p(max(BETS) / (dearest - most) * most))
    if total < fewest:
        reason = (
            f"{total} labelled calls are too few: where a difference may cost {dearest:g} even {fewest} without one"
        )
        return Refusal(f"{reason} would hardly show {target:.3g}", total, 0, -1, fewest - total)
    calls = max(ends[ends >= fewest].tolist(), key=lambda n: float(capital[n - 1]), default=0)
    mean = float(loss[:calls].mean()) if calls else 0.0
    reason = (
        f"the mean cost of an answer to the most confident {calls / total:.0%} of {total} calls is "
        f"{mean:.3f}; too few or too dear to show that it is at most {most:.3g}, where one can cost {dearest:g}"
    )
    return Refusal(reason, calls, int(wrong[calls - 1]) if calls else 0)


def _log_capital(loss: NDArray[Any], most: float, dearest: float) -> NDArray[Any]:
    """Logarithm of the average capital after each call, shape (k,)."""
    import numpy as np

    stakes = np.array(BETS)[:, None] / (dearest - most)
    gains = np.cumsum(np.log1p(stakes * (most - loss)), axis=1)
    found: NDArray[Any] = np.logaddexp.reduce(gains, axis=0) - math.log(len(BETS))
    return found


def _cost_high(loss: NDArray[Any], dearest: float, level: float) -> float:
    """Upper confidence bound of the mean cost: the least that betting excludes; the capital grows with it."""
    low, high = 0.0, dearest
    for _ in range(40):
        middle = (low + high) / 2
        if float(_log_capital(loss, middle, dearest)[-1]) >= -math.log(level):
            high = middle
        else:
            low = middle
    return high
