"""Audits after a release: how many answered calls to check, and when the checks contradict the certificate."""

from __future__ import annotations

from typing import Literal

from .config import Policy

__all__ = ["AuditMonitor", "audit_share"]

FULL_AUDITS = 500
"""Audits made at the starting share; from there on their number grows with the logarithm of the answered calls."""

HORIZON = 10_000
"""Audits over which `Policy.audit_delta` is counted."""

SHIFTS = (0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 0.9)
"""Error rates watched for, as shares of the way from 1 − target to 1."""


def audit_share(answered: int, policy: Policy, *, warned: bool = False) -> float:
    """Probability with which the next call's coin asks for an audit.

    min(start, FULL_AUDITS / answered), never below the minimum: after a million answered calls the defaults have
    audited 0.4% of them in all.

    Args:
        answered: calls that the release has answered, ≥ 0; since the last warning of drift, if there was one.
        policy: gives `audit_share_start`, `audit_share_warned` and `audit_share_min`.
        warned: whether there was one.

    Returns:
        A share in (0, 1].
    """
    start = max(policy.audit_share_start, policy.audit_share_warned) if warned else policy.audit_share_start
    return max(min(start, FULL_AUDITS / max(answered, 1)), min(policy.audit_share_min, policy.audit_share_start))


class AuditMonitor:
    """Watches audited answers of one release and says when they contradict its certificate.

    A Shiryaev–Roberts detector with a head start, mixed over error rates above 1 − target (Shin, Ramdas and Rinaldo,
    "E-detectors", 2023): per alternative q the statistic R ← (1 + R) · L, with L the likelihood ratio of the audit
    under q against 1 − target. While the true error rate is at most 1 − target, whatever happened before, the mean of
    R after n audits is at most R₀ + n, hence P(R ≥ A within HORIZON audits) ≤ (R₀ + HORIZON) / A; A is set so that
    this is `audit_delta`. The head start R₀ = HORIZON makes it as quick against a release that was wrong from its
    first answer as a test that watches for nothing else; the 1 + restarts it for ever, so that good times are no
    credit against bad ones.

    Args:
        target: promised agreement, in (0, 1).
        audit_delta: probability, in (0, 1), of a rollback within HORIZON audits while the promise is kept.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> monitor = AuditMonitor(target=0.95, audit_delta=0.05)
        >>> [monitor.update(False) for _ in range(3)]
        ['keep', 'rollback', 'rollback']
    """

    __slots__ = ("_alternatives", "_evidence", "_limit", "audit_delta", "audits", "errors", "target")

    def __init__(self, *, target: float, audit_delta: float) -> None:
        if not (0 < target < 1 and 0 < audit_delta < 1):
            raise ValueError("target and audit_delta must be in (0, 1)")
        self.target, self.audit_delta = target, audit_delta
        self.audits = self.errors = 0
        base = 1 - target
        rates = [base + target * shift for shift in SHIFTS]
        # likelihood ratios of an agreeing and of a differing answer
        self._alternatives = [((1 - rate) / target, rate / base) for rate in rates]
        self._evidence = [float(HORIZON)] * len(rates)
        self._limit = 2 * HORIZON / audit_delta

    @property
    def agreement(self) -> float | None:
        """Share of audits that agreed, in [0, 1]; None before the first."""
        return 1 - self.errors / self.audits if self.audits else None

    @property
    def verdict(self) -> Literal["keep", "rollback"]:
        """What the audits so far say; a rollback stays one."""
        return "rollback" if sum(self._evidence) / len(self._evidence) >= self._limit else "keep"

    def update(self, agreed: bool) -> Literal["keep", "rollback"]:
        """Takes in one audit.

        Args:
            agreed: whether the replacement's answer was equivalent to the teacher's.

        Returns:
            The verdict; once "rollback", further audits change nothing.
        """
        if self.verdict == "keep":
            self.audits += 1
            self.errors += not agreed
            self._evidence = [
                (1 + evidence) * ratios[not agreed]
                for evidence, ratios in zip(self._evidence, self._alternatives, strict=True)
            ]
        return self.verdict
