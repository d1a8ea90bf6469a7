"""Answered calls are stored before their audit is done.

Revision ID: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Adds whether a call's audit is still to come: of what is stored by now none is."""
    op.add_column("observations", sa.Column("pending", sa.Boolean(), nullable=False, server_default="0"))
    sqlite, postgresql = sa.text("pending = 1"), sa.text("pending")
    op.create_index(
        "ix_observations_pending", "observations", ["time"], sqlite_where=sqlite, postgresql_where=postgresql
    )
