from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loradex.core.mix import Mix
from loradex.core.sampling import Sampling
from loradex.engine.local.activation import phases
from loradex.engine.local.sequence import Sequence

WANTED = {"a": (1, 2), "b": (3,)}


def test_without_invocations_all_act_from_the_beginning() -> None:
    assert phases(Mix.of("plain"), [1, 2, 3], WANTED) == ()
    assert phases(Mix.of(None), [1, 2, 3], WANTED) == ()


def test_an_adapter_acts_from_its_last_invocation_on() -> None:
    assert phases(Mix.of("a"), [1, 2, 0, 1, 2, 0], WANTED) == ((0, Mix()), (3, Mix.of("a")))
    assert phases(Mix.of("a"), [0, 1, 1, 2], WANTED) == ((0, Mix()), (2, Mix.of("a")))
    assert phases(Mix.of("a"), [1, 2, 0], WANTED) == ()


def test_without_its_invocation_it_does_not_act() -> None:
    for prompt in ([0, 1], [2, 1], [1], []):
        assert phases(Mix.of("a"), prompt, WANTED) == ((0, Mix()),)


def test_in_a_mix_each_has_its_own_beginning() -> None:
    mix = Mix((("a", 0.5), ("plain", 0.7), ("b", 2.0)))
    assert phases(mix, [0, 3, 0, 1, 2], WANTED) == (
        (0, Mix((("plain", 0.7),))),
        (1, Mix((("plain", 0.7), ("b", 2.0)))),
        (3, mix),
    )


mixes = st.lists(st.sampled_from(["a", "b", "plain"]), unique=True).map(
    lambda names: Mix(tuple((n, 1.0) for n in names))
)


@given(mixes, st.lists(st.integers(0, 3), max_size=12), st.data())
def test_runs_of_rows_say_who_acts_on_each_token(mix: Mix[str], prompt: list[int], data: st.DataObject) -> None:
    sequence = Sequence("x", [*prompt, 9, 9], len(prompt), Sampling(), mix, phases=phases(mix, prompt, WANTED))
    start = data.draw(st.integers(0, len(prompt) + 1))
    end = data.draw(st.integers(start + 1, len(prompt) + 2))
    each = [acting for acting, count in sequence.acting(start, end) for _ in range(count)]
    assert len(each) == end - start
    for token, acting in enumerate(each, start):
        for digest in mix.adapters:
            wanted = list(WANTED.get(digest, ()))
            places = [i for i in range(len(prompt)) if prompt[i : i + len(wanted)] == wanted]
            assert (digest in acting) == (not wanted or (bool(places) and token >= places[-1]))
