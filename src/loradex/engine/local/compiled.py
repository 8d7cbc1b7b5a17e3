"""The compiled paths of the engine: there where they can be, and never a reason not to start."""

from __future__ import annotations

import logging
from itertools import chain

from loradex.engine.local.linear import LoraLinear
from loradex.engine.local.model import BaseModel

log = logging.getLogger(__name__)


def compile_lora(model: BaseModel) -> bool:
    """Give the model's linears the LoRA kernel; return whether they have it. Compiles it, or reads it from the cache.

    Without Numba, or where it cannot compile, one line in the log says that adapters will be slower.
    """
    if model.device.type != "cpu":
        return False
    try:
        from numba.core.errors import NumbaError
    except ImportError as error:
        return _refused(error)
    try:
        from loradex.engine.local.lora_group import KERNELS, LoraGroup
    except (NumbaError, ImportError, OSError, RuntimeError) as error:
        return _refused(error)
    if model.dtype not in KERNELS:
        return False
    shapes = model.shapes()
    for names in model.inputs:
        sizes = [shapes[name] for name in names]
        if model.dtype.itemsize == 2 and any(n % 2 for n in chain.from_iterable((s.in_features, s.out_features) for s in sizes)):
            continue
        linears: list[LoraLinear] = [model.linears[name] for name in names]
        group = LoraGroup(
            [linear.base for linear in linears],
            sizes[0].in_features,
            [size.out_features for size in sizes],
            len(linears[0].table),
            model.dtype,
        )
        for member, linear in enumerate(linears):
            linear.group = group, member
    return True


def _refused(error: Exception) -> bool:
    log.warning("Adapters take the slower path, for Numba cannot be used: %s", error)
    return False
