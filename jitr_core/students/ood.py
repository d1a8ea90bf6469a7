"""The gate: inputs unlike anything a student learnt from are left to the teacher.

Four figures say how strange an input is to the training inputs; each of those is compared with the others. A gate
closes where a figure is beyond its limit. The limits are set together, so that of calls like those learnt from about a
share of `BUDGET` is left to the teacher; no answer has a say in them. See docs/foreign.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .text import bag, word_hashes

__all__ = ["BUDGET", "Gate", "Strange"]

BUDGET = 0.01
"""Share of genuine calls, in (0, 1), that a gate may leave to the teacher: a conformal bound (Vovk et al. 2005)."""

_TAIL = 0.05  # share of the inputs that tells how a figure's tail falls
_CHARS = 5_000  # of each slot that are read
_DIGITS = re.compile(r"\d+")  # one number is as good as another: serial numbers and dates are ever new
_MARGIN = 0.1  # what a passage's share of new words must exceed the usual one by to count
# The least scale of a figure's tail, where training inputs hardly differ: a share, words, a part of the figure itself.
_LEAST = {"length": (0.0, 0.25), "unknown": (0.02, 0.0), "passage": (1.0, 0.0), "far": (0.0, 0.02)}

_Array = NDArray[np.float64]
_Hashes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Strange:
    """How strange training inputs look to the others, arrays of shape (n,).

    Attributes:
        figures: by name, the higher the stranger: "length" in characters; "unknown", the largest share of a slot's
            different character n-grams that fewer than two other inputs have; "passage", by how many words any passage
            exceeds what new words it may have; "far", the distance to the nearest other input in an embedding.
        calls: how many labelled calls each input had.
        fair: how many of those are a fair sample of the stream.
    """

    figures: Mapping[str, _Array]
    calls: NDArray[np.intp]
    fair: NDArray[np.intp]

    def limits(self) -> dict[str, float]:
        """The limit of each figure.

        Each figure is measured from its 95% quantile in units of its mean excess over it, which makes the tails of
        different figures alike. The largest of them is the input's strangeness, and its limit an order statistic: a
        call that is exchangeable with these exceeds it with probability ≤ `BUDGET`, or 1 / (calls + 1) if that is more,
        but for the units, which the call itself had no part in.
        """
        scaled = {name: _tail(values, *_LEAST[name]) for name, values in self.figures.items()}
        strangest = np.max([(self.figures[name] - at) / scale for name, (at, scale) in scaled.items()], axis=0)
        # An input that came twice is known when it comes again; of the others each has one call.
        falling = -np.sort(-strangest[(self.calls == 1) & (self.fair == 1)])
        place = max(int(BUDGET * (int(self.fair.sum()) + 1)), 1) - 1
        cut = max(float(falling[place]) if place < len(falling) else 0.0, 1.0)
        return {name: at + cut * scale for name, (at, scale) in scaled.items()}

    def beyond(self, limits: Mapping[str, float]) -> NDArray[np.bool_]:
        """Inputs that a gate would leave to the teacher had it not learnt from this call of theirs, shape (n,)."""
        found: NDArray[np.bool_] = self.calls == 1
        found &= np.any([self.figures[name] > limit for name, limit in limits.items()], axis=0)
        return found


def _tail(values: _Array, least: float, part: float) -> tuple[float, float]:
    """The quantile where a figure's tail begins, and the mean excess over it, the scale of an exponential tail."""
    at = float(np.quantile(values, 1 - _TAIL))
    over = values[values > at]
    return at, max(float((over - at).mean()) if len(over) else 0.0, least, part * at)


