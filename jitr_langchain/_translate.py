"""LangChain's requests and answers in JITR's records, and back."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ChatMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from jitr_core.errors import ConfigError
from jitr_core.integration import contract_of, is_replaceable, settings_of
from jitr_core.types import GIVEN, Answer, Call, Decision

__all__ = [
    "REQUEST_KEYS",
    "EventReader",
    "answer_of_chunks",
    "answer_of_result",
    "call_of",
    "replacement_chunk",
    "replacement_events",
    "replacement_message",
]

REQUEST_KEYS = ("jitr", "jitr_tenant", "jitr_step")
"""What one request may say to JITR, in `metadata` or `configurable` of its config."""

_WISHES = (None, "no-store", "observe")  # "off" never gets here
_ROLES = {
    "human": "user",
    "HumanMessageChunk": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "SystemMessageChunk": "system",
    "ToolMessageChunk": "tool",
    "FunctionMessageChunk": "function",
}
_NO_TOKENS = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}

# Ids in names: UUIDs and other runs of hexadecimal digits.
_CHANGING = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<![^\W_])(?=[a-f]*\d)[0-9a-f]{6,}(?![^\W_])", re.IGNORECASE
)


def call_of(
    llm: BaseChatModel | None,
    messages: Sequence[BaseMessage],
    stop: Sequence[str] | None,
    settings: Mapping[str, Any],
    *,
    step: str | None,
    run_name: str | None,
    tags: Sequence[str],
    metadata: Mapping[str, Any],
) -> Call:
    """The record of one request, as it is known before the answer.

    Args:
        llm: the teacher, None if it is not at hand; its own settings count where the request has none.
        messages: the prompt.
        stop: the stop sequences of the request.
        settings: the other keyword arguments of the request.
        step: the step declared on the wrapper, None if none is.
        run_name: the name given to the model's run, None if none is.
        tags: the run's tags.
        metadata: the run's metadata, with LangChain's `ls_…` parameters and the request's wishes, see `REQUEST_KEYS`.

    Raises:
        ConfigError: the request wishes for something unknown.
    """
    wish = metadata.get("jitr")
    if wish not in _WISHES:
        raise ConfigError(f'jitr must be "off", "no-store" or "observe" in a request\'s config, got {wish!r}.')
    own = getattr(llm, "__dict__", {})
    asked = settings_of({"stop": stop}, settings, own.get("model_kwargs") or {}, own)
    pairs, plain = _pairs(messages)
    return Call(
        id=uuid4().hex,
        messages=pairs,
        tenant=str(metadata.get("jitr_tenant") or ""),
        step=step or _step(tags, metadata, run_name),
        contract=contract_of(asked),
        model=str(metadata.get("ls_model_name") or ""),
        time=time.time(),
        replaceable=plain and is_replaceable(asked),
        observe_only=wish == "observe",
        storable=wish != "no-store",
    )


def _pairs(messages: Sequence[BaseMessage]) -> tuple[tuple[tuple[str, str], ...], bool]:
    """(role, text) of each message, and whether that is all there is to them."""
    pairs, plain = [], True
    for message in messages:
        content: Any = message.content
        if not isinstance(content, str):
            texts = [
                block if isinstance(block, str) else block.get("text", "")
                for block in content
                if isinstance(block, str) or block.get("type") == "text"
            ]
            plain = plain and len(texts) == len(content)
            content = "".join(texts)
        role = message.role if isinstance(message, ChatMessage) else _ROLES.get(message.type, message.type)
        if role in ("tool", "function") or (isinstance(message, AIMessage) and _calls_tools(message)):
            plain = False
        pairs.append((role, content))
    return tuple(pairs), plain


def _step(tags: Sequence[str], metadata: Mapping[str, Any], run_name: str | None) -> str:
    """Name of the step: declared by the user, else given by the framework, else "".

    Never used, as they change from run to run or say nothing: ids, `langgraph_step`, `langgraph_triggers`, and the tags
    `seq:step:…` (lost under retries and while streaming) and `map:key:…`. Other tags and metadata are for the user's
    own ends, often the ids of customers.
    """
    if declared := metadata.get("jitr_step"):
        return str(declared)
    for tag in tags:
        if tag.startswith("jitr:"):
            return tag[5:]
    place = metadata.get("langgraph_node")
    if namespace := metadata.get("langgraph_checkpoint_ns"):
        # "outer:uuid|1|inner:uuid": ids and counters change with every run, the path does not.
        place = "/".join(part.split(":", 1)[0] for part in namespace.split("|") if not part.isdigit())
    given = "/".join([str(part) for part in (metadata.get("lc_agent_name"), place, run_name) if part])
    return _place(given) if given else ""


@functools.lru_cache(maxsize=1024)
def _place(given: str) -> str:
    """The name of a step that the framework gave, without the ids in it."""
    return GIVEN + _CHANGING.sub("", given)


def _calls_tools(message: AIMessage) -> bool:
    return bool(
        message.tool_calls
        or message.invalid_tool_calls
        or (isinstance(message, AIMessageChunk) and message.tool_call_chunks)
        or "function_call" in message.additional_kwargs
    )


def answer_of_result(result: ChatResult, model: str, latency_s: float) -> Answer | None:
    """The teacher's answer; None if it is more than one text (tool calls, several generations, content blocks).

    Args:
        result: what the teacher returned.
        model: its name where the result does not tell.
        latency_s: seconds it took.
    """
    if len(result.generations) != 1:
        return None
    generation = result.generations[0]
    told = {**(result.llm_output or {}), **(generation.generation_info or {})}
    return _answer([generation.message], told.get("model_name") or model, latency_s)


def answer_of_chunks(messages: Sequence[BaseMessage], model: str, latency_s: float) -> Answer | None:
    """The answer of a stream that came to its end; None as in `answer_of_result`, or if nothing came.

    Args:
        messages: the message of every chunk, as the teacher sent it.
        model: the teacher's name where the chunks do not tell.
        latency_s: seconds until the last chunk was taken.
    """
    return _answer(messages, model, latency_s)


def _answer(messages: Sequence[BaseMessage], model: str, latency_s: float) -> Answer | None:
    texts: list[str] = []
    usages: list[Mapping[str, Any]] = []
    for message in messages:
        content = message.content
        if not isinstance(content, str) or not isinstance(message, AIMessage) or _calls_tools(message):
            return None
        texts.append(content)
        if message.usage_metadata:
            usages.append(message.usage_metadata)
        model = message.response_metadata.get("model_name") or model
    return _priced("".join(texts), model, usages, latency_s) if texts else None


def _priced(text: str, model: str, usages: Iterable[Mapping[str, Any]], latency_s: float) -> Answer:
    """An answer whose tokens are the sum of what the chunks billed, None if none told."""
    tokens: dict[str, int] = {}
    for usage in usages:
        for name in ("input_tokens", "output_tokens"):
            if (count := usage.get(name)) is not None:
                tokens[name] = tokens.get(name, 0) + count
    return Answer(text, model, tokens.get("input_tokens"), tokens.get("output_tokens"), latency_s)


class EventReader:
    """Reads the answer off a stream of LangChain's protocol events (`stream_events(version="v3")`)."""

    def __init__(self) -> None:
        self._blocks: list[Mapping[str, Any]] = []

    def read(self, event: Mapping[str, Any], model: str, latency_s: float) -> Answer | None:
        """The answer once `event` is the last one, if it is one text; None before.

        Args:
            event: the next event.
            model: the teacher's name where the event does not tell.
            latency_s: seconds since the request.
        """
        if event["event"] == "content-block-finish":
            self._blocks.append(event["content"])
        if event["event"] != "message-finish" or not self._blocks:
            return None
        if any(block.get("type") != "text" for block in self._blocks):
            return None
        text = "".join(block.get("text", "") for block in self._blocks)
        name = (event.get("metadata") or {}).get("model_name") or model
        return _priced(text, name, [event.get("usage") or {}], latency_s)


