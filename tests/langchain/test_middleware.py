"""An agent with the middleware is the agent without it, and where a replacement can answer, it does."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_fakes import FakeEngine, Recorder, Teacher, normal
from pydantic import BaseModel

agents = pytest.importorskip("langchain.agents")

from langchain.agents.middleware import AgentMiddleware  # noqa: E402
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy  # noqa: E402

from jitr_langchain import JITRChatModel  # noqa: E402
from jitr_langchain.middleware import JITRMiddleware  # noqa: E402


class Verdict(BaseModel):
    """A verdict."""

    text: str


@tool
def look_up(text: str) -> str:
    """Looks something up."""
    return f"found {text}"


class Agentic(Teacher):
    """Calls its first tool until it has a tool's result; gives JSON where a format is asked for."""

    profile: dict = {"structured_output": True}

    def _reply(self, messages, stop, kwargs):
        if kwargs.get("response_format") and (messages[-1].type == "tool" or not kwargs.get("tools")):
            self.asked.append({})
            return AIMessage('{"text": "x"}')
        if messages[-1].type == "tool":
            kwargs = {name: value for name, value in kwargs.items() if name != "tools"}
        return super()._reply(messages, stop, kwargs)


AGENTS = {
    "plain": {},
    "tool": {"tools": [look_up]},
    "system prompt": {"system_prompt": "You are terse."},
    "tool strategy": {"response_format": ToolStrategy(Verdict)},
    "provider strategy": {"response_format": ProviderStrategy(Verdict)},
    "tool and format": {"tools": [look_up], "response_format": Verdict},
}
QUESTION = {"messages": [("user", "one two")]}


async def _collect(stream):
    return [item async for item in stream]


USES = {
    "invoke": lambda agent, config: agent.invoke(QUESTION, config),
    "ainvoke": lambda agent, config: asyncio.run(agent.ainvoke(QUESTION, config)),
    "stream": lambda agent, config: list(agent.stream(QUESTION, config, stream_mode="messages")),
    "astream": lambda agent, config: asyncio.run(_collect(agent.astream(QUESTION, config, stream_mode="messages"))),
    "updates": lambda agent, config: list(agent.stream(QUESTION, config, stream_mode="updates")),
}


def _used(use, kind, model, *middleware):
    recorder = Recorder()
    agent = agents.create_agent(model, **{"tools": [], **AGENTS[kind]}, middleware=middleware)
    got = USES[use](agent, {"callbacks": [recorder]})
    models = [event for event in recorder.events if event[0] in ("on_chat_model_start", "on_llm_end", "on_llm_error")]
    return normal(got), models


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", AGENTS)
@pytest.mark.parametrize("dead", [False, True], ids=["observing", "dead engine"])
def test_an_agent_does_not_notice_it(use, kind, dead):
    engine = FakeEngine(dead=dead)
    assert _used(use, kind, Agentic(), JITRMiddleware(engine)) == _used(use, kind, Agentic())
    if not dead:
        assert len(engine.decided) == (2 if kind in ("tool", "tool and format") else 1)
        assert {call.replaceable for call in engine.decided} == {kind not in ("tool", "tool and format")}
        assert not engine.faults


@pytest.mark.parametrize("use", USES)
def test_a_call_a_student_can_honour_is_replaced(use):
    model, engine = Teacher(fail=True), FakeEngine("Positive.")
    got, events = _used(use, "plain", model, JITRMiddleware(engine))
    assert "Positive." in str(got) and not model.asked and not engine.faults
    assert [name for name, _ in events] == ["on_chat_model_start", "on_llm_end"]


def test_the_steps_of_agents_are_told_apart(engine):
    for name, step in (("first", None), ("second", None), ("third", "declared")):
        agent = agents.create_agent(Teacher(), [], middleware=[JITRMiddleware(engine, step=step)], name=name)
        agent.invoke(QUESTION)
    steps = [call.step for call in engine.decided]
    assert len(set(steps)) == 3 and steps[2] == "declared"


def test_a_model_is_wrapped_once_and_a_wrapped_one_not_again(engine):
    seen = []

    class Look(AgentMiddleware):
        def wrap_model_call(self, request, handler):
            seen.append(request.model)
            return handler(request)

    class LookAgain(Look):
        pass

    ours, model = JITRMiddleware(engine), Teacher()
    agent = agents.create_agent(model, [], middleware=[Look(), ours, LookAgain()])
    agent.invoke(QUESTION)
    agent.invoke(QUESTION)
    outer, inner, again, same = seen
    assert outer is again is model and inner is same and inner.llm is model  # those before it see the bare model
    wrapped = JITRChatModel(llm=Teacher(), jitr=engine)
    agents.create_agent(wrapped, [], middleware=[ours]).invoke(QUESTION)
    assert len(engine.observed) == 3 and not engine.faults


def test_wrappers_do_not_pile_up(engine, monkeypatch):
    class Change(AgentMiddleware):
        def wrap_model_call(self, request, handler):
            return handler(request.override(model=Teacher()))

    ours = JITRMiddleware(engine)
    agent = agents.create_agent(Teacher(), [], middleware=[Change(), ours])
    for _ in range(70):
        agent.invoke(QUESTION)
    assert len(engine.observed) == 70 and len(ours._wrappers) <= 64


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("JITR_DISABLED", "1")
    ours = JITRMiddleware()
    assert ours.jitr is None and _used("invoke", "tool", Agentic(), ours) == _used("invoke", "tool", Agentic())


def test_without_langchain_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['langchain.agents.middleware'] = None\n"
        "from jitr_langchain import *\n"
        "from jitr_langchain import JITRMiddleware"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and 'pip install "jitr[agents]"' in done.stderr
