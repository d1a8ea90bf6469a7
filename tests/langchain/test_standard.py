"""LangChain's standard tests for chat models, on the wrapper."""

from __future__ import annotations

import json
import os

import pytest
from langchain_core.load import dumpd, loads
from langchain_core.load.dump import dumps
from langchain_fakes import FakeEngine, Teacher, normal
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from openai_server import running
from pydantic import BaseModel

from jitr_langchain import JITRChatModel


class _NotDumped(JITRChatModel):
    """It is dumped as the teacher, which here is a fake that cannot be: `test_serdes` has nothing to test."""

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return False


class TestAroundAFake(ChatModelUnitTests):
    @property
    def chat_model_class(self):
        return _NotDumped

    @property
    def chat_model_params(self):
        return {"llm": Teacher(), "jitr": FakeEngine()}


@pytest.fixture(scope="module")
def openai():
    """`ChatOpenAI` against a loopback server."""
    chat_openai = pytest.importorskip("langchain_openai").ChatOpenAI
    with running() as server, pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        patch.setitem(os.environ, "OPENAI_API_KEY", "secret-key")
        yield chat_openai, server


class _Around:
    """What the suites have to know of the wrapper around `ChatOpenAI`."""

    replacement: str | None = None
    deferring = False

    @pytest.fixture(autouse=True)
    def _teacher(self, openai):
        chat_openai, server = openai
        server.fails_on_texts = self.replacement is not None  # what a student cannot honour stays the provider's
        self.engine = FakeEngine(self.replacement, deferring=self.deferring)
        self.teacher = chat_openai(model="gpt-fake", base_url=server.url, max_retries=0)
        yield
        server.fails_on_texts = False
        assert not self.engine.faults

    @pytest.fixture
    def model(self, request, _teacher):
        settings = getattr(request, "param", None) or {}
        return JITRChatModel(llm=self.teacher, jitr=self.engine, **settings)

    @property
    def chat_model_class(self):
        return JITRChatModel

    @property
    def chat_model_params(self):
        return {"llm": self.teacher, "jitr": self.engine}

    @property
    def standard_chat_model_params(self):
        return {}

    @property
    def has_tool_calling(self):
        return True

    @property
    def has_tool_choice(self):
        return True

    @property
    def has_structured_output(self):
        return True

    @property
    def supports_json_mode(self):
        return True

    @property
    def supports_model_override(self):
        return self.replacement is None

    @property
    def model_override_value(self):
        return "gpt-other"


class TestAroundOpenAI(_Around, ChatModelUnitTests):
    """Nothing is asked here; the address is one that stays, as the snapshot of the dump has it."""

    @pytest.fixture(autouse=True)
    def _teacher(self, openai):
        self.engine = FakeEngine(deferring=self.deferring)
        self.teacher = openai[0](model="gpt-fake", base_url="http://127.0.0.1:9/v1", max_retries=0)


class TestAroundOpenAIWithARelease(TestAroundOpenAI):
    """As there, where a release is there and not sure."""

    deferring = True


@pytest.mark.filterwarnings("ignore::UserWarning")  # LangChain's own, with or without the wrapper
class TestAroundOpenAIObserving(_Around, ChatModelIntegrationTests):
    pass


@pytest.mark.filterwarnings("ignore::UserWarning")
class TestAroundOpenAIDeferring(_Around, ChatModelIntegrationTests):
    deferring = True


@pytest.mark.filterwarnings("ignore::UserWarning")
class TestAroundOpenAIReplaced(_Around, ChatModelIntegrationTests):
    """Every call a student can honour is replaced; the provider would answer it with an error."""

    replacement = "Positive."


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


def _used(llm):
    """What an app gets in several ways."""
    return normal(
        [
            llm.invoke("hello there", stop=["zzz"]),
            list(llm.stream("hello there")),
            llm.bind_tools([Joke]).invoke("tell me a Joke"),
            llm.with_structured_output(Joke).invoke("tell me"),
            llm.with_structured_output(Joke, method="function_calling", include_raw=True).invoke("tell me"),
            llm.with_structured_output(Joke, method="json_mode").invoke("tell me in JSON"),
        ]
    )


def test_the_provider_gets_the_same_requests(openai):
    chat_openai, server = openai
    bare = chat_openai(model="gpt-fake", base_url=server.url, temperature=0)
    server.requests.clear()
    expected = _used(bare), list(server.requests)
    server.requests.clear()
    engine = FakeEngine()
    assert _used(JITRChatModel(llm=bare, jitr=engine)) == expected[0]
    assert server.requests == expected[1]
    texts = [answer.text for answer in engine.answers]
    # What a tool of the teacher's choice is called with is no answer; of a demanded one it is.
    assert texts[:2] == ["You said: hello there"] * 2 and all(map(json.loads, texts[2:])) and len(texts) == 5
    assert {(a.model, a.input_tokens, a.output_tokens) for a in engine.answers} == {("gpt-fake", 11, 5)}
    assert [call.replaceable for call in engine.decided] == [True, True, False, True, True, True]


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
def test_it_is_dumped_as_the_teacher_without_its_secrets(openai):
    chat_openai, server = openai
    bare = chat_openai(model="gpt-fake", base_url=server.url)
    llm = JITRChatModel(llm=bare, jitr=FakeEngine())
    assert dumpd(llm) == dumpd(bare) and "secret-key" not in dumps(llm)
    loaded = loads(dumps(llm), allowed_objects="all", secrets_from_env=True)
    assert type(loaded) is chat_openai and loaded.model_name == "gpt-fake"
