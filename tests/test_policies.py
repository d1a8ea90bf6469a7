"""What a command takes from the state: the policy that an app was given in code."""

from __future__ import annotations

import sqlite3
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from easy import easy_calls
from test_engine import POLICY, serve, url
from test_replay import run

from jitr_core import JITR, Policy
from jitr_core import equivalence as equivalence_module
from jitr_core.doctor import examine
from jitr_core.jobs import policy_to_json
from jitr_core.policies import Policies, noted
from jitr_core.report.facts import task_facts
from jitr_core.settings import Settings, load_settings
from jitr_core.store import Store

STRICT = replace(POLICY, target=0.97, delta=0.2)


def observed(folder: Path, policy: Policy, app: str = "default", calls: int = 300) -> JITR:
    """An app that has seen calls and does not train; open."""
    jitr = JITR(url(folder), policy=policy, app=app, training="off", seed=1)
    serve(jitr, easy_calls(calls), app)
    jitr.flush()
    return jitr


def targets(folder: Path) -> dict[str, float | None]:
    """The target that the replacement of each app's task was certified for."""
    with Store(url(folder)) as store:
        found = {task.app: store.active_release(task.id) for task in store.tasks()}
    return {app: release and release.certificate.target for app, release in found.items()}


def policy_of(folder: Path, environ: dict[str, str], app: str = "default", tenant: str = "") -> Policy:
    with Store(url(folder)) as store:
        return Policies(store, load_settings(folder, environ)).of(app, tenant)


def test_training_by_hand_goes_by_the_policy_of_the_app(tmp_path: Path) -> None:
    jitr = observed(tmp_path, STRICT)
    code, output = run("train", "--url", url(tmp_path))
    assert code == 0 and "target 0.97, delta 0.2" in output and "as app “default” works" in output
    assert targets(tmp_path) == {"default": 0.97}
    jitr.refresh()
    assert "answered" in serve(jitr, easy_calls(30, seed=9), "later")
    jitr.close()


def test_what_is_set_here_comes_first_and_is_told_to_be_another_than_the_apps(tmp_path: Path, monkeypatch) -> None:
    jitr = observed(tmp_path, STRICT)
    monkeypatch.setenv("JITR_TARGET", "0.9")
    output = run("train", "--url", url(tmp_path))[1]
    assert "target 0.9, delta 0.2" in output and "but for target: 0.9 by JITR_TARGET, not 0.97" in output
    assert targets(tmp_path) == {"default": 0.9}
    jitr.refresh()
    assert set(serve(jitr, easy_calls(30, seed=9), "later")) == {"no_release"}
    jitr.close()
    (check,) = [each for each in examine(url(tmp_path), load_settings()) if each.name == "policy"]
    assert check.verdict == "warn" and "0.9 by JITR_TARGET, not 0.97" in check.found


def test_a_release_that_promises_less_than_its_app_wants_is_told_of(tmp_path: Path, monkeypatch) -> None:
    observed(tmp_path, replace(POLICY, target=0.9)).close()
    run("train", "--url", url(tmp_path))
    observed(tmp_path, POLICY, calls=1).close()
    with Store(url(tmp_path)) as store:
        (task,) = store.tasks()
        (facts,) = task_facts(store)
    told = "certified for a target of 0.9, wanted is 0.95"
    assert facts["state"] == "active" and told in facts["idle"]
    for shown in (run("tasks", "--url", url(tmp_path))[1], run("tasks", "show", task.id, "--url", url(tmp_path))[1]):
        assert told in shown and "replaced where" not in shown
    checks = {each.name: each for each in examine(url(tmp_path), Settings(False, {}, Policy()))}
    assert checks["replacements"].verdict == "warn" and told in checks["replacements"].found
    assert "target 0.95" in checks["policy"].found and checks["policy"].verdict == "ok"


