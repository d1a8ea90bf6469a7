"""`jitr approve`, `veto`, `pin` and the like: which replacement serves a task."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import DEFAULT_URL, TaskName, Url, open_state

__all__ = ["RELEASE_COMMANDS"]

_EARLIER = typer.Argument(metavar="[RELEASE]", help="Id of a release, see `jitr tasks show TASK`.")


def pause(task: TaskName, url: Url = DEFAULT_URL) -> None:
    """Veto a task: the teacher answers it, nothing is trained for it."""
    from .. import manage

    with open_state(url) as store:
        found = manage.find_task(store, task)
        manage.pause(store, found)
    ends = f"jitr tasks unignore {found.id}" if found.ignored else f"jitr resume {found.id}"
    typer.echo(f"{found.name}: paused. The teacher answers; `{ends}` ends it.")


def resume(task: TaskName, url: Url = DEFAULT_URL) -> None:
    """End a pause."""
    from .. import manage

    with open_state(url) as store:
        found = manage.find_task(store, task)
        manage.resume(store, found)
    typer.echo(f"{found.name}: resumed.")


def approve(task: TaskName, url: Url = DEFAULT_URL) -> None:
    """Let a replacement on probation go on: it serves, or first as a canary where the policy wants that."""
    from .. import manage

    with open_state(url) as store:
        found = manage.find_task(store, task)
        release = manage.approve(store, found)
        state = store.release_state(release)
    typer.echo(f"{found.name}: release {release} is approved, and {state} now.")


def veto(task: TaskName, url: Url = DEFAULT_URL) -> None:
    """Refuse a replacement on probation for good."""
    from .. import manage

    with open_state(url) as store:
        found = manage.find_task(store, task)
        release = manage.veto(store, found)
    typer.echo(f"{found.name}: release {release} never serves. `jitr pause {found.id}` keeps others from coming.")


def pin(
    task: TaskName,
    release: Annotated[str | None, _EARLIER] = None,
    despite_audits: Annotated[
        bool, typer.Option("--despite-audits", help="Audits that contradict it do not withdraw it.")
    ] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Keep a task's replacement, or the release named: no other one replaces it."""
    from .. import manage

    with open_state(url) as store:
        found = manage.find_task(store, task)
        pinned = manage.pin(store, found, release, despite_audits=despite_audits)
    typer.echo(f"{found.name}: pinned to release {pinned}. `jitr unpin {found.id}` ends it.")


def unpin(task: TaskName, url: Url = DEFAULT_URL) -> None:
    """End a pin: a better replacement may take over."""
    from .. import manage

    with open_state(url) as store:
        found = manage.find_task(store, task)
        manage.unpin(store, found)
    typer.echo(f"{found.name}: no longer pinned.")


def rollback(task: TaskName, release: Annotated[str | None, _EARLIER] = None, url: Url = DEFAULT_URL) -> None:
    """Withdraw a task's replacement: the one before it serves again, or the release named, or the teacher."""
    from .. import manage

    with open_state(url) as store:
        found = manage.find_task(store, task)
        serves = manage.rollback(store, found, release)
    typer.echo(f"{found.name}: rolled back, served by {serves}. `jitr pause {found.id}` keeps it from coming back.")


RELEASE_COMMANDS = (pause, resume, approve, veto, pin, unpin, rollback)
