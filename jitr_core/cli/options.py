"""What several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import state_exists
from ..errors import ConfigError
from ..settings import configured_url

if TYPE_CHECKING:
    from ..store import Store

__all__ = [
    "DEFAULT_URL",
    "AsJson",
    "Calls",
    "ComputePrice",
    "PriceModel",
    "Seed",
    "TaskName",
    "Url",
    "open_state",
    "refuse_early_url",
]

Calls = Annotated[list[Path], typer.Argument(help="Call logs, .jsonl or .jsonl.gz, read as one stream.")]
Url = Annotated[str, typer.Option("--url", envvar="JITR_URL", help="The database with the state.")]
DEFAULT_URL: Any = configured_url  # asked by Typer where neither option nor variable says
PriceModel = Annotated[str | None, typer.Option("--price-model", help="Price the calls as this model's.")]
ComputePrice = Annotated[
    float, typer.Option("--compute-usd-per-hour", min=0.0, help="Price of one core, in US dollars an hour.")
]
TaskName = Annotated[str, typer.Argument(metavar="TASK", help="Id or name of a task, see `jitr tasks`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Seed = Annotated[int, typer.Option(help="Seed of splits, training and audits.")]


def refuse_early_url(context: typer.Context) -> None:
    """Refuse `--url` before a command, which would not see it.

    Raises:
        ConfigError: it stands there.
    """
    source = context.get_parameter_source("url")
    if source is not None and source.name == "COMMANDLINE":
        raise ConfigError("--url stands before the command.", hint=f"Write it after {context.invoked_subcommand}.")


def open_state(url: str) -> Store:
    """The state at a URL, which must exist."""
    from ..store import Store

    if not state_exists(url):
        raise ConfigError(f"there is no state at {url}.", hint="Run your app first, or give --url.")
    return Store(url)
