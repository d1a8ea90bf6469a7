"""Models that pass for other ones: the part of the wrappers that has nothing to do with replacing calls."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from langchain_core.language_models import BaseChatModel, BaseLanguageModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables import Runnable
from pydantic import SkipValidation, model_serializer, model_validator
from typing_extensions import Self

from jitr_core.errors import ConfigError

from ._rewrap import ConfigurableTeacher, rewrap

__all__ = ["CONTEXT", "ChatStandIn", "StandIn", "takes_run_manager", "teachers"]

# Keyword argument that carries from one of LangChain's hooks to the next what the later one cannot see.
# It never reaches the teacher.
CONTEXT = "__jitr__"


def teachers(name: str, kind: Any = BaseLanguageModel) -> Any:
    """A method that is the teacher's."""

    def method(self: StandIn, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop(CONTEXT, None)
        return getattr(self.llm, name)(*args, **kwargs)

    return functools.wraps(getattr(kind, name, method))(method)


def _teachers_property(name: str) -> Any:
    """A property that is the teacher's."""
    return property(lambda self: getattr(self.llm, name))


class _ClassMethod:
    """A class method that on an instance is the teacher's."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, stand_in: StandIn | None, owner: Any) -> Any:
        if stand_in is None:
            return getattr(super(StandIn, owner), self._name)
        return getattr(stand_in.llm, self._name)


class StandIn:
    """Everything that describes or configures this model is the teacher's; what the teacher builds goes through here.

    To be mixed into a LangChain base class of models, before it. Subclasses add fields of their own and the hooks that
    answer.

    Attributes:
        llm: the teacher.
    """

    llm: Any
    _kind: ClassVar[Any]  # LangChain's base class of such models
    _hint: ClassVar[str]  # what to do where something else is to be wrapped
    _hooks: ClassVar[Sequence[str]]  # what LangChain's ways to ask such a model come down to

    @classmethod
    def _in_place_of(cls, llm: Any, settings: Mapping[str, Any], **own: Any) -> dict[str, Any]:
        """What a stand-in is made of; its shared fields follow, see `_share`.

        Args:
            llm: the teacher.
            settings: settings of the teacher to be changed, on a copy of it.
            own: values of the subclass's fields.

        Raises:
            ConfigError: `llm` is not a model of this kind, or has no such setting.
        """
        if not isinstance(llm, cls._kind):
            raise ConfigError(f"llm must be a {cls._kind.__name__}, got {type(llm).__name__}.", hint=cls._hint)
        if settings:
            llm = llm.model_copy(update=_settings_of(llm, settings))
        # LangChain writes its versions into the metadata of what is made.
        return {"llm": llm, "metadata": llm.metadata, **own}

    def _share(self) -> None:
        """Takes over the shared fields as they are: the teacher may hold there what it likes."""
        self.__dict__.update({name: getattr(self.llm, name) for name in self._shared()})

    # Who asks about this model is told about the teacher: traces, caches and token counts stay as they were.

    _llm_type = _teachers_property("_llm_type")
    _identifying_params = _teachers_property("_identifying_params")
    _serialized = _teachers_property("_serialized")
    InputType = _teachers_property("InputType")
    OutputType = _teachers_property("OutputType")
    lc_secrets = _teachers_property("lc_secrets")
    lc_attributes = _teachers_property("lc_attributes")
    to_json = teachers("to_json")
    to_json_not_implemented = teachers("to_json_not_implemented")
    get_token_ids = teachers("get_token_ids")
    get_num_tokens = teachers("get_num_tokens")
    get_num_tokens_from_messages = teachers("get_num_tokens_from_messages")
    _get_ls_params = teachers("_get_ls_params")
    _get_ls_params_with_defaults = teachers("_get_ls_params_with_defaults")

    lc_id: ClassVar[Any] = _ClassMethod("lc_id")

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """True: it is serialised as the teacher, if that can be."""
        return True

    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        """Name in traces: the teacher's, unless given."""
        named: str = self.llm.get_name(suffix, name=name)
        return named

    # Settings are the teacher's, but for the subclass's own fields.

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in _fields(type(self)):  # not there yet while unpickling
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.llm, name)

    def __setattr__(self, name: str, value: Any) -> None:
        own = self._is_own(name)
        if not own:
            setattr(self.llm, name, value)
        if own or name in self._shared():
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.llm, name)

    @classmethod
    def _is_own(cls, name: str) -> bool:
        return name in _fields(cls) and name not in _fields(cls._kind)

    @classmethod
    @functools.cache
    def _shared(cls) -> frozenset[str]:
        """LangChain's fields that the stand-in shares with the teacher.

        The rate limiter stays with the teacher alone: LangChain would ask it before it asks the model, and a call the
        teacher never sees must not use up its quota.
        """
        return frozenset(_fields(cls._kind)) - {"rate_limiter"}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy; settings of the teacher are changed on a copy of it."""
        own = {name: value for name, value in (update or {}).items() if self._is_own(name)}
        if settings := {name: value for name, value in (update or {}).items() if name not in own}:
            own["llm"] = own.get("llm", self.llm).model_copy(update=settings)
        parent: Any = super()
        copied: Self = parent.model_copy(update=own, deep=deep)
        copied._share()
        return copied

    # Ways of asking that the teacher has of its own.

    def _own(self, name: str, context: Any = None) -> Callable[..., Any] | None:
        """The teacher's own override of one of LangChain's ways to ask; what it comes down to goes through here.

        Args:
            name: the method.
            context: what the hooks are to know of the request; the override does not see it.
        """
        teacher: Any = type(self.llm)
        found = _override(teacher, name, self._kind)
        if found is None:
            return None
        method, calls_super = found
        if not calls_super:
            return functools.partial(method, self)
        # `super()` takes nothing but the teacher, or a copy of it whose hooks lead back here.
        with suppress(Exception):  # LangChain keeps it once it is made: not for each copy anew
            self.llm._serialized  # noqa: B018
        double = copy.copy(self.llm)
        hooks = {hook: getattr(self, hook) for hook in self._hooks if hook != name}
        if context is not None:
            inner = [hook for hook in hooks if hook.startswith("_")]
            hooks.update({hook: functools.partial(hooks[hook], **{CONTEXT: context}) for hook in inner})
        double.__dict__.update(hooks, rate_limiter=None)
        return functools.partial(method, double)

    # What the teacher builds goes through the stand-in.

    def with_structured_output(self, *args: Any, **kwargs: Any) -> Runnable[LanguageModelInput, Any]:
        """As the teacher's."""
        rewrapped: Runnable[LanguageModelInput, Any] = rewrap(self.llm.with_structured_output(*args, **kwargs), self)
        return rewrapped

    def configurable_fields(self, **kwargs: Any) -> Any:
        """As the teacher's; own fields can be configured too, but not both at once."""
        if all(map(self._is_own, kwargs)):
            parent: Any = super()
            return parent.configurable_fields(**kwargs)
        configurable: Any = self.llm.configurable_fields(**kwargs)
        return ConfigurableTeacher(default=configurable.default, fields=configurable.fields, wrapper=self)


