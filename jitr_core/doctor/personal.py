"""Texts that look personal: mail addresses, phone numbers, card numbers. A few careful patterns, no more.

Rather one too few than a false alarm: phone numbers count with a country code (`+49 30 …`) or as in `202-555-0143`,
card numbers with 15 or 16 digits and the right check digit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["KINDS", "kinds"]

KINDS = ("mail address", "phone number", "card number")
"""What is looked for."""

_DIGITS = re.compile(r"\d[\d ().\-/]{6,}\d")  # what is neither a phone's nor a card's number is passed by quickly
_MAIL = re.compile(r"[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,5}[A-Za-z]{2,}")
_PHONE = re.compile(
    r"(?<![\w.+])\+[1-9](?:[ .()/-]{0,2}\d){7,14}(?![\w.]?\d)"
    r"|(?<![\w.-])\(?[2-9]\d{2}\)?[ .-]{1,2}[2-9]\d{2}[ .-]\d{4}(?![\w-]|\.\d)"
)
_CARD = re.compile(r"(?<![\w.-])(?:[2-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{4}|3\d{3}([ -]?)\d{6}\2\d{5})(?![\w-]|\.\d)")


def kinds(text: str) -> Iterator[str]:
    """The kinds of personal data that a text seems to hold, each once.

    Example:
        >>> list(kinds("write to tom@mail.example, or call +1 202-555-0143"))
        ['mail address', 'phone number']
        >>> list(kinds("card 4111 1111 1111 1111")), list(kinds("order 4111 1111 1111 1112"))
        (['card number'], [])
    """
    if "@" in text and _MAIL.search(text):
        yield "mail address"
    if not _DIGITS.search(text):
        return
    if _PHONE.search(text):
        yield "phone number"
    if any(_checks(found[0]) for found in _CARD.finditer(text)):
        yield "card number"


def _checks(number: str) -> bool:
    """Whether the last digit is the check digit of the others (Luhn; ISO/IEC 7812-1)."""
    digits = [int(sign) for sign in number if sign.isdigit()][::-1]
    return sum(digits[::2]) % 10 == -sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2]) % 10
