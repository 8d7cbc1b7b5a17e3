"""What a model needs of a machine's memory, and whether it is there: known before any of it is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from loradex.adapters.base_model import BUILT, read_model_info, shards
from loradex.adapters.header import TensorInfo, read_header
from loradex.engine.built import WEIGHTS
from loradex.engine.config import EngineConfig
from loradex.errors import MemoryShort

GIB: Final = 1 << 30

_WIDTHS: Final = {"float64": 8, "float32": 4}
_CODES: Final = {"int8": 8, "fp8": 8, "int4": 4.5}
"""Bits of a weight of a quantized linear, scales included."""

_FLOATS: Final = frozenset(("BF16", "F16", "F32", "F64"))
_SCALES: Final = "weight_scale"
"""How names of tensors end that belong to codes of a checkpoint that `loradex quantize` wrote."""


def available_memory() -> int | None:
    """Return the bytes of host memory that may still be used, where the system tells; a container's limit counts."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no cgroup, or "max"
        return available
    return min(available, limit - used)


def weight_bytes(config: EngineConfig, folder: Path) -> int:
    """Return about what the base's weights take once they are loaded as `config` says, from the files in `folder`.

    Codes of fp8 are written out wherever `config.device` does not name a card: nothing else multiplies them.

    Raises:
        ConfigInvalid: they cannot be read.
    """
    info = read_model_info(folder)
    if (folder / BUILT).is_file():
        return (folder / WEIGHTS).stat().st_size
    tensors = {name: tensor for file in shards(folder) for name, tensor in read_header(file).tensors.items()}
    width, card = _WIDTHS.get(info.dtype if config.dtype == "auto" else config.dtype, 2), "cuda" in config.device
    taken = sum(_taken(name, tensor, width, card=card) for name, tensor in tensors.items())
    if config.quantization == "none" or any(name.endswith(_SCALES) for name in tensors):
        return taken
    linears = sum(shape.in_features * shape.out_features for shape in info.linears.values())
    return int(taken - linears * (width - _CODES[config.quantization] / 8))


def _taken(name: str, tensor: TensorInfo, width: int, *, card: bool) -> int:
    written_out = tensor.dtype.startswith("F8") and not card
    if written_out or (tensor.dtype in _FLOATS and not name.endswith(_SCALES)):
        return tensor.count * width
    return tensor.end - tensor.start


def require_memory(config: EngineConfig, folder: Path, free: int | None) -> None:
    """Check that weights, keys and values fit into the `free` bytes of the device; None is not known, and passes.

    Raises:
        MemoryShort: they do not; it says what is free, what is wanted and for what, and which setting to lower.
    """
    weights, cache = weight_bytes(config, folder), config.kv_cache_memory
    if free is None or weights + cache <= free:
        return
    left = (free - weights) // (1 << 20)
    if left > 0:
        fix = f"Lower `--kv-cache-memory {left}MiB`, or less"
    elif config.quantization == "none":
        fix = "Quantize with `--quantization int8` or `--quantization int4`, serve a smaller model, or free memory"
    else:
        fix = "Serve a smaller model, or free memory"
    raise MemoryShort(free, {"weights": weights, "keys and values": cache}, hint=fix)
