"""A fake engine, teachers that show what they were asked, and a record of everything LlamaIndex tells its handlers."""

from __future__ import annotations

import asyncio
import re
from contextlib import contextmanager
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LLMMetadata,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.callbacks import CallbackManager
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM, ToolSelection
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.event_handlers import BaseEventHandler
from llama_index_instrumentation.span_handlers import BaseSpanHandler
from pydantic import Field

from jitr_core.types import Call, Decision, Match


class FakeEngine:
    """Decides for the teacher, or for a replacement that always gives the same answer; dead, it raises everywhere."""

    def __init__(self, replacement: str | None = None, *, audit: bool = False, dead: bool = False) -> None:
        self.replacement, self.audits, self.dead = replacement, audit, dead
        self.decided: list[Call] = []
        self.observed: list[tuple[Any, ...]] = []
        self.audited: list[tuple[Any, ...]] = []
        self.faults: list[tuple[str, BaseException]] = []

    def _live(self):
        if self.dead:
            raise RuntimeError("dead engine")

    def decide(self, call):
        self._live()
        self.decided.append(call)
        match = Match("task-1", "template-1", ())
        if self.replacement is None or not call.replaceable:
            return Decision("teacher", "no_release", match)
        kind, reason = ("teacher", "shadow") if call.observe_only else ("replacement", "answered")
        return Decision(kind, reason, match, "r1", self.replacement, 0.97, self.audits, 0.1)

    def observe(self, call, decision, answer, ask=None):
        self._live()
        self.observed.append((call, decision, answer))

    def audit(self, call, decision, ask):
        self._live()
        self.audited.append((call, decision, ask))

    def fault(self, where, error):
        self.faults.append((where, error))
        self._live()

    def __reduce__(self):
        return process_engine, ()

    @property
    def answers(self):
        return [answer for _, _, answer in self.observed]


_PROCESS_ENGINE = FakeEngine()


def process_engine():
    return _PROCESS_ENGINE


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


class _Answering(LLM):
    """Says "re: " and the last text, or what `says` has for a word in the prompt; keeps what reached it in `asked`."""

    model: str = "teacher-1"
    temperature: float | None = None
    chats: bool = True
    fail: bool = False
    slow: bool = False
    says: dict[str, str] = Field(default_factory=dict)
    asked: list[Any] = Field(default_factory=list, exclude=True)

    @property
    def metadata(self) -> LLMMetadata:
        calling = isinstance(self, FunctionCallingLLM)
        return LLMMetadata(model_name=self.model, is_chat_model=self.chats, is_function_calling_model=calling)

    @classmethod
    def class_name(cls) -> str:
        return "teacher"

    def _text(self, asked, kwargs) -> str:
        prompt = asked if isinstance(asked, str) else "\n".join(message.content or "" for message in asked)
        self.asked.append((prompt, kwargs))
        if self.fail:
            raise ConnectionError("the provider is down")
        found = [answer for word, answer in self.says.items() if word in prompt]
        return found[0] if found else "re: " + (prompt.splitlines() or [""])[-1]

    def _whole(self, messages, kwargs) -> ChatResponse:
        text = self._text(messages, kwargs)
        block: Any = TextBlock(text=text)
        if kwargs.get("tools") and not any(message.role == "tool" for message in messages):
            tool = kwargs["tools"][0]
            block = ToolCallBlock(tool_call_id="c1", tool_name=tool["name"], tool_kwargs={"text": "one two"})
        message = ChatMessage(role="assistant", blocks=[block])
        return ChatResponse(message=message, raw={"model": self.model, "usage": USAGE}, additional_kwargs={**USAGE})

    def _pieces(self, response):
        text, told = response.message.content or "", ""
        for word in re.findall(r"\S+\s*", text):
            told += word
            message = ChatMessage(role="assistant", content=told)
            yield ChatResponse(message=message, delta=word, raw=response.raw, additional_kwargs={**USAGE})
        if not text:
            yield response

    def _completed(self, prompt, kwargs) -> CompletionResponse:
        raw = {"model": self.model, "usage": USAGE}
        return CompletionResponse(text=self._text(prompt, kwargs), raw=raw, additional_kwargs={**USAGE})

    @llm_chat_callback()
    def chat(self, messages, **kwargs):
        return self._whole(messages, kwargs)

    @llm_chat_callback()
    async def achat(self, messages, **kwargs):
        await asyncio.sleep(30 if self.slow else 0)
        return self._whole(messages, kwargs)

    @llm_chat_callback()
    def stream_chat(self, messages, **kwargs):
        return self._pieces(self._whole(messages, kwargs))

    @llm_chat_callback()
    async def astream_chat(self, messages, **kwargs):
        response = self._whole(messages, kwargs)

        async def pieces():
            for piece in self._pieces(response):
                yield piece
                await asyncio.sleep(30 if self.slow else 0)

        return pieces()

    @llm_completion_callback()
    def complete(self, prompt, formatted=False, **kwargs):
        return self._completed(prompt, kwargs)

    @llm_completion_callback()
    async def acomplete(self, prompt, formatted=False, **kwargs):
        await asyncio.sleep(30 if self.slow else 0)
        return self._completed(prompt, kwargs)

    @llm_completion_callback()
    def stream_complete(self, prompt, formatted=False, **kwargs):
        return self._told(self._completed(prompt, kwargs))

    @llm_completion_callback()
    async def astream_complete(self, prompt, formatted=False, **kwargs):
        response = self._completed(prompt, kwargs)

        async def pieces():
            for piece in self._told(response):
                yield piece
                await asyncio.sleep(30 if self.slow else 0)

        return pieces()

    def _told(self, response):
        told = ""
        for word in re.findall(r"\S+\s*", response.text):
            told += word
            yield CompletionResponse(text=told, delta=word, raw=response.raw, additional_kwargs={**USAGE})


