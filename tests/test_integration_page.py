"""docs/integration.md: what it shows works, with the core's public surface alone."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from easy import QUEUES, easy_calls

from jitr_core import JITR, Policy

PAGE = Path(__file__).parents[1] / "docs" / "integration.md"


class Provider:
    """Sorts by a word."""

    def __init__(self) -> None:
        self.asked = 0

    def create(self, model, messages, **settings):
        self.asked += 1
        words = set(messages[-1]["content"].split())
        return SimpleNamespace(text="billing" if words & set(QUEUES["billing"]) else "delivery", usage=(20, 1))


@pytest.fixture(scope="module")
def code():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return block


@pytest.fixture
def client_of(code, monkeypatch, capsys):
    monkeypatch.setenv("JITR_DISABLED", "1")  # the page's own call is not to open a state here
    page: dict = {}
    exec(compile(code, str(PAGE), "exec"), page)
    monkeypatch.delenv("JITR_DISABLED")
    assert capsys.readouterr().out == "delivery\n"
    return page["Client"]


def ask(client, text, **settings):
    messages = [{"role": "system", "content": "Sort it."}, {"role": "user", "content": text}]
    return client.create(model="gpt-4.1", messages=messages, **settings)


def test_a_step_is_learnt_and_replaced(client_of, tmp_path):
    policy = Policy(families=("lexical",), attempt_growth=1000)
    jitr = JITR(f"sqlite:///{tmp_path}/jitr.db", policy=policy, training="inline", seed=1)
    provider = Provider()
    client = client_of(provider, jitr, step="sort")
    texts = [call["messages"][1]["content"] for call in easy_calls(300)]
    for text in texts[:250]:
        ask(client, text)
    jitr.flush()
    before = provider.asked
    answers = [ask(client, text) for text in texts[250:]]
    jitr.flush()
    assert sum(getattr(answer, "by", None) is not None for answer in answers) > 25
    right = ["billing" if set(QUEUES["billing"]) & set(text.split()) else "delivery" for text in texts[250:]]
    assert sum(a.text == b for a, b in zip(answers, right, strict=True)) >= 47
    assert provider.asked - before < 30 and not jitr.faults
    asked = provider.asked
    assert getattr(ask(client, texts[0], n=2), "by", None) is None and provider.asked == asked + 1
    jitr.close()


def test_a_dead_engine_disturbs_nobody_and_errors_pass(client_of):
    class Dead:
        def __getattr__(self, name):
            raise RuntimeError("dead")

    assert ask(client_of(Provider(), Dead()), "x").text == "delivery"

    def down(**request):
        raise ConnectionError("the provider is down")

    with pytest.raises(ConnectionError, match="provider is down"):
        ask(client_of(SimpleNamespace(create=down), Dead()), "x")


def test_the_page_needs_nothing_that_is_not_public(code):
    for module, names in re.findall(r"^from (jitr_core\S*) import (.+)$", code, re.MULTILINE):
        part = importlib.import_module(module)
        wanted = {name.strip() for name in names.split(",")}
        assert wanted <= set(getattr(part, "__all__", dir(part))) and not any(name.startswith("_") for name in wanted)
