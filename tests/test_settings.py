"""Configuration without code: what environment and files say, and which of them counts."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_replay import run

from jitr_core import Call, ConfigError, Policy, engine
from jitr_core.config import DEFAULT_URL
from jitr_core.settings import load_settings

FILE = """
url = "sqlite:///state/jitr.db"
app = "shop"
target = 0.9
families = ["lexical"]
retention_days = 30
cache = "models"
disabled = false
"""


@pytest.fixture
def default(monkeypatch: pytest.MonkeyPatch):
    """`engine.default` as in a fresh process; what it makes is closed."""
    monkeypatch.setattr(engine, "_default", engine._UNMADE)
    yield engine.default
    if engine._default is not engine._UNMADE and engine._default is not None:
        engine._default.close()


def test_without_a_word_everything_is_as_the_defaults_are(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, {})
    assert (settings.disabled, settings.engine, settings.policy) == (False, {}, Policy())


def test_a_file_sets_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "jitr.toml").write_text(FILE)
    settings = load_settings(tmp_path, {})
    assert settings.engine == {"url": "sqlite:///state/jitr.db", "app": "shop"}
    assert settings.policy == Policy(target=0.9, families=("lexical",), retention_days=30.0, cache_dir="models")


def test_the_environment_comes_before_jitr_toml_and_that_before_pyproject(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n[tool.jitr]\napp = "a"\ntenant = "t"\n')
    assert load_settings(tmp_path, {}).engine == {"app": "a", "tenant": "t"}
    (tmp_path / "jitr.toml").write_text('app = "b"\ntarget = 0.8\n')
    assert load_settings(tmp_path, {}).engine == {"app": "b"}
    settings = load_settings(tmp_path, {"JITR_APP": "c", "JITR_SEED": "7", "JITR_FAMILIES": "lexical, static"})
    assert settings.engine == {"app": "c", "seed": 7}
    assert settings.policy == Policy(target=0.8, families=("lexical", "static"))


def test_a_pyproject_of_others_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\nline-length = 9\n")
    assert load_settings(tmp_path, {}).policy == Policy()


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Policy)])
def test_every_setting_of_the_policy_has_its_variable(name: str, tmp_path: Path) -> None:
    texts = {
        "approval": "manual",
        "price_model": "gpt-4.1",
        "families": "lexical",
        "cache_dir": "x",
        "attempt_growth": "2.5",
        "ask_teacher": "7",
        "free_wording": "true",
        "equivalence": "normalised",
        "promise": "overall",
        "generators": "google/flan-t5-small",
        "download": "true",
        "search_memory_mb": "750",
    }
    text = texts.get(name, "0.25" if isinstance(getattr(Policy(), name), float) else "150")
    variable = "JITR_CACHE" if name == "cache_dir" else f"JITR_{name.upper()}"
    changed = getattr(load_settings(tmp_path, {variable: text}).policy, name)
    assert changed != getattr(Policy(), name)
    assert str(changed).lower().removesuffix(".0") == text or changed == (text,)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("targt = 0.9", "unknown setting targt in jitr.toml. Did you mean target?"),
        ("cache_dir = 'x'", "unknown setting cache_dir in jitr.toml"),
        ("target = '0.9'", "target in jitr.toml must be a number, got '0.9'"),
        ("target = 95", r"target must be in \(0, 1\), got 95.0. .*set in jitr.toml"),
        ("min_calls = true", "min_calls in jitr.toml must be a whole number, got True"),
        ("app = 3", "app in jitr.toml must be a text, got 3"),
        ("families = 'lexical'", "families in jitr.toml must be a list of names"),
        ("families = ['neural']", "unknown families"),
        ("disabled = 'yes'", "disabled in jitr.toml must be true or false"),
        ("target = ", "jitr.toml cannot be read"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "jitr.toml").write_text(text)
    with pytest.raises(ConfigError, match=told):
        load_settings(tmp_path, {})


@pytest.mark.parametrize(
    ("variable", "text", "told"),
    [
        ("JITR_TARGT", "0.9", "unknown setting JITR_TARGT in the environment. Did you mean JITR_TARGET?"),
        ("JITR_TARGET", "high", "JITR_TARGET must be a number, got 'high'"),
        ("JITR_MIN_CALLS", "8.5", "JITR_MIN_CALLS must be a whole number"),
        ("JITR_DISABLED", "perhaps", "JITR_DISABLED must be true or false"),
        ("JITR_DELTA", "2", r"delta must be in \(0, 1\), got 2.0. .*set in JITR_DELTA"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(variable: str, text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        load_settings(tmp_path, {variable: text})


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    others = {"JITR_SHARED": "x", "JITR_PORT": "tcp://1.2.3.4:80", "JITR_SERVICE_HOST": "h", "JITR_PORT_80_TCP": "t"}
    assert load_settings(tmp_path, {**others, "JITR_TARGET": "", "HOME": "/"}).policy == Policy()


@given(st.binary(max_size=200))
def test_no_file_whatever_it_holds_fails_otherwise_than_by_a_config_error(tmp_path_factory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "jitr.toml").write_bytes(data)
    try:
        load_settings(folder, {})
    except ConfigError as error:
        assert "jitr.toml" in str(error)


def test_the_default_engine_is_made_as_environment_and_file_say(default, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "jitr.toml").write_text(FILE)
    monkeypatch.setenv("JITR_TRAINING", "off")
    monkeypatch.setenv("JITR_TENANT", "t")
    jitr = default()
    assert jitr is default() and (jitr.app, jitr.tenant, jitr.policy.target) == ("shop", "t", 0.9)
    assert jitr.url == f"sqlite:///{tmp_path}/state/jitr.db"


@pytest.mark.parametrize("variable", ["JITR_TARGET", "JITR_TRAINING", "JITR_URL", "JITR_APPP"])
def test_an_app_with_settings_that_cannot_be_used_is_served_by_the_teacher(
    variable: str, default, monkeypatch, caplog
) -> None:
    monkeypatch.setenv(variable, "95")
    with caplog.at_level(logging.ERROR, "jitr"):
        assert default() is None and default() is None
    (record,) = caplog.records
    assert "the teacher serves" in record.getMessage()


def loud(text: str) -> str:
    return text.upper()


def test_a_redaction_is_named_by_its_module_or_jitr_steps_aside(default, monkeypatch) -> None:
    Path("jitr.toml").write_text(f'redact = "{__name__}:loud"')
    call = Call("c", (("user", "hello"),))
    jitr = default()
    assert jitr is not None
    jitr.decide(call)
    assert call.messages == (("user", "HELLO"),)
    jitr.close()
    monkeypatch.setattr(engine, "_default", engine._UNMADE)
    monkeypatch.setenv("JITR_REDACT", "no_such_module:loud")
    assert default() is None


def test_a_file_switches_jitr_off_and_the_environment_on_again(default, monkeypatch) -> None:
    Path("jitr.toml").write_text("disabled = true")
    assert default() is None
    monkeypatch.setattr(engine, "_default", engine._UNMADE)
    monkeypatch.setenv("JITR_DISABLED", "0")
    assert default() is not None


def test_the_command_line_looks_where_the_app_writes(tmp_path: Path, monkeypatch) -> None:
    assert DEFAULT_URL in run("tasks")[1]
    (tmp_path / "jitr.toml").write_text(FILE)
    assert "sqlite:///state/jitr.db" in run("tasks")[1]
    monkeypatch.setenv("JITR_URL", "sqlite:///other/jitr.db")
    assert "sqlite:///other/jitr.db" in run("tasks")[1]
    assert "sqlite:///third/jitr.db" in run("tasks", "--url", "sqlite:///third/jitr.db")[1]


def test_the_command_line_ends_with_2_on_settings_it_cannot_use(tmp_path: Path) -> None:
    (tmp_path / "jitr.toml").write_text("targt = 0.9")
    code, output = run("tasks")
    assert code == 2 and "targt" in output and "Traceback" not in output
