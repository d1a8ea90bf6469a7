"""What the calls of freely worded tasks are told by.

Revision ID: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Creates the table of patterns."""
    op.create_table(
        "patterns",
        sa.Column("template", sa.String(), nullable=False),
        sa.Column("pattern", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("template"),
    )
