"""The whole loop, once: real engine, real store, real training process, a recurring task and a teacher made for it."""

from __future__ import annotations

import json
import logging
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..engine import JITR
from ..equivalence import EXACT
from ..errors import ConfigError
from ..jobs import end_training
from ..own import imported
from ..promises import ANSWERED
from ..report.savings import task_savings
from ..savings import Price, Prices, Rates
from ..types import Answer, Call
from .check import Check
from .personal import KINDS

if TYPE_CHECKING:
    from ..config import Policy
    from ..store import Store

__all__ = ["rehearse"]

_SECRETS = dict(zip(KINDS, ("jitr.doctor@mail.example", "+1 202-555-0143", "4111 1111 1111 1111"), strict=True))
_HIDDEN = "[hidden]"
_WORDS = {"fruit": ("apple", "pear", "plum"), "tool": ("hammer", "saw", "drill")}
_FILLER = "the of my new old very big small good today again there which some other two three".split()
_LEARNT, _SERVED, _TURNED = 128, 40, 60  # calls before training, after it, and once the teacher answers otherwise
_PRICE = Price(2.0, 8.0, "made up")


def rehearse(
    beside: Path, policy: Policy, *, redact: str = "", secrets: Sequence[str] = (), timeout_s: float = 120.0
) -> Iterator[Check]:
    """Have a recurring task captured, stored, redacted, trained, answered, audited, rolled back and billed.

    Args:
        beside: folder of the user's state, or of what is to be one; the throwaway state lies in it or its parent.
        policy: the user's; what takes long or varies is left out of it.
        redact: name of the user's own redaction, `module:function`; "": one is made up.
        secrets: made-up texts that the user's own redaction must hide.
        timeout_s: most seconds to wait for the training process.

    Yields:
        A check for each step; after one that failed, the steps that rest on it are left out.
    """
    place = next(path for path in (beside.absolute(), *beside.absolute().parents) if path.is_dir())
    easy = replace(
        policy,
        target=0.9,
        delta=0.05,
        first_attempt=100,
        audit_share_start=1.0,
        families=("lexical",),
        approval="auto",
        shadow_calls=0,
        canary_calls=0,
        free_wording=False,
        ask_teacher=0,
        retention_days=None,
        promise=ANSWERED,
        equivalence=EXACT,
        horizon_days=None,
    )
    try:
        with tempfile.TemporaryDirectory(prefix=".jitr-doctor-", dir=place) as folder, _hushed():
            yield from _Rehearsal(Path(folder), easy, timeout_s, redact, secrets).run()
    except OSError as error:
        yield Check("storage", "fail", f"{place} cannot be written: {error}", "Make it writable, or set JITR_URL.")


@contextmanager
def _hushed() -> Iterator[None]:
    """Nothing is logged but errors: that a replacement is rolled back is what a rehearsal is about."""
    log = logging.getLogger("jitr")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


