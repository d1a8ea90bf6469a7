"""Search for free text: a copied slot, the answer to a like input, or a tuned generator that the user named or added.

What is trained is expensive, so nothing is cross-fitted over again: one part of the inputs is learnt, a few tell when
to stop and which candidate is best, and on the rest, which nothing has looked at, the chosen one is measured. What is
certified is thus the very artifact that serves. Only the calibration of its confidence is cross-fitted there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..config import Policy
from ..errors import JITRError, TrainingError
from ..students.answerers import Answerer, Copied, Generator, Nearest, Said, unhurried
from ..students.text_student import Calibration, TextStudent
from ..students.training import Bench, Classes
from ..types import CandidateReport
from .result import FOLDS, Coverage, Progress, SearchResult

if TYPE_CHECKING:
    from ..base_models import BaseModels
    from ..collect import Dataset
    from ..equivalence import Equivalence

__all__ = ["search_text"]

_HELD = 0.4  # share of the inputs on which the chosen candidate is measured …
_MOST_HELD = 1_500  # … at most, as each costs an answer
_WATCHED = 0.1  # share that tells when to stop and what to choose …
_MOST_WATCHED = 100
_MOST_LEARNT = 5_000
_TOLD = 20  # comparisons after which it is told how far they are: a rule may ask a model
_FEWEST = 50  # inputs, below which there is nothing to divide


@dataclass(frozen=True, slots=True)
class _Parts:
    """Inputs by what they are for, all of shape (k,): indices into the data set's inputs."""

    learn: NDArray[np.intp]
    watch: NDArray[np.intp]
    held: NDArray[np.intp]


def search_text(
    dataset: Dataset,
    *,
    policy: Policy,
    base_models: BaseModels,
    rule: Equivalence,
    coverage: Coverage,
    seed: int = 0,
    progress: Progress | None = None,
    reason: str = "answers are free text",
) -> SearchResult:
    """Find what answers most like the teacher.

    Args:
        dataset: the task's examples.
        policy: families, generators, limits.
        base_models: pretrained models at hand; generators among them are candidates, too.
        rule: which answers count as the teacher's.
        coverage: estimates the coverage at the certificate, in [0, 1]; see `search`.
        seed: drives training.
        progress: told what is going on and how far it is, in [0, 1].
        reason: why the answers count as free text, for the user.

    Returns:
        The candidates, the winner, and its answers and confidences on the inputs it has not seen; without a winner the
        reason.

    Raises:
        TrainingError: the examples are too few.
    """
    return _TextSearch(dataset, policy, base_models, rule, coverage, seed, progress, reason).run()


