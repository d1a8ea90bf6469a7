"""`jitr models`: which base models there are, adding and removing some."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from ..config import state_exists
from ..errors import ConfigError
from ..settings import load_settings
from .options import DEFAULT_URL, AsJson, Url, refuse_early_url

__all__ = ["models_app"]

models_app = typer.Typer(invoke_without_command=True, pretty_exceptions_enable=False)


@models_app.callback()
def models(
    context: typer.Context,
    url: Annotated[
        str, typer.Option("--url", envvar="JITR_URL", help="A state: its searches say who is good at what.")
    ] = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the base models that searches choose among, with what is known of each."""
    if context.invoked_subcommand is not None:
        refuse_early_url(context)
        return
    from ..report.models import model_facts, show_models
    from ..store import Store

    with ExitStack() as opened:
        store = opened.enter_context(Store(url)) if state_exists(url) else None
        if as_json:
            typer.echo(json.dumps(model_facts(_base_models(False), store), ensure_ascii=False, indent=2))
        else:
            show_models(_base_models(False), store)


@models_app.command("add")
def add(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE…", help="Folders, installed packages or hub ids.")],
    download: Annotated[bool, typer.Option("--download", help="Hub ids may be fetched.")] = False,
) -> None:
    """Prepare base models; later searches choose among them, too."""
    found = _base_models(download)
    for source in sources:
        typer.echo(f"{source}: preparing, about a minute of one core …")
        why = found.add(source)
        if why:
            raise ConfigError(why)
        typer.echo(f"{source}: ready.")


@models_app.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="Name or key, see `jitr models --json`.")],
    force: Annotated[bool, typer.Option("--force", help="Even if replacements need it.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Delete a prepared base model that no replacement of the state needs."""
    found = _base_models(False)
    known = found.catalogue()
    keys = [name] if name in known else [key for key, facts in known.items() if facts.name == name]
    if not keys:
        raise ConfigError(f"there is no base model {name!r}.", hint="`jitr models` lists them.")
    if len(keys) > 1:
        raise ConfigError(f"{len(keys)} base models are called {name!r}.", hint=f"Give a key: {', '.join(keys)}.")
    needing = _tasks_resting_on(url, found, keys[0])
    if needing and not force:
        hint = "`--force` removes it all the same; their calls go to the teacher then."
        raise ConfigError(f"{name} is needed by the replacements of {needing}.", hint=hint)
    try:
        found.remove(keys[0])
    except OSError as error:
        raise ConfigError(f"{name} cannot be removed: {error}.") from error
    typer.echo(f"{name}: removed.{f' Apps that start now ask the teacher for {needing}.' if needing else ''}")


def _tasks_resting_on(url: str, base_models: Any, key: str) -> str:
    """The tasks of a state, if there is one, whose replacements need a base model, for reading; "" for none."""
    from .. import manage
    from ..report.wording import quoted
    from ..store import Store

    if not state_exists(url):
        return ""
    with Store(url) as store:
        return ", ".join(
            f"{quoted(task.name, 40)} ({task.id})" for task in manage.tasks_resting_on(store, base_models, key)
        )


def _base_models(download: bool) -> Any:
    from ..base_models import BaseModels

    policy = load_settings().policy
    return BaseModels(policy.cache_dir, download=download or policy.download)
