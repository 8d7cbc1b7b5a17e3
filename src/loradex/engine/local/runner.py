"""Computes a step: plan to tensors to logits to tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby

import torch
from torch.nn.utils.rnn import pad_sequence

from loradex.core.mix import Mix
from loradex.engine.local.batch import Batch, Decodes, Divide, Paged, Rows
from loradex.engine.local.change import Weights
from loradex.engine.local.lora import Segment
from loradex.engine.local.model import BaseModel
from loradex.engine.local.plan import Chunk, StepPlan
from loradex.engine.local.reading import Reading, read_out
from loradex.engine.local.recorded import Recorded
from loradex.engine.local.sampler import FORBIDDEN, Choice, sample
from loradex.engine.local.slots import Slots
from loradex.engine.local.team import dismiss


class Runner:
    """Owns the tensors of one engine: the model, its cache, and the tables of resident adapters.

    `divide` is that of the LoRA kernel which the model's linears have; without, the reference computes every segment.
    `recorded` are decode steps that were recorded, where that can be.
    """

    def __init__(
        self, model: BaseModel, slots: Slots, block_size: int, eos: tuple[int, ...], divide: Divide | None = None
    ) -> None:
        self.model = model
        self.slots = slots
        self.block_size = block_size
        self.eos = eos
        self.divide = divide
        self._vocabularies: dict[str, int] = {}  # how many token ids there are, where not as many as under the base
        self.recorded: Recorded | None = None
        self._changing: set[int] = set()  # slots whose adapters do more than add pairs to linears
        self._offsets = torch.arange(block_size)

    def install(self, digest: str, weights: Weights) -> int:
        """Put an adapter's tensors into the tables; return its slot.

        Raises:
            Overloaded: every slot is taken.
        """
        slot = self.slots.assign(digest)
        for module, pair in weights.pairs.items():
            self.model.linears[module].put(slot, pair)
        if weights.changes or weights.experts:
            self._changing.add(slot)
        if weights.vocab_size is not None:
            self._vocabularies[digest] = weights.vocab_size
            self.model.seats[self.model.head].widen(slot, weights.vocab_size)
        for module, change in weights.changes.items():
            self.model.place(module).change(slot, change)
        for module, pairs in weights.experts.items():
            self.model.experts[module].put(slot, pairs)
        return slot

    def remove(self, digest: str) -> None:
        """Take an adapter's tensors out of the tables."""
        slot = self.slots.free(digest)
        self._changing.discard(slot)
        if self._vocabularies.pop(digest, None) is not None:
            self.model.seats[self.model.head].widen(slot, None)
        for linear in self.model.linears.values():
            linear.put(slot, None)
            linear.change(slot, None)
        for seat in self.model.seats.values():
            seat.change(slot, None)
        for experts in self.model.experts.values():
            experts.put(slot, None)

    def pause(self) -> None:
        """Give back the threads that compute beside this one: others in the process may need the cores."""
        dismiss()

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> tuple[dict[str, Choice], dict[str, Reading]]:
        """Compute a plan; return what was chosen for each sequence that samples, and what was read out, by id."""
        if any(chunk.wanted and chunk.sequence.embeds for chunk in plan.chunks):
            with self.model.observed() as hidden:
                logits = self.logits(plan)
            readings = read_out(plan, logits, hidden[0])
        else:
            logits = self.logits(plan)
            readings = read_out(plan, logits, None)
        chunks = [chunk for chunk in plan.chunks if chunk.samples]
        if not chunks:
            return {}, readings
        if len(chunks) < len(logits):
            kept = accumulate(len(chunk.kept) for chunk in plan.chunks)
            logits = logits[[end - 1 for end, chunk in zip(kept, plan.chunks, strict=True) if chunk.samples]]
        choices = sample(logits, [chunk.sequence for chunk in chunks], self.eos)
        return {chunk.sequence.id: choice for chunk, choice in zip(chunks, choices, strict=True)}, readings

    @torch.inference_mode()
    def logits(self, plan: StepPlan) -> torch.Tensor:
        """Compute a plan; return logits `[kept rows, vocabulary]` in the model's dtype, in the plan's order.

        The vocabulary is the largest of the step: ids that a row's own does not have are forbidden.
        """
        logits = self._recorded(plan.chunks)
        if logits is not None:
            return logits
        device = self.model.device
        tokens = torch.tensor([token for chunk in plan.chunks for token in _tokens(chunk)], device=device)
        positions = [chunk.start + i for chunk in plan.chunks for i in range(chunk.length)]
        ends = list(accumulate(chunk.length for chunk in plan.chunks))
        kept = [end - chunk.end + at for end, chunk in zip(ends, plan.chunks, strict=True) for at in chunk.kept]
        self.model.step.batch = self._batch(plan.chunks, ends, tokens if self._vocabularies else None)
        try:
            output = self.model.module(
                input_ids=(tokens.clamp(max=self.model.vocab_size - 1) if self._vocabularies else tokens).unsqueeze(0),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                logits_to_keep=torch.tensor(kept, dtype=torch.long, device=device),
            )
        finally:
            self.model.step.batch = None
        return self._bounded(output.logits[0], [chunk for chunk in plan.chunks for _ in chunk.kept])

    def _bounded(self, logits: torch.Tensor, chunks: Sequence[Chunk]) -> torch.Tensor:
        """Forbid the ids that a row's adapter does not have."""
        if self._vocabularies:
            for row, chunk in zip(logits, chunks, strict=True):
                row[self._vocab_size(chunk.sequence.mix) :] = FORBIDDEN
        return logits

    def _vocab_size(self, mix: Mix[str]) -> int:
        # Whoever has token ids of its own answers by itself.
        first = mix.members[0][0] if mix.members else ""
        return self._vocabularies.get(first, self.model.vocab_size)

    def _recorded(self, chunks: Sequence[Chunk]) -> torch.Tensor | None:
        """Return the logits of a decode step that was recorded, None for any other."""
        if self.recorded is None or any(chunk.length > 1 or chunk.wanted for chunk in chunks):
            return None
        segments = tuple(self._segments((chunk, chunk.start) for chunk in chunks))
        changing = self._changing | {self.slots[digest] for digest in self._vocabularies}
        if any(segment.slot in changing for segment in segments) or not self.recorded.takes(chunks, segments):
            return None
        return self.recorded.logits(chunks, segments)

    def _batch(self, chunks: Sequence[Chunk], ends: Sequence[int], tokens: torch.Tensor | None) -> Batch:
        device, cells = self.model.device, [self._cells(chunk) for chunk in chunks]
        written = torch.cat([own[chunk.start :] for own, chunk in zip(cells, chunks, strict=True)])
        placed = list(zip(chunks, ends, cells, strict=True))
        prompts = (Rows(e - c.length, e, c.start, own.to(device)) for c, e, own in placed if c.length > 1)
        decodes = [(c.start, e - 1, own) for c, e, own in placed if c.length == 1]
        segments = tuple(self._segments((chunk, chunk.start) for chunk in chunks))
        taken, left = self.divide(segments) if self.divide is not None and segments else (None, segments)
        return Batch(
            tuple(prompts),
            self._decodes(*zip(*decodes, strict=True)) if decodes else None,
            segments,
            written.to(device),
            taken,
            left,
            tuple(self._segments((chunk, chunk.kept.start) for chunk in chunks if chunk.kept))
            if self.model.head_changes
            else (),
            any(segment.slot in self._changing for segment in segments),
            tokens,
        )

    def _cells(self, chunk: Chunk) -> torch.Tensor:
        """Return the cells of all tokens of a sequence up to the chunk's end, on the host: one copy brings a step's."""
        blocks = torch.tensor(chunk.sequence.blocks)
        cells = (blocks.unsqueeze(1) * self.block_size + self._offsets).flatten()
        return cells[: chunk.start + chunk.length]

    def _decodes(self, positions: Sequence[int], rows: Sequence[int], cells: Sequence[torch.Tensor]) -> Decodes | Paged:
        device = self.model.device
        if self.model.attention.kernel is not None:
            blocks = [(own[:: self.block_size] // self.block_size).int() for own in cells]
            lengths = torch.tensor([position + 1 for position in positions], dtype=torch.int32, device=device)
            tables = pad_sequence(blocks, batch_first=True).to(device)
            return Paged(torch.tensor(rows, device=device), tables, lengths, self.block_size)
        ragged = len(set(positions)) > 1
        lengths = torch.tensor(positions, device=device) + 1
        padded = pad_sequence(list(cells), batch_first=True, padding_value=-1)
        return Decodes(
            rows=torch.tensor(rows, device=device),
            cells=torch.where(padded < 0, padded[:, :1], padded).to(device),
            position=(lengths - 1).unsqueeze(1) if ragged else None,
            lengths=lengths,
        )

    def _segments(self, chunks: Iterable[tuple[Chunk, int]]) -> Iterable[Segment]:
        """Merge the rows of neighbouring chunks with one mix: a segment for each of its members, none for the base.

        Beside each chunk stands the first of its tokens that has a row.
        """
        end = 0
        runs = (run for chunk, start in chunks for run in chunk.sequence.acting(start, chunk.end))
        for mix, same in groupby(runs, lambda run: run[0]):
            start, end = end, end + sum(rows for _, rows in same)
            for digest, weight in mix.members:
                yield Segment(start, end, self.slots[digest], weight)


def _tokens(chunk: Chunk) -> list[int]:
    return chunk.sequence.tokens[chunk.start : chunk.start + chunk.length]
