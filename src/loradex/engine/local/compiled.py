"""The compiled paths of the engine: there where they can be, and never a reason not to start."""

from __future__ import annotations

import logging

import torch

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
        from loradex.engine.local.lora_job import KERNELS, LoraJob
    except (NumbaError, ImportError, OSError, RuntimeError) as error:
        return _refused(error)
    if model.dtype not in KERNELS:
        return False
    for name, shape in model.shapes().items():
        linear = model.linears[name]
        # The kernel reads bfloat16 by twos.
        if model.dtype == torch.float32 or shape.in_features % 2 == shape.out_features % 2 == 0:
            linear.job = LoraJob(shape.in_features, shape.out_features, len(linear.table), model.dtype)
    return True


def _refused(error: Exception) -> bool:
    log.warning("Adapters take the slower path, for Numba cannot be used: %s", error)
    return False
