"""Every setting of the loop, with unit, range, default and source. Standard library only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .equivalence import EXACT, equivalence
from .errors import ConfigError

__all__ = ["DEFAULT_URL", "FAMILIES", "Policy", "absolute", "disabled", "state_folder"]

DEFAULT_URL = "sqlite:///.jitr/jitr.db"
"""Where the state lives unless the user says otherwise: in the working folder."""

FAMILIES = ("lexical", "static", "encoder", "stacked", "lora")
"""Candidate families, cheapest first; `stacked` joins the features of the others, `lora` tunes an encoder."""

_LEAST = {"min_calls": 2, "first_attempt": 50, "max_labels": 2, "max_examples": 100}
_LEAST_MB = {"search_memory_mb": 500, "serving_memory_mb": 1}


@dataclass(frozen=True, slots=True)
class Policy:
    """What JITR promises, and how hard it tries.

    Attributes:
        target: promised agreement with the teacher on answered calls, in (0, 1).
        delta: probability, in (0, 1), that any release in the life of a task breaks the promise; it is spent over
            all certification attempts of the task.
        min_calls: a prompt that recurred this often is a task, ≥ 2.
        first_attempt: calls a task must have seen before the first search, ≥ 50; all of them are labels then.
        attempt_growth: every further attempt waits until the task's calls, answered ones included, have grown by
            this factor, > 1; see `jitr_core.certify.next_attempt` for what each may spend of delta.
        audit_share_start: share of calls audited right after a release, in (0, 1].
        audit_share_min: share below which the audit share never decays, in (0, 1].
        audit_delta: probability, in (0, 1), with which audits roll back a replacement that keeps its promise,
            per 10,000 audits.
        families: candidate families the search may use.
        max_labels: most different answers a task may have to be treated as `labels`, ≥ 2.
        max_examples: most examples a student is trained on, the latest are kept, ≥ 100.
        ask_teacher: questions put to the teacher about each task, 0 to 100: what its input is, what kind of task it is
            and what to call it. They are requests of their own, made in the background and billed. 0 asks nothing.
        free_wording: also look for tasks that are asked in ever different words, see docs/meaning.md. Off by default:
            where chatter is worded alike it may take some of that for the task.
        equivalence: rule by which an answer counts as the teacher's where answers are free text, see
            `jitr_core.equivalence`; labels and fields are always compared exactly.
        generators: base models, as folders or hub ids on this machine, of which text generators are tuned where
            answers are free text; none are tried by default, as training them is expensive, see docs/text.md.
        generator_timeout_s: seconds, > 0, after which the teacher answers in place of a generator.
        retention_days: days after which stored inputs and answers are deleted; None keeps them.
        cache_dir: folder for prepared base models, shared by all tasks; None = `$JITR_CACHE` or `~/.cache/jitr`.
        base_models: further base models to choose among: folders, installed packages or hub ids, see docs/search.md.
        download: True lets searches fetch base models from the model hub: those of `base_models`, and a default pool.
        search_work_s: most core-seconds, > 0, that one search may spend on encoders; estimated from counted tokens,
            never taken from the clock, so that two searches decide alike.
        search_seconds: most seconds, > 0, that one search may take by the clock; None for any. With a limit, two
            searches may decide differently.
        search_memory_mb: most memory, in MB, ≥ 500, of the process that trains; None for any. Counts where the cold
            path runs in a process of its own, on Linux.
        serving_memory_mb: most memory, in MB, ≥ 1, that replacements take in one process, base models and what they
            share not counted; None for any. Beyond it the ones that were not used for longest are dropped, and loaded
            again in the background when they are called; the teacher answers until then.

    Raises:
        ConfigError: a value is out of its range; the message names the setting and the range.

    Example:
        >>> Policy(target=0.9).delta
        0.05
        >>> Policy(target=95)
        Traceback (most recent call last):
        ...
        jitr_core.errors.ConfigError: target must be in (0, 1), got 95. Shares are fractions: write 0.95 for 95%.
    """

    target: float = 0.95
    delta: float = 0.05
    min_calls: int = 7
    first_attempt: int = 200
    attempt_growth: float = 1.5
    audit_share_start: float = 0.1
    audit_share_min: float = 0.002
    audit_delta: float = 0.05
    families: tuple[str, ...] = FAMILIES
    max_labels: int = 300
    max_examples: int = 20_000
    ask_teacher: int = 0
    free_wording: bool = False
    equivalence: str = EXACT
    generators: tuple[str, ...] = ()
    generator_timeout_s: float = 10.0
    retention_days: float | None = None
    cache_dir: str | None = None
    base_models: tuple[str, ...] = ()
    download: bool = False
    search_work_s: float = 600.0
    search_seconds: float | None = None
    search_memory_mb: int | None = None
    serving_memory_mb: int | None = 1000

    def __post_init__(self) -> None:
        for name in ("target", "delta", "audit_share_start", "audit_share_min", "audit_delta"):
            value = getattr(self, name)
            closed = name.startswith("audit_share")
            if not (0 < value < 1 or (closed and value == 1)):
                raise ConfigError(
                    f"{name} must be in (0, 1{']' if closed else ')'}, got {value}.",
                    hint="Shares are fractions: write 0.95 for 95%.",
                )
        for name, low in {**_LEAST, **_LEAST_MB}.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"{name} must be ≥ {low}, got {value}.")
        for name in ("retention_days", "generator_timeout_s", "search_work_s", "search_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be > 0, got {value}.")
        if not 0 <= self.ask_teacher <= 100:
            raise ConfigError(f"ask_teacher must be in [0, 100], got {self.ask_teacher}.")
        equivalence(self.equivalence)
        if self.attempt_growth <= 1:
            raise ConfigError(f"attempt_growth must be > 1, got {self.attempt_growth}.")
        unknown = set(self.families) - set(FAMILIES)
        if unknown or not self.families:
            raise ConfigError(f"unknown families {sorted(unknown)}; choose from {', '.join(FAMILIES)}.")


def disabled() -> bool:
    """True while the environment says `JITR_DISABLED=1` (or true, yes, on)."""
    return os.environ.get("JITR_DISABLED", "").lower() in ("1", "true", "yes", "on")


def state_folder(url: str) -> Path:
    """Where the files of a state live: beside the SQLite file, else `./.jitr`.

    Example:
        >>> state_folder("sqlite:////var/lib/shop/jitr.db").as_posix()
        '/var/lib/shop'
    """
    prefix, _, path = url.partition(":///")
    return Path(path).parent if prefix.startswith("sqlite") and path else Path(".jitr")


def absolute(url: str) -> str:
    """The URL with the path of an SQLite file made absolute.

    Example:
        >>> absolute("sqlite:////var/lib/shop/jitr.db")
        'sqlite:////var/lib/shop/jitr.db'
    """
    prefix, _, path = url.partition(":///")
    return f"{prefix}:///{Path(path).absolute()}" if prefix.startswith("sqlite") and path else url
