"""Decode steps of graphics cards: recorded once at start, and played again.

To tell a card what to do takes longer than doing it, for a step of some thousand small operations. A CUDA graph is told
once. What differs from step to step lies at fixed addresses: tokens, places in the cache, which rows run under which
adapters. Where the adapters' weights lie says a table on the card, so that loading, replacing and switching them needs
no new recording.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from loradex.engine.local.batch import Batch, Paged
from loradex.engine.local.lora import Segment
from loradex.engine.local.lora_triton import ranks_at_once
from loradex.engine.local.model import BaseModel
from loradex.engine.local.plan import Chunk
from loradex.engine.local.tiles import Tiles, few_tiles, slots_and_weights
from loradex.engine.local.triton_job import TritonTable

SHARERS = 4
"""Adapters that a row has at most, on average; a step with larger mixes is computed as it comes."""

_TILE = 5

_SOME = Segment(0, 0, -1)
# That there are segments at all; which they are stands in the inputs.

Play = Callable[[], torch.Tensor]
"""Computes a step from the inputs as they are; the logits are overwritten by the next."""


class Inputs:
    """What a decode step reads, filled here and brought to the same places on the device by two copies.

    Args:
        rows: sequences of a step at most.
        width: blocks of a sequence at most.
        size: cells of a block.
        spare: a block that is nobody's, for rows without a sequence.
        device: where they are read.
    """

    def __init__(self, rows: int, width: int, size: int, spare: int, device: torch.device) -> None:
        self.size = size
        self._spare = spare
        parts = (rows, rows, rows, rows, _TILE * rows, SHARERS * rows, SHARERS * rows)
        pinned = device.type == "cuda"
        self._host = torch.zeros(sum(parts), dtype=torch.int32, pin_memory=pinned)
        self._there = torch.zeros(sum(parts), dtype=torch.int32, device=device)
        own = np.split(self._host.numpy(), np.cumsum(parts)[:-1])
        self._tokens, self._positions, self._cells, self._lengths, self._tiles, self._slots, self._weights = own
        there = self._there.split_with_sizes(parts)
        self.tokens, self.positions, self.cells, self.lengths, tiles, self.slots, weights = there
        self.tiles, self.weights = tiles.view(-1, _TILE), weights.view(torch.float32)
        self._copied = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]
        self._host_tables = torch.full((rows, width), spare, dtype=torch.int32, pin_memory=pinned)
        self.tables = torch.full((rows, width), spare, dtype=torch.int32, device=device)

    def fill(self, chunks: Sequence[Chunk], segments: Sequence[Segment], rows: int) -> None:
        """Describe a step of one-row chunks in the first `rows` rows; those that are left write to the spare block."""
        if self._copied is not None:
            self._copied.synchronize()  # the card may be behind, and still read what was there before
        count, size, tables = len(chunks), self.size, self._host_tables.numpy()
        starts = [chunk.start for chunk in chunks]
        self._tokens[:count] = [chunk.sequence.tokens[chunk.start] for chunk in chunks]
        self._positions[:count] = starts
        self._lengths[:count] = self._positions[:count] + 1
        self._cells[:count] = [
            chunk.sequence.blocks[start // size] * size + start % size
            for chunk, start in zip(chunks, starts, strict=True)
        ]
        width = max(starts) // size + 1
        for row, chunk in enumerate(chunks):
            blocks = chunk.sequence.blocks[:width]
            tables[row, : len(blocks)] = blocks
        for part, nothing in ((self._tokens, 0), (self._positions, 0), (self._lengths, 1)):
            part[count:rows] = nothing
        self._cells[count:rows] = tables[count:rows, 0] = self._spare
        self._cells[count:rows] *= size
        tiles, _ = few_tiles(segments)
        self._tiles[: _TILE * len(tiles)] = np.array(tiles, np.int32).reshape(-1)
        self._tiles[_TILE * len(tiles) : _TILE * rows] = 0
        self._slots[: len(segments)], self._weights[: len(segments)] = slots_and_weights(segments)
        self._there.copy_(self._host, non_blocking=True)
        self.tables[:rows, :width].copy_(self._host_tables[:rows, :width], non_blocking=True)
        if self._copied is not None:
            self._copied.record()


class Graphs:
    """The recorded decode steps of one model: for some numbers of rows, without adapters and with ranks up to some.

    On a device that records nothing, each step is computed as it would be recorded.

    Args:
        model: with its kernels and its cache in place; the cache has the block `spare` too.
        table: of the LoRA kernel.
        inputs: of `rows` rows.
        rows: sequences of a step at most.
        max_rank: of any adapter.
    """

    def __init__(self, model: BaseModel, table: TritonTable, inputs: Inputs, rows: int, max_rank: int) -> None:
        self._model = model
        self._table = table
        self._inputs = inputs
        self._sizes = sizes(rows)
        every = list(ranks_at_once(model.dtype))
        self._ranks = [0, *(each for i, each in enumerate(every) if not i or every[i - 1] < max_rank)]
        self._pool = torch.cuda.graph_pool_handle() if model.device.type == "cuda" else None
        self._played: dict[tuple[int, int], Play] = {}

    @torch.inference_mode()
    def record(self, told: Callable[[float], None]) -> None:
        """Record every step; tell how far it is.

        Raises:
            RuntimeError: the model does something that cannot be recorded, such as to look at what it has computed.
        """
        every = [(size, rank) for size in reversed(self._sizes) for rank in self._ranks]
        for number, (size, rank) in enumerate(every):
            told(number / len(every))
            self._played[size, rank] = self._record(size, rank)

    def takes(self, chunks: Sequence[Chunk], segments: Sequence[Segment]) -> bool:
        """Whether a step is one of those that were recorded."""
        rows = sum(segment.end - segment.start for segment in segments)
        few = len(chunks) <= self._sizes[-1] and rows <= SHARERS * len(chunks)
        return few and all(chunk.length == 1 and chunk.samples for chunk in chunks)

    def logits(self, chunks: Sequence[Chunk], segments: Sequence[Segment]) -> torch.Tensor:
        """Return logits `[chunks, vocabulary]` of a step that `takes` says yes to; valid until the next."""
        rows = next(size for size in self._sizes if size >= len(chunks))
        rank = int(self._table.follow(segments).max()) if segments else 0
        rank = next((each for each in self._ranks if each >= rank), self._ranks[-1])
        self._inputs.fill(chunks, segments, rows)
        return self._played[rows, rank]()[: len(chunks)]

    def _record(self, rows: int, rank: int) -> Play:
        def compute() -> torch.Tensor:
            return self._compute(rows, rank)

        if self._pool is None:
            return compute
        side = torch.cuda.Stream(self._model.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            compute()  # what is set up or compiled at the first call must not be recorded
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize(self._model.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = compute()

        def play() -> torch.Tensor:
            graph.replay()
            return logits

        return play

    def _compute(self, rows: int, rank: int) -> torch.Tensor:
        own = self._inputs
        ranks = [rank] * len(self._model.linears)
        self._model.step.batch = Batch(
            prompts=(),
            decodes=Paged(None, own.tables[:rows], own.lengths[:rows], own.size),
            segments=(_SOME,) if rank else (),
            cells=own.cells[:rows].long(),
            taken=Tiles(own.tiles[:rows], None, own.slots, own.weights, ranks, SHARERS * rows) if rank else None,
        )
        try:
            output = self._model.module(
                input_ids=own.tokens[None, :rows].long(),
                position_ids=own.positions[None, :rows].long(),
                use_cache=False,
            )
        finally:
            self._model.step.batch = None
        logits: torch.Tensor = output.logits[0]
        return logits


def sizes(rows: int) -> list[int]:
    """Return the numbers of rows that are recorded: powers of two, from 16 on with those between, and all."""
    between = [1, 2, 4, 8, *(size * part // 2 for size in (16 << i for i in range(20)) for part in (2, 3))]
    return [*(size for size in between if size < rows), rows]