def replacement_message(decision: Decision, provider: str) -> AIMessage:
    """The replacement's answer as the message the app gets. No tokens were spent, so none are reported.

    Args:
        decision: a decision whose `kind` is "replacement".
        provider: LangChain's name of the teacher's provider: messages of one chat must not change it.

    Raises:
        ValueError: the decision has no answer.
    """
    if decision.answer is None:
        raise ValueError("a replacement decided the call, but gave no answer")
    metadata = {
        "model_provider": provider,
        "model_name": f"jitr:{decision.release}",
        "finish_reason": "stop",
        "jitr": {
            "task": decision.task,
            "release": decision.release,
            "confidence": decision.confidence,
            "reason": decision.reason,
        },
    }
    return AIMessage(decision.answer, response_metadata=metadata, usage_metadata=dict(_NO_TOKENS))


def replacement_chunk(message: AIMessage) -> ChatGenerationChunk:
    """A replacement's answer as a stream of one chunk."""
    chunk = AIMessageChunk(
        content=message.content,
        response_metadata=message.response_metadata,
        usage_metadata=message.usage_metadata,
        chunk_position="last",
    )
    return ChatGenerationChunk(message=chunk)


def replacement_events(message: AIMessage) -> Iterator[Any]:
    """A replacement's answer as LangChain's protocol events."""
    from langchain_core.language_models._compat_bridge import message_to_events

    return message_to_events(message)
