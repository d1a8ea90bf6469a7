"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Check"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was found.

    Attributes:
        name: what was looked at, a word or two.
        verdict: "fail" if JITR does not do its work here, "warn" if it may not do all of it.
        found: what there is, with figures.
        fix: what to do about it; "" if nothing.
    """

    name: str
    verdict: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""
