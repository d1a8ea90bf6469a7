"""What README and docs tell is so: their Python runs, their commands, targets and files exist."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from jitr_core.calllog import read_calls
from jitr_core.cli import app
from jitr_core.settings import load_settings
from jitr_core.store import Store
from jitr_core.types import Observation

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

HIDDEN_SETUP = '''
import socket, sys, types
from langchain_core.language_models import FakeListChatModel, FakeListLLM

class OpenAI(FakeListLLM):
    """Stands in for the model that completes texts."""
    model: str
    responses: list[str] = ["delivery"]

class ChatOpenAI(FakeListChatModel):
    """Stands in for the LLM: answers without a key and without a network."""
    model: str
    responses: list[str] = ["delivery"]

def no_network(*args, **kwargs):
    raise AssertionError("the README must run offline")

socket.socket.connect = no_network
sys.modules["langchain_openai"] = types.SimpleNamespace(ChatOpenAI=ChatOpenAI, OpenAI=OpenAI)
'''

LLAMAINDEX_SETUP = '''
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback

class OpenAI(CustomLLM):
    """Stands in for the LLM: answers without a key and without a network."""
    model: str

    @property
    def metadata(self):
        return LLMMetadata(model_name=self.model)

    def stream_complete(self, prompt, formatted=False, **kwargs):
        raise NotImplementedError

    @llm_completion_callback()
    def complete(self, prompt, formatted=False, **kwargs):
        return CompletionResponse(text="delivery")

for name in ("llama_index.llms", "llama_index.llms.openai"):
    sys.modules[name] = types.SimpleNamespace(OpenAI=OpenAI)
'''


def blocks(language: str, *pages: Path) -> list[str]:
    """The code blocks of some pages, of the README if none are given."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages or (ROOT / "README.md",))
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@dataclass
class Ran:
    """A block after it ran as a program of its own in `folder`."""

    folder: Path
    printed: str
    complaints: str
    code: int

    def observations(self, database: str) -> list[Observation]:
        with Store(f"sqlite:///{self.folder}/{database}") as store:
            return list(store.observations())


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> dict[str, Ran]:
    """Every Python block, run once, by its text."""
    done = {}
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    for block in blocks("python", *PAGES):
        folder = tmp_path_factory.mktemp("block")
        setup = HIDDEN_SETUP + LLAMAINDEX_SETUP * ("llama" in block)
        (folder / "block.py").write_text(setup + block, encoding="utf-8")
        command = [sys.executable, "block.py"]
        result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)
        done[block] = Ran(folder, result.stdout, result.stderr, result.returncode)
    return done


def block_with(ran: dict[str, Ran], text: str) -> Ran:
    (found,) = [result for block, result in ran.items() if text in block]
    return found


def test_every_python_block_runs_as_it_stands(ran):
    assert len(ran) >= 3
    for result in ran.values():
        assert (result.code, result.complaints) == (0, "")


def test_the_chain_answers_and_its_call_is_observed_in_the_folder_the_readme_names(ran):
    chain = block_with(ran, "StrOutputParser()")
    assert chain.printed == "delivery\n"
    (observation,) = chain.observations(".jitr/jitr.db")
    assert observation.call.messages[-1] == ("user", "Where is my parcel?")
    assert observation.answer is not None and observation.answer.text == "delivery"


def test_the_llamaindex_step_answers_and_its_call_is_observed(ran):
    step = block_with(ran, "Settings.llm.predict")
    assert step.printed == "delivery\n"
    (observation,) = step.observations(".jitr/jitr.db")
    assert observation.call.messages[-1][1].endswith("payment?\nWhere is my parcel?")
    assert (observation.call.step, observation.call.model) == ("triage", "gpt-4.1")
    assert observation.answer is not None and observation.answer.text == "delivery"


def test_a_completion_is_answered_and_observed(ran):
    completed = block_with(ran, 'JITRLLM(llm=OpenAI(model="gpt-3.5')
    assert completed.printed == "delivery\n"
    (observation,) = completed.observations(".jitr/jitr.db")
    assert observation.call.messages == (("user", "Sort this: where is my parcel?"),)


def test_what_is_only_observed_and_what_an_agent_asks_is_in_the_state(ran):
    observed, asked = block_with(ran, "# observes only").observations(".jitr/jitr.db")
    assert observed.call.messages == asked.call.messages
    assert observed.answer is not None and asked.answer is not None and asked.answer.text == "delivery"


def test_the_settings_shown_are_settings(tmp_path):
    (shown,) = blocks("toml", ROOT / "docs" / "langchain.md")
    (tmp_path / "jitr.toml").write_text(shown, encoding="utf-8")
    settings = load_settings(tmp_path, {})
    assert settings.engine["app"] == "shop" and settings.policy.target == 0.97


def test_redaction_and_the_switch_for_one_request_do_what_the_readme_says(ran):
    own = block_with(ran, "redact=")
    (observation,) = own.observations("state/jitr.db")
    assert observation.call.messages[-1][1] == "Sort this: my parcel is late, write to [mail]"
    assert observation.call.step == "triage"
    assert not any(b"tom@mail.example" in path.read_bytes() for path in (own.folder / "state").rglob("*.*"))


def test_the_log_format_shown_and_the_recorder_shown_can_be_replayed(ran, tmp_path):
    (line,) = blocks("json")
    (tmp_path / "shown.jsonl").write_text(line, encoding="utf-8")
    shown, recorded = read_calls([tmp_path / "shown.jsonl", block_with(ran, "def record(").folder / "calls.jsonl"])
    assert shown.answer == "delivery"
    assert recorded.answer == "yes"


def test_the_example_runs(capsys):
    runpy.run_path(str(ROOT / "examples" / "own_chain.py"))["main"](limit=20)
    told = capsys.readouterr().out
    assert "0 of 20 calls answered by a replacement" in told
    assert "“review”" in told and "observing" in told


def commands() -> dict[str, set[str]]:
    """The commands of `jitr`, each with its options."""

    def options(command) -> set[str]:
        own = {option for parameter in command.params for option in parameter.opts}
        return own.union(*map(options, getattr(command, "commands", {}).values()))

    return {name: options(command) for name, command in typer.main.get_command(app).commands.items()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_named_exists(page):
    code = re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
    code += [
        line for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL) for line in block.splitlines()
    ]
    known = commands()
    for text in code:
        for command, rest in re.findall(r"(?:^|[ /])jitr ([a-z]+)\b(.*)", text):
            assert command in known, text
            assert set(re.findall(r"--[a-z-]+", rest)) <= known[command] | {"--help"}, text
        for target in re.findall(r"^make ([a-z]+)", text):
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_every_part_of_the_core_is_in_the_architecture_page():
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    parts = {
        path.stem for path in (ROOT / "jitr_core").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    missing = {part for part in parts if not part.startswith("_") and not re.search(rf"`{part}/?`", table)}
    assert not missing


def test_the_readme_says_what_the_defaults_are():
    from jitr_core import Policy

    policy = Policy()
    assert f"came back {policy.min_calls} times" in README
    assert f"At {policy.first_attempt} labelled calls" in README
    assert policy.attempt_growth == 1.5 and "grown by half" in README
    assert f"`target={policy.target}`, `delta={policy.delta}`" in README
