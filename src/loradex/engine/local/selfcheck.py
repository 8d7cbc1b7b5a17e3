"""Does our engine say what plain transformers says? Asked once, at every start."""

from __future__ import annotations

import torch

from loradex.core.sampling import Sampling
from loradex.engine.local.plan import Chunk, StepPlan
from loradex.engine.local.runner import Runner
from loradex.engine.local.sequence import Sequence
from loradex.errors import ConfigInvalid

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Largest deviation, as a share of the largest logit, that rounding explains in each dtype."""


def check(runner: Runner) -> None:
    """Compute a short prompt in two chunks through the paged cache and compare it with the reference.

    An architecture that does something in attention or positions that the engine does not know of is found here, before
    it can answer anything wrong.

    Raises:
        ConfigInvalid: the logits differ by more than rounding.
    """
    model = runner.model
    tokens = model.probe
    half = len(tokens) // 2
    blocks = list(range(-(-len(tokens) // runner.block_size)))
    probe = Sequence("self-check", list(tokens), len(tokens), Sampling(), blocks=blocks)
    first = runner.logits(StepPlan((Chunk(probe, 0, half, samples=True),)))
    second = runner.logits(StepPlan((Chunk(probe, half, len(tokens) - half, samples=True),)))
    ours = torch.cat([first, second])
    reference = model.reference[[half - 1, len(tokens) - 1]]
    deviation = float((ours - reference).abs().max() / reference.abs().max())
    if not deviation <= TOLERANCE[model.dtype]:
        raise ConfigInvalid(
            f"{type(model.module).__name__} gives other logits on this engine than in transformers (off by "
            f"{deviation:.1%} of the largest)",
            hint="This architecture is not served; use a model of a supported family",
        )
