"""Object stores by their own protocols: the real clients, against servers of this machine that speak S3's and GCS's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from loradex.errors import AdapterInvalid, FilesNotFound, SourceFailed
from loradex.registry.registry import Registry
from tests.adapters.making import make_adapter, make_tensors

from .packing import contents, zip_of
from .test_fetch import LIMIT, assert_nothing_is_left, staged

NEEDS = "needs `pip install 'loradex[test-stores]'`"


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def s3(environment: pytest.MonkeyPatch) -> Iterator[Any]:
    server = pytest.importorskip("moto.server", reason=NEEDS).ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    pytest.importorskip("s3fs", reason=NEEDS)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("DEFAULT_REGION", "us-east-1")):
        environment.setenv(f"AWS_{name}", value)
    environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    store = fsspec.filesystem("s3")
    store.mkdir("bucket")
    yield store
    store.clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module")
def gs(environment: pytest.MonkeyPatch) -> Iterator[Any]:
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason=NEEDS)
    # Else it asks Google itself, by gRPC and without end, which kind of bucket it is.
    environment.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    pytest.importorskip("gcsfs", reason=NEEDS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    environment.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    store = fsspec.filesystem("gs", token="anon")
    yield store
    store.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["s3", "gs"])
def store(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """The scheme, and a client of the store behind it."""
    return request.param, request.getfixturevalue(request.param)


def test_folders_and_archives_come_whole_and_as_they_are_now(
    registry: Registry, store: tuple[str, Any], tmp_path: Path
) -> None:
    scheme, files = store
    first, second = (make_adapter(tmp_path / str(seed), make_tensors(seed=seed)) for seed in (1, 2))
    for name, content in contents(first).items():
        files.pipe(f"bucket/team/medical/{name}", content)
    files.pipe("bucket/team/medical/optimizer.pt", b"x" * LIMIT)
    files.pipe("bucket/team/medical-2/notes.md", b"x")
    files.pipe("bucket/medical.zip", zip_of(contents(first)))
    digest = staged(registry, str(first)).adapter.digest
    for place in ("team/medical", "team/medical/", "medical.zip"):
        found = staged(registry, f"{scheme}://bucket/{place}")
        assert (found.adapter.digest, found.source) == (digest, f"{scheme}://bucket/{place}")
    for name, content in contents(second).items():
        files.pipe(f"bucket/team/medical/{name}", content)
    changed = staged(registry, f"{scheme}://bucket/team/medical").adapter.digest
    assert changed == staged(registry, str(second)).adapter.digest != digest


def test_what_is_not_there_or_too_large_is_said(registry: Registry, store: tuple[str, Any], tmp_path: Path) -> None:
    scheme, files = store
    for name, content in contents(make_adapter(tmp_path / "a")).items():
        files.pipe(f"bucket/large/{name}", content)
    files.pipe("bucket/other/notes.md", b"x")
    for place in ("bucket/none", "bucket/none.zip", "bucket/other", "nowhere-at-all/medical"):
        with pytest.raises(FilesNotFound, match=f"{scheme}://{place}"):
            staged(registry, f"{scheme}://{place}")
    with pytest.raises(AdapterInvalid, match="limit"):
        staged(registry, f"{scheme}://bucket/large", limit=1000)
    assert_nothing_is_left(registry)


def test_a_store_that_refuses_is_named(
    registry: Registry, s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3.clear_instance_cache()
    with pytest.raises(SourceFailed, match=r"s3://bucket/medical cannot be read: .*credentials") as error:
        staged(registry, "s3://bucket/medical")
    assert "credentials" in error.value.hint
    s3.clear_instance_cache()
