"""A LangChain model for text completion that answers like the one it wraps, and learns to answer without it.

As in `chat_model`, the wrapper takes part in LangChain's private hooks: there is one run, one set of callbacks and one
count of tokens, as without it. Several prompts may come at once; each is decided for itself, and those that stay with
the teacher reach it at once, as without the wrapper.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, ClassVar

from langchain_core.caches import BaseCache
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.llms import BaseLLM
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list
from pydantic import Field, SkipValidation
from typing_extensions import Self

from jitr_core.integration import Engine, Routed, off_loop
from jitr_core.types import Answer, Call, Decision, Form

from ._completions import Guarded, answer_of_completion, answer_of_pieces, merged, replacement_generation
from ._routing import Routing
from ._runs import engine_or_default
from ._stand_in import CONTEXT, takes_run_manager
from ._text_stand_in import TextStandIn

__all__ = ["JITRLLM"]

_RUN_NAME = "__jitr_run_name__"


class JITRLLM(Routing, TextStandIn):
    """A text completion model that stands in for `llm`; where a certified replacement is confident, that answers.

    For models that take a text and give one (`BaseLLM`); chat models go into `JITRChatModel`, where all that is said of
    steps, of requests and of what differs holds here too. A replaced answer says in its `generation_info` who gave it.

    Attributes:
        llm: the teacher.
        jitr: the engine; None if JITR was off or could not be configured when the wrapper was made.
        step: name of the step this model serves; None derives it from each request.

    Example:
        >>> llm = JITRLLM(llm=OpenAI(model="gpt-3.5-turbo-instruct"))  # doctest: +SKIP
        >>> (PromptTemplate.from_template("Sort it: {mail}") | llm).invoke({"mail": "…"})  # doctest: +SKIP
    """

    llm: SkipValidation[BaseLLM]
    jitr: Engine | None = Field(default=None, exclude=True, repr=False)
    step: str | None = None
    _texts_only: ClassVar[bool] = True

    def __init__(self, *, llm: BaseLLM, jitr: Engine | None = None, step: str | None = None, **settings: Any) -> None:
        """Wraps a text completion model.

        Args:
            llm: the teacher.
            jitr: the engine; None takes the one of this process, whose state is in `./.jitr`.
            step: name of the step this model serves; None derives it from each request.
            settings: settings of the teacher to be changed, on a copy of it.

        Raises:
            ConfigError: `llm` is not a text completion model, or has no such setting.
        """
        super().__init__(**self._in_place_of(llm, settings, jitr=engine_or_default(jitr), step=step))
        self._begin()

    # Routing: each prompt is decided once, after LangChain has looked into its cache.

    def _route(
        self, prompt: str, stop: list[str] | None, run_manager: Any, settings: Mapping[str, Any]
    ) -> Routed | None:
        def around() -> tuple[Sequence[str], Mapping[str, Any]]:
            return (run_manager.tags, run_manager.metadata) if run_manager is not None else ((), {})

        messages: list[BaseMessage] = [HumanMessage(prompt)]
        run = run_manager.run_id if run_manager is not None else None
        routed = self._decide(messages, stop, settings, run, self.__dict__.get(_RUN_NAME), around)
        if routed is not None and routed.message is not None:
            routed.deliver(self._asker(routed.call, messages, stop, settings))
        return routed

    def _ready(self, decision: Decision, provider: str, form: Form | None) -> Generation:
        return replacement_generation(decision)

    def _taught(
        self, call: Call, messages: list[BaseMessage], stop: list[str] | None, settings: Mapping[str, Any]
    ) -> Answer | None:
        started = perf_counter()
        result = self.llm._generate([str(messages[-1].content)], stop=stop, **settings)
        return answer_of_completion((result.generations[0], result.llm_output), call, perf_counter() - started)

    # LangChain's layers above the hooks: they know the request's config, the names of runs and the cache.

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        """As the teacher's; the request's wishes become metadata."""
        config, own = self._wishing(config), self._own("invoke")
        return own(input, config, **kwargs) if own else super().invoke(input, config, **kwargs)

    async def ainvoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        """As `invoke`."""
        config, own = self._wishing(config), self._own("ainvoke")
        return await (own(input, config, **kwargs) if own else super().ainvoke(input, config, **kwargs))

    def batch(self, inputs: list[LanguageModelInput], config: Any = None, **kwargs: Any) -> list[str]:
        """As the teacher's; the requests' wishes become metadata."""
        own = self._own("batch")
        return own(inputs, config, **kwargs) if own else super().batch(inputs, self._all(config, inputs), **kwargs)

    async def abatch(self, inputs: list[LanguageModelInput], config: Any = None, **kwargs: Any) -> list[str]:
        """As `batch`."""
        if own := self._own("abatch"):
            texts: list[str] = await own(inputs, config, **kwargs)
            return texts
        return await super().abatch(inputs, self._all(config, inputs), **kwargs)

    def stream(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[str]:
        """As the teacher's; in one piece, if that does not stream."""
        if own := self._own("stream"):
            streamed: Iterator[str] = own(input, config, **kwargs)
            return streamed
        if type(self.llm)._stream is BaseLLM._stream:
            return self._at_once(input, config, kwargs)
        config = self._wishing(config)
        return BaseLLM.stream(self._knowing((config or {}).get("run_name")), input, config, **kwargs)

    def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[str]:
        """As `stream`."""
        kind = type(self.llm)
        if own := self._own("astream"):
            streamed: AsyncIterator[str] = own(input, config, **kwargs)
            return streamed
        if kind._stream is BaseLLM._stream and kind._astream is BaseLLM._astream:
            return self._aat_once(input, config, kwargs)
        config = self._wishing(config)
        return BaseLLM.astream(self._knowing((config or {}).get("run_name")), input, config, **kwargs)

    def _at_once(self, input: LanguageModelInput, config: Any, kwargs: dict[str, Any]) -> Iterator[str]:
        yield self.invoke(input, config, **kwargs)

    async def _aat_once(self, input: LanguageModelInput, config: Any, kwargs: dict[str, Any]) -> AsyncIterator[str]:
        yield await self.ainvoke(input, config, **kwargs)

    def _all(self, config: Any, inputs: list[LanguageModelInput]) -> Any:
        """The configs of a batch, each with its wishes."""
        return [self._wishing(each) for each in get_config_list(config, len(inputs))] if inputs else config

    def generate(
        self, prompts: list[str], stop: list[str] | None = None, callbacks: Any = None, **kwargs: Any
    ) -> LLMResult:
        """As the teacher's; remembers the names of runs, which LangChain tells nobody further down."""
        if own := self._own("generate"):
            result: LLMResult = own(prompts, stop, callbacks, **kwargs)
            return result
        knowing = self._knowing(kwargs.get("run_name"), self._guard())
        return BaseLLM.generate(knowing, prompts, stop, callbacks, **kwargs)

    async def agenerate(
        self, prompts: list[str], stop: list[str] | None = None, callbacks: Any = None, **kwargs: Any
    ) -> LLMResult:
        """As `generate`."""
        if own := self._own("agenerate"):
            result: LLMResult = await own(prompts, stop, callbacks, **kwargs)
            return result
        knowing = self._knowing(kwargs.get("run_name"), self._guard())
        return await BaseLLM.agenerate(knowing, prompts, stop, callbacks, **kwargs)

    def _guard(self) -> Guarded | None:
        """The cache of the teacher's answers, guarded; None if there is none."""
        cache = self.cache
        if cache is None or cache is True:
            cache = get_llm_cache()
        return Guarded(cache) if isinstance(cache, BaseCache) and self.jitr is not None else None

    def _knowing(self, run_name: str | list[str] | None, cache: Guarded | None = None) -> Self:
        """A copy for one request, that knows what LangChain tells no hook; this one if there is nothing to know."""
        # Prompts of one request that are named apart are not told apart: one name stands for all of them.
        name = next(iter(run_name), None) if isinstance(run_name, list) else run_name
        if name is None and cache is None:
            return self
        knowing = copy.copy(self)
        knowing.__dict__[_RUN_NAME] = name
        if cache is not None:
            knowing.__dict__["cache"] = cache
        return knowing

    def _generate_helper(self, prompts: Any, stop: Any, run_managers: Any, **kwargs: Any) -> LLMResult:
        return super()._generate_helper(prompts, stop, run_managers, **{**kwargs, CONTEXT: run_managers})

    async def _agenerate_helper(self, prompts: Any, stop: Any, run_managers: Any, **kwargs: Any) -> LLMResult:
        return await super()._agenerate_helper(prompts, stop, run_managers, **{**kwargs, CONTEXT: run_managers})

    # The hooks: replacements answer, or the teacher does and the engine is told what it said.

    def _generate(
        self, prompts: list[str], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> LLMResult:
        managers = kwargs.pop(CONTEXT, None) or [run_manager]
        batch = _Batch(self, prompts, stop, managers, kwargs)
        batch.route()
        if self._tells_tokens:
            for manager, chunk in batch.told():
                manager.on_llm_new_token(chunk.text, chunk=chunk)
        if not batch.asked:
            return merged(batch.answers, None)
        started = perf_counter()
        result = self.llm._generate(batch.forwarded, stop=stop, **batch.extra(type(self.llm)._generate))
        return batch.end(result, started)

    async def _agenerate(
        self, prompts: list[str], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> LLMResult:
        managers = kwargs.pop(CONTEXT, None) or [run_manager]
        batch = _Batch(self, prompts, stop, managers, kwargs)
        await off_loop(self.jitr, batch.route)
        if self._tells_tokens:
            for manager, chunk in batch.told():
                await manager.on_llm_new_token(chunk.text, chunk=chunk)
        if not batch.asked:
            return merged(batch.answers, None)
        started = perf_counter()
        result = await self.llm._agenerate(batch.forwarded, stop=stop, **batch.extra(type(self.llm)._agenerate))
        return batch.end(result, started)

    @property
    def _tells_tokens(self) -> bool:
        """Whether the teacher tells callbacks of each token even where nobody streams."""
        return bool(getattr(self.llm, "streaming", False))

    def _stream(
        self, prompt: str, stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[GenerationChunk]:
        routed = self._route(prompt, stop, run_manager, kwargs)
        if routed is not None and routed.message is not None:
            chunk = _chunk(routed.message)
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk
            return
        pieces: list[GenerationChunk] = []
        started = perf_counter()
        for chunk in self.llm._stream(prompt, stop=stop, run_manager=run_manager, **kwargs):
            pieces.append(chunk)
            yield chunk
        if routed is not None:
            routed.observe(answer_of_pieces, pieces, started)

    async def _astream(
        self, prompt: str, stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[GenerationChunk]:
        routed = await off_loop(self.jitr, self._route, prompt, stop, run_manager, kwargs)
        if routed is not None and routed.message is not None:
            chunk = _chunk(routed.message)
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk
            return
        pieces: list[GenerationChunk] = []
        started = perf_counter()
        async for chunk in self.llm._astream(prompt, stop=stop, run_manager=run_manager, **kwargs):
            pieces.append(chunk)
            yield chunk
        if routed is not None:
            routed.observe(answer_of_pieces, pieces, started)


def _chunk(generation: Generation) -> GenerationChunk:
    return GenerationChunk(text=generation.text, generation_info=generation.generation_info)


class _Batch:
    """Prompts that were asked at once: some a replacement answers, the others go to the teacher at once.

    Attributes:
        answers: the replacement's answer to each prompt, None where the teacher is asked.
        asked: positions of the prompts that the teacher is asked.
        forwarded: those prompts.
    """

    def __init__(
        self,
        llm: JITRLLM,
        prompts: list[str],
        stop: list[str] | None,
        managers: Sequence[Any],
        settings: dict[str, Any],
    ) -> None:
        self._llm, self._prompts, self._stop, self._settings = llm, prompts, stop, settings
        self._managers = [*managers, *[None] * (len(prompts) - len(managers))]
        self._routed: list[Routed | None] = []
        self.answers: list[Generation | None] = []
        self.asked: list[int] = []
        self.forwarded: list[str] = []

    def route(self) -> None:
        """Has every prompt decided."""
        for prompt, manager in zip(self._prompts, self._managers, strict=False):
            self._routed.append(self._llm._route(prompt, self._stop, manager, self._settings))
        self.answers = [None if routed is None else routed.message for routed in self._routed]
        self.asked = [i for i, answer in enumerate(self.answers) if answer is None]
        self.forwarded = [self._prompts[i] for i in self.asked]

    def told(self) -> list[tuple[Any, GenerationChunk]]:
        """The replacements' answers as tokens, each with the run that is to hear of it."""
        pairs = zip(self._managers, self.answers, strict=False)
        return [(manager, _chunk(answer)) for manager, answer in pairs if answer is not None and manager is not None]

    def extra(self, hook: Any) -> dict[str, Any]:
        """What LangChain would hand to a hook of the teacher beside the prompts."""
        if not takes_run_manager(hook):
            return {}
        return {**self._settings, "run_manager": self._managers[self.asked[0]]}

    def end(self, result: LLMResult, started: float) -> LLMResult:
        """Tells the engine what the teacher said, and puts all answers together."""
        for place, (i, generations) in enumerate(zip(self.asked, result.generations, strict=False)):
            if (routed := self._routed[i]) is not None:
                # What is billed is billed for all prompts together: it is told of the first one.
                routed.observe(answer_of_completion, (generations, {} if place else result.llm_output), started)
        return result if len(self.asked) == len(self.answers) else merged(self.answers, result)
