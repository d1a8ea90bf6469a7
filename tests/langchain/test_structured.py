"""Structured output: replaced in all its methods, so that the app's parser sees no difference."""

from __future__ import annotations

import json
import os
from typing import TypedDict

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_fakes import FakeEngine, Teacher
from openai_server import running
from pydantic import BaseModel

from jitr_core.forms import fits, form_of
from jitr_core.types import Call, Form
from jitr_langchain import JITRChatModel
from jitr_langchain._translate import answer_of_chunks, answer_of_result

LIST = {"type": "array", "items": {"type": "integer"}}
ANSWER = '{"setup": "Why?", "punchline": "Därum."}'


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


class JokeDict(TypedDict):
    """A joke."""

    setup: str
    punchline: str


SCHEMA = {**Joke.model_json_schema(), "title": "Joke", "description": "A joke."}
GOOGLE = {"type": "OBJECT", "properties": {"type": {"type": "STRING", "nullable": True}}, "required": ["type"]}


@pytest.fixture(scope="module")
def openai():
    chat_openai = pytest.importorskip("langchain_openai").ChatOpenAI
    with running() as server, pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        patch.setitem(os.environ, "OPENAI_API_KEY", "secret-key")
        yield chat_openai(model="gpt-fake", base_url=server.url, max_retries=0), server


def _said(value):
    return value.model_dump() if isinstance(value, BaseModel) else value


@pytest.mark.parametrize(
    ("settings", "fitting", "other"),
    [
        ({"response_mime_type": "application/json"}, ["[1, 2]", '{"a": 1}', "3"], ["[1", "yes"]),
        ({"response_mime_type": "application/json", "response_schema": LIST}, ["[1, 2]"], ["[1.5]", '{"a": 1}']),
        ({"format": LIST}, ["[]"], ["{}"]),
        ({"response_schema": GOOGLE}, ['{"type": "A"}', '{"type": null}'], ['{"type": 1}', "[]"]),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": LIST}}}, ["[1]"], ["{}"]),
        ({"response_format": {"type": "json_object"}}, ["{}"], ["[1]", "3"]),
        ({"tools": [{"name": "f"}], "tool_choice": "f"}, ["{}"], ["[1]", "3"]),
    ],
)
def test_an_answer_fits_what_the_request_demands(settings, fitting, other):
    form = form_of(settings)
    assert form is not None and form.kind != "other"
    assert all(fits(form, answer) for answer in fitting) and not any(fits(form, answer) for answer in other)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("include_raw", [False, True], ids=["parsed", "raw"])
@pytest.mark.parametrize("schema", [Joke, JokeDict, SCHEMA], ids=["pydantic", "typed dict", "json schema"])
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_every_method_is_replaced_and_parsed_as_the_teachers_answer(method, schema, include_raw, openai):
    teacher, server = openai
    engine = FakeEngine(ANSWER)
    settings = {"method": method, "include_raw": include_raw}
    bare = teacher.with_structured_output(schema, **settings)
    chain = JITRChatModel(llm=teacher, jitr=engine).with_structured_output(schema, **settings)
    usual = bare.invoke("tell me in JSON")
    server.requests.clear()
    got = [chain.invoke("tell me in JSON"), await chain.ainvoke("tell me in JSON")]
    streamed = list(chain.stream("tell me in JSON"))
    assert not server.requests and not engine.faults and all(call.replaceable for call in engine.decided)
    for each in got:
        assert type(each) is type(usual)
        if include_raw:
            assert each.keys() == usual.keys() and each["parsing_error"] is None
            raw, like = each["raw"], usual["raw"]
            assert [call["name"] for call in raw.tool_calls] == [call["name"] for call in like.tool_calls]
            assert raw.usage_metadata["total_tokens"] == 0
            each = each["parsed"]
            assert type(each) is type(usual["parsed"])
        assert _said(each) == json.loads(ANSWER)
    last = [each["parsed"] for each in streamed if "parsed" in each] if include_raw else streamed
    assert _said(last[-1]) == json.loads(ANSWER)


