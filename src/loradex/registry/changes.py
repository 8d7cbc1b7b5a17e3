"""What each change does to names, versions and aliases, within one transaction, and what history says of it."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Connection

from loradex.core.adapter import DEFAULT_ALIAS, AdapterRef, Reference
from loradex.core.defaults import NO_DEFAULTS, Defaults
from loradex.errors import AdapterNotFound, Conflict, InvalidRequest
from loradex.registry import canary, store
from loradex.registry.records import AdapterRecord, Staged
from loradex.registry.selecting import pinned, select, unknown_alias, unknown_version


def add(
    connection: Connection, name: str, staged: Staged, actor: str, serve: bool, percent: float | None = None
) -> int:
    """Register a version, or find the one with this content, and enable the name; return the number.

    With `percent`, the bare name goes on to mean what it means, and the version gets that part of its requests.
    """
    base = staged.base.digest
    key = store.adapter_id(connection, name)
    before = store.record(connection, name, base)
    any_base = store.record(connection, name)
    if key is None:
        key = store.add_adapter(connection, name)
    same = [one.version for one in before.versions if one.digest == staged.adapter.digest] if before else []
    now = before.version(before.current) if before and before.current is not None else None
    defaults = staged.defaults if staged.defaults is not None else now.defaults if now is not None else NO_DEFAULTS
    number = same[0] if same else store.add_version(connection, key, staged, defaults)
    store.set_enabled(connection, key, True)
    if same and staged.defaults is not None:
        configure(connection, name, number, staged.defaults, actor, base)
    if percent is not None:
        if before is None:
            raise InvalidRequest(f"`{name}` has no version yet beside which this one could be a canary")
        shared = canary.beside(connection, key, before, number, percent, base)
        note = "; ".join(filter(None, (staged.note, shared)))
        kept, tried = (before.current, before.current), (before.current, number)
        store.add_history(connection, key, actor, "add", moved=tried, base=base, meaning=kept, note=note)
        return number
    meant = before.current if before else None
    points = before.aliases.get(DEFAULT_ALIAS) if before else None
    newest = not same or before is None or before.versions[-1].version == number
    moved = serve and points != number and (points is not None or not newest)
    if moved:
        store.set_alias(connection, key, DEFAULT_ALIAS, number, base)
    means = number if moved or (points is None and newest) else meant
    if same and means == meant and any_base is not None and any_base.enabled:
        return number  # nothing changed
    ended = _end_canary(connection, key, before, base) if before and means != meant else ""
    store.add_history(
        connection,
        key,
        actor,
        "add",
        alias=DEFAULT_ALIAS if moved else None,
        moved=(meant, number),
        base=base,
        meaning=(meant, means),
        note="; ".join(filter(None, (staged.note, ended))),
    )
    return number


def configure(
    connection: Connection, name: str, number: int | None, defaults: Defaults, actor: str, base: str | None
) -> AdapterRef:
    """Change what requests may leave out, of a version or of the one that the name means."""
    key, record = store.existing(connection, name, base)
    found = select(record, Reference(name, version=number))
    if found.defaults != defaults:
        store.set_defaults(connection, key, found.version, defaults)
        same = (found.version, found.version)
        meant = (record.current, record.current)
        note = "; ".join(f"{field}: {value}" for field, value in defaults.written().items()) or "nothing"
        store.add_history(connection, key, actor, "set", moved=same, base=found.base_digest, meaning=meant, note=note)
    return replace(pinned(record, found), defaults=defaults)


def point(
    connection: Connection, name: str, version: int, alias: str, actor: str, action: str, note: str = ""
) -> AdapterRef:
    """Point an alias at a version, on the version's base."""
    key, record = store.existing(connection, name)
    found = record.version(version)
    if found is None:
        raise unknown_version(record, version)
    _, before = store.existing(connection, name, found.base_digest)
    points = before.aliases.get(alias)
    bare = alias == DEFAULT_ALIAS
    if points != version or (bare and before.canary):
        store.set_alias(connection, key, alias, version, found.base_digest)
        tried = canary.newcomer(before.canary, version) if before.current == version else before.current
        store.add_history(
            connection,
            key,
            actor,
            action,
            alias=alias,
            moved=(tried if bare else points, version),
            base=found.base_digest,
            meaning=(before.current, version if bare else before.current),
            note="; ".join(
                filter(None, (note, _end_canary(connection, key, before, found.base_digest) if bare else ""))
            ),
        )
    return pinned(record, found)


def unalias(connection: Connection, name: str, alias: str, actor: str, base: str | None) -> None:
    """Remove an alias from one base, or from all."""
    key, record = store.existing(connection, name, base)
    if alias not in record.aliases:
        raise unknown_alias(record, alias)
    for each in dict.fromkeys(version.base_digest for version in record.versions):
        _, before = store.existing(connection, name, each)
        if alias not in before.aliases:
            continue
        store.delete_alias(connection, key, alias, each)
        _, after = store.existing(connection, name, each)
        store.add_history(
            connection,
            key,
            actor,
            "remove_alias",
            alias=alias,
            moved=(before.aliases[alias], None),
            base=each,
            meaning=(before.current, after.current),
            note=_end_canary(connection, key, before, each) if after.current != before.current else "",
        )


def earlier(connection: Connection, name: str, base: str | None) -> AdapterRef:
    """Return what the bare name meant before its meaning last changed, of what still exists.

    While a canary runs, that is what the name means beside it.
    """
    key, record = store.existing(connection, name, base)
    current = record.version(record.current) if record.current is not None else None
    if current is None:
        raise unknown_version(record, record.current)
    if record.canary:
        return pinned(record, current)
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
    key, record = store.existing(connection, name)
    if record.enabled != enabled:
        store.set_enabled(connection, key, enabled)
        store.add_history(connection, key, actor, "enable" if enabled else "disable")


def drop(connection: Connection, name: str, version: int | None, actor: str) -> list[str]:
    """Remove a version, or the whole name, and return the digests that it held."""
    key, record = store.existing(connection, name)
    if version is None:
        store.delete_adapter(connection, key)
        return [one.digest for one in record.versions]
    found = record.version(version)
    if found is None:
        raise unknown_version(record, version)
    _, before = store.existing(connection, name, found.base_digest)
    if pointing := [alias for alias, number in before.aliases.items() if number == version]:
        raise Conflict(
            f"The alias `{pointing[0]}` points to version {version} of `{name}`",
            hint=f"First point it elsewhere with `loradex adapter promote {name} VERSION --alias {pointing[0]}`, "
            f"or remove it with `loradex adapter rm {name} --alias {pointing[0]}`",
        )
    if version in before.canary:
        raise Conflict(
            f"Version {version} of `{name}` answers {before.canary[version]:g} % of its requests",
            hint=f"End the canary with `loradex adapter canary {name} --end` first",
        )
    if before.shadow is not None and before.shadow.version == version:
        raise Conflict(
            f"Version {version} of `{name}` is its shadow",
            hint=f"End that with `loradex adapter shadow {name} --end` first",
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


def _end_canary(connection: Connection, key: int, before: AdapterRecord, base: str) -> str:
    """End a canary because the bare name gets another meaning; return what history says of it."""
    if before.canary:
        store.set_shares(connection, key, base, {})
    return canary.ended(before)
