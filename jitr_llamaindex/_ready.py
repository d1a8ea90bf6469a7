"""Answers that are there already, delivered with the events, callbacks and spans of the teacher's own."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Generator
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import LLM
from llama_index_instrumentation import get_dispatcher

from ._translate import Response

__all__ = ["ready"]

_dispatcher = get_dispatcher(__name__)
_ANSWER = "__jitr_answer__"


def ready(llm: LLM, method: str, answer: Response) -> Any:
    """The teacher's method, but that it gives `answer`.

    Args:
        llm: the teacher.
        method: chat, complete, stream_chat, stream_complete or the asynchronous form of one.
        answer: what it gives.
    """
    teller = copy.copy(llm)
    # A call the teacher never sees must not use up its quota: LlamaIndex's decorators would ask the rate limiter.
    teller.__dict__.update({_ANSWER: answer, "rate_limiter": None})
    return vars(_Ready)[method].__get__(teller, type(teller))


def _whole(llm: Any) -> Response:
    answer: Response = llm.__dict__[_ANSWER]
    return answer


def _piece(llm: Any) -> Response:
    answer = _whole(llm)
    text: Any = answer.message.content if hasattr(answer, "message") else answer.text
    return answer.model_copy(update={"delta": text or ""})


def _pieces(llm: Any) -> Generator[Response, None, None]:
    yield _piece(llm)


async def _apieces(llm: Any) -> AsyncGenerator[Response, None]:
    yield _piece(llm)


class _Ready:
    """Methods of a copy of the teacher; LlamaIndex's decorators tell who listens what the teacher's would tell."""

    @_dispatcher.span
    @llm_chat_callback()
    def chat(self, messages: list[ChatMessage], **kwargs: Any) -> Any:
        return _whole(self)

    @_dispatcher.span
    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        return _whole(self)

    @_dispatcher.span
    @llm_chat_callback()
    def stream_chat(self, messages: list[ChatMessage], **kwargs: Any) -> Any:
        return _pieces(self)

    @_dispatcher.span
    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        return _pieces(self)

    @_dispatcher.span
    @llm_chat_callback()
    async def achat(self, messages: list[ChatMessage], **kwargs: Any) -> Any:
        return _whole(self)

    @_dispatcher.span
    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        return _whole(self)

    @_dispatcher.span
    @llm_chat_callback()
    async def astream_chat(self, messages: list[ChatMessage], **kwargs: Any) -> Any:
        return _apieces(self)

    @_dispatcher.span
    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        return _apieces(self)
