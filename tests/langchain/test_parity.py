"""The parity matrix: every way to use a model × bare, observing, deferring, replaced. The table stands in the docs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from entry_points import ENTRY_POINTS
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, LLMResult
from langchain_fakes import FakeEngine, Recorder, Teacher

from jitr_langchain import JITRChatModel

PAGE = Path(__file__).parents[2] / "docs" / "langchain.md"
STATES = {
    "observing": FakeEngine,
    "deferring": lambda: FakeEngine(deferring=True),
    "replaced": lambda: FakeEngine("Positive."),
}


class Brief(Teacher):
    """Gives the replacement's answer, in one piece as a replacement does."""

    def _reply(self, messages, stop, kwargs):
        super()._reply(messages, stop, kwargs)
        return AIMessage("Positive.", usage_metadata={"input_tokens": 7, "output_tokens": 3, "total_tokens": 10})

    def _chunks(self, messages, stop, kwargs):
        reply = self._reply(messages, stop, kwargs)
        chunk = AIMessageChunk(reply.content, usage_metadata=reply.usage_metadata, chunk_position="last")
        yield ChatGenerationChunk(message=chunk)


def _shape(value: Any) -> Any:
    """The types of a result, with texts and usage fields, but without who answered and how much it took."""
    if isinstance(value, BaseMessage):
        usage = sorted(value.usage_metadata) if getattr(value, "usage_metadata", None) else None
        return type(value).__name__, _shape(value.content), usage, str(value.id)[:8], sorted(value.additional_kwargs)
    if isinstance(value, LLMResult):
        return [[(type(each).__name__, _shape(each.message)) for each in run] for run in value.generations]
    if isinstance(value, dict):
        inside = ("usage", "run_id", "parent_ids", "id", "index")
        return {key: key if key in inside else _shape(each) for key, each in value.items() if key != "metadata"}
    if isinstance(value, list | tuple):
        return [_shape(each) for each in value]
    return value if isinstance(value, str | int | None) else type(value).__name__


def _used(llm, entry_point) -> tuple[Any, list[str]]:
    """The shape of what an app gets, or the error, and the sequence of events its callbacks hear of."""
    recorder = Recorder()
    try:
        got = _shape(ENTRY_POINTS[entry_point](llm, {"callbacks": [recorder]}))
    except Exception as error:
        got = type(error), str(error)
    return got, [name for name, _ in recorder.events]


def _cell(entry_point: str, state: str) -> str:
    """ "same" if results, errors and events are those of the bare model."""
    engine = STATES[state]()
    same = _used(JITRChatModel(llm=Brief(), jitr=engine), entry_point) == _used(Brief(), entry_point)
    if state != "replaced" and "batch" not in entry_point:  # how far a failing batch gets is a matter of threads
        failing = _used(JITRChatModel(llm=Brief(fail=True), jitr=engine), entry_point)
        same = same and failing == _used(Brief(fail=True), entry_point)
    return "same" if same and engine.decided and not engine.faults else "differs"


@pytest.fixture(scope="module")
def matrix() -> dict[str, list[str]]:
    return {entry_point: [_cell(entry_point, state) for state in STATES] for entry_point in ENTRY_POINTS}


def test_every_way_to_use_a_model_is_that_of_the_bare_one(matrix):
    assert not [name for name, cells in matrix.items() if set(cells) != {"same"}]


def test_the_matrix_stands_in_the_docs(matrix):
    table = [f"| | {' | '.join(STATES)} |", f"|---|{'---|' * len(STATES)}"]
    table += [f"| {name} | {' | '.join(cells)} |" for name, cells in matrix.items()]
    assert "\n".join(table) in PAGE.read_text(encoding="utf-8")
