"""When one template serves two jobs: its answers are of two kinds, and the inputs say which is due."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from ..types import Slots
from .text import tokens, words

__all__ = ["Kinds"]

SAMPLE = 64
"""Latest calls of a template that are looked at."""

EDGE = 120
"""Characters at each end of a slot that are looked at."""

RUN_WORDS = 5
"""Words at the edge of a slot that are wording rather than data if several calls have them in common."""

MIN_APART = 0.9
"""Smallest distance in [0, 1] (total variation) between the answers of calls with and without a mark."""

MAX_COMMON = 0.8
"""Largest share, in [0, 1], of a single answer on either side: a word that gives the label away is no second job."""

MIN_REPEATS = 3
"""Answers of the sample that come as often count as labels; of rarer ones only the form counts."""

FIRST_CHECK = 16
"""Answers after which a template is looked at first, then again whenever there is an eighth more."""

MAX_WATCHED = 1024
"""Templates whose calls are kept; the least recently answered leave."""

Form = tuple[str, ...]


@dataclass(slots=True)
class _Seen:
    """One answered call: the first and last characters of its slots, whole ones first, and its answer."""

    starts: tuple[str, ...]
    ends: tuple[str, ...]
    whole: tuple[bool, ...]
    answer: str
    form: Form


@dataclass(slots=True)
class _Watch:
    due: int = FIRST_CHECK
    total: int = 0
    calls: deque[_Seen] = field(default_factory=lambda: deque(maxlen=SAMPLE))


@dataclass(frozen=True, slots=True)
class _Mark:
    """Text at the start or end of a slot, or all of it, that may tell the calls of one job from another's."""

    slot: int
    text: str
    where: str

    def on(self, call: _Seen) -> bool:
        if self.where == "whole":
            return call.whole[self.slot] and call.starts[self.slot] == self.text
        if self.where == "start":
            return call.starts[self.slot].startswith(self.text)
        return call.ends[self.slot].endswith(self.text)


class Kinds:
    """Watches the answers of templates, the most recently answered `MAX_WATCHED` of them.

    Args:
        min_calls: calls that each of two jobs must have, ≥ 2.
    """

    def __init__(self, min_calls: int) -> None:
        self._min_calls = min_calls
        self._watched: OrderedDict[str, _Watch] = OrderedDict()

    def note(self, template: str, literals: Sequence[str], answer: str, slots: Slots) -> list[tuple[str, ...]]:
        """Take in an answer.

        Args:
            template: id of the call's template.
            literals: its constant parts.
            answer: the teacher's answer.
            slots: the call's input.

        Returns:
            The literals of more specific templates, if the calls prove to be two jobs: the first is for a new task, the
            second, if there is one, for the calls that stay with the old one. Mostly none.
        """
        watch = self._watched.get(template)
        if watch is None:
            watch = self._watched[template] = _Watch()
            if len(self._watched) > MAX_WATCHED:
                self._watched.popitem(last=False)
        self._watched.move_to_end(template)
        watch.total += 1
        watch.calls.append(_seen(slots, answer.strip()))
        if watch.total < watch.due:
            return []
        watch.due = watch.total + watch.total // 8
        calls = list(watch.calls)
        mark = None if _listed(literals, calls) else _telling(calls, self._min_calls)
        if mark is None:
            return []
        sides = [[call for call in calls if mark.on(call) is side] for side in (True, False)]
        marked, rest = (_tightened(literals, side) for side in sides)
        if len(words(" ".join(rest))) == len(words(" ".join(literals))):
            return [marked]
        return [marked, rest] if len(sides[0]) < len(sides[1]) else [rest, marked]

    def forget(self, template: str) -> None:
        """Start anew with a template."""
        self._watched.pop(template, None)


def _seen(slots: Slots, answer: str) -> _Seen:
    return _Seen(
        tuple([slot[:EDGE] for slot in slots]),
        tuple([slot[-EDGE:] for slot in slots]),
        tuple([len(slot) <= EDGE for slot in slots]),
        answer[:EDGE],
        _form(answer),
    )


def _form(answer: str) -> Form:
    """What an answer looks like: script and case of its first letter, and its extent.

    How it ends is left out: translations and rewritten texts end as their inputs do.
    """
    first = answer[:1]
    if first in ("{", "[", "<"):
        return (first,)
    opening = "digit" if first.isdigit() else "other"
    if first.isalpha():
        opening = unicodedata.name(first, "").split(" ")[0] + (" lower" if first.islower() else "")
    count = len(words(answer[:EDGE]))
    extent = "word" if count <= 1 else "phrase" if count <= RUN_WORDS else "text"
    return (opening, extent)


