"""What counts for one task: by which rule its answers are compared, what is promised of them, and who may answer."""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .equivalence import EXACT, Equivalence, canonical, equivalence, honours, said, tolerance_of
from .errors import TrainingError
from .identify import supersedes
from .promises import fulfils, promise, promised

if TYPE_CHECKING:
    from .base_models import BaseModels
    from .config import Policy
    from .store import Store
    from .types import Release, Template

__all__ = ["HEARD", "Terms", "answerable", "rule_at_work", "unheard"]

_log = logging.getLogger("jitr")
HEARD = 20_000
"""Latest labelled calls of a task in which a promised answer is looked for."""

_SHOWN, _CHARS = 6, 40  # answers quoted, and characters of each


@dataclass(slots=True)
class Terms:
    """What counts for the tasks of a state: the user's word for a task, else the policy's.

    Attributes:
        store: the state.
        policy: what counts where nothing is said.
    """

    store: Store
    policy: Policy
    _told: set[str] = field(default_factory=set)

    def rule(self, task_id: str, kind: str = "text") -> str:
        """Rule by which a task's answers are compared: the user's for this task, else the policy's.

        Args:
            task_id: the task.
            kind: of its answers. The policy's rule is for free text; if it is a tolerance, for numbers too.
        """
        own = self.store.last_entry("equivalence", task_id)
        # A function is named by code or settings only: no state may say which code is run.
        if own is not None and not str(own.details["rule"]).startswith("own:"):
            return str(own.details["rule"])
        wanted = self.policy.equivalence
        return wanted if kind == "text" or (kind == "fields" and tolerance_of(wanted)) else EXACT

    def promise(self, task_id: str) -> str:
        """What is promised of a task's answers: what the user said for this task, else the policy's promise."""
        own = self.store.last_entry("promise", task_id)
        return self.policy.promise if own is None else str(own.details["promise"])

    def warn_unheard(self, task_id: str) -> None:
        """Log once if what is promised names answers that the teacher never gave.

        The policy's promise is every task's: what it names is looked for in all of them.
        """
        text, own = self.promise(task_id), self.store.last_entry("promise", task_id)
        if not promise(text).named or text in self._told:
            return
        counts: Counter[str] = Counter()
        for each in [task_id] if own is not None else [task.id for task in self.store.tasks()]:
            counts.update(self.store.answer_counts(each, HEARD))
        told = unheard(text, counts)
        if told:
            self._told.add(text)
            _log.warning("what is promised of task %s names what was never answered: %s", task_id, told)

    def are_met(self, task_id: str, release: Release) -> bool:
        """Whether a release was certified for what counts now, or for more than that; logs once that not."""
        why = self.unmet(task_id, release)
        if why and release.id not in self._told:
            self._told.add(release.id)
            _log.warning("release %s of task %s is not served: %s", release.id, task_id, why)
        return not why

    def unmet(self, task_id: str, release: Release) -> str:
        """What a release was certified for, and what counts now, if that is more; "" if it is not."""
        certificate, rule = release.certificate, self.rule(task_id)
        if certificate.target < self.policy.target:
            return f"it was certified for a target of {certificate.target:g}, wanted is {self.policy.target:g}"
        if not fulfils(certificate.promise, self.promise(task_id)):
            was, wanted = promised(certificate.promise), promised(self.promise(task_id))
            return f"it was certified for {was}, wanted is {wanted}"
        if not honours(certificate.equivalence, rule):
            return f"it was certified for agreement by {said(certificate.equivalence)}, wanted is {said(rule)}"
        return ""


def unheard(text: str, counts: Mapping[str, int]) -> str:
    """A sentence on answers that a promise names and the teacher never gave; "" if there are none, or no answers yet.

    They may come yet, so the promise counts all the same: but a label that was misspelt would be watched for nothing.

    Args:
        text: the promise.
        counts: how often the teacher gave each answer.

    Example:
        >>> unheard("classes:paymnt", {"payment": 7, "delivery": 9})
        '“paymnt” is none of the 2 answers seen so far; did you mean “payment”? Seen: “delivery”, “payment”'
    """
    seen: Counter[str] = Counter()
    for answer, times in counts.items():
        seen[canonical(answer)] += times
    missing = [name for name in promise(text).named if name not in seen]
    if not missing or not seen:
        return ""
    folded = {answer.casefold(): answer for answer in seen}
    close = [found for name in missing for found in difflib.get_close_matches(name.casefold(), folded, 2)]
    meant = f"; did you mean {_quoted(dict.fromkeys(folded[name] for name in close))}?" if close else "."
    often = _quoted(dict(seen.most_common(_SHOWN)))
    are = "is" if len(missing) == 1 else "are"
    number = f"{len(seen)} answers" if len(seen) > 1 else "answers"
    return f"{_quoted(dict.fromkeys(missing))} {are} none of the {number} seen so far{meant} Seen: {often}" + (
        f" and {len(seen) - _SHOWN} more" if len(seen) > _SHOWN else ""
    )


def _quoted(answers: Mapping[str, object]) -> str:
    cut = [" ".join(answer.split()) for answer in list(answers)[:_SHOWN]]
    return ", ".join(f"“{each if len(each) <= _CHARS else each[: _CHARS - 1] + '…'}”" for each in cut)


def rule_at_work(rule: str, base_models: BaseModels, *, prepare: bool = False) -> Equivalence:
    """A rule by which answers are compared, with the base model it may need.

    Args:
        rule: see `jitr_core.equivalence`.
        base_models: pretrained models at hand.
        prepare: prepare that base model if it is not at hand.

    Raises:
        JITRError: it cannot be evaluated here.
    """
    if not rule.startswith("embedding"):
        return equivalence(rule)
    from .students.text import normalise

    why = base_models.prepare() if prepare and base_models.get("static") is None else ""
    static = base_models.get("static")
    if static is None:
        raise TrainingError(f"the equivalence {rule} needs a static base model.", hint=why)
    return equivalence(rule, lambda text: static.embed(normalise(text)))


def answerable(release: Release, templates: list[Template], joined: frozenset[str]) -> frozenset[str]:
    """The templates a release was certified on, and those that are wider versions of one: they fit all it fits.

    Args:
        release: the release.
        templates: all templates, oldest first: a wider version is younger than what it widens.
        joined: ids of templates that came to their task by a merge. Unless it was certified on them, neither they
            nor wider versions of them are the release's.
    """
    foreign = joined - set(release.templates)
    of_task = [t for t in templates if t.task == release.task and t.id not in foreign]
    barred = [t for t in templates if t.id in foreign]
    wider = [
        t
        for place, t in enumerate(of_task)
        if any(narrow.id in release.templates and supersedes(t, narrow) for narrow in of_task[:place])
    ]
    return frozenset(release.templates) | {t.id for t in wider if not any(supersedes(t, other) for other in barred)}
