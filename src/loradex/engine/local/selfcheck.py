"""Does our engine say what plain transformers says? Asked once, at every start."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from loradex.core.sampling import Sampling
from loradex.engine.local.kvcache import KVCache
from loradex.engine.local.kvcache_fp8 import Fp8Cache
from loradex.engine.local.plan import Chunk, StepPlan
from loradex.engine.local.recorded import Recorded
from loradex.engine.local.runner import Runner
from loradex.engine.local.sequence import Sequence
from loradex.errors import ConfigInvalid

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Largest deviation, as a share of the largest logit, that rounding explains in each dtype."""

Made = TypeVar("Made", bound=Recorded)

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
        recorded, runner.recorded = runner.recorded, None  # they were recorded with the other cache
        _compare(runner, allowed)
        attention.cache, runner.recorded, allowed = cache, recorded, ROUNDED
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


def deviation(runner: Runner, make: Callable[[], Made | None]) -> tuple[Made | None, float]:
    """Let `make` record decode steps, after one was computed as it comes; return what it made, and how far it is off.

    That is the largest deviation of logits as a share of the largest. The runner has no recorded steps yet.
    """
    tokens = runner.model.probe
    width = -(-len(tokens) // runner.block_size)
    every = list(range(2 * width))
    own = (
        Sequence("long", list(tokens), len(tokens), Sampling(), blocks=every[:width]),
        Sequence("short", list(tokens[2:-3]), len(tokens) - 5, Sampling(), blocks=every[width:]),
    )
    runner.logits(StepPlan(tuple(Chunk(each, 0, len(each.tokens) - 1, samples=False) for each in own)))
    chunks = tuple(Chunk(each, len(each.tokens) - 1, 1, samples=True) for each in own)
    theirs = runner.logits(StepPlan(chunks)).float()
    made = make()
    if made is None:
        return None, 0.0
    ours = made.logits(chunks, ()).float()
    return made, float((ours - theirs).abs().max() / theirs.abs().max())
