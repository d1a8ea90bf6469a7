"""The border between the wrapper and the engine: nothing that fails on the far side reaches the app."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol, runtime_checkable

from langchain_core.messages import AIMessage

from jitr_core.types import Answer, Call, Decision

__all__ = ["Engine", "Routed", "report_fault"]


@runtime_checkable
class Engine(Protocol):
    """What the wrapper needs of JITR; `jitr_core.engine.JITR` is one.

    A copy of a wrapper shares its engine. An engine that is to be pickled comes back as the one of its new process
    (`__reduce__`).
    """

    def decide(self, call: Call) -> Decision:
        """Who answers; "teacher" for every call that is not `replaceable`. In microseconds, never raises."""

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
    """A decided call on its way through LangChain's hooks.

    Attributes:
        engine: who decided it.
        call: the request.
        decision: who answers.
        message: the replacement's answer; None: the teacher answers.
        ask: asks the teacher something aside.
    """

    engine: Engine
    call: Call
    decision: Decision
    message: AIMessage | None
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

    def observe(self, read: Callable[[Any, str, float], Answer | None], answered: Any, started: float) -> None:
        """Tells the engine what the teacher answered.

        Args:
            read: finds the answer in `answered`, given the teacher's name and the seconds it took; None: there is none.
            answered: what came from the teacher.
            started: `perf_counter()` when it was asked.
        """
        try:
            answer = read(answered, self.call.model, perf_counter() - started)
            if answer is not None:
                self.engine.observe(self.call, self.decision, answer, self.ask)
        except Exception as error:
            report_fault(self.engine, "observe", error)


def report_fault(engine: Engine, where: str, error: Exception) -> None:
    """Tells the engine of a fault; a dead engine cannot even take that."""
    with suppress(Exception):
        engine.fault(where, error)
