"""Archives: what is good comes out whole, what is hostile leaves nothing outside and takes no memory."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradex.errors import AdapterInvalid
from loradex.registry.sources.archive import unpack
from loradex.registry.sources.room import MAX_FILES, Room

from .packing import contents, tar_of, zip_of

GOOD = {"adapter_config.json": b"{}", "inner/adapter_model.safetensors": bytes(range(256)) * 999}
PACK = {"zip": zip_of, "tar": tar_of, "tar.gz": lambda files: tar_of(files, "w:gz")}
Pack = Callable[[dict[str, bytes]], bytes]


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
def test_files_come_out_as_they_went_in(pack: Pack, room: Room) -> None:
    unpack(io.BytesIO(pack(GOOD)), room)
    assert contents(room.folder) == GOOD


def test_a_tar_of_the_folder_itself_is_plain(room: Room, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"1")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(tmp_path / "in", arcname=".")
    unpack(io.BytesIO(buffer.getvalue()), room)
    assert contents(room.folder) == {"a": b"1"}


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
@pytest.mark.parametrize(
    "name", ["../out", "a/../../out", "/etc/out", "a//b", "..\\out", "C:/out", "x" * 300, "a/./b", "d" + "/d" * 600]
)
def test_names_that_lead_out_are_refused(pack: Pack, name: str, room: Room) -> None:
    with pytest.raises(AdapterInvalid) as error:
        unpack(io.BytesIO(pack({"first": b"1", name: b"2"})), room)
    assert error.value.problems[0].code == "unsafe_source"
    assert set(contents(room.folder.parent)) == {"room/first"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_tar_with_links_or_devices_is_refused(kind: bytes, room: Room) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("adapter_config.json")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(AdapterInvalid, match="no regular file"):
        unpack(io.BytesIO(buffer.getvalue()), room)
    assert list(room.folder.iterdir()) == []


def test_a_zip_with_links_is_refused(room: Room) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("adapter_config.json")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(AdapterInvalid, match="no regular file"):
        unpack(io.BytesIO(buffer.getvalue()), room)


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
def test_two_files_of_one_name_are_refused(pack: Pack, room: Room) -> None:
    with pytest.raises(AdapterInvalid, match="twice"):
        unpack(io.BytesIO(pack({"a": b"1", "./a": b"2"})), room)
    with pytest.raises(AdapterInvalid, match="twice"):
        unpack(io.BytesIO(pack({"b": b"1", "b/c": b"2"})), room)


@pytest.mark.parametrize("pack", [zip_of, PACK["tar.gz"]])
def test_a_bomb_ends_at_the_limit_whatever_its_headers_say(pack: Pack, room: Room) -> None:
    with pytest.raises(AdapterInvalid) as error:
        unpack(io.BytesIO(pack({"zeros": bytes(room.limit + 1)})), room)
    assert error.value.problems[0].code == "too_large"
    assert sum(map(len, contents(room.folder).values())) <= room.limit


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_endless_entries_are_refused(pack: Pack, room: Room) -> None:
    with pytest.raises(AdapterInvalid, match=str(MAX_FILES)):
        unpack(io.BytesIO(pack({str(n): b"" for n in range(MAX_FILES + 2)})), room)


def test_a_header_that_claims_gigabytes_takes_no_memory(room: Room) -> None:
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 64 << 20
    body = gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(64 << 20), 1)
    tracemalloc.start()
    try:
        with pytest.raises(AdapterInvalid) as error:
            unpack(io.BytesIO(body), room)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
    assert error.value.problems[0].code == "archive_broken"


def test_encrypted_and_strangely_packed_zips_are_refused(room: Room) -> None:
    plain = bytearray(zip_of({"a": b"secret"}))
    at = plain.index(b"PK\x01\x02")
    plain[at + 8] |= 1
    plain[6] |= 1
    with pytest.raises(AdapterInvalid):
        unpack(io.BytesIO(bytes(plain)), room)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", b"1" * 99)
    with pytest.raises(AdapterInvalid, match="not read here"):
        unpack(io.BytesIO(buffer.getvalue()), room)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04", b"\x1f\x8b", b"hello" * 300, tar_of({}), zip_of({})])
def test_what_is_no_archive_is_refused(content: bytes, room: Room) -> None:
    with pytest.raises(AdapterInvalid) as error:
        unpack(io.BytesIO(content), room)
    assert error.value.problems[0].code == "archive_broken"


@given(st.sampled_from(sorted(PACK)), st.integers(0, 2000), st.binary(min_size=1, max_size=40), st.booleans())
def test_damage_anywhere_never_escapes_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, at: int, noise: bytes, cut: bool
) -> None:
    good = PACK[kind]({"adapter_config.json": b"{}" * 40, "w": struct.pack("<64d", *range(64))})
    at %= len(good)
    bad = good[:at] if cut else good[:at] + noise + good[at + len(noise) :]
    outer = tmp_path_factory.mktemp("outer")
    (outer / "room").mkdir()
    with suppress(AdapterInvalid):
        unpack(io.BytesIO(bad), Room(outer / "room", 1 << 16, "it"))
    assert all(name.startswith("room/") for name in contents(outer))
