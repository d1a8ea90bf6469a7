"""The demo's call log: synthetic, written for this project by `jitr_core.demo.generate`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["calls_path"]


def calls_path() -> Path:
    """Where the shipped call log lies."""
    return Path(__file__).parent / "calls.jsonl.gz"
