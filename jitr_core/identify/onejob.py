"""Which calls are one job, judged by their answers, and how its question is told from other text. NumPy, background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["MIN_GROUP", "Gate", "Pieces", "fit_gate", "groups"]

MIN_GROUP = 64
"""Calls below which nothing is taken for a job."""

MAX_BRANCHES = 32
"""Sets of calls that are judged in one look."""

MIN_Z = 4.0
"""Standard errors by which answers must be foretold better than by chance, held-out. With opposite questions mixed half
and half they are not foretold at all, however alike the wordings."""

MIN_KAPPA = 0.25
"""Smallest agreement of foretold answers beyond chance, at most 1: what a small share of opposite questions lowers."""

MAX_WORDING_Z = 2.5
"""Standard errors by which a question's wording may tell whether its answer is foretold right. Above it some wordings
are answered the other way round."""

CUTS = (2, 3, 4)
"""Numbers of kinds that calls are cut into, by wording and by text."""

MIN_KIND = 16
"""Calls that a kind needs to be judged."""

MIN_SHARED = 0.5
"""Share of answers, in [0, 1], that a kind of wording must have in common with the others: what is answered hangs on
the text. Of a kind of text that gets other answers ("sports") nothing can be said."""

MAX_GAP_Z = 2.0
"""Standard errors by which the other calls may foretell a kind's answers worse than the kind itself does."""

MIN_KEPT = 0.5
"""Share of its own kappa that must be kept when the others foretell a kind's answers."""

MIN_ACROSS_Z = 2.0
"""Standard errors by which the other calls must foretell a kind's answers better than by chance, where the kind has
twice `MIN_KIND` calls."""

NEIGHBOURS = 8
"""Neighbours that say which answers belong together."""

MIN_LIFT = 0.5
"""How often alike questions must get one of two answers and the other, as a share of how often both get the same."""

RIDGE = 0.3
"""Regularisation of the functions from text to answer; vectors have length 1."""

GATE_RIDGE = 1.0
"""Regularisation of a gate."""

FOLDS = 5
ROUNDS = 3

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pieces:
    """Pieces of texts.

    Attributes:
        vectors: shape (m, d), a unit vector a piece.
        owner: shape (m,), ascending: the text each is of, counted from 0; every text has one piece at least.
    """

    vectors: Vectors
    owner: NDArray[np.intp]

    def of(self, texts: Sequence[int]) -> Pieces:
        """The pieces of some of the texts, in ascending order, which are counted anew."""
        chosen = np.isin(self.owner, texts)
        return Pieces(self.vectors[chosen], np.unique(self.owner[chosen], return_inverse=True)[1])

    def best(self, scores: NDArray[np.floating]) -> list[int]:
        """For each text, the place of its piece with the highest score."""
        starts = np.searchsorted(self.owner, np.arange(self.owner[-1] + 2))
        return [int(a + scores[a:b].argmax()) for a, b in zip(starts[:-1], starts[1:], strict=True)]

    def densest(self) -> list[int]:
        """For each text, the place of the piece that is most like pieces of other texts."""
        likeness = self.vectors @ self.vectors.T
        likeness[self.owner[:, None] == self.owner[None, :]] = -1
        return self.best(np.sort(likeness, axis=1)[:, -5:].mean(1))


@dataclass(frozen=True, slots=True)
class Gate:
    """Tells a job's question from all other text.

    Attributes:
        weights: shape (d + 1,); the score of a unit vector is its product with the first d, plus the last.
        bound: score from which on a piece of text is the question.
        asks: for each call of the job, the place of the piece that is most likely its question.
        sure: whether that piece's score, held out, reaches the bound.
    """

    weights: NDArray[np.float64]
    bound: float
    asks: tuple[int, ...]
    sure: tuple[bool, ...]


def groups(whole: Vectors, pieces: Pieces, others: Pieces, answers: Sequence[str]) -> list[list[int]]:
    """The largest sets of calls that are one job each; calls of none are left out.

    Args:
        whole: shape (n, d), unit vectors of the prompts.
        pieces: the pieces of the n prompts.
        others: the pieces of calls that are not among them.
        answers: n answers.
    """
    found = []
    asks = pieces.vectors[pieces.densest()]
    for labels in _label_sets(asks, answers):
        members = [i for i, answer in enumerate(answers) if answer in labels]
        if len(members) >= MIN_GROUP:
            here = pieces.of(members)
            asks[members] = here.vectors[list(fit_gate(here, others, 0.5).asks)]
            found += _one_jobs(members, whole, asks, answers)
    return found


