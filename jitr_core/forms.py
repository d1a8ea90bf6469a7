"""In which form a request wants its answer, and whether an answer has it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .types import Form

__all__ = ["FORMATS", "TOOLS", "fits", "form_of", "get_ready", "other_than_call"]

FORMATS = ("response_format", "format", "response_schema", "response_mime_type", "output_config")
"""Settings that demand JSON: providers spell `response_format` differently."""

TOOLS = ("tools", "functions")
"""Settings that offer tools."""

_TEXT, _OTHER = Form("text"), Form("other")
_OBJECT = {"type": "object"}
_SCHEMAS = ("object", "array", "string", "number", "integer", "boolean", "null")
_SCHEMA_KEYS = frozenset(("properties", "items", "$ref", "anyOf", "enum"))
_FREE = ("auto", "none", None)
_ANY = ("any", "required")
_KEPT = 256

_validators: dict[int, tuple[Any, Any]] = {}


def form_of(settings: Mapping[str, Any]) -> Form | None:
    """The form these settings demand; None if none of them has a say in it.

    A student can call a tool where the request leaves no choice: where it demands this tool, or any and there is one.
    Which of several tools an agent calls, and whether it does, stays with the teacher.

    Args:
        settings: see `jitr_core.integration.settings_of`.

    Example:
        >>> form_of({"response_format": {"type": "json_object"}})
        Form(kind='json', tool='', schema={'type': 'object'})
        >>> form_of({"response_mime_type": "application/json"})
        Form(kind='json', tool='', schema=None)
        >>> form_of({"tools": [{"name": "look_up"}, {"name": "buy"}]}).kind
        'other'
    """
    if not settings:
        return None
    tools = any(name in settings for name in TOOLS)
    formats = [name for name in FORMATS if name in settings]
    if tools:
        return _OTHER if formats or "functions" in settings else _tool(settings)
    if not formats:
        return None
    found = [form for name in formats if (form := _format(name, settings[name])) is not _TEXT]
    if any(form is _OTHER for form in found):
        return _OTHER
    # The schema and that there is one may stand in two settings.
    known = [form for form in found if form.schema is not None]
    return next((form for form in known if form.schema is not _OBJECT), (known or found or [_TEXT])[0])


def _tool(settings: Mapping[str, Any]) -> Form:
    tools, choice = settings["tools"], settings.get("tool_choice")
    if not isinstance(tools, Sequence) or not all(isinstance(tool, Mapping) for tool in tools):
        return _OTHER
    described = [tool.get("function", tool) for tool in tools]
    wanted = _name(choice)
    if choice is not True and (choice in _FREE or wanted in _FREE):
        return _OTHER
    if choice is not True and wanted not in _ANY:
        described = [tool for tool in described if tool.get("name") == wanted]
    if len(described) != 1 or not described[0].get("name"):
        return _OTHER
    return Form("tool", described[0]["name"], described[0].get("parameters", described[0].get("input_schema")))


def _name(choice: Any) -> Any:
    """The name in a choice of a tool, or what it says in its stead, such as "any"."""
    if not isinstance(choice, Mapping):
        return choice
    named = choice.get("function", choice)
    return (named.get("name") if isinstance(named, Mapping) else None) or choice.get("type")


def _format(name: str, value: Any) -> Form:
    """The form one setting demands."""
    if name == "output_config":
        value = value.get("format") if isinstance(value, Mapping) else None
        if value is None:
            return _TEXT
    if name == "response_mime_type" or value in ("json", "text"):
        return {"application/json": Form("json"), "json": Form("json")}.get(value, _TEXT)
    if isinstance(value, type):
        return Form("json", schema=value)
    if not isinstance(value, Mapping):
        return _OTHER
    kind = value.get("type")
    if kind == "json_schema":
        inner = value.get("json_schema", value)
        return Form("json", schema=inner.get("schema")) if isinstance(inner, Mapping) else _OTHER
    if kind in ("text", "json_object"):
        return Form("json", schema=_OBJECT) if kind == "json_object" else _TEXT
    return Form("json", schema=value) if kind in _SCHEMAS or _SCHEMA_KEYS & value.keys() else _OTHER


def other_than_call(tool: str, said: str) -> str:
    """What is learnt where the teacher answers otherwise than by one call of a demanded tool: no student agrees.

    Left out, such answers would be missing where agreement is measured.

    Args:
        tool: name of the tool.
        said: what the teacher answered.
    """
    return f"no single call of {tool}: {said}"


def fits(form: Form, answer: str | None) -> bool:
    """Whether an answer has a form; False too where its schema cannot be read.

    Example:
        >>> fits(Form("json", schema={"required": ["a"]}), '{"a": 1}'), fits(Form("json"), "yes")
        (True, False)
    """
    if answer is None or form.kind == "other":
        return False
    if form.kind == "text":
        return True
    try:
        if hasattr(form.schema, "model_validate_json"):
            form.schema.model_validate_json(answer)
            return True
        value = json.loads(answer)
        if form.kind == "tool" and not isinstance(value, dict):
            return False
        return form.schema is None or bool(_validator(form.schema).is_valid(value))
    except Exception:  # Pydantic, jsonschema and schemas themselves have errors of their own
        return False


def get_ready() -> None:
    """Import now what checking answers against a schema takes, so that no call waits for it."""
    import jsonschema  # noqa: F401


def _validator(schema: Any) -> Any:
    """The validator of a schema, made once; holding the schema keeps its id unique."""
    if (hit := _validators.get(id(schema))) is None:
        from jsonschema import Draft202012Validator

        if len(_validators) >= _KEPT:
            _validators.clear()
        hit = _validators[id(schema)] = (schema, Draft202012Validator(_plain(schema)))
    return hit[1]


def _plain(schema: Any) -> Any:
    """A schema in JSON Schema's words: Google writes `STRING`, and `nullable` where null will do (OpenAPI 3.0)."""
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    plain = {key: _plain(part) for key, part in schema.items()}
    kind = plain.get("type")
    if isinstance(kind, str) and kind.lower() in _SCHEMAS:
        plain["type"] = [kind.lower(), "null"] if plain.get("nullable") is True else kind.lower()
    return plain
