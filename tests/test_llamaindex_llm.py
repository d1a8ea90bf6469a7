"""The wrapped LLM is the bare one to everybody, whatever becomes of the engine; replaced, it answers everywhere."""

from __future__ import annotations

import asyncio
import inspect

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, MessageRole
from llamaindex_fakes import CallingTeacher, FakeEngine, Teacher, recorded
from llamaindex_ways import CALLING, PLAIN, STRUCTURED, WAYS, collect, messages, teacher_for, used

from jitr_core.types import Decision, Match
from jitr_llamaindex import JITRLLM


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("state", ["observing", "dead engine", "no engine", "deferring"])
def test_the_app_and_its_handlers_see_the_bare_llm(way, state):
    engine = FakeEngine(dead=state == "dead engine")
    llm = JITRLLM(llm=teacher_for(way), jitr=engine)
    if state == "no engine":
        llm.jitr = None
    if state == "deferring":
        match = Match("task-1", "template-1", ())
        engine.decide = lambda call: Decision("teacher", "deferral", match, "r1", None, 0.2, False, 0.1)
    assert used(llm, way) == used(teacher_for(way), way)
    assert state == "dead engine" or not engine.faults


@pytest.mark.parametrize("way", WAYS)
def test_every_call_is_decided_once_and_observed_once_if_it_is_one_text(way):
    engine, teacher = FakeEngine(), teacher_for(way)
    WAYS[way](JITRLLM(llm=teacher, jitr=engine))
    assert len(engine.decided) == len(teacher.asked) == 1 and not engine.faults
    if way in CALLING:
        assert not engine.decided[0].replaceable and engine.decided[0].contract and not engine.observed
        return
    ((call, decision, answer),) = engine.observed
    assert call is engine.decided[0] and call.replaceable and decision.kind == "teacher"
    assert answer.text == ('{"text": "one two"}' if way in STRUCTURED else "re: " + call.messages[-1][1])
    assert (answer.model, answer.input_tokens, answer.output_tokens) == ("teacher-1", 7, 3)
    assert 0 <= answer.latency_s < 5


@pytest.mark.parametrize("way", WAYS)
def test_the_teachers_error_passes_through_and_nothing_is_observed(way):
    engine = FakeEngine()
    got = used(JITRLLM(llm=teacher_for(way, fail=True), jitr=engine), way)
    assert got == used(teacher_for(way, fail=True), way)
    assert "the provider is down" in got[0] or way.startswith("stream")
    assert not engine.observed and not engine.faults


def kind(got):
    """Types of what an app gets; of a stream, of its last piece."""
    return (type(got), type(got[-1])) if isinstance(got, list) else type(got)


def names(told):
    """Kinds of events, spans and callbacks, without the pieces of a stream."""
    events, spans, callbacks = told
    return (
        [name for name, _ in events if "InProgress" not in name],
        [span[:2] for span in spans],
        [callback[:2] for callback in callbacks],
    )


@pytest.mark.parametrize("way", [*PLAIN, *STRUCTURED])
def test_a_replaced_call_is_answered_without_the_teacher_with_the_same_events_and_spans(way):
    engine, teacher = FakeEngine('{"text": "Positive."}' if way in STRUCTURED else "Positive."), teacher_for(way)
    llm = JITRLLM(llm=teacher, jitr=engine)
    got, told = used(llm, way)
    _, bare_told = used(teacher_for(way), way)
    assert "Positive." in got and "re:" not in got and not teacher.asked
    assert names(told) == names(bare_told)
    assert engine.answers == [None] and len(engine.decided) == 1 and not engine.faults
    assert kind(WAYS[way](llm)) == kind(WAYS[way](teacher_for(way)))


@pytest.mark.parametrize("way", CALLING)
def test_a_call_with_tools_is_never_replaced(way):
    engine = FakeEngine("Positive.")
    assert used(JITRLLM(llm=CallingTeacher(), jitr=engine), way) == used(CallingTeacher(), way)


