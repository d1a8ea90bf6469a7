"""When two answers count as the same, who may say so, and what is promised then."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from easy import write_log
from typer.testing import CliRunner

from jitr_core import JITR, Answer, Call, ConfigError, Policy, cli, manage
from jitr_core.equivalence import equivalence, honours, own_rule, said
from jitr_core.jobs import policy_from_json, policy_to_json
from jitr_core.settings import load_settings
from jitr_core.store import Store


@pytest.mark.parametrize(
    ("rule", "one", "other", "same"),
    [
        ("exact", " yes\n", "yes", True),
        ("exact", "Yes", "yes", False),
        ("normalised", "It's “Red”,  really!", "it's red really", True),
        ("normalised", "costs -5 euros", "costs 5 euros", False),
        ("normalised", "1,5 m", "15 m", False),
        ("normalised", "C++", "C", False),
        ("normalised", "日本。", "日本", True),
        ("normalised", '{"a": 1}', '{ "a":1 }', True),
        ("chrf:0.6", "The parcel will arrive on Monday.", "The parcel arrives on Monday.", True),
        ("chrf:0.6", "The parcel will arrive on Monday.", "No refund is possible.", False),
        ("chrf:0.6", "", "anything", False),
        ("rouge-l:0.7", "the cat sat on the mat", "The cat sat on a mat", True),
        ("rouge-l:0.7", "mat the on sat cat the", "the cat sat on the mat", False),
        ("rouge-l:0.7", "", "", True),
    ],
)
def test_rules(rule: str, one: str, other: str, same: bool) -> None:
    assert equivalence(rule).same(one, other) is same


@pytest.mark.parametrize("rule", ["exact", "normalised", "chrf:1", "rouge-l:1"])
@pytest.mark.parametrize("text", ["", "!", "\ud800", "a b c", "x" * 5000])
def test_every_answer_counts_as_itself(rule: str, text: str) -> None:
    assert equivalence(rule).same(text, text)


def test_embeddings_are_compared_by_their_angle() -> None:
    vectors = {"a": np.array([1.0, 0.0]), "b": np.array([0.8, 0.6]), "": np.zeros(2)}
    rule = equivalence("embedding:0.8", vectors.__getitem__)
    assert rule.same("a", "b") and not equivalence("embedding:0.81", vectors.__getitem__).same("a", "b")
    assert not rule.same("a", "")


@pytest.mark.parametrize("rule", ["", "same", "chrf", "chrf:", "chrf:1.2", "rouge-l:0", "exact:1", "embedding:x"])
def test_what_is_no_rule_is_bad_usage(rule: str) -> None:
    with pytest.raises(ConfigError, match="is no equivalence") as caught:
        Policy(equivalence=rule)
    assert "chrf:0.6" in caught.value.hint


def test_only_a_promise_as_strict_as_the_wanted_one_is_kept() -> None:
    assert honours("exact", "own:shop:alike") and honours("rouge-l:0.8", "rouge-l:0.8")
    assert not honours("chrf:0.6", "chrf:0.7") and not honours("chrf:0.9", "rouge-l:0.1")
    assert not honours("own:shop:alike", "exact") and not honours("normalised", "own:shop:alike")
    assert not honours("own:shop:alike", "own:shop:other")


def first_word(answer: str, teachers: str) -> bool:
    return answer.split()[0] == teachers.split()[0]


def test_the_users_own_function_is_found_by_other_processes_or_refused() -> None:
    rule = own_rule(first_word, elsewhere=True)
    assert rule == f"own:{__name__}:first_word" and equivalence(rule).same("a b", "a c")
    assert not equivalence(rule).same("", "a")  # it raises: they count as different
    with pytest.raises(ConfigError, match="cannot be imported"):
        own_rule(lambda one, other: True, elsewhere=True)
    assert own_rule(lambda one, other: True, elsewhere=False)
    for wrong in ("own:no_such_module:f", "own:json:no_such_function", "own:"):
        with pytest.raises(ConfigError):
            equivalence(wrong)


def test_settings_name_rule_and_generators_and_travel_to_the_training_process(tmp_path: Path) -> None:
    environ = {"JITR_EQUIVALENCE": "chrf:0.7", "JITR_GENERATORS": "google/flan-t5-small, ./models/tiny"}
    policy = load_settings(tmp_path, environ).policy
    assert policy.equivalence == "chrf:0.7" and policy.generators == ("google/flan-t5-small", "./models/tiny")
    assert policy_from_json(policy_to_json(policy)) == policy
    assert said(policy.equivalence) == "chrF ≥ 0.7"


def greeting_calls(count: int) -> list[dict[str, Any]]:
    """Calls whose answer repeats a name, in one of two spellings that differ in case and punctuation only."""
    rng = random.Random(0)
    found = []
    for i in range(count):
        name = "".join(rng.choices("abcdefghij", k=6)) + str(i)
        answer = f"Dear {name}, thank you for your order" if i % 2 else f"dear {name}; thank you for your order!"
        prompt = f"Write one line of thanks to a customer of our shop. Name: {name}"
        found.append({"id": str(i), "messages": [{"role": "user", "content": prompt}], "answer": answer})
    return found


def test_a_replay_promises_by_the_chosen_rule_and_reports_equality_as_ever(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.jsonl", greeting_calls(900))
    summaries = {}
    for rule in ("exact", "normalised"):
        out = tmp_path / f"{rule}.json"
        arguments = ["replay", str(log), "--families", "lexical", "--equivalence", rule, "--json", str(out)]
        result = CliRunner().invoke(cli.app, arguments)
        assert result.exit_code == 0, result.output
        summaries[rule] = json.loads(out.read_text())
    strict, loose = summaries["exact"], summaries["normalised"]
    assert strict["replaced"] == 0 and "equivalence" not in strict
    assert "lexical/copied" in strict["tasks"][0]["reason"] or "differ from" in strict["tasks"][0]["reason"]
    assert loose["coverage"] > 0.3 and loose["agreement"] < 0.8
    assert loose["equivalence"]["rule"] == "normalised" and loose["equivalence"]["agreement"] == 1.0
    (task,) = loose["tasks"]
    assert task["equivalence"]["agreement_low"] > 0.95 and task["replacement"]["equivalence"] == "normalised"
    assert "normalised" in result.output and "as is promised for free text" in result.output


POLICY = Policy(families=("lexical",), equivalence="normalised", target=0.9)


def engine(folder: Path, policy: Policy, count: int = 0) -> JITR:
    jitr = JITR(f"sqlite:///{folder / 'jitr.db'}", policy=policy, training="inline", seed=1)
    for recorded in greeting_calls(count):
        call = Call(recorded["id"], tuple((m["role"], m["content"]) for m in recorded["messages"]))
        decision = jitr.decide(call)
        answer = Answer(recorded["answer"])
        jitr.observe(call, decision, None if decision.kind == "replacement" else answer)
        if decision.kind == "replacement" and decision.audit:
            jitr.audit(call, decision, lambda answer=answer: answer)  # type: ignore[misc]
    jitr.flush()
    jitr.refresh()
    return jitr


def decided(jitr: JITR) -> str:
    return jitr.decide(Call("new", (("user", greeting_calls(1)[0]["messages"][0]["content"]),))).reason


def test_audits_compare_by_the_rule_that_was_promised(tmp_path: Path) -> None:
    jitr = engine(tmp_path, dataclasses.replace(POLICY, audit_share_start=1.0), 700)
    store = jitr.open_store()
    (task,) = store.tasks()
    release = store.active_release(task.id)
    assert release is not None and release.certificate.equivalence == "normalised"
    audits = list(store.audited(task.id, release.id))
    assert len(audits) > 50 and sum(a.replacement == a.teacher for a in audits) < 0.8 * len(audits)
    jitr.close()


def test_who_asks_for_more_is_not_served_what_promised_less(tmp_path: Path) -> None:
    engine(tmp_path, POLICY, 500).close()
    jitr = engine(tmp_path, POLICY)
    assert decided(jitr) == "answered"
    jitr.close()
    jitr = engine(tmp_path, dataclasses.replace(POLICY, equivalence="exact"))
    assert decided(jitr) == "no_release"
    jitr.close()


def test_a_task_may_have_a_rule_of_its_own(tmp_path: Path) -> None:
    engine(tmp_path, POLICY, 500).close()
    with Store(f"sqlite:///{tmp_path / 'jitr.db'}") as store:
        (task,) = store.tasks()
        manage.compare_by(store, task, "normalised")
        assert store.active_release(task.id) is not None
        with pytest.raises(ConfigError, match="in code"):
            manage.compare_by(store, task, "own:os:system")
    jitr = engine(tmp_path, dataclasses.replace(POLICY, equivalence="exact"))
    assert decided(jitr) == "answered"  # the task's own rule counts
    url = ["--url", f"sqlite:///{tmp_path / 'jitr.db'}"]
    result = CliRunner().invoke(cli.app, ["tasks", "compare", task.id, "rouge-l:0.9", *url])
    assert "compared by rouge-l:0.9" in result.output
    jitr.refresh()
    assert decided(jitr) == "no_release"
    store = jitr.open_store()
    assert "ROUGE-L ≥ 0.9" in store.task(task.id).reason  # type: ignore[union-attr]
    jitr.close()
