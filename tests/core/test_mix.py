from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradex.core.adapter import Reference
from loradex.core.mix import MAX_WEIGHT, Mix, mix_of, parse_mix
from loradex.errors import InvalidRequest

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


names = st.sampled_from(["medical", "legal@2", "poetry@prod", "code@sha256:ab12", "a-b.c_d"])
mixes = st.dictionaries(names, st.floats(-MAX_WEIGHT, MAX_WEIGHT), min_size=1, max_size=5)


@given(mixes)
def test_a_mix_is_read_back_as_it_is_written(weights: dict[str, float]) -> None:
    mix = mix_of([(Reference.parse(name), weight) for name, weight in weights.items()])
    assert parse_mix(str(mix)) == mix


@pytest.mark.parametrize(
    ("text", "members", "written"),
    [
        ("medical", [("medical", 1.0)], "medical"),
        ("medical*1", [("medical", 1.0)], "medical"),
        ("medical*0.70+legal@2*.3", [("medical", 0.7), ("legal@2", 0.3)], "medical*0.7+legal@2*0.3"),
        ("medical+legal*-2.0", [("medical", 1.0), ("legal", -2.0)], "medical+legal*-2"),
        ("medical*0+legal*1e-3", [("medical", 0.0), ("legal", 0.001)], "medical*0+legal*0.001"),
    ],
)
def test_how_mixes_are_written(text: str, members: list[tuple[str, float]], written: str) -> None:
    mix = parse_mix(text)
    assert mix.members == tuple((Reference.parse(name), weight) for name, weight in members)
    assert str(mix) == written


def test_the_base_is_written_by_its_name() -> None:
    assert str(Mix()) == "base"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("medical*", "'' is no weight for 'medical'"),
        ("medical*0.7*2", "'0.7*2' is no weight"),
        ("medical*nan", "'nan' is no weight"),
        ("medical*inf+legal", "'inf' is no weight"),
        ("medical*1e+3", "'1e' is no weight"),
        ("medical* 0.5", "' 0.5' is no weight"),
        ("medical*٣", "'٣' is no weight"),
        ("medical*1e999", "weight of `medical` is inf; it must be from -100 to 100"),
        ("medical*100.5", "must be from -100 to 100"),
        ("medical+", "adapter name '' is not valid"),
        ("+medical", "adapter name '' is not valid"),
        ("medical+le gal", "'le gal' is not valid"),
        ("medical*0.5+medical*0.5", "`medical` twice"),
        ("base*0.5+medical", "`base` is no adapter"),
        ("base", "`base` is no adapter"),
        ("+".join(f"a{i}" for i in range(17)), "17 adapters; at most 16"),
    ],
)
def test_what_is_no_mix_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_mix(text)
    assert said in caught.value.message
    assert caught.value.hint


@given(st.text(max_size=40))
def test_any_text_is_a_mix_or_a_clear_error(text: str) -> None:
    try:
        mix = parse_mix(text)
    except InvalidRequest:
        return
    assert parse_mix(str(mix)) == mix


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -101.0])
def test_weights_that_are_no_weights_are_refused_wherever_they_come_from(weight: float) -> None:
    with pytest.raises(InvalidRequest, match="must be from -100 to 100"):
        mix_of([(Reference("medical"), weight)])
