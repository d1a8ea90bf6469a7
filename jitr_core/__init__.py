"""JITR: just-in-time model replacement.

The core watches an app's LLM calls, finds the recurring tasks among them, trains small models on the recorded answers,
certifies that they agree with the LLM, and lets them answer. Integrations wrap a framework's model around `JITR`:
`jitr_langchain.JITRChatModel`. Importing this package loads none of the heavy libraries.
"""

from ._version import __version__
from .config import Policy
from .engine import JITR
from .errors import (
    ArtifactError,
    CallLogError,
    ConfigError,
    JITRError,
    MissingExtraError,
    StoreError,
    TrainingError,
)
from .judge import Judge
from .types import Answer, Call, Certificate, Decision, Match, Release, Task

__all__ = [
    "JITR",
    "Answer",
    "ArtifactError",
    "Call",
    "CallLogError",
    "Certificate",
    "ConfigError",
    "Decision",
    "JITRError",
    "Judge",
    "Match",
    "MissingExtraError",
    "Policy",
    "Release",
    "StoreError",
    "Task",
    "TrainingError",
    "__version__",
]
