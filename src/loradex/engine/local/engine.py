"""LocalEngine: the Engine protocol over the loop, for asyncio callers."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from loradex.adapters.adapter import Adapter
from loradex.adapters.base_model import read_model_info
from loradex.adapters.packs import PackFolder
from loradex.core.event import Event, Finished
from loradex.core.grammar import Grammar
from loradex.core.mix import Mix
from loradex.core.model import ModelInfo
from loradex.core.prompt import Prompt
from loradex.core.request import GenerateRequest
from loradex.engine.base import EngineStats, LoadReport, Progress, Resident
from loradex.engine.built import Limits, read_manifest, within
from loradex.engine.config import EngineConfig
from loradex.engine.local import heap
from loradex.engine.local import model as base_model
from loradex.engine.local.blocks import Blocks
from loradex.engine.local.change import Weights
from loradex.engine.local.compiled import compile_kernels, lay_out_program, record_graphs
from loradex.engine.local.constraint import Constraints
from loradex.engine.local.device import find_device, free_memory
from loradex.engine.local.directory import read_directory, write_directory
from loradex.engine.local.extras import fit
from loradex.engine.local.kvcache import KVCache
from loradex.engine.local.kvcache_fp8 import FP8, Fp8Cache
from loradex.engine.local.loader import Loader
from loradex.engine.local.loop import Loop, Message
from loradex.engine.local.model import BaseModel
from loradex.engine.local.output import Output
from loradex.engine.local.quantized import quantized_linears
from loradex.engine.local.runner import Runner
from loradex.engine.local.scheduler import Scheduler
from loradex.engine.local.selfcheck import check
from loradex.engine.local.sequence import Sequence as Answer
from loradex.engine.local.slots import Slots
from loradex.engine.local.team import dismiss
from loradex.engine.local.text import Text
from loradex.engine.local.texts import Texts
from loradex.engine.local.weights import Contents
from loradex.engine.memory import require_memory
from loradex.errors import ConfigInvalid, Conflict, EngineStopped, Overloaded

SMALL = 64 << 20
"""Bytes of weights below which the threads wait for each other longer than they compute (`benchmarks/LOG.md`)."""


class LocalEngine:
    """A transformers model, a paged cache and a deck of adapters, in one thread of this process."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = within(config)
        self._info: ModelInfo | None = None
        self._loop: Loop | None = None
        self._queues: dict[str, asyncio.Queue[Message]] = {}
        self._eos: tuple[int, ...] = ()
        self._numbers = itertools.count()

    @property
    def info(self) -> ModelInfo:
        """The base model. Raises `EngineStopped` before `start` has returned."""
        if self._info is None:
            raise EngineStopped("The engine has not been started")
        return self._info

    async def start(self, progress: Progress | None = None) -> None:
        """Load the base model, check it against plain transformers, and begin to serve.

        Raises:
            ConfigInvalid: the model cannot be found, read or served, or a setting does not fit it.
            MemoryShort: less memory is free than it needs.
        """
        tell = progress or (lambda stage, share: None)
        events = asyncio.get_running_loop()

        def post(messages: list[tuple[str, Message]]) -> None:
            if not events.is_closed():
                events.call_soon_threadsafe(self._deliver, messages)

        try:
            runner, scheduler = await asyncio.to_thread(self._build, tell)
            heap.settle()
        except torch.OutOfMemoryError as error:
            raise ConfigInvalid(
                f"The memory of {self.config.device!r} does not hold model and cache: {error}",
                hint="Lower `--kv-cache-memory`, quantize with `--quantization`, or serve a smaller model",
            ) from error
        self._loop = Loop(scheduler, runner, post)
        self._loop.start()
        tell("ready", 1.0)

    async def stop(self) -> None:
        """End the thread. Requests in flight get `EngineStopped`; a second call does nothing."""
        loop, self._loop = self._loop, None
        if loop is not None:
            await asyncio.to_thread(loop.stop)
            await asyncio.to_thread(self._loader.stop)
            heap.release()

    def write(self, folder: Path, limits: Limits, tell: Callable[[float], None]) -> None:
        """Write the model, which runs and has checked itself, as an engine directory; see `write_directory`."""
        self._running()
        write_directory(self._model, self.info, limits, Path(self.config.model), folder, tell)

    async def learn(self, adapter: Adapter) -> bool:
        """Take note of the tokens that an adapter adds; raises AdapterInvalid where they are another base's."""
        return await asyncio.to_thread(self._texts.learn, adapter, adapter.vocab_size(self.info))

    def encode(self, prompt: Prompt, mix: Mix[str] | None = None) -> tuple[int, ...]:
        """Return the token ids of a prompt; see `Text.encode` for what it raises."""
        return self._texts.of(mix).encode(prompt)

    def decode(self, tokens: Sequence[int], mix: Mix[str] | None = None) -> str:
        """Return the text of token ids, special tokens included."""
        return self._texts.of(mix).decode(tokens)

    async def compile(self, grammar: Grammar) -> None:
        """Compile a grammar, off the event loop; see `Constraints.begin` for what it raises."""
        await asyncio.to_thread(self._constraints.begin, grammar)

    def footprint(self, adapter: Adapter) -> int:
        """Return the bytes that an adapter's weights take in the engine's dtype."""
        return adapter.parameters * self._model.dtype.itemsize

    async def prepare(self, adapter: Adapter, progress: Progress | None = None) -> None:
        """Make an adapter's pack, where packs are kept and it has none yet.

        Raises:
            AdapterDamaged: its files are gone or changed.
        """
        self._running()
        await self._loader.prepare(adapter, progress or (lambda stage, share: None))

    @property
    def host_tier(self) -> bool:
        """Whether the model is on a device with memory of its own."""
        return self._loader.host_tier

    async def stage(self, adapter: Adapter) -> int:
        """Hold an adapter's pack in host memory; on a CPU, have the disk read it ahead. Returns the bytes held.

        Raises:
            AdapterDamaged: its files are gone or changed.
        """
        self._running()
        return await self._loader.stage(adapter)

    def unstage(self, digest: str) -> None:
        """Let go of what `stage` holds."""
        self._loader.unstage(digest)

    async def load(self, adapter: Adapter) -> LoadReport:
        """Bring an adapter in beside the loop, then hand it over between two steps.

        Raises:
            AdapterDamaged: its files are gone or changed.
            Overloaded: every slot is taken, or the device's memory.
        """
        loop = self._running()
        if adapter.digest in loop.snapshot.places:
            return LoadReport(0.0, 0.0, 0)
        await self.learn(adapter)
        began = time.perf_counter()
        try:
            weights = await self._loader.load(adapter, self._fit)
        except torch.OutOfMemoryError as error:
            raise Overloaded(
                f"{self.info.device} has no memory for an adapter of {self.footprint(adapter)} bytes",
                hint="Unload an adapter, or serve with less `--adapter-memory` or `--kv-cache-memory`",
            ) from error
        read = time.perf_counter()
        await asyncio.wrap_future(loop.install(adapter.digest, weights))
        return LoadReport(read - began, time.perf_counter() - read, weights.nbytes)

    async def unload(self, digest: str) -> None:
        """Free an adapter's weights. Raises `Conflict` while a request uses them."""
        await asyncio.wrap_future(self._running().remove(digest))

    async def switch(self, old: str, new: str, requests: Collection[str] | None = None) -> int:
        """Put resident `new` in the place of `old`, in all requests or those with these ids, at a step boundary.

        Returns how many moved. A request that begins while this is awaited is not moved.

        Raises:
            Conflict: the two have different tokens, so that what was said so far means something else to `new`.
        """
        if not self._texts.same(old, new):
            raise Conflict(
                "The versions have different tokens: running answers end on the one with which they began",
                hint="Replace with `--mode drain`",
            )
        return await asyncio.wrap_future(self._running().switch(old, new, requests))

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        """Yield pieces of the answer, then one `Finished`. Closing the iterator cancels the request.

        Raises:
            EngineFailed: a step with this request broke.
            EngineStopped: the engine was stopped meanwhile.
        """
        loop = self._running()
        sampling = request.sampling
        seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
        # Ids of requests come from clients and may repeat; the loop's own never do.
        key = str(next(self._numbers))
        answer = Answer(key, list(request.tokens), len(request.tokens), sampling, request.mix, seed, request=request.id)
        answer.priority = request.priority
        if sampling.grammar is not None:
            answer.constraint = await asyncio.to_thread(self._constraints.begin, sampling.grammar)
        text = self._texts.of(request.mix)
        answer.ends = text.ends
        output = Output(text, answer, (*self._eos, *text.ends), self.info.max_model_len)
        answer.embeds = request.embedded
        # The row of a token tells how likely the next one is.
        scored = request.scored
        answer.wanted = range(len(request.tokens)) if answer.embeds else range(scored.start - 1, scored.stop - 1)
        messages: asyncio.Queue[Message] = asyncio.Queue()
        self._queues[key] = messages
        finished = False
        loop.submit(answer, output)
        try:
            while not finished:
                message = await messages.get()
                finished = isinstance(message, Finished | Exception)
                if isinstance(message, Exception):
                    raise message
                yield message
        finally:
            del self._queues[key]
            if not finished:
                loop.cancel(key)

    def resident(self) -> tuple[Resident, ...]:
        """Return what is resident, by slot."""
        return self._running().snapshot.resident

    def stats(self) -> EngineStats:
        """Return a snapshot of load and cache."""
        return self._running().snapshot.stats

    def _running(self) -> Loop:
        if self._loop is None or not self._loop.alive:
            raise EngineStopped("The engine is not running")
        return self._loop

    def _fit(self, adapter: Adapter, contents: Contents, rest: Callable[[], None]) -> Weights:
        return fit(adapter, contents, self._model, rest)

    def _busy(self) -> bool:
        return self._loop is not None and self._loop.snapshot.stats.running > 0

    def _deliver(self, messages: list[tuple[str, Message]]) -> None:
        for key, message in messages:
            if key in self._queues:
                self._queues[key].put_nowait(message)

    def _build(self, tell: Progress) -> tuple[Runner, Scheduler]:
        """Load and assemble everything; runs in a worker thread."""
        device = find_device(self.config.device)
        tell("model files", 0.0)
        folder = base_model.find(self.config.model, self.config.revision)
        require_memory(replace(self.config, device=str(device)), folder, free_memory(device))
        _set_threads(self.config.threads, folder)
        tell("weights", 0.2)
        manifest = read_manifest(folder)
        if manifest is None:
            self._model = base_model.load(self.config, folder, device)
        else:
            self._model = read_directory(folder, manifest, self.config.max_loras)
        self._texts = Texts(Text(str(folder), None, self._model.vocab_size))
        self._eos = _end_tokens(self._model, self._texts.base)
        self._constraints = Constraints(self._texts.base.fast, self._model.vocab_size, self._eos)
        tell("cache", 0.8)
        blocks, max_len = _make_blocks(self.config, self._model)
        kind = Fp8Cache if self.config.kv_cache_dtype == "fp8" else KVCache
        cells = (blocks.count + 1) * blocks.size  # the last block is nobody's: see `graphs`
        self._model.attention.cache = kind(self._model.attention.shapes, cells, self._model.dtype, device)
        packs = None if self.config.pack_dir is None else PackFolder(self.config.pack_dir)
        self._loader = Loader(
            *(self._model.dtype, device, packs, self._busy),
            share=self.config.load_share,
            host_tier=device.type != "cpu",
        )
        tell("kernels", 0.85)
        kernels = compile_kernels(self._model, blocks.size)
        runner = Runner(self._model, Slots(self.config.max_loras), blocks.size, self._eos, kernels.divide)
        if device.type == "cpu":
            runner.recorded = lay_out_program(runner, self.config)
        else:
            runner.recorded = record_graphs(
                self._model, kernels.table, self.config, blocks, lambda share: tell("graphs", 0.85 + 0.05 * share)
            )
        tell("self-check", 0.9)
        check(runner, fp8=self._model.quantization == "fp8")
        dismiss()  # from here on the engine's own thread computes
        self._info = self._describe(folder, max_len)
        scheduler = Scheduler(
            blocks,
            max_sequences=self.config.max_num_seqs,
            max_tokens=self.config.max_batched_tokens,
            max_prefill_tokens=self.config.max_prefill_tokens,
            prefix_cache=self.config.prefix_cache,
        )
        return runner, scheduler

    def _describe(self, folder: Path, max_len: int) -> ModelInfo:
        offline = read_model_info(folder)
        return ModelInfo(
            id=self.config.served_name or offline.id,
            path=self.config.model,
            architecture=offline.architecture,
            dtype=str(self._model.dtype).removeprefix("torch."),
            device=str(self._model.device),
            vocab_size=self._model.vocab_size,
            max_model_len=max_len,
            linears=self._model.shapes(),
            digest=offline.digest,
            has_chat_template=self._texts.base.has_chat_template,
            head_dim=offline.head_dim,
            quantization=self._model.quantization,
            kv_cache_dtype=self.config.kv_cache_dtype,
            weight_bytes=sum(linear.nbytes for linear in quantized_linears(self._model.module)),
            parameters={name: shape for name, shape in offline.parameters.items() if self._model.has(name)}
            | self._model.stacks(),
            embedding=self._model.embedding,
            head=self._model.head,
            tied=self._model.tied,
        )


