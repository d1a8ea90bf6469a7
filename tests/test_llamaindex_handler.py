"""The event handler observes what a wrapper would observe, and nothing twice."""

from __future__ import annotations

import asyncio
import gc

import pytest
from easy import easy_calls
from llama_index.core import PromptTemplate
from llama_index.core.llms import MockLLM
from llama_index.core.workflow import StartEvent, StopEvent, Workflow, step
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.dispatcher import instrument_tags
from llamaindex_fakes import CallingTeacher, FakeEngine, Teacher, normal
from llamaindex_ways import CALLING, PLAIN, STRUCTURED, WAYS, messages, teacher_for

from jitr_core import JITR, Policy
from jitr_llamaindex import JITRLLM, JITREventHandler, jitr_step


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def handler(engine):
    handler = JITREventHandler(engine).install()
    yield handler
    handler.remove()
    assert not handler._open and not handler._spans._open


def seen(engine):
    """What an engine was told, without what differs from call to call."""
    return [
        (c.messages, c.step, c.contract, c.model, c.replaceable, d.kind, a.text, a.model, a.input_tokens)
        for c, d, a in engine.observed
    ]


@pytest.mark.parametrize("calling", [False, True], ids=["plain", "function calling"])
@pytest.mark.parametrize("way", [*PLAIN, *STRUCTURED])
def test_it_observes_what_a_wrapper_observes(way, calling, handler, engine):
    def teacher():
        return CallingTeacher() if calling else teacher_for(way)

    got = normal(WAYS[way](teacher()))
    wrapping = FakeEngine()
    with jitr_step("named"):
        WAYS[way](teacher())
        assert normal(WAYS[way](JITRLLM(llm=teacher(), jitr=wrapping))) == got
    WAYS[way](JITRLLM(llm=teacher(), jitr=wrapping))
    if calling and "stream_structured" in way:  # no event tells that the tool offered is the only one of use
        assert not engine.observed and len(wrapping.observed) == 2
        return
    assert sorted(seen(engine)) == sorted(seen(wrapping))  # also: nothing of the wrapped calls
    assert handler.observed == len(engine.observed) == (0 if calling and way in STRUCTURED else 2)
    assert not engine.faults and not wrapping.faults


@pytest.mark.parametrize("way", CALLING)
def test_calls_of_tools_are_not_observed(way, handler, engine):
    WAYS[way](CallingTeacher())
    assert len(engine.decided) == 1 and not engine.decided[0].replaceable and not engine.observed


@pytest.mark.parametrize("way", WAYS)
def test_failed_calls_are_not_observed_and_a_dead_engine_disturbs_nobody(way, handler, engine):
    with pytest.raises(Exception, match=r"provider is down|local variable 'r'"):
        WAYS[way](teacher_for(way, fail=True))
    assert not engine.observed and not engine.faults
    engine.dead = True
    assert normal(WAYS[way](teacher_for(way))) == normal(WAYS[way](teacher_for(way)))
    assert {where for where, _ in engine.faults} == {"observe"}


