"""The `jitr` command. Heavy modules are imported by the commands that need them."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .config import state_folder
from .equivalence import EXACT, RULES
from .errors import CallLogError, ConfigError, JITRError
from .settings import configured_url, load_settings

if TYPE_CHECKING:
    from .store import Store

__all__ = ["app", "exit_code", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="JITR: recurring LLM calls answered by small models that are certified to agree.",
)

tasks_app = typer.Typer(invoke_without_command=True, pretty_exceptions_enable=False)
app.add_typer(tasks_app, name="tasks")

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


def _open(url: str) -> Store:
    from .store import Store

    if not (state_folder(url) / "jitr.db").exists() and url.startswith("sqlite"):
        raise ConfigError(f"there is no state at {url}.", hint="Run your app first, or give --url.")
    return Store(url)


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
    calls_per_day: Annotated[float | None, typer.Option(help="Traffic, to date the break-even.")] = None,
    families: Annotated[str | None, typer.Option(help="Candidate families, separated by commas.")] = None,
    equivalence: Annotated[str, typer.Option(help=f"When a free text counts as the LLM's: {RULES}.")] = EXACT,
    generators: Annotated[str, typer.Option(help="Base models to tune text generators of, by commas.")] = "",
) -> None:
    """What would JITR have saved on these calls? Nothing is sent anywhere."""
    from jitr_langchain.run import run_replay

    from .config import FAMILIES, Policy

    names = tuple(families.split(",")) if families else FAMILIES
    bases = tuple(filter(None, generators.split(",")))
    policy = Policy(target=target, delta=delta, families=names, equivalence=equivalence, generators=bases)
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

    from .config import Policy
    from .demo import calls_path

    typer.echo("This call log is synthetic: written for JITR, with 3% teacher noise and ambiguous inputs.")
    run_replay([calls_path()], policy=Policy(), seed=seed, compute_usd_per_hour=0.05, calls_per_day=10_000)
    typer.echo("Next, on your own log: .venv/bin/jitr replay YOUR_CALLS.jsonl   (the README shows the format)")


@app.command()
def identify(
    calls: Calls,
    out: Annotated[Path, typer.Option(help="Write one line a call here: id, task, final_task.")],
    free_wording: Annotated[bool, typer.Option(help="Look for tasks asked in ever different words, too.")] = False,
) -> None:
    """Which recurring task does each call of a log belong to? What was known when it came, and after the whole log."""
    from .calllog import call_of, count_calls, read_calls
    from .files import written
    from .identify import Identifier, identify_stream

    count_calls(calls)
    identifier = Identifier()
    if free_wording:
        from .freely import offline

        identifier.meaning = offline()
    ids = [record.id for record in read_calls(calls)]
    stream = (call_of(record, str(i)) for i, record in enumerate(read_calls(calls)))
    answers = (record.answer for record in read_calls(calls))
    found: set[str] = set()
    with written(out) as file:
        for call_id, each in zip(ids, identify_stream(stream, identifier, answers=answers), strict=True):
            line = {"id": call_id, "task": each.task, "final_task": each.final_task}
            file.write(json.dumps(line) + "\n")
            found |= {each.final_task} if each.final_task else set()
    typer.echo(f"{len(ids):,} calls, {len(found):,} recurring tasks: {out}")


@tasks_app.callback()
def tasks(
    context: typer.Context,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the tasks found, what serves them and why; or decide about them."""
    if context.invoked_subcommand is not None:
        source = context.get_parameter_source("url")
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError("--url stands before the command.", hint=f"Write it after {context.invoked_subcommand}.")
        return
    with _open(url) as store:
        if as_json:
            from .report.facts import task_facts

            typer.echo(json.dumps(task_facts(store), ensure_ascii=False, indent=2))
            return
        from .report.tasks import show_tasks

        show_tasks(store)