class Teacher(_Answering):
    """A plain LLM."""


class CallingTeacher(_Answering, FunctionCallingLLM):
    """A function-calling LLM: with tools it calls the first one, until it is told a result."""

    def _prepare_chat_with_tools(self, tools, user_msg=None, chat_history=None, **kwargs):
        messages = list(chat_history or [])
        if user_msg is not None:
            messages.append(user_msg if isinstance(user_msg, ChatMessage) else ChatMessage(content=user_msg))
        return {"messages": messages, "tools": [{"name": tool.metadata.name} for tool in tools]}

    def get_tool_calls_from_response(self, response, error_on_no_tool_call=True, **kwargs):
        return [
            ToolSelection(tool_id=block.tool_call_id, tool_name=block.tool_name, tool_kwargs=block.tool_kwargs)
            for block in response.message.blocks
            if isinstance(block, ToolCallBlock)
        ]


class _Events(BaseEventHandler):
    told: list[Any] = Field(default_factory=list)

    def handle(self, event, **kwargs):
        self.told.append((type(event).__name__, normal(event)))


class _Spans(BaseSpanHandler):
    told: list[Any] = Field(default_factory=list)

    def span_enter(self, id_, bound_args, instance=None, parent_id=None, tags=None, **kwargs):
        parent = parent_id and parent_id[:-37]
        self.told.append(("enter", id_[:-37], type(instance).__name__, parent, dict(tags or {})))

    def span_exit(self, id_, *args, result=None, **kwargs):
        self.told.append(("exit", id_[:-37], type(result).__name__))

    def span_drop(self, id_, *args, err=None, **kwargs):
        self.told.append(("drop", id_[:-37], repr(err)))

    def new_span(self, *args, **kwargs): ...

    def prepare_to_exit_span(self, *args, **kwargs): ...

    def prepare_to_drop_span(self, *args, **kwargs): ...


class Callbacks(BaseCallbackHandler):
    """What the older callback manager tells."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.told: list[Any] = []

    def on_event_start(self, event_type, payload=None, event_id="", parent_id="", **kwargs):
        self.told.append(("start", event_type.value, normal(payload)))
        return event_id

    def on_event_end(self, event_type, payload=None, event_id="", **kwargs):
        self.told.append(("end", event_type.value, normal(payload)))

    def start_trace(self, trace_id=None):
        self.told.append(("trace", trace_id))

    def end_trace(self, trace_id=None, trace_map=None):
        self.told.append(("traced", trace_id))


@contextmanager
def recorded(llm):
    """(events, spans, callbacks) that the app's handlers hear of inside."""
    root = get_dispatcher()
    events, spans, callbacks = _Events(), _Spans(), Callbacks()
    before = root.event_handlers, root.span_handlers
    root.event_handlers, root.span_handlers = [*before[0], events], [*before[1], spans]
    llm.callback_manager = CallbackManager([callbacks])
    try:
        yield events.told, spans.told, callbacks.told
    finally:
        root.event_handlers, root.span_handlers = before


_CHANGING = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|0x[0-9a-f]+|datetime\.datetime\([^)]*\)"
)


def normal(value: Any) -> str:
    """The value in words, without what changes with every run."""
    return _CHANGING.sub("#", repr(value))
