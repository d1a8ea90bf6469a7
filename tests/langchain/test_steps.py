"""Which step a call belongs to and which task is found, in the shapes apps have; without the user doing anything."""

from __future__ import annotations

import asyncio
import operator
import random
from collections import Counter
from typing import Annotated, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langchain_fakes import FakeEngine, Recorder, Teacher
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Send

from jitr_core import JITR, Policy, manage
from jitr_langchain import JITRChatModel

SORT = ChatPromptTemplate.from_messages([("system", "Sort the message: delivery or payment?"), ("user", "{message}")])
RATE = ChatPromptTemplate.from_template("How urgent is this on a scale from one to five?\n\nText: {text}\n\nUrgency:")
WORDS = "parcel refund courier invoice depot charge van receipt late today still my the again hello phone".split()


def message(i: int) -> str:
    return " ".join(random.Random(i).choices(WORDS, k=7)) + f" {i}"


@pytest.fixture
def steps(engine):
    """The steps of the calls so far, with the number of calls each."""
    return lambda: dict(Counter(call.step for call in engine.decided))


def chain_of(llm):
    """A chain with two LLM steps: the second rates what the first answered."""
    return SORT | llm | StrOutputParser() | (lambda text: {"text": text}) | RATE | llm | StrOutputParser()


def graph_of(llm):
    """A graph whose first node asks once, whose second asks two different things."""

    def sort(state):
        return {"messages": [llm.invoke(SORT.invoke({"message": state["messages"][0].content}))]}

    def both(state):
        text = state["messages"][0].content
        return {"messages": [(SORT | llm).invoke({"message": text}), (RATE | llm).invoke({"text": text})]}

    graph = StateGraph(MessagesState)
    graph.add_node("sort", sort)
    graph.add_node("both", both)
    graph.add_edge(START, "sort")
    graph.add_edge("sort", "both")
    graph.add_edge("both", END)
    return graph.compile()


def nested(graph):
    outer = StateGraph(MessagesState)
    outer.add_node("outer", graph)
    outer.add_edge(START, "outer")
    outer.add_edge("outer", END)
    return outer.compile()


class Item(TypedDict):
    number: int


class Found(TypedDict):
    found: Annotated[list, operator.add]


def fan_out(llm):
    """A graph that sends work to one node several times at once."""
    graph = StateGraph(Found)
    graph.add_node("work", lambda item: {"found": [llm.invoke(message(item["number"])).content]})
    graph.add_conditional_edges(START, lambda state: [Send("work", Item(number=i)) for i in range(3)], ["work"])
    graph.add_edge("work", END)
    return graph.compile()


SAY = {"messages": [("user", "late parcel")]}


def test_steps_of_a_chain_are_told_apart_by_their_prompts_alone(wrapped, steps):
    chain = chain_of(wrapped)
    chain.invoke({"message": "a"}, {"run_name": "outer", "tags": ["customer:7"], "metadata": {"customer": 7}})
    list(chain.stream({"message": "a"}))
    chain.batch([{"message": "a"}, {"message": "b"}])
    asyncio.run(chain.ainvoke({"message": "a"}))
    (SORT | wrapped.with_retry()).invoke({"message": "a"})
    (SORT | wrapped.with_fallbacks([wrapped])).invoke({"message": "a"})
    assert steps() == {"": 12}


def test_branches_that_run_at_once_need_no_names(wrapped, steps):
    RunnableParallel(a=SORT | wrapped, b=RATE | wrapped).invoke({"message": "a", "text": "b"})
    (SORT | RunnableParallel(a=wrapped, b=wrapped)).invoke({"message": "a"})
    assert steps() == {"": 4}


def test_a_name_bound_to_the_model_tells_its_place_without_the_ids_in_it(wrapped, steps):
    for name in ("judge", "judge 1f0c2b7e-58a4-4a0e-9d1c-3f6f0a4b2c11", "judge 7f3a9c01", "facade", "decade 2"):
        (SORT | wrapped.with_config(run_name=name)).invoke({"message": "a"})
    assert steps() == {"@judge": 1, "@judge ": 2, "@facade": 1, "@decade 2": 1}


def test_the_nodes_of_a_graph_are_places_however_it_runs(wrapped, steps):
    graph = graph_of(wrapped)
    graph.invoke(SAY)
    list(graph.stream(SAY, stream_mode="messages"))
    asyncio.run(graph.ainvoke(SAY))
    asyncio.run(graph.abatch([SAY, SAY]))
    assert steps() == {"@sort": 5, "@both": 10}


def test_a_graph_within_a_graph_is_a_path_of_nodes(wrapped, steps):
    nested(graph_of(wrapped)).invoke(SAY)
    nested(RunnableLambda(graph_of(wrapped).invoke)).invoke(SAY)
    assert steps() == {"@outer/sort": 2, "@outer/both": 4}


def test_work_that_is_sent_out_several_times_is_one_place(wrapped, steps):
    fan_out(wrapped).invoke({"found": []})
    assert steps() == {"@work": 3}


def test_tasks_of_the_functional_interface_are_places(wrapped, steps):
    @task
    def ask(text):
        return wrapped.invoke(text).content

    @entrypoint()
    def flow(text):
        return ask(text).result()

    flow.invoke("hello")
    assert steps() == {"@flow/ask": 1}


