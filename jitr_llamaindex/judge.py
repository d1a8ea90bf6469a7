"""A LlamaIndex LLM as judge of free texts."""

from __future__ import annotations

from contextvars import Context
from pathlib import Path

from llama_index.core.llms import LLM
from llama_index_instrumentation.dispatcher import instrument_tags

from jitr_core.judge import Judge

from .steps import SWITCH_TAG

__all__ = ["judged_by"]


def judged_by(llm: LLM, *, most: int = 1_000, cache: str | Path | None = None) -> Judge:
    """An LLM's opinion as the rule by which free texts are the same.

    Put it at the top of a module that the app and the process that trains can import, and name it in the settings.

    Args:
        llm: the LLM; better the bare one, with a timeout of its own. It is asked outside of every run of the app.
        most: see `Judge`.
        cache: see `Judge`.

    Example:
        >>> same = judged_by(OpenAI(model="gpt-4.1", timeout=20), cache=".jitr/verdicts.db")  # doctest: +SKIP
        >>> Policy(equivalence="own:judges:same")  # doctest: +SKIP
    """

    def ask(prompt: str) -> str:
        # JITR neither observes nor replaces these calls, not even if the LLM is wrapped.
        with instrument_tags({SWITCH_TAG: "off"}):
            return llm.complete(prompt).text

    return Judge(lambda prompt: Context().run(ask, prompt), most=most, cache=cache, name=llm.metadata.model_name)
