"""JITR for LangChain: wrap the chat model, keep the app.

Example:
    >>> from jitr_langchain import JITRChatModel
    >>> chain = prompt | JITRChatModel(llm=ChatOpenAI(model="gpt-4.1")) | parser  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from jitr_core.errors import MissingExtraError
from jitr_core.integration import Engine

try:
    import langchain_core as _core  # noqa: F401
except ImportError as error:
    raise MissingExtraError("langchain", "jitr_langchain") from error

from .callbacks import AsyncJITRCallbackHandler, JITRCallbackHandler
from .chat_model import JITRChatModel
from .judge import judged_by

if TYPE_CHECKING:
    from .llm import JITRLLM as JITRLLM
    from .middleware import JITRMiddleware as JITRMiddleware

__all__ = ["JITRLLM", "AsyncJITRCallbackHandler", "Engine", "JITRCallbackHandler", "JITRChatModel", "judged_by"]


def __getattr__(name: str) -> Any:
    if name == "JITRLLM":  # LangChain's base class of such models is slow to import
        from .llm import JITRLLM

        return JITRLLM
    if name == "JITRMiddleware":  # needs langchain, the others langchain-core alone
        from .middleware import JITRMiddleware

        return JITRMiddleware
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
