"""Certificates: which threshold keeps a promise, and how often that may be tried in the life of a task."""

from .agreement import Attempt, Refusal, agreement_low, allowed_errors, better, next_attempt, peak_calls
from .promised import certify

__all__ = [
    "Attempt",
    "Refusal",
    "agreement_low",
    "allowed_errors",
    "better",
    "certify",
    "next_attempt",
    "peak_calls",
]
