"""The SQLite file: how it is opened, locked and migrated, and how its failures are named."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from loradex.errors import RegistryFailed
from loradex.registry.lock import file_lock
from loradex.registry.schema import HEAD

FILE = "registry.db"


class Database:
    """Transactions on the store of one home; safe from several threads and processes."""

    def __init__(self, home: Path, busy_seconds: float) -> None:
        """Open the store, make or migrate it.

        Raises:
            RegistryFailed: it cannot be opened, is damaged, or was written by a newer Loradex.
        """
        self.path = home / FILE
        with self._named("opened"):
            self._engine = _engine(self.path, busy_seconds)
            # One at a time: switching to WAL and making tables both want the file alone.
            with file_lock(home / "registry.lock", busy_seconds):
                self._prepare()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a consistent view.

        Raises:
            RegistryFailed: the store cannot be read.
        """
        with self._named("read"), self._engine.connect() as connection:
            connection.execute(text("BEGIN"))
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Give a transaction that nobody else writes beside; an error inside undoes all of it.

        Raises:
            RegistryFailed: the store cannot be written.
        """
        with self._named("written"), self._engine.connect() as connection:
            connection.execute(text("BEGIN IMMEDIATE"))
            yield connection
            connection.commit()

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            reason = error.orig if isinstance(error, DBAPIError) else error
            raise RegistryFailed(f"The registry {self.path} could not be {what}: {reason}") from error

    def _prepare(self) -> None:
        with self._engine.connect() as connection:
            connection.execute(text("PRAGMA journal_mode=WAL"))
        found = self._revision()
        if found == HEAD:
            return
        from loradex.registry.migrate import known, upgrade  # Alembic takes long to import, and is rarely needed

        if found is not None and found not in known():
            raise RegistryFailed(
                f"The registry {self.path} has schema {found}, which this version of Loradex does not know",
                hint="Upgrade Loradex, or use another data folder",
            )
        with self.write() as connection:
            upgrade(connection)

    def _revision(self) -> str | None:
        with self._engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
            return None if found is None else str(found)


def _engine(path: Path, busy_seconds: float) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        # Transactions are begun by hand: the driver's own way would begin them late, without the lock.
        connect_args={"timeout": busy_seconds, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=FULL")

    return engine
