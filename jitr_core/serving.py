"""Which releases serve in this process, and what their audits, their probation and drift say of them."""

from __future__ import annotations

import functools
import logging
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from .audit import Watch
from .drift import Drift
from .equivalence import Equivalence
from .forms import get_ready
from .holds import Holds
from .memory import Memory
from .probation import Probations
from .promises import ANSWERED, promised
from .route import LoadedRelease, Router
from .terms import answerable, rule_at_work
from .types import Certificate, Decision, Release, Task, Template

if TYPE_CHECKING:
    from .config import Policy
    from .pipeline import Pipeline
    from .store import Store

__all__ = ["Serving"]

_log = logging.getLogger("jitr")


@dataclass(slots=True)
class Serving:
    """The releases of one process: loaded into its router, watched, withdrawn.

    Attributes:
        store: the state.
        policy: what is promised, and how much is audited.
        router: serves the releases, shared with the hot path.
        pipeline: says what a release must have promised, and has the base models.
        emit: told of every rollback and warning, and of every new state of a task.
        fault: told of faults that leave the rest of the work standing.
        seed: seeds the audit coins; None draws them from the system's entropy.
    """

    store: Store
    policy: Policy
    router: Router
    pipeline: Pipeline
    emit: Callable[[dict[str, Any]], None]
    fault: Callable[[str, BaseException], None]
    seed: int | None = None
    _rules: dict[str, Equivalence] = field(default_factory=dict)
    _certificates: dict[str, Certificate] = field(default_factory=dict)
    _states: dict[str, str] = field(default_factory=dict)
    _drift: Drift = field(init=False)
    _holds: Holds = field(init=False)
    _memory: Memory = field(init=False)
    _probations: Probations = field(init=False)

    def __post_init__(self) -> None:
        bound = self.policy.serving_memory_mb
        self._memory = Memory(math.inf if bound is None else bound * 1e6, self.fault)
        self._probations = Probations(self.store, self.policy, self._withdraw, self.fault, self._memory.bring)
        self._holds = Holds(self.store, self.emit)
        self._drift = Drift(self.store, self.policy, self.emit, self._holds)

    def tend(self) -> None:
        """Load what was asked for since it had to leave memory."""
        self._memory.tend()

    def watch(self, touched: Mapping[str, int]) -> None:
        """Look at what is new of releases on probation, and for drift.

        Args:
            touched: number of calls of each task since the last time.
        """
        self._probations.look(dict(self.router.loaded()), self._rules, touched)
        self._drift.look(self.router.loaded(), self._rules, touched)

    def audit(self, decided: Iterable[tuple[Decision, bool | None]]) -> None:
        """Roll back what audited answers contradict, and hold what audits tell nothing of any more.

        Args:
            decided: decisions that are stored by now, each with whether the teacher was asked; None where it was to be
                asked about an answer, and that came to nothing.
        """
        compared: set[tuple[str, str]] = set()
        missed: set[tuple[str, str]] = set()
        for decision, asked in decided:
            if not decision.task or not decision.release:
                continue
            if asked is None:
                missed.add((decision.task, decision.release))
            elif asked and (decision.kind == "replacement" or decision.reason == "audit_hold"):
                compared.add((decision.task, decision.release))
        for task, release in sorted(compared):
            if self._contradicted(task, release) or self.store.release_state(release) == "withdrawn":
                continue
            if (row := self.store.held_since(task, release)) is not None:
                watch = self._watch(release)
                audits = self.store.audited(task, release, deferred=watch.deferred, held=True, after=row)
                costs = [watch.cost(each.replacement, each.teacher) for each in audits]
                number = max(self.store.compared_since(task, release, row), len(costs))  # texts may have expired
                self._holds.compared(task, release, number, costs, 1 - self.policy.target)
        for task, release in sorted(missed):
            self._holds.missed(task, release)

    def _contradicted(self, task: str, release: str) -> bool:
        """Withdraw a release whose audits contradict its certificate, unless the user has pinned it all the same."""
        watch = self._watch(release)
        for audit in self.store.audited(task, release, deferred=watch.deferred, held=True):
            watch.update(audit.replacement, audit.teacher)
        if watch.verdict == "keep":
            return False
        pin = self.store.pinned(task)
        if pin is not None and pin.release == release and pin.despite_audits:
            return False
        self._withdraw(task, release, "calls of the sample" if watch.deferred else "audited answers", watch)
        return True

    def _watch(self, release: str) -> Watch:
        """A fresh look at what the audits of a release say."""
        policy, same = self.policy, self._rules[release].same
        return Watch(self._certificates[release], same, target=policy.target, audit_delta=policy.audit_delta)

    def _withdraw(self, task: str, release: str, compared: str, watch: Watch) -> None:
        """Take a release out of use whose answers differ too often from the teacher's."""
        reason = f"rolled back: {watch.errors} of {watch.audits} {compared} differed from the teacher's"
        promise = self._certificates[release].promise
        if promise != ANSWERED:
            reason += f"; promised was {promised(promise, self.policy.target)}"
        self.router.drop(task)
        _log.warning("task %s: release %s is %s; the teacher serves", task, release, reason)
        if self.store.withdraw(task, release, reason, {"compared": watch.audits, "differed": watch.errors}):
            self.emit({"kind": "rollback", "task": task, "release": release, "reason": reason})

    def refresh(self, tasks: list[Task], templates: list[Template], joined: frozenset[str]) -> None:
        """Serve the active releases and those on probation.

        Args:
            tasks: all tasks, as the store has them now.
            templates: all templates.
            joined: ids of templates that came to their task by a merge.
        """
        table: dict[str, LoadedRelease] = {}
        probations = self.store.probations()
        found: list[tuple[Release, Literal["shadow", "canary", "active"]]] = []
        for task in tasks:
            active = self.store.active_release(task.id) if task.state == "active" else None
            if active is not None:
                found.append((active, "active"))
            if task.id in probations and task.state in ("active", "shadow", "canary"):
                found.append((probations[task.id].release, probations[task.id].state))
        found = [each for each in found if self._may_serve(*each)]
        before = {each.release.id: each for loaded in self.router.loaded().values() for each in loaded.chain()}
        # A generator takes seconds to load: its task comes last, and the others do not wait for it.
        slow = {release.task for release, _ in found if release.family == "generator"}
        for release, state in sorted(found, key=lambda pair: pair[0].task in slow):
            loaded = before.get(release.id)
            if loaded is None:
                if release.family == "generator":
                    self.router.load(table)
                loaded = self._load(release, state)
                if any(t.contract for t in templates if t.task == release.task):
                    get_ready()
            if loaded is not None:
                self._drift.refresh(release.task, release.id)
                if state == "active":
                    self._holds.inherit(release.task, release.id)
                instead = table.get(release.task)
                held = self._holds.on(release.task, release.id)
                held |= state == "canary" and instead is not None and instead.held
                share = functools.partial(self._drift.share, release.id)
                table[release.task] = replace(
                    loaded,
                    templates=answerable(release, templates, joined),
                    audit_share=_always if state == "canary" or held else share,
                    state=state,
                    share={"shadow": 0.0, "canary": self.policy.canary_share, "active": 1.0}[state],
                    instead=instead,
                    held=held,
                    lasting=self._holds.lasting(release.task, release.id),
                )
        self.router.load(table)
        for task in tasks:
            if self._states.get(task.id) != task.state:
                self._states[task.id] = task.state
                self.emit({"kind": "state", "task": task.id, "state": task.state})

    def _may_serve(self, release: Release, state: str) -> bool:
        """Whether a release was certified for what counts now; a probation ends if not, or it would never end."""
        met = self.pipeline.terms.are_met(release.task, release)
        if not met and state != "active":
            self._refuse(release, "what is promised or counts as the same has changed: to be certified anew")
        return met

    def _refuse(self, release: Release, reason: str) -> None:
        """Take a release off its probation that cannot be compared; what the task has seen stays as good as it was."""
        self.store.withdraw(release.task, release.id, reason, restart=False)

    def _load(self, release: Release, state: str) -> LoadedRelease | None:
        from .students import load_student, own_bytes

        load = functools.partial(load_student, release.path, self.pipeline.base_models)
        try:
            # What a generator takes is another process's, which has bounds of its own.
            student = load() if release.family == "generator" else self._memory.keep(load, own_bytes(release.path))
            self._certificates[release.id] = release.certificate
            self._rules[release.id] = rule_at_work(release.certificate.equivalence, self.pipeline.base_models)
        except Exception as error:
            # Logged once: refresh looks again only when something changes. The other tasks are served.
            _log.error("release %s of task %s cannot be served: %s", release.id, release.task, error)
            self.emit({"kind": "fault", "task": release.task, "where": "load", "error": str(error)})
            if state != "active":
                self._refuse(release, f"it cannot be loaded: {error}")
            return None
        if self._contradicted(release.task, release.id):  # a process was killed before it could
            return None
        self._holds.missed(release.task, release.id)  # by processes that did not live to see it
        nth = 1 + [each.id for each in self.store.releases(release.task)].index(release.id)
        coin = random.Random(None if self.seed is None else f"{self.seed}:{release.task}:{nth}")
        return LoadedRelease(release, student, _always, frozenset(), coin)


def _always() -> float:
    return 1.0
