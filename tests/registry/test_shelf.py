"""Stored adapters are hashed once; whatever touches their files afterwards is noticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loradex.adapters import read as reading
from loradex.errors import AdapterDamaged
from loradex.registry.registry import Registry
from tests.registry.conftest import Add


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The weights files that were read in full."""
    seen: list[Path] = []
    right = reading.digest_files

    def counting(config: Path, weights: Path, *, vocabulary: bytes) -> str:
        seen.append(weights)
        return right(config, weights, vocabulary=vocabulary)

    monkeypatch.setattr(reading, "digest_files", counting)
    return seen


def test_nothing_is_hashed_again_after_the_registration(
    registry: Registry, add: Add, home: Path, hashed: list[Path]
) -> None:
    ref = add("medical")
    hashed.clear()
    first = registry.adapter(ref.digest)
    assert registry.adapter(ref.digest) is first
    registry.close()
    with Registry(home) as again:
        assert again.adapter(ref.digest) == first
    assert hashed == []
    assert registry.adapter(ref.digest, verify=True) == first
    assert len(hashed) == 1


def test_files_that_were_only_touched_are_hashed_once_more(registry: Registry, add: Add, hashed: list[Path]) -> None:
    ref = add("medical")
    weights = registry.adapter(ref.digest).weights
    os.utime(weights)
    hashed.clear()
    for _ in range(3):
        assert registry.adapter(ref.digest).digest == ref.digest
    assert len(hashed) == 1


def test_a_change_is_noticed_even_where_size_and_time_are_put_back(registry: Registry, add: Add, home: Path) -> None:
    ref = add("medical")
    weights = registry.adapter(ref.digest).weights
    before = weights.stat()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(content)
    weights.chmod(0o444)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with Registry(home) as again:
        for opened in (registry, again):
            with pytest.raises(AdapterDamaged, match="changed"):
                opened.adapter(ref.digest)


@pytest.mark.parametrize("text", ["", "{", "[]", "[[1, 2, 3, 4]]"])
def test_a_stamp_that_is_none_only_costs_time(
    registry: Registry, add: Add, home: Path, hashed: list[Path], text: str
) -> None:
    ref = add("medical")
    stamp = registry.adapter(ref.digest).path / "stamp.json"
    stamp.write_text(text)
    hashed.clear()
    for _ in range(2):
        with Registry(home) as again:
            assert again.adapter(ref.digest).digest == ref.digest
    assert len(hashed) == 1


def test_packs_go_with_the_last_version_and_unknown_ones_at_the_start(registry: Registry, add: Add, home: Path) -> None:
    shared = add("medical", 0)
    add("legal", 0)
    packs = home / "packs"
    packs.mkdir()
    pack, unknown = packs / f"{shared.digest}.bfloat16.v1.pack", packs / "0000.bfloat16.v1.pack"
    for path in (pack, unknown):
        path.write_bytes(b"x")
    registry.remove("medical")
    assert pack.exists()
    with Registry(home):
        assert list(packs.iterdir()) == [pack]
    registry.remove("legal")
    assert list(packs.iterdir()) == []
