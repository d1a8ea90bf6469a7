"""Identification: which recurring task a call belongs to, and what of its prompt is input."""

from .answers import AnswerSpace, answer_space
from .identifier import Identifier, Learned
from .refine import supersedes
from .stream import Assignment, identify_stream
from .text import content_hash, join_prompt, normalise, prompt_text

__all__ = [
    "AnswerSpace",
    "Assignment",
    "Identifier",
    "Learned",
    "answer_space",
    "content_hash",
    "identify_stream",
    "join_prompt",
    "normalise",
    "prompt_text",
    "supersedes",
]
