"""Features of pairs of slots, for tasks that compare texts: matching, deduplication, entailment."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .lexical import Vocabulary

__all__ = ["MAX_SLOTS", "pair_features", "pair_width"]

MAX_SLOTS = 4
"""Inputs with more slots have no pair features."""

_TOKEN = re.compile(r"\w+")
_CODE = re.compile(r"(?=\w*\d)\w{2,}")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_PER_PAIR = 12


def pair_width(slots: int) -> int:
    """Number of pair features of inputs with so many slots."""
    return slots * (slots - 1) // 2 * _PER_PAIR if slots <= MAX_SLOTS else 0


def pair_features(slots: Sequence[str], words: Vocabulary, chars: Vocabulary) -> NDArray[np.float32]:
    """Features of every pair of slots, each about in [0, 1], shape (pair_width(len(slots)),).

    Args:
        slots: normalised texts.
        words: word weights of the task, for the overlap of what is rare.
        chars: character n-gram weights of the task.
    """
    parts = [_compare(a, b, words, chars) for a, b in combinations(slots, 2)]
    return np.array([value for part in parts for value in part], np.float32)


def _compare(a: str, b: str, words: Vocabulary, chars: Vocabulary) -> list[float]:
    left, right = _TOKEN.findall(a), _TOKEN.findall(b)
    codes_a, codes_b = set(_CODE.findall(a)), set(_CODE.findall(b))
    numbers_a, numbers_b = set(_NUMBER.findall(a)), set(_NUMBER.findall(b))
    return [
        *_overlap(set(left), set(right)),
        *_overlap(codes_a, codes_b),
        *_overlap(numbers_a, numbers_b),
        _longest_code(codes_a, codes_b),
        _cosine(a, b, words),
        _cosine(a, b, chars),
        float(bool(left and right and left[0] == right[0])),
        float(a == b),
        (min(len(a), len(b)) + 1) / (max(len(a), len(b)) + 1),
    ]


def _overlap(a: set[str], b: set[str]) -> tuple[float, float]:
    """Shares of the smaller set and of the union that both have; 0 where there is nothing to share."""
    common = len(a & b)
    smaller, union = min(len(a), len(b)), len(a | b)
    return (common / smaller if smaller else 0.0), (common / union if union else 0.0)


def _longest_code(a: set[str], b: set[str]) -> float:
    """How much of a code with digits on one side is found within a code of the other, at best, in [0, 1]."""
    best = 0.0
    for one in a:
        for other in b:
            short, long = sorted((one, other), key=len)
            if len(short) >= 3 and short in long:
                best = max(best, len(short) / len(long))
    return best


def _cosine(a: str, b: str, vocabulary: Vocabulary) -> float:
    # Both texts stand in the first slot's place, so that equal features have equal hashes.
    bags = vocabulary.bag((a,)), vocabulary.bag((b,))
    weights = [(1 + np.log(found.counts)) * vocabulary.rarity(found.hashes) for found in bags]
    norm = float(np.sqrt((weights[0] @ weights[0]) * (weights[1] @ weights[1])))
    _, in_a, in_b = np.intersect1d(bags[0].hashes, bags[1].hashes, assume_unique=True, return_indices=True)
    return float(weights[0][in_a] @ weights[1][in_b]) / norm if norm else 0.0