def test_no_search_is_said_to_be_due_where_it_would_be_forfeited(tmp_path: Path) -> None:
    observed(tmp_path, replace(POLICY, approval="manual"), calls=450).close()

    def told() -> dict[str, str]:
        return {each.name: each.verdict for each in examine(url(tmp_path), load_settings())}

    assert told()["learning"] == "warn"
    assert "chosen lexical" in run("train", "--url", url(tmp_path))[1]
    assert told()["probation"] == told()["learning"] == "ok"
    with Store(url(tmp_path)) as store:
        (task,) = store.tasks()
    run("approve", task.id, "--url", url(tmp_path))
    assert told()["learning"] == "warn"  # the next one
    run("pin", task.id, "--url", url(tmp_path))
    assert told()["learning"] == "ok"


def test_each_app_of_a_state_has_its_own_policy(tmp_path: Path) -> None:
    observed(tmp_path, STRICT, "shop").close()
    observed(tmp_path, replace(POLICY, target=0.9), "bank").close()
    output = run("train", "--url", url(tmp_path))[1]
    assert "as app “shop” works" in output and "as app “bank” works" in output
    assert targets(tmp_path) == {"shop": 0.97, "bank": 0.9}


def test_the_training_of_an_app_leaves_the_tasks_of_others_alone(tmp_path: Path) -> None:
    observed(tmp_path, STRICT, "shop").close()
    jitr = observed(tmp_path, POLICY, "bank", calls=1)
    jitr.close()
    assert run("train", "--app", "bank", "--url", url(tmp_path)) == (0, "Nothing was due.\n")
    with Store(url(tmp_path)) as store:
        (task,) = store.tasks()
    code, output = run("train", task.id, "--app", "bank", "--url", url(tmp_path))
    assert code == 2 and "is of app 'shop', not of 'bank'" in output
    assert targets(tmp_path) == {"shop": None}


def test_the_training_of_one_tenant_leaves_those_with_another_policy_alone(tmp_path: Path) -> None:
    lax = replace(POLICY, target=0.8)
    for tenant, policy in (("red", STRICT), ("blue", lax), ("green", lax)):
        jitr = JITR(url(tmp_path), policy=policy, tenant=tenant, training="off", seed=1)
        serve(jitr, easy_calls(300), tenant)
        jitr.close()
    run("train", "--url", url(tmp_path), "--app", "default", "--policy", policy_to_json(lax))
    with Store(url(tmp_path)) as store:
        found = {task.tenant: store.active_release(task.id) for task in store.tasks()}
    assert {tenant: release and release.certificate.target for tenant, release in found.items()} == {
        "red": None,
        "blue": 0.8,
        "green": 0.8,
    }


def test_the_latest_engine_of_an_app_counts_and_of_a_tenant_its_own(tmp_path: Path) -> None:
    for tenant, target in (("", 0.8), ("red", 0.7), ("", 0.9), ("blue", 0.6)):
        jitr = JITR(url(tmp_path), policy=Policy(target=target), app="shop", tenant=tenant, training="off")
        serve(jitr, easy_calls(1), f"{tenant}{target}")
        jitr.close()
    found = {tenant: policy_of(tmp_path, {}, "shop", tenant).target for tenant in ("", "red", "blue", "green")}
    assert found == {"": 0.9, "red": 0.7, "blue": 0.6, "green": 0.9}
    assert policy_of(tmp_path, {}, "bank") == Policy()
    told = [each.found for each in examine(url(tmp_path), load_settings(tmp_path, {})) if each.name == "policy"]
    assert [each.split(",")[0] for each in told] == ["target 0.9", "target 0.6", "target 0.7"]
    assert [each.rpartition("works")[2] for each in told] == ["", " for tenant “blue”", " for tenant “red”"]


def test_an_engine_that_is_made_for_looking_says_nothing_of_the_app(tmp_path: Path) -> None:
    observed(tmp_path, STRICT, calls=1).close()
    jitr = JITR(url(tmp_path), training="off")
    jitr.refresh()
    assert len(jitr.open_store().unplaced(9)) == 1
    jitr.close()
    assert policy_of(tmp_path, {}) == STRICT