def _set_threads(threads: int | None, folder: Path) -> None:
    """Set torch's threads, for the whole process. Without a wish, a small model gets one, and others torch's choice."""
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if threads is None and weights < SMALL:
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)


def _end_tokens(model: BaseModel, text: Text) -> tuple[int, ...]:
    """Return the tokens that end an answer, the tokenizer's own first."""
    configured = model.module.generation_config.eos_token_id
    known = range(model.vocab_size)
    others = configured if isinstance(configured, list) else [configured]
    return tuple(dict.fromkeys(token for token in (text.tokenizer.eos_token_id, *others) if token in known))


def _make_blocks(config: EngineConfig, model: BaseModel) -> tuple[Blocks, int]:
    """Return as many blocks as the cache memory holds, and the longest answer that fits them.

    Raises:
        ConfigInvalid: the context asked for is beyond the model, or does not fit the memory.
    """
    dtype = FP8 if config.kv_cache_dtype == "fp8" else model.dtype
    per_token = sum(shape.bytes_per_token(dtype) for shape in model.attention.shapes.values())
    blocks = Blocks(config.kv_cache_memory // (per_token * config.block_size), config.block_size)
    room = blocks.count * blocks.size
    own = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None) or room
    if config.max_model_len is not None and config.max_model_len > own:
        raise ConfigInvalid(
            f"max_model_len is {config.max_model_len}; the model's own limit is {own}",
            hint=f"Serve with `--max-model-len {own}` or less",
        )
    wanted = config.max_model_len or own
    if room < (config.max_model_len or 1):
        raise ConfigInvalid(
            f"{wanted} tokens of keys and values need {wanted * per_token} bytes; kv_cache_memory is "
            f"{config.kv_cache_memory}",
            hint="Raise `--kv-cache-memory` or lower `--max-model-len`",
        )
    return blocks, min(wanted, room)
