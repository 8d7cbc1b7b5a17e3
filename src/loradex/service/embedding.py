"""Vectors of texts from the served base model itself: what its layers make of them, with no second model."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence

import numpy as np

from loradex.core.event import Finished
from loradex.core.request import GenerateRequest
from loradex.core.sampling import Sampling
from loradex.engine.base import Engine
from loradex.errors import EngineFailed
from loradex.routing.embeddings import Encode, Floats
from loradex.service.ending import closing

_AT_ONCE = 16
"""Texts in the engine together: a router that is trained must not crowd out those who ask."""

_LOWEST = 1 << 20
"""Priority of texts that train a router."""


class Embedder:
    """Asks the engine for vectors; of the base, whatever adapters are there."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def encoder(self) -> Encode:
        """Return a function for other threads, which makes vectors in the loop that runs here; call it in that loop."""
        loop = asyncio.get_running_loop()
        return lambda texts: asyncio.run_coroutine_threadsafe(self.vectors(texts), loop).result()

    async def vectors(self, texts: Sequence[str]) -> Floats:
        """Return float64, `[texts, hidden size]`: the mean of each text's last hidden states.

        Raises:
            EngineFailed, EngineStopped: the engine could not work them out.
        """
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(text: str) -> tuple[float, ...]:
            async with room:
                return await self._vector(text, 0 if len(texts) == 1 else _LOWEST)

        return np.asarray(await asyncio.gather(*map(one, texts)), dtype=np.float64)

    async def _vector(self, text: str, priority: int) -> tuple[float, ...]:
        tokens = self._engine.encode(text)[: self._engine.info.max_model_len - 1]
        sampling = Sampling(temperature=0.0, max_tokens=1)
        request = GenerateRequest(f"vector-{uuid.uuid4().hex}", tokens, sampling, priority=priority, embedded=True)
        async with closing(self._engine.generate(request)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event.embedding
        raise EngineFailed("The engine ended a text without its vector")
