"""A real service over the fake engine, and adapters on disk that fit it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from loradex.engine.config import EngineConfig
from loradex.engine.fake import FakeEngine
from loradex.registry.registry import Registry
from loradex.server.run import Server
from loradex.service.service import Service
from loradex.settings import ServerConfig

BASE = "tiny-base"
MAX_RANK = 16
MAX_MODEL_LEN = 512


def save_adapter(folder: Path, *, rank: int = 4, seed: int = 0, broken: bool = False, base: str = BASE) -> Path:
    """Write a PEFT adapter for `q_proj` and `v_proj` of the fake engine's model."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(2):
        for name, out in (("q_proj", 32), ("v_proj", 16)):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{prefix}.lora_A.weight"] = random.standard_normal((rank, 32), dtype=np.float32)
            tensors[f"{prefix}.lora_B.weight"] = random.standard_normal((out, rank), dtype=np.float32)
    if broken:
        tensors[next(iter(tensors))][0, 0] = np.nan
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank * 2,
        "target_modules": ["q_proj", "v_proj"],
        "base_model_name_or_path": base,
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@dataclass
class Deck:
    """A server, what is behind it, and the folder from which it may load adapters."""

    url: str
    service: Service
    engine: FakeEngine
    folder: Path

    def idle(self) -> bool:
        """Whether no request is in the engine and no lease is held."""
        stats = self.engine.stats()
        return stats.running == stats.waiting == 0 and self.leases() == 0

    def leases(self) -> int:
        """Leases held now."""
        return sum(hold.leases for hold in self.service.residency.states().values())


def make_service(
    tmp: Path,
    *,
    max_loras: int = 4,
    tokens_per_second: float = 0.0,
    max_adapter_size: int = 1 << 30,
    router: Path | None = None,
) -> tuple[Service, FakeEngine]:
    """Make a service that may load from `tmp/adapters`."""
    config = EngineConfig(model=f"models/{BASE}", max_loras=max_loras, max_model_len=MAX_MODEL_LEN)
    engine = FakeEngine(config, tokens_per_second=tokens_per_second)
    (tmp / "adapters").mkdir(exist_ok=True)
    service = Service(
        Registry(tmp / "home"),
        engine,
        max_lora_rank=MAX_RANK,
        max_loras=max_loras,
        allow_dirs=[tmp / "adapters"],
        max_adapter_size=max_adapter_size,
        max_queue_seconds=0.3,
        router=router,
    )
    return service, engine


@contextmanager
def served(
    tmp: Path,
    *,
    infer_keys: tuple[str, ...] = (),
    admin_keys: tuple[str, ...] = (),
    strict: bool = False,
    max_loras: int = 4,
    tokens_per_second: float = 0.0,
    router: Path | None = None,
) -> Iterator[Deck]:
    """Run a real server on a free port of this machine."""
    service, engine = make_service(tmp, max_loras=max_loras, tokens_per_second=tokens_per_second, router=router)
    config = ServerConfig(port=0, infer_keys=infer_keys, admin_keys=admin_keys, strict=strict)
    with Server(service, config, log_level="critical", drain_seconds=2).background() as url:
        yield Deck(url, service, engine, tmp / "adapters")


def eventually(check: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Return whether `check` becomes true; it looks often, and returns at once when it does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if check():
            return True
        time.sleep(0.005)
    return check()
