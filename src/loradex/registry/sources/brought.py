"""A source on this machine for the time of a block, whichever way it came; afterwards nothing of it is left over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from loradex.errors import AdapterInvalid, FilesNotFound, Problem, RegistryFailed
from loradex.registry.sources.access import Access
from loradex.registry.sources.fetch import Fetched, Upload, fetch, unpacked
from loradex.registry.sources.room import Room

Folder = Callable[[], AbstractContextManager[Path]]
"""Makes an empty folder, which is gone after its block."""

Furnish = Callable[[str, Path], Room]
"""Makes a room, for a source in words, of an empty folder."""


@contextmanager
def brought(source: str | Upload, room: Furnish, folder: Folder, access: Access) -> Iterator[Fetched]:
    """Bring a source here. Messages about its files name the source, not the folder of ours in which they lie.

    Raises:
        LoradexError: what `fetch` and `unpacked` raise.
        RegistryFailed: it cannot be written.
    """
    what = "The upload" if isinstance(source, Upload) else source
    with ExitStack() as stack:

        def make_room() -> Room:
            return room(what, stack.enter_context(folder()))

        try:
            found = unpacked(source, make_room) if isinstance(source, Upload) else fetch(source, make_room, access)
        except OSError as error:
            raise RegistryFailed(f"{what} could not be brought here: {error.strerror or error}") from error
        try:
            yield found
        except (FilesNotFound, AdapterInvalid) as error:
            if found.origin:
                error.message = error.message.replace(str(found.path), found.origin)
            raise


def check_pin(name: str, digest: str, sha256: str) -> None:
    """Let an adapter pass that is what was pinned; an empty pin lets everything pass.

    Raises:
        AdapterInvalid: it is another.
    """
    if sha256 and digest != sha256:
        fix = "Find out who changed it; the pin is the digest that `adapter check` prints, or an archive's SHA-256"
        problem = Problem("sha256_mismatch", f"its digest is {digest}, not {sha256}", fix)
        raise AdapterInvalid(f"{name} is not what was pinned", [problem])
