"""The wrapped text completion model is the bare one to everybody; replaced, it answers everywhere."""

from __future__ import annotations

import asyncio
import copy
import pickle
import re
import sys
from pathlib import Path

import pytest
from entry_points import collect
from langchain_core.caches import InMemoryCache
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.language_models import BaseLLM, FakeListLLM
from langchain_core.language_models.fake import FakeStreamingListLLM
from langchain_core.language_models.llms import LLM
from langchain_core.load import dumpd
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_fakes import FakeEngine, Recorder, Teacher, normal
from openai_server import running
from pydantic import Field

from jitr_core.errors import ConfigError
from jitr_langchain import JITRLLM, AsyncJITRCallbackHandler, JITRCallbackHandler, JITRChatModel

PAGE = Path(__file__).parents[2] / "docs" / "langchain.md"
PROMPT = PromptTemplate.from_template("Sort this: {text}")


class Completer(BaseLLM):
    """Says "re: " and the prompt; keeps in `asked` what reached it."""

    model_name: str = "text-1"
    temperature: float | None = None
    says: str | None = None
    streaming: bool = False
    fail: bool = False
    slow: bool = False
    asked: list = Field(default_factory=list, exclude=True)

    def _text(self, prompts, stop, kwargs):
        self.asked.append((prompts, stop, kwargs))
        if self.fail:
            raise ConnectionError("the provider is down")
        return [self.says or f"re: {prompt}" for prompt in prompts]

    def _result(self, texts):
        usage = {"prompt_tokens": 7 * len(texts), "completion_tokens": 3, "total_tokens": 7 * len(texts) + 3}
        generations = [[Generation(text=text, generation_info={"finish_reason": "stop"})] for text in texts]
        return LLMResult(generations=generations, llm_output={"token_usage": usage, "model_name": self.model_name})

    def _generate(self, prompts, stop=None, run_manager=None, **kwargs):
        texts = self._text(prompts, stop, kwargs)
        if self.streaming:
            run_manager.on_llm_new_token(texts[0], chunk=GenerationChunk(text=texts[0]))
        return self._result(texts)

    async def _agenerate(self, prompts, stop=None, run_manager=None, **kwargs):
        await asyncio.sleep(30 if self.slow else 0)
        texts = self._text(prompts, stop, kwargs)
        if self.streaming:
            await run_manager.on_llm_new_token(texts[0], chunk=GenerationChunk(text=texts[0]))
        return self._result(texts)

    def _pieces(self, prompt, stop, kwargs):
        (text,) = self._text([prompt], stop, kwargs)
        words = [text] if self.says else re.findall(r"\S+\s*", text)
        return [GenerationChunk(text=word, generation_info={"finish_reason": "stop"}) for word in words]

    def _stream(self, prompt, stop=None, run_manager=None, **kwargs):
        for piece in self._pieces(prompt, stop, kwargs):
            run_manager.on_llm_new_token(piece.text, chunk=piece)
            yield piece

    async def _astream(self, prompt, stop=None, run_manager=None, **kwargs):
        for piece in self._pieces(prompt, stop, kwargs):
            await run_manager.on_llm_new_token(piece.text, chunk=piece)
            yield piece
            await asyncio.sleep(30 if self.slow else 0)

    @property
    def _llm_type(self):
        return "completer"

    @property
    def _identifying_params(self):
        return {"model_name": self.model_name, "temperature": self.temperature}


def _run(coroutine):
    return asyncio.run(coroutine)


