"""Other projects' own test suites, with every model they make wrapped: what fails that passes with the bare models?

    python benchmarks/third_party.py [--only NAME] [--state observing|dead] [--work DIR]

Downloads the sources of the frameworks as installed, and what their tests need beside them, from the package index
that pip is set up for, into a folder of its own; runs the suites twice, bare and wrapped, and compares test by test.
Exits 1 if a test fails that passes bare and is not among those that look at the class of a model, which no wrapper can
hide. It is not part of the tests: it needs the network and some minutes.

As a plugin of pytest (`-p third_party`) it wraps: the variable JITR_THIRD_PARTY says in which state.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STATE = "JITR_THIRD_PARTY"
ROOT = Path(__file__).resolve().parent.parent
NEEDED = (
    "blockbuster forbiddenfruit pytest-mock freezegun python-dateutil toml lark responses langchain-classic "
    "langchain-text-splitters pandas pytz tzdata langgraph-checkpoint-postgres langgraph-checkpoint-sqlite psycopg "
    "psycopg-binary psycopg-pool aiosqlite sqlite-vec pycryptodome redis pytest-repeat psutil"
).split()


@dataclass(frozen=True)
class Suite:
    """Tests of a project.

    Attributes:
        tests: those that use models, below its folder.
        differ: tests that look at the class of a model, its hooks or the stack, with the reason.
    """

    tests: str
    differ: tuple[str, ...] = ()


SUITES = {
    "langchain-core": Suite(
        " ".join(
            f"tests/unit_tests/{part}"
            for part in "language_models runnables caches callbacks tracers output_parsers load fake".split()
        ),
        # compares `type(model)._astream` with LangChain's; gives 1,000 calls a second of wall time
        ("test_astream_implementation_fallback_to_stream", "test_benchmark_model"),
    ),
    "langchain": Suite(
        "tests/unit_tests/agents tests/unit_tests/chat_models tests/unit_tests/tools",
        ("test_summarization_middleware_initialization",),  # isinstance
    ),
    "langgraph-prebuilt": Suite("tests/test_react_agent.py tests/test_react_agent_graph.py tests/test_tool_node.py"),
    "langgraph": Suite(
        "tests/test_pregel.py tests/test_retry.py tests/test_large_cases.py tests/test_stream_events_v3.py "
        "tests/test_stream_events_v3_e2e.py tests/test_stream_messages_transformer.py tests/test_trace_policy.py"
    ),
    "langchain-classic": Suite(
        " ".join(
            f"tests/unit_tests/{part}"
            for part in "agents chains llms chat_models evaluation retrievers smith output_parsers runnables".split()
        ),
        ("test_from_llm_uses_supplied_chatopenai",),  # isinstance
    ),
    "langchain-openai": Suite(
        "tests/unit_tests",
        (  # isinstance; the file in which a warning arises
            "test_model_strings_are_initialized",
            "test_load_openai_chat",
            "test_load_openai_llm",
            "test_load_runnable_sequence_prompt_model",
            "test_loads_openai_chat",
            "test_loads_openai_llm",
            "test_loads_runnable_sequence_prompt_model",
            "test_experimental_unofficial_warning_is_emitted",
        ),
    ),
}


# The plugin.


class _Dead:
    """An engine that fails at whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("a dead engine")

    def decide(self, call: Any) -> Any:
        """Raises."""
        raise RuntimeError("a dead engine")

    observe = audit = fault = decide


def _wrapping(state: str) -> Any:
    """From now on every model that is made comes wrapped; the engine."""
    from langchain_core.language_models import BaseChatModel
    from langchain_core.language_models.llms import BaseLLM

    from jitr_core import JITR
    from jitr_langchain import JITRLLM, JITRChatModel

    folder = tempfile.mkdtemp()
    engine: Any = _Dead() if state == "dead" else JITR(f"sqlite:///{folder}/jitr.db", training="off")

    def made(cls: Any, *args: Any, **kwargs: Any) -> Any:
        model = type.__call__(cls, *args, **kwargs)
        if isinstance(model, JITRChatModel | JITRLLM):
            return model
        if isinstance(model, BaseChatModel):
            return JITRChatModel(llm=model, jitr=engine)
        return JITRLLM(llm=model, jitr=engine) if isinstance(model, BaseLLM) else model

    type(BaseChatModel).__call__ = made  # type: ignore[method-assign]
    return engine


_engine = _wrapping(os.environ[STATE]) if os.environ.get(STATE) else None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Says how much JITR saw."""
    if _engine is not None and not isinstance(_engine, _Dead):
        _engine.flush()
        seen = sum(1 for _ in _engine.open_store().observations())
        terminalreporter.write_line(f"JITR: {seen} calls observed, faults {dict(_engine.faults)}")
        _engine.close()


# The comparison.


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments], check=True)


def _fetch(name: str, work: Path) -> Path:
    """The folder with the sources of a package, of the installed version if it is installed."""
    try:
        wanted = f"{name}=={importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        wanted = name
    _pip("download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "-d", str(work / name), wanted)
    (archive,) = (work / name).glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(work / name, filter="data")
    return work / name / archive.name.removesuffix(".tar.gz")


def _outcomes(suite: Suite, sources: Path, extra: Path, state: str) -> tuple[dict[str, str], str]:
    """(test → outcome, the lines that sum it up)."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "benchmarks", extra))), STATE: state}
    env |= {"NO_DOCKER": "true", "LANGGRAPH_TEST_FAST": "true"}
    command = [sys.executable, "-m", "pytest", "-p", "third_party", "-p", "no:cacheprovider", "-o", "addopts="]
    command += ["-o", "timeout=100", "-q", "-rA", "--tb=no", "--no-header", *suite.tests.split()]
    done = subprocess.run(command, cwd=sources, env=env, capture_output=True, text=True, check=False)
    told = re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) (\S+)", done.stdout, re.MULTILINE)
    return {test: outcome for outcome, test in told}, " | ".join(
        line for line in done.stdout.splitlines()[-400:] if line.startswith("JITR:") or re.search(r" in [\d.]+s", line)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=SUITES)
    parser.add_argument("--state", choices=("observing", "dead"), default="observing")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="jitr-third-party-"))
    extra = work / "extra"
    if not extra.is_dir():
        _pip("install", "--no-deps", "--target", str(extra), *NEEDED)
    missed = False
    for name, suite in SUITES.items():
        if options.only not in (None, name):
            continue
        sources = _fetch(name, work)
        bare, summary = _outcomes(suite, sources, extra, "")
        wrapped, wrapped_summary = _outcomes(suite, sources, extra, options.state)
        print(f"{name}: bare {summary}\n  {options.state}: {wrapped_summary}")
        fails = [test for test, outcome in bare.items() if outcome == "PASSED" and wrapped.get(test) != "PASSED"]
        for test in fails:
            known = any(each in test for each in suite.differ)
            missed = missed or not known
            print(f"  {'known' if known else 'DIFFERS'}: {test}")
        missed = missed or not bare
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