@tasks_app.command("show")
def show(task: TaskName, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Say all there is to say of one task: templates, examples, answers, state and why."""
    from . import manage
    from .report.facts import task_facts
    from .report.tasks import show_task

    with _open(url) as store:
        found = manage.find_task(store, task)
        if as_json:
            typer.echo(json.dumps(task_facts(store, found)[0], ensure_ascii=False, indent=2))
        else:
            show_task(store, found)


@tasks_app.command("merge")
def merge(tasks: Annotated[list[str], typer.Argument(metavar="TASK…")], url: Url = DEFAULT_URL) -> None:
    """Make one task of several that do the same job; the oldest survives."""
    from . import manage

    with _open(url) as store:
        survivor = manage.merge(store, [manage.find_task(store, task) for task in tasks])
    typer.echo(f"{survivor.name}: merged, as {survivor.id}.")


@tasks_app.command("split")
def split(
    task: TaskName,
    templates: Annotated[list[str], typer.Argument(metavar="TEMPLATE…", help="Ids, see `jitr tasks show TASK`.")],
    name: Annotated[str | None, typer.Option(help="What to call the new task.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Make some templates of a task a task of their own."""
    from . import manage

    with _open(url) as store:
        found = manage.find_task(store, task)
        new = manage.split(store, found, templates, name)
    typer.echo(f"{new.name}: split off {found.name}, as {new.id}.")


@tasks_app.command("rename")
def rename(task: TaskName, name: str, url: Url = DEFAULT_URL) -> None:
    """Call a task something else."""
    from . import manage

    with _open(url) as store:
        found = manage.find_task(store, task)
        manage.rename(store, found, name)
    typer.echo(f"{found.id}: renamed.")


@tasks_app.command("ignore")
def ignore(task: TaskName, url: Url = DEFAULT_URL) -> None:
    """Leave a task alone: never searched, never replaced; its calls are still counted."""
    from . import manage

    with _open(url) as store:
        found = manage.find_task(store, task)
        manage.ignore(store, found)
    typer.echo(f"{found.name}: ignored. `jitr tasks unignore {found.id}` ends it.")


@tasks_app.command("unignore")
def unignore(task: TaskName, url: Url = DEFAULT_URL) -> None:
    """End `ignore`."""
    from . import manage

    with _open(url) as store:
        found = manage.find_task(store, task)
        manage.unignore(store, found)
    typer.echo(f"{found.name}: no longer ignored.")


@tasks_app.command("compare")
def compare(task: TaskName, rule: Annotated[str, typer.Argument(help=RULES)], url: Url = DEFAULT_URL) -> None:
    """Say when an answer of a task counts as the LLM's."""
    from . import manage

    with _open(url) as store:
        found = manage.find_task(store, task)
        manage.compare_by(store, found, rule)
    typer.echo(f"{found.name}: its answers are compared by {rule}.")


@tasks_app.command("declare")
def declare(
    name: str,
    template: Annotated[str | None, typer.Option(help="The user's message, {input} where the input stands.")] = None,
    system: Annotated[str | None, typer.Option(help="The system message before it.")] = None,
    step: Annotated[str, typer.Option(help="Only calls of this step; alone: all of them.")] = "",
    application: Annotated[str, typer.Option("--app", help="The application.")] = "default",
    tenant: Annotated[str, typer.Option(help="The tenant.")] = "",
    url: Url = DEFAULT_URL,
) -> None:
    """Make a task known before its first call."""
    from . import manage
    from .store import Store

    if system is not None and template is None:
        raise ConfigError("--system needs a --template.")
    messages = [(role, text) for role, text in (("system", system), ("user", template)) if text is not None]
    with Store(url) as store:  # possibly before the app's first run
        task = manage.declare(store, name, messages=messages, step=step, app=application, tenant=tenant)
        calls = store.call_count(task.id)
    typer.echo(f"{task.name}: declared, as {task.id}; {calls:,} earlier calls are its own.")


@app.command()
def savings(
    url: Url = DEFAULT_URL,
    price_model: PriceModel = None,
    compute_usd_per_hour: ComputePrice = 0.05,
) -> None:
    """What a running app has saved so far: money and energy, each task and all."""
    from .report.savings import show_savings
    from .savings import Rates, checked_prices

    prices = checked_prices(price_model)
    with _open(url) as store:
        show_savings(store, prices, Rates(compute_usd_per_hour=compute_usd_per_hour))


@app.command()
def pause(task: TaskName, url: Url = DEFAULT_URL) -> None:
    """Veto a task: the teacher answers it, nothing is trained for it."""
    from . import manage

    with _open(url) as store:
        found = manage.find_task(store, task)
        manage.pause(store, found)
    ends = f"jitr tasks unignore {found.id}" if found.ignored else f"jitr resume {found.id}"
    typer.echo(f"{found.name}: paused. The teacher answers; `{ends}` ends it.")


@app.command()
def resume(task: TaskName, url: Url = DEFAULT_URL) -> None:
    """End a pause."""
    from . import manage

    with _open(url) as store:
        found = manage.find_task(store, task)
        manage.resume(store, found)
    typer.echo(f"{found.name}: resumed.")


@app.command()
def rollback(task: TaskName, url: Url = DEFAULT_URL) -> None:
    """Withdraw a task's replacement: the one before it serves again, or the teacher."""
    from . import manage

    with _open(url) as store:
        found = manage.find_task(store, task)
        serves = manage.rollback(store, found)
    typer.echo(f"{found.name}: rolled back, served by {serves}. `jitr pause {found.id}` keeps it from coming back.")


@app.command()
def train(
    task: Annotated[str | None, typer.Argument(help="Attempt this task now, due or not.")] = None,
    url: Url = DEFAULT_URL,
    policy: Annotated[str | None, typer.Option(help="The policy as JSON, as a running app gives it.")] = None,
    seed: Seed = 0,
) -> None:
    """Make the attempts that are due, and exit."""
    from . import manage
    from .jobs import policy_from_json
    from .report.tasks import show_attempt

    with _open(url) as store:
        pipeline = manage.pipeline(
            store, policy_from_json(policy) if policy else load_settings().policy, url, seed=seed
        )
        found = manage.find_task(store, task) if task else None
        attempted = 0
        for each, report in manage.train(pipeline, found):
            attempted += report is not None
            show_attempt(each, report)
    if not attempted:
        typer.echo("Nothing was due.")


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
    from . import manage

    if task is None and tenant is None and days is None and not everything:
        raise ConfigError("say what to purge.", hint="Give --task, --tenant, --days or --all.")
    if everything and (task is not None or tenant is not None or days is not None):
        raise ConfigError("--all deletes everything.", hint="Leave out --task, --tenant and --days, or --all.")
    with _open(url) as store:
        found = manage.find_task(store, task) if task else None
        if not yes:
            typer.confirm("Delete for good?", abort=True)
        before = time.time() - days * 86_400 if days is not None else None
        count = manage.purge(store, task=found, tenant=tenant, before=before)
    typer.echo(f"{count:,} calls deleted.")


def exit_code(error: BaseException) -> int:
    """2 for bad input or usage, 1 for anything else."""
    return 2 if isinstance(error, CallLogError | ConfigError) else 1


def main() -> None:
    """Entry point: exits with 0 even if nothing was replaced."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # prompts may hold what the terminal's encoding does not have
            stream.reconfigure(errors="replace")
    try:
        app()
    except JITRError as error:
        typer.echo(f"jitr: {error}", err=True)
        sys.exit(exit_code(error))


if __name__ == "__main__":
    main()
