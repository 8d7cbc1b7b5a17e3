from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loradex.core.mix import Mix

weights = st.floats(-8, 8)
members = st.dictionaries(st.sampled_from("abcdef"), weights).map(lambda found: tuple(found.items()))


def test_one_adapter_is_a_mix_of_one_and_the_base_of_none() -> None:
    assert Mix.of("a") == Mix((("a", 1.0),))
    assert Mix.of(None) == Mix()
    assert Mix.of("a").adapters == ("a",)


@given(members)
def test_it_holds_its_members(made: tuple[tuple[str, float], ...]) -> None:
    mix = Mix(made)
    assert [letter for letter in "abcdef" if letter in mix] == sorted(mix.adapters)


@given(members)
def test_members_that_become_equal_add_up(made: tuple[tuple[str, float], ...]) -> None:
    mix = Mix(made)
    assert mix.map(str.upper).map(str.lower) == mix
    one = mix.map(lambda _: "all")
    assert one.members == ((("all", sum(weight for _, weight in made)),) if made else ())
