"""When two tasks are one job in different words. In doubt they stay two."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..types import Slots
from .answers import answer_space
from .text import MESSAGE, ROLE_END, content_hash, words

__all__ = ["TaskAnswers", "same_job", "wording"]

MAX_ANSWERS = 64
"""Different answers of a task that are kept; with more it never merges."""

MAX_INPUTS = 256
"""Inputs of a task that are kept with their answers: those with the smallest hashes,
so that two tasks keep the same ones."""

FIRST_CHECK = 16
"""Answers after which a task is compared with others for the first time, then at every doubling."""

MIN_SHARED = 12
"""Inputs two tasks must both have answered to be judged by them alone."""

MIN_AGREEMENT = 0.9
"""Share of the shared inputs, in [0, 1], to which both must give the same answer."""

MIN_KAPPA = 0.6
"""Smallest agreement beyond chance (Cohen's kappa, at most 1) on the shared inputs."""

MIN_OVERLAP = 0.5
"""Smallest share of labels, in [0, 1], that both tasks have (intersection over union)."""

_SENTENCE = re.compile(r"(?<=[.?!:\n])\s+")


@dataclass(slots=True)
class TaskAnswers:
    """A bounded summary of a task's inputs and answers.

    Attributes:
        slots: number of slots of its inputs.
        total: answers noted.
        counts: how often each answer came; empty once there are too many different ones.
        inputs: hash of an input and its latest answer.
        open: there were too many different answers to keep.
    """

    slots: int
    total: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    inputs: dict[str, str] = field(default_factory=dict)
    open: bool = False

    def note(self, answer: str, slots: Slots) -> bool:
        """Take in an answer; True if it is time to compare the task with others."""
        self.total += 1
        if self.open:
            return False
        answer = answer.strip()
        self.counts[answer] += 1
        if len(self.counts) > MAX_ANSWERS:
            self.open = True
            self.counts.clear()
            self.inputs.clear()
            return False
        self.inputs[content_hash(slots)] = answer
        if len(self.inputs) > MAX_INPUTS:
            del self.inputs[max(self.inputs)]
        return self.total >= FIRST_CHECK and self.total & (self.total - 1) == 0

    def labels(self) -> set[str]:
        """The closed set of answers; empty if it is none."""
        return set(answer_space(self.counts).labels) if self.total >= FIRST_CHECK and not self.open else set()


def wording(literals: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The words of a template, slot by slot, without case, punctuation and white space."""
    return tuple([tuple([word.casefold() for word in words(_bare(literal))]) for literal in literals])


def _bare(literal: str) -> str:
    return " ".join([piece.split(ROLE_END, 1)[-1] for piece in literal.split(MESSAGE)])


def same_job(one: TaskAnswers, other: TaskAnswers, one_wording: Sequence[str], other_wording: Sequence[str]) -> bool:
    """Whether two tasks are the same job.

    They must have as many slots and share a closed set of answers. Then they are one if they answer the inputs that
    both had alike, or if one's wording is the other's with whole sentences added and no shared input speaks against it.
    A single differing word ("positive", "negative") is never taken for rewording.

    Args:
        one: answers of a task.
        other: answers of another task.
        one_wording: literals of a template of the first.
        other_wording: literals of a template of the second.
    """
    if one.slots != other.slots or one.slots == 0:
        return False
    mine, theirs = one.labels(), other.labels()
    if len(mine) < 2 or len(theirs) < 2 or len(mine & theirs) < MIN_OVERLAP * len(mine | theirs):
        return False
    pairs = [(answer, other.inputs[key]) for key, answer in one.inputs.items() if key in other.inputs]
    agreement, kappa = _agreement(pairs)
    if len(pairs) >= MIN_SHARED:
        return agreement >= MIN_AGREEMENT and kappa >= MIN_KAPPA
    if pairs and agreement < MIN_AGREEMENT:
        return False
    return _sentences_added(one_wording, other_wording)


def _agreement(pairs: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """(share of equal pairs in [0, 1], Cohen's kappa)."""
    if not pairs:
        return 0.0, 0.0
    total = len(pairs)
    equal = sum(a == b for a, b in pairs) / total
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    chance = sum(first[answer] * second[answer] for answer in first) / total**2
    return equal, (equal - chance) / (1 - chance) if chance < 1 else 0.0


def _sentences_added(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether the sentences of one wording are the other's plus further ones, in the same order, slot by slot."""
    short, long = sorted((one, other), key=lambda literals: sum(map(len, literals)))
    if len(short) != len(long):
        return False
    return all(_contained(_sentences(a), _sentences(b)) for a, b in zip(short, long, strict=True))


def _sentences(literal: str) -> list[tuple[str, ...]]:
    cut = [tuple([word.casefold() for word in words(part)]) for part in _SENTENCE.split(_bare(literal))]
    return [sentence for sentence in cut if sentence]


def _contained(short: Sequence[tuple[str, ...]], long: Sequence[tuple[str, ...]]) -> bool:
    rest = iter(long)
    return all(sentence in rest for sentence in short)
