"""What several prompts have in common: the literals of the template they may be instances of."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator, Sequence

from ..types import Slots
from .text import LETTER, MESSAGE, tokens, words

__all__ = ["literal_choices", "mining_tokens", "whole_values"]

MAX_CHARS = 24_000
"""Characters of a message that are looked at; of longer ones the first and last half as many, the middle is opaque."""

WINDOW = 3
"""Tokens that must agree for the search of inner literals to stop there."""

MIN_INNER_WORDS = 4
"""Words an inner literal needs unless it has structure (a line end or colon) or stands at the same place in all."""

MAX_REPEATS = 4
"""How often a window may occur in a prompt to be looked at; more often means it is no landmark."""

# What an id, an address or an amount is written with beside letters: a literal cut there is cut inside one.
# Quotes, brackets, colons and commas stand around values.
_JOINT = "[-/@.+~%#$€£_]"
_END = rf"(?:{LETTER}|{_JOINT})*(?:[-/@+~#$€£]|\d\.|{_JOINT}{LETTER}+\.)"
_PIECE = 100  # characters of the longest piece of a value

_Places = dict[tuple[str, ...], list[int]]


@functools.cache
def _glued_end() -> re.Pattern[str]:
    return re.compile(rf"(?:\w+://[^\s\"'<>()\[\]{{}}]*|(?<!{_JOINT})[@#$€£]|(?=\W*\w){_END})\Z")


@functools.cache
def _glued_start() -> re.Pattern[str]:
    return re.compile(rf"(?:[%€£$]|(?:[-/@+~#]|\.(?=[a-z0-9]))(?:{_JOINT}*{LETTER})+/?)")


def mining_tokens(prompt: str) -> list[list[str]]:
    """The tokens of each message of a prompt text, for mining; the middle of a very long message is a single token."""
    return [_capped(MESSAGE + message) for message in prompt.split(MESSAGE)[1:]]


def _capped(message: str) -> list[str]:
    if len(message) <= MAX_CHARS:
        return tokens(message)
    half = MAX_CHARS // 2
    return [*tokens(message[:half]), message[half:-half], *tokens(message[-half:])]


def literal_choices(prompts: Sequence[Sequence[Sequence[str]]]) -> tuple[tuple[str, ...], ...]:
    """Literals that rebuild every one of the prompts, found message by message.

    The common tokens at the start and the end of each message are constant, and so are inner runs of tokens that all
    prompts have equally often and in the same order.

    Args:
        prompts: tokens of the messages of each prompt, as `mining_tokens` gives them; one prompt at least, and all
            must have the same sequence of roles.

    Returns:
        The constant parts, one more than there are slots: first with single inner words that stand at the same place
        in all prompts, then, if there are any, without.
    """
    fine, coarse = [""], [""]
    for message in zip(*prompts, strict=True):
        for literals, parts in zip((fine, coarse), _align(message), strict=True):
            literals[-1] += parts[0]
            literals += parts[1:]
    return tuple(dict.fromkeys((tuple(fine), tuple(coarse))))


def _align(texts: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """The constant parts of one message, with and without single words in place."""
    first = texts[0]
    head = _alike(texts)
    if head == len(first) == max(map(len, texts)):
        return ["".join(first)], ["".join(first)]
    tail = _alike([text[: head - 1 if head else None : -1] for text in texts])
    middles = [text[head : len(text) - tail] for text in texts]
    start, end = "".join(first[:head]), "".join(first[len(first) - tail :])
    fine, coarse = _inner(middles)
    return [start, *fine, end], [start, *coarse, end]


def _alike(texts: Sequence[Sequence[str]]) -> int:
    """How many tokens all texts start with in common."""
    count = 0
    for column in zip(*texts, strict=False):
        if len(set(column)) > 1:
            break
        count += 1
    return count


def _inner(middles: Sequence[Sequence[str]]) -> tuple[list[str], list[str]]:
    """Constant runs within the middles, in order, with and without single words in place."""
    base = min(middles, key=len)
    own, places = _landmarks(base, middles)
    fine: list[tuple[tuple[int, ...], int]] = []
    coarse: list[tuple[tuple[int, ...], int]] = []
    for start, length in _runs(base, own):
        gram = tuple(base[start : start + WINDOW])
        nth = own[gram].index(start)
        starts = tuple([place[gram][nth] for place in places])
        length = _agreeing(middles, starts, length)
        run = base[start : start + length]
        significant = _significant(run)
        if (significant or _in_place(run, starts, fine, middles)) and _in_order(fine, starts, length):
            fine.append((starts, length))
        if significant and _in_order(coarse, starts, length):
            coarse.append((starts, length))
    found = _grown(middles, sorted(fine))
    return found, found if fine == coarse else _grown(middles, sorted(coarse))


def _landmarks(base: Sequence[str], middles: Sequence[Sequence[str]]) -> tuple[_Places, list[_Places]]:
    """Where the windows are that all middles have equally often, and not too often: in one, and in each of them."""
    wanted = set(_grams(base))
    for middle in middles:
        # Unrelated calls have little in common: after a few of them nothing is left, and the others need no look.
        wanted.intersection_update(_grams(middle))
        if not wanted:
            return {}, []
    places = [_windows(middle, wanted) for middle in middles]
    own = {
        gram: at
        for gram, at in _windows(base, wanted).items()
        if len(at) <= MAX_REPEATS and all(len(place[gram]) == len(at) for place in places)
    }
    return own, places


def _grown(middles: Sequence[Sequence[str]], taken: Sequence[tuple[tuple[int, ...], int]]) -> list[str]:
    """The runs as text, each grown over all neighbouring tokens that the middles have in common."""
    grown: list[tuple[list[int], list[int]]] = []
    for index, (starts, length) in enumerate(taken):
        begin, end = list(starts), [start + length for start in starts]
        floor = grown[-1][1] if grown else [0] * len(middles)
        ceiling = list(taken[index + 1][0]) if index + 1 < len(taken) else [len(middle) for middle in middles]
        while _same(middles, [b - 1 for b in begin], floor, ceiling):
            begin = [b - 1 for b in begin]
        while _same(middles, end, floor, ceiling):
            end = [e + 1 for e in end]
        if grown and begin == floor:
            grown[-1] = (grown[-1][0], end)
        else:
            grown.append((begin, end))
    return ["".join(middles[0][begin[0] : end[0]]) for begin, end in grown]


def _same(middles: Sequence[Sequence[str]], at: Sequence[int], floor: Sequence[int], ceiling: Sequence[int]) -> bool:
    """Whether all middles have the same token at these places, which lie between floor and ceiling."""
    if any(not low <= place < high for place, low, high in zip(at, floor, ceiling, strict=True)):
        return False
    return len({middle[place] for middle, place in zip(middles, at, strict=True)}) == 1


def _grams(text: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(text[i:] for i in range(WINDOW)), strict=False)


def _windows(text: Sequence[str], wanted: set[tuple[str, ...]]) -> _Places:
    at: _Places = {}
    for index, gram in [(index, gram) for index, gram in enumerate(_grams(text)) if gram in wanted]:
        at.setdefault(gram, []).append(index)
    return at


def _runs(base: Sequence[str], steady: Collection[tuple[str, ...]]) -> list[tuple[int, int]]:
    """(start, length) of maximal runs of steady windows, those with most words first."""
    runs: list[tuple[int, int]] = []
    for index, gram in enumerate(_grams(base)):
        if gram not in steady:
            continue
        if runs and runs[-1][0] + runs[-1][1] - WINDOW + 1 == index:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((index, WINDOW))
    return sorted(runs, key=lambda run: (-len(words("".join(base[run[0] : run[0] + run[1]]))), run))


def _agreeing(middles: Sequence[Sequence[str]], starts: tuple[int, ...], length: int) -> int:
    """How many tokens from the starts on are the same in all middles, at most `length`."""
    for offset in range(length):
        seen = {
            middle[start + offset] if start + offset < len(middle) else ""
            for middle, start in zip(middles, starts, strict=True)
        }
        if len(seen) > 1:
            return offset
    return length


def _significant(run: Sequence[str]) -> bool:
    """Whether a run is likely to be part of the template rather than of all inputs by chance."""
    count = len(words("".join(run)))
    if count >= MIN_INNER_WORDS:
        return True
    return count > 0 and ("\n" in run or ":" in run)


def _in_place(
    run: Sequence[str],
    starts: tuple[int, ...],
    taken: Sequence[tuple[tuple[int, ...], int]],
    middles: Sequence[Sequence[str]],
) -> bool:
    """Whether a run has a word and stands as far from an edge, or from a run taken so far, in all middles."""
    if not words("".join(run)):
        return False
    anchors = [(0,) * len(starts), tuple(map(len, middles)), *(others for others, _ in taken)]
    return any(len({start - at for start, at in zip(starts, anchor, strict=True)}) == 1 for anchor in anchors)


def _in_order(taken: Sequence[tuple[tuple[int, ...], int]], starts: tuple[int, ...], length: int) -> bool:
    """Whether a run lies before or after every run taken so far, in all middles alike."""
    for others, other_length in taken:
        before = all(start + length <= other for start, other in zip(starts, others, strict=True))
        after = all(other + other_length <= start for start, other in zip(starts, others, strict=True))
        if not before and not after:
            return False
    return True


def whole_values(literals: Sequence[str], fits: Sequence[Slots]) -> tuple[str, ...]:
    r"""The literals without pieces of values: "INV-2026-" before a slot is part of an id that the slot goes on with.

    An inner literal that such a piece is cut from stays only if the rest is likely to be part of the template.

    Args:
        literals: the constant parts of some prompts.
        fits: their slots.

    Example:
        >>> whole_values(("Id: A-", "@b.c.\nTo:"), [("12",), ("7",)])
        ('Id: ', '.\nTo:')
    """
    kept = [literals[0]]
    for literal, values in zip(literals[1:], zip(*fits, strict=True), strict=True):
        if any(value and not value[0].isspace() for value in values):
            kept[-1] = _without_end(kept[-1])
        glued = any(value and not value[-1].isspace() for value in values)
        kept.append(literal[piece.end() :] if glued and (piece := _glued_start().match(literal)) else literal)
    last = len(kept) - 1
    pairs = enumerate(zip(literals, kept, strict=True))
    stays = [i in (0, last) or MESSAGE in rest or _stays(own, rest) for i, (own, rest) in pairs]
    return tuple([rest for rest, stay in zip(kept, stays, strict=True) if stay])


def _stays(literal: str, rest: str) -> bool:
    """Whether the rest of an inner literal is still one."""
    return words(rest) == words(literal) or _significant(tokens(rest))


def _without_end(literal: str) -> str:
    """A literal without the piece of a value that it ends with, if there is one."""
    edge = literal[-_PIECE:]
    piece = _glued_end().search(edge)
    whole = piece is not None and (piece.start() > 0 or edge == literal)
    return literal[: len(literal) - len(edge) + piece.start()] if piece and whole else literal
