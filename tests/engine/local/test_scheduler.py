"""The scheduler, driven without tensors: a stand-in for the model samples a token that depends on the tokens alone."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from loradex.core.sampling import Sampling
from loradex.engine.local.blocks import Blocks
from loradex.engine.local.plan import StepPlan
from loradex.engine.local.scheduler import Scheduler
from loradex.engine.local.sequence import Sequence


def scheduler(
    blocks: int = 16, *, size: int = 4, sequences: int = 8, tokens: int = 16, cache: bool = True
) -> Scheduler:
    return Scheduler(Blocks(blocks, size), max_sequences=sequences, max_tokens=tokens, prefix_cache=cache)


def sequence(name: str, length: int, adapter: str | None = None, start: int = 0) -> Sequence:
    return Sequence(name, list(range(start, start + length)), length, Sampling(), adapter)


def step(scheduler: Scheduler) -> StepPlan:
    plan = scheduler.plan()
    scheduler.advance(plan, {chunk.sequence.id: len(chunk.sequence.tokens) for chunk in plan.chunks if chunk.samples})
    return plan


def lengths(plan: StepPlan) -> dict[str, int]:
    return {chunk.sequence.id: chunk.length for chunk in plan.chunks}


def test_a_long_prompt_is_prefilled_in_chunks_beside_decodes() -> None:
    line = scheduler()
    line.add(sequence("short", 3))
    assert lengths(step(line)) == {"short": 3}
    line.add(sequence("long", 40, start=100))
    assert lengths(step(line)) == {"short": 1, "long": 15}
    assert lengths(step(line)) == {"short": 1, "long": 15}
    last = step(line)
    assert lengths(last) == {"short": 1, "long": 10}
    assert [chunk.samples for chunk in last.chunks if chunk.sequence.id == "long"] == [True]


def test_rows_of_one_adapter_lie_together_and_the_base_comes_first() -> None:
    line = scheduler()
    for name, adapter in (("1", "b"), ("2", None), ("3", "a"), ("4", "b"), ("5", None)):
        line.add(sequence(name, 2, adapter))
    assert [chunk.sequence.adapter for chunk in step(line).chunks] == [None, None, "a", "b", "b"]


def test_equal_prompts_share_blocks_under_equal_weights_only() -> None:
    line = scheduler()
    for name, adapter in (("first", "a"), ("same", "a"), ("other", "b"), ("base", None)):
        line.add(found := sequence(name, 9, adapter))
        step(line)
        assert found.cached == (8 if name == "same" else 0)
        line.remove(found)
    assert line.prefix_hits == 8


def test_at_least_one_token_is_computed_even_if_all_are_cached() -> None:
    line = scheduler()
    for _ in range(2):
        line.add(found := sequence("x", 8))
        step(line)
        line.remove(found)
    assert found.cached == 4


def test_a_switched_sequence_never_shares_its_blocks_again() -> None:
    line = scheduler()
    line.add(mixed := sequence("mixed", 4, "old"))
    step(line)
    assert line.switch("old", "new") == 1
    for _ in range(8):
        step(line)
    tokens = list(mixed.tokens)
    line.remove(mixed)
    line.add(later := Sequence("later", tokens, len(tokens), Sampling(), "new"))
    step(line)
    assert later.cached == 0


def test_a_waiting_sequence_that_was_not_computed_stays_shareable_after_a_switch() -> None:
    line = scheduler()
    line.add(waiting := sequence("w", 9, "old"))
    line.switch("old", "new")
    step(line)
    line.remove(waiting)
    line.add(later := sequence("later", 9, "new"))
    step(line)
    assert later.cached == 8


def test_the_youngest_gives_way_when_blocks_run_out_and_comes_back() -> None:
    line = scheduler(blocks=4, cache=False)
    line.add(old := sequence("old", 7))
    line.add(young := sequence("young", 7, start=50))
    step(line)
    while line.preemptions == 0:
        step(line)
    assert line.running == [old]
    assert list(line.waiting) == [young]
    assert young.blocks == []
    line.remove(old)
    before = list(young.tokens)
    step(line)
    assert young.tokens[: len(before)] == before
    assert len(young.tokens) == len(before) + 1


def test_the_first_in_line_is_not_overtaken() -> None:
    line = scheduler(blocks=4)
    line.add(sequence("running", 8))
    step(line)
    line.add(sequence("big", 12, start=50))
    line.add(sequence("small", 1, start=90))
    assert set(lengths(step(line))) == {"running"}


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(
        st.tuples(st.integers(1, 30), st.sampled_from([None, "a", "b"]), st.integers(1, 12)), min_size=1, max_size=10
    ),
    blocks=st.integers(11, 24),
    budget=st.integers(1, 20),
    cancel=st.sets(st.integers(0, 9)),
    cache=st.booleans(),
)
def test_everything_ends_and_every_block_comes_back(
    prompts: list[tuple[int, str | None, int]], blocks: int, budget: int, cancel: set[int], cache: bool
) -> None:
    line = scheduler(blocks, sequences=4, tokens=budget, cache=cache)
    wanted = {}
    for index, (length, adapter, count) in enumerate(prompts):
        line.add(made := sequence(str(index), length, adapter))
        wanted[made.id] = count
    for turn in range(5000):
        if line.idle:
            break
        plan = step(line)
        assert plan.chunks
        assert plan.tokens <= budget
        for chunk in plan.chunks:
            done = chunk.sequence.output_len >= wanted[chunk.sequence.id]
            assert chunk.sequence.output_len <= wanted[chunk.sequence.id]
            if done or (turn == 3 and int(chunk.sequence.id) in cancel):
                line.remove(chunk.sequence)
    assert line.idle
    assert line.blocks.available == blocks
