"""LangChain's requests and answers in JITR's records, and back."""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ChatMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from jitr_core.errors import ConfigError
from jitr_core.forms import form_of, other_than_call
from jitr_core.integration import contract_of, is_replaceable, settings_of
from jitr_core.types import GIVEN, Answer, Call, Decision, Form

__all__ = [
    "REQUEST_KEYS",
    "EventReader",
    "answer_of_chunks",
    "answer_of_result",
    "answer_with",
    "call_of",
    "origin_of",
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
    llm: BaseLanguageModel[Any] | None,
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
        form=form_of(asked),
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


def answer_of_result(result: ChatResult, call: Call, latency_s: float) -> Answer | None:
    """The teacher's answer; None if it is more than one text (tool calls, several generations, content blocks).

    Where the request demands a call of one tool, the answer is that call's arguments.

    Args:
        result: what the teacher returned.
        call: the request; it tells the teacher's name where the result does not.
        latency_s: seconds it took.
    """
    if len(result.generations) != 1:
        return None
    generation = result.generations[0]
    told = {**(result.llm_output or {}), **(generation.generation_info or {})}
    return _answer([generation.message], call.form, told.get("model_name") or call.model, latency_s)


def answer_of_chunks(messages: Sequence[BaseMessage], call: Call, latency_s: float) -> Answer | None:
    """The answer of a stream that came to its end; None as in `answer_of_result`, or if nothing came.

    Args:
        messages: the message of every chunk, as the teacher sent it.
        call: the request; it tells the teacher's name where the chunks do not.
        latency_s: seconds until the last chunk was taken.
    """
    return _answer(messages, call.form, call.model, latency_s)


def _answer(messages: Sequence[BaseMessage], form: Form | None, model: str, latency_s: float) -> Answer | None:
    text = _arguments(messages, form.tool) if form is not None and form.kind == "tool" else _text(messages)
    if text is None:
        return None
    usages: list[Mapping[str, Any]] = []
    for message in messages:
        if isinstance(message, AIMessage) and message.usage_metadata:
            usages.append(message.usage_metadata)
        model = message.response_metadata.get("model_name") or model
    return answer_with(text, model, usages, latency_s)


def _text(messages: Sequence[BaseMessage]) -> str | None:
    """The text of a message or of its chunks; None if there is more to them."""
    texts: list[str] = []
    for message in messages:
        if not isinstance(message, AIMessage) or _calls_tools(message):
            return None
        content = message.content
        if not isinstance(content, str):
            return None
        if "refusal" in message.additional_kwargs and message.additional_kwargs["refusal"]:
            return None
        texts.append(content)
    return "".join(texts) if texts else None


def _arguments(messages: Sequence[BaseMessage], tool: str) -> str | None:
    """The arguments of the one call of a tool that a message or its chunks make; if not, `other_than_call`."""
    if not messages or not all(isinstance(message, AIMessage) for message in messages):
        return None
    # All at once: one by one, the arguments so far would be parsed with every chunk.
    first, *rest = messages
    whole: Any = first + rest if rest else first
    calls = [(call["name"], call["args"]) for call in whole.tool_calls]
    otherwise = other_than_call(tool, json.dumps([whole.text, calls], ensure_ascii=False, default=str))
    if whole.invalid_tool_calls:
        return None
    if whole.text or len(calls) != 1 or calls[0][0] != tool:
        return otherwise
    arguments = json.dumps(whole.tool_calls[0]["args"], ensure_ascii=False)
    if isinstance(whole, AIMessageChunk) and whole.tool_call_chunks:
        # LangChain guesses what is missing of arguments that were cut off.
        with suppress(ValueError):
            json.loads(whole.tool_call_chunks[0]["args"] or "")
            return arguments
        return None
    return arguments


def answer_with(text: str, model: str, usages: Iterable[Mapping[str, Any]], latency_s: float) -> Answer:
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

    def read(self, event: Mapping[str, Any], call: Call, latency_s: float) -> Answer | None:
        """The answer once `event` is the last one, if it is one text or the call of a demanded tool; None before.

        Args:
            event: the next event.
            call: the request; it tells the teacher's name where the event does not.
            latency_s: seconds since the request.
        """
        if event["event"] == "content-block-finish":
            self._blocks.append(event["content"])
        if event["event"] != "message-finish" or not self._blocks:
            return None
        name = (event.get("metadata") or {}).get("model_name") or call.model
        first, form = self._blocks[0], call.form
        if form is not None and form.kind == "tool":
            if len(self._blocks) > 1 or (first.get("type"), first.get("name")) != ("tool_call", form.tool):
                return None
            text = json.dumps(first.get("args"), ensure_ascii=False)
        elif any(block.get("type") != "text" for block in self._blocks):
            return None
        else:
            text = "".join(block.get("text", "") for block in self._blocks)
        return answer_with(text, name, [event.get("usage") or {}], latency_s)


def replacement_message(decision: Decision, provider: str, form: Form | None = None) -> AIMessage:
    """The replacement's answer as the message the app gets. No tokens were spent, so none are reported.

    Args:
        decision: a decision whose `kind` is "replacement".
        provider: LangChain's name of the teacher's provider: messages of one chat must not change it.
        form: what the request demands; the answer has that form.

    Raises:
        ValueError: the decision has no answer.
    """
    if decision.answer is None:
        raise ValueError("a replacement decided the call, but gave no answer")
    metadata = {
        "model_provider": provider,
        "model_name": f"jitr:{decision.release}",
        "finish_reason": "stop",
        "jitr": origin_of(decision),
    }
    told: Any = {"response_metadata": metadata, "usage_metadata": dict(_NO_TOKENS)}
    if form is not None and form.kind == "tool":
        arguments = json.loads(decision.answer)
        call = {"name": form.tool, "args": arguments, "id": f"call_{uuid4().hex[:24]}", "type": "tool_call"}
        return AIMessage("", tool_calls=[call], **told)
    if form is not None and hasattr(form.schema, "model_validate_json"):
        # The parser of `with_structured_output` looks here, not at the text.
        told["additional_kwargs"] = {"parsed": form.schema.model_validate_json(decision.answer), "refusal": None}
    return AIMessage(decision.answer, **told)


def origin_of(decision: Decision) -> dict[str, Any]:
    """What a replaced answer tells of who gave it."""
    return {
        "task": decision.task,
        "release": decision.release,
        "confidence": decision.confidence,
        "reason": decision.reason,
    }


def replacement_chunk(message: AIMessage) -> ChatGenerationChunk:
    """A replacement's answer as a stream of one chunk."""
    pieces: Any = [
        {**call, "args": json.dumps(call["args"], ensure_ascii=False), "index": i, "type": "tool_call_chunk"}
        for i, call in enumerate(message.tool_calls)
    ]
    chunk = AIMessageChunk(
        content=message.content,
        additional_kwargs=message.additional_kwargs,
        tool_call_chunks=pieces,
        response_metadata=message.response_metadata,
        usage_metadata=message.usage_metadata,
        chunk_position="last",
    )
    return ChatGenerationChunk(message=chunk)


def replacement_events(message: AIMessage) -> Iterator[Any]:
    """A replacement's answer as LangChain's protocol events."""
    from langchain_core.language_models._compat_bridge import message_to_events

    return message_to_events(message)
