"""The day on which a prompt was written: constant until midnight, and input all the same."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .text import words

__all__ = ["undated"]

_YEAR = r"(?:19|20)\d\d"
_CLOCK = r"(?:(?:T|,? )\d{1,2}:\d\d(?::\d\d(?:\.\d+)?)?(?: ?[AaPp][Mm]\b|Z|[+-]\d\d:?\d\d)?)?"
_NAME = r"[^\W\d_]{3,10}\.?"
# A day of the week, a date (2025-03-01, 1.3.2025, 1. März 2025, March 1st, 2025), a time: what is there of them.
_DATE = re.compile(
    rf"(?<![\w.,/-])(?:[^\W\d_]{{2,10}}, |[^\W\d_]{{2,7}}(?:day|tag) )?"
    rf"(?:{_YEAR}([-/.])\d\d?\1\d\d?|\d\d?([-/.])\d\d?\2{_YEAR}|"
    rf"\d\d?(?:\.|st|nd|rd|th)? {_NAME},? {_YEAR}|{_NAME} \d\d?(?:st|nd|rd|th)?,? {_YEAR}){_CLOCK}(?![\w/-])"
)


def undated(literals: Sequence[str]) -> tuple[str, ...]:
    r"""A template's literals with a slot in place of their date, if they hold one.

    Of several none is taken: they are part of what is said, in examples for instance.

    Example:
        >>> undated(("Today is Monday, March 3, 2025. Sort it: ", ""))
        ('Today is ', '. Sort it: ', '')
        >>> undated(("From 2020-01-01 to 2020-12-31: ", ""))
        ('From 2020-01-01 to 2020-12-31: ', '')
    """
    found = [(place, match) for place, literal in enumerate(literals) for match in _DATE.finditer(literal)]
    if len(found) != 1:
        return tuple(literals)
    ((place, match),) = found
    before, after = literals[place][: match.start()], literals[place][match.end() :]
    # What parts the date from another slot must not stand in either of them, or a prompt would be cut elsewhere.
    if place > 0 and not words(before) or place < len(literals) - 1 and after in match[0]:
        return tuple(literals)
    return (*literals[:place], before, after, *literals[place + 1 :])
