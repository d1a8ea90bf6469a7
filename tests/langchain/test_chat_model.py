"""The wrapped model is the bare one to everybody, whatever becomes of the engine; replaced, it answers everywhere."""

from __future__ import annotations

import asyncio
import sys
import types

import pytest
from entry_points import ENTRY_POINTS, collect
from langchain_core.caches import InMemoryCache
from langchain_core.language_models.fake_chat_models import (
    FakeListChatModel,
    FakeMessagesListChatModel,
    GenericFakeChatModel,
    ParrotFakeChatModel,
)
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_fakes import FakeEngine, Recorder, Teacher, normal

from jitr_langchain import Engine, JITRChatModel


def _observed(llm, entry_point):
    """What an app gets from a model, or the error it gets, and what its callbacks are told."""
    recorder = Recorder()
    try:
        got = ENTRY_POINTS[entry_point](llm, {"callbacks": [recorder], "tags": ["a"], "metadata": {"b": 1}})
    except Exception as error:
        return repr(error), recorder.events
    return normal(got), recorder.events


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
@pytest.mark.parametrize("engine", [FakeEngine(), FakeEngine(dead=True)], ids=["observing", "dead engine"])
def test_the_app_and_its_callbacks_see_the_bare_model(entry_point, engine):
    got, events = _observed(JITRChatModel(llm=Teacher(), jitr=engine), entry_point)
    expected, expected_events = _observed(Teacher(), entry_point)
    assert got == expected
    assert events == expected_events
    assert not engine.faults or engine.dead


# how far the rest of a batch gets when its first call fails is a matter of threads
@pytest.mark.parametrize("entry_point", [name for name in ENTRY_POINTS if "batch" not in name])
def test_the_teachers_error_passes_through_and_nothing_is_observed(entry_point, engine):
    got, events = _observed(JITRChatModel(llm=Teacher(fail=True), jitr=engine), entry_point)
    assert (got, events) == _observed(Teacher(fail=True), entry_point)
    assert "the provider is down" in str(got)
    assert not engine.observed and not engine.faults


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_every_call_is_decided_and_observed_once(entry_point, teacher, engine):
    ENTRY_POINTS[entry_point](JITRChatModel(llm=teacher, jitr=engine), {})
    calls = 2 if "batch" in entry_point or entry_point == "generate" else 1
    assert len(engine.decided) == len(engine.observed) == len(teacher.asked) == calls
    for call, decision, answer in engine.observed:
        assert call in engine.decided and decision.kind == "teacher"
        assert answer.text == "re: " + call.messages[-1][1]
        assert (answer.model, answer.input_tokens, answer.output_tokens) == ("teacher-1", 7, 3)
        assert 0 <= answer.latency_s < 5


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_a_replaced_call_is_answered_without_the_teacher(entry_point, teacher):
    engine = FakeEngine("Positive.")
    recorder = Recorder()
    got = ENTRY_POINTS[entry_point](JITRChatModel(llm=teacher, jitr=engine), {"callbacks": [recorder]})
    bare, _ = _observed(Teacher(), entry_point)
    assert type(normal(got)) is type(bare)
    assert "Positive." in str(normal(got)) and "re:" not in str(normal(got))
    assert not teacher.asked and not engine.faults
    assert len(engine.observed) == len(engine.decided) and set(engine.answers) == {None}
    names = [name for name, _ in recorder.events if name in ("on_chat_model_start", "on_llm_end", "on_llm_error")]
    assert names == ["on_chat_model_start"] * len(engine.decided) + ["on_llm_end"] * len(engine.decided) or (
        names == ["on_chat_model_start", "on_llm_end"] * len(engine.decided)
    )


