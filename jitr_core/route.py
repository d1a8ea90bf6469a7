"""Routing: does the replacement answer this call, or the teacher?"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from .promises import least_confidence
from .types import Certificate, Decision, Match, Reason, Release, Slots

__all__ = ["LoadedRelease", "NotLoaded", "Predictor", "Router", "gives"]


class NotLoaded(Exception):  # noqa: N818
    """The student is not in memory just now; the call goes on as if its task had no release."""


class Predictor(Protocol):
    """What routing needs of a student."""

    def predict_one(self, slots: Slots) -> tuple[str, float, bool]:
        """Answer, confidence in [0, 1], and whether the input is out of distribution.

        Raises:
            NotLoaded: it is not in memory just now.
        """


@dataclass(slots=True)
class LoadedRelease:
    """A release with its student in memory.

    Attributes:
        release: what was released.
        student: the loaded replacement.
        audit_share: gives the current audit share in (0, 1].
        templates: ids of the templates it may answer: those it was certified on, and wider versions of them.
        coin: source of the audit coins.
        state: a shadow is not asked while a call waits, a canary about a share of the calls.
        share: share of the task's calls it is asked about, in [0, 1].
        instead: who is asked about the others; None for the teacher.
        held: it is asked, and compared, but the teacher answers, see `jitr_core.holds`.
        lasting: also while the teacher is down.
    """

    release: Release
    student: Predictor
    audit_share: Callable[[], float]
    templates: frozenset[str]
    coin: random.Random = field(default_factory=random.Random)
    state: Literal["shadow", "canary", "active"] = "active"
    share: float = 1.0
    instead: LoadedRelease | None = None
    held: bool = False
    lasting: bool = False

    def chain(self) -> Iterator[LoadedRelease]:
        """This release, and those that are asked in its place."""
        yield self
        if self.instead is not None:
            yield from self.instead.chain()


class Router:
    """Holds the active releases and decides calls of known tasks. Safe to use from several threads.

    Attributes:
        down: whether the teacher may be down, as far as is known without asking him.
        seconds: time spent asking students so far.
        blocking: tasks whose replacement may take long enough to hold up an event loop.
    """

    def __init__(
        self, clock: Callable[[], float], fault: Callable[[str, BaseException], None] = lambda where, error: None
    ) -> None:
        """An empty router.

        Args:
            clock: gives seconds; only measures what students cost.
            fault: told of what students raise.
        """
        self._clock, self._fault = clock, fault
        self.down: Callable[[], bool] = lambda: False
        self.seconds = 0.0
        self.blocking: frozenset[str] = frozenset()
        self._table: Mapping[str, LoadedRelease] = {}
        self._lock = threading.Lock()

    def load(self, table: Mapping[str, LoadedRelease]) -> None:
        """Serve exactly these releases (task id → release) from the next call on."""
        self._table = dict(table)
        self.blocking = frozenset(task for task, each in table.items() if any(map(_blocks, each.chain())))

    def loaded(self) -> Mapping[str, LoadedRelease]:
        """The releases being served, by task id."""
        return self._table

    def after_fork(self) -> None:
        """A lock of the child's own: the parent's may have been held."""
        self._lock = threading.Lock()

    def drop(self, task: str) -> None:
        """Stop serving a task at once."""
        self._table = {k: v for k, v in self._table.items() if k != task}

    def decide(self, match: Match) -> Decision:
        """Decide a call of a known task; where the student fails, the teacher answers."""
        loaded = self._table.get(match.task)
        reason: Reason = "no_release"
        # Drawn whatever the input, like the audits below.
        while loaded is not None and loaded.state != "active" and loaded.coin.random() >= loaded.share:
            reason, loaded = loaded.state, loaded.instead
        if loaded is None:
            return Decision("teacher", reason, match)
        share = loaded.audit_share()
        # Drawn whatever the input, so that the labels it brings are a random sample of all calls.
        audit = loaded.coin.random() < share
        if match.template not in loaded.templates:
            # A changed prompt is another question, also under the same step.
            return Decision("teacher", "deferral", match, loaded.release.id, None, None, audit, share)
        start = self._clock()
        release = loaded.release
        try:
            answer, confidence, ood = loaded.student.predict_one(match.slots)
        except NotLoaded:
            return Decision("teacher", "no_release", match)
        except Exception as error:
            self._fault("decide", error)
            return Decision("teacher", "fallback", match, release.id, None, None, audit, share)
        finally:
            spent = self._clock() - start
            with self._lock:
                self.seconds += spent
        if not gives(release.certificate, answer, confidence, ood):
            # What it would have said shows, beside the teacher's answer, whether the teacher changes.
            reason = "ood" if ood else "deferral"
            said = answer if not ood and confidence > 0 else None
            return Decision("teacher", reason, match, release.id, said, confidence, audit, share)
        if loaded.held and (loaded.lasting or not self.down()):
            return Decision("teacher", "audit_hold", match, release.id, answer, confidence, audit, share)
        return Decision("replacement", "answered", match, release.id, answer, confidence, audit, share)


def gives(certificate: Certificate, answer: str, confidence: float, ood: bool = False) -> bool:
    """Whether a release with this certificate gives what its student says, or defers."""
    # What is no number is no confidence, and a confidence of 0 is no answer.
    return not ood and confidence >= least_confidence(certificate, answer) and confidence > 0


def _blocks(loaded: LoadedRelease) -> bool:
    """Whether asking it may take long; a shadow is never asked while a call waits."""
    return loaded.share > 0 and getattr(loaded.student, "blocking", False)
