"""The teacher's eight ways of answering, with JITR in between: each call is decided once, and observed once."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Generator
from time import perf_counter
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms.llm import LLM
from llama_index_instrumentation.dispatcher import active_instrument_tags, instrument_tags
from llama_index_instrumentation.span import active_span_id

from jitr_core.config import disabled
from jitr_core.integration import Engine, Routed, decided, off_loop, report_fault
from jitr_core.types import Answer, Call

from ._ready import ready
from ._translate import answer_of, answer_of_stream, call_of, replacement_of
from .steps import ROUTED, SWITCH_TAG, step_of, switched_off

__all__ = ["METHODS", "Calls"]

METHODS = {
    "chat": "answer",
    "complete": "answer",
    "stream_chat": "stream",
    "stream_complete": "stream",
    "achat": "aanswer",
    "acomplete": "aanswer",
    "astream_chat": "astream",
    "astream_complete": "astream",
}
"""The teacher's ways of answering, and the method of `Calls` that stands in for each."""


class Calls:
    """Has a replacement answer where it may, and the teacher otherwise.

    Arguments reach the teacher as they came, and its answers and errors the app.

    Attributes:
        teacher: the wrapped LLM.
        engine: who decides; None: the teacher answers everything.
        step: name of the step that calls, "" if unknown; None derives it from each call.
        demands: whether what calls can use nothing but a call of the tool it offers. LlamaIndex does not say so to the
            teacher where it streams.
    """

    __slots__ = ("demands", "engine", "step", "teacher")

    def __init__(self, teacher: LLM, engine: Engine | None, step: str | None, *, demands: bool = False) -> None:
        self.teacher, self.engine, self.step, self.demands = teacher, engine, step, demands

    def answer(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """What `method` of the teacher answers, or the replacement in its place."""
        routed, answer = self._route(method, args, kwargs)
        before = ROUTED.get()
        ROUTED.set(True)
        try:
            started = perf_counter()
            response = answer(*args, **kwargs)
        finally:
            ROUTED.set(before)
        if routed is not None:
            routed.observe(answer_of, response, started)
        return response

    async def aanswer(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """As `answer`, where the teacher's `method` is asynchronous."""
        routed, answer = await off_loop(self.engine, self._route, method, args, kwargs)
        before = ROUTED.get()
        ROUTED.set(True)
        try:
            started = perf_counter()
            response = await answer(*args, **kwargs)
        finally:
            ROUTED.set(before)
        if routed is not None:
            routed.observe(answer_of, response, started)
        return response

    def stream(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """As `answer`, in pieces."""
        routed, answer = self._route(method, args, kwargs)
        before = ROUTED.get()
        ROUTED.set(True)
        try:
            started = perf_counter()
            response = answer(*args, **kwargs)
        finally:
            ROUTED.set(before)
        return response if routed is None else _watched(response, routed, started)

    async def astream(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """As `aanswer`, in pieces."""
        routed, answer = await off_loop(self.engine, self._route, method, args, kwargs)
        before = ROUTED.get()
        ROUTED.set(True)
        try:
            started = perf_counter()
            response = await answer(*args, **kwargs)
        finally:
            ROUTED.set(before)  # `reset` fails where a cancelled call ends in another context
        return response if routed is None else _awatched(response, routed, started)

    def _route(
        self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Routed | None, Callable[..., Any]]:
        """Decides a call.

        Returns:
            The call, if the teacher answers it and its answer is to be observed; and what answers, in the teacher's
            `method` or in its place.
        """
        engine, teachers = self.engine, getattr(self.teacher, method)
        if engine is None:
            return None, teachers
        try:
            tags = active_instrument_tags.get()
            if ROUTED.get() or disabled() or (tags and switched_off(tags)):
                return None, teachers
            chat = method.endswith("chat")
            asked = args[0] if args else kwargs.get("messages" if chat else "prompt")
            if isinstance(asked, str) is chat:
                return None, teachers
            step = step_of(tags, "", active_span_id.get()) if self.step is None else self.step
            demanding = self.demands and len(kwargs.get("tools") or ()) == 1
            settings = {**kwargs, "tool_choice": "required"} if demanding else kwargs
            call = call_of(self.teacher, asked, settings, step)
            if call is None:
                return None, teachers
            decision = engine.decide(call) if call.form is None else decided(engine, call)
            routed = Routed(engine, call, decision, None, self._ask_aside)
            if routed.decision.kind != "replacement":
                return routed, teachers
            routed.message = replacement_of(routed.decision, call.form, chat=chat)
            answer = ready(self.teacher, method, routed.message)
            routed.deliver(self._asker("chat" if chat else "complete", routed, args, kwargs))
            return None, answer
        except Exception as error:
            report_fault(engine, "decide", error)
            return None, teachers

    def _asker(
        self, method: str, routed: Routed, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Callable[[], Answer]:
        """Asks the teacher what the app asked, with a tag that tells the app's handlers whose call it is."""
        if routed.decision.audit:  # by then the app may have written into its messages
            args = tuple([_frozen(value) for value in args])
            kwargs = {name: _frozen(value) for name, value in kwargs.items()}

        return functools.partial(self._aside, method, routed.call, args, kwargs)

    def _ask_aside(self, question: str) -> Answer:
        """Asks the teacher a question that no call of the app asked."""
        return self._aside("complete", Call("", ()), (question,), {})

    def _aside(self, method: str, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Answer:
        """What the teacher answers outside of the app's callbacks.

        Raises:
            ValueError: it is more than one text.
        """
        teacher = self.teacher.model_copy(update={"callback_manager": CallbackManager([])})
        started = perf_counter()
        with instrument_tags({SWITCH_TAG: "audit"}):
            response = getattr(teacher, method)(*args, **kwargs)
        answer = answer_of(response, call, perf_counter() - started)
        if answer is None:
            raise ValueError("the teacher's answer to an audited call is more than a text")
        return answer


def _frozen(value: Any) -> Any:
    if isinstance(value, list | tuple) and all([isinstance(item, ChatMessage) for item in value]):
        return [message.model_copy(deep=True) for message in value]
    return value


def _watched(stream: Any, routed: Routed, started: float) -> Generator[Any, None, None]:
    deltas: list[str | None] = []
    last = None
    try:
        for last in stream:
            deltas.append(getattr(last, "delta", None))
            yield last
    finally:
        if close := getattr(stream, "close", None):  # an abandoned stream ends at once, as without the wrapper
            close()
    routed.observe(answer_of_stream, (last, deltas), started)


async def _awatched(stream: Any, routed: Routed, started: float) -> AsyncGenerator[Any, None]:
    deltas: list[str | None] = []
    last = None
    try:
        async for last in stream:
            deltas.append(getattr(last, "delta", None))
            yield last
    finally:
        if close := getattr(stream, "aclose", None):
            await close()
    routed.observe(answer_of_stream, (last, deltas), started)
