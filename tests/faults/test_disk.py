"""A full disk, a store that may only be read, files that go or change under a map: a clear error, and the old state."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from loradex.errors import AdapterDamaged, RegistryFailed
from loradex.registry.registry import Registry
from tests.adapters.making import BASE, make_adapter, make_tensors
from tests.service.deck import Deck

from .killing import temporary, view

ROOT = Path(__file__).parents[2]


@contextmanager
def full(size: int) -> Iterator[None]:
    """Let no file of this process grow past `size` bytes: writes fail as on a full disk, with another number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest_asyncio.fixture
async def deck(tmp_path: Path) -> AsyncIterator[Deck]:
    made = Deck(tmp_path)
    await made.service.start()
    yield made
    await made.service.stop()
    made.registry.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    with Registry(folder / "home") as registry:
        for seed in (1, 2):
            staged = registry.stage(make_adapter(folder / str(seed), make_tensors(seed=seed)), BASE, max_rank=16)
            registry.commit("medical", staged, serve=True)
    make_adapter(folder / "5", make_tensors(seed=5))
    return folder


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return tmp_path / "home"


CHANGES: dict[str, Callable[[Registry, Path], object]] = {
    "add": lambda registry, folder: registry.commit(
        "medical", registry.stage(folder / "5", BASE, max_rank=16), serve=True
    ),
    "promote": lambda registry, _: registry.promote("medical", 1),
    "canary": lambda registry, _: registry.canary("medical", {1: 10}),
    "remove": lambda registry, _: registry.remove("medical", 1),
    "disable": lambda registry, _: registry.enable("medical", False),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [0, 100, 1000, 5000])
def test_a_full_disk_is_named_and_changes_nothing(home: Path, tmp_path: Path, change: str, size: int) -> None:
    before = view(home)
    with Registry(home) as registry:
        with full(size), pytest.raises(RegistryFailed) as error:
            CHANGES[change](registry, tmp_path)
        assert "free space" in error.value.hint
        assert temporary(home) == []
        assert registry.adapter(registry.resolve("medical").digest)
    assert view(home) == before
    with Registry(home) as registry:
        CHANGES[change](registry, tmp_path)  # there is room again
    assert view(home) != before


# The owner of everything may write in spite of the mode, so it becomes somebody else first.
READ = """
import os, sys
from pathlib import Path
from loradex.errors import RegistryFailed
from loradex.registry.registry import Registry
home = Path(sys.argv[1])
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    with Registry(home) as registry:
        print("opened", registry.get("medical").current)
        registry.promote("medical", 1)
except RegistryFailed as error:
    print(error.message, "|", error.hint)
"""


def test_a_store_that_may_only_be_read_is_named(home: Path) -> None:
    before = view(home)
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        os.chmod(name, 0o755)
        copy = shutil.copytree(home, Path(name) / "home")
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        ran = subprocess.run(
            [sys.executable, "-c", READ, str(copy)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        copy.chmod(0o755)
        for path in copy.rglob("*"):
            path.chmod(0o755)
        assert ran.returncode == 0, ran.stderr
        assert "could not be" in ran.stdout
        assert "is writable" in ran.stdout
        assert view(copy) == before


async def test_stored_files_that_change_break_only_their_own_adapter(deck: Deck) -> None:
    digests = {name: await deck.add(name, seed, load=False) for seed, name in enumerate(("medical", "legal"), 1)}
    for change in ("changed", "cut", "gone"):
        weights = deck.registry.adapter(digests["medical"]).weights
        content = weights.read_bytes()
        weights.chmod(0o644)
        if change == "gone":
            weights.unlink()
        else:
            weights.write_bytes(content[:-8] + (b"12345678" if change == "changed" else b""))
        with pytest.raises(AdapterDamaged) as error:
            await deck.text("medical")
        assert "adapter add" in error.value.hint
        assert (await deck.text("legal")).startswith(digests["legal"][:8])
        assert await deck.add("medical", 1, load=False) == digests["medical"]  # which heals it
        assert (await deck.text("medical")).startswith(digests["medical"][:8])
        await deck.service.residents.unload("medical")
        await deck.settle()
