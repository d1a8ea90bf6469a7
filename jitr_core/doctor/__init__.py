"""Is JITR live here? Looks at a state, and runs the whole loop once in a throwaway one beside it."""

from __future__ import annotations

from .check import Check
from .examination import examine
from .rehearsal import rehearse

__all__ = ["Check", "examine", "rehearse"]
