"""The tables. Standard SQL types only, so that the same schema can live in PostgreSQL.

`n` counts rows in the order of their arrival: the order of the stream. Times are seconds since the epoch; JSON is kept
as text, since the database never looks inside. Nothing here is enforced by foreign keys: an observation must never be
lost because another process merged or purged its task a moment ago; `Store.verify` reports what dangles.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, MetaData, String, Table, Text

__all__ = [
    "REVISIONS",
    "counters",
    "declarations",
    "leases",
    "ledger",
    "metadata",
    "observations",
    "patterns",
    "releases",
    "searches",
    "tasks",
    "templates",
]

REVISIONS = ("0001", "0002", "0003", "0004")
"""Every revision in order, the last one being what this code reads and writes."""

metadata = MetaData()

observations = Table(
    "observations",
    metadata,
    Column("n", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("app", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("step", String, nullable=False),
    Column("contract", String, nullable=False),
    Column("model", String, nullable=False),
    Column("time", Double, nullable=False),
    Column("replaceable", Boolean, nullable=False),
    Column("task", String),
    Column("template", String),
    Column("slots", Text),
    Column("input_hash", String),
    Column("prompt", Text),
    Column("kind", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("release", String),
    Column("confidence", Double),
    Column("audit", Boolean, nullable=False),
    Column("audit_share", Double, nullable=False),
    Column("replacement_answer", Text),
    Column("asked", Boolean, nullable=False),
    Column("labelled", Boolean, nullable=False),
    Column("answer", Text),
    Column("input_tokens", Integer),
    Column("output_tokens", Integer),
    Column("input_chars", Integer, nullable=False),
    Column("output_chars", Integer, nullable=False),
    Column("latency_s", Double),
    Column("kept", Boolean, nullable=False),
    Column("pending", Boolean, nullable=False, server_default="0"),
)
"""One row per call. `asked`: the teacher answered. `kept`: the texts are still there. `labelled`: both. `pending`: the
call was answered and its audit is to come; then it moves to the end, so that labels stand in the order of their coming.

Tokens are what the provider billed, null where it did not say; then the characters allow an estimate.
"""

Index("ix_observations_task", observations.c.task, observations.c.n, observations.c.labelled)
Index("ix_observations_kept", observations.c.kept, observations.c.time)
_pending = observations.c.pending
Index("ix_observations_pending", observations.c.time, sqlite_where=_pending, postgresql_where=_pending)

tasks = Table(
    "tasks",
    metadata,
    Column("n", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("app", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("name", String, nullable=False),
    Column("state", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("active_release", String),
    Column("merged_into", String),
    Column("created", Double, nullable=False),
    Column("decided", Boolean, nullable=False, server_default="0"),
    Column("ignored", Boolean, nullable=False, server_default="0"),
    Column("regroupings", Integer, nullable=False, server_default="0"),
    Column("forgone", Integer, nullable=False, server_default="0"),
    Column("input_type", String, nullable=False, server_default=""),
    Column("task_type", String, nullable=False, server_default=""),
)
"""`merged_into`: the surviving task; a merged task is kept as a row only to say where it went. `forgone`: attempts that
count as made, because calls of the task had a part in them while they belonged to another one.
"""

declarations = Table(
    "declarations",
    metadata,
    Column("n", Integer, primary_key=True),
    Column("task", String, nullable=False),
    Column("app", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("step", String, nullable=False),
    Column("literals", Text, nullable=False),
)

templates = Table(
    "templates",
    metadata,
    Column("n", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("task", String, nullable=False, index=True),
    Column("app", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("step", String, nullable=False),
    Column("contract", String, nullable=False),
    Column("literals", Text, nullable=False),
)

patterns = Table(
    "patterns",
    metadata,
    Column("template", String, primary_key=True),
    Column("pattern", Text, nullable=False),
)
"""What the calls of a freely worded task are told by."""

releases = Table(
    "releases",
    metadata,
    Column("n", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("task", String, nullable=False, index=True),
    Column("state", String, nullable=False),
    Column("family", String, nullable=False),
    Column("base_model", String),
    Column("path", String, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("certificate", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("templates", Text, nullable=False),
)

searches = Table(
    "searches",
    metadata,
    Column("n", Integer, primary_key=True),
    Column("task", String, nullable=False, index=True),
    Column("time", Double, nullable=False),
    Column("at_label", Integer, nullable=False),
    Column("delta_spent", Double, nullable=False),
    Column("report", Text, nullable=False),
)

ledger = Table(
    "ledger",
    metadata,
    Column("n", Integer, primary_key=True),
    Column("time", Double, nullable=False),
    Column("kind", String, nullable=False),
    Column("task", String, index=True),
    Column("details", Text, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("expires", Double, nullable=False),
)

counters = Table(
    "counters",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", Integer, nullable=False),
)
"""`version` counts the changes that other processes must notice, `regroupings` those to calls that were stored already:
calls that got a task or another one, lost their texts or were deleted. `rows`, once there was a purge: the last row of
observations then, as no row number is given twice."""