def _label_sets(asks: Vectors, answers: Sequence[str]) -> list[set[str]]:
    """Answers that belong together: alike questions get one as readily as the other."""
    names = sorted(set(answers))
    code = np.array([names.index(answer) for answer in answers])
    likeness = asks @ asks.T
    np.fill_diagonal(likeness, -1)
    nearest = np.argsort(-likeness, axis=1)[:, :NEIGHBOURS]
    counts = np.bincount(code, minlength=len(names))
    met = np.zeros((len(names), len(names)))
    for k in range(len(names)):
        met[k] = np.bincount(code[nearest[code == k]].ravel(), minlength=len(names))
    lift = (met + met.T) / np.outer(counts, counts)
    own = np.diag(lift) ** 0.5
    linked = lift >= MIN_LIFT * np.outer(own, own)
    sets: list[set[str]] = []
    left = set(range(len(names)))
    while left:
        grown = {left.pop()}
        front = set(grown)
        while front:
            front = {j for j in left if any(linked[i, j] for i in front)}
            grown |= front
            left -= front
        if len(grown) > 1:
            sets.append({names[i] for i in grown})
    return sets


def _one_jobs(members: list[int], whole: Vectors, asks: Vectors, answers: Sequence[str]) -> list[list[int]]:
    """Branches of two trees, of likeness by text and question and by question alone, that are one job; large first."""
    from scipy.cluster.hierarchy import linkage, to_tree

    found: list[list[int]] = []
    left = set(members)
    branches: list[tuple[int, ...]] = []
    for vectors in (np.hstack([whole, asks])[members], asks[members]):
        _, nodes = to_tree(linkage(vectors, "ward"), rd=True)
        large = [node for node in nodes if node.count >= MIN_GROUP]
        branches += [tuple(sorted(members[i] for i in node.pre_order())) for node in large]
    for branch in sorted(set(branches), key=lambda branch: (-len(branch), branch))[:MAX_BRANCHES]:
        if left.issuperset(branch) and _one_job(whole[list(branch)], asks[list(branch)], [answers[i] for i in branch]):
            found.append(list(branch))
            left -= set(branch)
    return found


def _one_job(whole: Vectors, asks: Vectors, said: Sequence[str]) -> bool:
    """Whether one function gives the answers, whatever the wording of the question."""
    from scipy.cluster.hierarchy import fcluster, linkage

    names = sorted(set(said))
    if len(names) < 2:
        return False
    truth = np.array([names.index(answer) for answer in said])
    right, z, kappa = _foretold(whole, truth, len(names))
    if z < MIN_Z or kappa < MIN_KAPPA:
        return False
    surplus = (right - right.mean())[:, None]
    if 0 < right.sum() < len(right):
        guess = _held_out(asks, surplus, GATE_RIDGE)[:, 0]
        if float(np.corrcoef(guess, surplus[:, 0])[0, 1]) * len(said) ** 0.5 > MAX_WORDING_Z:
            return False
    for vectors, by_text in ((asks, False), (whole, True)):
        tree = linkage(vectors, "ward")
        parts = [fcluster(tree, cut, "maxclust") for cut in CUTS]
        for kind in {tuple(part == k) for part in parts for k in set(part)}:
            some, rest = np.flatnonzero(kind), np.flatnonzero(~np.array(kind))
            if min(len(some), len(rest)) < MIN_KIND or (by_text and not _shared(truth, some, rest)):
                continue
            if not _shared(truth, some, rest) or not _alike(whole, truth, some, rest):
                return False
    return True


def _foretold(x: Vectors, truth: NDArray[np.intp], labels: int) -> tuple[NDArray[np.float64], float, float]:
    """(whether each answer is foretold right without it, standard errors above chance, kappa)."""
    spread = np.eye(labels)[truth] - np.bincount(truth, minlength=labels) / len(truth)
    return _judged(_held_out(x, spread, RIDGE).argmax(1), truth, labels)


