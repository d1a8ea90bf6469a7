"""Puts the wrapper in the teacher's place in what the teacher built: bound tools and the like."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableParallel,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.configurable import RunnableConfigurableFields
from langchain_core.runnables.utils import Input, Output

__all__ = ["ConfigurableTeacher", "rewrap"]


def rewrap(runnable: Any, wrapper: Any) -> Any:
    """A copy of `runnable` in which every occurrence of the teacher goes through `wrapper`.

    Args:
        runnable: what the teacher returned, e.g. from `bind_tools`.
        wrapper: the model around the teacher.
    """
    teacher = wrapper.llm
    if runnable is teacher:
        return wrapper
    if type(runnable) is type(teacher):  # a copy with other settings
        return wrapper.model_copy(update={"llm": runnable})
    update: dict[str, Any] = {}
    if isinstance(runnable, RunnableBindingBase):
        update = {"bound": rewrap(runnable.bound, wrapper)}
    elif isinstance(runnable, RunnableSequence):
        first, *middle, last = (rewrap(part, wrapper) for part in runnable.steps)
        update = {"first": first, "middle": middle, "last": last}
    elif isinstance(runnable, RunnableParallel):
        update = {"steps__": {key: rewrap(part, wrapper) for key, part in runnable.steps__.items()}}
    elif isinstance(runnable, RunnableWithFallbacks):
        fallbacks = [rewrap(part, wrapper) for part in runnable.fallbacks]
        update = {"runnable": rewrap(runnable.runnable, wrapper), "fallbacks": fallbacks}
    return runnable.model_copy(update=update) if update else runnable


class ConfigurableTeacher(RunnableConfigurableFields[Input, Output]):
    """The teacher with configurable fields; what it is configured to goes through the wrapper.

    Attributes:
        wrapper: the model around the teacher.
    """

    wrapper: Any

    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        """Name in traces: LangChain's."""
        return super().get_name(suffix, name=name or self.name or RunnableConfigurableFields.__name__)

    def configurable_fields(self, **kwargs: Any) -> Any:
        """As before, with these fields too."""
        return self.wrapper.configurable_fields(**{**self.fields, **kwargs})

    def _prepare(self, config: RunnableConfig | None = None) -> tuple[Runnable[Input, Output], RunnableConfig]:
        configured, rest = super()._prepare(config)
        return rewrap(configured, self.wrapper), rest
