"""Templates: making, fitting and finding them. The hot path of identification."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

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
    a look-up takes one slice per length in use, whatever the number of templates, and so does a change.
    """

    __slots__ = ("heads", "tails", "_opening")

    def __init__(self, opening: int) -> None:
        self.heads = _Drawers()
        self.tails = _Drawers()
        self._opening = opening

    def find(self, prompt: str) -> tuple[Template, Slots] | None:
        best: tuple[Template, Slots] | None = None
        most = -1
        lists = [found for n in self.heads.lengths if (found := self.heads.filed.get(prompt[:n]))]
        lists += [found for n in self.tails.lengths if (found := self.tails.filed.get(prompt[-n:] if n else ""))]
        for templates in lists:
            for template in templates:
                slots = fit(template.literals, prompt)
                if slots is not None:
                    size = len(prompt) - sum(map(len, slots))
                    if size > most:
                        best, most = (template, slots), size
                    break
        return best

    def add(self, template: Template) -> None:
        drawers, edge = self._place(template)
        drawers.put(edge, template)

    def remove(self, template: Template) -> None:
        drawers, edge = self._place(template)
        drawers.take(edge, template)

    def __len__(self) -> int:
        return len(self.heads.filed) + len(self.tails.filed)

    def _place(self, template: Template) -> tuple[_Drawers, str]:
        head, tail = template.literals[0], template.literals[-1]
        head_length = next((n for n in _LENGTHS if n <= len(head) and n > self._opening), 0)
        tail_length = next((n for n in _LENGTHS if n <= len(tail)), 0)
        if head_length and head_length - self._opening >= tail_length:
            return self.heads, head[:head_length]
        return self.tails, tail[-tail_length:] if tail_length else ""


class _Drawers:
    """Templates by an edge of theirs, the most specific first. A reader sees a drawer before or after a change."""

    __slots__ = ("filed", "lengths", "_counts")

    def __init__(self) -> None:
        self.filed: dict[str, tuple[Template, ...]] = {}
        self.lengths: tuple[int, ...] = ()
        self._counts: Counter[int] = Counter()

    def put(self, edge: str, template: Template) -> None:
        if edge not in self.filed:
            self._count(len(edge), 1)
        filed = (*self.filed.get(edge, ()), template)
        self.filed[edge] = tuple(sorted(filed, key=lambda t: (-specificity(t.literals), t.id)))

    def take(self, edge: str, template: Template) -> None:
        rest = tuple([other for other in self.filed[edge] if other.id != template.id])
        if rest:
            self.filed[edge] = rest
        else:
            del self.filed[edge]
            self._count(len(edge), -1)

    def _count(self, length: int, change: int) -> None:
        self._counts[length] += change
        self.lengths = tuple(sorted((n for n, count in self._counts.items() if count), reverse=True))


class TemplateIndex:
    """All known templates. Reading is safe from any thread while one thread writes.

    Whatever it does costs the same however many templates there are, unless they all start with the same text.
    """

    def __init__(self) -> None:
        self._groups: dict[Shape, _Group] = {}
        self._catch_all: dict[Key, Template] = {}
        self._of_task: dict[str, dict[str, Template]] = {}
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
        self._of_task.setdefault(template.task, {})[template.id] = template
        shape = _shape(template)
        if shape is None:
            self._catch_all[key_of(template)] = template
            return
        group = self._groups.get(shape)
        if group is None:
            group = self._groups[shape] = _Group(len(MESSAGE + shape[1][0] + ROLE_END))
        group.add(template)

    def remove(self, template_id: str) -> None:
        """Forget a template; unknown ids are ignored."""
        template = self.by_id.pop(template_id, None)
        if template is None:
            return
        of_task = self._of_task[template.task]
        del of_task[template_id]
        if not of_task:
            del self._of_task[template.task]
        shape = _shape(template)
        if shape is None:
            self._catch_all.pop(key_of(template), None)
            return
        group = self._groups[shape]
        group.remove(template)
        if not group:
            del self._groups[shape]

    def of_task(self, task: str) -> list[Template]:
        """The templates of a task, oldest first."""
        return list(self._of_task.get(task, {}).values())

    def tasks(self) -> int:
        """How many tasks have templates."""
        return len(self._of_task)


def _shape(template: Template) -> Shape | None:
    """Where a template is filed; None if it takes any messages."""
    roles = roles_of(template.literals)
    return None if roles is None else (key_of(template), roles)


def to_match(template: Template, slots: Slots) -> Match:
    """The record of a call recognised as an instance of a template."""
    return Match(template.task, template.id, slots)
