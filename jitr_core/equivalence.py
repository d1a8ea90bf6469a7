"""When two answers count as the same."""

from __future__ import annotations

import json

__all__ = ["canonical", "equivalent"]


def canonical(answer: str) -> str:
    """The form in which equivalent answers are equal strings: white space stripped, JSON with sorted keys.

    Example:
        >>> canonical(' Positive. ')
        'Positive.'
        >>> canonical('{"b": 1, "a": 2.0}')
        '{"a": 2.0, "b": 1}'
    """
    text = answer.strip()
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        return text


def equivalent(one: str, other: str) -> bool:
    """Whether two answers are equal after stripping, or both JSON and equal with types.

    Example:
        >>> equivalent('{"a": 1}', '{ "a":1 }'), equivalent('{"a": 1}', '{"a": 1.0}')
        (True, False)
    """
    return one.strip() == other.strip() or canonical(one) == canonical(other)
