"""Schema revisions, applied in order when a store opens an older file.

A revision is a module of `versions/` that is never changed once released; `schema.REVISIONS` names them all. Write
a new one by hand, with `batch_alter_table` for what SQLite cannot alter in place. This package is only imported when
there is something to migrate, since importing alembic takes 0.4 s.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection

__all__ = ["FOLDER", "upgrade"]

FOLDER = Path(__file__).parent


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Brings the schema up to a revision, inside the transaction of `connection`.

    Args:
        connection: holds the write lock; if a step fails, rolling it back undoes every step.
        revision: name of the revision, "head" for the latest.
    """
    with _hushed():  # alembic tells of its plugins when it is imported
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


@contextmanager
def _hushed() -> Iterator[None]:
    """What alembic does here is no news in the log of an app; warnings are."""
    log = logging.getLogger("alembic")
    level = log.level
    hushes = level < logging.WARNING  # else as it is wanted, or another thread is at a state of its own
    if hushes:
        log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        if hushes:
            log.setLevel(level)
