"""Whole apps: one simple step is replaced, the rest stays with the LLM."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from easy import QUEUES, easy_calls
from llama_index.core import Document, MockEmbedding, PromptTemplate, Settings, SummaryIndex, VectorStoreIndex
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import CondenseQuestionChatEngine
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.postprocessor import LLMRerank
from llama_index.core.query_engine import RouterQueryEngine, TransformQueryEngine
from llama_index.core.selectors import LLMSingleSelector
from llama_index.core.tools import FunctionTool, QueryEngineTool
from llama_index.core.workflow import Event, StartEvent, StopEvent, Workflow, step
from llamaindex_fakes import CallingTeacher, FakeEngine, Teacher

from jitr_core import JITR, Certificate, Policy, Release
from jitr_core.route import LoadedRelease
from jitr_llamaindex import JITRLLM, jitr_step

BILLING = dict.fromkeys(QUEUES["billing"], "billing")
SORTS = {**BILLING, "Message:": "delivery"}
SORT = PromptTemplate("You sort messages of customers. Answer billing or delivery.\n{message}")


def texts(count: int, seed: int = 0) -> list[str]:
    """Messages whose queue follows from one word."""
    return [call["messages"][1]["content"] for call in easy_calls(count, seed)]


@pytest.fixture
def jitr(tmp_path):
    made = JITR(f"sqlite:///{tmp_path}/jitr.db", policy=Policy(families=("lexical",)), training="inline", seed=1)
    yield made
    assert not made.faults
    made.close()


class Clerk(Teacher):
    """Sorts by a word, and replies in words that are no copy of the message."""

    def _text(self, asked, kwargs):
        text = super()._text(asked, kwargs)
        return text if "You sort" in self.asked[-1][0] else f"Dear customer, about {asked[-1].content[::-1]}"


class Sorted(Event):
    queue: str


class Desk(Workflow):
    """Sorts a message, then answers it."""

    def __init__(self, llm) -> None:
        super().__init__(timeout=30)
        self.llm = llm

    @step
    async def sort(self, ev: StartEvent) -> Sorted:
        self.text = ev.text
        return Sorted(queue=await self.llm.apredict(SORT, message=ev.text))

    @step
    async def reply(self, ev: Sorted) -> StopEvent:
        messages = [ChatMessage(role="system", content="Write a reply."), ChatMessage(content=self.text)]
        response = await self.llm.achat(messages)
        return StopEvent(result=(ev.queue, response.message.content))


async def test_a_workflow_whose_sorting_is_learnt_and_replaced(jitr):
    teacher, bare = Clerk(says=SORTS), Clerk(says=SORTS)
    llm = JITRLLM(llm=teacher, jitr=jitr)
    for text in texts(260):
        await Desk(llm).run(text=text)
    jitr.flush()
    teacher.asked.clear()
    later = texts(40, seed=9)
    got = [await Desk(llm).run(text=text) for text in later]
    expected = [await Desk(bare).run(text=text) for text in later]
    assert sum(a == b for a, b in zip(got, expected, strict=True)) >= 38
    replies = [prompt for prompt, _ in teacher.asked if "Write a reply" in prompt]
    assert len(replies) == 40 and len(teacher.asked) - len(replies) < 20  # the rest of the sorting was replaced
    store = jitr.open_store()
    states = {template.step: store.task(template.task).state for template in store.templates()}
    assert states.pop("@Desk.sort") == "active" and set(states.values()) <= {"observing", "refused"}


def serve(jitr: JITR, step_name: str, answer, monkeypatch) -> None:
    """Has a test double answer a step behind the real route, as if it were certified."""

    class Double:
        def predict_one(self, slots):
            return answer, 0.99, False

    jitr.flush()
    templates = [template for template in jitr.open_store().templates() if template.step == step_name]
    (task,) = {template.task for template in templates}
    certificate = Certificate(0.95, 0.05, 0.5, 1.0, 100, 0, 0.97)
    release = Release("double", task, "lexical", None, "", 0, certificate, 0.0)
    ids = frozenset(template.id for template in templates)
    jitr._router.load({task: LoadedRelease(release, Double(), lambda: 0.0, ids)})
    monkeypatch.setattr(jitr._router, "load", lambda table: None)


CHOICE = '[{"choice": 1, "reason": "it fits"}]'
RAG_SAYS = {
    "Some choices are given": CHOICE,
    "A list of documents is shown": "Doc: 1, Relevance: 9",
    "write a passage": "Parcels take two days.",
    "Context information": "In two days.",
}
QUESTIONS = [f"Where is parcel {i} of {name}?" for i in range(12) for name in ("Ada", "Ben")]


def rag(llm):
    """Rewrites the query, chooses an index, retrieves, reranks, answers."""
    Settings.embed_model = MockEmbedding(8)
    index = VectorStoreIndex.from_documents([Document(text="Parcels take two days."), Document(text="Refunds: ten.")])
    engine = index.as_query_engine(llm=llm, node_postprocessors=[LLMRerank(llm=llm, top_n=1)], similarity_top_k=2)
    rewriting = TransformQueryEngine(engine, HyDEQueryTransform(llm=llm))
    tools = [
        QueryEngineTool.from_defaults(rewriting, description="parcels"),
        QueryEngineTool.from_defaults(SummaryIndex([]).as_query_engine(llm=llm), description="everything else"),
    ]
    return RouterQueryEngine(selector=LLMSingleSelector.from_defaults(llm=llm), query_engine_tools=tools, llm=llm)


def answers(engine, questions):
    return [(str(response), len(response.source_nodes)) for response in map(engine.query, questions)]


KINDS = {
    "single_select": ("Some choices are given", CHOICE),
    "summary": ("write a passage", "Parcels take two days."),
    "choice_select": ("A list of documents is shown", "Doc: 1, Relevance: 9"),
    "text_qa": ("Context information", "In two days."),
}


@pytest.mark.parametrize("replaced", KINDS)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_each_step_of_a_query_engine_can_be_replaced_alone(replaced, asynchronous, jitr, monkeypatch):
    monkeypatch.setattr(Settings, "_embed_model", None)
    teacher = Teacher(says=RAG_SAYS)
    bare = answers(rag(Teacher(says=RAG_SAYS)), QUESTIONS)
    engine = rag(JITRLLM(llm=teacher, jitr=jitr))
    assert answers(engine, QUESTIONS) == bare and len(teacher.asked) == 4 * len(QUESTIONS)
    assert {template.step for template in jitr.open_store().templates()} == {f"@{kind}" for kind in KINDS}
    word, answer = KINDS[replaced]
    serve(jitr, f"@{replaced}", answer, monkeypatch)
    teacher.asked.clear()
    if asynchronous:
        got = [asyncio.run(engine.aquery(question)) for question in QUESTIONS]
        assert [str(response) for response in got] == [text for text, _ in bare]
    else:
        assert answers(engine, QUESTIONS) == bare
    assert len(teacher.asked) == 3 * len(QUESTIONS) and not any(word in prompt for prompt, _ in teacher.asked)


def test_a_streamed_answer_of_a_query_engine_comes_from_the_replacement(jitr, monkeypatch):
    monkeypatch.setattr(Settings, "_embed_model", MockEmbedding(8))
    teacher = Teacher(says={"Context information": "In two days."})
    index = VectorStoreIndex.from_documents([Document(text="Parcels take two days.")])
    engine = index.as_query_engine(llm=JITRLLM(llm=teacher, jitr=jitr), streaming=True)
    for question in QUESTIONS:
        assert "".join(engine.query(question).response_gen) == "In two days."
    serve(jitr, "@text_qa", "Soon.", monkeypatch)
    teacher.asked.clear()
    assert list(engine.query("Where is parcel 99 of Ada?").response_gen) == ["Soon."] and not teacher.asked


# LlamaIndex's own, with or without the wrapper
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
async def test_an_agent_whose_tool_asks_the_llm_to_sort(jitr, monkeypatch):
    teacher = CallingTeacher(says={"You sort": "delivery"})
    llm = JITRLLM(llm=teacher, jitr=jitr)
    seen = iter(texts(60))

    def sort_message(text: str) -> str:
        """Sorts a message of a customer."""
        with jitr_step("sort"):
            return llm.predict(SORT, message=next(seen))

    agent = FunctionAgent(llm=llm, tools=[FunctionTool.from_defaults(sort_message)], system_prompt="You help.")
    before = [str(await agent.run(f"message {i}")) for i in range(20)]
    calls = Counter("sort" if "You sort" in prompt else "agent" for prompt, _ in teacher.asked)
    assert calls == {"sort": 20, "agent": 40}
    serve(jitr, "sort", "delivery", monkeypatch)
    teacher.asked.clear()
    assert [str(await agent.run(f"message {i}")) for i in range(20)] == before
    assert len(teacher.asked) == 40 and not any("You sort" in prompt for prompt, _ in teacher.asked)
    assert all("tools" in kwargs for _, kwargs in teacher.asked)


def test_a_chat_engine_whose_condensing_of_questions_is_replaced(jitr, monkeypatch):
    monkeypatch.setattr(Settings, "_embed_model", MockEmbedding(8))
    says = {"Follow Up Message": "Where is the parcel?", "Context information": "In two days."}
    index = VectorStoreIndex.from_documents([Document(text="Parcels take two days.")])

    def chat(llm, name):
        engine = CondenseQuestionChatEngine.from_defaults(index.as_query_engine(llm=llm), llm=llm)
        engine.chat(f"I am {name}.")  # with no history there is nothing to condense
        return str(engine.chat("And where is mine?"))

    names = [f"Ada {i}" for i in range(10)]
    bare, teacher = Teacher(says=says), Teacher(says=says)
    expected = [chat(bare, name) for name in names]
    llm = JITRLLM(llm=teacher, jitr=jitr)
    assert [chat(llm, name) for name in names] == expected and len(teacher.asked) == len(bare.asked) == 30
    jitr.flush()
    steps = {template.step for template in jitr.open_store().templates()}
    (condensing,) = steps - {"@text_qa"}
    serve(jitr, condensing, "Where is the parcel?", monkeypatch)
    teacher.asked.clear()
    assert [chat(llm, name) for name in names] == expected
    assert len(teacher.asked) == 20 and not any("Follow Up" in prompt for prompt, _ in teacher.asked)


# LlamaIndex's own, with or without the wrapper
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
@pytest.mark.filterwarnings("ignore:is_running called:DeprecationWarning")
async def test_a_reasoning_agent_whose_tool_asks_the_llm_to_sort(jitr, monkeypatch):
    says = {
        "You sort": "delivery",
        "Observation: delivery": "Thought: I can answer without using any more tools.\nAnswer: delivery it is",
        "You have access": 'Thought: I need a tool.\nAction: sort_message\nAction Input: {"text": "my parcel"}',
    }
    teacher, seen = Teacher(says=says), iter(texts(60))
    llm = JITRLLM(llm=teacher, jitr=jitr)

    def sort_message(text: str) -> str:
        """Sorts a message of a customer."""
        with jitr_step("sort"):
            return llm.predict(SORT, message=next(seen))

    agent = ReActAgent(llm=llm, tools=[FunctionTool.from_defaults(sort_message)], streaming=False)
    before = [str(await agent.run(f"message {i}")) for i in range(10)]
    assert set(before) == {"delivery it is"} and len(teacher.asked) == 30
    serve(jitr, "sort", "delivery", monkeypatch)
    teacher.asked.clear()
    assert [str(await agent.run(f"message {i}")) for i in range(10)] == before
    assert len(teacher.asked) == 20 and not any("You sort" in prompt for prompt, _ in teacher.asked)


def test_two_integrations_share_one_engine():
    from langchain_core.language_models.fake_chat_models import FakeListChatModel

    from jitr_langchain import JITRChatModel

    engine = FakeEngine()
    JITRLLM(llm=Teacher(), jitr=engine).complete("x")
    JITRChatModel(llm=FakeListChatModel(responses=["x"]), jitr=engine).invoke("x")
    assert [answer.text for answer in engine.answers] == ["re: x", "x"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_serves_and_leaves(tmp_path):
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_llamaindex_apps import *\n"
        "jitr = JITR(sys.argv[2], training='off')\n"
        "llm = JITRLLM(llm=Teacher(), jitr=jitr)\n"
        "child = os.fork()\n"
        "for text in texts(20): assert llm.complete(text).text == 're: ' + text\n"
        "jitr.close()\n"
        "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    url = f"sqlite:///{tmp_path}/jitr.db"
    command = [sys.executable, "-W", "ignore", "-c", program, str(Path(__file__).parent), url]
    assert subprocess.run(command, timeout=100, check=False).returncode == 0
    from jitr_core.store import Store

    with Store(url) as store:
        assert sum(1 for _ in store.observations()) == 40
