"""Run by alembic: applies revisions over the connection that `upgrade` passes in."""

from __future__ import annotations

from alembic import context

from jitr_core.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
