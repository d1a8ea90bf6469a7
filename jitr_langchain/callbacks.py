"""Callback handlers that observe an app without touching its models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult, LLMResult
from langchain_core.runnables.config import var_child_runnable_config

from jitr_core.config import disabled
from jitr_core.integration import Engine, decided, report_fault
from jitr_core.types import Answer, Call

from ._completions import billed
from ._runs import claim, claimed, engine_or_default, remember, watched
from ._translate import REQUEST_KEYS, answer_of_result, call_of

__all__ = ["AsyncJITRCallbackHandler", "JITRCallbackHandler"]


class _Watch:
    """Pairs the start of each LLM run with its end, and tells the engine of the call."""

    def __init__(self, engine: Engine, step: str | None) -> None:
        self._engine, self._step = engine, step
        self._open: dict[UUID, tuple[Call, float]] = {}
        watched()

    def start(self, messages: Sequence[BaseMessage], run: UUID, told: Mapping[str, Any]) -> None:
        """A run starts; `told` is what LangChain tells every handler."""
        if disabled():
            return
        try:
            config = var_child_runnable_config.get() or {}
            said = {key: value for key, value in (config.get("configurable") or {}).items() if key in REQUEST_KEYS}
            metadata = {**(told.get("metadata") or {}), **said}
            if metadata.get("jitr") == "off":
                return
            # Tools, formats and the like are in what the model would send, with its own settings.
            asked = {key: value for key, value in (told.get("invocation_params") or {}).items() if key != "stop"}
            stop = (told.get("options") or {}).get("stop") or (told.get("invocation_params") or {}).get("stop")
            tags = told.get("tags") or ()
            call = call_of(
                None, messages, stop, asked, step=self._step, run_name=told.get("name"), tags=tags, metadata=metadata
            )
            call.observe_only = True
            remember(self._open, run, (call, perf_counter()))
        except Exception as error:
            report_fault(self._engine, "observe", error)

    def end(self, response: LLMResult, run: UUID) -> None:
        """A run ended well."""
        try:
            call, started = self._open.pop(run, (None, 0.0))
            if call is None or claimed(self._engine, run):
                return
            claim(self._engine, run)  # another handler may see it too
            answer = _answer(response, call, perf_counter() - started)
            if answer is not None:
                self._engine.observe(call, decided(self._engine, call), answer)
        except Exception as error:
            report_fault(self._engine, "observe", error)

    def fail(self, run: UUID) -> None:
        """A run ended without an answer: nothing is learnt from it."""
        self._open.pop(run, None)


def _answer(response: LLMResult, call: Call, latency_s: float) -> Answer | None:
    """The answer of a run; None if it is more than one text, came out of a cache or from a replacement."""
    (generations,) = response.generations
    usage: Any = billed(response.llm_output or {})
    usage = {**usage, "total_tokens": sum(usage.values())} if usage else None
    messages = [
        each.message if isinstance(each, ChatGeneration) else AIMessage(each.text, usage_metadata=usage)
        for each in generations
    ]
    chat = [ChatGeneration(message=_as_the_model_gave_it(message)) for message in messages]
    told = getattr(messages[0], "usage_metadata", None) if messages else None
    if told and told.get("total_cost") == 0:  # LangChain's mark on cached answers
        return None
    if any("jitr" in message.response_metadata for message in messages):
        return None
    if any("jitr" in (each.generation_info or {}) for each in generations):
        return None
    return answer_of_result(ChatResult(generations=chat, llm_output=response.llm_output), call, latency_s)


def _as_the_model_gave_it(message: BaseMessage) -> BaseMessage:
    """The message with its text, where LangChain itself put that into content blocks."""
    content = message.content
    if message.response_metadata.get("output_version") != "v1" or isinstance(content, str):
        return message
    if any(not isinstance(block, dict) or block.get("type") != "text" for block in content):
        return message
    return message.model_copy(update={"content": str(message.text)})


class JITRCallbackHandler(BaseCallbackHandler):
    """Observes every LLM call of a chain or graph, whatever its models; decides nothing and changes nothing.

    JITR finds the recurring tasks, trains and certifies replacements, and asks them in silence what they would have
    answered: `jitr tasks` and `jitr savings` show what could have been saved. To let them answer, wrap the model in
    `JITRChatModel`; calls of a model so wrapped are counted once.

    Give it to the chain, in its config: handlers given to a model's constructor work too, but see only that model.
    In chains that run asynchronously `AsyncJITRCallbackHandler` is faster. Only calls that were answered by one text
    are observed. What a request says to JITR (see `JITRChatModel`) belongs into `metadata`: LangChain does not tell
    handlers of the `configurable` of a model that is called outside of a chain.

    Attributes:
        jitr: the engine; None if JITR was off or could not be configured when the handler was made.
        step: name of the step all these calls belong to; None derives it from each call.

    Example:
        >>> chain.invoke(question, config={"callbacks": [JITRCallbackHandler()]})  # doctest: +SKIP
    """

    def __init__(self, jitr: Engine | None = None, step: str | None = None) -> None:
        """An observer.

        Args:
            jitr: the engine; None takes the one of this process.
            step: name of the step; None derives it from each call.
        """
        self.jitr, self.step = engine_or_default(jitr), step
        self._watch = None if self.jitr is None else _Watch(self.jitr, step)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and unpickled without the runs that are under way."""
        return type(self), (self.jitr, self.step)

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **kwargs: Any
    ) -> Any:
        """A chat model is asked."""
        if self._watch is not None:
            self._watch.start(messages[0], run_id, kwargs)

    def on_llm_start(self, serialized: dict[str, Any], prompts: list[str], *, run_id: UUID, **kwargs: Any) -> Any:
        """A text completion model is asked."""
        if self._watch is not None:
            self._watch.start([HumanMessage(prompts[0])], run_id, kwargs)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> Any:
        """A model answered."""
        if self._watch is not None:
            self._watch.end(response, run_id)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> Any:
        """A model failed, or its stream was abandoned."""
        if self._watch is not None:
            self._watch.fail(run_id)


class AsyncJITRCallbackHandler(JITRCallbackHandler, AsyncCallbackHandler):
    """`JITRCallbackHandler` for chains that run asynchronously: LangChain calls it without a detour by a thread."""

    async def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """A chat model is asked."""
        super().on_chat_model_start(serialized, messages, run_id=run_id, **kwargs)

    async def on_llm_start(
        self, serialized: dict[str, Any], prompts: list[str], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """A text completion model is asked."""
        super().on_llm_start(serialized, prompts, run_id=run_id, **kwargs)

    async def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """A model answered."""
        super().on_llm_end(response, run_id=run_id, **kwargs)

    async def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A model failed, or its stream was abandoned."""
        super().on_llm_error(error, run_id=run_id, **kwargs)