@dataclass(frozen=True, slots=True)
class Gate:
    """Says whether an input is out of distribution. What it learnt is never strange to it.

    Attributes:
        limits: by name of the figure, see `Strange`.
        usual: share, in [0, 1], of a passage's words that may be new.
        grams: shape (p,), hashes of the character n-grams that two training inputs had, ascending.
        words: shape (w,), hashes of the words that one had, ascending.
        learnt: shape (n,), hashes of the training inputs, ascending.
        view: whose landmarks tell "far"; None if nothing does.
    """

    limits: Mapping[str, float]
    usual: float
    grams: _Hashes = field(repr=False)
    words: _Hashes = field(repr=False)
    learnt: _Hashes = field(repr=False)
    view: str | None = None

    @classmethod
    def fit(
        cls,
        texts: Sequence[tuple[str, ...]],
        lengths: Sequence[int],
        calls: NDArray[np.intp],
        fair: NDArray[np.intp],
    ) -> tuple[Gate, Strange]:
        """A gate that looks at an input's text only, and how strange the training inputs are to it.

        Args:
            texts: of every training input, its normalised slots.
            lengths: in characters, as the inputs came.
            calls: see `Strange`.
            fair: see `Strange`.
        """
        read = [_read(each) for each in texts]
        found = [_words(each) for each in read]
        words, times = np.unique(np.concatenate([np.unique(each) for each in found]), return_counts=True)
        again = words[times > 1]
        new = [~_in(again, each) for each in found]
        usual = float(np.concatenate(new).mean()) + _MARGIN if words.size else 1.0
        bags = [_grams(each) for each in read]
        grams, count = np.unique(np.concatenate([one for each in bags for one in each]), return_counts=True)
        others = grams[count > 2]  # of the inputs that have an n-gram the one that is looked at is left out
        figures = {
            "length": np.array(lengths, np.float64),
            "unknown": np.array([_unknown(each, others) for each in bags]),
            "passage": np.array([_excess(each, usual) for each in new]),
        }
        strange = Strange(figures, calls, fair)
        keys = np.unique(np.array([_key(each) for each in texts]))
        return cls(strange.limits(), usual, grams[count > 1], words, keys), strange

    def farther(self, strange: Strange, view: str, far: _Array) -> tuple[Gate, Strange]:
        """The same gate with an embedding, in which training inputs are `far`, shape (n,), from the nearest other."""
        more = replace(strange, figures={**strange.figures, "far": far})
        return replace(self, limits=more.limits(), view=view), more

    def closed(self, texts: tuple[str, ...], length: int) -> bool:
        """Whether an input is out of distribution by its text.

        Args:
            texts: its normalised slots.
            length: in characters, all slots together, as the input came.
        """
        limits, read = self.limits, _read(texts)
        strange = (
            length > limits["length"]
            or _unknown(_grams(read), self.grams) > limits["unknown"]
            or _excess(~_in(self.words, _words(read)), self.usual) > limits["passage"]
        )
        return strange and not self.knows(texts)

    def too_far(self, texts: tuple[str, ...], distance: float) -> bool:
        """Whether it is by its distance to the nearest landmark."""
        return distance > self.limits["far"] and not self.knows(texts)

    def knows(self, texts: tuple[str, ...]) -> bool:
        """Whether this very input was learnt from."""
        return bool(_in(self.learnt, np.array([_key(texts)]))[0])

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Settings and arrays to store."""
        settings = {"limits": dict(self.limits), "usual": self.usual, "view": self.view}
        return settings, {"grams": self.grams, "words": self.words, "learnt": self.learnt}

    @classmethod
    def restore(cls, settings: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Gate:
        """The inverse of `state`."""
        limits = {name: float(limit) for name, limit in settings["limits"].items()}
        usual, view = float(settings["usual"]), settings["view"]
        return cls(limits, usual, arrays["grams"], arrays["words"], arrays["learnt"], view)


def _key(texts: tuple[str, ...]) -> np.uint64:
    data = "\0".join(texts).encode("utf-8", "surrogatepass")
    return np.uint64(int.from_bytes(hashlib.blake2b(data, digest_size=8, person=b"jitr-gate").digest(), "little"))


def _in(known: _Hashes, hashes: _Hashes) -> NDArray[np.bool_]:
    """Which hashes are among the known ones, which ascend."""
    if not len(known):
        return np.zeros(len(hashes), bool)
    place = known.searchsorted(hashes)
    place[place == len(known)] = 0
    found: NDArray[np.bool_] = known[place] == hashes
    return found


def _read(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_DIGITS.sub("0", text[:_CHARS]) for text in texts)


def _words(read: tuple[str, ...]) -> _Hashes:
    return np.concatenate([word_hashes(text) for text in read])


def _grams(read: tuple[str, ...]) -> list[_Hashes]:
    """The different character n-grams of each slot that has any."""
    empty = ("",) * len(read)
    return [bag((*empty[:i], text), "char", _CHARS).hashes for i, text in enumerate(read) if text]


def _unknown(grams: list[_Hashes], known: _Hashes) -> float:
    """See `Strange`; 1 if there is nothing to read."""
    return max((1 - float(_in(known, each).mean()) for each in grams), default=1.0)


def _excess(new: NDArray[np.bool_], usual: float) -> float:
    """The largest sum of (new − usual) over any run of words: a CUSUM, or the maximum subarray."""
    if not len(new):
        return 0.0
    total = np.concatenate([[0.0], np.cumsum(new - usual)])
    return float((total - np.minimum.accumulate(total)).max())
