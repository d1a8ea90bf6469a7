"""What observing costs, counted in calls of Python functions: unlike time, that does not depend on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_fakes import FakeEngine

import jitr_langchain
from jitr_langchain import JITRChatModel

CHUNKS = 200


class Quick(BaseChatModel):
    """Answers at once."""

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return ChatResult(generations=[ChatGeneration(message=AIMessage("Positive."))])

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        for _ in range(CHUNKS):
            yield ChatGenerationChunk(message=AIMessageChunk(content="word "))

    @property
    def _llm_type(self):
        return "quick"


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


def test_observing_adds_at_most_100_function_calls_an_invoke():
    engine = FakeEngine()
    bare, wrapped = Quick(), JITRChatModel(llm=Quick(), jitr=engine)
    added = _calls(lambda: wrapped.invoke("Is this review positive?")) - _calls(lambda: bare.invoke("the same"))
    assert len(engine.observed) == 2 and not engine.faults
    assert 0 < added <= 100, added


def test_observing_adds_at_most_5_function_calls_a_streamed_chunk():
    engine = FakeEngine()
    bare, wrapped = Quick(), JITRChatModel(llm=Quick(), jitr=engine)
    added = _calls(lambda: list(wrapped.stream("x"))) - _calls(lambda: list(bare.stream("x")))
    assert len(engine.observed) == 2 and not engine.faults
    assert 0 < added / CHUNKS <= 5, added


def test_importing_the_wrapper_loads_nothing_heavy():
    heavy = "torch transformers peft chromadb sklearn numpy scipy sqlalchemy langchain llama_index".split()
    heavy += ["langchain_core.language_models.llms"]  # LangChain itself loads it only for text completion
    code = f"import sys, jitr_langchain; print([m for m in {heavy} if m in sys.modules])"
    env = {**os.environ, "PYTHONPATH": str(Path(jitr_langchain.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "[]"


def test_without_langchain_the_error_names_the_command():
    code = "import sys; sys.modules['langchain_core'] = None\nimport jitr_langchain"
    env = {**os.environ, "PYTHONPATH": str(Path(jitr_langchain.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 1 and 'pip install "jitr[langchain]"' in done.stderr.splitlines()[-1]
