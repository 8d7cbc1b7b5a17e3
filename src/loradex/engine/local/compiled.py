"""The compiled paths of the engine: there where they can be, and never a reason not to start."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from subprocess import SubprocessError
from typing import TYPE_CHECKING, NamedTuple

import torch

from loradex.engine.config import EngineConfig
from loradex.engine.local.batch import Divide
from loradex.engine.local.blocks import Blocks
from loradex.engine.local.decoder import recognized
from loradex.engine.local.group import Group
from loradex.engine.local.kvcache import KVCache
from loradex.engine.local.kvcache_fp8 import Fp8Cache
from loradex.engine.local.linear import Joint
from loradex.engine.local.model import BaseModel
from loradex.engine.local.packed import PackedLinear, multiplies_bfloat16
from loradex.engine.local.quantized import quantized_linears
from loradex.engine.local.runner import Runner
from loradex.engine.local.selfcheck import deviation

if TYPE_CHECKING:
    from loradex.engine.local.graphs import Graphs
    from loradex.engine.local.program import Program
    from loradex.engine.local.triton_job import TritonTable

log = logging.getLogger(__name__)

CLOSE = 0.05
"""Largest deviation of a program's logits from those of the model's own modules, as a share of the largest. Both round
to bfloat16 at the same places; they differ where torch attends, which sums in another order.
"""


class Kernels(NamedTuple):
    """How the LoRA kernel divides segments, where there is one, and its table on a card."""

    divide: Divide | None = None
    table: TritonTable | None = None


def compile_kernels(model: BaseModel, block_size: int) -> Kernels:
    """Give the model's modules the compiled kernels of its device; return what is to be known of that for LoRA.

    Compiles them, or reads them from the cache. Where they cannot be compiled, one line in the log says that answers
    will be slower.
    """
    if model.device.type == "cuda":
        _take_cuda(model)
        compile_attention(model, block_size)
        table = compile_triton(model)
        return Kernels() if table is None else Kernels(table.divide, table)
    return Kernels(_compile_numba(model)) if model.device.type == "cpu" else Kernels()


def _compile_numba(model: BaseModel) -> Divide | None:
    try:
        from numba.core.errors import NumbaError
    except ImportError as error:
        return _refused("Numba", error)
    try:
        from loradex.engine.local.lora_job import KERNELS, divide, take_all

        _compile_few(model)
        _compile_quantized(model)
        _compile_cache(model)
        _compile_attention(model)
        _compile_norms(model)
    except (NumbaError, ImportError, OSError, RuntimeError) as error:
        return _refused("Numba", error)
    if model.dtype not in KERNELS:
        return None
    _compile_lora(model)
    return take_all if model.dtype is torch.bfloat16 and not multiplies_bfloat16() else divide


def compile_triton(model: BaseModel) -> TritonTable | None:
    """Give linears the LoRA kernel of graphics cards, once it has said here what the reference says."""
    try:
        from triton import TritonError

        from loradex.engine.local.lora_triton import TOGETHER
        from loradex.engine.local.triton_job import DTYPES, TritonGroup, TritonJob, TritonTable, deviation
    except ImportError as error:
        return _refused("Triton", error)
    groups = [names[at : at + TOGETHER] for names in model.groups for at in range(0, len(names), TOGETHER)]
    if model.dtype not in DTYPES or not groups:
        return None
    shapes = model.shapes()
    kinds = {(shapes[names[0]].in_features, *(shapes[name].out_features for name in names)) for names in groups}
    try:
        off = max(deviation(width, outputs, model.dtype, model.device) for width, *outputs in kinds)
    except (TritonError, OSError, RuntimeError, SubprocessError) as error:
        return _refused("Triton", error)
    if not off <= DTYPES[model.dtype]:
        return _refused("Triton", f"its LoRA kernel is off by {off:.1%} here")
    table, index = TritonTable(len(model.linears[groups[0][0]].table), len(shapes), model.device), count()
    for members in ([model.linears[name] for name in names] for names in groups):
        jobs = [TritonJob(table, next(index)) for _ in members]
        group = Group(members, TritonGroup(jobs), model.step) if len(members) > 1 else None
        for linear, job in zip(members, jobs, strict=True):
            linear.job, linear.group = job, group
    return table


def compile_attention(model: BaseModel, block_size: int) -> None:
    """Give decodes the attention kernel of graphics cards, and norms theirs, once they have said what torch says."""
    try:
        from triton import TritonError

        from loradex.engine.local.attention_triton import attend_paged, deviation
        from loradex.engine.local.norm import quickened
        from loradex.engine.local.norm_triton import CardNorm
        from loradex.engine.local.triton_job import DTYPES
    except ImportError as error:
        return _refused("Triton", error)
    attention, allowed = model.attention, DTYPES.get(model.dtype)
    kinds = {replace(shape, key_peak=0, value_peak=0): layer for layer, shape in attention.shapes.items()}
    if attention.cache is None or allowed is None:
        return
    try:
        off = max(
            deviation(attention.cache, layer, shape.query_heads, model.dtype, block_size)
            for shape, layer in kinds.items()
        )
        if not off <= allowed:
            return _refused("Triton", f"its attention kernel is off by {off:.1%} here")
        attention.kernel = attend_paged
        for module in model.module.modules():
            if (quick := quickened(module, CardNorm)) is not None:
                module.__dict__["forward"] = quick
    except (TritonError, OSError, RuntimeError, SubprocessError) as error:
        _refused("Triton", error)


def _compile_lora(model: BaseModel) -> None:
    from loradex.engine.local.lora_job import LoraJob

    for name, shape in model.shapes().items():
        linear = model.linears[name]
        # The kernel reads bfloat16 by twos.
        if model.dtype == torch.float32 or shape.in_features % 2 == shape.out_features % 2 == 0:
            linear.job = job = LoraJob(shape.in_features, shape.out_features, len(linear.table), model.dtype)
            if getattr(linear.base, "few", None) is not None:
                linear.joint = Joint(linear.base, job)


def _compile_few(model: BaseModel) -> None:
    """Give packed linears their kernel for few rows."""
    packed = [linear for linear in model.module.modules() if isinstance(linear, PackedLinear)]
    if not packed:
        return
    from loradex.engine.local.gemv_job import ROWS, GemvJob

    for linear in packed:
        if linear.blocks is not None:
            linear.few, linear.rows = GemvJob(linear.blocks, linear.bias), ROWS


def _compile_quantized(model: BaseModel) -> None:
    """Give quantized linears their kernel, in whose layout their weights then lie."""
    linears = quantized_linears(model.module)
    if not linears or model.dtype not in (torch.bfloat16, torch.float32):
        return
    from loradex.engine.local.laid import Laid
    from loradex.engine.local.panels import Panels, Scratch

    scratch = Scratch()
    for linear in linears:
        if linear.rounded is not None:
            linear.few = panels = Panels(Laid.of(linear.rounded), linear.bias, model.dtype, scratch)
            linear.take(lambda rounded, bias, panels=panels: (panels.product, panels.laid.nbytes))


def _compile_cache(model: BaseModel) -> None:
    """Give a cache of 8-bit floats its reader."""
    cache = model.attention.cache
    if isinstance(cache, Fp8Cache):
        from loradex.engine.local.fp8_job import DTYPES, VALUES, Fp8Job

        if cache.dtype in DTYPES and all(size % VALUES == 0 for size in cache.sizes()):
            cache.decode = Fp8Job(cache.dtype).decode


def _compile_attention(model: BaseModel) -> None:
    """Give decodes their kernel where torch's own attention has no instructions for bfloat16."""
    if model.dtype is torch.bfloat16 and not multiplies_bfloat16():
        from loradex.engine.local.attention_job import AttentionJob

        model.attention.job = AttentionJob()


