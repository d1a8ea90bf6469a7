"""Opening the database: connections, transactions, migrations, and what its errors mean."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ..errors import ConfigError, StoreError
from .schema import REVISIONS, counters

__all__ = ["BUSY_TIMEOUT_S", "Database"]

BUSY_TIMEOUT_S = 30.0
"""How long, in seconds, a writer waits for another process's transaction."""

_ABANDONED: list[object] = []
"""Connection pools inherited by a fork: SQLite forbids even closing them in the child, so they are kept from the
garbage collector."""

_OPEN: weakref.WeakSet[Database] = weakref.WeakSet()

_OWN = {"alembic_version", "observations"}

_BUMP = counters.update().where(counters.c.name == "version").values(value=counters.c.value + 1)

_MEANINGS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("not a database", "malformed", "encrypted"),
        "is damaged or no SQLite database",
        "Restore a copy, or move it away: JITR then starts afresh and learns again.",
    ),
    (("locked", "busy"), "stayed locked by another process", "Find the process that holds it open, and try again."),
    (
        ("unable to open", "readonly", "read-only", "permission"),
        "cannot be opened for writing",
        "Make the file and its folder writable, or choose another place with url=.",
    ),
    (("full", "disk i/o"), "cannot be written", "Check the space left on the disk, and its health."),
)


def _explained(error: Exception, where: str) -> StoreError:
    cause = str(getattr(error, "orig", None) or error)
    for words, what, hint in _MEANINGS:
        if any(word in cause.lower() for word in words):
            return StoreError(f"The database {where} {what} ({cause}).", hint=hint)
    return StoreError(f"The database {where} failed: {cause}.")


def _parsed(url: str) -> tuple[URL, Path]:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError(f"url {url!r} is no database URL.", hint="Write sqlite:///folder/jitr.db.") from error
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise ConfigError(f"url {url!r} does not name an SQLite file.", hint="Write sqlite:///folder/jitr.db.")
    return parsed, Path(parsed.database)


def _prepare(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver would begin deferred transactions of its own, and lose writes
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")
    cursor.execute("PRAGMA synchronous=NORMAL")  # with WAL, only a crash of the machine can cost the last commits
    cursor.execute("PRAGMA secure_delete=ON")  # what is purged is overwritten
    cursor.close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("jitr_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


class Database:
    """Connections and transactions to one SQLite file that is at the latest revision.

    Args:
        url: `sqlite:///path`; the folder is created.
        clock: seconds since the epoch.

    Raises:
        ConfigError: the URL does not name an SQLite file.
        StoreError: the file is damaged, no JITR database, of a newer version, or cannot be written.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        parsed, self.path = _parsed(url)
        self.clock = clock
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"The folder {self.path.parent} cannot be made ({error}).", hint="Choose another place with url=."
            ) from error
        self._folder = self.path.parent.resolve()
        self._engine = create_engine(parsed)
        event.listen(self._engine, "connect", _prepare)
        event.listen(self._engine, "begin", _begin)
        self._writer: Engine = self._engine.execution_options(jitr_write=True)
        _OPEN.add(self)
        try:
            self._use_wal()
            self._migrate()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads: one consistent snapshot."""
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self, *, notify: bool = False) -> Iterator[Connection]:
        """A transaction that holds the write lock from its start; `notify` makes other processes look again."""
        with self._translated(), self._writer.begin() as connection:
            yield connection
            if notify:
                connection.execute(_BUMP)

    def stored_path(self, path: str) -> str:
        """A path as it is stored: relative to the database's folder if it lies there, so that the two move together."""
        try:
            return Path(path).resolve().relative_to(self._folder).as_posix()
        except ValueError:
            return path

    def found_path(self, stored: str) -> str:
        """The path, absolute, of which `stored_path` made this."""
        return str(self._folder / stored)

    def checkpoint(self) -> None:
        """Moves everything from the write-ahead log into the file, as far as readers allow."""
        with self._raw() as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Closes all connections; the object opens new ones when used again."""
        self._engine.dispose()

    def abandon(self) -> None:
        """Forgets the connections of the parent process without touching them, after a fork."""
        _ABANDONED.append(self._engine.pool)
        self._engine.dispose(close=False)

    @contextmanager
    def _raw(self) -> Iterator[Any]:
        """A driver connection outside any transaction."""
        with self._translated():
            connection = self._engine.raw_connection()
            try:
                yield connection.driver_connection
            finally:
                connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error) as error:
            raise _explained(error, str(self.path)) from error

    def _use_wal(self) -> None:
        # The switch needs the file to itself and does not wait for it: processes that start together try again.
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                with self._raw() as connection:
                    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                        connection.execute("PRAGMA journal_mode=WAL")
                return
            except StoreError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _migrate(self) -> None:
        with self.read() as connection:
            if _revision(connection, self.path) == REVISIONS[-1]:
                return
        with self.write() as connection:  # whoever comes second finds the work done
            if _revision(connection, self.path) != REVISIONS[-1]:
                from .migrations import upgrade

                upgrade(connection)


def _revision(connection: Connection, path: Path) -> str | None:
    """The schema's revision, None for an empty file.

    Raises:
        StoreError: the file belongs to another program or to a newer version.
    """
    names = set(inspect(connection).get_table_names())
    if not names:
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar() if _OWN <= names else None
    if found is None:
        raise StoreError(f"{path} is a database of another program.", hint="Choose another file with url=.")
    if found not in REVISIONS:
        raise StoreError(
            f"{path} was written by a newer version of JITR (schema {found}, known up to {REVISIONS[-1]}).",
            hint="Upgrade with: pip install -U jitr",
        )
    return str(found)


def _after_fork() -> None:
    for database in list(_OPEN):
        database.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
