"""Search: which small model agrees with the teacher best? A race of base models, successive halving, cross-selection.

Of several base models of a kind the best is found first, by a probe on small, growing samples, cross-fitted like the
choice below. Candidates on it are then compared on growing samples of the inputs, cheapest first. One that is clearly
worse is dropped; one whose base model would be expensive to run on the next sample must also be clearly better than
those that cost nothing. Survivors are cross-fitted on all inputs, encoders are tuned where that promises more, and the
choice is cross-fitted too: the inputs of a fold are decided by the candidate that did best on the other folds, so that
choosing costs no error probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..base_models.catalog import Kind
from ..config import Policy
from ..errors import ArtifactError, TrainingError
from ..students.recipes import PROBES, candidates
from ..students.training import Bench, Classes, Crossed
from ..types import CURVE_SHARES, CandidateReport, CurvePoint
from .bracket import HALVES, SIZES, Bracket, half_of
from .judge import answer_s, half_errors, hindsight, lead, tokens_of
from .result import FOLDS, Coverage, Progress, SearchResult, one_thread
from .trials import Budget, Trials

if TYPE_CHECKING:
    from ..base_models import BaseModels
    from ..collect import Dataset
    from ..students.recipes import CandidateRecipe

__all__ = ["search"]

_KINDS: tuple[Kind, ...] = ("static", "encoder")
_FIRST_RUNG = 500
_RUNG_GROWTH = 4
_WORSE = 3.0  # standard errors of the mean difference in log-loss from which a candidate is clearly worse
_BETTER = 2.0  # … from which an expensive candidate is clearly better than the cheap ones
_CHEAP_S = 60.0  # estimated seconds of embedding up to which nothing has to be shown
_LIKELY_WEIGHS = 0.25  # mean log-probability against errors of the more confident half; measured, see docs/search.md
# What an answer's core-second and its base model's gigabyte weigh against errors among the more confident half: ten
# milliseconds as much as 0.001. At a teacher's price of $0.0001 a call they would weigh as much as 0.001 of coverage.
_SECOND_WEIGHS, _GIGABYTE_WEIGHS = 0.1, 0.001
_CURVE_LEAST = 50  # fewest inputs of a point of a learning curve


def search(
    dataset: Dataset,
    *,
    policy: Policy,
    base_models: BaseModels,
    seed: int = 0,
    coverage: Coverage | None = None,
    families: Sequence[str] | None = None,
    progress: Progress | None = None,
    benches: dict[bytes, Bench] | None = None,
    budget: Budget | None = None,
    kept: Path | None = None,
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
        benches: given to searches over the same inputs with different labels, keeps what they can share.
        budget: given to searches that are parts of one; by default the policy's, from now on.
        kept: a folder for what took minutes; the same search, killed and begun anew, goes on with it. Whoever gives
            it deletes it when the search is concluded.

    Returns:
        The candidates, the winner, and its cross-fitted answers and confidences.

    Raises:
        TrainingError: the examples are too few, or answers hardly ever recur.
    """
    with one_thread():
        chosen = families or policy.families
        return _Search(dataset, policy, base_models, seed, coverage, chosen, progress, benches, budget, kept).run()


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
        benches: dict[bytes, Bench] | None,
        budget: Budget | None,
        kept: Path | None,
    ) -> None:
        self.benches, self.kept = {} if benches is None else benches, kept
        self.dataset, self.policy, self.models, self.seed = dataset, policy, base_models, seed
        self.coverage = coverage or (lambda confidence, right: hindsight(confidence, right, policy.target))
        self.families = tuple(families)
        classes = Classes.of(dataset.labels, policy.max_labels)
        labels = np.where(dataset.settled(policy.target), classes.labels, -1)
        self.classes = Classes(classes.answers, labels)
        self.folds = dataset.folds(FOLDS)
        self.order = np.random.default_rng(seed).permutation(len(dataset.inputs))
        self.trials = Trials(base_models, policy, progress, budget or Budget.of(policy))
        self.reports = self.trials.reports
        self.bases: dict[str, list[str]] = {}  # of each recipe, in the race over all inputs
        # Candidates that the inputs of a half may be answered by: those on the base models that won without them.
        self.eligible: dict[int, set[str]] = {race: set() for race in range(-1, HALVES)}

    def run(self) -> SearchResult:
        n = len(self.dataset.inputs)
        if len(self.classes.answers) == 1 and bool((self.classes.labels == 0).all()):
            return self._constant()
        found = self._recipes()
        frozen, tuned = [r for r in found if not r.tuned], [r for r in found if r.tuned]
        recipes = frozen
        size = _FIRST_RUNG
        while size * _RUNG_GROWTH <= n * 2 and len(recipes) > 1:
            rows = np.sort(self.order[:size])
            recipes = self._rung(recipes, rows, following=min(size * _RUNG_GROWTH, n))
            size *= _RUNG_GROWTH
        bases = self._origins(tuned)
        if bases & self._origins(frozen) and not bases & self._origins(recipes):
            for recipe in tuned:
                self.reports[recipe.name].note = "not tuned: without tuning the encoder was not worth its cost"
            tuned = []
        return self._final(recipes, tuned)

    def _origins(self, recipes: list[CandidateRecipe]) -> set[str]:
        """Base models that recipes stand or fall with; instead of one that was tuned for an earlier task, its own."""
        return {self.models.origin(recipe.base) for recipe in recipes if recipe.base}

    def _recipes(self) -> list[CandidateRecipe]:
        """Candidates that can be tried here, on the base models that won; the others are reported with the reason."""
        bench = Bench(self.dataset.inputs[:50], self._classes(np.arange(50)), self.folds[:50], self.models)
        found = candidates(self.families, paired=bench.paired)
        why, races = "", {}
        if any(r.base for r in found):
            self.trials.tell("preparing base models", 0.0)
            why = self.models.prepare(lambda: self.trials.tell("preparing base models", 0.0))
            for source, reason in self.models.refused.items():
                self.reports[source] = CandidateReport(f"base model {source}", "encoder", source, note=reason)
            for kind in _KINDS:
                if any(r.needs(kind) for r in found):
                    races[kind] = self._race(kind)
        kept: dict[str, CandidateRecipe] = {}
        for race in range(-1, HALVES):
            winners = {kind: bracket.winner(race) for kind, bracket in races.items()}
            keys: dict[str, str] = {kind: key for kind, key in winners.items() if key}
            origins = {kind: self.models.origin(key) for kind, key in keys.items()}
            for recipe in found:
                bound = self._bound(recipe, origins if recipe.tuned else keys, why)
                if bound is not None:
                    kept.setdefault(bound.name, bound)
                    self.eligible[race].add(bound.name)
        if not kept:
            raise TrainingError("none of the families can be tried here.", hint=why or "Allow the family lexical.")
        return list(kept.values())

    def _bound(self, recipe: CandidateRecipe, keys: dict[str, str], why: str) -> CandidateRecipe | None:
        """A recipe on the base models `keys`, with a report; None, and the report says why, if its own is not there."""
        bound = recipe.without({kind for kind in _KINDS if kind not in keys}).on(keys)
        key = keys.get(recipe.base) if recipe.base else None
        model = self.models.get(key) if key else None
        used = sorted({key for kind, key in keys.items() if recipe.needs(kind)})
        first = self.bases.setdefault(recipe.name, used)
        name = recipe.name if used == first else f"{recipe.name}@{'+'.join(used)}"
        if name not in self.reports:
            shown = f"{name}:{model.name}" if model else name
            self.reports[name] = CandidateReport(shown, recipe.family, model.name if model else None)
        if recipe.base and model is None:
            self.reports[name].note = why or "no base model at hand"
            return None
        return replace(bound, name=name)

    def _race(self, kind: Kind) -> Bracket:
        """Races of the base models of a kind by their probes, see `jitr_core.search.bracket`."""
        keys = sorted(self._usable(kind), key=lambda key: self.models.facts(key).multiplications or 0)
        bracket = Bracket(keys, [key for key in keys if self.models.origin(key) != key])
        for size in SIZES:
            running = bracket.running
            if not running:
                break
            probes = {key: replace(PROBES[kind].on({kind: key}), name=f"probe@{key}") for key in running}
            for key, probe in probes.items():
                name = self.models.facts(key).name
                self.reports.setdefault(probe.name, CandidateReport(f"{kind} probe:{name}", kind, name))
            rows = np.sort(self.order[:size])
            bench = self._bench(rows)
            found = self.trials.attempt(bench, list(probes.values()))
            tried = {key: found[probe.name] for key, probe in probes.items() if probe.name in found}
            bracket.judge(tried, half_of(self.folds[rows]), last=size == SIZES[-1] or size >= len(self.order))
            self.trials.tell_race(running, bracket, tried, bench.n)
        return bracket

    def _usable(self, kind: Kind) -> list[str]:
        """Keys of the base models of a kind that can be loaded; the others are reported with the reason."""
        usable = []
        for key in self.models.keys(kind):
            try:
                if self.models.get(key) is not None:
                    usable.append(key)
            except ArtifactError as error:
                self.reports[f"damaged@{key}"] = CandidateReport(f"base model {key}", kind, key, note=str(error))
        return usable

    def _classes(self, rows: NDArray[np.intp]) -> Classes:
        rows = rows[rows < len(self.classes.labels)]
        return Classes(self.classes.answers, self.classes.labels[rows])

    def _bench(self, rows: NDArray[np.intp]) -> Bench:
        key = rows.tobytes()
        if key in self.benches:
            bench = self.benches[key].relabelled(self._classes(rows), self.trials.tell)
        else:
            inputs = [self.dataset.inputs[i] for i in rows]
            calls, fair = self.dataset.calls()
            seen = calls[rows], fair[rows]
            bench = Bench(inputs, self._classes(rows), self.folds[rows], self.models, self.trials.tell, seen)
        self.benches[key] = bench
        return bench

    def _rung(self, recipes: list[CandidateRecipe], rows: NDArray[np.intp], following: int) -> list[CandidateRecipe]:
        """Try candidates on a sample; those worth trying on the next."""
        bench = self._bench(rows)
        tried = self.trials.attempt(bench, recipes)
        recipes = [r for r in recipes if r.name in tried]

        def best_of(some: list[CandidateRecipe]) -> CandidateRecipe | None:
            return max(some, key=lambda r: tried[r.name].logp.mean(), default=None)

        dear = [r for r in recipes if self._more_s(r, bench, following) > _CHEAP_S]
        best, rival = best_of(recipes), best_of([r for r in recipes if r not in dear])
        kept = []
        for recipe in recipes:
            # Where the best may yet prove too dear, the others are measured against their own kind.
            ahead = best if recipe in dear or not dear else rival
            if ahead and lead(tried[ahead.name], tried[recipe.name]) > _WORSE:
                self.reports[recipe.name].note = f"dropped at {bench.n} inputs: clearly worse than {ahead.name}"
            elif recipe in dear and rival and lead(tried[recipe.name], tried[rival.name]) < _BETTER:
                self.reports[recipe.name].note = f"dropped at {bench.n} inputs: too little better than {rival.name}"
            else:
                kept.append(recipe)
        return kept

    def _more_s(self, recipe: CandidateRecipe, bench: Bench, following: int) -> float:
        """Estimated seconds of embedding the next sample, from the lengths of this one."""
        return self.trials.embedding_s(recipe, bench) * max(following / bench.n - 1, 0)

    def _final(self, recipes: list[CandidateRecipe], tuned: list[CandidateRecipe]) -> SearchResult:
        """Cross-fit what is left on all inputs, and choose, the choice cross-fitted as well."""
        bench = self._bench(np.arange(len(self.dataset.inputs)))
        for recipe in [r for r in recipes if not bench.heads(r)]:
            self.reports[recipe.name].note = "too costly on so many inputs"
        recipes = [r for r in recipes if bench.heads(r)]
        tried = self.trials.attempt(bench, recipes) if recipes else {}
        tried |= self._tune(bench, tried, tuned)
        recipes = [r for r in (*recipes, *tuned) if r.name in tried]
        if not recipes:
            raise TrainingError("none of the families can be tried here.", hint=self.reports[tuned[0].name].note)
        tokens = float(np.mean([tokens_of(" ".join(texts)) for texts in bench.texts]))
        everything = np.ones(len(self.dataset.group), bool)
        for recipe in recipes:
            report = self.reports[recipe.name]
            report.score = float(self.coverage(*self._calls(tried[recipe.name], everything)))
            report.cost_s = answer_s(tokens, self.models.facts(recipe.base) if recipe.base else None)
        chosen = self._best(tried, recipes, -1)
        confidence, classes = np.zeros(bench.n), np.zeros(bench.n, np.intp)
        for fold in range(FOLDS):
            held = self.folds == fold
            best = self._best(tried, recipes, fold)
            confidence[held], classes[held] = tried[best.name].confidence[held], tried[best.name].chosen[held]
        self._say_why(recipes, chosen, tried)
        curve = self._curve(chosen, bench.n)
        self.trials.tell("search done", 1.0)
        return SearchResult(
            list(self.reports.values()),
            self.reports[chosen.name].name,
            confidence,
            [self.classes.answers[c] for c in classes],
            lambda: bench.fit(chosen),
            curve=curve,
        )

    def _tune(self, bench: Bench, tried: dict[str, Crossed], recipes: list[CandidateRecipe]) -> dict[str, Crossed]:
        """What candidates with a tuned encoder do, if tuning one pays; if not, their reports say why."""
        chosen = [r for r in recipes if r.name in self.eligible[-1]]
        for recipe in recipes:
            if recipe not in chosen:
                self.reports[recipe.name].note = "not tuned: over all inputs another base model won"

        def judged(crossed: Crossed, inputs: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
            return self._calls(crossed, inputs[self.dataset.group])

        return self.trials.tune(bench, chosen, tried, judged, self.seed, self.kept) if chosen else {}

    def _say_why(self, recipes: list[CandidateRecipe], chosen: CandidateRecipe, tried: dict[str, Crossed]) -> None:
        """Note with each candidate why it lost."""
        everywhere = np.ones(len(self.folds), bool)[self.dataset.group]
        errors = {r.name: half_errors(*self._calls(tried[r.name], everywhere)) for r in recipes}
        likely = {r.name: float(tried[r.name].logp.mean()) for r in recipes}
        for recipe in recipes:
            if recipe is not chosen:
                self.reports[recipe.name].note = (
                    f"no better than {chosen.name}: errors among the more confident half {errors[recipe.name]:.3f} "
                    f"against {errors[chosen.name]:.3f}, mean log-probability {likely[recipe.name]:.3f} against "
                    f"{likely[chosen.name]:.3f}, {(self.reports[recipe.name].cost_s or 0) * 1e3:.1f} ms an answer"
                )

    def _curve(self, chosen: CandidateRecipe, n: int) -> list[CurvePoint]:
        """The winner's learning curve: what rungs have shown, and where they are too few, parts of the inputs."""
        agreement = self.reports[chosen.name].agreement
        for size in (n // 4, n // 2):
            if len(self.trials.curves[chosen.name]) < 3 and size >= _CURVE_LEAST and not chosen.tuned:
                self.trials.book(chosen, self._bench(np.sort(self.order[:size])))
        self.reports[chosen.name].agreement = agreement
        return [point for _, point in sorted(self.trials.curves[chosen.name].items())]

    def _best(self, tried: dict[str, Crossed], recipes: list[CandidateRecipe], fold: int) -> CandidateRecipe:
        """The candidate of largest merit, the cheapest of equals.

        Args:
            tried: what each candidate did.
            recipes: the candidates, cheapest first.
            fold: whose inputs must have no say; −1 for none.
        """
        use = self.folds != fold
        may = [r for r in recipes if r.name in self.eligible[fold % HALVES if fold >= 0 else -1]] or recipes
        return max(may, key=lambda r: self._merit(r, tried[r.name], use))

    def _merit(self, recipe: CandidateRecipe, crossed: Crossed, use: NDArray[np.bool_]) -> float:
        """How good the answers to some inputs are, less what answers and the base model cost.

        Few errors among the more confident half are what a certificate asks for; the log-probability of the right
        answers says less of that, but says it of every input, which counts while these are few.
        """
        cost = self.reports[recipe.name].cost_s or 0.0
        size = (self.models.facts(recipe.base).size_bytes if recipe.base else None) or 0
        errors = half_errors(*self._calls(crossed, use[self.dataset.group]))
        likely = float(crossed.logp[use].mean()) if use.any() else 0.0
        return _LIKELY_WEIGHS * likely - errors - _SECOND_WEIGHS * cost - _GIGABYTE_WEIGHS * size / 1e9

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
        confidence = np.where(bench.gated()[1], 0.0, sure)
        report.score = float(self.coverage(confidence[self.dataset.group], np.ones(len(self.dataset.group), bool)))
        answers = [self.classes.answers[0]] * n
        curve = [CurvePoint(n, (0.0,) * len(CURVE_SHARES))]
        return SearchResult([report], report.name, confidence, answers, lambda: bench.constant(sure), curve=curve)
