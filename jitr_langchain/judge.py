"""A LangChain model as judge of free texts."""

from __future__ import annotations

from contextvars import Context
from pathlib import Path
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig

from jitr_core.judge import Judge

__all__ = ["judged_by"]

# JITR neither observes nor replaces these calls, not even if the model is wrapped.
_UNSEEN: RunnableConfig = {"metadata": {"jitr": "off"}, "callbacks": []}


def judged_by(llm: Runnable[Any, Any], *, most: int = 1_000, cache: str | Path | None = None) -> Judge:
    """A model's opinion as the rule by which free texts are the same.

    Put it at the top of a module that the app and the process that trains can import, and name it in the settings.

    Args:
        llm: the model; better the bare one, with a timeout of its own. It is asked outside of every run of the app.
        most: see `Judge`.
        cache: see `Judge`.

    Example:
        >>> same = judged_by(ChatOpenAI(model="gpt-4.1", timeout=20), cache=".jitr/verdicts.db")  # doctest: +SKIP
        >>> Policy(equivalence="own:judges:same")  # doctest: +SKIP
    """

    def ask(prompt: str) -> str:
        reply = Context().run(llm.invoke, prompt, _UNSEEN)
        return reply if isinstance(reply, str) else str(reply.text)

    name = getattr(llm, "model_name", "") or getattr(llm, "model", "") or type(llm).__name__
    return Judge(ask, most=most, cache=cache, name=str(name))