def _listed(literals: Sequence[str], calls: Sequence[_Seen]) -> bool:
    """Whether the constant text names the answers: then it is one job, however its inputs are worded."""
    counts = Counter(call.answer for call in calls)
    recurring = [answer for answer, count in counts.items() if count >= MIN_REPEATS]
    if sum(counts[answer] for answer in recurring) < MAX_COMMON * len(calls):
        return False
    said = {word.casefold() for literal in literals for word in words(literal)}
    return all(said.issuperset([word.casefold() for word in words(answer)]) for answer in recurring)


def _telling(calls: Sequence[_Seen], min_calls: int) -> _Mark | None:
    """The mark that parts the calls into two jobs, if there is one; of several the first."""
    counts = Counter(call.answer for call in calls)
    kinds = [(call.answer,) if counts[call.answer] >= MIN_REPEATS else call.form for call in calls]
    forms = [call.form for call in calls]
    if len(calls) < 2 * min_calls or max(Counter(kinds).values()) > len(calls) - min_calls:
        return None
    for mark, worded in _marks(calls, min_calls):
        on = [mark.on(call) for call in calls]
        if not min_calls <= sum(on) <= len(calls) - min_calls:
            continue
        # Punctuation may well go with a label ("?" with "question"): it must change what answers look like.
        if _apart(kinds if worded else forms, on) < MIN_APART:
            continue
        sides = [
            Counter(call.answer for call, here in zip(calls, on, strict=True) if here is side) for side in (True, False)
        ]
        if all(max(side.values()) <= MAX_COMMON * side.total() for side in sides):
            return mark
    return None


def _tightened(literals: Sequence[str], calls: Sequence[_Seen]) -> tuple[str, ...]:
    """The literals with all that the calls' slots start or end with in common."""
    done = [literals[0]]
    for slot, literal in enumerate(literals[1:]):
        starts = [call.starts[slot] for call in calls]
        whole = [call.whole[slot] for call in calls]
        if all(whole) and len(set(starts)) == 1:
            done[-1] += starts[0] + literal
            continue
        head = "".join(_common([tokens(start) for start in starts], whole))
        ends = [call.ends[slot][len(head) if call.whole[slot] else 0 :] for call in calls]
        tail = "".join(_common([tokens(end)[::-1] for end in ends], whole)[::-1])
        done[-1] += head
        done.append(tail + literal)
    return tuple(done)


def _common(values: Sequence[Sequence[str]], whole: Sequence[bool]) -> list[str]:
    """The tokens that all values start with; the last one of a value that was cut may be cut itself."""
    kept = [value if uncut else value[:-1] for value, uncut in zip(values, whole, strict=True)]
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, zip(*kept, strict=False))]


def _apart(kinds: Sequence[Form], on: Sequence[bool]) -> float:
    """Total variation distance, in [0, 1], between the kinds of the calls that are on and of those that are not."""
    inside = Counter(kind for kind, here in zip(kinds, on, strict=True) if here)
    outside = Counter(kind for kind, here in zip(kinds, on, strict=True) if not here)
    m, n = inside.total(), outside.total()
    return sum(abs(inside[kind] / m - outside[kind] / n) for kind in {*inside, *outside}) / 2


def _marks(calls: Sequence[_Seen], min_calls: int) -> Iterator[tuple[_Mark, bool]]:
    """Marks that enough of the calls have, and whether they are words: values that recur, wording, layout."""
    for slot in range(min(len(call.starts) for call in calls)):
        starts, ends = [call.starts[slot] for call in calls], [call.ends[slot] for call in calls]
        whole = [start for start, call in zip(starts, calls, strict=True) if call.whole[slot]]
        for where, worded, texts in (
            ("whole", True, whole),
            ("start", True, map(_wording, starts)),
            ("end", True, map(_last_wording, ends)),
            ("start", False, map(_layout, starts)),
            ("end", False, map(_last_layout, ends)),
        ):
            found = Counter(texts)
            for text, count in sorted(found.items(), key=lambda item: (-item[1], item[0])):
                if count >= min_calls and text:
                    yield _Mark(slot, text, where), worded


def _wording(value: str) -> str:
    """The first `RUN_WORDS` words of a value that goes on after them; "" if it does not."""
    return "".join(_run(tokens(value)))


def _last_wording(value: str) -> str:
    """The last `RUN_WORDS` words of a value that has more before them."""
    return "".join(_run(tokens(value)[::-1])[::-1])


def _run(cut: Sequence[str]) -> Sequence[str]:
    count = 0
    for place, token in enumerate(cut[:-1], 1):
        count += bool(words(token))
        if count == RUN_WORDS:
            return cut[:place]
    return ()


def _layout(value: str) -> str:
    """The white space, bullet and the like that a value starts with; "" for mere punctuation, which is the writer's."""
    found = re.match(r"[\W_]*", value)
    text = found[0] if found is not None else ""
    return text if any(map(str.isspace, text)) and len(text) < len(value) else ""


def _last_layout(value: str) -> str:
    """As `_layout`, at the end."""
    return _layout(value[::-1])[::-1]
