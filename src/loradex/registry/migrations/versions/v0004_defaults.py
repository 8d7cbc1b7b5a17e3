"""Defaults of versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; versions that are there have none."""
    op.add_column("versions", sa.Column("defaults", sa.JSON))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("versions", "defaults")
