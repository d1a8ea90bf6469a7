"""The background half of one process: stores, learns, watches audits, starts searches, loads releases."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .earlier import withdraw_orphans
from .errors import StoreError
from .freely import Freely
from .identify import Decisions, task_name, unused
from .observe import PATIENCE_S
from .questions import Questions
from .serving import Serving
from .types import Answer, Call, Decision, Match, Observation, Task, Template

if TYPE_CHECKING:
    from .config import Policy
    from .identify import Identifier, Learned
    from .pipeline import Pipeline
    from .route import Router
    from .store import Store

__all__ = ["Background", "Event", "Observed", "Stage"]

_log = logging.getLogger("jitr")
_KEPT = 5_000  # calls kept at most while the store cannot take them
_EXPIRE_S = 3600.0  # how often is looked for texts older than the policy keeps them, for abandoned audits and orphans
_ABANDONED_S = PATIENCE_S + 3600.0  # age of a call after which nobody audits it any more

Event = dict[str, Any]
"""What happened, for reports: `kind` (task, placed, merged, search, state, rollback, warning, hold, fault) and its
figures."""


Stage = Literal["decided", "pending", "audited"]


@dataclass(slots=True)
class Observed:
    """One decided call on its way from the hot path into the store.

    Attributes:
        call, decision: the call, and who answered.
        answer: the teacher's; None where it was not asked, or failed.
        ask: puts a question of JITR's own to the teacher.
        stage: a call whose audit is to come is "pending"; later it comes again, "audited".
    """

    call: Call
    decision: Decision
    answer: Answer | None
    ask: Callable[[str], Answer] | None = None
    stage: Stage = "decided"

    @property
    def asked(self) -> bool | None:
        """Whether the teacher answered; None where it was to be asked about an answer, and that came to nothing."""
        return None if self.stage == "audited" and self.answer is None else self.answer is not None


@dataclass(slots=True)
class Background:
    """Everything slow that one process does; called by one thread at a time.

    Attributes:
        store: the state.
        policy: what is promised.
        app: name of the application.
        identifier: recognises calls, shared with the hot path.
        router: serves the releases, shared with the hot path.
        pipeline: tells which tasks are due.
        attempt: starts the next attempt of a task, here or in a process of its own.
        emit: told of every event.
        fault: told of faults that leave the rest of the work standing.
        seed: seeds the audit coins; None draws them from the system's entropy.
        aside: runs a job that asks the teacher where it holds nobody up, or gives it up.
        freely: what finding freely worded tasks needs of this process.
        serving: the releases in service, and what is watched of them.
    """

    store: Store
    policy: Policy
    app: str
    identifier: Identifier
    router: Router
    pipeline: Pipeline
    attempt: Callable[[str], None]
    emit: Callable[[Event], None]
    fault: Callable[[str, BaseException], None]
    seed: int | None = None
    aside: Callable[[Callable[[], None], Callable[[], None]], None] | None = None
    freely: Freely = field(init=False)
    serving: Serving = field(init=False)
    _version: int = -1
    _missing: dict[str, int] = field(default_factory=dict)
    _questions: Questions = field(init=False)
    _unstored: list[Observed] = field(default_factory=list)
    _audited: list[Observed] = field(default_factory=list)
    _placed: list[tuple[str, Match]] = field(default_factory=list)
    _parted: dict[str, Template] = field(default_factory=dict)
    _expire_at: float = 0.0

    def __post_init__(self) -> None:
        self.freely = Freely(self.store, self.pipeline)
        self.serving = Serving(self.store, self.policy, self.router, self.pipeline, self.emit, self.fault, self.seed)
        self._questions = Questions(self.store, self.policy.ask_teacher, self.aside, self.fault)

    def process(self, batch: list[Observed]) -> None:
        """Take in a batch of decided calls, possibly empty, and do what is due.

        Raises:
            StoreError: the store fails; what could not be stored is kept for the next time, within bounds.
        """
        if not self.store.path.exists():
            # SQLite would go on writing to a file that nobody can open any more.
            raise StoreError(f"The state {self.store.path} is gone.", hint="Restart the app to begin anew.")
        touched = self._learn(batch)
        self._store()
        self.freely.renew()
        self.serving.audit((observed.decision, observed.asked) for observed in batch)
        self.serving.watch(touched)
        if self.policy.ask_teacher:
            self._wonder(batch)
        for task, calls in sorted(touched.items()):
            self._attempt_if_due(task, calls)
        self._expire()
        self.serving.tend()
        self.refresh()

    def recall(self, limit: int = 5_000) -> None:
        """Learn from calls of earlier processes that belong to no task yet: a task may take many short runs to show."""
        answers: dict[str, str] = {}
        if self.policy.free_wording:
            self.freely.start(self.identifier)
            answers = self.store.unplaced_answers(limit, app=self.app)
        for call in self.store.unplaced(limit, app=self.app):
            match, placed = self._place(call, answers.get(call.id))
            self._placed += placed
            if match is not None:
                self._placed.append((call.id, match))
        self._store()

    def remember(self, limit: int = 1_000) -> None:
        """Take in what the latest calls of earlier processes were like: who edits a prompt starts the app anew."""
        for match in self.store.latest_matches(limit, app=self.app):
            self._note(match)

    def close(self) -> None:
        """Give back what this process alone may hold, and close the store."""
        try:
            self.freely.close()
        finally:
            self.store.close()

    def stand_down(self) -> None:
        """Serve no release until a batch goes well again: what cannot be audited must not be answered."""
        self.router.load({})
        self._version = -1

    def _store(self) -> None:
        del self._unstored[:-_KEPT]
        if self._unstored:
            seen = [Observation(o.call, o.decision, o.answer, o.stage == "pending") for o in self._unstored]
            self.store.add_observations(seen)
            self._unstored.clear()
        del self._audited[:-_KEPT]
        if self._audited:
            self.store.conclude_audits([(o.call.id, o.answer) for o in self._audited])
            self._audited.clear()
        if self._placed:
            self.store.assign(self._placed)
            self._placed.clear()

    def _expire(self) -> None:
        now = time.monotonic()
        if now < self._expire_at:
            return
        self._expire_at = now + _EXPIRE_S
        withdraw_orphans(self.store, self.pipeline.folder)  # a purge elsewhere may have been killed before it did
        self.store.give_up_audits(_ABANDONED_S)
        if self.policy.retention_days is not None and self.store.expire(self.policy.retention_days):
            self.freely.forget()

    def _attempt_if_due(self, task_id: str, calls: int) -> None:
        # The store is asked only when this process alone has seen enough calls, not after every batch.
        self._missing[task_id] = self._missing.get(task_id, 0) - calls
        task = self.store.task(task_id) if self._missing[task_id] <= 0 else None
        if task is None or task.state == "paused":
            return
        self._missing[task_id] = self.pipeline.missing(task)
        if not self._missing[task_id]:
            self.pipeline.terms.warn_unheard(task_id)  # a search elsewhere has no log that the app's people read
            self.attempt(task_id)

    def _learn(self, batch: list[Observed]) -> Counter[str]:
        """Identify what the hot path could not; returns the number of new calls of each task."""
        touched: Counter[str] = Counter()
        late: Counter[str] = Counter()
        for observed in batch:
            counted = observed.stage == "audited"
            was_known = observed.decision.match is not None
            placed: list[tuple[str, Match]] = []
            try:
                placed = self._identify(observed)
            except Exception as error:
                self.fault("identify", error)
            (self._audited if counted else self._unstored).append(observed)
            self._placed += placed
            match = observed.decision.match
            found = [earlier.task for _, earlier in placed] + ([match.task] if match else [])
            touched.update(dict.fromkeys(found, 0) if counted else found)
            late.update(found[:-1] if was_known else found)
            if match is not None and observed.answer is not None:
                try:
                    self._tell(match, observed.answer)
                except Exception as error:
                    self.fault("identify", error)
        for task, calls in late.items():
            self.emit({"kind": "placed", "task": task, "calls": calls})
        return touched

    def _identify(self, observed: Observed) -> list[tuple[str, Match]]:
        """Place a call; returns earlier calls that are placed now."""
        decision = observed.decision
        if decision.match is not None:
            self._note(decision.match)
            parted = self._parted.get(decision.match.template)
            if parted is not None and decision.kind == "teacher":  # decided before, on its way here since
                decision.match = self.identifier.match_anew(parted, decision.match.slots) or decision.match
            return []
        told = observed.answer.text if observed.answer is not None and observed.call.replaceable else None
        decision.match, placed = self._place(observed.call, told)
        return placed

    def _note(self, match: Match) -> None:
        """Tell the identifier of a call that was recognised: its prompt may have been edited."""
        try:
            known, learned = self.identifier.template(match.template), self.identifier.note_call(match)
            if learned.created and known is not None:
                self._adopt(learned)
                self._parted[known.id] = known
        except Exception as error:
            self.fault("identify", error)

    def _tell(self, match: Match, answer: Answer) -> None:
        """Tell the identifier what was answered to a call of a task."""
        learned = self.identifier.note_answer(match.task, answer.text, match.slots, match.template)
        if learned.parted is not None:
            self._part(learned.parted, learned.created)
        else:
            self._adopt(learned)

    def _part(self, parted: Template, created: list[Template]) -> None:
        """Make two tasks of the calls of a template that serves two jobs, in the store as well."""
        new = Task(created[0].task, parted.app, parted.tenant, self._name(created[0]))
        done = False
        try:
            self._store()  # all calls of the template so far
            known = {template.id: template for template in self.store.templates()}
            done = self.store.part_template(
                parted.id, created, new, lambda template, slots: self.identifier.match_anew(known[template], slots)
            )
        finally:
            if not done:
                self._take_over(parted.task, new.id)
        if done:
            self._parted[parted.id] = parted
            self.emit({"kind": "task", "task": new.id, "name": new.name, "template": created[0]})

    def _take_over(self, *tasks: str) -> None:
        """Forget some tasks and take over anew what the store says of them: the user has just decided otherwise."""
        for task in tasks:
            self.identifier.forget(task)
        self._version = -1

    def _place(self, call: Call, answer: str | None) -> tuple[Match | None, list[tuple[str, Match]]]:
        """The task of a call that the hot path did not place, and earlier calls that are placed now."""
        # The template may have been found since the call was decided.
        match = self.identifier.match(call)
        if match is not None:
            return match, []
        learned = self.identifier.learn(call)
        self._adopt(learned)
        if learned.match is None and answer is not None:
            learned = self.identifier.note_unplaced(call, answer)
            self._adopt(learned)
        return learned.match, [place for place in learned.placed if place[0] != call.id]

    def _adopt(self, learned: Learned) -> None:
        """Take what was learnt into the store; what the store does not take is not in force either."""
        done = False
        try:
            done = self._save(learned)
        finally:
            if not done:
                self._take_over(*{t.task for t in learned.created}, *{survivor for _, survivor in learned.merged})

    def _save(self, learned: Learned) -> bool:
        """Store new templates, the task of each if it is new, and which tasks turned out to be one.

        Returns:
            False if the user has decided otherwise meanwhile.
        """
        names = {found.template.id: found.name for found in learned.found}
        for template in learned.created:
            if self.store.task(template.task) is None:
                name = names.get(template.id) or self._name(template)
                task = Task(template.task, template.app, template.tenant, name)
                self.store.save_task(task)
                self.emit({"kind": "task", "task": task.id, "name": task.name, "template": template})
        for gone, survivor in learned.merged:
            if self.store.merge_tasks(gone, survivor):
                self.emit({"kind": "merged", "task": survivor, "gone": gone})
                continue
            return False
        if learned.created:
            self.store.save_templates(learned.created)
        for found in learned.found:
            self.store.save_pattern(found.template.id, found.pattern.to_json())
        return True

    def _name(self, template: Template) -> str:
        """A name for a new task, that no other task of its app and tenant has."""
        tasks = [task for task in self.store.tasks(template.app) if task.tenant == template.tenant]
        name = task_name(template)
        same = {task.id for task in tasks if task.name == name}
        if same:
            name = task_name(template, [other for other in self.identifier.templates() if other.task in same])
        return unused(name, {task.name for task in tasks})

    def _wonder(self, batch: list[Observed]) -> None:
        """Have the teacher say what kind of tasks these calls are."""
        for observed in batch:
            if observed.decision.match is not None and observed.ask is not None:
                self._questions.consider(observed.decision.match.task, observed.call, observed.ask)

    def refresh(self) -> None:
        """Take over what changed in the store: templates, releases, pauses, purges; a no-op if nothing did."""
        version = self.store.version()
        if version == self._version:
            return
        templates, tasks = self.store.templates(), self.store.tasks()
        self.identifier.decide(Decisions.of(tasks, self.store.declarations()))
        joined = self.store.joined_templates()
        self.identifier.adopt(templates, apart=joined)
        kept = {template.task for template in templates}
        for task in {template.task for template in self.identifier.templates()} - kept:
            self.identifier.forget(task)
        self.freely.refresh(templates)
        self.serving.refresh(tasks, templates, joined)
        self._version = version
