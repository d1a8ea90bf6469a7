"""Holds: a release whose audits do not come back any more must not answer unwatched for ever.

An outage of the teacher is no reason: replacements go on. But a release that nobody has checked for a day, though its
answers were to be, is held: the teacher answers its calls, and says by that what an audit would have said.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
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

COMPARED = 50
"""Answers that must have been compared since, for its end: as many as were missed."""


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

    def missed(self, task: str, release: str) -> None:
        """Hold a release if none of its audits has come back for too long."""
        number, span_s = self.store.unwatched(task, release)
        if number < MISSED or span_s < SPAN_S or self._despite(task, release):
            return
        reason = (
            f"none of {number:,} audits in {span_s / 3600:,.0f} hours came back: the teacher answers, "
            f"until {COMPARED} answers were compared again"
        )
        self._tell(task, release, True, reason, {"missed": number, "hours": round(span_s / 3600, 1)})

    def compared(self, task: str, release: str) -> None:
        """Let a release go that has been compared often enough since it was held."""
        row = self.store.held_since(task, release)
        if row is None:
            return
        number = self.store.compared_since(task, release, row)
        if number >= COMPARED:
            self._tell(task, release, False, f"{number:,} answers were compared again", {"compared": number})

    def _despite(self, task: str, release: str) -> bool:
        pin = self.store.pinned(task)
        return pin is not None and pin.release == release and pin.despite_audits

    def _tell(self, task: str, release: str, held: bool, reason: str, figures: dict[str, Any]) -> None:
        if self.store.hold(task, release, held, reason, figures):
            _log.warning("task %s: release %s %s: %s", task, release, "is held" if held else "answers again", reason)
            self.emit({"kind": "hold", "task": task, "release": release, "held": held, "reason": reason})
