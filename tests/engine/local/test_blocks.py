import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from loradex.core.mix import Mix
from loradex.engine.local.blocks import Blocks, chain_key, root_key


def test_keys_tell_weights_apart() -> None:
    tokens = [1, 2, 3]
    mixes = [Mix.of(adapter) for adapter in (None, "base", "a", "b")]
    mixes += [Mix((("a", weight), ("b", 1.0))) for weight in (0.7, 0.7000000000000001, -0.7, 0.0)]
    assert len({chain_key(root_key(mix), tokens) for mix in mixes}) == len(mixes) == 8


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=5), st.lists(st.integers(0, 2**40), min_size=1, max_size=5))
def test_keys_tell_tokens_apart(one: list[int], other: list[int]) -> None:
    assert (chain_key(b"base", one) == chain_key(b"base", other)) == (one == other)


def test_a_published_block_is_found_again_until_its_room_is_needed() -> None:
    blocks = Blocks(2, 4)
    first = blocks.take()
    blocks.publish(first, b"k")
    blocks.release([first])
    assert blocks.find([b"k", b"unknown"]) == [first]
    assert blocks.available == 2
    blocks.take()
    blocks.take()
    assert blocks.find([b"k"]) == []
    assert blocks.take() is None


def test_the_end_of_a_prefix_is_forgotten_before_its_start() -> None:
    blocks = Blocks(2, 4)
    chain = [blocks.take(), blocks.take()]
    blocks.publish(chain[0], b"start")
    blocks.publish(chain[1], b"end")
    blocks.release(chain)
    blocks.take()
    assert blocks.find([b"start"]) == [chain[0]]
    assert blocks.find([b"end"]) == []


def test_idle_blocks_count_as_available_until_held() -> None:
    blocks = Blocks(3, 4)
    block = blocks.take()
    blocks.publish(block, b"k")
    assert blocks.idle_among([block]) == 0
    blocks.release([block])
    assert blocks.idle_among([block]) == 1
    blocks.hold([block])
    blocks.hold([block])
    assert blocks.available == 2
    blocks.release([block])
    assert blocks.available == 2
    blocks.release([block])
    assert blocks.available == 3


class Holders(RuleBasedStateMachine):
    """Random takes, holds, publications and releases against a count kept beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = Blocks(6, 4)
        self.held: list[list[int]] = []
        self.next_key = 0

    @rule()
    def take(self) -> None:
        taken = {block for blocks in self.held for block in blocks}
        block = self.blocks.take()
        assert (block is None) == (len(taken) == 6)
        if block is not None:
            assert block not in taken
            self.held.append([block])

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        self.next_key += 1
        self.blocks.publish(data.draw(st.sampled_from(self.held))[0], b"%d" % self.next_key)

    @rule(key=st.integers(1, 12))
    def share(self, key: int) -> None:
        found = self.blocks.find([b"%d" % key])
        if found:
            self.blocks.hold(found)
            self.held.append(found)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.blocks.release(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @invariant()
    def nothing_is_lost(self) -> None:
        taken = {block for blocks in self.held for block in blocks}
        assert self.blocks.available == 6 - len(taken)


TestHolders = Holders.TestCase


@pytest.mark.parametrize(("tokens", "count"), [(0, 0), (1, 1), (4, 1), (5, 2)])
def test_needed_rounds_up(tokens: int, count: int) -> None:
    assert Blocks(1, 4).needed(tokens) == count
