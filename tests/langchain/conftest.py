"""Fixtures of the LangChain tests."""

from __future__ import annotations

import pytest
from langchain_fakes import FakeEngine, Teacher

from jitr_langchain import JITRChatModel


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def teacher():
    return Teacher()


@pytest.fixture
def wrapped(teacher, engine):
    return JITRChatModel(llm=teacher, jitr=engine)
