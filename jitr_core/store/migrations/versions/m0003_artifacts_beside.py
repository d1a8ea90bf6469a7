"""Artifacts are found beside the database, wherever that is moved.

Revision ID: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Keeps of an artifact's path what lies below the state folder: until now always `artifacts/TASK/RELEASE`.

    The state may have been moved already, so nothing before these parts counts.
    """
    releases = sa.table("releases", sa.column("id", sa.String()), sa.column("path", sa.String()))
    connection = op.get_bind()
    for release, path in connection.execute(sa.select(releases.c.id, releases.c.path)).all():
        parts = path.replace("\\", "/").split("/")
        if parts[-3:-2] == ["artifacts"] and parts[-1] == release:
            connection.execute(releases.update().where(releases.c.id == release).values(path="/".join(parts[-3:])))
