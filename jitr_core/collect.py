"""Collecting: the labelled calls of a task become the data set a search works on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import TrainingError
from .types import Example, Slots

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Dataset", "build_dataset", "fold_of"]


@dataclass(frozen=True, slots=True)
class Dataset:
    """The examples of one task: n different inputs, m labelled calls.

    Inputs are deduplicated for training only; the calls keep the stream's frequencies, which calibration needs.

    Attributes:
        inputs: n different inputs, in order of first appearance, as they were first written.
        labels: n training labels, the most frequent answer to each input; of equally frequent ones the latest.
        groups: n hashes of the normalised inputs.
        group: shape (m,), index into `inputs` for each labelled call, in stream order.
        answers: m answers of the teacher, one per call.
        sampled: shape (m,), see `Example.sampled`.
    """

    inputs: list[Slots]
    labels: list[str]
    groups: list[str]
    group: NDArray[np.intp]
    answers: list[str]
    sampled: NDArray[np.bool_]

    def folds(self, k: int) -> NDArray[np.intp]:
        """The fold, 0 to k − 1, of every input, shape (n,). An input keeps its fold as the data grow."""
        import numpy as np

        return np.array([fold_of(group, k) for group in self.groups], dtype=np.intp)

    def content_hash(self) -> str:
        """Hash of everything training depends on: inputs and answers, 32 hexadecimal digits."""
        state = hashlib.blake2b(digest_size=16)
        for group, answer in zip(self.group, self.answers, strict=True):
            for part in (self.groups[group], answer):
                data = part.encode("utf-8", "surrogatepass")
                state.update(len(data).to_bytes(8, "little") + data)
        return state.hexdigest()


def fold_of(group: str, k: int) -> int:
    """The fold of an input with this hash, 0 to k − 1.

    Example:
        >>> fold_of("a", 5) == fold_of("a", 5)
        True
    """
    data = group.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=b"jitr-fold").digest(), "big") % k


def build_dataset(examples: Sequence[Example], max_examples: int) -> Dataset:
    """Group examples by input.

    Args:
        examples: labelled calls, in any order.
        max_examples: most calls kept, the latest, ≥ 1.

    Raises:
        TrainingError: there are no examples.
    """
    import numpy as np

    if not examples:
        raise TrainingError("the task has no labelled calls.", hint="Let the teacher answer some calls first.")
    kept = sorted(examples, key=lambda e: e.seq)[-max_examples:]
    place: dict[str, int] = {}
    inputs: list[Slots] = []
    for example in kept:
        if example.group not in place:
            place[example.group] = len(inputs)
            inputs.append(example.slots)
    group = np.array([place[e.group] for e in kept], dtype=np.intp)
    answers = [e.answer for e in kept]
    return Dataset(
        inputs=inputs,
        labels=_labels(group.tolist(), answers, len(inputs)),
        groups=list(place),
        group=group,
        answers=answers,
        sampled=np.array([e.sampled for e in kept], dtype=bool),
    )


def _labels(group: list[int], answers: list[str], inputs: int) -> list[str]:
    """Most frequent answer to each input; the latest where several are equally frequent."""
    counts: list[Counter[str]] = [Counter() for _ in range(inputs)]
    latest: list[dict[str, int]] = [{} for _ in range(inputs)]
    for at, (g, answer) in enumerate(zip(group, answers, strict=True)):
        counts[g][answer] += 1
        latest[g][answer] = at
    return [_winner(c, last) for c, last in zip(counts, latest, strict=True)]


def _winner(counts: Counter[str], latest: dict[str, int]) -> str:
    return max(counts, key=lambda answer: (counts[answer], latest[answer]))
