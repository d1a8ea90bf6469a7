"""The facade: one `JITR` a process watches calls, decides them, and keeps everything slow in the background."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from .config import DEFAULT_URL, Policy, absolute, state_exists
from .diary import Diary
from .equivalence import own_rule
from .errors import ConfigError
from .identify import Identifier
from .jobs import TrainingChild
from .observe import Auditor, Recorder
from .own import imported
from .route import Router
from .types import Answer, Call, Decision

if TYPE_CHECKING:
    from .background import Background, Event, Observed, Stage
    from .pipeline import Pipeline
    from .store import Store

__all__ = ["JITR", "default"]

_log = logging.getLogger("jitr")
_UNMADE: Any = object()
_default: JITR | None = _UNMADE
_default_lock = threading.Lock()
_engines: weakref.WeakSet[JITR] = weakref.WeakSet()


def default() -> JITR | None:
    """The process's own engine, made on first use as environment and files say (see `jitr_core.settings`).

    Returns:
        None if they switch JITR off, or cannot be used: that is logged, once, and the teacher serves.
    """
    global _default
    with _default_lock:
        if _default is _UNMADE:
            try:
                from .settings import load_settings

                settings = load_settings()
                if settings.disabled:
                    return None  # for now: the next one to ask may find it switched on
                _default = JITR(policy=settings.policy, **settings.engine)
            except Exception as error:
                _default = None
                _log.error("JITR steps aside, the teacher serves: %s", error)
    return _default


def _close_all() -> None:
    for engine in list(_engines):
        engine._close()


def _after_fork() -> None:
    for engine in list(_engines):
        engine._after_fork()
    if "multiprocessing.util" in sys.modules:  # its workers leave without running what is registered for exit
        sys.modules["multiprocessing.util"].Finalize(None, _close_all, exitpriority=100)


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _same(*settings: Any) -> JITR:
    """The engine of this process with these settings, see `JITR.__reduce__`."""
    url, policy, app, tenant, redact, training, seed = settings
    with _default_lock:
        for engine in _engines:
            if engine.__reduce__()[1] == settings:
                return engine
    return JITR(url, policy=policy, app=app, tenant=tenant, redact=redact, training=training, seed=seed)


class JITR:
    """Watches the calls of an app and answers recurring ones by certified replacements.

    Nothing it does can break or delay the app: a fault of its own is logged, counted in `faults`, and the teacher
    answers. All slow work happens in one background thread, training in a process of its own.

    Args:
        url: database with the state; default `sqlite:///.jitr/jitr.db`.
        policy: what is promised, see `Policy`.
        app: name of the application; tasks never span applications.
        tenant: default tenant of its calls; tasks never span tenants.
        redact: applied to every text before JITR looks at, stores or learns from it; where it raises, the call is
            not observed. A function, or its name as settings have it, `module:function`.
        equivalence: the user's own rule for free text: whether an answer, the first argument, counts as the teacher's,
            the second. Takes the place of `Policy.equivalence`; a module must hold it that the training process can
            import.
        training: where searches run: "process" (a child process, the default), "inline" (in the thread that
            observes, which then waits) or "off" (only `jitr train` trains).
        seed: makes audits, splits and training repeatable; None takes audits from the system's entropy.
        listener: told of every event and decision, for reports; must not raise.

    Raises:
        ConfigError: an argument cannot be used.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        policy: Policy | None = None,
        app: str = "default",
        tenant: str = "",
        redact: Callable[[str], str] | str | None = None,
        equivalence: Callable[[str, str], bool] | None = None,
        training: Literal["process", "inline", "off"] = "process",
        seed: int | None = None,
        listener: Callable[[Event], None] | None = None,
    ) -> None:
        if training not in ("process", "inline", "off"):
            raise ConfigError(f"training must be process, inline or off, got {training!r}.")
        backend, _, path = url.partition(":///")
        if not backend.startswith("sqlite") or path in ("", ":memory:"):
            raise ConfigError(
                f"{url!r} does not name an SQLite file.", hint="Write for example sqlite:///.jitr/jitr.db"
            )
        self.url = absolute(url)  # the app may change its working folder
        self.policy, self.app, self.tenant = policy or Policy(), app, tenant
        if equivalence is not None:
            rule = own_rule(equivalence, elsewhere=training == "process")
            self.policy = dataclasses.replace(self.policy, equivalence=rule)
        self._redact: Callable[[str], str] | None = imported(redact, "redaction") if isinstance(redact, str) else redact
        self._diary = Diary(app, tenant, self.policy, self._redact)
        self.faults = self._diary.faults
        self._training, self._seed, self._listener = training, seed, listener
        self._identifier = Identifier(min_calls=self.policy.min_calls)
        self._router = Router(time.perf_counter, self.fault)
        self._background: Background | None = None
        self._aside = False
        inline = training == "inline"
        self._recorder: Recorder[Observed] = Recorder(
            self._process, self.fault, batch=16 if inline else 256, threaded=not inline
        )
        self._audits = Auditor(threaded=not inline)
        self._router.down = lambda: self._audits.failing
        self._opening = threading.Lock()
        _engines.add(self)
        if not inline and state_exists(self.url):
            self._recorder.start()  # load what is already known before the first call needs it

    def __deepcopy__(self, memo: dict[int, Any]) -> JITR:
        """Itself: there is one engine, however often a chain is copied."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Unpickled as the engine of its process for the same state: threads and databases do not travel."""
        settings = (self.url, self.policy, self.app, self.tenant, self._redact, self._training, self._seed)
        return _same, settings

    # ---- hot path -----------------------------------------------------------------------------------------------

    def decide(self, call: Call) -> Decision:
        """Decide who answers a call; never raises, takes microseconds while the teacher answers.

        The call is completed in place: app, tenant, time, and its texts redacted.
        """
        try:
            call.app, call.tenant = self.app, call.tenant or self.tenant
            call.time = call.time or time.time()
            if self._redact is not None:
                call.messages = tuple((role, self._redact(text)) for role, text in call.messages)
            match = self._identifier.match(call)
            if match is None:
                decision = Decision("teacher", "no_task")
            elif not call.replaceable or (call.observe_only and match.task in self._router.blocking):
                decision = Decision("teacher", "no_release", match)
            else:
                decision = self._router.decide(match)
                if call.observe_only and decision.kind == "replacement":
                    decision.kind, decision.reason = "teacher", "shadow"
        except Exception as error:
            self.fault("decide", error)
            call.messages = () if self._redact is not None else call.messages
            decision = Decision("teacher", "fallback")
        if self._listener is not None:
            self._listener({"kind": "decision", "call": call, "decision": decision})
        return decision

    def observe(
        self, call: Call, decision: Decision, answer: Answer | None, ask: Callable[[str], Answer] | None = None
    ) -> None:
        """Queue what came of a call for the background; never raises, takes about a microsecond.

        Args:
            call: as given to `decide`.
            decision: what `decide` returned.
            answer: the teacher's answer; None if the teacher was not asked.
            ask: puts a question of JITR's own to the teacher, see `Policy.ask_teacher`.
        """
        if not (decision.kind == "replacement" and decision.audit):  # else observed by `audit`
            self._record(call, decision, answer, ask)

    def audit(self, call: Call, decision: Decision, ask: Callable[[], Answer]) -> None:
        """Observe a replaced call, and have the teacher answer it too, in the background; never raises.

        Args:
            call: as given to `decide`.
            decision: a replacement's, with `audit` drawn.
            ask: asks the teacher; not called where the answer may not be stored.
        """
        if not call.storable:
            return
        self._record(call, decision, None, stage="pending")

        def compare() -> None:
            try:
                answer = ask()
            except Exception as error:
                self.fault("audit", error)
                raise  # it is tried again when the teacher is back
            self._record(call, decision, answer, stage="audited")

        def give_up() -> None:
            # The coin fell, but there is no label: the call counts as answered and not audited.
            self._record(call, decision, None, stage="audited")

        self._audits.put(compare, give_up)

    def _record(
        self,
        call: Call,
        decision: Decision,
        answer: Answer | None,
        ask: Callable[[str], Answer] | None = None,
        stage: Stage = "decided",
    ) -> None:
        from .background import Observed

        try:
            if self._aside or not call.messages or not call.storable:
                return
            if answer is not None and self._redact is not None:
                answer = dataclasses.replace(answer, text=self._redact(answer.text))
            self._recorder.put(Observed(call, decision, answer, ask, stage))
        except Exception as error:
            self.fault("observe", error)

    @property
    def blocking(self) -> bool:
        """Whether a replacement in service may take so long that an event loop must not wait for `decide`."""
        return bool(self._router.blocking)

    def fault(self, where: str, error: BaseException) -> None:
        """Count a fault of JITR's own, and log the first one of each kind."""
        self._diary.fault(where, error)

    # ---- background ---------------------------------------------------------------------------------------------

    def _process(self, batch: list[Observed]) -> None:
        if self._aside:
            return
        try:
            background = self._open()
        except Exception as error:
            self._aside = True  # a state that cannot be opened now is not tried again in this process
            self.fault("store", error)
            return
        try:
            background.process(batch)
            self._diary.keep(background.store, calls=len(batch))
        except Exception:
            background.stand_down()
            raise

    def _open(self) -> Background:
        with self._opening:
            if self._background is None:
                self._background = self._start()
        return self._background

    def _start(self) -> Background:
        from . import manage
        from .background import Background
        from .earlier import withdraw_orphans
        from .store import Store

        store = Store(self.url)
        pipeline = manage.pipeline(store, self.policy, self.url, seed=self._seed or 0)
        pipeline.progress = lambda what, share: self._emit({"kind": "searching", "what": what, "share": share})
        background = Background(
            store=store,
            policy=self.policy,
            app=self.app,
            identifier=self._identifier,
            router=self._router,
            pipeline=pipeline,
            attempt=self._attempter(pipeline),
            emit=self._emit,
            fault=self.fault,
            seed=self._seed,
            aside=self._audits.put,
        )
        withdraw_orphans(store, pipeline.folder)  # they must not serve for a moment
        background.recall()
        background.refresh()
        background.remember()
        return background

    def _attempter(self, pipeline: Pipeline) -> Callable[[str], None]:
        if self._training == "inline":

            def attempt(task: str) -> None:
                report = pipeline.run(task)
                if report is not None:
                    self._emit({"kind": "search", "task": task, "report": report})

            return attempt
        if self._training == "process":
            child = TrainingChild(self.url, self.policy, self._seed, self.app)
            return lambda task: child.start()
        return lambda task: None

    def _emit(self, event: Event) -> None:
        if self._listener is not None:
            self._listener(event)

    def flush(self) -> None:
        """Wait until everything observed so far is stored and taken into account, audits included."""
        self._audits.join()
        self._recorder.flush()

    def refresh(self) -> None:
        """Take over at once what other processes or `jitr` commands changed; else it takes about half a second.

        At the start of a process it returns when tasks and releases are loaded: until then the teacher answers.
        """
        self._recorder.flush(force=True)

    def close(self) -> None:
        """Store what is queued and stop observing; calls go on to the teacher.

        At exit it is called by itself, without waiting for audits: those not made yet are given up.
        """
        self._audits.join()
        self._close()

    def _close(self) -> None:
        self._audits.give_up()
        self._recorder.close()
        if self._background is not None:
            with contextlib.suppress(Exception):  # a state that was deleted, say
                self._diary.keep(self._background.store, last=True)
            self._background.close()

    def _after_fork(self) -> None:
        """New locks and threads for a forked child: the parent's may be held, and its work is the parent's."""
        self._opening = threading.Lock()
        self._audits.reset()
        self._router.after_fork()
        if self._identifier.meaning is not None:
            self._identifier.meaning.after_fork()

    def inference_seconds(self) -> float:
        """Seconds this process has spent asking students, deferred calls included."""
        return self._router.seconds

    def open_store(self) -> Store:
        """The state, for looking and for `jitr_core.manage`.

        Raises:
            StoreError: it cannot be opened.
        """
        return self._open().store
