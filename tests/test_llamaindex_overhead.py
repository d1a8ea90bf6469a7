"""What observing costs, counted in calls of Python functions: unlike time, that does not depend on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms import MockLLM

import jitr_llamaindex
from jitr_core.types import Decision
from jitr_llamaindex import JITRLLM

CHUNKS = 200
MESSAGES = [ChatMessage(role="system", content="Sort this."), ChatMessage(content="one two")]
PROMPT = PromptTemplate("Sort this: {text}")


class Quiet:
    """An engine that does nothing: what remains is the wrapper."""

    decision = Decision("teacher", "no_task")

    def __init__(self) -> None:
        self.observed, self.faults = [], []

    def decide(self, call):
        return self.decision

    def observe(self, call, decision, answer, ask=None):
        self.observed.append(answer)

    def audit(self, call, decision, ask):
        raise AssertionError

    def fault(self, where, error):
        self.faults.append(error)


def _calls(work) -> int:
    work()  # caches are filled
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


def added(use) -> int:
    """Function calls that observing adds to a use of an LLM."""
    engine = Quiet()
    bare, wrapped = MockLLM(), JITRLLM(llm=MockLLM(), jitr=engine)
    more = _calls(lambda: use(wrapped)) - _calls(lambda: use(bare))
    assert len(engine.observed) == 2 and not engine.faults
    return more


@pytest.mark.parametrize(
    "use",
    [lambda llm: llm.complete("one two"), lambda llm: llm.chat(MESSAGES), lambda llm: llm.predict(PROMPT, text="a b")],
    ids=["complete", "chat", "predict"],
)
def test_observing_adds_few_function_calls(use, request):
    limit = 40 if "predict" in request.node.name else 25
    assert 0 < added(use) <= limit, added(use)


def test_observing_adds_at_most_5_function_calls_a_streamed_chunk():
    assert 0 < added(lambda llm: list(llm.stream_complete("x" * CHUNKS))) / CHUNKS <= 5


def test_importing_the_wrapper_loads_nothing_that_llamaindex_does_not():
    heavy = "torch transformers peft chromadb sklearn scipy langchain langchain_core".split()
    code = (
        "import sys, llama_index.core; before = set(sys.modules); import jitr_llamaindex\n"
        f"print([m for m in {heavy} if m in sys.modules and m not in before])"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(jitr_llamaindex.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "[]"


def test_without_llamaindex_the_error_names_the_command():
    code = "import sys; sys.modules['llama_index'] = None\nimport jitr_llamaindex"
    env = {**os.environ, "PYTHONPATH": str(Path(jitr_llamaindex.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 1 and 'pip install "jitr[llamaindex]"' in done.stderr.splitlines()[-1]
