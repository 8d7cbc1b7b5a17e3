"""`hf://owner/name@revision`: an adapter on the Hugging Face Hub, always taken at one commit.

Files come through huggingface_hub and its cache, so that what was downloaded before needs no network, and `HF_TOKEN`,
`HF_ENDPOINT` and `HF_HUB_OFFLINE` mean what they mean elsewhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from loradex.errors import FilesNotFound, InvalidRequest, MissingExtra, SourceFailed
from loradex.registry.sources.room import Room
from loradex.registry.sources.wanted import is_wanted

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_ID = re.compile(rf"(?P<id>{_PART}/{_PART})(@(?P<revision>[^@/]+))?(/(?P<inner>[^@]+))?")


@dataclass(frozen=True, slots=True)
class HubPlace:
    """A folder of a repository: `inner` is empty for its root, `revision` for its main branch."""

    id: str
    revision: str
    inner: str

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.id}{revision}{'/' + self.inner if self.inner else ''}"


def parse(url: str) -> HubPlace:
    """Read `hf://owner/name[@revision][/folder]`; a slash in a revision is written `%2F`.

    Raises:
        InvalidRequest: it has another form.
    """
    match = _ID.fullmatch(url.removeprefix("hf://").rstrip("/"))
    inner = (match["inner"] or "") if match else ""
    if match is None or ".." in match["id"] or any(part in ("", ".", "..") for part in inner.split("/") if inner):
        raise InvalidRequest(f"{url[:200]!r} names no place on the Hub", hint="Write hf://owner/name@revision")
    return HubPlace(match["id"], unquote(match["revision"] or ""), inner)


def fetch(place: HubPlace, room: Room) -> tuple[Path, HubPlace]:
    """Bring the files of an adapter into the Hub's cache; return their folder, and the place at its commit.

    Raises:
        FilesNotFound: no such repository, revision or folder, or it is private.
        SourceFailed: the Hub cannot be reached, and the cache has not got it.
        AdapterInvalid: it is larger than there is room.
        MissingExtra: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import HfApi, hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError as error:
        raise MissingExtra("huggingface_hub", "hub") from error
    try:
        info = HfApi().model_info(place.id, revision=place.revision or None, files_metadata=True)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        what = f"No adapter at {place}: the Hub has no such model or revision, or it is private"
        raise FilesNotFound(what, hint="Check the name; for a private one set HF_TOKEN") from error
    except HfHubHTTPError as error:
        raise SourceFailed(f"{place} cannot be read: {_first_line(error)}") from error
    except Exception as error:  # noqa: BLE001 - offline: by its release, the client raises errors of four libraries
        return _cached(place, error)
    names = _names(place, info, room)
    # By the name of the branch, so that the cache knows it when there is no network.
    revision = place.revision or "main"
    try:
        files = [Path(hf_hub_download(place.id, name, revision=revision)) for name in names]
    except Exception as error:  # as above, and RuntimeError from what transfers files
        raise SourceFailed(f"{place} cannot be downloaded: {_first_line(error)}") from error
    roots = {path.parents[name.count("/")] for name, path in zip(names, files, strict=True)}
    if {root.name for root in roots} != {info.sha}:
        raise SourceFailed(f"{place} changed while it was downloaded", hint="Try again, or name a commit")
    return roots.pop() / place.inner, HubPlace(place.id, str(info.sha), place.inner)


def _names(place: HubPlace, info: ModelInfo, room: Room) -> list[str]:
    above = PurePosixPath(place.inner)
    found = {
        each.rfilename: each.size or 0
        for each in info.siblings or ()
        if PurePosixPath(each.rfilename).is_relative_to(above) and is_wanted(each.rfilename)
    }
    if not found:
        raise FilesNotFound(f"No adapter at {place}: there are no files of an adapter")
    room.expect(sum(found.values()))
    return list(found)


def _cached(place: HubPlace, reason: Exception) -> tuple[Path, HubPlace]:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(place.id, revision=place.revision or None, local_files_only=True))
    except Exception as error:  # as above
        said = f"{place} is not in the cache, and the Hub cannot be reached: {_first_line(reason)}"
        raise SourceFailed(said, hint="Check the network, or give a folder of this machine") from error
    return folder / place.inner, HubPlace(place.id, folder.name, place.inner)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
