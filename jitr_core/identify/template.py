"""Templates: making, fitting and finding them. The hot path of identification."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from ..types import GIVEN, Call, Match, Slots, Template
from .text import MESSAGE, ROLE_END, prompt_text

__all__ = [
    "Key",
    "Shape",
    "TemplateIndex",
    "fit",
    "key_of",
    "make_template",
    "roles_of",
    "specificity",
    "step_task",
    "to_match",
]

Key = tuple[str, str, str, str]
"""(app, tenant, step, contract): templates and calls meet only where all four are equal."""

Shape = tuple[Key, tuple[str, ...]]
"""A key and the roles of the messages."""

_LENGTHS = tuple(2**power for power in range(14, 1, -1))


def key_of(thing: Call | Template) -> Key:
    """App, tenant, step and contract of a call or template."""
    return (thing.app, thing.tenant, thing.step, thing.contract)


def _digest(prefix: str, parts: Sequence[str]) -> str:
    # Length-prefixed, so that no two lists of parts read the same.
    joined = "".join([f"{len(part)}:{part}" for part in parts])
    return prefix + hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def step_task(key: Key) -> str:
    """Id of the task that a declared step stands for."""
    return _digest("t_", ("step", *key))


def make_template(key: Key, literals: Sequence[str], task: str | None = None) -> Template:
    """A template with content-hashed ids.

    Args:
        key: app, tenant, step and contract.
        literals: the constant parts, one more than there are slots.
        task: id of the task it belongs to; None makes one, of the step if one is declared, else of the literals.
    """
    if task is None:
        declared = key[2] and not key[2].startswith(GIVEN)
        task = step_task(key) if declared else _digest("t_", (*key, *literals))
    return Template(_digest("p_", (*key, task, *literals)), task, *key, tuple(literals))


def specificity(literals: Sequence[str]) -> int:
    """How much of a prompt a template explains: its constant characters."""
    return sum(map(len, literals))


def roles_of(literals: Sequence[str]) -> tuple[str, ...] | None:
    """Roles of the messages a template describes; None if it takes any (it has no constant message opening)."""
    pieces = "\x00".join(literals).split(MESSAGE)[1:]
    return tuple([piece.split(ROLE_END, 1)[0] for piece in pieces]) or None


def fit(literals: Sequence[str], prompt: str) -> Slots | None:
    """The slots with which the literals rebuild the prompt, each literal as far left as it goes; None if none do.

    Example:
        >>> fit(("Is ", " a ", "?"), "Is this a fruit?")
        ('this', 'fruit')
    """
    head, tail = literals[0], literals[-1]
    if not prompt.startswith(head):
        return None
    if len(literals) == 1:
        return () if len(prompt) == len(head) else None
    end = len(prompt) - len(tail)
    start = len(head)
    if end < start or not prompt.endswith(tail):
        return None
    slots = []
    for literal in literals[1:-1]:
        found = prompt.find(literal, start, end)
        if found < 0:
            return None
        slots.append(prompt[start:found])
        start = found + len(literal)
    slots.append(prompt[start:end])
    return tuple(slots)


class _Group:
    """The templates of one key and one sequence of roles, findable by how a prompt starts or ends.

    A template is filed under the longest power of two of characters of its head, or of its tail if that is longer:
    a look-up takes one slice per length in use, whatever the number of templates.
    """

    __slots__ = ("heads", "head_lengths", "tails", "tail_lengths", "loose")

    def __init__(self, templates: Iterable[Template], opening: int) -> None:
        self.heads: dict[str, list[Template]] = {}
        self.tails: dict[str, list[Template]] = {}
        self.loose: list[Template] = []
        ordered = sorted(templates, key=lambda t: (-specificity(t.literals), t.id))
        for template in ordered:
            head, tail = template.literals[0], template.literals[-1]
            head_length = next((n for n in _LENGTHS if n <= len(head) and n > opening), 0)
            tail_length = next((n for n in _LENGTHS if n <= len(tail)), 0)
            if head_length and head_length - opening >= tail_length:
                self.heads.setdefault(head[:head_length], []).append(template)
            elif tail_length:
                self.tails.setdefault(tail[-tail_length:], []).append(template)
            else:
                self.loose.append(template)
        self.head_lengths = tuple(sorted({len(head) for head in self.heads}, reverse=True))
        self.tail_lengths = tuple(sorted({len(tail) for tail in self.tails}, reverse=True))

    def find(self, prompt: str) -> tuple[Template, Slots] | None:
        best: tuple[Template, Slots] | None = None
        most = -1
        lists = [found for n in self.head_lengths if (found := self.heads.get(prompt[:n]))]
        lists += [found for n in self.tail_lengths if (found := self.tails.get(prompt[-n:]))]
        if self.loose:
            lists.append(self.loose)
        for templates in lists:
            for template in templates:
                slots = fit(template.literals, prompt)
                if slots is not None:
                    size = len(prompt) - sum(map(len, slots))
                    if size > most:
                        best, most = (template, slots), size
                    break
        return best


class TemplateIndex:
    """All known templates. Reading is safe from any thread while one thread writes."""

    def __init__(self) -> None:
        self._by_shape: dict[Shape, dict[str, Template]] = {}
        self._groups: dict[Shape, _Group] = {}
        self._catch_all: dict[Key, Template] = {}
        self.by_id: dict[str, Template] = {}

    def find(self, call: Call) -> tuple[Template, Slots] | None:
        """The most specific template that fits the call, with the call's slots."""
        key = (call.app, call.tenant, call.step, call.contract)
        group = self._groups.get((key, tuple([role for role, _ in call.messages])))
        if group is not None:
            found = group.find(prompt_text(call.messages))
            if found is not None:
                return found
        if call.step:
            template = self._catch_all.get(key)
            if template is not None:
                return template, (prompt_text(call.messages),)
        return None

    def find_prompt(self, shape: Shape, prompt: str) -> tuple[Template, Slots] | None:
        """As `find`, for a prompt text of this shape; catch-all templates are left out."""
        group = self._groups.get(shape)
        return group.find(prompt) if group is not None else None

    def add(self, template: Template) -> None:
        """Make a template known; one with the same id is replaced."""
        old = self.by_id.get(template.id)
        if old == template:
            return
        if old is not None:
            self.remove(old.id)
        self.by_id[template.id] = template
        roles = roles_of(template.literals)
        if roles is None:
            self._catch_all[key_of(template)] = template
            return
        shape = (key_of(template), roles)
        self._by_shape.setdefault(shape, {})[template.id] = template
        self._rebuild(shape)

    def remove(self, template_id: str) -> None:
        """Forget a template; unknown ids are ignored."""
        template = self.by_id.pop(template_id, None)
        if template is None:
            return
        roles = roles_of(template.literals)
        if roles is None:
            self._catch_all.pop(key_of(template), None)
            return
        shape = (key_of(template), roles)
        self._by_shape[shape].pop(template_id, None)
        self._rebuild(shape)

    def of_shape(self, key: Key, roles: tuple[str, ...]) -> list[Template]:
        """The templates of one key and one sequence of roles, oldest first."""
        return list(self._by_shape.get((key, roles), {}).values())

    def _rebuild(self, shape: Shape) -> None:
        templates = self._by_shape[shape]
        if templates:
            # A finished group takes the old one's place: readers see one or the other.
            self._groups[shape] = _Group(templates.values(), len(MESSAGE + shape[1][0] + ROLE_END) if shape[1] else 0)
        else:
            self._by_shape.pop(shape, None)
            self._groups.pop(shape, None)


def to_match(template: Template, slots: Slots) -> Match:
    """The record of a call recognised as an instance of a template."""
    return Match(template.task, template.id, slots)
