"""The `jitr` command. Heavy modules are imported by the commands that need them."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from .._version import __version__
from ..equivalence import EXACT, RULES
from ..errors import CallLogError, ConfigError, JITRError
from ..promises import ANSWERED, PROMISES
from ..settings import load_settings
from ..types import SearchReport
from .doctor import doctor
from .models import models_app
from .options import DEFAULT_URL, Calls, ComputePrice, PriceModel, Seed, TaskName, Url, open_state
from .releases import RELEASE_COMMANDS
from .tasks import tasks_app

__all__ = ["app", "exit_code", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

app.add_typer(tasks_app, name="tasks")
app.add_typer(models_app, name="models")
for command in (*RELEASE_COMMANDS, doctor):
    app.command()(command)


_GONE = "not searched: it was paused, or another process searched meanwhile"


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jitr {__version__}")
        raise typer.Exit


@app.callback()
def jitr(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """JITR: recurring LLM calls answered by small models that are certified to agree."""


@app.command()
def replay(
    calls: Calls,
    target: Annotated[float, typer.Option(help="Promised agreement on answered calls, in (0, 1).")] = 0.95,
    delta: Annotated[float, typer.Option(help="Probability of breaking the promise, in (0, 1).")] = 0.05,
    seed: Seed = 0,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Replay in an order permuted by the seed.")] = False,
    state: Annotated[Path | None, typer.Option(help="Keep the state in this folder.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
    decisions: Annotated[Path | None, typer.Option(help="Write one line a call here.")] = None,
    price_model: PriceModel = None,
    compute_usd_per_hour: ComputePrice = 0.05,
    calls_per_day: Annotated[
        float | None, typer.Option(help="Traffic, to date the break-even and to leave alone what cannot pay.")
    ] = None,
    families: Annotated[str | None, typer.Option(help="Candidate families, separated by commas.")] = None,
    equivalence: Annotated[str, typer.Option(help=f"When a free text counts as the LLM's: {RULES}.")] = EXACT,
    promise: Annotated[str, typer.Option(help=f"What is promised: {PROMISES}.")] = ANSWERED,
    generators: Annotated[str, typer.Option(help="Base models to tune text generators of, by commas.")] = "",
) -> None:
    """What would JITR have saved on these calls? Nothing is sent anywhere."""
    from jitr_langchain.run import run_replay

    from ..config import FAMILIES, Policy

    names = tuple(families.split(",")) if families else FAMILIES
    bases = tuple(filter(None, generators.split(",")))
    policy = Policy(
        target=target,
        delta=delta,
        families=names,
        equivalence=equivalence,
        promise=promise,
        generators=bases,
        # The clock of a replay says nothing of how often the app calls.
        horizon_days=Policy().horizon_days if calls_per_day else None,
        calls_per_day=calls_per_day,
        compute_usd_per_hour=compute_usd_per_hour,
        price_model=price_model,
    )
    run_replay(
        calls,
        policy=policy,
        seed=seed,
        shuffle=shuffle,
        state=state,
        json_out=json_out,
        decisions_out=decisions,
        price_model=price_model,
        compute_usd_per_hour=compute_usd_per_hour,
        calls_per_day=calls_per_day,
    )


@app.command()
def demo(seed: Seed = 0) -> None:
    """Replay a synthetic call log that comes with JITR: a help desk with three steps and some one-off calls."""
    from jitr_langchain.run import run_replay

    from ..config import FAMILIES, Policy
    from ..demo import calls_path

    typer.echo("This call log is synthetic: written for JITR, with 3% teacher noise and ambiguous inputs.")
    without = tuple(family for family in FAMILIES if family != "lora")  # which takes minutes
    quick = Policy(families=without, calls_per_day=10_000)
    run_replay([calls_path()], policy=quick, seed=seed, compute_usd_per_hour=0.05, calls_per_day=10_000)
    typer.echo("Next, on your own log: .venv/bin/jitr replay YOUR_CALLS.jsonl   (the README shows the format)")


@app.command()
def identify(
    calls: Calls,
    out: Annotated[Path, typer.Option(help="Write one line a call here: id, task, final_task.")],
    free_wording: Annotated[bool, typer.Option(help="Look for tasks asked in ever different words, too.")] = False,
) -> None:
    """Which recurring task does each call of a log belong to? What was known when it came, and after the whole log."""
    from ..calllog import call_of, count_calls, read_calls
    from ..files import written
    from ..identify import Identifier, identify_stream

    count_calls(calls)
    identifier = Identifier()
    if free_wording:
        from ..freely import offline

        identifier.meaning = offline()
    ids = [record.id for record in read_calls(calls)]
    stream = (call_of(record, str(i)) for i, record in enumerate(read_calls(calls)))
    answers = (record.said for record in read_calls(calls))
    found: set[str] = set()
    with written(out) as file:
        for call_id, each in zip(ids, identify_stream(stream, identifier, answers=answers), strict=True):
            line = {"id": call_id, "task": each.task, "final_task": each.final_task}
            file.write(json.dumps(line) + "\n")
            found |= {each.final_task} if each.final_task else set()
    typer.echo(f"{len(ids):,} calls, {len(found):,} recurring tasks: {out}")


@app.command()
def savings(
    url: Url = DEFAULT_URL,
    price_model: PriceModel = None,
    compute_usd_per_hour: ComputePrice = 0.05,
) -> None:
    """What a running app has saved so far: money and energy, each task and all."""
    from ..report.savings import show_savings
    from ..savings import Rates, checked_prices

    prices = checked_prices(price_model)
    with open_state(url) as store:
        show_savings(store, prices, Rates(compute_usd_per_hour=compute_usd_per_hour))


@app.command()
def train(
    task: Annotated[
        str | None, typer.Argument(help="Attempt this task now, due or not; it counts as its next attempt.")
    ] = None,
    url: Url = DEFAULT_URL,
    policy: Annotated[str | None, typer.Option(help="The policy as JSON, as a running app gives it.")] = None,
    application: Annotated[str | None, typer.Option("--app", help="Only tasks of this application.")] = None,
    seed: Seed = 0,
) -> None:
    """Make the attempts that are due, and exit: by what is set here, else by what the task's app works with."""
    from .. import manage
    from ..jobs import limit_memory, policy_from_json
    from ..policies import Policies
    from ..report import SearchProgress
    from ..report.tasks import show_attempt

    settings = load_settings()
    given = policy_from_json(policy) if policy else None
    limit_memory((given or settings.policy).search_memory_mb)
    with open_state(url) as store:
        found = manage.find_task(store, task) if task else None
        tasks = [each for each in ([found] if found else store.tasks()) if application in (None, each.app)]
        if found and not tasks:
            raise ConfigError(f"task {found.name!r} is of app {found.app!r}, not of {application!r}.")
        known, attempted = Policies(store, settings), 0
        if given and not found:  # a running app's; what its other tenants are promised is for their engines
            tasks = [each for each in tasks if not known.is_others(each, given)]
        for wanted, line, some in [(given, "", tasks)] if given else known.groups(tasks):
            if line:
                typer.echo(line)
            pipeline = manage.pipeline(store, wanted, url, seed=seed)
            with SearchProgress() as progress:
                pipeline.progress = progress.update
                for each, report in manage.train(pipeline, found, among=some):
                    attempted += 1
                    if report is None and not pipeline.busy(each):
                        last = next(reversed(store.searches(each.id)), None)
                        # Why it was forfeited; a search that took place is no news, but that of another process.
                        report = (
                            last if last is not None and not last.seconds else SearchReport(each.id, 0, refusal=_GONE)
                        )
                    show_attempt(each, report)
    if not attempted:
        typer.echo("Nothing was due.")


