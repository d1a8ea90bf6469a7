"""Texts as bags of hashed n-grams: one vectorised pass per text, the same for training and serving.

Any substring's hash follows from prefix sums of a polynomial hash modulo 2⁶⁴ (Karp and Rabin 1987), so words, word
pairs and character n-grams of a text cost a few array operations and no Python loop.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_CHARS", "Bag", "bag", "normalise", "word_hashes"]

MAX_CHARS = 20_000
"""Characters of an input that lexical features look at; the rest is ignored."""

_Hashes = NDArray[np.uint64]
_BASE = 0x9E3779B97F4A7C15
_MIX = np.uint64(0xD6E8FEB86659FD93)
_SHIFT = np.uint64(32)
# Powers of the odd base and of its inverse modulo 2^64, for every position a hash can start at.
_POWERS = np.cumprod(np.full(MAX_CHARS + 8, _BASE, np.uint64), dtype=np.uint64)
_INVERSES = np.cumprod(np.full(MAX_CHARS + 8, pow(_BASE, -1, 2**64), np.uint64), dtype=np.uint64)
_SPACE = 32
_NOWHERE = np.zeros(0, np.intp)
_WORD_ASCII = np.array([chr(c).isalnum() or c == 95 for c in range(128)])


class Bag(NamedTuple):
    """Different features of one text.

    Attributes:
        hashes: shape (k,), ascending.
        counts: shape (k,), how often each occurs, ≥ 1.
    """

    hashes: _Hashes
    counts: NDArray[np.int64]


@lru_cache(maxsize=8)  # the parts of a student of fields read the same input one after the other
def normalise(text: str) -> str:
    r"""The text as students read it: NFKC, casefolded, white space collapsed, at most `MAX_CHARS` characters.

    Example:
        >>> normalise("  My CARD\n was declined ")
        'my card was declined'
    """
    text = text[:MAX_CHARS]
    if not text.isascii():
        # Lone surrogates, which no tokenizer takes, become question marks.
        text = unicodedata.normalize("NFKC", text.encode("utf-8", "replace").decode())
    return " ".join(text.casefold().split())[:MAX_CHARS]


def bag(slots: Sequence[str], kind: str, max_chars: int = MAX_CHARS) -> Bag:
    """Features of an input, each slot's apart from the others'; not to be written into.

    Args:
        slots: normalised texts (see `normalise`).
        kind: "word" (words, punctuation marks and pairs of neighbours) or "char" (2 to 5 characters within a word,
            its edges included).
        max_chars: characters of each slot that count.
    """
    return _bag(tuple(slots), kind, max_chars)


@lru_cache(maxsize=8)
def _bag(slots: tuple[str, ...], kind: str, max_chars: int) -> Bag:
    parts = [_mixed(_SLOT_HASHES[kind](slot[:max_chars]), 2 * i + 1) for i, slot in enumerate(slots)]
    hashes = np.concatenate(parts) if parts else np.zeros(0, np.uint64)
    hashes.sort()
    first = np.empty(len(hashes) + 1, bool)  # where another feature begins; as np.unique does, at half the cost
    first[:1] = first[-1:] = True
    np.not_equal(hashes[1:], hashes[:-1], out=first[1:-1])
    starts = first.nonzero()[0]
    return Bag(hashes[starts[:-1]], starts[1:] - starts[:-1])


def word_hashes(text: str) -> _Hashes:
    """Hashes of the words and punctuation marks of a normalised text, in order."""
    codes, prefix = _scan(text)
    word, inside = _word_mask(text, codes), np.zeros(len(codes) + 2, bool)
    inside[1:-1] = word
    starts = np.flatnonzero(inside[1:] & ~inside[:-1])
    ends = np.flatnonzero(~inside[1:] & inside[:-1])
    marks = np.flatnonzero(~word & (codes != _SPACE))
    starts, ends = np.concatenate([starts, marks]), np.concatenate([ends, marks + 1])
    order = np.argsort(starts, kind="stable")
    return _span(prefix, starts[order], ends[order])


def _words_and_pairs(text: str) -> _Hashes:
    words = word_hashes(text)
    return np.concatenate([words, _mixed(words[:-1], 3) + words[1:]])


def _chars(text: str) -> _Hashes:
    if not text:
        return np.zeros(0, np.uint64)
    codes, prefix = _scan(f" {text[: MAX_CHARS - 2]} ")
    spaces = np.zeros(len(codes) + 1, np.int64)
    (codes == _SPACE).cumsum(out=spaces[1:])
    starts, sizes = [], []
    for n in range(2, 6):
        # A space may open or close an n-gram (it marks a word's edge) but not stand inside.
        last = len(codes) - n + 1
        begin = (spaces[n - 1 : n - 1 + last] == spaces[1 : 1 + last]).nonzero()[0] if last > 0 else _NOWHERE
        starts.append(begin)
        sizes.append(np.full(len(begin), n))
    start, size = np.concatenate(starts), np.concatenate(sizes)
    return _mixed(_span(prefix, start, start + size), size.astype(np.uint64))


_SLOT_HASHES = {"word": _words_and_pairs, "char": _chars}


def _scan(text: str) -> tuple[NDArray[np.uint32], _Hashes]:
    """Code points of a text, and prefix sums of its polynomial hash, shapes (length,) and (length + 1,)."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    prefix = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(_mixed(codes.astype(np.uint64), 1) * _POWERS[: len(codes)], out=prefix[1:])
    return codes, prefix


def _span(prefix: _Hashes, starts: NDArray[np.intp], ends: NDArray[np.intp]) -> _Hashes:
    return (prefix[ends] - prefix[starts]) * _INVERSES[starts]


def _mixed(hashes: _Hashes, salt: int | _Hashes) -> _Hashes:
    """A bijective scramble (multiply, xor-shift, multiply), different for every odd or even salt."""
    mixed = hashes + (salt if isinstance(salt, np.ndarray) else np.uint64(salt))
    mixed *= _MIX
    mixed ^= mixed >> _SHIFT
    mixed *= _MIX
    mixed ^= mixed >> _SHIFT
    return mixed


def _word_mask(text: str, codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    if text.isascii():
        return _WORD_ASCII[codes]
    return np.fromiter((c.isalnum() or c == "_" for c in text), bool, len(codes))
