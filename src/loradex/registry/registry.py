"""Names, versions, aliases and history of adapters, and their files; every verb is all or nothing."""

from __future__ import annotations

import builtins
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from loradex.adapters.adapter import Adapter
from loradex.adapters.check import CheckReport, check_examined
from loradex.adapters.files import MAX_WEIGHTS_BYTES, AdapterFiles, find_files
from loradex.adapters.formats.detect import ForeignFiles
from loradex.adapters.packs import FOLDER, PackFolder
from loradex.adapters.read import Examined, examine, unreadable
from loradex.adapters.temporary import STALE_SECONDS
from loradex.core.adapter import DEFAULT_ALIAS, AdapterRef, Reference
from loradex.core.canary import Shares
from loradex.core.defaults import Defaults
from loradex.core.model import ModelInfo
from loradex.errors import AdapterInvalid, AdapterNotFound, Conflict, RegistryFailed
from loradex.registry import canary, changes, shadow, store
from loradex.registry.blobs import Blobs
from loradex.registry.database import Database
from loradex.registry.records import AdapterRecord, HistoryEntry, Meaning, Shadow, Staged, VersionRecord
from loradex.registry.selecting import check_new_alias, check_new_name, meaning, unknown_name
from loradex.registry.shelf import Shelf
from loradex.registry.source import find_source, weights_size
from loradex.registry.sources.access import EVERYWHERE, Access
from loradex.registry.sources.brought import brought, check_pin
from loradex.registry.sources.fetch import Fetched, Upload
from loradex.registry.sources.room import Room, Told
from loradex.registry.staging import copy_in

__all__ = ["AdapterRecord", "HistoryEntry", "Registry", "Staged", "VersionRecord"]


