"""Lexical features: TF-IDF over hashed words and character n-grams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .text import MAX_CHARS, Bag, bag

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["Known", "Vocabulary"]


class Known(NamedTuple):
    """The features of one input that a vocabulary has.

    Attributes:
        place: shape (k,), where in the vocabulary they are.
        counts: shape (k,), how often each occurs, ≥ 1.
        share: of the input's different features, in [0, 1]; None if it has none.
    """

    place: NDArray[np.intp]
    counts: NDArray[np.int64]
    share: float | None


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

    def known(self, found: Bag) -> Known:
        """What of an input's features is in the vocabulary."""
        if not len(self.hashes):
            return Known(np.zeros(0, np.intp), np.zeros(0, np.int64), 0.0 if len(found.hashes) else None)
        place = self.hashes.searchsorted(found.hashes)
        place[place == len(self.hashes)] = 0
        known = self.hashes[place] == found.hashes
        place = place[known]
        share = len(place) / len(known) if len(known) else None
        return Known(place, found.counts[known], share)

    def weights(self, known: Known) -> NDArray[np.float32]:
        """TF-IDF weights of one input, (1 + log count) × idf / norm, shape (k,), of Euclidean length 1 or 0."""
        weight: NDArray[np.float32] = (1 + np.log(known.counts.astype(np.float32))) * self.idf[known.place]
        norm = math.sqrt(weight @ weight)
        if norm:
            weight /= np.float32(norm)
        return weight

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

        rows = [self.known(b) for b in bags]
        starts = np.concatenate([[0], np.cumsum([len(row.place) for row in rows])])
        places = np.concatenate([np.zeros(0, np.intp), *(row.place for row in rows)])
        weights = np.concatenate([np.zeros(0, np.float32), *(self.weights(row) for row in rows)])
        return csr_matrix((weights, places, starts), shape=(len(bags), len(self.hashes)))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Settings and arrays to store."""
        return {"kind": self.kind, "max_chars": self.max_chars}, {"hashes": self.hashes, "idf": self.idf}

    @classmethod
    def restore(cls, settings: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Vocabulary:
        """The inverse of `state`."""
        return cls(str(settings["kind"]), arrays["hashes"], arrays["idf"], int(settings["max_chars"]))
