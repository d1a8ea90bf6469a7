"""What every integration shares: the border to the engine, and what of a request decides whether it can be replaced.

Nothing that fails on the far side of the border reaches the app.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from time import perf_counter
from typing import Any, Protocol, TypeVar, runtime_checkable

from .forms import FORMATS, TOOLS, fits, form_of
from .types import Answer, Call, Decision

__all__ = [
    "Engine",
    "Routed",
    "contract_of",
    "decided",
    "is_replaceable",
    "off_loop",
    "report_fault",
    "settings_of",
    "tell_of_settings",
]

_CONTRACT = (*TOOLS, "tool_choice", *FORMATS, "stop")
_MATTERS = frozenset((*_CONTRACT, "logprobs", "top_logprobs", "n"))
_LOGPROBS = ("logprobs", "top_logprobs")

T = TypeVar("T")

_log = logging.getLogger("jitr")
_told: set[str] = set()
_digests: dict[tuple[Any, ...], tuple[tuple[Any, ...], str]] = {}


@runtime_checkable
class Engine(Protocol):
    """What the wrapper needs of JITR; `jitr_core.engine.JITR` is one.

    A copy of a wrapper shares its engine. An engine that is to be pickled comes back as the one of its new process
    (`__reduce__`).
    """

    def decide(self, call: Call) -> Decision:
        """Who answers; "teacher" for every call that is `observe_only` or not `replaceable`. Never raises."""

    def observe(
        self, call: Call, decision: Decision, answer: Answer | None, ask: Callable[[str], Answer] | None = None
    ) -> None:
        """A call was answered: by the teacher with `answer`, or by the replacement (None). Never raises.

        `ask` puts a question of the engine's own to the teacher, in the background.

        Not told of calls that failed, streams that were abandoned and answers that are more than one text.
        """

    def audit(self, call: Call, decision: Decision, ask: Callable[[], Answer]) -> None:
        """The replacement answered a call that is to be audited: `ask` the teacher in the background, and observe."""

    def fault(self, where: str, error: BaseException) -> None:
        """Something failed in JITR itself and the teacher answered. Logs once, counts."""


@dataclass(slots=True)
class Routed:
    """A decided call on its way through a framework.

    Attributes:
        engine: who decided it.
        call: the request.
        decision: who answers.
        message: the replacement's answer as the framework has it; None: the teacher answers.
        ask: asks the teacher something aside.
    """

    engine: Engine
    call: Call
    decision: Decision
    message: Any
    ask: Callable[[str], Answer] | None = None

    def deliver(self, ask: Callable[[], Answer]) -> None:
        """Tells the engine that the replacement's answer goes to the app, and how to `ask` the teacher for its own."""
        try:
            if self.decision.audit:
                self.engine.audit(self.call, self.decision, ask)
            else:
                self.engine.observe(self.call, self.decision, None)
        except Exception as error:
            report_fault(self.engine, "observe", error)

    def observe(self, read: Callable[[Any, Call, float], Answer | None], answered: Any, started: float) -> None:
        """Tells the engine what the teacher answered.

        Args:
            read: finds the answer in `answered`, given the call and the seconds it took; None: there is none.
            answered: what came from the teacher.
            started: `perf_counter()` when it was asked.
        """
        try:
            answer = read(answered, self.call, perf_counter() - started)
            if answer is not None:
                self.engine.observe(self.call, self.decision, answer, self.ask)
        except Exception as error:
            report_fault(self.engine, "observe", error)


def decided(engine: Engine, call: Call) -> Decision:
    """The engine's decision. An answer that is not of the form the call demands is not given: the teacher answers."""
    decision = engine.decide(call)
    if decision.answer is not None and call.form is not None and not fits(call.form, decision.answer):
        decision.kind, decision.reason, decision.answer = "teacher", "fallback", None
    return decision


def report_fault(engine: Engine, where: str, error: Exception) -> None:
    """Tells the engine of a fault; a dead engine cannot even take that."""
    with suppress(Exception):
        engine.fault(where, error)


async def off_loop(engine: Engine | None, decide: Callable[..., T], *args: Any) -> T:
    """`decide(*args)`, in a thread where a replacement may take so long that the event loop must not wait for it."""
    blocking = False
    with suppress(Exception):  # an engine may fail at that too
        blocking = bool(getattr(engine, "blocking", False))
    if blocking:
        import asyncio

        with suppress(RuntimeError):  # the loop or the process is about to end: no thread is to be had
            return await asyncio.to_thread(decide, *args)
    return decide(*args)


def settings_of(*sources: Mapping[str, Any]) -> dict[str, Any]:
    """What is set of all settings that shape an answer, each by the first source that has it.

    Example:
        >>> settings_of({"n": 2, "temperature": 0}, {"n": 3, "stop": None})
        {'n': 2}
    """
    found: dict[str, Any] = {}
    for source in sources:
        for name in _MATTERS & source.keys():
            if value := source[name]:
                found.setdefault(name, value)
    return found


def is_replaceable(settings: Mapping[str, Any]) -> bool:
    """Whether a student can honour these settings (see `settings_of`): one answer in a known form, nothing beside it.

    Example:
        >>> is_replaceable({"stop": ["."]}), is_replaceable({"n": 2}), is_replaceable({"logprobs": True})
        (True, False, False)
    """
    if not settings:
        return True
    form = form_of(settings)
    several = isinstance(n := settings.get("n", 1), int | float) and n != 1  # what is no number is no number of answers
    return not several and settings.keys().isdisjoint(_LOGPROBS) and (not form or form.kind != "other")


def tell_of_settings(teacher: str, *own: Mapping[str, Any]) -> None:
    """Says in the log, once a process, that a teacher's own settings keep all of its calls from being replaced.

    Args:
        teacher: name of its class.
        own: its settings.
    """
    with suppress(Exception):  # a teacher may hold anything there
        _tell_of_settings(teacher, own)


def _tell_of_settings(teacher: str, own: Sequence[Mapping[str, Any]]) -> None:
    held = {
        name: value for name, value in settings_of(*own).items() if name in _LOGPROBS or (name == "n" and value != 1)
    }
    if is_replaceable(held):
        return
    told = f"{teacher} asks for {', '.join(f'{name}={value}' for name, value in sorted(held.items()))}"
    if told not in _told:
        _told.add(told)
        _log.warning("%s: no student can honour that, so none of its calls will be replaced.", told)


def contract_of(settings: Mapping[str, Any]) -> str:
    """Short hash of what the settings (see `settings_of`) demand of the answer; "" if nothing."""
    if not settings:
        return ""
    demands = {name: settings[name] for name in _CONTRACT if name in settings}
    if not demands or demands.keys() == {"stop"}:
        return _digest(demands) if demands else ""
    # Schemas are large and bound once, so they are hashed once; holding the values keeps their ids unique.
    values = tuple(demands.values())
    key = (*demands, *map(id, values))
    if (hit := _digests.get(key)) is None:
        if len(_digests) >= 256:
            _digests.clear()
        hit = _digests[key] = (values, _digest(demands))
    return hit[1]


def _digest(demands: Mapping[str, Any]) -> str:
    return sha256(json.dumps(demands, sort_keys=True, default=_plain).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Schema of a Pydantic class, else the name of the thing: a repr would change with every process."""
    if hasattr(value, "model_json_schema"):
        return value.model_json_schema()
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
