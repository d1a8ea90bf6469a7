"""Trying candidates within a search's budget, and keeping book of what came of each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from ..base_models.store import BaseModels
from ..config import Policy
from ..errors import JITRError, TrainingError
from ..students.kept import digest
from ..students.recipes import CandidateRecipe
from ..students.training import Bench, Crossed
from ..students.tuning import PARTS, Plan, Settings, Tuner, plan
from ..types import CURVE_SHARES, CandidateReport, CurvePoint
from .bracket import Bracket
from .judge import MINILM, embedding_s, half_errors, hindsight, share_errors, tokens_of

__all__ = ["Budget", "Trials"]

_SUREST = 0.2  # share of the calls, the most confident, of which something must look certifiable
_HOPELESS = 0.05  # chance of so many errors among them at exactly the target, below which they do not

_NEVER = float("inf")

Judged = Callable[[Crossed, NDArray[np.bool_]], tuple[NDArray[np.float64], NDArray[np.bool_]]]


class _OutOfTime(Exception):  # noqa: N818
    """The search's seconds are over."""


@dataclass(slots=True)
class Budget:
    """What a search, or all searches that are parts of one, may still spend.

    Attributes:
        ends: reading of the monotonic clock when its seconds are over.
        spent: estimated core-seconds of each base model's embeddings; parts of one search embed the same inputs once.
        tuned: estimated core-seconds of tuning encoders.
    """

    ends: float
    spent: dict[str, float] = field(default_factory=dict)
    tuned: float = 0.0

    @classmethod
    def of(cls, policy: Policy) -> Budget:
        """The budget of a search that begins now."""
        return cls(time.monotonic() + (policy.search_seconds or float("inf")))


