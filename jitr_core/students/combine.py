"""From the scores of several heads to one answer, and to the confidence that the teacher would give the same.

Both steps have a handful of parameters. **Stack**: a log-linear pool, P(class) ∝ exp(Σ weight × score), whose weights
≥ 0 are shared by all classes. **Agreement**: a logistic regression of "the teacher agrees" on how clear the pool is,
what each head makes of the chosen class, and how reliable that class has been.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Combination", "Crossed", "Trust", "cross_combine", "fit_combination", "logistic", "sigmoid"]

_Array = NDArray[np.float64]
_TINY = 1e-6
_PRIOR = 4.0  # imagined observations of each class at the overall rate of agreement
_PENALTY = 10.0  # of squared standardised coefficients, against a log-likelihood sum
_MAX_ROWS = 6_000


@dataclass(frozen=True, slots=True)
class Combination:
    """A fitted stack and agreement model.

    Attributes:
        weights: shape (v,), of the heads, ≥ 0.
        reliability: shape (c,), agreement of answers of each class, shrunk towards the mean.
        centre, spread: shape (f,), to standardise features.
        coefficients: shape (f + 1,), the constant last.
    """

    weights: _Array
    reliability: _Array
    centre: _Array
    spread: _Array
    coefficients: _Array

    def decide(self, scores: NDArray[np.float32]) -> tuple[NDArray[np.intp], _Array]:
        """Answers and confidences.

        Args:
            scores: shape (v, n, c), of each head.

        Returns:
            Chosen classes, shape (n,), and confidences in [0, 1], shape (n,).
        """
        pooled = _pool(scores, self.weights)
        chosen = pooled.argmax(axis=1)
        return chosen, self.confidence(scores, pooled, chosen)

    def confidence(self, scores: NDArray[np.float32], pooled: _Array, chosen: NDArray[np.intp]) -> _Array:
        """Confidences in [0, 1] in the chosen classes, shape (n,)."""
        features = _features(scores, pooled, chosen, self.reliability[chosen])
        standard = (features - self.centre) / self.spread
        return sigmoid(standard @ self.coefficients[:-1] + self.coefficients[-1])


@dataclass(frozen=True, slots=True)
class Crossed:
    """What a candidate did on inputs it had not seen, all of shape (n,).

    Attributes:
        chosen: class of the answer.
        confidence: in [0, 1].
        logp: log-probability it gave the right class.
    """

    chosen: NDArray[np.intp]
    confidence: _Array
    logp: _Array


def fit_combination(scores: NDArray[np.float32], labels: NDArray[np.intp], folds: NDArray[np.intp]) -> Combination:
    """Fit stack and agreement on cross-fitted scores.

    Args:
        scores: shape (v, n, c), cross-fitted.
        labels: shape (n,), the right class, −1 for an answer no class stands for.
        folds: shape (n,).
    """
    weights = _fit_weights(scores, labels)
    pooled = _pool(scores, weights)
    chosen = pooled.argmax(axis=1)
    right = chosen == labels
    classes = scores.shape[2]
    reliability = np.empty(len(labels))
    for fold in np.unique(folds):
        held = folds == fold
        reliability[held] = _reliability(chosen[~held], right[~held], classes)[chosen[held]]
    features = _features(scores, pooled, chosen, reliability)
    centre, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    coefficients = logistic((features - centre) / spread, right)
    return Combination(weights, _reliability(chosen, right, classes), centre, spread, coefficients)


def cross_combine(
    scores: NDArray[np.float32], labels: NDArray[np.intp], folds: NDArray[np.intp]
) -> tuple[NDArray[np.intp], _Array, _Array]:
    """Cross-fitted answers: each fold is decided by a combination fitted on the other folds.

    Args:
        scores: shape (v, n, c), cross-fitted.
        labels: shape (n,), see `fit_combination`.
        folds: shape (n,).

    Returns:
        Chosen classes, confidences, and log-probabilities of the right classes, all of shape (n,).
    """
    n = len(labels)
    chosen, confidence, logp = np.zeros(n, np.intp), np.zeros(n), np.zeros(n)
    for fold in np.unique(folds):
        held = np.flatnonzero(folds == fold)
        rest = np.flatnonzero(folds != fold)
        if not len(rest):
            continue
        model = fit_combination(scores[:, rest], labels[rest], folds[rest])
        pooled = _pool(scores[:, held], model.weights)
        chosen[held] = pooled.argmax(axis=1)
        confidence[held] = model.confidence(scores[:, held], pooled, chosen[held])
        known = labels[held] >= 0
        picked = pooled[np.arange(len(held)), np.maximum(labels[held], 0)]
        logp[held] = np.where(known, np.log(np.maximum(picked, _TINY)), np.log(_TINY))
    return chosen, confidence, logp


def _pool(scores: NDArray[np.floating], weights: _Array) -> _Array:
    """Pooled probabilities, shape (n, c)."""
    logits: _Array = np.tensordot(weights, scores.astype(np.float64), axes=1)
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def _features(scores: NDArray[np.float32], pooled: _Array, chosen: NDArray[np.intp], reliability: _Array) -> _Array:
    """Shape (n, 2 + 2v + 1): clearness of the pool, each head's score and lead of the chosen class, reliability."""
    rows = np.arange(len(chosen))
    best = pooled[rows, chosen]
    columns = [
        np.log(best + _TINY) - np.log(1 - best + _TINY),
        np.log(best + _TINY) - np.log(_second(pooled, chosen) + _TINY),
    ]
    for each in scores:
        own = each[rows, chosen]
        columns += [own, own - _second(each, chosen)]
    return np.column_stack([*columns, reliability])