INTERNALS = [
    "jitr_llamaindex.instrumentation.call_of",
    "jitr_llamaindex.instrumentation.answer_of_stream",
    "jitr_llamaindex.instrumentation.decided",
    "jitr_llamaindex.instrumentation.step_of",
    "jitr_llamaindex.instrumentation.kind_of",
    "jitr_llamaindex.instrumentation.switched_off",
    "jitr_llamaindex.instrumentation.disabled",
    "jitr_llamaindex.instrumentation._answers",
    "jitr_llamaindex.instrumentation._Spans.chain",
    "llamaindex_fakes.FakeEngine.decide",
    "llamaindex_fakes.FakeEngine.observe",
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("internal", INTERNALS)
def test_whatever_fails_in_the_handler_the_app_does_not_notice(internal, way, handler, engine, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("a fault of ours")

    bare = normal(WAYS[way](teacher_for(way)))
    del engine.observed[:], engine.faults[:]
    with monkeypatch.context() as patch:
        patch.setattr(internal, fails)
        assert normal(WAYS[way](teacher_for(way))) == bare
    assert all(where == "observe" and "a fault of ours" in str(error) for where, error in engine.faults)
    assert engine.faults or internal.endswith(("kind_of", "answer_of_stream", "observe")) or engine.observed
    handler._open.clear()


def test_streams_that_are_abandoned_and_calls_that_are_switched_off_are_not_observed(handler, engine, monkeypatch):
    stream = Teacher().stream_chat(messages())
    next(stream)
    stream.close()
    with instrument_tags({"jitr": "off"}):
        Teacher().complete("x")
    monkeypatch.setenv("JITR_DISABLED", "1")
    Teacher().complete("x")
    gc.collect()
    assert not engine.observed and not engine.decided and JITREventHandler()._engine is None


async def test_a_cancelled_call_is_not_observed(handler, engine):
    for work in (Teacher(slow=True).achat(messages()), Teacher(slow=True).acomplete("x")):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(work, 0.02)
    assert not engine.observed and not engine.faults


def test_a_chat_that_is_answered_by_a_completion_is_one_call(handler, engine):
    MockLLM(is_chat_model=True).chat(messages())
    asyncio.run(MockLLM().achat(messages()))
    list(MockLLM().stream_chat(messages()))
    assert [call.messages[0] for call, _, _ in engine.observed] == [("system", "You are terse.")] * 3


async def test_an_asynchronous_stream_that_is_answered_by_a_synchronous_one_is_one_call(handler, engine):
    async def stream(llm, asked):
        return [piece async for piece in await (llm.astream_complete if asked == "x" else llm.astream_chat)(asked)]

    for asked in ("x", messages()):
        await stream(MockLLM(), asked)
        with instrument_tags({"jitr": "off"}):
            off = await MockLLM().astream_complete("off")
        assert [piece async for piece in off]
    assert [call.messages[0] for call, _, _ in engine.observed] == [("user", "x"), ("system", "You are terse.")]
    wrapping, llm = FakeEngine(), MockLLM()
    for asked in ("x", messages()):
        await stream(JITRLLM(llm=llm, jitr=wrapping), asked)
    assert len(wrapping.observed) == len(engine.observed) == 2 and not handler._late
    list(llm.stream_complete("x"))
    abandoned = await llm.astream_complete("y")
    await anext(abandoned)
    await abandoned.aclose()
    list(llm.stream_complete("y"))
    gc.collect()
    await asyncio.sleep(0.01)  # the loop ends what was abandoned
    gc.collect()
    assert [call.messages[0][1] for call, _, _ in engine.observed[2:]] == ["x", "y"] and not engine.faults


def test_audits_of_a_wrapper_are_the_wrappers_affair(handler, engine):
    auditing = FakeEngine("Positive.", audit=True)
    assert JITRLLM(llm=Teacher(), jitr=auditing).complete("x").text == "Positive."
    assert auditing.audited[0][2]().text == "re: x"
    assert not engine.decided


def test_what_could_have_been_replaced_is_stored_beside_the_answer_and_counted(handler, engine):
    engine.replacement = "Positive."
    assert Teacher().complete("x").text == "re: x"
    ((_, decision, answer),) = engine.observed
    assert (decision.kind, decision.reason, decision.release, decision.answer) == (
        "teacher",
        "shadow",
        "r1",
        "Positive.",
    )
    assert (decision.audit, decision.audit_share, answer.text) == (False, 0.1, "re: x")
    assert (handler.observed, handler.could_replace) == (1, 1)


def test_installing_twice_installs_once_and_removing_leaves_the_others(engine):
    root = get_dispatcher()
    before = list(root.event_handlers), list(root.span_handlers)
    handler = JITREventHandler(engine).install().install()
    Teacher().complete("x")
    assert len(engine.observed) == 1
    handler.remove()
    Teacher().complete("x")
    assert len(engine.observed) == 1 and (root.event_handlers, root.span_handlers) == before


class Desk(Workflow):
    """Sorts a message."""

    llm: object = None

    @step
    async def sort(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=await self.llm.apredict(PromptTemplate("Sort this: {text}"), text=ev.text))


async def test_steps_of_a_workflow_are_named_by_their_span(handler, engine):
    wrapping = FakeEngine()
    for llm in (Teacher(), JITRLLM(llm=Teacher(), jitr=wrapping)):
        desk = Desk()
        desk.llm = llm
        await desk.run(text="my parcel")
        await llm.acomplete("after the workflow")
    assert [call.step for call, _, _ in engine.observed] == ["@Desk.sort", ""]
    assert seen(engine) == seen(wrapping)


def test_tasks_show_and_are_certified_without_anything_being_replaced(tmp_path):
    calls = easy_calls(300)
    teacher = Teacher(says={word: "billing" for word in ("invoice", "refund", "charge", "bill", "receipt")})
    jitr = JITR(f"sqlite:///{tmp_path}/jitr.db", policy=Policy(families=("lexical",)), training="inline", seed=1)
    handler = JITREventHandler(jitr).install()
    try:
        for call in calls:
            prompt = call["messages"][1]["content"]
            if teacher.complete(f"Sort it. {prompt}").text != "billing":
                teacher.says.setdefault("Message", "delivery")
        jitr.flush()
        (task,) = jitr.open_store().tasks()
        assert task.state == "active" and jitr.open_store().counts(task.id).answered == 0
        assert handler.observed == 300 and 0 < handler.could_replace < 100 and len(teacher.asked) == 300
        assert not jitr.faults
    finally:
        handler.remove()
        jitr.close()
