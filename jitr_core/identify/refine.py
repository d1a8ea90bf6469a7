"""Templates that proved too narrow: a word all first calls had in common turned out to be input."""

from __future__ import annotations

import re

from ..types import Template
from .align import whole_values
from .template import Shape, TemplateIndex, fit, key_of, make_template, roles_of
from .text import MESSAGE, tokens, words

__all__ = ["Refiner", "core", "supersedes", "widened", "widened_template"]

SOFT_WORDS = 3
"""Most constant words beside a slot that a single call may turn into input."""

MIN_CORE = 0.5
"""Smallest share of its constant words, in [0, 1], that a template must keep when it is widened."""

_HARD_END = re.compile(r"(?s)^.*(?:[\n\x1f:\"“'(\[{<|=>#]|\n\s*[-*•])[^\S\n]*")
_HARD_START = re.compile(r"[\n\x1e\"”)\]}<|]|(?<=[.?!]) (?=[A-Z]\w* \w)")


def core(literals: tuple[str, ...]) -> tuple[str, ...] | None:
    r"""What of a template is certain: its literals without the few words between a slot and the next delimiter.

    A delimiter is a line end, colon, quote, bracket or the like. None if there is nothing to leave out, or if too
    little would stay.

    Example:
        >>> core(("\x1euser\x1fReview: The ", ".\nSentiment:"))
        ('\x1euser\x1fReview: ', '\nSentiment:')
    """
    hard = list(literals)
    last = len(hard) - 1
    for index, literal in enumerate(literals):
        kept = literal
        if index > 0:
            kept = _without_soft_start(kept, last=index == last)
        if index < last:
            kept = _without_soft_end(kept)
        if 0 < index < last and not words(kept):
            kept = literal
        hard[index] = kept
    result = tuple(hard)
    before, after = len(_words(literals)), len(_words(result))
    return result if result != literals and after > 0 and after >= MIN_CORE * before else None


def _words(literals: tuple[str, ...]) -> list[str]:
    # Role names are no evidence of anything.
    return words(re.sub(r"\x1e[^\x1f]*\x1f", " ", " ".join(literals)))


def _without_soft_end(literal: str) -> str:
    found = _HARD_END.match(literal)
    if found is None or len(words(literal[found.end() :])) > SOFT_WORDS:
        return literal
    return literal[: found.end()]


def _without_soft_start(literal: str, *, last: bool) -> str:
    found = _HARD_START.search(literal)
    end = found.start() if found else len(literal) if last else 0
    return literal[end:] if len(words(literal[:end])) <= SOFT_WORDS else literal


def widened(literals: tuple[str, ...], prompt: str) -> tuple[str, ...] | None:
    """The most specific literals that still fit what they fitted and a further prompt; None if the core does not.

    Args:
        literals: a template that does not fit the prompt.
        prompt: the prompt text of a call.
    """
    hard = core(literals)
    slots = fit(hard, prompt) if hard is not None else None
    if hard is None or slots is None:
        return None
    wide = list(hard)
    for index, (literal, kept) in enumerate(zip(literals, hard, strict=True)):
        begin = literal.find(kept)
        before, after = literal[:begin], literal[begin + len(kept) :]
        if index > 0:
            wide[index] = _common_end(before, slots[index - 1]) + wide[index]
        if index < len(slots):
            wide[index] += _common_start(after, slots[index])
    for result in (tuple(wide), hard):
        if (slots := fit(result, prompt)) is not None:
            whole = whole_values(result, [slots])
            return whole if len(whole) == len(result) else result
    return None


def _common_start(soft: str, value: str) -> str:
    common = []
    for mine, other in zip(tokens(soft), tokens(value[: len(soft) + 200]), strict=False):
        if mine != other:
            break
        common.append(mine)
    return "".join(common)


def _common_end(soft: str, value: str) -> str:
    common = []
    tail = tokens(value[-len(soft) - 200 :]) if soft else []
    for mine, other in zip(reversed(tokens(soft)), reversed(tail), strict=False):
        if mine != other:
            break
        common.append(mine)
    return "".join(reversed(common))


def supersedes(wide: Template, narrow: Template) -> bool:
    """Whether one template is a widened version of the other: same task and slots, less constant text around them."""
    if wide.task != narrow.task or wide.id == narrow.id or len(wide.literals) != len(narrow.literals):
        return False
    if key_of(wide) != key_of(narrow) or len(wide.literals) == 1:
        return False
    if roles_of(wide.literals) != roles_of(narrow.literals):
        return False  # a template that takes any prompt is another input, no wider version
    pairs = list(zip(wide.literals, narrow.literals, strict=True))
    edges = pairs[0][1].startswith(pairs[0][0]) and pairs[-1][1].endswith(pairs[-1][0])
    return edges and all(literal in longer for literal, longer in pairs[1:-1])


class Refiner:
    """Finds the template that a call misses by soft words only, as fast as a template is found."""

    def __init__(self) -> None:
        self._cores = TemplateIndex()

    def add(self, template: Template) -> None:
        """Keep a template's core in mind."""
        hard = core(template.literals)
        if hard is not None and MESSAGE in hard[0]:
            self._cores.add(Template(template.id, template.task, *key_of(template), hard))

    def remove(self, template_id: str) -> None:
        """Forget a template."""
        self._cores.remove(template_id)

    def find(self, shape: Shape, prompt: str) -> str | None:
        """Id of the most specific template whose core fits the prompt."""
        found = self._cores.find_prompt(shape, prompt)
        return found[0].id if found is not None else None


def widened_template(template: Template, prompt: str) -> Template | None:
    """The template of the same task that fits the prompt too; None if there is none."""
    literals = widened(template.literals, prompt)
    return make_template(key_of(template), literals, template.task) if literals is not None else None
