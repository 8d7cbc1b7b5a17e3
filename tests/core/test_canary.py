from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradex.core.canary import choose, completed, point, spread, written
from loradex.errors import InvalidRequest

REQUESTS = 10_000

TABLES = [{3: 90.0, 4: 10.0}, {1: 50.0, 2: 50.0}, {1: 99.0, 2: 1.0}, {2: 70.0, 5: 20.0, 9: 10.0}]


def off(table: dict[int, float], points: list[float]) -> float:
    """The largest difference, in percent points, between a version's share and its part of the requests."""
    found = Counter(choose(table, at) for at in points)
    return max(abs(100 * found[version] / len(points) - percent) for version, percent in table.items())


@pytest.mark.parametrize("table", TABLES)
def test_shares_of_users_are_met_within_one_percent(table: dict[int, float]) -> None:
    assert off(table, [point("medical", f"user-{number}") for number in range(REQUESTS)]) < 1


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("first", [0, 1, 12345])
def test_shares_of_requests_without_a_key_are_met_at_any_time(table: dict[int, float], first: int) -> None:
    assert off(table, [spread(first + number) for number in range(REQUESTS)]) < 0.1
    assert off(table, [spread(first + number) for number in range(100)]) < 3


def test_a_user_stays_with_a_version_and_names_are_independent() -> None:
    table = {3: 50.0, 4: 50.0}
    users = [f"user-{number}" for number in range(1000)]
    medical = [choose(table, point("medical", user)) for user in users]
    assert medical == [choose(table, point("medical", user)) for user in users]
    both = sum(choose(table, point("legal", user)) == first for user, first in zip(users, medical, strict=True))
    assert 400 < both < 600


def test_who_has_the_new_version_keeps_it_when_its_share_grows() -> None:
    points = [point("medical", f"user-{number}") for number in range(1000)]
    tried: set[float] = set()
    for percent in (1, 10, 50, 99):
        now = {at for at in points if choose({3: 100 - percent, 4: percent}, at) == 4}
        assert tried <= now
        tried = now


@given(
    st.dictionaries(st.integers(1, 99), st.integers(1, 1000), min_size=2, max_size=5),
    st.floats(0, 1, exclude_max=True),
)
def test_every_point_has_a_version_and_every_table_is_whole(weights: dict[int, int], at: float) -> None:
    table = completed({version: 100 * weight / sum(weights.values()) for version, weight in weights.items()}, 1)
    assert math.isclose(math.fsum(table.values()), 100)
    assert set(weights) == set(table)
    assert choose(table, at) in table


def test_a_table_is_completed() -> None:
    assert completed({4: 10}, 3) == {3: 90.0, 4: 10.0}
    assert completed({4: 10, 3: 20}, 3) == {3: 90.0, 4: 10.0}
    assert completed({4: 10, 5: 0}, 3) == {3: 90.0, 4: 10.0}
    assert written(completed({4: 0.5}, 3)) == "3=99.5 4=0.5"


@pytest.mark.parametrize("shares", [{4: 101}, {4: -1}, {4: math.nan}, {4: math.inf}, {3: 60, 4: 50}, {4: 100}, {4: 0}])
def test_what_is_no_canary_is_refused(shares: dict[int, float]) -> None:
    with pytest.raises(InvalidRequest):
        completed(shares, 3)
