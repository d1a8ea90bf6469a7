"""JITR for LlamaIndex: wrap the LLM, keep the app.

Example:
    >>> from llama_index.core import Settings
    >>> from jitr_llamaindex import JITRLLM
    >>> Settings.llm = JITRLLM(llm=OpenAI(model="gpt-4.1"))  # doctest: +SKIP
"""

from jitr_core.errors import MissingExtraError
from jitr_core.integration import Engine

try:
    import llama_index.core as _core  # noqa: F401
except ImportError as error:
    raise MissingExtraError("llamaindex", "jitr_llamaindex") from error

from .instrumentation import JITREventHandler
from .judge import judged_by
from .llm import JITRLLM
from .steps import jitr_step

__all__ = ["JITRLLM", "Engine", "JITREventHandler", "jitr_step", "judged_by"]
