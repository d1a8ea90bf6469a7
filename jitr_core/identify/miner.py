"""When calls are instances of a template: the evidence, weighed. Works on one bucket of the pool at a time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..types import Slots
from .align import literal_choices, whole_values
from .dates import undated
from .pool import Chain, Pool, Pooled
from .template import fit
from .text import MESSAGE, ROLE_END, tokens, words

__all__ = ["Miner", "Proposal"]

SAMPLE = 24
"""Most prompts of a bucket that are compared."""

EVALUATIONS = 6
"""Most buckets looked at for one call."""

INSTRUCTION_WORDS = 3
"""Words, numbers not counted, that make a constant sentence or line an instruction; fewer are a label."""

RUN_WORDS = 5
"""Constant words on end, shared by none but the bucket's calls, that are evidence by themselves. Idioms that start
many unrelated requests ("Give me an example of a") lose calls at every word; a template keeps all to the last."""

RETAINED = 0.75
"""Share of the calls, in [0, 1], that must go on with the next word for a run of constant words to go on."""

SHARED_TOKENS = 8
"""Tokens that two slot values must share at their start or end to count as alike."""

EDGE = 200
"""Characters of a slot value in which these tokens are looked for."""

NEAR = 72
"""Characters in which they are looked for first: mostly they are there."""

MIN_DISTINCT = 0.5
"""Smallest share of different prompts, in [0, 1], where there are fewer than `min_calls` different ones."""

LABEL_CALLS = 24
"""Calls for which a single labelling word is evidence enough, if their inputs have nothing in common."""

WORDING_WEIGHT = 1.25
"""How much more likeness counts in a slot within a sentence: such a slot may be part of the instruction."""

SCAFFOLD = 4
"""Known templates with the same label from which on it is no evidence for another one ("Input:", "Answer:")."""

MAX_ALIKE_LABELLED = 0.1
"""As `MAX_ALIKE`, in [0, 1], where the evidence is labelling words only."""

MAX_ALIKE = 0.5
"""Largest share, in [0, 1], of calls whose slot value is like another's. Above it the bucket mixes several templates
that have yet to show themselves one by one."""

_SLOT = "\x00"
_SENTENCE_START = re.compile(r"[.?!]?\s+[A-Z]")
_FIELD_START = re.compile(r"[:\n\"'(\[{<|=]\s*$")
_WHOLE = re.compile(r"(?:[.?!:]\s|[:\n])\s*$")
_UNIT_END = re.compile(r"(?<=[.?!:])(?=\s)|\n+")
_GENERIC = re.compile(
    r"\W*you(?: are|'re) (?:an?|my|the)\b[^.\n]*\b(?:assistant|ai|bot|chatbot|model)\b[^.\n]*\W*", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A template the miner found.

    Attributes:
        literals: its constant parts.
        numbers: the pooled calls that fit it.
    """

    literals: tuple[str, ...]
    numbers: tuple[int, ...]


