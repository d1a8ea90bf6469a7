"""Search: which small model agrees with the teacher best? Successive halving, then cross-selection.

Candidates are compared on growing samples of the inputs, cheapest first. One that is clearly worse is dropped; one
whose base model would be expensive to run on the next sample must also be clearly better than those that cost
nothing. Survivors are cross-fitted on all inputs, and the choice among them is cross-fitted too: the inputs of a fold
are decided by the candidate that did best on the other folds, so that choosing costs no error probability.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .config import Policy
from .errors import JITRError, TrainingError
from .students.finalists import tuner_for
from .students.text import MAX_CHARS
from .students.training import Bench, Classes, Crossed
from .students.tuning import Tuner
from .types import CandidateReport

if TYPE_CHECKING:
    from .collect import Dataset
    from .students import BaseModels, Student
    from .students.recipes import CandidateRecipe

__all__ = ["FOLDS", "SearchResult", "search"]

FOLDS = 10
Coverage = Callable[[NDArray[np.float64], NDArray[np.bool_]], float]
Progress = Callable[[str, float], None]

_FIRST_RUNG = 500
_RUNG_GROWTH = 4
_WORSE = 3.0  # standard errors of the mean difference in log-loss from which a candidate is clearly worse
_BETTER = 2.0  # … from which an expensive candidate is clearly better than the cheap ones
_CHEAP_S = 60.0  # estimated seconds of embedding up to which nothing has to be shown
_TOKEN_S = 1.3e-4  # MiniLM, int8, one core: seconds a token; an estimate, so that decisions do not hang on the clock
_MAX_TOKENS = 128
_CHARS_PER_TOKEN = 4


@dataclass(slots=True)
class SearchResult:
    """What a search found.

    Attributes:
        candidates: every candidate, in the order they were tried.
        chosen: name of the winner.
        confidence: shape (n,), cross-fitted confidence in each input's answer, in [0, 1].
        predicted: n cross-fitted answers.
    """

    candidates: list[CandidateReport]
    chosen: str | None
    confidence: NDArray[np.float64]
    predicted: list[str]
    _fit: Callable[[], Student] = field(repr=False)

    def fit(self) -> Student:
        """The chosen candidate, trained on everything."""
        with _one_thread():
            return self._fit()


def search(
    dataset: Dataset,
    *,
    policy: Policy,
    base_models: BaseModels,
    seed: int = 0,
    coverage: Coverage | None = None,
    families: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> SearchResult:
    """Find the candidate that would answer the largest share of the task's calls at the promised agreement.

    Args:
        dataset: the task's examples.
        policy: target, families, limits.
        base_models: pretrained models at hand; what is missing is prepared, where the extra is installed.
        seed: drives the samples of early rungs.
        coverage: estimates the coverage at the certificate, in [0, 1], from the confidences of calls and whether the
            answers were right; by default the share above the best threshold in hindsight.
        families: overrules the policy's.
        progress: told what is going on and how far it is, in [0, 1].

    Returns:
        The candidates, the winner, and its cross-fitted answers and confidences.

    Raises:
        TrainingError: the examples are too few, or answers hardly ever recur.
    """
    with _one_thread():
        return _Search(dataset, policy, base_models, seed, coverage, families or policy.families, progress).run()


def _one_thread() -> contextlib.AbstractContextManager[object]:
    """Keep BLAS to one thread unless the user chose a number: on busy cores more threads are many times slower."""
    from threadpoolctl import threadpool_limits

    return contextlib.nullcontext() if os.environ.get("OMP_NUM_THREADS") else threadpool_limits(limits=1)


class _Search:
    def __init__(
        self,
        dataset: Dataset,
        policy: Policy,
        base_models: BaseModels,
        seed: int,
        coverage: Coverage | None,
        families: Sequence[str],
        progress: Progress | None,
    ) -> None:
        self.dataset, self.policy, self.models, self.seed = dataset, policy, base_models, seed
        self.coverage = coverage or (lambda confidence, right: hindsight(confidence, right, policy.target))
        self.families = tuple(families)
        self.progress = progress
        self.classes = Classes.of(dataset.labels, policy.max_labels)
        self.folds = dataset.folds(FOLDS)
        self.reports: dict[str, CandidateReport] = {}

    def run(self) -> SearchResult:
        n = len(self.dataset.inputs)
        if len(self.classes.answers) == 1 and bool((self.classes.labels == 0).all()):
            return self._constant()
        found = self._recipes()
        frozen, tuned = [r for r in found if not r.tuned], [r for r in found if r.tuned]
        recipes = frozen
        order = np.random.default_rng(self.seed).permutation(n)
        size = _FIRST_RUNG
        while size * _RUNG_GROWTH <= n * 2 and len(recipes) > 1:
            rows = np.sort(order[:size])
            recipes = self._rung(recipes, rows, following=min(size * _RUNG_GROWTH, n))
            size *= _RUNG_GROWTH
        bases = {r.base for r in tuned}
        if any(r.base in bases for r in frozen) and not any(r.base in bases for r in recipes):
            for recipe in tuned:
                self.reports[recipe.name].note = "not tuned: without tuning the encoder was not worth its cost"
            tuned = []
        return self._final(recipes, tuned)

    def _recipes(self) -> list[CandidateRecipe]:
        """Candidates that can be tried here; the others are reported with the reason."""
        from .students.recipes import candidates

        bench = Bench(self.dataset.inputs[:50], self._classes(np.arange(50)), self.folds[:50], self.models)
        found = candidates(self.families, paired=bench.paired)
        needs = {r.base for r in found if r.base}
        missing = {kind for kind in needs if self.models.get(kind) is None}
        why = ""
        if missing:
            self._tell("preparing base models", 0.0)
            why = self.models.prepare()
        kept = []
        for recipe in found:
            model = self.models.get(recipe.base) if recipe.base else None
            name = f"{recipe.name}:{model.name}" if model else recipe.name
            self.reports[recipe.name] = CandidateReport(name, recipe.family, model.name if model else None)
            if recipe.base and model is None:
                self.reports[recipe.name].note = why or "no base model at hand"
            else:
                kept.append(recipe.without({k for k in ("encoder", "static") if self.models.get(k) is None}))
        if not kept:
            raise TrainingError("none of the families can be tried here.", hint=why or "Allow the family lexical.")
        return kept

    def _classes(self, rows: NDArray[np.intp]) -> Classes:
        rows = rows[rows < len(self.classes.labels)]
        return Classes(self.classes.answers, self.classes.labels[rows])

    def _bench(self, rows: NDArray[np.intp]) -> Bench:
        inputs = [self.dataset.inputs[i] for i in rows]
        return Bench(inputs, self._classes(rows), self.folds[rows], self.models, self.progress)

    def _rung(self, recipes: list[CandidateRecipe], rows: NDArray[np.intp], following: int) -> list[CandidateRecipe]:
        """Try candidates on a sample; those worth trying on the next."""
        bench = self._bench(rows)
        tried = self._try(bench, recipes)

        def best_of(some: list[CandidateRecipe]) -> CandidateRecipe | None:
            return max(some, key=lambda r: tried[r.name].logp.mean(), default=None)

        dear = [r for r in recipes if r.base == "encoder"] if self._embedding_s(bench, following) > _CHEAP_S else []
        best, rival = best_of(recipes), best_of([r for r in recipes if r not in dear])
        kept = []
        for recipe in recipes:
            # Where the best may yet prove too dear, the others are measured against their own kind.
            ahead = best if recipe in dear or not dear else rival
            if ahead and _lead(tried[ahead.name], tried[recipe.name]) > _WORSE:
                self.reports[recipe.name].note = f"dropped at {bench.n} inputs: clearly worse than {ahead.name}"
            elif recipe in dear and rival and _lead(tried[recipe.name], tried[rival.name]) < _BETTER:
                self.reports[recipe.name].note = f"dropped at {bench.n} inputs: too little better than {rival.name}"
            else:
                kept.append(recipe)
        return kept

    def _embedding_s(self, bench: Bench, following: int) -> float:
        """Estimated seconds of embedding the next sample, from the lengths of this one."""
        tokens = sum(map(_tokens, bench.embedded_texts()))
        return _TOKEN_S * tokens * max(following / bench.n - 1, 0)

    def _try(self, bench: Bench, recipes: list[CandidateRecipe]) -> dict[str, Crossed]:
        tried = {}
        for i, recipe in enumerate(recipes):
            self._tell(f"{recipe.name} on {bench.n} inputs", i / len(recipes))
            began, report = time.perf_counter(), self.reports[recipe.name]
            try:
                crossed = bench.crossed(recipe)
            finally:  # what was given up took its time as well
                report.seconds += time.perf_counter() - began
            report.agreement = float(np.mean(crossed.chosen == bench.classes.labels))
            tried[recipe.name] = crossed
        return tried

    def _final(self, recipes: list[CandidateRecipe], tuned: list[CandidateRecipe]) -> SearchResult:
        """Cross-fit what is left on all inputs, and choose, the choice cross-fitted as well."""
        bench = self._bench(np.arange(len(self.dataset.inputs)))
        for recipe in [r for r in recipes if not bench.heads(r)]:
            self.reports[recipe.name].note = "too costly on so many inputs"
        recipes = [r for r in recipes if bench.heads(r)]
        tried = self._try(bench, recipes)
        tried |= self._tune(bench, tried, tuned)
        recipes = [r for r in (*recipes, *tuned) if r.name in tried]
        if not recipes:
            raise TrainingError("none of the families can be tried here.", hint=self.reports[tuned[0].name].note)
        everything = np.ones(len(self.dataset.group), bool)
        for recipe in recipes:
            confidence, right = self._calls(tried[recipe.name], everything)
            self.reports[recipe.name].score = float(self.coverage(confidence, right))
        chosen = self._best(tried, recipes)
        confidence, classes = np.zeros(bench.n), np.zeros(bench.n, np.intp)
        for fold in range(FOLDS):
            held = self.folds == fold
            best = self._best(tried, recipes, held)
            confidence[held], classes[held] = tried[best.name].confidence[held], tried[best.name].chosen[held]
        for recipe in recipes:
            if recipe is not chosen:
                self.reports[recipe.name].note = f"no better than {chosen.name}"
        self._tell("search done", 1.0)
        return SearchResult(
            list(self.reports.values()),
            self.reports[chosen.name].name,
            confidence,
            [self.classes.answers[c] for c in classes],
            lambda: bench.fit(chosen),
        )

    def _tune(self, bench: Bench, tried: dict[str, Crossed], recipes: list[CandidateRecipe]) -> dict[str, Crossed]:
        """What candidates with a tuned encoder do, if tuning one pays; if not, their reports say why.

        Args:
            bench: all inputs.
            tried: what the other candidates did there.
            recipes: candidates with a tuned encoder.
        """
        encoder = self.models.get(recipes[0].base or "") if recipes else None
        if encoder is None:
            return {}
        tokens = [_tokens(" ".join(texts)) for texts in bench.texts]
        try:
            found = tuner_for(
                bench,
                encoder,
                list(tried.values()),
                lambda crossed, some: hindsight(*self._calls(crossed, some[self.dataset.group]), self.policy.target),
                tokens=tokens,
                calls=int(self.dataset.sampled.sum()),
                seed=self.seed,
                progress=self._tell,
            )
            if isinstance(found, Tuner):
                bench.tuner = found
                return self._try(bench, recipes)
            why = found
        except JITRError as error:
            why = str(error)
        for recipe in recipes:
            self.reports[recipe.name].note = why
        return {}

    def _best(
        self, tried: dict[str, Crossed], recipes: list[CandidateRecipe], held: NDArray[np.bool_] | None = None
    ) -> CandidateRecipe:
        """The candidate of largest merit, the cheapest of equals.

        Args:
            tried: what each candidate did.
            recipes: the candidates, cheapest first.
            held: shape (n,), inputs that must have no say.
        """
        use = np.ones(len(self.folds), bool) if held is None else ~held
        return max(recipes, key=lambda r: self._merit(tried[r.name], use[self.dataset.group]))

    def _merit(self, crossed: Crossed, calls: NDArray[np.bool_]) -> float:
        """How few errors the most confident half makes: −AURC up to half coverage (Geifman and El-Yaniv 2017).

        The coverage at a certificate is a step function, mostly 0 while calls are few: chosen by it, the folds would
        pick different candidates by luck.
        """
        confidence, right = self._calls(crossed, calls)
        half = len(right) // 2
        if not half:
            return 0.0
        wrong = np.cumsum(~right[np.argsort(-confidence, kind="stable")])[:half]
        return -float(np.mean(wrong / np.arange(1, half + 1)))

    def _calls(self, crossed: Crossed, calls: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Confidence and agreement of calls that are a fair sample of the stream."""
        rows = np.flatnonzero(calls & self.dataset.sampled)
        group = self.dataset.group[rows]
        said = [self.classes.answers[c].strip() for c in crossed.chosen[group]]
        right = np.array([a == self.dataset.answers[i].strip() for a, i in zip(said, rows, strict=True)], dtype=bool)
        return crossed.confidence[group], right

    def _constant(self) -> SearchResult:
        """Every call was answered alike: a student that always says so."""
        bench = self._bench(np.arange(len(self.dataset.inputs)))
        n = bench.n
        sure = (n + 1) / (n + 2)  # Laplace's rule of succession
        report = CandidateReport("lexical/constant", "lexical", None, agreement=1.0)
        confidence = np.where(bench.closed, 0.0, sure)
        report.score = float(self.coverage(confidence[self.dataset.group], np.ones(len(self.dataset.group), bool)))
        answers = [self.classes.answers[0]] * n
        return SearchResult([report], report.name, confidence, answers, lambda: bench.constant(sure))

    def _tell(self, what: str, share: float) -> None:
        if self.progress:
            self.progress(what, share)


def hindsight(confidence: NDArray[np.float64], right: NDArray[np.bool_], target: float) -> float:
    """Largest share of calls, in [0, 1], above a threshold at which agreement was at least the target."""
    order = np.argsort(-confidence, kind="stable")
    hits = np.cumsum(right[order])
    taken = np.arange(1, len(order) + 1)
    good = np.flatnonzero(hits >= target * taken)
    return float((good[-1] + 1) / len(order)) if len(good) else 0.0


def _tokens(text: str) -> float:
    """Estimated tokens of a text that an encoder reads."""
    return min(len(text[:MAX_CHARS]) / _CHARS_PER_TOKEN + 2, _MAX_TOKENS)


def _lead(ahead: Crossed, behind: Crossed) -> float:
    """How many standard errors the first is ahead of the second in log-loss, on the same inputs."""
    difference = ahead.logp - behind.logp
    error = float(difference.std()) / max(len(difference), 1) ** 0.5
    mean = float(difference.mean())
    return mean / error if error > 0 else 0.0
