"""What a reader sees: the live view of a replay, its final tables, and the tables of the command line."""

from __future__ import annotations

from .summary import final_table
from .view import ReplayView, SearchProgress

__all__ = ["ReplayView", "SearchProgress", "final_table"]
