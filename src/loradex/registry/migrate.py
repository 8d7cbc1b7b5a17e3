"""Runs Alembic's steps on a connection, in the transaction that is already open there."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


def known() -> frozenset[str]:
    """Return every revision that this code can upgrade from."""
    return frozenset(step.revision for step in ScriptDirectory.from_config(_config()).walk_revisions())


def upgrade(connection: Connection) -> None:
    """Bring the store to the newest revision."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    folder = str(Path(__file__).with_name("migrations")).replace("%", "%%")  # a percent sign would be interpolated
    config.set_main_option("script_location", folder)
    config.set_main_option("path_separator", "os")
    return config
