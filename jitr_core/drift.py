"""Drift: changes of the calls or of the teacher that show before audits do.

What a release does with its calls is known for every one of them, at no cost: whether it answers, what, and, of
those it defers, whether the teacher says what it would have said. A change in any of it proves nothing about the
answers given, but the certificate speaks of other calls. It is a **warning**: the release is held until enough of its
answers were compared (`jitr_core.holds`), then many more of them are audited, and the audits decide.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .audit import audit_share

if TYPE_CHECKING:
    from .config import Policy
    from .equivalence import Equivalence
    from .holds import Holds
    from .route import LoadedRelease
    from .store import Handled, Store

__all__ = ["BLOCK", "ChangeDetector", "Drift", "Signals", "signals"]

_log = logging.getLogger("jitr")

BLOCK = 50
"""Calls after which is looked for a change."""

HORIZON = 20_000
"""Blocks over which a detector's `alarm` is counted: a million calls."""

ALARM = 0.05
"""Probability of a warning within HORIZON blocks while nothing changes, per signal."""

_LEVELS = 4  # blocks of one size that are kept apart; the oldest two of more become one of twice the size
_SYMBOLS = 12  # answers told apart, the most frequent ones; the others count as one
_WHO, _MIX = "who answers", "the mix of its answers"
_SETTLE = 4  # blocks from which the answers told apart are chosen
_PAGE = 5_000  # calls read at a time
_REMEMBERED = 5_000  # calls of a release that a new process looks back on


class ChangeDetector:
    """Says when the distribution of symbols changed, whatever it was before.

    For each time t in the past, the calls since t are either drawn from the distribution of those before it, or from
    another one. The ratio of the two marginal likelihoods, each under Jeffreys' prior, is a Bayes factor: against a
    known distribution it exceeds A with probability at most 1 / A (Ville); here that distribution is estimated, which
    is validated by simulation. A union over all times at which a change may have begun sets the limit: HORIZON / alarm.
    Blocks are merged as they age, as in ADWIN (Bifet and Gavaldà 2007): memory and time grow with the logarithm of the
    calls.

    Args:
        alarm: probability of an alarm within HORIZON blocks while nothing changes, in (0, 1).

    Example:
        >>> detector = ChangeDetector()
        >>> any(detector.add({"a": 30, "b": 20}) for _ in range(40))
        False
        >>> [detector.add(block) for block in ({"a": 25, "b": 25}, {"a": 5, "b": 45})]
        [False, True]
    """

    def __init__(self, alarm: float = ALARM) -> None:
        if not 0 < alarm < 1:
            raise ValueError(f"alarm must be in (0, 1), got {alarm}")
        self._limit = math.log(HORIZON / alarm)
        self._blocks: list[tuple[int, Counter[str]]] = []  # (how many blocks, counts), oldest first
        self._total: Counter[str] = Counter()
        self.before: Counter[str] = Counter()
        self.since: Counter[str] = Counter()

    def add(self, counts: Mapping[str, int]) -> bool:
        """Takes in a block of calls.

        Args:
            counts: how often each symbol came.

        Returns:
            Whether a change has become evident; then `before` and `since` are the counts on both sides of it.
        """
        if not any(counts.values()):
            return False
        self._blocks.append((1, Counter(counts)))
        self._total.update(counts)
        self._merge()
        whole, since = _evidence(self._total, len(self._total)), Counter[str]()
        for _, block in reversed(self._blocks[1:]):
            since.update(block)
            before = self._total - since
            ratio = _evidence(since, len(self._total)) + _evidence(before, len(self._total)) - whole
            if ratio >= self._limit:
                self.before, self.since = before, since
                return True
        return False

    def _merge(self) -> None:
        place = len(self._blocks) - 1
        while place >= _LEVELS and self._blocks[place - _LEVELS][0] == self._blocks[place][0]:
            (size, older), (_, newer) = self._blocks[place - _LEVELS : place - _LEVELS + 2]
            self._blocks[place - _LEVELS : place - _LEVELS + 2] = [(2 * size, older + newer)]
            place -= _LEVELS


def _evidence(counts: Mapping[str, int], symbols: int) -> float:
    """Logarithm of the probability of a sequence with these counts under Jeffreys' prior (Dirichlet, 1/2 each)."""
    total = sum(counts.values())
    each = sum(math.lgamma(n + 0.5) for n in counts.values()) - len(counts) * math.lgamma(0.5)
    return each + math.lgamma(symbols / 2) - math.lgamma(symbols / 2 + total)


def signals(call: Handled, same: Callable[[str, str], bool]) -> Iterator[tuple[str, str]]:
    """What a call tells without an audit, as (signal, symbol).

    Args:
        call: a call that a release was asked about.
        same: whether two answers count as the same.
    """
    yield _WHO, call.reason
    if call.teacher is not None:  # who is not asked does not say under which name it would have answered
        yield "model", call.model
    if call.reason == "answered" and call.replacement is not None:
        yield _MIX, call.replacement
    elif call.reason == "deferral" and call.replacement is not None and call.teacher is not None:
        yield "agreement where it defers", "same" if same(call.replacement, call.teacher) else "differs"


