"""A LlamaIndex LLM that answers like the one it wraps, and learns to answer without it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from llama_index.core.base.llms.types import LLMMetadata
from llama_index.core.bridge.pydantic import Field, SerializeAsAny, model_serializer
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import BasePromptTemplate
from llama_index_instrumentation.dispatcher import DISPATCHER_SPAN_DECORATED_ATTR, active_instrument_tags
from llama_index_instrumentation.span import active_span_id
from typing_extensions import Self

from jitr_core.config import disabled
from jitr_core.engine import default
from jitr_core.errors import ConfigError
from jitr_core.integration import Engine, report_fault, tell_of_settings

from ._calls import METHODS, Calls
from .steps import kind_of, step_of, switched_off

__all__ = ["JITRLLM", "JITRFunctionCallingLLM"]

_OWN = ("llm", "jitr", "step")


def _plain(method: Callable[..., Any], name: str) -> Any:
    """The method under its name, without a span of its own: the teacher's is there already."""
    method.__name__ = name
    setattr(method, DISPATCHER_SPAN_DECORATED_ATTR, True)
    return method


def _routed(name: str) -> Any:
    """One of the teacher's ways of answering, with JITR in between."""
    answer = getattr(Calls, METHODS[name])

    def method(self: JITRLLM, *args: Any, **kwargs: Any) -> Any:
        return answer(Calls(self.llm, self.jitr, self.step), name, *args, **kwargs)

    async def amethod(self: JITRLLM, *args: Any, **kwargs: Any) -> Any:
        return await answer(Calls(self.llm, self.jitr, self.step), name, *args, **kwargs)

    return _plain(amethod if name.startswith("a") else method, name)


def _built_on(name: str, *, demands: bool = False) -> Any:
    """A method of the teacher that comes down to its ways of answering, and has JITR in between there.

    Args:
        name: the method.
        demands: see `Calls`.
    """

    def method(self: JITRLLM, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._double(args, kwargs, demands), name)(*args, **kwargs)

    async def amethod(self: JITRLLM, *args: Any, **kwargs: Any) -> Any:
        return await getattr(self._double(args, kwargs, demands), name)(*args, **kwargs)

    return _plain(amethod if name.startswith("a") else method, name)


def _teachers(name: str) -> Any:
    """A method that is the teacher's."""

    def method(self: JITRLLM, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.llm, name)(*args, **kwargs)

    return _plain(method, name)


class _ClassName:
    """`class_name` as the teacher's where there is one."""

    def __get__(self, wrapper: JITRLLM | None, owner: type) -> Callable[[], str]:
        return (lambda: "JITRLLM") if wrapper is None else wrapper.llm.class_name


