"""The scheduler, driven without tensors: a stand-in for the model samples a token that depends on the tokens alone."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from loradex.core.mix import Mix
from loradex.core.sampling import Sampling
from loradex.engine.local.blocks import Blocks
from loradex.engine.local.line import OVERTAKES
from loradex.engine.local.plan import StepPlan
from loradex.engine.local.scheduler import MAX_SCORED, Scheduler
from loradex.engine.local.sequence import Sequence


def scheduler(
    blocks: int = 16, *, size: int = 4, sequences: int = 8, tokens: int = 16, prefill: int = 16, cache: bool = True
) -> Scheduler:
    return Scheduler(
        Blocks(blocks, size),
        max_sequences=sequences,
        max_tokens=tokens,
        max_prefill_tokens=prefill,
        prefix_cache=cache,
    )


def sequence(name: str, length: int, adapter: Mix[str] | str | None = None, start: int = 0) -> Sequence:
    mix = adapter if isinstance(adapter, Mix) else Mix.of(adapter)
    return Sequence(name, list(range(start, start + length)), length, Sampling(), mix)


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


def test_what_is_scored_takes_few_rows_a_step_and_never_comes_from_the_cache() -> None:
    line = scheduler(1000, tokens=1000, prefill=1000)
    for name in ("first", "second"):
        scored = sequence(name, 300)
        scored.wanted = range(9, 299)
        line.add(scored)
    # 9 tokens that are not scored, and 256 that are; of the second one that is, beside what is not.
    assert lengths(step(line)) == {"first": 265, "second": 10}
    while line.running and any(each.wanted for each in line.running):
        assert sum(len(chunk.kept) for chunk in step(line).chunks) <= MAX_SCORED + 2 * len(line.running)
    cached = sequence("third", 300)
    cached.wanted = range(9, 299)
    line.add(cached)
    step(line)
    assert cached.cached == 8


def test_beside_decodes_prompts_get_less_and_alone_they_get_all() -> None:
    line = scheduler(32, prefill=6)
    line.add(sequence("short", 3))
    line.add(sequence("long", 60, start=100))
    assert lengths(step(line)) == {"short": 3, "long": 13}  # nobody decodes yet
    line.add(sequence("next", 5, start=200))
    for _ in range(7):
        assert lengths(step(line)) == {"short": 1, "long": 6}
    # The end of one prompt and the start of the next share the limit.
    assert lengths(step(line)) == {"short": 1, "long": 5, "next": 1}


def test_rows_of_one_adapter_lie_together_and_the_base_comes_first() -> None:
    line = scheduler()
    for name, adapter in (("1", "b"), ("2", None), ("3", "a"), ("4", "b"), ("5", None)):
        line.add(sequence(name, 2, adapter))
    rows = [None, None, "a", "b", "b"]
    assert [chunk.sequence.mix for chunk in step(line).chunks] == [Mix.of(adapter) for adapter in rows]


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
    line.add(later := Sequence("later", tokens, len(tokens), Sampling(), Mix.of("new")))
    step(line)
    assert later.cached == 0


def test_of_those_that_run_the_least_urgent_gives_way() -> None:
    line = scheduler(4)
    urgent, patient = sequence("urgent", 7), sequence("patient", 7, start=50)
    patient.priority = 1
    line.add(patient)
    step(line)
    line.add(urgent)
    for _ in range(4):
        step(line)
    assert line.running == [urgent]
    assert list(line.waiting) == [patient]


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


def test_the_first_in_line_is_not_overtaken_by_others_of_its_adapter() -> None:
    line = scheduler(blocks=4)
    line.add(sequence("running", 8))
    step(line)
    line.add(sequence("big", 12, start=50))
    line.add(sequence("small", 1, start=90))
    assert set(lengths(step(line))) == {"running"}


def test_one_that_does_not_fit_is_passed_by_other_adapters_a_few_times_only() -> None:
    # It used to stop everybody behind it, which left room unused; passed without end it would never get its room.
    line = scheduler(blocks=8, cache=False)
    line.add(sequence("running", 12, "a"))
    step(line)
    line.add(sequence("big", 24, "a", start=50))
    passed = 0
    for turn in range(100):
        line.add(small := sequence(f"small{turn}", 2, "b", start=90))
        if small.id not in lengths(line.plan()):
            break
        passed += 1
        line.remove(small)
    assert passed == OVERTAKES
    line.remove(line.running[0])
    assert set(lengths(step(line))) >= {"big"}


def test_a_preempted_one_is_passed_by_nobody() -> None:
    line = scheduler(blocks=4, cache=False)
    line.add(sequence("old", 7, "a"))
    line.add(young := sequence("young", 7, "b", start=50))
    while line.preemptions == 0:
        step(line)
    line.add(sequence("small", 1, "c", start=90))
    assert set(lengths(step(line))) == {"old"}
    assert next(iter(line.waiting)) is young


def test_a_rare_adapter_is_next_whatever_a_popular_one_sends() -> None:
    line = scheduler(blocks=64, sequences=2, cache=False)
    for index in range(20):
        line.add(sequence(f"popular{index}", 2, "popular", start=index))
    step(line)
    line.add(sequence("rare", 2, "rare", start=90))
    line.add(sequence("base", 2, None, start=95))
    order = []
    for _ in range(4):
        line.remove(line.running[0])
        order += [found.id for found in step_admits(line)]
    assert order == ["popular2", "rare", "base", "popular3"]


def test_whoever_waits_for_switched_weights_keeps_the_order_of_arrival() -> None:
    line = scheduler(blocks=64, sequences=1, cache=False)
    line.add(sequence("running", 2))
    step(line)
    for name, adapter in (("1", "old"), ("2", "c"), ("3", "new"), ("4", "old")):
        line.add(sequence(name, 2, adapter))
    assert line.switch("old", "new") == 2
    assert [waiting.id for waiting in line.waiting] == ["2", "1", "3", "4"]
    assert line.switch("new", "new") == 3
    line.remove(next(iter(line.waiting)))
    assert [waiting.id for waiting in line.waiting] == ["1", "3", "4"]


def test_only_the_named_requests_are_switched() -> None:
    line = scheduler(blocks=64, sequences=2, cache=False)
    made = [sequence(name, 2, "old") for name in ("runs", "runs on", "waits", "waits on")]
    for each in made:
        each.request = each.id
        line.add(each)
    step(line)
    assert line.switch("old", "new", {"runs", "waits", "unknown"}) == 2
    assert [each.mix for each in made] == [Mix.of(digest) for digest in ("new", "old", "new", "old")]
    assert {waiting.id for waiting in line.waiting} == {"waits", "waits on"}
    assert [each.private for each in made] == [True, False, False, False]


def test_a_switch_changes_one_member_of_a_mix() -> None:
    line = scheduler(blocks=64, sequences=2, cache=False)
    both, other = Mix((("old", 0.5), ("c", 2.0))), Mix((("c", 1.0),))
    for name, mix in (("runs", both), ("runs too", other), ("waits", both), ("waits too", other)):
        line.add(sequence(name, 2, mix))
    step(line)
    assert line.switch("old", "new") == 2
    assert {each.mix for each in (*line.running, *line.waiting)} == {Mix((("new", 0.5), ("c", 2.0))), other}
    assert line.switch("new", "c") == 2
    # What it was in twice it is in once, with both weights.
    assert {each.mix for each in (*line.running, *line.waiting)} == {Mix((("c", 2.5),)), other}
    assert [each.private for each in line.running] == [True, False]


def test_rows_of_one_mix_lie_together_and_take_turns_as_one() -> None:
    line = scheduler(blocks=64, sequences=8, cache=False)
    both = Mix((("a", 0.7), ("b", 0.3)))
    for name, mix in (("1", "b"), ("2", both), ("3", None), ("4", "a"), ("5", both)):
        line.add(sequence(name, 2, mix))
    assert [chunk.sequence.id for chunk in step(line).chunks] == ["3", "2", "5", "4", "1"]


def step_admits(line: Scheduler) -> list[Sequence]:
    before = list(line.running)
    step(line)
    return [found for found in line.running if found not in before]


@settings(max_examples=60, deadline=None)
@given(
    rare=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 3), st.integers(1, 20)), min_size=1, max_size=8),
    popular=st.integers(1, 3),
    prompt=st.integers(1, 20),
    answer=st.integers(1, 12),
    slots=st.integers(1, 4),
    prefill=st.integers(1, 12),
)
def test_every_adapter_waits_a_bounded_number_of_steps(
    rare: list[tuple[int, int, int]], popular: int, prompt: int, answer: int, slots: int, prefill: int
) -> None:
    """A popular adapter sends without end; each request of the others begins within the bound of its turn."""
    line = scheduler(blocks=100, sequences=slots, tokens=16, prefill=prefill, cache=False)
    came: dict[str, int] = {}
    ahead: dict[str, int] = {}
    share = min(prefill, 16 - slots)
    # Longest time that a full batch takes to free a slot: its prompts one after another, then an answer.
    full = slots * -(-20 // share) + answer + 1
    began: list[Sequence] = []
    for turn in range(60 + 40 * full):
        for index in range(popular):
            line.add(sequence(f"popular-{turn}-{index}", prompt, "popular"))
        for index, (when, adapter, length) in enumerate(rare):
            if when == turn:
                line.add(made := sequence(f"rare-{index}", length, f"rare{adapter}"))
                came[made.id] = turn
                ahead[made.id] = 1 + sum(other.mix == made.mix for other in line.waiting)
        plan = step(line)
        assert plan.tokens <= 16
        if any(chunk.start >= chunk.sequence.prompt_len for chunk in plan.chunks):
            # The last single token of a prompt costs what a decode costs, and counts as one.
            assert sum(chunk.length for chunk in plan.chunks if chunk.length > 1) <= prefill
        for chunk in plan.chunks:
            if chunk.start == 0:
                began.append(chunk.sequence)
            if chunk.start == 0 and chunk.sequence.id in came:
                # Four adapters at most take turns; so many of its own came before it.
                assert turn - came.pop(chunk.sequence.id) <= 4 * ahead[chunk.sequence.id] * full
            if chunk.sequence.output_len >= answer:
                line.remove(chunk.sequence)
        if not came and turn > 60:
            break
    assert not came
    for mix in {found.mix for found in began}:
        arrivals = [found.arrival for found in began if found.mix == mix]
        assert arrivals == sorted(arrivals)


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(
        st.tuples(st.integers(1, 30), st.sampled_from([None, "a", "b"]), st.integers(1, 12)), min_size=1, max_size=10
    ),
    blocks=st.integers(11, 24),
    budget=st.integers(1, 20),
    cancel=st.sets(st.integers(0, 9)),
    cache=st.booleans(),
    prefill=st.integers(1, 20),
)
def test_everything_ends_and_every_block_comes_back(
    prompts: list[tuple[int, str | None, int]], blocks: int, budget: int, cancel: set[int], cache: bool, prefill: int
) -> None:
    line = scheduler(blocks, sequences=4, tokens=budget, prefill=prefill, cache=cache)
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


def invoked(name: str, adapter: str | None, tail: int = 0) -> Sequence:
    tokens = [*range(10), 90, 91, *range(tail, tail + 4)]
    return Sequence(name, tokens, len(tokens), Sampling(), Mix.of(adapter))


def test_activated_adapters_share_what_comes_before_their_invocation_with_the_base_and_one_another() -> None:
    line = scheduler(64)
    line.invocations = {"a": (90, 91), "b": (90, 91)}
    cached = {}
    for name, adapter in [("1", None), ("2", "a"), ("3", "a"), ("4", "b"), ("5", "plain"), ("6", None)]:
        sequence = invoked(name, adapter)
        line.add(sequence)
        step(line)
        cached[name] = sequence.cached
        line.remove(sequence)
    # The third block holds the invocation: the same tokens are other keys and values there under each of them.
    assert cached == {"1": 0, "2": 8, "3": 12, "4": 8, "5": 0, "6": 12}


def test_an_adapter_that_is_switched_to_acts_from_its_own_invocation_on() -> None:
    line = scheduler(64)
    line.invocations = {"a": (90, 91), "b": (3, 4)}
    running, waiting = invoked("1", "a"), invoked("2", "a")
    line.add(running)
    step(line)
    line.add(waiting)
    assert running.phases == ((0, Mix()), (10, Mix.of("a")))
    assert line.switch("a", "b") == 2
    assert running.phases == waiting.phases == ((0, Mix()), (3, Mix.of("b")))
    assert running.private
    assert line.switch("b", "plain") == 2
    assert running.phases == ()
