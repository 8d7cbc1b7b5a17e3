"""From a reference to the version it means, within what is registered under its name."""

from __future__ import annotations

from collections.abc import Iterable

from loradex.core.adapter import BASE, LATEST, AdapterRef, Reference, check_name
from loradex.errors import AdapterNotFound, InvalidRequest, near
from loradex.registry.records import AdapterRecord, Meaning, VersionRecord


def select(record: AdapterRecord, reference: Reference) -> VersionRecord:
    """Return the version that a reference means.

    Raises:
        AdapterNotFound: there is none, or a short digest means several.
    """
    if reference.digest is not None:
        return _by_digest(record, reference)
    number = record.current
    if reference.version is not None:
        number = reference.version
    elif reference.alias == LATEST:
        number = record.versions[-1].version
    elif reference.alias is not None:
        number = record.aliases.get(reference.alias)
        if number is None:
            raise unknown_alias(record, reference.alias)
    found = record.version(number) if number is not None else None
    if found is None:
        raise unknown_version(record, number)
    return found


def _by_digest(record: AdapterRecord, reference: Reference) -> VersionRecord:
    start = reference.digest or ""
    found = [version for version in record.versions if version.digest.startswith(start)]
    if len({version.digest for version in found}) > 1:
        raise AdapterNotFound(
            f"`{reference}` means {len(found)} versions of `{record.name}`", hint="Give more of the digest"
        )
    if not found:
        raise AdapterNotFound(f"No version of `{record.name}` has a digest that begins with {start}")
    return found[-1]


def pinned(record: AdapterRecord, version: VersionRecord) -> AdapterRef:
    """Return the pinned reference of a version."""
    return AdapterRef(record.name, version.version, version.digest, version.defaults)


def meaning(record: AdapterRecord, reference: Reference) -> Meaning:
    """Return what a reference means, with the canary and the shadow of a bare name.

    Raises:
        AdapterNotFound: as for `select`.
    """
    ref = pinned(record, select(record, reference))
    if reference != Reference(reference.name) or not (record.canary or record.shadow):
        return Meaning(ref)
    numbers = {*record.canary, *((record.shadow.version,) if record.shadow else ())}
    refs = {version.version: pinned(record, version) for version in record.versions if version.version in numbers}
    return Meaning(ref, record.canary, record.shadow, refs)


def unknown_name(name: str, known: Iterable[str]) -> AdapterNotFound:
    """Return the error for a name that is not registered, with the names that look like it."""
    if alike := near(name, known):
        listed = " or ".join(f"`{one}`" for one in alike)
        return AdapterNotFound(f"There is no adapter `{name}`; did you mean {listed}?")
    return AdapterNotFound(f"There is no adapter `{name}`")


def unknown_version(record: AdapterRecord, number: int | None) -> AdapterNotFound:
    """Return the error for a version that a name does not have."""
    has = ", ".join(str(version.version) for version in record.versions[-8:])
    return AdapterNotFound(f"`{record.name}` has no version {number}; it has {has}")


def unknown_alias(record: AdapterRecord, alias: str) -> AdapterNotFound:
    """Return the error for an alias that a name does not have, with those that look like it."""
    alike = near(alias, record.aliases) or sorted(record.aliases)[:8]
    has = ", ".join(f"`{one}`" for one in alike)
    return AdapterNotFound(f"`{record.name}` has no alias `{alias}`" + (f"; it has {has}" if has else ""))


def check_new_name(name: str) -> None:
    """Check a name under which something is to be registered.

    Raises:
        InvalidRequest: it breaks the grammar, or means the base model.
    """
    if check_name(name) == BASE:
        raise InvalidRequest(f"`{BASE}` always means the base model", hint="Choose another name", param="name")


def check_new_alias(alias: str) -> None:
    """Check an alias that is to be set.

    Raises:
        InvalidRequest: it breaks the grammar, or could not be asked for: `latest` and numbers mean something already.
    """
    check_name(alias, "alias")
    if alias == LATEST or alias.isdigit():
        what = "the newest version" if alias == LATEST else "a version"
        raise InvalidRequest(f"`{alias}` always means {what}", hint="Choose another alias", param="alias")
