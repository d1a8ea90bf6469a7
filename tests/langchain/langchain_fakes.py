"""A fake engine, a teacher that shows what it was asked, and a record of everything callbacks are told."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

from jitr_core.types import Decision, Match


class FakeEngine:
    """Decides for the teacher, or for a replacement that always gives the same answer.

    Deferring, it has a release that is not sure; dead, it raises everywhere.
    """

    def __init__(
        self, replacement: str | None = None, *, audit: bool = False, deferring: bool = False, dead: bool = False
    ) -> None:
        self.replacement, self.audits, self.deferring, self.dead = replacement, audit, deferring, dead
        self.release = "r1"
        self.decided, self.observed, self.audited, self.faults = [], [], [], []

    def decide(self, call):
        if self.dead:
            raise RuntimeError("dead engine")
        self.decided.append(call)
        match = Match("task-1", "template-1", ())
        if self.deferring:
            return Decision("teacher", "deferral", match, self.release, None, 0.4, self.audits, 0.1)
        if self.replacement is None or not call.replaceable:
            return Decision("teacher", "no_release", match)
        return Decision("replacement", "answered", match, self.release, self.replacement, 0.97, self.audits, 0.1)

    def observe(self, call, decision, answer, ask=None):
        if self.dead:
            raise RuntimeError("dead engine")
        self.observed.append((call, decision, answer))

    def audit(self, call, decision, ask):
        self.audited.append((call, decision, ask))

    def fault(self, where, error):
        self.faults.append((where, error))
        if self.dead:
            raise RuntimeError("dead engine")

    def __reduce__(self):
        return process_engine, ()

    @property
    def answers(self):
        return [answer for _, _, answer in self.observed]


_PROCESS_ENGINE = FakeEngine()


def process_engine():
    return _PROCESS_ENGINE


class Teacher(BaseChatModel):
    """Says "re: " and the last text, or calls the first tool; keeps what reached it in `asked`."""

    model_name: str = "teacher-1"
    temperature: float | None = None
    max_tokens: int | None = None
    max_retries: int | None = None
    timeout: float | None = None
    stop: list[str] | None = None
    streaming: bool | None = None
    api_key: str | None = None
    fail: bool = False
    asked: list[dict[str, Any]] = Field(default_factory=list)

    def _reply(self, messages, stop, kwargs) -> AIMessage:
        self.asked.append({"messages": messages, "stop": stop, **kwargs})
        if self.fail:
            raise ConnectionError("the provider is down")
        usage = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
        if kwargs.get("tools"):
            name = kwargs["tools"][0]["function"]["name"]
            call = {"name": name, "args": {"text": "x"}, "id": "call-1", "type": "tool_call"}
            return AIMessage("", tool_calls=[call], usage_metadata=usage)
        return AIMessage("re: " + (messages[-1].text if messages else ""), usage_metadata=usage)

    def _result(self, messages, stop, kwargs) -> ChatResult:
        message = self._reply(messages, stop, kwargs)
        llm_output = {"model_name": kwargs.get("model", self.model_name)}
        return ChatResult(generations=[ChatGeneration(message=message)], llm_output=llm_output)

    def _chunks(self, messages, stop, kwargs) -> Iterator[ChatGenerationChunk]:
        message = self._reply(messages, stop, kwargs)
        for index, call in enumerate(message.tool_calls):
            piece = {**call, "args": json.dumps(call["args"]), "index": index, "type": "tool_call_chunk"}
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[piece]))
        for word in re.findall(r"\S+\s*", message.content):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
        end = AIMessageChunk(content="", usage_metadata=message.usage_metadata, chunk_position="last")
        yield ChatGenerationChunk(message=end, generation_info={"model_name": self.model_name})

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return self._result(messages, stop, kwargs)

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        return self._result(messages, stop, kwargs)

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        yield from self._chunks(messages, stop, kwargs)

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._chunks(messages, stop, kwargs):
            yield chunk

    def bind_tools(self, tools, *, tool_choice=None, **kwargs):
        return self.bind(tools=[convert_to_openai_tool(t) for t in tools], tool_choice=tool_choice, **kwargs)

    @property
    def _llm_type(self) -> str:
        return "teacher"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name, "temperature": self.temperature}


class Recorder(BaseCallbackHandler):
    """Everything a callback handler is told, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def _note(self, name: str):
        def note(*args, **kwargs):
            told = {
                key: kwargs.get(key) for key in ("tags", "metadata", "name", "invocation_params", "options", "chunk")
            }
            self.events.append((name, normal([args, told])))

        return note

    def __getattribute__(self, name: str):
        return self._note(name) if name.startswith("on_") else super().__getattribute__(name)


_CHANGING = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|0x[0-9a-f]+")


def normal(value: Any) -> Any:
    """The value as plain data without the ids that change with every run."""
    return json.loads(_CHANGING.sub("#", json.dumps(dumpd(value), sort_keys=True, default=str)))