def test_every_replaced_call_of_a_tool_has_an_id_of_its_own():
    llm = JITRChatModel(llm=Teacher(fail=True), jitr=FakeEngine('{"setup": "a", "punchline": "b"}'))
    bound = llm.bind_tools([Joke], tool_choice="any")
    calls = [bound.invoke("x").tool_calls[0] for _ in range(2)]
    assert calls[0]["args"] == calls[1]["args"] == {"setup": "a", "punchline": "b"}
    assert calls[0]["id"] != calls[1]["id"] and calls[0]["id"].startswith("call_")
    (event,) = [e for e in bound.stream("x") if e.tool_call_chunks]
    assert json.loads(event.tool_call_chunks[0]["args"]) == calls[0]["args"]


@pytest.mark.parametrize(
    "answer", ["Positive.", '{"setup": "only"}', '{"setup": 1, "punchline": "b"}', '["setup", "punchline"]', ""]
)
def test_an_answer_against_the_schema_is_not_given(answer, openai):
    teacher, server = openai
    for method in ("json_schema", "function_calling"):
        engine = FakeEngine(answer)
        chain = JITRChatModel(llm=teacher, jitr=engine).with_structured_output(Joke, method=method)
        server.requests.clear()
        assert isinstance(chain.invoke("tell 'me'"), Joke)
        assert len(server.requests) == 1 and not engine.faults
        ((_, decision, taught),) = engine.observed
        assert (decision.kind, decision.reason, decision.answer) == ("teacher", "fallback", None)
        assert json.loads(taught.text) == {"setup": "me", "punchline": "me"}


def test_which_tool_an_agent_calls_stays_with_the_teacher():
    tools = [{"name": n, "description": "d", "parameters": {"type": "object", "properties": {}}} for n in "ab"]
    engine = FakeEngine("{}")
    llm = JITRChatModel(llm=Teacher(), jitr=engine)
    for bound in (llm.bind_tools(tools), llm.bind_tools(tools, tool_choice="any"), llm.bind_tools(tools[:1])):
        bound.invoke("x")
    assert not any(call.replaceable for call in engine.decided) and not engine.observed


FORM = Form("tool", "Joke")
CALLED = {"name": "Joke", "args": {"a": "ä"}, "id": "1", "type": "tool_call"}


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (AIMessage("", tool_calls=[CALLED]), '{"a": "ä"}'),
        (AIMessage([{"type": "tool_use", "name": "Joke", "input": {}, "id": "1"}], tool_calls=[CALLED]), '{"a": "ä"}'),
        (AIMessage("Here:", tool_calls=[CALLED]), "no single call of Joke: "),
        (AIMessage("", tool_calls=[CALLED, CALLED]), "no single call of Joke: "),
        (AIMessage("", tool_calls=[{**CALLED, "name": "Other"}]), "no single call of Joke: "),
        (AIMessage("no"), "no single call of Joke: "),
    ],
)
def test_what_the_teacher_said_by_calling_the_demanded_tool(message, said):
    result = ChatResult(generations=[ChatGeneration(message=message)])
    answer = answer_of_result(result, Call("1", (), form=FORM), 1.0)
    # Whatever else it answers is a label that no student gives: left out, it would be missing where agreement counts.
    assert answer is not None and (
        answer.text == said or (answer.text.startswith(said) and not fits(FORM, answer.text))
    )


def test_the_pieces_of_a_streamed_call_are_put_together_at_once(monkeypatch):
    merged, original = [], AIMessageChunk.__add__
    monkeypatch.setattr(AIMessageChunk, "__add__", lambda self, other: merged.append(1) or original(self, other))
    parts = ['{"a": "', *["x"] * 500, '"}']
    chunks = [
        AIMessageChunk("", tool_call_chunks=[tool_call_chunk(args=part, name=None if i else "Joke", id=None, index=0)])
        for i, part in enumerate(parts)
    ]
    answer = answer_of_chunks(chunks, Call("1", (), form=FORM), 1.0)
    assert answer is not None and answer.text == "".join(parts) and len(merged) == 1


def test_a_stream_that_was_cut_off_within_the_arguments_is_no_answer():
    def piece(args, name=None):
        chunk = {"name": name, "args": args, "id": name and "1", "index": 0, "type": "tool_call_chunk"}
        return AIMessageChunk(content="", tool_call_chunks=[chunk])

    whole = [piece("", "Joke"), piece('{"a": '), piece('"b"}')]
    call = Call("1", (), form=FORM)
    assert answer_of_chunks(whole, call, 1.0).text == '{"a": "b"}'
    assert answer_of_chunks(whole[:2], call, 1.0) is None
