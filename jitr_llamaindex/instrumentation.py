"""Watches the LLM calls of an app that nothing is wrapped in, through LlamaIndex's own events."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from inspect import getattr_static
from time import perf_counter
from typing import Any

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.llm import (
    LLMChatEndEvent,
    LLMChatInProgressEvent,
    LLMChatStartEvent,
    LLMCompletionEndEvent,
    LLMCompletionInProgressEvent,
    LLMCompletionStartEvent,
    LLMPredictStartEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.llms.llm import LLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.events.span import SpanDropEvent
from typing_extensions import Self

from jitr_core.config import disabled
from jitr_core.engine import default
from jitr_core.integration import Engine, decided, report_fault
from jitr_core.types import Call

from ._translate import answer_of_stream, call_of
from .steps import ROUTED, kind_of, place_of, step_of, switched_off

__all__ = ["JITREventHandler"]

_OPEN = 10_000  # streams at most that were begun and neither ended nor dropped, before the oldest is forgotten


@dataclass(slots=True)
class _Span:
    """An open span, and what the template of the prediction it makes is for."""

    parent: str | None
    instance: Any
    kind: str = ""


@dataclass(slots=True)
class _Open:
    """A call that the teacher has not answered yet."""

    call: Call
    deltas: list[str | None] = field(default_factory=list)
    started: float = field(default_factory=perf_counter)


class _Spans(BaseSpanHandler[Any]):
    """The open spans of the app, by id."""

    _open: dict[str, _Span] = PrivateAttr(default_factory=dict)

    def span_enter(self, id_: str, bound_args: Any, instance: Any = None, parent_id: Any = None, **_: Any) -> None:  # type: ignore[override]
        """Remembers the span."""
        self._open[id_] = _Span(parent_id, instance)
        if len(self._open) > _OPEN:
            self._open.pop(next(iter(self._open)), None)

    def span_exit(self, id_: str, *args: Any, **_: Any) -> None:
        """Forgets the span."""
        self._open.pop(id_, None)

    def span_drop(self, id_: str, *args: Any, **_: Any) -> None:
        """Forgets the span."""
        self._open.pop(id_, None)

    def new_span(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: see `span_enter`."""

    def prepare_to_exit_span(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: see `span_exit`."""

    def prepare_to_drop_span(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: see `span_drop`."""

    def chain(self, span_id: str | None) -> Iterator[tuple[str, _Span]]:
        """The span with this id and those it lies in, the innermost first."""
        while span_id is not None and (span := self._open.get(span_id)) is not None:
            yield span_id, span
            span_id = span.parent


class JITREventHandler(BaseEventHandler):
    """Observes every LLM call of an app and changes nothing: the LLM answers all of them.

    The calls are stored, tasks found and replacements certified as behind a `JITRLLM`; `jitr tasks` shows them. Where a
    certified replacement would have answered, its answer is stored beside the LLM's (reason "shadow") and counted in
    `could_replace`. Calls through a `JITRLLM` of the same process are that wrapper's affair and not observed again.

    Attributes:
        observed: calls observed so far.
        could_replace: how many of those a certified replacement would have answered.

    Example:
        >>> handler = JITREventHandler().install()  # doctest: +SKIP
    """

    observed: int = 0
    could_replace: int = 0
    _engine: Engine | None = PrivateAttr(default=None)
    _spans: _Spans = PrivateAttr(default_factory=_Spans)
    _open: dict[str, _Open | None] = PrivateAttr(default_factory=dict)  # None: part of another call
    _late: dict[str, tuple[LLM, Any]] = PrivateAttr(default_factory=dict)  # see `_asks_itself_later`

    def __init__(self, jitr: Engine | None = None) -> None:
        """Makes a handler; `install` has it watch.

        Args:
            jitr: the engine; None takes the one of this process, whose state is in `./.jitr`.
        """
        super().__init__()
        self._engine = default() if jitr is None else jitr

    @classmethod
    def class_name(cls) -> str:
        """Name of the class."""
        return "JITREventHandler"

    def install(self) -> Self:
        """Watches all of LlamaIndex in this process, from now on; again does nothing."""
        root = get_dispatcher()
        if not any(handler is self for handler in root.event_handlers):
            root.add_event_handler(self)
            root.add_span_handler(self._spans)
        return self

    def remove(self) -> None:
        """Watches no longer."""
        root = get_dispatcher()
        root.event_handlers = [handler for handler in root.event_handlers if handler is not self]
        root.span_handlers = [handler for handler in root.span_handlers if handler is not self._spans]

    def handle(self, event: Any, **_: Any) -> None:
        """Takes in an event; never raises."""
        engine = self._engine
        if engine is None:
            return
        try:
            self._take(engine, event)
        except Exception as error:
            report_fault(engine, "observe", error)

    def _take(self, engine: Engine, event: Any) -> None:
        if isinstance(event, LLMChatStartEvent):
            self._begin(event, event.messages)
        elif isinstance(event, LLMCompletionStartEvent):
            self._begin(event, event.prompt)
        elif isinstance(event, LLMChatInProgressEvent | LLMCompletionInProgressEvent):
            if (streamed := self._open.get(event.span_id or "")) is not None:
                streamed.deltas.append(event.response.delta)
        elif isinstance(event, LLMChatEndEvent | LLMCompletionEndEvent):
            if (ended := self._forget(event.span_id)) is not None:
                self._end(engine, ended, event.response)
        elif isinstance(event, SpanDropEvent | ExceptionEvent):
            self._forget(event.span_id)
        elif isinstance(event, LLMPredictStartEvent | LLMStructuredPredictStartEvent):
            for _, span in self._spans.chain(event.span_id):
                span.kind = kind_of(event.template)
                break

    def _forget(self, span_id: str | None) -> _Open | None:
        self._late.pop(span_id or "", None)
        return self._open.pop(span_id or "", None)

    def _begin(self, event: LLMChatStartEvent | LLMCompletionStartEvent, asked: Any) -> None:
        chain = list(self._spans.chain(event.span_id))
        # An LLM may answer a chat by a completion of its own: that is one call, and the app's is the outer one. Only
        # LlamaIndex's structured LLM is a mere shell.
        if not chain or not _answers(chain[0][1].instance):
            return
        if any(span_id in self._open for span_id, _ in chain):
            return
        span_id, llm = chain[0][0], chain[0][1].instance
        if isinstance(llm, CustomLLM):
            if any(asker is llm and before == asked for asker, before in self._late.values()):
                self._keep(span_id, None)
                return
            if _asks_itself_later(llm, span_id):
                self._late[span_id] = (llm, asked)
        if ROUTED.get() or disabled() or switched_off(event.tags):
            return
        kind = next((span.kind for _, span in chain if span.kind), "")
        callers = [span.parent for _, span in chain if _answers(span.instance)]
        caller = callers[-1] if callers else None
        call = call_of(llm, asked, event.additional_kwargs, step_of(event.tags, kind, caller))
        if call is not None:
            self._keep(span_id, _Open(call))

    def _keep(self, span_id: str, call: _Open | None) -> None:
        self._open[span_id] = call
        for table in (self._open, self._late):
            if len(table) > _OPEN:
                table.pop(next(iter(table)), None)

    def _end(self, engine: Engine, ended: _Open, response: Any) -> None:
        call = ended.call
        answer = answer_of_stream((response, ended.deltas), call, perf_counter() - ended.started)
        call.observe_only = True
        decision = decided(engine, call)
        if answer is None:
            return
        self.observed += 1
        self.could_replace += decision.reason == "shadow"
        engine.observe(call, decision, answer)


def _answers(instance: Any) -> bool:
    return isinstance(instance, LLM) and not isinstance(instance, StructuredLLM)


def _asks_itself_later(llm: CustomLLM, span_id: str) -> bool:
    """Whether this call is one that LlamaIndex answers, once its pieces are taken, by another stream of the LLM.

    By then the span of the call is closed, so that the stream does not look like a part of it.
    """
    method = place_of(span_id).rpartition(".")[2]
    return method.startswith("astream_") and getattr_static(type(llm), method) is vars(CustomLLM).get(method)
