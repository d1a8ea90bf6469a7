"""`jitr tasks`: what was found, and what the user decides about it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..equivalence import RULES
from ..errors import ConfigError
from ..promises import PROMISES, promised
from .options import DEFAULT_URL, AsJson, TaskName, Url, open_state, refuse_early_url

__all__ = ["tasks_app"]

tasks_app = typer.Typer(invoke_without_command=True, pretty_exceptions_enable=False)


@tasks_app.callback()
def tasks(
    context: typer.Context,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the tasks found, what serves them and why; or decide about them."""
    if context.invoked_subcommand is not None:
        refuse_early_url(context)
        return
    with open_state(url) as store:
        if as_json:
            from ..report.facts import task_facts

            typer.echo(json.dumps(task_facts(store), ensure_ascii=False, indent=2))
            return
        from ..report.tasks import show_tasks

        show_tasks(store)


@tasks_app.command("show")
def show(task: TaskName, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Say all there is to say of one task: templates, examples, answers, state and why."""
    from .. import manage
    from ..report.facts import task_facts
    from ..report.tasks import show_task

    with open_state(url) as store:
        found = manage.find_task(store, task)
        if as_json:
            typer.echo(json.dumps(task_facts(store, found)[0], ensure_ascii=False, indent=2))
        else:
            show_task(store, found)


@tasks_app.command("unplaced")
def unplaced(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Say what the calls that belong to no task have in common, and how to make a task of them."""
    from ..report.unplaced import show_unplaced, unplaced_facts

    with open_state(url) as store:
        if as_json:
            typer.echo(json.dumps(unplaced_facts(store), ensure_ascii=False, indent=2))
        else:
            show_unplaced(store)


@tasks_app.command("merge")
def merge(tasks: Annotated[list[str], typer.Argument(metavar="TASK…")], url: Url = DEFAULT_URL) -> None:
    """Make one task of several that do the same job; the oldest survives."""
    from .. import manage

    with open_state(url) as store:
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
    from .. import manage

    with open_state(url) as store:
        found = manage.find_task(store, task)
        new = manage.split(store, found, templates, name)
    typer.echo(f"{new.name}: split off {found.name}, as {new.id}.")


@tasks_app.command("rename")
def rename(task: TaskName, name: str, url: Url = DEFAULT_URL) -> None:
    """Call a task something else."""
    from .. import manage

    with open_state(url) as store:
        found = manage.find_task(store, task)
        manage.rename(store, found, name)
    typer.echo(f"{found.id}: renamed.")


@tasks_app.command("ignore")
def ignore(task: TaskName, url: Url = DEFAULT_URL) -> None:
    """Leave a task alone: never searched, never replaced; its calls are still counted."""
    from .. import manage

    with open_state(url) as store:
        found = manage.find_task(store, task)
        manage.ignore(store, found)
    typer.echo(f"{found.name}: ignored. `jitr tasks unignore {found.id}` ends it.")


@tasks_app.command("unignore")
def unignore(task: TaskName, url: Url = DEFAULT_URL) -> None:
    """End `ignore`."""
    from .. import manage

    with open_state(url) as store:
        found = manage.find_task(store, task)
        manage.unignore(store, found)
    typer.echo(f"{found.name}: no longer ignored.")


@tasks_app.command("compare")
def compare(task: TaskName, rule: Annotated[str, typer.Argument(help=RULES)], url: Url = DEFAULT_URL) -> None:
    """Say when an answer of a task counts as the LLM's."""
    from .. import manage

    with open_state(url) as store:
        found = manage.find_task(store, task)
        manage.compare_by(store, found, rule)
    typer.echo(f"{found.name}: its answers are compared by {rule}.")


@tasks_app.command("promise")
def promise(task: TaskName, text: Annotated[str, typer.Argument(help=PROMISES)], url: Url = DEFAULT_URL) -> None:
    """Say what is promised of a task's answers."""
    from .. import manage

    with open_state(url) as store:
        found = manage.find_task(store, task)
        doubt = manage.promise_by(store, found, text)
    typer.echo(f"{found.name}: promised is {promised(text)}.")
    if doubt:
        typer.echo(f"Warning: {doubt}. It counts all the same, should such an answer come.", err=True)


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
    from .. import manage
    from ..store import Store

    if system is not None and template is None:
        raise ConfigError("--system needs a --template.")
    messages = [(role, text) for role, text in (("system", system), ("user", template)) if text is not None]
    with Store(url) as store:  # possibly before the app's first run
        task = manage.declare(store, name, messages=messages, step=step, app=application, tenant=tenant)
        calls = store.counts(task.id).calls
    typer.echo(f"{task.name}: declared, as {task.id}; {calls:,} earlier calls are its own.")
