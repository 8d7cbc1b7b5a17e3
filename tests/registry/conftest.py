from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loradex.core.adapter import AdapterRef
from loradex.core.model import ModelInfo
from loradex.registry.registry import Registry
from tests.adapters.making import BASE, make_adapter, make_tensors

Add = Callable[..., AdapterRef]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A store just made; the tests of the database make their own."""
    home = tmp_path_factory.mktemp("home")
    Registry(home).close()
    return (home / "registry.db").read_bytes()


@pytest.fixture
def registry(home: Path, empty_store: bytes) -> Iterator[Registry]:
    home.mkdir()
    (home / "registry.db").write_bytes(empty_store)
    with Registry(home, busy_seconds=5) as opened:
        yield opened


@pytest.fixture
def add(registry: Registry, tmp_path: Path) -> Add:
    """Stage and commit weights made from a seed."""

    def adding(name: str, seed: int = 0, base: ModelInfo = BASE, **options: Any) -> AdapterRef:
        folder = make_adapter(tmp_path / f"{base.id}-{len(base.linears)}-{seed}", make_tensors(seed=seed, base=base))
        return registry.commit(name, registry.stage(folder, base, max_rank=16), **options)

    return adding


def files(home: Path) -> dict[str, bytes]:
    """Everything in the blobs folder."""
    return {str(path.relative_to(home)): path.read_bytes() for path in (home / "blobs").rglob("*") if path.is_file()}
