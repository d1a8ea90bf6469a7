"""Audits after a release: how many answered calls to check, and when the checks contradict the certificate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from .config import Policy
from .promises import NEVER, promise
from .types import Certificate

__all__ = ["AuditMonitor", "Watch", "audit_share"]

EXTRA = 2_800
"""Audits that a task may spend beyond the least share until it has answered LIFE calls, and as large a part of more."""

LIFE = 1_000_000
"""Answered calls within which EXTRA is spent: with a least share of 0.002 that makes 0.48% of them."""

SPREAD = 16
"""How slowly it is spent: the larger, the fewer audits a fresh release gets, and the more are left for later ones."""

HORIZON = 10_000
"""Audits over which `Policy.audit_delta` is counted."""

SHIFTS = (0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 0.9)
"""Error rates watched for, as shares of the way from 1 − target to 1; the first is 1.3 times 1 − target at 0.95."""


def audit_share(since: int, policy: Policy, *, answered: int = 0, spent: float = 0.0, warned: bool = False) -> float:
    """Probability with which the next call's coin asks for an audit: least + left / (SPREAD · since), up to the start.

    Every new release and every warning begins again at the start, and each time a part of what is left goes. So the
    share falls with what a release has shown, the start lasts the shorter the more audits the task has had, and
    the sum is bounded however often it begins again: what is left never falls below 0.

    Args:
        since: calls that the release has answered, ≥ 0; since the last warning of drift, if there was one.
        policy: gives `audit_share_start`, `audit_share_warned`, `audit_share_min` and `audit_budget`.
        answered: calls that all releases of the task have answered, ≥ 0.
        spent: sum of the shares that these were audited with: the audits to be expected of them.
        warned: whether there was a warning of this release.

    Returns:
        A share in (0, 1].
    """
    start = max(policy.audit_share_start, policy.audit_share_warned) if warned else policy.audit_share_start
    least = min(policy.audit_share_min, policy.audit_share_start)
    left = max(EXTRA * max(answered / LIFE, 1.0) - max(spent - least * answered, 0.0), 0.0)
    share = min(start, least + left / (SPREAD * max(since, 1)))
    if policy.audit_budget is None:
        return share
    each = policy.audit_budget / 1000
    # What earlier answers left of the budget, or overdrew, is made up for over a thousand answers, as shares lag.
    return min(share, max(each + (each * answered - spent) / 1000, each / 2))


class AuditMonitor:
    """Watches audited answers of one release and says when they contradict its certificate.

    A Shiryaev–Roberts detector with a head start, mixed over error rates above 1 − target (Shin, Ramdas and Rinaldo,
    "E-detectors", 2023): per alternative q the statistic R ← (1 + R) · L, with L the likelihood ratio of the audit
    under q against 1 − target. That ratio is 1 + s · (cost / (1 − target) − 1), where an error costs 1 and s is q's
    shift; its mean is at most 1 whatever errors cost, as long as the mean cost keeps to 1 − target. While that is so,
    whatever happened before, the mean of R after n audits is at most R₀ + n, hence
    P(R ≥ A within HORIZON audits) ≤ (R₀ + HORIZON) / A; A is set so that this is `audit_delta`. The head start
    R₀ = HORIZON makes it as quick against a release that was wrong from its
    first answer as a test that watches for nothing else; the 1 + restarts it for ever, so that good times are no
    credit against bad ones.

    Args:
        target: promised agreement, in (0, 1).
        audit_delta: probability, in (0, 1), of a rollback within HORIZON audits while the promise is kept.
        dearest: what an error can cost at most, ≥ 1; dear errors are watched for at lower rates, too.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> monitor = AuditMonitor(target=0.95, audit_delta=0.05)
        >>> [monitor.update(False) for _ in range(3)]
        ['keep', 'rollback', 'rollback']
    """

    __slots__ = ("_evidence", "_limit", "_shifts", "audit_delta", "audits", "errors", "target")

    def __init__(self, *, target: float, audit_delta: float, dearest: float = 1.0) -> None:
        if not (0 < target < 1 and 0 < audit_delta < 1):
            raise ValueError("target and audit_delta must be in (0, 1)")
        self.target, self.audit_delta = target, audit_delta
        self.audits = self.errors = 0
        # Of a promise of 0.99, or where errors are dear, the rates to watch for are smaller.
        finer = max(1.0, dearest * 0.05 / (1 - target))
        self._shifts = sorted({shift / scale for shift in SHIFTS for scale in (1.0, finer)})
        self._evidence = [float(HORIZON)] * len(self._shifts)
        self._limit = 2 * HORIZON / audit_delta

    @property
    def agreement(self) -> float | None:
        """Share of audits that agreed, in [0, 1]; None before the first."""
        return 1 - self.errors / self.audits if self.audits else None

    @property
    def evidence(self) -> float:
        """What speaks for a rollback; it comes at 2 · HORIZON / audit_delta."""
        return sum(self._evidence) / len(self._evidence)

    @property
    def verdict(self) -> Literal["keep", "rollback"]:
        """What the audits so far say; a rollback stays one."""
        return "rollback" if self.evidence >= self._limit else "keep"

    def update(self, agreed: bool, cost: float = 1.0) -> Literal["keep", "rollback"]:
        """Takes in one audit.

        Args:
            agreed: whether the replacement's answer was equivalent to the teacher's.
            cost: what a differing answer costs, ≥ 0.

        Returns:
            The verdict; once "rollback", further audits change nothing.
        """
        if self.verdict == "keep":
            self.audits += 1
            self.errors += not agreed
            gain = (0.0 if agreed else cost / (1 - self.target)) - 1
            self._evidence = [
                (1 + evidence) * (1 + shift * gain)
                for evidence, shift in zip(self._evidence, self._shifts, strict=True)
            ]
        return self.verdict


class Watch:
    """What the audits of one release say of the very promise it was certified for.

    `answered` and `cost` watch the audited answers, `classes` watches each group of answers by itself, with its part of
    `audit_delta`. `overall` needs the deferred calls as well that the coin chose: they count as right.

    Args:
        certificate: the release's.
        same: whether an answer, the first argument, counts as the teacher's.
        target: promised agreement, in (0, 1).
        audit_delta: see `AuditMonitor`.

    Attributes:
        deferred: whether deferred calls are to be told of, too.
        audits, errors: calls that were told of, and those that were answered otherwise than by the teacher.
    """

    def __init__(
        self, certificate: Certificate, same: Callable[[str, str], bool], *, target: float, audit_delta: float
    ) -> None:
        self._promise, self._same, self._target = promise(certificate.promise), same, target
        self.deferred = self._promise.kind == "overall"
        self.audits = self.errors = 0
        limits = [*certificate.thresholds.values(), certificate.threshold]
        # Of the groups' bounds the sum counts: k monitors at delta / k see HORIZON audits together.
        self._delta = audit_delta / max(sum(limit < NEVER for limit in limits), 1)
        self._monitors: dict[str, AuditMonitor] = {}

    @property
    def verdict(self) -> Literal["keep", "rollback"]:
        """What the audits so far say; a rollback stays one."""
        return "rollback" if any(each.verdict == "rollback" for each in self._monitors.values()) else "keep"

    def cost(self, given: str | None, teacher: str) -> float:
        """What an answer costs under the promise: 0 if it counts as the teacher's, and where none was given."""
        agreed = given is None or self._same(given, teacher)
        return 0.0 if agreed else self._promise.cost(given or "", teacher)

    def update(self, given: str | None, teacher: str) -> Literal["keep", "rollback"]:
        """Takes in one audit.

        Args:
            given: the replacement's answer; None where it deferred.
            teacher: the teacher's.

        Returns:
            The verdict; once "rollback", further audits change nothing.
        """
        if self.verdict == "keep":
            agreed = given is None or self._same(given, teacher)
            self.audits, self.errors = self.audits + 1, self.errors + (not agreed)
            name = self._promise.group(given or "") if self._promise.kind == "classes" else ""
            cost = 1.0 if agreed else self._promise.cost(given or "", teacher)
            if name not in self._monitors:
                self._monitors[name] = AuditMonitor(
                    target=self._target, audit_delta=self._delta, dearest=self._promise.dearest
                )
            self._monitors[name].update(agreed, cost)
        return self.verdict