# name → what an app does with a text completion model, and gets
WAYS = {
    "invoke": lambda llm, config: llm.invoke("one two", config, stop=["!"]),
    "ainvoke": lambda llm, config: _run(llm.ainvoke("one two", config)),
    "batch": lambda llm, config: llm.batch(["one two", "three"], config),
    "batch, one by one": lambda llm, config: llm.batch(["one two", "three"], {**config, "max_concurrency": 1}),
    "abatch": lambda llm, config: _run(llm.abatch(["one two", "three"], config)),
    "stream": lambda llm, config: list(llm.stream("one two", config)),
    "astream": lambda llm, config: _run(collect(llm.astream("one two", config))),
    "generate": lambda llm, config: llm.generate(["one", "two"], **config),
    "agenerate": lambda llm, config: _run(llm.agenerate(["one two"], **config)),
    "chain": lambda llm, config: (PROMPT | llm).invoke({"text": "one two"}, config),
    "chain, async": lambda llm, config: _run((PROMPT | llm).ainvoke({"text": "one two"}, config)),
    "chain, batch": lambda llm, config: (PROMPT | llm).batch(
        [{"text": "one"}, {"text": "two"}], {**config, "max_concurrency": 1}
    ),
    "chain, streamed": lambda llm, config: list((PROMPT | llm).stream({"text": "one two"}, config)),
    "chain, events": lambda llm, config: _run(
        collect((PROMPT | llm).astream_events({"text": "one"}, config, version="v2"))
    ),
    "bound": lambda llm, config: llm.bind(stop=["!"]).with_config(run_name="named").invoke("one two", config),
    "with retry": lambda llm, config: llm.with_retry(wait_exponential_jitter=False).invoke("one two", config),
}
CALLS = {
    name: 2 if name in ("batch", "batch, one by one", "abatch", "generate", "chain, batch") else 1 for name in WAYS
}
STATES = {
    "observing": FakeEngine,
    "deferring": lambda: FakeEngine(deferring=True),
    "replaced": lambda: FakeEngine("Positive."),
}


def used(llm, way):
    """What an app gets, or the error, and what its callbacks hear of."""
    recorder = Recorder()
    try:
        got = normal(WAYS[way](llm, {"callbacks": [recorder]}))
    except Exception as error:
        got = type(error), str(error)
    return got, recorder.events


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("state", ["observing", "deferring", "dead engine", "no engine"])
def test_the_app_and_its_callbacks_see_the_bare_model(way, state):
    engine = FakeEngine(dead=state == "dead engine", deferring=state == "deferring")
    for settings in ({}, {"fail": True}, {"streaming": True}):
        if settings.get("fail") and "batch" in way and state == "dead engine":
            continue
        llm = JITRLLM(llm=Completer(**settings), jitr=engine)
        if state == "no engine":
            llm.jitr = None
        assert used(llm, way) == used(Completer(**settings), way)
    assert state == "dead engine" or not engine.faults


@pytest.mark.parametrize("way", WAYS)
def test_every_prompt_is_decided_and_observed_once(way):
    engine, teacher = FakeEngine(), Completer()
    WAYS[way](JITRLLM(llm=teacher, jitr=engine), {})
    assert len(engine.decided) == len(engine.observed) == CALLS[way]
    assert sum(len(prompts) for prompts, _, _ in teacher.asked) == CALLS[way]
    for call, decision, answer in engine.observed:
        assert answer.text == "re: " + call.messages[0][1] and decision.kind == "teacher"
        assert answer.model == "text-1" or "generate" in way  # LangChain tells its name where there is metadata
    told = [answer.input_tokens for answer in engine.answers]
    forwarded = sum(len(prompts) for prompts, _, _ in teacher.asked if len(prompts) > 1) or 1
    assert told[0] == (None if "stream" in way or "events" in way else 7 * forwarded)


def shape(told):
    return [name for name, _ in told]


@pytest.fixture(scope="module")
def matrix():
    """Each way to use a model, in three states: whether types, texts and events are those of the bare model."""

    def cell(way, state):
        engine = STATES[state]()
        llm, bare = JITRLLM(llm=Completer(says="Positive."), jitr=engine), Completer(says="Positive.")
        (got, told), (expected, bare_told) = used(llm, way), used(bare, way)
        same = type(got) is type(expected) and shape(told) == shape(bare_told) and not engine.faults
        if "generate" not in way and "events" not in way:  # they tell who answered
            same = same and got == expected
        return "same" if same and (state != "replaced" or not llm.llm.asked) else "differs"

    return {way: [cell(way, state) for state in STATES] for way in WAYS}


def test_every_way_to_use_a_model_is_that_of_the_bare_one_and_stands_in_the_docs(matrix):
    assert not [way for way, cells in matrix.items() if set(cells) != {"same"}]
    assert "; ".join(WAYS) in " ".join(PAGE.read_text(encoding="utf-8").split())


