from __future__ import annotations

import statistics

import pytest

from loradex.bench.arrival import gamma_arrivals, gamma_gaps
from loradex.bench.length import Length
from loradex.bench.workload import Workload, reassigned
from loradex.errors import ConfigInvalid


@pytest.mark.parametrize("cv", [1.0, 4.0])
@pytest.mark.parametrize("rate", [2.0, 10.0])
def test_gamma_gaps_have_the_mean_and_variation_that_were_asked_for(rate: float, cv: float) -> None:
    gaps = gamma_gaps(rate, cv, 200_000, 1)
    mean = statistics.fmean(gaps)
    assert mean == pytest.approx(1 / rate, rel=0.05)
    assert statistics.pstdev(gaps) / mean == pytest.approx(cv, rel=0.05)


def test_arrivals_are_sums_of_gaps() -> None:
    gaps = gamma_gaps(5.0, 1.0, 4, 9)
    assert gamma_arrivals(5.0, 1.0, 4, 9) == pytest.approx([sum(gaps[: i + 1]) for i in range(4)])


def test_lengths_are_read_and_written_alike() -> None:
    for text in ("128", "8-512", "lognormal:2048", "rest:100"):
        assert str(Length.parse(text)) == text
    assert str(Length.parse("lognormal")) == "lognormal:2048"
    for text in ("0", "9-8", "x", "", "lognormal:1"):
        with pytest.raises(ConfigInvalid):
            Length.parse(text)


def test_punicas_prompts_have_its_moments() -> None:
    drawn = sorted(Length.parse("lognormal:2048").draw(100_000, 0))
    assert statistics.fmean(drawn) == pytest.approx(24, abs=1)
    assert (drawn[50_000], drawn[95_000]) == pytest.approx((17, 66), abs=1)
    assert drawn[0] >= 1


def test_punicas_answers_take_the_rest_and_at_least_two() -> None:
    prompts = Length.parse("lognormal:64").draw(1000, 0)
    answers = Length.parse("rest:64").draw(1000, 1, prompts)
    assert min(answers) == 2
    assert max(p + a for p, a in zip(prompts, answers, strict=True)) <= 64


def test_uniform_lengths_leave_the_end_out() -> None:
    assert set(Length.parse("8-12").draw(1000, 0)) == {8, 9, 10, 11}


def test_equal_seeds_make_equal_workloads() -> None:
    law = Workload(8, 8, "skewed", input=Length.parse("4-9"), output=Length.parse("2"), rate=3.0, vocab_size=64)
    assert law.make() == law.make()
    assert law.make() != Workload(8, 8, "skewed", input=law.input, output=law.output, seed=1).make()
    for each in law.make():
        assert 4 <= len(each.tokens) < 9
        assert all(10 <= token < 63 for token in each.tokens)
    moments = [each.at for each in law.make()]
    assert moments == sorted(moments)
    assert moments[0] > 0


def test_the_same_requests_on_the_base_and_on_others() -> None:
    law = Workload(4, 4, input=Length.parse("5"), vocab_size=99)
    mine, base = law.make(), law.base().make()
    assert [each.tokens for each in mine] == [each.tokens for each in base]
    assert {each.adapter for each in base} == {None}
    assert [each.adapter for each in reassigned(mine, [3, 2, 1, 0])] == [3, 2, 1, 0]
