"""Does our engine say what plain transformers says? Asked once, at every start."""

from __future__ import annotations

import torch

from loradex.core.sampling import Sampling
from loradex.engine.local.kvcache import KVCache
from loradex.engine.local.kvcache_fp8 import Fp8Cache
from loradex.engine.local.plan import Chunk, StepPlan
from loradex.engine.local.runner import Runner
from loradex.engine.local.sequence import Sequence
from loradex.errors import ConfigInvalid

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Largest deviation, as a share of the largest logit, that rounding explains in each dtype."""


ROUNDED = 0.25
"""The same where keys and values, or the inputs of linears, are rounded to 8-bit floats: four bits instead of eight."""


def check(runner: Runner, *, fp8: bool = False) -> None:
    """Compare the engine with the reference; with keys and values as they are first, if its cache rounds them.

    An architecture that does something in attention or positions that the engine does not know of is found here, before
    it can answer anything wrong. `fp8` says that inputs of linears are rounded to 8-bit floats.

    Raises:
        ConfigInvalid: the logits differ by more than rounding.
    """
    attention, dtype = runner.model.attention, runner.model.dtype
    allowed = ROUNDED if fp8 else TOLERANCE[dtype]
    cache = attention.cache
    if isinstance(cache, Fp8Cache):
        cells = (len(runner.model.probe) // runner.block_size + 1) * runner.block_size
        attention.cache = KVCache(attention.shapes, cells, dtype, runner.model.device)
        graphs, runner.graphs = runner.graphs, None  # they were recorded with the other cache
        _compare(runner, allowed)
        attention.cache, runner.graphs, allowed = cache, graphs, ROUNDED
    _compare(runner, allowed)


def _compare(runner: Runner, allowed: float) -> None:
    """Compute a short prompt in chunks, the last of one token, through the paged cache, and compare it."""
    model = runner.model
    tokens = model.probe
    half = len(tokens) // 2
    blocks = list(range(-(-len(tokens) // runner.block_size)))
    probe = Sequence("self-check", list(tokens), len(tokens), Sampling(), blocks=blocks)
    first = runner.logits(StepPlan((Chunk(probe, 0, half, samples=True),)))
    second = runner.logits(StepPlan((Chunk(probe, half, len(tokens) - half - 1, samples=True),)))
    last = runner.logits(StepPlan((Chunk(probe, len(tokens) - 1, 1, samples=True),)))
    ours = torch.cat([first, second, last])
    reference = model.reference[[half - 1, len(tokens) - 2, len(tokens) - 1]]
    deviation = float((ours - reference).abs().max() / reference.abs().max())
    if not deviation <= allowed:
        raise ConfigInvalid(
            f"{type(model.module).__name__} gives other logits on this engine than in transformers (off by "
            f"{deviation:.1%} of the largest)",
            hint="This architecture is not served; use a model of a supported family",
        )
