"""A LangChain chat model that answers like the one it wraps, and learns to answer without it.

The wrapper takes part in LangChain's private hooks (`_generate`, `_stream` …) rather than calling the teacher's public
`invoke`: there is one run, one set of callbacks and one count of tokens, as without it.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.utils.uuid import uuid7
from pydantic import Field, SkipValidation

from jitr_core.integration import Engine, Routed, off_loop
from jitr_core.types import Answer, Call, Decision, Form

from ._routing import Routing
from ._runs import engine_or_default
from ._stand_in import CONTEXT, ChatStandIn, takes_run_manager
from ._translate import (
    EventReader,
    answer_of_chunks,
    answer_of_result,
    replacement_chunk,
    replacement_events,
    replacement_message,
)

__all__ = ["JITRChatModel"]


class JITRChatModel(Routing, ChatStandIn):
    """A chat model that stands in for `llm` and, where a certified replacement is confident, answers in its place.

    Chains, agents and callbacks see the teacher: its name in traces, its parameters, its cache entries, its errors.
    Whatever goes wrong inside JITR, the teacher answers. `JITR_DISABLED=1` in the environment switches JITR off. The
    step of a call is declared by `step`, `jitr_step` in the request's config or a tag `jitr:<name>`: all its calls are
    one task. Else agent, LangGraph node and the `run_name` bound to the model tell places apart, and the prompts tell
    which calls do the same job.

    A request may say in `metadata` or `configurable` of its config: `jitr_tenant`, whose it is, and as `jitr` one of
    "off", "no-store" (a replacement may answer it, nothing of it is kept) and "observe" (the teacher answers it).

    What differs: `repr()`, `isinstance(x, ChatOpenAI)`, and that `loads(dumps(x))` gives the teacher.

    Attributes:
        llm: the teacher.
        jitr: the engine; None if JITR was off or could not be configured when the wrapper was made.
        step: name of the step this model serves; None derives it from each request.

    Example:
        >>> llm = JITRChatModel(llm=ChatOpenAI(model="gpt-4.1"), step="triage")  # doctest: +SKIP
        >>> (prompt | llm | StrOutputParser()).invoke({"ticket": "…"})  # doctest: +SKIP
    """

    llm: SkipValidation[BaseChatModel]
    jitr: Engine | None = Field(default=None, exclude=True, repr=False)
    step: str | None = None

    def __init__(
        self, *, llm: BaseChatModel, jitr: Engine | None = None, step: str | None = None, **settings: Any
    ) -> None:
        """Wraps a chat model.

        Args:
            llm: the teacher.
            jitr: the engine; None takes the one of this process, whose state is in `./.jitr`.
            step: name of the step this model serves; None derives it from each request.
            settings: settings of the teacher to be changed, on a copy of it.

        Raises:
            ConfigError: `llm` is not a chat model, or has no such setting.
        """
        super().__init__(**self._in_place_of(llm, settings, jitr=engine_or_default(jitr), step=step))
        self._begin()

    # Routing: each call is decided once, before LangChain looks into its cache.

    def _route(
        self, messages: list[BaseMessage], stop: list[str] | None, run_manager: Any, kwargs: dict[str, Any]
    ) -> Routed | None:
        """Takes the context out of `kwargs` and decides the call; None: the teacher answers and nobody is told."""
        context: Any = kwargs.pop(CONTEXT, {})
        if context is None or isinstance(context, Routed):
            return context
        run = run_manager.run_id if run_manager is not None else context.get("run_id")
        around = functools.partial(self._surroundings, context, run_manager, stop, kwargs)
        return self._decide(messages, stop, kwargs, run, context.get("run_name"), around)

    def _surroundings(
        self, config: RunnableConfig, run_manager: Any, stop: list[str] | None, kwargs: dict[str, Any]
    ) -> tuple[Sequence[str], Mapping[str, Any]]:
        """Tags and metadata of the run, LangChain's `ls_…` parameters and the request's wishes included."""
        if run_manager is not None:
            return run_manager.tags, run_manager.metadata
        config = ensure_config(config)  # LangChain streams without a run manager
        told = self.llm._get_ls_params(stop=stop, **kwargs)
        tags = [*config["tags"], *(self.tags or ())]
        return tags, {**config["metadata"], **told, **(self.metadata or {})}

    def _ready(self, decision: Decision, provider: str, form: Form | None) -> AIMessage:
        return replacement_message(decision, provider, form)

    def _enter(
        self, messages: list[BaseMessage], stop: list[str] | None, run_manager: Any, kwargs: dict[str, Any]
    ) -> tuple[Routed | None, AIMessage | None]:
        """Decides the call; if a replacement answers, tells the engine so and gives its message."""
        routed = self._route(messages, stop, run_manager, kwargs)
        if routed is None or routed.message is None:
            return routed, None
        routed.deliver(self._asker(routed.call, list(messages), stop, kwargs))
        return routed, routed.message

    def _taught(
        self, call: Call, messages: list[BaseMessage], stop: list[str] | None, settings: Mapping[str, Any]
    ) -> Answer | None:
        if self.llm.rate_limiter:
            self.llm.rate_limiter.acquire(blocking=True)
        started = perf_counter()
        result = self.llm._generate(messages, stop=stop, **settings)
        return answer_of_result(result, call, perf_counter() - started)

    # LangChain's layers above the hooks: they remember what a hook needs to know.

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        """As the teacher's; the request's wishes become metadata."""
        return super().invoke(input, self._wishing(config), **kwargs)

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        """As the teacher's; the request's wishes become metadata."""
        return await super().ainvoke(input, self._wishing(config), **kwargs)

    def generate(self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any) -> LLMResult:
        """As the teacher's; remembers the run's name, which LangChain tells nobody further down."""
        if name := kwargs.get("run_name"):
            kwargs[CONTEXT] = {"run_name": name}
        return super().generate(messages, *args, **kwargs)

    async def agenerate(self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any) -> LLMResult:
        """As the teacher's; remembers the run's name."""
        if name := kwargs.get("run_name"):
            kwargs[CONTEXT] = {"run_name": name}
        return await super().agenerate(messages, *args, **kwargs)

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        """As the teacher's; remembers the config, as LangChain streams without a run manager."""
        config = self._identified(config)
        return super().stream(input, config, **{CONTEXT: config, **kwargs})

    def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """As the teacher's; remembers the config."""
        config = self._identified(config)
        return super().astream(input, config, **{CONTEXT: config, **kwargs})

    def stream_events(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As the teacher's; remembers the config."""
        if kwargs.get("version") == "v3":  # the others come to `stream`
            config = kwargs[CONTEXT] = self._identified(config)
        return super().stream_events(input, config, **kwargs)

    def astream_events(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """As the teacher's; remembers the config."""
        if kwargs.get("version") == "v3":
            config = kwargs[CONTEXT] = self._identified(config)
        return super().astream_events(input, config, **kwargs)

    def _identified(self, config: RunnableConfig | None) -> RunnableConfig:
        """`_wishing`, and with the id of the run, which LangChain tells no hook of a stream."""
        config = self._wishing(config) or {}
        return config if config.get("run_id") else {**config, "run_id": uuid7()}

    def _generate_with_cache(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        kwargs[CONTEXT] = self._route(messages, stop, run_manager, kwargs)
        return super()._generate_with_cache(messages, stop, run_manager, **kwargs)

    async def _agenerate_with_cache(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        kwargs[CONTEXT] = await off_loop(self.jitr, self._route, messages, stop, run_manager, kwargs)
        return await super()._agenerate_with_cache(messages, stop, run_manager, **kwargs)

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """The cache key: the teacher's, but for a replaced call, whose answer must not pass for the teacher's."""
        routed = kwargs.pop(CONTEXT, None)
        key = self.llm._get_llm_string(stop=stop, **kwargs)
        return f"{key}|jitr:{routed.decision.release}" if routed and routed.message else key

    # The hooks: the replacement answers, or the teacher does and the engine is told what it said.

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        routed, message = self._enter(messages, stop, run_manager, kwargs)
        if message is not None:
            return ChatResult(generations=[ChatGeneration(message=message)])
        if self.llm.rate_limiter:
            self.llm.rate_limiter.acquire(blocking=True)
        extra = {"run_manager": run_manager} if takes_run_manager(type(self.llm)._generate) else {}
        started = perf_counter()
        result = self.llm._generate(messages, stop=stop, **extra, **kwargs)
        if routed is not None:
            routed.observe(answer_of_result, result, started)
        return result

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        routed, message = await off_loop(self.jitr, self._enter, messages, stop, run_manager, kwargs)
        if message is not None:
            return ChatResult(generations=[ChatGeneration(message=message)])
        if self.llm.rate_limiter:
            await self.llm.rate_limiter.aacquire(blocking=True)
        extra = {"run_manager": run_manager} if takes_run_manager(type(self.llm)._agenerate) else {}
        started = perf_counter()
        result = await self.llm._agenerate(messages, stop=stop, **extra, **kwargs)
        if routed is not None:
            routed.observe(answer_of_result, result, started)
        return result

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        routed, message = self._enter(messages, stop, run_manager, kwargs)
        if message is not None:
            yield replacement_chunk(message)
            return
        if self.llm.rate_limiter:
            self.llm.rate_limiter.acquire(blocking=True)
        extra = {"run_manager": run_manager} if run_manager is not None else {}
        # LangChain replaces `chunk.message` after it was yielded; the message itself stays as the teacher sent it.
        pieces: list[Any] = []
        started = perf_counter()
        for chunk in self.llm._stream(messages, stop=stop, **extra, **kwargs):
            pieces.append(getattr(chunk, "message", None))
            yield chunk
        if routed is not None:
            routed.observe(answer_of_chunks, pieces, started)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        routed, message = await off_loop(self.jitr, self._enter, messages, stop, run_manager, kwargs)
        if message is not None:
            yield replacement_chunk(message)
            return
        if self.llm.rate_limiter:
            await self.llm.rate_limiter.aacquire(blocking=True)
        extra = {"run_manager": run_manager} if run_manager is not None else {}
        pieces: list[Any] = []
        started = perf_counter()
        async for chunk in self.llm._astream(messages, stop=stop, **extra, **kwargs):
            pieces.append(getattr(chunk, "message", None))
            yield chunk
        if routed is not None:
            routed.observe(answer_of_chunks, pieces, started)

    # Native protocol events (`version="v3"`): LangChain looks whether a model has the hook, so it is there only if
    # the teacher has it. Who reads the events stops at the last one, so that is where the answer is observed.

    @property
    def _stream_chat_model_events(self) -> Any:
        return self._events if getattr(self.llm, "_stream_chat_model_events", None) is not None else None

    @property
    def _astream_chat_model_events(self) -> Any:
        return self._aevents if getattr(self.llm, "_astream_chat_model_events", None) is not None else None

    def _events(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[Any]:
        routed, message = self._enter(messages, stop, run_manager, kwargs)
        if message is not None:
            yield from replacement_events(message)
            return
        if self.llm.rate_limiter:
            self.llm.rate_limiter.acquire(blocking=True)
        read, started = EventReader().read, perf_counter()
        teacher: Any = self.llm
        for event in teacher._stream_chat_model_events(messages, stop=stop, run_manager=run_manager, **kwargs):
            if routed is not None:
                routed.observe(read, event, started)
            yield event

    async def _aevents(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        routed, message = await off_loop(self.jitr, self._enter, messages, stop, run_manager, kwargs)
        if message is not None:
            for event in replacement_events(message):
                yield event
            return
        if self.llm.rate_limiter:
            await self.llm.rate_limiter.aacquire(blocking=True)
        read, started = EventReader().read, perf_counter()
        teacher: Any = self.llm
        async for event in teacher._astream_chat_model_events(messages, stop=stop, run_manager=run_manager, **kwargs):
            if routed is not None:
                routed.observe(read, event, started)
            yield event
