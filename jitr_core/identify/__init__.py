"""Identification: which recurring task a call belongs to, and what of its prompt is input."""

from .answers import AnswerSpace, answer_space
from .ask import description, question, reading
from .decisions import Decisions, pattern, task_name, unused
from .identifier import Identifier, Learned
from .refine import supersedes
from .stream import Assignment, identify_stream
from .template import key_of
from .text import content_hash, join_prompt, messages_of, normalise, prompt_text

__all__ = [
    "AnswerSpace",
    "Assignment",
    "Decisions",
    "Identifier",
    "Learned",
    "answer_space",
    "content_hash",
    "description",
    "identify_stream",
    "join_prompt",
    "key_of",
    "messages_of",
    "normalise",
    "pattern",
    "prompt_text",
    "question",
    "reading",
    "supersedes",
    "task_name",
    "unused",
]
