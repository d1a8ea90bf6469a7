"""What the wrappers of chat models and of models for text completion share: each call is decided once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar
from uuid import UUID

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from typing_extensions import Self

from jitr_core.config import disabled
from jitr_core.integration import Engine, Routed, decided, report_fault, tell_of_settings
from jitr_core.types import Answer, Call, Decision, Form

from ._runs import claim, with_wishes
from ._stand_in import StandIn
from ._translate import call_of

__all__ = ["Routing"]


class Routing(StandIn):
    """Has calls decided, and asks the teacher aside. To be mixed into a stand-in.

    Attributes:
        llm: the teacher.
        jitr: the engine; None if JITR was off or could not be configured when the wrapper was made.
        step: name of the step this model serves; None derives it from each request.
    """

    jitr: Any
    step: Any
    _texts_only: ClassVar[bool] = False

    def _begin(self) -> None:
        """What is left to do once the wrapper is made."""
        self._share()
        own = self.llm.__dict__
        tell_of_settings(type(self.llm).__name__, own.get("model_kwargs") or {}, own)

    def _ready(self, decision: Decision, provider: str, form: Form | None) -> Any:
        """The replacement's answer as the app gets it."""
        raise NotImplementedError

    def _taught(
        self, call: Call, messages: list[BaseMessage], stop: list[str] | None, settings: Mapping[str, Any]
    ) -> Answer | None:
        """What the teacher answers outside of the app's run; None if it is more than one text."""
        raise NotImplementedError

    def _decide(
        self,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        settings: Mapping[str, Any],
        run: UUID | None,
        run_name: str | None,
        around: Callable[[], tuple[Sequence[str], Mapping[str, Any]]],
    ) -> Routed | None:
        """Decides a call.

        Args:
            messages: the prompt.
            stop: the stop sequences of the request.
            settings: the other keyword arguments of the request.
            run: id of the model's run, as far as it is known.
            run_name: the name given to that run.
            around: finds the run's tags and metadata.

        Returns:
            The decided call; None: the teacher answers and nobody is told.
        """
        engine: Engine | None = self.jitr
        if engine is None:
            return None
        try:
            if disabled():
                return None
            tags, metadata = around()
            if metadata.get("jitr") == "off":
                return None
            claim(engine, run)
            call = call_of(
                self.llm, messages, stop, settings, step=self.step, run_name=run_name, tags=tags, metadata=metadata
            )
            if self._texts_only and call.form is not None and call.form.kind == "tool":
                call.replaceable = False  # a completion cannot call a tool
            decision = decided(engine, call)
            message = None
            if decision.kind == "replacement":
                message = self._ready(decision, metadata.get("ls_provider", ""), call.form)
            return Routed(engine, call, decision, message, self._ask_aside)
        except Exception as error:
            report_fault(engine, "decide", error)
            return None

    def _asker(
        self, call: Call, messages: list[BaseMessage], stop: list[str] | None, settings: Mapping[str, Any]
    ) -> Callable[[], Answer]:
        """Asks the teacher outside of the app's run: no callback hears of it."""

        def ask() -> Answer:
            answer = self._taught(call, messages, stop, settings)
            if answer is None:
                raise ValueError("the teacher's answer to an audited call is more than a text")
            return answer

        return ask

    def _ask_aside(self, question: str) -> Answer:
        """Asks the teacher a question that no call of the app asked, outside of every run."""
        name = str(self.llm._get_ls_params().get("ls_model_name") or "")
        return self._asker(Call("", (), model=name), [HumanMessage(question)], None, {})()

    def _wishing(self, config: RunnableConfig | None) -> RunnableConfig | None:
        """The config with what its `configurable` says to JITR as metadata, which LangChain hands on to the hooks."""
        try:
            return with_wishes(config)
        except Exception:  # LangChain will say what is wrong with this config
            return config

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        memo = {} if memo is None else memo
        memo[id(self.jitr)] = self.jitr
        parent: Any = super()
        copied: Self = parent.__deepcopy__(memo)
        return copied