class ChatStandIn(StandIn, BaseChatModel):
    """A chat model that passes for another one."""

    _kind: ClassVar[Any] = BaseChatModel
    _hint: ClassVar[str] = (
        "Wrap the model first, then bind or configure: JITRChatModel(llm=model).bind(…). "
        "Models for text completion go into JITRLLM."
    )

    _hooks: ClassVar[Sequence[str]] = (
        "generate",
        "agenerate",
        "_generate_with_cache",
        "_agenerate_with_cache",
        "_stream",
        "_astream",
    )

    llm: SkipValidation[BaseChatModel]  # else Pydantic would run the teacher's validators once more

    _combine_llm_outputs = teachers("_combine_llm_outputs", BaseChatModel)
    _convert_cached_generations = teachers("_convert_cached_generations", BaseChatModel)
    _get_invocation_params = teachers("_get_invocation_params", BaseChatModel)
    _get_llm_string = teachers("_get_llm_string", BaseChatModel)
    _resolve_model_profile = teachers("_resolve_model_profile", BaseChatModel)
    _should_stream = teachers("_should_stream", BaseChatModel)
    _should_use_protocol_streaming = teachers("_should_use_protocol_streaming", BaseChatModel)

    # The profile is the teacher's, and was looked at when that was made.

    @model_validator(mode="after")
    def _set_model_profile(self) -> Self:
        return self

    @model_validator(mode="after")
    def _check_profile_keys(self) -> Self:
        return self

    @model_serializer(mode="wrap")
    def _dumped(self, handler: Any, info: Any) -> Any:
        return self.llm.model_dump(mode=info.mode)

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """As the teacher's."""
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        bound: Runnable[LanguageModelInput, AIMessage] = rewrap(self.llm.bind_tools(tools, **kwargs), self)
        return bound

    def invoke(self, input: LanguageModelInput, config: Any = None, **kwargs: Any) -> AIMessage:
        """As the teacher's."""
        own = self._own("invoke")
        return own(input, config, **kwargs) if own else super().invoke(input, config, **kwargs)

    async def ainvoke(self, input: LanguageModelInput, config: Any = None, **kwargs: Any) -> AIMessage:
        """As the teacher's."""
        own = self._own("ainvoke")
        return await (own(input, config, **kwargs) if own else super().ainvoke(input, config, **kwargs))

    def generate(self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any) -> LLMResult:
        """As the teacher's."""
        if own := self._own("generate", kwargs.get(CONTEXT)):
            kwargs.pop(CONTEXT, None)
            result: LLMResult = own(messages, *args, **kwargs)
            return result
        return super().generate(messages, *args, **kwargs)

    async def agenerate(self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any) -> LLMResult:
        """As the teacher's."""
        if own := self._own("agenerate", kwargs.get(CONTEXT)):
            kwargs.pop(CONTEXT, None)
            result: LLMResult = await own(messages, *args, **kwargs)
            return result
        return await super().agenerate(messages, *args, **kwargs)

    def stream(self, input: LanguageModelInput, config: Any = None, **kwargs: Any) -> Iterator[AIMessageChunk]:
        """As the teacher's."""
        if own := self._own("stream", kwargs.get(CONTEXT)):
            kwargs.pop(CONTEXT, None)
            chunks: Iterator[AIMessageChunk] = own(input, config, **kwargs)
            return chunks
        return super().stream(input, config, **kwargs)

    def astream(self, input: LanguageModelInput, config: Any = None, **kwargs: Any) -> AsyncIterator[AIMessageChunk]:
        """As the teacher's."""
        if own := self._own("astream", kwargs.get(CONTEXT)):
            kwargs.pop(CONTEXT, None)
            chunks: AsyncIterator[AIMessageChunk] = own(input, config, **kwargs)
            return chunks
        return super().astream(input, config, **kwargs)

    def batch(self, inputs: list[Any], config: Any = None, **kwargs: Any) -> list[AIMessage]:
        """As the teacher's, in its own order if it has one (LangChain's fakes answer one by one)."""
        own = self._own("batch")
        return own(inputs, config, **kwargs) if own else super().batch(inputs, config, **kwargs)

    async def abatch(self, inputs: list[Any], config: Any = None, **kwargs: Any) -> list[AIMessage]:
        """As `batch`."""
        own = self._own("abatch")
        return await (own(inputs, config, **kwargs) if own else super().abatch(inputs, config, **kwargs))


