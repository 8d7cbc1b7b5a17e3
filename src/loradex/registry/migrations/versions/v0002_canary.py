"""Canaries, and a note for each change."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table of shares, and add the note."""
    op.create_table(
        "shares",
        sa.Column("adapter_id", sa.Integer, nullable=False),
        sa.Column("base_digest", sa.String(64), nullable=False),
        sa.Column("version_id", sa.Integer, nullable=False),
        sa.Column("percent", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("adapter_id", "base_digest", "version_id", name="pk_shares"),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name="fk_shares_adapter_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_shares_version_id"),
    )
    op.add_column("history", sa.Column("note", sa.Text))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("history", "note")
    op.drop_table("shares")
