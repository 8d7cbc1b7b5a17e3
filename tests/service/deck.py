"""A real service over the fake engine and a real registry, and adapters on disk that fit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from loradex.core.event import Delta, Event, Finished
from loradex.core.model import ModelInfo
from loradex.core.sampling import Sampling
from loradex.engine.config import EngineConfig
from loradex.engine.fake import FakeEngine
from loradex.registry.registry import Registry
from loradex.service.generate import Answer, Ask
from loradex.service.service import Service

TARGETS = ("q_proj", "v_proj")


def save_adapter(folder: Path, info: ModelInfo, *, seed: int = 0, rank: int = 4, nan: bool = False) -> Path:
    """Write a PEFT adapter with random weights for every `q_proj` and `v_proj` of a model."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    tensors = {}
    for module, shape in info.linears.items():
        if module.rpartition(".")[2] in TARGETS:
            prefix = f"base_model.model.{module}"
            tensors[f"{prefix}.lora_A.weight"] = random.standard_normal((rank, shape.in_features), dtype=np.float32)
            tensors[f"{prefix}.lora_B.weight"] = random.standard_normal((shape.out_features, rank), dtype=np.float32)
    if nan:
        next(iter(tensors.values()))[0, 0] = np.nan
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(TARGETS), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


class Deck:
    """A service, what is behind it, and a folder of adapters."""

    def __init__(
        self,
        tmp: Path,
        *,
        max_loras: int = 4,
        max_num_seqs: int = 64,
        queue_seconds: float = 5.0,
        fair_seconds: float = 60.0,
        busy_seconds: float = 10.0,
        host_tier: bool = False,
        memory: int | None = None,
        clock: Callable[[], float] | None = None,
        **rest: Any,
    ) -> None:
        self.folder = tmp / "adapters"
        config = EngineConfig(
            model="models/tiny", max_loras=max_loras, max_num_seqs=max_num_seqs, max_model_len=256, max_lora_rank=8
        )
        self.engine = FakeEngine(config, host_tier=host_tier)
        self.registry = Registry(tmp / "home", busy_seconds=busy_seconds)
        more = {"clock": clock} if clock is not None else {}
        self.service = Service(
            self.registry,
            self.engine,
            max_lora_rank=8,
            max_loras=max_loras,
            adapter_memory=memory,
            allow_dirs=[self.folder],
            max_queue_seconds=queue_seconds,
            fair_seconds=fair_seconds,
            **more,
            **rest,
        )

    def files(self, seed: int, *, rank: int = 4, nan: bool = False) -> Path:
        """Return a folder with the adapter of that seed; equal seeds mean equal content."""
        folder = self.folder / f"{seed}-{rank}-{nan}"
        return folder if folder.exists() else save_adapter(folder, self.engine.info, seed=seed, rank=rank, nan=nan)

    async def add(self, name: str, seed: int, **options: object) -> str:
        """Add an adapter; return its digest."""
        change = await self.service.adapters.add(name, self.files(seed), **options)  # type: ignore[arg-type]
        return change.ref.digest

    def ask(self, model: str | None, prompt: str = "hello", *, n: int = 1, **sampling: object) -> Ask:
        """Make an ask."""
        return Ask(model, prompt, Sampling(**sampling), n)  # type: ignore[arg-type]

    async def endless(self, model: str | None) -> Stream:
        """Begin an answer that ends only when the context is full, and read its first piece."""
        answer = await self.service.generate(self.ask(model, ignore_eos=True))
        stream = Stream(answer)
        await stream.read(1)
        return stream

    async def text(self, model: str | None, prompt: str = "hello") -> str:
        """Return a whole answer."""
        answer = await self.service.generate(self.ask(model, prompt))
        return "".join([event.text async for _, event in answer.events() if isinstance(event, Delta)])

    def resident(self) -> set[str]:
        """What the engine holds, which must be what the service thinks it holds."""
        ours = {digest for digest, state in self.service.residency.states().items() if state.resident}
        held = {resident.digest for resident in self.engine.resident()}
        assert ours == held
        return held

    def leases(self) -> int:
        """Leases held now."""
        return sum(state.leases for state in self.service.residency.states().values())

    def waiting(self) -> int:
        """Requests that wait for a slot or a load."""
        return sum(state.waiting for state in self.service.residency.states().values())

    def blobs(self) -> int:
        """Adapters stored."""
        return len({path.parent for path in (self.registry.home / "blobs").rglob("adapter_model.safetensors")})

    async def settle(self) -> None:
        """Let background loads and unloads end."""
        await self.service.residency.settle()


class Stream:
    """An answer read piece by piece."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self._events = answer.events()
        self.text = ""
        self.finished: Finished | None = None

    async def read(self, count: int) -> None:
        """Read so many events."""
        for _ in range(count):
            self._take((await anext(self._events))[1])

    async def rest(self) -> str:
        """Read to the end; return the whole text."""
        async for _, event in self._events:
            self._take(event)
        return self.text

    async def aclose(self) -> None:
        """Stop reading."""
        await self.answer.aclose()

    def _take(self, event: Event) -> None:
        if isinstance(event, Finished):
            self.finished = event
        else:
            self.text += event.text


async def until(true: Callable[[], bool]) -> None:
    """Let other tasks run until something is true."""
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.001)
