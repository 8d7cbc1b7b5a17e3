"""Decode steps of a CPU: laid out once at start as a program of compiled jobs, and run as one call each.

What differs from step to step lies in fields of the jobs, a column of a table for all of them: rows, places in the
cache, which rows run under which adapters. Activations lie at fixed addresses. See `program_numba` for what runs it,
and `decoder` for the models that it serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from loradex.engine.local import attention_numba as attend
from loradex.engine.local import lora_numba as lora
from loradex.engine.local import norm_numba as norm
from loradex.engine.local import program_numba as field
from loradex.engine.local.attention import PagedAttention
from loradex.engine.local.attention_job import EVERYTHING
from loradex.engine.local.batch import Narrow
from loradex.engine.local.decoder import Decoder, Layer, Norm
from loradex.engine.local.kvcache import KVCache
from loradex.engine.local.linear import LoraLinear
from loradex.engine.local.lora import Segment
from loradex.engine.local.lora_job import LoraJob
from loradex.engine.local.packed import Few
from loradex.engine.local.plan import Chunk
from loradex.engine.local.team import Team, team_size
from loradex.engine.local.vectors import LANES

_RUN, _GATED, _NORM, _ATTEND = (
    int(each.address or 0) for each in (field.run, field.gated, norm.bf16_shared, attend.bf16)
)


class Jobs:
    """Jobs that have the same fields, one below the other, so that one field of all of them is set at once."""

    def __init__(self, fields: int) -> None:
        self.table = np.zeros((0, fields), np.int64)
        self._made: list[np.ndarray] = []

    def add(self, fields: dict[int, int], like: np.ndarray | None = None) -> int:
        """Add a job with these fields, the others as in `like`; return its number."""
        own = np.zeros(self.table.shape[1], np.int64) if like is None else like.copy()
        for name, value in fields.items():
            own[name] = value
        self._made.append(own)
        return len(self._made) - 1

    def settle(self) -> None:
        """Lay out what was added: from here on jobs have addresses."""
        if self._made:
            self.table = np.stack(self._made)

    def address(self, number: int) -> int:
        """Return where a job lies."""
        return self.table.ctypes.data + number * self.table.strides[0]


@dataclass(slots=True)
class Operation:
    """One entry of the program: a C function, and the job that it is given."""

    function: int
    jobs: Jobs
    number: int
    waits: bool


class Program:
    """The decode steps of one model, with as many rows as its kernels take.

    Args:
        decoder: its parts, with kernels of few rows in all linears and that of LoRA in those of the layers.
        attention: with its cache, and with the limits of each layer.
        block: cells of a block of the cache.
    """

    def __init__(self, decoder: Decoder, attention: PagedAttention, block: int) -> None:
        self._decoder = decoder
        head = _few(decoder.head)
        self._size, self._places = head.size, head.places
        self._rows, self._block = head.rows, block
        self._team = Team(_RUN)
        self._held: dict[tuple[str, int], torch.Tensor] = {}  # activations; their addresses stand in jobs
        self._norms, self._gates = Jobs(norm.FIELDS), Jobs(field.GATED_FIELDS)
        self._products, self._attends, self._loras = Jobs(head.places.fields), Jobs(attend.FIELDS), Jobs(lora.FIELDS)
        self._operations: list[Operation] = []
        self._adapters: list[LoraJob] = []
        self._joined: list[int] = []  # products that go on with the LoRA job of the same number in `_adapters`
        self._beside: list[int] = []  # how many LoRA jobs before each may be at work beside it
        self._widths: list[int] = []  # of a row of each gate
        self._heads: list[int] = []  # rows of each norm for each row of the step
        self._widest = 0  # inputs of a product
        self._threads = 0  # that the jobs have room for
        self._scratch = torch.empty(0)
        self._lora_scratch = np.zeros(0, np.float32)
        self._lay_out(attention)
        self._settle()

    def takes(self, chunks: Sequence[Chunk], segments: Sequence[Segment]) -> bool:
        """Whether a step consists of decodes only, and of no more rows than there is room for."""
        return len(chunks) <= self._rows and all(chunk.length == 1 and chunk.samples for chunk in chunks)

    @torch.inference_mode()
    def logits(self, chunks: Sequence[Chunk], segments: Sequence[Segment]) -> torch.Tensor:
        """Return logits `[chunks, vocabulary]` of a step that `takes` says yes to; valid until the next."""
        rows = len(chunks)
        tokens = torch.tensor([chunk.sequence.tokens[chunk.start] for chunk in chunks])
        positions = torch.tensor([[chunk.start for chunk in chunks]])
        self._hidden[:rows] = self._decoder.embedding(tokens)
        cos, sin = (each.contiguous() for each in self._decoder.rotary(self._hidden[None, :rows], positions))
        cells, lengths = self._cells(chunks)
        written = cells[np.arange(rows), lengths - 1]
        narrow = Narrow(segments) if segments else None
        self._set_threads(self._team.size)
        self._set_rows(rows)
        self._set_adapters(narrow)
        own = self._attends.table
        own[:, attend.COS], own[:, attend.SIN], own[:, attend.WRITTEN] = cos.data_ptr(), sin.data_ptr(), _at(written)
        own[:, attend.CELLS], own[:, attend.LENGTHS] = _at(cells), _at(lengths)
        self._set_scratch(rows, cells.shape[1])
        self._program[field.ARRIVED] = 0
        self._team.together(self._program.ctypes.data)
        return self._logits[:rows, : self._vocabulary]

    def _lay_out(self, attention: PagedAttention) -> None:
        hidden = self._decoder.norm.weight.numel()
        self._hidden, normed = self._room("hidden", hidden), self._room("normed", hidden)
        added = None
        for layer in self._decoder.layers:
            self._add_norm(layer.before, self._hidden, normed, added)
            self._add_attention(layer, attention, normed)
            self._add_norm(layer.after, self._hidden, normed, self._room("output", hidden))
            self._add_products(normed, gate=layer.gate, up=layer.up)
            inner = _few(layer.gate).outputs
            active = self._room("active", inner)
            fields = {field.GATE: self._room("gate", inner), field.UP: self._room("up", inner), field.OUTPUT: active}
            self._add(_GATED, self._gates, {name: each.data_ptr() for name, each in fields.items()})
            self._widths.append(inner)
            self._add_products(active, down=layer.down)
            added = self._room("down", hidden)
        self._add_norm(self._decoder.norm, self._hidden, normed, added)
        self._add_products(normed, logits=self._decoder.head)
        head = _few(self._decoder.head)
        self._logits, self._vocabulary = self._room("logits", head.pitch), head.outputs

    def _settle(self) -> None:
        for jobs in (self._norms, self._gates, self._products, self._attends, self._loras):
            jobs.settle()
        self._joins = np.array([self._loras.address(number) for number in range(len(self._joined))], np.int64)
        listed = [(each.function, each.jobs.address(each.number), each.waits) for each in self._operations]
        self._listed = np.array(listed, np.int64)
        self._program = np.zeros(field.FIELDS, np.int64)
        self._program[field.COUNT], self._program[field.OPERATIONS] = len(listed), _at(self._listed)
        self._program[field.TEAM] = team_size()

    def _room(self, name: str, width: int) -> torch.Tensor:
        """Return the activations `[rows, width]` of a name; all layers use the same."""
        if (name, width) not in self._held:
            self._held[name, width] = torch.zeros(self._rows, width, dtype=torch.bfloat16)
        return self._held[name, width]

    def _add(
        self, function: int, jobs: Jobs, fields: dict[int, int], like: np.ndarray | None = None, *, waits: bool = True
    ) -> int:
        number = jobs.add(fields, like)
        self._operations.append(Operation(function, jobs, number, waits))
        return number

    def _add_norm(
        self,
        own: Norm,
        x: torch.Tensor,
        y: torch.Tensor,
        added: torch.Tensor | None = None,
        *,
        heads: int = 1,
        waits: bool = True,
    ) -> None:
        """Norm `x` into `y`, head by head, after `added` was added to it."""
        fields = {
            norm.INPUT: x.data_ptr(),
            norm.OUTPUT: y.data_ptr(),
            norm.ADDED: 0 if added is None else added.data_ptr(),
            norm.WEIGHT: own.weight.data_ptr(),
            norm.WIDTH: own.weight.numel(),
            norm.EPSILON: int(np.float64(own.epsilon).view(np.int64)),
        }
        self._add(_NORM, self._norms, fields, waits=waits)
        self._heads.append(heads)

    def _add_products(self, x: torch.Tensor, **linears: nn.Module) -> None:
        """Multiply `x` with linears, each into the activations of its name, and go on with their adapters.

        None waits for the one before: what a thread widens into the scratch of another is the same `x`.
        """
        self._widest = max(self._widest, x.shape[1])
        for number, (name, linear) in enumerate(linears.items()):
            few, places = _few(linear), self._places
            y = self._room(name, few.pitch)
            fields = {places.input: x.data_ptr(), places.output: y.data_ptr(), places.lora: 0}
            made = self._add(few.kernel, self._products, fields, few.fields, waits=number == 0)
            if isinstance(linear, LoraLinear):
                job = cast(LoraJob, linear.job)
                self._loras.add({lora.INPUT: x.data_ptr(), lora.OUTPUT: y.data_ptr()}, job.fields)
                self._adapters.append(job)
                self._joined.append(made)
                self._beside.append(number)

    def _add_attention(self, layer: Layer, attention: PagedAttention, normed: torch.Tensor) -> None:
        self._add_products(normed, query=layer.query, key=layer.key, value=layer.value)
        shape, limits = attention.shapes[layer.index], attention.limits[layer.index]
        keys, values, _ = cast(KVCache, attention.cache).pools(layer.index)
        query, key = self._room("query", shape.query_heads * shape.key_dim), self._room("key", keys[0].numel())
        if layer.query_norm is not None and layer.key_norm is not None:
            self._add_norm(layer.query_norm, query, query, heads=shape.query_heads)
            self._add_norm(layer.key_norm, key, key, heads=shape.heads, waits=False)
        attended = self._room("attended", shape.query_heads * shape.value_dim)
        scaling = shape.key_dim**-0.5 if limits.scaling is None else limits.scaling
        fields = {
            attend.HEADS: shape.heads,
            attend.QUERIES: shape.query_heads // shape.heads,
            attend.KEY_DIM: shape.key_dim,
            attend.VALUE_DIM: shape.value_dim,
            attend.QUERY: query.data_ptr(),
            attend.KEYS: keys.data_ptr(),
            attend.VALUES: values.data_ptr(),
            attend.WINDOW: EVERYTHING if limits.window is None else limits.window,
            attend.SCALING: int(np.float64(scaling).view(np.int64)),
            attend.OUTPUT: attended.data_ptr(),
            attend.OWN_KEYS: key.data_ptr(),
            attend.OWN_VALUES: self._room("value", values[0].numel()).data_ptr(),
        }
        self._add(_ATTEND, self._attends, fields)
        self._add_products(attended, output=layer.output)

    def _cells(self, chunks: Sequence[Chunk]) -> tuple[np.ndarray, np.ndarray]:
        """Return the cells of each sequence's tokens, `[rows, longest]`, and how many of them count, `[rows]`."""
        lengths = np.array([chunk.end for chunk in chunks], np.int64)
        width = int(lengths.max() - 1) // self._block + 1
        blocks = np.zeros((len(chunks), width, 1), np.int64)
        for row, chunk in zip(blocks, chunks, strict=True):
            own = chunk.sequence.blocks[:width]
            row[: len(own), 0] = own
        return (blocks * self._block + np.arange(self._block)).reshape(len(chunks), -1), lengths

    def _set_threads(self, threads: int) -> None:
        """Make room for so many threads; others in the process may change what this one has."""
        if threads == self._threads:
            return
        self._threads = threads
        self._loras.table[:, lora.THREADS] = threads
        if self._places.wide is not None:
            self._wide = torch.empty(threads * self._rows * self._widest)
            self._products.table[:, self._places.wide] = self._wide.data_ptr()

    def _set_rows(self, rows: int) -> None:
        norms, gates, products, attends = (
            each.table for each in (self._norms, self._gates, self._products, self._attends)
        )
        norms[:, norm.TAKEN] = gates[:, field.TAKEN] = attends[:, attend.TAKEN] = 0
        products[:, self._places.zeros] = 0
        norms[:, norm.ROWS] = np.multiply(self._heads, rows)
        gates[:, field.VALUES] = np.multiply(self._widths, rows)
        products[:, self._places.rows] = self._size(rows)
        attends[:, attend.UNITS] = attends[:, attend.HEADS] * rows

    def _set_adapters(self, narrow: Narrow | None) -> None:
        """Let the products of linears that some adapter changes go on with their LoRA jobs."""
        ranks = np.array([job.rank for job in self._adapters], np.int64)
        ranks = ranks if narrow is not None else np.zeros_like(ranks)
        self._products.table[self._joined, self._places.lora] = np.where(ranks > 0, self._joins, 0)
        if narrow is None:
            return
        room, beside = narrow.rows * int(ranks.max(initial=0)), np.array(self._beside, np.int64)
        if room * (beside.max() + 1) > self._lora_scratch.size:
            self._lora_scratch = np.zeros(room * (beside.max() + 1), np.float32)
        own = self._loras.table
        own[:, lora.TAKEN] = own[:, lora.SHRUNK] = 0
        own[:, lora.RANK], own[:, lora.PRODUCTS] = ranks, _at(self._lora_scratch) + 4 * room * beside
        own[:, lora.SEGMENTS], own[:, lora.SEGMENT], own[:, lora.ROWS] = narrow.count, narrow.address, narrow.rows

    def _set_scratch(self, rows: int, longest: int) -> None:
        own = self._attends.table
        filled = -(-longest // LANES) * LANES + LANES
        room = own[:, attend.QUERIES] * (own[:, attend.KEY_DIM] + filled)
        needed = int((own[:, attend.HEADS] * room).max()) * rows
        if needed > self._scratch.numel():
            self._scratch = torch.empty(needed)
        own[:, attend.LONGEST], own[:, attend.ROOM] = longest, room
        own[:, attend.SCRATCH] = self._scratch.data_ptr()


def can_run(decoder: Decoder, attention: PagedAttention) -> bool:
    """Whether all linears of a bfloat16 model have one kind of kernel for few rows, and attention is as ours is."""
    linears = [each for layer in decoder.layers for each in _linears(layer)]
    if not all(isinstance(each.job, LoraJob) and each.joint is not None for each in linears):
        return False
    kernels = [_few(each) for each in (*linears, decoder.head)]
    layers = [(attention.shapes[each.index], attention.limits.get(each.index)) for each in decoder.layers]
    return (
        None not in kernels
        and len({type(each) for each in kernels}) == 1
        and all(each.inputs % LANES == 0 for each in kernels)
        and all(each.pitch == each.outputs for each in kernels[:-1])
        and all(
            limits is not None
            and limits.softcap is None
            and shape.key_dim % (2 * LANES) == shape.value_dim % LANES == 0
            for shape, limits in layers
        )
    )


def _linears(layer: Layer) -> tuple[LoraLinear, ...]:
    return layer.query, layer.key, layer.value, layer.output, layer.gate, layer.up, layer.down


def _few(linear: nn.Module) -> Few:
    base = linear.base if isinstance(linear, LoraLinear) else linear
    return cast(Few, getattr(base, "few", None))


def _at(array: np.ndarray) -> int:
    address: int = array.ctypes.data
    return address
