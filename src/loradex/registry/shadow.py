"""What a shadow does to a name, within one transaction, and what history says of it."""

from __future__ import annotations

import math

from sqlalchemy import Connection

from loradex.errors import AdapterNotFound, InvalidRequest
from loradex.registry import store
from loradex.registry.records import Shadow
from loradex.registry.selecting import unknown_version


def begin(connection: Connection, name: str, shadow: Shadow, actor: str) -> None:
    """Let a version get a copy of part of the requests for the bare name."""
    if not math.isfinite(shadow.percent) or not 0 < shadow.percent <= 100:
        raise InvalidRequest(f"The share of a shadow is {shadow.percent:g}; it must be above 0, at most 100 percent")
    key, record = store.existing(connection, name)
    found = record.version(shadow.version)
    if found is None:
        raise unknown_version(record, shadow.version)
    _, before = store.existing(connection, name, found.base_digest)
    if before.shadow == shadow:
        return
    store.set_shadow(connection, key, found.base_digest, shadow)
    _note(connection, key, actor, "shadow", found.base_digest, before.current, before.shadow, shadow)


def end(connection: Connection, name: str, actor: str, base: str | None) -> None:
    """End a name's shadow."""
    key, record = store.existing(connection, name, base)
    found = record.version(record.shadow.version) if record.shadow is not None else None
    if found is None:
        raise AdapterNotFound(f"`{name}` has no shadow", hint=f"See it with `loradex adapter show {name}`")
    store.set_shadow(connection, key, found.base_digest, None)
    _note(connection, key, actor, "end_shadow", found.base_digest, record.current, record.shadow, None)


def _note(
    connection: Connection,
    key: int,
    actor: str,
    action: str,
    base: str,
    current: int | None,
    before: Shadow | None,
    after: Shadow | None,
) -> None:
    moved = (before.version if before else None, after.version if after else None)
    note = f"{after.percent:g} %" if after else ""
    store.add_history(connection, key, actor, action, moved=moved, base=base, meaning=(current, current), note=note)