def _second(values: NDArray[np.floating], chosen: NDArray[np.intp]) -> NDArray[np.floating]:
    """The largest value beside the chosen class, shape (n,); 0 if there is but one class."""
    if values.shape[1] == 1:
        return np.zeros(len(values))
    others = values.copy()
    others[np.arange(len(chosen)), chosen] = -np.inf
    found: NDArray[np.floating] = others.max(axis=1)
    return found


def _reliability(chosen: NDArray[np.intp], right: NDArray[np.bool_], classes: int) -> _Array:
    mean = right.mean() if len(right) else 0.5
    hits = np.bincount(chosen, right, minlength=classes)
    return (hits + _PRIOR * mean) / (np.bincount(chosen, minlength=classes) + _PRIOR)


def _fit_weights(scores: NDArray[np.float32], labels: NDArray[np.intp]) -> _Array:
    """Weights ≥ 0 of largest likelihood, by projected quasi-Newton steps (L-BFGS-B)."""
    from scipy.optimize import minimize

    known = np.flatnonzero(labels >= 0)
    known = known[:: max(1, len(known) * scores.shape[2] // (_MAX_ROWS * 64), len(known) // _MAX_ROWS)]
    v = len(scores)
    start = np.full(v, 6.0 / v)
    if not len(known):
        return start
    cases, right = scores[:, known].astype(np.float64), labels[known]
    rows = np.arange(len(known))

    def loss(weights: _Array) -> tuple[float, _Array]:
        pooled = _pool(cases, weights)
        value = -np.log(np.maximum(pooled[rows, right], 1e-12)).sum() + 0.005 * weights @ weights
        pooled[rows, right] -= 1
        return float(value), np.einsum("nc,vnc->v", pooled, cases) + 0.01 * weights

    found: _Array = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, 60)] * v).x
    return found


def logistic(features: _Array, right: NDArray[np.bool_]) -> _Array:
    """Penalised logistic regression by Newton's method; the constant, last, is not penalised.

    Args:
        features: shape (n, f), standardised.
        right: shape (n,).

    Returns:
        Coefficients, shape (f + 1,).
    """
    design = np.column_stack([features, np.ones(len(features))])
    penalty = np.full(design.shape[1], _PENALTY)
    penalty[-1] = _TINY
    rate = (right.sum() + 1) / (len(right) + 2)
    beta = np.zeros(design.shape[1])
    beta[-1] = np.log(rate / (1 - rate))
    # One imagined agreement and one imagined disagreement at the centre keep the constant finite.
    design = np.vstack([design, np.zeros((2, design.shape[1]))])
    design[-2:, -1] = 1
    target = np.concatenate([right.astype(np.float64), [1.0, 0.0]])
    for _ in range(30):
        p = sigmoid(design @ beta)
        gradient = design.T @ (p - target) + penalty * beta
        hessian = (design * (p * (1 - p))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        beta -= step * min(1.0, 4.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    return beta


def sigmoid(x: _Array) -> _Array:
    """1 / (1 + e⁻ˣ), without overflow."""
    found: _Array = 1 / (1 + np.exp(-np.clip(x, -35, 35)))
    return found


@dataclass(frozen=True, slots=True)
class Trust:
    """Logistic regression of "this is right" on a few figures.

    Attributes:
        centre, spread: shape (f,), to standardise.
        coefficients: shape (f + 1,), the constant last.
    """

    centre: _Array
    spread: _Array
    coefficients: _Array

    @classmethod
    def fit(cls, figures: _Array, right: NDArray[np.bool_]) -> Trust:
        """A regression.

        Args:
            figures: shape (n, f).
            right: shape (n,).
        """
        centre, spread = figures.mean(axis=0), figures.std(axis=0) + 1e-6
        return cls(centre, spread, logistic((figures - centre) / spread, right))

    def of(self, figures: _Array) -> _Array:
        """Probabilities in [0, 1], shape (n,), of figures of shape (n, f)."""
        return sigmoid((figures - self.centre) / self.spread @ self.coefficients[:-1] + self.coefficients[-1])
