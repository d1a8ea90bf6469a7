"""Functions of the user's, by the name that settings have for them: `module:function`."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, cast

from .errors import ConfigError

__all__ = ["imported", "member", "name_of"]


def imported(name: str, what: str) -> Callable[..., Any]:
    """The function of this name.

    Args:
        name: `module:function`.
        what: what it is to the user, for messages.

    Raises:
        ConfigError: it cannot be imported, or is no function.

    Example:
        >>> imported("json:dumps", "redaction")([1])
        '[1]'
    """
    module, _, path = name.partition(":")
    try:
        found = member(importlib.import_module(module), path)
    except Exception as error:  # a module of the user's may raise anything
        raise ConfigError(
            f"the {what} {name} cannot be imported: {error!r}.",
            hint="Python must find its module: PYTHONPATH=FOLDER names the folder it is in.",
        ) from error
    if not callable(found):
        raise ConfigError(f"the {what} {name} is no function.", hint="It must be one at the top of its module.")
    return cast(Callable[..., Any], found)


def member(module: Any, path: str) -> Any:
    """What a dotted path in a module leads to; None if to nothing."""
    return functools.reduce(lambda found, part: getattr(found, part, None), path.split("."), module)


def name_of(function: Callable[..., Any]) -> str:
    """The name by which a function could be imported, if it is at the top of its module."""
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', repr(function))}"