def _compile_norms(model: BaseModel) -> None:
    """Let a kernel take few rows of the norms that it computes as they do."""
    from loradex.engine.local.norm import quickened

    for module in model.module.modules():
        if (quick := quickened(module)) is not None:
            module.__dict__["forward"] = quick  # the module stays in its place, and so do its hooks


def record_graphs(
    model: BaseModel, table: TritonTable | None, config: EngineConfig, blocks: Blocks, told: Callable[[float], None]
) -> Graphs | None:
    """Record the decode steps of a card; None where its kernels do not serve, or the model cannot be recorded."""
    if config.enforce_eager or table is None or model.attention.kernel is None:
        return None
    from loradex.engine.local.graphs import Graphs, Inputs

    rows = config.max_num_seqs
    inputs = Inputs(rows, blocks.count, blocks.size, spare=blocks.count, device=model.device)
    graphs = Graphs(model, table, inputs, rows, config.max_lora_rank)
    try:
        graphs.record(told)
    except RuntimeError as error:
        log.warning("Decode steps are not recorded, so that they take longer: %s", error)
        return None
    return graphs


def lay_out_program(runner: Runner, config: EngineConfig) -> Program | None:
    """Lay out the decode steps of a CPU as a program; None where the model has another form, or says something else."""
    model = runner.model
    decoder = recognized(model.module)
    plain = model.dtype is torch.bfloat16 and type(model.attention.cache) is KVCache
    if config.enforce_eager or decoder is None or not plain:
        return None
    try:
        from numba.core.errors import NumbaError

        from loradex.engine.local.program import Program, can_run
    except ImportError:
        return None  # the log has said so

    def make() -> Program | None:
        ready = can_run(decoder, model.attention)
        return Program(decoder, model.attention, runner.block_size) if ready else None

    try:
        program, off = deviation(runner, make)
    except (NumbaError, OSError, RuntimeError) as error:
        log.warning("Decode steps are not laid out as a program, so that they take longer: %s", error)
        return None
    if not off <= CLOSE:
        log.warning("Decode steps take longer, for as a program they are off by %.1f %%", 100 * off)
        return None
    return program


def _take_cuda(model: BaseModel) -> None:
    """Give quantized linears torch's kernels where those take their shapes."""
    from loradex.engine.local.quantized_cuda import cuda_product

    for linear in quantized_linears(model.module):
        linear.take(cuda_product)


def _refused(compiler: str, reason: object) -> None:
    log.warning("Answers take a slower path, for %s cannot be used: %s", compiler, reason)
