"""The Engine protocol: all that the service knows of an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from loradex.adapters.adapter import Adapter
from loradex.core.event import Event
from loradex.core.grammar import Grammar
from loradex.core.mix import Mix
from loradex.core.model import ModelInfo
from loradex.core.prompt import Prompt
from loradex.core.request import GenerateRequest

Progress = Callable[[str, float], None]
"""Told a stage (`weights`, `self-check`, ...) and its share done, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Resident:
    """An adapter whose weights the engine can use at its next step."""

    digest: str
    slot: int
    bytes: int
    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a load took: seconds spent reading and converting, seconds until a step could use the weights."""

    read_seconds: float
    install_seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot, for metrics and `ps`. Counters run from the start of the engine."""

    running: int
    waiting: int
    blocks_total: int
    blocks_free: int
    block_size: int
    preemptions: int
    prefix_queries: int
    prefix_hits: int
    steps: int
    step_seconds: float


class Engine(Protocol):
    """Turns tokens into tokens under any resident adapter, many requests at once.

    All methods are called from one asyncio event loop. Weights are known by digest; names are the registry's business.
    """

    @property
    def info(self) -> ModelInfo:
        """The base model. Known once `start` has returned."""
        ...

    async def start(self, progress: Progress | None = None) -> None:
        """Load the base model and begin to serve.

        Raises:
            ConfigInvalid: the model cannot be found, read or served.
        """
        ...

    async def stop(self) -> None:
        """Abort what runs and free everything. Does nothing when already stopped."""
        ...

    async def learn(self, adapter: Adapter) -> bool:
        """Take note of the tokens that an adapter adds to those of the base; return whether there are any.

        With such an adapter `encode` and `decode` know them, and `generate` can say them. They need not be resident.

        Raises:
            AdapterInvalid: its tokens cannot be added to the base's.
        """
        ...

    def encode(self, prompt: Prompt, mix: Mix[str] | None = None) -> tuple[int, ...]:
        """Return the token ids of a prompt for the weights in a mix; for the base without.

        Raises:
            InvalidRequest: the conversation cannot be rendered, or a token id is outside the vocabulary.
        """
        ...

    def decode(self, tokens: Sequence[int], mix: Mix[str] | None = None) -> str:
        """Return the text of token ids, special tokens included."""
        ...

    async def compile(self, grammar: Grammar) -> None:
        """Get ready to hold answers to a form, so that a request for it has nothing to wait for or to fail at.

        Raises:
            InvalidRequest: it has a mistake, or something that cannot be followed.
            Unsupported: this engine, or its tokenizer, holds answers to none.
        """
        ...

    def footprint(self, adapter: Adapter) -> int:
        """Return the bytes of the engine's memory that an adapter takes while it is resident."""
        ...

    async def prepare(self, adapter: Adapter, progress: Progress | None = None) -> None:
        """Do once what loads need done to an adapter's files, off the critical path. Nothing becomes resident.

        Optional: loads work without, but the first one takes longer. `progress` may be called from any thread. Where
        there is no room for what it makes, it makes nothing and logs that.

        Raises:
            AdapterDamaged: its files are gone or changed.
        """
        ...

    @property
    def host_tier(self) -> bool:
        """Whether `stage` holds weights: in host memory, where that is not the memory that the engine computes in."""
        ...

    async def stage(self, adapter: Adapter) -> int:
        """Bring an adapter's weights nearer, so that its next load is quick; return the bytes that are held for it.

        They are held until `unstage`, through loads and unloads. Without a host tier nothing is held, the disk is only
        told to read ahead.

        Raises:
            AdapterDamaged: its files are gone or changed.
        """
        ...

    def unstage(self, digest: str) -> None:
        """Let go of what `stage` holds, if anything."""
        ...

    async def load(self, adapter: Adapter) -> LoadReport:
        """Make an adapter resident, off the critical path. Loading what is resident does nothing.

        Raises:
            AdapterDamaged: its files are gone or changed.
            Overloaded: `max_loras` adapters are resident already.
        """
        ...

    async def unload(self, digest: str) -> None:
        """Free an adapter's weights. The caller makes sure that no request uses them.

        Raises:
            Conflict: a request still uses them; nothing was freed.
        """
        ...

    async def switch(self, old: str, new: str, requests: Collection[str] | None = None) -> int:
        """Put resident `new` in the place of resident `old` in running and waiting requests, at a step boundary.

        With `requests`, only in those with these ids; it keeps its weight in a mix. Keys and values that they hold were
        made by other weights, so they are never shared afterwards. Returns how many requests were changed.

        Raises:
            Conflict: the two have different tokens, so that what was said so far means something else to `new`.
        """
        ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        """Yield pieces of the answer as they come, then one `Finished`.

        Closing the iterator cancels the request and frees all it holds. The request's adapters must be resident.
        """
        ...

    def resident(self) -> tuple[Resident, ...]:
        """Return what is resident, by slot."""
        ...

    def stats(self) -> EngineStats:
        """Return a snapshot of load and cache."""
        ...
