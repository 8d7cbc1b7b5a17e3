"""An engine without a model: it echoes the prompt under the name of its weights. For tests, demos and interface work.

Text is bytes: token ids 0 to 255 are the bytes of UTF-8, 256 ends an answer. The answer to `hello` is
`base: hello`, `1f2e3d4c: hello` under the adapter whose digest starts so, `1f2e3d4c*0.7+5a6b7c8d*0.3: hello` under a
mix. A request that is switched says the new digest where it goes on: `1f2e3d4c: he|5a6b7c8d: llo`. Sampling never
changes what it says; only what ends an answer (`max_tokens`, `min_tokens`, `stop`, `stop_token_ids`, `ignore_eos`) has
its meaning.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence

from loradex.adapters.adapter import Adapter
from loradex.adapters.base_model import model_digest
from loradex.core.event import Event
from loradex.core.grammar import Grammar
from loradex.core.mix import Mix
from loradex.core.model import LinearShape, ModelInfo
from loradex.core.prompt import ChatPrompt, Prompt
from loradex.core.request import GenerateRequest
from loradex.engine.base import EngineStats, LoadReport, Progress, Resident
from loradex.engine.config import EngineConfig
from loradex.engine.echo import EOS, Echo
from loradex.errors import (
    AdapterDamaged,
    Conflict,
    EngineFailed,
    EngineStopped,
    InvalidRequest,
    Overloaded,
    Unsupported,
)

ARCHITECTURE = "FakeForCausalLM"
LAYERS = 2
MAX_MODEL_LEN = 4096

_SHAPES = {
    "self_attn.q_proj": LinearShape(32, 32),
    "self_attn.k_proj": LinearShape(32, 16),
    "self_attn.v_proj": LinearShape(32, 16),
    "self_attn.o_proj": LinearShape(32, 32),
    "mlp.gate_proj": LinearShape(32, 64),
    "mlp.up_proj": LinearShape(32, 64),
    "mlp.down_proj": LinearShape(64, 32),
}


class FakeEngine:
    """The whole Engine protocol, deterministic and without tensors.

    Args:
        config: `max_loras`, `max_num_seqs`, `max_model_len`, `block_size` and the names are honoured.
        tokens_per_second: speed of each request; 0 is as fast as possible.
        fail_prepare: digests whose preparation fails. Like the other knobs it is an attribute that may change at any
            time.
        host_tier: whether it has memory of its own, and holds in host memory what is staged.
        fail_load: digests whose load fails.
        fail_answer: digests under which every answer fails at its first token.
        fail_unload: digests that cannot be unloaded.
        fail_switch: whether `switch` fails.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        tokens_per_second: float = 0.0,
        fail_prepare: set[str] | None = None,
        host_tier: bool = False,
        fail_load: set[str] | None = None,
        fail_answer: set[str] | None = None,
        fail_unload: set[str] | None = None,
        fail_switch: bool = False,
    ) -> None:
        self._config = config
        self.tokens_per_second = tokens_per_second
        self.fail_prepare = fail_prepare if fail_prepare is not None else set()
        self.fail_load = fail_load if fail_load is not None else set()
        self.fail_answer = fail_answer if fail_answer is not None else set()
        self.fail_unload = fail_unload if fail_unload is not None else set()
        self.fail_switch = fail_switch
        self.prepared: set[str] = set()
        """Digests that were prepared."""
        self.host_tier = host_tier
        self.staged: dict[str, int] = {}
        """Bytes of what was staged, by digest; 0 each without a host tier."""
        self.loads_allowed = asyncio.Event()
        """Cleared, it holds every load until it is set again, so that a test can act while one is under way."""
        self.loads_allowed.set()
        self._info = _info(config)
        self._serving = False
        self._slots: dict[int, Adapter] = {}
        self._loading: dict[str, int] = {}
        self._running: list[Echo] = []
        self._waiting: list[Echo] = []
        self._steps = 0

    @property
    def info(self) -> ModelInfo:
        """The base model that it pretends to have."""
        return self._info

    async def start(self, progress: Progress | None = None) -> None:
        """Begin to serve."""
        if progress is not None:
            progress("weights", 1.0)
        self._serving = True

    async def stop(self) -> None:
        """End what runs with EngineStopped, and forget every adapter."""
        self._serving = False
        self._slots.clear()
        self._wake()

    async def learn(self, adapter: Adapter) -> bool:
        """Add no tokens."""
        return False

    def encode(self, prompt: Prompt, mix: Mix[str] | None = None) -> tuple[int, ...]:
        """Return the bytes of a text, or of a conversation rendered as `role: content` lines.

        Raises:
            InvalidRequest: a conversation without messages or with a template, or an id outside the vocabulary.
        """
        if isinstance(prompt, str):
            return tuple(prompt.encode("utf-8", "replace"))
        if isinstance(prompt, ChatPrompt):
            return tuple(_render(prompt).encode("utf-8", "replace"))
        for token in prompt:
            if not 0 <= token <= EOS:
                raise InvalidRequest(f"Token id {token} is outside the vocabulary of {EOS + 1}", param="prompt")
        return tuple(prompt)

    def decode(self, tokens: Sequence[int], mix: Mix[str] | None = None) -> str:
        """Return the text of token ids; the end token shows as `<eos>`."""
        return b"".join(b"<eos>" if token == EOS else bytes((token,)) for token in tokens).decode("utf-8", "replace")

    async def compile(self, grammar: Grammar) -> None:
        """Raise Unsupported: an echo has the form of what was said."""
        raise Unsupported("The fake engine holds answers to no form", param=grammar.param)

    def footprint(self, adapter: Adapter) -> int:
        """Return the bytes of the adapter's file."""
        return adapter.bytes

    async def prepare(self, adapter: Adapter, progress: Progress | None = None) -> None:
        """Note that an adapter was prepared. Its files must exist, but are not read.

        Raises:
            AdapterDamaged: its files are gone.
            EngineFailed: its digest is in `fail_prepare`.
        """
        await asyncio.sleep(0)
        _require_files(adapter)
        if adapter.digest in self.fail_prepare:
            raise EngineFailed(f"The engine was told to fail the preparation of {adapter.digest[:12]}")
        if progress is not None:
            progress("pack", 1.0)
        self.prepared.add(adapter.digest)

    async def stage(self, adapter: Adapter) -> int:
        """Note that an adapter was staged; return its bytes where there is a host tier.

        Raises:
            AdapterDamaged: its files are gone.
        """
        await asyncio.sleep(0)
        _require_files(adapter)
        self.staged[adapter.digest] = adapter.bytes if self.host_tier else 0
        return self.staged[adapter.digest]

    def unstage(self, digest: str) -> None:
        """Forget that an adapter was staged."""
        self.staged.pop(digest, None)

    async def load(self, adapter: Adapter) -> LoadReport:
        """Take a slot for an adapter. Its files must exist, but are not read.

        Raises:
            AdapterDamaged: its files are gone.
            EngineFailed: its digest is in `fail_load`.
            EngineStopped: the engine is not running.
            Overloaded: `max_loras` adapters are resident or loading already.
        """
        self._require_serving()
        report = LoadReport(0.0, 0.0, adapter.bytes)
        if self._slot(adapter.digest) is not None:
            return report
        taken = {*self._slots, *self._loading.values()}
        free = next((slot for slot in range(self._config.max_loras) if slot not in taken), None)
        if free is None:
            raise Overloaded(f"{self._config.max_loras} adapters are resident already", hint="Raise `--max-loras`")
        self._loading[adapter.digest] = free
        try:
            await asyncio.sleep(0)
            await self.loads_allowed.wait()
            self._require_serving()
            _require_files(adapter)
            if adapter.digest in self.fail_load:
                raise EngineFailed(f"The engine was told to fail the load of {adapter.digest[:12]}")
            self._slots[free] = adapter
        finally:
            del self._loading[adapter.digest]
        return report

    async def unload(self, digest: str) -> None:
        """Free the slot of an adapter.

        Raises:
            Conflict: a request still uses it.
            EngineFailed: its digest is in `fail_unload`.
        """
        await asyncio.sleep(0)
        if digest in self.fail_unload:
            raise EngineFailed(f"The engine was told to fail the unload of {digest[:12]}")
        if any(digest in sequence.mix for sequence in (*self._running, *self._waiting)):
            raise Conflict(f"A request still uses {digest[:12]}")
        slot = self._slot(digest)
        if slot is not None:
            del self._slots[slot]

    async def switch(self, old: str, new: str, requests: Collection[str] | None = None) -> int:
        """Move requests, all or those with these ids, from `old` to `new` before their next token; return how many.

        Raises:
            EngineFailed: `new` is not resident, or `fail_switch` is set. Nothing moved.
        """
        await asyncio.sleep(0)
        if self.fail_switch:
            raise EngineFailed("The engine was told to fail the switch")
        if self._slot(new) is None:
            raise EngineFailed(f"{new[:12]} is not resident")
        under_old = [sequence for sequence in (*self._running, *self._waiting) if old in sequence.mix]
        moving = [sequence for sequence in under_old if requests is None or sequence.request.id in requests]
        for sequence in moving:
            sequence.switch(old, new)
        return len(moving)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        """Echo the prompt, a byte a token, then one `Finished`.

        Raises:
            EngineFailed: its adapter is not resident, or its digest is in `fail_answer`.
            EngineStopped: the engine is not running, or was stopped meanwhile.
        """
        self._require_serving()
        for digest in request.mix.adapters:
            if self._slot(digest) is None:
                raise EngineFailed(f"Request {request.id} asks for {digest[:12]}, which is not resident")
        sequence = Echo(request)
        arrived = asyncio.get_running_loop().time()
        self._waiting.append(sequence)
        try:
            self._wake()
            await sequence.admitted.wait()
            queued = asyncio.get_running_loop().time() - arrived
            while True:
                await asyncio.sleep(1 / self.tokens_per_second if self.tokens_per_second else 0)
                self._require_serving()
                if broken := self.fail_answer.intersection(sequence.mix.adapters):
                    raise EngineFailed(f"The engine was told to fail answers of {', '.join(broken)}")
                self._steps += 1
                delta, end = sequence.step()
                yield delta
                if end is not None:
                    yield sequence.finished(*end, queued)
                    return
        finally:
            (self._running if sequence in self._running else self._waiting).remove(sequence)
            self._wake()

    def resident(self) -> tuple[Resident, ...]:
        """Return what is resident, by slot."""
        return tuple(
            Resident(
                digest=adapter.digest,
                slot=slot,
                bytes=adapter.bytes,
                running=sum(adapter.digest in sequence.mix for sequence in self._running),
                waiting=sum(adapter.digest in sequence.mix for sequence in self._waiting),
            )
            for slot, adapter in sorted(self._slots.items())
        )

    def stats(self) -> EngineStats:
        """Return a snapshot; blocks are counted as a real cache would use them."""
        size = self._config.block_size
        total = self._config.max_num_seqs * -(-self._info.max_model_len // size)
        used = sum(-(-sequence.length // size) for sequence in self._running)
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting),
            blocks_total=total,
            blocks_free=total - used,
            block_size=size,
            preemptions=0,
            prefix_queries=0,
            prefix_hits=0,
            steps=self._steps,
            step_seconds=0.0,
        )

    def _require_serving(self) -> None:
        if not self._serving:
            raise EngineStopped("The engine is not running")

    def _slot(self, digest: str) -> int | None:
        return next((slot for slot, adapter in self._slots.items() if adapter.digest == digest), None)

    def _wake(self) -> None:
        """Let waiting requests run, by priority and then first come first, as far as `max_num_seqs` allows."""
        while self._waiting and (len(self._running) < self._config.max_num_seqs or not self._serving):
            sequence = min(self._waiting, key=lambda waiting: waiting.request.priority)
            self._waiting.remove(sequence)
            self._running.append(sequence)
            sequence.admitted.set()


def _require_files(adapter: Adapter) -> None:
    if not adapter.weights.is_file():
        raise AdapterDamaged(f"The weights of {adapter.digest[:12]} are gone from {adapter.path}")


def _render(prompt: ChatPrompt) -> str:
    if not prompt.messages:
        raise InvalidRequest("A conversation needs at least one message", param="messages")
    if prompt.template is not None:
        raise InvalidRequest("The fake engine has no chat templates", param="chat_template")
    text = "\n".join(f"{message.role}: {message.content}" for message in prompt.messages)
    return text + "\nassistant: " if prompt.add_generation_prompt and not prompt.continue_final_message else text


def _info(config: EngineConfig) -> ModelInfo:
    linears = {f"model.layers.{i}.{name}": shape for i in range(LAYERS) for name, shape in _SHAPES.items()}
    path = config.model or "fake"
    return ModelInfo(
        id=config.served_name or path.rstrip("/").rpartition("/")[2],
        path=path,
        architecture=ARCHITECTURE,
        dtype="float32",
        device="cpu",
        vocab_size=EOS + 1,
        max_model_len=config.max_model_len or MAX_MODEL_LEN,
        linears=linears,
        digest=model_digest(ARCHITECTURE, linears),
        has_chat_template=True,
    )
