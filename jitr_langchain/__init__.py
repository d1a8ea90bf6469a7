"""JITR for LangChain: wrap the chat model, keep the app.

Example:
    >>> from jitr_langchain import JITRChatModel
    >>> chain = prompt | JITRChatModel(llm=ChatOpenAI(model="gpt-4.1")) | parser  # doctest: +SKIP
"""

from jitr_core.integration import Engine

from .chat_model import JITRChatModel

__all__ = ["Engine", "JITRChatModel"]
