"""Collecting: the labelled calls of a task become the data set a search works on.

What certifies must be a random sample of the calls to come. While a release answers some templates of a task and not
others, their calls are labelled unevenly: **strata** are templates that were labelled alike, and a sample takes of each
stratum as many as it has calls.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from .errors import TrainingError
from .types import Example, Slots

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Dataset", "Stratum", "Use", "build_dataset", "fair_sample", "fold_of", "labelled_alike", "strata"]

UNSETTLED = 0.1
"""Chance of an input's contradictions below which its label is not learnt, see `Dataset.settled`."""


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
        templates: ids of the templates that the sampled calls speak for.
    """

    inputs: list[Slots]
    labels: list[str]
    groups: list[str]
    group: NDArray[np.intp]
    answers: list[str]
    sampled: NDArray[np.bool_]
    templates: frozenset[str] = frozenset()

    def folds(self, k: int) -> NDArray[np.intp]:
        """The fold, 0 to k − 1, of every input, shape (n,). An input keeps its fold as the data grow."""
        import numpy as np

        return np.array([fold_of(group, k) for group in self.groups], dtype=np.intp)

    def settled(self, target: float) -> NDArray[np.bool_]:
        """Inputs to which there is one answer as far as their calls tell, shape (n,).

        A student that learnt an input is surer of it than a cross-fitted one, which did not. So one that the teacher
        answers now this way, now that, may not be learnt: it would be answered, and differ from the teacher as often
        as he does from himself.

        Args:
            target: promised agreement, in (0, 1). Not settled is an input where so many answers other than its label
                have a chance of at most `UNSETTLED`, were the teacher to repeat himself in that share of the calls.
        """
        import numpy as np
        from scipy.special import bdtrc

        pairs = zip(self.group.tolist(), self.answers, strict=True)
        others = np.array([answer.strip() != self.labels[group].strip() for group, answer in pairs], dtype=bool)
        calls, other = (np.bincount(g, minlength=len(self.inputs)) for g in (self.group, self.group[others]))
        chance = bdtrc(np.maximum(other - 1.0, 0), calls, 1 - target)
        return np.asarray((other == 0) | (chance > UNSETTLED), dtype=bool)

    def calls(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """How many labelled calls each input had, shape (n,), and how many of those are `sampled`."""
        import numpy as np

        n = len(self.inputs)
        return np.bincount(self.group, minlength=n), np.bincount(self.group[self.sampled], minlength=n)

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


@dataclass(frozen=True, slots=True)
class Stratum:
    """Templates whose calls have always been labelled alike.

    Attributes:
        templates: their ids.
        calls: how many calls they have at present, labelled or not.
    """

    templates: frozenset[str]
    calls: int


class Use(Protocol):
    """Since when a template is called, and which release was first asked about its calls, at which row of the store."""

    @property
    def first(self) -> int:
        """Row of its first call."""

    @property
    def served(self) -> str | None:
        """The release."""

    @property
    def asked(self) -> int | None:
        """Row of the first call that it was asked about."""


def labelled_alike(use: Mapping[str, Use]) -> dict[str, str]:
    """By id of the template, a name that templates have in common whose calls have always been labelled alike.

    Calls are all labelled until a release answers their template. Templates that one release was the first to answer
    are alike if all of them were called before it came, or none.
    """
    came: dict[str, int] = {}
    for each in use.values():
        if each.served is not None and each.asked is not None:
            came[each.served] = min(came.get(each.served, each.asked), each.asked)
    return {
        template: "" if each.served is None else f"{each.served}{'' if each.first < came[each.served] else ' before'}"
        for template, each in use.items()
    }


def strata(alike: Mapping[str, str], calls: Mapping[str, int]) -> list[Stratum]:
    """The strata of a task.

    Args:
        alike: see `labelled_alike`.
        calls: by id of the template, its calls at present.
    """
    groups: dict[str, set[str]] = {}
    for template in sorted({*alike, *calls}):
        groups.setdefault(alike.get(template, ""), set()).add(template)
    return [Stratum(frozenset(ids), sum(calls.get(each, 0) for each in ids)) for ids in groups.values()]


def fair_sample(
    examples: Sequence[Example], groups: Sequence[Stratum], *, enough: float, seed: int = 0
) -> tuple[list[Example], frozenset[str]]:
    """Leaves `sampled` only where the sample has the strata in the shares that calls have.

    A stratum with many calls and few labels would leave next to nothing of the others. So those with most labels a call
    are taken first, and of all such choices the one with the largest share · n / (n + enough), n being the sample's
    size: what is left out is not certified. No answer has a say in it, only how many there are.

    Args:
        examples: labelled calls of one task.
        groups: its strata.
        enough: size of a sample, > 0, from which more labels matter less than more calls they speak for.
        seed: drives which examples are taken. A larger sample contains the smaller one.

    Returns:
        All examples, and the templates that the sample speaks for.

    Example:
        >>> groups = strata({"a": "r", "b": ""}, {"a": 20, "b": 10})
        >>> rows = [Example((), "", "", i, template="a" if i < 8 else "b") for i in range(18)]
        >>> sum(example.sampled for example in fair_sample(rows, groups, enough=1)[0])
        12
    """
    place = {template: i for i, group in enumerate(groups) for template in group.templates}
    found: list[list[int]] = [[] for _ in groups]
    for i, example in enumerate(examples):
        if example.sampled and example.template in place:
            found[place[example.template]].append(i)
    alive = [i for i, group in enumerate(groups) if found[i] and group.calls]
    alive.sort(key=lambda i: len(found[i]) / groups[i].calls, reverse=True)
    total = sum(group.calls for group in groups)
    chosen, best, rate, calls = 0, 0.0, 0.0, 0
    for k, i in enumerate(alive):
        calls += groups[i].calls
        labels = len(found[i]) / groups[i].calls  # of each call; the strata before this one have more
        value = calls / total * labels * calls / (labels * calls + enough)
        if value > best:
            chosen, best, rate = k + 1, value, labels
    taken: set[int] = set()
    for i in alive[:chosen]:
        drawn = sorted(found[i], key=lambda row: _draw(seed, examples[row].seq))
        taken.update(drawn[: round(rate * groups[i].calls)])
    sample = [e if i in taken or not e.sampled else replace(e, sampled=False) for i, e in enumerate(examples)]
    return sample, frozenset().union(*(groups[i].templates for i in alive[:chosen]))


def _draw(seed: int, seq: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{seq}".encode(), digest_size=8, person=b"jitr-strata").digest()


def build_dataset(examples: Sequence[Example], max_examples: int, templates: frozenset[str] = frozenset()) -> Dataset:
    """Group examples by input.

    Args:
        examples: labelled calls, in any order.
        max_examples: most calls kept, the latest, ≥ 1.
        templates: see `fair_sample`.

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
        templates=templates,
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