def test_a_replaced_answer_says_who_gave_it_and_spends_no_tokens():
    result = JITRLLM(llm=Completer(), jitr=FakeEngine("Positive.")).generate(["x"])
    ((generation,),) = result.generations
    origin = {"task": "task-1", "release": "r1", "confidence": 0.97, "reason": "answered"}
    assert type(generation) is Generation and generation.text == "Positive."
    assert generation.generation_info == {"finish_reason": "stop", "model_name": "jitr:r1", "jitr": origin}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert result.llm_output == {"token_usage": usage, "model_name": "jitr:r1"}


class Halving(FakeEngine):
    """Replaces the prompts that begin with "easy"."""

    def decide(self, call):
        self.replacement = "Positive." if call.messages[0][1].startswith("easy") else None
        return super().decide(call)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_of_a_batch_only_what_stays_with_the_teacher_reaches_it_and_in_one_piece(asynchronous):
    engine, teacher, recorder = Halving(), Completer(), Recorder()
    llm, prompts = JITRLLM(llm=teacher, jitr=engine), ["easy 1", "hard 1", "easy 2", "hard 2"]
    config = {"callbacks": [recorder]}
    got = _run(llm.abatch(prompts, config)) if asynchronous else llm.batch(prompts, config)
    assert got == ["Positive.", "re: hard 1", "Positive.", "re: hard 2"]
    assert [asked for asked, _, _ in teacher.asked] == [["hard 1", "hard 2"]]
    assert [answer and answer.text for answer in engine.answers] == [None, None, "re: hard 1", "re: hard 2"]
    assert [answer.input_tokens for answer in engine.answers[2:]] == [14, None]
    assert shape(recorder.events) == ["on_llm_start"] * 4 + ["on_llm_end"] * 4
    assert not engine.faults


def test_the_step_is_named_by_the_nearest_hint_and_a_request_says_what_it_wishes():
    engine = FakeEngine()
    llm = JITRLLM(llm=Completer(), jitr=engine)
    llm.invoke("x", {"tags": ["jitr:tag"]})
    llm.invoke("x", {"configurable": {"jitr_step": "said", "jitr_tenant": "acme", "jitr": "no-store"}})
    llm.with_config(run_name="named").invoke("x")
    list(llm.with_config(run_name="named").stream("x"))
    _run(collect(llm.with_config(run_name="named").astream("x")))
    llm.with_config(run_name="named").batch(["x"])
    RunnableLambda(lambda text: llm.invoke(text)).invoke("x", {"configurable": {"jitr_step": "outer"}})
    JITRLLM(llm=Completer(), jitr=engine, step="own").invoke("x", {"tags": ["jitr:tag"]})
    assert [call.step for call in engine.decided] == ["tag", "said", *["@named"] * 4, "outer", "own"]
    assert (engine.decided[1].tenant, engine.decided[1].storable) == ("acme", False)
    llm.batch(["x", "y"], [{"metadata": {"jitr": "off"}}, {"configurable": {"jitr": "observe"}}])
    assert [call.messages[0][1] for call in engine.decided[8:]] == ["y"] and engine.decided[-1].observe_only
    assert not engine.faults


def test_what_is_demanded_beside_a_text_stays_with_the_teacher():
    engine = FakeEngine("Positive.")
    llm = JITRLLM(llm=Completer(), jitr=engine)
    for settings in ({"n": 2}, {"logprobs": 3}, {"tools": [{"name": "a"}], "tool_choice": "a"}):
        assert llm.invoke("x", **settings) == "re: x"
    assert llm.invoke("x", stop=["."]) == "Positive."
    assert [call.replaceable for call in engine.decided] == [False, False, False, True]