def test_the_model_of_an_agent_is_a_place_before_and_after_its_tools(engine, steps):
    @tool
    def look(text: str) -> str:
        """Look it up."""
        return "seen"

    class CallsOnce(Teacher):
        def _reply(self, messages, stop, kwargs):
            seen = messages[-1].type == "tool"
            return super()._reply(messages, stop, {k: v for k, v in kwargs.items() if not (seen and k == "tools")})

    llm = JITRChatModel(llm=CallsOnce(), jitr=engine)
    create_agent(llm, [look], system_prompt="You look things up.", name="helper").invoke(SAY)
    create_agent(llm, [], system_prompt="You are kind.").invoke(SAY)
    assert steps() == {"@helper/model": 2, "@model": 1}
    assert [call.replaceable for call in engine.decided] == [False, False, True]


@pytest.mark.parametrize("declared", [{"metadata": {"jitr_step": "mine"}}, {"tags": ["jitr:mine"]}])
def test_a_declared_step_wins_over_every_place(declared, wrapped, steps):
    graph_of(wrapped).invoke(SAY, declared)
    create_agent(wrapped, [], name="helper").invoke(SAY, declared)
    wrapped.with_config(run_name="judge").invoke("x", declared)
    assert steps() == {"mine": 5}
    graph_of(wrapped.model_copy(update={"step": "yours"})).invoke(SAY, declared)
    assert steps() == {"mine": 5, "yours": 3}


# --- and what the engine makes of them ---


class Sorter(Teacher):
    """Answers the two prompts above, and whatever else is asked with what it was asked."""

    def _reply(self, messages, stop, kwargs):
        reply = super()._reply(messages, stop, kwargs)
        text = messages[-1].text
        if "urgent" in messages[0].text:
            return reply.model_copy(update={"content": str(1 + len(text) % 5)})
        return reply.model_copy(update={"content": "delivery" if "parcel" in text else "payment"})


def run_chain(llm, i):
    (SORT | llm).invoke({"message": message(i)})
    (RATE | llm).invoke({"text": message(i)})


def run_parallel(llm, i):
    RunnableParallel(a=SORT | llm, b=RATE | llm).invoke({"message": message(i), "text": message(i)})


def run_node(llm, i):
    graph_of(llm).invoke({"messages": [("user", message(i))]})


def run_agents(llm, i):
    for prompt in ("Sort what customers write: delivery or payment?", "Say how urgent it is, from one to five."):
        create_agent(llm, [], system_prompt=prompt).invoke({"messages": [("user", message(i))]})


@pytest.mark.parametrize(
    ("run", "places"),
    [
        (run_chain, ["", ""]),
        (run_parallel, ["", ""]),
        (run_node, ["both", "both", "sort"]),
        (run_agents, ["model"] * 2),
    ],
)
def test_two_jobs_in_one_place_are_two_tasks_whose_inputs_are_the_variables(run, places, tmp_path):
    jitr = JITR(f"sqlite:///{tmp_path}/jitr.db", policy=Policy(families=("lexical",)), training="off")
    llm = JITRChatModel(llm=Sorter(), jitr=jitr)
    for i in range(30):
        run(llm, i)
    jitr.flush()
    store = jitr.open_store()
    templates = [manage.task_templates(store, each) for each in store.tasks()]
    assert sorted(each.template.step.removeprefix("@") for (each,) in templates) == places
    for each in store.tasks():
        inputs = [seen.decision.match.slots for seen in store.latest(each.id, 100)]
        assert sorted(inputs) == sorted((message(i),) for i in range(30))
    assert not jitr.faults
    jitr.close()


def test_a_node_that_users_chat_with_makes_no_task_of_one_off_questions(tmp_path):
    openings = ["Write a", "What is the", "Name some", "Explain the", "How do I", "Why is", "Translate", "Who"]
    jitr = JITR(f"sqlite:///{tmp_path}/jitr.db", policy=Policy(families=("lexical",)), training="off")
    graph = StateGraph(MessagesState)
    llm = JITRChatModel(llm=Teacher(), jitr=jitr)
    graph.add_node("chat", lambda state: {"messages": [llm.invoke(state["messages"])]})
    graph.add_edge(START, "chat")
    app = graph.compile()
    for i in range(80):
        app.invoke({"messages": [("user", f"{openings[i % 8]} {message(i)}")]})
    jitr.flush()
    assert jitr.open_store().tasks() == []
    jitr.close()


def test_an_engine_that_fails_changes_no_shape():
    llm, bare = JITRChatModel(llm=Teacher(), jitr=FakeEngine(dead=True)), Teacher()
    for run in (lambda m: graph_of(m).invoke(SAY), lambda m: create_agent(m, []).invoke(SAY)):
        said, expected = ([each.content for each in run(model)["messages"]] for model in (llm, bare))
        assert said == expected


def test_the_teacher_is_asked_aside_what_a_task_is_and_the_app_hears_nothing_of_it(tmp_path):
    class Knows(Sorter):
        def _reply(self, messages, stop, kwargs):
            reply = super()._reply(messages, stop, kwargs)
            if "what kind of task" not in messages[-1].text:
                return reply
            assert kwargs == {} and stop is None
            return reply.model_copy(update={"content": '{"task_type": "classification", "name": "Sort messages"}'})

    policy = Policy(families=("lexical",), ask_teacher=1)
    jitr = JITR(f"sqlite:///{tmp_path}/jitr.db", policy=policy, training="off")
    recorder = Recorder()
    llm = JITRChatModel(llm=Knows(), jitr=jitr).bind(stop=["!"])
    answers = {(SORT | llm).invoke({"message": message(i)}, {"callbacks": [recorder]}).content for i in range(20)}
    jitr.flush()
    (SORT | llm).invoke({"message": message(20)})
    jitr.flush()
    jitr.flush()
    (found,) = jitr.open_store().tasks()
    assert (found.name, found.task_type) == ("Sort messages", "classification")
    assert answers == {"delivery", "payment"} and "what kind of task" not in str(recorder.events)
    assert not jitr.faults
    jitr.close()
