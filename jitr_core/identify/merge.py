"""When two tasks are one job in different words. In doubt they stay two."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt

from ..types import Slots
from .answers import answer_space
from .template import Key
from .text import MESSAGE, ROLE_END, content_hash, words

__all__ = ["AnswerBook", "TaskAnswers", "same_job", "wording"]

MAX_ANSWERS = 64
"""Different answers of a task that are kept; with more it never merges."""

MAX_INPUTS = 256
"""Inputs of a task that are kept with their answers: those with the smallest hashes,
so that two tasks keep the same ones."""

FIRST_CHECK = 16
"""Answers after which a task is compared with others for the first time."""

GROWTH = 1.25
"""Factor by which its answers grow until it is compared again."""

MIN_SHARED = 24
"""Inputs two tasks must both have answered to be judged by them alone."""

MIN_AGREEMENT = 0.9
"""Share of the shared inputs, in [0, 1], to which both must give the same answer."""

MIN_KAPPA = 0.4
"""Smallest agreement beyond chance (Cohen's kappa, at most 1) on the shared inputs, at the lower end of what they
leave possible."""

SCORE_Z = 1.282
"""Standard deviations down to that lower end (score interval: Wilson, JASA 1927): 0.9 one-sided."""

MIN_OVERLAP = 0.5
"""Smallest share of labels, in [0, 1], that both tasks have (intersection over union)."""

MIN_KEPT = 0.5
"""Smallest share of the longer wording's words, in [0, 1], that the shorter one must have."""

MAX_TASKS = 2_000
"""Tasks whose answers are kept; the least recently answered leave."""

MAX_RIVALS = 256
"""Tasks that one task is compared with at a time, the most recently answered ones."""

_SENTENCE = re.compile(r"(?<=[.?!:\n])\s+")


@dataclass(slots=True)
class TaskAnswers:
    """A bounded summary of a task's inputs and answers.

    Attributes:
        key: app, tenant, step and contract of its calls.
        slots: number of slots of its inputs.
        total: answers noted.
        counts: how often each answer came; empty once there are too many different ones.
        inputs: hash of an input and its latest answer.
        open: there were too many different answers to keep.
        due: answers after which it is compared with others next.
    """

    key: Key
    slots: int
    total: int = 0
    due: int = FIRST_CHECK
    counts: Counter[str] = field(default_factory=Counter)
    inputs: dict[str, str] = field(default_factory=dict)
    open: bool = False
    _judged: tuple[int, set[str]] = field(default_factory=lambda: (0, set()))

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
        if self.total < self.due:
            return False
        self.due = int(self.total * GROWTH) + 1
        return True

    def labels(self) -> set[str]:
        """The closed set of answers; empty if it is none."""
        if self.total < FIRST_CHECK or self.open:
            return set()
        if self._judged[0] != self.total:
            self._judged = (self.total, set(answer_space(self.counts).labels))
        return self._judged[1]


class AnswerBook:
    """The answers of tasks, the most recently answered `MAX_TASKS` of them."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[str, TaskAnswers] = OrderedDict()
        self._peers: dict[tuple[Key, int], OrderedDict[str, None]] = {}

    def note(self, task: str, key: Key, answer: str, slots: Slots) -> list[str]:
        """Take in what was answered to a call of a task.

        Returns:
            The tasks it should be compared with now, the most recently answered first: mostly none.
        """
        answers = self._tasks.get(task)
        if answers is None:
            answers = self._tasks[task] = TaskAnswers(key, len(slots))
            if len(self._tasks) > MAX_TASKS:
                self.forget(next(iter(self._tasks)))
        self._tasks.move_to_end(task)
        peers = self._peers.setdefault((answers.key, answers.slots), OrderedDict())
        peers[task] = None
        peers.move_to_end(task)
        if answers.slots != len(slots) or not answers.note(answer, slots):
            return []
        return [other for other, _ in zip(reversed(peers), range(MAX_RIVALS), strict=False) if other != task]

    def same_job(self, one: str, other: str, one_wording: Sequence[str], other_wording: Sequence[str]) -> bool:
        """As `same_job`, for two tasks with answers in the book."""
        return same_job(self._tasks[one], self._tasks[other], one_wording, other_wording)

    def forget(self, task: str) -> None:
        """Drop a task's answers; unknown tasks are ignored."""
        answers = self._tasks.pop(task, None)
        if answers is None:
            return
        peers = self._peers[answers.key, answers.slots]
        del peers[task]
        if not peers:
            del self._peers[answers.key, answers.slots]


def wording(literals: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The words of a template, slot by slot, without case, punctuation and white space."""
    return tuple([tuple([word.casefold() for word in words(_bare(literal))]) for literal in literals])


def _bare(literal: str) -> str:
    return " ".join([piece.split(ROLE_END, 1)[-1] for piece in literal.split(MESSAGE)])


def same_job(one: TaskAnswers, other: TaskAnswers, one_wording: Sequence[str], other_wording: Sequence[str]) -> bool:
    """Whether two tasks are the same job.

    They must have as many slots and share a closed set of answers. Then they are one if they answer the inputs that
    both had alike, beyond chance and luck, or if one's wording is the other's with whole sentences added and no shared
    input speaks against it.
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
    if pairs:
        agreement, kappa = _agreement(pairs)
        if agreement < MIN_AGREEMENT or (kappa >= MIN_KAPPA and len(pairs) >= MIN_SHARED):
            return agreement >= MIN_AGREEMENT
    return _sentences_added(one_wording, other_wording)


def _agreement(pairs: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """(share of equal pairs in [0, 1], Cohen's kappa at the lower end of the share's interval)."""
    total = len(pairs)
    equal = sum(a == b for a, b in pairs) / total
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    chance = sum(first[answer] * second[answer] for answer in first) / total**2
    z2 = SCORE_Z**2
    spread = SCORE_Z * sqrt(equal * (1 - equal) / total + z2 / (4 * total**2))
    low = (equal + z2 / (2 * total) - spread) / (1 + z2 / total)
    return equal, (low - chance) / (1 - chance) if chance < 1 else 0.0


def _sentences_added(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether the sentences of one wording are the other's plus further ones, in the same order, slot by slot."""
    short, long = sorted((one, other), key=lambda literals: sum(map(len, literals)))
    if len(short) != len(long) or _count(short) < MIN_KEPT * _count(long):
        return False
    return all(_contained(_sentences(a), _sentences(b)) for a, b in zip(short, long, strict=True))


def _count(literals: Sequence[str]) -> int:
    return sum(map(len, wording(literals)))


def _sentences(literal: str) -> list[tuple[str, ...]]:
    cut = [tuple([word.casefold() for word in words(part)]) for part in _SENTENCE.split(_bare(literal))]
    return [sentence for sentence in cut if sentence]


def _contained(short: Sequence[tuple[str, ...]], long: Sequence[tuple[str, ...]]) -> bool:
    rest = iter(long)
    return all(sentence in rest for sentence in short)
