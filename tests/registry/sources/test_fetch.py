"""Every kind of source through the registry's own door, from real servers and stores of this machine."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import fsspec
import pytest

from loradex.errors import AdapterInvalid, FilesNotFound, InvalidRequest, MissingExtra, PathNotAllowed, SourceFailed
from loradex.registry.records import Staged
from loradex.registry.registry import Registry
from loradex.registry.sources.access import EVERYWHERE, Access
from loradex.registry.sources.fetch import Upload, pinned
from tests.adapters.making import BASE, make_adapter, make_tensors
from tests.adapters.test_tokenizer import TOOL, TRAINED, save

from .conftest import Web
from .packing import contents, tar_of, zip_of

LIMIT = 1 << 20


def staged(
    registry: Registry, source: str | Upload, *, access: Access = EVERYWHERE, limit: int = LIMIT, pin: str = ""
) -> Staged:
    with registry.fetched(source, limit, access=access) as found:
        pin = "" if pin and found.is_file(pin) else pin
        origin, allowed = found.origin, found.allowed
        return registry.stage(found.path, BASE, max_rank=16, allowed=allowed, origin=origin, sha256=pin)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "medical")


def assert_nothing_is_left(registry: Registry) -> None:
    assert contents(registry.home / "blobs") == {}
    assert list((registry.home / "blobs").iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz", "file://"])
def test_sources_of_this_machine_have_one_digest(registry: Registry, adapter: Path, tmp_path: Path, kind: str) -> None:
    files = contents(adapter)
    (tmp_path / "a.zip").write_bytes(zip_of({f"medical/{name}": content for name, content in files.items()}))
    (tmp_path / "a.tar.gz").write_bytes(tar_of(files, "w:gz"))
    source = {"folder": str(adapter), "file://": adapter.as_uri()}.get(kind, str(tmp_path / f"a.{kind}"))
    found = staged(registry, source)
    assert found.adapter.digest == staged(registry, str(adapter)).adapter.digest
    assert found.source == (str(adapter) if kind == "file://" else source)


def test_a_folder_and_an_archive_on_a_web_server(registry: Registry, adapter: Path, web: Web) -> None:
    files = contents(adapter)
    make_adapter(web.folder / "medical")
    (web.folder / "packed.tar.gz").write_bytes(tar_of(files, "w:gz"))
    digest = staged(registry, str(adapter)).adapter.digest
    for source in (f"{web.url}/medical", f"{web.url}/medical/", f"{web.url}/packed.tar.gz?signature=secret"):
        found = staged(registry, source)
        assert found.adapter.digest == digest
        assert found.source == source.partition("?")[0]
    assert web.asked[-1] == "/packed.tar.gz?signature=secret"


def test_a_folder_on_a_web_server_brings_the_tokens_that_it_trains(registry: Registry, web: Web) -> None:
    trained = make_adapter(web.folder / "trained", make_tensors() | TRAINED, trainable_token_indices=[7])
    without = staged(registry, f"{web.url}/trained").adapter
    save(trained, TOOL)
    found = staged(registry, f"{web.url}/trained").adapter
    assert found.vocabulary == staged(registry, str(trained)).adapter.vocabulary
    assert [token.content for token in found.vocabulary.tokens] == ["<tool>"]
    assert found.digest == staged(registry, str(trained)).adapter.digest != without.digest
    web.asked.clear()
    save(make_adapter(web.folder / "plain"), TOOL)
    assert staged(registry, f"{web.url}/plain").adapter.vocabulary is None
    assert web.asked == ["/plain/adapter_config.json", "/plain/adapter_model.safetensors"]  # whole tokenizers are large
    (trained / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(AdapterInvalid) as error:
        staged(registry, f"{web.url}/trained")
    assert error.value.problems[0].code == "bad_tokenizer"


def test_what_a_web_server_lacks_or_breaks_is_said(registry: Registry, web: Web) -> None:
    for path, error in (("none", FilesNotFound), ("fail.zip", SourceFailed), ("cut.zip", SourceFailed)):
        with pytest.raises(error, match=web.url):
            staged(registry, f"{web.url}/{path}")
    with pytest.raises(SourceFailed):
        staged(registry, "http://127.0.0.1:9/a.zip")
    with pytest.raises(SourceFailed, match="redirects"):
        staged(registry, f"{web.url}/{'to/127.0.0.1/' * 7}a.zip")
    assert_nothing_is_left(registry)


def test_redirects_lead_only_where_is_allowed(registry: Registry, adapter: Path, web: Web) -> None:
    (web.folder / "a.zip").write_bytes(zip_of(contents(adapter)))
    port = web.url.rpartition(":")[2]
    source = f"{web.url}/to/localhost/a.zip"
    with pytest.raises(PathNotAllowed, match="localhost"):
        staged(registry, source, access=Access((), (web.url,)))
    assert web.asked == ["/to/localhost/a.zip"]
    staged(registry, source, access=Access((), (web.url, f"http://localhost:{port}/a.zip")))
    staged(registry, source)


def test_a_download_ends_at_the_limit(registry: Registry, adapter: Path, web: Web) -> None:
    (web.folder / "a.zip").write_bytes(zip_of(contents(adapter)))
    with pytest.raises(AdapterInvalid, match="limit"):
        staged(registry, f"{web.url}/a.zip", limit=1000)
    assert_nothing_is_left(registry)


def test_progress_goes_from_nothing_to_all(registry: Registry, adapter: Path, web: Web) -> None:
    (web.folder / "a.tar").write_bytes(tar_of(contents(adapter)))
    told: list[tuple[str, float]] = []
    with registry.fetched(f"{web.url}/a.tar", LIMIT, told=lambda stage, share: told.append((stage, share))):
        pass
    assert {stage for stage, _ in told} == {"download a.tar"}
    shares = [share for _, share in told]
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert shares == sorted(shares)


def test_object_stores_by_fsspec(registry: Registry, adapter: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name, content in contents(adapter).items():
        memory.pipe(f"/bucket/medical/{name}", content)
    memory.pipe("/bucket/medical/optimizer.pt", b"x" * LIMIT)
    memory.pipe("/bucket/a.zip", zip_of(contents(adapter)))
    memory.pipe("/bucket/other/notes.md", b"x")
    digest = staged(registry, str(adapter)).adapter.digest
    for source in ("memory://bucket/medical", "memory://bucket/medical/", "memory://bucket/a.zip"):
        found = staged(registry, source)
        assert (found.adapter.digest, found.source) == (digest, source)
    for source in ("memory://bucket/other", "memory://bucket/nothing"):
        with pytest.raises(FilesNotFound, match=source):
            staged(registry, source)
    with pytest.raises(AdapterInvalid, match="limit"):
        staged(registry, "memory://bucket/medical", limit=1000)
    memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize(("source", "package", "extra"), [("s3://b/a", "s3fs", "s3"), ("gs://b/a", "gcsfs", "gs")])
def test_a_missing_package_is_named_with_its_extra(
    registry: Registry, source: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=package) as error:
        staged(registry, source)
    assert f"loradex[{extra}]" in error.value.hint


def test_unknown_schemes_are_refused(registry: Registry) -> None:
    with pytest.raises(SourceFailed, match="nothing-such"):
        staged(registry, "nothing-such://a/b")


def test_addresses_are_nothing_for_clients_by_default(registry: Registry, web: Web, adapter: Path) -> None:
    nowhere = Access((adapter.parent,), ())
    for source in (f"{web.url}/a.zip", "s3://a/b", "hf://a/b", "memory://a", "file:///etc", "ftp://127.0.0.1/x"):
        with pytest.raises(PathNotAllowed):
            staged(registry, source, access=nowhere)
    assert web.asked == []
    staged(registry, str(adapter), access=nowhere)
    with pytest.raises(PathNotAllowed):
        staged(registry, "acme/medical", access=nowhere)


def test_archives_must_lie_in_allowed_folders_too(registry: Registry, adapter: Path, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "a.zip").write_bytes(zip_of(contents(adapter)))
    (inside / "link.zip").symlink_to(tmp_path / "a.zip")
    for source in (tmp_path / "a.zip", inside / "link.zip"):
        with pytest.raises(PathNotAllowed):
            staged(registry, str(source), access=Access((inside,), ()))
    (inside / "a.zip").write_bytes(zip_of(contents(adapter)))
    staged(registry, str(inside / "a.zip"), access=Access((inside,), ()))


def test_a_pin_lets_one_content_pass(registry: Registry, adapter: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zip_of(contents(adapter)))
    of_file = hashlib.sha256(archive.read_bytes()).hexdigest()
    for source in (str(adapter), str(archive)):
        with pytest.raises(AdapterInvalid) as error:
            staged(registry, source, pin="0" * 64)
        assert error.value.problems[0].code == "sha256_mismatch"
    assert_nothing_is_left(registry)
    digest = staged(registry, str(archive), pin=of_file).adapter.digest
    for source in (str(adapter), str(archive)):
        assert staged(registry, source, pin=digest).adapter.digest == digest
    with pytest.raises(AdapterInvalid):
        staged(registry, str(adapter), pin=of_file)
    assert pinned(f"SHA256:{digest.upper()}") == pinned(digest)
    with pytest.raises(InvalidRequest):
        pinned("abc")


def test_messages_name_the_source_and_not_our_folder(registry: Registry, web: Web) -> None:
    (web.folder / "a.zip").write_bytes(zip_of({"config.json": b"{}"}))
    with pytest.raises(FilesNotFound) as error:
        staged(registry, f"{web.url}/a.zip")
    assert "tmp-" not in error.value.message
    assert f"{web.url}/a.zip" in error.value.message
    assert_nothing_is_left(registry)


def test_a_full_disk_is_said_and_leaves_nothing(
    registry: Registry, web: Web, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loradex.errors import RegistryFailed

    (web.folder / "a.zip").write_bytes(zip_of(contents(adapter)))
    right = Path.open

    def full(self: Path, mode: str = "r", *rest: object) -> object:
        if mode == "xb":
            raise OSError(28, "No space left on device")
        return right(self, mode, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RegistryFailed, match="No space"):
        staged(registry, f"{web.url}/a.zip")
    monkeypatch.undo()
    assert_nothing_is_left(registry)


def test_an_upload_is_an_archive_by_its_content(registry: Registry, adapter: Path, tmp_path: Path) -> None:
    for content in (zip_of(contents(adapter)), tar_of(contents(adapter)), tar_of(contents(adapter), "w:gz")):
        path = tmp_path / "upload"
        path.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        assert staged(registry, Upload(path, sha256), pin=sha256).source == "upload"
    path.write_bytes(b"no archive")
    with pytest.raises(AdapterInvalid, match="neither"):
        staged(registry, Upload(path, ""))
