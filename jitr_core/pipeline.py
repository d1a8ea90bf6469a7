"""The cold path of one task: collect → search → certify → promote. Restartable at every step."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .certify import Refusal, better, certify, next_attempt
from .collect import build_dataset
from .errors import JITRError
from .identify import answer_space
from .promote import package
from .types import Certificate, Example, Release, SearchReport, Task

if TYPE_CHECKING:
    import numpy as np

    from .collect import Dataset
    from .config import Policy
    from .search import SearchResult
    from .store import Store
    from .students import BaseModels, Student

__all__ = ["Pipeline"]

Progress = Callable[[str, float], None]
_LEASE_S = 180.0
_NEW_LABELS = 0.25  # growth of the labels below which a task that is served is not searched again
_COMPARED = 2_000  # latest calls on which a new student is compared with the active release


@dataclass(frozen=True, slots=True)
class _Start:
    """What a task had seen when its present began."""

    calls: int = 0
    attempts: int = 0


@dataclass(slots=True)
class Pipeline:
    """Searches a replacement for a task when it is due, and promotes it if it is certified.

    Attributes:
        store: the state.
        policy: what is promised.
        folder: where artifacts live.
        base_models: pretrained models at hand.
        seed: drives splits and training.
        owner: who holds the lease on a task while it is searched.
        progress: told what is going on and how far it is, in [0, 1].
    """

    store: Store
    policy: Policy
    folder: Path
    base_models: BaseModels
    seed: int = 0
    owner: str = "jitr"
    progress: Progress | None = None

    def missing(self, task: Task) -> int:
        """Calls the task still has to see before its next attempt; 0 if it is due."""
        start = self._start(task.id)
        needed = next_attempt(self.store.attempts(task.id) - start.attempts, self.policy).calls
        return max(needed - (self.store.call_count(task.id) - start.calls), 0)

    def due(self, task: Task) -> bool:
        """True if an attempt should be made now."""
        return task.state != "paused" and not self.missing(task)

    def _start(self, task_id: str) -> _Start:
        """Where the task's present begins: after its last rollback by audits, whose labels no longer count.

        Calls are counted from there anew; delta is not, it is spent once for the task's life.
        """
        entry = self.store.last_entry("rollback", task_id)
        return _Start(**entry.details["start"]) if entry else _Start()

    def run(self, task_id: str, *, force: bool = False) -> SearchReport | None:
        """Make the next attempt for a task, unless another process is at it or it is not due.

        Args:
            task_id: the task.
            force: attempt even if it is not due; the attempt spends its share of delta all the same.

        Returns:
            What the search found; None if there was nothing to do.
        """
        lease = f"train:{task_id}"
        if not self.store.acquire(lease, self.owner, _LEASE_S):
            return None
        try:
            task = self.store.task(task_id)
            # Looked at again under the lease: another process may just have made this attempt.
            if task is None or not (force or self.due(task)):
                return None
            return self._attempt(task, force)
        finally:
            self.store.free(lease, self.owner)

    def _attempt(self, task: Task, force: bool) -> SearchReport | None:
        began = time.perf_counter()
        delta = next_attempt(self.store.attempts(task.id), self.policy).delta
        start = self._start(task.id)
        examples = [e for e in self.store.examples(task.id) if e.seq >= start.calls]
        report = SearchReport(task.id, at_label=len(examples))
        if not force and self._too_soon(task, examples):
            report.refusal = "not searched: hardly any new labels since the last search"
            self.store.add_search(report, 0.0)
            return None
        try:
            space = answer_space(Counter(e.answer for e in examples), max_labels=self.policy.max_labels)
            if space.kind == "labels":
                dataset = build_dataset(examples, self.policy.max_examples)
                self._search(task, dataset, delta, report)
            else:
                report.refusal = space.reason
        except JITRError as error:
            report.refusal = str(error)
        report.seconds = time.perf_counter() - began
        self.store.add_search(report, delta)
        if report.refusal and self.store.active_release(task.id) is None:
            self.store.set_state(task.id, "refused", report.refusal)
        return report

    def _too_soon(self, task: Task, examples: list[Example]) -> bool:
        """Whether a task that is served has too few new labels for a search to be worth its cost.

        The attempt is forfeited, not put off: when attempts are made may not depend on what the labels say.
        """
        if self.store.active_release(task.id) is None:
            return False
        searched = [s.at_label for s in self.store.searches(task.id) if s.candidates]
        known = max((n for n in searched if n <= len(examples)), default=0)
        return len(examples) < (1 + _NEW_LABELS) * known

    def _search(self, task: Task, dataset: Dataset, delta: float, report: SearchReport) -> None:
        from .search import search

        result = search(
            dataset,
            policy=self.policy,
            base_models=self.base_models,
            seed=self.seed,
            coverage=lambda confidence, correct: self._coverage(confidence, correct, delta),
            progress=self._renewing(task.id),
        )
        report.candidates, report.chosen = result.candidates, result.chosen
        group, sampled = dataset.group, dataset.sampled
        confidence = result.confidence[group]
        correct = _agreement(result, dataset)
        certificate = certify(confidence[sampled], correct[sampled], target=self.policy.target, delta=delta)
        if isinstance(certificate, Refusal):
            report.refusal = certificate.reason
            return
        report.certificate = certificate
        self._promote(task, dataset, result, certificate, report)

    def _coverage(self, confidence: np.ndarray, correct: np.ndarray, delta: float) -> float:
        certificate = certify(confidence, correct, target=self.policy.target, delta=delta)
        return 0.0 if isinstance(certificate, Refusal) else certificate.coverage

    def _renewing(self, task_id: str) -> Progress:
        """Progress that also keeps the lease: a search takes longer than a lease lives."""

        def tell(what: str, share: float) -> None:
            self.store.renew(f"train:{task_id}", self.owner, _LEASE_S)
            if self.progress:
                self.progress(what, share)

        return tell

    def _promote(
        self, task: Task, dataset: Dataset, result: SearchResult, certificate: Certificate, report: SearchReport
    ) -> None:
        student = result.fit()
        active = self.store.active_release(task.id)
        if active is not None:
            report.refusal = self._worse(active, student, certificate, result, dataset)
            if report.refusal:
                return
        candidate = next(c for c in result.candidates if c.name == result.chosen)
        release = package(student, task=task.id, candidate=candidate, certificate=certificate, folder=self.folder)
        self.store.add_release(release)
        reason = f"certified on {certificate.calls} calls, {certificate.errors} errors"
        self.store.activate(task.id, release.id, reason)

    def _worse(
        self, active: Release, student: Student, certificate: Certificate, result: SearchResult, dataset: Dataset
    ) -> str:
        """Why the active release must stay, judged on the calls it was asked about; "" if the new student is better.

        Calls with a label were learnt from: there the cross-fitted confidence speaks. The others the student has not
        seen.
        """
        place = {group: i for i, group in enumerate(dataset.groups)}
        asked = self.store.asked(active.id, _COMPARED)
        if not asked:
            return ""
        confidence = [float(result.confidence[place[a.group]]) if a.group in place else None for a in asked]
        unseen = [a.slots for a, c in zip(asked, confidence, strict=True) if c is None]
        fresh = iter(student.predict(unseen)[1] if unseen else ())
        new = [float(next(fresh) if c is None else c) >= certificate.threshold for c in confidence]
        old = [a.answered for a in asked]
        if better(new, old):
            return ""
        share = sum(new) / len(new), sum(old) / len(old)
        return f"no better than the active release: {share[0]:.0%} against {share[1]:.0%} of the last {len(old)} calls"


def _agreement(result: SearchResult, dataset: Dataset) -> np.ndarray:
    """Whether the cross-fitted answer equals the teacher's, for each labelled call, shape (m,)."""
    import numpy as np

    predicted = [p.strip() for p in result.predicted]
    return np.array([predicted[g] == a.strip() for g, a in zip(dataset.group, dataset.answers, strict=True)])
