"""Which calls do not crowd around one input: the same one again and again, or worded a little differently each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .identify.text import normalise, words
from .types import Slots

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["apart"]

PROBES = 200
"""Calls around which is looked."""

ALIKE = 0.3
"""Share of the words of two inputs, in (0, 1], that both must have (Jaccard 1912)."""

CLOSE = 0.7
"""Share of the calls like one, in (0, 1], that must be like the others of them as well. Short inputs with few words to
choose from are like many others each, but not like the same ones; copies of one input are."""


def apart(inputs: Sequence[Slots], calls: NDArray[np.intp], least: float) -> NDArray[np.bool_]:
    """The calls that are in no crowd.

    Args:
        inputs: n different inputs.
        calls: shape (k,), the input of each call.
        least: share of the calls, in (0, 1), from which calls that are like one of them are a crowd.

    Returns:
        Shape (k,), whether a call is in no crowd. All calls, where others than those are fewer than that share, too.

    Example:
        >>> import numpy as np
        >>> apart([("pay my bill",), ("where is it",), ("pay my bill 2",)], np.array([0, 2, 1]), 0.3).tolist()
        [False, False, True]
    """
    import numpy as np
    from scipy.sparse import csr_array

    ids: dict[str, int] = {}
    said = [{ids.setdefault(word, len(ids)) for word in words(normalise(" ".join(slots)))} for slots in inputs]
    sizes = np.array([len(each) for each in said])
    flat = np.array([word for each in said for word in each], dtype=np.intp)
    held = csr_array((np.ones(len(flat)), flat, np.append(0, np.cumsum(sizes))), shape=(len(inputs), max(len(ids), 1)))
    probes = calls[np.linspace(0, len(calls) - 1, min(PROBES, len(calls))).astype(int)]
    both = (held[probes] @ held.T).toarray()
    like = both >= ALIKE * np.maximum(sizes[probes, None] + sizes - both, 1)
    like[np.arange(len(probes)), probes] = True
    common = (like * (np.bincount(calls, minlength=len(inputs)) / len(calls))) @ like.T  # share like both of two probes
    share, near = common.diagonal(), like[:, probes] & ~np.eye(len(probes), dtype=bool)
    close = (near * common).sum(axis=1) >= CLOSE * share * near.sum(axis=1)
    found = ~like[(share >= least) & close].any(axis=0)[calls]
    return found if found.mean() >= least else np.ones(len(calls), dtype=bool)
