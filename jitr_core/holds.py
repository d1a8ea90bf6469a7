"""Holds: the teacher answers in place of a release, and says by that what audits would have said.

A release is held when its calls or its teacher have changed, until enough of what it would have answered was compared:
to compare an answer before it is given costs the same request as to audit it afterwards. While audits fail this waits.
And it is held when nobody has checked it for a day though its answers were to be: an outage of the teacher is no
reason, but no release answers unwatched for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .store import Store

__all__ = ["Holds"]

_log = logging.getLogger("jitr")

MISSED = 50
"""Audits in a row that came to nothing, for a hold: 31 would show an error rate of 0.2, half of the time."""

SPAN_S = 86_400.0
"""Seconds between the calls of the first and the last of them: longer than outages of a teacher are."""

COMPARED = 100
"""Answers that must have been compared since, for its end. Of releases that agree on 0.9, 6% pass for 0.95 at that
look, 7% ever, and go on being audited. Half as many after each hold that a release came out of, …"""

LEAST = 25
"""… but so many, though 0.9 then passes in 38%: calls that change all the time, as by day and night, must not cost all
that is saved."""


@dataclass(slots=True)
class Holds:
    """Holds releases and lets them go, for all processes of a state.

    Attributes:
        store: the state.
        emit: told of both.
    """

    store: Store
    emit: Callable[[dict[str, Any]], None]

    def on(self, task: str, release: str) -> bool:
        """Whether the teacher answers in place of a release; never where the user pinned it despite audits."""
        return self.store.held_since(task, release) is not None and not self._despite(task, release)

    def lasting(self, task: str, release: str) -> bool:
        """Whether the teacher answers even while he is down: nobody has checked the release for a day."""
        told = self.store.holds(task, release)
        return bool(told) and "signal" not in told[-1]["figures"]

    def missed(self, task: str, release: str) -> None:
        """Hold a release if none of its audits has come back for too long."""
        number, span_s = self.store.unwatched(task, release)
        if number < MISSED or span_s < SPAN_S or self._despite(task, release):
            return
        reason = (
            f"none of {number:,} audits in {span_s / 3600:,.0f} hours came back: the teacher answers, "
            f"until {self._enough(task, release)} answers were compared again"
        )
        self._tell(task, release, True, reason, {"missed": number, "hours": round(span_s / 3600, 1)})

    def change(self, task: str, release: str, signal: str) -> dict[str, Any] | None:
        """What a warning of drift holds a release with: `reason` and `figures`.

        None where it is held already, or the user pinned it despite audits.
        """
        if self.store.held_since(task, release) is not None or self._despite(task, release):
            return None
        enough = self._enough(task, release)
        reason = f"{signal} changed: the teacher answers, until {enough} answers were compared"
        return {"reason": reason, "figures": {"signal": signal}}

    def inherit(self, task: str, release: str) -> None:
        """Hold a release that took the place of a held one: it was hardly certified on such calls, either."""
        last = self.store.last_entry("activate", task)
        before = last.details["before"] if last is not None and last.details["release"] == release else None
        if before is None or self.store.holds(task, release) or self._despite(task, release):
            return
        told = self.store.holds(task, before)
        if told and told[-1]["held"]:
            self._tell(task, release, True, told[-1]["reason"], told[-1]["figures"])

    def compared(self, task: str, release: str, number: int, costs: Sequence[float], limit: float) -> None:
        """Let a release go that has been compared often enough since it was held, and agreed often enough.

        Args:
            task: id of the task.
            release: the release.
            number: answers compared since it was held.
            costs: what those that are still known cost: 0 where they agreed, else 1 if the promise names no other cost.
            limit: promised mean cost, in (0, 1).
        """
        if number >= self._enough(task, release) and sum(costs) <= limit * len(costs):
            differed = sum(cost > 0 for cost in costs)
            reason = f"{differed:,} of {number:,} answers compared since it was held differed"
            self._tell(task, release, False, reason, {"compared": number, "differed": differed})

    def _enough(self, task: str, release: str) -> int:
        """Answers that have to be compared before it answers again."""
        passed = sum(1 for told in self.store.holds(task, release) if not told["held"])
        return max(COMPARED >> passed, LEAST)

    def _despite(self, task: str, release: str) -> bool:
        pin = self.store.pinned(task)
        return pin is not None and pin.release == release and pin.despite_audits

    def _tell(self, task: str, release: str, held: bool, reason: str, figures: dict[str, Any]) -> None:
        if self.store.hold(task, release, held, reason, figures):
            self.told(task, release, held, reason)

    def told(self, task: str, release: str, held: bool, reason: str) -> None:
        """Log a hold, or its end, that the store has."""
        _log.warning("task %s: release %s %s: %s", task, release, "is held" if held else "answers again", reason)
        self.emit({"kind": "hold", "task": task, "release": release, "held": held, "reason": reason})