def test_structured_output_by_tool_calls_stays_with_the_teacher():
    engine = FakeEngine("Positive.")  # the teacher does not pass on that the tool is demanded
    for way in STRUCTURED:
        if way.startswith(("stream", "astream")):
            continue  # there the wrapper knows it by itself
        assert used(JITRLLM(llm=CallingTeacher(), jitr=engine), way) == used(CallingTeacher(), way), way
    assert not engine.observed and not engine.faults and not any(call.replaceable for call in engine.decided)


def test_a_replaced_answer_says_who_gave_it_and_spends_no_tokens():
    llm = JITRLLM(llm=Teacher(), jitr=FakeEngine("Positive."))
    origin = {"task": "task-1", "release": "r1", "confidence": 0.97, "reason": "answered"}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    answers = [llm.chat(messages()), *llm.stream_chat(messages()), llm.complete("x"), *llm.stream_complete("x")]
    assert [type(answer) for answer in answers] == [ChatResponse] * 2 + [CompletionResponse] * 2
    assert [answer.delta for answer in answers] == [None, "Positive."] * 2
    for answer in answers:
        assert answer.additional_kwargs == {"jitr": origin, **usage}
        assert answer.raw == {"model": "jitr:r1", "usage": usage, "jitr": origin}
    assert answers[0].message == ChatMessage(role=MessageRole.ASSISTANT, content="Positive.")


@pytest.mark.parametrize("way", PLAIN)
def test_an_audited_answer_comes_from_the_replacement_and_the_teacher_is_asked_aside(way):
    engine, teacher = FakeEngine("Positive.", audit=True), Teacher()
    got, told = used(JITRLLM(llm=teacher, jitr=engine), way)
    assert "Positive." in got and not teacher.asked and not engine.observed
    callbacks = list(told[2])
    ((call, decision, ask),) = engine.audited
    answer = ask()
    assert answer.text == "re: " + call.messages[-1][1] and decision.audit
    assert (answer.model, answer.input_tokens, answer.output_tokens) == ("teacher-1", 7, 3)
    assert told[2] == callbacks and len(teacher.asked) == 1


def test_an_audit_asks_what_the_app_asked_then():
    engine, teacher, asked = FakeEngine("Positive.", audit=True), Teacher(), messages()
    JITRLLM(llm=teacher, jitr=engine).chat(asked)
    asked[-1].blocks[0].text = "something else"
    asked.append(ChatMessage(role="user", content="more"))
    assert engine.audited[0][2]().text == "re: one two"


# Faults


FAULTS = [
    ("jitr_llamaindex._calls.call_of", "decide"),
    ("jitr_llamaindex._calls.step_of", "decide"),
    ("jitr_llamaindex._calls.disabled", "decide"),
    ("jitr_llamaindex._calls.switched_off", "decide"),
    ("jitr_llamaindex._calls.replacement_of", "decide"),
    ("jitr_llamaindex._calls.ready", "decide"),
    ("jitr_llamaindex._calls._frozen", "decide"),
    ("jitr_llamaindex._calls.answer_of", "observe"),
    ("jitr_llamaindex._calls.answer_of_stream", "observe"),
    ("jitr_llamaindex._translate.contract_of", "decide"),
    ("jitr_llamaindex._translate.settings_of", "decide"),
    ("jitr_llamaindex.llm.kind_of", "decide"),
    ("jitr_llamaindex.llm.step_of", "decide"),
    ("jitr_llamaindex.llm.disabled", "decide"),
    ("jitr_llamaindex.llm.copy.copy", "decide"),
]


