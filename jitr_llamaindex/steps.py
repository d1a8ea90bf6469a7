"""Which step of the app makes a call: declared in a tag, or told by the prompt template or the span that calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from llama_index.core.prompts import BasePromptTemplate
from llama_index_instrumentation.dispatcher import active_instrument_tags, instrument_tags

from jitr_core.types import GIVEN

__all__ = ["ROUTED", "SWITCH_TAG", "jitr_step", "kind_of", "place_of", "step_of", "switched_off"]

SWITCH_TAG = "jitr"
"""The instrument tag that sends calls to the teacher unseen ("off"), or marks a call that JITR makes ("audit")."""

ROUTED: ContextVar[bool] = ContextVar("jitr_routed", default=False)
"""True while a wrapper has the teacher answer, so that an event handler does not observe the call once more."""

_STEP_TAG = "jitr_step"
_UUID = 37  # length of "-" and the uuid at the end of a span's id


@contextmanager
def jitr_step(name: str) -> Iterator[None]:
    """Names the step of all calls made inside, and leaves the other instrument tags as they are.

    A `step` declared on the wrapper wins over it.

    Args:
        name: name of the step.

    Example:
        >>> with jitr_step("triage"):
        ...     active_instrument_tags.get()["jitr_step"]
        'triage'
    """
    with instrument_tags({**active_instrument_tags.get(), _STEP_TAG: name}):
        yield


def switched_off(tags: Mapping[str, Any]) -> bool:
    """Whether these instrument tags keep a call from JITR."""
    return tags.get(SWITCH_TAG) in ("off", "audit")


def step_of(tags: Mapping[str, Any], kind: str, span_id: str | None) -> str:
    """Name of the step: declared by the user, else given by the framework, else "".

    Args:
        tags: the instrument tags of the call.
        kind: what its prompt template is for, see `kind_of`.
        span_id: id of the span that calls.
    """
    if declared := tags.get(_STEP_TAG):
        return str(declared)
    given = kind or place_of(span_id)
    return GIVEN + given if given else ""


def kind_of(prompt: BasePromptTemplate | None) -> str:
    """What LlamaIndex says a prompt template is for, e.g. "text_qa"; "" if it does not say.

    Its text is not looked at: the engine finds templates in the calls themselves.
    """
    kind = (prompt.metadata or {}).get("prompt_type") if prompt is not None else None
    name = str(getattr(kind, "value", kind) or "")
    return "" if name == "custom" else name


def place_of(span_id: str | None) -> str:
    """Class and method of a span, e.g. "LLMRerank._postprocess_nodes"; "" where that tells nothing.

    Example:
        >>> place_of("Triage.classify-6d9bbd0c-9d2c-4c11-8c05-4d1a4ad4b4a7")
        'Triage.classify'
    """
    if span_id is None or span_id[-_UUID : -_UUID + 1] != "-":
        return ""
    place = span_id[:-_UUID]
    # The span of a workflow's `run` stays the active one after the workflow has ended, and no step of it calls there.
    return "" if place.endswith(".run") else place
