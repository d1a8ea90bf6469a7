"""JITR for LlamaIndex.

There is nothing here yet. This package will hold `JITRLLM`, the wrapper around an LLM of LlamaIndex that
`jitr_langchain.JITRChatModel` is around a chat model of LangChain. Until then a call log written by the app can be
replayed with `jitr replay`.
"""

__all__: list[str] = []
