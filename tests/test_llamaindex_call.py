"""The call that the engine sees, steps and switches, and how the wrapper passes for the LLM it wraps."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core import Settings
from llama_index.core.agent.react.formatter import ReActChatFormatter
from llama_index.core.agent.react.output_parser import ReActOutputParser
from llama_index.core.base.llms.types import ChatMessage, CompletionResponse, ImageBlock
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import MockLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM, BaseLLM
from llama_index_instrumentation.dispatcher import active_instrument_tags, instrument_tags
from llamaindex_fakes import CallingTeacher, FakeEngine, Teacher, normal, process_engine
from llamaindex_ways import PLAIN, STRUCTURED, TOOLS, collect, messages, teacher_for, used
from pydantic import PrivateAttr

from jitr_core.errors import ConfigError
from jitr_core.types import Call
from jitr_llamaindex import JITRLLM, jitr_step
from jitr_llamaindex._translate import answer_of_stream
from jitr_llamaindex.steps import place_of


def test_the_call_carries_roles_texts_and_the_teachers_name():
    engine = FakeEngine()
    llm = JITRLLM(llm=Teacher(), jitr=engine)
    roles = ["system", "user", "chatbot", "model", "assistant", "developer"]
    llm.chat([ChatMessage(role=role, content=role) for role in roles], model="teacher-2")
    (call,) = engine.decided
    assert [role for role, _ in call.messages] == ["system", "user", "assistant", "assistant", "assistant", "developer"]
    assert (call.model, call.contract, call.replaceable, len(call.id)) == ("teacher-2", "", True, 32)
    llm.complete("x")
    assert engine.decided[1].messages == (("user", "x"),) and engine.decided[1].model == "teacher-1"


@pytest.mark.parametrize(
    ("odd", "text", "replaceable"),
    [
        (ChatMessage(content="x" * 1_000_000), "x" * 1_000_000, True),
        (ChatMessage(content=""), "", True),
        (ChatMessage(blocks=[]), "", True),
        (ChatMessage(blocks=[{"block_type": "text", "text": "a"}, {"block_type": "text", "text": "b"}]), "a\nb", True),
        (ChatMessage(blocks=[ImageBlock(image=b"", url="http://x/y.png")]), "", False),
        (ChatMessage(role="tool", content="r"), "r", False),
        (ChatMessage(role="assistant", content="r", additional_kwargs={"tool_calls": [1]}), "r", False),
    ],
    ids=["1 MB", "empty", "no blocks", "two texts", "an image", "a tool's result", "a tool call"],
)
def test_odd_prompts_reach_the_teacher_unchanged(odd, text, replaceable):
    engine, teacher, bare = FakeEngine(), Teacher(), Teacher()
    assert JITRLLM(llm=teacher, jitr=engine).chat([odd]) == bare.chat([odd])
    assert normal(teacher.asked) == normal(bare.asked)
    assert engine.decided[0].messages[-1][1] == text and engine.decided[0].replaceable is replaceable
    assert not engine.faults


@pytest.mark.parametrize(
    "wrong",
    [
        lambda llm: llm.complete(),
        lambda llm: llm.stream_complete(),
        lambda llm: llm.complete(["x"]),
        lambda llm: llm.chat("text"),
        lambda llm: llm.chat(),
        lambda llm: llm.chat(iter(messages())),
        lambda llm: asyncio.run(llm.acomplete()),
    ],
)
def test_what_is_no_request_is_the_teachers_affair(wrong):
    engine = FakeEngine("Positive.")

    def error_of(llm):
        try:
            return normal(wrong(llm))
        except Exception as error:
            return type(error), str(error).split("\n")[0]

    assert error_of(JITRLLM(llm=Teacher(), jitr=engine)) == error_of(Teacher())
    assert not engine.decided and not engine.faults


@pytest.mark.parametrize(
    "settings",
    [{"tools": [{"name": "f"}]}, {"tools": [{"name": "f"}], "tool_choice": "required"}, {"n": 2}, {"logprobs": True}],
    ids=str,
)
def test_what_no_student_can_honour_goes_to_the_teacher(settings):
    engine, teacher = FakeEngine("Positive."), Teacher()
    JITRLLM(llm=teacher, jitr=engine).complete("x", **settings)
    assert not engine.decided[0].replaceable and len(teacher.asked) == 1
    assert bool(engine.decided[0].contract) == settings.keys().isdisjoint({"n", "logprobs"})


def test_settings_on_the_teacher_count_like_those_of_the_request():
    class Keyed(Teacher):
        logprobs: bool = False
        additional_kwargs: dict = {}

    engine = FakeEngine()

    def call(**settings):
        JITRLLM(llm=Keyed(**settings), jitr=engine).complete("x")
        return engine.decided[-1]

    assert call().replaceable and call().contract == ""
    assert not call(logprobs=True).replaceable
    assert not call(additional_kwargs={"n": 3}).replaceable
    assert call(additional_kwargs={"stop": ["!"]}).contract and call(additional_kwargs={"stop": ["!"]}).replaceable


# Steps and switches


def test_a_declared_step_wins_over_tags_and_both_over_the_template():
    from llama_index.core.prompts.default_prompts import DEFAULT_TEXT_QA_PROMPT

    engine = FakeEngine()
    llm = JITRLLM(llm=Teacher(), jitr=engine)
    with instrument_tags({"mine": 1}), jitr_step("triage"):
        assert active_instrument_tags.get() == {"mine": 1, "jitr_step": "triage"}
        llm.complete("x")
        llm.predict(DEFAULT_TEXT_QA_PROMPT, context_str="c", query_str="q")
        JITRLLM(llm=Teacher(), jitr=engine, step="declared").complete("x")
        JITRLLM(llm=Teacher(), jitr=engine, step="declared").predict(DEFAULT_TEXT_QA_PROMPT)
    llm.predict(DEFAULT_TEXT_QA_PROMPT, context_str="c", query_str="q")
    llm.complete("x")
    assert active_instrument_tags.get() == {}
    steps = [call.step for call in engine.decided]
    assert steps == ["triage", "triage", "declared", "declared", "@text_qa", ""] and not engine.faults


@pytest.mark.parametrize("way", [*PLAIN, *STRUCTURED])
def test_the_environment_or_a_tag_switches_it_off(way, monkeypatch):
    engine = FakeEngine("Positive.")
    llm = JITRLLM(llm=teacher_for(way), jitr=engine)
    with instrument_tags({"jitr": "off"}):
        got = used(llm, way)[0]
    monkeypatch.setenv("JITR_DISABLED", "1")
    assert got == used(llm, way)[0] == used(teacher_for(way), way)[0]
    assert not engine.decided and not engine.observed
    assert JITRLLM(llm=Teacher()).jitr is None


# It passes for the teacher


def test_settings_and_identity_are_the_teachers():
    teacher, engine = Teacher(system_prompt="Be brief.", temperature=0.1), FakeEngine()
    llm = JITRLLM(llm=teacher, jitr=engine)
    assert (llm.model, llm.temperature, llm.system_prompt) == ("teacher-1", 0.1, "Be brief.")
    assert (llm.metadata, llm.to_payload(), llm.to_dict()) == (
        teacher.metadata,
        teacher.to_payload(),
        teacher.to_dict(),
    )
    assert llm.class_name() == "teacher" and JITRLLM.class_name() == type(llm).class_name() == "JITRLLM"
    llm.temperature, llm.system_prompt = 0.5, "Be long."
    assert (teacher.temperature, teacher.system_prompt, llm.temperature) == (0.5, "Be long.", 0.5)
    teacher.output_parser = None
    teacher.callback_manager = manager = Settings.callback_manager
    assert llm.callback_manager is manager
    with pytest.raises(AttributeError, match="nonsense"):
        _ = llm.nonsense
    with pytest.raises(ValueError, match="nonsense"):
        llm.nonsense = 1


def test_every_method_of_llamaindexs_llms_is_accounted_for():
    """A method that a new version adds must be the teacher's, not run on the wrapper's own state."""
    own = set(vars(JITRLLM)) | set(vars(type(JITRLLM(llm=CallingTeacher(), jitr=FakeEngine()))))
    inherited = {"as_structured_llm", "check_callback_manager", "check_prompts", "set_messages_to_prompt"}
    inherited |= {"set_completion_to_prompt"}
    for base in (BaseLLM, LLM, FunctionCallingLLM):
        found = {name for name, value in vars(base).items() if callable(value) or isinstance(value, classmethod)}
        missing = {name for name in found if not name.startswith("__")} - own - inherited
        assert missing <= {"model_post_init", "_abc_impl"}, missing


def test_it_is_function_calling_exactly_where_the_teacher_is():
    engine = FakeEngine()
    assert isinstance(JITRLLM(llm=CallingTeacher(), jitr=engine), FunctionCallingLLM)
    plain = JITRLLM(llm=Teacher(), jitr=engine)
    assert isinstance(plain, JITRLLM) and not isinstance(plain, FunctionCallingLLM)
    assert not hasattr(plain, "chat_with_tools")
    calling = JITRLLM(llm=CallingTeacher(), jitr=engine)
    (selected,) = calling.get_tool_calls_from_response(calling.chat_with_tools(TOOLS, "x"))
    assert selected.tool_name == "look_up"


def test_what_cannot_be_wrapped_is_refused_with_a_hint():
    with pytest.raises(ConfigError, match="must be an LLM of LlamaIndex, got str"):
        JITRLLM(llm="gpt", jitr=FakeEngine())
    with pytest.raises(ConfigError, match="Teacher has no setting stepp"):
        JITRLLM(llm=Teacher(), jitr=FakeEngine(), stepp="triage")
    with pytest.raises(ConfigError, match="JITR"):
        JITRLLM(llm=Teacher(), jitr="sqlite:///state.db")


def test_settings_given_to_the_wrapper_change_a_copy_of_the_teacher():
    teacher = Teacher()
    llm = JITRLLM(llm=teacher, jitr=FakeEngine(), temperature=0.3)
    assert (llm.temperature, teacher.temperature) == (0.3, None)
    warm = llm.model_copy(update={"temperature": 1.0, "step": "s"})
    assert (warm.temperature, warm.step, llm.temperature, llm.step) == (1.0, "s", 0.3, None)
    assert warm.complete("x").text == "re: x" and len(warm.jitr.observed) == 1


def test_a_wrapper_in_a_wrapper_decides_once():
    engine, outer = FakeEngine(), FakeEngine()
    llm = JITRLLM(llm=JITRLLM(llm=Teacher(), jitr=engine), jitr=outer)
    llm.complete("x")
    assert len(outer.observed) == 1 and not engine.decided


@pytest.mark.parametrize("teacher", [Teacher, CallingTeacher])
def test_copies_share_the_engine_and_pickles_find_the_one_of_their_process(teacher):
    engine = FakeEngine()
    llm = JITRLLM(llm=teacher(), jitr=engine, step="s")
    for copied in (copy.deepcopy(llm), copy.copy(llm), llm.model_copy(deep=True)):
        assert copied.jitr is engine and copied.step == "s" and copied.complete("x").text == "re: x"
    assert copy.deepcopy(llm).llm is not llm.llm and len(engine.observed) == 3
    loaded = pickle.loads(pickle.dumps(llm))
    assert type(loaded) is type(llm) and (loaded.jitr, loaded.step) == (process_engine(), "s")
    assert loaded.complete("x").text == "re: x"


def test_an_engine_that_cannot_be_pickled_is_not_replaced_by_another(tmp_path):
    from jitr_core import JITR

    jitr = JITR(f"sqlite:///{tmp_path}/jitr.db", redact=lambda text: text, training="off")
    loaded = pickle.loads(pickle.dumps(JITRLLM(llm=Teacher(), jitr=jitr)))
    assert loaded.jitr is None and loaded.complete("x").text == "re: x"
    jitr.close()


def test_settings_llm_hands_its_callback_manager_to_the_teacher(monkeypatch):
    monkeypatch.setattr(Settings, "_llm", None)
    monkeypatch.setattr(Settings, "_callback_manager", CallbackManager([]))
    engine, teacher = FakeEngine(), Teacher()
    Settings.llm = JITRLLM(llm=teacher, jitr=engine)
    assert Settings.llm.callback_manager is teacher.callback_manager is Settings.callback_manager
    assert Settings.llm.complete("x").text == "re: x" and len(engine.observed) == 1


def test_the_rate_limiter_counts_only_the_teachers_calls():
    from llama_index.core.rate_limiter import TokenBucketRateLimiter

    class Limiter(TokenBucketRateLimiter):
        acquired: int = 0

        def acquire(self, *args, **kwargs):
            self.acquired += 1

        async def async_acquire(self, *args, **kwargs):
            self.acquired += 1

    limiter, engine = Limiter(requests_per_minute=60), FakeEngine(audit=True)
    llm = JITRLLM(llm=Teacher(rate_limiter=limiter), jitr=engine)
    llm.complete("x")
    asyncio.run(llm.achat(messages()))
    assert limiter.acquired == 2
    engine.replacement = "Positive."
    llm.complete("x")
    asyncio.run(llm.achat(messages()))
    assert limiter.acquired == 2
    engine.audited[0][2]()
    assert limiter.acquired == 3


def test_llamaindexs_own_fake_that_chats_by_completing_is_one_call():
    engine = FakeEngine()
    llm = JITRLLM(llm=MockLLM(is_chat_model=True), jitr=engine)
    assert llm.chat(messages()) == MockLLM(is_chat_model=True).chat(messages())
    assert asyncio.run(llm.achat(messages())) == MockLLM().chat(messages())
    assert list(llm.stream_chat(messages())) == list(MockLLM().stream_chat(messages()))
    assert len(engine.decided) == len(engine.observed) == 3


def test_a_prompt_given_twice_is_the_teachers_error():
    engine = FakeEngine("Positive.")
    for llm in (Teacher(), JITRLLM(llm=Teacher(), jitr=engine)):
        for method in (llm.complete, llm.stream_complete):
            with pytest.raises(TypeError, match="prompt"):
                method("x", prompt="x")


def test_a_stream_without_pieces_is_not_observed():
    class Silent(Teacher):
        def _pieces(self, response):
            yield from ()

    engine = FakeEngine()
    llm = JITRLLM(llm=Silent(), jitr=engine)
    assert list(llm.stream_chat(messages())) == asyncio.run(collect(llm.astream_chat(messages()))) == []
    assert len(engine.decided) == 2 and not engine.observed and not engine.faults


# LlamaIndex's own, with or without the wrapper
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
def test_a_plain_llm_calls_tools_by_its_text_through_the_wrapper():
    engine, thought = FakeEngine(), "Thought: look it up\nAction: look_up\nAction Input: {'text': 'one'}\n"
    teacher = Teacher(says={"one two": thought})
    how = {"react_chat_formatter": ReActChatFormatter.from_defaults(), "output_parser": ReActOutputParser()}
    assert str(JITRLLM(llm=teacher, jitr=engine).predict_and_call(TOOLS, "one two", **how)) == "found one"
    assert [answer.text for answer in engine.answers] == [thought] and len(teacher.asked) == 1


def test_what_a_provider_keeps_on_itself_is_there_for_what_it_builds():
    class Keeping(CallingTeacher):
        _kept: str = PrivateAttr(default="none")

        def get_tool_calls_from_response(self, response, error_on_no_tool_call=True, **kwargs):
            (found,) = super().get_tool_calls_from_response(response)
            return [found.model_copy(update={"tool_kwargs": {"text": self._kept}})]

    teacher = Keeping()
    teacher._kept = "mine"
    llm = JITRLLM(llm=teacher, jitr=FakeEngine())
    assert str(llm.predict_and_call(TOOLS, "x")) == "found mine" and llm._kept == "mine"


@given(st.lists(st.text(min_size=1), min_size=1))
def test_the_pieces_of_a_stream_add_up_to_the_answer_or_there_is_none(pieces):
    told = [CompletionResponse(text="".join(pieces[: i + 1]), delta=piece) for i, piece in enumerate(pieces)]
    answer = answer_of_stream((told[-1], [response.delta for response in told]), Call("1", ()), 0.1)
    assert answer is not None and answer.text == "".join(pieces)
    forgetful = CompletionResponse(text=pieces[-1])
    assert (answer_of_stream((forgetful, pieces), Call("1", ()), 0.1) is None) == (len(pieces) > 1)


@given(st.text(min_size=1), st.uuids())
def test_a_place_is_what_stands_before_the_uuid(name, uuid):
    assert place_of(f"{name}-{uuid}") == ("" if name.endswith(".run") else name)
    assert place_of(str(uuid)) == place_of(None) == ""


def test_threads_and_loops_share_one_wrapper():
    engine = FakeEngine()
    llm = JITRLLM(llm=Teacher(), jitr=engine)

    def work(i):
        if i % 2:
            return asyncio.run(llm.acomplete(f"call {i}")).text
        return contextvars.copy_context().run(llm.complete, f"call {i}").text

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(64))) == [f"re: call {i}" for i in range(64)]
    assert {answer.text for answer in engine.answers} == {f"re: call {i}" for i in range(64)}
    assert not engine.faults


def test_settings_of_the_teacher_that_keep_its_calls_from_being_replaced_are_told_once(caplog, monkeypatch):
    monkeypatch.setattr("jitr_core.integration._told", set())

    class Several(Teacher):
        additional_kwargs: dict = {}

    for _ in range(2):
        JITRLLM(llm=Several(additional_kwargs={"n": 3}), jitr=FakeEngine())
    assert [record.message.split(":")[0] for record in caplog.records] == ["Several asks for n=3"]
