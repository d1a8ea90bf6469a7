"""Models for text completion that pass for other ones; apart, as LangChain's base class of them is slow to import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from langchain_core.language_models.llms import BaseLLM
from pydantic import SkipValidation, model_serializer

from ._stand_in import StandIn, teachers

__all__ = ["TextStandIn"]


class TextStandIn(StandIn, BaseLLM):
    """A model for text completion that passes for another one."""

    _kind: ClassVar[Any] = BaseLLM
    _hint: ClassVar[str] = (
        "Wrap the model first, then bind or configure: JITRLLM(llm=model).bind(…). Chat models go into JITRChatModel."
    )

    _hooks: ClassVar[Sequence[str]] = (
        "generate",
        "agenerate",
        "_generate_helper",
        "_agenerate_helper",
        "_stream",
        "_astream",
    )

    llm: SkipValidation[BaseLLM]

    asdict = teachers("asdict", BaseLLM)
    dict = teachers("dict", BaseLLM)
    save = teachers("save", BaseLLM)
    _dict_for_compat = teachers("_dict_for_compat", BaseLLM)
    _convert_input = teachers("_convert_input", BaseLLM)

    @model_serializer(mode="wrap")
    def _dumped(self, handler: Any, info: Any) -> Any:
        return self.llm.model_dump(mode=info.mode)
