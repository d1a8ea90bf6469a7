"""Structured output of LlamaIndex: replaced where the app demands one form, validated before it is given."""

from __future__ import annotations

import asyncio
import json

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock  # noqa: E402
from llama_index.core.llms.function_calling import FunctionCallingLLM  # noqa: E402
from llama_index.core.prompts import PromptTemplate  # noqa: E402
from llama_index.core.tools import FunctionTool  # noqa: E402
from llamaindex_fakes import CallingTeacher, FakeEngine, Teacher  # noqa: E402
from pydantic import BaseModel  # noqa: E402

from jitr_core.types import Call, Form  # noqa: E402
from jitr_llamaindex import JITRLLM  # noqa: E402
from jitr_llamaindex._translate import answer_of  # noqa: E402

PROMPT = PromptTemplate("Tell a joke about {topic}.")
ANSWER = '{"setup": "Why?", "punchline": "Därum."}'


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


class Provider(CallingTeacher):
    """Asks for a tool as OpenAI's integration does, and calls it."""

    def _prepare_chat_with_tools(
        self, tools, user_msg=None, chat_history=None, tool_required=False, tool_choice=None, **kwargs
    ):
        asked = super()._prepare_chat_with_tools(tools, user_msg, chat_history)
        asked["tools"] = [tool.metadata.to_openai_tool() for tool in tools]
        return {**asked, "tool_choice": tool_choice or ("required" if tool_required else "auto")}

    def _whole(self, messages, kwargs):
        if not kwargs.get("tools"):
            return super()._whole(messages, kwargs)
        name = kwargs["tools"][0]["function"]["name"]
        response = super()._whole(messages, {"tools": [{"name": name}]})
        arguments = {"setup": "taught", "punchline": "taught"}
        block = ToolCallBlock(tool_call_id="c1", tool_name=name, tool_kwargs=arguments)
        told = {"id": "c1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        response.message = ChatMessage(role="assistant", blocks=[block], additional_kwargs={"tool_calls": [told]})
        return response


async def _last(stream):
    return [each async for each in await stream][-1]


WAYS = {
    "structured_predict": lambda llm: llm.structured_predict(Joke, PROMPT, topic="x"),
    "astructured_predict": lambda llm: asyncio.run(llm.astructured_predict(Joke, PROMPT, topic="x")),
    "stream": lambda llm: list(llm.stream_structured_predict(Joke, PROMPT, topic="x"))[-1],
    "astream": lambda llm: asyncio.run(_last(llm.astream_structured_predict(Joke, PROMPT, topic="x"))),
    "structured llm": lambda llm: llm.as_structured_llm(Joke).chat([ChatMessage("x")]).raw,
}


@pytest.mark.parametrize(
    ("way", "teacher"),
    [(way, teacher) for way in WAYS for teacher in (Teacher, Provider)],
)
def test_structured_calls_are_replaced(way, teacher):
    engine, dead = FakeEngine(ANSWER), teacher(fail=True)
    got = WAYS[way](JITRLLM(llm=dead, jitr=engine))
    assert got.model_dump() == json.loads(ANSWER) and not dead.asked and not engine.faults
    assert {call.replaceable for call in engine.decided} == {True}


@pytest.mark.parametrize("way", WAYS)
def test_what_the_teacher_calls_the_demanded_tool_with_is_its_answer(way):
    engine, teacher = FakeEngine(), Provider()
    got = WAYS[way](JITRLLM(llm=teacher, jitr=engine))
    assert type(got) is type(WAYS[way](Provider())) and got.setup == "taught"
    (answer,) = engine.answers
    assert json.loads(answer.text) == {"setup": "taught", "punchline": "taught"} and answer.input_tokens == 7


def test_streamed_or_not_a_structured_call_is_the_same_step():
    """LlamaIndex only offers the tool to a function-calling LLM where it streams; it can use nothing else there."""
    engine = FakeEngine()
    llm = JITRLLM(llm=Provider(), jitr=engine)
    for way in WAYS:
        WAYS[way](llm)
    assert len({call.contract for call in engine.decided}) == 1 and len(engine.answers) == len(WAYS)
    tools = [FunctionTool.from_defaults(lambda text: text, name="look_up")]
    list(llm.stream_chat_with_tools(tools, user_msg="x"))  # an agent's: which tool it calls is its own affair
    assert not engine.decided[-1].replaceable


@pytest.mark.parametrize("answer", ["Positive.", '{"setup": "only"}', "[1]"])
def test_an_answer_against_the_schema_is_not_given(answer):
    engine, teacher = FakeEngine(answer), Provider()
    assert WAYS["structured_predict"](JITRLLM(llm=teacher, jitr=engine)).setup == "taught"
    ((_, decision, _),) = engine.observed
    assert (decision.kind, decision.reason) == ("teacher", "fallback") and not engine.faults


def test_a_tool_of_the_teachers_choice_stays_with_the_teacher():
    engine, teacher = FakeEngine(ANSWER), Provider()
    llm = JITRLLM(llm=teacher, jitr=engine)
    assert isinstance(llm, FunctionCallingLLM)
    llm.chat_with_tools([FunctionTool.from_defaults(lambda text: text, name="look_up")], user_msg="x")
    assert not engine.decided[0].replaceable and len(teacher.asked) == 1 and not engine.observed


@pytest.mark.parametrize(
    ("blocks", "told", "said"),
    [
        ([ToolCallBlock(tool_name="Joke", tool_kwargs={"a": 1})], {}, '{"a": 1}'),
        ([ToolCallBlock(tool_name="Joke", tool_kwargs='{"a": 1}')], {}, '{"a": 1}'),
        ([ToolCallBlock(tool_name="Joke", tool_kwargs='{"a": ')], {}, None),
        ([ToolCallBlock(tool_name="Other", tool_kwargs={})], {}, 'no single call of Joke: [null, [["Other", {}]]]'),
        ([], {"tool_calls": [{"function": {"name": "Joke", "arguments": '{"a": 1}'}}]}, '{"a": 1}'),
        ([], {}, "no single call of Joke: [null, []]"),
    ],
)
def test_what_counts_as_a_call_of_the_demanded_tool(blocks, told, said):
    message = ChatMessage(role="assistant", blocks=blocks, additional_kwargs=told)
    answer = answer_of(ChatResponse(message=message, raw={}), Call("1", (), form=Form("tool", "Joke")), 0.1)
    assert (answer and answer.text) == said
