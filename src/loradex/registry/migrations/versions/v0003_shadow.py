"""Shadows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "shadows",
        sa.Column("adapter_id", sa.Integer, nullable=False),
        sa.Column("base_digest", sa.String(64), nullable=False),
        sa.Column("version_id", sa.Integer, nullable=False),
        sa.Column("percent", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("adapter_id", "base_digest", name="pk_shadows"),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name="fk_shadows_adapter_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_shadows_version_id"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("shadows")
