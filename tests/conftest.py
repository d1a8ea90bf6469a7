"""What all tests share: a call log that is learnt at once, and folders that keep tests apart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from easy import easy_calls, write_log


@pytest.fixture
def easy_log(tmp_path: Path) -> Path:
    """A log of 700 calls that a lexical student learns at once."""
    return write_log(tmp_path / "easy.jsonl", easy_calls(700))


@pytest.fixture
def shared() -> Path:
    """The folder of shared data; the test is skipped without it."""
    folder = Path(os.environ.get("JITR_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip("shared data is not at hand")
    return folder


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test leaves state in the working folder or hears the user's settings."""
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - {"JITR_SHARED"}:
        if name.startswith("JITR_"):
            monkeypatch.delenv(name)
