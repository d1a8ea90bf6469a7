"""What the store tells that is not a record of the loop itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..types import Reason, Release, Slots

__all__ = [
    "Answers",
    "Asked",
    "Audited",
    "Drawn",
    "Given",
    "Handled",
    "LedgerEntry",
    "Pin",
    "Probation",
    "Purged",
    "ReleaseState",
    "TaskCounts",
    "TemplateUse",
    "Usage",
]

ReleaseState = Literal["new", "shadow", "canary", "active", "retired", "withdrawn"]
"""`new`: packaged and certified, not yet put to any use. `shadow` and `canary`: on probation, see `Probation`.
`withdrawn`: contradicted by what it was compared with, or vetoed; never to serve again."""


@dataclass(frozen=True, slots=True)
class Probation:
    """A certified release that does not serve all of its task's calls yet.

    Attributes:
        release: the release; a task has at most one on probation, beside the active one or none.
        state: "shadow": it answers no call, what it would have answered is compared; "canary": it is asked about a
            share of the calls.
        row: last row of the store when this state began.
        path: the states it still has before it, the last being "active".
        waits: answers that were compared when it was last said that it waits for approval, ≥ 0.
    """

    release: Release
    state: Literal["shadow", "canary"]
    row: int
    path: tuple[ReleaseState, ...]
    waits: int = 0


@dataclass(frozen=True, slots=True)
class Pin:
    """The user's word that a release stays.

    Attributes:
        release: id of the active release; no other one replaces it.
        despite_audits: audits that contradict it are told of, and do not withdraw it.
    """

    release: str
    despite_audits: bool = False


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """How many calls of a task were seen, and what became of them.

    Attributes:
        calls: all calls.
        labels: calls with a teacher's answer that has not expired.
        answered: calls the replacement answered.
        audits: answered calls the teacher was asked about as well.
        deferred: calls a release handed over on purpose (deferral or out of distribution).
        last_time: when the latest call was made, seconds since the epoch; None without calls.
    """

    calls: int = 0
    labels: int = 0
    answered: int = 0
    audits: int = 0
    deferred: int = 0
    last_time: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Traffic of one task with one model, summed over calls that the teacher was asked, or was not.

    Attributes:
        task: id of the task, None for calls that belong to none.
        model: name of the teacher; "" if unknown.
        asked: whether the teacher answered these calls, audits included.
        calls: number of calls.
        answered: how many of them the replacement answered.
        input_tokens, output_tokens: billed tokens of the calls whose provider told.
        input_chars, output_chars: characters of the calls whose provider did not, to estimate from.
        latency_s: summed wall time of the teacher in seconds, as far as known.
    """

    task: str | None
    model: str
    asked: bool
    calls: int
    answered: int
    input_tokens: int
    output_tokens: int
    input_chars: int
    output_chars: int
    latency_s: float


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers that the releases of a task have given; those whose audit is still to come are not among them.

    Attributes:
        releases: their number by the id of the release.
        spent: the sum of the probabilities with which each was to be audited, ≥ 0.
        last: last row that was looked at.
        regroupings: as of which regrouping of stored calls; None before the first look.
    """

    releases: Mapping[str, int] = field(default_factory=dict)
    spent: float = 0.0
    last: int = -1
    regroupings: int | None = None

    @property
    def answered(self) -> int:
        """How many there are in all."""
        return sum(self.releases.values())


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that a release was asked about.

    Attributes:
        slots: the input.
        group: hash of the normalised input.
        answered: whether the release answered, or would have unless it was held; False if it deferred.
        template: id of the call's template.
    """

    slots: Slots
    group: str
    answered: bool
    template: str


@dataclass(frozen=True, slots=True)
class TemplateUse:
    """Since when a template is called, and answered.

    Attributes:
        first: row of its first call in the store.
        served: id of the first release that was asked about its calls; None if none ever was.
        asked: row of the first call that it was asked about; None likewise.
    """

    first: int
    served: str | None
    asked: int | None = None


@dataclass(frozen=True, slots=True)
class Audited:
    """An answered call that the teacher was asked about afterwards, or a deferred one that the same coin chose.

    Attributes:
        call: id of the call.
        release: the release that was asked.
        replacement: its answer; None where it deferred.
        teacher: the teacher's answer.
        confidence: the student's confidence in [0, 1].
        audit_share: the probability, in (0, 1], with which the call was picked.
    """

    call: str
    release: str
    replacement: str | None
    teacher: str
    confidence: float | None
    audit_share: float


@dataclass(frozen=True, slots=True)
class Given:
    """Answers that a release has given.

    Attributes:
        answered: their number.
        least: the smallest probability, in (0, 1], with which one of them was to be audited; 1 without any.
        failed: that of each whose audit came to nothing, or has not come back yet.
    """

    answered: int
    least: float
    failed: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What came of the audits of a release's latest answers.

    Attributes:
        answered: number of these answers.
        expected: how many of them were to be audited: the sum of the probabilities with which each was, ≥ 0.
        made: audits that brought the teacher's answer.
        failed: audits that were drawn and came to nothing.
    """

    answered: int
    expected: float
    made: int
    failed: int


@dataclass(frozen=True, slots=True)
class Handled:
    """What became of a call that a release was asked about.

    Attributes:
        row: of the call in the store.
        reason: "answered", "deferral", "ood" or "fallback"; "answered" also where the answer was only compared.
        model: name of the teacher: as it gave it with its answer, else as the call asked for it.
        replacement: what the release said, or would have said; None if it said nothing, or the text expired.
        teacher: the teacher's answer, None where it was not asked, or the text expired.
    """

    row: int
    reason: Reason
    model: str
    replacement: str | None
    teacher: str | None


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One line of the append-only record of decisions and costs.

    Attributes:
        time: seconds since the epoch.
        kind: what happened, e.g. "activate".
        task: id of the task it is about, None if about none.
        details: whatever explains it; JSON values.
    """

    time: float
    kind: str
    task: str | None
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge deleted.

    Attributes:
        observations, tasks, templates, releases, searches: rows deleted.
        paths: artifact folders of the deleted releases; deleting them is up to the caller.
    """

    observations: int = 0
    tasks: int = 0
    templates: int = 0
    releases: int = 0
    searches: int = 0
    paths: tuple[str, ...] = field(default=())
