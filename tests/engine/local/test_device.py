"""A device that is not the host: what is computed there meets nothing that lies here. On `meta`, so without one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from loradex.adapters.packs import PackFolder
from loradex.adapters.rest import Rest
from loradex.core.mix import Mix
from loradex.core.sampling import Sampling
from loradex.engine.config import EngineConfig
from loradex.engine.local import model, sampler
from loradex.engine.local.device import find_device
from loradex.engine.local.extras import fit
from loradex.engine.local.kvcache import KVCache
from loradex.engine.local.kvcache_fp8 import Fp8Cache
from loradex.engine.local.loader import Loader
from loradex.engine.local.plan import Chunk, StepPlan
from loradex.engine.local.runner import Runner
from loradex.engine.local.sequence import Sequence
from loradex.engine.local.slots import Slots
from loradex.errors import ConfigInvalid

from .tiny import Family

META = torch.device("meta")
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class Apart(TorchDispatchMode):
    """Refuses every operation but a copy on tensors of two devices. Single numbers may lie anywhere, as on a card."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        devices = {tensor.device for tensor in tensors if tensor.dim()}
        assert len(devices) < 2 or func in COPIES, f"{func} of tensors on {devices}"
        return func(*args, **(kwargs or {}))


def plans(made: Family) -> list[StepPlan]:
    """Prompts, and prompts with decodes of equal and of different lengths; the base, each adapter and a mix."""
    digests = [adapter.digest for adapter in made.adapters]
    mixes = sorted(
        [Mix(), *map(Mix.of, digests), Mix(((digests[0], 0.5), (digests[2], 0.25)))], key=lambda m: m.members
    )
    rows = [
        Sequence(str(i), [7] * (20 + i % 3), 20, Sampling(), mix, blocks=[2 * i, 2 * i + 1])
        for i, mix in enumerate(mixes)
    ]
    prompts = tuple(Chunk(row, 0, len(row.tokens) - 1, samples=False) for row in rows)
    decodes = tuple(Chunk(row, len(row.tokens) - 1, 1, samples=True) for row in rows)
    return [StepPlan(prompts), StepPlan(decodes), StepPlan((prompts[0], *decodes[1:])), StepPlan(decodes[:1])]


@pytest.mark.parametrize("name", ["mistral", "gemma2", "phi3", "gpt2"])
def test_a_step_mixes_no_devices_and_never_waits_for_a_number(name: str, family, tmp_path) -> None:
    """An operation on `meta` that needs a value, as `item` does, raises.

    Not with experts: torch describes their products on `meta` for bfloat16 alone.
    """
    made = family(name)
    base = model.load(EngineConfig(model=str(made.base)), made.base, torch.device("cpu"))
    base.module.to(META)
    base = replace(base, device=META)
    loader = Loader(base.dtype, META, PackFolder(tmp_path), lambda: False, host_tier=True)
    try:
        contents = [loader.read(adapter) for adapter in made.adapters]
    finally:
        loader.stop()
    for kind in (KVCache, Fp8Cache):
        base.attention.cache = kind(base.attention.shapes, 320, base.dtype, META)
        runner = Runner(base, Slots(4), 16, ())
        with Apart():
            for adapter, own in zip(made.adapters, contents, strict=True):
                runner.install(adapter.digest, fit(adapter, own, base, Rest(lambda: False)))
            for plan in plans(made):
                logits = runner.logits(plan)
                assert logits.device == META
                assert len(logits) == sum(chunk.samples for chunk in plan.chunks)
            for adapter in made.adapters:
                runner.remove(adapter.digest)


def test_tokens_are_drawn_where_the_logits_are() -> None:
    sampling = Sampling(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, min_tokens=2, logit_bias={3: -1.0}, seed=1)
    row = Sequence("x", [7], 1, sampling, Mix())
    logits = torch.empty(2, 320, device=META)
    with Apart():
        sampler._adjust(logits[0], row, (1,))
        assert sampler._draw(logits, [row, row]).device == META


def test_the_host_is_one_device() -> None:
    assert find_device("cpu") == find_device("cpu:0") == torch.device("cpu")
    assert find_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize("name", ["toaster", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_with_the_fix(name: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"No device '{name}'") as caught:
        find_device(name)
    assert caught.value.hint
