"""The background half of one process: stores, learns, watches audits, starts searches, loads releases."""

from __future__ import annotations

import functools
import logging
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .audit import AuditMonitor, audit_share
from .equivalence import equivalent
from .errors import JITRError
from .route import LoadedRelease, Router
from .types import Answer, Call, Decision, Match, Observation, Release, Task, Template

if TYPE_CHECKING:
    from .config import Policy
    from .identify import Identifier, Learned
    from .pipeline import Pipeline
    from .store import Store

__all__ = ["Background", "Event", "Observed"]

_log = logging.getLogger("jitr")
_EXPIRE_S = 3600.0  # how often texts are looked for that are older than the policy keeps them

Event = dict[str, Any]
"""What happened, for reports: `kind` (task, search, released, kept, refused, rollback) and its figures."""


@dataclass(slots=True)
class Observed:
    """One decided call on its way from the hot path into the store."""

    call: Call
    decision: Decision
    answer: Answer | None


@dataclass(slots=True)
class _Watched:
    """What is known of a release while it serves."""

    monitor: AuditMonitor
    answered: int = 0
    changed: bool = False


@dataclass(slots=True)
class Background:
    """Everything slow that one process does; called by one thread at a time.

    Attributes:
        store: the state.
        policy: what is promised.
        identifier: recognises calls, shared with the hot path.
        router: serves the releases, shared with the hot path.
        pipeline: tells which tasks are due.
        attempt: starts the next attempt of a task, here or in a process of its own.
        emit: told of every event.
        seed: seeds the audit coins; None draws them from the system's entropy.
    """

    store: Store
    policy: Policy
    identifier: Identifier
    router: Router
    pipeline: Pipeline
    attempt: Callable[[str], None]
    emit: Callable[[Event], None]
    seed: int | None = None
    _version: int = -1
    _watched: dict[str, _Watched] = field(default_factory=dict)
    _missing: dict[str, int] = field(default_factory=dict)
    _expire_at: float = 0.0

    def process(self, batch: list[Observed]) -> None:
        """Take in a batch of decided calls, possibly empty, and do what is due."""
        touched, placed = self._learn(batch)
        if batch:
            self.store.add_observations([Observation(o.call, o.decision, o.answer) for o in batch])
        if placed:
            self.store.assign(placed)
        self._audit(batch)
        for task, calls in sorted(touched.items()):
            self._attempt_if_due(task, calls)
        self._expire()
        self.refresh()

    def _expire(self) -> None:
        now = time.monotonic()
        if self.policy.retention_days is not None and now >= self._expire_at:
            self._expire_at = now + _EXPIRE_S
            self.store.expire(self.policy.retention_days)

    def _attempt_if_due(self, task_id: str, calls: int) -> None:
        # The store is asked only when this process alone has seen enough calls, not after every batch.
        self._missing[task_id] = self._missing.get(task_id, 0) - calls
        task = self.store.task(task_id) if self._missing[task_id] <= 0 else None
        if task is None or task.state == "paused":
            return
        self._missing[task_id] = self.pipeline.missing(task)
        if not self._missing[task_id]:
            self.attempt(task_id)

    def _learn(self, batch: list[Observed]) -> tuple[Counter[str], list[tuple[str, Match]]]:
        """Identify what the hot path could not: calls by task, and earlier calls that are placed now."""
        touched: Counter[str] = Counter()
        placed: list[tuple[str, Match]] = []
        late: list[str] = []
        for observed in batch:
            decision = observed.decision
            if decision.match is None:
                # The template may have been found since the call was decided.
                decision.match = self.identifier.match(observed.call)
                if decision.match is not None:
                    late.append(decision.match.task)
            if decision.match is None:
                learned = self.identifier.learn(observed.call)
                decision.match = learned.match
                placed += learned.placed
                self._adopt(learned)
                late += [match.task for _, match in learned.placed]
                if decision.match is not None:
                    late.append(decision.match.task)
            if decision.match is not None:
                touched[decision.match.task] += 1
                if observed.answer is not None:
                    match = decision.match
                    self._adopt(self.identifier.note_answer(match.task, observed.answer.text, match.slots))
        for task, calls in Counter(late).items():
            self.emit({"kind": "placed", "task": task, "calls": calls})
        return touched + Counter(match.task for _, match in placed), placed

    def _adopt(self, learned: Learned) -> None:
        """Store new templates, the task of each if it is new, and which tasks turned out to be one."""
        for template in learned.created:
            if self.store.task(template.task) is None:
                task = Task(template.task, template.app, template.tenant, _name(template))
                self.store.save_task(task)
                self.emit({"kind": "task", "task": task.id, "name": task.name, "template": template})
        for gone, survivor in learned.merged:
            self.store.merge_tasks(gone, survivor)
            self.emit({"kind": "merged", "task": survivor, "gone": gone})
        if learned.created:
            self.store.save_templates(learned.created)

    def _audit(self, batch: list[Observed]) -> None:
        """Count answered calls, compare audited answers, and roll back what they contradict."""
        for observed in batch:
            decision, answer = observed.decision, observed.answer
            watched = self._watched.get(decision.release or "")
            if watched is None or decision.kind != "replacement":
                continue
            watched.answered += 1
            if answer is None or decision.answer is None:
                continue
            watched.changed = True
            if watched.monitor.update(equivalent(decision.answer, answer.text)) == "rollback":
                self._rollback(decision, watched.monitor)
        for release, watched in self._watched.items():
            if watched.changed:
                self.store.save_monitor(release, watched.monitor.state())
                watched.changed = False

    def _rollback(self, decision: Decision, monitor: AuditMonitor) -> None:
        task, release = decision.task, decision.release
        active = self.store.active_release(task) if task else None
        if task is None or active is None or active.id != release:
            return
        reason = f"rolled back: {monitor.errors} of {monitor.audits} audited answers differed from the teacher's"
        self.router.drop(task)
        self.store.activate(task, None, reason)
        seen = self.store.counts(task)
        start = {"calls": seen.calls, "attempts": self.store.attempts(task)}
        self.store.record("rollback", task, {"release": release, "reason": reason, "start": start})
        self.emit({"kind": "rollback", "task": task, "release": release, "reason": reason})

    def refresh(self) -> None:
        """Take over what changed in the store: templates, releases, pauses; a no-op if nothing did."""
        version = self.store.version()
        if version == self._version:
            return
        self.identifier.adopt(self.store.templates())
        table: dict[str, LoadedRelease] = {}
        for task in self.store.tasks():
            release = self.store.active_release(task.id) if task.state == "active" else None
            if release is not None:
                loaded = self.router.loaded().get(task.id)
                if loaded is None or loaded.release.id != release.id:
                    loaded = self._load(release)
                if loaded is not None:
                    table[task.id] = loaded
        self.router.load(table)
        self._version = version

    def _load(self, release: Release) -> LoadedRelease | None:
        from .students import load_student

        try:
            student = load_student(release.path, self.pipeline.base_models)
        except JITRError as error:
            # Logged once: refresh looks again only when something changes.
            _log.error("release %s of task %s cannot be served: %s", release.id, release.task, error)
            self.emit({"kind": "fault", "task": release.task, "where": "load", "error": str(error)})
            return None
        watched = self._watched.setdefault(release.id, self._watch(release))
        share = functools.partial(_share, watched, self.policy)
        nth = len(self.store.releases(release.task))
        coin = random.Random(None if self.seed is None else f"{self.seed}:{release.task}:{nth}")
        return LoadedRelease(release, student, share, coin)

    def _watch(self, release: Release) -> _Watched:
        state = self.store.monitor(release.id)
        if state is None:
            return _Watched(AuditMonitor(target=release.certificate.target, audit_delta=self.policy.audit_delta))
        return _Watched(AuditMonitor.from_state(state), self.store.counts(release.task).answered)


def _name(template: Template) -> str:
    """What to call a task: its step, or the first words of its template."""
    words = re.findall(r"\w[\w'-]*", re.sub("\x1e[^\x1f]*\x1f", " ", " … ".join(template.literals)))
    return template.step or " ".join(words[:8]) or template.task


def _share(watched: _Watched, policy: Policy) -> float:
    return audit_share(watched.answered, policy)
