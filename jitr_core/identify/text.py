"""Prompts as text: one string per call, its tokens, and the hash of an input. Standard library only."""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Sequence

__all__ = [
    "LETTER",
    "MESSAGE",
    "ROLE_END",
    "content_hash",
    "join_prompt",
    "messages_of",
    "normalise",
    "prompt_text",
    "tokens",
    "words",
]

MESSAGE = "\x1e"
"""Opens a message in a prompt text."""

ROLE_END = "\x1f"
"""Stands between a message's role and its text."""

_ESCAPES = str.maketrans({MESSAGE: "\u241e", ROLE_END: "\u241f"})
# Scripts written without spaces are cut into characters, everything else into words.
_UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
LETTER = rf"[^\W{_UNSPACED}]"
"""A letter, digit or underscore of a word, as a regular expression."""


# Sets of scripts take milliseconds to compile, and only mining cuts texts: compiled on first use, not on import.


@functools.cache
def _token() -> re.Pattern[str]:
    return re.compile(rf"\x1e[^\x1f]*\x1f|\n|[^\S\n]+|[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]|.", re.DOTALL)


@functools.cache
def _word() -> re.Pattern[str]:
    return re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def prompt_text(messages: Sequence[tuple[str, str]]) -> str:
    r"""All messages as one string; a template's literals and slots are parts of it.

    Args:
        messages: (role, text) pairs in order.

    Returns:
        "\x1e" + role + "\x1f" + text of each message. Should a role or text itself hold one of these two control
        characters, its Unicode picture takes its place, so that messages can always be told apart.

    Example:
        >>> prompt_text([("system", "Be brief."), ("user", "Hi")])
        '\x1esystem\x1fBe brief.\x1euser\x1fHi'
    """
    if len(messages) == 1:
        role, text = messages[0]
        if MESSAGE not in text and ROLE_END not in text and MESSAGE not in role and ROLE_END not in role:
            return f"\x1e{role}\x1f{text}"
    return "".join([f"\x1e{_escape(role)}\x1f{_escape(text)}" for role, text in messages])


def messages_of(prompt: str) -> list[tuple[str, str]]:
    r"""The (role, text) pairs that a prompt text was made of.

    Example:
        >>> messages_of("\x1esystem\x1fBe brief.\x1euser\x1fHi")
        [('system', 'Be brief.'), ('user', 'Hi')]
    """
    parts = (message.partition(ROLE_END) for message in prompt.split(MESSAGE)[1:])
    return [(role, text) for role, _, text in parts]


def _escape(text: str) -> str:
    return text.translate(_ESCAPES) if MESSAGE in text or ROLE_END in text else text


def join_prompt(literals: Sequence[str], slots: Sequence[str]) -> str:
    """The prompt text that a template's literals and a call's slots stand for.

    Args:
        literals: the constant parts, one more than slots.
        slots: the varying parts.

    Example:
        >>> join_prompt(("Is ", " a fruit?"), ("an apple",))
        'Is an apple a fruit?'
    """
    parts = [literals[0]]
    for slot, literal in zip(slots, literals[1:], strict=True):
        parts += (slot, literal)
    return "".join(parts)


def tokens(text: str) -> list[str]:
    """The text cut into message openings, words, punctuation marks, line ends and runs of blanks; joined, it is whole.

    Example:
        >>> tokens("Is it good? yes")
        ['Is', ' ', 'it', ' ', 'good', '?', ' ', 'yes']
    """
    return _token().findall(text)


def words(text: str) -> list[str]:
    """Only the words and numbers of a text, in order.

    Example:
        >>> words("Is it good? yes")
        ['Is', 'it', 'good', 'yes']
    """
    return _word().findall(text)


def normalise(text: str) -> str:
    r"""The text as inputs are compared: NFKC, casefolded, white space collapsed.

    Example:
        >>> normalise("  My CARD\n was declined ")
        'my card was declined'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def content_hash(slots: Sequence[str]) -> str:
    r"""Hash of a normalised input: equal for inputs that differ in case, width or white space only.

    Args:
        slots: the input.

    Returns:
        32 hexadecimal digits.

    Example:
        >>> content_hash(("Hello  world",)) == content_hash(("hello world\n",))
        True
    """
    joined = "\x1d".join([normalise(slot) for slot in slots])
    return hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
