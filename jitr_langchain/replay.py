"""`jitr replay`: what would JITR have saved on these calls? They run through a real `JITRChatModel`.

The teacher plays the recorded answers back. An answer reaches JITR only where the app would have paid for it: on calls
the teacher decides and on audited ones.
"""

from __future__ import annotations

import inspect
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, convert_to_messages
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from jitr_core.calllog import CallRecord, called, count_calls, read_calls
from jitr_core.config import Policy
from jitr_core.engine import JITR
from jitr_core.forms import fits, form_of
from jitr_core.integration import settings_of
from jitr_core.types import Decision, Form

from ._stand_in import CONTEXT
from .chat_model import JITRChatModel

__all__ = ["RecordedTeacher", "Replayed", "replay"]


class RecordedTeacher(BaseChatModel):
    """A chat model that answers with what was recorded; counts how often it is asked."""

    _record: CallRecord | None = PrivateAttr(default=None)
    _asked: int = PrivateAttr(default=0)

    def load(self, record: CallRecord) -> None:
        """Answer the next calls with this record."""
        self._record = record

    @property
    def asked(self) -> int:
        """How often an answer was asked for."""
        return self._asked

    @property
    def _llm_type(self) -> str:
        return "recorded"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        record = self._record
        if record is None:
            raise RuntimeError("no record loaded")
        self._asked += 1
        calls = record.tool_calls or _demanded(record, kwargs)
        message = AIMessage(
            content=record.answer if record.tool_calls or not calls else "",
            tool_calls=[_tool_call(c, i) for i, c in enumerate(calls)],
            usage_metadata=_usage(record),
            response_metadata={"model_name": record.model} if record.model else {},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


def _reserved() -> frozenset[str]:
    """Names that LangChain takes for itself: recorded under `params`, they would not reach a model but collide."""
    layers = (BaseChatModel.invoke, BaseChatModel.generate_prompt, BaseChatModel.generate)
    own = {name for layer in (*layers, BaseChatModel._generate) for name in inspect.signature(layer).parameters}
    return frozenset((own - {"stop"}) | {CONTEXT, "ls_structured_output_format", "structured_output_format"})


_RESERVED = _reserved()


def _messages(record: CallRecord) -> list[BaseMessage]:
    """The recorded messages; a role LangChain cannot build from what was recorded becomes a plain chat message."""
    messages = [dict(m, content=m.get("content") or "") for m in record.messages]
    try:
        return convert_to_messages(messages)
    except (ValueError, KeyError, NotImplementedError):
        return [ChatMessage(role=str(m["role"]), content=m["content"]) for m in messages]


def _usage(record: CallRecord) -> Any:
    tokens = [
        next((v for k in keys if isinstance(v := record.usage.get(k), int)), None)
        for keys in (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens"))
    ]
    if tokens[0] is None or tokens[1] is None:
        return None
    return {"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": tokens[0] + tokens[1]}


def _tool_call(call: Any, index: int) -> Any:
    """A tool call in LangChain's form, from that form or OpenAI's."""
    name, args = called(call)
    return {
        "name": name,
        "args": args if isinstance(args, dict) else {"arguments": args},
        "id": str(call.get("id", index)),
        "type": "tool_call",
    }


def _demanded(record: CallRecord, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The call of the demanded tool, where the log has only its arguments, as the answer."""
    form = form_of(settings_of(settings))
    if form is None or form.kind != "tool" or not fits(Form("tool"), record.answer):
        return []
    return [{"name": form.tool, "arguments": record.answer}]


def _said(message: AIMessage) -> str:
    """What the app got: the text, or what it calls tools with."""
    return CallRecord("", (), str(message.text), tool_calls=[dict(call) for call in message.tool_calls]).said


@dataclass(slots=True)
class Replayed:
    """One call after its replay.

    Attributes:
        index: 0-based position in the order in which the calls were replayed.
        record: the recorded call.
        decision: who answered; None if JITR was not asked.
        task: what was known of the call's task when it came.
        answer: what the app got.
    """

    index: int
    record: CallRecord
    decision: Decision | None
    task: str | None
    answer: str


@dataclass(slots=True)
class _Ear:
    """Keeps the latest decision and hands every other event on, with the index of the call being processed."""

    tell: Callable[[dict[str, Any]], None]
    at_call: int = 0
    decision: Decision | None = None
    task: str | None = None

    def __call__(self, event: dict[str, Any]) -> None:
        if event["kind"] == "decision":
            self.decision = event["decision"]
            self.task = self.decision.task  # the background may place the call later
        else:
            self.tell({**event, "at_call": self.at_call})


@contextmanager
def _state(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="jitr-replay-") as temporary:
        yield Path(temporary)


def _order(paths: Sequence[str | Path], *, shuffle: bool, seed: int) -> Iterator[tuple[int, CallRecord]]:
    """Calls with their position in the files, in the order of the replay."""
    if not shuffle:
        yield from enumerate(read_calls(paths))
        return
    records = list(enumerate(read_calls(paths)))
    random.Random(seed).shuffle(records)
    yield from records


def replay(
    paths: Sequence[str | Path],
    *,
    policy: Policy,
    seed: int = 0,
    shuffle: bool = False,
    state: Path | None = None,
    tell: Callable[[dict[str, Any]], None] = lambda event: None,
) -> Iterator[tuple[int, Replayed]]:
    """Stream the calls of some logs through JITR, the cold path running whenever it is due.

    Args:
        paths: `.jsonl` or `.jsonl.gz` files, read one after the other as one stream.
        policy: what is promised.
        seed: drives the order, splits, training and audits.
        shuffle: replay in an order permuted by the seed.
        state: folder to keep the state in; None uses a fresh temporary one.
        tell: told of every event, see `jitr_core.background.Event`, and, at the end, of `end` with the engine's
            figures: `teacher_calls` and `jitr`. Each has `at_call`, the index of the call being processed, 0-based in
            the order of the replay.

    Yields:
        (position in the files, the replayed call), in the order of the replay.

    Raises:
        CallLogError: a file is malformed; raised before the first call is replayed.
    """
    total = count_calls(paths)
    with _state(state) as folder:
        ear = _Ear(tell)
        jitr = JITR(
            f"sqlite:///{folder / 'jitr.db'}", policy=policy, app="replay", training="inline", seed=seed, listener=ear
        )
        teacher = RecordedTeacher()
        llm = JITRChatModel(llm=teacher, jitr=jitr)
        ear({"kind": "start", "calls": total})
        try:
            for index, (position, record) in enumerate(_order(paths, shuffle=shuffle, seed=seed)):
                ear.at_call, ear.decision, ear.task = index, None, None
                teacher.load(record)
                config: Any = {"metadata": {"jitr_step": record.step}} if record.step else None
                options = {k: v for k, v in record.options.items() if k not in _RESERVED}
                answer = llm.invoke(_messages(record), config, **options)
                replaced = ear.decision is not None and ear.decision.kind == "replacement"
                said = _said(answer) if replaced else record.answer
                yield position, Replayed(index, record, ear.decision, ear.task, said)
            jitr.flush()
            ear({"kind": "end", "teacher_calls": teacher.asked, "jitr": jitr})
        finally:
            jitr.close()
