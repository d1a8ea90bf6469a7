"""Identity, settings, copies and what the teacher builds: the wrapper passes for the teacher."""

from __future__ import annotations

import copy
import pickle

import pytest
from langchain_core.load import dumpd
from langchain_core.runnables import ConfigurableField
from langchain_fakes import FakeEngine, Teacher, normal, process_engine
from pydantic import BaseModel

from jitr_core.errors import ConfigError
from jitr_langchain import JITRChatModel


def test_settings_and_identity_are_the_teachers(engine):
    teacher = Teacher(tags=["t"], metadata={"m": 1}, name="my-model", disable_streaming=True)
    llm = JITRChatModel(llm=teacher, jitr=engine)
    assert (llm.tags, llm.metadata, llm.name, llm.disable_streaming) == (["t"], teacher.metadata, "my-model", True)
    assert (llm.model_name, llm._identifying_params) == ("teacher-1", teacher._identifying_params)
    assert len(list(llm.stream("one two three"))) == 1
    assert dumpd(llm) == dumpd(teacher) and llm.rate_limiter is None
    llm.temperature = 0.5
    llm.tags = ["u"]
    assert teacher.temperature == 0.5 and llm.tags == teacher.tags == ["u"]
    with pytest.raises(AttributeError, match="nonsense"):
        _ = llm.nonsense


def test_settings_given_to_the_wrapper_change_a_copy_of_the_teacher(teacher, engine):
    llm = JITRChatModel(llm=teacher, jitr=engine, temperature=0.3, metadata={"m": 1})
    assert (llm.temperature, llm.llm.temperature, teacher.temperature) == (0.3, 0.3, None)
    assert llm.metadata == {**teacher.metadata, "m": 1}
    warm = llm.model_copy(update={"temperature": 1.0, "step": "s"})
    assert (warm.temperature, warm.step, llm.temperature, llm.step) == (1.0, "s", 0.3, None)


def test_what_cannot_be_wrapped_is_refused_with_a_hint(teacher, engine):
    with pytest.raises(ConfigError, match="Wrap the model first"):
        JITRChatModel(llm=teacher.bind(stop=["x"]), jitr=engine)
    with pytest.raises(ConfigError, match="Teacher has no setting stepp"):
        JITRChatModel(llm=teacher, jitr=engine, stepp="triage")
    with pytest.raises(ValueError, match="Engine"):
        JITRChatModel(llm=teacher, jitr="sqlite:///state.db")


def test_copies_share_the_engine_and_pickles_find_the_one_of_their_process(wrapped, engine):
    for copied in (copy.deepcopy(wrapped), copy.copy(wrapped), wrapped.model_copy(deep=True)):
        assert copied.jitr is engine and copied.invoke("x").content == "re: x"
    assert copy.deepcopy(wrapped).llm is not wrapped.llm
    loaded = pickle.loads(pickle.dumps(wrapped))
    assert loaded.jitr is process_engine() and loaded.invoke("x").content == "re: x"


class Verdict(BaseModel):
    """A verdict."""

    text: str


@pytest.mark.parametrize("include_raw", [False, True])
async def test_structured_output_passes_through_untouched(include_raw, teacher):
    engine = FakeEngine("Positive.")
    bare = Teacher().with_structured_output(Verdict, include_raw=include_raw)
    chain = JITRChatModel(llm=teacher, jitr=engine).with_structured_output(Verdict, include_raw=include_raw)
    assert repr(normal(chain.invoke("x"))) == repr(normal(bare.invoke("x")))
    assert normal(await chain.ainvoke("x")) == normal(bare.invoke("x"))
    assert len(engine.decided) == 2 and engine.decided[0].form.tool == "Verdict"
    # "Positive." is no call of the tool: the teacher made it, and was observed.
    assert [answer.text for answer in engine.answers] == ['{"text": "x"}'] * 2 and not engine.faults
    assert engine.decided[0].contract == engine.decided[1].contract != ""


def test_bound_tools_survive_fallbacks_and_copies_of_the_teacher(engine):
    class Copying(Teacher):
        def bind_tools(self, tools, *, tool_choice=None, **kwargs):
            return self.model_copy(update={"temperature": 0.0}).bind(tools=tools)

    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    llm = JITRChatModel(llm=Copying(), jitr=engine)
    bound = llm.with_fallbacks([llm]).bind_tools([tool])
    assert bound.invoke("x").tool_calls and len(engine.decided) == 1
    assert llm.bind_tools([tool]).bound.temperature == 0.0


def test_fields_stay_configurable(wrapped, engine, teacher):
    hot = wrapped.configurable_fields(temperature=ConfigurableField(id="heat"))
    assert hot.invoke("x").content == hot.with_config(configurable={"heat": 0.9}).invoke("x").content == "re: x"
    named = wrapped.configurable_fields(step=ConfigurableField(id="step"))
    named.with_config(configurable={"step": "triage"}).invoke("x")
    assert [call.step for call in engine.decided] == ["", "", "triage"] and len(engine.observed) == 3


def test_settings_of_the_teacher_that_keep_its_calls_from_being_replaced_are_told_once(engine, caplog, monkeypatch):
    monkeypatch.setattr("jitr_core.integration._told", set())

    class Several(Teacher):
        n: int = 1
        model_kwargs: dict = {}

    for settings in ({"n": 2}, {"n": 2}, {"model_kwargs": {"logprobs": True}}, {}):
        JITRChatModel(llm=Several(**settings), jitr=engine)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "Several asks for n=2",
        "Several asks for logprobs=True",
    ]