class Registry:
    """The adapters of one data folder. Safe from several threads and processes."""

    def __init__(self, home: Path, *, busy_seconds: float = 10.0) -> None:
        """Open the registry in `home`, made where it is missing; waits up to `busy_seconds` for other writers.

        Raises:
            RegistryFailed: it cannot be made or opened.
        """
        self.home = Path(home)
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            self._blobs = Blobs(self.home / "blobs")
            self._shelf = Shelf(self._blobs)
        except OSError as error:
            raise RegistryFailed(f"The data folder {home} cannot be made: {error.strerror or error}") from error
        self._packs = PackFolder(self.home / FOLDER)
        self._database = Database(self.home, busy_seconds)
        self._staged: Counter[str] = Counter()  # what this process may still commit
        self._lock = threading.Lock()
        self._blobs.sweep()
        self._collect([digest for digest, age in self._blobs.stored() if age > STALE_SECONDS])
        self._packs.sweep(self._blobs.has)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the store."""
        self._database.close()

    def check(
        self,
        folder: Path,
        base: ModelInfo,
        *,
        max_rank: int,
        allow_pickle: bool = False,
        allowed: Sequence[Path] | None = None,
        strict_base: bool = False,
    ) -> CheckReport:
        """Check an adapter as `stage` does, and report instead of refusing; nothing stays behind.

        Raises:
            PathNotAllowed, FilesNotFound, RegistryFailed: as for `stage`.
        """
        files = find_source(folder, allowed)
        if isinstance(files, AdapterFiles) and not (files.pickled and allow_pickle):
            return check_examined(examine(files), base, max_rank, strict_base=strict_base)
        with self._copied(files, base) as (_, found, _):
            report = check_examined(found, base, max_rank, strict_base=strict_base)
        return replace(report, format=files.format if isinstance(files, ForeignFiles) else report.format)

    def stage(
        self,
        folder: Path,
        base: ModelInfo,
        *,
        max_rank: int,
        allow_pickle: bool = False,
        allowed: Sequence[Path] | None = None,
        strict_base: bool = False,
        origin: str = "",
        sha256: str = "",
        rest: Callable[[], None] = lambda: None,
    ) -> Staged:
        """Copy an adapter into the store and check the copy; nothing is registered.

        Hand the result to `commit` or to `discard`. `allowed` are the folders from which may be read, None for all;
        `origin` is what is noted as its source where it is not the folder; `sha256`, if given, must be its digest;
        `rest` is called after every piece that is copied.

        Raises:
            PathNotAllowed: the folder, or a file in it, lies outside the allowed folders.
            FilesNotFound: there is no adapter in the folder.
            AdapterInvalid: it cannot be served; lists every problem. Nothing stays behind.
            RegistryFailed: the copy cannot be written.
        """
        files = find_source(folder, allowed)
        name = origin or Path(folder).name or str(folder)
        if isinstance(files, AdapterFiles) and (
            (files.pickled and not allow_pickle) or weights_size(files) > MAX_WEIGHTS_BYTES
        ):
            # Refused before anything is copied.
            check_examined(examine(files), base, max_rank, strict_base=strict_base).raise_if_bad(name)
        with self._copied(files, base, rest) as (temporary, found, note):
            report = check_examined(found, base, max_rank, strict_base=strict_base)
            report.raise_if_bad(name)
            check_pin(name, report.digest, sha256)
            self._hold(report.digest, 1)
            try:
                path = self._blobs.publish(temporary, report.digest)
            except OSError as error:
                self._hold(report.digest, -1)
                raise _failed("stored", files, error) from error
        source = os.fsencode(origin or files.folder).decode("utf-8", "replace")
        config = found.config.raw if found.config else {}
        return Staged(replace(found.adapter, path=path), report, source, base, config, note)

    def fetched(
        self,
        source: str | Upload,
        limit: int,
        *,
        access: Access = EVERYWHERE,
        told: Told | None = None,
        rest: Callable[[], None] = lambda: None,
    ) -> AbstractContextManager[Fetched]:
        """Bring a source of `limit` bytes at most here, for the time of a block. Raises what `brought` does."""
        return brought(source, lambda what, folder: Room(folder, limit, what, told, rest), self._blobs.staging, access)

    def receiving(self) -> AbstractContextManager[Path]:
        """Give an empty folder of the store for what a client sends; it is gone after the block, or when we are."""
        return self._blobs.staging()

    def discard(self, staged: Staged) -> None:
        """Remove the files of what will not be committed, unless a version, or another `stage`, needs them."""
        self._hold(staged.adapter.digest, -1)
        with suppress(RegistryFailed):  # they are swept later
            self._collect([staged.adapter.digest])

    def commit(
        self, name: str, staged: Staged, *, actor: str = "", serve: bool = False, canary: float | None = None
    ) -> AdapterRef:
        """Register what was staged, in one transaction, and enable the name.

        Content that the name has already keeps its number. `serve` makes the bare name mean this version; `canary`
        gives it that percentage of the requests for the bare name, which goes on to mean what it means.

        Raises:
            InvalidRequest: the name breaks the grammar or is reserved, or there is nothing to be a canary beside.
            Conflict: the staged files were removed meanwhile.
            RegistryFailed: the store cannot be written. Nothing was changed.
        """
        check_new_name(name)
        digest = staged.adapter.digest
        with self._database.write() as connection:
            if not self._blobs.has(digest):
                raise Conflict(f"The files of `{name}` were removed meanwhile", hint="Add the adapter again")
            number = changes.add(connection, name, staged, actor, serve, canary)
        self._hold(digest, -1)
        return AdapterRef(name, number, digest)

    def resolve(self, reference: Reference | str, base: str | None = None) -> AdapterRef:
        """Return the version that a reference means, for the base with this digest. Raises what `meaning` does."""
        return self.meaning(reference, base).ref

    def meaning(self, reference: Reference | str, base: str | None = None) -> Meaning:
        """Return what a reference means, for the base model with this digest, with the canary of a bare name.

        Raises:
            InvalidRequest: the reference breaks the grammar.
            AdapterNotFound: no such name, version, alias or digest, or the name is disabled; the message names what is
                near.
        """
        if isinstance(reference, str):
            reference = Reference.parse(reference)
        with self._database.read() as connection:
            if store.adapter_id(connection, reference.name) is None:
                raise unknown_name(reference.name, store.names(connection, base))
            _, record = store.existing(connection, reference.name, base)
        if not record.enabled:
            raise AdapterNotFound(
                f"The adapter `{record.name}` is disabled", hint=f"Enable it with `loradex load {record.name}`"
            )
        return meaning(record, reference)

    def adapter(self, digest: str, *, verify: bool = False) -> Adapter:
        """Return a stored adapter. All of it is read again and compared if `verify`, or if its files were touched.

        Raises:
            AdapterDamaged: its files are gone or differ from the digest.
        """
        return self._shelf.adapter(digest, verify=verify)

    def get(self, name: str, base: str | None = None) -> AdapterRecord:
        """Return all that is known of a name, disabled or not; with `base`, only what fits that base.

        Raises:
            AdapterNotFound: there is none.
        """
        with self._database.read() as connection:
            return store.existing(connection, name, base)[1]

    def list(self, base: str | None = None) -> builtins.list[AdapterRecord]:
        """Return every name in order, disabled ones too; with `base`, only what fits that base."""
        with self._database.read() as connection:
            return store.records(connection, base)

    def promote(self, name: str, version: int, alias: str = DEFAULT_ALIAS, *, actor: str = "") -> AdapterRef:
        """Point an alias at a version.

        Raises:
            AdapterNotFound: no such name or version.
            InvalidRequest: the alias breaks the grammar or is reserved.
        """
        check_new_alias(alias)
        with self._database.write() as connection:
            return changes.point(connection, name, version, alias, actor, "promote")

    def remove_alias(self, name: str, alias: str, *, actor: str = "", base: str | None = None) -> None:
        """Remove an alias, from every base or from one.

        Raises:
            AdapterNotFound: no such name or alias.
        """
        with self._database.write() as connection:
            changes.unalias(connection, name, alias, actor, base)

    def previous(self, name: str, base: str | None = None) -> AdapterRef:
        """Return what the bare name meant before its meaning last changed, of what still exists.

        While a canary runs, that is what the name means beside it.

        Raises:
            AdapterNotFound: no such name, or it never meant anything else.
        """
        with self._database.read() as connection:
            return changes.earlier(connection, name, base)

    def rollback(self, name: str, *, actor: str = "", base: str | None = None, note: str = "") -> AdapterRef:
        """Point the alias `default` at `previous`; once more goes forward again. A canary that runs is ended.

        Raises:
            AdapterNotFound: as for `previous`.
        """
        with self._database.write() as connection:
            target = changes.earlier(connection, name, base)
            return changes.point(connection, name, target.version, DEFAULT_ALIAS, actor, "rollback", note)

    def canary(self, name: str, shares: Shares, *, actor: str = "", base: str | None = None) -> AdapterRecord:
        """Let versions share the requests for the bare name, in percent; what is missing to 100 stays where it is.

        What the name goes back to is the version with the largest share; in a running canary it stays the same.

        Raises:
            AdapterNotFound: no such name or version.
            InvalidRequest: the shares are no percentages, or leave everything to one version.
        """
        with self._database.write() as connection:
            return canary.begin(connection, name, shares, actor, base)

    def end_canary(
        self,
        name: str,
        version: int | None = None,
        *,
        actor: str = "",
        base: str | None = None,
        action: str = "end_canary",
        note: str = "",
    ) -> AdapterRef:
        """Give the share of one version, or of all, back to what the name goes back to; return that.

        Raises:
            AdapterNotFound: no such name, or it has no canary, or none with that version.
        """
        with self._database.write() as connection:
            return canary.end(connection, name, version, actor, base, action, note)

    def shadow(self, name: str, version: int, percent: float = 100.0, *, actor: str = "") -> None:
        """Let a version get a copy of `percent` of the requests for the bare name, on the version's base.

        Raises:
            AdapterNotFound: no such name or version.
            InvalidRequest: that is no percentage.
        """
        with self._database.write() as connection:
            shadow.begin(connection, name, Shadow(version, percent), actor)

    def end_shadow(self, name: str, *, actor: str = "", base: str | None = None) -> None:
        """End the copies.

        Raises:
            AdapterNotFound: no such name, or it has no shadow.
        """
        with self._database.write() as connection:
            shadow.end(connection, name, actor, base)

    def configure(
        self, name: str, version: int | None, defaults: Defaults, *, actor: str = "", base: str | None = None
    ) -> AdapterRef:
        """Change what requests may leave out, of a version; None for the one that the name means. Return it.

        Raises:
            AdapterNotFound: no such name or version.
        """
        with self._database.write() as connection:
            return changes.configure(connection, name, version, defaults, actor, base)

    def enable(self, name: str, enabled: bool, *, actor: str = "") -> None:
        """Show or hide a name: a disabled one is not found by `resolve`, and loses nothing.

        Raises:
            AdapterNotFound: no such name.
        """
        with self._database.write() as connection:
            changes.switch(connection, name, enabled, actor)

    def remove(self, name: str, version: int | None = None, *, actor: str = "") -> None:
        """Remove a version, or the whole name with its history, and the files that nothing refers to any more.

        The last version takes the name with it.

        Raises:
            AdapterNotFound: no such name or version.
            Conflict: an alias points to the version.
        """
        with self._database.write() as connection:
            digests = changes.drop(connection, name, version, actor)
        with suppress(RegistryFailed):  # the name is gone; files that could not be removed are swept later
            self._collect(digests)

    def history(self, name: str) -> builtins.list[HistoryEntry]:
        """Return every change of a name, oldest first.

        Raises:
            AdapterNotFound: no such name.
        """
        with self._database.read() as connection:
            return store.entries(connection, store.existing(connection, name)[0])

    @contextmanager
    def _copied(
        self, files: AdapterFiles | ForeignFiles, base: ModelInfo, rest: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[Path, Examined, str]]:
        with ExitStack() as stack:
            try:
                temporary = stack.enter_context(self._blobs.staging())
                copied = copy_in(files, temporary, base, rest)
                found, note = examine(find_files(temporary), copied.digest), copied.note
            except AdapterInvalid as error:
                found, note = unreadable(files.folder, error.problems), ""
            except OSError as error:
                raise _failed("copied", files, error) from error
            yield temporary, found, note

    def _hold(self, digest: str, by: int) -> None:
        with self._lock:
            self._staged[digest] = max(0, self._staged[digest] + by)

    def _collect(self, digests: Sequence[str]) -> None:
        # Under the write lock nobody can commit: what has no version now has none until the files are gone.
        if not digests:
            return
        with self._database.write() as connection:
            for digest in dict.fromkeys(digests):
                if not self._staged[digest] and not store.references(connection, digest):
                    self._blobs.remove(digest)
                    self._packs.remove(digest)


def _failed(what: str, files: AdapterFiles | ForeignFiles, error: OSError) -> RegistryFailed:
    return RegistryFailed(f"The adapter at {files.folder} could not be {what}: {error.strerror or error}")
