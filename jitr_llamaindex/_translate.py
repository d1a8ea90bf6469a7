"""LlamaIndex's requests and answers in JITR's records, and back."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.llms.llm import LLM

from jitr_core.forms import form_of, other_than_call
from jitr_core.integration import contract_of, is_replaceable, settings_of
from jitr_core.types import Answer, Call, Decision, Form

__all__ = ["Response", "Streamed", "answer_of", "answer_of_stream", "call_of", "replacement_of"]

Response = ChatResponse | CompletionResponse
Streamed = tuple[Response | None, list[str | None]]
"""The last response of a stream, which holds the whole text, and the delta of each."""

_ASSISTANTS = ("assistant", "chatbot", "model")
_TOOL_ROLES = ("tool", "function")
_INPUT = ("prompt_tokens", "input_tokens", "prompt_token_count")
_OUTPUT = ("completion_tokens", "output_tokens", "candidates_token_count")


def call_of(llm: LLM, asked: Any, settings: Mapping[str, Any], step: str) -> Call | None:
    """The record of one request, as it is known before the answer; None for what is no request.

    Args:
        llm: the teacher; its own settings count where the request has none.
        asked: the chat's messages, or the prompt to complete.
        settings: the keyword arguments of the request.
        step: name of the step, "" if unknown.
    """
    if isinstance(asked, str):
        pairs: tuple[tuple[str, str], ...] = (("user", asked),)
        plain = True
    elif isinstance(asked, list | tuple) and all([isinstance(message, ChatMessage) for message in asked]):
        pairs, plain = _pairs(asked)
    else:
        return None
    own = llm.__dict__
    matter = settings_of(settings, own.get("additional_kwargs") or {}, own)
    form = form_of(matter) if matter else None
    if form is not None and form.kind == "tool" and isinstance(asked, str):
        plain = False  # a completion cannot call a tool
    return Call(
        id=os.urandom(16).hex(),
        messages=pairs,
        step=step,
        contract=contract_of(matter) if matter else "",
        # Not from the metadata: to make them takes longer than all the rest here, and the answer tells it too.
        model=str(settings.get("model") or own.get("model") or own.get("model_name") or ""),
        time=time.time(),
        replaceable=plain and (not matter or is_replaceable(matter)),
        form=form,
    )


def _pairs(messages: Sequence[ChatMessage]) -> tuple[tuple[tuple[str, str], ...], bool]:
    """(role, text) of each message, and whether that is all there is to them."""
    pairs, plain = [], True
    for message in messages:
        role = _role(message)
        if role in _TOOL_ROLES or (message.additional_kwargs and _calls_tools(message)):
            plain = False
        blocks = message.blocks
        if len(blocks) == 1 and isinstance(blocks[0], TextBlock):
            text = blocks[0].text
        else:
            text = message.content or ""
            plain = plain and all([isinstance(block, TextBlock) for block in blocks])
        pairs.append((role, text))
    return tuple(pairs), plain


def _role(message: ChatMessage) -> str:
    role = message.role
    name = str(role._value_) if isinstance(role, MessageRole) else str(role)
    return "assistant" if name in _ASSISTANTS else name


def _calls_tools(message: ChatMessage | Response) -> bool:
    more = message.additional_kwargs
    return bool(more.get("tool_calls") or more.get("function_call"))


def answer_of(response: Any, call: Call, latency_s: float) -> Answer | None:
    """The teacher's answer; None if it is a replacement's or anything but one text (tool calls, several blocks).

    Where the request demands a call of one tool, the answer is that call's arguments.

    Args:
        response: what the teacher returned.
        call: the request; it tells the teacher's name where the response does not.
        latency_s: seconds it took.
    """
    form = call.form
    text = _arguments(response, form.tool) if form is not None and form.kind == "tool" else _text(response)
    if text is None:
        return None
    raw: Mapping[str, Any] = _fields(response.raw) if response.raw else {}
    if "jitr" in raw:
        return None  # a replacement's, through a wrapper of another engine
    told = raw.get("usage") or raw.get("usage_metadata") or response.additional_kwargs
    usage = _fields(told) if told else {}
    name = raw.get("model")
    if not isinstance(name, str):
        name = ""
    given, taken = (_count(usage, _INPUT), _count(usage, _OUTPUT)) if usage else (None, None)
    return Answer(text, name or call.model, given, taken, latency_s)


def answer_of_stream(streamed: Streamed, call: Call, latency_s: float) -> Answer | None:
    """The answer of a stream that came to its end; None as in `answer_of`, or if its pieces do not add up to it.

    Args:
        streamed: the last response, and the delta of each.
        call: the request; it tells the teacher's name where the response does not.
        latency_s: seconds until the last piece was taken.
    """
    last, deltas = streamed
    answer = answer_of(last, call, latency_s)
    # A model that does not repeat the earlier text in each piece would teach a student the last word only.
    told = "".join([delta or "" for delta in deltas])
    return answer if answer is not None and told in ("", answer.text) else None


def _text(response: Any) -> str | None:
    if isinstance(response, CompletionResponse):
        return None if response.additional_kwargs and _calls_tools(response) else response.text
    if not isinstance(response, ChatResponse):
        return None
    message = response.message
    blocks = message.blocks
    if len(blocks) != 1 or (message.additional_kwargs and _calls_tools(message)):
        return None
    if message.role is not MessageRole.ASSISTANT and _role(message) != "assistant":
        return None
    return blocks[0].text if isinstance(blocks[0], TextBlock) else None


def _arguments(response: Any, tool: str) -> str | None:
    """The arguments of the one call of a tool that a response makes; see `other_than_call` if it is not so."""
    if not isinstance(response, ChatResponse):
        return None
    message = response.message
    calls: list[tuple[Any, Any]] = [
        (b.tool_name, b.tool_kwargs) for b in message.blocks if isinstance(b, ToolCallBlock)
    ]
    if not calls:  # as integrations wrote them before there were such blocks
        told = message.additional_kwargs.get("tool_calls")
        asked = [_fields(_fields(each).get("function")) for each in told] if isinstance(told, list) else []
        calls = [(each.get("name"), each.get("arguments")) for each in asked]
    otherwise = other_than_call(tool, json.dumps([message.content, calls], ensure_ascii=False, default=str))
    if len(calls) != 1 or calls[0][0] != tool or message.content:
        return otherwise
    arguments = calls[0][1]
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return None
    return json.dumps(arguments, ensure_ascii=False) if isinstance(arguments, dict) else otherwise


def _fields(whole: Any) -> dict[str, Any]:
    """What the provider's own response holds, as a mapping; empty if it is none of the usual kinds."""
    return whole if isinstance(whole, dict) else getattr(whole, "__dict__", {})