def test_a_replaced_answer_says_who_gave_it_and_spends_no_tokens(teacher):
    llm = JITRChatModel(llm=teacher, jitr=FakeEngine("Positive."))
    message = llm.invoke("fine film")
    assert type(message) is AIMessage and message.content == "Positive."
    assert message.usage_metadata == {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    assert message.response_metadata == {
        "model_provider": "teacher",
        "model_name": "jitr:r1",
        "finish_reason": "stop",
        "jitr": {"task": "task-1", "release": "r1", "confidence": 0.97, "reason": "answered"},
    }
    assert message.id.startswith("lc_run-")
    (chunk,) = llm.stream("fine film")
    assert type(chunk) is AIMessageChunk and chunk.content == "Positive." and chunk.chunk_position == "last"
    assert chunk.response_metadata == message.response_metadata and chunk.usage_metadata == message.usage_metadata


@pytest.mark.parametrize("entry_point", ["invoke", "ainvoke", "stream", "astream", "events v3"])
def test_an_audited_answer_comes_from_the_replacement_and_the_teacher_is_asked_aside(entry_point, teacher):
    engine = FakeEngine("Positive.", audit=True)
    recorder = Recorder()
    config = {"callbacks": [recorder]}
    got = ENTRY_POINTS[entry_point](JITRChatModel(llm=teacher, jitr=engine).bind(stop=["!"]).bound, config)
    assert "Positive." in str(got) and not teacher.asked and not engine.observed
    before = list(recorder.events)
    ((call, decision, ask),) = engine.audited
    answer = ask()
    assert answer.text == "re: " + call.messages[-1][1] and decision.audit
    assert (answer.model, answer.input_tokens, answer.output_tokens) == ("teacher-1", 7, 3)
    assert recorder.events == before


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_the_environment_switches_it_off(entry_point, teacher, monkeypatch):
    engine = FakeEngine("Positive.")
    llm = JITRChatModel(llm=teacher, jitr=engine)
    monkeypatch.setenv("JITR_DISABLED", "1")
    assert _observed(llm, entry_point) == _observed(Teacher(), entry_point)
    assert not engine.decided and not engine.observed
    monkeypatch.setenv("JITR_DISABLED", "0")
    assert llm.invoke("x").content == "Positive."


@pytest.mark.parametrize("entry_point", [name for name in ENTRY_POINTS if "generate" not in name])
def test_a_requests_metadata_switches_it_off(entry_point, teacher):
    engine = FakeEngine("Positive.")
    got = ENTRY_POINTS[entry_point](JITRChatModel(llm=teacher, jitr=engine), {"metadata": {"jitr": "off"}})
    assert "re:" in str(normal(got))
    assert not engine.decided and not engine.observed


def test_no_engine_is_opened_where_jitr_is_disabled(teacher, monkeypatch):
    monkeypatch.setenv("JITR_DISABLED", "1")
    monkeypatch.setitem(sys.modules, "jitr_core.engine", None)
    llm = JITRChatModel(llm=teacher)
    assert llm.jitr is None and llm.invoke("x").content == "re: x"


def test_without_an_engine_the_one_of_the_process_is_used(teacher, engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "jitr_core.engine", types.SimpleNamespace(default=lambda: engine))
    llm = JITRChatModel(llm=teacher)
    llm.invoke("x")
    assert llm.jitr is engine and isinstance(engine, Engine) and len(engine.observed) == 1


# What is worth observing


def test_an_abandoned_stream_is_not_observed(wrapped, engine):
    stream = wrapped.stream("one two three")
    next(stream)
    stream.close()
    assert len(engine.decided) == 1 and not engine.observed and not engine.faults


async def test_a_cancelled_call_is_not_observed(engine):
    class Slow(Teacher):
        async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
            await asyncio.sleep(30)

        async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
            for chunk in self._chunks(messages, stop, kwargs):
                yield chunk
                await asyncio.sleep(30)

    llm = JITRChatModel(llm=Slow(), jitr=engine)
    for work in (llm.ainvoke("x"), collect(llm.astream("x"))):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(work, 0.05)
    assert len(engine.decided) == 2 and not engine.observed and not engine.faults


def test_an_answer_that_calls_tools_is_not_observed(wrapped, engine, teacher):
    tools = [{"name": "look_up", "description": "d", "parameters": {"type": "object", "properties": {}}}]
    bound = wrapped.bind_tools(tools)
    assert bound.invoke("x").tool_calls[0]["name"] == "look_up"
    assert [chunk for chunk in bound.stream("x") if chunk.tool_call_chunks]
    assert len(engine.decided) == len(teacher.asked) == 2 and not engine.observed and not engine.faults
    assert {call.replaceable for call in engine.decided} == {False}


@pytest.mark.parametrize(
    "answer",
    [
        ChatResult(generations=[ChatGeneration(message=AIMessage(text)) for text in "ab"]),
        ChatResult(generations=[ChatGeneration(message=AIMessage([{"type": "text", "text": "a"}]))]),
        ChatResult(generations=[ChatGeneration(message=HumanMessage("a"))]),
        ChatResult(
            generations=[
                ChatGeneration(
                    message=AIMessage("", additional_kwargs={"function_call": {"name": "f", "arguments": ""}})
                )
            ]
        ),
    ],
    ids=["two generations", "content blocks", "not an AI message", "a legacy function call"],
)
def test_an_answer_that_is_more_than_one_text_is_not_observed(answer, engine):
    class Odd(Teacher):
        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            return answer

    JITRChatModel(llm=Odd(), jitr=engine).invoke("x")
    assert len(engine.decided) == 1 and not engine.observed and not engine.faults


def test_a_native_event_stream_is_observed_and_replaced(engine):
    class Native(Teacher):
        def _stream_chat_model_events(self, messages, *, stop=None, run_manager=None, **kwargs):
            from langchain_core.language_models._compat_bridge import message_to_events

            yield from message_to_events(self._reply(messages, stop, kwargs))

        async def _astream_chat_model_events(self, messages, *, stop=None, run_manager=None, **kwargs):
            for event in self._stream_chat_model_events(messages, stop=stop, **kwargs):
                yield event

    for entry_point in ("events v3", "events v3, async"):
        expected = _observed(Native(), entry_point)
        assert _observed(JITRChatModel(llm=Native(), jitr=engine), entry_point) == expected
        replacing = FakeEngine("Positive.")
        got = ENTRY_POINTS[entry_point](JITRChatModel(llm=Native(), jitr=replacing), {})
        assert got[-1].text == "Positive." and replacing.answers == [None]
    assert [(a.text, a.input_tokens) for a in engine.answers] == [("re: one two", 7)] * 2 and not engine.faults


# Caches, rate limiters, fakes


async def test_a_replaced_answer_never_passes_for_a_cached_one():
    engine = FakeEngine("Positive.")
    llm = JITRChatModel(llm=Teacher(cache=InMemoryCache()), jitr=engine)
    assert llm.invoke("x").content == "Positive."
    engine.release = "r2"
    engine.replacement = "Negative."
    assert (await llm.ainvoke("x")).content == "Negative."
    engine.replacement = None
    assert llm.invoke("x").content == "re: x"
    assert (await llm.ainvoke("x")).content == "re: x"  # from the cache
    assert len(llm.asked) == 1 and [a and a.text for a in engine.answers] == [None, None, "re: x"]


def test_cached_answers_of_the_bare_model_stay_valid(engine):
    bare = Teacher(cache=InMemoryCache())
    bare.invoke("x")
    assert JITRChatModel(llm=bare, jitr=engine).invoke("x").content == "re: x"
    assert len(bare.asked) == 1 and not engine.observed


@pytest.mark.parametrize("entry_point", ["invoke", "ainvoke", "stream", "astream", "events v3", "events v3, async"])
def test_the_rate_limiter_counts_only_the_teachers_calls(entry_point, engine):
    class Limiter(InMemoryRateLimiter):
        acquired = 0

        def acquire(self, *, blocking=True):
            self.acquired += 1
            return True

        async def aacquire(self, *, blocking=True):
            return self.acquire()

    limiter = Limiter()
    llm = JITRChatModel(llm=Teacher(rate_limiter=limiter), jitr=engine)
    ENTRY_POINTS[entry_point](llm, {})
    assert limiter.acquired == 1
    engine.replacement = "Positive."
    ENTRY_POINTS[entry_point](llm, {})
    assert limiter.acquired == 1
    engine.audits = True
    ENTRY_POINTS[entry_point](llm, {})
    engine.audited[0][2]()
    assert limiter.acquired == 2


@pytest.mark.parametrize(
    "fake",
    [
        lambda: FakeListChatModel(responses=["first", "second", "third"]),
        lambda: FakeMessagesListChatModel(responses=[AIMessage("first"), AIMessage("second"), AIMessage("third")]),
        lambda: GenericFakeChatModel(messages=iter(["first one", "second", "third"])),
        lambda: ParrotFakeChatModel(),
    ],
    ids=["list", "messages list", "generic", "parrot"],
)
def test_langchains_own_fakes_behave_as_they_do_bare(fake, engine):
    def use(llm):
        return normal([llm.invoke("a"), list(llm.stream("b")), llm.batch(["c"]), llm.get_name(), llm._llm_type])

    assert use(JITRChatModel(llm=fake(), jitr=engine)) == use(fake())
    ordered = JITRChatModel(llm=FakeListChatModel(responses=[str(i) for i in range(30)]), jitr=engine)
    assert [message.content for message in ordered.batch(["x"] * 30)] == [str(i) for i in range(30)]


def test_a_model_of_the_old_signature_is_called_as_it_wants(engine):
    class Old(Teacher):
        def _generate(self, messages, stop=None):
            return self._result(messages, stop, {})

        async def _agenerate(self, messages, stop=None):
            return self._result(messages, stop, {})

    llm = JITRChatModel(llm=Old(), jitr=engine)
    assert llm.invoke("x").content == asyncio.run(llm.ainvoke("x")).content == "re: x"
    assert len(engine.observed) == 2


@pytest.mark.parametrize("replacement", [None, "Positive."])
def test_a_graph_streams_as_it_does_bare_and_names_its_nodes(replacement):
    graphs = pytest.importorskip("langgraph.graph")

    class Brief(Teacher):
        """Says in one chunk what the replacement says."""

        def _chunks(self, messages, stop, kwargs):
            yield ChatGenerationChunk(message=AIMessageChunk(content="Positive.", chunk_position="last"))

    def graph(llm):
        def answer(state):
            return {"messages": [llm.invoke(state["messages"])]}

        inner = graphs.StateGraph(graphs.MessagesState).add_node("judge", answer)
        outer = graphs.StateGraph(graphs.MessagesState).add_node("triage", answer)
        outer.add_node("sub", inner.add_edge(graphs.START, "judge").compile())
        return outer.add_edge(graphs.START, "triage").add_edge("triage", "sub").compile()

    def streamed(llm):
        stream = graph(llm).stream({"messages": [("user", "one two")]}, stream_mode="messages")
        return [(chunk.content, metadata["langgraph_node"]) for chunk, metadata in stream]

    engine = FakeEngine(replacement)
    got = streamed(JITRChatModel(llm=Teacher(), jitr=engine))
    assert got == streamed(Brief() if replacement else Teacher())
    assert [call.step for call in engine.decided] == ["@triage", "@sub/judge"]
    assert len(engine.observed) == 2 and not engine.faults
