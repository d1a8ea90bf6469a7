"""Middleware that lets JITR serve the model calls of an agent made by `create_agent`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from langchain_core.language_models import BaseChatModel

from jitr_core.errors import MissingExtraError
from jitr_core.integration import Engine, report_fault

from ._runs import engine_or_default
from .chat_model import JITRChatModel

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
except ImportError as error:
    raise MissingExtraError("agents", "JITRMiddleware") from error

__all__ = ["JITRMiddleware"]

_LIMIT = 64  # wrappers kept; apps have a handful of models, but may make one per request


class JITRMiddleware(AgentMiddleware[Any, Any, Any]):
    """Wraps the model of each of an agent's calls in a `JITRChatModel`; all else of the agent stays as it is.

    Put it last in the list of middleware: those before it then see the bare model, which some look at, such as the
    caching of prompts by Anthropic. Tools, structured output, streaming and callbacks work as without it.

    Attributes:
        jitr: the engine; None if JITR was off or could not be configured when the middleware was made.
        step: name of the step these calls belong to; None derives it from each call.

    Example:
        >>> agent = create_agent(model, tools, middleware=[JITRMiddleware()])  # doctest: +SKIP
    """

    def __init__(self, jitr: Engine | None = None, step: str | None = None) -> None:
        """Middleware.

        Args:
            jitr: the engine; None takes the one of this process.
            step: name of the step; None derives it from each call.
        """
        super().__init__()
        self.jitr, self.step = engine_or_default(jitr), step
        self._wrappers: dict[int, JITRChatModel] = {}

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Makes the call with the model wrapped."""
        return handler(self._wrapped(request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Makes the call with the model wrapped."""
        return await handler(self._wrapped(request))

    def _wrapped(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        # The request's model is exchanged, and no answer returned from here: LangChain would then skip callbacks,
        # streaming and the parsing of structured output.
        if self.jitr is None or isinstance(request.model, JITRChatModel):
            return request
        try:
            return request.override(model=self._wrapper(self.jitr, request.model))
        except Exception as error:
            report_fault(self.jitr, "decide", error)
            return request

    def _wrapper(self, engine: Engine, model: BaseChatModel) -> JITRChatModel:
        wrapper = self._wrappers.get(id(model))
        if wrapper is None or wrapper.llm is not model:
            if len(self._wrappers) >= _LIMIT:
                self._wrappers.clear()
            wrapper = self._wrappers[id(model)] = JITRChatModel(llm=model, jitr=engine, step=self.step)
        return wrapper
