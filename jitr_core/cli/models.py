"""`jitr models`: which base models there are, adding and removing some."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from ..config import state_exists
from ..errors import ConfigError
from ..settings import configured_url, load_settings

__all__ = ["models_app"]

models_app = typer.Typer(invoke_without_command=True, pretty_exceptions_enable=False)
_URL: Any = configured_url


@models_app.callback()
def models(
    context: typer.Context,
    url: Annotated[
        str, typer.Option("--url", envvar="JITR_URL", help="A state: its searches say who is good at what.")
    ] = _URL,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """List the base models that searches choose among, with what is known of each."""
    if context.invoked_subcommand is not None:
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
def remove(name: Annotated[str, typer.Argument(help="Name or key, see `jitr models --json`.")]) -> None:
    """Delete a prepared base model. Replacements that need it leave their calls to the teacher."""
    found = _base_models(False)
    known = found.catalogue()
    keys = [name] if name in known else [key for key, facts in known.items() if facts.name == name]
    if not keys:
        raise ConfigError(f"there is no base model {name!r}.", hint="`jitr models` lists them.")
    if len(keys) > 1:
        raise ConfigError(f"{len(keys)} base models are called {name!r}.", hint=f"Give a key: {', '.join(keys)}.")
    try:
        found.remove(keys[0])
    except OSError as error:
        raise ConfigError(f"{name} cannot be removed: {error}.") from error
    typer.echo(f"{name}: removed.")


def _base_models(download: bool) -> Any:
    from ..base_models import BaseModels

    policy = load_settings().policy
    return BaseModels(policy.cache_dir, download=download or policy.download)
