"""The `jitr` command."""

from .commands import app, exit_code, main

__all__ = ["app", "exit_code", "main"]
