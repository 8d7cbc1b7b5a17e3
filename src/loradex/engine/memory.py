"""What a model needs of a machine's memory, and whether it is there: known before any of it is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from loradex.adapters.base_model import read_model_info
from loradex.engine.config import EngineConfig
from loradex.errors import MemoryShort

GIB: Final = 1 << 30

_WIDTHS: Final = {"float64": 8, "float32": 4}
_CODES: Final = {"int8": 8, "fp8": 8, "int4": 4.5}
"""Bits of a weight of a quantized linear, scales included."""


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

    Raises:
        ConfigInvalid: they cannot be read.
    """
    info = read_model_info(folder)
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    width = _WIDTHS.get(info.dtype if config.dtype == "auto" else config.dtype, 2)
    weights = stored // _WIDTHS.get(info.dtype, 2)
    linears = sum(shape.in_features * shape.out_features for shape in info.linears.values())
    coded = min(linears, weights) if config.quantization != "none" else 0
    return int((weights - coded) * width + coded * _CODES.get(config.quantization, 0) / 8)


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
