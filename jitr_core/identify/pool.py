"""Calls that belong to no known template yet, findable by what they share. Bounded in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from .align import mining_tokens
from .template import Key

__all__ = ["Chain", "Pool", "Pooled"]

LEVELS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64, 96)
"""Depths, in tokens without blanks, at which the start and the end of a message are compared."""

MAX_LINES = 8
"""Inner lines of a prompt whose first words are compared, counted from the end."""

LINE_DEPTHS = (5, 9, 14)
"""Tokens of an inner line that are compared, blanks not counted; lines are shorter than the longest as a whole."""

PHRASE = 6
"""Tokens of an inner phrase, blanks not counted."""

PHRASE_WINDOW = 6
"""Of this many neighbouring phrases the one with the smallest hash is compared, so that equal texts are compared at
equal places (winnowing: Schleimer, Wilkerson, Aiken, SIGMOD 2003)."""

PHRASE_REACH = (60, 120)
"""Tokens from the start and from the end of the last message in which phrases are looked for."""

OPENING = 24
"""Characters of a prompt under which it is found by its start."""

MAX_CUT = 500_000
"""Characters of prompts whose tokens are kept: the same calls are compared again and again."""

_MASK = (1 << 64) - 1
_PRIME = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class Chain:
    """Hashes of ever longer starts (or ends) of a prompt.

    Attributes:
        keys: the hashes, shortest part first.
        depths: how many tokens, blanks not counted, each of them covers.
    """

    keys: tuple[int, ...]
    depths: tuple[int, ...]


@dataclass(slots=True)
class Pooled:
    """One call in the pool.

    Attributes:
        id: the call's id.
        key: app, tenant, step and contract.
        roles: roles of its messages.
        prompt: its prompt text.
        starts, ends: hashes of how it starts and ends.
        inner: (hash, depth) of how its inner lines start and of phrases in it.
    """

    id: str
    key: Key
    roles: tuple[str, ...]
    prompt: str
    starts: Chain
    ends: Chain
    inner: tuple[tuple[int, int], ...]


def pooled(call_id: str, key: Key, roles: tuple[str, ...], prompt: str) -> Pooled:
    """A call made ready for the pool."""
    messages = [
        [token for token in message if token == "\n" or not token.isspace()] for message in mining_tokens(prompt)
    ]
    seed = crc32(repr((key, roles)).encode("utf-8", "surrogatepass"))
    starts = _chain(messages, seed)
    ends = _chain([message[:0:-1] for message in reversed(messages)], seed ^ 0x5BD1E995)
    return Pooled(call_id, key, roles, prompt, starts, ends, tuple(_inner(messages, seed).items()))


def _chain(messages: Sequence[Sequence[str]], seed: int) -> Chain:
    value = seed * _PRIME & _MASK
    keys: list[int] = []
    depths: list[int] = []
    before = 0
    for message in messages:
        length = len(message)
        for depth, token in enumerate(message[: LEVELS[-1]], 1):
            value = (value * 31 + crc32(token.encode("utf-8", "surrogatepass"))) * _PRIME & _MASK
            if depth in _LEVEL_SET and depth < length:
                keys.append(value)
                depths.append(before + depth)
        rest = "".join(message[LEVELS[-1] :])
        value = (value * 31 + crc32(rest.encode("utf-8", "surrogatepass")) + 1) * _PRIME & _MASK
        keys.append(value)
        depths.append(before + length)
        before += length
    return Chain(tuple(keys), tuple(depths))


_LEVEL_SET = frozenset(LEVELS)


def _inner(messages: Sequence[Sequence[str]], seed: int) -> dict[int, int]:
    """Depth of each hash of the first words of inner lines and of phrases within the last message."""
    found: dict[int, int] = {}
    lines = 0
    last = messages[-1] if messages else []
    for index in range(len(last) - 1, -1, -1):
        if last[index] != "\n":
            continue
        line = last[index + 1 : index + 1 + LINE_DEPTHS[-1]]
        line = line[: line.index("\n")] if "\n" in line else line
        if len(line) < LINE_DEPTHS[0]:
            continue
        for depth in LINE_DEPTHS:
            if len(line) >= depth:
                found.setdefault(_hash(line[:depth], seed), depth)
        lines += 1
        if lines >= MAX_LINES:
            break
    first, end = PHRASE_REACH
    for part in [last] if len(last) <= first + end else [last[:first], last[-end:]]:
        hashes = [_hash(part[i : i + PHRASE], seed) for i in range(len(part) - PHRASE + 1)]
        for i in range(len(hashes) - PHRASE_WINDOW + 1):
            found.setdefault(min(hashes[i : i + PHRASE_WINDOW]), PHRASE)
    return found


def _hash(phrase: Sequence[str], seed: int) -> int:
    return (crc32("\x1f".join(phrase).encode("utf-8", "surrogatepass"), seed) * _PRIME + len(phrase)) & _MASK


class Pool:
    """Least recently added calls leave when it is full.

    A start (or end) that only one call has is not followed deeper: that keeps the number of buckets near the number
    of calls. A bucket with two calls or more holds all calls of the pool that share its part.
    """

    def __init__(self, max_calls: int, max_chars: int) -> None:
        self.max_calls = max_calls
        self.max_chars = max_chars
        self.calls: OrderedDict[int, Pooled] = OrderedDict()
        self.buckets: dict[int, list[int]] = {}
        self.due: dict[int, int] = {}
        self.chars = 0
        self._openings: dict[str, dict[int, Pooled]] = {}
        self._cut: OrderedDict[int, list[list[str]]] = OrderedDict()
        self._cut_chars = 0
        self._next = 0

    def __len__(self) -> int:
        return len(self.calls)

    def add(self, call: Pooled) -> int:
        """Put a call in; the oldest ones leave if there are too many. Returns its number."""
        number = self._next
        self._next += 1
        self.calls[number] = call
        self.chars += len(call.prompt)
        self._openings.setdefault(call.prompt[:OPENING], {})[number] = call
        self._descend(call.starts, number, ends=False)
        self._descend(call.ends, number, ends=True)
        for key, _ in call.inner:
            self.buckets.setdefault(key, []).append(number)
        while len(self.calls) > self.max_calls or (self.chars > self.max_chars and len(self.calls) > 1):
            self.remove(next(iter(self.calls)))
        return number

    def _descend(self, chain: Chain, number: int, *, ends: bool) -> None:
        buckets = self.buckets
        for level, key in enumerate(chain.keys):
            bucket = buckets.get(key)
            if bucket is None:
                buckets[key] = [number]
                return
            if len(bucket) == 1:
                other = self.calls[bucket[0]]
                keys = (other.ends if ends else other.starts).keys
                if level + 1 < len(keys):
                    buckets.setdefault(keys[level + 1], [bucket[0]])
            bucket.append(number)

    def remove(self, number: int) -> None:
        """Take a call out; unknown numbers are ignored."""
        call = self.calls.get(number)
        if call is None:
            return
        self._forget_cut(number)
        del self.calls[number]
        self.chars -= len(call.prompt)
        opening = self._openings[call.prompt[:OPENING]]
        del opening[number]
        if not opening:
            del self._openings[call.prompt[:OPENING]]
        for key in (*call.starts.keys, *call.ends.keys, *(key for key, _ in call.inner)):
            bucket = self.buckets.get(key)
            if bucket is not None and number in bucket:
                bucket.remove(number)
                if not bucket:
                    del self.buckets[key]
                    self.due.pop(key, None)

    def starting(self, text: str) -> dict[int, Pooled]:
        """Calls by number, oldest first, among which are all whose prompts start so."""
        return self.calls if len(text) < OPENING else self._openings.get(text[:OPENING], {})

    def tokens(self, number: int) -> list[list[str]]:
        """Tokens of each message of a call."""
        cut = self._cut.get(number)
        if cut is not None:
            self._cut.move_to_end(number)
            return cut
        prompt = self.calls[number].prompt
        cut = mining_tokens(prompt)
        if len(prompt) <= MAX_CUT:
            self._cut[number] = cut
            self._cut_chars += len(prompt)
            while self._cut_chars > MAX_CUT:
                self._forget_cut(next(iter(self._cut)))
        return cut

    def _forget_cut(self, number: int) -> None:
        if self._cut.pop(number, None) is not None:
            self._cut_chars -= len(self.calls[number].prompt)

    def size(self, key: int) -> int:
        """How many calls share a part."""
        return len(self.buckets.get(key, ()))
