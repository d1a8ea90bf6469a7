"""Judging candidates: how good their most confident answers are, what an answer costs, which of two is ahead."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..base_models.catalog import Facts
from ..students.text import MAX_CHARS
from ..students.training import Crossed

__all__ = ["MINILM", "answer_s", "embedding_s", "half_errors", "hindsight", "lead", "share_errors", "tokens_of"]

MINILM = 12 * 6 * 384**2
"""Multiply-adds for a token in MiniLM-L6, the encoder that times were measured with."""

_TOKEN_S = 1.3e-4  # MiniLM, int8, one core: seconds a token; an estimate, so that decisions do not hang on the clock
_MAX_TOKENS = 128
_CHARS_PER_TOKEN = 4
_BASE_S = 3e-4  # of an answer without an encoder, see docs/benchmarks.md


def tokens_of(text: str) -> float:
    """Estimated number of tokens that an encoder reads of a text."""
    return min(len(text[:MAX_CHARS]) / _CHARS_PER_TOKEN + 2, _MAX_TOKENS)


def embedding_s(tokens: float, facts: Facts) -> float:
    """Estimated core-seconds of embedding so many tokens with a base model."""
    multiplications = facts.multiplications
    return _TOKEN_S * tokens * (MINILM if multiplications is None else multiplications) / MINILM


def answer_s(tokens: float, facts: Facts | None) -> float:
    """Estimated core-seconds of an answer to an input of so many tokens; `facts` are its encoder's, if it has one."""
    return _BASE_S + (embedding_s(tokens, facts) if facts else 0.0)


def half_errors(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Error rate in [0, 1] of the more confident half: AURC up to half coverage (Geifman and El-Yaniv 2017).

    The coverage at a certificate is a step function, mostly 0 while calls are few: chosen by it, folds would pick
    different candidates by luck.
    """
    half = len(right) // 2
    if not half:
        return 0.0
    wrong = np.cumsum(~right[np.argsort(-confidence, kind="stable")])[:half]
    return float(np.mean(wrong / np.arange(1, half + 1)))


def share_errors(crossed: Crossed, labels: NDArray[np.intp], shares: tuple[float, ...]) -> tuple[float, ...]:
    """Error rates in [0, 1] among the most confident shares of the inputs."""
    wrong = np.cumsum((crossed.chosen != labels)[np.argsort(-crossed.confidence, kind="stable")])
    counts = [max(round(share * len(labels)), 1) for share in shares]
    return tuple(float(wrong[count - 1] / count) for count in counts)


def hindsight(confidence: NDArray[np.float64], right: NDArray[np.bool_], target: float) -> float:
    """Largest share of calls, in [0, 1], above a threshold at which agreement was at least the target."""
    order = np.argsort(-confidence, kind="stable")
    hits = np.cumsum(right[order])
    taken = np.arange(1, len(order) + 1)
    good = np.flatnonzero(hits >= target * taken)
    return float((good[-1] + 1) / len(order)) if len(good) else 0.0


def lead(ahead: Crossed, behind: Crossed) -> float:
    """How many standard errors the first is ahead of the second in log-loss, on the same inputs."""
    difference = ahead.logp - behind.logp
    error = float(difference.std()) / max(len(difference), 1) ** 0.5
    mean = float(difference.mean())
    return mean / error if error > 0 else 0.0
