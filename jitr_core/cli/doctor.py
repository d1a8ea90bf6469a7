"""`jitr doctor`: is JITR live here?"""

from __future__ import annotations

from typing import Annotated

import typer

from ..config import state_folder
from ..errors import ConfigError
from ..settings import load_settings
from .options import DEFAULT_URL, Url

__all__ = ["doctor"]


def doctor(
    url: Url = DEFAULT_URL,
    secret: Annotated[
        list[str] | None, typer.Option("--secret", metavar="TEXT", help="A made-up text your redaction must hide.")
    ] = None,
    look_only: Annotated[bool, typer.Option("--look-only", help="Only look; leave out the rehearsal.")] = False,
) -> None:
    """Prove that capture, storage, redaction, training, routing, audits and costs are live here.

    Looks at the state, then runs the whole loop once in a throwaway state beside it, with a task and a teacher made
    for it, and with the redaction that the settings name: some seconds, nothing is sent anywhere. Exits with 1 if
    something fails.
    """
    from ..doctor import examine, rehearse

    settings = load_settings()
    failed = warned = 0
    redact = settings.engine.get("redact", "")
    if secret and not redact:
        raise ConfigError("--secret needs a redaction.", hint='Name yours in jitr.toml: redact = "module:function".')
    rehearsal = rehearse(state_folder(url), settings.policy, redact=redact, secrets=secret or [])
    for title, checks in (
        (f"State {url}", examine(url, settings)),
        ("Rehearsal: the whole loop, once", () if look_only else rehearsal),
    ):
        if checks == ():
            continue
        typer.echo(title)
        for check in checks:
            failed += check.verdict == "fail"
            warned += check.verdict == "warn"
            fix = f" → {check.fix}" if check.fix else ""
            typer.echo(f"  {check.verdict:<4}  {check.name}: {check.found}{fix}")
    typer.echo(f"{failed} failed, {warned} to look at." if failed or warned else "All is well.")
    if failed:
        raise typer.Exit(1)
