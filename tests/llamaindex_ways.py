"""Every way in which an app uses an LLM of LlamaIndex."""

from __future__ import annotations

import asyncio

from llama_index.core import ChatPromptTemplate, PromptTemplate
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.llm import LLM
from llama_index.core.tools import FunctionTool
from llamaindex_fakes import CallingTeacher, Teacher, normal, recorded
from pydantic import BaseModel


class Verdict(BaseModel):
    """A verdict."""

    text: str


def messages() -> list[ChatMessage]:
    return [ChatMessage(role="system", content="You are terse."), ChatMessage(role="user", content="one two")]


async def collect(stream):
    return [item async for item in await stream]


def look_up(text: str) -> str:
    """Looks something up."""
    return f"found {text}"


def prompt() -> PromptTemplate:
    """A new one each time: structured predictions write into it."""
    return PromptTemplate("Sort this: {text}")


TOOLS = [FunctionTool.from_defaults(look_up)]


def _run(coroutine):
    return asyncio.run(coroutine)


# name → what an app does with an LLM, and gets: each is one call
PLAIN = {
    "chat": lambda llm: llm.chat(messages(), temperature=0),
    "achat": lambda llm: _run(llm.achat(messages())),
    "chat, named": lambda llm: llm.chat(messages=messages()),
    "stream_chat": lambda llm: list(llm.stream_chat(messages())),
    "astream_chat": lambda llm: _run(collect(llm.astream_chat(messages()))),
    "complete": lambda llm: llm.complete("one two"),
    "complete, named": lambda llm: llm.complete(prompt="one two", formatted=True),
    "acomplete": lambda llm: _run(llm.acomplete("one two", True)),
    "stream_complete": lambda llm: list(llm.stream_complete("one two")),
    "astream_complete": lambda llm: _run(collect(llm.astream_complete("one two"))),
    "predict": lambda llm: llm.predict(prompt(), text="one two"),
    "apredict": lambda llm: _run(llm.apredict(prompt(), text="one two")),
    "predict, chat prompt": lambda llm: llm.predict(ChatPromptTemplate(message_templates=messages())),
    "stream": lambda llm: list(llm.stream(prompt(), text="one two")),
    "astream": lambda llm: _run(collect(llm.astream(prompt(), text="one two"))),
}

# the answer is to be JSON, in the text or in a tool call
STRUCTURED = {
    "structured_predict": lambda llm: llm.structured_predict(Verdict, prompt(), text="one two"),
    "astructured_predict": lambda llm: _run(llm.astructured_predict(Verdict, prompt(), text="one two")),
    "stream_structured_predict": lambda llm: list(llm.stream_structured_predict(Verdict, prompt(), text="one two")),
    "astream_structured_predict": lambda llm: _run(
        collect(llm.astream_structured_predict(Verdict, prompt(), text="one two"))
    ),
    "as_structured_llm": lambda llm: llm.as_structured_llm(Verdict).chat(messages()),
    "as_structured_llm, async": lambda llm: _run(llm.as_structured_llm(Verdict).acomplete("one two")),
}

# the LLM calls a tool
CALLING = {
    "chat_with_tools": lambda llm: llm.chat_with_tools(TOOLS, "one two"),
    "achat_with_tools": lambda llm: _run(llm.achat_with_tools(TOOLS, chat_history=messages())),
    "stream_chat_with_tools": lambda llm: list(llm.stream_chat_with_tools(TOOLS, "one two")),
    "astream_chat_with_tools": lambda llm: _run(collect(llm.astream_chat_with_tools(TOOLS, "one two"))),
    "predict_and_call": lambda llm: str(llm.predict_and_call(TOOLS, "one two")),
    "apredict_and_call": lambda llm: str(_run(llm.apredict_and_call(TOOLS, "one two"))),
}

WAYS = {**PLAIN, **STRUCTURED, **CALLING}


def teacher_for(way: str, **settings) -> LLM:
    """Structured output asks for a class: as text from a plain LLM, as a tool call from a function-calling one."""
    if way in CALLING:
        return CallingTeacher(**settings)
    says = {"one two": '{"text": "one two"}'} if way in STRUCTURED else {}
    return Teacher(says=says, **settings)


def used(llm, way):
    """What an app gets from an LLM, or the error it gets, and what its handlers are told."""
    with recorded(llm) as told:
        try:
            got = normal(WAYS[way](llm))
        except Exception as error:
            got = repr(error)
    return got, told
