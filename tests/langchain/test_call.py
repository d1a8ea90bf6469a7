"""The call that the engine sees: its step, its contract, its texts."""

from __future__ import annotations

from typing import Any

import pytest
from entry_points import ENTRY_POINTS, INPUTS, PROMPT
from langchain_core.language_models.fake_chat_models import (
    ParrotFakeChatModel,
)
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from langchain_fakes import FakeEngine, Teacher, normal
from pydantic import BaseModel

from jitr_core.types import Decision
from jitr_langchain import JITRChatModel


class Verdict(BaseModel):
    """A verdict."""

    text: str


@pytest.mark.parametrize(
    ("config", "step"),
    [
        ({"metadata": {"jitr_step": "a"}, "tags": ["jitr:b"], "run_name": "c"}, "a"),
        ({"tags": ["x", "jitr:b"], "run_name": "c"}, "b"),
        ({"metadata": {"lc_agent_name": "agent", "langgraph_node": "node"}, "run_name": "c"}, "@agent/node/c"),
        ({"metadata": {"langgraph_checkpoint_ns": "outer:1f-2|1|in:9c", "langgraph_node": "in"}}, "@outer/in"),
        ({"run_name": "c", "tags": ["seq:step:2"]}, "@c"),
        ({"tags": ["seq:step:2", "map:key:k"]}, ""),
    ],
)
@pytest.mark.parametrize("entry_point", ["invoke", "ainvoke", "stream", "astream", "events v3", "events v3, async"])
def test_the_step_is_named_by_the_nearest_hint(config, step, entry_point, wrapped, engine):
    ENTRY_POINTS[entry_point](wrapped, config)
    assert engine.decided[0].step == step


def test_a_declared_step_wins_and_the_run_name_of_a_chain_is_not_one(teacher, engine):
    JITRChatModel(llm=teacher, jitr=engine, step="triage").invoke("x", {"metadata": {"jitr_step": "a"}})
    chain = PROMPT | JITRChatModel(llm=teacher, jitr=engine).with_config(run_name="judge")
    chain.invoke(INPUTS[0], {"run_name": "outer"})
    (PROMPT | JITRChatModel(llm=teacher, jitr=engine)).invoke(INPUTS[0], {"run_name": "outer"})
    list(RunnableLambda(lambda x: JITRChatModel(llm=teacher, jitr=engine).invoke(x)).stream("x", {"tags": ["jitr:t"]}))
    assert [call.step for call in engine.decided] == ["triage", "@judge", "", "t"]


def test_the_call_carries_roles_texts_and_the_teachers_name(wrapped, engine):
    wrapped.invoke(
        [SystemMessage("s"), HumanMessage("h"), AIMessage("a"), ("human", [{"type": "text", "text": "b"}, "c"])]
    )
    (call,) = engine.decided
    assert call.messages == (("system", "s"), ("user", "h"), ("assistant", "a"), ("user", "bc"))
    assert (call.model, call.replaceable, call.contract, len(call.id)) == ("teacher-1", True, "", 32)
    wrapped.invoke("x", model="teacher-2")
    list(wrapped.stream("x", model="teacher-2"))
    assert [call.model for call in engine.decided[1:]] == ["teacher-2", "teacher-2"]


@pytest.mark.parametrize(
    "settings",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "any", "response_format": Verdict},
        {"functions": [{"name": "f"}]},
        {"n": 2},
        {"logprobs": True},
    ],
    ids=str,
)
def test_what_no_student_can_honour_is_observed_but_not_replaceable(settings, teacher):
    engine = FakeEngine("Positive.")
    JITRChatModel(llm=teacher, jitr=engine).invoke("x", **settings)
    assert not engine.decided[0].replaceable and len(teacher.asked) == 1 and not engine.faults
    assert bool(engine.decided[0].contract) == (settings.keys().isdisjoint({"n", "logprobs"}))


def test_settings_on_the_teacher_count_like_those_of_the_request(engine):
    class Keyed(Teacher):
        n: Any = 1
        model_kwargs: dict = {}

    def call(**settings):
        JITRChatModel(llm=Keyed(**settings), jitr=engine).invoke("x")
        return engine.decided[-1]

    assert call().replaceable and call().contract == ""
    assert not call(n=3).replaceable
    assert call(n="a name").replaceable, "no number of answers"
    asking = call(model_kwargs={"response_format": {"type": "json_object"}})
    assert asking.replaceable and asking.form.kind == "json" and asking.contract
    assert not call(model_kwargs={"tools": [{"name": "a"}, {"name": "b"}]}).replaceable
    assert call(stop=["!"]).contract != "" and call(stop=["!"]).replaceable


def test_contracts_tell_schemas_apart_and_are_the_same_in_every_process(wrapped, engine):
    class Other(BaseModel):
        text: str
        score: float

    for settings in (
        {"response_format": Verdict},
        {"response_format": Other},
        {"stop": ["a"]},
        {"stop": ["b"]},
        {"stop": ["a"]},
    ):
        wrapped.invoke("x", **settings)
    first, second, third, fourth, fifth = (call.contract for call in engine.decided)
    assert len({first, second, third, fourth}) == 4 and third == fifth
    wrapped.invoke("x", tools=[{"type": "function", "function": {"name": "f"}}])
    assert engine.decided[-1].contract == "15156c297f4e277e"


@pytest.mark.parametrize(
    ("messages", "text", "replaceable"),
    [
        ([HumanMessage("x" * 1_000_000)], "x" * 1_000_000, True),
        ([HumanMessage("")], "", True),
        (
            [HumanMessage([{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "u"}}])],
            "see",
            False,
        ),
        ([HumanMessage([])], "", True),
        ([AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}]), HumanMessage("x")], "x", False),
        ([{"role": "tool", "content": "r", "tool_call_id": "1"}], "r", False),
    ],
    ids=["1 MB", "empty", "multimodal", "no blocks", "tool calls", "tool result"],
)
def test_odd_prompts_reach_the_teacher_unchanged(messages, text, replaceable, teacher):
    engine = FakeEngine()
    JITRChatModel(llm=teacher, jitr=engine).invoke(messages)
    bare = Teacher()
    bare.invoke(messages)
    assert normal(teacher.asked) == normal(bare.asked)
    assert engine.decided[0].messages[-1][1] == text and engine.decided[0].replaceable is replaceable
    assert not engine.faults


def test_no_messages_at_all_are_the_teachers_affair(engine):
    llm = JITRChatModel(llm=ParrotFakeChatModel(), jitr=engine)
    with pytest.raises(ValueError, match="messages list cannot be empty"):
        llm.invoke([])
    assert engine.decided[0].messages == () and not engine.observed


def test_a_fault_of_the_wrapper_is_reported_and_the_teacher_serves(wrapped, engine):
    assert wrapped.invoke("x", response_format={"a": 1, 2: 3}).content == "re: x"  # keys that cannot be sorted
    engine.decide = lambda call: Decision("replacement", "answered")  # no answer
    assert wrapped.invoke("x").content == "re: x"
    assert [where for where, _ in engine.faults] == ["decide", "decide"] and not engine.observed