@pytest.mark.parametrize("where", ["own", "global"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_replaced_answer_never_passes_for_a_cached_one(where, asynchronous):
    before, cache = get_llm_cache(), InMemoryCache()
    try:
        set_llm_cache(cache if where == "global" else None)
        teacher = Completer(cache=cache if where == "own" else None)
        teacher.invoke("known")

        def ask(llm, prompts):
            return _run(llm.abatch(prompts)) if asynchronous else llm.batch(prompts)

        engine = FakeEngine("Positive.")
        llm = JITRLLM(llm=teacher, jitr=engine)
        assert ask(llm, ["known", "new"]) == ["re: known", "Positive."]
        assert [call.messages[0][1] for call in engine.decided] == ["new"] and len(cache._cache) == 1
        engine.replacement = None  # withdrawn
        assert ask(llm, ["new"]) == ask(teacher, ["new"]) == ["re: new"]
        assert len(cache._cache) == 2 and len(teacher.asked) == 2 and not engine.faults
    finally:
        set_llm_cache(before)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [JITRCallbackHandler, AsyncJITRCallbackHandler])
def test_a_call_that_a_handler_sees_too_is_counted_once(way, kind):
    engine, other = FakeEngine(), FakeEngine()
    WAYS[way](JITRLLM(llm=Completer(), jitr=engine), {"callbacks": [kind(engine)]})
    assert len(engine.observed) == CALLS[way]
    WAYS[way](JITRLLM(llm=Completer(), jitr=FakeEngine("Positive.")), {"callbacks": [kind(other)]})
    assert not other.observed  # a replacement's answer teaches nothing


def test_an_audit_asks_the_teacher_aside():
    engine, teacher, recorder = FakeEngine("Positive.", audit=True), Completer(), Recorder()
    llm = JITRLLM(llm=teacher, jitr=engine)
    assert llm.invoke("x", {"callbacks": [recorder]}, stop=["!"]) == "Positive." and not engine.observed
    ((_, _, ask),) = engine.audited
    heard = list(recorder.events)
    answer = ask()
    assert (answer.text, answer.model, answer.input_tokens) == ("re: x", "text-1", 7)
    assert teacher.asked == [(["x"], ["!"], {})] and recorder.events == heard
    assert llm._ask_aside("what is it?").text == "re: what is it?"


def test_tokens_are_told_where_the_teacher_tells_them():
    for model in (
        Completer(streaming=True, says="Positive."),
        JITRLLM(llm=Completer(streaming=True), jitr=FakeEngine("Positive.")),
    ):
        recorder = Recorder()
        model.invoke("x", {"callbacks": [recorder]})
        _run(model.ainvoke("x", {"callbacks": [recorder]}))
        list(model.stream("x", {"callbacks": [recorder]}))
        assert shape(recorder.events) == ["on_llm_start", "on_llm_new_token", "on_llm_end"] * 3


async def test_abandoned_streams_and_cancelled_calls_are_not_observed():
    engine = FakeEngine()
    llm = JITRLLM(llm=Completer(), jitr=engine)
    stream = llm.stream("one two three")
    next(stream)
    stream.close()
    astream = llm.astream("one two three")
    await anext(astream)
    await astream.aclose()
    llm.slow = True
    for work in (llm.ainvoke("x"), llm.abatch(["x", "y"]), collect(llm.astream("x"))):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(work, 0.02)
    assert len(engine.decided) == 6 and not engine.observed and not engine.faults


INTERNALS = [
    "jitr_langchain._routing.call_of",
    "jitr_langchain._routing.claim",
    "jitr_langchain._routing.with_wishes",
    "jitr_langchain._routing.disabled",
    "jitr_langchain.llm.replacement_generation",
    "jitr_langchain.llm.answer_of_completion",
    "jitr_langchain.llm.answer_of_pieces",
    "langchain_fakes.FakeEngine.decide",
    "langchain_fakes.FakeEngine.observe",
    "langchain_fakes.FakeEngine.audit",
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", INTERNALS)
def test_whatever_fails_inside_the_app_gets_an_answer(place, way, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("a fault of JITR's own")

    monkeypatch.setattr(place, fails)
    for engine in (FakeEngine(), FakeEngine("re: one two"), FakeEngine("re: one two", audit=True)):
        assert "re:" in str(normal(WAYS[way](JITRLLM(llm=Completer(), jitr=engine), {})))
        assert all("a fault of JITR's own" in str(error) for _, error in engine.faults)


def test_settings_and_identity_are_the_teachers(tmp_path):
    teacher, engine = Completer(tags=["a"], metadata={"b": 1}, custom_get_token_ids=str.split), FakeEngine()
    llm = JITRLLM(llm=teacher, jitr=engine)
    assert dumpd(llm)["id"] == dumpd(teacher)["id"] and llm.asdict() == teacher.asdict()
    assert (llm._llm_type, llm.get_name(), llm.tags, llm.metadata) == (
        "completer",
        "Completer",
        ["a"],
        teacher.metadata,
    )
    assert llm.get_num_tokens("a b") == 2 and not hasattr(llm, "bind_tools")
    llm.temperature, llm.custom_get_token_ids = 0.5, None
    assert teacher.temperature == 0.5 and JITRLLM(llm=teacher, jitr=engine, model_name="x").llm.model_name == "x"
    assert teacher.model_name == "text-1"
    for each in (llm, teacher):
        each.save(tmp_path / f"{type(each).__name__}.json")
    assert (tmp_path / "JITRLLM.json").read_text() == (tmp_path / "Completer.json").read_text()
    assert copy.deepcopy(llm).jitr is engine and pickle.loads(pickle.dumps(llm)).llm.model_name == "text-1"
    configurable = llm.configurable_fields(temperature=ConfigurableField(id="t"))
    assert configurable.with_config(configurable={"t": 0.9}).invoke("x") == "re: x" and len(engine.observed) == 1
    failing = JITRLLM(llm=Completer(fail=True), jitr=engine)
    assert failing.with_fallbacks([llm]).invoke("y") == "re: y" and len(engine.observed) == 2


def test_each_kind_of_model_has_a_wrapper_of_its_own():
    with pytest.raises(ConfigError, match=r"JITRLLM"):
        JITRChatModel(llm=Completer(), jitr=FakeEngine())
    with pytest.raises(ConfigError, match=r"JITRChatModel"):
        JITRLLM(llm=Teacher(), jitr=FakeEngine())
    with pytest.raises(ConfigError, match=r"no setting tempurature"):
        JITRLLM(llm=Completer(), jitr=FakeEngine(), tempurature=1)


class Old(Completer):
    """Of the signature that models had once."""

    def _generate(self, prompts, stop=None):
        return super()._generate(prompts, stop)


class Simple(LLM):
    """Says how to answer one prompt, and no more."""

    def _call(self, prompt, stop=None, run_manager=None, **kwargs):
        return f"re: {prompt}"

    @property
    def _llm_type(self):
        return "simple"


FAKES = {
    "list": lambda: FakeListLLM(responses=["one", "two"]),
    "streaming list": lambda: FakeStreamingListLLM(responses=["one", "two"]),
    "failing in the stream": lambda: FakeStreamingListLLM(responses=["one"], error_on_chunk_number=1),
    "simple": Simple,
    "old signature": Old,
}


@pytest.mark.parametrize("fake", FAKES)
@pytest.mark.parametrize("way", WAYS)
def test_other_models_behave_as_they_do_bare(fake, way):
    engine = FakeEngine()
    assert used(JITRLLM(llm=FAKES[fake](), jitr=engine), way) == used(FAKES[fake](), way)
    assert len(engine.decided) == CALLS[way] and not engine.faults


def test_over_a_real_server_requests_and_answers_are_those_of_the_bare_model(monkeypatch):
    openai = pytest.importorskip("langchain_openai").OpenAI
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # Without asyncio: `OpenAI` keeps its asynchronous client, and with it the loop it was made in.
    ways = ["invoke", "batch", "batch, one by one", "stream", "generate", "chain", "chain, streamed", "bound"]
    with running() as server:

        def through(llm):
            server.requests.clear()
            return [used(llm, way) for way in ways], list(server.requests)

        bare = openai(model="gpt-text", base_url=server.url, api_key="k", max_retries=0, temperature=0)
        engine = FakeEngine()
        assert through(JITRLLM(llm=bare, jitr=engine)) == through(bare)
        assert {answer.text.split(":")[0] for answer in engine.answers} == {"You said"} and not engine.faults
        assert engine.answers[0].input_tokens == 11 and engine.answers[0].model == "gpt-text"


def test_observing_adds_at_most_100_function_calls_an_invoke():
    def calls(work):
        work()
        counted = 0

        def count(frame, event, argument):
            nonlocal counted
            counted += event == "call"

        sys.setprofile(count)
        try:
            work()
        finally:
            sys.setprofile(None)
        return counted

    bare, wrapped = Simple(), JITRLLM(llm=Simple(), jitr=FakeEngine())
    assert 0 < calls(lambda: wrapped.invoke("x")) - calls(lambda: bare.invoke("x")) <= 100
