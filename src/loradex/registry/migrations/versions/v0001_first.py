"""Adapters, versions, aliases and history."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the four tables."""
    op.create_table(
        "adapters",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("last_version", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_adapters"),
        sa.UniqueConstraint("name", name="uq_adapters_name"),
    )
    _versions()
    op.create_table(
        "aliases",
        sa.Column("adapter_id", sa.Integer, nullable=False),
        sa.Column("base_digest", sa.String(64), nullable=False),
        sa.Column("alias", sa.String(128), nullable=False),
        sa.Column("version_id", sa.Integer, nullable=False),
        sa.Column("moved_at", sa.DateTime, nullable=False),
        sa.PrimaryKeyConstraint("adapter_id", "base_digest", "alias", name="pk_aliases"),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name="fk_aliases_adapter_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_aliases_version_id"),
    )
    op.create_table(
        "history",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("adapter_id", sa.Integer, nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("alias", sa.String(128)),
        sa.Column("from_version", sa.Integer),
        sa.Column("to_version", sa.Integer),
        sa.Column("base_digest", sa.String(64)),
        sa.Column("meant", sa.Integer),
        sa.Column("means", sa.Integer),
        sa.PrimaryKeyConstraint("id", name="pk_history"),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name="fk_history_adapter_id", ondelete="CASCADE"),
    )
    op.create_index("ix_history_adapter_id", "history", ["adapter_id"])


def _versions() -> None:
    op.create_table(
        "versions",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("adapter_id", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("base_digest", sa.String(64), nullable=False),
        sa.Column("base_name", sa.Text, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("modules", sa.JSON, nullable=False),
        sa.Column("parameters", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name="fk_versions_adapter_id", ondelete="CASCADE"),
        sa.UniqueConstraint("adapter_id", "number", name="uq_versions_adapter_id_number"),
        sa.UniqueConstraint("adapter_id", "digest", "base_digest", name="uq_versions_adapter_id_digest_base_digest"),
    )
    op.create_index("ix_versions_digest", "versions", ["digest"])
    op.create_index("ix_versions_base_digest", "versions", ["base_digest"])


def downgrade() -> None:
    """Drop them."""
    for table in ("history", "aliases", "versions", "adapters"):
        op.drop_table(table)
