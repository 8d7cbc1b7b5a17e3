"""What a canary does to a name, within one transaction, and what history says of it."""

from __future__ import annotations

from sqlalchemy import Connection

from loradex.core.adapter import DEFAULT_ALIAS, AdapterRef
from loradex.core.canary import Shares, completed, written
from loradex.errors import AdapterNotFound, InvalidRequest
from loradex.registry import store
from loradex.registry.records import AdapterRecord
from loradex.registry.selecting import pinned, unknown_version


def begin(connection: Connection, name: str, shares: Shares, actor: str, base: str | None) -> AdapterRecord:
    """Let versions share the requests for the bare name, or change their shares; return the record after it."""
    key, record = store.existing(connection, name, base)
    for number in shares:
        if record.version(number) is None:
            raise unknown_version(record, number)
    bases = {version.base_digest for version in record.versions if version.version in shares}
    if len(bases) != 1:
        what = "belong to several base models" if bases else "are missing"
        raise InvalidRequest(f"The versions of a canary {what}", hint="Write VERSION=PERCENT, such as 3=90 4=10")
    home = bases.pop()
    _, before = store.existing(connection, name, home)
    table = completed(shares, before.current or min(shares))
    stable = _stable(before, table)
    if table != before.canary or stable != before.current:
        store.set_shares(connection, key, home, table)
        if before.aliases.get(DEFAULT_ALIAS) != stable:  # else the next version would be what the name goes back to
            store.set_alias(connection, key, DEFAULT_ALIAS, stable, home)
        moved, meaning = (stable, newcomer(table, stable)), (before.current, stable)
        note = written(table)
        store.add_history(connection, key, actor, "canary", moved=moved, base=home, meaning=meaning, note=note)
    return store.existing(connection, name, home)[1]


def end(
    connection: Connection, name: str, version: int | None, actor: str, base: str | None, action: str, note: str
) -> AdapterRef:
    """Take one version out of a canary, or end it; return what the bare name goes back to."""
    key, record = store.existing(connection, name, base)
    current = record.version(record.current) if record.current is not None else None
    if current is None or not record.canary or (version is not None and version not in record.canary):
        which = f" with version {version}" if version is not None else ""
        raise AdapterNotFound(f"`{name}` has no canary{which}", hint=f"See it with `loradex adapter show {name}`")
    _, before = store.existing(connection, name, current.base_digest)
    rest = {number: percent for number, percent in before.canary.items() if number not in (version, current.version)}
    left = completed(rest, current.version) if version is not None and rest else {}
    store.set_shares(connection, key, current.base_digest, left)
    gone = version if version is not None else newcomer(before.canary, current.version)
    said = "; ".join(filter(None, (note, written(left) or ended(before))))
    moved, meaning = (gone, current.version), (current.version, current.version)
    store.add_history(connection, key, actor, action, moved=moved, base=current.base_digest, meaning=meaning, note=said)
    return pinned(record, current)


def beside(connection: Connection, key: int, before: AdapterRecord, number: int, percent: float, base: str) -> str:
    """Give a version that was just added `percent` of the requests, or none; return what history says of it."""
    current = before.current
    if current is None or number == current:
        raise InvalidRequest(f"`{before.name}` means version {number} already: it cannot be its own canary")
    if before.aliases.get(DEFAULT_ALIAS) != current:
        store.set_alias(connection, key, DEFAULT_ALIAS, current, base)
    if not percent:
        return "not served"
    table = completed({number: percent}, current)
    store.set_shares(connection, key, base, table)
    return written(table)


def ended(before: AdapterRecord) -> str:
    """Return what history says of a canary that has ended."""
    return f"ended the canary {written(before.canary)}" if before.canary else ""


def newcomer(table: Shares, stable: int) -> int | None:
    """Return the version that is tried, where it is only one."""
    others = [number for number in table if number != stable]
    return others[0] if len(others) == 1 else None


def _stable(before: AdapterRecord, table: Shares) -> int:
    """Return what the name goes back to: as long as the canary runs the same, at its start the largest share."""
    if before.canary and before.current is not None and before.current in table:
        return before.current
    return max(table, key=lambda number: (table[number], number == before.current, -number))
