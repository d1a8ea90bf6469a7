"""What one request says to JITR: whose it is, that nothing of it is kept, that the teacher is to answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from easy import easy_calls
from entry_points import ENTRY_POINTS, PROMPT
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_fakes import FakeEngine, Teacher

from jitr_core import JITR, Policy
from jitr_langchain import JITRChatModel

BY_CONFIG = [name for name in ENTRY_POINTS if "generate" not in name]


def _call(engine, entry_point, config):
    ENTRY_POINTS[entry_point](JITRChatModel(llm=Teacher(), jitr=engine), config)
    return engine.decided[-1]


@pytest.mark.parametrize("place", ["metadata", "configurable"])
@pytest.mark.parametrize("entry_point", BY_CONFIG)
def test_a_request_says_what_it_wishes_in_metadata_or_configurable(entry_point, place, engine):
    call = _call(engine, entry_point, {place: {"jitr_tenant": "acme", "jitr": "no-store", "jitr_step": "s"}})
    assert (call.tenant, call.storable, call.observe_only, call.step) == ("acme", False, False, "s")
    call = _call(engine, entry_point, {place: {"jitr": "observe"}})
    assert (call.tenant, call.storable, call.observe_only, call.step) == (
        "",
        True,
        True,
        "@named" if entry_point == "bound" else "",
    )
    decided = len(engine.decided)
    ENTRY_POINTS[entry_point](JITRChatModel(llm=Teacher(), jitr=engine), {place: {"jitr": "off"}})
    assert len(engine.decided) == decided and not engine.faults


@pytest.mark.parametrize("entry_point", BY_CONFIG)
def test_a_wish_that_is_not_understood_switches_it_off_and_is_reported(entry_point, teacher):
    engine = FakeEngine("Positive.")
    ENTRY_POINTS[entry_point](JITRChatModel(llm=teacher, jitr=engine), {"metadata": {"jitr": "of"}})
    assert teacher.asked and not engine.decided and not engine.observed
    assert "got 'of'" in str(engine.faults[0][1])


def test_wishes_reach_a_model_called_inside_of_a_chain_or_with_fields_of_its_own(engine):
    llm = JITRChatModel(llm=Teacher(), jitr=engine)
    inner = RunnableLambda(lambda text: llm.invoke(text, {"tags": ["a"]}))
    inner.invoke("x", {"configurable": {"jitr_tenant": "acme"}, "tags": ["jitr:t"], "metadata": {"m": 1}})
    fields = llm.configurable_fields(temperature=ConfigurableField(id="heat"))
    fields.invoke("x", {"configurable": {"jitr_tenant": "b", "heat": 0.5}})
    PROMPT.pipe(llm.bind(stop=["!"])).invoke({"question": "q"}, {"configurable": {"jitr_tenant": "c"}})
    assert [call.tenant for call in engine.decided] == ["acme", "b", "c"] and not engine.faults


def test_the_bound_metadata_of_a_model_is_its_wish(engine):
    llm = JITRChatModel(llm=Teacher(metadata={"jitr_tenant": "acme"}), jitr=engine)
    llm.invoke("x")
    list(llm.stream("x"))
    llm.with_config(metadata={"jitr": "observe"}).invoke("x")
    assert [(call.tenant, call.observe_only) for call in engine.decided] == [("acme", False)] * 2 + [("acme", True)]


class Sorter(Teacher):
    """Answers as the easy log does."""

    def _reply(self, messages, stop, kwargs):
        self.asked.append({})
        billing = {"invoice", "refund", "charge", "bill", "receipt"}
        return (
            super()
            ._reply(messages, stop, kwargs)
            .model_copy(update={"content": "billing" if billing & set(messages[-1].text.split()) else "delivery"})
        )


@pytest.fixture
def app(tmp_path: Path):
    """A wrapped model whose one step has been replaced, and its engine."""
    policy = Policy(families=("lexical",), audit_share_start=0.5, audit_share_min=0.5)
    jitr = JITR(f"sqlite:///{tmp_path}/jitr.db", policy=policy, training="inline", seed=1)
    llm = JITRChatModel(llm=Sorter(), jitr=jitr)
    _ask(llm, 250, 0)
    jitr.flush()
    yield llm, jitr
    assert not jitr.faults
    jitr.close()


def _ask(llm, count, seed, **config):
    calls = easy_calls(count, seed=seed)
    answers = [llm.invoke([(m["role"], m["content"]) for m in call["messages"]], config) for call in calls]
    assert [answer.content for answer in answers] == [call["answer"] for call in calls]
    return sum("jitr" in answer.response_metadata for answer in answers)


def test_what_is_not_to_be_stored_is_answered_and_leaves_no_trace(app, tmp_path):
    llm, jitr = app
    before = jitr.open_store().counts(jitr.open_store().tasks()[0].id)
    asked = len(llm.llm.asked)
    replaced = _ask(llm, 60, 9, configurable={"jitr": "no-store"})
    jitr.flush()
    assert replaced > 30 and len(llm.llm.asked) - asked == 2 * (60 - replaced)  # `asked` has two entries a call
    assert jitr.open_store().counts(jitr.open_store().tasks()[0].id) == before
    llm.invoke("a word nobody else says: xylograph", {"metadata": {"jitr": "no-store"}})
    jitr.flush()
    assert not any(b"xylograph" in path.read_bytes() for path in tmp_path.glob("jitr.db*"))


def test_what_is_to_be_observed_only_is_answered_by_the_teacher(app):
    llm, jitr = app
    asked = len(llm.llm.asked)
    assert _ask(llm, 60, 9, metadata={"jitr": "observe"}) == 0 and len(llm.llm.asked) - asked == 120
    assert _ask(llm, 60, 8) > 30
    jitr.flush()
    reasons = [o.decision.reason for o in jitr.open_store().observations()][250:310]
    assert reasons.count("shadow") > 30 and "answered" not in reasons


def test_a_tenant_has_tasks_of_its_own_and_no_share_in_a_replacement_of_others(app):
    llm, jitr = app
    assert _ask(llm, 60, 9, configurable={"jitr_tenant": "acme"}) == 0
    jitr.flush()
    assert sorted(task.tenant for task in jitr.open_store().tasks()) == ["", "acme"]