@pytest.mark.parametrize("name", [each.name for each in fields(Policy)])
def test_every_setting_but_the_machines_own_is_taken_over(name: str, tmp_path: Path) -> None:
    others = {
        "promise": "overall",
        "equivalence": "chrf:0.6",
        "approval": "manual",
        "families": ("static",),
        "generators": ("some/model",),
        "base_models": ("a", "b"),
        "cache_dir": "elsewhere",
        "price_model": "gpt-4.1",
        "download": True,
        "free_wording": True,
    }
    default = getattr(Policy(), name)
    value = others.get(name, default / 2 if isinstance(default, float) else 1_000 if default != 1_000 else 999)
    value = 60 if name == "ask_teacher" else value
    value = 1.25 if name == "attempt_growth" else value
    changed = replace(Policy(), **{name: value})
    with Store(url(tmp_path)) as store:
        store.record("engine", None, {"app": "a", "tenant": "", "redaction": "", "policy": noted(changed)})
    machines_own = name in ("cache_dir", "download", "search_memory_mb", "serving_memory_mb")
    assert policy_of(tmp_path, {}, "a") == (Policy() if machines_own else changed)


@pytest.mark.parametrize(
    "told",
    [
        {"target": 7},
        {"target": "high"},
        {"target": 0.9, "promise": 5},
        {"promise": "none such"},
        {"equivalence": None},
        {"families": "lexical"},
        {"generators": [["a"]]},
        {"price_model": {}},
        {"free_wording": "yes"},
        {"max_examples": 100.5},
    ],
    ids=str,
)
def test_what_another_version_noted_and_cannot_be_used_is_left_out_and_told_of(tmp_path: Path, told) -> None:
    observed(tmp_path, POLICY, calls=1).close()
    with Store(url(tmp_path)) as store:
        store.record("engine", None, {"app": "default", "tenant": "", "redaction": "", "policy": told})
        words = Policies(store, load_settings(tmp_path, {})).whose("default")
    assert policy_of(tmp_path, {}) == Policy()
    assert words.startswith("as settings and defaults say: what app “default” works with cannot be used here")
    (check,) = [each for each in examine(url(tmp_path), load_settings(tmp_path, {})) if each.name == "policy"]
    assert check.verdict == "warn" and "cannot be used here" in check.found


@pytest.mark.parametrize("told", [{"no_such": 1}, None, "strict", ["a"]], ids=str)
def test_what_is_no_policy_of_this_version_is_passed_over(tmp_path: Path, told) -> None:
    with Store(url(tmp_path)) as store:
        store.record("engine", None, {"app": "a", "tenant": "", "redaction": "", "policy": told})
        store.record("engine", None, {"app": "a", "redaction": ""})
        store.record("engine", None, {"app": ["a"], "redaction": "", "policy": {"target": 0.5}})
        store.record("engine", None, {"app": "a", "tenant": {}, "redaction": "", "policy": {"target": 0.5}})
    assert policy_of(tmp_path, {}, "a") == Policy()


def test_a_policy_that_needs_an_extra_which_is_not_here_keeps_nobody_from_looking(tmp_path: Path, monkeypatch) -> None:
    observed(tmp_path, replace(POLICY, equivalence="chrf:0.6")).close()
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.chrf", None)
    equivalence_module._chrf_metric.cache_clear()
    assert policy_of(tmp_path, {}) == Policy()
    code, output = run("tasks", "--url", url(tmp_path))
    assert code == 0 and "You sort" in output
    (check,) = [each for each in examine(url(tmp_path), load_settings(tmp_path, {})) if each.name == "policy"]
    assert check.verdict == "warn" and 'pip install "jitr[text]"' in check.found


