"""Views: the ways an input becomes numbers. Training and serving use the same functions, one input at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base_models.models import BaseModel
from .pairs import MAX_SLOTS
from .text import normalise

__all__ = ["Landmarks", "Names", "arrange", "embedding_blocks", "embedding_vector"]

_Array = NDArray[np.float32]
_WORDLESS = re.compile(r"[\W_]+")
_AT_ONCE = 500  # inputs whose distances are in memory together


def arrange(slots: Sequence[str], count: int) -> tuple[str, ...]:
    """The slots as exactly `count` texts: missing ones are empty, surplus ones join the last.

    Example:
        >>> arrange(("a", "b", "c"), 2)
        ('a', 'b c')
    """
    if len(slots) <= count:
        return (*slots, *[""] * (count - len(slots)))
    return (*slots[: count - 1], " ".join(slots[count - 1 :]))


def embedding_blocks(model: BaseModel, slots: int) -> list[tuple[str, int]]:
    """Names and widths of the parts of `embedding_vector`."""
    if not 2 <= slots <= MAX_SLOTS:
        return list(model.blocks)
    width = model.blocks[0][1]
    blocks = [(name, each * slots) for name, each in model.blocks]
    return [*blocks, ("gap", width * (slots * (slots - 1) // 2))]


def embedding_vector(embed: Callable[[str], _Array], blocks: Sequence[tuple[str, int]], slots: Sequence[str]) -> _Array:
    """One input as a vector, shape (sum of widths of `embedding_blocks`,).

    Up to `MAX_SLOTS` slots are embedded each, beside the absolute differences of every two ("gap"); more are joined.

    Args:
        embed: gives the embedding of a text.
        blocks: the base model's blocks.
        slots: normalised texts, as many as the task has.
    """
    if not 2 <= len(slots) <= MAX_SLOTS:
        return embed(" ".join(slots))
    vectors = [embed(slot) for slot in slots]
    parts, start = [], 0
    for _, width in blocks:
        parts += [v[start : start + width] for v in vectors]
        start += width
    first = blocks[0][1]
    parts += [np.abs(a[:first] - b[:first]) for a, b in combinations(vectors, 2)]
    return np.concatenate(parts)


@dataclass(frozen=True, slots=True)
class Names:
    """The answers themselves, embedded: an input close to what an answer says speaks for that answer.

    Attributes:
        centre: shape (w,), mean embedding of the training inputs, which is left out of the comparison.
        points: shape (c, w), embedding of each answer's words, centred on their own mean; zero if it has none.
    """

    centre: _Array
    points: _Array

    @classmethod
    def fit(cls, vectors: _Array, model: BaseModel, answers: Sequence[str]) -> Names:
        """Names of the answers.

        Args:
            vectors: shape (n, d), embeddings of the training inputs.
            model: what embedded them.
            answers: c answers.
        """
        width = model.blocks[0][1]
        found = np.zeros((len(answers), width), np.float32)
        worded = []
        for i, answer in enumerate(answers):
            text = _WORDLESS.sub(" ", normalise(answer)).strip()
            if text:
                found[i] = model.embed(text)[:width]
                worded.append(i)
        if worded:
            found[worded] -= found[worded].mean(axis=0)
        return cls(vectors[:, :width].mean(axis=0), found)

    def scores(self, vectors: _Array) -> _Array:
        """Likeness of inputs and answers, shape (n, c).

        Args:
            vectors: shape (n, d).
        """
        centred = vectors[:, : len(self.centre)] - self.centre
        norm = np.sqrt((centred**2).sum(axis=1, keepdims=True))
        found: _Array = (centred / np.maximum(norm, 1e-6)) @ self.points.T
        return found


@dataclass(frozen=True, slots=True)
class Landmarks:
    """Training inputs that kernels measure distances to.

    Attributes:
        names: of the blocks a vector consists of.
        edges: shape (b + 1,), where blocks begin and end.
        scale: shape (b,), one over the mean squared distance of training inputs in that block.
        parts: shape (m, width) each, their blocks: they are most of what a student takes in memory, and there once.
    """

    names: tuple[str, ...]
    edges: tuple[int, ...]
    scale: _Array
    parts: tuple[_Array, ...] = field(repr=False)
    _squares: _Array = field(repr=False)

    @classmethod
    def of(cls, names: Sequence[str], edges: Sequence[int], scale: _Array, points: _Array) -> Landmarks:
        """Landmarks with what can be computed beforehand, from points of shape (m, d)."""
        # Each block on its own in memory, feature by feature: a product with one vector then reads it in one sweep.
        parts = [np.ascontiguousarray(points[:, a:b]) for a, b in zip(edges, edges[1:], strict=False)]
        squares = np.stack([(part**2).sum(axis=1) for part in parts])
        return cls(tuple(names), tuple(edges), scale, tuple(parts), squares)

    @classmethod
    def fit(cls, vectors: _Array, blocks: Sequence[tuple[str, int]], chosen: NDArray[np.intp]) -> Landmarks:
        """Landmarks among the training inputs.

        Args:
            vectors: shape (n, d), of all training inputs.
            blocks: names and widths.
            chosen: which inputs become landmarks, shape (m,).
        """
        edges = (0, *np.cumsum([width for _, width in blocks]).tolist())
        scale = []
        for start, end in zip(edges, edges[1:], strict=False):
            part = vectors[:, start:end]
            # Mean squared distance of two inputs drawn at random is twice the total variance.
            spread = 2 * float(part.var(axis=0, dtype=np.float64).sum())
            scale.append(1 / spread if spread > 1e-9 else 0.0)
        names = tuple(name for name, _ in blocks)
        return cls.of(names, edges, np.array(scale, np.float32), vectors[chosen])

    def kernel(self, vectors: _Array, weights: dict[str, float], memo: dict[int, _Array] | None = None) -> _Array:
        """Gaussian kernel exp(−Σ weight × squared distance / mean squared distance), shape (n, m).

        Args:
            vectors: shape (n, d).
            weights: of the blocks that take part, by name.
            memo: keeps the distances of these vectors for other kernels.
        """
        total = np.zeros((len(vectors), self._squares.shape[1]), np.float32)
        for i, name in enumerate(self.names):
            factor = np.float32(weights.get(name, 0.0)) * self.scale[i]
            if factor:
                distance = memo[i] if memo is not None and i in memo else self._distance(vectors, i)
                if memo is not None:
                    memo[i] = distance
                total -= factor * distance
        np.exp(total, out=total)
        return total

    def nearest(
        self, vectors: _Array, memo: dict[int, _Array], but: NDArray[np.intp] | None = None
    ) -> NDArray[np.float64]:
        """Distances to the nearest landmark, shape (n,); 1 is how far apart two training inputs are on average.

        Args:
            vectors: shape (n, d).
            memo: see `kernel`.
            but: shape (n,), a landmark each that does not count; beyond the last one where all do.
        """
        blocks = [i for i, name in enumerate(self.names) if name != "gap"]
        for i in blocks:
            if i not in memo:
                memo[i] = self._distance(vectors, i)
        total = sum((self.scale[i] * memo[i] for i in blocks[1:]), self.scale[blocks[0]] * memo[blocks[0]])
        if but is not None:
            rows = np.flatnonzero(but < total.shape[1])
            total[rows, but[rows]] = np.inf
        found: NDArray[np.float64] = np.sqrt(total.min(axis=1).astype(np.float64) / len(blocks))
        return found

    def apart(self, vectors: _Array, chosen: NDArray[np.intp]) -> NDArray[np.float64]:
        """Distances of training inputs to the nearest landmark that they are not themselves, shape (n,).

        Args:
            vectors: shape (n, d), of all training inputs.
            chosen: which inputs are landmarks, shape (m,), two at least.
        """
        own = np.full(len(vectors), len(chosen))
        own[chosen] = np.arange(len(chosen))
        parts = [slice(start, start + _AT_ONCE) for start in range(0, len(vectors), _AT_ONCE)]
        return np.concatenate([self.nearest(vectors[part], {}, own[part]) for part in parts])

    def _distance(self, vectors: _Array, block: int) -> _Array:
        """Squared distances of one block, shape (n, m)."""
        own = slice(self.edges[block], self.edges[block + 1])
        part = vectors[:, own]
        points = self.parts[block]
        # A single product is left to plain loops: BLAS would share it among threads, which on busy cores takes 100
        # times as long as the product itself.
        distance: _Array = np.vecdot(points, part[0])[None] if len(part) == 1 else part @ points.T
        distance *= -2
        distance += self._squares[block]
        distance += (part**2).sum(axis=1)[:, None]
        np.maximum(distance, 0, out=distance)
        return distance

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Settings and arrays to store."""
        points = np.concatenate(self.parts, axis=1)
        return {"names": list(self.names), "edges": list(self.edges)}, {"scale": self.scale, "points": points}

    @classmethod
    def restore(cls, settings: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Landmarks:
        """The inverse of `state`."""
        return cls.of(settings["names"], settings["edges"], arrays["scale"], arrays["points"])