def _count(usage: Mapping[str, Any], names: Sequence[str]) -> int | None:
    for name in names:
        if isinstance(count := usage.get(name), int):
            return count
    return None


def replacement_of(decision: Decision, form: Form | None = None, *, chat: bool) -> Response:
    """The replacement's answer as the response the app gets. No tokens were spent, so none are reported.

    Args:
        decision: a decision whose `kind` is "replacement".
        form: what the request demands; the answer has that form.
        chat: whether messages are answered, or a prompt is completed.

    Raises:
        ValueError: the decision has no answer.
    """
    text = decision.answer
    if text is None:
        raise ValueError("a replacement decided the call, but gave no answer")
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    origin = {
        "task": decision.task,
        "release": decision.release,
        "confidence": decision.confidence,
        "reason": decision.reason,
    }
    raw = {"model": f"jitr:{decision.release}", "usage": usage, "jitr": origin}
    more = {"jitr": origin, **usage}
    if not chat:
        return CompletionResponse(text=text, raw=raw, additional_kwargs=more)
    if form is not None and form.kind == "tool":
        call = f"call_{os.urandom(12).hex()}"
        block = ToolCallBlock(tool_call_id=call, tool_name=form.tool, tool_kwargs=json.loads(text))
        # LlamaIndex's parser of streamed objects looks only here.
        told = {"id": call, "type": "function", "function": {"name": form.tool, "arguments": text}}
        message = ChatMessage(role=MessageRole.ASSISTANT, blocks=[block], additional_kwargs={"tool_calls": [told]})
    else:
        message = ChatMessage(role=MessageRole.ASSISTANT, blocks=[TextBlock(text=text)])
    return ChatResponse(message=message, raw=raw, additional_kwargs=more)