def _fields(model: Any) -> Mapping[str, Any]:
    """The fields of a Pydantic class."""
    fields: Mapping[str, Any] = model.model_fields
    return fields


def _settings_of(llm: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by the names of the teacher's fields."""
    fields = _fields(type(llm))
    names = {info.alias: name for name, info in fields.items() if info.alias}
    named = {names.get(name, name): value for name, value in settings.items()}
    if named.get("rate_limiter", True) is None:  # the stand-in's own value, when it is rebuilt from its fields
        del named["rate_limiter"]
    if unknown := sorted(named.keys() - fields.keys()):
        raise ConfigError(f"{type(llm).__name__} has no setting {', '.join(unknown)}.")
    if "metadata" in named:
        named["metadata"] = {**(llm.metadata or {}), **(named["metadata"] or {})}
    return named


@functools.lru_cache(maxsize=256)
def _override(teacher: Any, name: str, kind: Any) -> tuple[Callable[..., Any], bool] | None:
    """A kind of teacher's own override of LangChain's method, and whether it calls `super()`; None if there is none."""
    method: Any = getattr(teacher, name)
    if method is getattr(kind, name):
        return None
    return method, "__class__" in getattr(getattr(method, "__code__", None), "co_freevars", ())


@functools.lru_cache(maxsize=256)
def takes_run_manager(hook: Callable[..., Any]) -> bool:
    """Whether a hook of a teacher is of the signature that tells it of its run; older ones are not."""
    return "run_manager" in inspect.signature(hook).parameters