@dataclass(slots=True)
class Signals:
    """The detectors of one release.

    Attributes:
        row: of the last call that was taken in.
        detectors: by signal.
        block: counts since the last look, by signal.
        calls: how many were taken in.
        who: of each call since the last look, whether the teacher was heard, and who answers.
        early: answers of the first calls, until it is chosen which ones are told apart.
        frequent: those; None until then.
    """

    row: int
    detectors: dict[str, ChangeDetector] = field(default_factory=dict)
    block: dict[str, Counter[str]] = field(default_factory=dict)
    calls: int = 0
    who: list[tuple[bool, str]] = field(default_factory=list)
    early: Counter[str] = field(default_factory=Counter)
    frequent: frozenset[str] | None = None

    def update(self, call: Handled, same: Callable[[str, str], bool]) -> tuple[str, ChangeDetector] | None:
        """Takes in a call; the signal that changed, if one did."""
        self.row, self.calls = call.row, self.calls + 1
        for signal, symbol in signals(call, same):
            if signal == _WHO:
                self.who.append((call.teacher is not None, symbol))
            else:
                self.block.setdefault(signal, Counter())[symbol] += 1
        if self.calls % BLOCK:
            return None
        changed = None
        # While the teacher is down, calls left to him fail and are not stored: no change. So only what came between
        # two calls in which he was heard counts; that is as random a sample as all calls are.
        heard = [i for i, (said, _) in enumerate(self.who) if said] or [0]
        self.block[_WHO] = Counter(symbol for _, symbol in self.who[heard[0] + 1 : heard[-1]])
        for signal, counts in self.block.items():
            detector = self.detectors.setdefault(signal, ChangeDetector())
            if signal == _MIX:
                counts = self._told_apart(counts)
            if detector.add(counts) and changed is None:
                changed = signal, detector
        self.block, self.who = {}, []
        return changed

    def _told_apart(self, counts: Counter[str]) -> Counter[str]:
        if self.frequent is None:
            self.early.update(counts)
            if self.calls < _SETTLE * BLOCK:
                return Counter()
            self.frequent = frozenset(answer for answer, _ in self.early.most_common(_SYMBOLS))
            counts = self.early
        told: Counter[str] = Counter()
        for answer, count in counts.items():
            told[answer if answer in self.frequent else "any other"] += count
        return told


@dataclass(slots=True)
class Drift:
    """Watches releases in service; one process's view of what all processes stored.

    Attributes:
        store: the state.
        policy: gives the audit shares.
        emit: told of every warning.
        holds: has the teacher answer after a warning.
    """

    store: Store
    policy: Policy
    emit: Callable[[dict[str, Any]], None]
    holds: Holds
    _seen: dict[str, Signals] = field(default_factory=dict)
    _warned: dict[str, int] = field(default_factory=dict)
    _before: dict[str, int] = field(default_factory=dict)  # what a release had answered when it was warned of
    _shares: dict[str, float] = field(default_factory=dict)
    _new: Counter[str] = field(default_factory=Counter)

    def share(self, release: str) -> float:
        """Probability with which the next call's coin asks for an audit."""
        return self._shares[release]

    def refresh(self, task: str, release: str) -> None:
        """Takes over what the store says of a release in service: what was answered, and since when it is warned of."""
        last = self.store.last_entry("warning", task)
        row = last.details["row"] if last is not None and last.details["release"] == release else 0
        if row != self._warned.get(release, 0):
            since = self.store.answered_since(task, release, row)
            self._before[release] = self.store.answers(task).releases.get(release, 0) - since
            self._warned[release] = row
            self._seen.pop(release, None)
        self._count(task, release)

    def _count(self, task: str, release: str) -> None:
        """Sets the share by what all processes have answered and audited."""
        told = self.store.answers(task)
        since = told.releases.get(release, 0) - self._before.get(release, 0)
        self._shares[release] = audit_share(
            since, self.policy, answered=told.answered, spent=told.spent, warned=release in self._warned
        )

    def look(
        self, table: Mapping[str, LoadedRelease], rules: Mapping[str, Equivalence], touched: Mapping[str, int]
    ) -> None:
        """Looks at what is new of some tasks: sets the share of audits, and warns where something changed.

        Args:
            table: the loaded releases by task.
            rules: by which rule each release's answers count as the teacher's.
            touched: number of calls of each task since the last time.
        """
        for task, calls in touched.items():
            self._new[task] += calls
            if self._new[task] < BLOCK or task not in table:
                continue
            self._new[task] = 0
            for loaded in table[task].chain():
                self._count(task, loaded.release.id)
                if loaded.state == "active":
                    self._follow(task, loaded.release.id, rules[loaded.release.id].same)

    def _follow(self, task: str, release: str, same: Callable[[str, str], bool]) -> None:
        seen = self._seen.get(release)
        if seen is None:
            start = self.store.handled_from(task, release, _REMEMBERED)
            seen = self._seen[release] = Signals(max(start, self._warned.get(release, 0)))
        while page := self.store.handled(task, release, seen.row, _PAGE):
            for call in page:
                changed = seen.update(call, same)
                if changed is not None:
                    self._warn(task, release, call.row, *changed)
                    return

    def _warn(self, task: str, release: str, row: int, signal: str, detector: ChangeDetector) -> None:
        # Answers are texts that may have to be forgotten: the ledger never does.
        told = {"before": _shares(detector.before), "since": _shares(detector.since)} if signal != _MIX else {}
        details = {"release": release, "row": row, "signal": signal, "calls": detector.since.total(), **told}
        self._seen.pop(release, None)
        hold = self.holds.change(task, release, signal)
        if self.store.warn(task, details, since=self._warned.get(release, 0), hold=hold):
            _log.warning("task %s: %s changed; answers of release %s are compared", task, signal, release)
            self.emit({"kind": "warning", "task": task, **details})
            if hold is not None:
                self.holds.told(task, release, True, hold["reason"])
        self.refresh(task, release)


def _shares(counts: Counter[str]) -> dict[str, float]:
    """The largest shares, by symbol."""
    total = sum(counts.values())
    return {symbol: round(count / total, 3) for symbol, count in counts.most_common(5)}
