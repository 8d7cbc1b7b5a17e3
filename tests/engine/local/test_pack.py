"""Packs: the same weights as from the adapter's own file, and made again whenever something is wrong with them."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from loradex.adapters import rest
from loradex.adapters.adapter import Adapter
from loradex.adapters.packs import PackFolder
from loradex.adapters.read import read_adapter
from loradex.core.event import Delta
from loradex.core.mix import Mix
from loradex.core.request import GenerateRequest
from loradex.core.sampling import Sampling
from loradex.engine.local.change import Weights
from loradex.engine.local.loader import Loader
from loradex.engine.local.lora import LoraPair
from loradex.engine.local.pack import SLICE_VALUES, _pieces, pack_name
from loradex.engine.local.weights import Contents, read_contents
from loradex.errors import AdapterDamaged
from tests.adapters.making import make_adapter, make_tensors

from .tiny import Family, Running

CPU = torch.device("cpu")
Q = "model.layers.0.self_attn.q_proj"


def read_pairs(adapter: Adapter, dtype: torch.dtype, device: torch.device) -> dict[str, LoraPair]:
    return dict(read_contents(adapter, dtype, device).pairs)


def unfitted(adapter: Adapter, contents: Contents, rest: Callable[[], None]) -> Weights:
    return Weights(contents.pairs, {}, {}, contents.nbytes)


@pytest.fixture(scope="module")
def llama(family: Callable[[str], Family]) -> Family:
    return family("llama")


@pytest.fixture
def packs(tmp_path: Path) -> PackFolder:
    return PackFolder(tmp_path / "packs")


@pytest.fixture
def read(packs: PackFolder) -> Callable[..., dict[str, LoraPair]]:
    """Load as an engine does, to the end of writing the pack."""

    def loading(adapter: Adapter, dtype: torch.dtype = torch.float32) -> dict[str, LoraPair]:
        loader = Loader(dtype, CPU, packs, lambda: False)
        try:
            return dict(loader.read(adapter).pairs)
        finally:
            loader.stop()

    return loading


def place(packs: PackFolder, adapter: Adapter, dtype: torch.dtype = torch.float32) -> Path:
    return packs.path(adapter.digest, *pack_name(dtype))


def same(one: dict[str, LoraPair], other: dict[str, LoraPair]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(pair.a, other[name].a)
        and torch.equal(pair.b, other[name].b)
        and pair.scaling == other[name].scaling
        and pair.a.is_contiguous() == other[name].a.is_contiguous()
        for name, pair in one.items()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_pack_holds_what_the_file_holds(llama: Family, packs: PackFolder, read, dtype: torch.dtype) -> None:
    for adapter in llama.adapters:
        expected = read_pairs(adapter, dtype, CPU)
        assert same(read(adapter, dtype), expected)  # as it is made
        assert place(packs, adapter, dtype).is_file()
        found = read(adapter, dtype)  # as it is found
        assert same(found, expected)
        assert all(tensor.data_ptr() % 4096 == 0 for pair in found.values() for tensor in (pair.a, pair.b))
    assert len(list(packs.folder.iterdir())) == len(llama.adapters)


def test_the_original_is_not_read_again_and_the_pack_never_written(llama: Family, packs: PackFolder, read) -> None:
    adapter = llama.adapters[2]
    read(adapter)
    gone = dataclasses.replace(adapter, path=Path("/nowhere"))
    before = place(packs, adapter).read_bytes()
    found = read(gone)
    assert same(found, read_pairs(adapter, torch.float32, CPU))
    next(iter(found.values())).a.zero_()
    assert place(packs, adapter).read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:30],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"x" + data[1:],
        lambda data: data[:60] + b"x" + data[61:],
        lambda data: data[:8] + b"\xff" * 8 + data[16:],
    ],
)
def test_a_damaged_pack_is_made_again(
    llama: Family, packs: PackFolder, read, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    adapter = llama.adapters[0]
    read(adapter)
    path = place(packs, adapter)
    good = path.read_bytes()
    path.write_bytes(damage(good))
    with caplog.at_level(logging.WARNING):
        assert same(read(adapter), read_pairs(adapter, torch.float32, CPU))
    assert "made again" in caplog.text
    assert path.read_bytes() == good


def test_the_pack_of_another_adapter_is_not_taken(llama: Family, packs: PackFolder, read) -> None:
    one, other = llama.adapters[:2]
    read(other)
    place(packs, other).rename(place(packs, one))
    assert same(read(one), read_pairs(one, torch.float32, CPU))


def test_without_room_for_packs_the_file_is_read(
    llama: Family, packs: PackFolder, read, caplog: pytest.LogCaptureFixture
) -> None:
    packs.folder.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert same(read(llama.adapters[0]), read_pairs(llama.adapters[0], torch.float32, CPU))
    assert "cannot be written" in caplog.text


def test_an_original_that_is_gone_leaves_no_half_pack(llama: Family, packs: PackFolder, read) -> None:
    with pytest.raises(AdapterDamaged):
        read(dataclasses.replace(llama.adapters[0], path=Path("/nowhere")))
    assert list(packs.folder.iterdir()) == []


def test_a_pack_is_made_bit_by_bit_while_answers_are_computed(
    llama: Family, packs: PackFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "SLICE_SECONDS", 1e-6)
    rests: list[float] = []
    monkeypatch.setattr("time.sleep", rests.append)
    adapter = llama.adapters[2]
    for busy, rested in ((False, False), (True, True)):
        made = Loader(torch.float32, CPU, packs, lambda busy=busy: busy)
        assert same(dict(made.read(adapter).pairs), read_pairs(adapter, torch.float32, CPU))
        made.stop()
        assert bool(rests) is rested
        packs.remove(adapter.digest)
    assert min(rests) >= 0


def test_a_slice_is_too_small_for_torch_to_share_it_out(tmp_path: Path) -> None:
    assert SLICE_VALUES <= 32768
    tensor = torch.arange(100_000.0).view(50, 2000)
    pieces = list(_pieces(tensor))
    assert torch.equal(torch.cat(pieces), tensor)
    assert max(piece.numel() for piece in pieces) <= SLICE_VALUES


async def test_answers_are_the_same_from_packs(llama: Family, running: Running, packs: PackFolder) -> None:
    async def answers(**settings: object) -> list[list[int]]:
        async with running(llama, **settings) as engine:
            found = []
            for digest in (None, *(adapter.digest for adapter in llama.adapters)):
                request = GenerateRequest(
                    "x", (1, 2, 3, 4, 5), Sampling(temperature=0.0, max_tokens=12), Mix.of(digest)
                )
                tokens = [getattr(event, "tokens", ()) async for event in engine.generate(request)]
                found.append([token for part in tokens for token in part])
            return found

    plain = await answers()
    assert await answers(pack_dir=packs.folder) == plain
    assert await answers(pack_dir=packs.folder) == plain
    assert len(list(packs.folder.iterdir())) == len(llama.adapters)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loradex-loader")]


async def test_many_loads_at_once_make_one_pack_each(llama: Family, packs: PackFolder) -> None:
    loader = Loader(torch.float32, CPU, packs, lambda: True)
    found = await asyncio.gather(*(loader.load(adapter, unfitted) for adapter in llama.adapters * 4))
    await asyncio.to_thread(loader.stop)
    for adapter, pairs in zip(llama.adapters * 4, found, strict=True):
        assert same(dict(pairs.pairs), read_pairs(adapter, torch.float32, CPU))
    assert len(list(packs.folder.iterdir())) == len(llama.adapters)


async def test_a_prepared_adapter_is_loaded_without_its_own_file(
    llama: Family, running: Running, packs: PackFolder
) -> None:
    adapter = llama.adapters[2]
    gone = dataclasses.replace(adapter, path=Path("/nowhere"))
    told: list[tuple[str, float]] = []
    async with running(dataclasses.replace(llama, adapters=()), pack_dir=packs.folder) as engine:
        await engine.prepare(adapter, lambda stage, share: told.append((stage, share)))
        assert packs.files(adapter.digest) == [place(packs, adapter)] == list(packs.folder.iterdir())
        await engine.load(gone)
        await engine.prepare(gone)  # has its pack, so the file is not asked for
        with pytest.raises(AdapterDamaged):
            await engine.prepare(dataclasses.replace(gone, digest="0" * 64))
    assert {stage for stage, _ in told} == {"pack"}
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert len(list(packs.folder.iterdir())) == 1


async def test_without_room_nothing_is_prepared(
    llama: Family, packs: PackFolder, caplog: pytest.LogCaptureFixture
) -> None:
    packs.folder.write_text("a file where the folder should be")
    loader = Loader(torch.float32, CPU, packs, lambda: False)
    with caplog.at_level(logging.WARNING):
        await loader.prepare(llama.adapters[0], lambda stage, share: None)
    loader.stop()
    assert "cannot be written" in caplog.text


async def test_what_is_held_in_host_memory_is_loaded_without_the_disk(llama: Family, packs: PackFolder) -> None:
    adapter = llama.adapters[0]
    loader = Loader(torch.float32, CPU, packs, lambda: False, host_tier=True)
    held = await loader.stage(adapter)
    assert await loader.stage(adapter) == held
    expected = read_pairs(adapter, torch.float32, CPU)
    assert held >= sum(pair.a.nbytes + pair.b.nbytes for pair in expected.values())
    gone = dataclasses.replace(adapter, path=Path("/nowhere"))
    await asyncio.to_thread(loader.stop)
    packs.remove(adapter.digest)
    assert same(dict(loader.read(gone).pairs), expected)
    loader.unstage(adapter.digest)
    with pytest.raises(AdapterDamaged):
        loader.read(gone)


async def test_without_a_host_tier_nothing_is_held(llama: Family, packs: PackFolder) -> None:
    adapter = llama.adapters[0]
    loader = Loader(torch.float32, CPU, packs, lambda: False)
    assert await loader.stage(adapter) == 0  # there is no pack to read ahead
    await loader.prepare(adapter, lambda stage, share: None)
    assert await loader.stage(adapter) == 0
    loader.unstage(adapter.digest)
    await asyncio.to_thread(loader.stop)
    none = Loader(torch.float32, CPU, None, lambda: False, host_tier=True)
    assert await none.stage(adapter) == 0
    await asyncio.to_thread(none.stop)


def test_a_pack_that_is_made_while_the_engine_stops_is_kept(llama: Family, packs: PackFolder) -> None:
    loader = Loader(torch.float32, CPU, packs, lambda: True)
    loader.stop()
    assert loader.read(llama.adapters[0]).pairs
    assert list(packs.folder.iterdir()) == [place(packs, llama.adapters[0])]


async def test_files_that_go_under_a_running_answer_do_not_change_it(
    llama: Family, running: Running, tmp_path: Path
) -> None:
    """Another process may cut short, change and remove an adapter whose weights are mapped here."""
    source = tmp_path / "adapter"
    shutil.copytree(llama.adapters[0].path, source)
    adapter = read_adapter(source)
    request = GenerateRequest(
        "r", tuple(b"hello"), Sampling(max_tokens=24, ignore_eos=True, seed=1), Mix.of(adapter.digest)
    )
    async with running(llama, pack_dir=tmp_path / "packs", max_loras=8) as engine:
        await engine.load(adapter)
        expected = [event.token_ids async for event in engine.generate(request) if isinstance(event, Delta)]
        found = []
        async for event in engine.generate(request):
            if not found:
                for path in (*source.iterdir(), *(tmp_path / "packs").iterdir()):
                    path.chmod(0o644)
                    await asyncio.to_thread(os.truncate, path, 1)
                    path.unlink()
            if isinstance(event, Delta):
                found.append(event.token_ids)
        assert found == expected


def test_what_lies_beside_the_pairs_is_in_the_pack_too(tmp_path: Path, packs: PackFolder) -> None:
    random = np.random.default_rng(0)
    names = {f"{Q}.lora_magnitude_vector": (16,), "model.norm.weight": (16,), "lm_head.weight": (40, 16)}
    extras = {f"base_model.model.{name}": random.normal(size=shape) for name, shape in names.items()}
    tensors = make_tensors(kinds=("layers.0.self_attn.q_proj",)) | {k: t.astype(np.float32) for k, t in extras.items()}
    adapter = read_adapter(make_adapter(tmp_path / "a", tensors, use_dora=True, modules_to_save=["norm", "lm_head"]))
    loader = Loader(torch.bfloat16, CPU, packs, lambda: False)
    made = loader.read(adapter)
    loader.stop()
    found = loader.read(dataclasses.replace(adapter, path=Path("/nowhere")))
    direct = read_contents(adapter, torch.bfloat16, CPU)
    assert direct.nbytes == made.nbytes == found.nbytes == 2 * adapter.parameters
    for contents in (made, found):
        assert same(dict(contents.pairs), dict(direct.pairs))
        assert {module: set(own) for module, own in contents.extras.items()} == {
            Q: {"magnitude"},
            "model.norm": {"weight"},
            "lm_head": {"weight"},
        }
        for module, own in direct.extras.items():
            for role, tensor in own.items():
                assert torch.equal(contents.extras[module][role], tensor)
