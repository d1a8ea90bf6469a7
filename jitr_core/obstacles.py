"""What keeps a task from being replaced besides too few labels, as far as a search has shown it: for readers."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from .equivalence import bare_words
from .types import CandidateReport

__all__ = ["obstacle"]

_FIELD = "fields/"
_OPENING = re.compile(r"\W*\w[^.:;,!?\n(–—]{0,40}[.:;,!?\n(–—]")  # up to the first mark or line end
_OPENED, _LABELS, _LEAST = 0.9, 20, 3  # share of answers that begin with a label; how many there are; calls of each
_SHOWN, _CHARS = 3, 40  # answers quoted, and characters of each


def obstacle(answers: Iterable[str], candidates: Sequence[CandidateReport], target: float) -> str:
    """What stands in the way of a certificate, as a clause; "" if nothing shows.

    Args:
        answers: the teacher's, of all labelled calls, where they must be equal to agree.
        candidates: what the search found; of structured answers a report of each field.
        target: promised agreement, in (0, 1).

    Example:
        >>> obstacle(["Spam"] * 8 + ["spam.", "SPAM"], [], 0.95)[:60]
        'in 20% of the calls an answer is written otherwise than most'
    """
    fields = [(each.agreement, each.name) for each in candidates if each.name.startswith(_FIELD) and each.agreement]
    if len(fields) > 1:
        agreement, name = min(fields)
        told = f"the field that agrees least is {name.removeprefix(_FIELD)}, in {agreement:.0%} of the inputs"
        return told if agreement < target else ""
    if fields:
        return ""
    given = Counter(answer.strip() for answer in answers)
    return _spellings(given, 1 - target) or _openings(given)


def _openings(answers: Counter[str]) -> str:
    """Answers that begin with a label and go on freely, as with an explanation."""
    begun: Counter[str] = Counter()
    for answer, times in answers.items():
        if (found := _OPENING.match(answer)) and found.end() < len(answer):
            begun[found[0].strip()] += times
    labels = {label: times for label, times in begun.items() if times >= _LEAST}
    if not 2 <= len(labels) <= _LABELS or len(answers) < 2 * len(labels):
        return ""
    if sum(labels.values()) < _OPENED * answers.total():
        return ""
    shown = _quoted(sorted(labels, key=lambda label: -labels[label]))
    return f"they begin with one of {len(labels)} labels ({shown}) and go on freely: ask the LLM for the label alone"


def _spellings(answers: Counter[str], most: float) -> str:
    """How the teacher spells one answer in several ways, if more than a share `most` of the answers suffer from it."""
    forms: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for answer, times in answers.items():
        forms[tuple(bare_words(answer))][answer] += times
    others = {key: spelt.total() - max(spelt.values()) for key, spelt in forms.items() if key}
    share = sum(others.values()) / max(answers.total(), 1)
    if share <= most:
        return ""
    worst = forms[max(others, key=lambda key: others[key])]
    shown = _quoted(form for form, _ in worst.most_common())
    return (
        f"in {share:.0%} of the calls an answer is written otherwise than mostly, in case and punctuation alone "
        f"({shown}): have the LLM write it one way, or `jitr tasks compare TASK normalised`"
    )


def _quoted(answers: Iterable[str]) -> str:
    return ", ".join(f"“{each[:_CHARS]}”" for each in list(answers)[:_SHOWN])
