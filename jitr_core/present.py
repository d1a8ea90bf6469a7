"""Where a task's present begins, and which of its labels count for the next attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .certify import peak_calls
from .collect import fair_sample, fold_of, labelled_alike, strata
from .types import Example

if TYPE_CHECKING:
    from .config import Policy
    from .store import Store

__all__ = ["Present", "Start", "teaches"]

_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Start:
    """Where a task's present begins.

    Attributes:
        row: last row of the store before the task was made up as it is now.
        calls: the task's calls up to there that a student might have answered.
        attempts: attempts made by then.
        learnt: last row whose label certifies no more, since audits contradicted it; None: the same.
        contradicted: whether it begins with a rollback by audits.
    """

    row: int = 0
    calls: int = 0
    attempts: int = 0
    learnt: int | None = None
    contradicted: bool = False


@dataclass(frozen=True, slots=True)
class Present:
    """What of a task's past counts.

    Attributes:
        store: the state.
        policy: gives limits.
        seed: drives which labels make up a fair sample.
    """

    store: Store
    policy: Policy
    seed: int = 0

    def start(self, task: str) -> Start:
        """Where the task's present begins: after what last made its labels void, a rollback by audits or a merge.

        Calls are counted from there anew; delta is not, it is spent once for the task's life.
        """
        last = self.store.last_entry(("rollback", "restart", "purge"), task)
        if last is None or last.kind == "purge":
            return Start()
        return Start(**last.details["start"], contradicted=last.kind == "rollback")

    def examples(self, task: str, start: Start) -> tuple[list[Example], frozenset[str]]:
        """The labelled calls of a task, of which those `sampled` are a fair sample of calls of some templates."""
        after = start.row if start.learnt is None else start.learnt
        examples = self.store.examples(task, self.policy.max_examples, after=after)
        alike = labelled_alike(self.store.template_use(task, after=after))
        groups = strata(alike, self.store.template_counts(task, after=self.since(task, start)))
        sample, spoken = fair_sample(examples, groups, enough=peak_calls(self.policy), seed=self.seed)
        return sample, spoken & {example.template for example in examples}

    def with_past(self, task: str, start: Start, examples: list[Example]) -> list[Example]:
        """Adds the labels from before a rollback where they still teach: of other inputs, and not to certify."""
        room = self.policy.max_examples - len(examples)
        if not start.contradicted or not examples or room <= 0:
            return examples
        known = self.store.examples(task, self.policy.max_examples)
        again = {each.group for each in examples}
        before = (each for each in known if each.seq < examples[0].seq and each.group not in again)
        past = [replace(each, sampled=False) for each in before][-room:]
        return [*past, *examples] if past and teaches(past, examples) else examples

    def since(self, task: str, start: Start) -> int:
        """The row since which calls say how a task is made up: since its youngest stratum came, if long ago."""
        after = start.row if start.learnt is None else start.learnt
        use = self.store.template_use(task, after=after)
        alike, began = labelled_alike(use), dict[str, int]()
        for template, each in use.items():
            began[alike[template]] = min(began.get(alike[template], each.first), each.first)
        for row in (max(began.values()) - 1 if len(began) > 1 else start.row, start.row):
            if sum(self.store.template_counts(task, after=row).values()) >= self.policy.first_attempt:
                return row
        return after


def teaches(past: Sequence[Example], now: Sequence[Example]) -> bool:
    """Whether labels of the past help to foretell those of now.

    If other calls came, they do; if the teacher answers otherwise, they do not. Complement naive Bayes on words and
    pairs of words (Rennie et al. 2003) is trained with and without them, and cross-fitted on the labels of now.

    Args:
        past: labelled calls from before.
        now: labelled calls since.

    Returns:
        Whether more labels of now are foretold with those of the past than without.
    """
    import numpy as np
    from scipy.sparse import vstack
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.naive_bayes import ComplementNB

    words = HashingVectorizer(ngram_range=(1, 2), alternate_sign=False, n_features=2**16)
    texts = [words.transform(" ".join(each.slots) for each in part) for part in (past, now)]
    answers = [np.array([each.answer.strip() for each in part], dtype=object) for part in (past, now)]
    folds = [np.array([fold_of(each.group, _FOLDS) for each in part]) for part in (past, now)]
    gain = 0
    for fold in range(_FOLDS):
        old, rest, held = folds[0] != fold, folds[1] != fold, folds[1] == fold
        if not rest.any() or not held.any():
            continue
        without = ComplementNB().fit(texts[1][rest], answers[1][rest])
        both = vstack([texts[0][old], texts[1][rest]]), np.concatenate([answers[0][old], answers[1][rest]])
        having = ComplementNB().fit(*both)
        said = [model.predict(texts[1][held]) == answers[1][held] for model in (having, without)]
        gain += int(said[0].sum()) - int(said[1].sum())
    return gain > 0
