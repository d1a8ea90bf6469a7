"""Copying: which span of an input the teacher copies into a field, by a linear score of tokens and their places.

A span's score is the sum of what its first token, its last, those inside and those around it weigh, of its length, and
of whether the field had this value before. Training is a conditional logit (McFadden 1974) over all spans of an input:
the spans that give the teacher's value against all others. A value that came once in training is treated as unknown
there, so that what is learnt from it holds for values never seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..types import Slots
from .spans import MAX_LENGTH, Reading, Tokens, copies, tokens

__all__ = ["Copied", "Copier", "CopyBench"]

_Array = NDArray[np.float64]
_ROLES = 5  # before, first, inside, last, after
_PENALTY = 0.5  # of squared weights, against a log-likelihood sum
_STEPS = 40
_MOST_SPANS = 400_000  # spans trained on, the latest inputs
_MOST_TOKENS = 100_000  # tokens of the inputs of a bench
_MIN_INPUTS = 2  # that a feature must occur in
_SHOWN = 1e-3  # probability of spans that are looked at when equal values are joined
_KNOWN = 2  # features of a span as a whole
_NONE = np.zeros(0, np.intp)


class Copied(NamedTuple):
    """What a copier found.

    Attributes:
        value: encoded; None if the input has no span.
        probability: in [0, 1], of the value, wherever it stands.
        second: in [0, 1], of the next likely value.
        known: whether training had this value.
    """

    value: str | None
    probability: float
    second: float
    known: bool


def _key(each: Tokens, first: int, last: int) -> tuple[str, ...]:
    return tuple([each.word(i).casefold() for i in range(first, last + 1)])


@dataclass(frozen=True)
class Copier:
    """A trained copier.

    Attributes:
        form: how a copied part is written, see `jitr_core.students.spans.FORMS`.
        numbers: only numbers are copied.
        length: tokens of the longest span; numbers may have more.
        vocabulary: column of each feature.
        weights: shape (v, 5), of each feature in each role.
        lengths: shape (length,), of spans of 1, 2, … tokens.
        whole: shape (2,), of a value that training had: per unit of log(1 + times), and at all.
        known: how often training had a value, by its casefolded tokens.
    """

    form: str
    numbers: bool
    length: int
    vocabulary: dict[str, int]
    weights: _Array
    lengths: _Array
    whole: _Array
    known: dict[tuple[str, ...], int]

    @cached_property
    def openings(self) -> frozenset[str]:
        """First tokens of the known values."""
        return frozenset(key[0] for key in self.known)

    def copy(self, slots: Slots | Tokens) -> Copied:
        """What the teacher would copy from an input."""
        each = slots if isinstance(slots, Tokens) else tokens(slots)
        reading = Reading.of([each], self.length, numbers=self.numbers)
        if not len(reading.first):
            return Copied(None, 0.0, 0.0, False)
        columns: list[int] = []
        edges = [0]
        for names in each.features:
            columns += [self.vocabulary[name] for name in names if name in self.vocabulary]
            edges.append(len(columns))
        added = np.concatenate([np.zeros((1, _ROLES)), np.cumsum(self.weights[columns], axis=0)])
        sums = added[edges[1:]] - added[edges[:-1]]
        times = _times(each, reading, self.known, self.openings)
        return _best(
            _Spans.of(reading).scores(sums, self.lengths, _known(times) @ self.whole), reading, times, self.form
        )

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Settings and arrays to store."""
        settings = {
            "form": self.form,
            "numbers": self.numbers,
            "length": self.length,
            "vocabulary": sorted(self.vocabulary, key=lambda name: self.vocabulary[name]),
            "known": [[list(key), times] for key, times in sorted(self.known.items())],
        }
        return settings, {"weights": self.weights, "lengths": self.lengths, "whole": self.whole}

    @classmethod
    def restore(cls, settings: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Copier:
        """The inverse of `state`."""
        return cls(
            form=settings["form"],
            numbers=bool(settings["numbers"]),
            length=int(settings["length"]),
            vocabulary={name: i for i, name in enumerate(settings["vocabulary"])},
            weights=arrays["weights"],
            lengths=arrays["lengths"],
            whole=arrays["whole"],
            known={tuple(key): int(times) for key, times in settings["known"]},
        )


def _times(each: Tokens, reading: Reading, known: dict[tuple[str, ...], int], openings: frozenset[str]) -> _Array:
    """How often training had each span of one input; `openings` are the first tokens of the known values."""
    times = np.zeros(len(reading.first))
    if known:
        opening = np.array([each.word(i).casefold() in openings for i in range(len(each.tokens))], bool)
        for span in np.flatnonzero(opening[reading.first]):
            times[span] = known.get(_key(each, int(reading.first[span]), int(reading.last[span])), 0)
    return times


def _known(times: _Array) -> _Array:
    return np.column_stack([np.log1p(times), times > 0])


def _best(scores: _Array, reading: Reading, times: _Array, form: str) -> Copied:
    """The likeliest value of one input: spans that give the same value count together."""
    chance = np.exp(scores - scores.max())
    chance /= chance.sum()
    values: dict[str, float] = {}
    had: set[str] = set()
    for span in np.flatnonzero(chance >= min(_SHOWN, float(chance.max()))):
        value = reading.written(int(span), form)
        if value is not None:
            values[value] = values.get(value, 0.0) + float(chance[span])
            if times[span]:
                had.add(value)
    ranked = sorted(values, key=lambda value: (-values[value], value))
    if not ranked:
        return Copied(None, 0.0, 0.0, False)
    second = values[ranked[1]] if len(ranked) > 1 else 0.0
    return Copied(ranked[0], min(values[ranked[0]], 1.0), second, ranked[0] in had)


@dataclass(frozen=True, slots=True)
class _Spans:
    """Spans with what is around them: shape (s,) each; 0 and False where nothing is before or after in the line."""

    first: NDArray[np.intp]
    last: NDArray[np.intp]
    before: NDArray[np.intp]
    after: NDArray[np.intp]
    has_before: NDArray[np.bool_]
    has_after: NDArray[np.bool_]

    @classmethod
    def of(cls, reading: Reading) -> _Spans:
        lines = np.concatenate(
            [_NONE, *(np.array([t.line for t in e.tokens], np.intp) + (i << 20) for i, e in enumerate(reading.inputs))]
        )
        edges = np.concatenate([[-1], lines, [-1]])
        here = lines[reading.first] if len(lines) else lines
        has_before, has_after = edges[reading.first] == here, edges[reading.last + 2] == here
        before, after = np.where(has_before, reading.first - 1, 0), np.where(has_after, reading.last + 1, 0)
        return cls(reading.first, reading.last, before, after, has_before, has_after)

    def take(self, rows: NDArray[np.intp], shift: NDArray[np.intp]) -> _Spans:
        """Some of the spans, their tokens counted anew: each span's by so many more."""
        before, after = self.has_before[rows], self.has_after[rows]
        return _Spans(
            self.first[rows] + shift,
            self.last[rows] + shift,
            np.where(before, self.before[rows] + shift, 0),
            np.where(after, self.after[rows] + shift, 0),
            before,
            after,
        )

    def scores(self, sums: _Array, lengths: _Array, whole: _Array) -> _Array:
        """Scores, shape (s,), from the weights of each token in each role, shape (t, 5)."""
        inside = np.concatenate([[0.0], np.cumsum(sums[:, 2])])
        found: _Array = (
            sums[self.before, 0] * self.has_before
            + sums[self.first, 1]
            + inside[self.last + 1]
            - inside[self.first]
            + sums[self.last, 3]
            + sums[self.after, 4] * self.has_after
            + lengths[np.minimum(self.last - self.first, len(lengths) - 1)]
            + whole
        )
        return found

    def shares(self, residual: _Array, count: int) -> _Array:
        """How much of each span's residual falls on each of `count` tokens in each role: the gradient of `scores`."""

        def gathered(at: NDArray[np.intp], weight: _Array) -> _Array:
            return np.asarray(np.bincount(at, weight, minlength=count + 1), np.float64)

        inside = np.cumsum(gathered(self.first, residual) - gathered(self.last + 1, residual))
        columns = [
            gathered(self.before, residual * self.has_before),
            gathered(self.first, residual),
            inside,
            gathered(self.last, residual),
            gathered(self.after, residual * self.has_after),
        ]
        return np.column_stack(columns)[:count]


class CopyBench:
    """Inputs from which a field was copied, with their features, computed once for all folds."""

    def __init__(self, inputs: Sequence[Tokens], values: Sequence[str | None], form: str) -> None:
        """A bench. Where the inputs are very many or long, the latest are learnt from.

        Args:
            inputs: n inputs.
            values: n encoded values; None where the field was not copied.
            form: how copies are written.
        """
        self.form = form
        self._slots = [each.texts for each in inputs]
        taught = [
            (i, gold)
            for i, (each, value) in enumerate(zip(inputs, values, strict=True))
            if value is not None and (gold := list(copies(each, value, form)))
        ]
        sizes = np.array([len(inputs[i].tokens) for i, _ in taught], np.intp)
        taught = [each for each, far in zip(taught, np.cumsum(sizes[::-1])[::-1], strict=True) if far <= _MOST_TOKENS]
        self._rows = np.array([i for i, _ in taught], np.intp)
        self.inputs = [inputs[i] for i, _ in taught]
        golds = [gold for _, gold in taught]
        lengths = [last - first + 1 for gold in golds for first, last in gold]
        self.length = min(max(lengths, default=1), MAX_LENGTH)
        self.numbers = any((values[i] or "")[0] in "-0123456789" for i in self._rows)
        self.reading = Reading.of(self.inputs, self.length, numbers=self.numbers)
        self.spans = _Spans.of(self.reading)
        self.row = np.repeat(np.arange(len(self.inputs)), np.diff(self.reading.edges))
        self.gold = self._gold(golds)
        self.keys = [_key(each, *gold[0]) for each, gold in zip(self.inputs, golds, strict=True)]
        self.taught = np.zeros(len(self.inputs), bool)
        self.taught[self.row[self.gold]] = True
        self._match()

    def _gold(self, golds: list[list[tuple[int, int]]]) -> NDArray[np.bool_]:
        wanted = {
            (int(start) + first, int(start) + last)
            for start, gold in zip(self.reading.offsets, golds, strict=False)
            for first, last in gold
        }
        pairs = zip(self.reading.first.tolist(), self.reading.last.tolist(), strict=True)
        return np.array([pair in wanted for pair in pairs], bool)

    def _match(self) -> None:
        """Which spans are which of the values."""
        ids = {key: i for i, key in enumerate(dict.fromkeys(self.keys))}
        self._ids = ids
        marked = {key: i + 1 for key, i in ids.items()}
        openings = frozenset(key[0] for key in marked)
        readings = [(each, Reading.of([each], self.length, numbers=self.numbers)) for each in self.inputs]
        found = [_times(each, reading, marked, openings) for each, reading in readings]
        self._value = np.concatenate([np.zeros(0), *found]).astype(np.intp) - 1  # −1: none
        self._own = np.array([ids[key] for key in self.keys], np.intp)

    def _times(self, rows: NDArray[np.intp]) -> _Array:
        """How often the inputs `rows` had the value of each span, each input's own left out."""
        counts = np.append(np.bincount(self._own[rows], minlength=len(self._ids)), 0).astype(float)
        times = counts[self._value]
        among = np.zeros(len(self.inputs), bool)
        among[rows] = True
        times[among[self.row] & (self._value >= 0) & (self._value == self._own[self.row])] -= 1
        return times

    def fit(self, rows: NDArray[np.intp]) -> Copier | None:
        """A copier trained on some of the n inputs; None if nothing was copied from them."""
        rows = np.flatnonzero(np.isin(self._rows, rows) & self.taught)
        sizes = np.diff(self.reading.edges)[rows]
        rows = rows[np.cumsum(sizes[::-1])[::-1] <= max(_MOST_SPANS, int(sizes[-1]) if len(sizes) else 0)]
        if not len(rows):
            return None
        counts = Counter(name for i in rows for name in {name for names in self.inputs[i].features for name in names})
        vocabulary = {name: i for i, name in enumerate(sorted(n for n, c in counts.items() if c >= _MIN_INPUTS))}
        among = np.zeros(len(self.inputs), bool)
        among[rows] = True
        chosen = np.flatnonzero(among[self.row])
        starts = np.zeros(len(self.inputs), np.intp)
        starts[rows] = np.cumsum([0, *(len(self.inputs[i].tokens) for i in rows[:-1])])
        spans = self.spans.take(chosen, (starts - self.reading.offsets[:-1])[self.row[chosen]])
        weights, lengths, whole = self._solve(
            self._matrix(rows, vocabulary), spans, chosen, _known(self._times(rows)[chosen])
        )
        known = Counter(self.keys[i] for i in rows)
        return Copier(self.form, self.numbers, self.length, vocabulary, weights, lengths, whole, dict(known))

    def _matrix(self, rows: NDArray[np.intp], vocabulary: dict[str, int]) -> Any:
        """Features of the tokens of some inputs: sparse, shape (t, v)."""
        from scipy.sparse import csr_matrix

        columns: list[int] = []
        edges = [0]
        for i in rows:
            for names in self.inputs[i].features:
                columns += [vocabulary[name] for name in names if name in vocabulary]
                edges.append(len(columns))
        return csr_matrix((np.ones(len(columns)), columns, edges), shape=(len(edges) - 1, len(vocabulary)))

    def _solve(
        self, matrix: Any, spans: _Spans, chosen: NDArray[np.intp], known: _Array
    ) -> tuple[_Array, _Array, _Array]:
        """Weights of largest penalised likelihood, by quasi-Newton steps (L-BFGS)."""
        from scipy.optimize import minimize

        gold, row = self.gold[chosen], self.row[chosen]
        starts = np.flatnonzero(np.append(True, row[1:] != row[:-1]))
        each = np.cumsum(np.append(True, row[1:] != row[:-1])) - 1
        sizes = matrix.shape[1] * _ROLES, self.length, _KNOWN
        transposed = matrix.T.tocsr()
        length = np.minimum(spans.last - spans.first, self.length - 1)

        def loss(flat: _Array) -> tuple[float, _Array]:
            own, lengths, whole = np.split(flat, np.cumsum(sizes)[:-1])
            scores = spans.scores(matrix @ own.reshape(-1, _ROLES), lengths, known @ whole)
            chance = np.exp(scores - np.maximum.reduceat(scores, starts)[each])
            right = chance * gold
            total, good = np.add.reduceat(chance, starts), np.maximum(np.add.reduceat(right, starts), 1e-300)
            residual = chance / total[each] - right / good[each]
            gradient = np.concatenate(
                [
                    (transposed @ spans.shares(residual, matrix.shape[0])).ravel(),
                    np.bincount(length, residual, minlength=self.length),
                    residual @ known,
                ]
            )
            value = np.log(total).sum() - np.log(good).sum() + 0.5 * _PENALTY * flat @ flat
            return float(value), gradient + _PENALTY * flat

        found = minimize(loss, np.zeros(sum(sizes)), jac=True, method="L-BFGS-B", options={"maxiter": _STEPS}).x
        own, lengths, whole = np.split(found, np.cumsum(sizes)[:-1])
        return own.reshape(-1, _ROLES), lengths, whole

    def crossed(self, folds: NDArray[np.intp]) -> list[Copied]:
        """What copiers find in inputs they were not trained on.

        Args:
            folds: shape (n,).
        """
        found = [Copied(None, 0.0, 0.0, False)] * len(self._slots)
        for fold in np.unique(folds):
            copier = self.fit(np.flatnonzero(folds != fold))
            if copier is not None:
                for i in np.flatnonzero(folds == fold):
                    found[i] = copier.copy(self._slots[i])
        return found
