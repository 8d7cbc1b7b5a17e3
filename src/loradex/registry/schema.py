"""The tables, in SQLAlchemy Core. `migrations/` makes them; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

HEAD = "0004"
"""The revision that this code speaks; a store already there is opened without Alembic."""


class Utc(TypeDecorator[datetime]):
    """A moment in UTC; SQLite keeps no time zone, so it is put back on reading."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC without its zone."""
        return value.astimezone(UTC).replace(tzinfo=None) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Read UTC with its zone."""
        return value.replace(tzinfo=UTC) if value is not None else None


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

adapters = Table(
    "adapters",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("enabled", Boolean, nullable=False),
    Column("last_version", Integer, nullable=False),  # numbers of removed versions are not given again
    Column("created_at", Utc, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("adapter_id", ForeignKey("adapters.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", String(64), nullable=False, index=True),
    Column("source", Text, nullable=False),
    Column("base_digest", String(64), nullable=False, index=True),
    Column("base_name", Text, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("modules", JSON, nullable=False),
    Column("parameters", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("config", JSON, nullable=False),
    Column("defaults", JSON),  # what requests may leave out: `Defaults.written`
    UniqueConstraint("adapter_id", "number"),
    UniqueConstraint("adapter_id", "digest", "base_digest"),
)

# An alias is kept for each base: one home serves several models, and `medical` of each goes its own way.
aliases = Table(
    "aliases",
    metadata,
    Column("adapter_id", ForeignKey("adapters.id", ondelete="CASCADE"), primary_key=True),
    Column("base_digest", String(64), primary_key=True),
    Column("alias", String(128), primary_key=True),
    Column("version_id", ForeignKey("versions.id"), nullable=False),
    Column("moved_at", Utc, nullable=False),
)

# A canary: the versions that share the requests for a bare name. No rows where all of them go to one.
shares = Table(
    "shares",
    metadata,
    Column("adapter_id", ForeignKey("adapters.id", ondelete="CASCADE"), primary_key=True),
    Column("base_digest", String(64), primary_key=True),
    Column("version_id", ForeignKey("versions.id"), primary_key=True),
    Column("percent", Float, nullable=False),
)

# A shadow: the version that gets a copy of part of the requests for a bare name.
shadows = Table(
    "shadows",
    metadata,
    Column("adapter_id", ForeignKey("adapters.id", ondelete="CASCADE"), primary_key=True),
    Column("base_digest", String(64), primary_key=True),
    Column("version_id", ForeignKey("versions.id"), nullable=False),
    Column("percent", Float, nullable=False),
)

# `from_version` and `to_version` tell what moved, `note` why or how; `meant` and `means` what the bare name meant
# before and after.
history = Table(
    "history",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("adapter_id", ForeignKey("adapters.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", Utc, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", String(32), nullable=False),
    Column("alias", String(128)),
    Column("from_version", Integer),
    Column("to_version", Integer),
    Column("note", Text),
    Column("base_digest", String(64)),
    Column("meant", Integer),
    Column("means", Integer),
)
