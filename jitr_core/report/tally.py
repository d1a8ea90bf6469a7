"""Adding up a replay: from decided calls to the figures of `jitr replay --json`."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from ..equivalence import EXACT, Equivalence, equivalent
from ..types import Decision, SearchReport

__all__ = ["Tally"]


@dataclass(slots=True)
class _TaskTally:
    """Counts of one task; the same names as in the JSON."""

    calls: int = 0
    replaced: int = 0
    agreed: int = 0
    alike: int = 0
    first_replaced_at: int | None = None
    searches: list[dict[str, Any]] = field(default_factory=list)

    def add(self, other: _TaskTally) -> None:
        self.calls += other.calls
        self.replaced += other.replaced
        self.agreed += other.agreed
        self.alike += other.alike
        firsts = [f for f in (self.first_replaced_at, other.first_replaced_at) if f is not None]
        self.first_replaced_at = min(firsts, default=None)
        self.searches = sorted(self.searches + other.searches, key=lambda s: s["at_call"])


@dataclass(slots=True)
class Tally:
    """Counts calls as they are replayed.

    Attributes:
        calls: calls so far.
        audits: answered calls the teacher was asked about as well.
        tasks: what is known of each task, by its id.
        rule: another rule than equality by which agreement is counted beside it, if there is one.
    """

    calls: int = 0
    audits: int = 0
    tasks: dict[str, _TaskTally] = field(default_factory=lambda: defaultdict(_TaskTally))
    rule: Equivalence | None = None
    _merged: dict[str, str] = field(default_factory=dict)

    def survivor(self, task: str) -> str:
        """The task that this one was merged into, itself if it was not."""
        while task in self._merged:
            task = self._merged[task]
        return task

    def _of(self, task: str) -> _TaskTally:
        """The counts of a task. What comes late for a merged one is the survivor's."""
        return self.tasks[self.survivor(task)]

    def call(self, decision: Decision | None, task: str | None, answer: str, recorded: str) -> None:
        """Count a call.

        Args:
            decision: who answered; None if JITR was not asked.
            task: what was known of its task when it came.
            answer: what the app got.
            recorded: what the teacher answered.
        """
        index, self.calls = self.calls, self.calls + 1
        tally = self._of(task) if task is not None else None
        if tally is not None:
            tally.calls += 1
        if decision is None or decision.kind != "replacement" or tally is None:
            return
        self.audits += decision.audit
        tally.replaced += 1
        tally.agreed += equivalent(answer, recorded)
        if self.rule is not None:
            tally.alike += self.rule.same(answer, recorded)
        if tally.first_replaced_at is None:
            tally.first_replaced_at = index

    def placed(self, task: str, calls: int) -> None:
        """Count calls that were found to belong to a task after they were decided."""
        self._of(task).calls += calls

    def merged(self, gone: str, survivor: str) -> None:
        """Count the calls of a task as those of the one it was merged into, from now on too."""
        gone, survivor = self.survivor(gone), self.survivor(survivor)
        if gone != survivor:
            self.tasks[survivor].add(self.tasks.pop(gone, _TaskTally()))
            self._merged[gone] = survivor

    def search(self, task: str, report: SearchReport, at_call: int) -> None:
        """Note a search, at the call that was processed: its 0-based index in the whole stream."""
        self._of(task).searches.append(
            {
                "at_call": at_call,
                "candidates": [
                    {"name": c.name, "score": c.score, "seconds": round(c.seconds, 3), "note": c.note}
                    for c in report.candidates
                ],
                "chosen": report.chosen,
                "seconds": round(report.seconds, 3),
                "refusal": report.refusal,
            }
        )

    @property
    def replaced(self) -> int:
        """Calls a replacement answered."""
        return sum(t.replaced for t in self.tasks.values())

    def total(self) -> dict[str, Any]:
        """`calls`, `replaced`, `coverage`, `agreement` and `agreement_low` of the stream."""
        agreed = sum(t.agreed for t in self.tasks.values())
        alike = sum(t.alike for t in self.tasks.values())
        return {
            "calls": self.calls,
            **_shares(self.calls, self.replaced, agreed),
            **self._by_rule(self.replaced, alike),
        }

    def task(self, task: str) -> dict[str, Any]:
        """The same for one task, with `first_replaced_at` and `searches`."""
        tally = self._of(task)
        return {
            "calls": tally.calls,
            **_shares(tally.calls, tally.replaced, tally.agreed),
            **self._by_rule(tally.replaced, tally.alike),
            "first_replaced_at": tally.first_replaced_at,
            "searches": tally.searches,
        }

    def _by_rule(self, replaced: int, alike: int) -> dict[str, Any]:
        """Agreement by the other rule, under a key of its own: `agreement` always means equality."""
        if self.rule is None or self.rule.rule == EXACT:
            return {}
        shares = _shares(replaced, replaced, alike)
        return {"equivalence": {"rule": self.rule.rule, **{k: shares[k] for k in ("agreement", "agreement_low")}}}


def _shares(calls: int, replaced: int, agreed: int) -> dict[str, Any]:
    """Coverage, agreement and its exact one-sided 95% lower bound (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    low = float(betaincinv(agreed, replaced - agreed + 1, 0.05)) if agreed else 0.0
    return {
        "replaced": replaced,
        "coverage": replaced / calls if calls else 0.0,
        "agreement": agreed / replaced if replaced else None,
        "agreement_low": low if replaced else None,
    }
