"""The first schema.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates every table."""
    _observations()
    _tasks()
    _releases()
    _records()
    _coordination()


def _observations() -> None:
    op.create_table(
        "observations",
        sa.Column("n", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("app", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("contract", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("replaceable", sa.Boolean(), nullable=False),
        sa.Column("task", sa.String()),
        sa.Column("template", sa.String()),
        sa.Column("slots", sa.Text()),
        sa.Column("input_hash", sa.String()),
        sa.Column("prompt", sa.Text()),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("release", sa.String()),
        sa.Column("confidence", sa.Double()),
        sa.Column("audit", sa.Boolean(), nullable=False),
        sa.Column("audit_share", sa.Double(), nullable=False),
        sa.Column("replacement_answer", sa.Text()),
        sa.Column("asked", sa.Boolean(), nullable=False),
        sa.Column("labelled", sa.Boolean(), nullable=False),
        sa.Column("answer", sa.Text()),
        sa.Column("input_tokens", sa.Integer()),
        sa.Column("output_tokens", sa.Integer()),
        sa.Column("input_chars", sa.Integer(), nullable=False),
        sa.Column("output_chars", sa.Integer(), nullable=False),
        sa.Column("latency_s", sa.Double()),
        sa.Column("kept", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("n"),
        sa.UniqueConstraint("id"),
    )
    op.create_index("ix_observations_task", "observations", ["task", "n", "labelled"])
    op.create_index("ix_observations_kept", "observations", ["kept", "time"])


def _tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("app", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("active_release", sa.String()),
        sa.Column("merged_into", sa.String()),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("decided", sa.Boolean(), nullable=False, server_default="0"),
        sa.Column("ignored", sa.Boolean(), nullable=False, server_default="0"),
        sa.Column("regroupings", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("forgone", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("input_type", sa.String(), nullable=False, server_default=""),
        sa.Column("task_type", sa.String(), nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("n"),
        sa.UniqueConstraint("id"),
    )
    op.create_table(
        "declarations",
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("app", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("literals", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("n"),
    )
    op.create_table(
        "templates",
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("app", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("contract", sa.String(), nullable=False),
        sa.Column("literals", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("n"),
        sa.UniqueConstraint("id"),
    )
    op.create_index("ix_templates_task", "templates", ["task"])


def _releases() -> None:
    op.create_table(
        "releases",
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("family", sa.String(), nullable=False),
        sa.Column("base_model", sa.String()),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("certificate", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("templates", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("n"),
        sa.UniqueConstraint("id"),
    )
    op.create_index("ix_releases_task", "releases", ["task"])
    op.create_table(
        "searches",
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("at_label", sa.Integer(), nullable=False),
        sa.Column("delta_spent", sa.Double(), nullable=False),
        sa.Column("report", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("n"),
    )
    op.create_index("ix_searches_task", "searches", ["task"])


def _records() -> None:
    op.create_table(
        "ledger",
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("task", sa.String()),
        sa.Column("details", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("n"),
    )
    op.create_index("ix_ledger_task", "ledger", ["task"])


def _coordination() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.execute("INSERT INTO counters (name, value) VALUES ('version', 0), ('regroupings', 0)")
