"""Composing: structured answers, field by field. Each field is searched on its own; answers stand if all fields do.

All is cross-fitted over the folds of the inputs: what a field's parts say of an input, which way of learning a field
is the better one, how far a field and a whole answer are to be trusted. So the confidence of whole answers can be
certified like that of labels.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path as Folder
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..amounts import bare, mostly_amounts, near
from ..config import Policy
from ..equivalence import equivalent
from ..errors import TrainingError
from ..layout import MOSTLY, plain, reader
from ..structured import MISSING, Path, Structured, Style, named, structured
from ..students.combine import Trust
from ..students.copier import Copied, CopyBench
from ..students.fields import Certainty, Choice, Field, FieldsStudent, Part, combined, whole_figures, written
from ..students.numbers import NumberStudent
from ..students.plans import Plan, Table
from ..students.spans import Tokens
from ..students.student import LinearStudent
from ..students.training import Bench
from ..types import CandidateReport
from .judge import hindsight
from .labels import search
from .numbers import search_number
from .result import FOLDS, Coverage, Progress, SearchResult
from .trials import Budget, Trials
from .ways import Tried, says, sure

if TYPE_CHECKING:
    from ..base_models import BaseModels
    from ..collect import Dataset
    from ..equivalence import Equivalence

__all__ = ["search_fields"]

_MANY = 16
"""Searches from which on only lexical candidates are tried for each."""

_COPY_FOLDS = 5
_Bools = NDArray[np.bool_]


def search_fields(
    dataset: Dataset,
    *,
    policy: Policy,
    base_models: BaseModels,
    seed: int = 0,
    coverage: Coverage | None = None,
    progress: Progress | None = None,
    rule: Equivalence | None = None,
    kept: Folder | None = None,
) -> SearchResult:
    """Find for each field of structured answers what can be said of it, and for which inputs the whole can be given.

    Args:
        dataset: the task's examples.
        policy: target, families, limits.
        base_models: pretrained models at hand.
        seed: drives the searches.
        coverage: as for `search`.
        progress: told what is going on and how far it is, in [0, 1].
        rule: which answers count as the teacher's, where that is a tolerance of numbers; None: equal ones.
        kept: as for `search`.

    Returns:
        One candidate, the composition, and after it a report of each field.

    Raises:
        TrainingError: the examples are too few, or a field cannot be learnt at all; names it.
    """
    return _Composition(dataset, policy, base_models, seed, coverage, progress, rule, kept).run()


class _Composition:
    def __init__(
        self,
        dataset: Dataset,
        policy: Policy,
        base_models: BaseModels,
        seed: int,
        coverage: Coverage | None,
        progress: Progress | None,
        rule: Equivalence | None,
        kept: Folder | None,
    ) -> None:
        self.dataset, self.policy, self.models, self.seed = dataset, policy, base_models, seed
        self.coverage = coverage or (lambda confidence, right: hindsight(confidence, right, policy.target))
        self.progress, self.kept = progress, kept
        self.folds = dataset.folds(FOLDS)
        self.tolerance = rule.tolerance if rule else None
        self._everything = np.arange(len(dataset.inputs)).tobytes()
        answers = {*dataset.labels, *dataset.answers}
        self.same = rule.same if rule else equivalent
        # Amounts such as "$12.50" are no JSON; where all are JSON numbers, they can be copied as such.
        self.read = (
            bare
            if rule and mostly_amounts(dataset.answers) and not all(map(structured, answers))
            else reader(Counter(dataset.answers))
        )
        if sum(self.read(answer) is not None for answer in dataset.answers) < MOSTLY * len(dataset.answers):
            self.read = plain  # what is taken from the input, see `jitr_core.students.plans.extracted`
        known = {answer: self.read(answer) for answer in answers}
        self.table = Table(dataset.inputs, [known[label] for label in dataset.labels], numbers=rule is not None)
        self.calls = [known[answer] for answer in dataset.answers]
        self.searches: dict[tuple[str, ...], SearchResult] = {}
        self.benches: dict[bytes, Bench] = {}
        self.budget = Budget.of(policy)
        # Tuning an encoder for every field would cost more than whole answers can bring.
        self.families = tuple(family for family in policy.families if family != "lora") or policy.families

    def run(self) -> SearchResult:
        began = time.perf_counter()
        fields = self._fields()
        reports = [CandidateReport("fields", "fields", None)]
        options: dict[Path, list[Tried]] = {}
        for i, (path, plans) in enumerate(fields.items()):
            self._tell(f"field {named(path)}", i / len(fields))
            started = time.perf_counter()
            if plans:
                options[path] = self._tried(path, plans)
            reports.append(self._report(path, options.get(path), time.perf_counter() - started))
        predicted, confidence, right = self._crossed(options)
        chosen = {path: max(tried, key=lambda each: each.right.mean()) for path, tried in options.items()}
        rows = np.flatnonzero(self.dataset.sampled)
        agreed = self._agreed(predicted)
        reports[0].agreement = float(right.mean())
        reports[0].score = float(self.coverage(confidence[self.dataset.group[rows]], agreed[rows]))
        reports[0].seconds = time.perf_counter() - began
        bases = sorted({base for tried in chosen.values() if (base := tried.base)})
        reports[0].base_model = ", ".join(bases) or None
        self._tell("search done", 1.0)
        return SearchResult(reports, "fields", confidence, predicted, lambda: self._fit(chosen))

    # What there is to learn.

    def _fields(self) -> dict[Path, list[Plan]]:
        """The fields with the ways to learn each; none for a constant one.

        Raises:
            TrainingError: there is no field, or one can be learnt in no way.
        """
        if not any(self.table.answers):
            raise TrainingError("too few answers have the same fields.")
        fields: dict[Path, list[Plan]] = {}
        for path in self.table.paths:
            column = self.table.column(path)
            fields[path] = self.table.plans(path) if len({v for v in column if v is not None}) > 1 else []
            if not fields[path] and len({v for v in column if v is not None}) > 1:
                raise TrainingError(self.table.why_not(path), hint="Answers with such a field stay with the teacher.")
        if sum(map(len, fields.values())) > _MANY and "lexical" in self.families:
            self.families = ("lexical",)
        return fields

    def _tried(self, path: Path, plans: Sequence[Plan]) -> list[Tried]:
        found, why = [], ""
        for plan in plans:
            try:
                found.append(self._try(path, plan))
            except TrainingError as error:
                why = str(error)
        if not found:
            raise TrainingError(f"field {named(path)} cannot be learnt: {why}")
        return found

    def _try(self, path: Path, plan: Plan) -> Tried:
        column = self.table.column(path)
        gate = self._search(path, lambda i, value, stray: plan.label(self._tokens(plan, i), value, stray))
        parts = [(item, self._search(path, says(item))) for item in plan.items]
        number = self._numbers(plan, column)
        bench, copied = self._copied(plan, column)
        found: list[Certainty] = []
        for i in range(len(column)):
            said = [(item, Choice(r.predicted[i], float(r.confidence[i]))) for item, r in parts]
            amount = Choice(number.predicted[i], float(number.confidence[i])) if number else None
            own = copied[i] if copied else None
            found.append(combined(gate.predicted[i], float(gate.confidence[i]), own, said, amount))
        values = [each.value for each in found]
        right = np.array([self._same(v, w) for v, w in zip(values, column, strict=True)], bool)
        return Tried(plan, gate, number, parts, bench, values, np.stack([each.figures for each in found]), right)

    def _same(self, value: str | None, teachers: str | None) -> bool:
        """Whether an encoded value of a field counts as the teacher's."""
        if value is None or teachers is None:
            return False
        return value == teachers or self.tolerance is not None and near(value, teachers, self.tolerance)

    def _numbers(self, plan: Plan, column: list[str | None]) -> SearchResult | None:
        if plan.number is None or self.tolerance is None:
            return None
        return search_number(
            column,
            format=plan.number,
            tolerance=self.tolerance,
            bench=self.benches[self._everything],
            trials=Trials(self.models, self.policy, self._within if self.progress else None, self.budget),
            families=self.families,
        )

    def _tokens(self, plan: Plan, row: int) -> Tokens | None:
        return self.table.tokens[row] if plan.form else None

    def _copied(self, plan: Plan, column: list[str | None]) -> tuple[CopyBench | None, list[Copied] | None]:
        if not plan.form:
            return None, None
        bench = CopyBench(self.table.tokens, [v if v != MISSING else None for v in column], plan.form)
        return bench, bench.crossed(self.folds % _COPY_FOLDS)

    def _search(self, path: Path, label: Callable[[int, str | None, str], str]) -> SearchResult:
        """The search of one part: once for all fields that vary alike."""
        rows = range(len(self.table.inputs))
        labels = [label(i, v, f"<stray {i}>") for i, v in zip(rows, self.table.column(path), strict=True)]
        key = tuple(labels)
        if key not in self.searches:
            memo: dict[tuple[int, str | None], str] = {}
            answers = []
            for at, (group, call) in enumerate(zip(self.dataset.group.tolist(), self.calls, strict=True)):
                value = None if call is None else call.values.get(path, MISSING)
                if (group, value) not in memo:
                    memo[group, value] = label(group, value, f"<stray call {at}>")
                answers.append(memo[group, value])
            self.searches[key] = search(
                replace(self.dataset, labels=labels, answers=answers),
                policy=self.policy,
                base_models=self.models,
                seed=self.seed,
                families=self.families,
                progress=self._within if self.progress else None,
                benches=self.benches,
                budget=self.budget,
                kept=self.kept,
            )
        return self.searches[key]

    # What can be said of whole answers.

    def _crossed(self, options: dict[Path, list[Tried]]) -> tuple[list[str], NDArray[np.float64], _Bools]:
        """Answers, confidences and whether the answers are right, each fold decided by what the other folds show."""
        n = len(self.table.inputs)
        predicted, confidence, right = [""] * n, np.zeros(n), np.zeros(n, bool)
        style = Style.of([each for each in self.table.answers if each])
        orders = [None if each is None else tuple(each.values) for each in self.table.answers]
        for fold in np.unique(self.folds):
            held, rest = self.folds == fold, self.folds != fold
            if not rest.any():
                continue
            chosen = {path: max(tried, key=lambda t: t.merit(rest)) for path, tried in options.items()}
            known = _orders([order for order, other in zip(orders, rest, strict=True) if other])
            all_right = self._all_right(chosen)
            figures = whole_figures(sure(chosen, rest))
            trust = Trust.fit(figures[rest], all_right[rest]).of(figures)
            for i in np.flatnonzero(held):
                values = self._values(chosen, int(i))
                answer = None if values is None else written(values, known, style)
                if answer is not None and not any(tried.closed[i] for tried in chosen.values()):
                    predicted[i], confidence[i], right[i] = answer, trust[i], all_right[i]
        return predicted, confidence, right

    def _all_right(self, chosen: dict[Path, Tried]) -> _Bools:
        """Whether every field of an answer is right, shape (n,)."""
        right = np.array([each is not None for each in self.table.answers], bool)
        for tried in chosen.values():
            right &= tried.right
        return right

    def _values(self, chosen: dict[Path, Tried], row: int) -> dict[Path, str] | None:
        """The fields that are given for an input; None if nothing was found for one of them."""
        values: dict[Path, str] = {}
        for path in self.table.paths:
            value = chosen[path].values[row] if path in chosen else self._constant(path)
            if value is None:
                return None
            if value != MISSING:
                values[path] = value
        return values

    def _constant(self, path: Path) -> str:
        return next(v for v in self.table.column(path) if v is not None)

    def _agreed(self, predicted: list[str]) -> _Bools:
        """Whether what is given to calls counts as what the teacher answered, as it is written, shape (m,)."""
        pairs = zip(self.dataset.group.tolist(), self.dataset.answers, strict=True)
        return np.array([bool(predicted[g]) and self.same(predicted[g], answer) for g, answer in pairs], bool)

    def _fit(self, chosen: dict[Path, Tried]) -> FieldsStudent:
        everything = np.ones(len(self.table.inputs), bool)
        parts: dict[int, tuple[int, Part]] = {}

        def part(result: SearchResult) -> int:
            if id(result) not in parts:
                student = result.fit()
                assert isinstance(student, LinearStudent | NumberStudent)
                parts[id(result)] = len(parts), student
            return parts[id(result)][0]

        fields = []
        for path in self.table.paths:
            tried = chosen.get(path)
            if tried is None:
                fields.append(Field(path, "constant", self._constant(path)))
                continue
            fields.append(
                Field(
                    path,
                    tried.plan.kind,
                    gate=part(tried.gate),
                    copier=tried.bench.fit(np.arange(len(everything))) if tried.bench else None,
                    items=tuple((item, part(result)) for item, result in tried.parts),
                    trust=Trust.fit(tried.figures, tried.right),
                    number=part(tried.number) if tried.number else -1,
                )
            )
        answers: list[Structured] = [each for each in self.table.answers if each]
        trust = Trust.fit(whole_figures(sure(chosen, everything)), self._all_right(chosen))
        orders = list(_orders([tuple(each.values) for each in answers]).values())
        return FieldsStudent.of(Style.of(answers), fields, orders, [student for _, student in parts.values()], trust)

    # What is told.

    def _report(self, path: Path, tried: list[Tried] | None, seconds: float) -> CandidateReport:
        name = f"fields/{named(path)}"
        if tried is None:
            return CandidateReport(name, "fields", None, agreement=1.0, seconds=seconds, note="always the same")
        best = max(tried, key=lambda each: each.right.mean())
        agreement = float(best.right.mean())
        note = f"{best.described}; agreement {agreement:.3f}"
        return CandidateReport(name, "fields", best.base, agreement=agreement, seconds=seconds, note=note)

    def _tell(self, what: str, share: float) -> None:
        if self.progress:
            self.progress(what, share)
            self._at = share

    _at = 0.0

    def _within(self, what: str, share: float) -> None:
        if self.progress:
            self.progress(what, self._at)


def _orders(orders: Sequence[tuple[Path, ...] | None]) -> dict[frozenset[Path], tuple[Path, ...]]:
    """The combinations of fields that came, each in its most frequent order."""
    counts = Counter(order for order in orders if order is not None)
    return {frozenset(order): order for order, _ in sorted(counts.items(), key=lambda item: item[1])}
