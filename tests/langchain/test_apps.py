"""Whole apps whose simple step has been replaced, by a real replacement: the rest of them is untouched."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from operator import itemgetter

import pytest
from easy import QUEUES, easy_calls
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableParallel
from langchain_fakes import Teacher
from pydantic import BaseModel

from jitr_core import JITR, Policy
from jitr_langchain import JITRChatModel

SORT = ChatPromptTemplate(
    [
        ("system", "You sort messages of customers. Answer billing or delivery."),
        ("user", "{message}"),
    ]
)
REPLY = ChatPromptTemplate([("system", "Write a kind reply to the customer."), ("user", "{message} ({queue})")])


def _queue(text: str) -> str:
    return "billing" if set(QUEUES["billing"]) & set(text.split()) else "delivery"


def _sorry(text: str) -> str:
    """A reply that no student can give: it is not a copy of what was said."""
    return f"We are sorry. {text[::-1]}"


class Provider(Teacher):
    """An LLM that sorts, writes, calls tools, and gives JSON where that is asked for."""

    def _reply(self, messages, stop, kwargs):
        text = messages[-1].text
        self.asked.append({"system": messages[0].text, "text": text})
        usage = {"input_tokens": 50, "output_tokens": 2, "total_tokens": 52}
        if "sort" in messages[0].text:
            answer = _queue(text)
        elif kwargs.get("response_format"):
            answer = json.dumps({"queue": _queue(text)})
        elif kwargs.get("tools") and messages[-1].type != "tool":
            call = {"name": "look_up", "args": {"text": text}, "id": "1", "type": "tool_call"}
            return AIMessage("", tool_calls=[call], usage_metadata=usage)
        else:
            answer = _sorry(text)
        return AIMessage(answer, usage_metadata=usage)

    def asked_to(self, what: str) -> int:
        return sum(what in each["system"] for each in self.asked)


def _messages(count: int, seed: int) -> list[str]:
    return [call["messages"][1]["content"] for call in easy_calls(count, seed=seed)]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """The provider and the wrapped model, after the step that sorts has been learnt and replaced."""
    provider = Provider()
    policy = Policy(families=("lexical",), attempt_growth=1000, audit_share_start=0.001, audit_share_min=0.001)
    folder = tmp_path_factory.mktemp("state")
    jitr = JITR(f"sqlite:///{folder}/jitr.db", policy=policy, training="inline", seed=1)
    llm = JITRChatModel(llm=provider, jitr=jitr)
    _sort(llm).batch([{"message": message} for message in _messages(250, 0)], {"max_concurrency": 1})
    jitr.flush()
    yield provider, llm
    assert not jitr.faults and not jitr.open_store().verify()
    jitr.close()


@pytest.fixture
def app(learnt):
    provider, llm = learnt
    provider.asked.clear()
    return provider, llm


def _sort(llm):
    return SORT | llm.with_config(tags=["jitr:sort"]) | StrOutputParser()


def _service(llm):
    """Sorts a message, then writes a reply that depends on where it went."""
    return RunnableParallel(message=itemgetter("message"), queue=_sort(llm)) | RunnableParallel(
        queue=itemgetter("queue"), reply=REPLY | llm | StrOutputParser()
    )


def _are_served(served: list[dict[str, str]], messages: list[str]) -> bool:
    """True if each reply is that to its message, and the queues are right but for what is promised."""
    right = [each["queue"] == _queue(message) for each, message in zip(served, messages, strict=True)]
    replies = [_sorry(f"{message} ({each['queue']})") for each, message in zip(served, messages, strict=True)]
    return [each["reply"] for each in served] == replies and sum(right) >= 0.95 * len(right)


def _web(llm):
    """A FastAPI service around `_service`: one way in waits on the event loop, the other runs in a thread."""
    fastapi = pytest.importorskip("fastapi")
    chain, web = _service(llm), fastapi.FastAPI()

    def said(tenant: str):
        return {"configurable": {"jitr_tenant": tenant}}

    @web.post("/waiting")
    async def waiting(message: str, tenant: str = ""):
        return await chain.ainvoke({"message": message}, said(tenant))

    @web.post("/threaded")
    def threaded(message: str, tenant: str = ""):
        return chain.invoke({"message": message}, said(tenant))

    @web.post("/streamed")
    async def streamed(message: str):
        async def pieces():
            async for piece in (REPLY | llm | StrOutputParser()).astream({"message": message, "queue": "none"}):
                yield piece

        return fastapi.responses.StreamingResponse(pieces())

    return web


async def test_an_async_service_under_200_concurrent_requests(app):
    httpx = pytest.importorskip("httpx")
    provider, llm = app
    messages, web = _messages(200, 9), _web(llm)
    known = sum(1 for _ in llm.jitr.open_store().observations())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(web), base_url="http://app", timeout=60) as client:

        async def request(message: str, tenant: str, way: str) -> dict[str, str]:
            got = await client.post(way, params={"message": message, "tenant": tenant})
            assert got.status_code == 200
            return got.json()

        ways = ("/waiting", "/threaded")
        asked = (request(m, "" if i % 4 else "new", ways[i // 4 % 2]) for i, m in enumerate(messages))
        served = await asyncio.gather(*asked)
        assert _are_served(served, messages)
        assert provider.asked_to("Write") == 200
        assert 50 <= provider.asked_to("sort") < 120  # all 50 of the tenant that is new, a few of the others
        llm.jitr.flush()
        stored = Counter((o.call.tenant, o.decision.kind) for o in llm.jitr.open_store().observations())
        assert stored["new", "teacher"] == 100 and not stored["new", "replacement"]
        assert sum(stored.values()) == known + 400
        provider.asked.clear()
        told = await client.post("/streamed", params={"message": "x y"})
        assert told.text == _sorry("x y (none)") and len(provider.asked) == 1


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_batch_of_1000(app, asynchronous):
    provider, llm = app
    chain, messages = _service(llm), _messages(1000, 9)
    inputs = [{"message": message} for message in messages]
    served = asyncio.run(chain.abatch(inputs)) if asynchronous else chain.batch(inputs, {"max_concurrency": 8})
    assert _are_served(served, messages)
    assert provider.asked_to("Write") == 1000 and provider.asked_to("sort") < 500


class Ticket(BaseModel):
    """A ticket."""

    queue: str


def test_a_chain_with_structured_output(app):
    provider, llm = app
    extract = ChatPromptTemplate([("system", "Fill in the ticket."), ("user", "{message}")])
    structured = llm.bind(response_format={"type": "json_object"}) | StrOutputParser() | Ticket.model_validate_json
    chain = RunnableParallel(queue=_sort(llm), ticket=extract | structured)
    messages = _messages(60, 9)
    got = chain.batch([{"message": message} for message in messages], {"max_concurrency": 4})
    assert [each["ticket"].queue for each in got] == list(map(_queue, messages))
    assert sum(each["queue"] == each["ticket"].queue for each in got) >= 57
    assert provider.asked_to("Fill") == 60 and provider.asked_to("sort") < 30


def test_a_graph_with_two_models_and_a_tool(app):
    graphs = pytest.importorskip("langgraph.graph")
    prebuilt = pytest.importorskip("langgraph.prebuilt")
    provider, llm = app

    class State(graphs.MessagesState):
        queue: str

    def look_up(text: str) -> str:
        """Looks something up."""
        return f"found {text}"

    def sort(state):
        return {"queue": _sort(llm).invoke({"message": state["messages"][0].text})}

    def reply(state):
        return {"messages": [llm.bind_tools([look_up]).invoke([("system", "Help."), *state["messages"]])]}

    built = graphs.StateGraph(State).add_node("sort", sort).add_node("reply", reply)
    built.add_node("tools", prebuilt.ToolNode([look_up])).add_edge(graphs.START, "sort").add_edge("sort", "reply")
    graph = built.add_conditional_edges("reply", prebuilt.tools_condition).add_edge("tools", "reply").compile()
    messages = _messages(60, 9)
    ends = [graph.invoke({"messages": [("user", message)]}) for message in messages]
    assert sum(end["queue"] == _queue(message) for end, message in zip(ends, messages, strict=True)) >= 57
    assert all(
        [m.type for m in end["messages"]] == ["human", "ai", "tool", "ai"]
        and end["messages"][-1].text == _sorry(f"found {message}")
        for end, message in zip(ends, messages, strict=True)
    )
    assert provider.asked_to("Help") == 120 and provider.asked_to("sort") < 30
