"""What JITR costs an app, next to its budgets: time per call, imports, modules loaded.

    python benchmarks/overhead.py [--engine fake|jitr] [--rounds N]

Bare and wrapped calls take turns; their p50 are subtracted. What is held against a budget is the CPU time of the
calling thread: on a machine that does other things too, wall time has two modes, with and without being interrupted,
and its p50 falls into either. The wall time is printed beside it. Exits 1 if a budget is missed by more than `FACTOR`
(function calls, which do not depend on the machine at all, are gated in the tests).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate

from jitr_core.types import Decision, Match
from jitr_langchain import Engine, JITRChatModel

ROOT = Path(__file__).resolve().parent.parent
FACTOR = 1.5
CHUNKS = 200
REPLACED_US = {"fake": {"no student": 1000}, "jitr": {"lexical": 1000, "encoder": 10_000}}  # budgets by family
HEAVY = ("torch", "transformers", "peft", "chromadb", "sklearn", "numpy")
FRAMEWORKS = ("langchain_core", "langchain", "llama_index")
PROMPT = ChatPromptTemplate([("system", "Is this review positive or negative? One word."), ("human", "{review}")])
GOOD = ("lovely", "moving", "brilliant", "warm", "witty")
BAD = ("dull", "clumsy", "shallow", "cold", "tedious")


@dataclass
class Row:
    """One measurement; `budget` in the same unit, None where there is none."""

    name: str
    value: float | None
    unit: str
    budget: float | None = None
    wall: float | None = None

    @property
    def missed(self) -> bool:
        """True if the value is beyond the budget by more than `FACTOR`, or could not be measured."""
        return self.budget is not None and (self.value is None or self.value > FACTOR * self.budget)

    def __str__(self) -> str:
        value = "not reached" if self.value is None else f"{self.value:.3g} {self.unit}"
        wall = "" if self.wall is None else f"{self.wall:.3g} {self.unit} wall"
        verdict = "" if self.budget is None else f"budget {self.budget:g} {self.unit}{'   MISSED' * self.missed}"
        return f"{self.name:<44}{value:>14}{wall:>18}   {verdict}".rstrip()


class Teacher(BaseChatModel):
    """Answers at once, so that only LangChain and JITR take time."""

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        good = any(word in messages[-1].content for word in GOOD)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("Positive" if good else "Negative"))])

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return self._generate(messages)

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        for _ in range(CHUNKS):
            yield ChatGenerationChunk(message=AIMessageChunk(content="word "))

    @property
    def _llm_type(self) -> str:
        return "teacher"


class FakeEngine:
    """An engine that costs nothing: what remains is the wrapper."""

    def __init__(self, replacing: bool) -> None:
        match = Match("task", "template", ())
        self.decision = Decision("teacher", "no_task")
        if replacing:
            self.decision = Decision("replacement", "answered", match, "release", "Positive", 0.99, audit=False)

    def decide(self, call: Any) -> Decision:
        """Always the same."""
        return self.decision

    def observe(self, call: Any, decision: Any, answer: Any) -> None:
        """Nothing."""

    def audit(self, call: Any, decision: Any, ask: Any) -> None:
        """Nothing."""

    def fault(self, where: str, error: BaseException) -> None:
        """Raises: what is measured must work."""
        raise error

    def close(self) -> None:
        """Nothing."""


def engine(name: str, folder: str, replacing: str = "") -> Any:
    """The engine to measure; the real one learns a replacement of the family `replacing` from the calls it gets."""
    if name == "fake":
        return FakeEngine(bool(replacing))
    from jitr_core.config import Policy
    from jitr_core.engine import JITR

    url = f"sqlite:///{folder}/{replacing or 'observing'}/jitr.db"
    Path(url.removeprefix("sqlite:///")).parent.mkdir()
    policy = Policy(families=(replacing or "lexical",))
    return JITR(url, policy=policy, training="inline" if replacing else "off", seed=0)


def review(rng: random.Random) -> dict[str, str]:
    word = rng.choice(rng.choice((GOOD, BAD)))
    return {"review": f"A {word} film about {rng.choice(('love', 'war', 'chess'))}, number {rng.randrange(10**6)}."}


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """(CPU, wall) time of `work` in µs."""
    wall, cpu = perf_counter(), thread_time()
    work()
    return (thread_time() - cpu) * 1e6, (perf_counter() - wall) * 1e6


def p50(times: list[tuple[float, float]]) -> tuple[float, float]:
    """Medians of (CPU, wall) times."""
    return statistics.median(cpu for cpu, _ in times), statistics.median(wall for _, wall in times)


def observed_rows(observing: Engine, rounds: int) -> list[Row]:
    bare, wrapped = Teacher(), JITRChatModel(llm=Teacher(), jitr=observing)
    chains = [PROMPT | llm | StrOutputParser() for llm in (bare, wrapped)]
    rng = random.Random(0)
    loop = asyncio.new_event_loop()
    rows = []

    def measure(name: str, use: Callable[[Any], Any], models: Any, budget: float, per: int = 1) -> None:
        turns = [[timed(lambda m=m: use(m)) for m in models] for _ in range(rounds // (5 if per > 1 else 1))]
        (cpu, wall), (cpu_now, wall_now) = (p50(list(times)) for times in zip(*turns, strict=True))
        rows.append(Row(f"{name}, bare", cpu / per, "µs", wall=wall / per))
        rows.append(Row(f"{name}, added", (cpu_now - cpu) / per, "µs", budget, (wall_now - wall) / per))

    measure("invoke", lambda llm: llm.invoke("Is it positive? A lovely film."), (bare, wrapped), 60)
    measure("ainvoke", lambda llm: loop.run_until_complete(llm.ainvoke("A lovely film.")), (bare, wrapped), 60)
    measure("prompt | llm | parser", lambda chain: chain.invoke(review(rng)), chains, 100)
    measure("streamed chunk", lambda llm: list(llm.stream("A lovely film.")), (bare, wrapped), 5, per=CHUNKS)
    loop.close()
    return rows


def llamaindex_rows(observing: Engine, rounds: int) -> list[Row]:
    """What an observed call of a LlamaIndex LLM costs; imported late, as it takes seconds."""
    from llama_index.core import PromptTemplate
    from llama_index.core.llms import ChatMessage, MockLLM

    from jitr_llamaindex import JITRLLM

    bare, wrapped = MockLLM(), JITRLLM(llm=MockLLM(), jitr=observing)
    prompt, rng = PromptTemplate("Is this review positive or negative? One word.\n{review}"), random.Random(0)
    uses: list[tuple[str, float, Callable[[Any], Any]]] = [
        ("complete", 25, lambda llm: llm.complete("Is it positive? A lovely film.")),
        ("chat", 25, lambda llm: llm.chat([ChatMessage(content="Is it positive? A lovely film.")])),
        ("predict", 50, lambda llm: llm.predict(prompt, **review(rng))),  # formats a template, then calls
    ]
    rows = []
    for name, budget, use in uses:
        turns = [[timed(lambda m=m, use=use: use(m)) for m in (bare, wrapped)] for _ in range(rounds)]
        (cpu, wall), (cpu_now, wall_now) = (p50(list(times)) for times in zip(*turns, strict=True))
        rows.append(Row(f"LlamaIndex {name}, bare", cpu, "µs", wall=wall))
        rows.append(Row(f"LlamaIndex {name}, added", cpu_now - cpu, "µs", budget, wall_now - wall))
    return rows


def replaced_row(replacing: Engine, rounds: int, family: str, budget: float) -> Row:
    """Time of a whole chain step that a replacement answers; the engine gets up to 2,000 calls to learn it."""
    llm = JITRChatModel(llm=Teacher(), jitr=replacing)
    chain, rng = PROMPT | llm, random.Random(0)
    name = f"prompt | llm, replaced ({family})"
    for _ in range(2000):
        if chain.invoke(review(rng)).response_metadata.get("jitr"):
            cpu, wall = p50([timed(lambda: chain.invoke(review(rng))) for _ in range(rounds)])
            return Row(name, cpu, "µs", budget, wall)
    return Row(name, None, "µs", budget)


def imported(module: str, after: str = "") -> tuple[float, list[str]]:
    """(CPU seconds of importing `module`, best of 4; the heavy modules and frameworks it loads)."""
    code = (
        f"import sys, time\n{after and 'import ' + after}\nbefore = set(sys.modules)\nt = time.process_time()\n"
        f"import {module}\nprint(time.process_time() - t)\n"
        f"print(*(m for m in {HEAVY + FRAMEWORKS!r} if m in sys.modules and m not in before))"
    )
    seconds, loaded = [], ""
    with tempfile.TemporaryDirectory() as cache:  # as installed: compiled
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
        for _ in range(4):
            run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
            first, loaded = run.stdout.split("\n")[:2]
            seconds.append(float(first))
    return min(seconds), loaded.split()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--engine", choices=("fake", "jitr"), default="fake")
    parser.add_argument("--rounds", type=int, default=1000)
    options = parser.parse_args()
    print(
        f"engine: {options.engine}; p50 of {options.rounds} rounds, CPU time; missed: beyond {FACTOR} times the budget"
    )
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.closing(engine(options.engine, folder)) as observing:  # before their folder is gone
            rows = observed_rows(observing, options.rounds)
            rows += llamaindex_rows(observing, options.rounds)
        for family, budget in REPLACED_US[options.engine].items():
            with contextlib.closing(engine(options.engine, folder, family)) as replacing:
                rows.append(replaced_row(replacing, options.rounds, family, budget))
    seconds, loaded = imported("jitr_core")
    rows.append(Row("import jitr_core, CPU", seconds, "s", 0.1))
    rows.append(Row(f"  heavy modules loaded {loaded or ''}", len(loaded), "", 0))
    seconds, loaded = imported("jitr_langchain", after="langchain_core.language_models.chat_models")
    rows.append(Row("import jitr_langchain, over langchain_core, CPU", seconds, "s", 0.05))
    rows.append(Row(f"  heavy modules loaded {loaded or ''}", len(loaded), "", 0))
    seconds, loaded = imported("jitr_llamaindex", after="llama_index.core")
    rows.append(Row("import jitr_llamaindex, over llama_index, CPU", seconds, "s", 0.05))
    rows.append(Row(f"  heavy modules loaded {loaded or ''}", len(loaded), "", 0))
    print(*rows, sep="\n")
    return int(any(row.missed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
