"""Decides what the next step computes. Events in, a plan out."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from loradex.engine.local.activation import phases
from loradex.engine.local.blocks import Blocks, chain_key, root_key, turn_key
from loradex.engine.local.levels import Levels
from loradex.engine.local.plan import Chunk, StepPlan
from loradex.engine.local.sequence import Sequence

MAX_SCORED = 256
"""Rows of a step whose logits are computed to score prompts, beside one for each sequence: a row of logits is large."""


class Scheduler:
    """Continuous batching: each step takes every running sequence that it can, then admits waiting ones.

    Decodes come first, one token each, then prompts in chunks, all within `max_tokens` tokens and `max_sequences`
    sequences. Beside decodes prompts get `max_prefill_tokens` at most, so that a long one stretches every step a little
    instead of one step a lot. Who is admitted next is for the `Levels` to say. When blocks run out the youngest of the
    least urgent running sequences is preempted: it gives up its blocks, goes back to the front of the line, and is
    computed again later (mostly from the prefix cache).

    `invocations` are the tokens from which on some adapters act, by digest; they are looked for in every new prompt.
    """

    def __init__(
        self, blocks: Blocks, *, max_sequences: int, max_tokens: int, max_prefill_tokens: int, prefix_cache: bool
    ) -> None:
        self.blocks = blocks
        self.max_sequences = max_sequences
        self.max_tokens = max_tokens
        self.max_prefill_tokens = max_prefill_tokens
        self.prefix_cache = prefix_cache
        self.invocations: dict[str, tuple[int, ...]] = {}
        self.waiting = Levels()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self.prefix_queries = 0
        self.prefix_hits = 0

    @property
    def idle(self) -> bool:
        """Whether there is nothing to compute."""
        return not self.waiting and not self.running

    def add(self, sequence: Sequence) -> None:
        """Put a new sequence at the end of the line."""
        self._activate(sequence)
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a finished or cancelled sequence and free its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self._release(sequence)

    def switch(self, old: str, new: str, requests: Collection[str] | None = None) -> int:
        """Put `new` in the place of `old` in all sequences or those of some requests; return how many have changed.

        Their blocks are never shared afterwards.
        """
        waiting = {id(sequence) for sequence in self.waiting}
        on_old = [sequence for sequence in (*self.running, *self.waiting) if old in sequence.mix]
        moved = [sequence for sequence in on_old if requests is None or sequence.request in requests]
        for sequence in moved:
            mix = sequence.mix.map(lambda digest: new if digest == old else digest)
            if id(sequence) in waiting:
                self.waiting.move(sequence, mix)
            sequence.mix = mix
            # One that holds nothing yet was not touched by the old weights.
            sequence.private = sequence.private or sequence.computed > 0
            sequence.keys.clear()
            self._activate(sequence)
        return len(moved)

    def plan(self) -> StepPlan:
        """Choose the chunks of the next step and give them their blocks."""
        budget = self.max_tokens
        chunks: list[Chunk] = []
        decodes = [sequence for sequence in self.running if sequence.pending == 1]
        prompts = [sequence for sequence in self.running if sequence.pending > 1]
        budget -= self._continue_all(decodes, budget, chunks)
        if chunks:
            budget = min(budget, self.max_prefill_tokens)
        budget -= self._continue_all(prompts, budget, chunks)
        while budget > 0 and len(self.running) < self.max_sequences and (admitted := self._admit_next(budget, chunks)):
            chunks.append(admitted)
            budget -= admitted.length
        return StepPlan(tuple(sorted(chunks, key=lambda chunk: chunk.sequence.mix.members)))

    def advance(self, plan: StepPlan, sampled: Mapping[str, int]) -> None:
        """Record that `plan` was computed, and the tokens it sampled, by sequence id."""
        for chunk in plan.chunks:
            sequence = chunk.sequence
            sequence.computed = chunk.start + chunk.length
            sequence.wanted = range(max(sequence.wanted.start, sequence.computed), sequence.wanted.stop)
            self._publish(sequence, chunk.start)
            if chunk.samples:
                sequence.tokens.append(sampled[sequence.id])

    def _continue_all(self, sequences: list[Sequence], budget: int, chunks: list[Chunk]) -> int:
        """Add the next chunks of running sequences, in order of admission; return the tokens they take."""
        taken = 0
        for sequence in sequences:
            # It may have been preempted for the sake of an earlier one.
            if (
                taken < budget
                and sequence in self.running
                and (chunk := self._continue(sequence, budget - taken, chunks))
            ):
                chunks.append(chunk)
                taken += chunk.length
        return taken

    def _continue(self, sequence: Sequence, budget: int, planned: list[Chunk]) -> Chunk | None:
        """Give a running sequence its next chunk, preempting younger ones if need be; None if it had to give way."""
        length = _length(sequence, budget, planned)
        while not self._grow(sequence, sequence.computed + length):
            victim = self._youngest_unplanned(planned)
            self._preempt(victim)
            if victim is sequence:
                return None
        return _chunk(sequence, length)

    def _youngest_unplanned(self, planned: list[Chunk]) -> Sequence:
        """Return the last admitted of the least urgent sequences that this step does not compute yet."""
        taken = {id(chunk.sequence) for chunk in planned}
        left = [sequence for sequence in reversed(self.running) if id(sequence) not in taken]
        return max(left, key=lambda sequence: sequence.priority)

    def _admit_next(self, budget: int, planned: list[Chunk]) -> Chunk | None:
        """Admit the first in line whose whole prompt has room."""
        for sequence in self.waiting.candidates():
            found = self._lookup(sequence)
            room = self.blocks.available - self.blocks.idle_among(found)
            if self.blocks.needed(len(sequence.tokens)) - len(found) <= room:
                self.waiting.take(sequence)
                return self._admit(sequence, found, budget, planned)
        return None

    def _admit(self, sequence: Sequence, found: list[int], budget: int, planned: list[Chunk]) -> Chunk:
        """Start a sequence, on the blocks that the prefix cache has of it."""
        self.blocks.hold(found)
        sequence.blocks = list(found)
        sequence.computed = len(found) * self.blocks.size
        if sequence.cached is None:
            sequence.cached = sequence.computed
            self.prefix_queries += sequence.prompt_len
            self.prefix_hits += sequence.computed
        self.running.append(sequence)
        length = _length(sequence, budget, planned)
        self._grow(sequence, sequence.computed + length)
        return _chunk(sequence, length)

    def _lookup(self, sequence: Sequence) -> list[int]:
        """Return cached blocks for the start of a sequence, leaving one token to compute, and all that are read out."""
        if not self.prefix_cache or sequence.private:
            return []
        uncached = min(len(sequence.tokens) - 1, sequence.wanted.start if sequence.wanted else len(sequence.tokens))
        full = uncached // self.blocks.size
        self._extend_keys(sequence, full)
        return self.blocks.find(sequence.keys[:full])

    def _publish(self, sequence: Sequence, start: int) -> None:
        """Offer the blocks that have become full since `start` tokens were computed."""
        if not self.prefix_cache or sequence.private:
            return
        full = sequence.computed // self.blocks.size
        self._extend_keys(sequence, full)
        for index in range(start // self.blocks.size, full):
            self.blocks.publish(sequence.blocks[index], sequence.keys[index])

    def _extend_keys(self, sequence: Sequence, count: int) -> None:
        size = self.blocks.size
        for index in range(len(sequence.keys), count):
            parent = sequence.keys[index - 1] if index else root_key(sequence.acting(0, 1)[0][0])
            for start, mix in sequence.phases[1:]:
                if index * size <= start < (index + 1) * size:
                    parent = turn_key(parent, start, mix)
            sequence.keys.append(chain_key(parent, sequence.tokens[index * size : (index + 1) * size]))

    def _activate(self, sequence: Sequence) -> None:
        sequence.phases = phases(sequence.mix, sequence.tokens[: sequence.prompt_len], self.invocations)

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        """Give a sequence blocks for so many tokens; False, with what it got, when they run out."""
        while len(sequence.blocks) < self.blocks.needed(tokens):
            block = self.blocks.take()
            if block is None:
                return False
            sequence.blocks.append(block)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self.running.remove(sequence)
        self._release(sequence)
        self.waiting.put_back(sequence)

    def _release(self, sequence: Sequence) -> None:
        self.blocks.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = 0


def _length(sequence: Sequence, budget: int, planned: list[Chunk]) -> int:
    """Return how many tokens a sequence gets, one at least: of those that are scored, what the step has room for."""
    length = min(sequence.pending, budget)
    if not sequence.wanted or sequence.embeds:
        return length
    room = MAX_SCORED - sum(len(chunk.kept) - 1 for chunk in planned if len(chunk.kept) > 1)
    return max(1, min(length, max(sequence.wanted.start - sequence.computed, 0) + max(room, 0)))


def _chunk(sequence: Sequence, length: int) -> Chunk:
    return Chunk(sequence, sequence.computed, length, samples=length == sequence.pending)
