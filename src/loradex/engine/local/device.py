"""Where an engine computes."""

from __future__ import annotations

import torch

from loradex.engine.memory import available_memory
from loradex.errors import ConfigInvalid

_HINT = "Use `auto`, `cpu`, `cuda` or `cuda:N`"


def find_device(name: str) -> torch.device:
    """Return the device of a name: `auto` is the first NVIDIA card, or the CPU where torch sees none.

    Raises:
        ConfigInvalid: there is no such device here, or none that is served.
    """
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if cards else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigInvalid(f"No device {name!r}", hint=_HINT) from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise ConfigInvalid(f"No device {name!r} is served", hint=_HINT)
    index = device.index or 0
    if not cards:
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        raise ConfigInvalid(
            f"No device {name!r}: torch {torch.__version__}, built {built}, sees no card",
            hint="Look at `nvidia-smi`, install a torch that is built for its CUDA version, or use `cpu`",
        )
    if index >= cards:
        raise ConfigInvalid(f"No device {name!r}: torch sees {cards}", hint=f"Use `cuda:0` to `cuda:{cards - 1}`")
    return torch.device("cuda", index)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes of a device's memory that may still be used; None where that is not known."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()


def card_memory(name: str) -> tuple[int, int] | None:
    """Return the bytes of a card that are free, and all that it has; None where the name means the CPU.

    Raises:
        ConfigInvalid: as for `find_device`.
    """
    device = find_device(name)
    return torch.cuda.mem_get_info(device) if device.type == "cuda" else None
