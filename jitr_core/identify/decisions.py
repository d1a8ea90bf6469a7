"""What the user has decided about tasks, as far as identification must respect it."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ..errors import ConfigError
from ..types import GIVEN, Declaration, Match, Task, Template
from .template import Key, fit, make_template, roles_of, to_match
from .text import prompt_text, words

__all__ = ["Decisions", "pattern", "task_name", "unused"]

_SLOT = "\x00"
_NAMED = 8  # words of a name
_OPENING = 3  # … that say how the prompt begins, where another one begins alike


@dataclass(frozen=True, slots=True)
class Decisions:
    """The user's decisions; the miner never undoes one.

    Attributes:
        held: tasks that are neither merged into others nor take others in, unless the user says so.
        declarations: tasks known before their first call.
    """

    held: frozenset[str] = frozenset()
    declarations: tuple[Declaration, ...] = ()

    @classmethod
    def of(cls, tasks: Iterable[Task], declarations: Iterable[Declaration]) -> Decisions:
        """The decisions that the stored tasks and declarations stand for."""
        held = frozenset(task.id for task in tasks if task.decided or task.state == "paused")
        return cls(held, tuple(declarations))

    def place(self, key: Key, prompt: str) -> tuple[Template, Match] | None:
        """The template that was declared for a call with this key and prompt text, and its match; None if none fits."""
        for each in self._about(key):
            slots = fit(each.literals, prompt) if each.literals else None
            if slots is not None and roles_of(each.literals) == roles_of((prompt,)):
                template = make_template(key, each.literals, each.task)
                return template, to_match(template, slots)
        return None

    def step_task(self, key: Key) -> str | None:
        """The task that was declared for the step of this key, None if there is none."""
        return next((each.task for each in self._about(key) if not each.literals), None)

    def trusts(self, key: Key) -> bool:
        """Whether the user has said that all calls with this key do one job: by declaring their step."""
        step = key[2]
        return bool(step) and (not step.startswith(GIVEN) or self.step_task(key) is not None)

    def is_declared(self, template: Template) -> bool:
        """Whether a template stands as the user wrote it, so that no call may change it."""
        return any(each.task == template.task and each.literals == template.literals for each in self.declarations)

    def _about(self, key: Key) -> Iterable[Declaration]:
        app, tenant, step, _ = key
        steps = ("", step, step.removeprefix(GIVEN))
        return (d for d in self.declarations if (d.app, d.tenant) == (app, tenant) and d.step in steps)


def pattern(messages: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    r"""The constant parts of a prompt written with its slots in braces.

    Args:
        messages: (role, text) pairs; `{name}` stands for a slot, whatever its name, `{{` and `}}` for braces.

    Raises:
        ConfigError: the braces do not match, no words are constant, nothing varies, or two slots touch.

    Example:
        >>> pattern([("user", "Is {this} a fruit?")])
        ('\x1euser\x1fIs ', ' a fruit?')
    """
    marked = [(role, _marked(text)) for role, text in messages]
    literals = tuple(prompt_text(marked).split(_SLOT))
    if len(literals) < 2:
        raise ConfigError("the template has no slot.", hint="Write {input} where the input stands.")
    if any(not literal for literal in literals[1:-1]):
        raise ConfigError("two slots of the template touch.", hint="Make them one, or put text between them.")
    if not any(words(part) for _, text in marked for part in text.split(_SLOT)):
        raise ConfigError("the template has no words of its own.", hint="Declare a step instead.")
    return literals


def _marked(text: str) -> str:
    try:
        parts = list(string.Formatter().parse(text.replace(_SLOT, "")))
    except ValueError as error:
        raise ConfigError(f"the template cannot be read: {error}.", hint="Write {{ and }} for braces.") from error
    return "".join(literal + ("" if field is None else _SLOT) for literal, field, _, _ in parts)


def task_name(template: Template, alike: Iterable[Template] = ()) -> str:
    """What to call a task: its step if the user declared one, else where it is and the first words of its template.

    Args:
        template: a template of the task.
        alike: templates of other tasks, with which its name should not be confused: of a longer beginning that they
            have in common only the first words are told, and then what differs.
    """
    if template.step and not template.step.startswith(GIVEN):
        return template.step
    said = _said(template)
    told = said[:_NAMED]
    common = max((len(os.path.commonprefix([said, _said(other)])) for other in alike), default=0)
    if _NAMED <= common < len(said):
        told = [*said[:_OPENING], "…", *said[common - 1 : common + _NAMED - _OPENING - 1]]
    words_of = " ".join(told) or template.task
    return f"{template.step.removeprefix(GIVEN)}: {words_of}" if template.step else words_of


def _said(template: Template) -> list[str]:
    # Roles and tags ("<document>") say nothing.
    return re.findall(r"\w[\w'-]*", re.sub("\x1e[^\x1f]*\x1f|</?\\w+>", " ", " … ".join(template.literals)))


def unused(name: str, taken: Collection[str]) -> str:
    """The name, with a number if it is taken.

    Example:
        >>> unused("triage", {"triage", "billing"}), unused("refunds", {"triage"})
        ('triage (2)', 'refunds')
    """
    return next(n for i in range(1, len(taken) + 2) if (n := name if i == 1 else f"{name} ({i})") not in taken)
