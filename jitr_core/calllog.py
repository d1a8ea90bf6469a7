"""Reading call logs: JSON Lines, optionally gzipped, one recorded call a line.

A line holds `messages` ([{role, content}]) and `answer` (string); optional `id` (else the 0-based line number),
`model`, `step`, `tools`, `tool_choice`, `response_format`, `params`, `tool_calls` (in the answer), `usage`,
`latency_s`, `time`. Other keys, ground truth above all, are not read.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import CallLogError
from .types import Call

__all__ = ["CallRecord", "call_of", "called", "count_calls", "read_calls"]

_CONTRACT = ("tools", "tool_choice", "response_format", "functions", "stop")

_MAX_DEPTH = 100
"""How deeply JSON may be nested; beyond some hundred levels Python gives up, here or in a library further down."""

_HINT = "Every line must be one JSON object with `messages` and `answer`; see the README for the format."


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One line of a call log.

    Attributes:
        id: as given, else the 0-based line number in its file, as a string.
        messages: objects with `role` and `content`, as given.
        answer: what the teacher answered.
        model: the teacher's name; "" if not recorded.
        step: name of the step; "" if not recorded.
        options: recorded `tools`, `tool_choice`, `response_format` and what `params` holds.
        tool_calls: tool calls in the answer, in LangChain's form or OpenAI's.
        usage: recorded token counts; empty if not recorded.
        latency_s: seconds the teacher took; None if not recorded.
        time: seconds since the epoch; None if not recorded or not a number.
    """

    id: str
    messages: Sequence[Mapping[str, Any]]
    answer: str
    model: str = ""
    step: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    tool_calls: Sequence[Mapping[str, Any]] = ()
    usage: Mapping[str, Any] = field(default_factory=dict)
    latency_s: float | None = None
    time: float | None = None

    @property
    def said(self) -> str:
        """What answers are compared by: the text; of one call of a tool its arguments, of several all of them."""
        if not self.tool_calls:
            return self.answer
        calls = [called(call) for call in self.tool_calls]
        if len(calls) > 1:
            return json.dumps([{"name": name, "arguments": arguments} for name, arguments in calls], ensure_ascii=False)
        arguments = calls[0][1]
        return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def called(call: Mapping[str, Any]) -> tuple[str, Any]:
    """Name and arguments of a recorded call of a tool, in LangChain's form or OpenAI's; parsed if they are JSON."""
    function = call.get("function", call)
    arguments = function.get("args", function.get("arguments", {}))
    if isinstance(arguments, str):
        with suppress(ValueError):
            arguments = json.loads(arguments)
    return str(function.get("name", "")), arguments


def _messages(line: dict[str, Any]) -> list[dict[str, Any]]:
    messages = line.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("`messages` must be a non-empty list")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError(f"message {i} must be an object with a `role`")
        if not isinstance(message.get("content", ""), (str, list, type(None))):
            raise ValueError(f"message {i}: `content` must be a string or a list of content blocks")
    return messages


def _typed(line: dict[str, Any], key: str, kinds: type | tuple[type, ...], default: Any) -> Any:
    value = line.get(key)
    if value is None:
        return default
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise ValueError(f"`{key}` has the wrong type: {type(value).__name__}")
    return value


def _parsed(text: str) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise ValueError(f"nested more than {_MAX_DEPTH} levels deep") from error
    level, depth = [value], 0
    while level and text.count("[") + text.count("{") > _MAX_DEPTH:
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError(f"nested more than {_MAX_DEPTH} levels deep")
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [child for children in inner for child in children]
    return value


def _record(text: str, index: int) -> CallRecord:
    line = _parsed(text)
    if not isinstance(line, dict):
        raise ValueError("not a JSON object")
    if "answer" not in line and line.get("tool_calls"):
        line["answer"] = ""
    if not isinstance(line.get("answer"), str):
        raise ValueError("`answer` must be a string")
    options = {k: line[k] for k in ("tools", "tool_choice", "response_format") if line.get(k) is not None}
    time = line.get("time")
    return CallRecord(
        id=str(line.get("id", index)),
        messages=_messages(line),
        answer=line["answer"],
        model=_typed(line, "model", str, ""),
        step=_typed(line, "step", str, ""),
        options={**_typed(line, "params", dict, {}), **options},
        tool_calls=_typed(line, "tool_calls", list, ()),
        usage=_typed(line, "usage", dict, {}),
        latency_s=_typed(line, "latency_s", (int, float), None),
        time=float(time) if isinstance(time, (int, float)) and not isinstance(time, bool) else None,
    )


def read_calls(paths: Sequence[str | Path]) -> Iterator[CallRecord]:
    """The calls of several logs, one file after the other.

    Args:
        paths: `.jsonl` files, or `.jsonl.gz`.

    Raises:
        CallLogError: a file cannot be read or a line is malformed; names the file and the 1-based line.
    """
    for path in map(Path, paths):
        number = 0
        try:
            opened = gzip.open if path.suffix == ".gz" else open
            with opened(path, "rt", encoding="utf-8-sig") as f:  # some tools begin a file with a byte order mark
                for number, text in enumerate(f, start=1):
                    if text.strip():
                        yield _record(text, number - 1)
        except ValueError as error:  # UnicodeDecodeError is one
            where = number + 1 if isinstance(error, UnicodeDecodeError) else number
            raise CallLogError(f"{path}, line {where}: {error}.", hint=_HINT) from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            hint = "Give .jsonl or .jsonl.gz files; this one may be cut off or damaged."
            raise CallLogError(f"{path}, line {number + 1}: cannot be unpacked ({error}).", hint=hint) from error
        except OSError as error:
            raise CallLogError(f"{path} cannot be read: {error}.", hint="Give .jsonl or .jsonl.gz files.") from error


def call_of(record: CallRecord, call_id: str) -> Call:
    """A recorded call as JITR would have seen it, for identification alone.

    Args:
        record: the recorded call.
        call_id: unique id; the log's own ids may repeat.
    """
    contract = {k: record.options[k] for k in _CONTRACT if record.options.get(k) is not None}
    digest = hashlib.sha256(json.dumps(contract, sort_keys=True).encode()).hexdigest()[:16] if contract else ""
    pairs = tuple((str(m["role"]), _text(m.get("content"))) for m in record.messages)
    return Call(call_id, pairs, step=record.step, contract=digest, model=record.model)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(block.get("text", "")) if isinstance(block, dict) else str(block) for block in content)
    return content or ""


def count_calls(paths: Sequence[str | Path]) -> int:
    """Number of calls in the logs, after checking every line.

    Raises:
        CallLogError: as `read_calls`, or there is no call at all.
    """
    count = sum(1 for _ in read_calls(paths))
    if not count:
        raise CallLogError(f"no calls in {', '.join(map(str, paths))}.", hint=_HINT)
    return count
