"""Configuration without code: environment variables over `jitr.toml` or `pyproject.toml` over the defaults."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from .config import DEFAULT_URL, Policy
from .errors import ConfigError

__all__ = ["Settings", "configured_url", "load_settings"]

# `cache_dir` is called what its variable has always been called, JITR_CACHE.
_POLICY = {("cache" if name == "cache_dir" else name): hint for name, hint in get_type_hints(Policy).items()}
_ENGINE: dict[str, Any] = {"url": str, "app": str, "tenant": str, "training": str, "seed": int, "redact": str}
_KNOWN: dict[str, Any] = {"disabled": bool, **_ENGINE, **_POLICY}
# Variables that are no settings: switches of parts, test data, and what Kubernetes sets for a service called "jitr".
_FOREIGN = re.compile(r"JITR_(SHARED|ENCODER|PROMPT_TAP|SERVICE_.*|PORT(_.*)?)")
_SWITCH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What environment and files say.

    Attributes:
        disabled: True: JITR is switched off.
        engine: arguments of `JITR` that were set, `policy` excepted.
        policy: what is promised.
        places: where each of its settings stands that was set.
    """

    disabled: bool
    engine: dict[str, Any]
    policy: Policy
    places: dict[str, str] = dataclasses.field(default_factory=dict)


def load_settings(folder: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of an app that says nothing in code.

    A setting `x` is taken from the variable `JITR_X`, else from `jitr.toml`, else, where there is no such file, from
    the table `[tool.jitr]` of `pyproject.toml`. Settings are the arguments of `JITR` that are plain values, `redact` by
    its name, the fields of `Policy`, with `cache` for `cache_dir`, and `disabled`. An empty variable counts as not set.

    Args:
        folder: where the files are; None is the working folder.
        environ: the environment; None is the process's own.

    Raises:
        ConfigError: a file cannot be read, or a setting is unknown, of the wrong type or out of its range; the message
            names it and where it stands.
    """
    found = _from_files(folder or Path())
    found.update(_from_environment(os.environ if environ is None else environ))
    own = {("cache_dir" if key == "cache" else key): each for key, each in found.items() if key in _POLICY}
    places = {key: place for key, (_, place) in own.items()}
    try:
        policy = Policy(**{key: value for key, (value, _) in own.items()})
    except ConfigError as error:
        raise ConfigError(f"{error} (set in {', '.join(sorted(set(places.values())))})") from error
    engine = {key: value for key, (value, _) in found.items() if key in _ENGINE}
    return Settings(found.get("disabled", (False, ""))[0], engine, policy, places)


def configured_url() -> str:
    """Where the state is, as far as environment and files say.

    Raises:
        ConfigError: as `load_settings`.
    """
    return str(load_settings().engine.get("url", DEFAULT_URL))


Found = dict[str, tuple[Any, str]]


def _from_files(folder: Path) -> Found:
    """Setting → (value, where it stands)."""
    for name, table in (("jitr.toml", ()), ("pyproject.toml", ("tool", "jitr"))):
        path = folder / name
        if not path.is_file():
            continue
        values = _read(path)
        for key in table:
            values = values.get(key, {})
            if not isinstance(values, dict):
                raise ConfigError(f"{key} in {name} must be a table.")
        where = f"{name}, [{'.'.join(table)}]" if table else name
        return {_known(key, _KNOWN, where): (_typed(key, value, where), where) for key, value in values.items()}
    return {}


def _read(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path.name} cannot be read: {error}") from error


def _from_environment(environ: Mapping[str, str]) -> Found:
    found: Found = {}
    for name, text in environ.items():
        if name.startswith("JITR_") and text and not _FOREIGN.fullmatch(name):
            _known(name, [f"JITR_{key.upper()}" for key in _KNOWN], "the environment")
            key = name.removeprefix("JITR_").lower()
            found[key] = (_parsed(name, text, _KNOWN[key]), name)
    return found


def _known(key: str, known: Iterable[str], where: str) -> str:
    if key not in known:
        close = difflib.get_close_matches(key, known, 1)
        raise ConfigError(f"unknown setting {key} in {where}.", hint=f"Did you mean {close[0]}?" if close else "")
    return key


def _typed(key: str, value: Any, where: str) -> Any:
    """A file's value as its setting wants it."""
    wanted = _kind(_KNOWN[key])
    if wanted is tuple and isinstance(value, list) and all(isinstance(each, str) for each in value):
        return tuple(value)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise ConfigError(f"{key} in {where} must be {_NAMES[wanted]}, got {value!r}.")
    return value


def _parsed(name: str, text: str, hint: Any) -> Any:
    """A variable's text as its setting wants it."""
    wanted = _kind(hint)
    try:
        if wanted is bool:
            return _SWITCH[text.lower()]
        if wanted is tuple:
            return tuple(part.strip() for part in text.split(","))
        return wanted(text)
    except (KeyError, ValueError):
        raise ConfigError(f"{name} must be {_NAMES[wanted]}, got {text!r}.") from None


_NAMES = {
    bool: "true or false",
    str: "a text",
    int: "a whole number",
    float: "a number",
    tuple: "a list of names",
}


def _kind(hint: Any) -> Any:
    """The type a setting is read as: that of `float | None` is float, that of `tuple[str, ...]` is tuple."""
    if get_origin(hint) is tuple:
        return tuple
    return next((kind for kind in (hint, *get_args(hint)) if kind in _NAMES), str)
