"""Ridge regression on class indicators: with a kernel, on landmarks, or on sparse features.

Each solver gives two things: the model of all inputs, and for every input the scores of the model that was trained
without the input's fold. For squared loss the second follows from the first in closed form, so cross-fitting, which
certificates need, costs next to nothing. A constant is part of every kernel and serves as the bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["kernel_ridge", "landmark_ridge", "sparse_ridge"]

_Array = NDArray[np.float32]
_TOLERANCE = 1e-2  # relative residual at which conjugate gradients stop; 1e-3 changes no answer that matters
_MAX_STEPS = 80
_JITTER = 1e-4  # relative to a kernel's mean diagonal; keeps a float32 Cholesky factor well defined


def kernel_ridge(kernel: _Array, targets: _Array, folds: NDArray[np.intp], ridge: float) -> tuple[_Array, _Array]:
    """Kernel ridge regression, solved exactly.

    With G = (K + λI)⁻¹ the model without fold f predicts y_f − (G_ff)⁻¹ (G y)_f on it (the block form of the
    leave-one-out formula of kernel ridge regression).

    Args:
        kernel: shape (n, n), positive semi-definite.
        targets: shape (n, c).
        folds: shape (n,), the fold of each input.
        ridge: λ > 0.

    Returns:
        Cross-fitted scores, shape (n, c), and dual coefficients α of the model of all inputs, scores = (K + 1) α.
    """
    inverse = _inverse(kernel + 1, ridge)
    dual = inverse @ targets
    cross = np.empty_like(targets)
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold)
        cross[rows] = targets[rows] - np.linalg.solve(inverse[np.ix_(rows, rows)], dual[rows])
    return cross, dual


def landmark_ridge(
    cross_kernel: _Array, kernel: _Array, targets: _Array, folds: NDArray[np.intp], ridge: float
) -> tuple[_Array, _Array]:
    """Kernel ridge regression on the span of m landmarks (Nyström; Williams and Seeger 2001).

    Args:
        cross_kernel: shape (n, m), between inputs and landmarks.
        kernel: shape (m, m), among landmarks.
        targets: shape (n, c).
        folds: shape (n,).
        ridge: λ > 0.

    Returns:
        Cross-fitted scores, shape (n, c), and coefficients α of the landmarks, shape (m, c), scores = (K + 1) α.
    """
    from scipy.linalg import cholesky, solve_triangular

    jitter = _JITTER * float(np.trace(kernel)) / len(kernel)
    root = cholesky(kernel + 1 + jitter * np.eye(len(kernel), dtype=np.float32), lower=True, check_finite=False)
    features = solve_triangular(root, (cross_kernel + 1).T, lower=True, check_finite=False).T
    gram, moments = features.T @ features, features.T @ targets
    cross = np.empty_like(targets)
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold)
        held = features[rows]
        weights = _solve(gram - held.T @ held, moments - held.T @ targets[rows], ridge)
        cross[rows] = held @ weights
    weights = _solve(gram, moments, ridge)
    dual = solve_triangular(root, weights, lower=True, trans="T", check_finite=False)
    return cross, dual.astype(np.float32)


def sparse_ridge(features: csr_matrix, targets: _Array, folds: NDArray[np.intp], ridge: float) -> tuple[_Array, _Array]:
    """Linear ridge regression on sparse features by conjugate gradients, all folds and classes side by side.

    Args:
        features: shape (n, p).
        targets: shape (n, c).
        folds: shape (n,).
        ridge: λ > 0.

    Returns:
        Cross-fitted scores, shape (n, c), and dual coefficients α, shape (n, c), scores = (X Xᵀ + 1) α.
    """
    n, c = targets.shape
    distinct = np.unique(folds)
    # One block of columns for each fold left out, and a last one for all inputs; a mask keeps held-out rows at zero.
    mask = np.ones((n, len(distinct) + 1, 1), np.float32)
    for i, fold in enumerate(distinct):
        mask[folds == fold, i] = 0
    turned = features.T.tocsr()

    def product(vectors: _Array) -> _Array:
        flat = vectors.reshape(n, -1)
        out: _Array = (features @ (turned @ flat) + flat.sum(axis=0)).reshape(vectors.shape)
        return out

    solution = _conjugate_gradients(lambda v: mask * product(v) + ridge * v, mask * targets[:, None, :])
    scores = product(solution)
    cross = np.empty_like(targets)
    for i, fold in enumerate(distinct):
        cross[folds == fold] = scores[folds == fold, i]
    return cross, np.ascontiguousarray(solution[:, -1])


def _conjugate_gradients(apply: Any, right: _Array) -> _Array:
    """Solve apply(x) = right for many right sides at once, shape (n, blocks, c)."""
    x = np.zeros_like(right)
    residual, direction = right.copy(), right.copy()
    norm = (residual**2).sum(axis=0)
    goal = _TOLERANCE**2 * np.maximum(norm, 1e-12)
    for _ in range(_MAX_STEPS):
        if np.all(norm <= goal):
            break
        image = apply(direction)
        step = norm / np.maximum((direction * image).sum(axis=0), 1e-20)
        x += step * direction
        residual -= step * image
        fresh = (residual**2).sum(axis=0)
        direction = residual + (fresh / np.maximum(norm, 1e-20)) * direction
        norm = fresh
    return x


def _inverse(matrix: _Array, ridge: float) -> _Array:
    from scipy.linalg.lapack import spotrf, spotri

    shifted = matrix.astype(np.float32, order="F", copy=True)
    shifted[np.diag_indices_from(shifted)] += np.float32(ridge)
    factor, failed = spotrf(shifted, lower=True, overwrite_a=True)
    if failed:
        return np.linalg.pinv(matrix.astype(np.float64) + ridge * np.eye(len(matrix)), hermitian=True).astype(
            np.float32
        )
    lower, _ = spotri(factor, lower=True, overwrite_c=True)
    lower = np.tril(lower)
    full: _Array = lower + np.tril(lower, -1).T
    return full


def _solve(gram: _Array, moments: _Array, ridge: float) -> _Array:
    from scipy.linalg import solve

    shifted = gram.copy()
    shifted[np.diag_indices_from(shifted)] += np.float32(ridge)
    found: _Array = solve(shifted, moments, assume_a="pos", check_finite=False)
    return found
