"""The error tree. Every error says what to do next (`hint`).

JITRError
├── ConfigError        a setting, option or argument cannot be used
├── CallLogError       a line of a call log is malformed (names file and line)
├── StoreError         the database is damaged, locked for good or of a newer version
├── ArtifactError      a replacement's files are missing, changed or unreadable
├── MissingExtraError  an optional dependency is needed (names the pip command)
└── TrainingError      a search or training could not be carried out
"""

from __future__ import annotations

import errno

__all__ = [
    "ArtifactError",
    "CallLogError",
    "ConfigError",
    "JITRError",
    "MissingExtraError",
    "StoreError",
    "TrainingError",
    "in_words",
]


class JITRError(Exception):
    """Base of all errors JITR raises on purpose.

    Attributes:
        hint: what the reader can do about it; "" if nothing.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} {self.hint}" if self.hint else message


class ConfigError(JITRError, ValueError):
    """A setting, option or argument cannot be used."""


class CallLogError(JITRError, ValueError):
    """A line of a call log is malformed."""


class StoreError(JITRError):
    """The database cannot be used."""


class ArtifactError(JITRError):
    """A replacement's files cannot be used."""


class MissingExtraError(JITRError, ImportError):
    """An optional dependency is needed.

    Example:
        >>> str(MissingExtraError("train", "searching encoders"))
        'searching encoders needs an optional part of JITR. Install it with: pip install "jitr[train]"'
    """

    def __init__(self, extra: str, what: str) -> None:
        super().__init__(
            f"{what} needs an optional part of JITR.", hint=f'Install it with: pip install "jitr[{extra}]"'
        )
        self.extra = extra


class TrainingError(JITRError):
    """A search or training could not be carried out."""


def in_words(error: Exception) -> str:
    """What went wrong, in words where it is no fault of the program."""
    if isinstance(error, MemoryError):
        return "out of memory. Fewer examples (`max_examples`) need less."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full."
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return "a file would get larger than this process may write."
    return repr(error)
