"""Handlers observe every call of a bare model once, tell of it what a wrapped model would, and change nothing."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import pickle
from uuid import UUID

import pytest
from easy import easy_calls
from entry_points import ENTRY_POINTS, PROMPT
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda
from langchain_fakes import FakeEngine, Recorder, Teacher, normal, process_engine

from jitr_core import JITR, Policy
from jitr_core.report.savings import show_savings
from jitr_core.savings import Prices, Rates
from jitr_langchain import AsyncJITRCallbackHandler, JITRCallbackHandler, JITRChatModel, _runs

HANDLERS = [JITRCallbackHandler, AsyncJITRCallbackHandler]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def _told(call):
    return dataclasses.replace(call, id="", time=0.0, observe_only=False)


@pytest.mark.parametrize("kind", HANDLERS)
@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_it_tells_of_each_call_what_a_wrapped_model_would(entry_point, kind, engine):
    config = {"metadata": {"jitr_tenant": "acme"}, "tags": ["jitr:triage"]}
    ENTRY_POINTS[entry_point](Teacher(), {**config, "callbacks": [kind(engine)]})
    wrapping = FakeEngine()
    ENTRY_POINTS[entry_point](JITRChatModel(llm=Teacher(), jitr=wrapping), dict(config))
    assert [_told(call) for call in engine.decided] == [_told(call) for call in wrapping.decided]
    assert engine.observed and all(call.observe_only for call in engine.decided) and not engine.faults
    for mine, its in zip(engine.answers, wrapping.answers, strict=True):
        assert dataclasses.replace(mine, latency_s=0) == dataclasses.replace(its, latency_s=0)
        assert 0 <= mine.latency_s < 5


@pytest.mark.parametrize("kind", HANDLERS)
@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
@pytest.mark.parametrize("dead", [False, True])
def test_the_app_and_its_other_callbacks_do_not_notice_it(entry_point, kind, dead):
    def use(*handlers):
        recorder = Recorder()
        got = ENTRY_POINTS[entry_point](Teacher(), {"callbacks": [recorder, *handlers]})
        return normal(got), recorder.events

    assert use(kind(FakeEngine(dead=dead))) == use()


@pytest.mark.parametrize("kind", HANDLERS)
@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_a_call_of_a_wrapped_model_is_counted_once(entry_point, kind):
    engine, other = FakeEngine(), FakeEngine()
    llm = JITRChatModel(llm=Teacher(), jitr=engine)
    ENTRY_POINTS[entry_point](llm, {"callbacks": [kind(engine), kind(other)]})
    calls = 2 if "batch" in entry_point or entry_point == "generate" else 1
    assert len(engine.observed) == len(engine.decided) == len(llm.asked) == calls
    assert len(other.observed) == calls  # another engine is another account
    ENTRY_POINTS[entry_point](Teacher(), {"callbacks": [kind(other), kind(other)]})
    assert len(other.observed) == 2 * calls


@pytest.mark.parametrize("entry_point", [name for name in ENTRY_POINTS if "batch" not in name])
@pytest.mark.parametrize("kind", HANDLERS)
def test_a_call_that_fails_is_not_observed(entry_point, kind, engine):
    with pytest.raises(ConnectionError, match="the provider is down"):
        ENTRY_POINTS[entry_point](Teacher(fail=True), {"callbacks": [kind(engine)]})
    assert not engine.observed and not engine.faults


async def test_an_abandoned_stream_and_a_cancelled_call_are_not_observed(engine):
    class Slow(Teacher):
        async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
            await asyncio.sleep(30)

    for kind in HANDLERS:
        config = {"callbacks": [kind(engine)]}
        stream = Teacher().astream("one two three", config)
        await anext(stream)
        await stream.aclose()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(Slow().ainvoke("x", config), 0.1)
    assert not engine.observed and not engine.faults


def test_what_was_rewritten_for_tracing_or_is_more_than_a_text_is_not_learnt_from(engine):
    image = {"type": "image", "source_type": "base64", "mime_type": "image/png", "data": "aGk="}
    config = {"callbacks": [JITRCallbackHandler(engine)]}
    Teacher().invoke([HumanMessage([{"type": "text", "text": "see"}, image])], config)
    assert [call.replaceable for call in engine.decided] == [False]
    bound = Teacher().bind_tools([TOOL])
    assert bound.invoke("x", config).tool_calls and len(engine.observed) == 1


def test_contracts_of_observed_and_wrapped_calls_are_the_same(engine):
    for settings in ({"stop": ["!"]}, {"response_format": {"type": "json_object"}}, {"n": 2}, {"logprobs": True}):
        Teacher().invoke("x", {"callbacks": [JITRCallbackHandler(engine)]}, **settings)
        JITRChatModel(llm=Teacher(), jitr=engine).invoke("x", **settings)
        observed, wrapped = engine.decided[-2:]
        assert _told(observed) == _told(wrapped)


def test_an_answer_out_of_a_cache_is_not_an_answer_of_the_teacher(engine):
    llm = Teacher(cache=InMemoryCache())
    for _ in range(3):
        llm.invoke("x", {"callbacks": [JITRCallbackHandler(engine)]})
    assert len(llm.asked) == len(engine.observed) == 1


@pytest.mark.parametrize("entry_point", ["invoke", "ainvoke", "stream", "astream"])
def test_an_answer_that_langchain_puts_into_blocks_is_a_text_all_the_same(entry_point, engine):
    ENTRY_POINTS[entry_point](Teacher(output_version="v1"), {"callbacks": [JITRCallbackHandler(engine)]})
    assert [answer.text for answer in engine.answers] == ["re: one two"]


def test_several_generations_are_not_observed(engine):
    class Two(Teacher):
        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            return ChatResult(generations=[ChatGeneration(message=AIMessage(text)) for text in "ab"])

    Two().invoke("x", {"callbacks": [JITRCallbackHandler(engine)]})
    assert not engine.observed and not engine.faults


@pytest.mark.parametrize("kind", HANDLERS)
def test_text_completion_models_are_observed_too(kind, engine):
    llm = FakeListLLM(responses=["one", "two", "three"])
    config = {"callbacks": [kind(engine)], "metadata": {"jitr_step": "complete"}}
    assert llm.invoke("first", config) == "one" and asyncio.run(llm.ainvoke("second", config)) == "two"
    assert "".join(llm.stream("third", config)) == "three"
    assert [(call.messages, call.step) for call in engine.decided] == [
        ((("user", text),), "complete") for text in ("first", "second", "third")
    ]
    assert [answer.text for answer in engine.answers] == ["one", "two", "three"]


def test_a_batch_of_completions_is_observed_prompt_by_prompt_and_billed_once(engine):
    class Completions(FakeListLLM):
        def _generate(self, prompts, stop=None, run_manager=None, **kwargs):
            result = super()._generate(prompts, stop, run_manager, **kwargs)
            result.llm_output = {"token_usage": {"prompt_tokens": 30, "completion_tokens": 4}, "model_name": "text-1"}
            return result

    llm = Completions(responses=["one", "two"], cache=InMemoryCache())
    for _ in range(2):  # the second time out of the cache
        llm.batch(["first", "second"], {"callbacks": [JITRCallbackHandler(engine)]})
    assert [call.messages[0][1] for call in engine.decided] == ["first", "second"]
    assert [(a.text, a.model, a.input_tokens) for a in engine.answers] == [
        ("one", "text-1", 30),
        ("two", "text-1", None),
    ]


@pytest.mark.parametrize("kind", HANDLERS)
async def test_a_request_says_what_it_wishes(kind, engine, monkeypatch):
    chain = PROMPT | Teacher()
    config = {"callbacks": [kind(engine)]}
    await chain.ainvoke({"question": "a"}, {**config, "metadata": {"jitr": "off"}})
    await chain.ainvoke({"question": "b"}, {**config, "configurable": {"jitr": "off"}})
    await chain.ainvoke({"question": "c"}, {**config, "configurable": {"jitr_tenant": "acme", "jitr": "no-store"}})
    assert [(call.messages[-1][1], call.tenant, call.storable) for call in engine.decided] == [("c", "acme", False)]
    monkeypatch.setenv("JITR_DISABLED", "1")
    await chain.ainvoke({"question": "d"}, config)
    assert len(engine.decided) == 1 and kind().jitr is None
    await chain.ainvoke({"question": "e"}, {"callbacks": [kind()]})


def test_a_handlers_step_wins_and_a_graphs_models_are_observed(engine):
    node = RunnableLambda(lambda text: Teacher().invoke(text))
    config = {"callbacks": [JITRCallbackHandler(engine, step="triage")], "tags": ["jitr:other"]}
    node.invoke("x", config)
    assert [call.step for call in engine.decided] == ["triage"]


def test_copies_share_the_engine_and_pickles_find_the_one_of_their_process(engine):
    for kind in HANDLERS:
        handler = kind(engine, step="s")
        copied, loaded = copy.deepcopy(handler), pickle.loads(pickle.dumps(handler))
        assert type(copied) is type(loaded) is kind and loaded.jitr is process_engine() and loaded.step == "s"


def test_the_memory_of_runs_is_bounded(engine, monkeypatch):
    monkeypatch.setattr(_runs, "_LIMIT", 3)
    monkeypatch.setattr(_runs, "_claims", {})
    handler = JITRCallbackHandler(engine)
    llm = JITRChatModel(llm=Teacher(), jitr=engine)
    for run in range(9):
        handler.on_chat_model_start({}, [[HumanMessage("x")]], run_id=UUID(int=run))  # and never ends
        llm.invoke("x", {"callbacks": [handler]})
    assert len(handler._watch._open) <= 3 and len(_runs._claims) == 3 and len(engine.observed) == 9
    assert not engine.faults


class Sorter(Teacher):
    """Answers as the easy log does."""

    def _reply(self, messages, stop, kwargs):
        words = messages[-1].text.split()
        billing = {"invoice", "refund", "charge", "bill", "receipt"}
        self.asked.append(words)
        usage = {"input_tokens": 40, "output_tokens": 1, "total_tokens": 41}
        return AIMessage("billing" if billing & set(words) else "delivery", usage_metadata=usage)


def test_an_app_that_is_only_observed_learns_what_it_could_have_saved(tmp_path, capsys):
    policy = Policy(families=("lexical",))
    jitr = JITR(f"sqlite:///{tmp_path}/jitr.db", policy=policy, training="inline", seed=1)
    llm, config = Sorter(), {"callbacks": [JITRCallbackHandler(jitr)]}
    for i, recorded in enumerate(easy_calls(400)):
        said = llm.invoke([(m["role"], m["content"]) for m in recorded["messages"]], config).content
        assert said == recorded["answer"] and len(llm.asked) == i + 1
    jitr.flush()
    store = jitr.open_store()
    (task,) = store.tasks()
    counts, (shadow,) = store.counts(task.id), store.usage(reason="shadow")
    assert task.state == "active" and counts.calls == counts.labels == 400 and counts.answered == counts.audits == 0
    assert shadow.calls > 60 and shadow.input_tokens == 40 * shadow.calls
    stored = [o for o in store.observations() if o.decision.reason == "shadow"]
    assert all(o.decision.answer == o.answer.text and o.decision.kind == "teacher" for o in stored)
    show_savings(store, Prices(model="gpt-4.1"), Rates())
    printed = " ".join(capsys.readouterr().out.split())
    assert f"replacements would have answered {shadow.calls} more calls, for which the teacher cost $" in printed
    assert not jitr.faults and not store.verify()
    jitr.close()