@dataclass(slots=True)
class _Rehearsal:
    folder: Path
    policy: Policy
    timeout_s: float
    redact: str
    own_secrets: Sequence[str]
    _asked: int = 0
    _read: list[BinaryIO] = field(default_factory=list)
    _random: random.Random = field(default_factory=lambda: random.Random(0))

    def run(self) -> Iterator[Check]:
        if self.redact and (broken := _broken_redaction(self.redact)):
            yield Check("redaction", "fail", broken, "Mend it: what it cannot redact is not observed.")
            return
        url = f"sqlite:///{self.folder / 'jitr.db'}"
        jitr = JITR(url, policy=self.policy, app="doctor", redact=self.redact or self._hide, seed=0)
        try:
            for step in (self._captured, self._redacted, self._trained, self._answered, self._audited, self._billed):
                check = step(jitr)
                yield check
                if check.verdict == "fail":
                    return
        finally:
            jitr.close()
            end_training(url)
            for file in self._read:
                file.close()

    def _serve(self, jitr: JITR, count: int, *, turned: bool = False) -> int:
        """Make calls as an app would; returns how many a replacement answered right."""
        right, secrets = 0, list(self._secrets.values())
        for _ in range(count):
            kind = self._random.choice(sorted(_WORDS))
            words = [*self._random.choices(_FILLER, k=6), self._random.choice(_WORDS[kind])]
            words.append(secrets[self._asked % len(secrets)])
            self._random.shuffle(words)
            messages = (("system", "Say what the text names: fruit or tool."), ("user", "Text: " + " ".join(words)))
            told = Answer(kind if not turned else next(k for k in sorted(_WORDS) if k != kind), "doctor", 30, 1)
            self._asked += 1
            call = Call(f"doctor-{self._asked}", messages, model="doctor")
            decision = jitr.decide(call)
            if decision.kind == "replacement":
                right += decision.answer == kind
                jitr.observe(call, decision, None)
                if decision.audit:
                    jitr.audit(call, decision, lambda told=told: told)  # type: ignore[misc]
            else:
                jitr.observe(call, decision, told)
        jitr.flush()
        return right

    def _captured(self, jitr: JITR) -> Check:
        self._serve(jitr, _LEARNT)
        store = jitr.open_store()
        tasks = store.tasks()
        stored = sum(1 for _ in store.observations())
        found = f"{stored} of {_LEARNT} calls stored, {len(tasks)} recurring task found"
        if stored == _LEARNT and len(tasks) == 1 and not jitr.faults:
            return Check("capture", "ok", found)
        return Check("capture", "fail", f"{found}; faults: {dict(jitr.faults)}", "The log says what failed first.")

    def _redacted(self, jitr: JITR) -> Check:
        # Closing a file gives up this process's locks on it, on POSIX systems, and with them SQLite's.
        self._read = [path.open("rb") for path in self.folder.glob("jitr.db*")]
        data = [file.read() for file in self._read]
        clear = [name for name, secret in self._secrets.items() if any(_stored(secret) in each for each in data)]
        hidden = [name for name in self._secrets if name not in clear]
        if not self.redact:
            if clear:
                fix = "Report this; stop JITR until it is mended."
                return Check("redaction", "fail", f"stored in clear: {', '.join(clear)}", fix)
            found = "a secret in every call is nowhere in the state, hidden by a redaction made up for this"
            return Check("redaction", "ok", found, "`redact` in jitr.toml names your own, which is tried then.")
        found = f"{self.redact} hides: {', '.join(hidden) or 'nothing'}"
        found += f"; stored in clear: {', '.join(clear)}" if clear else "; nothing of that is in the state"
        if not hidden or any(name not in _SECRETS for name in clear):
            fix = "Mend it; if it is to hide something else, give a made-up one: `jitr doctor --secret TEXT`."
            return Check("redaction", "fail", found, fix)
        return Check("redaction", "ok", found)

    @property
    def _secrets(self) -> Mapping[str, str]:
        """Made-up secrets by what they are called; each is in many calls."""
        return _SECRETS | {f"secret {i + 1}": secret for i, secret in enumerate(self.own_secrets)}

    def _hide(self, text: str) -> str:
        for secret in self._secrets.values():
            text = text.replace(secret, _HIDDEN)
        return text

    def _trained(self, jitr: JITR) -> Check:
        store, began = jitr.open_store(), time.monotonic()
        (task,) = store.tasks()
        while store.attempts(task.id) == 0 and time.monotonic() < began + self.timeout_s:
            time.sleep(0.1)
        release = store.active_release(task.id)
        if release is not None:
            size = release.certificate.calls
            took = time.monotonic() - began
            return Check(
                "training", "ok", f"a process of its own certified a replacement on {size} calls, in {took:.0f} s"
            )
        why = store.searches(task.id)[-1].refusal if store.attempts(task.id) else "the training process gave no answer"
        return Check("training", "fail", why, f"Run `jitr train`; see that {_python()} can import scikit-learn.")

    def _answered(self, jitr: JITR) -> Check:
        jitr.refresh()
        right = self._serve(jitr, _SERVED)
        found = f"{right} of {_SERVED} later calls answered by the replacement"
        if right > _SERVED // 2 and not jitr.faults:
            return Check("routing", "ok", found)
        return Check("routing", "fail", f"{found}; faults: {dict(jitr.faults)}", "The log says what failed first.")

    def _audited(self, jitr: JITR) -> Check:
        store = jitr.open_store()
        (task,) = store.tasks()
        audits = store.counts(task.id).audits
        self._serve(jitr, _TURNED, turned=True)
        gone = store.active_release(task.id) is None
        found = f"{audits} answers audited; rolled back when the teacher answered otherwise: {'yes' if gone else 'no'}"
        return Check("audits", "ok", found) if audits and gone else Check("audits", "fail", found, "Report this.")

    def _billed(self, jitr: JITR) -> Check:
        return _bill(jitr.open_store(), self._asked)


def _bill(store: Store, calls: int) -> Check:
    (savings,) = [each for task, each in task_savings(store, Prices(own=_PRICE), Rates()).items() if task is not None]
    cost, alone = savings.cost_usd, savings.cost_teacher_only_usd
    found = f"{savings.teacher_calls} calls to the teacher, {savings.audits} audits and a search billed"
    everything = savings.calls == calls and savings.audits > 0 and savings.fixed_usd > 0
    if everything and cost is not None and alone is not None and cost > 0 and alone > 0:
        return Check("costs", "ok", found)
    return Check(
        "costs", "fail", f"{found}, {cost} against {alone} US dollars for {savings.calls} calls", "Report this."
    )


def _stored(text: str) -> bytes:
    """A text as it would stand in a database."""
    return json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "replace")


def _broken_redaction(name: str) -> str:
    """Why the user's redaction cannot be used at all; "" if it can."""
    try:
        told = imported(name, "redaction")("Text: " + ", ".join(_SECRETS.values()))
    except ConfigError as error:
        return str(error)
    except Exception as error:
        return f"{name} raised {type(error).__name__}"
    return "" if isinstance(told, str) else f"{name} returned {type(told).__name__}, not a text"


def _python() -> str:
    import sys

    return sys.executable
