"""Every statement that the registry makes; each function works in the transaction of its connection."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, delete, func, insert, select, update

from loradex.core.adapter import DEFAULT_ALIAS
from loradex.core.canary import Shares
from loradex.core.defaults import Defaults
from loradex.errors import AdapterNotFound
from loradex.registry.records import AdapterRecord, HistoryEntry, Shadow, Staged, VersionRecord
from loradex.registry.schema import adapters, aliases, history, shadows, shares, versions
from loradex.registry.selecting import unknown_name


def records(connection: Connection, base: str | None = None, name: str | None = None) -> list[AdapterRecord]:
    """Return the names that have versions for `base`, by name; None takes every base, or every name."""

    def of(table: Table, *columns: ColumnElement[Any]) -> Select[Any]:
        """What `table` says of versions, by name and number."""
        wanted = select(table.c.adapter_id, versions.c.number, *columns).join(
            versions, table.c.version_id == versions.c.id
        )
        wanted = wanted.join(adapters, table.c.adapter_id == adapters.c.id).order_by(versions.c.number)
        wanted = wanted if base is None else wanted.where(table.c.base_digest == base)
        return wanted if name is None else wanted.where(adapters.c.name == name)

    chosen = select(versions, adapters).join(adapters, versions.c.adapter_id == adapters.c.id)
    if base is not None:
        chosen = chosen.where(versions.c.base_digest == base)
    if name is not None:
        chosen = chosen.where(adapters.c.name == name)
    found: dict[int, list[Row[Any]]] = {}
    for row in connection.execute(chosen.order_by(adapters.c.name, versions.c.number)):
        found.setdefault(row.adapter_id, []).append(row)
    pointing: dict[int, dict[str, int]] = {}
    # Of one alias on several bases, the one moved last is shown.
    for row in connection.execute(of(aliases, aliases.c.alias).order_by(None).order_by(aliases.c.moved_at)):
        pointing.setdefault(row.adapter_id, {})[row.alias] = row.number
    sharing: dict[int, dict[int, float]] = {}
    for row in connection.execute(of(shares, shares.c.percent)):
        sharing.setdefault(row.adapter_id, {})[row.number] = row.percent
    copied = {
        row.adapter_id: Shadow(row.number, row.percent) for row in connection.execute(of(shadows, shadows.c.percent))
    }
    return [_record(rows, pointing.get(key, {}), sharing.get(key, {}), copied.get(key)) for key, rows in found.items()]


def _record(rows: list[Row[Any]], pointing: Mapping[str, int], canary: Shares, shadow: Shadow | None) -> AdapterRecord:
    first = rows[0]
    return AdapterRecord(
        name=first.name,
        enabled=first.enabled,
        created_at=first._mapping[adapters.c.created_at],
        versions=tuple(_version(row) for row in rows),
        aliases=dict(sorted(pointing.items())),
        current=pointing.get(DEFAULT_ALIAS, rows[-1].number),
        canary=canary,
        shadow=shadow,
    )


def _version(row: Row[Any]) -> VersionRecord:
    return VersionRecord(
        version=row.number,
        digest=row.digest,
        source=row.source,
        base_digest=row.base_digest,
        base_name=row.base_name,
        rank=row.rank,
        modules=tuple(row.modules),
        parameters=row.parameters,
        bytes=row.bytes,
        created_at=row._mapping[versions.c.created_at],
        config=row.config,
        defaults=Defaults.read(row.defaults or {}),
    )


def record(connection: Connection, name: str, base: str | None = None) -> AdapterRecord | None:
    """Return one name, or None where it has no version for `base`."""
    return next(iter(records(connection, base, name)), None)


def existing(connection: Connection, name: str, base: str | None = None) -> tuple[int, AdapterRecord]:
    """Return a name's key and record, disabled or not.

    Raises:
        AdapterNotFound: there is none, or none for that base.
    """
    key = adapter_id(connection, name)
    found = record(connection, name, base)
    if key is None:
        raise unknown_name(name, names(connection))
    if found is None:
        raise AdapterNotFound(
            f"The adapter `{name}` has no version for this base model",
            hint="Serve the base model it was registered for, or add a version for this one",
        )
    return key, found


def names(connection: Connection, base: str | None = None) -> list[str]:
    """Return the names that can be asked for: those that are enabled."""
    wanted = select(adapters.c.name).where(adapters.c.enabled).order_by(adapters.c.name)
    if base is not None:
        wanted = wanted.where(adapters.c.id.in_(select(versions.c.adapter_id).where(versions.c.base_digest == base)))
    return list(connection.scalars(wanted))


def adapter_id(connection: Connection, name: str) -> int | None:
    """Return the key of a name, or None."""
    return connection.scalar(select(adapters.c.id).where(adapters.c.name == name))


def add_adapter(connection: Connection, name: str) -> int:
    """Add an enabled name without versions."""
    values = {"name": name, "enabled": True, "last_version": 0, "created_at": _now()}
    key: int = connection.execute(insert(adapters).values(values).returning(adapters.c.id)).scalar_one()
    return key


def set_enabled(connection: Connection, adapter: int, enabled: bool) -> None:
    """Show or hide a name."""
    connection.execute(update(adapters).where(adapters.c.id == adapter).values(enabled=enabled))


def delete_adapter(connection: Connection, adapter: int) -> None:
    """Delete a name with its aliases, versions and history."""
    for table in (aliases, shares, shadows):  # they point to versions, which go with the name
        connection.execute(delete(table).where(table.c.adapter_id == adapter))
    connection.execute(delete(adapters).where(adapters.c.id == adapter))


def add_version(connection: Connection, adapter: int, staged: Staged, defaults: Defaults) -> int:
    """Add a version under the next number, and return the number."""
    last = connection.scalar(select(adapters.c.last_version).where(adapters.c.id == adapter)) or 0
    number = last + 1
    connection.execute(update(adapters).where(adapters.c.id == adapter).values(last_version=number))
    connection.execute(
        insert(versions).values(
            adapter_id=adapter,
            number=number,
            digest=staged.adapter.digest,
            source=staged.source,
            base_digest=staged.base.digest,
            base_name=staged.base.id,
            rank=staged.report.rank,
            modules=list(staged.report.modules),
            parameters=staged.report.parameters,
            bytes=staged.report.bytes,
            created_at=_now(),
            config=dict(staged.config),
            defaults=defaults.written() or None,
        )
    )
    return number


def set_defaults(connection: Connection, adapter: int, number: int, defaults: Defaults) -> None:
    """Change what requests may leave out."""
    own = (versions.c.adapter_id == adapter, versions.c.number == number)
    connection.execute(update(versions).where(*own).values(defaults=defaults.written() or None))


def delete_version(connection: Connection, adapter: int, number: int) -> None:
    """Delete a version to which no alias points."""
    connection.execute(delete(versions).where(versions.c.adapter_id == adapter, versions.c.number == number))


def set_alias(connection: Connection, adapter: int, alias: str, number: int, base: str) -> None:
    """Point an alias, on one base, at a version."""
    delete_alias(connection, adapter, alias, base)
    version = select(versions.c.id).where(versions.c.adapter_id == adapter, versions.c.number == number)
    values = {"adapter_id": adapter, "base_digest": base, "alias": alias, "moved_at": _now()}
    connection.execute(insert(aliases).values(version_id=version.scalar_subquery(), **values))


def delete_alias(connection: Connection, adapter: int, alias: str, base: str) -> None:
    """Delete an alias on one base."""
    same = (aliases.c.adapter_id == adapter, aliases.c.alias == alias, aliases.c.base_digest == base)
    connection.execute(delete(aliases).where(*same))


def set_shares(connection: Connection, adapter: int, base: str, table: Shares) -> None:
    """Let versions share the bare name's requests on one base; an empty table ends that."""
    connection.execute(delete(shares).where(shares.c.adapter_id == adapter, shares.c.base_digest == base))
    for number, percent in table.items():
        version = select(versions.c.id).where(versions.c.adapter_id == adapter, versions.c.number == number)
        values = {"adapter_id": adapter, "base_digest": base, "percent": percent}
        connection.execute(insert(shares).values(version_id=version.scalar_subquery(), **values))