class JITRLLM(LLM):
    """An LLM that stands in for `llm` and, where a certified replacement is confident, answers in its place.

    Everything but the answers of replaced calls is the wrapped LLM's: settings, metadata, events, spans, callbacks,
    errors. Whatever goes wrong inside JITR, the wrapped LLM answers. `JITR_DISABLED=1` in the environment switches
    JITR off, the instrument tag `jitr: off` does so for the calls inside. The step of a call is named by `step`, by
    `jitr_step`, or by the prompt template or the span that calls.

    Around a `FunctionCallingLLM` it is one too. What differs: `repr()`, and that
    `isinstance(x, OpenAI)` is false.

    Attributes:
        llm: the teacher.
        jitr: the engine; None if JITR was disabled when the wrapper was made.
        step: name of the step this LLM serves; None derives it from each call.

    Example:
        >>> Settings.llm = JITRLLM(llm=OpenAI(model="gpt-4.1"))  # doctest: +SKIP
        >>> index.as_query_engine().query("Where is my parcel?")  # doctest: +SKIP
    """

    llm: SerializeAsAny[LLM]
    jitr: Any = Field(default=None, exclude=True, repr=False)
    step: str | None = None
    class_name: ClassVar[Any] = _ClassName()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Around a function-calling LLM, one of those."""
        calling = cls is JITRLLM and isinstance(kwargs.get("llm"), FunctionCallingLLM)
        made: Any = super().__new__(JITRFunctionCallingLLM if calling else cls)
        return made  # type: ignore[no-any-return]

    def __init__(self, *, llm: LLM, jitr: Engine | None = None, step: str | None = None, **settings: Any) -> None:
        """Wraps an LLM.

        Args:
            llm: the teacher.
            jitr: the engine; None takes the one of this process, whose state is in `./.jitr`.
            step: name of the step this LLM serves; None derives it from each call.
            settings: settings of the teacher to be changed, on a copy of it.

        Raises:
            ConfigError: `llm` is not an LLM or has no such setting, or `jitr` is no engine.
        """
        if not isinstance(llm, LLM):
            raise ConfigError(f"llm must be an LLM of LlamaIndex, got {type(llm).__name__}.")
        if jitr is not None and not isinstance(jitr, Engine):
            raise ConfigError(f"jitr must be a JITR, got {type(jitr).__name__}.", hint="Write JITR(url=…).")
        if isinstance(llm, JITRLLM):
            llm = llm.llm  # a call is decided once, by the outer wrapper
        if unknown := sorted(settings.keys() - type(llm).model_fields.keys()):
            raise ConfigError(f"{type(llm).__name__} has no setting {', '.join(unknown)}.")
        if settings:
            llm = llm.model_copy(update=settings)
        self._wrap(llm, default() if jitr is None else jitr, step)

    def _wrap(self, llm: LLM, jitr: Engine | None, step: str | None) -> None:
        # The callables keep the base class from setting its defaults, which would be settings of the teacher.
        defaults = {"messages_to_prompt": str, "completion_to_prompt": str}
        fields: dict[str, Any] = {"llm": llm, "jitr": jitr, "step": step, **defaults}
        super().__init__(**fields)
        own = llm.__dict__
        tell_of_settings(type(llm).__name__, own.get("additional_kwargs") or {}, own)
        # What is not here is looked for with the teacher, see `__getattr__`.
        for name in LLM.model_fields:
            self.__dict__.pop(name, None)

    def _double(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], demands: bool) -> LLM:
        """A copy of the teacher whose ways of answering have JITR in between; the teacher itself if that is off.

        What the teacher builds on them works as the provider wrote it, and still comes through here.
        """
        engine = self.jitr
        if engine is None:
            return self.llm
        try:
            tags = active_instrument_tags.get()
            if disabled() or (tags and switched_off(tags)):
                return self.llm
            step = self.step
            if step is None:
                prompts = [arg for arg in (*args[:2], kwargs.get("prompt")) if isinstance(arg, BasePromptTemplate)]
                step = step_of(tags, kind_of(prompts[0]) if prompts else "", active_span_id.get())
            calls = Calls(self.llm, engine, step, demands=demands)
            double = copy.copy(self.llm)
            for name, answer in METHODS.items():
                double.__dict__[name] = functools.partial(getattr(calls, answer), name)
            return double
        except Exception as error:
            report_fault(engine, "decide", error)
            return self.llm

    chat = _routed("chat")
    complete = _routed("complete")
    stream_chat = _routed("stream_chat")
    stream_complete = _routed("stream_complete")
    achat = _routed("achat")
    acomplete = _routed("acomplete")
    astream_chat = _routed("astream_chat")
    astream_complete = _routed("astream_complete")

    predict = _built_on("predict")
    apredict = _built_on("apredict")
    stream = _built_on("stream")
    astream = _built_on("astream")
    structured_predict = _built_on("structured_predict")
    astructured_predict = _built_on("astructured_predict")
    stream_structured_predict = _built_on("stream_structured_predict", demands=True)
    astream_structured_predict = _built_on("astream_structured_predict", demands=True)
    predict_and_call = _built_on("predict_and_call")
    apredict_and_call = _built_on("apredict_and_call")

    to_payload = _teachers("to_payload")
    to_dict = _teachers("to_dict")
    convert_chat_messages = _teachers("convert_chat_messages")
    _log_template_data = _teachers("_log_template_data")
    _get_prompt = _teachers("_get_prompt")
    _get_messages = _teachers("_get_messages")
    _parse_output = _teachers("_parse_output")
    _extend_prompt = _teachers("_extend_prompt")
    _extend_messages = _teachers("_extend_messages")
    _structured_stream_call = _built_on("_structured_stream_call", demands=True)
    _structured_astream_call = _built_on("_structured_astream_call", demands=True)

    @property
    def metadata(self) -> LLMMetadata:
        """The teacher's."""
        return self.llm.metadata

    @model_serializer(mode="wrap")
    def custom_model_dump(self, handler: Any, info: Any) -> dict[str, Any]:
        """Serialised as the teacher."""
        dumped: dict[str, Any] = self.llm.model_dump(mode=info.mode)
        return dumped

    # Settings are the teacher's, but for the wrapper's own.

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "llm" not in self.__dict__:  # not there yet while it is made
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.llm, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            super().__setattr__(name, value)
        else:
            setattr(self.llm, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.llm, name)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy; settings of the teacher are changed on a copy of it."""
        own = {name: value for name, value in (update or {}).items() if name in _OWN}
        if settings := {name: value for name, value in (update or {}).items() if name not in own}:
            own["llm"] = own.get("llm", self.llm).model_copy(update=settings)
        return super().model_copy(update=own, deep=deep)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        memo = {} if memo is None else memo
        memo[id(self.jitr)] = self.jitr
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        # LlamaIndex drops what cannot be pickled. Without the teacher there would be nothing to wrap: let it fail.
        state["__dict__"]["llm"] = self.llm
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        own = state["__dict__"]
        # An engine that could not be pickled (its redaction may be why) is not replaced by another one.
        self._wrap(own["llm"], own.get("jitr"), own.get("step"))


class JITRFunctionCallingLLM(JITRLLM, FunctionCallingLLM):
    """A `JITRLLM` around a function-calling LLM; made by `JITRLLM(llm=…)`.

    Where a call leaves no choice of the tool it may be replaced; which tool an agent calls stays with the teacher.
    """

    chat_with_tools = _built_on("chat_with_tools")
    achat_with_tools = _built_on("achat_with_tools")
    stream_chat_with_tools = _built_on("stream_chat_with_tools")
    astream_chat_with_tools = _built_on("astream_chat_with_tools")

    _prepare_chat_with_tools = _teachers("_prepare_chat_with_tools")
    _prepare_chat_with_tools_compat = _teachers("_prepare_chat_with_tools_compat")
    _validate_chat_with_tools_response = _teachers("_validate_chat_with_tools_response")
    get_tool_calls_from_response = _teachers("get_tool_calls_from_response")
