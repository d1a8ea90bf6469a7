"""Identity, settings, copies and what the teacher builds: the wrapper passes for the teacher."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
from entry_points import ENTRY_POINTS
from langchain_core.load import dumpd
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_fakes import FakeEngine, Recorder, Teacher, normal, process_engine
from pydantic import BaseModel, Field

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
        n: Any = 1
        model_kwargs: dict = {}

    for settings in ({"n": 2}, {"n": 2}, {"n": "a name"}, {"model_kwargs": {"logprobs": True}}, {}):
        JITRChatModel(llm=Several(**settings), jitr=engine)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "Several asks for n=2",
        "Several asks for logprobs=True",
    ]


class Opinionated(Teacher):
    """Has ways of its own to be asked, as some providers' models do, and offers less than LangChain's base class."""

    heard: list = Field(default_factory=list, repr=False)
    rate_limiter: Any = Field(default=None, exclude=True, repr=False)

    def invoke(self, input, config=None, **kwargs):
        self.heard.append(("invoke", (config or {}).get("tags")))
        return super().invoke(input, config, **kwargs)

    def _reply(self, messages, stop, kwargs):
        reply = super()._reply(messages, stop, kwargs)
        self.heard.append(sorted(kwargs))
        return reply

    async def ainvoke(self, input, config=None, **kwargs):
        self.heard.append(("ainvoke", (config or {}).get("tags")))
        return await super().ainvoke(input, config, **kwargs)

    def stream(self, input, config=None, **kwargs):
        self.heard.append(("stream", sorted(kwargs)))
        yield from super().stream(input, config, **kwargs)

    async def astream(self, input, config=None, **kwargs):
        self.heard.append(("astream", sorted(kwargs)))
        async for chunk in super().astream(input, config, **kwargs):
            yield chunk

    def generate(self, messages, *args, **kwargs):
        self.heard.append(("generate", len(messages), sorted(kwargs)))
        return super().generate(messages, *args, **kwargs)

    def with_structured_output(self, schema):
        return RunnableLambda(lambda text: schema)


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
@pytest.mark.parametrize("replacement", [None, "Positive."])
def test_what_a_model_overrides_stays_in_force_and_its_calls_are_decided_once(entry_point, replacement):
    bare, teacher, engine = Opinionated(), Opinionated(), FakeEngine(replacement)
    limiter = teacher.rate_limiter = InMemoryRateLimiter(requests_per_second=0.001, max_bucket_size=5)
    limiter.available_tokens = 5
    before, after = Recorder(), Recorder()
    got = ENTRY_POINTS[entry_point](JITRChatModel(llm=teacher, jitr=engine), {"callbacks": [after], "tags": ["t"]})
    expected = ENTRY_POINTS[entry_point](bare, {"callbacks": [before], "tags": ["t"]})
    assert replacement or teacher.heard == bare.heard
    prompts = 2 if entry_point in ("batch", "abatch", "generate", "chain, batch") else 1
    assert len(engine.decided) == len(engine.observed) == prompts and not engine.faults
    if replacement is None:
        assert normal(got) == normal(expected) and after.events == before.events
        assert limiter.available_tokens == pytest.approx(5 - prompts, abs=0.1)
    else:
        assert not teacher.asked and limiter.available_tokens == pytest.approx(5, abs=0.1)


def test_what_a_model_does_not_offer_is_not_asked_of_it(engine):
    llm = JITRChatModel(llm=Opinionated(), jitr=engine)
    assert llm.with_structured_output(dict).invoke("x") is dict
    with pytest.raises(TypeError):
        llm.with_structured_output(dict, include_raw=True)


def test_dumps_graphs_and_traces_name_the_teacher(engine, teacher):
    llm = JITRChatModel(llm=teacher, jitr=engine)
    assert llm.model_dump() == teacher.model_dump() and llm.lc_id() == teacher.lc_id()
    graphs = [(each | RunnableLambda(str)).get_graph().to_json()["nodes"][1] for each in (llm, teacher)]
    assert {**graphs[0], "id": 0} == {**graphs[1], "id": 0}
    field = ConfigurableField(id="t")
    fields = [each.configurable_fields(temperature=field).get_name() for each in (llm, teacher)]
    assert fields[0] == fields[1]


def test_what_the_teacher_holds_is_not_checked_again(engine):
    class Odd(Teacher):
        def model_post_init(self, context):
            super().model_post_init(context)
            self.__dict__["profile"] = "not a profile"

    assert JITRChatModel(llm=Odd(), jitr=engine).profile == "not a profile"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        teacher = Teacher(profile={"unheard_of": 1})
        before = len(told)
        JITRChatModel(llm=teacher, jitr=engine)
        assert len(told) == before


def test_pieces_that_are_none_of_langchains_reach_the_app_and_teach_nothing(engine):
    class Odd(Teacher):
        def _stream(self, messages, stop=None, run_manager=None, **kwargs):
            yield from ("a", "b")

    assert list(JITRChatModel(llm=Odd(), jitr=engine)._stream([])) == ["a", "b"]
    assert len(engine.decided) == 1 and not engine.observed and not engine.faults
