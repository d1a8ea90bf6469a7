"""Answer spaces: what kind of answers a task has, judged from the teacher's answers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from ..amounts import bare
from ..layout import MOSTLY, reader
from ..structured import Path, items

__all__ = ["AnswerSpace", "answer_space"]

MIN_ANSWERS = 8
"""Fewer answers than this tell nothing."""

MAX_NEW_SHARE = 0.15
"""Largest share of answers seen once, in [0, 1], at which a set of answers counts as closed. By Good and Turing
(Biometrika 1953) it estimates the probability that the next answer is a new one; stray answers are part of it."""


@dataclass(frozen=True, slots=True)
class AnswerSpace:
    """What a task's answers are like.

    Attributes:
        kind: `labels` (a closed set), `fields` (JSON objects, lists or numbers; lists and amounts in plain text) or
            `text` (anything else, or too little to tell).
        labels: the closed set, most frequent first; () for other kinds. Strays are left out.
        reason: why it is of this kind, in words for the user.
    """

    kind: Literal["labels", "fields", "text"]
    labels: tuple[str, ...]
    reason: str


def answer_space(answers: Mapping[str, int] | Iterable[str], *, max_labels: int = 300) -> AnswerSpace:
    """Judge the answers of a task.

    Answers are compared without white space around them. Labels are answers that came at least twice; they make up
    the answer space if at most `MAX_NEW_SHARE` of all answers came once only, so a few stray sentences do no harm.
    Objects are labels only if one of their fields tells all the others: else every field is learnt by itself, and
    combinations that never came can be answered too.

    Args:
        answers: the teacher's answers, or a count of each.
        max_labels: most labels a closed set may have, ≥ 2.

    Example:
        >>> answer_space(["yes", "no"] * 20).labels
        ('no', 'yes')
        >>> answer_space(f"sentence {i}" for i in range(500)).reason
        'answers are free text: 500 different answers in 500 calls'
    """
    counts: Counter[str] = Counter()
    for answer, times in answers.items() if isinstance(answers, Mapping) else ((a, 1) for a in answers):
        counts[answer.strip()] += times
    total = sum(counts.values())
    if total < MIN_ANSWERS:
        return AnswerSpace("text", (), f"too few answers to tell: {total} of {MIN_ANSWERS}")
    repeated = [answer for answer, times in counts.items() if times > 1]
    once = len(counts) - len(repeated)
    share, factors, what = _fields(counts, total)
    closed = bool(repeated) and once / total <= MAX_NEW_SHARE
    composed = share >= MOSTLY and len(repeated) > factors
    if closed and len(repeated) <= max_labels and not composed:
        labels = tuple(sorted(repeated, key=lambda a: (-counts[a], a)))
        strays = f", {once} strays" if once else ""
        return AnswerSpace("labels", labels, f"{len(labels)} different answers in {total} calls{strays}")
    if share >= MOSTLY:
        return AnswerSpace("fields", (), f"answers are {what}: {share:.0%} of {total}")
    if closed:
        return AnswerSpace(
            "text", (), f"too many labels: {len(repeated)} in {total} calls, at most {max_labels} allowed"
        )
    return AnswerSpace("text", (), f"answers are free text: {len(counts)} different answers in {total} calls")


def _fields(counts: Mapping[str, int], total: int) -> tuple[float, int, str]:
    """What there is to take apart in answers.

    Values count as answers do: from the second time on. Of lists the items count.

    Returns:
        The share of answers that are structured, in [0, 1]; how many values the field with the most of them has;
        what the answers are, for the user: JSON, or lists or amounts in plain text.
    """
    read = reader(counts)
    found, what, values = 0, "amounts" if read is bare else "JSON", dict[Path, Counter[str]]()
    for answer, times in counts.items():
        if (taken := read(answer)) is not None:
            found += times
            what = "lists" if taken.joint else what
            for path, value in taken.values.items():
                for item in items(value) or [value]:
                    values.setdefault(path, Counter())[item] += times
    several = (sum(times > 1 for times in each.values()) for each in values.values())
    return found / total, max(several, default=0), what
