"""LangChain's requests and answers in JITR's records, and back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any
from uuid import uuid4

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ChatMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from jitr_core.errors import ConfigError
from jitr_core.types import Answer, Call, Decision

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
# Providers spell `response_format` differently; all of them shape the answer.
_FORMATS = ("response_format", "format", "response_schema", "response_mime_type", "output_config")
_TOOLS = ("tools", "functions")
_CONTRACT = (*_TOOLS, "tool_choice", *_FORMATS, "stop")
_UNREPLACEABLE = (*_TOOLS, *_FORMATS, "logprobs", "top_logprobs")
_NO_TOKENS = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}

_digests: dict[tuple[Any, ...], tuple[tuple[Any, ...], str]] = {}


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
    asked = _settings(llm, stop, settings)
    pairs, plain = _pairs(messages)
    return Call(
        id=uuid4().hex,
        messages=pairs,
        tenant=str(metadata.get("jitr_tenant") or ""),
        step=step or _step(tags, metadata, run_name),
        contract=_contract({name: asked[name] for name in _CONTRACT if name in asked}),
        model=str(metadata.get("ls_model_name") or ""),
        time=time.time(),
        replaceable=plain and asked.get("n", 1) == 1 and asked.keys().isdisjoint(_UNREPLACEABLE),
        observe_only=wish == "observe",
        storable=wish != "no-store",
    )


def _settings(llm: BaseChatModel | None, stop: Sequence[str] | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is set of all that matters here: by the request, else on the model."""
    own = getattr(llm, "__dict__", {})
    extra = own.get("model_kwargs") or {}
    asked = {"stop": stop} if stop else {}
    for name in (*_CONTRACT, "logprobs", "top_logprobs", "n"):
        if value := settings.get(name) or extra.get(name) or own.get(name):
            asked.setdefault(name, value)
    return asked


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
    """Name of the step: declared by the user, else given by the framework, else ""."""
    if declared := metadata.get("jitr_step"):
        return str(declared)
    for tag in tags:
        if tag.startswith("jitr:"):
            return tag[5:]
    place = metadata.get("langgraph_node")
    if namespace := metadata.get("langgraph_checkpoint_ns"):
        # "outer:uuid|1|inner:uuid": ids and counters change with every run, the path does not.
        place = "/".join(part.split(":", 1)[0] for part in namespace.split("|") if not part.isdigit())
    framework = [part for part in (metadata.get("lc_agent_name"), place) if part]
    return "/".join(framework) or run_name or ""


def _contract(settings: Mapping[str, Any]) -> str:
    """Short hash of what the request demands of the answer; "" if nothing."""
    if not settings:
        return ""
    if settings.keys() == {"stop"}:
        return _digest(settings)
    # Schemas are large and bound once, so they are hashed once; holding the values keeps their ids unique.
    values = tuple(settings.values())
    key = (*settings, *map(id, values))
    if (hit := _digests.get(key)) is None:
        if len(_digests) >= 256:
            _digests.clear()
        hit = _digests[key] = (values, _digest(settings))
    return hit[1]


def _digest(settings: Mapping[str, Any]) -> str:
    return sha256(json.dumps(settings, sort_keys=True, default=_plain).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Schema of a Pydantic class, else the name of the thing: a repr would change with every process."""
    if hasattr(value, "model_json_schema"):
        return value.model_json_schema()
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


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