class Miner:
    """Looks for templates among the calls of a pool.

    Args:
        pool: the calls.
        min_calls: calls that must share a template before it is one, ≥ 2.
    """

    def __init__(self, pool: Pool, min_calls: int) -> None:
        self._pool = pool
        self._min_calls = min_calls
        self.scaffold: Counter[tuple[str, str]] = Counter()

    def propose(self, number: int, *, trusted: bool) -> Proposal | None:
        """A template that the call with this number is an instance of, if its buckets give enough evidence.

        Args:
            number: a call of the pool.
            trusted: the calls are known to do one job (their step is declared), so little evidence is needed.
        """
        call = self._pool.calls[number]
        seen: list[list[int]] = []
        for _, key in self._keys(call):
            members = self._pool.buckets.get(key, [])
            size = len(members)
            if size < self._pool.due.get(key, self._min_calls):
                continue
            self._pool.due[key] = size + max(1, size // 4)
            if any(members == other for other in seen):
                continue
            seen.append(list(members))
            proposal = self._evaluate(call, members, trusted)
            if proposal is not None:
                return proposal
            if len(seen) >= EVALUATIONS:
                break
        return None

    def _keys(self, call: Pooled) -> list[tuple[int, int]]:
        """(depth, key) of the call's crowded buckets, the most specific first."""
        found: list[tuple[int, int]] = []
        for chain in (call.starts, call.ends):
            for depth, key in zip(chain.depths, chain.keys, strict=True):
                if self._pool.size(key) < self._min_calls:
                    break
                found.append((depth, key))
        found += [(depth, key) for key, depth in call.inner if self._pool.size(key) >= self._min_calls]
        return sorted(found, key=lambda item: -item[0])

    def _evaluate(self, call: Pooled, members: Sequence[int], trusted: bool) -> Proposal | None:
        prompts: dict[str, int] = {}
        for other in reversed(members):
            prompts.setdefault(self._pool.calls[other].prompt, other)
            if len(prompts) >= SAMPLE:
                break
        if len(prompts) == 1:
            return Proposal((call.prompt,), tuple(members))
        if len(prompts) < self._min_calls and len(prompts) < MIN_DISTINCT * len(members):
            return None
        cut = [self._pool.tokens(other) for other in prompts.values()]
        # Inputs written by a formula share words as well: what these part is alike, taken as a whole it is not.
        for literals in literal_choices(cut):
            if self._enough(call, literals, prompts, len(members), trusted):
                fits = [slots for prompt in prompts if (slots := fit(literals, prompt)) is not None]
                literals = undated(whole_values(literals, fits))
                fitting = tuple([n for n in members if fit(literals, self._pool.calls[n].prompt) is not None])
                return Proposal(literals, fitting)
        return None

    def _enough(
        self, call: Pooled, literals: tuple[str, ...], prompts: Mapping[str, int], size: int, trusted: bool
    ) -> bool:
        """Whether the literals of a bucket of calls, of which some prompts are looked at, are a template."""
        fits = [slots for prompt in prompts if (slots := fit(literals, prompt)) is not None]
        if len(fits) < len(prompts):
            return False
        if not trusted:
            return self._convincing(call, literals, fits, size, prompts.values())
        says = any(words(piece) for literal in literals for piece in _bodies(literal))
        return says and _alike(literals, fits, strict=False) <= MAX_ALIKE

    def _common_lines(self, numbers: Iterable[int]) -> float:
        """Share of calls, in [0, 1], with an inner line that some, but not all, of the others have as well."""
        lines = [{key for key, _ in self._pool.calls[number].inner} for number in numbers]
        counts = Counter(key for keys in lines for key in keys)
        some = {key for key, count in counts.items() if 1 < count < len(lines)}
        return sum(not some.isdisjoint(keys) for keys in lines) / len(lines)

    def _convincing(
        self, call: Pooled, literals: Sequence[str], fits: Sequence[Slots], size: int, numbers: Iterable[int]
    ) -> bool:
        """Whether the literals of a bucket of calls are a template, the calls' inputs being what they are."""
        instructions, labels = self._evidence(
            literals,
            _exclusive_depth(self._pool, call.starts, size),
            _exclusive_depth(self._pool, call.ends, size),
            formed=bool(call.key[3]),
        )
        if instructions:
            return _alike(literals, fits, strict=False) <= MAX_ALIKE
        if len(fits) < self._min_calls or _alike(literals, fits, strict=True) > MAX_ALIKE_LABELLED:
            return False
        few = labels >= 2 and len(literals) == 2 and not _starts_open(literals)
        if not few and (labels < 1 or size < LABEL_CALLS):
            return False
        return self._common_lines(numbers) <= MAX_ALIKE_LABELLED

    def _evidence(self, literals: Sequence[str], start_depth: int, end_depth: int, *, formed: bool) -> tuple[int, int]:
        """What speaks against unrelated requests having these literals in common.

        Args:
            literals: the constant parts.
            start_depth: tokens from the start up to where the prompts are left to these calls.
            end_depth: the same from the end.
            formed: whether the requests say in which form they want their answers.

        Returns:
            (instructions, labels): messages, sentences and lines that are constant as a whole and say something, runs
            of constant words that only these calls have among them; and labels such as "Title:", or messages of few
            words that go with a form, that no other known templates have.
        """
        instructions = labels = 0
        messages = _SLOT.join(literals).split(MESSAGE)[1:]
        for index, message in enumerate(messages):
            parts = message.split(ROLE_END, 1)[-1].split(_SLOT)
            if len(parts) == 1:
                if _GENERIC.fullmatch(parts[0]):
                    continue
                count = len(words(parts[0]))
                instructions += count > INSTRUCTION_WORDS
                # "Be brief." goes with any request, "Extract the person." beside a schema does not.
                labels += formed and 0 < count <= INSTRUCTION_WORDS and self._says(_label(parts[0], 0, 1))
                continue
            for place, part in enumerate(parts):
                instructions += 0 < place < len(parts) - 1 and len(words(part)) >= RUN_WORDS
                for unit in _units(part, place, len(parts)):
                    count = len([word for word in words(unit) if not word.isdigit()])
                    instructions += count >= INSTRUCTION_WORDS
                    labels += 0 < count < INSTRUCTION_WORDS and self._says(_label(unit, place, len(parts)))
            if index == 0:
                instructions += _run_words(parts[0], start_depth, reverse=False) >= RUN_WORDS
            if index == len(messages) - 1:
                instructions += _run_words(parts[-1], end_depth, reverse=True) >= RUN_WORDS
        return instructions, labels

    def _says(self, label: tuple[str, str]) -> bool:
        """Whether few enough of the known templates have a label for it to say something."""
        return self.scaffold[label] < SCAFFOLD

    def learn_scaffold(self, literals: Sequence[str]) -> None:
        """Remember the labelling words of a template, so that they are no evidence for others."""
        self.scaffold.update(_labels(literals))

    def forget_scaffold(self, literals: Sequence[str]) -> None:
        """Forget the labelling words of a template that is no longer known."""
        for label in _labels(literals):
            self.scaffold[label] -= 1
            if self.scaffold[label] <= 0:
                del self.scaffold[label]


def _labels(literals: Sequence[str]) -> set[tuple[str, str]]:
    """The labelling words of a template and where they stand."""
    found: set[tuple[str, str]] = set()
    for message in _SLOT.join(literals).split(MESSAGE)[1:]:
        parts = message.split(ROLE_END, 1)[-1].split(_SLOT)
        if len(parts) == 1:
            found |= {_label(parts[0], 0, 1)} if len(words(parts[0])) <= INSTRUCTION_WORDS else set()
            continue
        units = [(unit, place) for place, part in enumerate(parts) for unit in _units(part, place, len(parts))]
        found |= {_label(unit, place, len(parts)) for unit, place in units if len(words(unit)) <= 2}
    return found


def _label(unit: str, place: int, parts: int) -> tuple[str, str]:
    """A label and where in its message it stands."""
    return unit.strip(), "start" if place == 0 else "end" if place == parts - 1 else "inner"


def _bodies(literal: str) -> list[str]:
    """The texts of the messages in a literal, without roles."""
    return [piece.split(ROLE_END, 1)[-1] for piece in literal.split(MESSAGE)]


def _starts_open(literals: Sequence[str]) -> bool:
    """Whether the first varying message starts with a slot: instructions mostly come first, so that is suspicious."""
    return not words(_bodies(literals[0])[-1])


def _units(part: str, place: int, parts: int) -> list[str]:
    """The sentences, lines and labels of a literal that are whole: none of them goes on in a slot."""
    units = _UNIT_END.split(part)
    if place > 0 and not (place == parts - 1 and _SENTENCE_START.match(part)):
        units = units[1:]
    if place < parts - 1 and units and not _WHOLE.search(part):
        units = units[:-1]
    return [unit for unit in units if unit.strip()]


def _exclusive_depth(pool: Pool, chain: Chain, size: int) -> int:
    """Tokens of a chain up to where it is left to these calls: of the pool's calls that go so far, most go on."""
    first = 0
    for depth, key in zip(chain.depths, chain.keys, strict=True):
        if pool.size(key) * RETAINED > size:
            first = depth
    return first


def _run_words(part: str, depth: int, *, reverse: bool) -> int:
    """Words of a literal beyond this depth, counted from the message's edge."""
    solid = [token for token in tokens(part) if token == "\n" or not token.isspace()]
    if reverse:
        solid.reverse()
    # Depth 1 of a start is the message opening, which the literal's text leaves out.
    return len([token for token in solid[max(depth - (not reverse), 0) :] if words(token)])


def _alike(literals: Sequence[str], fits: Sequence[Slots], *, strict: bool) -> float:
    """Largest share of calls, in [0, 1] over the slots, whose value starts or ends like another call's.

    If it is large, finer templates may hide in the values. Equal values of a field (after a colon, quote or line end)
    count once unless `strict`: categories and repeated documents are data. In the middle of a sentence they are not:
    "Translate to German" and "Translate to French" are two tasks.
    """
    worst = 0.0
    for literal, values in zip(literals, zip(*fits, strict=True), strict=False):
        opens = literal.endswith(ROLE_END)
        field = _FIELD_START.search(literal) is not None
        counted = list(dict.fromkeys(values)) if field and not strict else list(values)
        if len(counted) == 1:
            continue
        starts = [_first_tokens(value, field=field or opens) for value in counted]
        ends = [_last_tokens(value) for value in counted]
        alike = max(_repeated(starts), _repeated(ends))
        worst = max(worst, alike if field or opens else alike * WORDING_WEIGHT)
    return worst


def _first_tokens(value: str, *, field: bool) -> tuple[str, ...]:
    """The first `SHARED_TOKENS` tokens of a slot value, blanks and line ends left out."""
    solid = _solid(tokens(value[:NEAR])[: -1 if len(value) > NEAR else None])
    if len(value) > NEAR and len(solid) - solid.count("\n") < SHARED_TOKENS:
        solid = _solid(tokens(value[:EDGE]))
    if not field:
        # The rest of a sentence that the slot began in is wording, not input: "into German:", "into French:".
        solid = solid[: next((place for place, token in enumerate(solid) if token in ":\n"), None)]
    return tuple([token for token in solid if token != "\n"][:SHARED_TOKENS])


def _last_tokens(value: str) -> tuple[str, ...]:
    """The last `SHARED_TOKENS` tokens of a slot value, blanks and line ends left out."""
    solid = _solid(tokens(value[-NEAR:])[len(value) > NEAR :])
    if len(value) > NEAR and len(solid) - solid.count("\n") < SHARED_TOKENS:
        solid = _solid(tokens(value[-EDGE:]))
    return tuple([token for token in solid if token != "\n"][-SHARED_TOKENS:])


def _solid(cut: Sequence[str]) -> list[str]:
    return [token for token in cut if token == "\n" or not token.isspace()]


def _repeated(values: Sequence[tuple[str, ...]]) -> float:
    """Share of values, in [0, 1], that occur more than once."""
    counts = Counter(values)
    return sum(count for count in counts.values() if count > 1) / len(values)
