"""Alembic's entry: runs the steps in the transaction of the connection that `migrate.py` hands over."""

from __future__ import annotations

from alembic import context

from loradex.registry.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