class _TextSearch:
    def __init__(
        self,
        dataset: Dataset,
        policy: Policy,
        base_models: BaseModels,
        rule: Equivalence,
        coverage: Coverage,
        seed: int,
        progress: Progress | None,
        reason: str,
    ) -> None:
        self.reason = reason
        self.dataset, self.policy, self.rule, self.coverage = dataset, policy, rule, coverage
        self.seed, self.progress = seed, progress
        self.generators = _generators(policy, base_models)
        n = len(dataset.inputs)
        if n < _FEWEST:
            raise TrainingError(f"{n} different inputs are too few to learn texts from.", hint=f"{_FEWEST} are needed.")
        self.parts = _divide(dataset.groups)
        # What lets inputs through is the same for every kind of student.
        alike = Classes(("",), np.zeros(n, np.intp))
        self.bench = Bench(dataset.inputs, alike, dataset.folds(FOLDS), base_models, calls=dataset.calls())
        self.held = np.zeros(n, bool)
        self.held[self.parts.held] = True
        self.calls = np.flatnonzero(self.held[dataset.group] & dataset.sampled)
        self.reports: list[CandidateReport] = []

    def run(self) -> SearchResult:
        if not self.coverage(np.ones(len(self.calls)), np.ones(len(self.calls), bool)):
            few = f"{len(self.calls)} of {len(self.dataset.answers)} calls are held back to measure on"
            return self._refused(f"nothing was trained yet: {few}, too few to certify anything even without an error")
        tried = [(report, found) for report, learn in self._candidates() if (found := self._try(report, learn))]
        report, answerer = max(tried, key=lambda each: each[0].agreement or 0.0, default=(None, None))
        if report is None or answerer is None or not report.agreement:
            return self._none()
        for other, _ in tried:
            if other is not report:
                other.note = f"no better than {report.name} on {len(self.parts.watch)} inputs"
        return self._measure(report, answerer)

    def _candidates(self) -> list[tuple[CandidateReport, Callable[[], Answerer]]]:
        """Cheapest first."""
        learn, watch = ([self._pair(i) for i in part] for part in (self.parts.learn, self.parts.watch))
        found: list[tuple[CandidateReport, Callable[[], Answerer]]] = []
        if "lexical" in self.policy.families:
            vocabulary = self.bench.vocabularies["char"]
            found += [
                (CandidateReport("lexical/copied", "lexical", None), lambda: Copied.learn(learn)),
                (
                    CandidateReport("lexical/nearest", "lexical", None),
                    lambda: Nearest.learn(learn, vocabulary, self.bench.slots),
                ),
            ]
        for base, name in self.generators.items():

            def tune(base: str = base, name: str = name) -> Answerer:
                return Generator.learn(
                    base,
                    learn,
                    watch,
                    seed=self.seed,
                    timeout_s=self.policy.generator_timeout_s,
                    progress=lambda share: self._tell(f"training {name}", share),
                )

            found.append((CandidateReport(f"generator:{name}", "generator", name), tune))
        return found

    def _pair(self, i: int) -> tuple[tuple[str, ...], str]:
        return self.dataset.inputs[i], self.dataset.labels[i]

    def _try(self, report: CandidateReport, learn: Callable[[], Answerer]) -> Answerer | None:
        """Train a candidate and see how often it agrees on the watched inputs; None if it cannot be had."""
        self.reports.append(report)
        began = time.perf_counter()
        self._tell(report.name, 0.0)
        try:
            answerer = learn()
            said = [self._said(answerer, i) for i in self.parts.watch]
        except JITRError as error:
            report.note = str(error)
            return None
        finally:
            report.seconds += time.perf_counter() - began
        report.agreement = float(np.mean(self._right(said, self.parts.watch)))
        return answerer

    def _said(self, answerer: Answerer, i: int) -> Said | None:
        return unhurried(answerer, self.dataset.inputs[i])

    def _right(self, said: list[Said | None], inputs: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Whether answers count as the teacher's, shape (k,)."""
        right = np.zeros(len(inputs), bool)
        for n, (s, i) in enumerate(zip(said, inputs, strict=True)):
            if n % _TOLD == 0:
                self._tell("comparing answers", n / len(inputs))
            right[n] = s is not None and self.rule.same(s.text, self.dataset.labels[i])
        return right

    def _measure(self, report: CandidateReport, answerer: Answerer) -> SearchResult:
        """What the chosen candidate says on the inputs held back, and how sure it may be."""
        began, held = time.perf_counter(), self.parts.held
        gate, closed = self.bench.gated()
        said: list[Said | None] = []
        for i in held:
            self._tell(f"{report.name} answers", len(said) / len(held))
            said.append(None if closed[i] else self._said(answerer, i))
        report.seconds += time.perf_counter() - began
        given = np.array([s is not None for s in said])
        signs = np.array([s.signs for s in said if s is not None], np.float64).reshape(int(given.sum()), -1)
        right = self._right(said, held)
        confidence, predicted = np.zeros(len(self.dataset.inputs)), [""] * len(self.dataset.inputs)
        confidence[held[given]] = _crossed(signs, right[given], self.dataset.folds(FOLDS)[held[given]])
        for i, s in zip(held, said, strict=True):
            predicted[i] = s.text if s is not None else ""
        group = self.dataset.group[self.calls]
        pairs = zip(group, self.calls, strict=True)
        agreed = [self.rule.same(predicted[g], self.dataset.answers[call]) for g, call in pairs]
        report.score = float(self.coverage(confidence[group], np.array(agreed, bool)))
        calibration = Calibration.fit(signs, right[given])
        student = TextStudent(answerer, calibration, self.bench.vocabularies["char"], gate, self.bench.slots)
        self._tell("search done", 1.0)
        return SearchResult(self.reports, report.name, confidence, predicted, lambda: student, held=self.held)

    def _none(self) -> SearchResult:
        """No candidate ever agreed."""
        watched = len(self.parts.watch)
        notes = [f"{r.name}: {r.note or f'agrees on none of {watched} answers'}" for r in self.reports]
        return self._refused("no candidate gives them as the teacher does: " + "; ".join(notes))

    def _refused(self, why: str) -> SearchResult:
        """No winner, and why; what a user may do about it is said where nothing was done yet."""
        n = len(self.dataset.inputs)
        why = f"{self.reason}; {why}"
        if not self.generators:
            why += ". No generator is named or added that could be tuned, see docs/text.md"
        return SearchResult(self.reports, None, np.zeros(n), [""] * n, _nothing, refusal=why)

    def _tell(self, what: str, share: float) -> None:
        if self.progress:
            self.progress(what, share)


def _generators(policy: Policy, base_models: BaseModels) -> dict[str, str]:
    """Generators to tune, as a folder or hub id, with their names: those that the policy names, then those added."""
    named = {str(Path(base).absolute()) if Path(base).is_dir() else base: base for base in policy.generators}
    found = {base: Path(base).name if Path(base).is_dir() else base for base in named.values()}
    return found | {base: name for name, base in base_models.generators().items() if base not in named}


def _nothing() -> TextStudent:
    raise TrainingError("the search found nothing to train.")


def _divide(groups: list[str]) -> _Parts:
    """Parts of the inputs by the hash of what they say, so that no label has a say in it."""
    hashes = [hashlib.blake2b(g.encode("utf-8", "surrogatepass"), person=b"jitr-part").digest() for g in groups]
    order = np.array(sorted(range(len(groups)), key=hashes.__getitem__), dtype=np.intp)
    held = min(int(_HELD * len(order)), _MOST_HELD)
    watch = held + min(int(_WATCHED * len(order)), _MOST_WATCHED)
    learn = np.sort(order[watch:])[-_MOST_LEARNT:]  # the latest
    return _Parts(learn, np.sort(order[held:watch]), np.sort(order[:held]))


def _crossed(signs: NDArray[np.float64], right: NDArray[np.bool_], folds: NDArray[np.intp]) -> NDArray[np.float64]:
    """Confidences, shape (k,), each by a calibration fitted on the other folds."""
    confidence = np.zeros(len(right))
    for fold in np.unique(folds):
        own = folds == fold
        confidence[own] = Calibration.fit(signs[~own], right[~own])(signs[own])
    return confidence
