"""What each change does to names, versions and aliases, within one transaction, and what history says of it."""

from __future__ import annotations

from sqlalchemy import Connection

from loradex.core.adapter import DEFAULT_ALIAS, AdapterRef
from loradex.errors import AdapterNotFound, Conflict
from loradex.registry import store
from loradex.registry.records import AdapterRecord, Staged
from loradex.registry.selecting import pinned, unknown_alias, unknown_name, unknown_version


def existing(connection: Connection, name: str, base: str | None = None) -> tuple[int, AdapterRecord]:
    """Return a name's key and record, disabled or not.

    Raises:
        AdapterNotFound: there is none, or none for that base.
    """
    key = store.adapter_id(connection, name)
    record = store.record(connection, name, base)
    if key is None:
        raise unknown_name(name, store.names(connection))
    if record is None:
        raise AdapterNotFound(
            f"The adapter `{name}` has no version for this base model",
            hint="Serve the base model it was registered for, or add a version for this one",
        )
    return key, record


def add(connection: Connection, name: str, staged: Staged, actor: str, serve: bool) -> int:
    """Register a version, or find the one with this content, and enable the name; return the number."""
    base = staged.base.digest
    key = store.adapter_id(connection, name)
    before = store.record(connection, name, base)
    any_base = store.record(connection, name)
    if key is None:
        key = store.add_adapter(connection, name)
    same = [one.version for one in before.versions if one.digest == staged.adapter.digest] if before else []
    number = same[0] if same else store.add_version(connection, key, staged)
    store.set_enabled(connection, key, True)
    meant = before.current if before else None
    points = before.aliases.get(DEFAULT_ALIAS) if before else None
    newest = not same or before is None or before.versions[-1].version == number
    moved = serve and points != number and (points is not None or not newest)
    if moved:
        store.set_alias(connection, key, DEFAULT_ALIAS, number, base)
    means = number if moved or (points is None and newest) else meant
    if same and means == meant and any_base is not None and any_base.enabled:
        return number  # nothing changed
    store.add_history(
        connection,
        key,
        actor,
        "add",
        alias=DEFAULT_ALIAS if moved else None,
        moved=(meant, number),
        base=base,
        meaning=(meant, means),
    )
    return number


def point(connection: Connection, name: str, version: int, alias: str, actor: str, action: str) -> AdapterRef:
    """Point an alias at a version, on the version's base."""
    key, record = existing(connection, name)
    found = record.version(version)
    if found is None:
        raise unknown_version(record, version)
    _, before = existing(connection, name, found.base_digest)
    points = before.aliases.get(alias)
    if points != version:
        store.set_alias(connection, key, alias, version, found.base_digest)
        means = version if alias == DEFAULT_ALIAS else before.current
        store.add_history(
            connection,
            key,
            actor,
            action,
            alias=alias,
            moved=(before.current if alias == DEFAULT_ALIAS else points, version),
            base=found.base_digest,
            meaning=(before.current, means),
        )
    return pinned(record, found)


def unalias(connection: Connection, name: str, alias: str, actor: str, base: str | None) -> None:
    """Remove an alias from one base, or from all."""
    key, record = existing(connection, name, base)
    if alias not in record.aliases:
        raise unknown_alias(record, alias)
    for each in dict.fromkeys(version.base_digest for version in record.versions):
        _, before = existing(connection, name, each)
        if alias not in before.aliases:
            continue
        store.delete_alias(connection, key, alias, each)
        _, after = existing(connection, name, each)
        store.add_history(
            connection,
            key,
            actor,
            "remove_alias",
            alias=alias,
            moved=(before.aliases[alias], None),
            base=each,
            meaning=(before.current, after.current),
        )


def earlier(connection: Connection, name: str, base: str | None) -> AdapterRef:
    """Return what the bare name meant before its meaning last changed, of what still exists."""
    key, record = existing(connection, name, base)
    current = record.version(record.current) if record.current is not None else None
    if current is None:
        raise unknown_version(record, record.current)
    for number in store.meanings(connection, key, current.base_digest):
        found = record.version(number)
        if found is not None and number != current.version:
            return pinned(record, found)
    raise AdapterNotFound(
        f"`{name}` has meant nothing but version {current.version}: there is nothing to go back to",
        hint=f"See its versions with `loradex adapter show {name}`",
    )


def switch(connection: Connection, name: str, enabled: bool, actor: str) -> None:
    """Show or hide a name."""
    key, record = existing(connection, name)
    if record.enabled != enabled:
        store.set_enabled(connection, key, enabled)
        store.add_history(connection, key, actor, "enable" if enabled else "disable")


def drop(connection: Connection, name: str, version: int | None, actor: str) -> list[str]:
    """Remove a version, or the whole name, and return the digests that it held."""
    key, record = existing(connection, name)
    if version is None:
        store.delete_adapter(connection, key)
        return [one.digest for one in record.versions]
    found = record.version(version)
    if found is None:
        raise unknown_version(record, version)
    _, before = existing(connection, name, found.base_digest)
    if pointing := [alias for alias, number in before.aliases.items() if number == version]:
        raise Conflict(
            f"The alias `{pointing[0]}` points to version {version} of `{name}`",
            hint=f"Point it elsewhere with `loradex adapter promote {name} VERSION --alias {pointing[0]}` first",
        )
    if len(record.versions) == 1:
        store.delete_adapter(connection, key)
        return [found.digest]
    store.delete_version(connection, key, version)
    after = store.record(connection, name, found.base_digest)
    store.add_history(
        connection,
        key,
        actor,
        "remove",
        moved=(version, None),
        base=found.base_digest,
        meaning=(before.current, after.current if after else None),
    )
    return [found.digest]
