"""Which policy counts for a task where a command looks or acts: what is set here, else what its app works with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from .config import Policy
from .equivalence import OWN
from .errors import JITRError

if TYPE_CHECKING:
    from .settings import Settings
    from .store import Store
    from .types import Task

__all__ = ["Policies", "in_words", "misfit", "noted"]

# A state may be read on another machine, and none may say that something is fetched: that is allowed here or nowhere.
_OF_THE_MACHINE = ("cache_dir", "download", "search_memory_mb", "serving_memory_mb")
_SHARED = {each.name: each.default for each in fields(Policy) if each.name not in _OF_THE_MACHINE}
_HINTS = get_type_hints(Policy)


def noted(policy: Policy) -> dict[str, Any]:
    """What an engine notes of its policy in the ledger: settings other than the defaults, as JSON values.

    Example:
        >>> noted(Policy(target=0.9, families=("lexical",), cache_dir="here"))
        {'target': 0.9, 'families': ['lexical']}
    """
    found = {name: getattr(policy, name) for name in _SHARED}
    return {name: _plain(value) for name, value in found.items() if value != _SHARED[name]}


def _plain(value: Any) -> Any:
    """A value as JSON has it: an app may give a set of families, or folders as paths."""
    if isinstance(value, (tuple, list, set, frozenset)):
        return [str(each) for each in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    plain = value is None or isinstance(value, (str, int, float)) or hasattr(value, "item")  # numpy's numbers
    return value if plain else str(value)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that a setting has: what a state says was written by another program."""
    if get_args(hint) == (str, ...):
        return isinstance(value, tuple) and all(isinstance(each, str) for each in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int in (hint, *get_args(hint)) or float in (hint, *get_args(hint))
    return type(value) in (hint, *get_args(hint))


def misfit(values: Mapping[str, Any]) -> str:
    """What of these values no policy has, by name or by type; "" if nothing. Ranges are not looked at.

    Example:
        >>> misfit({"target": "high"}), misfit({"goal": 1}), misfit({"target": 0.9})
        ("target is 'high'", "there is no setting 'goal'", '')
    """
    for name, value in values.items():
        if name not in _HINTS:
            return f"there is no setting {name!r}"
        if not _fits(value, _HINTS[name]):
            return f"{name} is {value!r}"
    return ""


def in_words(policy: Policy) -> str:
    """The settings of a policy that a reader asks for first.

    Example:
        >>> in_words(Policy())
        'target 0.95, delta 0.05, promise answered, approval auto'
    """
    rule = "" if policy.equivalence == "exact" else f", equivalence {policy.equivalence}"
    return (
        f"target {policy.target:g}, delta {policy.delta:g}, promise {policy.promise}{rule}, approval {policy.approval}"
    )


class Policies:
    """The policies of the apps of a state, as far as the settings here do not say otherwise.

    Args:
        store: the state.
        settings: what environment and files say here.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._here = settings
        # The latest engine of an app counts, for a tenant the latest one that was made for it; None is any tenant.
        self._noted: dict[tuple[str, str | None], dict[str, Any]] = {}
        for entry in store.ledger(kind="engine"):
            app, tenant, told = (entry.details.get(name, "") for name in ("app", "tenant", "policy"))
            if isinstance(told, dict) and isinstance(app, str) and isinstance(tenant, str):
                known = {name: each for name, each in told.items() if name in _SHARED}
                self._noted[app, None] = self._noted[app, tenant] = _from_json(known)

    def of(self, app: str, tenant: str = "") -> Policy:
        """The policy that counts here for the tasks of an app."""
        told = self._told(app, tenant)
        if self.unusable(app, tenant):
            return self._here.policy
        return replace(self._here.policy, **{name: told[name] for name in told.keys() - self._here.places.keys()})

    def at_work(self, app: str, tenant: str = "") -> Policy | None:
        """What an app works with, whatever is set here; None where it is not known, as before its first call."""
        if self._owner(app, tenant) not in self._noted or self.unusable(app, tenant):
            return None
        return Policy(**self._told(app, tenant))

    def is_others(self, task: Task, policy: Policy) -> bool:
        """Whether a task is of a tenant whose own engine works with another policy than this one."""
        told = self._noted.get((task.app, task.tenant)) if task.tenant else None
        return told is not None and told != _from_json(noted(policy))

    def unusable(self, app: str, tenant: str = "") -> str:
        """Why what an app noted cannot be used here, as of another version or for want of an extra; "" if it can."""
        told = self._told(app, tenant)
        if wrong := misfit(told):
            return wrong
        try:
            Policy(**told)
        except JITRError as error:
            return str(error)
        return ""

    def whose(self, app: str, tenant: str = "") -> str:
        """Whose word that policy is, for readers; what is set here other than the app has it is named.

        Example: `as app “shop” works`; `as app “shop” works, but for target: 0.9 by JITR_TARGET, not 0.97`.
        """
        if self._owner(app, tenant) not in self._noted:
            return "as settings and defaults say"
        if why := self.unusable(app, tenant):
            return f"as settings and defaults say: what app “{app}” works with cannot be used here: {why.rstrip('.')}"
        but = self.set_otherwise(app, tenant)
        if self._compares_by_code(app, tenant) and "equivalence" not in self._here.places:
            but.append("equivalence: a function, which no state may name: set JITR_EQUIVALENCE to the same")
        own = self._owner(app, tenant)[1]
        works = f"as app “{app}” works" + (f" for tenant “{own}”" if own else "")
        return works + (f", but for {'; '.join(but)}" if but else "")

    def set_otherwise(self, app: str, tenant: str = "") -> list[str]:
        """What is set here in another way than the app has it, each for readers."""
        told = self._noted.get(self._owner(app, tenant))
        return [
            f"{name}: {here!r} by {self._here.places[name]}, not {own!r}"
            for name, default in _SHARED.items()
            if name in self._here.places
            and told is not None
            and (here := getattr(self._here.policy, name)) != (own := told.get(name, default))
        ]

    def owners(self) -> list[tuple[str, str]]:
        """The apps that noted a policy, with tenant "", and those of their tenants that have another one."""
        apps = [(app, "") for app in sorted({app for app, _ in self._noted})]
        tenants = sorted((app, tenant) for app, tenant in self._noted if tenant)
        return apps + [each for each in tenants if self._noted[each] != self._noted[self._owner(each[0], "")]]

    def groups(self, tasks: Iterable[Task]) -> Iterator[tuple[Policy, str, list[Task]]]:
        """Yields tasks that are searched by one policy, with that and a line on it for readers."""
        found: dict[tuple[Policy, str], list[Task]] = {}
        for task in tasks:
            owner = task.app, task.tenant
            policy = self.of(*owner)
            line = f"By {in_words(policy)}, {self.whose(*owner)}."
            found.setdefault((policy, line), []).append(task)
        for (policy, line), some in found.items():
            yield policy, line, some

    def _owner(self, app: str, tenant: str) -> tuple[str, str | None]:
        return next(((app, each) for each in (tenant, "") if (app, each) in self._noted), (app, None))

    def _told(self, app: str, tenant: str) -> dict[str, Any]:
        """What an app noted, but for the name of a function."""
        told = self._noted.get(self._owner(app, tenant), {})
        code = self._compares_by_code(app, tenant)
        return {name: each for name, each in told.items() if not (code and name == "equivalence")}

    def _compares_by_code(self, app: str, tenant: str) -> bool:
        """Whether an app has a rule of its own: a function, which settings may name, but never a state."""
        return str(self._noted.get(self._owner(app, tenant), {}).get("equivalence")).startswith(OWN)


def _from_json(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(each) if isinstance(each, list) else each for name, each in values.items()}
