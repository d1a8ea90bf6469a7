"""A fault at any call of JITR's own is reported, and never reaches the app."""

from __future__ import annotations

import pytest
from entry_points import ENTRY_POINTS
from langchain_fakes import FakeEngine, Teacher, normal

from jitr_langchain import AsyncJITRCallbackHandler, JITRCallbackHandler, JITRChatModel

# Every function by which LangChain's side of the wrapper or handler reaches JITR's own.
WRAPPER = [
    "jitr_langchain._routing.call_of",
    "jitr_langchain._routing.claim",
    "jitr_langchain._routing.with_wishes",
    "jitr_langchain.chat_model.answer_of_result",
    "jitr_langchain.chat_model.answer_of_chunks",
    "jitr_langchain.chat_model.replacement_message",
    "jitr_langchain._translate.EventReader.read",
    "langchain_fakes.FakeEngine.decide",
    "langchain_fakes.FakeEngine.observe",
    "langchain_fakes.FakeEngine.audit",
]
HANDLER = [
    "jitr_langchain.callbacks.call_of",
    "jitr_langchain.callbacks.claimed",
    "jitr_langchain.callbacks.answer_of_result",
    "langchain_fakes.FakeEngine.decide",
    "langchain_fakes.FakeEngine.observe",
]


def _fails(*args, **kwargs):
    raise RuntimeError("a fault of JITR's own")


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
@pytest.mark.parametrize("place", WRAPPER)
def test_whatever_fails_in_a_wrapped_model_the_app_gets_an_answer(place, entry_point, monkeypatch):
    monkeypatch.setattr(place, _fails)
    for engine in (FakeEngine(), FakeEngine("re: one two"), FakeEngine("re: one two", audit=True)):
        got = normal(ENTRY_POINTS[entry_point](JITRChatModel(llm=Teacher(), jitr=engine), {}))
        assert "re:" in str(got)
        assert all("a fault of JITR's own" in str(error) for _, error in engine.faults)


class Broken(FakeEngine):
    """Fails even at what it is like."""

    blocking = property(_fails)


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_an_engine_that_cannot_say_whether_it_blocks_disturbs_nobody(entry_point):
    engine = Broken()
    assert "re:" in str(normal(ENTRY_POINTS[entry_point](JITRChatModel(llm=Teacher(), jitr=engine), {})))
    assert engine.observed


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
@pytest.mark.parametrize("kind", [JITRCallbackHandler, AsyncJITRCallbackHandler])
@pytest.mark.parametrize("place", HANDLER)
def test_whatever_fails_in_a_handler_the_app_does_not_notice(place, kind, entry_point, monkeypatch):
    expected = normal(ENTRY_POINTS[entry_point](Teacher(), {}))
    monkeypatch.setattr(place, _fails)
    engine = FakeEngine()
    handler = kind(engine)
    handler.raise_error = True  # LangChain would hide what the handler lets through
    assert normal(ENTRY_POINTS[entry_point](Teacher(), {"callbacks": [handler]})) == expected
    assert {where for where, _ in engine.faults} == {"observe"} and not engine.observed


def test_a_model_that_the_middleware_cannot_wrap_is_asked_bare(monkeypatch):
    agents = pytest.importorskip("langchain.agents")
    from jitr_langchain import JITRMiddleware

    engine, model = FakeEngine("Positive."), Teacher()
    monkeypatch.setattr("jitr_langchain.middleware.JITRChatModel.__init__", _fails)
    agent = agents.create_agent(model, [], middleware=[JITRMiddleware(engine)])
    assert agent.invoke({"messages": [("user", "x")]})["messages"][-1].text == "re: x"
    assert len(model.asked) == len(engine.faults) == 1