def set_shadow(connection: Connection, adapter: int, base: str, shadow: Shadow | None) -> None:
    """Let a version get copies of the bare name's requests on one base, or none."""
    connection.execute(delete(shadows).where(shadows.c.adapter_id == adapter, shadows.c.base_digest == base))
    if shadow is not None:
        version = select(versions.c.id).where(versions.c.adapter_id == adapter, versions.c.number == shadow.version)
        values = {"adapter_id": adapter, "base_digest": base, "percent": shadow.percent}
        connection.execute(insert(shadows).values(version_id=version.scalar_subquery(), **values))


def references(connection: Connection, digest: str) -> int:
    """Return how many versions have this content."""
    return connection.scalar(select(func.count()).select_from(versions).where(versions.c.digest == digest)) or 0


def digests(connection: Connection) -> set[str]:
    """Return the digests that some version has."""
    return set(connection.scalars(select(versions.c.digest)))


def add_history(
    connection: Connection,
    adapter: int,
    actor: str,
    action: str,
    *,
    alias: str | None = None,
    moved: tuple[int | None, int | None] = (None, None),
    base: str | None = None,
    meaning: tuple[int | None, int | None] = (None, None),
    note: str = "",
) -> None:
    """Record a change: what moved, and what the bare name meant on `base` before and after."""
    values: dict[str, Any] = {"adapter_id": adapter, "at": _now(), "actor": actor, "action": action, "alias": alias}
    values |= {"from_version": moved[0], "to_version": moved[1]}
    values |= {"base_digest": base, "meant": meaning[0], "means": meaning[1], "note": note or None}
    connection.execute(insert(history).values(values))


def entries(connection: Connection, adapter: int) -> list[HistoryEntry]:
    """Return every change of a name, oldest first."""
    rows = connection.execute(select(history).where(history.c.adapter_id == adapter).order_by(history.c.id))
    return [
        HistoryEntry(row.at, row.actor, row.action, row.alias, row.from_version, row.to_version, row.note or "")
        for row in rows
    ]


def meanings(connection: Connection, adapter: int, base: str) -> list[int]:
    """Return what the bare name meant on `base` before each change of its meaning, newest first."""
    wanted = select(history.c.meant).where(
        history.c.adapter_id == adapter,
        history.c.base_digest == base,
        history.c.meant.is_not(None),
        history.c.meant.is_distinct_from(history.c.means),
    )
    return [number for number in connection.scalars(wanted.order_by(history.c.id.desc())) if number is not None]


def _now() -> datetime:
    return datetime.now(UTC)