class Trials:
    """Tries candidates, as long as the budget lasts: counted work always, seconds and memory where they are limited.

    Attributes:
        reports: of every candidate, by the name of its recipe.
        curves: by the same name, what it did on how many inputs.
    """

    def __init__(
        self, models: BaseModels, policy: Policy, progress: Callable[[str, float], None] | None, budget: Budget
    ) -> None:
        """Trials of one search."""
        self.models, self.policy, self.progress = models, policy, progress
        self.reports: dict[str, CandidateReport] = {}
        self.curves: dict[str, dict[int, CurvePoint]] = {}
        self.budget = budget
        self._ends = _NEVER  # reading of the clock after which what is being tried is given up

    def tell(self, what: str, share: float) -> None:
        """Tell the progress; that time is up is noticed here, once there is something to go on with."""
        if self.progress:
            self.progress(what, share)
        if self._ends < _NEVER and time.monotonic() > self._ends:
            raise _OutOfTime

    def attempt(self, bench: Bench, recipes: Sequence[CandidateRecipe], ends: float = _NEVER) -> dict[str, Crossed]:
        """What candidates do on a bench, by name; those that come to nothing are missing, their reports say why.

        Args:
            bench: the inputs.
            recipes: the candidates.
            ends: when even the first is given up; the others are when the search's time is up.

        Raises:
            TrainingError: none could be tried.
        """
        tried: dict[str, Crossed] = {}
        self._ends = ends
        try:
            for i, recipe in enumerate(recipes):
                crossed = self._try(bench, recipe, i / len(recipes))
                if crossed is not None:
                    tried[recipe.name] = crossed
                    self._ends = min(self._ends, self.budget.ends)
        finally:
            self._ends = _NEVER
        if not tried:
            why = self.reports[recipes[0].name].note if recipes else "there is none"
            raise TrainingError(f"no candidate could be tried: {why}.")
        return tried

    def _try(self, bench: Bench, recipe: CandidateRecipe, share: float) -> Crossed | None:
        """What a candidate does on a bench; None if it comes to nothing, and its report says why."""
        report, began = self.reports[recipe.name], time.perf_counter()
        try:
            self.tell(f"{recipe.name} on {bench.n} inputs", share)
            if self.affords(recipe, bench):
                return self.book(recipe, bench)
            limit = f"{self.policy.search_work_s:g} s"
            report.note = f"left out at {bench.n} inputs: over the work a search may do, {limit}"
        except _OutOfTime:
            report.note = f"left out at {bench.n} inputs: out of time, {self.policy.search_seconds:g} s"
        except MemoryError:
            report.note = f"left out at {bench.n} inputs: out of memory"
        finally:
            report.seconds += time.perf_counter() - began
        return None

    def tune(
        self,
        bench: Bench,
        recipes: Sequence[CandidateRecipe],
        tried: dict[str, Crossed],
        judged: Judged,
        seed: int,
        kept: Path | None = None,
    ) -> dict[str, Crossed]:
        """What candidates with a tuned encoder do on a bench, by name, if tuning pays; if not, their reports say why.

        Args:
            bench: all inputs.
            recipes: the candidates, on one base model.
            tried: what other candidates did there.
            judged: confidence and agreement of calls that are a fair sample, by what a candidate did on some inputs,
                shape (n,).
            seed: of everything random.
            kept: a folder for tuned encoders that are finished; None keeps none.
        """

        def promising(scored: NDArray[np.bool_], scores: NDArray[np.float32]) -> str:
            # Where there is nothing else, there is no choice.
            why = self._hopeless(tried, judged, scored, scores) if tried else ""
            return why or self._too_slow(bench.tuner.part_s if bench.tuner else 0.0)

        everything, key = np.ones(bench.n, bool), recipes[0].base or ""
        try:
            target = self.policy.target
            frozen = max((hindsight(*judged(each, everything), target) for each in tried.values()), default=0.0)
            found = self._plan(bench, key, frozen)
            how = Settings(epochs=found.epochs)
            bench.tuner = Tuner(
                self.models.get(key),
                bench.texts,
                bench.classes.labels,
                bench.folds,
                how,
                found.examples,
                seed,
                self.tell,
                promising,
                self.models.facts(key).source,
                kept / digest(bench.classes.answers) if kept else None,
            )
            return self.attempt(bench, recipes, self.budget.ends)
        except JITRError as error:
            for recipe in recipes:
                self.reports[recipe.name].note = str(error)
            return {}

    def _plan(self, bench: Bench, key: str, frozen: float) -> Plan:
        """How much is tuned within the work that is left, which is booked; scoring each input once is part of it.

        Raises:
            TrainingError: tuning does not pay, or there is too little left.
        """
        facts = self.models.facts(key)
        tokens = [tokens_of(" ".join(texts)) for texts in bench.texts]
        scoring = embedding_s(sum(tokens), facts)
        weight = 1.0 if facts.multiplications is None else facts.multiplications / MINILM
        left = self.policy.search_work_s - sum(self.budget.spent.values()) - self.budget.tuned - scoring
        found = plan(tokens, len(bench.classes.answers), frozen, left, weight)
        self.budget.tuned += found.seconds + scoring
        return found

    def _hopeless(
        self,
        tried: dict[str, Crossed],
        judged: Judged,
        scored: NDArray[np.bool_],
        scores: NDArray[np.float32],
    ) -> str:
        """Why more tuning is not worth it, by what the first part shows; "" if it is."""
        own = Crossed(scores.argmax(axis=1), scores.max(axis=1).astype(np.float64), np.zeros(len(scores)))
        confidence, right = judged(own, scored)
        rivals = [judged(each, scored) for each in tried.values()]
        # Coverage in hindsight would say it directly, but where a teacher slips it is a matter of luck.
        ours, theirs = half_errors(confidence, right), min(half_errors(*rival) for rival in rivals)
        agreed = max(float(rival.mean()) for _, rival in rivals)
        if ours >= theirs and right.mean() <= agreed:
            return f"errors among the more confident half {ours:.3f}, without tuning {theirs:.3f}"
        surest = right[np.argsort(-confidence, kind="stable")][: math.ceil(_SUREST * len(right))]
        wrong = int((~surest).sum())
        if wrong and bdtrc(wrong - 1.0, len(surest), 1 - self.policy.target) < _HOPELESS:
            return f"{wrong} of even the {len(surest)} most confident answers differed"
        return ""

    def _too_slow(self, part_s: float) -> str:
        """Why time will not do for the other parts and for the encoder that would serve, "" if it will.

        The last one is tuned when the search is over, and for a certified winner it is not given up: its time, about
        that of a part, is set aside here.
        """
        left = self.budget.ends - time.monotonic()
        if PARTS * part_s > left:
            return (
                f"out of time, {PARTS} more tunings would take {PARTS * part_s:.0f} s and {max(left, 0):.0f} s are left"
            )
        self._ends = self.budget.ends - part_s
        return ""

    def book(self, recipe: CandidateRecipe, bench: Bench) -> Crossed:
        """What a candidate does on a bench, noted in its report and on its learning curve."""
        crossed = bench.crossed(recipe)
        labels = bench.classes.labels
        self.reports[recipe.name].agreement = float(np.mean(crossed.chosen == labels))
        point = CurvePoint(bench.n, share_errors(crossed, labels, CURVE_SHARES))
        self.curves.setdefault(recipe.name, {})[bench.n] = point
        return crossed

    def tell_race(self, ran: list[str], bracket: Bracket, tried: dict[str, Crossed], size: int) -> None:
        """Note which base models dropped out, and which won."""
        winner, running = bracket.winner(-1), bracket.running
        for key in (key for key in ran if key in tried):
            report = self.reports[f"probe@{key}"]
            likely = f"its probe's mean log-probability is {tried[key].logp.mean():.3f}"
            if key == winner and not running:
                report.note = f"base model chosen at {size} inputs: {likely}"
            elif key not in running and winner in tried:
                best = f"that of {self.models.facts(winner).name} {tried[winner].logp.mean():.3f}"
                report.note = f"base model dropped at {size} inputs: {likely}, {best}"

    def embedding_s(self, recipe: CandidateRecipe, bench: Bench) -> float:
        """Estimated seconds of embedding a bench's inputs for a candidate, if it looks at embeddings of its base."""
        if recipe.base is None or not any(recipe.base in (*head.kernels, head.names) for head in recipe.heads):
            return 0.0
        return embedding_s(sum(map(tokens_of, bench.embedded_texts())), self.models.facts(recipe.base))

    def affords(self, recipe: CandidateRecipe, bench: Bench) -> bool:
        """Whether embedding a bench's inputs is within the work allowed; if so it is booked."""
        needed = self.embedding_s(recipe, bench)
        if not needed or recipe.base is None:
            return True
        spent = self.budget.spent
        others = sum(seconds for base, seconds in spent.items() if base != recipe.base)
        if others + needed + self.budget.tuned > self.policy.search_work_s:
            return False
        spent[recipe.base] = max(spent.get(recipe.base, 0.0), needed)
        return True
