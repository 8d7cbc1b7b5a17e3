"""What a batch has to read and compute, whatever the engine: the bytes and operations behind the floor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loradex.adapters.adapter import Adapter
from loradex.bench.floor import Floor
from loradex.bench.workload import Request
from loradex.core.model import ModelInfo

_BYTES = {"float32": 4, "float64": 8}
_CACHED = ("k_proj", "v_proj")


@dataclass(frozen=True, slots=True)
class Cost:
    """A model's sizes.

    Attributes:
        linears: weights of all linears but the output head.
        head: weights of the output head.
        width: bytes of a weight of an adapter, and of the base where that is not quantized.
        cached: bytes of keys and values of one token; 0 where the model has no linears of these names.
        adapters: weights of each adapter.
        quantized: bytes of linears and head where these are quantized, scales included.
    """

    linears: int
    head: int
    width: int
    cached: int
    adapters: tuple[int, ...] = ()
    quantized: int = 0

    @classmethod
    def of(cls, info: ModelInfo, adapters: Sequence[Adapter] = ()) -> Cost:
        """Return the cost of a model with these adapters."""
        shapes = info.linears.values()
        width = _BYTES.get(info.dtype, 2)
        kept_width = 1 if info.kv_cache_dtype == "fp8" else width
        cached = [shape for name, shape in info.linears.items() if name.rpartition(".")[2] in _CACHED]
        # What keys are made of is what the head reads; the order of linears says nothing.
        hidden = next((shape.in_features for shape in (*cached, *shapes)), 0)
        kept = sum(shape.out_features for shape in cached)
        return cls(
            linears=sum(shape.in_features * shape.out_features for shape in shapes),
            head=info.vocab_size * hidden,
            width=width,
            cached=kept * kept_width,
            adapters=tuple(each.parameters for each in adapters),
            quantized=info.weight_bytes,
        )

    @property
    def base(self) -> int:
        """Bytes of the base that a step reads."""
        return self.quantized or (self.linears + self.head) * self.width

    @property
    def weights(self) -> int:
        """Bytes of the base in memory: the embedding shares its weights with the head unless that is quantized."""
        return self.base + (self.head * self.width if self.quantized else 0)

    def step_bytes(self, adapters: Iterable[int | None], context: int) -> int:
        """Return the bytes that a decode step reads: base once, each different adapter once, `context` cached tokens.

        `adapters` has the adapter of each row.
        """
        distinct = sum(self.adapters[i] for i in {i for i in adapters if i is not None})
        return self.base + distinct * self.width + context * self.cached

    def step_flops(self, adapters: Iterable[int | None]) -> int:
        """Return the operations of a decode step, attention left out."""
        rows = [self.linears + self.head + (self.adapters[i] if i is not None else 0) for i in adapters]
        return 2 * sum(rows)

    def prefill_flops(self, requests: Iterable[Request]) -> int:
        """Return the operations that the prompts need; the output head is only for the last token of each."""
        total = 0
        for each in requests:
            lora = self.adapters[each.adapter] if each.adapter is not None else 0
            total += 2 * ((self.linears + lora) * len(each.tokens) + self.head)
        return total

    def prefill_seconds(self, requests: Sequence[Request], floor: Floor) -> float:
        """Return the least time for all the prompts together."""
        read = self.step_bytes((each.adapter for each in requests), 0)
        return max(self.prefill_flops(requests) / floor.peak, read / floor.bandwidth)

    def decode_seconds(self, requests: Sequence[Request], floor: Floor) -> float:
        """Return the least time for all tokens after the first of each answer, when all run side by side."""
        total = 0.0
        for step in range(1, max((each.output for each in requests), default=0)):
            rows = [each for each in requests if each.output > step]
            deck = [each.adapter for each in rows]
            read = self.step_bytes(deck, sum(len(each.tokens) + step for each in rows))
            total += max(read / floor.bandwidth, self.step_flops(deck) / floor.peak)
        return total

    def decode_bytes(self, requests: Sequence[Request], steps: int) -> int:
        """Return the bytes read by the last `steps` decode steps together."""
        total = 0
        last = max((each.output for each in requests), default=0)
        for step in range(max(1, last - steps), last):
            rows = [each for each in requests if each.output > step]
            total += self.step_bytes((each.adapter for each in rows), sum(len(each.tokens) + step for each in rows))
        return total
