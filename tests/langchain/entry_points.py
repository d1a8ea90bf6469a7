"""Every way in which an app uses a chat model."""

from __future__ import annotations

import asyncio
import warnings

from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

PROMPT = ChatPromptTemplate([("system", "You are terse."), ("human", "{question}")])
INPUTS = [{"question": "one two"}, {"question": "three"}]


async def collect(stream):
    return [item async for item in stream]


def _run(coroutine):
    return asyncio.run(coroutine)


def _events_v3(chain, config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = chain.stream_events(PROMPT.invoke(INPUTS[0]), config, version="v3")
        return [*list(stream), stream.output]


async def _aevents_v3(chain, config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = await chain.astream_events(PROMPT.invoke(INPUTS[0]), config, version="v3")
        try:
            return [*[event async for event in stream], await stream.output]
        finally:
            await stream._producer_task  # else the loop may close before the callbacks hear of the end


def _chain(llm):
    return PROMPT | llm | StrOutputParser()


# name → what an app does with a model, and gets
ENTRY_POINTS = {
    "invoke": lambda llm, config: llm.invoke("one two", config),
    "ainvoke": lambda llm, config: _run(llm.ainvoke("one two", config)),
    "batch": lambda llm, config: llm.batch(["one two", "three"], {**config, "max_concurrency": 1}),
    "abatch": lambda llm, config: _run(llm.abatch(["one two", "three"], {**config, "max_concurrency": 1})),
    "stream": lambda llm, config: list(llm.stream("one two", config)),
    "astream": lambda llm, config: _run(collect(llm.astream("one two", config))),
    "generate": lambda llm, config: llm.generate([[HumanMessage("one")], [HumanMessage("two")]], **config),
    "agenerate": lambda llm, config: _run(llm.agenerate([[HumanMessage("one two")]], **config)),
    "chain": lambda llm, config: _chain(llm).invoke(INPUTS[0], config),
    "chain, async": lambda llm, config: _run(_chain(llm).ainvoke(INPUTS[0], config)),
    "chain, batch": lambda llm, config: _chain(llm).batch(INPUTS, {**config, "max_concurrency": 1}),
    "chain, streamed": lambda llm, config: list(_chain(llm).stream(INPUTS[0], config)),
    "chain, async streamed": lambda llm, config: _run(collect(_chain(llm).astream(INPUTS[0], config))),
    "chain, events": lambda llm, config: _run(collect(_chain(llm).astream_events(INPUTS[0], config, version="v2"))),
    "events v3": _events_v3,
    "events v3, async": lambda llm, config: _run(_aevents_v3(llm, config)),
    "bound": lambda llm, config: llm.bind(stop=["!"]).with_config(run_name="named").invoke("one two", config),
    "with retry": lambda llm, config: llm.with_retry(wait_exponential_jitter=False).invoke("one two", config),
}
