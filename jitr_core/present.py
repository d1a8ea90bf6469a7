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
_MOST = 5_000  # latest labels of the past that are tried
_LEVEL = 0.1


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

    If other calls came, they do; if the teacher answers otherwise, they do not. A ridge classifier on TF-IDF of words
    and pairs of words is trained with and without them, and cross-fitted on the labels of now.

    Args:
        past: labelled calls from before, with answers from a small set, as work grows with their number.
        now: labelled calls since.

    Returns:
        Whether more labels of now are foretold with those of the past than without, by a sign test at `_LEVEL`.
    """
    import numpy as np
    from scipy.stats import binomtest
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline

    words = HashingVectorizer(ngram_range=(1, 2), alternate_sign=False, norm=None)
    both = [*past[-_MOST:], *now]
    texts = words.transform(" ".join(each.slots) for each in both)
    answers = np.array([each.answer.strip() for each in both], dtype=object)
    folds = np.array([fold_of(each.group, _FOLDS) for each in both])
    late = np.arange(len(both)) >= len(both) - len(now)
    better = worse = 0
    for fold in range(_FOLDS):
        held = late & (folds == fold)
        right = []
        for rest in (folds != fold, late & (folds != fold)):
            if not held.any() or not rest.any():
                break
            if len(set(answers[rest])) == 1:
                right.append(answers[held] == answers[rest][0])
                continue
            ridge = RidgeClassifier(solver="sparse_cg", tol=1e-3)
            model = make_pipeline(TfidfTransformer(sublinear_tf=True), ridge).fit(texts[rest], answers[rest])
            right.append(model.predict(texts[held]) == answers[held])
        else:
            better += int((right[0] & ~right[1]).sum())
            worse += int((right[1] & ~right[0]).sum())
    return better > worse and binomtest(better, better + worse, alternative="greater").pvalue <= _LEVEL
