"""Lexical features: TF-IDF over hashed words and character n-grams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .text import MAX_CHARS, Bag, bag

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["Vocabulary"]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The features of one kind that training inputs had, with their weights.

    Attributes:
        kind: "word" or "char", see `text.bag`.
        hashes: shape (p,), ascending.
        idf: shape (p,), inverse document frequency, > 0.
        max_chars: characters of each slot that count.
    """

    kind: str
    hashes: NDArray[np.uint64]
    idf: NDArray[np.float32]
    max_chars: int = MAX_CHARS

    @classmethod
    def fit(cls, bags: Sequence[Bag], kind: str, *, min_inputs: int = 1, max_chars: int = MAX_CHARS) -> Vocabulary:
        """The vocabulary of some inputs; labels play no part.

        Args:
            bags: features of every training input.
            kind: which features these are.
            min_inputs: inputs a feature must occur in, ≥ 1.
            max_chars: as the bags were made.
        """
        everything = np.concatenate([b.hashes for b in bags]) if bags else np.zeros(0, np.uint64)
        hashes, count = np.unique(everything, return_counts=True)
        kept = count >= min_inputs
        hashes, count = hashes[kept], count[kept]
        # Smoothed as if one more input held every feature (Salton and Buckley 1988; as in scikit-learn).
        idf = np.log((1 + len(bags)) / (1 + count)) + 1
        return cls(kind, hashes, idf.astype(np.float32), max_chars)

    def bag(self, slots: Sequence[str]) -> Bag:
        """Features of one input; its slots are normalised."""
        return bag(slots, self.kind, self.max_chars)

    def weigh(self, found: Bag) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """TF-IDF weights of one input, of length 1 in the Euclidean norm, or empty if no feature is known.

        Returns:
            Places in the vocabulary and weights (1 + log count) × idf / norm, both of shape (k,).
        """
        if not len(self.hashes):
            return np.zeros(0, np.intp), np.zeros(0, np.float32)
        place = np.searchsorted(self.hashes, found.hashes)
        place[place == len(self.hashes)] = 0
        known = self.hashes[place] == found.hashes
        place = place[known]
        weight = (1 + np.log(found.counts[known].astype(np.float32))) * self.idf[place]
        norm = float(np.sqrt(weight @ weight))
        return place, weight / np.float32(norm) if norm else weight

    def rarity(self, hashes: NDArray[np.uint64]) -> NDArray[np.float32]:
        """Inverse document frequency of features, shape (k,); unknown ones are as rare as the rarest."""
        if not len(self.hashes):
            return np.ones(len(hashes), np.float32)
        place = np.searchsorted(self.hashes, hashes)
        place[place == len(self.hashes)] = 0
        known = self.hashes[place] == hashes
        found: NDArray[np.float32] = np.where(known, self.idf[place], self.idf.max()).astype(np.float32)
        return found

    def matrix(self, bags: Sequence[Bag]) -> csr_matrix:
        """TF-IDF weights of many inputs, shape (n, p), sparse."""
        from scipy.sparse import csr_matrix

        rows = [self.weigh(b) for b in bags]
        starts = np.concatenate([[0], np.cumsum([len(place) for place, _ in rows])])
        places = np.concatenate([place for place, _ in rows]) if rows else np.zeros(0, np.intp)
        weights = np.concatenate([weight for _, weight in rows]) if rows else np.zeros(0, np.float32)
        return csr_matrix((weights, places, starts), shape=(len(bags), len(self.hashes)))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Settings and arrays to store."""
        return {"kind": self.kind, "max_chars": self.max_chars}, {"hashes": self.hashes, "idf": self.idf}

    @classmethod
    def restore(cls, settings: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Vocabulary:
        """The inverse of `state`."""
        return cls(str(settings["kind"]), arrays["hashes"], arrays["idf"], int(settings["max_chars"]))