def test_whatever_values_a_policy_was_given_the_app_learns_on(tmp_path: Path) -> None:
    odd = {"families": {"static", "lexical"}, "base_models": (Path("mine"),), "max_labels": np.int64(50)}
    jitr = observed(tmp_path, replace(POLICY, **odd), calls=30)
    assert not jitr.faults
    jitr.close()
    found = policy_of(tmp_path, {})
    assert (set(found.families), found.base_models, found.max_labels) == ({"static", "lexical"}, ("mine",), 50)


def test_whether_a_replacement_is_used_is_told_by_what_its_app_works_with(tmp_path: Path, monkeypatch) -> None:
    observed(tmp_path, replace(POLICY, target=0.9)).close()
    run("train", "--url", url(tmp_path))

    def idle() -> str | None:
        with Store(url(tmp_path)) as store:
            return task_facts(store)[0]["idle"]

    monkeypatch.setenv("JITR_TARGET", "0.99")  # of whoever looks, not of the app
    assert idle() is None
    checks = {each.name: each.verdict for each in examine(url(tmp_path), load_settings())}
    assert (checks["replacements"], checks["policy"]) == ("ok", "warn")
    monkeypatch.setenv("JITR_TARGET", "0.8")
    observed(tmp_path, POLICY, calls=1).close()
    assert "wanted is 0.95" in str(idle())
    monkeypatch.delenv("JITR_TARGET")
    with sqlite3.connect(tmp_path / "jitr.db") as connection:  # as before engines noted their policy
        connection.execute("update ledger set details = ? where kind = 'engine'", ('{"app":"default","redaction":""}',))
    assert idle() is None


@pytest.mark.parametrize(
    "given", ["target=0.9", "[]", '{"goal": 1}', '{"target": "high"}', '{"families": "lexical"}', '{"target": 9}']
)
def test_what_is_no_policy_is_told_as_bad_usage(tmp_path: Path, given: str) -> None:
    observed(tmp_path, POLICY, calls=1).close()
    code, output = run("train", "--url", url(tmp_path), "--policy", given)
    assert code == 2 and ("policy" in output or "target must be" in output)


def test_no_state_names_the_code_that_compares(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "rules_of_mine.py").write_text("def same(one, other):\n    return one == other\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "rules_of_mine", raising=False)
    own = "own:rules_of_mine:same"
    with Store(url(tmp_path)) as store:
        told = {"app": "default", "tenant": "", "redaction": "", "policy": {"target": 0.9, "equivalence": own}}
        store.record("engine", None, told)
    assert policy_of(tmp_path, {}) == Policy(target=0.9) and "rules_of_mine" not in sys.modules
    observed(tmp_path, replace(POLICY, equivalence=own)).close()
    (check,) = [each for each in examine(url(tmp_path), load_settings(tmp_path, {})) if each.name == "policy"]
    assert "which no state may name" in check.found
    output = run("train", "--url", url(tmp_path))[1]
    assert "which no state may name" in output
    assert targets(tmp_path) == {"default": 0.95}  # labels are compared exactly, whatever the rule for texts
    monkeypatch.setenv("JITR_EQUIVALENCE", own)
    assert "which no state may name" not in run("train", "--url", url(tmp_path))[1]
    assert policy_of(tmp_path, {"JITR_EQUIVALENCE": own}).equivalence == own


def test_a_replacement_by_a_rule_of_the_users_own_is_not_told_to_be_idle(tmp_path: Path) -> None:
    observed(tmp_path, POLICY).close()
    run("train", "--url", url(tmp_path))
    with sqlite3.connect(tmp_path / "jitr.db") as connection:
        told = connection.execute("select certificate from releases").fetchone()[0]
        own = told.replace('"equivalence":"exact"', '"equivalence":"own:shop:same"')
        assert own != told
        connection.execute("update releases set certificate = ?", (own,))
    with Store(url(tmp_path)) as store:
        assert task_facts(store)[0]["idle"] is None
