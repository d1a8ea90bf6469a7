"""Releases on probation: a shadow is compared with the teacher silently, a canary answers a share of the calls.

Probation can only refuse what the certificate allows, so it costs nothing of delta. Nothing of it runs while a call
waits: a shadow is asked in the background, about calls that have the teacher's answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .audit import Watch
from .route import gives

if TYPE_CHECKING:
    from .config import Policy
    from .equivalence import Equivalence
    from .route import LoadedRelease, Predictor
    from .store import Probation, ReleaseState, Store

__all__ = ["Probations", "path_of"]

_TURN, _SLOW_TURN = 256, 4  # calls a shadow is asked about at a time; if it takes long to answer


def path_of(policy: Policy) -> tuple[ReleaseState, ...]:
    """The states that a certified release goes through."""
    shadow: tuple[ReleaseState, ...] = ("shadow",) if policy.shadow_calls or policy.approval == "manual" else ()
    canary: tuple[ReleaseState, ...] = ("canary",) if policy.canary_calls else ()
    return (*shadow, *canary, "active")


@dataclass(slots=True)
class _Evidence:
    """What a shadow has shown, call by call, up to a row of the store."""

    row: int
    monitor: Watch


@dataclass(slots=True)
class Probations:
    """Moves releases on probation on, or refuses them; one process's view of what the store has.

    Attributes:
        store: the state.
        policy: how long a probation lasts.
        withdraw: takes a release out of use that its comparisons contradict: task, release, what it was, the monitor.
        fault: told of what a shadow raises; nobody waits for it, so nothing else comes of that.
        bring: has a student in memory, if that is possible.
    """

    store: Store
    policy: Policy
    withdraw: Callable[[str, str, str, Watch], None]
    fault: Callable[[str, BaseException], None]
    bring: Callable[[Predictor], bool]
    _seen: dict[str, _Evidence] = field(default_factory=dict)

    def look(self, table: dict[str, LoadedRelease], rules: dict[str, Equivalence], touched: Iterable[str]) -> None:
        """Compare what is new, and do what it allows or demands.

        Args:
            table: the loaded releases by task, one on probation before the active one.
            rules: by which rule each release's answers count as the teacher's.
            touched: tasks that had calls since the last time.
        """
        mine = [task for task in touched if task in table and table[task].state != "active"]
        if not mine:
            return
        probations = self.store.probations()
        for task in mine:
            probation, loaded = probations.get(task), table[task]
            if probation is None or probation.release.id != loaded.release.id:
                continue
            if probation.state == "shadow":
                self._shadow(task, probation, loaded, rules[loaded.release.id])
            else:
                self._canary(task, probation)

    def _shadow(self, task: str, probation: Probation, loaded: LoadedRelease, rule: Equivalence) -> None:
        release = probation.release
        certificate, policy = release.certificate, self.policy
        monitor = Watch(certificate, rule.same, target=policy.target, audit_delta=policy.audit_delta)
        if not self.bring(loaded.student):
            return
        evidence = self._seen.setdefault(release.id, _Evidence(probation.row, monitor))
        monitor = evidence.monitor
        turn = _SLOW_TURN if getattr(loaded.student, "blocking", False) else _TURN
        for row, example in self.store.labels_since(task, evidence.row, loaded.templates, turn):
            evidence.row = row
            if not example.sampled:  # there because another release deferred: no fair sample of the calls
                continue
            try:
                answer, confidence, ood = loaded.student.predict_one(example.slots)
            except Exception as error:  # in service, the teacher would answer: nothing to compare
                self.fault("shadow", error)
                continue
            if gives(certificate, answer, confidence, ood):
                monitor.update(answer, example.answer)
            elif monitor.deferred:
                monitor.update(None, example.answer)
        if monitor.verdict == "rollback":
            self.withdraw(task, release.id, "shadow answers", monitor)
        elif monitor.audits >= self.policy.shadow_calls and self.policy.approval == "auto":
            self._advance(task, probation, f"as a shadow, {_compared(monitor)}", _figures(monitor))
        elif monitor.audits >= max(self.policy.shadow_calls, 1, 2 * probation.waits):
            self.store.note_waiting(task, release.id, f"waits for approval: {_compared(monitor)}", _figures(monitor))

    def _canary(self, task: str, probation: Probation) -> None:
        # All its answers are audited, which withdraws it where they contradict it. An audit may fail: then nothing was
        # compared.
        compared = self.store.answered_since(task, probation.release.id, probation.row, audited=True)
        if compared >= self.policy.canary_calls:
            self._advance(task, probation, f"as a canary, {compared:,} answers compared", {"compared": compared})

    def _advance(self, task: str, probation: Probation, reason: str, figures: dict[str, Any]) -> None:
        if self.store.pinned(task) is None:
            self.store.advance(task, probation.release.id, probation.state, reason, figures)


def _compared(monitor: Watch) -> str:
    return f"{monitor.errors} of {monitor.audits} answers compared differed from the teacher's"


def _figures(monitor: Watch) -> dict[str, Any]:
    return {"compared": monitor.audits, "differed": monitor.errors}
