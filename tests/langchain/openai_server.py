"""A loopback server that speaks OpenAI's chat completions: texts, tools, JSON schemas, streams and usage."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else " ".join(block.get("text", "") for block in content)


def _example(schema: dict[str, Any], root: dict[str, Any], text: str) -> Any:
    """The simplest value that satisfies a schema, with a number or the last word of the prompt where there is room."""
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].lstrip("#/").split("/"):
            target = target[part]
        return _example(target, root, text)
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], root, text)
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "string")
    if kind == "object":
        return {name: _example(part, root, text) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [_example(schema.get("items", {}), root, text)]
    number = re.search(r"\d+", text)
    plain = {"integer": int(number.group()) if number else 1, "number": 1.5, "boolean": True, "null": None}
    return plain.get(kind, next(reversed(re.findall(r"'([^']+)'", text) or text.split()), "x"))


def _answer(request: dict[str, Any]) -> tuple[str | None, tuple[str, str] | None]:
    """(text, None) or (None, (tool, its arguments as JSON))."""
    last = request["messages"][-1]
    user = next((_text(m) for m in reversed(request["messages"]) if m["role"] == "user"), "")
    tools = [tool["function"] for tool in request.get("tools") or []]
    choice = request.get("tool_choice")
    if isinstance(choice, dict):
        tools = [tool for tool in tools if tool["name"] == choice["function"]["name"]]
    if tools and choice != "none" and (choice or last["role"] == "user"):
        named = [tool for tool in tools if tool["name"] in user or "_" not in tool["name"]]
        tool = (named or tools)[0]
        schema = tool.get("parameters") or {"type": "object"}
        return None, (tool["name"], json.dumps(_example(schema, schema, user), ensure_ascii=False))
    form = request.get("response_format") or {}
    if form.get("type") == "json_schema":
        schema = form["json_schema"]["schema"]
        return json.dumps(_example(schema, schema, user)), None
    if form.get("type") == "json_object":
        return json.dumps({"setup": "why?", "punchline": "because"}), None
    text = f"You said: {user}"
    for stop in [request["stop"]] if isinstance(request.get("stop"), str) else request.get("stop") or []:
        text = text.split(stop)[0]
    return text, None


def _deltas(text: str | None, tool: tuple[str, str] | None) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": "" if tool is None else None}
    if tool is None:
        yield from ({"content": word} for word in re.findall(r"\S+\s*", text or ""))
        return
    name, arguments = tool
    yield {
        "tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}]
    }
    for start in range(0, len(arguments), 8):
        yield {"tool_calls": [{"index": 0, "function": {"arguments": arguments[start : start + 8]}}]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: Any) -> None:
        """Silent."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append(request)
        if self.server.fails_on_texts and not request.get("tools") and not request.get("response_format"):
            return self._send("application/json", '{"error": {"message": "down"}}', 500)
        if "prompt" in request:
            return self._complete(request)
        text, tool = _answer(request)
        finish = "stop" if tool is None else "tool_calls"
        usage = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
        base = {"id": "chatcmpl-1", "created": 1, "model": request["model"]}
        if not request.get("stream"):
            call = tool and {"id": "call_1", "type": "function", "function": {"name": tool[0], "arguments": tool[1]}}
            message = {"role": "assistant", "content": text, **({"tool_calls": [call]} if call else {})}
            choice = {"index": 0, "message": message, "finish_reason": finish}
            body = {**base, "object": "chat.completion", "choices": [choice], "usage": usage}
            return self._send("application/json", json.dumps(body))
        choices = [[{"index": 0, "delta": delta, "finish_reason": None}] for delta in _deltas(text, tool)]
        chunks = [{"choices": choice} for choice in [*choices, [{"index": 0, "delta": {}, "finish_reason": finish}]]]
        chunks.append({"choices": [], "usage": usage})
        lines = [json.dumps({**base, "object": "chat.completion.chunk", **chunk}) for chunk in chunks]
        self._send("text/event-stream", "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]))

    def _complete(self, request: dict[str, Any]) -> None:
        """Completes texts: the older interface, where several may come at once."""
        prompts = request["prompt"] if isinstance(request["prompt"], list) else [request["prompt"]]
        base = {"id": "cmpl-1", "created": 1, "model": request["model"], "object": "text_completion"}
        usage = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}

        def choice(index: int, text: str, finish: str | None = "stop") -> dict[str, Any]:
            return {"index": index, "text": text, "finish_reason": finish, "logprobs": None}

        texts = [f"You said: {prompt}" for prompt in prompts]
        if not request.get("stream"):
            choices = [choice(i, text) for i, text in enumerate(texts)]
            return self._send("application/json", json.dumps({**base, "choices": choices, "usage": usage}))
        pieces = [choice(0, word, None) for word in re.findall(r"\S+\s*", texts[0])]
        lines = [json.dumps({**base, "choices": [piece]}) for piece in [*pieces, choice(0, "")]]
        self._send("text/event-stream", "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]))

    def _send(self, kind: str, body: str, status: int = 200) -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, Any]] = []
        self.fails_on_texts = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextmanager
def running() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