@pytest.mark.parametrize("way", ["chat", "acomplete", "stream_chat", "astream_complete", "predict", "astream"])
@pytest.mark.parametrize(("internal", "where"), FAULTS)
@pytest.mark.parametrize("replacing", [False, True])
def test_a_fault_of_any_part_reaches_the_engine_and_not_the_app(way, internal, where, replacing, monkeypatch):
    called = []

    def fails(*args, **kwargs):
        called.append(args)
        raise RuntimeError("a fault of ours")

    engine = FakeEngine("Positive." if replacing else None, audit=True)
    llm = JITRLLM(llm=Teacher(), jitr=engine)
    bare = used(Teacher(), way)
    with monkeypatch.context() as patch:
        patch.setattr(internal, fails)
        got = used(llm, way)
    if called:
        assert [found for found, _ in engine.faults] == [where] * len(called)
        assert got == bare or "Positive." in got[0]
    else:
        assert not engine.faults


def test_an_engine_that_decides_nonsense_leaves_the_call_to_the_teacher():
    engine = FakeEngine()
    engine.decide = lambda call: Decision("replacement", "answered")  # no answer
    assert JITRLLM(llm=Teacher(), jitr=engine).complete("x").text == "re: x"
    assert [where for where, _ in engine.faults] == ["decide"] and not engine.observed


# What is worth observing


@pytest.mark.parametrize("method", ["stream_chat", "stream_complete"])
def test_an_abandoned_stream_is_not_observed_and_ends_as_it_does_bare(method):
    def abandon(llm):
        with recorded(llm) as told:
            stream = getattr(llm, method)(messages() if "chat" in method else "one two three")
            assert next(stream).delta == "re: " and inspect.isgenerator(stream)
            stream.close()
        return told

    engine = FakeEngine()
    assert abandon(JITRLLM(llm=Teacher(), jitr=engine)) == abandon(Teacher())
    assert len(engine.decided) == 1 and not engine.observed and not engine.faults


@pytest.mark.parametrize("method", ["astream_chat", "astream_complete"])
async def test_an_abandoned_async_stream_is_not_observed_and_ends_as_it_does_bare(method):
    async def abandon(llm):
        with recorded(llm) as told:
            stream = await getattr(llm, method)(messages() if "chat" in method else "one two three")
            assert (await stream.__anext__()).delta == "re: " and inspect.isasyncgen(stream)
            await stream.aclose()
        return told

    engine = FakeEngine()
    assert await abandon(JITRLLM(llm=Teacher(), jitr=engine)) == await abandon(Teacher())
    assert len(engine.decided) == 1 and not engine.observed and not engine.faults


async def test_a_cancelled_call_is_not_observed():
    engine = FakeEngine()
    llm = JITRLLM(llm=Teacher(slow=True), jitr=engine)
    for work in (
        llm.achat(messages()),
        llm.acomplete("x"),
        collect(llm.astream_chat(messages())),
        collect(llm.astream_complete("x")),
    ):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(work, 0.02)
    assert len(engine.decided) == 4 and not engine.observed and not engine.faults


def test_a_stream_whose_pieces_are_not_its_last_text_is_not_observed():
    class Forgetful(Teacher):
        """Gives in each piece that piece alone."""

        def _told(self, response):
            for word in response.text.split():
                yield CompletionResponse(text=word, delta=word)

    engine = FakeEngine()
    assert len(list(JITRLLM(llm=Forgetful(), jitr=engine).stream_complete("one two"))) == 3
    assert len(engine.decided) == 1 and not engine.observed and not engine.faults


@pytest.mark.parametrize(
    "message",
    [
        ChatMessage(role="assistant", blocks=[]),
        ChatMessage(role="assistant", content="a", additional_kwargs={"tool_calls": [{"id": "1"}]}),
        ChatMessage(role="assistant", content="a", additional_kwargs={"function_call": {"name": "f"}}),
        ChatMessage(role="user", content="a"),
    ],
    ids=["nothing", "tool calls", "a legacy function call", "not the assistant's"],
)
def test_an_answer_that_is_not_one_text_of_the_assistant_is_not_observed(message):
    class Odd(Teacher):
        def _whole(self, messages, kwargs):
            return ChatResponse(message=message)

    engine = FakeEngine()
    JITRLLM(llm=Odd(), jitr=engine).chat(messages())
    assert len(engine.decided) == 1 and not engine.observed and not engine.faults
