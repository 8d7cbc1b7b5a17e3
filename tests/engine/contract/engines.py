"""The engines that the contract is tested on, by name: how to make each one over a small model.

An engine joins by one entry in `MAKERS`. Its model needs linears called `q_proj` and `v_proj`, a context of at least
128 tokens, and a tokenizer that gives plain English back.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from loradex.engine.base import Engine
from loradex.engine.config import EngineConfig
from loradex.engine.fake import FakeEngine
from loradex.engine.local.engine import LocalEngine
from tests.engine.local.tiny import save_base

Maker = Callable[[Path, dict[str, object]], Engine]
"""Takes a folder of the whole session, where a model may be kept, and settings; returns an engine not yet started."""


def make_fake(folder: Path, settings: dict[str, object]) -> Engine:
    config = EngineConfig(**({"model": "tiny"} | settings))  # type: ignore[arg-type]
    return FakeEngine(config, tokens_per_second=4000)  # slow enough to be caught at work


def make_local(folder: Path, settings: dict[str, object]) -> Engine:
    base = folder / "llama"
    if not base.exists():
        save_base("llama", base)
    defaults = {"model": str(base), "kv_cache_memory": 1 << 24, "threads": 1}
    return LocalEngine(EngineConfig(**(defaults | settings)))  # type: ignore[arg-type]


MAKERS: dict[str, Maker] = {"fake": make_fake, "local": make_local}
