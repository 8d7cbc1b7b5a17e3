from __future__ import annotations

import asyncio

import pytest

from loradex.bench.pairs import Pairs, in_turn, percentile, percentiles

ROW = Pairs("end to end", "mixed", "base", "tok/s", (80.0, 90.0, 85.0), (100.0, 100.0, 102.0), floor=200.0)


def test_the_ratio_is_the_median_of_pairs() -> None:
    assert ROW.ratios == pytest.approx((0.8, 0.9, 85 / 102))
    assert ROW.ratio == pytest.approx(85 / 102)
    assert ROW.spread == pytest.approx((0.8, 0.9))
    assert ROW.difference == -17.0
    assert ROW.drift == pytest.approx(0.02)
    assert ROW.of_floor == pytest.approx(0.425)


def test_less_may_be_better() -> None:
    row = Pairs("load", "cold", "warm", "s", (0.4,), (0.2,), "lower", floor=0.1)
    assert (row.ratio, row.of_floor) == (2.0, 0.25)


def test_nothing_measured_is_no_ratio() -> None:
    row = Pairs("decode", "a", "b", "tok/s", (0.0,), (0.0,))
    assert (row.ratio, row.spread, row.drift, row.of_floor) == (None, None, 0.0, None)
    assert Pairs("decode", "a", "b", "tok/s", (), ()).difference is None


def test_a_row_survives_its_record() -> None:
    assert Pairs.read(ROW.describe()) == ROW


def test_sides_take_turns_and_the_first_runs_do_not_count() -> None:
    order: list[str] = []

    async def side(name: str) -> int:
        order.append(name)
        return len(order)

    shares: list[float] = []
    a, b = asyncio.run(in_turn(lambda: side("a"), lambda: side("b"), 3, lambda _, share: shares.append(share)))
    assert "".join(order) == "ba" + "ab" + "ba" + "ab"
    assert (a, b) == ([3, 6, 7], [4, 5, 8])
    assert shares == pytest.approx([1 / 3, 2 / 3, 1])


def test_percentiles_are_interpolated() -> None:
    values = [float(x) for x in range(101)]
    assert percentiles(values) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
    assert percentile([1.0, 2.0], 50) == 1.5
    assert percentile([], 99) == 0.0
