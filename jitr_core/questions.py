"""The teacher's help: asked aside what kind of tasks it serves, as often as the policy allows."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .identify import description, question, reading
from .types import Answer, Call

if TYPE_CHECKING:
    from .store import LedgerEntry, Store

__all__ = ["Questions"]


@dataclass(slots=True)
class Questions:
    """Questions about tasks; called by one thread at a time.

    Attributes:
        store: the state.
        most: questions put about each task, ≥ 0.
        aside: runs a job that asks the teacher where it holds nobody up, or gives it up; None: nothing is asked.
        fault: told of what fails.
    """

    store: Store
    most: int
    aside: Callable[[Callable[[], None], Callable[[], None]], None] | None
    fault: Callable[[str, BaseException], None]
    _put: Counter[str] = field(default_factory=Counter)

    def consider(self, task: str, call: Call, ask: Callable[[str], Answer]) -> None:
        """Put a question about the task of a call, if it is not paused and was not asked about often enough."""
        if self.aside is None:
            return
        if task not in self._put:
            known = self.store.task(task)
            left_alone = known is None or known.state == "paused"
            self._put[task] = self.most if left_alone else len(self._asked(task))
        if self._put[task] < self.most:
            self._put[task] += 1
            self.aside(functools.partial(self._question, task, call, ask), lambda: None)

    def _question(self, task: str, call: Call, ask: Callable[[str], Answer]) -> None:
        """Put one question about a task, note what it cost, and take over what all answers together say."""
        try:
            text = question(call.messages)
            answer = ask(text)
            usage = {"input_tokens": answer.input_tokens, "output_tokens": answer.output_tokens}
            cost = {"model": answer.model or call.model, **usage, "latency_s": answer.latency_s}
            size = {"input_chars": len(text), "output_chars": len(answer.text)}
            self.store.record("question", task, {**cost, **size, "said": reading(answer.text)})
            said = description(entry.details["said"] for entry in self._asked(task) if entry.details["said"])
            if said is not None:
                self.store.describe(task, *said)
        except Exception as error:
            self.fault("question", error)

    def _asked(self, task: str) -> list[LedgerEntry]:
        return [entry for entry in self.store.ledger(task) if entry.kind == "question"]
