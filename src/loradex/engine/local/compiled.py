"""The compiled paths of the engine: there where they can be, and never a reason not to start."""

from __future__ import annotations

import logging

import torch

from loradex.engine.local.model import BaseModel
from loradex.engine.local.packed import PackedLinear

log = logging.getLogger(__name__)


def compile_kernels(model: BaseModel) -> bool:
    """Give the model's linears the compiled kernels; return whether they have that for LoRA.

    Compiles them, or reads them from the cache. Without Numba, or where it cannot compile, one line in the log says
    that answers will be slower.
    """
    if model.device.type != "cpu":
        return False
    try:
        from numba.core.errors import NumbaError
    except ImportError as error:
        return _refused(error)
    try:
        from loradex.engine.local.lora_job import KERNELS

        _compile_few(model)
    except (NumbaError, ImportError, OSError, RuntimeError) as error:
        return _refused(error)
    if model.dtype not in KERNELS:
        return False
    _compile_lora(model)
    return True


def _compile_lora(model: BaseModel) -> None:
    from loradex.engine.local.lora_job import LoraJob

    for name, shape in model.shapes().items():
        linear = model.linears[name]
        # The kernel reads bfloat16 by twos.
        if model.dtype == torch.float32 or shape.in_features % 2 == shape.out_features % 2 == 0:
            linear.job = LoraJob(shape.in_features, shape.out_features, len(linear.table), model.dtype)


def _compile_few(model: BaseModel) -> None:
    """Give packed linears their kernel for few rows."""
    packed = [linear for linear in model.module.modules() if isinstance(linear, PackedLinear)]
    if not packed:
        return
    from loradex.engine.local.gemv_job import ROWS, GemvJob

    for linear in packed:
        if linear.blocks is not None:
            linear.few, linear.rows = GemvJob(linear.blocks, linear.bias), ROWS


def _refused(error: Exception) -> bool:
    log.warning("Answers take a slower path, for Numba cannot be used: %s", error)
    return False
