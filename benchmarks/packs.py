"""What a cold load costs, page cache warm: the file as PEFT writes it against its pack, in turn, in one process.

The adapter is of the class A-ref: all seven projections of the Qwen2.5-0.5B shape, rank 16, 24 layers, fp32 (35 MB).
One thread. Prints medians and the ratio of each pair's times; `--json FILE` keeps the raw figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from loradex.adapters.adapter import Adapter
from loradex.adapters.packs import PackFolder
from loradex.adapters.read import read_adapter
from loradex.engine.local.guard import Guard
from loradex.engine.local.loader import Loader
from loradex.engine.local.pack import open_pack, pack_name
from loradex.engine.local.weights import read_contents
from loradex.registry.blobs import Blobs
from loradex.registry.shelf import Shelf

LAYERS, RANK = 24, 16
SHAPES = {
    **{f"self_attn.{name}_proj": (896, size) for name, size in (("q", 896), ("k", 128), ("v", 128), ("o", 896))},
    **{"mlp.gate_proj": (896, 4864), "mlp.up_proj": (896, 4864), "mlp.down_proj": (4864, 896)},
}
DTYPE, DEVICE = torch.bfloat16, torch.device("cpu")


def make_adapter(folder: Path) -> Adapter:
    """Write an A-ref adapter as PEFT does."""
    folder.mkdir(parents=True)
    tensors = {}
    for layer in range(LAYERS):
        for name, (inputs, outputs) in SHAPES.items():
            stem = f"base_model.model.model.layers.{layer}.{name}.lora_"
            tensors[f"{stem}A.weight"] = torch.randn(RANK, inputs)
            tensors[f"{stem}B.weight"] = torch.randn(outputs, RANK)
    save_file(tensors, folder / "adapter_model.safetensors")
    targets = sorted(name.partition(".")[2] for name in SHAPES)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 32, "bias": "none", "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return read_adapter(folder)


def ways(folder: Path) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by name."""
    adapter = make_adapter(folder / "adapter")
    packs = PackFolder(folder / "packs")
    loader = Loader(DTYPE, DEVICE, packs, lambda: False)
    loader.read(adapter)
    loader.stop()
    path, guard = packs.path(adapter.digest, *pack_name(DTYPE)), Guard()
    heap = torch.empty(path.stat().st_size // 2, dtype=DTYPE).fill_(1)
    mapped = torch.from_file(str(path), shared=False, size=path.stat().st_size // 2, dtype=DTYPE)

    def read_file() -> None:
        path.read_bytes()

    def make() -> None:
        path.unlink()
        again = Loader(DTYPE, DEVICE, packs, lambda: False)
        again.read(adapter)
        again.stop()

    blobs = Blobs(folder / "blobs")
    with blobs.staging() as staged:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (staged / name).write_bytes((adapter.path / name).read_bytes())
        blobs.publish(staged, adapter.digest)
    shelf = Shelf(blobs)
    return {
        "read_contents": lambda: read_contents(adapter, DTYPE, DEVICE),
        "pack": lambda: open_pack(path, adapter.digest, DTYPE, guard).contents(DEVICE),
        "a pack made and synced": make,
        "floor: read() of the pack": read_file,
        "floor: every byte read, mapped": lambda: mapped.view(torch.int16).bitwise_and(0),
        "floor: every byte read, heap": lambda: heap.view(torch.int16).bitwise_and(0),
        "find: all hashed": lambda: shelf.adapter(adapter.digest, verify=True),
        "find: by its stamp": lambda: Shelf(blobs).adapter(adapter.digest, verify=False),
        "find: remembered": lambda: shelf.adapter(adapter.digest, verify=False),
    }


def measure(pairs: int) -> dict[str, list[float]]:
    """Run everything in turn; return the seconds of each run."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = ways(Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(pairs):
            for name, way in found.items():
                began = time.perf_counter()
                kept = way()
                seconds[name].append(time.perf_counter() - began)
                del kept
        return seconds


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15, help="how often each is run")
    parser.add_argument("--json", type=Path, help="write the raw figures here")
    options = parser.parse_args()
    seconds = measure(options.pairs)
    if options.json:
        options.json.write_text(json.dumps(seconds, indent=2) + "\n")
    first = seconds["read_contents"]
    print(f"{'':32}  median ms   best ms   read_contents / this (median of pairs)")
    for name, times in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(first, times, strict=True))
        print(f"{name:32} {statistics.median(times) * 1e3:10.2f} {min(times) * 1e3:9.2f} {ratio:10.2f}")


if __name__ == "__main__":
    main()
