"""A LangChain chain whose model is wrapped by JITR, from the first call to the first replaced one.

    python examples/own_chain.py

Needs no key and no network: the teacher looks its answers up in the synthetic call log that ships with JITR. Takes
about a quarter of a minute.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate

from jitr_core import JITR, Policy
from jitr_core.demo import calls_path
from jitr_core.report.tasks import show_tasks
from jitr_langchain import JITRChatModel


class Lookup(BaseChatModel):
    """Stands in for the LLM: knows the answer to every message of the log."""

    answers: dict[str, str]

    @property
    def _llm_type(self) -> str:
        return "lookup"

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        answer = self.answers[str(messages[-1].content)]
        return ChatResult(generations=[ChatGeneration(message=AIMessage(answer))])


def main(limit: int | None = None) -> None:
    """Sends the first `limit` reviews of the log through the chain, all by default."""
    with gzip.open(calls_path(), "rt", encoding="utf-8") as lines:
        calls = [call for call in map(json.loads, lines) if call["task"] == "review"][:limit]
    answers = {call["messages"][-1]["content"]: call["answer"] for call in calls}

    with tempfile.TemporaryDirectory() as folder:
        # An app leaves `training` alone: searches then run in a process of their own while it serves.
        jitr = JITR(f"sqlite:///{folder}/jitr.db", policy=Policy(families=("lexical",)), training="inline", seed=0)
        llm = JITRChatModel(llm=Lookup(answers=answers), jitr=jitr, step="review")
        chain = ChatPromptTemplate.from_messages([("user", "{prompt}")]) | llm

        replaced = 0
        for number, prompt in enumerate(answers):
            message = chain.invoke({"prompt": prompt})
            told = message.response_metadata.get("jitr")
            if told and not replaced:
                print(f"call {number}: the first answer by a replacement, {message.content!r}, {told}")
            replaced += told is not None
        print(f"{replaced} of {len(answers)} calls answered by a replacement\n")

        jitr.flush()
        show_tasks(jitr.open_store())
        jitr.close()


if __name__ == "__main__":
    main()