@app.command()
def export(task: TaskName, folder: Annotated[Path, typer.Argument(metavar="DIR")], url: Url = DEFAULT_URL) -> None:
    """Copy a task's replacement to a new folder, with a model card."""
    from .. import manage
    from ..base_models import BaseModels
    from ..export import export as copy

    with open_state(url) as store:
        copy(store, manage.find_task(store, task), folder, BaseModels(load_settings().policy.cache_dir))
    typer.echo(f"Exported to {folder}; README.md there says what it is.")


@app.command()
def purge(
    task: Annotated[str | None, typer.Option(help="Only this task, with its replacements.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant.")] = None,
    days: Annotated[float | None, typer.Option(help="Only calls older than this many days.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All calls, tasks and replacements.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Delete stored calls, and what was learnt of a whole task or tenant."""
    from .. import manage

    if task is None and tenant is None and days is None and not everything:
        raise ConfigError("say what to purge.", hint="Give --task, --tenant, --days or --all.")
    if everything and (task is not None or tenant is not None or days is not None):
        raise ConfigError("--all deletes everything.", hint="Leave out --task, --tenant and --days, or --all.")
    with open_state(url) as store:
        found = manage.find_task(store, task) if task else None
        losing = manage.lost_with(store, found, tenant) if days is None else []
        names = ", ".join(f"“{each.name}”" for each in losing)
        if not yes:
            going = f" Replacements of {names} rest on encoders tuned for it and go, too." if losing else ""
            typer.confirm(f"Delete for good?{going}", abort=True)
        before = time.time() - days * 86_400 if days is not None else None
        count = manage.purge(store, task=found, tenant=tenant, before=before)
    typer.echo(f"{count:,} calls deleted.")
    if losing:
        typer.echo(f"Withdrawn, too: replacements of {names}, which rested on encoders tuned for what is gone.")


def exit_code(error: BaseException) -> int:
    """2 for bad input or usage, 1 for anything else."""
    return 2 if isinstance(error, CallLogError | ConfigError) else 1


def main() -> None:
    """Entry point: exits with 0 even if nothing was replaced."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # prompts may hold what the terminal's encoding does not have
            stream.reconfigure(errors="replace")
    sys.path.append("")  # as `python -m` has it, for functions that settings name; last, so that it hides nothing
    try:
        app()
    except JITRError as error:
        typer.echo(f"jitr: {error}", err=True)
        sys.exit(exit_code(error))