def _judged(guess: NDArray[np.intp], truth: NDArray[np.intp], labels: int) -> tuple[NDArray[np.float64], float, float]:
    right = (guess == truth).astype(np.float64)
    chance = float(np.bincount(guess, minlength=labels) @ np.bincount(truth, minlength=labels)) / len(truth) ** 2
    if not 0 < chance < 1:
        return right, 0.0, 0.0
    above = float(right.mean()) - chance
    return right, above / (chance * (1 - chance) / len(truth)) ** 0.5, above / (1 - chance)


def _held_out(x: NDArray[np.floating], y: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    """What a ridge regression on all other rows says of each row, shape of y."""
    rows = np.column_stack([x - x.mean(0), np.ones(len(x))]).astype(np.float64)
    kernel = rows @ rows.T
    hat = np.linalg.solve(kernel + ridge * np.eye(len(rows)), kernel)
    own = np.diag(hat)[:, None]
    held: NDArray[np.float64] = (hat @ y - own * y) / np.maximum(1 - own, 1e-9)
    return held


def _shared(truth: NDArray[np.intp], some: NDArray[np.intp], rest: NDArray[np.intp]) -> bool:
    """Whether some calls get much the same answers as the rest."""
    shares = [np.bincount(truth[part], minlength=int(truth.max()) + 1) / len(part) for part in (some, rest)]
    return float(np.minimum(*shares).sum()) >= MIN_SHARED


def _alike(x: Vectors, truth: NDArray[np.intp], some: NDArray[np.intp], rest: NDArray[np.intp]) -> bool:
    """Whether some calls are answered as the rest are, as far as can be told."""
    labels = int(truth.max()) + 1
    own_right, _, own_kappa = _foretold(x[some], truth[some], labels)
    weights = _ridge(x[rest], np.eye(labels)[truth[rest]], np.ones(len(rest)), RIDGE)
    right, z, kappa = _judged(_scores(x[some], weights).argmax(1), truth[some], labels)
    both = (own_right.mean() + right.mean()) / 2
    gap = float((own_right.mean() - right.mean()) / max(2 * both * (1 - both) / len(some), 1e-9) ** 0.5)
    if gap > MAX_GAP_Z and kappa < MIN_KEPT * own_kappa:
        return False
    return z >= MIN_ACROSS_Z or len(some) < 2 * MIN_KIND


def _ridge(
    x: NDArray[np.floating], y: NDArray[np.float64], share: NDArray[np.float64], ridge: float
) -> NDArray[np.float64]:
    """Weights with the constant last; rows count by their share."""
    rows = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    weighted = rows * share[:, None]
    penalty = ridge * np.eye(rows.shape[1])
    penalty[-1, -1] = 1e-6
    return np.asarray(np.linalg.solve(weighted.T @ rows + penalty, weighted.T @ y), np.float64)


def _scores(x: NDArray[np.floating], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(x @ weights[:-1] + weights[-1], np.float64)


def fit_gate(job: Pieces, others: Pieces, quantile: float) -> Gate:
    """Learn which piece of each call of a job is its question.

    All other pieces, those of the job's own calls included, are what the question is told from (multiple-instance
    learning: each call of the job has one question, it is not known which piece).

    Args:
        job: pieces of the job's calls.
        others: pieces of other calls.
        quantile: share of the other calls, in (0, 1), that must stay below the bound.
    """
    own = len(job.owner)
    vectors = np.concatenate([job.vectors, others.vectors])
    fold = np.concatenate([job.owner, others.owner]) % FOLDS
    best = job.densest()
    scores = np.zeros(len(vectors))
    for _ in range(ROUNDS):
        positive = np.isin(np.arange(len(vectors)), best)
        for k in range(FOLDS):
            scores[fold == k] = _scores(vectors[fold == k], _gate_weights(vectors[fold != k], positive[fold != k]))
        best = job.best(scores[:own])
    rest = scores[own:]
    bound = max(0.0, float(np.quantile(rest[others.best(rest)], quantile))) if len(rest) else 0.0
    weights = _gate_weights(vectors, np.isin(np.arange(len(vectors)), best))
    return Gate(weights, bound, tuple(best), tuple(bool(scores[place] >= bound) for place in best))


def _gate_weights(pieces: Vectors, positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    n, own = len(pieces), int(positive.sum())
    share = np.where(positive, 0.5 * n / max(own, 1), 0.5 * n / max(n - own, 1))
    return _ridge(pieces, np.where(positive, 1.0, -1.0), share, GATE_RIDGE)
