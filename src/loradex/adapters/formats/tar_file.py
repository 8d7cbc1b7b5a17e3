"""The members of a tar archive as parts of the map of it: nothing is ever unpacked."""

from __future__ import annotations

import tarfile
from pathlib import PurePosixPath

from loradex.adapters.formats.mapped import Mapped
from loradex.adapters.formats.refusal import refuse
from loradex.adapters.listing import printable

MAX_MEMBERS = 4096
_AGAIN = "Pack it again as plain files: `tar -cf adapter.nemo -C FOLDER .`"


def read_tar(file: Mapped) -> dict[str, Mapped]:
    """Return each file in an uncompressed archive by its name, without `./`.

    Raises:
        AdapterInvalid: it is none, or a member is a link or a device, leads outside, is sparse, or comes twice.
    """
    members: dict[str, Mapped] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for count, info in enumerate(archive):
                name = str(PurePosixPath(info.name))
                if count >= MAX_MEMBERS:
                    refuse(file.path, "bad_archive", f"holds more than {MAX_MEMBERS} members", _AGAIN)
                if info.isdir():
                    continue
                if wrong := _wrong(info, name in members):
                    refuse(file.path, "bad_archive", f"holds `{printable(info.name)}`, which {wrong}", _AGAIN)
                members[name] = file.part(info.offset_data, info.size)
    except (tarfile.TarError, ValueError, EOFError, OSError, OverflowError) as error:
        packed = file.part(0, min(2, len(file.data))).read() == b"\x1f\x8b"
        what = "is compressed" if packed else f"is no tar archive: {printable(str(error))}"
        refuse(file.path, "bad_archive", what, _AGAIN)
    return members


def _wrong(info: tarfile.TarInfo, twice: bool) -> str:
    if not info.isfile() or info.issparse():
        return "is no plain file"
    if PurePosixPath(info.name).is_absolute() or ".." in PurePosixPath(info.name).parts or "\\" in info.name:
        return "leads outside of the archive"
    return "comes twice" if twice else ""
