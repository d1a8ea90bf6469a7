"""The cold path of one task: collect → search → certify → promote. Restartable at every step."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .amounts import mostly_amounts
from .certify import Refusal, allowed_errors, better, certify, next_attempt
from .collect import build_dataset
from .crowd import apart
from .earlier import with_earlier, withdraw_orphans
from .equivalence import EXACT, Equivalence, tolerance_of
from .errors import ArtifactError, JITRError, TrainingError, in_words
from .holds import COMPARED
from .identify import AnswerSpace, answer_space
from .obstacles import obstacle
from .outlook import look_ahead
from .present import Present
from .probation import path_of
from .promises import ANSWERED
from .promote import KEPT, package, remove_leftovers
from .route import gives
from .terms import Terms, rule_at_work
from .types import Certificate, Release, SearchReport, Task
from .worth import worth

if TYPE_CHECKING:
    import numpy as np

    from .base_models import BaseModels
    from .collect import Dataset
    from .config import Policy
    from .search import SearchResult
    from .store import Store
    from .students import Student

__all__ = ["Pipeline"]

_log = logging.getLogger("jitr")
Progress = Callable[[str, float], None]
_LEASE_S = 180.0
_KEPT_S = 86_400.0  # what a killed search left is thrown away then, if its task was not searched again
_NEW_LABELS = 0.25  # growth of the labels below which a task that is served is not searched again
_COMPARED = 2_000  # latest calls on which a new student is compared with the active release …
_RENEWED = 100  # compared calls after which the lease is renewed
_GENERATED = 200  # … if it has to generate its answers


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
        terms: what counts for each task.
        present: which of its labels do.
    """

    store: Store
    policy: Policy
    folder: Path
    base_models: BaseModels
    seed: int = 0
    owner: str = "jitr"
    progress: Progress | None = None
    terms: Terms = field(init=False)
    present: Present = field(init=False)

    def __post_init__(self) -> None:
        self.terms = Terms(self.store, self.policy)
        self.present = Present(self.store, self.policy, self.seed)

    def missing(self, task: Task) -> int:
        """Calls a student might answer that the task still has to see before its next attempt; 0 if it is due."""
        start = self.present.start(task.id)
        needed = next_attempt(max(self.store.attempts(task.id) - start.attempts, 0), self.policy).calls
        return max(needed - (self.store.replaceable_count(task.id) - start.calls), 0)

    def due(self, task: Task) -> bool:
        """True if an attempt should be made now."""
        return task.state != "paused" and not self.missing(task)

    def busy(self, task: Task) -> bool:
        """Whether a process is searching for the task now, or was killed at that less than three minutes ago."""
        return self.store.leased(_lease(task))

    def run(self, task_id: str, *, force: bool = False) -> SearchReport | None:
        """Make the next attempt for a task, unless another process is at it or it is not due.

        Args:
            task_id: the task.
            force: attempt even if it is not due; the attempt spends its share of delta all the same.

        Returns:
            What the search found; None if there was nothing to do.
        """
        task = self.store.task(task_id)
        if task is None:
            return None
        lease = _lease(task)
        if not self.store.acquire(lease, self.owner, _LEASE_S):
            return None
        try:
            # Looked at again under the lease: another process may just have made this attempt.
            task = self.store.task(task.id)
            if task is None or task.state == "paused" or not (force or self.due(task)):
                return None
            report = self._attempt(task, force)
            if self.store.renew(lease, self.owner, _LEASE_S):  # else another process may be at it
                shutil.rmtree(self._kept(task), ignore_errors=True)
            return report
        finally:
            self.store.free(lease, self.owner)

    def _kept(self, task: Task) -> Path:
        """Where a search keeps what took minutes until its attempt is concluded: one that is killed goes on with it."""
        return self.folder.with_name(KEPT) / task.id

    def _attempt(self, task: Task, force: bool) -> SearchReport | None:
        began = time.perf_counter()
        self.terms.warn_unheard(task.id)
        remove_leftovers(self.folder.with_name(KEPT), set(), _KEPT_S)
        delta = next_attempt(self.store.attempts(task.id), self.policy).delta
        active = in_place = self.store.active_release(task.id)
        if active is not None and not self.terms.are_met(task.id, active):
            active = None  # it promised something else and serves nobody
        start = self.present.start(task.id)
        examples, templates = self.present.examples(task.id, start)
        report = SearchReport(task.id, at_label=min(self.store.labels_after(task.id, start.row), len(examples)))
        report.refusal = self._idle(task, active, report, delta, sum(e.sampled for e in examples), force)
        if report.refusal:
            self.store.conclude(report, 0.0)
            return report if active is None and task.id not in self.store.probations() else None
        release: Release | None = None
        try:
            space = answer_space(Counter(e.answer for e in examples), max_labels=self.policy.max_labels)
            if space.kind == "labels":
                examples = self.present.with_past(task.id, start, examples)
            if not examples:
                report.refusal = (
                    "none of its calls can be answered by a student: they ask for tools, a format or the like"
                )
            else:
                dataset = build_dataset(examples, self.policy.max_examples, templates)
                tolerant = tolerance_of(self.terms.rule(task.id)) is not None
                if tolerant and mostly_amounts(dataset.answers) or self._extracted(dataset, space):
                    space = replace(space, kind="fields")
                release = self._search(task, dataset, delta, report, active, space)
        except JITRError as error:
            # A training that comes to nothing is an outcome; what cannot be read, written or imported is none.
            report.refusal, report.failed = str(error), not isinstance(error, TrainingError)
        except Exception as error:
            # Recorded like any other outcome: an attempt that fails for good must not be made again and again.
            _log.exception("the search for task %s failed", task.id)
            report.refusal, report.failed = f"the search failed: {in_words(error)}", True
        report.seconds = time.perf_counter() - began
        expected = in_place.id if in_place else None
        path = path_of(self.policy)
        if not self.store.conclude(report, delta, release, expected, task.regroupings, path) and release is not None:
            shutil.rmtree(release.path, ignore_errors=True)
        withdraw_orphans(self.store, self.folder)
        remove_leftovers(self.folder / task.id, {each.path for each in self.store.releases(task.id)})
        return report

    def _idle(
        self, task: Task, active: Release | None, report: SearchReport, delta: float, sampled: int, force: bool
    ) -> str:
        """Why nothing can or should come of a search now, "" if something may.

        The attempt is forfeited, not put off: when attempts are made may not depend on what the labels say.
        """
        if self.store.pinned(task.id) is not None:
            return "not searched: the active release is pinned"
        if task.id in self.store.probations():
            return "not searched: a release is on probation"
        if not force and active is not None and self._too_soon(task, report.at_label):
            return "not searched: hardly any new labels since the last search"
        if not force and allowed_errors(sampled, target=self.policy.target, delta=delta) < 0:
            return f"not searched: {sampled} labels that certify are too few, even without an error"
        found = None if force else worth(self.store, task.id, self.policy)
        return "" if found is None or found.pays else f"left alone: {found}"

    def _too_soon(self, task: Task, labels: int) -> bool:
        """Whether a task that is served has too few new labels for a search to be worth its cost."""
        searched = [s.at_label for s in self.store.searches(task.id) if s.candidates]
        known = max((n for n in searched if n <= labels), default=0)
        return labels < (1 + _NEW_LABELS) * known

    def _search(
        self,
        task: Task,
        dataset: Dataset,
        delta: float,
        report: SearchReport,
        active: Release | None,
        space: AnswerSpace,
    ) -> Release | None:
        """Search and certify; the packaged release, or None with the reason in the report."""
        promise = self.terms.promise(task.id)
        rule = rule_at_work(self.terms.rule(task.id, space.kind), self.base_models, prepare=True)
        result = self._found(task, dataset, delta, space, rule)
        report.candidates, report.chosen, report.refusal = result.candidates, result.chosen, result.refusal
        besides = obstacle(dataset.answers if rule.rule == EXACT else (), result.candidates, self.policy.target)
        besides = f"; {besides}" if besides else ""
        if report.refusal:
            report.refusal += besides
            return None
        if result.curve:
            attempts = self.store.attempts(task.id) + 1
            report.outlook = look_ahead(
                result.curve, calls=len(dataset.answers), attempts=attempts, policy=self.policy, promise=promise
            )
        use = dataset.sampled if result.held is None else dataset.sampled & result.held[dataset.group]
        confidence = result.confidence[dataset.group][use]
        correct = _agreement(result, dataset, use, rule)
        certificate = certify(
            confidence,
            correct,
            target=self.policy.target,
            delta=delta,
            promise=promise,
            given=[result.predicted[group] for group in dataset.group[use]],
            teacher=[dataset.answers[i] for i in use.nonzero()[0]],
            apart=apart(dataset.inputs, dataset.group[use]),
        )
        if isinstance(certificate, Refusal):
            report.refusal = f"{space.reason}; {certificate.reason}" if space.kind == "text" else certificate.reason
            if result.held is not None:
                report.refusal += f" (the calls held back from learning, {len(correct)} of {len(dataset.answers)})"
            report.refusal += besides
            return None
        certificate = report.certificate = replace(certificate, equivalence=rule.rule)
        student = result.fit()
        if active is not None:
            report.refusal = self._worse(task, active, student, certificate, result, dataset)
        if report.refusal:
            return None
        candidate = next(c for c in result.candidates if c.name == result.chosen)
        self._renew(task)
        made = package(student, task=task.id, candidate=candidate, certificate=certificate, folder=self.folder)
        return replace(made, templates=tuple(sorted(dataset.templates)))

    def _found(self, task: Task, dataset: Dataset, delta: float, space: AnswerSpace, rule: Equivalence) -> SearchResult:
        """What a search for this kind of answers finds."""
        from .search import search, search_fields, search_text

        promise = self.terms.promise(task.id)
        how: dict[str, Any] = {
            "policy": self.policy,
            "base_models": self.base_models,
            "seed": self.seed,
            "coverage": lambda confidence, correct: self._coverage(confidence, correct, delta, promise),
            "progress": self._renewing(task),
        }
        if space.kind == "text":
            return search_text(dataset, rule=rule, reason=space.reason, **how)
        how["kept"] = self._kept(task)
        if space.kind == "fields":
            return search_fields(dataset, rule=rule if rule.tolerance else None, **how)
        how["base_models"] = with_earlier(self.base_models, self.store, task, dataset.inputs, self.policy)
        return search(dataset, **how)

    def _extracted(self, dataset: Dataset, space: AnswerSpace) -> bool:
        """Whether answers that look like free text are parts of their inputs; a generator may know better."""
        from .students.plans import extracted

        if space.kind != "text" or self.policy.generators or self.base_models.generators():
            return False
        return extracted(dataset.inputs, dataset.labels)

    def _coverage(self, confidence: np.ndarray, correct: np.ndarray, delta: float, promise: str) -> float:
        """An estimate: a candidate's answers are not told, so `classes` and `cost` are taken for `answered`."""
        kind = promise if promise == "overall" else ANSWERED
        certificate = certify(confidence, correct, target=self.policy.target, delta=delta, promise=kind)
        return 0.0 if isinstance(certificate, Refusal) else certificate.coverage

    def _renewing(self, task: Task) -> Progress:
        """Progress that also keeps the lease: a search takes longer than a lease lives."""

        def tell(what: str, share: float) -> None:
            self._renew(task)
            if self.progress:
                self.progress(what, share)

        return tell

    def _renew(self, task: Task) -> None:
        if not self.store.renew(_lease(task), self.owner, _LEASE_S):
            raise TrainingError("the attempt took too long and another process took it over.")

    def _worse(
        self,
        task: Task,
        active: Release,
        student: Student,
        certificate: Certificate,
        result: SearchResult,
        dataset: Dataset,
    ) -> str:
        """Why the active release must stay, judged on the calls it was asked about; "" if the new student is better.

        Calls with a label were learnt from: there the cross-fitted confidence speaks. The others the student has not
        seen.
        """
        from .files import verify_folder

        try:
            verify_folder(Path(active.path))
        except ArtifactError:
            return ""  # it serves nobody
        held = self.store.held_since(task.id, active.id)
        if held is not None and self.store.compared_since(task.id, active.id, held) >= COMPARED:
            return ""  # it answers nobody, and has not shown that it should
        place = {group: i for i, group in enumerate(dataset.groups)}
        most = _GENERATED if student.family == "generator" else _COMPARED
        since = self.present.since(task.id, self.present.start(task.id))
        asked = self.store.asked(active.id, most, after=since)
        if result.held is not None:
            learnt = {g for g, held in zip(dataset.groups, result.held, strict=True) if not held}
            asked = [each for each in asked if each.group not in learnt]
        new = []
        for i, each in enumerate(asked):
            if i % _RENEWED == 0 or student.family == "generator":
                self._renew(task)
            known = place.get(each.group)
            if known is None:
                answer, sure = (found[0] for found in student.predict([each.slots])[:2])
            else:
                answer, sure = result.predicted[known], result.confidence[known]
            # Outside the gate the confidence is 0, here as there.
            new.append(gives(certificate, answer, float(sure)) and each.template in dataset.templates)
        old = [a.answered for a in asked]
        now = self.store.active_release(task.id)
        if better(new, old) or now is None or now.id != active.id:  # withdrawn meanwhile: nothing to compare with
            return ""
        if not old and not self.store.handled(task.id, active.id, since, 1):
            return ""  # it answers nothing of what comes now
        if not old:
            return (
                "the active release stays: no text is left of the calls it was asked about, so the two cannot be "
                "compared; the next attempt tries again, and `jitr rollback` makes room"
            )
        share = sum(new) / len(new), sum(old) / len(old)
        return f"no better than the active release: {share[0]:.0%} against {share[1]:.0%} of the last {len(old)} calls"


def _agreement(result: SearchResult, dataset: Dataset, use: np.ndarray, rule: Equivalence) -> np.ndarray:
    """Whether the cross-fitted answer counts as the teacher's, for each labelled call in `use`, shape (k,)."""
    import numpy as np

    seen: dict[tuple[str, str], bool] = {}
    for i in np.flatnonzero(use):
        pair = result.predicted[dataset.group[i]], dataset.answers[i]
        if pair not in seen:
            seen[pair] = rule.same(*pair)
    return np.array([seen[result.predicted[dataset.group[i]], dataset.answers[i]] for i in np.flatnonzero(use)], bool)


def _lease(task: Task) -> str:
    return f"train:{task.id}"
