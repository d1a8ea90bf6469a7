"""Every setting of the loop, with unit, range, default and source. Standard library only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .equivalence import EXACT, equivalence
from .errors import ConfigError
from .promises import ANSWERED, promise

__all__ = [
    "DEFAULT_URL",
    "FAMILIES",
    "TUNING_FEWEST",
    "TUNING_S",
    "Policy",
    "absolute",
    "disabled",
    "state_exists",
    "state_folder",
]

DEFAULT_URL = "sqlite:///.jitr/jitr.db"
"""Where the state lives unless the user says otherwise: in the working folder."""

FAMILIES = ("lexical", "static", "encoder", "stacked", "lora")
"""Candidate families, cheapest first; `stacked` joins the features of the others, `lora` tunes an encoder."""

TUNING_FEWEST = 500
"""Different inputs below which a tuned encoder was no better than a frozen one."""

TUNING_S = 0.27
"""Core-seconds that tuning an encoder may cost for every input seen so far: a task is expected to go on about as long
as it has been going on."""

_LEAST = {
    "min_calls": 2,
    "first_attempt": 50,
    "shadow_calls": 0,
    "canary_calls": 0,
    "max_labels": 2,
    "max_examples": 100,
}
_LEAST_MB = {"search_memory_mb": 500, "serving_memory_mb": 1}


@dataclass(frozen=True, slots=True)
class Policy:
    """What JITR promises, and how hard it tries.

    Attributes:
        target: promised agreement with the teacher on answered calls, in (0, 1).
        promise: what `target` is about: `answered`, `overall`, `classes`, `classes:LABEL,…` or `cost:{…}`, see
            `jitr_core.promises` and docs/certificate.md.
        delta: probability, in (0, 1), that any release in the life of a task breaks the promise; it is spent over
            all certification attempts of the task.
        min_calls: a prompt that recurred this often is a task, ≥ 2.
        first_attempt: calls a task must have seen before the first search, ≥ 50; all of them are labels then.
        attempt_growth: every further attempt waits until the task's calls, answered ones included, have grown by
            this factor, > 1; see `jitr_core.certify.next_attempt` for what each may spend of delta.
        audit_share_start: share of calls audited right after a release, in (0, 1].
        audit_share_warned: the same right after a warning of drift, in (0, 1].
        audit_share_min: share below which the audit share never decays, in (0, 1].
        audit_budget: most audits, > 0, to be expected of a task for each 1,000 answers it has given; None for what the
            shares bring. All answers of a canary are audited all the same, and later ones less.
        audit_delta: probability, in (0, 1), with which audits roll back a replacement that keeps its promise,
            per 10,000 audits.
        approval: "auto": a certified release serves by itself; "manual": it is a shadow until `jitr approve`.
        shadow_calls: answers of a new release, ≥ 0, that are compared silently before it answers any call; 0 for none.
        canary_share: share of the calls, in (0, 1], that a canary is asked about; all its answers are audited.
        canary_calls: answers, ≥ 0, of a canary that are compared before it is asked about all calls; 0 for none.
        families: candidate families the search may use.
        max_labels: most different answers a task may have to be treated as `labels`, ≥ 2.
        max_examples: most examples a student is trained on, the latest are kept, ≥ 100.
        ask_teacher: questions put to the teacher about each task, 0 to 100: what its input is, what kind of task it is
            and what to call it. They are requests of their own, made in the background and billed. 0 asks nothing.
        free_wording: also look for tasks that are asked in ever different words, see docs/meaning.md. Off by default:
            where chatter is worded alike it may take some of that for the task.
        equivalence: rule by which an answer counts as the teacher's where answers are free text, see
            `jitr_core.equivalence`; a tolerance (`number:5%`) counts for numbers in structured answers and for answers
            that are amounts too. All other labels and fields are always compared exactly.
        generators: base models, as folders or hub ids on this machine, of which text generators are tuned where
            answers are free text, beside those that `jitr models add` added; none are tried by default, as training
            them is expensive, see docs/text.md.
        generator_timeout_s: seconds, > 0, after which the teacher answers in place of a generator.
        horizon_days: days, > 0, within which a replacement must be able to save more than searching for it costs, or
            nothing is searched; None searches whatever it costs. A price that is not known does not count against it.
        compute_usd_per_hour: price of one core in US dollars an hour, ≥ 0, at which own computing is billed.
        price_model: name of the model whose list price the calls have; None for the names they were made with.
        calls_per_day: calls of the app a day, > 0; None takes them from the times of the later calls.
        retention_days: days after which stored inputs and answers are deleted, at most about a day late while an app
            runs, so that a clock that leaps for some hours deletes nothing; None keeps them.
        cache_dir: folder for prepared base models, shared by all tasks; None = `$JITR_CACHE` or `~/.cache/jitr`.
        base_models: further base models to choose among: folders, installed packages or hub ids, see docs/search.md.
        download: True lets searches fetch base models from the model hub: those of `base_models`, and a default pool.
        search_work_s: most core-seconds, > 0, that one search may spend on encoders, tuning them included; estimated
            from counted tokens, never taken from the clock, so that two searches decide alike.
        search_seconds: most seconds, > 0, that one search may take by the clock, tuning included; None for any. The
            cheapest candidate is always tried. With a limit, two searches may decide differently.
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
    audit_share_warned: float = 0.5
    audit_share_min: float = 0.002
    audit_budget: float | None = None
    audit_delta: float = 0.05
    approval: str = "auto"
    shadow_calls: int = 0
    canary_share: float = 0.5
    canary_calls: int = 0
    families: tuple[str, ...] = FAMILIES
    max_labels: int = 300
    max_examples: int = 20_000
    ask_teacher: int = 0
    free_wording: bool = False
    equivalence: str = EXACT
    promise: str = ANSWERED
    generators: tuple[str, ...] = ()
    generator_timeout_s: float = 10.0
    horizon_days: float | None = 90.0
    compute_usd_per_hour: float = 0.05
    price_model: str | None = None
    calls_per_day: float | None = None
    retention_days: float | None = None
    cache_dir: str | None = None
    base_models: tuple[str, ...] = ()
    download: bool = False
    search_work_s: float = 600.0
    search_seconds: float | None = None
    search_memory_mb: int | None = None
    serving_memory_mb: int | None = 1000

    def __post_init__(self) -> None:
        shares = ("audit_share_start", "audit_share_warned", "audit_share_min", "canary_share")
        for name in ("target", "delta", "audit_delta", *shares):
            value = getattr(self, name)
            closed = name in shares
            if not (0 < value < 1 or (closed and value == 1)):
                raise ConfigError(
                    f"{name} must be in (0, 1{']' if closed else ')'}, got {value}.",
                    hint="Shares are fractions: write 0.95 for 95%.",
                )
        for name, low in {**_LEAST, **_LEAST_MB}.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"{name} must be ≥ {low}, got {value}.")
        for name in (
            "audit_budget",
            "horizon_days",
            "calls_per_day",
            "retention_days",
            "generator_timeout_s",
            "search_work_s",
            "search_seconds",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be > 0, got {value}.")
        if not self.compute_usd_per_hour >= 0:
            raise ConfigError(f"compute_usd_per_hour must be ≥ 0, got {self.compute_usd_per_hour}.")
        if not 0 <= self.ask_teacher <= 100:
            raise ConfigError(f"ask_teacher must be in [0, 100], got {self.ask_teacher}.")
        equivalence(self.equivalence)
        if self.approval not in ("auto", "manual"):
            raise ConfigError(f"approval must be auto or manual, got {self.approval!r}.")
        promise(self.promise)
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


def state_exists(url: str) -> bool:
    """Whether there is a state at this URL; what is no SQLite file is taken to be there."""
    prefix, _, path = url.partition(":///")
    return not (prefix.startswith("sqlite") and path) or Path(path).exists()


def absolute(url: str) -> str:
    """The URL with the path of an SQLite file made absolute.

    Example:
        >>> absolute("sqlite:////var/lib/shop/jitr.db")
        'sqlite:////var/lib/shop/jitr.db'
    """
    prefix, _, path = url.partition(":///")
    return f"{prefix}:///{Path(path).absolute()}" if prefix.startswith("sqlite") and path else url
