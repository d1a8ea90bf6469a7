"""What a user decides by hand about tasks and replacements. All of it works while the app runs."""

from __future__ import annotations

from .figures import audited, unmet
from .releases import (
    approve,
    missing_bases,
    pause,
    pin,
    pipeline,
    pipelines,
    resume,
    rollback,
    tasks_resting_on,
    train,
    unpin,
    veto,
)
from .tasks import (
    TemplateCalls,
    compare_by,
    declare,
    find_task,
    ignore,
    lost_with,
    merge,
    promise_by,
    purge,
    rename,
    split,
    task_templates,
    unignore,
)

__all__ = [
    "TemplateCalls",
    "approve",
    "audited",
    "compare_by",
    "declare",
    "find_task",
    "ignore",
    "lost_with",
    "merge",
    "missing_bases",
    "pause",
    "pin",
    "pipeline",
    "pipelines",
    "promise_by",
    "purge",
    "rename",
    "resume",
    "rollback",
    "split",
    "task_templates",
    "tasks_resting_on",
    "train",
    "unignore",
    "unmet",
    "unpin",
    "veto",
]
