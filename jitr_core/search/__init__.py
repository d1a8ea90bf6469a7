"""Search: data set → the candidate that would answer most calls as promised, with confidences that can be certified.

There is one search for each kind of answers: labels, fields and text.
"""

from __future__ import annotations

from .fields import search_fields
from .labels import search
from .result import FOLDS, SearchResult
from .text import search_text

__all__ = ["FOLDS", "SearchResult", "search", "search_fields", "search_text"]
